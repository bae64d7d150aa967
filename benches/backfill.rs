//! `backfill…`: a new view is filled from a large table while changes of that table flow through
//! another view into a subscriber's table. What counts is how much longer these take.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figures::Figures;
use crate::latency::{Driver, latencies, percentile, wait_arrived};
use crate::stand::Stand;
use crate::view::{self, Table};

const ROWS: u64 = 5_000_000;
const PER_SECOND: i64 = 1_000;
const TARGET: &str = "bench_backfill";
const WARM_UP: Duration = Duration::from_secs(5);
const BEFORE: Duration = Duration::from_secs(20);
/// Looks at the new view's state between changes.
const SLICE: Duration = Duration::from_secs(2);

/// Runs the benchmark.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if !figures.wants("backfill") {
        return Ok(());
    }
    let table = Table::capture(stand, ROWS).await?;
    stand.fresh_worker().await?;
    let (other, sink, filled) = (stand.name(), stand.name(), stand.name());
    // Of the changes only, so that the table at the subscriber is small.
    let condition = format!("id > {ROWS}");
    view::create(stand, &view::document(&other, &table.topic, &condition)).await?;
    view::wait_complete(stand, &other, &table.topic).await?;
    stand
        .put(&sink, stand.sink(&format!("bench.view.{other}"), TARGET))
        .await?;
    stand.wait_running(&sink).await?;
    let source = stand.source_db().await?;
    let subscriber = stand.sink_db().await?;
    let mut driver = Driver {
        source: &source,
        last_id: i64::try_from(ROWS)?,
    };
    driver.drive(PER_SECOND, WARM_UP).await?;
    let first = driver.last_id + 1;
    driver.drive(PER_SECOND, BEFORE).await?;
    wait_arrived(&subscriber, TARGET, driver.last_id).await?;
    let before = latencies(&source, &subscriber, TARGET, first).await?;

    let first = driver.last_id + 1;
    let began = Instant::now();
    view::create(stand, &view::document(&filled, &table.topic, "valid")).await?;
    while !view::is_complete(stand, &filled).await? {
        driver.drive(PER_SECOND, SLICE).await?;
    }
    let took = began.elapsed();
    wait_arrived(&subscriber, TARGET, driver.last_id).await?;
    let during = latencies(&source, &subscriber, TARGET, first).await?;
    let rows = view::rows(stand, &filled).await?;
    ensure!(
        rows >= ROWS * 9 / 10,
        "{rows} rows are in the view that was filled"
    );

    figures.plain("backfill", ROWS as f64 / took.as_secs_f64(), "rows/s", "–");
    let (p99_before, p99_during) = (percentile(&before, 99), percentile(&during, 99));
    figures.plain("backfill_p99", p99_during, "ms", "–");
    figures.plain("backfill_delay", p99_during - p99_before, "ms", "< 100");
    figures.plain("memory_backfill", stand.worker_peak()?, "MiB", "≤ 256");
    stand.delete(&sink).await?;
    subscriber
        .batch_execute(&format!("drop table {TARGET}"))
        .await?;
    view::drop_view(stand, &filled).await?;
    view::drop_view(stand, &other).await?;
    table.release(stand).await
}
