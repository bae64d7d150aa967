//! The thread that polls a consumer, and what it hands over.
//!
//! librdkafka fetches on threads of its own into a queue that is bounded in bytes; this thread
//! takes records out of the queue when a reader asks, copies them once into one buffer per request
//! and answers. Nothing is fetched ahead of the reader but what the queue may hold.
//!
//! A request whose future was dropped stays pending, and the next request receives its answer:
//! records that have left the queue are never lost. When the reader itself is dropped the channel
//! closes and the thread ends within [`SLICE`], closing the client, which may block, on its way.

use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::task::JoinError;

use super::{Message, Start};
use crate::admin::Isolation;
use crate::config::{ClientKind, KafkaConfig};
use crate::error::{Error, Failure};
use crate::native::fetch::{FetchQueue, FetchedRecord, Polled};
use crate::native::log::Logged;
use crate::native::topics;

/// How long the thread waits before it looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(100);

/// How long all brokers may be away before a reader says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the question whether a broker is there may take.
const PROBE: Duration = Duration::from_secs(3);

/// How long questions for metadata and offsets may take.
pub(crate) const ASK: Duration = Duration::from_secs(10);

/// The group that librdkafka wants even where nothing joins and nothing is committed.
const GROUP: &str = "hutong.readers";

/// The header's name as C has it.
const HEADER: &std::ffi::CStr = c"hutong";

/// What a reader's client differs in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// What librdkafka may hold that was not asked for yet, per partition.
    pub(crate) queue_kbytes: u32,
    /// What one fetch may bring, per partition.
    pub(crate) fetch_bytes: u32,
}

/// One answer.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    /// Records in the order of their partitions.
    pub(super) messages: Vec<Message>,
    /// The offset up to which each partition has been read: all before it is in this or an earlier
    /// answer, or is a marker, an aborted record or a hole.
    pub(super) positions: BTreeMap<i32, i64>,
    /// Partitions of which everything was read that could be when this was fetched.
    pub(super) at_end: Vec<i32>,
}

struct Request {
    bytes_max: usize,
    timeout: Duration,
    reply: oneshot::Sender<Result<Fetched, Error>>,
}

/// The handle of the thread.
pub(super) struct Fetcher {
    requests: SyncSender<Request>,
    pending: Option<oneshot::Receiver<Result<Fetched, Error>>>,
    /// Weak, because closing a client blocks and is for the thread to do.
    consumer: Weak<BaseConsumer<Logged>>,
    topic: String,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Makes a client and begins to fetch. Blocks: not for the runtime.
    pub(super) fn start(
        config: &KafkaConfig,
        topic: &str,
        starts: &[(i32, Start)],
        isolation: Isolation,
        limits: Limits,
    ) -> Result<Self, Error> {
        let consumer = Arc::new(consumer(config, isolation, Some(limits))?);
        let mut assignment = TopicPartitionList::with_capacity(starts.len());
        for (partition, start) in starts {
            let offset = match start {
                Start::Earliest => Offset::Beginning,
                Start::At(offset) => Offset::Offset(*offset),
            };
            assignment
                .add_partition_offset(topic, *partition, offset)
                .map_err(|error| operation("read", topic, Failure::from(error)))?;
        }
        consumer
            .assign(&assignment)
            .map_err(|error| operation("read", topic, Failure::from(error)))?;
        let weak = Arc::downgrade(&consumer);
        let queue = FetchQueue::of(consumer)
            .ok_or_else(|| operation("read", topic, Failure::of(RDKafkaErrorCode::UnknownGroup)))?;
        let (requests, receiver) = sync_channel(1);
        let thread = Thread::new(queue, topic, starts);
        std::thread::Builder::new()
            .name("hutong-reader".to_owned())
            .spawn(move || thread.serve(&receiver))
            .map_err(|error| {
                let failure =
                    Failure::described(RDKafkaErrorCode::CriticalSystemResource, error.to_string());
                Error::Client(failure)
            })?;
        Ok(Self {
            requests,
            pending: None,
            consumer: weak,
            topic: topic.to_owned(),
        })
    }

    /// Asks the thread, unless an answer is on its way already.
    pub(super) fn ask(&mut self, bytes_max: usize, timeout: Duration) -> Result<(), Error> {
        if self.pending.is_none() {
            let (reply, pending) = oneshot::channel();
            let request = Request {
                bytes_max,
                timeout,
                reply,
            };
            self.requests.try_send(request).map_err(|_| self.ended())?;
            self.pending = Some(pending);
        }
        Ok(())
    }

    /// Waits up to `timeout` for something new and takes what is there.
    pub(super) async fn fetch(
        &mut self,
        bytes_max: usize,
        timeout: Duration,
    ) -> Result<Fetched, Error> {
        self.ask(bytes_max, timeout)?;
        let pending = self
            .pending
            .as_mut()
            .expect("just filled where it was empty");
        let answer = pending.await;
        self.pending = None;
        answer.map_err(|_| self.ended())?
    }

    fn ended(&self) -> Error {
        Error::Ended(format!("the reader of {}", self.topic))
    }

    /// Asks the broker for the end of a partition, as far as this reader's isolation lets it read.
    pub(super) async fn end_offset(&self, partition: i32) -> Result<i64, Error> {
        let consumer = self.consumer.upgrade().ok_or_else(|| self.ended())?;
        let topic = self.topic.clone();
        blocking(move || watermarks(&consumer, &topic, partition).map(|(_, end)| end)).await
    }
}

struct Thread {
    queue: FetchQueue,
    topic: String,
    topic_c: CString,
    positions: BTreeMap<i32, i64>,
    starts: BTreeMap<i32, Start>,
    down_since: Option<Instant>,
    /// An error that came behind records, for the next request.
    deferred: Option<Error>,
}

impl Thread {
    fn new(queue: FetchQueue, topic: &str, starts: &[(i32, Start)]) -> Self {
        let positions = starts.iter().filter_map(|(partition, start)| match start {
            Start::Earliest => None,
            Start::At(offset) => Some((*partition, *offset)),
        });
        Self {
            queue,
            topic: topic.to_owned(),
            topic_c: CString::new(topic).unwrap_or_default(),
            positions: positions.collect(),
            starts: starts.iter().copied().collect(),
            down_since: None,
            deferred: None,
        }
    }

    fn serve(mut self, requests: &Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            let answer = self.collect(&request);
            if request.reply.send(answer).is_err() {
                break;
            }
        }
    }

    fn collect(&mut self, request: &Request) -> Result<Fetched, Error> {
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        let deadline = Instant::now() + request.timeout;
        let mut collected = Collected::default();
        loop {
            // What is there is taken without a look at the clock.
            let left = if collected.is_something() {
                Duration::ZERO
            } else {
                deadline.saturating_duration_since(Instant::now())
            };
            let wait = left.min(SLICE);
            match collected.take(self.queue.poll(wait)) {
                Step::Taken => {}
                Step::Failed { partition, failure } => {
                    if let Err(error) = self.failed(partition, failure) {
                        // Records that have left the queue are answered before it.
                        if collected.is_something() {
                            self.deferred = Some(error);
                            break;
                        }
                        return Err(error);
                    }
                }
                Step::Nothing => {
                    let is_unwanted = request.reply.is_closed();
                    if collected.is_something() || is_unwanted || left.is_zero() {
                        break;
                    }
                    self.still_there()?;
                }
            }
            if collected.buffer.len() >= request.bytes_max && !collected.parts.is_empty() {
                break;
            }
        }
        if collected.is_something() {
            self.down_since = None;
        }
        Ok(self.finish(collected))
    }

    /// Decides whether an event of librdkafka is an error to the reader: it reconnects and asks for
    /// leaders by itself, so that what is transient is only noted.
    fn failed(&mut self, partition: Option<i32>, failure: Failure) -> Result<(), Error> {
        use hutong_schemas::class::Class;
        match failure.code {
            RDKafkaErrorCode::AllBrokersDown => {
                self.down_since.get_or_insert_with(Instant::now);
                Ok(())
            }
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                let partition = partition.unwrap_or_default();
                let offset = self.positions.get(&partition).copied().unwrap_or_default();
                Err(Error::TopicTruncated {
                    topic: self.topic.clone(),
                    partition,
                    offset,
                })
            }
            RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopicId => self.still_exists(),
            _ if failure.is_fatal => Err(operation("read", &self.topic, failure)),
            // Nothing of ours depends on the group: its coordinator may be forbidden to us.
            RDKafkaErrorCode::GroupAuthorizationFailed => Ok(()),
            _ if failure.class() == Class::Transient => Ok(()),
            _ => Err(operation("read", &self.topic, failure)),
        }
    }

    /// A broker that has just started may not know a topic for a moment.
    fn still_exists(&self) -> Result<(), Error> {
        let client = self.queue.consumer().client();
        match topics::describe_surely(client, &self.topic, PROBE) {
            Ok(None) => Err(Error::TopicMissing {
                topic: self.topic.clone(),
            }),
            // Where no broker answers, the silence will be noticed.
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    /// Silence after all connections were lost is an error only if a broker does not answer.
    fn still_there(&mut self) -> Result<(), Error> {
        let Some(since) = self.down_since else {
            return Ok(());
        };
        if since.elapsed() < PATIENCE {
            return Ok(());
        }
        let probe = self
            .queue
            .consumer()
            .fetch_metadata(Some(&self.topic), PROBE);
        match probe {
            Ok(_) => {
                self.down_since = None;
                Ok(())
            }
            Err(error) => {
                let failure = self
                    .queue
                    .consumer()
                    .context()
                    .explain(Failure::from(error));
                Err(operation("read", &self.topic, failure))
            }
        }
    }

    fn finish(&mut self, collected: Collected) -> Fetched {
        for part in &collected.parts {
            self.positions.insert(part.partition, part.offset + 1);
        }
        for (partition, offset) in &collected.ends {
            let position = self.positions.entry(*partition).or_insert(*offset);
            *position = (*position).max(*offset);
        }
        self.pass_markers();
        let mut at_end: Vec<i32> = Vec::new();
        for (partition, position) in &self.positions {
            let is_told = collected.ends.contains(&(*partition, *position));
            let cached = self.queue.cached_high_watermark(&self.topic_c, *partition);
            if is_told || (cached >= 0 && *position >= cached) {
                at_end.push(*partition);
            }
        }
        Fetched {
            messages: collected.into_messages(),
            positions: self.positions.clone(),
            at_end,
        }
    }

    /// The client's own position also passes the markers that end transactions, which come through
    /// the queue like records and are swallowed there.
    fn pass_markers(&mut self) {
        let Ok(list) = self.queue.consumer().position() else {
            return;
        };
        for element in list.elements() {
            let Offset::Offset(offset) = element.offset() else {
                continue;
            };
            if !self.starts.contains_key(&element.partition()) {
                continue;
            }
            let position = self.positions.entry(element.partition()).or_insert(offset);
            *position = (*position).max(offset);
        }
    }
}

/// Records on their way: bytes in one buffer, and where each lies.
#[derive(Default)]
struct Collected {
    buffer: Vec<u8>,
    parts: Vec<Part>,
    ends: Vec<(i32, i64)>,
}

struct Part {
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    header: Option<(usize, usize)>,
}

/// What remains of a poll when what it lent was copied.
enum Step {
    Taken,
    Nothing,
    Failed {
        partition: Option<i32>,
        failure: Failure,
    },
}

impl Collected {
    fn take(&mut self, polled: Polled<'_>) -> Step {
        match polled {
            Polled::Record(record) => self.add(&record),
            Polled::End { partition, offset } => self.ends.push((partition, offset)),
            Polled::Served => {}
            Polled::Nothing => return Step::Nothing,
            Polled::Failed { partition, failure } => return Step::Failed { partition, failure },
        }
        Step::Taken
    }

    fn is_something(&self) -> bool {
        !self.parts.is_empty() || !self.ends.is_empty()
    }

    fn add(&mut self, record: &FetchedRecord<'_>) {
        // At once: growing for a header would double what a large value takes.
        let parts = [record.key(), record.value(), record.header(HEADER)];
        let bytes = parts.into_iter().flatten().map(<[u8]>::len).sum();
        self.buffer.reserve(bytes);
        let part = Part {
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            key: self.copy(record.key()),
            value: self.copy(record.value()),
            header: self.copy(record.header(HEADER)),
        };
        self.parts.push(part);
    }

    fn copy(&mut self, bytes: Option<&[u8]>) -> Option<(usize, usize)> {
        let bytes = bytes?;
        let start = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        Some((start, self.buffer.len()))
    }

    fn into_messages(self) -> Vec<Message> {
        let buffer = Bytes::from(self.buffer);
        let slice = |range: Option<(usize, usize)>| range.map(|(from, to)| buffer.slice(from..to));
        let message = |part: &Part| Message {
            partition: part.partition,
            offset: part.offset,
            timestamp_ms: part.timestamp_ms,
            key: slice(part.key),
            value: slice(part.value),
            header_hutong: slice(part.header),
        };
        self.parts.iter().map(message).collect()
    }
}

/// Makes a consumer that joins no group; without limits, one that only answers questions.
pub(crate) fn consumer(
    config: &KafkaConfig,
    isolation: Isolation,
    limits: Option<Limits>,
) -> Result<BaseConsumer<Logged>, Error> {
    // Low latency comes from the broker's answering as soon as there is a byte; the wait bounds how
    // late a reader learns that there is no more while a neighbour's transaction is open.
    let defaults = [
        ("fetch.wait.max.ms", "100"),
        ("fetch.error.backoff.ms", "50"),
        ("fetch.queue.backoff.ms", "20"),
        ("check.crcs", "true"),
    ];
    let mut client = config.client(&defaults, ClientKind::Consumer);
    if let Some(limits) = limits {
        client.set("group.id", GROUP);
        client.set(
            "queued.max.messages.kbytes",
            limits.queue_kbytes.to_string(),
        );
        client.set("max.partition.fetch.bytes", limits.fetch_bytes.to_string());
    }
    // Membership is not for readers, whatever the configuration says about it.
    client.remove("partition.assignment.strategy");
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client.set("enable.partition.eof", "true");
    client.set("auto.offset.reset", "error");
    let level = match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    };
    client.set("isolation.level", level);
    client
        .create_with_context(Logged::default())
        .map_err(|error| Error::Client(Failure::from(error)))
}

/// Asks for the first offset and the end of a partition. Blocks.
pub(crate) fn watermarks(
    consumer: &BaseConsumer<Logged>,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), Error> {
    let asked = consumer.fetch_watermarks(topic, partition, ASK);
    asked.map_err(|error| {
        let failure = Failure::from(error);
        let is_unknown = matches!(
            failure.code,
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        );
        let error = if is_unknown {
            unknown(consumer, topic, partition)
        } else {
            operation("ask for the offsets of", topic, failure)
        };
        explained(consumer, error)
    })
}

/// Returns those topics, given with their numbers of partitions, of which every partition says where
/// it ends: its leader knows that it is. One question for all. Blocks.
pub(crate) fn led(
    consumer: &BaseConsumer<Logged>,
    topics: &[(String, i32)],
) -> Result<Vec<String>, Error> {
    let mut wanted = TopicPartitionList::new();
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            wanted
                .add_partition_offset(topic, partition, Offset::End)
                .map_err(|error| {
                    operation("ask for the offsets of", topic, Failure::from(error))
                })?;
        }
    }
    // A question as a whole fails where no leader is known yet, too: then none is there.
    let Ok(found) = consumer.offsets_for_times(wanted, PROBE) else {
        return Ok(Vec::new());
    };
    let elements = found.elements();
    let unled: HashSet<&str> = elements
        .iter()
        .filter(|element| {
            element.error().is_err() || !matches!(element.offset(), Offset::Offset(_))
        })
        .map(|element| element.topic())
        .collect();
    let led = topics.iter().map(|(topic, _)| topic);
    let led = led.filter(|topic| !unled.contains(topic.as_str()));
    Ok(led.cloned().collect())
}

/// Explains a silence by what has happened to the client's connections.
pub(crate) fn explained(consumer: &BaseConsumer<Logged>, error: Error) -> Error {
    // A consumer that only asks is polled nowhere else; what it has to tell waits for it.
    while consumer.poll(Duration::ZERO).is_some() {}
    consumer.context().explain_error(error)
}

/// Finds out what a partition is that the client does not know.
fn unknown(consumer: &BaseConsumer<Logged>, topic: &str, partition: i32) -> Error {
    let verb = "ask for the offsets of";
    match topics::describe_surely(consumer.client(), topic, PROBE) {
        // It is there, but its leader does not know yet.
        Ok(Some(described)) if partition < described.partitions => operation(
            verb,
            topic,
            Failure::of(RDKafkaErrorCode::LeaderNotAvailable),
        ),
        Ok(_) => Error::TopicMissing {
            topic: topic.to_owned(),
        },
        Err(failure) => operation(verb, topic, failure),
    }
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// Returns what a blocking call came to; its panic is the caller's.
pub(super) fn joined<T>(done: Result<Result<T, Error>, JoinError>) -> Result<T, Error> {
    match done {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down.
        Err(_) => Err(Error::Ended("the runtime".to_owned())),
    }
}

pub(crate) fn operation(operation: &'static str, subject: &str, source: Failure) -> Error {
    Error::Operation {
        operation,
        subject: subject.to_owned(),
        source,
    }
}
