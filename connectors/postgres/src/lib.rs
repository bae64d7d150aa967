//! The PostgreSQL source and sink.
//!
//! The source reads a table once and then follows the server's logical replication; the sink keeps
//! a subscriber's tables equal to views. They share nothing but the server's name. This crate knows
//! no broker: a source yields batches of encoded records with the position behind them, a sink takes
//! collapsed changes with the offset behind them, and a worker stands between.

mod tls;
mod value_text;

pub mod source;

pub mod sink;
