//! Trying again what a worker cannot do without, visibly and for ever.
//!
//! For what stands before any task: creating the platform's topics, joining the group, following
//! the topics. A worker that started before its broker waits for it here and does not exit, because
//! whoever restarts it would only have to wait as well. Errors of tasks do not come here.

use std::fmt::Display;
use std::time::Duration;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(200);
/// The longest wait.
const MAX: Duration = Duration::from_secs(5);

/// Repeats an operation until it succeeds. `doing` is for the log: "could not {doing}".
///
/// # Cancel safety
///
/// As the operation's.
pub(crate) async fn until_done<T, E: Display, F: Future<Output = Result<T, E>>>(
    doing: &str,
    mut operation: impl FnMut() -> F,
) -> T {
    let mut wait = FIRST;
    loop {
        match operation().await {
            Ok(value) => return value,
            Err(error) => {
                tracing::warn!(%error, again_in_seconds = wait.as_secs_f64(), "could not {doing}");
            }
        }
        tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
        wait = (wait * 2).min(MAX);
    }
}
