//! The worker against a real Kafka and a real PostgreSQL.
//!
//! Tasks are written straight into the tasks topic, as a control plane would; the registry is a few
//! lines in the test that publish what they register, as a control plane would too.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail a test as tests do, by panicking"
)]

mod bench;
mod ownership;
mod registry;
mod sink;
mod source;
