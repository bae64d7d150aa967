//! What a processor shows of itself: details of its status, and metrics.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hutong_stream_processors::position::Progress;
use hutong_stream_processors::view::View;
use hutong_transport::reader::PartitionReader;
use serde_json::{Value, json};

use super::ProcessorTask;
use super::batch::Work;
use crate::task::TaskContext;

/// How often details are renewed while nothing of note happens.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the broker is asked for the end of the partition while it is far.
const END_INTERVAL: Duration = Duration::from_secs(5);

/// What was shown last, and when.
pub(super) struct Board {
    topic: String,
    partition: i32,
    end_offset: i64,
    asked_end_at: Option<Instant>,
    shown_at: Option<Instant>,
    /// Views with version and state: a change of these is published at once.
    shown: Vec<(String, u64, &'static str)>,
    /// When the runs of views that are being filled were first seen here, by name.
    runs: HashMap<String, Run>,
    is_urgent: bool,
}

/// A difference run as it was first seen, from which its speed is told.
#[derive(Clone, Copy, Debug)]
struct Run {
    generation: u32,
    mark: u32,
    filled: u64,
    since: Instant,
}

impl Board {
    pub(super) fn new(ctx: &TaskContext, task: &ProcessorTask) -> Self {
        tracing::info!(
            task = ctx.task.task,
            topic = task.topic,
            partition = task.partition,
            views = task.views.len(),
            "a processor starts"
        );
        Self {
            topic: task.topic.clone(),
            partition: task.partition,
            end_offset: 0,
            asked_end_at: None,
            shown_at: None,
            shown: Vec::new(),
            runs: HashMap::new(),
            is_urgent: true,
        }
    }

    /// Makes the next showing publish at once.
    pub(super) fn publish_now(&mut self) {
        self.is_urgent = true;
    }

    /// Stops showing views that are no longer in the task.
    pub(super) fn forget(&mut self, ctx: &TaskContext, task: &ProcessorTask) {
        for (name, _, _) in &self.shown {
            if !task.views.iter().any(|view| view.name == *name) {
                ctx.metrics.forget_view(&ctx.task.task, name);
            }
        }
    }

    /// Counts a commit.
    pub(super) fn count(&self, ctx: &TaskContext, inputs: usize, outputs: usize, started: Instant) {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let labels = [ctx.task.task.as_str()];
        let metrics = &ctx.metrics;
        let seconds = started.elapsed().as_secs_f64();
        metrics
            .commit_seconds
            .with_label_values(&["processor"])
            .observe(seconds);
        metrics
            .processor_records
            .with_label_values(&labels)
            .inc_by(count(inputs));
        metrics
            .processor_output_records
            .with_label_values(&labels)
            .inc_by(count(outputs));
    }

    /// Shows how the task fares, if it is time or something of note has happened. To be called
    /// between batches, so that only what is committed is shown.
    pub(super) async fn show(
        &mut self,
        ctx: &TaskContext,
        work: Option<&Work>,
        reader: &PartitionReader,
    ) {
        let Some(work) = work.filter(|work| work.batch.is_empty() && !work.processor.has_changes())
        else {
            return;
        };
        let views = work.processor.views();
        let now: Vec<_> = views
            .iter()
            .map(|view| {
                (
                    view.task().name.clone(),
                    view.position().version,
                    view.position().progress.name(),
                )
            })
            .collect();
        let is_urgent = self.is_urgent || now != self.shown;
        if !is_urgent && self.shown_at.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        let etas: Vec<Option<u64>> = views.iter().map(|view| self.eta_seconds(view)).collect();
        let next_offset = work.processor.position().next_offset;
        self.find_end(reader, next_offset).await;
        let details = json!({
            "topic": self.topic,
            "partition": self.partition,
            "next_offset": next_offset,
            "end_offset": self.end_offset,
            "views": views.iter().zip(etas).map(view_details).collect::<Vec<_>>(),
        });
        let lag = self.end_offset - next_offset;
        ctx.metrics
            .processor_lag_records
            .with_label_values(&[&ctx.task.task])
            .set(lag.max(0));
        for view in views {
            let rows = i64::try_from(view.rows()).unwrap_or(i64::MAX);
            let labels = [ctx.task.task.as_str(), view.task().name.as_str()];
            ctx.metrics
                .processor_view_rows
                .with_label_values(&labels)
                .set(rows);
        }
        if is_urgent {
            ctx.status.details_now(details);
        } else {
            ctx.status.details(details);
        }
        self.shown = now;
        self.shown_at = Some(Instant::now());
        self.is_urgent = false;
    }

    /// Tells when a run will have looked at every row, at the speed that it had here.
    fn eta_seconds(&mut self, view: &View) -> Option<u64> {
        let (name, position) = (&view.task().name, view.position());
        if !matches!(position.progress, Progress::Filling { .. }) {
            self.runs.remove(name);
            return None;
        }
        let run = Run {
            generation: position.generation,
            mark: position.mark,
            filled: position.filled,
            since: Instant::now(),
        };
        let seen = self.runs.entry(name.clone()).or_insert(run);
        if (seen.generation, seen.mark) != (run.generation, run.mark) {
            *seen = run;
        }
        let done = position.filled.saturating_sub(seen.filled);
        let millis = u64::try_from(seen.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let left = position.total.saturating_sub(position.filled);
        left.saturating_mul(millis)
            .checked_div(done)?
            .checked_div(1_000)
    }

    async fn find_end(&mut self, reader: &PartitionReader, next_offset: i64) {
        if reader.at_end() {
            self.end_offset = reader.position();
        } else if self
            .asked_end_at
            .is_none_or(|at| at.elapsed() >= END_INTERVAL)
        {
            self.asked_end_at = Some(Instant::now());
            // A lag that cannot be told is not worth an error: reading will have one of its own.
            if let Ok(end) = reader.end_offset().await {
                self.end_offset = end;
            }
        }
        self.end_offset = self.end_offset.max(next_offset);
    }
}

fn view_details((view, eta_seconds): (&View, Option<u64>)) -> Value {
    let position = view.position();
    let error = match &position.progress {
        Progress::Suspended { class, error, hint } => {
            json!({ "class": class, "message": error, "hint": hint })
        }
        Progress::Pending
        | Progress::Filling { .. }
        | Progress::Sweeping { .. }
        | Progress::Live
        | Progress::Expiring
        | Progress::Expired
        | Progress::Revoked => Value::Null,
    };
    json!({
        "name": view.task().name,
        "version": position.version,
        "generation": position.generation,
        "state": position.progress.name(),
        "rows": view.rows(),
        "filled": position.filled,
        "total": position.total,
        "eta_seconds": eta_seconds,
        "fill_end": position.fill_end,
        "secret_fingerprint": position.secret_fingerprint,
        "error": error,
    })
}
