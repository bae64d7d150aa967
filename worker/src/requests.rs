//! What only a worker at the location can answer: whether a configuration works there, and where a
//! task goes on.
//!
//! A request is a record of the tasks topic with a deadline; its answer goes to the status topic
//! under the same key. Who asked has stopped waiting after the deadline, so a late request is not
//! answered at all. Answering twice, after a partition has moved, does no harm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::secret::OwnerSecrets;
use hutong_connectors_core::{SINK_CLASS, SOURCE_CLASS, jdbc_sink, postgres_source};
use hutong_schemas::class::{Class, Classified};
use hutong_transport::record::{
    AnswerRecord, PropertyMistake, Record, RequestKind, RequestRecord, VERSION, request_key,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::offsets::{self, Asked};
use crate::platform::Platform;
use crate::task::TaskError;

/// A connector's configuration as tasks and requests carry it.
#[derive(Debug, Deserialize)]
pub(crate) struct ConnectorConfig {
    /// The connector's class.
    pub(crate) class: String,
    /// Its properties.
    pub(crate) properties: BTreeMap<String, String>,
}

/// Returns the task that a request is about, if only the worker that has the task can answer.
pub(crate) fn task_of(request: &RequestRecord) -> Option<String> {
    match request.kind {
        RequestKind::Offsets => Some(request.config["task"].as_str()?.to_owned()),
        RequestKind::Validate | RequestKind::Preview | RequestKind::Levels => None,
    }
}

/// Returns the organisation that a connector's configuration, as it stands in tasks and requests,
/// belongs to. Where none is named, no secret is resolved.
pub(crate) fn owner_of(config: &Value) -> &str {
    config["owner"].as_str().unwrap_or_default()
}

/// Answers a request in time, or not at all. `desk` is where the task that it is about takes
/// requests.
pub(crate) async fn answer(
    platform: Arc<Platform>,
    request: RequestRecord,
    desk: Option<mpsc::Sender<offsets::Request>>,
) {
    let remaining_ms = request.deadline_ms.saturating_sub(platform.clock.now_ms());
    let Ok(remaining_ms) = u64::try_from(remaining_ms) else {
        tracing::debug!(
            request = request.request,
            "a request came after its deadline"
        );
        return;
    };
    let answering = async {
        let (errors, details) = match request.kind {
            RequestKind::Validate => {
                let secrets = platform.secrets.of(owner_of(&request.config));
                let errors = validate(&secrets, &request.config).await;
                (errors.into_iter().map(mistake).collect(), Value::Null)
            }
            RequestKind::Offsets => change_offsets(&request.config, desk).await,
            RequestKind::Preview => {
                crate::preview::answer(&platform.previews, &request.config).await
            }
            RequestKind::Levels => {
                set_level(&request.config);
                return Ok(());
            }
        };
        let answer = AnswerRecord {
            v: VERSION,
            request: request.request.clone(),
            errors,
            details,
        };
        let key = request_key(&request.request);
        let published = platform.publisher.publish(key, Some(answer.encode())).await;
        published.map(drop)
    };
    match tokio::time::timeout(Duration::from_millis(remaining_ms), answering).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(
                request = request.request,
                error = error.message,
                "could not answer a request"
            );
        }
        Err(_) => tracing::warn!(
            request = request.request,
            "a request was not answered in time"
        ),
    }
}

/// Lets the task's supervisor read or change offsets.
async fn change_offsets(
    config: &Value,
    desk: Option<mpsc::Sender<offsets::Request>>,
) -> (Vec<PropertyMistake>, Value) {
    let answered = async {
        let asked = Asked::deserialize(config)
            .map_err(|error| TaskError::definite(format!("the request is malformed: {error}")))?;
        let gone = || TaskError::new(Class::Transient, "the task is moving to another worker");
        let desk = desk.ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        let sent = desk.send(offsets::Request { asked, reply }).await;
        sent.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    };
    match answered.await {
        Ok(details) => (Vec::new(), details),
        Err(error) => {
            let class = error.class.as_str();
            let message = match error.hint {
                Some(hint) => format!("{}; hint: {hint}", error.message),
                None => error.message,
            };
            let mistake = PropertyMistake {
                property: "offsets".to_owned(),
                message,
            };
            (vec![mistake], json!({ "class": class }))
        }
    }
}

/// Logs more or less from now on.
fn set_level(config: &Value) {
    let level = config["level"].as_str().map(hutong_logging::Level::parse);
    match (config["logger"].as_str(), level) {
        (Some(logger), Some(Ok(level))) => drop(hutong_logging::set(logger, level)),
        _ => tracing::warn!(%config, "a request to change the log's levels is malformed"),
    }
}

fn mistake(error: PropertyError) -> PropertyMistake {
    PropertyMistake {
        property: error.property,
        message: error.message,
    }
}

async fn validate(secrets: &OwnerSecrets, config: &serde_json::Value) -> Vec<PropertyError> {
    let config: ConnectorConfig = match ConnectorConfig::deserialize(config) {
        Ok(config) => config,
        Err(error) => {
            return vec![PropertyError::new(
                "connector.class",
                format!("the request is malformed: {error}"),
            )];
        }
    };
    let name = config.properties.get("name").map_or("", String::as_str);
    match config.class.as_str() {
        SOURCE_CLASS => match postgres_source::Config::parse(name, &config.properties) {
            Ok(parsed) => validate_source(secrets, parsed).await,
            Err(mistakes) => mistakes,
        },
        SINK_CLASS => match jdbc_sink::Config::parse(name, &config.properties) {
            Ok(parsed) => validate_sink(secrets, parsed).await,
            Err(mistakes) => mistakes,
        },
        other => vec![PropertyError::new(
            "connector.class",
            format!(
                "no connector has the class {other}; there are {SOURCE_CLASS} and {SINK_CLASS}"
            ),
        )],
    }
}

async fn validate_source(
    secrets: &OwnerSecrets,
    mut config: postgres_source::Config,
) -> Vec<PropertyError> {
    match secrets.unlock(&mut config.connection) {
        Ok(password) => hutong_connectors_postgres::source::validate(config, password).await,
        Err(error) => vec![unresolved("database.password", &error)],
    }
}

async fn validate_sink(
    secrets: &OwnerSecrets,
    mut config: jdbc_sink::Config,
) -> Vec<PropertyError> {
    match secrets.unlock(&mut config.connection) {
        Ok(password) => {
            hutong_connectors_postgres::sink::validate(&config, password.as_ref()).await
        }
        Err(error) => vec![unresolved("connection.password", &error)],
    }
}

fn unresolved(property: &str, error: &hutong_connectors_core::secret::Error) -> PropertyError {
    let hint = error.hint().unwrap_or_default();
    PropertyError::new(property, format!("{error}; {hint}"))
}
