//! One partition, from a known offset.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::fetching::{Fetcher, Limits, blocking, consumer, joined, watermarks};
use super::{Message, Start};
use crate::admin::Isolation;
use crate::config::KafkaConfig;
use crate::error::Error;

/// A partition's queue may hold this much that was not asked for yet.
const LIMITS: Limits = Limits {
    queue_kbytes: 4 * 1024,
    fetch_bytes: 1024 * 1024,
};
/// The same where records are large: what one fetch brings is unpacked at once, whatever it comes to,
/// and a fetch brings a batch of records at least.
const LIMITS_LARGE: Limits = Limits {
    queue_kbytes: 1024,
    fetch_bytes: 16 * 1024,
};
/// A record of so many bytes is large.
const LARGE_BYTES: usize = 1024 * 1024;
/// How many records after a large one another is expected.
const LARGE_FOR: usize = 1_000;

/// Reads one partition from a known offset.
#[derive(Debug)]
pub struct PartitionReader {
    fetcher: Fetcher,
    config: KafkaConfig,
    topic: String,
    isolation: Isolation,
    /// Among how many of the next records a large one is expected.
    large_for: usize,
    /// Whether the fetcher fetches large records.
    fetches_large: bool,
    /// The fetcher that is to follow, while it is being made. Kept, so that a poll that is given up does
    /// not begin anew; the position cannot move meanwhile.
    next: Option<JoinHandle<Result<Fetcher, Error>>>,
    partition: i32,
    position: i64,
    is_at_end: bool,
}

impl PartitionReader {
    /// Opens a partition and begins to fetch.
    ///
    /// # Errors
    ///
    /// Definite: there is no such topic or partition, or its first record is behind the start (then
    /// [`Error::TopicTruncated`], here or from the first [`poll`](Self::poll)). Else transient.
    pub async fn open(
        config: &KafkaConfig,
        topic: &str,
        partition: i32,
        start: Start,
        isolation: Isolation,
    ) -> Result<Self, Error> {
        let config = config.clone();
        let topic = topic.to_owned();
        blocking(move || {
            let asking = consumer(&config, isolation, None)?;
            let (first, _) = watermarks(&asking, &topic, partition)?;
            let position = match start {
                Start::Earliest => first,
                Start::At(offset) => offset,
            };
            if position < first {
                return Err(Error::TopicTruncated {
                    topic,
                    partition,
                    offset: position,
                });
            }
            let starts = [(partition, start)];
            let fetcher = Fetcher::start(&config, &topic, &starts, isolation, LIMITS)?;
            Ok(Self {
                fetcher,
                config,
                topic,
                isolation,
                large_for: 0,
                fetches_large: false,
                next: None,
                partition,
                position,
                is_at_end: false,
            })
        })
        .await
    }

    /// Waits up to `timeout` for a record, then takes what is there, up to about `bytes_max` (at
    /// least one record). Returns early and empty when it turns out that the end is reached.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped: the next call returns what this one would have,
    /// with the size and time that were given to this one.
    ///
    /// # Errors
    ///
    /// Definite: [`Error::TopicTruncated`], [`Error::TopicMissing`], a missing right. Transient: no
    /// broker could be reached for ten seconds. The reader may be asked again after a transient one.
    pub async fn poll(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Vec<Message>, Error> {
        self.adapt().await?;
        let fetched = self.fetcher.fetch(bytes_max, timeout).await?;
        for message in &fetched.messages {
            self.large_for = if message.bytes() >= LARGE_BYTES {
                LARGE_FOR
            } else {
                self.large_for.saturating_sub(1)
            };
        }
        let position = fetched.positions.get(&self.partition).copied();
        let position = position.unwrap_or(self.position).max(self.position);
        let is_told = fetched.at_end.contains(&self.partition);
        // Silence says nothing new about the end.
        let is_still = position == self.position && fetched.messages.is_empty();
        self.is_at_end = is_told || (is_still && self.is_at_end);
        self.position = position;
        Ok(fetched.messages)
    }

    /// Fetches otherwise from here on, where records have become large, or have not been for long.
    async fn adapt(&mut self) -> Result<(), Error> {
        let fetches_large = self.large_for > 0;
        if self.fetches_large == fetches_large {
            return Ok(());
        }
        let next = match &mut self.next {
            Some(next) => next,
            None => {
                let limits = if fetches_large { LIMITS_LARGE } else { LIMITS };
                let (config, topic) = (self.config.clone(), self.topic.clone());
                let starts = [(self.partition, Start::At(self.position))];
                let isolation = self.isolation;
                let start = move || Fetcher::start(&config, &topic, &starts, isolation, limits);
                self.next.insert(tokio::task::spawn_blocking(start))
            }
        };
        let made = next.await;
        self.next = None;
        // What the former one has fetched and not given is fetched again.
        self.fetcher = joined(made)?;
        self.fetches_large = fetches_large;
        Ok(())
    }

    /// Lets up to about `bytes_max` be taken for the next [`poll`](Self::poll), which returns them
    /// whatever it is asked for then, unless nothing comes within `timeout`.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`], if the reader has ended.
    pub fn fetch_ahead(&mut self, bytes_max: usize, timeout: Duration) -> Result<(), Error> {
        self.fetcher.ask(bytes_max, timeout)
    }

    /// Asks the broker for the end: the last stable offset or, for a reader of uncommitted records,
    /// the high watermark.
    ///
    /// # Errors
    ///
    /// Transient: no answer within ten seconds.
    pub async fn end_offset(&self) -> Result<i64, Error> {
        self.fetcher.end_offset(self.partition).await
    }

    /// Returns whether all had been returned that could be read when the last poll's records were
    /// fetched. Then no transaction of a partition with one writer is split by the position.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.is_at_end
    }

    /// Returns the offset to go on at: all before it has been returned, or is a marker, an aborted
    /// record or a hole.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }
}
