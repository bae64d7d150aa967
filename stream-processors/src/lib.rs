//! Views as operators: changes of a table and state go in, changes of views and state come out.
//!
//! There is no Kafka client here, no database and no clock. A worker's loop feeds records of one
//! input partition to a [`Processor`], commits what it puts into a batch together with the positions
//! that it names, and then tells it that the commit happened; what was not committed leaves no
//! trace in the state.
//!
//! Read in this order: what is stored ([`store`]), what is committed with the output ([`position`]),
//! what one change does to one view ([`view`]), and the [`processor`] over all views of a partition.

mod decoders;
mod difference;
pub mod disk_store;
mod error;
mod filter;
mod header;
pub mod memory_store;
mod pending;
pub mod position;
pub mod preview;
pub mod processor;
mod screens;
mod shared;
pub mod store;
pub mod view;

pub use difference::Limits;
pub use disk_store::DiskStore;
pub use error::Error;
pub use memory_store::MemoryStore;
pub use preview::Preview;
pub use processor::{Input, Processor, Run, Step};
pub use store::Store;
