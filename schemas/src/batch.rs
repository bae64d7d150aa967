//! Encoded records that travel together: one buffer, and where in it each record's parts lie.
//!
//! A connector or processor fills a batch, the transport sends it as (part of) one Kafka
//! transaction. Nothing is allocated per record.

use std::ops::Range;
use std::sync::Arc;

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

    /// Returns the memory that the records need, in bytes, which budgets count.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.buffer.len() + self.records.len() * std::mem::size_of::<Record>()
    }

    /// Returns the memory that the batch holds, in bytes: what it has room for.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buffer.capacity() + self.records.capacity() * std::mem::size_of::<Record>()
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
pub const KEPT_BYTES: usize = 16 << 20;

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
