//! The way of a batch into Kafka and then into the store, while the next one is applied.
//!
//! ```text
//!   batch n    applied ─▶ sealed ─▶ Kafka transaction ─▶ store ─▶ settled
//!   batch n+1             applied to what n leaves …………………………………… ─▶ sealed ─▶ …
//! ```
//!
//! One batch is on its way at most. If its output is refused, it and what was applied after it are
//! taken back, and all of it is applied again, without the view that is suspended for it.

use std::sync::Arc;
use std::time::Instant;

use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::{Class, Classified};
use hutong_stream_processors::processor::Sealed;
use hutong_stream_processors::{DiskStore, Run};
use hutong_transport::producer::{Transaction, TransactionalProducer};
use hutong_transport::reader::PartitionReader;

use super::{Attempt, owner, panicked};
use crate::fail_point;
use crate::owned::Owned;
use crate::task::TaskError;

/// A batch that is being committed.
pub(super) struct InFlight {
    way: Owned<Result<Vec<RecordBatch>, Failed>>,
    /// Records of the input, and those that came out of them.
    inputs: usize,
    outputs: usize,
    started: Instant,
    /// It is so large that nothing is applied beside it.
    pub(super) is_alone: bool,
}

/// Why a batch is not settled.
enum Failed {
    /// It was not committed, or nobody knows.
    Commit(hutong_transport::Error),
    /// It was committed, and the store does not have it.
    Store(TaskError),
}

impl Attempt {
    /// Sends the batch on its way, once the one before is settled.
    pub(super) async fn commit(&mut self, reader: &PartitionReader) -> Result<(), TaskError> {
        if !self.settle().await? {
            // What was applied was taken back.
            return Ok(());
        }
        let (mut next_offset, mut read_up_to_ms) = self.work().reached();
        if self.work().queue.is_empty() {
            // All that was returned is applied, and what lies before the reader's position and was
            // not returned are markers, aborted records and holes.
            next_offset = reader.position();
            if reader.at_end() {
                read_up_to_ms = self.ctx.clock.now_ms();
            }
        }
        // A source whose clock is ahead must not hide that we are behind.
        read_up_to_ms = read_up_to_ms.min(self.ctx.clock.now_ms());
        let work = self.work.as_mut().expect("no blocking call is under way");
        let run = work.batch.run;
        let is_alone = work.bytes() > 2 * self.ctx.batch.bytes_max;
        let positions = work.processor.positions(next_offset, read_up_to_ms);
        let owner = owner(&self.task);
        let positions = positions
            .into_iter()
            .map(|(sub, value)| self.ctx.position_write(&owner, sub, value))
            .collect();
        let (records, inputs, sealed) = self.blocking(super::batch::Work::seal).await??;
        let outputs = records.records.len();
        let transaction = Transaction {
            batches: vec![records],
            positions,
            plain: Vec::new(),
        };
        let work = self.work.as_mut().expect("no blocking call is under way");
        let (store, permit) = (work.processor.store().clone(), work.permit.take());
        let producer = Arc::clone(&self.producer);
        let way = Owned::spawn(format!("commit of {owner}"), async move {
            let carried = carry(producer, transaction, sealed, store, run, owner).await;
            // Here, because the next batch may wait for it, and nobody settles this one meanwhile.
            drop(permit);
            carried
        });
        self.in_flight = Some(InFlight {
            way,
            inputs,
            outputs,
            started: Instant::now(),
            is_alone,
        });
        Ok(())
    }

    /// Waits until nothing is on its way. Returns false if it was refused, and everything that was
    /// applied and not settled was taken back.
    pub(super) async fn settle(&mut self) -> Result<bool, TaskError> {
        let Some(mut in_flight) = self.in_flight.take() else {
            return Ok(true);
        };
        match in_flight.way.finished().await? {
            Ok(batches) => {
                let work = self.work.as_mut().expect("no blocking call is under way");
                work.settled(batches);
                let (inputs, outputs) = (in_flight.inputs, in_flight.outputs);
                self.board
                    .count(&self.ctx, inputs, outputs, in_flight.started);
                Ok(true)
            }
            Err(Failed::Commit(error)) => self.repeat_without_refused(error).map(|()| false),
            Err(Failed::Store(error)) => Err(error),
        }
    }

    /// Suspends the view whose output was refused and takes everything back; any other error ends the
    /// attempt.
    fn repeat_without_refused(&mut self, error: hutong_transport::Error) -> Result<(), TaskError> {
        let work = self.work.as_mut().expect("no blocking call is under way");
        work.aborted();
        let suspended =
            refused_topic(&error).is_some_and(|topic| work.processor.refuse(topic, &error));
        if !suspended {
            return Err(error.into());
        }
        tracing::warn!(task = self.ctx.task.task, %error, "a view is suspended because its output was refused");
        self.refused_at = Some(Instant::now());
        Ok(())
    }
}

/// Commits a batch and lets it enter the store; returns its memory for reuse.
async fn carry(
    producer: Arc<TransactionalProducer>,
    transaction: Transaction,
    sealed: Arc<Sealed>,
    mut store: DiskStore,
    run: Run,
    owner: String,
) -> Result<Vec<RecordBatch>, Failed> {
    fail_point::reach("processor", run.as_str(), "before", &owner).await;
    let batches = producer.commit(transaction).await;
    let batches = batches.map_err(Failed::Commit)?;
    fail_point::reach("processor", run.as_str(), "after", &owner).await;
    let entering = tokio::task::spawn_blocking(move || sealed.enter(&mut store));
    let entered = entering.await.map_err(panicked).map_err(Failed::Store)?;
    entered.map_err(|error| Failed::Store(error.into()))?;
    Ok(batches)
}

/// Returns the topic whose records were refused for good, if that is what happened.
fn refused_topic(error: &hutong_transport::Error) -> Option<&str> {
    use hutong_transport::Error as E;
    match error {
        E::TopicMissing { topic }
        | E::RecordTooLarge { topic, .. }
        | E::BatchInconsistent { topic, .. } => Some(topic),
        E::Operation { subject, .. } if error.class() == Class::Definite => Some(subject),
        _ => None,
    }
}
