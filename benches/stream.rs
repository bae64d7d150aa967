//! `stream…`: a slot drained into a topic, exactly once, beside the server's own receiver, which
//! throws away what it gets. Both drain the same log through slots made before it was written.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use crate::echo;
use crate::figures::{Figures, median};
use crate::load::{self, Kind};
use crate::process;
use crate::stand::Stand;

const SETS: [(&str, Kind, u64, &str); 4] = [
    ("stream", Kind::Inserts, 1_000_000, "≥ 0.70"),
    ("stream_mixed", Kind::Mixed, 1_000_000, "≥ 0.60"),
    ("stream_wide", Kind::Wide, 300_000, "≥ 0.50"),
    ("stream_small", Kind::Small, 200_000, "≥ 0.40"),
];

/// Slot and publication of the server's own receiver.
const LIMIT: &str = "bench_limit";

/// Runs the benchmarks.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    for (name, kind, events, asked) in SETS {
        if !figures.wants(name) {
            continue;
        }
        stand.fresh_worker().await?;
        let (mut pairs, mut cpu) = (Vec::new(), Vec::new());
        for turn in 0..figures.turns {
            let pair = pair(stand, kind, events, turn % 2 == 0).await?;
            pairs.push((pair.ours, pair.limit));
            cpu.push(pair.cpu_us);
        }
        figures.pairs(name, &pairs, "events/s", asked);
        let asked = if name == "stream" { "≤ 3" } else { "–" };
        figures.plain(&format!("{name}_cpu"), median(cpu), "µs/event", asked);
        figures.rss(name, stand.worker_peak()?);
    }
    if figures.wants("tenfold_stream") {
        stand.fresh_worker().await?;
        let tenfold = pair(stand, Kind::Inserts, 10_000_000, true).await?;
        let name = "tenfold_stream";
        figures.pairs(name, &[(tenfold.ours, tenfold.limit)], "events/s", "–");
        figures.rss(name, stand.worker_peak()?);
    }
    Ok(())
}

/// Drains a log for nothing: the broker's Java machine compiles what it does only after it has done it
/// often.
pub(crate) async fn warm_up(stand: &mut Stand) -> Result<()> {
    println!("warming up");
    pair(stand, Kind::Inserts, 1_000_000, true).await?;
    Ok(())
}

struct Pair {
    /// Events a second.
    ours: f64,
    limit: f64,
    /// Processor time of the worker, in microseconds an event.
    cpu_us: f64,
}

async fn pair(stand: &mut Stand, kind: Kind, events: u64, ours_first: bool) -> Result<Pair> {
    let name = stand.name();
    let db = stand.source_db().await?;
    load::prepare(&db, kind, events).await?;
    stand.put(&name, stand.source(&name, "no_data")).await?;
    stand.wait_running(&name).await?;
    stand.wait_active(&db, &name).await?;
    // A row, so that topic and plan are there.
    db.batch_execute("insert into bench select -1, 'x', null, 0, now(), 0, true")
        .await?;
    let topic = stand.topic(&name);
    stand.wait_end(&topic, 1, async || Ok(true)).await?;
    stand.want(&name, "stop").await?;
    stand.wait_stopped(&name).await?;
    let publish = format!("create publication {LIMIT} for table bench");
    let slot = format!("select pg_create_logical_replication_slot('{LIMIT}', 'pgoutput')");
    load::each(&db, &[&publish, &slot]).await?;
    let base = stand.end(&topic)?;
    load::change(&db, kind, events).await?;
    let end: String = db
        .query_one("select pg_current_wal_flush_lsn()::text", &[])
        .await?
        .get(0);

    let mut limit = 0.0;
    if !ours_first {
        limit = receive(stand, &db, &end).await?;
    }
    let pid = stand.worker_pid()?;
    let cpu = process::cpu_seconds(pid)?;
    stand.want(&name, "resume").await?;
    let started = stand.wait_active(&db, &name).await?;
    let records = i64::try_from(kind.records(events))?;
    let passed = "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2";
    let reached = stand
        .wait_end(&topic, base + records, async || {
            Ok(db.query_one(passed, &[&end, &name]).await?.get(0))
        })
        .await?;
    let cpu = process::cpu_seconds(pid)? - cpu;
    if ours_first {
        limit = receive(stand, &db, &end).await?;
    }
    let found = echo::count(stand.bootstrap(), &topic, base)?;
    ensure!(
        found == kind.records(events),
        "{found} records are in {topic}, {} are right",
        kind.records(events)
    );
    stand.delete(&name).await?;
    db.batch_execute(&format!(
        "select pg_drop_replication_slot('{LIMIT}'); drop publication {LIMIT}"
    ))
    .await?;
    echo::delete_topic(stand.bootstrap(), &topic).await?;
    Ok(Pair {
        ours: events as f64 / (reached - started).as_secs_f64(),
        limit: events as f64 / limit,
        cpu_us: cpu * 1e6 / events as f64,
    })
}

/// Returns how many seconds the server's own receiver takes, from the slot's being in use.
async fn receive(stand: &Stand, db: &Client, end: &str) -> Result<f64> {
    let port = stand.department.port.to_string();
    let arguments = [
        "--host",
        &stand.department.host,
        "--port",
        &port,
        "--username",
        "postgres",
        "--dbname",
        &stand.department.name,
        "--slot",
        LIMIT,
        "--start",
        "--no-loop",
        "--option",
        "proto_version=1",
        "--option",
        &format!("publication_names={LIMIT}"),
        "--file",
        "/dev/null",
        "--endpos",
        end,
    ];
    let receiving = process::run_tool("pg_recvlogical", &arguments);
    let (took, active) = tokio::join!(
        async { receiving.await.map(|_| Instant::now()) },
        stand.wait_active(db, LIMIT)
    );
    Ok((took? - active?).as_secs_f64())
}
