//! Who pays for what is measured: processor time of the worker, of the broker, of the department's
//! server and of the subscriber's. `docs/scale.md` is worked out from it.

use crate::figures::{Figures, median};

/// Below this nobody has worked for the events; in microseconds an event.
const IDLE: f64 = 0.05;

/// Processor time used, in seconds, or in microseconds an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) worker: f64,
    pub(crate) kafka: f64,
    pub(crate) department: f64,
    pub(crate) subscriber: f64,
}

impl Cost {
    /// Returns what was used since `before`, in microseconds for each of so many events.
    pub(crate) fn per_event(self, before: Self, events: u64) -> Self {
        let each = |now: f64, before: f64| (now - before) * 1e6 / events as f64;
        Self {
            worker: each(self.worker, before.worker),
            kafka: each(self.kafka, before.kafka),
            department: each(self.department, before.department),
            subscriber: each(self.subscriber, before.subscriber),
        }
    }
}

/// Adds the medians of what the turns of a benchmark cost: the worker's as `<name>_cpu`, what is asked
/// of it beside, and the servers' if they took part.
pub(crate) fn add(figures: &mut Figures, name: &str, costs: &[Cost], asked: &'static str) {
    let of = |part: fn(&Cost) -> f64| median(costs.iter().map(part).collect());
    figures.plain(&format!("{name}_cpu"), of(|cost| cost.worker), UNIT, asked);
    let servers = [
        ("kafka", of(|cost| cost.kafka)),
        ("department", of(|cost| cost.department)),
        ("subscriber", of(|cost| cost.subscriber)),
    ];
    for (server, cost) in servers {
        if cost >= IDLE {
            figures.plain(&format!("{name}_cpu_{server}"), cost, UNIT, "–");
        }
    }
}

const UNIT: &str = "µs/event";
