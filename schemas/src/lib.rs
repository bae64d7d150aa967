//! Values, table schemas, change events, positions, and how they are written in Avro.
//!
//! This crate is the bottom of the tree: everything here is a value or a pure function from values
//! to bytes and back. It knows no database driver, no broker, no thread and no clock.
//!
//! Read in this order: what a value is ([`cell`], [`sql_type`]), what a table is ([`table`]), where
//! in a source's log something stands ([`position`]), how many records travel together ([`batch`]),
//! and how an error says what shall be done about it ([`class`]).

pub mod batch;
pub mod cell;
pub mod class;
pub mod compatibility;
pub mod envelope;
pub mod error;
pub mod event_decoder;
pub mod position;
pub mod record;
pub mod sql_type;
pub mod table;
pub mod wire;

pub use error::Error;
