//! One input of a sink: its partitions are read in turn and written through one session.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::select_all;
use hutong_connectors_postgres::sink::{BEHIND_MAX_MS, Changes, Writer};
use hutong_schemas::class::Class;
use hutong_transport::Error as KafkaError;
use hutong_transport::reader::{Message, PartitionReader};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Shared;
use super::batch::{self, Reading};
use super::board::InputState;
use super::dead_letters::Unwritten;
use super::decoding::Decoders;
use super::opening::{Undelivered, of_topic};
use super::stamp::Stamp;
use super::types::Types;
use crate::task::TaskError;

/// A first look at a partition is not counted against the budget: one of this size per partition.
const LOOK_BYTES: usize = 64 << 10;
/// How long one poll waits: the time after which a renewal or a rebuild's end is looked at.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a poll waits that knows that more follows.
const READ_ON_TIMEOUT: Duration = Duration::from_millis(50);
/// How often a position without records is renewed, so that its reader does not count as behind.
const RENEW_AFTER: Duration = Duration::from_secs(3600);
/// What a batch takes in memory for each byte read: the records, the columns, the message sent.
const COPIES: u64 = 3;
/// From so many records on a batch is decoded beside the runtime.
const INLINE_RECORDS_MAX: usize = 256;

/// What a lane is told while it delivers.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub(super) is_ending: bool,
    /// Where the fill of the generation ends, as far as known.
    pub(super) fill_ends: BTreeMap<i32, i64>,
}

/// Why a lane ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was told to.
    Asked,
    /// It is further behind than a reader may be that does not want to miss a tombstone.
    Behind,
    /// The topic's first record lies behind the next one to be read.
    Truncated,
    /// The table's columns are of other types now.
    Retyped,
}

/// The longest time for which copying is not tried again, in batches.
const UPSERTS_MAX: u32 = 1024;

pub(super) struct Lane<'a> {
    pub(super) shared: &'a Shared,
    pub(super) index: usize,
    pub(super) topic: String,
    pub(super) writer: Writer,
    pub(super) decoders: Decoders,
    types: Types,
    pub(super) parts: Vec<Part>,
    /// Which partition is looked at first, so that none starves.
    first: usize,
    /// Batches that go as upserts before copying is tried again, and how many will the next time.
    upserts_left: u32,
    upserts_next: u32,
}

/// A partition and what was read of it and not yet written.
pub(super) struct Part {
    pub(super) partition: i32,
    reader: PartitionReader,
    messages: Vec<Message>,
    stamps: Vec<Stamp>,
    bytes: usize,
    since: Instant,
    /// When the end was asked for last.
    end_asked: Instant,
    /// When the position was written last.
    written: Instant,
    /// The time up to which its records were written.
    pub(super) read_up_to_ms: i64,
    /// Why records cannot even be read, by their offsets.
    pub(super) poison: HashMap<i64, TaskError>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        index: usize,
        topic: String,
        writer: Writer,
        decoders: Decoders,
        types: Types,
        parts: Vec<Part>,
    ) -> Self {
        Self {
            shared,
            index,
            topic,
            writer,
            decoders,
            types,
            parts,
            first: 0,
            upserts_left: 0,
            upserts_next: 1,
        }
    }

    /// Delivers until it is told to end. What was read and not written is read again.
    pub(super) async fn run(
        mut self,
        mut orders: watch::Receiver<Orders>,
    ) -> Result<Ended, Undelivered> {
        self.show_rebuild();
        self.replay().await?;
        let board = &self.shared.board;
        board.letters(self.index, self.writer.letters().len());
        board.is(self.index, InputState::Live);
        loop {
            {
                let orders = orders.borrow_and_update();
                if orders.is_ending {
                    return Ok(Ended::Asked);
                }
                self.writer.learn_fill_ends(&orders.fill_ends);
            }
            if self.is_behind() {
                return Ok(Ended::Behind);
            }
            let polled = tokio::select! {
                polled = self.look() => polled,
                _ = orders.changed() => continue,
            };
            let (index, messages) = match polled {
                Err(KafkaError::TopicTruncated { .. }) => return Ok(Ended::Truncated),
                polled => polled.map_err(of_topic)?,
            };
            self.take(index, messages).await?;
            self.write_on(index, &mut orders).await?;
        }
    }

    /// Returns whether some partition has fallen too far behind, other than by beginning with old
    /// records.
    fn is_behind(&self) -> bool {
        let now_ms = self.shared.ctx.clock.now_ms();
        let began_ms = self.writer.reading_since_ms();
        self.parts
            .iter()
            .any(|part| now_ms.saturating_sub(part.read_up_to_ms.max(began_ms)) > BEHIND_MAX_MS)
    }

    /// Waits until some partition has records, or for a while.
    async fn look(&mut self) -> Result<(usize, Vec<Message>), KafkaError> {
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
            let before = part.stamps.last().copied().unwrap_or_default();
            let schemas = &self.shared.ctx.schemas;
            let prepared = match self.decoders.prepare(schemas, &message).await {
                Ok(prepared) => self
                    .decoders
                    .stamp(&message, before)
                    .map(|stamp| (prepared, stamp)),
                Err(error) => Err(error),
            };
            let stamp = match prepared {
                Ok((prepared, stamp)) => {
                    if let Some(value) = prepared {
                        let row = self.types.exact(value.fields());
                        self.writer.extend(&row).await?;
                    }
                    stamp
                }
                Err(error) if self.shared.config.dead_letters && error.class == Class::Definite => {
                    part.poison.insert(message.offset, error);
                    before
                }
                Err(error) => return Err(error),
            };
            part.stamps.push(stamp);
            part.bytes += bytes_of(&message);
            part.messages.push(message);
        }
        Ok(())
    }

    /// Writes what waits, reading on until a batch has its end.
    async fn write_on(
        &mut self,
        index: usize,
        orders: &mut watch::Receiver<Orders>,
    ) -> Result<(), Undelivered> {
        loop {
            let part = &self.parts[index];
            let reading = part.reading(self.shared.config.batch_bytes_max);
            let is_overdue = part.since.elapsed() >= self.shared.config.batch_time_max;
            let end = match reading {
                Reading::GoesOn if !is_overdue => 0,
                reading => batch::cut(&part.stamps, reading),
            };
            if end > 0 {
                tokio::select! {
                    () = self.make_room(index, end) => {}
                    // What was read stays; the next turn goes on with it, or does not.
                    _ = orders.wait_for(|orders| orders.is_ending) => return Ok(()),
                }
                self.write(index, end).await?;
                // Another partition may wait.
                return Ok(());
            }
            if reading == Reading::AtEnd || part.messages.is_empty() {
                return Ok(self.renew(index).await?);
            }
            tokio::select! {
                read = self.read_on(index) => read?,
                // What was read stays; the next turn goes on with it, or does not.
                _ = orders.wait_for(|orders| orders.is_ending) => return Ok(()),
            }
        }
    }

    /// # Cancel safety
    ///
    /// Nothing that was read is lost if the future is dropped.
    async fn read_on(&mut self, index: usize) -> Result<(), Undelivered> {
        let bytes_max = self.shared.config.batch_bytes_max;
        let part = &mut self.parts[index];
        if part.permit.is_none() {
            let budget = &self.shared.ctx.budget;
            part.permit = Some(budget.batch(bytes_max, COPIES, 0).await);
        }
        let room = bytes_max.saturating_sub(part.bytes).max(LOOK_BYTES);
        let messages = part.reader.poll(room, READ_ON_TIMEOUT).await;
        let messages = messages.map_err(of_topic)?;
        Ok(self.take(index, messages).await?)
    }

    /// Waits for the memory that a large one among the first records takes.
    async fn make_room(&mut self, index: usize, end: usize) {
        let bytes_max = self.shared.config.batch_bytes_max;
        let part = &mut self.parts[index];
        let largest = part.messages.iter().take(end).map(bytes_of).max();
        let largest = largest.unwrap_or(0);
        if largest > bytes_max {
            // What is held is given back before more is waited for.
            part.permit = None;
            let budget = &self.shared.ctx.budget;
            part.permit = Some(budget.batch(bytes_max, COPIES, largest).await);
        }
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
        let now_ms = self.shared.ctx.clock.now_ms();
        let is_at_end = part.messages.is_empty() && part.reader.at_end();
        let (next_offset, read_up_to_ms) = match part.messages.first() {
            Some(next) => (next.offset, last_timestamp(&batch, now_ms)),
            None if is_at_end => (part.reader.position(), now_ms),
            None => (part.reader.position(), last_timestamp(&batch, now_ms)),
        };
        let partition = part.partition;
        part.read_up_to_ms = read_up_to_ms;
        let begun = Instant::now();
        let rows = self
            .deliver(index, batch, next_offset, read_up_to_ms)
            .await?;
        let commit = self
            .shared
            .ctx
            .metrics
            .commit_seconds
            .with_label_values(&["sink"]);
        commit.observe(begun.elapsed().as_secs_f64());
        let latencies = latencies(&stamps, self.shared.ctx.clock.now_ms());
        self.shared.board.applied(self.index, rows, &latencies);
        self.show_lag(index, partition, next_offset).await
    }

    /// Writes a batch, and returns the number of its rows.
    async fn deliver(
        &mut self,
        index: usize,
        batch: Vec<Message>,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<usize, TaskError> {
        let batch = Arc::new(batch);
        let is_tolerant = self.shared.config.dead_letters;
        if self.parts[index].poison.is_empty() {
            let whole = self.deliver_whole(index, &batch, next_offset, read_up_to_ms);
            match whole.await {
                Ok(rows) => return Ok(rows),
                Err(Unwritten::Rows(_)) if is_tolerant => self.writer.rollback().await?,
                Err(error) => return Err(error.into_error()),
            }
        }
        self.deliver_the_rest(index, &batch, next_offset, read_up_to_ms, None)
            .await
    }

    /// While a table is being filled its rows are copied; a batch with a row that is there already
    /// goes as an upsert, and so do those after it, for twice as long each time.
    async fn deliver_whole(
        &mut self,
        index: usize,
        batch: &Arc<Vec<Message>>,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<usize, Unwritten> {
        let partition = self.parts[index].partition;
        self.upserts_left = self.upserts_left.saturating_sub(1);
        let fills = batch.len() > INLINE_RECORDS_MAX && self.writer.letters().is_empty();
        if fills && self.upserts_left == 0 && self.writer.may_fill() {
            let changes = Changes::filling(self.writer.target());
            let changes = self.changes(batch, changes).await;
            let changes = changes.map_err(Unwritten::of_decoding)?;
            let filled = self
                .writer
                .fill(partition, &changes, next_offset, read_up_to_ms);
            if filled.await? {
                self.written(index);
                return Ok(changes.len());
            }
            self.upserts_next = (self.upserts_next * 2).clamp(2, UPSERTS_MAX);
            self.upserts_left = self.upserts_next;
        }
        let changes = Changes::new(self.writer.target());
        let changes = self.changes(batch, changes).await;
        let mut changes = changes.map_err(Unwritten::of_decoding)?;
        self.close_letters(partition, batch, &mut changes);
        self.apply(index, &changes, next_offset, read_up_to_ms)
            .await?;
        Ok(changes.len())
    }

    pub(super) async fn changes(
        &self,
        batch: &Arc<Vec<Message>>,
        into: Changes,
    ) -> Result<Changes, TaskError> {
        let target = self.writer.target();
        if batch.len() <= INLINE_RECORDS_MAX {
            return self.decoders.changes(target, batch, into);
        }
        let decoders = self.decoders.clone();
        let target = target.clone();
        let batch = Arc::clone(batch);
        let decoding = tokio::task::spawn_blocking(move || decoders.changes(&target, &batch, into));
        decoding.await.map_err(|error| {
            TaskError::new(Class::Fatal, format!("decoding a batch failed: {error}"))
        })?
    }

    pub(super) async fn apply(
        &mut self,
        index: usize,
        changes: &Changes,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<(), Unwritten> {
        let part = &mut self.parts[index];
        let applied = self
            .writer
            .apply(part.partition, changes, next_offset, read_up_to_ms);
        applied.await?;
        self.written(index);
        Ok(())
    }

    fn written(&mut self, index: usize) {
        let part = &mut self.parts[index];
        part.written = Instant::now();
        part.permit = None;
        self.show_rebuild();
    }

    /// At the end of a partition without records: a rebuild may wait for it, and a position that has
    /// stood for long says that it is up to date.
    async fn renew(&mut self, index: usize) -> Result<(), TaskError> {
        let part = &mut self.parts[index];
        // Whoever has nothing to write needs no room for it.
        part.permit = None;
        let next_offset = part.reader.position();
        let is_due = part.written.elapsed() >= RENEW_AFTER;
        let partition = part.partition;
        self.shared
            .board
            .at(self.index, partition, next_offset, next_offset);
        if !is_due && !self.writer.reaches_end(partition, next_offset) {
            return Ok(());
        }
        let nothing = Changes::new(self.writer.target());
        let part = &mut self.parts[index];
        if part.reader.at_end() {
            part.read_up_to_ms = self.shared.ctx.clock.now_ms();
        }
        let read_up_to_ms = part.read_up_to_ms;
        let applied = self.apply(index, &nothing, next_offset, read_up_to_ms);
        applied.await.map_err(Unwritten::into_error)
    }

    fn show_rebuild(&self) {
        let board = &self.shared.board;
        let swept = self.writer.swept_generation();
        board.rebuilding(self.index, self.writer.is_rebuilding(), swept);
    }

    async fn show_lag(
        &mut self,
        index: usize,
        partition: i32,
        next_offset: i64,
    ) -> Result<(), TaskError> {
        let part = &mut self.parts[index];
        if part.reader.at_end() && part.messages.is_empty() {
            self.shared
                .board
                .at(self.index, partition, next_offset, next_offset);
        } else if part.end_asked.elapsed() >= super::TICK {
            part.end_asked = Instant::now();
            let end = part.reader.end_offset().await?;
            self.shared
                .board
                .at(self.index, partition, next_offset, end);
        }
        Ok(())
    }
}

impl Part {
    pub(super) fn new(partition: i32, reader: PartitionReader, now_ms: i64) -> Self {
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
            read_up_to_ms: now_ms,
            poison: HashMap::new(),
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
    message.bytes() + size_of::<Message>()
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
