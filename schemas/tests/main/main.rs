//! Schemas and plans against oracles that are not ours: recorded Debezium, and apache-avro.

mod debezium;
mod events;
mod oracle;
mod property;
mod random;
mod records;
mod tables;
