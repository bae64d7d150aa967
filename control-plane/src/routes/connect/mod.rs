//! The connector API, as Kafka Connect's clients call it, one file per subject.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Failed;
use crate::App;
use crate::caller::Caller;
use crate::connect::Properties;
use crate::error::{Error, Mistake};
use crate::store::connectors::Connector;

mod connectors;
mod control;
mod loggers;
mod offsets;
mod plugins;

type Answer<T> = Result<Json<T>, Failed>;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(root))
        .merge(connectors::router())
        .merge(control::router())
        .merge(offsets::router())
        .merge(plugins::router())
        .merge(loggers::router())
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

/// A task of a connector.
#[derive(Debug, Serialize, ToSchema)]
struct TaskId {
    connector: String,
    task: u32,
}

/// Returns a connector's tasks: one, or none while it is wanted stopped.
fn task_ids(connector: &Connector) -> Vec<TaskId> {
    if connector.target == "stopped" {
        return Vec::new();
    }
    vec![TaskId {
        connector: connector.name.clone(),
        task: 0,
    }]
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
