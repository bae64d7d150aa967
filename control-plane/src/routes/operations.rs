//! Health, readiness and metrics.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::answer::{Dialect, Failed};
use crate::App;
use crate::caller::{Caller, Role};

/// Returns the paths that need no token.
pub(crate) fn health() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

/// The process serves requests. Says nothing about database or Kafka: a restart would not help them.
async fn healthz() -> &'static str {
    "ok\n"
}

/// What is needed is there. Without Kafka most of the API still answers, so a load balancer may
/// look at the body and decide otherwise.
async fn readyz(State(app): State<Arc<App>>) -> Response {
    let mut waiting = app.live.waiting_for();
    if let Err(error) = app.store.acquire().await {
        waiting.push(format!("database: {}", error.chain()));
    }
    let status = if waiting.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = json!({"ready": waiting.is_empty(), "waiting_for": waiting});
    // Does not end readiness: what is posted is durable, and another replica may publish it.
    if let Some(error) = &*app.leader_error.lock().expect("no holder panics") {
        body["cannot_publish"] = json!(error);
    }
    (status, Json(body)).into_response()
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Prometheus' text format", body = String)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Response, Failed> {
    caller.require_platform(Role::Reader)?;
    let text = app.metrics.render();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// Counts requests by API and status.
pub(crate) async fn count(
    State((app, dialect)): State<(Arc<App>, Dialect)>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    app.metrics
        .count_request(dialect.name(), response.status().as_u16());
    response
}
