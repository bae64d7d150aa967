//! Connectors: what is wanted of them, made, listed and changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hutong_transport::record::TargetState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, TaskId, properties};
use crate::App;
use crate::caller::Caller;
use crate::connect::{self, Properties, Write, status};
use crate::error::Error;
use crate::routes::answer::{ErrorBody, Failed};
use crate::routes::body::{Body, Path};
use crate::store::connectors::Connector;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, delete))
        .routes(routes!(config, put_config, patch_config))
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

impl From<Connector> for ConnectorInfo {
    fn from(connector: Connector) -> Self {
        Self {
            tasks: super::task_ids(&connector),
            config: connector.config.0,
            kind: connector.kind,
            name: connector.name,
        }
    }
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
    // Kafka Connect ignores an expansion that it does not know, but answers with a map.
    if !query.split('&').any(|pair| pair.starts_with("expand=")) {
        return Ok(Json(connectors.into_iter().map(|c| c.name).collect()));
    }
    let mut about: Vec<Map<String, Value>> = vec![Map::new(); connectors.len()];
    if wants("status") {
        let statuses = status::of_all(&app, &connectors).await?;
        for (about, status) in about.iter_mut().zip(statuses) {
            about.insert("status".to_owned(), json!(status));
        }
    }
    let mut answer = Map::new();
    for (connector, mut about) in connectors.into_iter().zip(about) {
        let name = connector.name.clone();
        if wants("info") {
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
        connect::patch(&app, &caller, &name, &changes).await?.into(),
    ))
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
