//! `latency…`: from the commit at the source to the commit at the subscriber, through a view, by the
//! servers' own timestamps of both; both servers have the machine's clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hutong_local::testkit::until;
use tokio_postgres::Client;

use crate::cost;
use crate::figures::Figures;
use crate::stand::{PATIENCE, Stand};
use crate::view;

const TARGET: &str = "bench_latency";
const WARM_UP: Duration = Duration::from_secs(5);
const DURATION: Duration = Duration::from_secs(60);
/// A transaction each.
const BEAT: Duration = Duration::from_millis(10);

/// Runs the benchmarks.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if !figures.wants("latency") {
        return Ok(());
    }
    let source = stand.source_db().await?;
    source.batch_execute("truncate bench").await?;
    stand.fresh_worker().await?;
    let (connector, view, sink) = (stand.name(), stand.name(), stand.name());
    let topic = stand.topic(&connector);
    stand
        .put(&connector, stand.source(&connector, "no_data"))
        .await?;
    stand.wait_running(&connector).await?;
    stand.wait_active(&source, &connector).await?;
    view::create(stand, &view::document(&view, &topic, "id > 0")).await?;
    stand
        .put(&sink, stand.sink(&format!("bench.view.{view}"), TARGET))
        .await?;
    stand.wait_running(&sink).await?;
    let subscriber = stand.sink_db().await?;
    let mut driver = Driver {
        source: &source,
        last_id: 0,
    };
    for (per_second, suffix, asked) in [
        (1_000, "", ["≤ 25", "≤ 80"]),
        (5_000, "_5000", ["≤ 25", "≤ 80"]),
    ] {
        driver.drive(per_second, WARM_UP).await?;
        wait_arrived(&subscriber, TARGET, driver.last_id).await?;
        let first = driver.last_id + 1;
        let before = stand.cost()?;
        let took = driver.drive(per_second, DURATION).await?;
        let kept_up = took < DURATION.mul_f64(1.05);
        ensure!(
            kept_up,
            "the source could not make {per_second} changes/s: {took:?}"
        );
        wait_arrived(&subscriber, TARGET, driver.last_id).await?;
        let changes = u64::try_from(driver.last_id - first + 1)?;
        let cost = stand.cost()?.per_event(before, changes);
        let latencies = latencies(&source, &subscriber, TARGET, first).await?;
        for (percent, asked) in [50, 99].into_iter().zip(asked) {
            figures.plain(
                &format!("latency{suffix}_p{percent}"),
                percentile(&latencies, percent),
                "ms",
                asked,
            );
        }
        cost::add(figures, &format!("latency{suffix}"), &[cost], "–");
    }
    figures.rss("latency", stand.worker_peak()?);
    stand.delete(&sink).await?;
    view::drop_view(stand, &view).await?;
    stand.delete(&connector).await
}

/// Makes rows of the table, one after the other.
pub(crate) struct Driver<'a> {
    pub(crate) source: &'a Client,
    pub(crate) last_id: i64,
}

impl Driver<'_> {
    /// Inserts rows at a steady rate and returns how long that took.
    pub(crate) async fn drive(&mut self, per_second: i64, duration: Duration) -> Result<Duration> {
        self.source
            .batch_execute("set synchronous_commit = on")
            .await?;
        let started = Instant::now();
        let beats = duration.as_millis() / BEAT.as_millis();
        for beat in 0..beats {
            let due = started + BEAT * u32::try_from(beat)?;
            tokio::time::sleep_until(due.into()).await;
            let rows = per_second / 100;
            let call = format!("call load_inserts({}, 1, {rows})", self.last_id + 1);
            self.source.batch_execute(&call).await?;
            self.last_id += rows;
        }
        Ok(started.elapsed())
    }
}

/// Waits until a row has arrived at the subscriber.
pub(crate) async fn wait_arrived(subscriber: &Client, target: &str, id: i64) -> Result<()> {
    let there = format!("select count(*) from {target} where id = $1");
    until("the last row to arrive", PATIENCE, async || {
        let found: i64 = subscriber.query_one(&there, &[&id]).await?.get(0);
        Ok(if found == 1 { Ok(()) } else { Err(found) })
    })
    .await
}

/// Returns the latencies of the rows from an id on, in milliseconds, in order.
pub(crate) async fn latencies(
    source: &Client,
    subscriber: &Client,
    target: &str,
    first: i64,
) -> Result<Vec<f64>> {
    let commits = |table: &str| {
        format!(
            "select id, extract(epoch from pg_xact_commit_timestamp(xmin))::float8
             from {table} where id >= $1"
        )
    };
    let made: HashMap<i64, f64> = source
        .query(&commits("bench"), &[&first])
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let arrived = subscriber.query(&commits(target), &[&first]).await?;
    ensure!(
        arrived.len() == made.len(),
        "{} of {} rows have arrived",
        arrived.len(),
        made.len()
    );
    let mut latencies: Vec<f64> = arrived
        .iter()
        .map(|row| (row.get::<_, f64>(1) - made[&row.get::<_, i64>(0)]) * 1000.0)
        .collect();
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Returns the value that so many of a hundred do not exceed, of values in order.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let rank = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(rank).copied().unwrap_or(f64::NAN)
}
