//! Views against a simple model, over random changes and random restarts.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod cases;
mod property;
mod stores;
mod world;
