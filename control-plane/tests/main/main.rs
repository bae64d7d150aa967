//! The control plane, by its HTTP APIs, against a real PostgreSQL and a real Kafka.

mod auth;
mod connectors;
mod harness;
mod openapi;
mod outbox;
mod registry;
mod views;
