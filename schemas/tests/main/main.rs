//! Schemas and plans against oracles that are not ours: recorded Debezium, and apache-avro.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "a test whose setup fails has nothing better to do than to panic"
)]

mod compatibility;
mod cost;
mod debezium;
mod events;
mod malformed;
mod oracle;
mod property;
mod random;
mod records;
mod refusals;
mod schemas;
mod tables;
