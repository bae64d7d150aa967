//! What a sink shows of its inputs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hutong_connectors_core::ErrorReport;
use hutong_schemas::table::TableId;
use hutong_transport::record;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::input::Input;
use crate::metrics::Metrics;
use crate::status::StatusHandle;
use crate::task::TaskContext;

/// What becomes of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InputState {
    /// Its table is being taken over. Ends when it is delivered, or by an error.
    Opening,
    /// Its table is kept equal to it. Ends with its grant, by an error, or when something else is
    /// wanted.
    Live,
    /// Something outside keeps it from being delivered; it is tried again.
    Waiting,
    /// Its grant has ended and its table is being emptied.
    Emptying,
    /// Its grant has ended and its table is empty. Ends with a new version of the task.
    Emptied,
    /// A definite error stopped it. Ends with a restart or a new version of the task.
    Failed,
    /// The task is paused or stopped, and the grant stands.
    Left,
}

impl InputState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Live => "live",
            Self::Waiting => "waiting",
            Self::Emptying => "emptying",
            Self::Emptied => "emptied",
            Self::Failed => "failed",
            Self::Left => "paused",
        }
    }
}

/// So many inputs say in the task's own status what is wrong with them; the details tell of all.
const HINDRANCES_MAX: usize = 5;

/// The states of all inputs, written by the lanes and published by the loop.
#[derive(Debug)]
pub(super) struct Board {
    task: String,
    status: StatusHandle,
    metrics: Arc<Metrics>,
    /// A `std` mutex: held for a few assignments, never across an await.
    entries: Mutex<Vec<Entry>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    topic: String,
    view: Option<String>,
    generation: u64,
    version: u64,
    table: TableId,
    state: InputState,
    rows_applied_total: u64,
    rows_emptied: Option<u64>,
    dead_letters: usize,
    is_rebuilding: bool,
    swept_generation: Option<u64>,
    latencies: Latencies,
    /// By partition.
    partitions: BTreeMap<i32, Offsets>,
    error: Option<ErrorReport>,
}

#[derive(Clone, Copy, Debug)]
struct Offsets {
    next: i64,
    end: i64,
}

impl Board {
    pub(super) fn new(ctx: &TaskContext, inputs: &[(Input, TableId)]) -> Self {
        // What a task that rests shows of its positions is what it last knew.
        let last = ctx.status.last_details();
        let entry = |(input, table): &(Input, TableId)| Entry {
            name: input.name.clone(),
            topic: input.topic.clone(),
            view: input.view.clone(),
            generation: input.generation,
            version: input.version,
            table: table.clone(),
            state: InputState::Opening,
            rows_applied_total: 0,
            rows_emptied: None,
            dead_letters: 0,
            is_rebuilding: false,
            swept_generation: None,
            latencies: Latencies::default(),
            partitions: last_offsets(&last, input),
            error: None,
        };
        Self {
            task: ctx.task.task.clone(),
            status: ctx.status.clone(),
            metrics: Arc::clone(&ctx.metrics),
            entries: Mutex::new(inputs.iter().map(entry).collect()),
            changed: watch::Sender::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when an input has got into another state.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn any(&self, state: InputState) -> bool {
        self.lock().iter().any(|entry| entry.state == state)
    }

    /// Says that an input goes on, or is about to.
    pub(super) fn is(&self, index: usize, state: InputState) {
        self.set(index, state, |entry| {
            if state == InputState::Live {
                entry.error = None;
            }
            if state == InputState::Opening {
                // What another topic said of itself.
                entry.partitions.clear();
            }
        });
    }

    /// Takes up what is newly wanted of an input.
    pub(super) fn wants(&self, index: usize, input: &Input) {
        let mut entries = self.lock();
        let entry = &mut entries[index];
        entry.topic.clone_from(&input.topic);
        entry.generation = input.generation;
        entry.version = input.version;
    }

    fn set(&self, index: usize, state: InputState, change: impl FnOnce(&mut Entry)) {
        {
            let mut entries = self.lock();
            let entry = &mut entries[index];
            entry.state = state;
            change(entry);
        }
        self.publish_now();
        self.changed.send_replace(());
    }

    /// Returns whether every input has failed, so that nothing is left to do.
    pub(super) fn all_failed(&self) -> bool {
        let entries = self.lock();
        entries
            .iter()
            .all(|entry| entry.state == InputState::Failed)
    }

    /// Returns what keeps inputs from going on, all in one.
    pub(super) fn hindrance(&self) -> Option<record::ErrorReport> {
        let entries = self.lock();
        let mut errors = entries.iter().filter_map(|entry| entry.error.as_ref());
        let mut all = errors.next()?.clone();
        for error in errors.by_ref().take(HINDRANCES_MAX - 1) {
            all.message.push_str("; ");
            all.message.push_str(&error.message);
        }
        let more = errors.count();
        if more > 0 {
            all.message.push_str(&format!("; and {more} more inputs"));
        }
        Some(record::ErrorReport {
            class: all.class,
            message: all.message,
            hint: all.hint,
        })
    }

    pub(super) fn emptied(&self, index: usize, rows: u64) {
        self.set(index, InputState::Emptied, |entry| {
            entry.rows_emptied = Some(entry.rows_emptied.unwrap_or(0) + rows);
            entry.partitions.clear();
            entry.error = None;
        });
    }

    pub(super) fn failed(&self, index: usize, error: ErrorReport) {
        self.set(index, InputState::Failed, |entry| entry.error = Some(error));
    }

    pub(super) fn waits(&self, index: usize, state: InputState, error: ErrorReport) {
        self.set(index, state, |entry| entry.error = Some(error));
    }

    /// Says how far a partition is.
    pub(super) fn at(&self, index: usize, partition: i32, next: i64, end: i64) {
        let end = end.max(next);
        let offsets = Offsets { next, end };
        self.lock()[index].partitions.insert(partition, offsets);
    }

    /// Counts a committed batch.
    pub(super) fn applied(&self, index: usize, rows: usize, latencies_ms: &[u64]) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        let labels = &[self.task.as_str()];
        self.metrics
            .sink_rows
            .with_label_values(labels)
            .inc_by(rows);
        let histogram = self.metrics.sink_latency_seconds.with_label_values(labels);
        if let Some(worst) = latencies_ms.iter().max() {
            histogram.observe(std::time::Duration::from_millis(*worst).as_secs_f64());
        }
        let mut entries = self.lock();
        entries[index].rows_applied_total += rows;
        entries[index].latencies.extend(latencies_ms);
    }

    pub(super) fn rebuilding(&self, index: usize, is_rebuilding: bool, swept_generation: u64) {
        let is_news = {
            let mut entries = self.lock();
            let entry = &mut entries[index];
            let swept_generation = Some(swept_generation);
            let is_news = entry.swept_generation != swept_generation;
            entry.is_rebuilding = is_rebuilding;
            entry.swept_generation = swept_generation;
            is_news
        };
        if is_news {
            self.publish_now();
        }
    }

    /// Says how many records were put aside and not made up for.
    pub(super) fn letters(&self, index: usize, count: usize) {
        self.lock()[index].dead_letters = count;
    }

    pub(super) fn publish(&self) {
        self.status.details(self.details());
    }

    pub(super) fn publish_now(&self) {
        self.status.details_now(self.details());
    }

    fn details(&self) -> Value {
        let entries = self.lock();
        let lag: i64 = entries.iter().map(Entry::lag_records).sum();
        let gauge = &self.metrics.sink_lag_records;
        gauge.with_label_values(&[&self.task]).set(lag);
        let inputs: Vec<Value> = entries.iter().map(Entry::to_json).collect();
        json!({ "inputs": inputs })
    }
}

/// Returns the offsets that an earlier attempt has shown of the same topic.
fn last_offsets(details: &Value, input: &Input) -> BTreeMap<i32, Offsets> {
    let inputs = details["inputs"].as_array().into_iter().flatten();
    let same = inputs.filter(|entry| {
        entry["topic"] == input.topic.as_str() && entry["name"] == input.name.as_str()
    });
    let partitions = same.flat_map(|entry| entry["partitions"].as_array().into_iter().flatten());
    let offsets = partitions.filter_map(|partition| {
        let number = i32::try_from(partition["partition"].as_i64()?).ok()?;
        let next = partition["next_offset"].as_i64()?;
        let end = partition["end_offset"].as_i64()?;
        Some((number, Offsets { next, end }))
    });
    offsets.collect()
}

impl Entry {
    fn lag_records(&self) -> i64 {
        let lag = |offsets: &Offsets| offsets.end - offsets.next;
        self.partitions.values().map(lag).sum()
    }

    fn to_json(&self) -> Value {
        let partitions = self.partitions.iter().map(|(partition, offsets)| {
            json!({
                "partition": partition,
                "next_offset": offsets.next,
                "end_offset": offsets.end,
            })
        });
        json!({
            "name": self.name,
            "topic": self.topic,
            "view": self.view,
            "generation": self.generation,
            "version": self.version,
            "table": self.table.to_string(),
            "state": self.state.as_str(),
            "rebuilding": self.is_rebuilding,
            "swept_generation": self.swept_generation,
            "lag_records": self.lag_records(),
            "rows_applied_total": self.rows_applied_total,
            "rows_emptied": self.rows_emptied,
            "dead_letters": self.dead_letters,
            "latency_ms_p50": self.latencies.quantile(50),
            "latency_ms_p99": self.latencies.quantile(99),
            "partitions": partitions.collect::<Vec<_>>(),
            "error": self.error,
        })
    }
}

/// The latencies of the newest source transactions, from their commit to the subscriber's.
#[derive(Debug, Default)]
struct Latencies {
    newest_ms: VecDeque<u64>,
}

/// So many transactions give a 99th percentile that one of them does not decide.
const LATENCIES_MAX: usize = 2048;

impl Latencies {
    fn extend(&mut self, latencies_ms: &[u64]) {
        self.newest_ms.extend(latencies_ms);
        let surplus = self.newest_ms.len().saturating_sub(LATENCIES_MAX);
        self.newest_ms.drain(..surplus);
    }

    /// Returns the smallest latency that so many percent do not exceed.
    fn quantile(&self, percent: usize) -> Option<u64> {
        let mut sorted: Vec<u64> = self.newest_ms.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Latencies;

    #[test]
    fn quantiles_are_of_the_newest_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(50), None);
        latencies.extend(&(1..=100).collect::<Vec<u64>>());
        assert_eq!(latencies.quantile(50), Some(50));
        assert_eq!(latencies.quantile(99), Some(99));
        latencies.extend(&vec![7; 5000]);
        assert_eq!(latencies.quantile(99), Some(7));
    }
}
