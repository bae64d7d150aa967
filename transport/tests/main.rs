//! The transport against a real Kafka.

#![expect(
    clippy::unwrap_used,
    reason = "a test that panics has failed, as it should"
)]

mod access;
mod fixture;
mod group;
mod producer;
mod readers;
mod topics;
