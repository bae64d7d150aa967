//! From topics into a subscriber's tables, exactly once.
//!
//! ```text
//!   partitions of an input ─▶ lane: cut, collapse, decode ─▶ Writer: rows and offset, one transaction
//!         ▲                                                     │
//!         └────────── where to go on ◀── stored position ◀──────┘
//! ```
//!
//! # Why it is correct
//!
//! The supervisor has proven that the group gives us the task now. Each input then has a *lane*: a
//! session at the subscriber's database that takes the input's table over, which ends and fences the
//! former owner's and says where each partition goes on (the argument stands in
//! `hutong_connectors_postgres::sink`). No offset is kept in Kafka. A lane never reconnects: a lost
//! connection or a lost answer ends the attempt, and the next one begins with the proof again,
//! because the session may have been ended by an owner newer than us.
//!
//! Batches are cut where the source's transaction changes, so that the subscriber never sees half of
//! one; only a transaction larger than the budget goes in parts. At the end of a partition everything
//! read is whole, because upstream commits are, and is written at once.
//!
//! # Errors
//!
//! A definite error stops its input and not the others: the subscriber's other tables go on, and the
//! input's state says why. When no input is left the task is FAILED. What keeps one input from being
//! opened for a while, a topic that is gone or a table that somebody has locked, is waited out by that
//! input alone. Every other error ends the attempt.
//!
//! # The end of a grant
//!
//! An input that is revoked, or whose grant has run out by the later of our clock and the broker's,
//! has no lane: its table is emptied and its positions are forgotten. That needs no topic, which may
//! be gone by then. It is carried out whatever else is wanted or wrong: beside the lanes of other
//! inputs, of an input that has failed, in a task that is FAILED, and in one that is paused or
//! stopped, of which the attempt does nothing else. What keeps it from succeeding is shown and tried
//! again.
//!
//! # New versions
//!
//! A new version of the task is taken up in place as long as it lists the same inputs: only a lane
//! whose topic or generation changed begins anew. A new generation first takes away what it must not
//! show, before its topic or its schemas are looked at.

mod batch;
mod board;
mod dead_letters;
mod decoding;
mod input;
mod lane;
mod opening;
mod slot;
mod stamp;
mod types;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hutong_connectors_core::jdbc_sink::Config;
use hutong_connectors_core::secret::Secret;
use hutong_connectors_postgres::sink::{SessionSettings, Sink};
use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use hutong_transport::record::{TargetState, TaskState};
use tokio::sync::watch;

use self::board::{Board, InputState};
use self::input::{Input, Wanted};
use self::lane::Orders;
use self::opening::Undelivered;
use self::slot::{Phase, Step, Wish, backoff, next_step};
use crate::task::{Stopped, TaskContext, TaskError};

/// How often the state is shown and grants are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often an emptying that cannot succeed until a person acts is tried.
const EMPTYING_RETRY: Duration = Duration::from_secs(30);

/// Runs one attempt.
///
/// # Errors
///
/// By class, of the subscriber's database, of Kafka and of the schemas.
///
/// # Cancel safety
///
/// Dropping it is as safe as a crash.
pub(crate) async fn run(ctx: TaskContext) -> Result<Stopped, TaskError> {
    let rest = match ctx.task.target {
        TargetState::Paused => Some(TaskState::Paused),
        TargetState::Stopped => Some(TaskState::Stopped),
        TargetState::Running | TargetState::Deleted => None,
    };
    if let Some(state) = rest {
        ctx.status.set_state(state, None);
    }
    match Attempt::new(ctx.clone(), rest) {
        Ok(attempt) => Box::pin(attempt.run()).await,
        Err(error) if rest.is_some() => wait(ctx, &error).await,
        Err(error) => Err(error),
    }
}

/// A paused task whose configuration cannot be used has nothing to guard with.
async fn wait(mut ctx: TaskContext, error: &TaskError) -> Result<Stopped, TaskError> {
    tracing::warn!(
        task = ctx.task.task,
        error = error.message,
        "a task that rests cannot be read"
    );
    ctx.status.took_up(ctx.task.version);
    let version = ctx.task.version;
    tokio::select! {
        stopped = ctx.stop.wait_for(|stop| *stop) => drop(stopped),
        newer = ctx.newest.wait_for(|newest| newest.version != version) => drop(newer),
    }
    Ok(if *ctx.stop.borrow() {
        Stopped::Asked
    } else {
        Stopped::ForNewVersion
    })
}

/// Nothing is given up: the rows stay with the subscriber as Kafka Connect's users expect, and their
/// positions stay with them, so that a sink of the same table goes on and a revocation through it
/// still finds what to empty.
#[expect(
    clippy::unused_async,
    reason = "the three kinds of tasks are deleted through one signature"
)]
pub(crate) async fn delete(ctx: TaskContext) -> Result<(), TaskError> {
    tracing::info!(
        task = ctx.task.task,
        "a sink was deleted; its tables keep their rows"
    );
    Ok(())
}

/// What all inputs share, also those that are being worked on.
struct Shared {
    ctx: TaskContext,
    config: Config,
    password: Option<Secret>,
    board: Board,
}

impl Shared {
    async fn connect(&self) -> Result<Sink, TaskError> {
        let settings = SessionSettings {
            group_session_timeout: self.ctx.session_timeout,
            ..SessionSettings::default()
        };
        Ok(Sink::open(&self.config, self.password.as_ref(), settings).await?)
    }
}

struct Attempt {
    shared: Arc<Shared>,
    /// The state of a task that is not to deliver.
    rest: Option<TaskState>,
    wanted: Wanted,
    version: u64,
    /// The version that was last reported as taken up.
    reported: Option<u64>,
    slots: Vec<Slot>,
    /// The definite error that stopped an input last.
    last_error: Option<TaskError>,
}

/// One input and what is done about it.
struct Slot {
    phase: Phase,
    /// The input as it was when what goes on began.
    taken: Input,
    /// The end of the grant that was found to have passed: two clocks may differ about it, once.
    expired_ms: Option<i64>,
    failures: u32,
    orders: watch::Sender<Orders>,
}

/// How the work on an input ended.
enum Done {
    Delivered(Result<(), Undelivered>),
    Emptied(Result<Option<u64>, TaskError>),
}

type Works = FuturesUnordered<BoxFuture<'static, (usize, Done)>>;

impl Attempt {
    fn new(ctx: TaskContext, rest: Option<TaskState>) -> Result<Self, TaskError> {
        let wanted = Wanted::read(&ctx.task)?;
        let mut config = wanted.config.clone();
        let password = ctx.secrets.unlock(&mut config.connection)?;
        let slots = wanted.inputs.iter().map(|(input, _)| Slot {
            phase: Phase::New,
            taken: input.clone(),
            expired_ms: None,
            failures: 0,
            orders: watch::Sender::new(Orders::default()),
        });
        Ok(Self {
            slots: slots.collect(),
            version: ctx.task.version,
            reported: None,
            rest,
            last_error: None,
            shared: Arc::new(Shared {
                board: Board::new(&ctx, &wanted.inputs),
                config,
                password,
                ctx,
            }),
            wanted,
        })
    }

    async fn run(mut self) -> Result<Stopped, TaskError> {
        let mut works = Works::new();
        let mut stop = self.shared.ctx.stop.clone();
        let mut newest = self.shared.ctx.newest.clone();
        let mut opened = self.shared.board.changes();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            let must_end = !self.take_up() || *stop.borrow_and_update();
            if must_end && works.is_empty() {
                break;
            }
            for index in 0..self.slots.len() {
                self.step(index, must_end, &mut works);
            }
            self.report();
            tokio::select! {
                Some((index, done)) = works.next(), if !works.is_empty() => self.after(index, done)?,
                changed = stop.changed() => ended(changed).await,
                changed = newest.changed() => ended(changed).await,
                changed = opened.changed() => ended(changed).await,
                _ = ticks.tick() => self.shared.board.publish(),
            }
        }
        self.shared.board.publish();
        if *self.shared.ctx.stop.borrow() {
            Ok(Stopped::Asked)
        } else {
            Ok(Stopped::ForNewVersion)
        }
    }

    /// Takes up what is newly wanted; false if that needs a new attempt.
    fn take_up(&mut self) -> bool {
        let newest = Arc::clone(&self.shared.ctx.newest.borrow());
        if newest.version == self.version {
            return true;
        }
        let wanted = match Wanted::read(&newest) {
            Ok(wanted) if self.wanted.is_taken_up_by(&wanted) => wanted,
            // The next attempt says what is wrong.
            Ok(_) | Err(_) => return false,
        };
        self.wanted = wanted;
        self.version = newest.version;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let (input, _) = &self.wanted.inputs[index];
            self.shared.board.wants(index, input);
            slot.orders.send_if_modified(|orders| {
                let is_news = orders.fill_ends != input.fill_ends;
                orders.fill_ends.clone_from(&input.fill_ends);
                is_news
            });
        }
        true
    }

    fn step(&mut self, index: usize, must_end: bool, works: &mut Works) {
        let now_ms = self.shared.ctx.clock.latest_ms();
        let (input, table) = &self.wanted.inputs[index];
        let slot = &mut self.slots[index];
        let was_expired = slot.expired_ms.is_some() && slot.expired_ms == input.valid_until_ms;
        let has_ended = was_expired || input.has_ended(now_ms);
        if has_ended {
            slot.expired_ms = input.valid_until_ms;
        }
        let wish = if has_ended {
            Wish::Empty
        } else if self.rest.is_some() {
            Wish::Leave
        } else {
            Wish::Deliver
        };
        if must_end {
            // What is being emptied is emptied: it is the quickest way to be done with it.
            if slot.phase == (Phase::Delivering { is_ending: false }) {
                slot.end();
            }
            return;
        }
        let is_new = !slot.taken.is_delivered_as(input)
            || (slot.phase == Phase::Failed && slot.taken != *input);
        let board = &self.shared.board;
        match next_step(wish, slot.phase, is_new, Instant::now()) {
            Step::Wait => {}
            Step::End => slot.end(),
            Step::Leave => {
                slot.phase = Phase::Left;
                slot.taken = input.clone();
                board.is(index, InputState::Left);
            }
            Step::Deliver => {
                slot.begin(Phase::Delivering { is_ending: false }, input);
                board.is(index, InputState::Opening);
                let (shared, orders) = (Arc::clone(&self.shared), slot.orders.subscribe());
                let (input, table) = (input.clone(), table.clone());
                works.push(Box::pin(async move {
                    let delivered = opening::deliver(&shared, index, &input, &table, orders).await;
                    (index, Done::Delivered(delivered))
                }));
            }
            Step::Empty => {
                slot.begin(Phase::Emptying, input);
                board.is(index, InputState::Emptying);
                let (shared, name) = (Arc::clone(&self.shared), input.name.clone());
                let table = table.clone();
                works.push(Box::pin(async move {
                    let emptied = empty(&shared, &name, &table).await;
                    (index, Done::Emptied(emptied))
                }));
            }
        }
    }

    /// Notes how the work on an input ended; an error that is not the input's alone is returned.
    fn after(&mut self, index: usize, done: Done) -> Result<(), TaskError> {
        let (input, table) = &self.wanted.inputs[index];
        let slot = &mut self.slots[index];
        let board = &self.shared.board;
        let named = |error: TaskError| error.context(format_args!("{} into {table}", input.name));
        match done {
            Done::Delivered(Ok(())) => slot.phase = Phase::New,
            Done::Delivered(Err(Undelivered::Attempt(error))) => {
                let error = named(error);
                if error.class != Class::Definite {
                    return Err(error);
                }
                tracing::error!(
                    task = self.shared.ctx.task.task, topic = input.topic, %table,
                    error = error.message, "an input of a sink has stopped"
                );
                slot.phase = Phase::Failed;
                board.failed(index, error.report());
                self.last_error = Some(error);
            }
            Done::Delivered(Err(Undelivered::Input(error))) => {
                let error = named(error);
                let after = backoff(slot.failures);
                slot.wait(after);
                tracing::warn!(
                    task = self.shared.ctx.task.task, topic = input.topic, %table,
                    error = error.message, "an input of a sink waits"
                );
                board.waits(index, InputState::Waiting, error.report());
            }
            Done::Emptied(Ok(rows)) => {
                slot.phase = Phase::Emptied;
                slot.failures = 0;
                board.emptied(index, rows.unwrap_or(0));
            }
            Done::Emptied(Err(error)) => {
                let error = named(error);
                let after = match error.class {
                    Class::Definite => EMPTYING_RETRY,
                    Class::Transient | Class::Fenced | Class::Fatal => backoff(slot.failures),
                };
                slot.wait(after);
                tracing::error!(
                    task = self.shared.ctx.task.task, %table, error = error.message,
                    "a table whose grant has ended could not be emptied"
                );
                board.waits(index, InputState::Emptying, error.report());
            }
        }
        Ok(())
    }

    /// Says how the task fares once every input has got somewhere.
    fn report(&mut self) {
        let board = &self.shared.board;
        if board.any(InputState::Opening) {
            return;
        }
        for slot in &mut self.slots {
            if matches!(slot.phase, Phase::Delivering { .. }) {
                slot.failures = 0;
            }
        }
        let status = &self.shared.ctx.status;
        let failed = self.last_error.as_ref().filter(|_| board.all_failed());
        let state = match (self.rest, failed) {
            (Some(rest), _) => (rest, None),
            (None, Some(error)) => (TaskState::Failed, Some(error.status_report())),
            // Others go on, but what does not is told where users look.
            (None, None) => (TaskState::Running, board.hindrance()),
        };
        if status.state() != state {
            let is_failed = i64::from(state.0 == TaskState::Failed);
            let gauge = &self.shared.ctx.metrics.task_failed;
            gauge
                .with_label_values(&[&self.shared.ctx.task.task])
                .set(is_failed);
            status.set_state(state.0, state.1);
        }
        if self.reported != Some(self.version) {
            self.reported = Some(self.version);
            board.publish();
            status.took_up(self.version);
        }
    }
}

impl Slot {
    fn begin(&mut self, phase: Phase, input: &Input) {
        self.phase = phase;
        self.taken = input.clone();
        self.orders.send_replace(Orders {
            is_ending: false,
            fill_ends: input.fill_ends.clone(),
        });
    }

    fn end(&mut self) {
        self.phase = Phase::Delivering { is_ending: true };
        self.orders.send_modify(|orders| orders.is_ending = true);
    }

    fn wait(&mut self, after: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting {
            until: Instant::now() + after,
        };
    }
}

async fn empty(shared: &Shared, name: &str, table: &TableId) -> Result<Option<u64>, TaskError> {
    let sink = shared.connect().await?;
    Ok(Box::pin(sink.empty(table, name)).await?)
}

/// Once nothing can change any more, there is nothing to be told.
async fn ended(changed: Result<(), watch::error::RecvError>) {
    if changed.is_err() {
        std::future::pending::<()>().await;
    }
}
