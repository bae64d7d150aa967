//! A store of sorted keys in one folder: a cache of what can be read again from elsewhere.
//!
//! A batch is written as a whole, with a text that says what the store reflects then. It goes into a
//! journal and into memory; what has gathered there is written to a *run*, a file of sorted entries,
//! and runs of about one size are merged into one, beside the batches (P. O'Neil, E. Cheng, D. Gawlick,
//! E. O'Neil, "The Log-Structured Merge-Tree", 1996). Memory does not grow with what is stored: some
//! megabytes for what was written last, some bytes for each megabyte in runs.
//!
//! Writes reach the operating system, not the disk. A process that is killed loses nothing. After a
//! crash of the machine the store may be behind what was written; or a file is not what was written,
//! which its checksum shows: then the store is begun anew. What was read is never wrong.
//!
//! Keys live in *keyspaces*. One can be dropped at once, whatever it holds: its number is used no
//! more, and the next merge leaves its entries out.
//!
//! Read in this order: entries as bytes ([`entry`]), in memory ([`chunk`]), in a file ([`run`]),
//! several as one ([`merge`]), what is in which file ([`manifest`]), and the [`store`].

pub mod bloom;
mod chunk;
mod entry;
mod error;
mod filter;
mod manifest;
mod merge;
mod run;
mod store;

pub use entry::beginning;
pub use error::Error;
pub use store::{Batch, Keys, Keyspace, Store};
