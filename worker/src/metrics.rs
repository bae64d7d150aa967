//! What the worker counts and measures, each with its name and its meaning.
//!
//! The table below is the list that `/metrics` shows and that the golden file holds. Counted per
//! batch, not per row. Labels are bounded: a task's id, a view's name, one of the error classes. No
//! label ever carries a key, a row's value or a table's name.

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// A metric's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Seconds,
    Histogram,
}

/// A metric: its name, what it says, its kind and its labels.
#[derive(Clone, Copy, Debug)]
struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
}

/// Makes, of one table, the struct that is counted on and the list that is shown.
macro_rules! metrics {
    ($($field:ident: $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        /// Every metric of the worker, in the order of the table.
        const ALL: &[Metric] = &[
            $(Metric { name: $name, help: $help, kind: Kind::$kind, labels: &$labels },)*
        ];

        /// The worker's metrics, ready to be counted on.
        #[derive(Debug)]
        pub(crate) struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub(crate) $field: metrics!(@type $kind),)*
        }

        impl Metrics {
            /// Makes and registers all of them.
            pub(crate) fn new() -> Self {
                let registry = Registry::new();
                $(let $field: metrics!(@type $kind) = metrics!(@make $kind $name $help $labels);
                register(&registry, &$field);)*
                Self { registry, $($field,)* }
            }
        }
    };
    (@type Counter) => { IntCounterVec };
    (@type Gauge) => { IntGaugeVec };
    (@type Seconds) => { GaugeVec };
    (@type Histogram) => { HistogramVec };
    (@make Counter $name:literal $help:literal $labels:tt) => {
        IntCounterVec::new(Opts::new($name, $help), &$labels).expect("the name is valid")
    };
    (@make Gauge $name:literal $help:literal $labels:tt) => {
        IntGaugeVec::new(Opts::new($name, $help), &$labels).expect("the name is valid")
    };
    (@make Seconds $name:literal $help:literal $labels:tt) => {
        GaugeVec::new(Opts::new($name, $help), &$labels).expect("the name is valid")
    };
    (@make Histogram $name:literal $help:literal $labels:tt) => {
        HistogramVec::new(
            HistogramOpts::new($name, $help).buckets(latency_buckets()),
            &$labels,
        )
        .expect("the name is valid")
    };
}

metrics! {
    worker_info: Gauge "hutong_worker_info" ["location", "instance_id"]
        "1, with the worker's location and instance id";
    worker_partitions: Gauge "hutong_worker_task_partitions" []
        "partitions of the tasks topic that this worker owns";
    worker_tasks: Gauge "hutong_worker_tasks" ["state"]
        "tasks that this worker owns, by state";
    worker_budget_bytes: Gauge "hutong_worker_budget_bytes" []
        "size of the budget for rows on their way, in bytes";
    worker_budget_used_bytes: Gauge "hutong_worker_budget_used_bytes" []
        "bytes of the budget that are taken";
    worker_clock_ahead_seconds: Seconds "hutong_worker_broker_clock_ahead_seconds" []
        "by how much the broker's clock is ahead of this machine's, in seconds";
    worker_delivering: Gauge "hutong_worker_delivering" []
        "1 while the worker follows its tasks, 0 while it stopped delivering because it cannot";
    task_errors: Counter "hutong_task_errors_total" ["task", "class"]
        "errors that ended an attempt at running a task, by class";
    task_restarts: Counter "hutong_task_restarts_total" ["task"]
        "attempts at running a task after the first";
    task_failed: Gauge "hutong_task_failed" ["task"]
        "1 while a task is FAILED and waits for a person";
    commit_seconds: Histogram "hutong_commit_seconds" ["kind"]
        "time that one commit took, in seconds, by kind of task: source, processor, sink";
    source_events: Counter "hutong_source_events_total" ["task"]
        "change events committed to Kafka";
    source_bytes: Counter "hutong_source_bytes_total" ["task"]
        "bytes of encoded change events committed to Kafka";
    source_lag_bytes: Gauge "hutong_source_lag_bytes" ["task"]
        "bytes of the source's log written after the committed position";
    source_lag_seconds: Seconds "hutong_source_lag_seconds" ["task"]
        "age of the last committed source transaction while there are newer ones, in seconds";
    source_retained_wal_bytes: Gauge "hutong_source_retained_wal_bytes" ["task"]
        "bytes of write-ahead log that the source's server keeps for the slot";
    source_snapshot_tables: Gauge "hutong_source_snapshot_tables" ["task"]
        "tables whose rows are not all read yet";
    source_snapshot_rows: Gauge "hutong_source_snapshot_rows" ["task"]
        "rows read of all tables, while some are still being read";
    source_snapshot_left_seconds: Seconds "hutong_source_snapshot_left_seconds" ["task"]
        "time until the last row is read, at the speed of late";
    source_tables_failed: Gauge "hutong_source_tables_failed" ["task"]
        "tables that have stopped and wait for a person";
    processor_records: Counter "hutong_processor_records_total" ["task"]
        "records read from the input topic and committed";
    processor_output_records: Counter "hutong_processor_output_records_total" ["task"]
        "records committed to views, tombstones included";
    processor_lag_records: Gauge "hutong_processor_lag_records" ["task"]
        "records of the input partition after the committed offset";
    processor_view_rows: Gauge "hutong_processor_view_rows" ["task", "view"]
        "rows of the input partition that a view holds";
    sink_rows: Counter "hutong_sink_rows_total" ["task"]
        "rows upserted or deleted in the subscriber's tables and committed";
    sink_lag_records: Gauge "hutong_sink_lag_records" ["task"]
        "records of the sink's inputs after the committed offsets";
    sink_latency_seconds: Histogram "hutong_sink_latency_seconds" ["task"]
        "time from the source's commit to the subscriber's, in seconds, once per batch";
}

/// Every kind of metric with a `task` label, for forgetting a task.
macro_rules! task_metrics {
    ($metrics:expr, $task:expr, $($field:ident)*) => {
        $(drop($metrics.$field.remove_label_values(&[$task]));)*
    };
}

impl Metrics {
    /// Removes what is shown about a task that this worker no longer owns.
    pub(crate) fn forget_task(&self, task: &str) {
        task_metrics!(
            self, task,
            task_restarts task_failed source_events source_bytes source_lag_bytes
            source_lag_seconds source_retained_wal_bytes source_snapshot_tables
            source_snapshot_rows source_snapshot_left_seconds source_tables_failed
            processor_records
            processor_output_records processor_lag_records sink_rows sink_lag_records
            sink_latency_seconds
        );
        for class in ["definite", "transient", "fenced", "fatal"] {
            drop(self.task_errors.remove_label_values(&[task, class]));
        }
    }

    /// Removes what is shown about one view of a task.
    pub(crate) fn forget_view(&self, task: &str, view: &str) {
        drop(self.processor_view_rows.remove_label_values(&[task, view]));
    }

    /// Returns all of them in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("writing into memory does not fail");
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: &C) {
    registry
        .register(Box::new(metric.clone()))
        .expect("names in the table are distinct");
}

/// From a millisecond to five minutes: a commit takes a few, a subscriber far behind minutes.
fn latency_buckets() -> Vec<f64> {
    vec![
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        300.0,
    ]
}

/// Returns every metric of a worker, one per line: name, kind, labels, meaning.
pub fn list() -> String {
    let mut text = String::new();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge | Kind::Seconds => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = metric.labels.join(", ");
        text.push_str(&format!(
            "{} {kind} [{labels}] {}\n",
            metric.name, metric.help
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ALL, Metrics, list};

    #[test]
    fn the_list_of_metrics_is_the_golden_one() {
        insta::assert_snapshot!(list());
    }

    #[test]
    fn names_carry_the_product_and_a_counter_ends_in_total() {
        for metric in ALL {
            assert!(metric.name.starts_with("hutong_"), "{}", metric.name);
            let counts = metric.kind == super::Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
        }
    }

    #[test]
    fn a_forgotten_task_is_shown_no_more() {
        let metrics = Metrics::new();
        metrics
            .source_events
            .with_label_values(&["gone-task"])
            .inc_by(7);
        metrics
            .task_errors
            .with_label_values(&["gone-task", "fatal"])
            .inc();
        assert!(metrics.render().contains("gone-task"));
        metrics.forget_task("gone-task");
        assert!(!metrics.render().contains("gone-task"));
    }
}
