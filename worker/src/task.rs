//! What a loop gets, and how it ends: the contract between the supervisor and the three loops.
//!
//! A loop is `run(TaskContext) -> Result<Stopped, TaskError>`. It is one attempt, from the first
//! step of a restart to its end. It never retries: it returns its error, and the supervisor looks
//! the error's class up in the one policy table ([`crate::error_policy`]) and starts the next
//! attempt. A loop that sees [`TaskContext::stop`] become true stops reading, commits what it has,
//! releases what it holds and returns [`Stopped::Asked`]; after a deadline, or when the group takes
//! the partition away without asking, its future is dropped at whatever await it stands.
//!
//! # Who owns what
//!
//! - The supervisor owns the state (RUNNING, FAILED, …), the error and the time of both.
//! - The loop owns the details, and says when it has taken up a newer version of its task.
//! - `data_dir` belongs to the task alone and outlives attempts; it is a cache of Kafka, may be
//!   found empty or behind at any start, and is removed after a DELETE.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use hutong_connectors_core::ErrorReport;
use hutong_connectors_core::secret::{OwnerSecrets, Secret};
use hutong_schemas::class::{Class, Classified};
use hutong_transport::KafkaConfig;
use hutong_transport::admin::Admin;
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PositionWrite, TransactionalProducer};
use hutong_transport::record::{self, TaskRecord};
use serde_json::Value;
use tokio::sync::watch;

use crate::budget::Budget;
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::preview::Desks;
use crate::schema_cache::SchemaCache;
use crate::status::StatusHandle;

/// Everything that one attempt at running a task may use.
#[derive(Clone)]
pub(crate) struct TaskContext {
    /// The cluster's name, from which topics are named.
    pub(crate) cluster: Cluster,
    /// The location of this worker.
    pub(crate) location: Arc<str>,
    /// How to reach Kafka.
    pub(crate) kafka: KafkaConfig,
    /// The shared admin client.
    pub(crate) admin: Arc<Admin>,
    /// Schemas by id, and registering.
    pub(crate) schemas: Arc<SchemaCache>,
    /// Resolves references in credential properties, of this task's owner. Nothing else may.
    pub(crate) secrets: Arc<OwnerSecrets>,
    /// The secret from which keys of masks and hidden keys are derived, if one is configured.
    pub(crate) master_secret: Option<Arc<Secret>>,
    /// The worker's memory for rows on their way, shared by all tasks.
    pub(crate) budget: Budget,
    /// When a batch is full.
    pub(crate) batch: BatchLimits,
    /// After what time a worker that does not answer loses its tasks. Locks in databases must not be
    /// held longer by one that is frozen.
    pub(crate) session_timeout: std::time::Duration,
    /// Where the loop says how it fares.
    pub(crate) status: StatusHandle,
    /// True once the loop shall stop.
    pub(crate) stop: watch::Receiver<bool>,
    /// The task's own folder, created before the start.
    pub(crate) data_dir: PathBuf,
    /// The worker's metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The version of the task that this attempt starts with.
    pub(crate) task: Arc<TaskRecord>,
    /// The newest version of the task, `task` at first. A loop that cannot take a newer one up in
    /// place finishes as if asked to stop and returns [`Stopped::ForNewVersion`]. Source loops need
    /// not look: the supervisor stops them by itself when their configuration changed.
    pub(crate) newest: watch::Receiver<Arc<TaskRecord>>,
    /// The time, and the later of ours and the broker's.
    pub(crate) clock: Clock,
    /// Where a processor takes requests to count rows.
    pub(crate) previews: Arc<Desks>,
    /// After what time an append begins another segment of a view's topic.
    pub(crate) view_segment: std::time::Duration,
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskContext")
            .field("task", &self.task.task)
            .field("version", &self.task.version)
            .finish_non_exhaustive()
    }
}

impl TaskContext {
    /// Fences whoever had what is owned before, then reads what was committed for it: its own
    /// position under the empty name, and those of its parts.
    pub(crate) async fn start_producer(
        &self,
        owner: &str,
    ) -> Result<(TransactionalProducer, BTreeMap<String, Value>), TaskError> {
        let id = self.cluster.transactional_id(owner);
        let producer = TransactionalProducer::start(&self.kafka, &self.cluster, &id).await?;
        let positions = producer.positions(&self.location, owner).await?;
        Ok((producer, positions))
    }

    /// Returns what makes a position durable with a transaction, or removes it.
    pub(crate) fn position_write(
        &self,
        owner: &str,
        sub: String,
        value: Option<Value>,
    ) -> PositionWrite {
        PositionWrite {
            location: self.location.to_string(),
            owner: owner.to_owned(),
            sub,
            value,
        }
    }
}

/// When a batch is closed although more could go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// The bytes of encoded records.
    pub(crate) bytes_max: usize,
    /// The time since its first record.
    pub(crate) age_max: std::time::Duration,
}

/// Why a loop ended without an error. Everything it had begun is committed and released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// [`TaskContext::stop`] became true.
    Asked,
    /// A newer version of the task needs a new start, which the supervisor makes at once.
    ForNewVersion,
}

/// Why an attempt ended before it was asked to: a class for the policy table, words for people.
#[derive(Clone, Debug)]
pub(crate) struct TaskError {
    /// What kind of error it is.
    pub(crate) class: Class,
    /// The error with all its causes, each once.
    pub(crate) message: String,
    /// What a person can do about it.
    pub(crate) hint: Option<String>,
}

impl TaskError {
    /// Makes an error that has no error type of its own.
    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            hint: None,
        }
    }

    /// Makes a definite error that has no error type of its own.
    pub(crate) fn definite(message: impl Into<String>) -> Self {
        Self::new(Class::Definite, message)
    }

    /// Adds what a person can do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts before the message what was being done, such as the name of a table.
    pub(crate) fn context(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Returns the form that details of a status show.
    pub(crate) fn report(&self) -> ErrorReport {
        ErrorReport {
            class: self.class,
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }

    /// Returns the form that a status itself shows, which is the same in JSON.
    pub(crate) fn status_report(&self) -> record::ErrorReport {
        record::ErrorReport {
            class: self.class,
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

impl std::fmt::Display for TaskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// `?` turns every error that knows its class into a task error. `TaskError` itself therefore
/// must not implement [`Classified`].
impl<E: Classified + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self {
            class: error.class(),
            message: chain(&error),
            hint: error.hint(),
        }
    }
}

/// Returns an error's message followed by those of its sources, without repetition.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
