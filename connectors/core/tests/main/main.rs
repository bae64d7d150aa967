//! Configurations, secrets and filters, from the outside.

mod configuration;
mod filters;
mod secrets;
mod tables;
