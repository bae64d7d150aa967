//! The thread that owns a transactional client.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hutong_schemas::batch::{Record as BatchRecord, RecordBatch};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use tokio::sync::oneshot;

use super::{PlainRecord, PositionWrite, Transaction};
use crate::config::{ClientKind, KafkaConfig};
use crate::error::{Error, Failure, is_fencing};
use crate::names::{Cluster, POSITION_PARTITIONS, partition_of, partition_of_record_key};
use crate::native::log::Logged;
use crate::native::topics;
use crate::native::transaction::{NativeProducer, Outgoing, Topic, Unqueued};
use crate::reader::fetching::{ASK, operation};
use crate::record::{PositionRecord, Record, VERSION, position_key};

/// How long the coordinator may take to fence a predecessor and to end its transaction.
const START: Duration = Duration::from_secs(30);

/// How long a single blocking call lasts before events are served again.
const SLICE: Duration = Duration::from_millis(50);

/// How long an idle client goes without being served.
const IDLE: Duration = Duration::from_secs(1);

/// How long it is waited for room in the queue before it is tried again.
const ROOM: Duration = Duration::from_millis(1);

/// Records queued by one call of the library, which reads the clock and looks at the topic once for all.
const RUN: usize = 256;

/// How long an abort may take, beyond which the producer has ended.
const ABORT: Duration = Duration::from_secs(15);

/// A transaction to be committed.
pub(super) struct Command {
    pub(super) transaction: Transaction,
    pub(super) reply: oneshot::Sender<Result<Vec<RecordBatch>, Error>>,
}

/// Remembers the first record that could not be delivered. Deliveries are not reported at all.
#[derive(Clone, Default)]
pub(super) struct Deliveries {
    first: Arc<Mutex<Option<Undelivered>>>,
    logged: Logged,
}

struct Undelivered {
    topic: String,
    bytes: usize,
    failure: Failure,
}

impl Deliveries {
    fn take(&self) -> Option<Undelivered> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.logged.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.logged.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = result else {
            return;
        };
        let failure = Failure::from(error.clone());
        // Purged by an abort: consequences, told late, of what was an error before.
        if matches!(
            failure.code,
            RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight
        ) {
            return;
        }
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| Undelivered {
            topic: message.topic().to_owned(),
            bytes: message.key_len() + message.payload_len(),
            failure,
        });
    }
}

/// Where records go.
struct Target {
    name: Arc<str>,
    topic: Topic,
    partitions: i32,
}

/// A record of a batch and the topic that it goes to.
#[derive(Clone, Copy)]
struct Addressed<'a> {
    /// The topic's place among the batch's.
    topic: u32,
    target: &'a Target,
    record: Outgoing<'a>,
}

impl<'a> Addressed<'a> {
    fn of(
        record: &BatchRecord,
        batch: &'a RecordBatch,
        targets: &'a [Target],
    ) -> Result<Self, Error> {
        let inconsistent = |topic: &str, detail: &str| Error::BatchInconsistent {
            topic: topic.to_owned(),
            detail: detail.to_owned(),
        };
        let target = usize::try_from(record.topic)
            .ok()
            .and_then(|index| targets.get(index))
            .ok_or_else(|| inconsistent("?", "a record names no topic of it"))?;
        let part =
            |range: &Option<std::ops::Range<usize>>| match range {
                None => Ok(None),
                Some(range) => batch.buffer.get(range.clone()).map(Some).ok_or_else(|| {
                    inconsistent(&target.name, "a record lies outside of the buffer")
                }),
            };
        let key = part(&record.key)?;
        let partition = match (record.partition, key) {
            (Some(partition), _) => partition,
            (None, Some(key)) if target.partitions > 1 => {
                partition_of_record_key(key, target.partitions)
            }
            (None, _) => 0,
        };
        let outgoing = Outgoing {
            partition,
            key,
            value: part(&record.value)?,
            header: part(&record.header)?,
        };
        Ok(Self {
            topic: record.topic,
            target,
            record: outgoing,
        })
    }

    fn place(&self) -> (u32, i32) {
        (self.topic, self.record.partition)
    }

    /// Whether one call can queue both: it carries no headers.
    fn goes_with(&self, other: &Self) -> bool {
        self.place() == other.place()
            && self.record.header.is_none()
            && other.record.header.is_none()
    }
}

/// The client and what it knows.
pub(super) struct Worker {
    native: NativeProducer<Deliveries>,
    deliveries: Deliveries,
    cluster: Cluster,
    transactional_id: String,
    /// How long a commit may take: beyond it the coordinator has ended the transaction itself.
    commit_timeout: Duration,
    partitions: HashMap<Arc<str>, i32>,
    has_ended: bool,
}

impl Worker {
    /// Makes the client and fences predecessors. Blocks.
    pub(super) fn start(
        config: &KafkaConfig,
        cluster: Cluster,
        transactional_id: String,
    ) -> Result<Self, Error> {
        let transaction_timeout = config.transaction_timeout();
        let timeout_ms = transaction_timeout.as_millis().to_string();
        // librdkafka wants a single request to end before the transaction does.
        let socket_timeout = transaction_timeout.min(Duration::from_secs(10));
        let socket_timeout_ms = socket_timeout.as_millis().to_string();
        // Memory is bounded in bytes, never in counts; the largest record must fit. What a transaction
        // has for a partition goes in one request: while one is on its way the client sends no other
        // there, but asks itself all the time whether it may. It is flushed, so nothing lingers. What is
        // large is compressed where it lies: a request of copies is memory that nobody has touched.
        let defaults = [
            ("compression.type", "lz4"),
            ("linger.ms", "100"),
            ("batch.size", "8388608"),
            ("batch.num.messages", "1000000"),
            ("message.copy.max.bytes", "1024"),
            ("queue.buffering.max.messages", "0"),
            ("queue.buffering.max.kbytes", "131072"),
            ("message.max.bytes", "67108864"),
            ("message.timeout.ms", timeout_ms.as_str()),
            ("socket.timeout.ms", socket_timeout_ms.as_str()),
        ];
        let mut client = config.client(&defaults, ClientKind::Producer);
        client.set("transactional.id", &transactional_id);
        client.set("transaction.timeout.ms", &timeout_ms);
        client.set("enable.idempotence", "true");
        client.set("delivery.report.only.error", "true");
        let deliveries = Deliveries::default();
        let producer: BaseProducer<Deliveries> = client
            .create_with_context(deliveries.clone())
            .map_err(|error| Error::Client(Failure::from(error)))?;
        let worker = Self {
            native: NativeProducer::new(producer),
            deliveries,
            cluster,
            transactional_id,
            commit_timeout: transaction_timeout + Duration::from_secs(10),
            partitions: HashMap::new(),
            has_ended: false,
        };
        worker.init()?;
        Ok(worker)
    }

    fn init(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = left.min(Duration::from_secs(1));
            let Err(failure) = self.native.init_transactions(slice) else {
                return Ok(());
            };
            self.serve_events();
            // A timeout of a slice, or a coordinator that is still ending the predecessor's
            // transaction: calling again resumes.
            let is_refused = self.deliveries.logged.refusal().is_some();
            if !failure.is_retriable || failure.is_fatal || left.is_zero() || is_refused {
                return Err(self.error("start producer", failure));
            }
        }
    }

    /// Commits what it is given until nobody is left who could give more.
    pub(super) fn serve(mut self, commands: &Receiver<Command>) {
        let mut served = Instant::now();
        loop {
            match commands.recv_timeout(IDLE) {
                Ok(command) => {
                    self.answer(command);
                    // Log lines must not pile up, nor take time after each.
                    if served.elapsed() >= IDLE {
                        self.serve_events();
                        served = Instant::now();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.serve_events();
                    // Of a transaction that failed, what could not be purged then.
                    drop(self.native.take_back());
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn answer(&mut self, command: Command) {
        #[cfg(debug_assertions)]
        let late = has_records(&command.transaction)
            .then(|| crate::faults::before_begin(&self.transactional_id))
            .flatten();
        let outcome = self.run(command.transaction);
        #[cfg(debug_assertions)]
        if let Some(late) = late {
            late.over(outcome.as_ref().err());
        }
        if command.reply.send(outcome).is_err() {
            // The caller does not know the outcome, so nobody may build on it.
            self.has_ended = true;
        }
    }

    fn run(&mut self, mut transaction: Transaction) -> Result<Vec<RecordBatch>, Error> {
        #[cfg(debug_assertions)]
        if crate::faults::are_positions_sabotaged()
            && !transaction.positions.is_empty()
            && !transaction.batches.is_empty()
        {
            let positions = std::mem::take(&mut transaction.positions);
            let batches = self.run(transaction)?;
            self.run(Transaction {
                positions,
                ..Transaction::default()
            })?;
            return Ok(batches);
        }
        if self.has_ended {
            return Err(self.ended());
        }
        if let Some(failure) = self.native.fatal() {
            // Beginning a transaction after a fatal error may hang (librdkafka #4420).
            self.has_ended = true;
            return Err(self.error("begin a transaction of", failure));
        }
        self.learn_topics(&transaction)?;
        self.native.lend(std::mem::take(&mut transaction.batches));
        let outcome = self.attempt_again(&transaction);
        let mut batches = self.native.take_back();
        outcome?;
        for batch in &mut batches {
            batch.clear();
        }
        Ok(batches)
    }

    /// Attempts a transaction, and where librdkafka needs it a second time.
    fn attempt_again(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if let Err(error) = self.attempt(transaction) {
            // After the broker has refused a batch of an earlier transaction, librdkafka finds a
            // gap in its sequence numbers only now. The abort that this led to raised its epoch
            // and closed the gap; nothing of this transaction is or will be committed.
            if self.has_ended || !is_sequence_gap(&error) {
                return Err(error);
            }
            tracing::warn!(producer = self.transactional_id, %error, "repeating a transaction");
            self.attempt(transaction)?;
        }
        Ok(())
    }

    /// From begin to commit, or to the end of an abort.
    fn attempt(&mut self, transaction: &Transaction) -> Result<(), Error> {
        self.deliveries.take();
        if let Err(failure) = self.native.begin() {
            self.has_ended = true;
            return Err(self.error("begin a transaction of", failure));
        }
        if let Err(error) = self.send(transaction) {
            return Err(self.abort_after(error));
        }
        self.commit()
    }

    /// Every topic is looked up once, without creating it, before anything is begun.
    fn learn_topics(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let mut wanted: Vec<Arc<str>> = Vec::new();
        for batch in &transaction.batches {
            wanted.extend(batch.topics.iter().map(Arc::clone));
        }
        wanted.extend(
            transaction
                .plain
                .iter()
                .map(|record| record.topic.as_str().into()),
        );
        for position in &transaction.positions {
            wanted.push(self.cluster.positions(&position.location).into());
        }
        for topic in wanted {
            if self.partitions.contains_key(&topic) {
                continue;
            }
            let client = self.native.wrapped().client();
            let described = topics::describe_surely(client, &topic, ASK)
                .map_err(|failure| {
                    self.serve_events();
                    let failure = self.deliveries.logged.explain(failure);
                    operation("describe topic", &topic, failure)
                })?
                .ok_or_else(|| Error::TopicMissing {
                    topic: topic.to_string(),
                })?;
            self.partitions.insert(topic, described.partitions);
        }
        Ok(())
    }

    fn send(&mut self, transaction: &Transaction) -> Result<(), Error> {
        for index in 0..self.native.lent().len() {
            let topics = self.native.lent()[index].topics.clone();
            let targets = topics.iter().map(|topic| self.target(topic));
            let targets: Vec<Target> = targets.collect::<Result<_, _>>()?;
            self.send_batch(&self.native.lent()[index], &targets)?;
        }
        for record in &transaction.plain {
            self.send_plain(record)?;
        }
        for position in &transaction.positions {
            self.send_position(position)?;
        }
        self.flush()
    }

    /// Queues a batch's records, those of a partition in their order and together: the library keeps a queue
    /// for each partition, and works through one after the other.
    fn send_batch(&self, batch: &RecordBatch, targets: &[Target]) -> Result<(), Error> {
        let addressed = batch.records.iter();
        let addressed = addressed.map(|record| Addressed::of(record, batch, targets));
        let mut addressed = addressed.collect::<Result<Vec<_>, _>>()?;
        if !addressed.is_sorted_by_key(Addressed::place) {
            addressed.sort_by_key(Addressed::place);
        }
        let mut run = Vec::with_capacity(RUN);
        let together = addressed.chunk_by(Addressed::goes_with);
        for records in together.flat_map(|together| together.chunks(RUN)) {
            let Addressed { target, record, .. } = records[0];
            if record.header.is_some() {
                self.produce(target, &[record], |_| {
                    self.native.produce_lent(target.topic, record)
                })?;
                continue;
            }
            run.clear();
            run.extend(records.iter().map(|addressed| addressed.record));
            self.produce(target, &run, |rest| {
                self.native.produce_all_lent(target.topic, rest)
            })?;
        }
        Ok(())
    }

    /// Looks a topic up, so that this is not done for each record.
    fn target(&mut self, name: &Arc<str>) -> Result<Target, Error> {
        let topic = self.native.topic(name);
        Ok(Target {
            topic: topic.map_err(|code| self.undelivered(name, 0, Failure::of(code)))?,
            partitions: self.partitions.get(name).copied().unwrap_or(0),
            name: Arc::clone(name),
        })
    }

    fn send_plain(&mut self, record: &PlainRecord) -> Result<(), Error> {
        let topic: Arc<str> = record.topic.as_str().into();
        let target = self.target(&topic)?;
        let partition = record
            .partition
            .unwrap_or_else(|| partition_of(&record.key, target.partitions));
        let outgoing = Outgoing {
            partition,
            key: Some(&record.key),
            value: record.value.as_deref(),
            header: None,
        };
        self.produce_copied(&target, outgoing)
    }

    fn send_position(&mut self, write: &PositionWrite) -> Result<(), Error> {
        let topic: Arc<str> = self.cluster.positions(&write.location).into();
        let target = self.target(&topic)?;
        let count = target.partitions;
        if count != POSITION_PARTITIONS {
            return Err(Error::TopicMismatch {
                topic: topic.to_string(),
                property: "partitions".to_owned(),
                found: count.to_string(),
                wanted: POSITION_PARTITIONS.to_string(),
            });
        }
        let key = position_key(&write.owner, &write.sub);
        let value = write.value.as_ref().map(|position| {
            let record = PositionRecord {
                v: VERSION,
                position: position.clone(),
            };
            record.encode()
        });
        let outgoing = Outgoing {
            // By owner, so that one partition holds all that a start must read.
            partition: partition_of(write.owner.as_bytes(), count),
            key: Some(key.as_bytes()),
            value: value.as_deref(),
            header: None,
        };
        self.produce_copied(&target, outgoing)
    }

    fn produce_copied(&self, target: &Target, record: Outgoing<'_>) -> Result<(), Error> {
        self.produce(target, &[record], |_| {
            self.native.produce(target.topic, record)
        })
    }

    /// Queues records of one partition, waiting for room. `queue` is given those that are left.
    fn produce(
        &self,
        target: &Target,
        records: &[Outgoing<'_>],
        queue: impl Fn(&[Outgoing<'_>]) -> Result<(), Unqueued>,
    ) -> Result<(), Error> {
        let (topic, count) = (&target.name, target.partitions);
        let mut rest = records;
        let mut deadline = None;
        while let [next, ..] = rest {
            if !(0..count).contains(&next.partition) {
                return Err(Error::BatchInconsistent {
                    topic: topic.to_string(),
                    detail: format!("partition {} of {count}", next.partition),
                });
            }
            let Err(Unqueued { before, code }) = queue(rest) else {
                break;
            };
            if before > 0 {
                deadline = None;
            }
            rest = &rest[before..];
            if code != RDKafkaErrorCode::QueueFull {
                let bytes = rest.first().map_or(0, Outgoing::bytes);
                return Err(self.undelivered(topic, bytes, Failure::of(code)));
            }
            // Sending makes room; a record that failed keeps its room until its event is served.
            thread::sleep(ROOM);
            self.serve_events();
            if let Some(failed) = self.deliveries.take() {
                return Err(self.undelivered(&failed.topic, failed.bytes, failed.failure));
            }
            let now = Instant::now();
            if now > *deadline.get_or_insert(now + self.commit_timeout) {
                return Err(self.timed_out("send records of", self.commit_timeout));
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.commit_timeout;
        loop {
            let is_flushed = self.native.flush(SLICE);
            if !is_flushed {
                self.serve_events();
            }
            if let Some(failed) = self.deliveries.take() {
                return Err(self.undelivered(&failed.topic, failed.bytes, failed.failure));
            }
            if is_flushed {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.timed_out("send records of", self.commit_timeout));
            }
        }
    }

    #[cfg(not(debug_assertions))]
    fn commit(&mut self) -> Result<(), Error> {
        self.request_commit()
    }

    #[cfg(debug_assertions)]
    fn commit(&mut self) -> Result<(), Error> {
        use crate::faults::{Fault, at_commit};
        let Some(firing) = at_commit(&self.transactional_id) else {
            return self.request_commit();
        };
        match firing.fault {
            Fault::FailBeforeCommit => {
                Err(self.abort_after(Error::Scripted("failed before the commit")))
            }
            Fault::HoldBeforeCommit => {
                firing.wait_for_release();
                self.request_commit()
            }
            Fault::DropAnswer => {
                self.request_commit()?;
                let code = RDKafkaErrorCode::OperationTimedOut;
                Err(self.unknown(Failure::described(code, "scripted fault: answer dropped")))
            }
        }
    }

    fn request_commit(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.commit_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(failure) = self.native.commit(left.min(Duration::from_secs(1))) else {
                return Ok(());
            };
            self.serve_events();
            if failure.is_fatal || is_fencing(failure.code) {
                // An earlier request of the same commit may have been granted and its answer lost,
                // so that this says only who owns the work now. The class is the same.
                self.has_ended = true;
                return Err(self.error("commit a transaction of", failure));
            }
            if failure.is_abortable {
                let error = self.error("commit a transaction of", failure);
                return Err(self.abort_after(error));
            }
            if !failure.is_retriable || left.is_zero() {
                return Err(self.unknown(failure));
            }
        }
    }

    /// Aborts, so that the producer can go on after an error that concerns this transaction only.
    fn abort_after(&mut self, error: Error) -> Error {
        let deadline = Instant::now() + ABORT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Err(failure) = self.native.abort(left.min(SLICE * 4)) else {
                // What was purged is of no interest.
                self.serve_events();
                self.deliveries.take();
                return error;
            };
            self.serve_events();
            if failure.is_fatal || is_fencing(failure.code) {
                self.has_ended = true;
                return self.error("abort a transaction of", failure);
            }
            if !failure.is_retriable || left.is_zero() {
                // Nothing of it can become visible: only a commit makes it so, and none was sent.
                self.has_ended = true;
                return error;
            }
        }
    }

    /// Serves the events that are there. One a call, as with a longer time than none the wrapper spins
    /// for its last millisecond.
    fn serve_events(&self) {
        while self.native.has_events() {
            self.native.wrapped().poll(Duration::ZERO);
        }
    }

    fn undelivered(&self, topic: &str, bytes: usize, failure: Failure) -> Error {
        match failure.code {
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessageSize
            | RDKafkaErrorCode::MessageBatchTooLarge => Error::RecordTooLarge {
                topic: topic.to_owned(),
                bytes,
                source: failure,
            },
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition => Error::TopicMissing {
                topic: topic.to_owned(),
            },
            // In a transaction, these are said to a producer whose transaction or epoch is gone.
            RDKafkaErrorCode::Fatal | RDKafkaErrorCode::State => {
                self.error("send records of", failure)
            }
            code if is_fencing(code) => self.error("send records of", failure),
            _ => {
                let failure = self.deliveries.logged.explain(failure);
                operation("send a record to", topic, failure)
            }
        }
    }

    /// Finds the class: what ended the client says more than what the last call returned.
    fn error(&self, verb: &'static str, failure: Failure) -> Error {
        let failure = self.native.fatal().unwrap_or(failure);
        let failure = self.deliveries.logged.explain(failure);
        if is_fencing(failure.code) {
            Error::Fenced {
                transactional_id: self.transactional_id.clone(),
                source: failure,
            }
        } else {
            operation(verb, &self.transactional_id, failure)
        }
    }

    fn unknown(&mut self, failure: Failure) -> Error {
        self.has_ended = true;
        Error::CommitOutcomeUnknown {
            transactional_id: self.transactional_id.clone(),
            source: failure,
        }
    }

    fn timed_out(&self, verb: &'static str, after: Duration) -> Error {
        Error::TimedOut {
            operation: verb,
            subject: self.transactional_id.clone(),
            after,
        }
    }

    fn ended(&self) -> Error {
        Error::Ended(format!("producer {}", self.transactional_id))
    }
}

#[cfg(debug_assertions)]
fn has_records(transaction: &Transaction) -> bool {
    let batches = &transaction.batches;
    batches.iter().any(|batch| !batch.records.is_empty())
}

fn is_sequence_gap(error: &Error) -> bool {
    matches!(
        error,
        Error::Operation { source, .. }
            if source.code == RDKafkaErrorCode::OutOfOrderSequenceNumber
    )
}
