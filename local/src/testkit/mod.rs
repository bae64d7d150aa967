//! What integration tests need: servers, databases and a platform of their own.
//!
//! Tests share the servers that `hutong local test` has started ([`Kit`]) and isolate themselves by
//! the names they create; a test that kills or reconfigures a server starts one of its own
//! ([`OwnServers`]). The platform runs as child processes ([`Platform`]), so that it can be killed.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use hutong_local::testkit::{Kit, Platform, PlatformOptions};
//!
//! let kit = Kit::from_env();
//! let source = kit.database("aic").await?;
//! let binary = "target/debug/hutong"; // env!("CARGO_BIN_EXE_hutong") in a test of the package
//! let mut platform = Platform::start(PlatformOptions::new(binary, &kit).await?).await?;
//! platform.start_worker("w1", "default").await?;
//! platform.write_secrets(&[("source", "s3cret")])?;
//! let connectors = platform.api().connect("GET", "/connectors", None).await?;
//! assert_eq!(connectors.status, 200);
//! # drop(source);
//! # Ok(())
//! # }
//! ```

mod api;
mod database;
mod platform;
mod servers;
mod wait;

pub use api::{Answer, Api};
pub use database::{Database, connect};
pub use platform::{Platform, PlatformOptions};
pub use servers::{Kit, OwnServers};
pub use wait::{PATIENCE, until};
