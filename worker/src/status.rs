//! What a task says about itself, and when it is published.

use serde_json::Value;

/// Where a loop says how its task fares. What it says goes to `<cluster>.status.<location>`.
#[derive(Clone, Debug)]
pub(crate) struct StatusHandle {}

impl StatusHandle {
    /// Says that the start is over and the loop works: the state becomes RUNNING, an earlier
    /// error is forgotten. Published at once. A loop calls it once per attempt, after it has fenced
    /// its predecessor and found its position.
    pub(crate) fn running(&self) {}

    /// Replaces the details. Published with the next regular write, every few seconds.
    pub(crate) fn details(&self, _details: Value) {}

    /// Replaces the details and publishes them at once, for what somebody waits for: a table's
    /// state changed, a view is filled, a sink is emptied.
    pub(crate) fn details_now(&self, _details: Value) {}

    /// Says that the loop has taken up this version of its task. Published at once. At a start the
    /// version is the one that the attempt started with.
    pub(crate) fn took_up(&self, _version: u64) {}
}
