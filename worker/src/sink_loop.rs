//! Placeholder, replaced by the loop's owner.

use crate::task::{Stopped, TaskContext, TaskError};
use hutong_schemas::class::Class;

/// Runs one attempt.
pub(crate) async fn run(ctx: TaskContext) -> Result<Stopped, TaskError> {
    Err(TaskError::new(Class::Definite, format!("{ctx:?} cannot run yet")))
}

/// Gives up for good what the task owns outside Kafka; called for a deleted task, after its loop
/// ended or without one having run. Must do nothing when repeated.
pub(crate) async fn delete(ctx: TaskContext) -> Result<(), TaskError> {
    Err(TaskError::new(Class::Definite, format!("{ctx:?} cannot be deleted yet")))
}
