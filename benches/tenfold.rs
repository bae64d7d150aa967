//! `tenfold_…`, `memory_transaction`: ten times the rows, which are made once: ten million inserts in a
//! hundred thousand transactions. The stream drains their log into a topic, the view reads that topic,
//! the sink the view's. As many rows again follow in one transaction, and the snapshot reads them all.

use anyhow::{Context, Result, ensure};

use crate::figures::Figures;
use crate::load::{self, Kind};
use crate::stand::Stand;
use crate::stream::{self, Log};
use crate::view::{self, Table};
use crate::{echo, sink, snapshot};

const NAME: &str = "tenfold";
const TRANSACTION: &str = "memory_transaction";
const ROWS: u64 = 10_000_000;

/// Runs the benchmarks, all or none, as each needs what the one before it has made.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if !figures.wants(NAME) && !figures.wants(TRANSACTION) {
        return Ok(());
    }
    let set = ("tenfold_stream", Kind::Inserts, ROWS, "–");
    let logs = stream::measure(stand, figures, set, 1).await?;
    let log = logs.into_iter().next().context("a log")?;
    let table = Table::of_topic(&log.connector, &log.topic, ROWS);

    let turn = table.alone(stand).await?;
    view::report(figures, "tenfold_view", &[turn], "–");
    sink::from_table(stand, figures, &table, "tenfold_sink", 1).await?;
    transaction(stand, figures, &log).await?;
    table.release(stand).await?;

    let db = stand.source_db().await?;
    db.batch_execute("delete from bench where id < 0").await?;
    snapshot::of_table(stand, figures, "tenfold_snapshot", 2 * ROWS, 1).await
}

/// What the worker holds at most where a budget counted in rows would fail.
async fn transaction(stand: &mut Stand, figures: &mut Figures, log: &Log) -> Result<()> {
    stand.fresh_worker().await?;
    let db = stand.source_db().await?;
    stand.want(&log.connector, "resume").await?;
    stand.wait_running(&log.connector).await?;
    stand.wait_active(&db, &log.connector).await?;
    let base = stand.end(&log.topic)?;
    load::at_once(&db, 1, ROWS).await?;
    let rows = i64::try_from(ROWS)?;
    stand
        .wait_end(&log.topic, base + rows, async || Ok(true))
        .await?;
    let found = echo::count(stand.bootstrap(), &log.topic, base)?;
    ensure!(found == ROWS, "{found} of {ROWS} rows are in {}", log.topic);
    figures.plain(TRANSACTION, stand.worker_peak()?, "MiB", "≤ 256");
    Ok(())
}
