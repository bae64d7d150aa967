//! Configurations, secrets and filters, from the outside.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are test code, which clippy sees only in the test functions themselves"
)]

mod configuration;
mod filters;
mod secrets;
mod tables;
