//! How a connector fares, from what its worker reports, in Kafka Connect's words.

use hutong_transport::record::{StatusRecord, TaskState};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::App;
use crate::error::Error;
use crate::store::connectors::Connector;
use crate::store::tasks::{self, connector_task};

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
    /// What went wrong, and a hint what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
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
    let status = app.live.status(&task.location, &task.id);
    Ok(status.filter(|status| is_about(status, task.first_version)))
}

/// Returns whether a status is about this task and not about a former one of its id.
pub(crate) fn is_about(status: &StatusRecord, first_version: i64) -> bool {
    i64::try_from(status.version).is_ok_and(|version| version >= first_version)
}

/// Returns the status of a connector.
pub(crate) async fn of(app: &App, connector: &Connector) -> Result<ConnectorStatus, Error> {
    let reported = reported(app, connector).await?;
    let worker_id = reported
        .as_ref()
        .map_or_else(String::new, |status| status.worker_id.clone());
    let task_state = reported
        .as_ref()
        .map_or(TaskState::Unassigned, |status| status.state);
    // The connector is what decides what its tasks do. It runs as soon as a worker has it: only
    // tasks fail.
    let state = match task_state {
        TaskState::Running | TaskState::Failed | TaskState::Restarting => "RUNNING",
        TaskState::Paused => "PAUSED",
        TaskState::Stopped => "STOPPED",
        TaskState::Unassigned | TaskState::Deleted => "UNASSIGNED",
    };
    let task = TaskStatus {
        id: 0,
        state: name(task_state),
        worker_id: worker_id.clone(),
        version: VERSION,
        trace: reported.as_ref().and_then(trace),
    };
    let is_stopped = task_state == TaskState::Stopped;
    Ok(ConnectorStatus {
        name: connector.name.clone(),
        connector: State {
            state,
            worker_id,
            version: VERSION,
        },
        tasks: if is_stopped { Vec::new() } else { vec![task] },
        kind: connector.kind.clone(),
    })
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

/// Returns the positions of a connector in the form of KIP-875.
pub(crate) async fn offsets(app: &App, connector: &Connector) -> Result<Vec<Value>, Error> {
    let Some(status) = reported(app, connector).await? else {
        return Ok(Vec::new());
    };
    if connector.kind == "source" {
        let position = &status.details["position"];
        if position.is_null() {
            return Ok(Vec::new());
        }
        let server = connector.config.get("topic.prefix");
        return Ok(vec![
            json!({"partition": {"server": server}, "offset": position}),
        ]);
    }
    let mut offsets = Vec::new();
    for input in status.details["inputs"].as_array().into_iter().flatten() {
        for partition in input["partitions"].as_array().into_iter().flatten() {
            offsets.push(json!({
                "partition": {
                    "kafka_topic": input["topic"], "kafka_partition": partition["partition"],
                },
                "offset": {"kafka_offset": partition["next_offset"]},
            }));
        }
    }
    Ok(offsets)
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
