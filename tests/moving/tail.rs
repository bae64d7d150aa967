//! Every topic of tables and views is read from its first record on, as long as it exists, and its
//! cleaner is put in a hurry.
//!
//! What is compacted away was read before, if the reader was at the end within the topic's
//! `min.compaction.lag.ms` again and again. Some topics have such a lag, and what was read of them is
//! everything ([`Log::is_whole`]). The others have none: there, readers of the platform that were
//! killed find that what they missed is gone, and from what was read nothing follows about what was
//! not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hutong_local::testkit::{PATIENCE, until};
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, Isolation};
use hutong_transport::reader::{Message, PartitionReader, Start};
use tokio::task::JoinHandle;

/// How long records of topics with a lag are left alone: longer than any transaction of a run stays
/// open, since its records are as old as their appending.
const LAG: Duration = Duration::from_secs(25);
/// How often it is looked for new topics.
const LOOK: Duration = Duration::from_millis(100);

/// A topic's partition.
pub(super) type Partition = (String, i32);

/// What was read of a partition.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) records: Vec<Message>,
    pub(super) position: i64,
    /// Whether the topic is gone.
    pub(super) is_over: bool,
    at_end: Instant,
    /// The longest time between two moments at the end.
    longest: Duration,
    has_lag: bool,
}

impl Log {
    /// Returns whether every committed record was read, compacted or not.
    pub(super) fn is_whole(&self) -> bool {
        self.has_lag && self.longest < LAG / 2
    }

    fn take(&mut self, messages: Vec<Message>, reader: &PartitionReader) {
        self.records.extend(messages);
        self.position = reader.position();
        if reader.at_end() {
            self.longest = self.longest.max(self.at_end.elapsed());
            self.at_end = Instant::now();
        }
    }
}

type Logs = BTreeMap<Partition, Log>;

/// Reads topics and makes their cleaner hurry, until it is dropped.
pub(super) struct Tail {
    kafka: KafkaConfig,
    logs: Arc<Mutex<Logs>>,
    data: PathBuf,
    prefixes: Vec<String>,
    whole: Vec<String>,
    watch: JoinHandle<()>,
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl Tail {
    /// Begins to look in a broker's data folder for topics whose names begin so. Of those that
    /// begin as `whole` says nothing may be missed.
    pub(super) fn start(
        kafka: &KafkaConfig,
        data: &Path,
        prefixes: &[String],
        whole: &[String],
    ) -> Result<Self> {
        let logs = Arc::<Mutex<Logs>>::default();
        let watch = Watch {
            admin: Admin::new(kafka)?,
            kafka: kafka.clone(),
            logs: Arc::clone(&logs),
            data: data.to_owned(),
            prefixes: prefixes.to_vec(),
            whole: whole.to_vec(),
            configured: BTreeSet::new(),
            readers: BTreeMap::new(),
        };
        Ok(Self {
            kafka: kafka.clone(),
            logs,
            data: data.to_owned(),
            prefixes: prefixes.to_vec(),
            whole: whole.to_vec(),
            watch: tokio::spawn(watch.run()),
        })
    }

    /// Returns what was read so far.
    pub(super) fn logs(&self) -> MutexGuard<'_, Logs> {
        lock(&self.logs)
    }

    /// Returns the topics that are there now.
    pub(super) fn topics(&self) -> BTreeSet<String> {
        let found = partitions(&self.data, &self.prefixes);
        found.into_iter().map(|(topic, _)| topic).collect()
    }

    /// Returns whether a topic's records are left alone for a while.
    pub(super) fn has_lag(&self, topic: &str) -> bool {
        self.whole.iter().any(|prefix| topic.starts_with(prefix))
    }

    /// Returns the files of a topic's segments, and their sizes.
    pub(super) fn segments(&self, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (name, partition) in partitions(&self.data, &[topic.to_owned()]) {
            let folder = self.data.join(format!("{name}-{partition}"));
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let size = entry.metadata().map_or(0, |data| data.len());
                let file = entry.file_name().to_string_lossy().into_owned();
                if file.ends_with(".log") {
                    found.push(format!("{partition}/{file} {size}"));
                }
            }
        }
        found.sort();
        found
    }

    /// Waits until everything is read that is committed by now.
    pub(super) async fn catch_up(&self) -> Result<()> {
        let admin = Admin::new(&self.kafka)?;
        for topic in self.topics() {
            let ends = admin.end_offsets(&topic, Isolation::ReadCommitted).await;
            for (partition, end) in ends.unwrap_or_default() {
                let key = (topic.clone(), partition);
                until("a topic to be read to its end", PATIENCE, async || {
                    let logs = self.logs();
                    let log = logs.get(&key);
                    let is_done = log.is_some_and(|log| log.is_over || log.position >= end);
                    Ok(if is_done {
                        Ok(())
                    } else {
                        Err(format!("{key:?}, of {end}"))
                    })
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Reads what a topic still holds, from its beginning, as a reader who comes now.
    pub(super) async fn read_anew(
        &self,
        topic: &str,
        isolation: Isolation,
    ) -> Result<Vec<Message>> {
        let admin = Admin::new(&self.kafka)?;
        let info = admin.topic(topic).await?.context("the topic is gone")?;
        let mut messages = Vec::new();
        for partition in 0..info.partitions {
            let open =
                PartitionReader::open(&self.kafka, topic, partition, Start::Earliest, isolation);
            let mut reader = open.await?;
            let end = reader.end_offset().await?;
            while reader.position() < end {
                messages.extend(reader.poll(8 << 20, Duration::from_secs(1)).await?);
            }
        }
        Ok(messages)
    }
}

fn lock(logs: &Mutex<Logs>) -> MutexGuard<'_, Logs> {
    logs.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the partitions in a broker's folder, but for those that are being deleted.
fn partitions(data: &Path, prefixes: &[String]) -> BTreeSet<Partition> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((topic, partition)) = name.rsplit_once('-') else {
            continue;
        };
        if let Ok(partition) = partition.parse()
            && prefixes.iter().any(|prefix| topic.starts_with(prefix))
        {
            found.insert((topic.to_owned(), partition));
        }
    }
    found
}

struct Watch {
    admin: Admin,
    kafka: KafkaConfig,
    logs: Arc<Mutex<Logs>>,
    data: PathBuf,
    prefixes: Vec<String>,
    whole: Vec<String>,
    configured: BTreeSet<String>,
    /// Aborted with the watch.
    readers: BTreeMap<Partition, Reading>,
}

struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    async fn run(mut self) {
        loop {
            for partition in partitions(&self.data, &self.prefixes) {
                self.see(partition).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn see(&mut self, partition: Partition) {
        let topic = partition.0.clone();
        let has_lag = self.whole.iter().any(|prefix| topic.starts_with(prefix));
        if !self.readers.contains_key(&partition) {
            let log = Log {
                records: Vec::new(),
                position: 0,
                is_over: false,
                at_end: Instant::now(),
                longest: Duration::ZERO,
                has_lag,
            };
            lock(&self.logs).insert(partition.clone(), log);
            let folder = self.data.join(format!("{topic}-{}", partition.1));
            let logs = Arc::clone(&self.logs);
            let read = read(self.kafka.clone(), folder, partition.clone(), logs);
            let reading = Reading(tokio::spawn(read));
            self.readers.insert(partition, reading);
        }
        if !self.configured.contains(&topic) {
            let lag = if has_lag { LAG } else { Duration::ZERO };
            let lag = lag.as_millis().to_string();
            let hard = [
                ("cleanup.policy", "compact"),
                ("max.message.bytes", "67108864"),
                ("segment.ms", "500"),
                ("min.cleanable.dirty.ratio", "0.001"),
                ("min.compaction.lag.ms", &lag),
                // Nobody is behind for longer.
                ("delete.retention.ms", "60000"),
            ];
            if self.admin.configure_topic(&topic, &hard).await.is_ok() {
                self.configured.insert(topic);
            }
        }
    }
}

/// Reads a partition until its topic is gone.
async fn read(kafka: KafkaConfig, folder: PathBuf, partition: Partition, logs: Arc<Mutex<Logs>>) {
    let (topic, number) = (partition.0.clone(), partition.1);
    let mut reader = None;
    while folder.exists() {
        let open = match reader.take() {
            Some(open) => Ok(open),
            None => {
                let at = lock(&logs).get(&partition).map_or(0, |log| log.position);
                let start = if at == 0 {
                    Start::Earliest
                } else {
                    Start::At(at)
                };
                let isolation = Isolation::ReadCommitted;
                PartitionReader::open(&kafka, &topic, number, start, isolation).await
            }
        };
        let Ok(mut open) = open else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        if let Ok(messages) = open.poll(4 << 20, LOOK).await {
            if let Some(log) = lock(&logs).get_mut(&partition) {
                log.take(messages, &open);
            }
            reader = Some(open);
        }
    }
    if let Some(log) = lock(&logs).get_mut(&partition) {
        log.is_over = true;
    }
}
