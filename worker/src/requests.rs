//! What only a worker at the location can answer: whether a configuration works there.
//!
//! A request is a record of the tasks topic with a deadline; its answer goes to the status topic
//! under the same key. Who asked has stopped waiting after the deadline, so a late request is not
//! answered at all. Answering twice, after a partition has moved, does no harm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::secret::{Secret, SecretRef, Secrets};
use hutong_connectors_core::{SINK_CLASS, SOURCE_CLASS, jdbc_sink, postgres_source};
use hutong_transport::record::{
    AnswerRecord, PropertyMistake, Record, RequestKind, RequestRecord, VERSION, request_key,
};
use serde::Deserialize;

use crate::platform::Platform;

/// A connector's configuration as tasks and requests carry it.
#[derive(Debug, Deserialize)]
pub(crate) struct ConnectorConfig {
    /// The connector's class.
    pub(crate) class: String,
    /// Its properties.
    pub(crate) properties: BTreeMap<String, String>,
}

/// Answers a request in time, or not at all.
pub(crate) async fn answer(platform: Arc<Platform>, request: RequestRecord) {
    let remaining_ms = request.deadline_ms.saturating_sub(platform.clock.now_ms());
    let Ok(remaining_ms) = u64::try_from(remaining_ms) else {
        tracing::debug!(
            request = request.request,
            "a request came after its deadline"
        );
        return;
    };
    let answering = async {
        let errors = match request.kind {
            RequestKind::Validate => validate(&platform.secrets, &request.config).await,
        };
        let answer = AnswerRecord {
            v: VERSION,
            request: request.request.clone(),
            errors: errors.into_iter().map(mistake).collect(),
            details: serde_json::Value::Null,
        };
        let key = request_key(&request.request);
        platform.publisher.publish(key, Some(answer.encode())).await
    };
    match tokio::time::timeout(Duration::from_millis(remaining_ms), answering).await {
        Ok(Ok(_)) => {}
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

fn mistake(error: PropertyError) -> PropertyMistake {
    PropertyMistake {
        property: error.property,
        message: error.message,
    }
}

async fn validate(secrets: &Secrets, config: &serde_json::Value) -> Vec<PropertyError> {
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

async fn validate_source(secrets: &Secrets, config: postgres_source::Config) -> Vec<PropertyError> {
    match password(secrets, config.connection.password.as_ref()) {
        Ok(password) => hutong_connectors_postgres::source::validate(config, password).await,
        Err(error) => vec![PropertyError::new("database.password", error)],
    }
}

async fn validate_sink(secrets: &Secrets, config: jdbc_sink::Config) -> Vec<PropertyError> {
    match password(secrets, config.connection.password.as_ref()) {
        Ok(password) => {
            hutong_connectors_postgres::sink::validate(&config, password.as_ref()).await
        }
        Err(error) => vec![PropertyError::new("connection.password", error)],
    }
}

/// Resolves a password, where the connection has one.
fn password(secrets: &Secrets, reference: Option<&SecretRef>) -> Result<Option<Secret>, String> {
    let resolved = reference.map(|reference| secrets.resolve(reference));
    resolved
        .transpose()
        .map_err(|error| crate::task::chain(&error))
}
