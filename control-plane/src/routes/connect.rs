//! The connector API, as Kafka Connect's clients call it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hutong_connectors_core::plugin::PLUGINS;
use hutong_transport::record::TargetState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ErrorBody, Failed};
use super::body::{Body, Params};
use crate::App;
use crate::caller::Caller;
use crate::connect::status::{ConnectorStatus, TaskStatus};
use crate::connect::validate::{ConfigInfos, ConfigKeyInfo};
use crate::connect::{self, Properties, Write, status, validate};
use crate::error::{Error, Mistake};
use crate::store::connectors::Connector;

type Answer<T> = Result<Json<T>, Failed>;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(root))
        .routes(routes!(list, create))
        .routes(routes!(get, delete))
        .routes(routes!(config, put_config, patch_config))
        .routes(routes!(status))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(stop))
        .routes(routes!(restart))
        .routes(routes!(tasks))
        .routes(routes!(task_status))
        .routes(routes!(restart_task))
        .routes(routes!(topics))
        .routes(routes!(offsets))
        .routes(routes!(plugins))
        .routes(routes!(plugin_config))
        .routes(routes!(validate_config))
}

/// Who answers.
#[derive(Debug, Serialize, ToSchema)]
struct Root {
    /// The release of Kafka whose API this is.
    version: &'static str,
    /// Our own release.
    commit: &'static str,
    /// The installation.
    kafka_cluster_id: String,
}

/// A connector to make.
#[derive(Debug, Deserialize, ToSchema)]
struct NewConnector {
    /// `[a-z0-9][a-z0-9_-]{0,62}`.
    name: String,
    /// Its properties.
    #[schema(value_type = BTreeMap<String, String>)]
    config: Map<String, Value>,
    /// `RUNNING`, which is the default, `PAUSED` or `STOPPED`.
    initial_state: Option<String>,
}

/// A connector.
#[derive(Debug, Serialize, ToSchema)]
struct ConnectorInfo {
    name: String,
    config: Properties,
    tasks: Vec<TaskId>,
    /// `source` or `sink`.
    #[serde(rename = "type")]
    kind: String,
}

/// A task of a connector.
#[derive(Debug, Serialize, ToSchema)]
struct TaskId {
    connector: String,
    task: u32,
}

/// A task of a connector, with its configuration.
#[derive(Debug, Serialize, ToSchema)]
struct TaskInfo {
    id: TaskId,
    config: Properties,
}

/// A plugin.
#[derive(Debug, Serialize, ToSchema)]
struct PluginInfo {
    class: &'static str,
    /// `source` or `sink`.
    #[serde(rename = "type")]
    kind: &'static str,
    version: &'static str,
}

/// Positions of a connector.
#[derive(Debug, Serialize, ToSchema)]
struct Offsets {
    #[schema(value_type = Vec<Object>)]
    offsets: Vec<Value>,
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

impl From<Connector> for ConnectorInfo {
    fn from(connector: Connector) -> Self {
        Self {
            tasks: vec![TaskId {
                connector: connector.name.clone(),
                task: 0,
            }],
            config: connector.config.0,
            kind: connector.kind,
            name: connector.name,
        }
    }
}

/// Says who answers.
#[utoipa::path(get, path = "/", tag = "connect", responses((status = 200, body = Root)))]
async fn root(State(app): State<Arc<App>>, _caller: Caller) -> Json<Root> {
    Json(Root {
        version: "4.1.0",
        commit: concat!("hutong-", env!("CARGO_PKG_VERSION")),
        kafka_cluster_id: app.cluster.to_string(),
    })
}

/// Lists connectors, with `expand=status` and `expand=info` as a map with more about each.
#[utoipa::path(get, path = "/connectors", tag = "connect",
    params(("expand" = Option<Vec<String>>, Query, description = "`status`, `info` or both")),
    responses((status = 200, body = Vec<String>)))]
async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Answer<Value> {
    let connectors = connect::list(&app, &caller).await?;
    let query = query.unwrap_or_default();
    let wants = |what: &str| {
        query
            .split('&')
            .any(|pair| pair == format!("expand={what}"))
    };
    let (with_status, with_info) = (wants("status"), wants("info"));
    if !with_status && !with_info {
        return Ok(Json(connectors.into_iter().map(|c| c.name).collect()));
    }
    let mut answer = Map::new();
    for connector in connectors {
        let mut about = Map::new();
        if with_status {
            about.insert(
                "status".to_owned(),
                json!(status::of(&app, &connector).await?),
            );
        }
        let name = connector.name.clone();
        if with_info {
            about.insert("info".to_owned(), json!(ConnectorInfo::from(connector)));
        }
        answer.insert(name, about.into());
    }
    Ok(Json(answer.into()))
}

/// Makes a connector.
#[utoipa::path(post, path = "/connectors", tag = "connect", request_body = NewConnector,
    responses((status = 201, body = ConnectorInfo), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewConnector>,
) -> Result<Response, Failed> {
    let target = match new.initial_state.as_deref() {
        None | Some("RUNNING" | "running") => TargetState::Running,
        Some("PAUSED" | "paused") => TargetState::Paused,
        Some("STOPPED" | "stopped") => TargetState::Stopped,
        Some(other) => {
            let message = format!("must be RUNNING, PAUSED or STOPPED, not \"{other}\"");
            return Err(Error::field("initial_state", message).into());
        }
    };
    let properties = properties(new.config)?;
    let (connector, _) =
        connect::write(&app, &caller, &new.name, properties, Write::Create(target)).await?;
    Ok(created(connector))
}

/// Returns a connector.
#[utoipa::path(get, path = "/connectors/{connector}", tag = "connect",
    responses((status = 200, body = ConnectorInfo), (status = 404, body = ErrorBody)))]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<ConnectorInfo> {
    Ok(Json(connect::get(&app, &caller, &name).await?.into()))
}

/// Deletes a connector. It is not listed any more; its worker then removes the slot and publication
/// that the connector made, after which its name is free again.
#[utoipa::path(delete, path = "/connectors/{connector}", tag = "connect",
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    connect::delete(&app, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns a connector's properties.
#[utoipa::path(get, path = "/connectors/{connector}/config", tag = "connect",
    responses((status = 200, body = BTreeMap<String, String>), (status = 404, body = ErrorBody)))]
async fn config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Properties> {
    Ok(Json(connect::get(&app, &caller, &name).await?.config.0))
}

/// Makes a connector or replaces its properties.
#[utoipa::path(put, path = "/connectors/{connector}/config", tag = "connect",
    request_body = BTreeMap<String, String>,
    responses((status = 200, body = ConnectorInfo), (status = 201, body = ConnectorInfo),
        (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn put_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(given): Body<Map<String, Value>>,
) -> Result<Response, Failed> {
    let properties = properties(given)?;
    let (connector, is_new) =
        connect::write(&app, &caller, &name, properties, Write::Upsert).await?;
    if is_new {
        return Ok(created(connector));
    }
    Ok(Json(ConnectorInfo::from(connector)).into_response())
}

/// Changes single properties; null removes one.
#[utoipa::path(patch, path = "/connectors/{connector}/config", tag = "connect",
    request_body = BTreeMap<String, Option<String>>,
    responses((status = 200, body = ConnectorInfo), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn patch_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(given): Body<Map<String, Value>>,
) -> Answer<ConnectorInfo> {
    let removed: Vec<_> = given
        .iter()
        .filter(|(_, v)| v.is_null())
        .map(|(k, _)| k.clone())
        .collect();
    let mut changes: BTreeMap<_, _> = properties(given)?
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();
    changes.extend(removed.into_iter().map(|key| (key, None)));
    Ok(Json(
        connect::patch(&app, &caller, &name, changes).await?.into(),
    ))
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
    if !scope.only_failed || before.has_failed() {
        connect::restart(&app, &caller, &name).await?;
    }
    if scope.include_tasks || scope.only_failed {
        return Ok((
            StatusCode::ACCEPTED,
            Json(status::of(&app, &connector).await?),
        )
            .into_response());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
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
    let id = TaskId {
        connector: connector.name,
        task: 0,
    };
    Ok(Json(vec![TaskInfo {
        id,
        config: connector.config.0,
    }]))
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

/// Returns a connector's positions.
#[utoipa::path(get, path = "/connectors/{connector}/offsets", tag = "connect",
    responses((status = 200, body = Offsets), (status = 404, body = ErrorBody)))]
async fn offsets(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Offsets> {
    let connector = connect::get(&app, &caller, &name).await?;
    let offsets = status::offsets(&app, &connector).await?;
    Ok(Json(Offsets { offsets }))
}

/// Lists the plugins.
#[utoipa::path(get, path = "/connector-plugins", tag = "connect",
    responses((status = 200, body = Vec<PluginInfo>)))]
async fn plugins(_caller: Caller) -> Json<Vec<PluginInfo>> {
    let info = PLUGINS.iter().map(|plugin| PluginInfo {
        class: plugin.class,
        kind: plugin.kind.as_str(),
        version: plugin.version,
    });
    Json(info.collect())
}

/// Returns the definitions of a plugin's properties.
#[utoipa::path(get, path = "/connector-plugins/{plugin}/config", tag = "connect",
    responses((status = 200, body = Vec<ConfigKeyInfo>), (status = 404, body = ErrorBody)))]
async fn plugin_config(_caller: Caller, Path(plugin): Path<String>) -> Answer<Vec<ConfigKeyInfo>> {
    let plugin = validate::find(&plugin)?;
    Ok(Json(validate::definitions(plugin)))
}

/// Validates properties: by themselves, then with a real connection by a worker at their location.
#[utoipa::path(put, path = "/connector-plugins/{plugin}/config/validate", tag = "connect",
    request_body = BTreeMap<String, String>,
    responses((status = 200, body = ConfigInfos), (status = 404, body = ErrorBody)))]
async fn validate_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(plugin): Path<String>,
    Body(given): Body<Map<String, Value>>,
) -> Answer<ConfigInfos> {
    let plugin = validate::find(&plugin)?;
    Ok(Json(
        validate::validate(&app, &caller, plugin, properties(given)?).await?,
    ))
}

/// Returns properties as texts. Kafka Connect takes numbers and truth values too; null is none.
fn properties(given: Map<String, Value>) -> Result<Properties, Error> {
    let mut properties = Properties::new();
    let mut mistakes = Vec::new();
    for (name, value) in given {
        match value {
            Value::Null => {}
            Value::String(text) => drop(properties.insert(name, text)),
            Value::Bool(_) | Value::Number(_) => drop(properties.insert(name, value.to_string())),
            Value::Array(_) | Value::Object(_) => {
                mistakes.push(Mistake::new(name, "must be text, not an array or object"));
            }
        }
    }
    if mistakes.is_empty() {
        Ok(properties)
    } else {
        Err(Error::fields(mistakes))
    }
}

fn created(connector: Connector) -> Response {
    let mut headers = HeaderMap::new();
    let location = HeaderValue::from_str(&format!("/connectors/{}", connector.name));
    if let Ok(location) = location {
        headers.insert(header::LOCATION, location);
    }
    (
        StatusCode::CREATED,
        headers,
        Json(ConnectorInfo::from(connector)),
    )
        .into_response()
}
