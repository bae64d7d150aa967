//! Schemas and plans against oracles that are not ours: recorded Debezium, and apache-avro.

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
