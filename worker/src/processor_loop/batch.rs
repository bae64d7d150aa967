//! A batch on its way: what was read, what was applied, what came out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_schemas::batch::RecordBatch;
use hutong_schemas::position::SchemaId;
use hutong_stream_processors::processor::Sealed;
use hutong_stream_processors::{DiskStore, Error, Input, Limits, Processor, Run, Step};
use hutong_transport::reader::Message;
use tokio::sync::OwnedSemaphorePermit;

use crate::task::BatchLimits;

/// The state, and the batch that is being built on it.
pub(super) struct Work {
    pub(super) processor: Processor<DiskStore>,
    /// Read and not applied.
    pub(super) queue: VecDeque<Message>,
    pub(super) batch: Batch,
    /// Records of the batch that is on its way.
    sealed: Vec<Message>,
    /// The memory that the batch may take, while there is one.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// Memory of a batch that is through.
    spare: RecordBatch,
    limits: BatchLimits,
    /// Rows that a part of the difference runs may look at: as many as it can in [`PART_TIME`].
    looks_max: u64,
}

/// How long a part of the difference runs shall take: what input waits longer for its commit.
const PART_TIME: Duration = Duration::from_millis(8);
const LOOKS_MIN: u64 = 100;
const LOOKS_FIRST: u64 = 1_000;
const LOOKS_MAX: u64 = 200_000;
/// Bytes that a part may add to a batch: its commit takes time too.
const PART_BYTES: usize = 512 * 1024;

/// Applied and not committed.
#[derive(Default)]
pub(super) struct Batch {
    output: RecordBatch,
    /// Kept until the batch is settled, because it may have to be repeated without a view.
    applied: Vec<Message>,
    applied_bytes: usize,
    /// The source transaction of the last event.
    transaction: Option<i64>,
    began: Option<Instant>,
    /// What of a difference run is in it.
    pub(super) run: Run,
}

/// Why applying ended.
pub(super) enum Outcome {
    /// The batch is full and ends at a source transaction's end.
    Full,
    /// There is nothing more to apply.
    Drained,
    /// A schema is needed first.
    Needs(SchemaId),
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.output.records.is_empty()
    }
}

/// Returns how much the next part may look at, after one that took this long: half as much if it was
/// too slow, twice as much if it could have been twice as long.
fn next_looks(looks_max: u64, took: Duration) -> u64 {
    let next = if took > PART_TIME {
        looks_max / 2
    } else if took * 2 < PART_TIME {
        looks_max * 2
    } else {
        looks_max
    };
    next.clamp(LOOKS_MIN, LOOKS_MAX)
}

fn input(message: &Message) -> Input<'_> {
    Input {
        offset: message.offset,
        key: message.key.as_deref(),
        value: message.value.as_deref(),
    }
}

impl Work {
    pub(super) fn new(processor: Processor<DiskStore>, limits: BatchLimits) -> Self {
        Self {
            processor,
            queue: VecDeque::new(),
            batch: Batch::default(),
            sealed: Vec::new(),
            permit: None,
            spare: RecordBatch::default(),
            limits,
            looks_max: LOOKS_FIRST,
        }
    }

    /// Returns the size of the next record, in bytes.
    pub(super) fn next_bytes(&self) -> usize {
        self.queue.front().map_or(0, Message::bytes)
    }

    /// Applies queued records until the batch is full.
    pub(super) fn apply(&mut self) -> Result<Outcome, Error> {
        while let Some(message) = self.queue.front() {
            let input = input(message);
            if (self.is_full() || self.is_next_large())
                && (self.is_far_too_large()
                    || self.begins_another(self.processor.transaction(&input)?))
            {
                return Ok(Outcome::Full);
            }
            if let Step::Needs(id) = self.processor.change(&input, &mut self.batch.output)? {
                return Ok(Outcome::Needs(id));
            }
            if let Some(transaction) = self.processor.last_transaction() {
                self.batch.transaction = transaction;
            }
            self.batch.began.get_or_insert_with(Instant::now);
            if let Some(message) = self.queue.pop_front() {
                self.batch.applied_bytes += message.bytes();
                self.batch.applied.push(message);
            }
        }
        let full_and_whole =
            self.is_full() && (self.is_far_too_large() || self.batch.transaction.is_none());
        Ok(if full_and_whole {
            Outcome::Full
        } else {
            Outcome::Drained
        })
    }

    /// Returns the size of the batch: of what was read, or of what comes out if that is more.
    pub(super) fn bytes(&self) -> usize {
        self.batch.applied_bytes.max(self.processor.output_bytes())
    }

    fn is_full(&self) -> bool {
        let old = self
            .batch
            .began
            .is_some_and(|began| began.elapsed() >= self.limits.age_max);
        !self.batch.applied.is_empty() && (old || self.bytes() >= self.limits.bytes_max)
    }

    /// Returns whether the next record is one that goes through alone, and there are others before it.
    fn is_next_large(&self) -> bool {
        !self.batch.applied.is_empty() && self.next_bytes() > self.limits.bytes_max
    }

    /// Beyond this a source transaction is cut.
    fn is_far_too_large(&self) -> bool {
        self.bytes() >= self.limits.bytes_max.saturating_mul(2)
    }

    fn begins_another(&self, transaction: Option<Option<i64>>) -> bool {
        match transaction {
            None => false,
            Some(None) => true,
            Some(transaction) => transaction != self.batch.transaction,
        }
    }

    /// Does a part of the difference runs, if there are any; returns a schema that is needed first.
    pub(super) fn advance_difference(&mut self) -> Result<Option<SchemaId>, Error> {
        if !self.processor.has_difference() {
            return Ok(None);
        }
        let limits = Limits {
            bytes_max: self.processor.output_bytes() + self.limits.bytes_max.min(PART_BYTES),
            looks_max: self.looks_max,
        };
        let began = Instant::now();
        let step = self.processor.difference(&mut self.batch.output, limits)?;
        self.batch.run = self.batch.run.max(self.processor.last_run());
        self.looks_max = next_looks(self.looks_max, began.elapsed());
        Ok(match step {
            Step::Done => None,
            Step::Needs(id) => Some(id),
        })
    }

    /// Writes the last record of a view's partition again; returns whether it was the last.
    pub(super) fn repeat(
        &mut self,
        view: usize,
        record: Option<(&[u8], Option<&[u8]>)>,
    ) -> Result<bool, Error> {
        self.processor.repeat(view, record, &mut self.batch.output)
    }

    /// Returns the offset behind the last applied record and that record's time; the stored ones if
    /// none was applied.
    pub(super) fn reached(&self) -> (i64, i64) {
        let position = self.processor.position();
        match self.batch.applied.last() {
            Some(message) => (message.offset + 1, message.timestamp_ms),
            None => (position.next_offset, position.read_up_to_ms),
        }
    }

    /// Seals the batch and begins the next one. Returns its output, how many records of the input it
    /// accounts for, and what enters the store after its commit.
    pub(super) fn seal(&mut self) -> Result<(RecordBatch, usize, Arc<Sealed>), Error> {
        let sealed = self.processor.seal()?;
        let batch = std::mem::take(&mut self.batch);
        let inputs = batch.applied.len();
        self.sealed = batch.applied;
        self.batch.output = std::mem::take(&mut self.spare);
        Ok((batch.output, inputs, sealed))
    }

    /// Takes note that the sealed batch is settled. Its memory comes back.
    pub(super) fn settled(&mut self, batches: Vec<RecordBatch>) {
        self.processor.settled();
        self.sealed = Vec::new();
        self.spare = batches.into_iter().next().unwrap_or_default();
    }

    /// Puts the records of the batch, and of a sealed one, back into the queue.
    pub(super) fn aborted(&mut self) {
        self.processor.aborted();
        // What is begun anew may be another batch, of another size.
        self.permit = None;
        let batch = std::mem::take(&mut self.batch);
        let sealed = std::mem::take(&mut self.sealed);
        let applied = sealed.into_iter().chain(batch.applied);
        for message in applied.rev() {
            self.queue.push_front(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_cut_to_the_time_that_it_may_take() {
        let ms = Duration::from_millis;
        assert_eq!(next_looks(1_000, ms(100)), 500);
        assert_eq!(next_looks(1_000, ms(7)), 1_000);
        assert_eq!(next_looks(1_000, ms(3)), 2_000);
        assert_eq!(
            next_looks(100, ms(1_000)),
            100,
            "some progress is always made"
        );
        assert_eq!(next_looks(LOOKS_MAX, ms(1)), LOOKS_MAX);
    }
}
