//! Schemas and plans against oracles that are not ours: recorded Debezium, and apache-avro.

mod debezium;
mod oracle;
mod tables;
