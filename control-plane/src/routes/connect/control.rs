//! How connectors and their tasks fare, and what they shall do.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hutong_transport::record::TargetState;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, TaskId};
use crate::App;
use crate::caller::{Caller, Role};
use crate::connect::status::{ConnectorStatus, TaskStatus};
use crate::connect::{self, Properties, status};
use crate::error::Error;
use crate::routes::answer::{ErrorBody, Failed};
use crate::routes::body::{Params, Path};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(tasks))
        .routes(routes!(task_status))
        .routes(routes!(restart_task))
        .routes(routes!(topics))
        .routes(routes!(reset_topics))
}

/// A task of a connector, with its configuration.
#[derive(Debug, Serialize, ToSchema)]
struct TaskInfo {
    id: TaskId,
    config: Properties,
}

/// What to restart.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
struct RestartScope {
    /// The connector's task too, which is what there is to restart anyway.
    include_tasks: bool,
    /// Only if it failed.
    only_failed: bool,
}

/// Returns how a connector fares.
#[utoipa::path(get, path = "/connectors/{connector}/status", tag = "connect",
    responses((status = 200, body = ConnectorStatus), (status = 404, body = ErrorBody)))]
async fn status(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<ConnectorStatus> {
    let connector = connect::get(&app, &caller, &name)
        .await
        .map_err(|error| match error {
            Error::NotFound { .. } => {
                Error::not_found(format!("No status found for connector {name}"))
            }
            other => other,
        })?;
    Ok(Json(status::of(&app, &connector).await?))
}

/// Pauses a connector: it keeps its resources and does nothing.
#[utoipa::path(put, path = "/connectors/{connector}/pause", tag = "connect",
    responses((status = 202), (status = 404, body = ErrorBody)))]
async fn pause(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    connect::set_target(&app, &caller, &name, TargetState::Paused).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Resumes a connector that was paused or stopped.
#[utoipa::path(put, path = "/connectors/{connector}/resume", tag = "connect",
    responses((status = 202), (status = 404, body = ErrorBody)))]
async fn resume(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    connect::set_target(&app, &caller, &name, TargetState::Running).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Stops a connector: it gives up its resources.
#[utoipa::path(put, path = "/connectors/{connector}/stop", tag = "connect",
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    connect::set_target(&app, &caller, &name, TargetState::Stopped).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Restarts a connector.
#[utoipa::path(post, path = "/connectors/{connector}/restart", tag = "connect", params(RestartScope),
    responses((status = 202, description = "With parameters", body = ConnectorStatus), (status = 204),
        (status = 404, body = ErrorBody)))]
async fn restart(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Params(scope): Params<RestartScope>,
) -> Result<Response, Failed> {
    let connector = connect::get(&app, &caller, &name).await?;
    let before = status::of(&app, &connector).await?;
    let restarts = !scope.only_failed || before.has_failed();
    if restarts {
        connect::restart(&app, &caller, &name).await?;
    }
    if !scope.include_tasks && !scope.only_failed {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let shown = if restarts {
        before.restarting()
    } else {
        before
    };
    Ok((StatusCode::ACCEPTED, Json(shown)).into_response())
}

/// Lists a connector's tasks.
#[utoipa::path(get, path = "/connectors/{connector}/tasks", tag = "connect",
    responses((status = 200, body = Vec<TaskInfo>), (status = 404, body = ErrorBody)))]
async fn tasks(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Vec<TaskInfo>> {
    let connector = connect::get(&app, &caller, &name).await?;
    let ids = super::task_ids(&connector).into_iter();
    let tasks = ids.map(|id| TaskInfo {
        id,
        config: connector.config.0.clone(),
    });
    Ok(Json(tasks.collect()))
}

/// Returns how a task fares.
#[utoipa::path(get, path = "/connectors/{connector}/tasks/{task}/status", tag = "connect",
    responses((status = 200, body = TaskStatus), (status = 404, body = ErrorBody)))]
async fn task_status(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((name, task)): Path<(String, String)>,
) -> Answer<TaskStatus> {
    let connector = connect::get(&app, &caller, &name).await?;
    Ok(Json(status::of_task(&app, &connector, &task).await?))
}

/// Restarts a task.
#[utoipa::path(post, path = "/connectors/{connector}/tasks/{task}/restart", tag = "connect",
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn restart_task(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((name, task)): Path<(String, String)>,
) -> Result<StatusCode, Failed> {
    connect::get(&app, &caller, &name).await?;
    if task != "0" {
        return Err(Error::not_found(format!("Unknown task: {name}-{task}")).into());
    }
    connect::restart(&app, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the topics that a connector writes or reads.
#[utoipa::path(get, path = "/connectors/{connector}/topics", tag = "connect",
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
async fn topics(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Value> {
    let connector = connect::get(&app, &caller, &name).await?;
    let topics = status::topics(&app, &connector).await?;
    Ok(Json(json!({ name: {"topics": topics} })))
}

/// Forgets which topics a connector has used. Those are listed that it uses now, so there is nothing
/// to forget; the path is here for clients that call it.
#[utoipa::path(put, path = "/connectors/{connector}/topics/reset", tag = "connect",
    responses((status = 202), (status = 404, body = ErrorBody)))]
async fn reset_topics(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    caller.require(Role::Operator)?;
    connect::get(&app, &caller, &name).await?;
    Ok(StatusCode::ACCEPTED)
}
