//! The control plane, by its HTTP APIs, against a real PostgreSQL and a real Kafka.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "a test whose setup fails has nothing better to do than to panic"
)]

mod auth;
mod changes;
mod connectors;
mod harness;
mod loggers;
mod offsets;
mod openapi;
mod outbox;
mod registry;
mod registry_modes;
mod replicas;
mod requests;
mod standby;
mod views;
