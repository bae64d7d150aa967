//! Conditions and masks against PostgreSQL itself: the same text over the same rows.
//!
//! The server is named by `HUTONG_TEST_POSTGRES`. `HUTONG_TEST_SEED` repeats a run.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod changes;
mod conditions;
mod documents;
mod masks;
mod rows;
mod server;
