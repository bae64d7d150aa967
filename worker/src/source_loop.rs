//! From a source's log into Kafka, exactly once.
//!
//! ```text
//!   database ── connector: decode, encode ──▶ channel of one batch ──▶ commit: batch n and position n
//!                  ▲          batch n+1                                  in one Kafka transaction
//!                  └──────────────── confirmed: n is durable ◀──────────────────┘
//! ```
//!
//! # Why it is correct
//!
//! A start goes in this order, each step resting on the one before. The supervisor has proven that
//! the group gives us the task now. The connector has looked at its server and says what it owns:
//! a slot of a database of a system. The producer with the transactional id of *what is owned* is
//! started, which fences every predecessor, whatever its task was called, and ends its open
//! transaction. Only that producer hands out the stored position, so what is read is final. From
//! there the connector goes on; what the server sends again from before it, the connector drops.
//!
//! A batch and the position behind it commit in one transaction, in the order in which batches came.
//! So the position never tells of events that are not there, nor hides events that are. The server
//! may forget its log up to a batch only after `confirmed` has named it, which is after the commit.
//!
//! # What each crash leaves behind
//!
//! Before the commit: an open transaction that the successor's start aborts; the events come again.
//! After it and before `confirmed`: the slot stands before the stored position; what it sends again
//! is dropped. When the answer to a commit is lost, nobody here knows which of both it is: the
//! attempt ends as fenced, and the next one reads the position and thereby knows.
//!
//! # What we do not do
//!
//! We do not retry a commit in place, because only the fence and the stored position tell what
//! became of the first try. We do not abort batches one by one: an attempt that fails ends whole.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hutong_connectors_core::SOURCE_CLASS;
use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::SourceBatch;
use hutong_connectors_core::spares;
use hutong_connectors_postgres::source::{self, Connected};
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::Class;
use hutong_transport::producer::{Transaction, TransactionalProducer};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

use crate::fail_point;
use crate::owned::Owned;
use crate::requests::ConnectorConfig;
use crate::source_host::KafkaHost;
use crate::task::{Stopped, TaskContext, TaskError};

/// How often the memory of committed batches is let go of that nobody uses.
const SPARE_CHECK: Duration = Duration::from_secs(1);

/// Runs one attempt.
///
/// # Errors
///
/// By class, of the connector, of Kafka and of the registry.
///
/// # Cancel safety
///
/// Dropping it is as safe as a crash.
pub(crate) async fn run(ctx: TaskContext) -> Result<Stopped, TaskError> {
    let mut config = parse(&ctx)?;
    let password = ctx.secrets.unlock(&mut config.connection)?;
    let connected = Connected::open(config, password).await?;
    let kib = usize::try_from(ctx.budget.total_kib()).unwrap_or(usize::MAX);
    let connected = connected.with_budget(Arc::clone(ctx.budget.semaphore()), kib);
    let owner = connected.owner();
    let (producer, positions) = ctx.start_producer(&owner).await?;
    let producer = Arc::new(producer);
    tracing::info!(task = ctx.task.task, owner, position = ?positions.get(""), "a source starts");

    let host = Arc::new(host(&ctx, &owner, &producer));
    // One batch waits while another commits: the channel is the whole pipeline.
    let (out, batches) = mpsc::channel(1);
    let (confirm, confirmed) = watch::channel(0);
    ctx.status.running();
    let stop = ctx.stop.clone();
    let connector = Owned::spawn(format!("source {}", ctx.task.task), async move {
        // Large: it holds all that a source does.
        Box::pin(connected.run(positions, host, out, confirmed, stop)).await
    });
    let commits = Commits {
        ctx: &ctx,
        owner: &owner,
        producer: &producer,
        confirm,
    };
    let outcome = commits.run(batches, connector).await;
    drop(commits);
    outcome?;
    if let Some(producer) = Arc::into_inner(producer) {
        producer.close().await;
    }
    if *ctx.stop.borrow() {
        Ok(Stopped::Asked)
    } else {
        Err(TaskError::new(
            Class::Fatal,
            "the source ended although nothing asked it to",
        ))
    }
}

/// Gives up the slot and the publication if they were made by us, then the position: in this
/// order, so that a crash between both repeats the first and a position without a slot never waits
/// for a connector of the same name. What keeps a source from running, such as a table that is
/// gone, does not keep it from going: the server is asked for nothing but its identity.
pub(crate) async fn delete(ctx: TaskContext) -> Result<(), TaskError> {
    let mut config = parse(&ctx)?;
    let password = ctx.secrets.unlock(&mut config.connection)?;
    let owner = source::owner(&config, password.clone()).await?;
    let (producer, positions) = ctx.start_producer(&owner).await?;
    let dropped = source::drop_owned(config, password, positions.get("")).await?;
    tracing::info!(
        task = ctx.task.task,
        owner,
        ?dropped,
        "a source gave up what it owned"
    );
    let parts = positions.into_keys();
    let transaction = Transaction {
        positions: parts
            .chain([String::new()])
            .map(|part| ctx.position_write(&owner, part, None))
            .collect(),
        ..Transaction::default()
    };
    producer.commit(transaction).await?;
    producer.close().await;
    Ok(())
}

pub(crate) fn parse(ctx: &TaskContext) -> Result<Config, TaskError> {
    let malformed = |error: serde_json::Error| {
        TaskError::new(
            Class::Definite,
            format!("the task's configuration is malformed: {error}"),
        )
    };
    let config = ConnectorConfig::deserialize(&ctx.task.config).map_err(malformed)?;
    if config.class != SOURCE_CLASS {
        let message = format!("this release has no source connector {}", config.class);
        return Err(TaskError::new(Class::Definite, message));
    }
    Config::parse(&ctx.task.connector, &config.properties).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        TaskError::new(Class::Definite, mistakes.join("; "))
    })
}

#[cfg_attr(
    not(debug_assertions),
    expect(
        unused_variables,
        reason = "only places where tests hold it name the owner"
    )
)]
fn host(ctx: &TaskContext, owner: &str, producer: &Arc<TransactionalProducer>) -> KafkaHost {
    KafkaHost {
        connector: ctx.task.connector.clone(),
        task: ctx.task.task.clone(),
        #[cfg(debug_assertions)]
        owner: owner.to_owned(),
        tables_topic: ctx.cluster.tables(&ctx.location),
        kafka: ctx.kafka.clone(),
        admin: Arc::clone(&ctx.admin),
        schemas: Arc::clone(&ctx.schemas),
        producer: Arc::clone(producer),
        status: ctx.status.clone(),
        metrics: Arc::clone(&ctx.metrics),
        scratch_dir: ctx.data_dir.join("scratch"),
        shown: Mutex::default(),
    }
}

/// The committing half.
struct Commits<'a> {
    ctx: &'a TaskContext,
    owner: &'a str,
    producer: &'a TransactionalProducer,
    confirm: watch::Sender<u64>,
}

impl Drop for Commits<'_> {
    fn drop(&mut self) {
        // Others that run give back again; what a connector that was aborted still gives back, they let
        // go of.
        spares::forget_all();
    }
}

impl Commits<'_> {
    /// Commits batches until the connector hands over no more, and returns how it ended. What it
    /// had handed over before an error of its own is good and is committed first.
    async fn run(
        &self,
        mut batches: mpsc::Receiver<SourceBatch>,
        mut connector: Owned<Result<(), source::Error>>,
    ) -> Result<(), TaskError> {
        let mut tick = tokio::time::interval(SPARE_CHECK);
        loop {
            tokio::select! {
                batch = batches.recv() => match batch {
                    Some(batch) => if let Err(error) = self.commit(batch).await {
                        // What it gives back from now on nobody would let go of.
                        connector.abort_and_wait().await;
                        return Err(error);
                    },
                    None => break,
                },
                now = tick.tick() => spares::forget_old(now.into_std()),
            }
        }
        Ok(connector.finished().await??)
    }

    async fn commit(&self, batch: SourceBatch) -> Result<(), TaskError> {
        let SourceBatch {
            records,
            position,
            parts,
            permit,
            seq,
            step,
            ..
        } = batch;
        let events = events(&records);
        let bytes = records.buffer.len();
        let own = self
            .ctx
            .position_write(self.owner, String::new(), Some(position));
        let parts = parts
            .into_iter()
            .map(|part| self.ctx.position_write(self.owner, part.part, part.value));
        let transaction = Transaction {
            batches: vec![records],
            positions: std::iter::once(own).chain(parts).collect(),
            plain: Vec::new(),
        };
        let started = Instant::now();
        fail_point::reach("source", step.as_str(), "before", self.owner).await;
        let batches = self.producer.commit(transaction).await?;
        fail_point::reach("source", step.as_str(), "after", self.owner).await;
        batches.into_iter().for_each(spares::give_back);
        drop(permit);
        // The connector may have ended with an error of its own meanwhile.
        self.confirm.send_replace(seq);
        self.count(started, events, bytes);
        Ok(())
    }

    fn count(&self, started: Instant, events: u64, bytes: usize) {
        let metrics = &self.ctx.metrics;
        let labels = [self.ctx.task.task.as_str()];
        let seconds = started.elapsed().as_secs_f64();
        metrics
            .commit_seconds
            .with_label_values(&["source"])
            .observe(seconds);
        metrics
            .source_events
            .with_label_values(&labels)
            .inc_by(events);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        metrics
            .source_bytes
            .with_label_values(&labels)
            .inc_by(bytes);
    }
}

/// Counts change events: a tombstone only tells compaction that the event before it was a delete.
fn events(records: &RecordBatch) -> u64 {
    let events = records
        .records
        .iter()
        .filter(|record| record.value.is_some());
    u64::try_from(events.count()).unwrap_or(u64::MAX)
}
