//! `snapshot`: a table read into its topic, beside the server's `COPY … TO STDOUT` of it.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::cost::{self, Cost};
use crate::figures::Figures;
use crate::stand::Stand;
use crate::{echo, load, process};

const NAME: &str = "snapshot";
const ROWS: u64 = 2_000_000;

/// Runs the benchmark.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if !figures.wants(NAME) {
        return Ok(());
    }
    let db = stand.source_db().await?;
    db.batch_execute("truncate bench").await?;
    load::fill(&db, ROWS).await?;
    let turns = figures.turns;
    of_table(stand, figures, NAME, ROWS, turns).await
}

/// Measures the reading of the table as it is.
pub(crate) async fn of_table(
    stand: &mut Stand,
    figures: &mut Figures,
    name: &str,
    rows: u64,
    turns: usize,
) -> Result<()> {
    let db = stand.source_db().await?;
    load::each(&db, &["vacuum analyze bench", "checkpoint"]).await?;
    stand.fresh_worker().await?;
    let (mut pairs, mut costs) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        let mut limit = 0.0;
        if turn % 2 == 1 {
            limit = copy(stand).await?;
        }
        let (ours, cost) = ours(stand, rows).await?;
        if turn % 2 == 0 {
            limit = copy(stand).await?;
        }
        pairs.push((rows as f64 / ours, rows as f64 / limit));
        costs.push(cost);
    }
    let asked = if name == NAME { "≥ 0.20" } else { "–" };
    figures.pairs(name, &pairs, "rows/s", asked);
    cost::add(figures, name, &costs, "–");
    figures.rss(name, stand.worker_peak()?);
    Ok(())
}

/// Returns the seconds from the API's answer to the topic's end, and what a row cost.
async fn ours(stand: &mut Stand, rows: u64) -> Result<(f64, Cost)> {
    let name = stand.name();
    let topic = stand.topic(&name);
    let before = stand.cost()?;
    stand.put(&name, stand.source(&name, "initial")).await?;
    let started = Instant::now();
    stand.wait_running(&name).await?;
    let reached = stand
        .wait_end(&topic, i64::try_from(rows)?, async || Ok(true))
        .await?;
    let cost = stand.cost()?.per_event(before, rows);
    let found = echo::count(stand.bootstrap(), &topic, 0)?;
    ensure!(found == rows, "{found} of {rows} rows are in {topic}");
    stand.delete(&name).await?;
    echo::delete_topic(stand.bootstrap(), &topic).await?;
    Ok(((reached - started).as_secs_f64(), cost))
}

async fn copy(stand: &Stand) -> Result<f64> {
    let url = &stand.department.url;
    let arguments = [
        "--no-psqlrc",
        "--quiet",
        "--dbname",
        url,
        "--command",
        "copy bench to stdout",
        "--output",
        "/dev/null",
    ];
    Ok(process::run_tool("psql", &arguments).await?.as_secs_f64())
}
