//! Reading and changing where a connector's task goes on, while nothing of it runs.
//!
//! ```text
//!   tasks topic ─ request ─▶ ownership ─▶ the task's supervisor ─ nothing runs, membership proven ─▶ here
//!        status topic ◀─ answer ────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Why it is safe
//!
//! The request lies in the task's own partition, behind the record that wants the task stopped, so
//! whoever reads it knows that record. The supervisor takes one step at a time: no attempt runs
//! while an answer is being made. And the change is made as an attempt would make it: a source's
//! through the producer with the transactional id of what is owned, which fences every predecessor
//! before the stored position is read; a sink's in one transaction that takes the table over under a
//! new epoch. A zombie of the task that wakes up later writes nothing any more.
//!
//! # What each crash leaves behind
//!
//! A change is one transaction: all of it or nothing. Only a source's reset is two steps, as its
//! deletion is, slot first and positions after, so that a crash between both is repeated by the next
//! reset and is no gap: a position without a slot is a definite error until then.

use hutong_transport::record::TaskKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use crate::task::{TaskContext, TaskError};

mod sink;
mod source;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Asked {
    /// The task.
    pub(crate) task: String,
    /// What to do.
    pub(crate) action: Action,
    /// Where to go on, for [`Action::Alter`].
    #[serde(default)]
    pub(crate) offsets: Vec<PartitionOffset>,
}

/// What to do about offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Say where the task goes on.
    Get,
    /// Go on elsewhere.
    Alter,
    /// Begin anew.
    Reset,
}

/// Where to go on with a part of the input, in Kafka Connect's form.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct PartitionOffset {
    /// Which part.
    pub(crate) partition: Map<String, Value>,
    /// Where; `None` begins it anew.
    #[serde(default)]
    pub(crate) offset: Option<Map<String, Value>>,
}

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is asked.
    pub(crate) asked: Asked,
    /// Where the answer goes; whoever asked may have stopped waiting.
    pub(crate) reply: oneshot::Sender<Result<Value, TaskError>>,
}

/// Carries out what is asked. The caller has proven membership and runs nothing else of the task.
/// The answer is what a control plane shows: `{"offsets": […]}`.
///
/// # Errors
///
/// Definite where what is asked cannot be, with why; else by class of the database or Kafka.
///
/// # Cancel safety
///
/// Dropping it is as safe as a crash.
pub(crate) async fn carry_out(ctx: TaskContext, asked: &Asked) -> Result<Value, TaskError> {
    let offsets = match ctx.task.kind {
        TaskKind::Source => source::carry_out(&ctx, asked).await?,
        TaskKind::Sink => sink::carry_out(&ctx, asked).await?,
        TaskKind::Processor => return Err(TaskError::definite("a processor has no offsets")),
    };
    Ok(json!({ "offsets": offsets }))
}
