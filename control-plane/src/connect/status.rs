//! How a connector fares, from what its worker reports, in Kafka Connect's words.

use std::collections::HashMap;

use hutong_transport::record::{StatusRecord, TaskState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::error::Error;
use crate::store::connectors::Connector;
use crate::store::tasks::{self, Row, connector_task};

/// The status of a connector.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectorStatus {
    /// The connector.
    name: String,
    /// Whether a worker has it.
    connector: State,
    /// Its task; none while it is stopped.
    tasks: Vec<TaskStatus>,
    /// `source` or `sink`.
    #[serde(rename = "type")]
    kind: String,
}

impl ConnectorStatus {
    /// Returns whether a task of it failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.tasks
            .iter()
            .any(|task| task.state == name(TaskState::Failed))
    }

    /// Shows the tasks as they will be in a moment, when a restart of them was asked for.
    pub(crate) fn restarting(mut self) -> Self {
        for task in &mut self.tasks {
            task.state = name(TaskState::Restarting);
            task.trace = None;
            task.restarts = None;
        }
        self
    }
}

/// What something does, and on which worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct State {
    /// `UNASSIGNED`, `RUNNING`, `PAUSED`, `STOPPED`, `FAILED` or `RESTARTING`.
    state: &'static str,
    /// The worker; empty while none has it.
    worker_id: String,
    /// Our version.
    version: &'static str,
}

/// What a task does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskStatus {
    /// Always 0.
    id: u32,
    /// As of the connector.
    state: &'static str,
    /// The worker; empty while none has it.
    worker_id: String,
    /// Our version.
    version: &'static str,
    /// What went wrong, and a hint what to do; before that, why the state may be out of date.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    /// How often it was started again by itself since it last worked for a minute. Not of Kafka
    /// Connect, which never does so; absent while there is nothing to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    restarts: Option<Restarts>,
}

/// Automatic restarts of a task.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Restarts {
    /// How many there were.
    count: u64,
    /// When the first of them was decided on, in milliseconds since 1970.
    since_ms: i64,
    /// When the next attempt begins; absent while one is under way or none will be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_try_ms: Option<i64>,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Returns what a worker last said about the task that a connector has now.
pub(crate) async fn reported(
    app: &App,
    connector: &Connector,
) -> Result<Option<StatusRecord>, Error> {
    let mut db = app.store.acquire().await?;
    let Some(task) = tasks::get(&mut db, &connector_task(&connector.name)).await? else {
        return Ok(None);
    };
    Ok(reported_of(app, &task))
}

fn reported_of(app: &App, task: &Row) -> Option<StatusRecord> {
    let status = app.live.status(&task.location, &task.id);
    status.filter(|status| is_about(status, task.first_version))
}

/// Returns whether a status is about this task and not about a former one of its id.
pub(crate) fn is_about(status: &StatusRecord, first_version: i64) -> bool {
    i64::try_from(status.version).is_ok_and(|version| version >= first_version)
}

/// Returns the status of a connector.
pub(crate) async fn of(app: &App, connector: &Connector) -> Result<ConnectorStatus, Error> {
    let reported = reported(app, connector).await?;
    Ok(put_together(app, connector, reported.as_ref()))
}

/// Returns the statuses of connectors, in their order, asking the store once.
pub(crate) async fn of_all(
    app: &App,
    connectors: &[Connector],
) -> Result<Vec<ConnectorStatus>, Error> {
    let ids: Vec<_> = connectors.iter().map(|c| connector_task(&c.name)).collect();
    let mut db = app.store.acquire().await?;
    let tasks = tasks::get_all(&mut db, &ids).await?.into_iter();
    let tasks: HashMap<_, _> = tasks.map(|task| (task.id.clone(), task)).collect();
    drop(db);
    let status = |connector: &Connector| {
        let task = tasks.get(&connector_task(&connector.name));
        let reported = task.and_then(|task| reported_of(app, task));
        put_together(app, connector, reported.as_ref())
    };
    Ok(connectors.iter().map(status).collect())
}

fn put_together(
    app: &App,
    connector: &Connector,
    reported: Option<&StatusRecord>,
) -> ConnectorStatus {
    let doubt = app
        .live
        .doubt(&connector.location, &connector_task(&connector.name));
    let worker_id = reported.map_or_else(String::new, |status| status.worker_id.clone());
    let task_state = reported.map_or(TaskState::Unassigned, |status| status.state);
    // The connector is what decides what its tasks do. It runs as soon as a worker has it: only
    // tasks fail.
    let state = match task_state {
        TaskState::Running | TaskState::Failed | TaskState::Restarting => "RUNNING",
        TaskState::Paused => "PAUSED",
        TaskState::Stopped => "STOPPED",
        TaskState::Unassigned | TaskState::Deleted => "UNASSIGNED",
    };
    let restarts = reported.and_then(|status| status.restarts);
    let task = TaskStatus {
        id: 0,
        state: name(task_state),
        worker_id: worker_id.clone(),
        version: VERSION,
        trace: join(doubt, reported.and_then(trace)),
        restarts: restarts.map(|restarts| Restarts {
            count: restarts.count,
            since_ms: restarts.since_ms,
            next_try_ms: restarts.next_try_ms,
        }),
    };
    let is_stopped = task_state == TaskState::Stopped;
    ConnectorStatus {
        name: connector.name.clone(),
        connector: State {
            state,
            worker_id,
            version: VERSION,
        },
        tasks: if is_stopped { Vec::new() } else { vec![task] },
        kind: connector.kind.clone(),
    }
}

/// Returns the status of a connector's task.
pub(crate) async fn of_task(
    app: &App,
    connector: &Connector,
    task: &str,
) -> Result<TaskStatus, Error> {
    let status = of(app, connector).await?;
    let found = status
        .tasks
        .into_iter()
        .find(|known| known.id.to_string() == task);
    found.ok_or_else(|| {
        Error::not_found(format!(
            "No status found for task {}-{task}",
            connector.name
        ))
    })
}

/// Returns the name of a state.
pub(crate) fn name(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "RUNNING",
        TaskState::Paused => "PAUSED",
        TaskState::Stopped => "STOPPED",
        TaskState::Failed => "FAILED",
        TaskState::Restarting => "RESTARTING",
        TaskState::Unassigned | TaskState::Deleted => "UNASSIGNED",
    }
}

/// Returns what went wrong and what to do about it.
pub(crate) fn trace(status: &StatusRecord) -> Option<String> {
    let error = status.error.as_ref()?;
    Some(match &error.hint {
        Some(hint) => format!("{}\nhint: {hint}", error.message),
        None => error.message.clone(),
    })
}

/// Joins what is doubtful now and what was reported before.
fn join(doubt: Option<String>, reported: Option<String>) -> Option<String> {
    match (doubt, reported) {
        (Some(doubt), Some(reported)) => Some(format!("{doubt}\nreported before: {reported}")),
        (doubt, reported) => doubt.or(reported),
    }
}

/// Returns the topics that a connector writes or reads.
pub(crate) async fn topics(app: &App, connector: &Connector) -> Result<Vec<String>, Error> {
    let Some(status) = reported(app, connector).await? else {
        return Ok(Vec::new());
    };
    let parts = match connector.kind.as_str() {
        "source" => &status.details["tables"],
        _ => &status.details["inputs"],
    };
    let topics = parts.as_array().into_iter().flatten();
    let names = topics.filter_map(|part| part["topic"].as_str().map(str::to_owned));
    Ok(names.collect())
}
