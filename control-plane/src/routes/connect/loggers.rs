//! How much is logged, by this replica or by the whole cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hutong_logging::{Level, Logger};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Answer;
use crate::App;
use crate::caller::{Caller, Role};
use crate::connect::loggers;
use crate::error::Error;
use crate::routes::answer::{ErrorBody, Failed};
use crate::routes::body::{Body, Params, Path};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, set))
}

/// How much a logger says.
#[derive(Debug, Serialize, ToSchema)]
struct LoggerLevel {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `OFF`.
    level: &'static str,
    /// When that was changed while the process ran, in milliseconds since 1970.
    last_modified: Option<u64>,
}

impl From<Logger> for LoggerLevel {
    fn from(logger: Logger) -> Self {
        Self {
            level: logger.level.as_str(),
            last_modified: logger.last_modified_ms,
        }
    }
}

/// A level to set.
#[derive(Debug, Deserialize, ToSchema)]
struct WantedLevel {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `OFF`.
    level: Option<String>,
}

/// Whose loggers.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct LoggerScope {
    /// `worker`, which is the process that answers, or `cluster`: it and all workers.
    scope: Option<String>,
}

/// Lists the loggers of the process that answers.
#[utoipa::path(get, path = "/admin/loggers", tag = "connect",
    responses((status = 200, body = BTreeMap<String, LoggerLevel>)))]
async fn list(caller: Caller) -> Answer<BTreeMap<String, LoggerLevel>> {
    caller.require_platform(Role::Reader)?;
    let loggers = hutong_logging::loggers().into_iter();
    let named = loggers.map(|logger| (logger.name.clone(), logger.into()));
    Ok(Json(named.collect()))
}

/// Returns a logger of the process that answers.
#[utoipa::path(get, path = "/admin/loggers/{logger}", tag = "connect",
    responses((status = 200, body = LoggerLevel), (status = 404, body = ErrorBody)))]
async fn get(caller: Caller, Path(name): Path<String>) -> Answer<LoggerLevel> {
    caller.require_platform(Role::Reader)?;
    let found = hutong_logging::logger(&name);
    let found = found.ok_or_else(|| Error::not_found(format!("Logger {name} not found.")))?;
    Ok(Json(found.into()))
}

/// Changes how much a logger says, until the process ends.
#[utoipa::path(put, path = "/admin/loggers/{logger}", tag = "connect", params(LoggerScope),
    request_body = WantedLevel,
    responses((status = 200, description = "The loggers that changed", body = Vec<String>),
        (status = 204, description = "With scope=cluster"),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody)))]
async fn set(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Params(scope): Params<LoggerScope>,
    Body(wanted): Body<WantedLevel>,
) -> Result<Response, Failed> {
    caller.require_platform(Role::Operator)?;
    let Some(text) = wanted.level else {
        let message = "Desired 'level' parameter was not specified in request.";
        return Err(Error::invalid(message).into());
    };
    let level = Level::parse(&text).map_err(|error| Error::not_found(error.to_string()))?;
    let is_cluster = match scope.scope.as_deref() {
        None => false,
        Some(scope) if scope.eq_ignore_ascii_case("worker") => false,
        Some(scope) if scope.eq_ignore_ascii_case("cluster") => true,
        Some(other) => {
            let message = format!("must be worker or cluster, not \"{other}\"");
            return Err(Error::field("scope", message).into());
        }
    };
    if is_cluster {
        loggers::tell_workers(&app, &caller, &name, level).await?;
    }
    let changed = hutong_logging::set(&name, level);
    if is_cluster {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(Json(changed).into_response())
}
