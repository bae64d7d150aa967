//! Places around a commit at which a test may hold the process, to kill it there. A release has no
//! trace of them.

/// Waits at the place `<task>-<step>-<moment>` if a test holds whoever owns this there.
#[cfg(debug_assertions)]
pub(crate) async fn reach(task: &str, step: &str, moment: &str, owner: &str) {
    let name = format!("{task}-{step}-{moment}");
    hutong_transport::faults::reach(&name, owner).await;
}

#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "its counterpart with faults waits")]
pub(crate) async fn reach(_task: &str, _step: &str, _moment: &str, _owner: &str) {}
