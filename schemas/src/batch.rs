//! Encoded records that travel together: one buffer, and where in it each record's parts lie.
//!
//! A connector or processor fills a batch, the transport sends it as (part of) one Kafka
//! transaction. Nothing is allocated per record.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Records in the order in which they must be sent.
#[derive(Default)]
pub struct RecordBatch {
    /// All keys, values and headers.
    pub buffer: Vec<u8>,
    /// Names of the topics that records refer to by index.
    pub topics: Vec<Arc<str>>,
    /// The records.
    pub records: Vec<Record>,
}

/// One record of a batch. Ranges are into [`RecordBatch::buffer`].
#[derive(Clone, Debug)]
pub struct Record {
    /// Index into [`RecordBatch::topics`].
    pub topic: u32,
    /// The partition, or `None` for "by murmur2 of the key behind its 5-byte prefix", which the
    /// transport computes because it knows the number of partitions.
    pub partition: Option<i32>,
    /// The key with its Confluent prefix; `None` for a table without a key.
    pub key: Option<Range<usize>>,
    /// The value with its Confluent prefix; `None` is a tombstone.
    pub value: Option<Range<usize>>,
    /// The value of the header `hutong`, on view records.
    pub header: Option<Range<usize>>,
}

impl RecordBatch {
    /// Returns the index of a topic, adding it where it is new. Linear: a batch has few topics.
    pub fn topic(&mut self, name: &Arc<str>) -> u32 {
        let found = self.topics.iter().position(|known| known == name);
        let index = found.unwrap_or_else(|| {
            self.topics.push(Arc::clone(name));
            self.topics.len() - 1
        });
        u32::try_from(index).expect("a batch has fewer than 2^32 topics")
    }

    /// Returns the memory that the records need, in bytes, however much more the batch has room for.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.buffer.len() + self.records.len() * std::mem::size_of::<Record>()
    }

    /// Returns the memory that the batch holds, in bytes, which budgets count.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.capacity() + self.records.capacity() * std::mem::size_of::<Record>()
    }

    /// Returns an empty batch with room for so much, and not for much more, from memory that was
    /// [given back](Self::give_back) if there is some.
    #[must_use]
    pub fn with_room(records: usize, bytes: usize) -> Self {
        Self::spare(bytes..2 * bytes).unwrap_or_else(|| Self::allocate(records, bytes))
    }

    fn allocate(records: usize, bytes: usize) -> Self {
        // The next one may be a little larger than this, and shall fit then.
        let with_slack = |count: usize| count + count / 16;
        Self {
            buffer: Vec::with_capacity(with_slack(bytes)),
            topics: Vec::new(),
            records: Vec::with_capacity(with_slack(records)),
        }
    }

    /// Takes the smallest batch with room for so many bytes that was [given back](Self::give_back).
    #[must_use]
    pub fn spare(bytes: Range<usize>) -> Option<Self> {
        if bytes.start < SPARE_BYTES.start {
            return None;
        }
        let mut spares = spares();
        let room = |spare: &Spare| spare.batch.buffer.capacity();
        let fitting = spares.iter().enumerate();
        let fitting = fitting.filter(|(_, spare)| bytes.contains(&room(spare)));
        let (index, _) = fitting.min_by_key(|(_, s)| room(s))?;
        Some(spares.swap_remove(index).batch)
    }

    /// Takes the batch, and leaves an empty one with room for as much: mostly the next is as large, and
    /// memory that grows is copied.
    #[must_use]
    pub fn replace(&mut self) -> Self {
        let bytes = self.buffer.len();
        let room = if bytes > KEPT_BYTES { 0 } else { bytes };
        let spare = Self::spare(room..SPARE_BYTES.end);
        let next = spare.unwrap_or_else(|| Self::allocate(self.records.len(), room));
        std::mem::replace(self, next)
    }

    /// Gives the memory of a batch back that is of no more use, for another one soon: the system hands out
    /// memory page by page, which for a large batch takes as long as filling it.
    pub fn give_back(mut self) {
        if !SPARE_BYTES.contains(&self.buffer.capacity()) {
            return;
        }
        self.clear();
        let given = Instant::now();
        let mut spares = spares();
        spares.push(Spare { batch: self, given });
        let bytes = |spares: &[Spare]| -> usize { spares.iter().map(|s| s.batch.bytes()).sum() };
        while bytes(&spares) > SPARES_BYTES_MAX {
            let oldest = (0..spares.len()).min_by_key(|index| spares[*index].given);
            if let Some(oldest) = oldest {
                spares.swap_remove(oldest);
            }
        }
    }

    /// Empties the batch and keeps its memory, as far as [`empty`] does.
    pub fn clear(&mut self) {
        empty(&mut self.buffer);
        self.topics.clear();
        self.records.clear();
    }
}

/// What a buffer keeps that is used again and again: more than a batch of ordinary rows, less than one
/// of the largest.
const KEPT_BYTES: usize = 16 << 20;

/// Which sizes are kept: from where it matters up to a full batch of ordinary rows.
const SPARE_BYTES: Range<usize> = 1 << 20..12 << 20;
/// Most bytes kept, in the whole process: what one source that is behind needs.
const SPARES_BYTES_MAX: usize = 24 << 20;
/// How long it is waited for another one.
const SPARE_TIME: Duration = Duration::from_millis(500);

struct Spare {
    batch: RecordBatch,
    given: Instant,
}

fn spares() -> MutexGuard<'static, Vec<Spare>> {
    static SPARES: Mutex<Vec<Spare>> = Mutex::new(Vec::new());
    SPARES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets go of what was [given back](RecordBatch::give_back) and that nobody took for a while. To be called
/// now and then by whoever gives batches back.
pub fn forget_spares() {
    spares().retain(|spare| spare.given.elapsed() < SPARE_TIME);
}

/// Lets go of all that was [given back](RecordBatch::give_back). To be called by whoever gives none back
/// any more.
pub fn forget_all_spares() {
    spares().clear();
}

/// Empties a buffer that is used again. The memory of one large row goes back: it is not counted any
/// more by whoever counted the row.
pub fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEPT_BYTES {
        *buffer = Vec::new();
    }
}

impl std::fmt::Debug for RecordBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordBatch")
            .field("records", &self.records.len())
            .field("buffer_bytes", &self.buffer.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pool is the process's: one test for all.
    #[test]
    fn memory_that_was_given_back_is_used_again_where_it_fits_and_let_go_in_time() {
        let batch = |bytes| {
            let mut batch = RecordBatch::with_room(10, bytes);
            batch.buffer.resize(bytes, 7);
            batch
        };
        let small = batch(SPARE_BYTES.start / 2);
        small.give_back();
        assert!(spares().is_empty(), "what costs little is not kept");

        let (two, five) = (batch(2 << 20), batch(5 << 20));
        let address = two.buffer.as_ptr();
        two.give_back();
        five.give_back();
        let again = RecordBatch::with_room(10, 2 << 20);
        assert_eq!(again.buffer.as_ptr(), address, "the smallest that fits");
        assert!(again.buffer.is_empty() && again.records.is_empty());
        assert!(RecordBatch::spare(6 << 20..12 << 20).is_none());
        assert!(RecordBatch::spare(2 << 20..3 << 20).is_none());

        let batches: Vec<_> = (0..10).map(|_| batch(4 << 20)).collect();
        batches.into_iter().for_each(RecordBatch::give_back);
        let bytes = |spares: &[Spare]| -> usize { spares.iter().map(|s| s.batch.bytes()).sum() };
        let kept = bytes(&spares());
        assert!((8 << 20..=SPARES_BYTES_MAX).contains(&kept), "{kept}");

        forget_spares();
        assert_eq!(bytes(&spares()), kept, "not at once");
        std::thread::sleep(SPARE_TIME);
        forget_spares();
        assert!(spares().is_empty());

        batch(4 << 20).give_back();
        forget_all_spares();
        assert!(spares().is_empty());
    }
}
