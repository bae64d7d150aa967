//! A compacted topic as a whole: all there is, then the end, then what comes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::fetching::{
    Fetched, Fetcher, Limits, blocking, consumer, explained, operation, watermarks,
};
use super::{Message, Start};
use crate::admin::Isolation;
use crate::config::KafkaConfig;
use crate::error::{Error, Failure};
use crate::native::topics;

/// Topics of ours are small, and some have 64 partitions.
const LIMITS: Limits = Limits {
    queue_kbytes: 1024,
    fetch_bytes: 1024 * 1024,
};

/// What one request brings at most.
const BATCH_BYTES: usize = 1024 * 1024;

/// How long one request waits; the reader asks again and again.
const WAIT: Duration = Duration::from_secs(1);

/// How long the description of the topic may take.
const DESCRIBE: Duration = Duration::from_secs(10);

/// What a compacted topic says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A record.
    Record(Message),
    /// Everything that was in the topic when the reader was opened has been returned, if it was or
    /// has since been committed. Comes once; more records follow.
    End,
}

/// Reads partitions of a topic from the beginning, committed records only, and goes on following.
#[derive(Debug)]
pub struct CompactedReader {
    fetcher: Option<Fetcher>,
    queue: VecDeque<Message>,
    /// Partitions of which not everything has been read, with their ends when the reader was opened.
    open_ends: BTreeMap<i32, i64>,
    positions: BTreeMap<i32, i64>,
    is_ended: bool,
}

impl CompactedReader {
    /// Opens all partitions of a topic.
    ///
    /// # Errors
    ///
    /// Definite: no such topic. Else transient.
    pub async fn open(config: &KafkaConfig, topic: &str) -> Result<Self, Error> {
        Self::open_some(config.clone(), topic.to_owned(), None).await
    }

    /// Opens some partitions of a topic. With none, the end comes at once and nothing else ever.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_partitions(
        config: &KafkaConfig,
        topic: &str,
        partitions: &[i32],
    ) -> Result<Self, Error> {
        Self::open_some(config.clone(), topic.to_owned(), Some(partitions.to_vec())).await
    }

    async fn open_some(
        config: KafkaConfig,
        topic: String,
        partitions: Option<Vec<i32>>,
    ) -> Result<Self, Error> {
        blocking(move || {
            let partitions = match partitions {
                Some(partitions) => partitions,
                None => all_partitions(&config, &topic)?,
            };
            // The ends of *all* records, also of those whose transactions are still open: a writer
            // that was killed has committed what a reader of committed records cannot see yet only
            // because an older transaction of a neighbour is open.
            let asking = consumer(&config, Isolation::ReadUncommitted, None)?;
            let mut open_ends = BTreeMap::new();
            let mut positions = BTreeMap::new();
            for partition in &partitions {
                let (first, end) = watermarks(&asking, &topic, *partition)?;
                positions.insert(*partition, first);
                if first < end {
                    open_ends.insert(*partition, end);
                }
            }
            let starts: Vec<_> = partitions
                .into_iter()
                .map(|partition| (partition, Start::Earliest))
                .collect();
            let fetcher = if starts.is_empty() {
                None
            } else {
                let isolation = Isolation::ReadCommitted;
                Some(Fetcher::start(&config, &topic, &starts, isolation, LIMITS)?)
            };
            Ok(Self {
                fetcher,
                queue: VecDeque::new(),
                open_ends,
                positions,
                is_ended: false,
            })
        })
        .await
    }

    /// Waits for the next record, or for the end, which comes once.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// Definite: the topic was deleted, a missing right. Transient: no broker could be reached for
    /// ten seconds. The reader may be asked again after a transient one.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                return Ok(Event::Record(message));
            }
            if self.open_ends.is_empty() && !self.is_ended {
                self.is_ended = true;
                return Ok(Event::End);
            }
            let Some(fetcher) = self.fetcher.as_mut() else {
                return std::future::pending().await;
            };
            let fetched = fetcher.fetch(BATCH_BYTES, WAIT).await?;
            self.take(fetched);
        }
    }

    /// Returns how far each partition was fetched: the offset to go on at, behind markers, aborted
    /// records and holes, and behind records that [`next`](Self::next) has yet to return.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<i32, i64> {
        self.positions.clone()
    }

    fn take(&mut self, fetched: Fetched) {
        let Fetched {
            messages,
            positions,
            at_end: _,
        } = fetched;
        for (partition, position) in &positions {
            self.positions.insert(*partition, *position);
        }
        self.open_ends
            .retain(|partition, end| positions.get(partition).is_none_or(|at| at < end));
        self.queue.extend(messages);
    }
}

fn all_partitions(config: &KafkaConfig, topic: &str) -> Result<Vec<i32>, Error> {
    use rdkafka::consumer::Consumer;
    let asking = consumer(config, Isolation::ReadUncommitted, None)?;
    let described = topics::describe(asking.client(), topic, DESCRIBE)
        .map_err(|failure: Failure| {
            explained(&asking, operation("describe topic", topic, failure))
        })?
        .ok_or_else(|| Error::TopicMissing {
            topic: topic.to_owned(),
        })?;
    Ok((0..described.partitions).collect())
}
