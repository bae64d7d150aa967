//! From a partition of a table's topic into views, exactly once.
//!
//! ```text
//!   input partition ─▶ queue ─▶ Processor ─▶ one Kafka transaction ─▶ state store
//!        ▲                      (views, state)   output + positions      rows, members, position
//!        └───────────── where to go on ◀──────── committed position
//! ```
//!
//! # Why it is correct
//!
//! 1. Starting the producer fences every predecessor of this partition and ends its open
//!    transaction. Only then the position is read, and the views' members from their topics: nobody
//!    else can change either from then on.
//! 2. A batch's output and the positions that account for it are one Kafka transaction. A crash
//!    before the commit leaves nothing of it, a crash behind it leaves all of it.
//! 3. The state store gets the batch only after the commit, in one write with the commit's number.
//!    So it is never ahead; a start that finds it behind rebuilds it from Kafka
//!    (`hutong_stream_processors::processor` has the argument).
//! 4. A commit whose outcome is not known ends the attempt. The next one fences and reads the answer.
//!
//! # Batches
//!
//! A batch ends where the source's transaction changes, once it is full by bytes or by age; or at
//! the end of the partition, where everything read is whole, because the source's commits are. At
//! low load that is after every transaction of the source, so latency is one commit. Only a source
//! transaction larger than twice the limit goes in parts.
//!
//! # Refused output
//!
//! Where the broker refuses what one view writes (its topic is gone, a right is missing, a record is
//! too large), the transaction is aborted, the view is suspended, and the batch is done again without
//! it; the suspension commits with that batch. It is tried again after a while, and at every start.
//!
//! # Changed policies
//!
//! A newer version of the task is taken up between two batches, so a batch is of one version. What a
//! view's new policy moves goes in parts beside the input: after each batch of input a part follows
//! that takes some milliseconds, however slow the machine (see [`batch`]). A part is a batch of
//! its own, so input waits for one part at most, and what is committed with a change is not more for it. Where a generation's fill has ended is asked of the broker
//! after its commit, because any later end is as good, and is committed itself.
//!
//! # Withdrawn bytes
//!
//! A tombstone removes what it withdraws once its segment is cleaned, and only an append ends a
//! segment. So a partition to which nothing is appended in the time of a segment has its last record
//! written again, whatever it is.
//!
//! # Batch n+1 while n commits
//!
//! While there is input, the next batch is applied while the one before is committed and enters the
//! store (see [`commit`], and `seal` of the processor). Its own commit waits for that. Everything else
//! (a new version, time, difference runs, what is shown) is done between batches, when nothing is on
//! its way; for that a busy processor pauses every [`TICK`].

mod batch;
mod board;
mod commit;
mod rebuild;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_policies::ViewTask;
use hutong_schemas::class::Class;
use hutong_stream_processors::position::{InputPosition, ViewPosition};
use hutong_stream_processors::{DiskStore, Processor};
use hutong_transport::admin::{Isolation, TopicInfo};
use hutong_transport::producer::{Transaction, TransactionalProducer};
use hutong_transport::reader::{Message, PartitionReader, Start};
use hutong_transport::record::TaskRecord;
use serde::Deserialize;
use serde_json::Value;

use self::batch::{Outcome, Work};
use self::board::Board;
use self::commit::InFlight;
use crate::owned::Owned;
use crate::preview::Desk;
use crate::task::{Stopped, TaskContext, TaskError};

/// A processor's task as the control plane writes it.
#[derive(Clone, Debug, Deserialize)]
struct ProcessorTask {
    topic: String,
    topic_id: String,
    partition: i32,
    views: Vec<ViewTask>,
}

/// How long input is waited for before the clock and the task are looked at again.
const TICK: Duration = Duration::from_millis(500);
/// How long what is fetched ahead of time is waited for. More is known to be there, unless it is of a
/// transaction that is open.
const AHEAD: Duration = Duration::from_millis(20);
/// How often an idle partition's position is renewed, so that it tells how far was read.
const RENEW_MS: i64 = 3_600_000;
/// Beyond this absence deletions may have gone with their tombstones: half of Kafka's default for
/// `delete.retention.ms`, 24 hours.
const STALE_AFTER_MS: i64 = 12 * 3_600_000;
/// How long a view whose output was refused waits until it tries again.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// What a batch takes in memory for each byte of its limit: what was read, and what comes out.
const COPIES: u64 = 2;

/// Runs one attempt.
///
/// # Errors
///
/// By class, of Kafka, of the state store and of what the input holds.
///
/// # Cancel safety
///
/// Dropping it is as safe as a crash.
pub(crate) async fn run(ctx: TaskContext) -> Result<Stopped, TaskError> {
    let task = parse(&ctx.task)?;
    check_topic(&ctx, &task.topic, &task.topic_id).await?;
    let (producer, positions) = ctx.start_producer(&owner(&task)).await?;
    let (input, views) = split_positions(positions)?;
    let is_new = input.is_none();
    let processor = open_processor(&ctx, &task, input).await?;
    let mut attempt = Attempt {
        work: Some(Work::new(processor, ctx.batch)),
        board: Board::new(&ctx, &task),
        version: ctx.task.version,
        is_taken_up: false,
        ran_last: false,
        refused_at: None,
        desk: ctx.previews.open(&ctx.task.task),
        counting: Vec::new(),
        asked_end_at: None,
        in_flight: None,
        paused_at: Instant::now(),
        ctx,
        task,
        producer: Arc::new(producer),
    };
    attempt.adopt(views).await?;
    let next_offset = attempt.position().next_offset;
    let start = if is_new || attempt.work().processor.is_new() {
        Start::Earliest
    } else {
        Start::At(next_offset)
    };
    let reader = attempt.open_reader(start).await?;
    attempt.ctx.status.running();
    let stopped = attempt.follow(reader).await?;
    if let Some(producer) = Arc::into_inner(attempt.producer) {
        producer.close().await;
    }
    Ok(stopped)
}

/// Forgets where the partition and its views stand. What the views hold is the control plane's to
/// delete, with their topics.
///
/// # Errors
///
/// By class, of Kafka.
pub(crate) async fn delete(ctx: TaskContext) -> Result<(), TaskError> {
    let task = parse(&ctx.task)?;
    let owner = owner(&task);
    let (producer, positions) = ctx.start_producer(&owner).await?;
    let positions = positions
        .into_keys()
        .map(|sub| ctx.position_write(&owner, sub, None))
        .collect();
    let transaction = Transaction {
        positions,
        ..Transaction::default()
    };
    producer.commit(transaction).await?;
    producer.close().await;
    Ok(())
}

fn parse(task: &TaskRecord) -> Result<ProcessorTask, TaskError> {
    ProcessorTask::deserialize(&task.config).map_err(|error| {
        let message = format!("the task of the processor cannot be read: {error}");
        TaskError::new(Class::Definite, message)
    })
}

fn owner(task: &ProcessorTask) -> String {
    format!("processor/{}/{}", task.topic, task.partition)
}

/// How often a topic must be unknown to be missing, and how long apart: a broker that has just
/// started may not have heard of it yet.
const MISSING_ASKED: usize = 3;
const MISSING_APART: Duration = Duration::from_millis(500);

async fn find_topic(ctx: &TaskContext, topic: &str) -> Result<Option<TopicInfo>, TaskError> {
    for _ in 1..MISSING_ASKED {
        if let Some(found) = ctx.admin.topic(topic).await? {
            return Ok(Some(found));
        }
        tokio::time::sleep(MISSING_APART).await;
    }
    Ok(ctx.admin.topic(topic).await?)
}

/// Refuses a topic that is not the one that the task was made for.
async fn check_topic(ctx: &TaskContext, topic: &str, topic_id: &str) -> Result<(), TaskError> {
    let found = find_topic(ctx, topic).await?;
    let found = found.ok_or_else(|| hutong_transport::Error::TopicMissing {
        topic: topic.to_owned(),
    })?;
    if found.id.0 == topic_id {
        return Ok(());
    }
    let message = format!(
        "topic {topic} was created anew: its id is {}, and the task was made for {topic_id}",
        found.id
    );
    Err(TaskError::new(Class::Definite, message).with_hint(
        "its views were made for the former topic: revoke them and make them anew, once a new \
             snapshot has filled this one",
    ))
}

fn split_positions(
    positions: BTreeMap<String, Value>,
) -> Result<(Option<InputPosition>, BTreeMap<String, ViewPosition>), TaskError> {
    let mut input = None;
    let mut views = BTreeMap::new();
    for (sub, value) in positions {
        let bytes = value.to_string();
        if sub.is_empty() {
            let read = hutong_stream_processors::position::read_versioned(
                bytes.as_bytes(),
                "a processor's position",
            );
            input = Some(read?);
        } else {
            let read = hutong_stream_processors::position::read_versioned(
                bytes.as_bytes(),
                "a view's position",
            );
            views.insert(sub, read?);
        }
    }
    Ok((input, views))
}

async fn open_processor(
    ctx: &TaskContext,
    task: &ProcessorTask,
    position: Option<InputPosition>,
) -> Result<Processor<DiskStore>, TaskError> {
    let folder = ctx.data_dir.join("state");
    let (partition, topic_id) = (task.partition, task.topic_id.clone());
    let secret = ctx
        .master_secret
        .as_ref()
        .map(|secret| secret.reveal().as_bytes().to_vec());
    let now_ms = ctx.clock.now_ms();
    let segment_ms = i64::try_from(ctx.view_segment.as_millis()).unwrap_or(i64::MAX);
    let opened = tokio::task::spawn_blocking(move || {
        let store = DiskStore::open(&folder)?;
        let mut processor = Processor::new(
            store,
            partition,
            &topic_id,
            secret,
            position,
            now_ms,
            STALE_AFTER_MS,
        )?;
        processor.set_segment_ms(segment_ms);
        Ok::<_, hutong_stream_processors::Error>(processor)
    });
    Ok(opened.await.map_err(panicked)??)
}

fn panicked(error: tokio::task::JoinError) -> TaskError {
    TaskError::new(Class::Fatal, format!("processing panicked: {error}"))
}

/// One attempt, from its position on.
struct Attempt {
    ctx: TaskContext,
    task: ProcessorTask,
    /// The version of the task that is being taken up, or was.
    version: u64,
    is_taken_up: bool,
    producer: Arc<TransactionalProducer>,
    /// The batch that is being committed, while there is one.
    in_flight: Option<InFlight>,
    /// When nothing was on its way last, and all was done that is done between batches.
    paused_at: Instant,
    /// Present but while a blocking call has it.
    work: Option<Work>,
    board: Board,
    /// The last batch was a part of the difference runs, so the next one is input's.
    ran_last: bool,
    /// When output was last refused, or could not be read.
    refused_at: Option<Instant>,
    /// Where requests to count rows arrive, and those that are being answered.
    desk: Desk,
    counting: Vec<Owned<()>>,
    /// When the end of a view's topic was last asked for in vain.
    asked_end_at: Option<Instant>,
}

impl Attempt {
    fn work(&self) -> &Work {
        self.work.as_ref().expect("no blocking call is under way")
    }

    fn position(&self) -> &InputPosition {
        self.work().processor.position()
    }

    /// Does something with the state off the runtime: it reads and writes a disk.
    ///
    /// # Cancel safety
    ///
    /// What was begun ends, and its result is lost: the attempt must end too.
    async fn blocking<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut Work) -> T + Send + 'static,
    ) -> Result<T, TaskError> {
        let mut work = self.work.take().expect("no blocking call is under way");
        let done = tokio::task::spawn_blocking(move || {
            let result = act(&mut work);
            (work, result)
        });
        let (work, result) = done.await.map_err(panicked)?;
        self.work = Some(work);
        Ok(result)
    }

    async fn open_reader(&self, start: Start) -> Result<PartitionReader, TaskError> {
        let (topic, partition) = (&self.task.topic, self.task.partition);
        let isolation = Isolation::ReadCommitted;
        Ok(PartitionReader::open(&self.ctx.kafka, topic, partition, start, isolation).await?)
    }

    /// Gives the processor a schema that it asked for.
    async fn fetch_schema(
        &mut self,
        id: hutong_schemas::position::SchemaId,
    ) -> Result<(), TaskError> {
        let schema = self.ctx.schemas.schema(id).await?;
        let work = self.work.as_mut().expect("no blocking call is under way");
        Ok(work.processor.add_schema(id, &schema)?)
    }

    /// Follows the input until it is asked to stop.
    async fn follow(&mut self, mut reader: PartitionReader) -> Result<Stopped, TaskError> {
        loop {
            if self.must_pause(&reader) {
                self.settle().await?;
                if *self.ctx.stop.borrow() {
                    return Ok(Stopped::Asked);
                }
                if let Some(stopped) = self.pause(&reader).await? {
                    return Ok(stopped);
                }
            }
            self.read(&mut reader).await?;
            if self.fill_batch(&mut reader).await? {
                self.commit(&reader).await?;
            }
        }
    }

    /// Returns whether what is done between batches comes first.
    fn must_pause(&self, reader: &PartitionReader) -> bool {
        let processor = &self.work().processor;
        self.in_flight.as_ref().is_none_or(|batch| batch.is_alone)
            || self.has_news()
            || self.paused_at.elapsed() >= TICK
            || processor.has_difference()
            || (reader.at_end() && self.work().queue.is_empty())
    }

    /// Does what is done between batches. Nothing is on its way.
    async fn pause(&mut self, reader: &PartitionReader) -> Result<Option<Stopped>, TaskError> {
        self.paused_at = Instant::now();
        self.take_note_of_version();
        self.board.show(&self.ctx, self.work.as_ref(), reader).await;
        if let Some(stopped) = self.take_up_newest().await? {
            return Ok(Some(stopped));
        }
        self.let_time_pass(reader).await?;
        self.keep_up().await?;
        Ok(None)
    }

    /// Returns whether a newer version of the task waits, or a stop.
    fn has_news(&self) -> bool {
        *self.ctx.stop.borrow() || self.ctx.newest.borrow().version > self.version
    }

    /// Takes a newer version of the task up in place, between two batches.
    async fn take_up_newest(&mut self) -> Result<Option<Stopped>, TaskError> {
        let newest = self.ctx.newest.borrow_and_update().clone();
        if newest.version <= self.version {
            return Ok(None);
        }
        let task = parse(&newest)?;
        let same_input = task.topic == self.task.topic
            && task.topic_id == self.task.topic_id
            && task.partition == self.task.partition;
        if !same_input {
            return Ok(Some(Stopped::ForNewVersion));
        }
        self.board.forget(&self.ctx, &task);
        self.task = task;
        self.version = newest.version;
        self.is_taken_up = false;
        self.adopt(BTreeMap::new()).await?;
        Ok(None)
    }

    /// Validity begins and ends; what was refused is tried again; an absence ends.
    async fn let_time_pass(&mut self, reader: &PartitionReader) -> Result<(), TaskError> {
        let clock = &self.ctx.clock;
        let (earliest_ms, latest_ms) = (clock.earliest_ms(), clock.latest_ms());
        let at_end = reader.at_end();
        let retry = self
            .refused_at
            .is_some_and(|at| at.elapsed() >= REFUSED_RETRY);
        if retry {
            self.refused_at = None;
            if self.work().processor.has_unreadable() {
                self.adopt(BTreeMap::new()).await?;
            }
        }
        self.blocking(move |work| {
            if !work.batch.is_empty() {
                return Ok(());
            }
            if retry {
                work.processor.resume_refused()?;
            }
            if at_end && work.queue.is_empty() {
                work.processor.at_end()?;
            }
            // Last, so that nothing resumes beyond its validity.
            work.processor.tick(earliest_ms, latest_ms)
        })
        .await??;
        Ok(())
    }

    /// Waits for input, unless there is something else to do.
    async fn read(&mut self, reader: &mut PartitionReader) -> Result<(), TaskError> {
        let work = self.work();
        if !work.queue.is_empty() {
            return Ok(());
        }
        let has_changes = self.in_flight.is_none() && work.processor.has_changes();
        let busy = work.processor.has_difference() || has_changes;
        let timeout = if busy { Duration::ZERO } else { TICK };
        let mut stop = self.ctx.stop.clone();
        let mut newest = self.ctx.newest.clone();
        let messages = tokio::select! {
            messages = reader.poll(self.ctx.batch.bytes_max, timeout) => messages?,
            _ = stop.wait_for(|stop| *stop) => Vec::new(),
            Ok(()) = newest.changed() => Vec::new(),
        };
        self.queue(reader, messages)
    }

    /// Queues what was read, and lets what follows be fetched meanwhile.
    fn queue(
        &mut self,
        reader: &mut PartitionReader,
        messages: Vec<Message>,
    ) -> Result<(), TaskError> {
        // Beside rows larger than a batch nothing is fetched ahead: memory is counted by the batch.
        let bytes: usize = messages.iter().map(Message::bytes).sum();
        if !reader.at_end() && bytes > 0 && bytes <= 2 * self.ctx.batch.bytes_max {
            reader.fetch_ahead(self.ctx.batch.bytes_max, AHEAD)?;
        }
        let work = self.work.as_mut().expect("no blocking call is under way");
        work.queue.extend(messages);
        Ok(())
    }

    /// Does the next part of the difference runs, or applies what was read, until the batch may be
    /// committed. Returns whether there is anything to commit.
    async fn fill_batch(&mut self, reader: &mut PartitionReader) -> Result<bool, TaskError> {
        let has_difference = self.work().processor.has_difference();
        let is_for_input = !has_difference || self.ran_last;
        if is_for_input && !self.apply_input(reader).await? {
            return Ok(false);
        }
        self.ran_last = !is_for_input || self.work().batch.is_empty();
        if self.ran_last && has_difference && self.has_room().await {
            while let Some(id) = self.blocking(Work::advance_difference).await?? {
                self.fetch_schema(id).await?;
            }
        }
        let work = self.work();
        if self.in_flight.is_some() || !work.batch.is_empty() {
            return Ok(!work.batch.is_empty());
        }
        let renews = reader.at_end()
            && self.ctx.clock.now_ms() - work.processor.position().read_up_to_ms > RENEW_MS;
        Ok(work.processor.has_changes() || renews)
    }

    /// Waits for the memory that a batch may take; false if something else is more urgent than a batch
    /// that is not begun.
    async fn has_room(&mut self) -> bool {
        if self.work().permit.is_some() {
            return true;
        }
        let (bytes_max, next) = (self.ctx.batch.bytes_max, self.work().next_bytes());
        let mut stop = self.ctx.stop.clone();
        let mut newest = self.ctx.newest.clone();
        let permit = tokio::select! {
            permit = self.ctx.budget.batch(bytes_max, COPIES, next) => permit,
            _ = stop.wait_for(|stop| *stop) => return false,
            Ok(()) = newest.changed() => return false,
        };
        let work = self.work.as_mut().expect("no blocking call is under way");
        work.permit = Some(permit);
        true
    }

    /// Applies what was read until the batch may be committed; false if nothing was applied because
    /// something else is more urgent.
    async fn apply_input(&mut self, reader: &mut PartitionReader) -> Result<bool, TaskError> {
        loop {
            if !self.work().queue.is_empty() && !self.has_room().await {
                return Ok(false);
            }
            if self.work().batch.is_empty() && self.has_news() {
                return Ok(true);
            }
            match self.blocking(Work::apply).await?? {
                Outcome::Needs(id) => self.fetch_schema(id).await?,
                Outcome::Full => return Ok(true),
                Outcome::Drained if reader.at_end() || self.work().batch.is_empty() => {
                    return Ok(true);
                }
                // A version that waits does not wait for the rest of a source transaction: what was
                // applied of it is taken back, and applied again under the new version.
                Outcome::Drained if self.has_news() => {
                    self.settle().await?;
                    self.blocking(Work::aborted).await?;
                    return Ok(false);
                }
                Outcome::Drained => {
                    // The rest of a source transaction, or of a batch that is not full yet.
                    let messages = reader.poll(self.ctx.batch.bytes_max, TICK).await?;
                    self.queue(reader, messages)?;
                }
            }
        }
    }

    /// Says that the version is in force, once everything that it changed is committed.
    fn take_note_of_version(&mut self) {
        if !self.is_taken_up && !self.work().processor.has_changes() {
            self.is_taken_up = true;
            self.board.publish_now();
            self.ctx.status.took_up(self.version);
        }
    }
}
