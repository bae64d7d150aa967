//! The control plane's metrics: their names, what they say, and where they are kept.

use prometheus::{
    Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Requests answered.
const REQUESTS: (&str, &str) = (
    "hutong_control_http_requests_total",
    "requests answered, by API and HTTP status",
);
/// Records that wait to be published.
const OUTBOX_PENDING: (&str, &str) = (
    "hutong_control_outbox_pending_records",
    "records that are durable here and not yet in Kafka",
);
/// The age of the oldest of them.
const OUTBOX_AGE: (&str, &str) = (
    "hutong_control_outbox_oldest_seconds",
    "age of the oldest record that is not yet in Kafka; rises while Kafka is away",
);
/// Records that were set aside.
const OUTBOX_REFUSED: (&str, &str) = (
    "hutong_control_outbox_refused_records",
    "records that Kafka will never take and that were set aside",
);
/// How often leading failed.
const LEADER_FAILURES: (&str, &str) = (
    "hutong_control_leader_failures_total",
    "how often this replica could not lead or stopped leading by an error",
);
/// Whether this replica leads.
const LEADER: (&str, &str) = (
    "hutong_control_leader",
    "1 on the one replica that publishes and deletes, else 0",
);

/// The metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    /// Records that wait to be published.
    pub(crate) outbox_pending: IntGauge,
    /// The age of the oldest of them.
    pub(crate) outbox_oldest_seconds: Gauge,
    /// Records that were set aside.
    pub(crate) outbox_refused: IntGauge,
    /// Whether this replica leads.
    pub(crate) leader: IntGauge,
    /// How often leading failed.
    pub(crate) leader_failures: IntCounter,
}

impl Metrics {
    /// Makes them, all zero.
    pub(crate) fn new() -> Self {
        let valid = "names and labels above are valid and differ";
        let requests = IntCounterVec::new(Opts::new(REQUESTS.0, REQUESTS.1), &["api", "status"]);
        let metrics = Self {
            registry: Registry::new(),
            requests: requests.expect(valid),
            outbox_pending: IntGauge::new(OUTBOX_PENDING.0, OUTBOX_PENDING.1).expect(valid),
            outbox_oldest_seconds: Gauge::new(OUTBOX_AGE.0, OUTBOX_AGE.1).expect(valid),
            outbox_refused: IntGauge::new(OUTBOX_REFUSED.0, OUTBOX_REFUSED.1).expect(valid),
            leader: IntGauge::new(LEADER.0, LEADER.1).expect(valid),
            leader_failures: IntCounter::new(LEADER_FAILURES.0, LEADER_FAILURES.1).expect(valid),
        };
        let collectors: [Box<dyn prometheus::core::Collector>; 6] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.outbox_pending.clone()),
            Box::new(metrics.outbox_oldest_seconds.clone()),
            Box::new(metrics.leader.clone()),
            Box::new(metrics.outbox_refused.clone()),
            Box::new(metrics.leader_failures.clone()),
        ];
        for collector in collectors {
            metrics.registry.register(collector).expect(valid);
        }
        metrics
    }

    /// Counts an answered request.
    pub(crate) fn count_request(&self, api: &str, status: u16) {
        self.requests
            .with_label_values(&[api, &status.to_string()])
            .inc();
    }

    /// Returns all in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("writing to memory does not fail");
        String::from_utf8(text).expect("the format is text")
    }
}
