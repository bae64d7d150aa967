//! Waiting for a thing to be so, never for a time to pass.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// How long a test waits for something that ordinarily takes seconds, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `look` gives a value, and returns it. `look` answers `Ok(Err(now))`
/// with how things stand while it waits, and `Err` where waiting on makes no sense.
///
/// # Errors
///
/// If `look` fails, or after `patience`, with what was waited for and how things stood last.
pub async fn until<T, E, L>(what: &str, patience: Duration, mut look: L) -> Result<T>
where
    L: AsyncFnMut() -> Result<Result<T, E>>,
    E: std::fmt::Display,
{
    let deadline = Instant::now() + patience;
    loop {
        match look().await? {
            Ok(value) => return Ok(value),
            Err(now) if Instant::now() >= deadline => {
                bail!("waited {patience:?} for {what}; at last: {now}")
            }
            Err(_) => tokio::time::sleep(crate::process::LOOK).await,
        }
    }
}
