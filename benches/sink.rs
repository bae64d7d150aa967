//! `sink`, `sink_update`: a view's topic into a subscriber's table, beside `COPY` of the same rows
//! into an equal table.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use crate::cost::{self, Cost};
use crate::figures::Figures;
use crate::stand::{PATIENCE, Stand};
use crate::view::{self, Table};
use crate::{load, process};

const NAME: &str = "sink";
const ROWS: u64 = 1_000_000;
const TARGET: &str = "bench_sink";

/// Runs the benchmarks.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if !figures.wants(NAME) {
        return Ok(());
    }
    let table = Table::capture(stand, ROWS).await?;
    let turns = figures.turns;
    from_table(stand, figures, &table, NAME, turns).await?;
    table.release(stand).await
}

/// Measures the delivery of a view of all rows of a table; for `sink` also that of all of them changed.
pub(crate) async fn from_table(
    stand: &mut Stand,
    figures: &mut Figures,
    table: &Table,
    name: &str,
    turns: usize,
) -> Result<()> {
    let view = stand.name();
    view::create(stand, &view::document(&view, &table.topic, "id > 0")).await?;
    view::wait_complete(stand, &view, &table.topic).await?;
    stand.fresh_worker().await?;
    let (mut pairs, mut costs) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        let mut limit = 0.0;
        if turn % 2 == 1 {
            limit = copy(stand).await?;
        }
        let sink = stand.name();
        let (ours, cost) = deliver(stand, &sink, &view, table.rows).await?;
        if turn % 2 == 0 {
            limit = copy(stand).await?;
        }
        let rate = |seconds: f64| table.rows as f64 / seconds;
        pairs.push((rate(ours), rate(limit)));
        costs.push(cost);
        if turn + 1 == turns {
            let asked = if name == NAME { "≥ 0.40" } else { "–" };
            figures.pairs(name, &pairs, "rows/s", asked);
            cost::add(figures, name, &costs, "–");
            if name == NAME {
                let (seconds, cost) = update(stand, &sink, &view, table).await?;
                figures.plain("sink_update", rate(seconds), "rows/s", "–");
                cost::add(figures, "sink_update", &[cost], "–");
            }
        }
        forget(stand, &sink).await?;
    }
    figures.rss(name, stand.worker_peak()?);
    view::drop_view(stand, &view).await
}

/// Returns the seconds from the API's answer to the last commit at the subscriber, and what a row cost.
async fn deliver(stand: &mut Stand, sink: &str, view: &str, rows: u64) -> Result<(f64, Cost)> {
    let db = stand.sink_db().await?;
    db.batch_execute("checkpoint").await?;
    let before = stand.cost()?;
    stand
        .put(sink, stand.sink(&format!("bench.view.{view}"), TARGET))
        .await?;
    let started = now();
    let end = stand.end(&view::topic_of(view))?;
    let finished = last_commit(&db, end).await?;
    let cost = stand.cost()?.per_event(before, rows);
    let found: i64 = db
        .query_one(&format!("select count(*) from {TARGET}"), &[])
        .await?
        .get(0);
    ensure!(
        u64::try_from(found)? == rows,
        "{found} of {rows} rows have arrived"
    );
    Ok((finished - started, cost))
}

/// Changes every row while the sink is stopped. Returns the seconds that it then takes, and what a row
/// cost.
async fn update(stand: &mut Stand, sink: &str, view: &str, table: &Table) -> Result<(f64, Cost)> {
    stand.want(sink, "stop").await?;
    stand.wait_stopped(sink).await?;
    let source = stand.source_db().await?;
    let before = stand.end(&table.topic)?;
    source
        .batch_execute("update bench set amount = amount + 1, kind = kind + 1")
        .await?;
    let at_least = before + i64::try_from(table.rows)?;
    stand
        .wait_end(&table.topic, at_least, async || Ok(true))
        .await?;
    view::wait_complete(stand, view, &table.topic).await?;
    let end = stand.end(&view::topic_of(view))?;
    let db = stand.sink_db().await?;
    db.batch_execute("checkpoint").await?;
    let before = stand.cost()?;
    stand.want(sink, "resume").await?;
    let started = now();
    let finished = last_commit(&db, end).await?;
    let cost = stand.cost()?.per_event(before, table.rows);
    Ok((finished - started, cost))
}

/// Waits until the sink has read to an offset, and returns when that was committed.
async fn last_commit(db: &Client, end: i64) -> Result<f64> {
    let position = "select extract(epoch from pg_xact_commit_timestamp(xmin))::float8
                    from hutong_position where next_offset >= $1";
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        // The table of positions is the sink's to make.
        if let Ok(Some(row)) = db.query_opt(position, &[&end]).await {
            return Ok(row.get(0));
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "the sink did not reach {end}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Deletes the sink, its table and its positions.
async fn forget(stand: &Stand, sink: &str) -> Result<()> {
    stand.delete(sink).await?;
    let db = stand.sink_db().await?;
    let ours = "select tablename from pg_tables where schemaname = 'public' and tablename like 'hutong\\_%'";
    for row in db.query(ours, &[]).await? {
        let name: String = row.get(0);
        db.batch_execute(&format!("drop table \"{name}\"")).await?;
    }
    db.batch_execute(&format!("drop table {TARGET}")).await?;
    Ok(())
}

/// Returns the seconds that `COPY` of the table's rows takes into an equal table.
async fn copy(stand: &Stand) -> Result<f64> {
    let db = stand.sink_db().await?;
    load::make_copy_target(&db).await?;
    let file = stand.platform.folder().join("bench-rows");
    let file = file.display().to_string();
    let source = ["--no-psqlrc", "--quiet", "--dbname", &stand.department.url];
    let out = format!("\\copy ({}) to '{file}'", load::VIEW_ROWS);
    process::run_tool("psql", &[&source[..], &["--command", &out]].concat()).await?;
    let target = ["--no-psqlrc", "--quiet", "--dbname", &stand.subscriber.url];
    let into = format!("\\copy bench_copy from '{file}'");
    let took = process::run_tool("psql", &[&target[..], &["--command", &into]].concat()).await?;
    db.batch_execute("drop table bench_copy").await?;
    std::fs::remove_file(&file)?;
    Ok(took.as_secs_f64())
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
