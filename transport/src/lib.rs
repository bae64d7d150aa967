//! The only code that talks to Kafka.
//!
//! What is made durable goes through [`producer`], what is read back through [`reader`], who does
//! the work is decided by [`group`], and where things lie is said by [`names`]. [`record`] has the
//! JSON records of the platform's own topics.
//!
//! librdkafka blocks: every call that may wait runs on a thread of its own and has a timeout. No
//! type of it appears in this crate's interface. The crate knows no database and no connector, and
//! decides nothing: it says by the class of an error what went wrong, never what is done about it.

pub mod config;
pub mod error;
pub mod names;
pub mod record;

pub mod admin;
#[cfg(debug_assertions)]
pub mod faults;
pub mod group;
pub mod producer;
pub mod reader;

mod native;

pub use config::KafkaConfig;
pub use error::Error;
