//! One input of a sink: its partitions are read in turn and written through one session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::select_all;
use hutong_connectors_postgres::sink::{self, Changes, Sink, StartOffset, Target, Writer};
use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use hutong_transport::admin::Isolation;
use hutong_transport::reader::{Message, PartitionReader, Start};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Input;
use super::batch::{self, Reading};
use super::board::Board;
use super::decoding::Decoders;
use super::stamp::Stamp;
use crate::task::{TaskContext, TaskError};

/// A first look at a partition is not counted against the budget: one of this size per partition.
const LOOK_BYTES: usize = 64 << 10;
/// How long one poll waits: the time after which a renewal or a rebuild's end is looked at.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a poll waits that knows that more follows.
const READ_ON_TIMEOUT: Duration = Duration::from_millis(50);
/// How often a position without records is renewed, so that its reader does not count as behind.
const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// What a batch takes in memory for each byte read: the records, the columns, the message sent.
const BYTES_PER_BYTE_READ: u64 = 3;
/// From so many records on a batch is decoded beside the runtime.
const INLINE_RECORDS_MAX: usize = 256;

pub(super) struct Lane {
    ctx: TaskContext,
    board: Arc<Board>,
    index: usize,
    writer: Writer,
    decoders: Decoders,
    parts: Vec<Part>,
    /// Which partition is looked at first, so that none starves.
    first: usize,
    batch_bytes_max: usize,
    batch_age_max: Duration,
}

/// A partition and what was read of it and not yet written.
struct Part {
    partition: i32,
    reader: PartitionReader,
    messages: Vec<Message>,
    stamps: Vec<Stamp>,
    bytes: usize,
    since: Instant,
    /// When the end was asked for last.
    end_asked: Instant,
    /// When the position was written last.
    written: Instant,
    permit: Option<OwnedSemaphorePermit>,
}

/// Takes the input's table over and opens its partitions where they go on.
#[expect(
    clippy::too_many_arguments,
    reason = "each is one fact of the attempt, and a struct for them would have this one user"
)]
pub(super) async fn open(
    ctx: &TaskContext,
    board: Arc<Board>,
    index: usize,
    input: &Input,
    table: TableId,
    sink: Sink,
    batch_bytes_max: usize,
    batch_age_max: Duration,
) -> Result<Lane, TaskError> {
    check_topic(ctx, input).await?;
    let mut decoders = Decoders::default();
    let target = target(ctx, &mut decoders, input, table).await?;
    let ends = ctx
        .admin
        .end_offsets(&input.topic, Isolation::ReadCommitted)
        .await?;
    let sink_input = sink::Input {
        topic: input.topic.clone(),
        topic_id: input.topic_id.clone(),
        end_offsets: ends.values().copied().collect(),
    };
    let now_ms = ctx.clock.now_ms();
    let (writer, starts) = sink.assign(target, &sink_input, now_ms).await?;
    let mut parts = Vec::new();
    for (partition, start) in (0..).zip(starts) {
        let start = match start {
            StartOffset::Earliest => Start::Earliest,
            StartOffset::At(offset) => Start::At(offset),
        };
        let reader = PartitionReader::open(
            &ctx.kafka,
            &input.topic,
            partition,
            start,
            Isolation::ReadCommitted,
        )
        .await?;
        let end = ends.get(&partition).copied().unwrap_or(0);
        board.at(index, partition, writer.next_offset(partition), end);
        parts.push(Part::new(partition, reader));
    }
    tracing::info!(
        task = ctx.task.task, topic = input.topic, table = %writer.target().table(),
        partitions = parts.len(), "a sink delivers into a table"
    );
    Ok(Lane {
        ctx: ctx.clone(),
        board,
        index,
        writer,
        decoders,
        parts,
        first: 0,
        batch_bytes_max,
        batch_age_max,
    })
}

/// The topic must be the one that the task means, not another of the same name.
async fn check_topic(ctx: &TaskContext, input: &Input) -> Result<(), TaskError> {
    let found = ctx.admin.topic(&input.topic).await?.ok_or_else(|| {
        // A new version of the task will say what takes its place.
        let message = format!("topic {} does not exist", input.topic);
        TaskError::new(Class::Transient, message)
    })?;
    if found.id.0 == input.topic_id {
        return Ok(());
    }
    let message = format!(
        "topic {} was created anew: its id is {}, not {}",
        input.topic, found.id, input.topic_id
    );
    Err(TaskError::new(Class::Definite, message)
        .with_hint("write the connector's configuration again, so that the new topic is taken"))
}

/// Returns the table as the newest schemas of the input have it.
async fn target(
    ctx: &TaskContext,
    decoders: &mut Decoders,
    input: &Input,
    table: TableId,
) -> Result<Target, TaskError> {
    let key = ctx.schemas.latest(&format!("{}-key", input.topic)).await?;
    let value = ctx
        .schemas
        .latest(&format!("{}-value", input.topic))
        .await?;
    let key = decoders.key(&ctx.schemas, key).await?;
    let value = decoders.value(&ctx.schemas, value).await?;
    Ok(Target::new(table, key.fields(), value.fields())?)
}

impl Lane {
    /// Delivers until it is told to quit. What was read and not written is read again.
    pub(super) async fn run(mut self, mut quit: watch::Receiver<bool>) -> Result<(), TaskError> {
        self.show_rebuild();
        while !*quit.borrow_and_update() {
            let polled = tokio::select! {
                polled = self.look() => polled?,
                _ = quit.changed() => continue,
            };
            let (index, messages) = polled;
            self.take(index, messages).await?;
            self.write_on(index, &quit).await?;
        }
        Ok(())
    }

    /// Waits until some partition has records, or for a while.
    async fn look(&mut self) -> Result<(usize, Vec<Message>), TaskError> {
        let count = self.parts.len();
        self.first = (self.first + 1) % count.max(1);
        let (after, before) = self.parts.split_at_mut(self.first);
        let mut order: Vec<usize> = (self.first..count).collect();
        order.extend(0..self.first);
        let polls = before
            .iter_mut()
            .chain(after)
            .map(|part| Box::pin(part.reader.poll(LOOK_BYTES, POLL_TIMEOUT)));
        let (polled, place, rest) = select_all(polls).await;
        drop(rest);
        Ok((order[place], polled?))
    }

    /// Adds records to what waits, with everything compiled that they need.
    async fn take(&mut self, index: usize, messages: Vec<Message>) -> Result<(), TaskError> {
        let part = &mut self.parts[index];
        if part.messages.is_empty() {
            part.since = Instant::now();
        }
        for message in messages {
            let schemas = &self.ctx.schemas;
            if let Some(value) = self.decoders.prepare(schemas, &message).await? {
                self.writer.extend(value.fields()).await?;
            }
            let before = part.stamps.last().copied().unwrap_or_default();
            part.stamps.push(self.decoders.stamp(&message, before)?);
            part.bytes += bytes_of(&message);
            part.messages.push(message);
        }
        Ok(())
    }

    /// Writes what waits, reading on until a batch has its end.
    async fn write_on(
        &mut self,
        index: usize,
        quit: &watch::Receiver<bool>,
    ) -> Result<(), TaskError> {
        loop {
            let part = &self.parts[index];
            let reading = part.reading(self.batch_bytes_max);
            let is_overdue = part.since.elapsed() >= self.batch_age_max;
            let end = match reading {
                Reading::GoesOn if !is_overdue => 0,
                reading => batch::cut(&part.stamps, reading),
            };
            if end > 0 {
                self.write(index, end).await?;
                // Another partition may wait.
                return Ok(());
            }
            if reading == Reading::AtEnd {
                return self.renew(index).await;
            }
            if *quit.borrow() {
                return Ok(());
            }
            self.read_on(index).await?;
        }
    }

    async fn read_on(&mut self, index: usize) -> Result<(), TaskError> {
        let bytes_max = self.batch_bytes_max;
        let part = &mut self.parts[index];
        if part.permit.is_none() {
            let bytes = u64::try_from(bytes_max).unwrap_or(u64::MAX);
            let bytes = bytes.saturating_mul(BYTES_PER_BYTE_READ);
            part.permit = Some(self.ctx.budget.acquire(bytes).await);
        }
        let room = bytes_max.saturating_sub(part.bytes).max(LOOK_BYTES);
        let messages = part.reader.poll(room, READ_ON_TIMEOUT).await?;
        self.take(index, messages).await
    }

    /// Writes the first records that wait.
    async fn write(&mut self, index: usize, end: usize) -> Result<(), TaskError> {
        let part = &mut self.parts[index];
        let rest = part.messages.split_off(end);
        let batch = std::mem::replace(&mut part.messages, rest);
        let rest = part.stamps.split_off(end);
        let stamps = std::mem::replace(&mut part.stamps, rest);
        part.bytes = part.messages.iter().map(bytes_of).sum();
        part.since = Instant::now();
        let now_ms = self.ctx.clock.now_ms();
        let is_at_end = part.messages.is_empty() && part.reader.at_end();
        let (next_offset, read_up_to_ms) = match part.messages.first() {
            Some(next) => (next.offset, last_timestamp(&batch, now_ms)),
            None if is_at_end => (part.reader.position(), now_ms),
            None => (part.reader.position(), last_timestamp(&batch, now_ms)),
        };
        let partition = part.partition;
        let changes = self.changes(batch).await?;
        let begun = Instant::now();
        self.apply(index, &changes, next_offset, read_up_to_ms)
            .await?;
        let commit = self.ctx.metrics.commit_seconds.with_label_values(&["sink"]);
        commit.observe(begun.elapsed().as_secs_f64());
        let latencies = latencies(&stamps, self.ctx.clock.now_ms());
        self.board.applied(self.index, changes.len(), &latencies);
        self.show_lag(index, partition, next_offset).await
    }

    async fn changes(&self, batch: Vec<Message>) -> Result<Changes, TaskError> {
        let target = self.writer.target();
        if batch.len() <= INLINE_RECORDS_MAX {
            return self.decoders.changes(target, &batch);
        }
        let decoders = self.decoders.clone();
        let target = target.clone();
        let decoding = tokio::task::spawn_blocking(move || decoders.changes(&target, &batch));
        decoding.await.map_err(|error| {
            TaskError::new(Class::Fatal, format!("decoding a batch failed: {error}"))
        })?
    }

    async fn apply(
        &mut self,
        index: usize,
        changes: &Changes,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<(), TaskError> {
        let part = &mut self.parts[index];
        let applied = self
            .writer
            .apply(part.partition, changes, next_offset, read_up_to_ms);
        applied.await?;
        part.written = Instant::now();
        part.permit = None;
        self.show_rebuild();
        Ok(())
    }

    /// At the end of a partition without records: a rebuild may wait for it, and a position that has
    /// stood for long says that it is up to date.
    async fn renew(&mut self, index: usize) -> Result<(), TaskError> {
        let part = &self.parts[index];
        let next_offset = part.reader.position();
        let is_due = part.written.elapsed() >= RENEW_AFTER;
        let partition = part.partition;
        self.board
            .at(self.index, partition, next_offset, next_offset);
        if !is_due && !self.writer.awaits_end(partition) {
            return Ok(());
        }
        let nothing = Changes::new(self.writer.target());
        let now_ms = self.ctx.clock.now_ms();
        self.apply(index, &nothing, next_offset, now_ms).await
    }

    fn show_rebuild(&self) {
        let is_rebuilding = self
            .parts
            .iter()
            .any(|part| self.writer.awaits_end(part.partition));
        self.board.rebuilding(self.index, is_rebuilding);
    }

    async fn show_lag(
        &mut self,
        index: usize,
        partition: i32,
        next_offset: i64,
    ) -> Result<(), TaskError> {
        let part = &mut self.parts[index];
        if part.reader.at_end() && part.messages.is_empty() {
            self.board
                .at(self.index, partition, next_offset, next_offset);
        } else if part.end_asked.elapsed() >= super::TICK {
            part.end_asked = Instant::now();
            let end = part.reader.end_offset().await?;
            self.board.at(self.index, partition, next_offset, end);
        }
        Ok(())
    }
}

impl Part {
    fn new(partition: i32, reader: PartitionReader) -> Self {
        let now = Instant::now();
        Self {
            partition,
            reader,
            messages: Vec::new(),
            stamps: Vec::new(),
            bytes: 0,
            since: now,
            end_asked: now,
            written: now,
            permit: None,
        }
    }

    fn reading(&self, bytes_max: usize) -> Reading {
        if self.reader.at_end() {
            Reading::AtEnd
        } else if self.bytes >= bytes_max {
            Reading::Full
        } else {
            Reading::GoesOn
        }
    }
}

fn bytes_of(message: &Message) -> usize {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    length(&message.key) + length(&message.value) + size_of::<Message>()
}

/// The record's clock is its producer's; a time that has not come yet would hide how old we are.
fn last_timestamp(batch: &[Message], now_ms: i64) -> i64 {
    let last = batch.last().map(|message| message.timestamp_ms);
    last.unwrap_or(now_ms).min(now_ms)
}

/// Returns the time from each source transaction's commit to now.
fn latencies(stamps: &[Stamp], now_ms: i64) -> Vec<u64> {
    let mut latencies = Vec::new();
    let mut last = None;
    for stamp in stamps {
        if stamp.tx.is_none() || stamp.tx == last {
            continue;
        }
        last = stamp.tx;
        let latency = stamp.ts_us.map(|ts_us| now_ms - ts_us / 1000);
        latencies.extend(latency.and_then(|ms| u64::try_from(ms.max(0)).ok()));
    }
    latencies
}
