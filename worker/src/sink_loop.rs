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
//! input's state says why. When no input is left the task fails. Every other class ends the attempt.
//!
//! # Revocation
//!
//! An input that is revoked, or whose grant has run out by the later of our clock and the broker's,
//! has no lane: its table is emptied and its positions are forgotten, whatever else goes on. That
//! needs no topic, which may be gone by then.

mod batch;
mod board;
mod decoding;
mod lane;
mod stamp;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use hutong_connectors_core::SINK_CLASS;
use hutong_connectors_core::jdbc_sink::Config;
use hutong_connectors_core::secret::Secret;
use hutong_connectors_postgres::sink::{SessionSettings, Sink};
use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use serde::Deserialize;
use tokio::sync::watch;

use self::board::{Board, InputState};
use self::lane::Lane;
use crate::task::{Stopped, TaskContext, TaskError};

/// A sink's task as the control plane writes it.
#[derive(Debug, Deserialize)]
struct SinkTask {
    class: String,
    properties: BTreeMap<String, String>,
    inputs: Vec<Input>,
}

/// A view or a table's topic that goes into a table.
#[derive(Clone, Debug, Deserialize)]
struct Input {
    /// As the user names it: a view's without its generation.
    name: String,
    /// The topic as Kafka has it.
    topic: String,
    /// What tells the topic from another of its name.
    topic_id: String,
    #[serde(default)]
    view: Option<String>,
    #[serde(default)]
    generation: u64,
    #[serde(default)]
    version: u64,
    state: Target,
    /// When the grant ends, in milliseconds since 1970.
    #[serde(default)]
    valid_until_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Target {
    Live,
    Revoked,
}

impl Input {
    fn is_live(&self, now_ms: i64) -> bool {
        self.state == Target::Live && !self.has_expired(now_ms)
    }

    fn has_expired(&self, now_ms: i64) -> bool {
        self.valid_until_ms.is_some_and(|end| end <= now_ms)
    }
}

/// How often the state is shown and grants are looked at.
const TICK: Duration = Duration::from_secs(1);

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
    let attempt = Attempt::new(ctx)?;
    attempt.run().await
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

struct Attempt {
    ctx: TaskContext,
    config: Arc<Config>,
    password: Option<Secret>,
    /// Each with its table.
    inputs: Vec<(Input, TableId)>,
    board: Arc<Board>,
}

impl Attempt {
    fn new(ctx: TaskContext) -> Result<Self, TaskError> {
        let task: SinkTask = serde_json::from_value(ctx.task.config.clone()).map_err(|error| {
            let message = format!("the task of the sink cannot be read: {error}");
            TaskError::new(Class::Definite, message)
        })?;
        let config = parse(&ctx, &task)?;
        let password = match &config.connection.password {
            Some(reference) => Some(ctx.secrets.resolve(reference)?),
            None => None,
        };
        let mut inputs = Vec::new();
        for input in task.inputs {
            let table = config.table_of(&input.name).map_err(|message| {
                TaskError::new(Class::Definite, format!("input {}: {message}", input.name))
            })?;
            inputs.push((input, table));
        }
        let board = Arc::new(Board::new(&ctx, &inputs));
        Ok(Self {
            ctx,
            config: Arc::new(config),
            password,
            inputs,
            board,
        })
    }

    async fn run(self) -> Result<Stopped, TaskError> {
        let now_ms = self.ctx.clock.latest_ms();
        for (index, (input, table)) in self.inputs.iter().enumerate() {
            if !input.is_live(now_ms) {
                self.empty(index, input, table).await?;
            }
        }
        let (quit, quitting) = watch::channel(false);
        let this = &self;
        let opening = this.inputs.iter().enumerate();
        let opening = opening.filter(|(_, (input, _))| input.is_live(now_ms)).map(
            |(index, (input, table))| async move { (index, this.open(index, input, table).await) },
        );
        let mut lanes = FuturesUnordered::new();
        for (index, opened) in join_all(opening).await {
            match opened {
                Ok(lane) => {
                    let quitting = quitting.clone();
                    lanes.push(async move { (index, Box::pin(lane.run(quitting)).await) });
                }
                Err(error) => self.fail(index, error)?,
            }
        }
        self.ctx.status.running();
        self.ctx.status.took_up(self.ctx.task.version);
        self.board.publish_now();
        let mut stop = self.ctx.stop.clone();
        let mut newest = self.ctx.newest.clone();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            if self.must_end() {
                quit.send_replace(true);
                if lanes.is_empty() {
                    break;
                }
            }
            tokio::select! {
                Some((index, ended)) = lanes.next(), if !lanes.is_empty() => {
                    if let Err(error) = ended {
                        self.fail(index, error)?;
                    }
                }
                _ = stop.changed() => {}
                _ = newest.changed() => {}
                _ = ticks.tick() => self.board.publish(),
            }
        }
        self.board.publish();
        if *self.ctx.stop.borrow() {
            Ok(Stopped::Asked)
        } else {
            Ok(Stopped::ForNewVersion)
        }
    }

    /// Returns whether the attempt shall end: asked to, for a newer version, or because a grant has
    /// just run out, which the next attempt carries out.
    fn must_end(&self) -> bool {
        let now_ms = self.ctx.clock.latest_ms();
        let has_just_expired = |(index, (input, _)): (usize, &(Input, TableId))| {
            input.has_expired(now_ms) && self.board.state(index) == InputState::Live
        };
        *self.ctx.stop.borrow()
            || self.ctx.newest.borrow().version != self.ctx.task.version
            || self.inputs.iter().enumerate().any(has_just_expired)
    }

    async fn connect(&self) -> Result<Sink, TaskError> {
        let settings = SessionSettings {
            group_session_timeout: self.ctx.session_timeout,
            ..SessionSettings::default()
        };
        Ok(Sink::open(&self.config, self.password.as_ref(), settings).await?)
    }

    async fn open(&self, index: usize, input: &Input, table: &TableId) -> Result<Lane, TaskError> {
        let sink = self.connect().await?;
        let lane = lane::open(
            &self.ctx,
            Arc::clone(&self.board),
            index,
            input,
            table.clone(),
            sink,
            self.config.batch_bytes_max,
            self.config.batch_time_max,
        );
        Box::pin(lane).await
    }

    async fn empty(&self, index: usize, input: &Input, table: &TableId) -> Result<(), TaskError> {
        let emptied = async {
            let mut sink = self.connect().await?;
            let rows = sink.empty(table, &input.topic).await?;
            Ok::<_, TaskError>(rows)
        };
        match Box::pin(emptied).await {
            Ok(rows) => {
                if let Some(rows) = rows {
                    tracing::info!(task = self.ctx.task.task, %table, rows, "a table was emptied");
                }
                self.board.emptied(index, rows.unwrap_or(0));
                Ok(())
            }
            Err(error) => self.fail(index, error),
        }
    }

    /// Notes a definite error of one input; passes on every other, and the last definite one when no
    /// input is left.
    fn fail(&self, index: usize, error: TaskError) -> Result<(), TaskError> {
        let (input, table) = &self.inputs[index];
        let error = error.context(format_args!("{} into {table}", input.name));
        if error.class != Class::Definite {
            return Err(error);
        }
        tracing::error!(
            task = self.ctx.task.task, topic = input.topic, %table, error = error.message,
            "an input of a sink has stopped"
        );
        self.board.failed(index, error.report());
        if self.board.all_failed() {
            return Err(error);
        }
        Ok(())
    }
}

fn parse(ctx: &TaskContext, task: &SinkTask) -> Result<Config, TaskError> {
    if task.class != SINK_CLASS {
        let message = format!("{} is no sink that this worker knows", task.class);
        return Err(TaskError::new(Class::Definite, message));
    }
    Config::parse(&ctx.task.connector, &task.properties).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        let message = format!("the configuration is wrong: {}", mistakes.join("; "));
        TaskError::new(Class::Definite, message)
    })
}
