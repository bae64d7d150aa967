//! The transport against a real Kafka.

mod access;
mod fixture;
mod group;
mod producer;
mod readers;
mod topics;
