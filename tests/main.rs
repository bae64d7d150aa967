//! The integration suite of the platform: the real program, a real Kafka, real PostgreSQL servers.
//!
//! Run it by `make test`, which starts the servers. Each test brings names of its own, so that all
//! may run at once; tests that kill or reconfigure a server start one for themselves.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a suite: what is not so ends the test, and figures are printed"
)]

mod bad_input;
mod by_hand;
mod docs;
#[path = "exactly_once/mod.rs"]
mod exactly_once;
mod first_path;
mod interoperation;
mod moving;
mod no_leak;
mod operations;
mod view_changes;
mod world;
