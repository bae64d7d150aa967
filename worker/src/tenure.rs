//! One task of a partition that is ours: its supervisor, its status, and the loops' way to Kafka.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hutong_schemas::class::Class;
use hutong_transport::group::Membership;
use hutong_transport::record::{TaskKind, TaskRecord, TaskState};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::offsets::{self, Asked, Request};
use crate::owned::Owned;
use crate::platform::Platform;
use crate::requests::owner_of;
use crate::status::{self, StatusHandle};
use crate::supervisor::{Attempt, MayDeliver, Runner, Supervisor};
use crate::task::{Stopped, TaskContext, TaskError};
use crate::{processor_loop, sink_loop, source_loop};

/// Requests about one task that wait for being answered; each comes from a person.
const REQUESTS_MAX: usize = 4;

/// How long the last status may take when a task is given up.
const LAST_STATUS_DEADLINE: Duration = Duration::from_secs(2);

/// A task that this worker has, for as long as it has it.
pub(crate) struct Tenure {
    platform: Arc<Platform>,
    task: String,
    newest: watch::Sender<Arc<TaskRecord>>,
    status: StatusHandle,
    give_up: oneshot::Sender<()>,
    requests: mpsc::Sender<Request>,
    supervisor: Owned<()>,
    publisher: Owned<()>,
}

impl Tenure {
    /// Begins to supervise a task.
    pub(crate) fn start(
        platform: Arc<Platform>,
        membership: Membership,
        partition: i32,
        record: Arc<TaskRecord>,
        may_deliver: MayDeliver,
    ) -> Self {
        let task = record.task.clone();
        let worker_id = &platform.config.instance_id;
        let status = StatusHandle::new(&record, worker_id, platform.clock.clone());
        let (newest, newest_seen) = watch::channel(record);
        let (give_up, given_up) = oneshot::channel();
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        let supervisor = Supervisor {
            runner: Arc::new(Loops {
                platform: Arc::clone(&platform),
                membership,
                partition,
            }),
            newest: newest_seen,
            may_deliver,
            requests: requested,
            status: status.clone(),
            metrics: Arc::clone(&platform.metrics),
            stop_deadline: platform.config.stop_deadline,
        };
        let supervisor = Owned::spawn(
            format!("supervisor of {task}"),
            supervisor.supervise(given_up),
        );
        let publisher = Owned::spawn(
            format!("status of {task}"),
            status::publish_loop(
                status.clone(),
                Arc::clone(&platform.publisher),
                platform.config.status_interval,
            ),
        );
        Self {
            platform,
            task,
            newest,
            status,
            give_up,
            requests,
            supervisor,
            publisher,
        }
    }

    /// Says that the task is wanted like this.
    pub(crate) fn want(&self, record: Arc<TaskRecord>) {
        self.newest.send_replace(record);
    }

    /// Returns what the task is doing.
    pub(crate) fn state(&self) -> TaskState {
        self.status.state().0
    }

    /// Returns where requests about the task's offsets are taken.
    pub(crate) fn requests(&self) -> mpsc::Sender<Request> {
        self.requests.clone()
    }

    /// Stops the task in order and says so.
    pub(crate) async fn give_up(mut self) {
        if self.give_up.send(()).is_err() {
            tracing::error!(task = self.task, "a supervisor ended by itself");
        }
        if let Err(error) = self.supervisor.finished().await {
            tracing::error!(
                task = self.task,
                error = error.message,
                "a supervisor ended badly"
            );
        }
        let last = status::publish_once(&self.status, &*self.platform.publisher);
        if tokio::time::timeout(LAST_STATUS_DEADLINE, last)
            .await
            .is_err()
        {
            tracing::warn!(
                task = self.task,
                "could not say in time that a task was given up"
            );
        }
        self.status.close();
        self.platform.metrics.forget_task(&self.task);
    }

    /// Publishes nothing any more.
    pub(crate) fn silence(&self) {
        self.status.close();
    }

    /// Ends the task where it stands.
    pub(crate) async fn abort(self) {
        self.silence();
        self.supervisor.abort_and_wait().await;
        self.publisher.abort_and_wait().await;
        self.platform.metrics.forget_task(&self.task);
    }
}

/// The three loops and their way to Kafka.
struct Loops {
    platform: Arc<Platform>,
    membership: Membership,
    partition: i32,
}

#[async_trait]
impl Runner for Loops {
    async fn prove_membership(&self) -> Result<(), TaskError> {
        Ok(self.membership.commit_sync(self.partition).await?)
    }

    async fn run(&self, attempt: Attempt) -> Result<Stopped, TaskError> {
        let kind = attempt.task.kind;
        let ctx = self.context(attempt).await?;
        match kind {
            TaskKind::Source => Box::pin(source_loop::run(ctx)).await,
            TaskKind::Processor => Box::pin(processor_loop::run(ctx)).await,
            TaskKind::Sink => Box::pin(sink_loop::run(ctx)).await,
        }
    }

    async fn delete(&self, attempt: Attempt) -> Result<(), TaskError> {
        let kind = attempt.task.kind;
        let ctx = self.context(attempt).await?;
        let data_dir = ctx.data_dir.clone();
        match kind {
            TaskKind::Source => Box::pin(source_loop::delete(ctx)).await?,
            TaskKind::Processor => Box::pin(processor_loop::delete(ctx)).await?,
            TaskKind::Sink => Box::pin(sink_loop::delete(ctx)).await?,
        }
        tokio::fs::remove_dir_all(&data_dir)
            .await
            .map_err(|error| disk_error("could not remove", &data_dir, &error))
    }

    async fn offsets(&self, attempt: Attempt, asked: &Asked) -> Result<Value, TaskError> {
        let ctx = self.context(attempt).await?;
        Box::pin(offsets::carry_out(ctx, asked)).await
    }
}

impl Loops {
    async fn context(&self, attempt: Attempt) -> Result<TaskContext, TaskError> {
        let platform = &self.platform;
        let data_dir = platform
            .config
            .data_dir
            .join("tasks")
            .join(&attempt.task.task);
        tokio::fs::create_dir_all(&data_dir)
            .await
            .map_err(|error| disk_error("could not create", &data_dir, &error))?;
        Ok(TaskContext {
            cluster: platform.cluster.clone(),
            location: Arc::clone(&platform.location),
            kafka: platform.kafka.clone(),
            admin: Arc::clone(&platform.admin),
            schemas: Arc::clone(&platform.schemas),
            secrets: Arc::new(platform.secrets.of(owner_of(&attempt.task.config))),
            master_secret: platform.master_secret.clone(),
            budget: platform.budget.clone(),
            batch: platform.batch,
            session_timeout: platform.config.session_timeout,
            status: attempt.status,
            stop: attempt.stop,
            data_dir,
            metrics: Arc::clone(&platform.metrics),
            task: attempt.task,
            newest: attempt.newest,
            clock: platform.clock.clone(),
            previews: Arc::clone(&platform.previews),
            view_segment: platform.config.view_segment,
        })
    }
}

/// A full or failing disk is the world's trouble, not the task's.
fn disk_error(doing: &str, dir: &Path, error: &std::io::Error) -> TaskError {
    let message = format!("{doing} the folder {}: {error}", dir.display());
    TaskError::new(Class::Transient, message)
}
