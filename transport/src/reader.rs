//! Readers.

use std::time::Duration;

use bytes::Bytes;

use crate::admin::Isolation;
use crate::config::KafkaConfig;
use crate::error::Error;

/// A record as it was read. Its bytes share one buffer with others of the same poll.
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

/// What a compacted topic says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record.
    Record(Message),
    /// Everything that was committed when the reader was opened has been returned. Comes once.
    End,
}

/// Reads all partitions of a topic from the beginning and goes on following it.
#[derive(Debug)]
pub struct CompactedReader {
    _private: (),
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl CompactedReader {
    /// Opens the topic; all its partitions.
    ///
    /// # Errors
    ///
    /// Definite: no such topic. Else transient.
    pub async fn open(config: &KafkaConfig, topic: &str) -> Result<Self, Error> {
        let _ = (config, topic);
        Ok(Self { _private: () })
    }

    /// Opens some partitions of the topic.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_partitions(
        config: &KafkaConfig,
        topic: &str,
        partitions: &[i32],
    ) -> Result<Self, Error> {
        let _ = (config, topic, partitions);
        Ok(Self { _private: () })
    }

    /// Waits for the next record, or for the end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if it is dropped.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn next(&mut self) -> Result<Event, Error> {
        Ok(Event::End)
    }
}

/// Reads one partition from a known offset.
#[derive(Debug)]
pub struct PartitionReader {
    position: i64,
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl PartitionReader {
    /// Opens a partition.
    ///
    /// # Errors
    ///
    /// Definite: no such topic or partition. Else transient.
    pub async fn open(
        config: &KafkaConfig,
        topic: &str,
        partition: i32,
        start: Start,
        isolation: Isolation,
    ) -> Result<Self, Error> {
        let _ = (config, topic, partition, start, isolation);
        Ok(Self { position: 0 })
    }

    /// Waits up to `timeout` for a record, then takes what is there, up to about `bytes_max` (at
    /// least one record).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if it is dropped.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<Message>, Error> {
        let _ = (bytes_max, timeout);
        Ok(Vec::new())
    }

    /// Asks the broker for the end: the last stable offset, or the high watermark of a reader of
    /// uncommitted records.
    ///
    /// # Errors
    ///
    /// Transient.
    pub async fn end_offset(&self) -> Result<i64, Error> {
        Ok(0)
    }

    /// Returns whether everything up to the end, as the last poll found it, has been returned.
    #[must_use]
    pub fn at_end(&self) -> bool {
        true
    }

    /// Returns the offset to go on at: all before it has been returned, or is none of our business
    /// (markers, aborted records, holes).
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }
}
