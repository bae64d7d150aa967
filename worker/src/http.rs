//! `/metrics`, `/healthz`, `/readyz`: what monitors ask without authentication.
//!
//! Healthy is a worker whose process serves; it stays healthy while its broker is away, because a
//! restart would not bring the broker back. Ready is a worker that knows all tasks of its partitions.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::ownership::Readiness;

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
}

/// Answers until the future is dropped.
///
/// # Errors
///
/// When the listener fails.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
) -> std::io::Result<()> {
    axum::serve(listener, routes(metrics, readiness)).await
}

fn routes(metrics: Arc<Metrics>, readiness: watch::Receiver<Readiness>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(show_readiness))
        .with_state(Served { metrics, readiness })
}

async fn show_metrics(State(served): State<Served>) -> Response {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.render()).into_response()
}

async fn show_readiness(State(served): State<Served>) -> (StatusCode, &'static str) {
    match *served.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ready\n"),
        Readiness::Joining => (
            StatusCode::SERVICE_UNAVAILABLE,
            "waiting for Kafka: the platform's topics or the group of workers\n",
        ),
        Readiness::Reading => (
            StatusCode::SERVICE_UNAVAILABLE,
            "reading the tasks of newly assigned partitions\n",
        ),
        Readiness::Stale => (
            StatusCode::SERVICE_UNAVAILABLE,
            "cannot follow the tasks topic and does not deliver until it can\n",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::serve;
    use crate::metrics::Metrics;
    use crate::ownership::Readiness;

    #[tokio::test]
    async fn a_worker_without_kafka_is_healthy_and_not_ready() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (readiness, seen) = watch::channel(Readiness::Joining);
        let metrics = Arc::new(Metrics::new());
        metrics.source_events.with_label_values(&["rk-0"]).inc_by(3);
        let serving = tokio::spawn(serve(listener, metrics, seen));
        let ask = async |path: &str| {
            let answer = reqwest::get(format!("{url}{path}")).await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        assert_eq!(ask("/healthz").await.0, 200);
        let (status, text) = ask("/readyz").await;
        assert_eq!(status, 503);
        assert!(text.contains("waiting for Kafka"), "{text}");
        readiness.send_replace(Readiness::Ready);
        assert_eq!(ask("/readyz").await.0, 200);
        let (_, text) = ask("/metrics").await;
        assert!(
            text.contains("hutong_source_events_total{task=\"rk-0\"} 3"),
            "{text}"
        );
        serving.abort();
    }
}
