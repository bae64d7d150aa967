//! `snapshot`: a table read into its topic, beside the server's `COPY … TO STDOUT` of it.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::figures::Figures;
use crate::stand::Stand;
use crate::{echo, load, process};

const ROWS: u64 = 2_000_000;

/// Runs the benchmark.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    for (name, rows, turns) in [
        ("snapshot", ROWS, figures.turns),
        ("tenfold_snapshot", 10 * ROWS, 1),
    ] {
        if !figures.wants(name) {
            continue;
        }
        let db = stand.source_db().await?;
        db.batch_execute("truncate bench").await?;
        load::fill(&db, rows).await?;
        load::each(&db, &["vacuum analyze bench", "checkpoint"]).await?;
        stand.fresh_worker().await?;
        let mut pairs = Vec::new();
        for turn in 0..turns {
            let mut limit = 0.0;
            if turn % 2 == 1 {
                limit = copy(stand).await?;
            }
            let ours = ours(stand, rows).await?;
            if turn % 2 == 0 {
                limit = copy(stand).await?;
            }
            pairs.push((rows as f64 / ours, rows as f64 / limit));
        }
        let asked = if name == "snapshot" {
            "≥ 0.20"
        } else {
            "–"
        };
        figures.pairs(name, &pairs, "rows/s", asked);
        figures.rss(name, stand.worker_peak()?);
    }
    Ok(())
}

/// Returns the seconds from the API's answer to the topic's end.
async fn ours(stand: &mut Stand, rows: u64) -> Result<f64> {
    let name = stand.name();
    let topic = stand.topic(&name);
    stand.put(&name, stand.source(&name, "initial")).await?;
    let started = Instant::now();
    stand.wait_running(&name).await?;
    let reached = stand
        .wait_end(&topic, i64::try_from(rows)?, async || Ok(true))
        .await?;
    let found = echo::count(stand.bootstrap(), &topic, 0)?;
    ensure!(found == rows, "{found} of {rows} rows are in {topic}");
    stand.delete(&name).await?;
    echo::delete_topic(stand.bootstrap(), &topic).await?;
    Ok((reached - started).as_secs_f64())
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
