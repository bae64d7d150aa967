//! The PostgreSQL source and sink against a real server.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests; clippy knows only functions marked as such"
)]

mod sink;
mod source;
