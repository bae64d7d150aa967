//! Values, table schemas, change events, positions, and how they are written in Avro.
//!
//! This crate is the bottom of the tree: everything here is a value or a pure function from values
//! to bytes and back. It knows no database driver, no broker, no thread and no clock.
//!
//! Read in this order: what a value is ([`cell`], [`sql_type`], [`composite`]), what a table is ([`table`]), where
//! in a source's log something stands ([`position`]); then how a change becomes an event
//! ([`envelope`], [`event_encoder`], [`event_decoder`]), how keys and rows of views become records
//! ([`record`]), what stands before each message ([`wire`]), when a schema may follow another
//! ([`compatibility`]); last, how many records travel together ([`batch`]), and how an error says
//! what shall be done about it ([`error`], [`class`]).

pub mod cell;
pub mod composite;
pub mod sql_type;
pub mod table;

pub mod position;

pub mod envelope;
pub mod event_decoder;
pub mod event_encoder;
pub mod record;
pub mod wire;

pub mod compatibility;

pub mod batch;
pub mod class;
pub mod digits;
pub mod error;

mod binary;
mod codec;
mod datetime;
mod form;
mod json_text;
mod resolution;
mod schema_text;
mod type_writer;

pub use error::Error;
