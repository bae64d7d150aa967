//! The source against a real server, with everything behind it kept in memory.

mod bad_input;
mod ddl;
mod ddl_random;
pub(crate) mod harness;
mod lifecycle;
mod races;
mod restart;
mod schema_change;
mod secure;
mod snapshot;
mod streaming;
mod texts;
mod toast;
mod truncate;
