//! Reading what is durable: one partition from a known offset, or a compacted topic as a whole.
//!
//! Where does a topic end? Not at its last record: transactions leave markers behind, aborted ones
//! leave records that nobody may see, compaction leaves holes. All of these have offsets, and any of
//! them may be the last. So nothing here waits for a record with the offset "end - 1". It compares
//! the end with *positions*, which pass markers, aborted records and holes too: the client's own
//! position, and the offset at which librdkafka says that it has read all it may.

mod compacted;
pub(crate) mod fetching;
mod partition;

use bytes::Bytes;

pub use compacted::{CompactedReader, Event};
pub use partition::PartitionReader;

/// A record as it was read. Its bytes share one buffer with the others of the same poll, which
/// lives until the last of them is dropped: copy what is to be kept for long.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The timestamp in milliseconds since 1970, by whichever clock the topic has.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The value of the header `hutong`.
    pub header_hutong: Option<Bytes>,
}

impl Message {
    /// Returns the size of key and value, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        length(&self.key) + length(&self.value)
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that the partition still has.
    Earliest,
    /// At this offset; an error if the partition does not have it any more.
    At(i64),
}
