//! What a source, a sink and their configuration are.
//!
//! A connector's configuration is a map of strings under Debezium's and Kafka Connect's names. It
//! is turned once, here, into types that cannot be wrong ([`postgres_source::Config`],
//! [`jdbc_sink::Config`]); what cannot be turned is reported in full, property by property. This
//! crate knows no driver and no broker.

pub mod property;

pub mod secret;

pub mod connection;

pub mod name_filter;

pub mod postgres_source;

pub mod jdbc_sink;

pub mod plugin;

pub mod source;

pub mod spares;

mod error_report;

pub use error_report::ErrorReport;

/// The class of the PostgreSQL source connector.
pub const SOURCE_CLASS: &str = "io.debezium.connector.postgresql.PostgresConnector";
/// The class of the sink connector.
pub const SINK_CLASS: &str = "io.debezium.connector.jdbc.JdbcSinkConnector";
