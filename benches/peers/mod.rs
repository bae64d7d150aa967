//! The platform beside Debezium: the same tables, the same log, the same broker, exactly once on both
//! sides, one after the other in turns.
//!
//! ```text
//! make bench-peers                      all of them, three turns each
//! make bench-peers ONLY=stream TURNS=1  a short impression
//! ```
//!
//! Debezium runs in a worker of Kafka Connect in the settings that made it fastest, writes Avro through
//! our registry, and is warm: it has drained a log before anything counts. What is timed begins with
//! the first record in the topic and ends with the last, on both sides, so that neither a Java
//! machine's start nor a rebalance counts. It runs twice: with the heap at which it is fastest, and
//! with 512 MiB.

mod debezium;
mod jars;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::debezium::Debezium;
use self::jars::Jars;
use crate::figures::Figures;
use crate::load::{self, Kind};
use crate::stand::{LOOK, PATIENCE, Stand};
use crate::{echo, process};

/// The heap beyond which Debezium does not get faster.
const HEAP_BEST: u32 = 4096;
/// What a small installation gives it.
const HEAP_SMALL: u32 = 512;
/// How often a pair is measured, unless TURNS says otherwise.
pub(crate) const TURNS: usize = 3;
/// A topic that has been silent for so long has got everything.
const SILENCE: Duration = Duration::from_secs(3);

const SETS: [(&str, Kind, u64, &str); 4] = [
    ("peer_stream", Kind::Inserts, 500_000, "≥ 3"),
    ("peer_mixed", Kind::Mixed, 500_000, "≥ 3"),
    ("peer_wide", Kind::Wide, 200_000, "≥ 2"),
    ("peer_small", Kind::Small, 200_000, "≥ 2"),
];
const SNAPSHOT: (&str, u64, &str) = ("peer_snapshot", 1_000_000, "≥ 4");
const SMALL_HEAP: &str = "peer_512";

/// Runs the comparison.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    let jars = jars::fetch()?;
    println!("Debezium {} with a heap of {HEAP_BEST} MiB", jars::DEBEZIUM);
    let turns = figures.turns;
    let rival = Debezium::start(stand, &jars, HEAP_BEST).await?;
    warm_up(stand, &rival).await?;
    stand.fresh_worker().await?;
    for (name, kind, events, asked) in SETS {
        if figures.wants(name) {
            stream(stand, &rival, figures, (name, kind, events, asked), turns).await?;
        }
    }
    let (name, rows, asked) = SNAPSHOT;
    if figures.wants(name) {
        snapshot(stand, &rival, figures, (name, rows, asked), turns).await?;
    }
    let memory = (stand.worker_peak()?, rival.peak_mebibytes()?);
    figures.pairs("peer_rss", &[memory], "MiB", "≤ 1/10");
    drop(rival);
    if figures.wants(SMALL_HEAP) {
        small_heap(stand, &jars, figures).await?;
    }
    Ok(())
}

/// Fails if a program is missing without which there is nothing to compare with.
pub(crate) fn require() -> Result<()> {
    jars::require()
}

/// One drain of the log.
struct Drain {
    /// From the first record to the last.
    seconds: f64,
    /// Processor time from the order to go on to the last record.
    cpu_seconds: f64,
}

async fn warm_up(stand: &mut Stand, rival: &Debezium) -> Result<()> {
    for kind in [Kind::Inserts, Kind::Mixed] {
        both(stand, rival, kind, 300_000, true).await?;
    }
    Ok(())
}

async fn small_heap(stand: &mut Stand, jars: &Jars, figures: &mut Figures) -> Result<()> {
    let rival = Debezium::start(stand, jars, HEAP_SMALL).await?;
    warm_up(stand, &rival).await?;
    stand.fresh_worker().await?;
    let set = (SMALL_HEAP, Kind::Inserts, 500_000, "≥ 3");
    stream(stand, &rival, figures, set, 1).await?;
    let memory = (stand.worker_peak()?, rival.peak_mebibytes()?);
    figures.pairs("peer_512_rss", &[memory], "MiB", "–");
    Ok(())
}

async fn stream(
    stand: &mut Stand,
    rival: &Debezium,
    figures: &mut Figures,
    (name, kind, events, asked): (&str, Kind, u64, &'static str),
    turns: usize,
) -> Result<()> {
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        let (ours, theirs) = both(stand, rival, kind, events, turn % 2 == 0).await?;
        let rate = |drain: &Drain| events as f64 / drain.seconds;
        let cost = |drain: &Drain| drain.cpu_seconds * 1e6 / events as f64;
        rates.push((rate(&ours), rate(&theirs)));
        costs.push((cost(&ours), cost(&theirs)));
    }
    figures.pairs(name, &rates, "events/s", asked);
    figures.pairs(&format!("{name}_cpu"), &costs, "µs/event", "≤ 1/8");
    Ok(())
}

/// Makes both connectors, then the log, and lets both drain it.
async fn both(
    stand: &mut Stand,
    rival: &Debezium,
    kind: Kind,
    events: u64,
    ours_first: bool,
) -> Result<(Drain, Drain)> {
    let db = stand.source_db().await?;
    load::prepare(&db, kind, events).await?;
    let (ours, theirs) = (stand.name(), stand.name());
    stand.put(&ours, stand.source(&ours, "no_data")).await?;
    stand.wait_running(&ours).await?;
    rival
        .put(&theirs, debezium::config(stand, &theirs, "no_data"))
        .await?;
    for name in [&ours, &theirs] {
        stand.wait_active(&db, name).await?;
    }
    // A row, so that topics and plans are there.
    db.batch_execute("insert into bench select -1, 'x', null, 0, now(), 0, true")
        .await?;
    for name in [&ours, &theirs] {
        let topic = stand.topic(name);
        let first = first_record(stand, &topic, 0);
        rival.watched(&theirs, first).await?;
    }
    stand.want(&ours, "stop").await?;
    stand.wait_stopped(&ours).await?;
    rival.stop(&theirs).await?;
    load::change(&db, kind, events).await?;

    let mut drains = Vec::new();
    for turn in 0..2 {
        let is_ours = (turn == 0) == ours_first;
        let name = if is_ours { &ours } else { &theirs };
        let pid = stand.worker_pid()?;
        let cpu = || match is_ours {
            true => process::cpu_seconds(pid),
            false => rival.cpu_seconds(),
        };
        let topic = stand.topic(name);
        let base = stand.end(&topic)?;
        let before = cpu()?;
        match is_ours {
            true => stand.want(name, "resume").await?,
            false => rival.resume(name).await?,
        }
        let records = kind.records(events);
        let drained = drained(stand, &topic, base, records, cpu);
        let (seconds, cpu_seconds) = rival.watched(&theirs, drained).await?;
        drains.push(Drain {
            seconds,
            cpu_seconds: cpu_seconds - before,
        });
        match is_ours {
            true => stand.want(name, "stop").await?,
            false => rival.stop(name).await?,
        }
    }
    stand.want(&ours, "resume").await?;
    stand.wait_running(&ours).await?;
    stand.delete(&ours).await?;
    clear(stand, rival, &theirs).await?;
    echo::delete_topic(stand.bootstrap(), &stand.topic(&ours)).await?;
    let second = drains.pop().context("a second drain")?;
    let first = drains.pop().context("a first drain")?;
    Ok(match ours_first {
        true => (first, second),
        false => (second, first),
    })
}

/// Waits until a topic has so many records behind an offset. Returns the seconds from the first of
/// them to the last, and what `cpu` said when the last was there.
async fn drained(
    stand: &Stand,
    topic: &str,
    base: i64,
    records: u64,
    cpu: impl Fn() -> Result<f64>,
) -> Result<(f64, f64)> {
    let deadline = Instant::now() + PATIENCE;
    let first = first_record(stand, topic, base).await?;
    let wanted = base + i64::try_from(records)?;
    let mut end = stand.end(topic)?;
    let (mut reached, mut used) = (first, cpu()?);
    let mut counted = first;
    loop {
        // Markers of transactions take offsets too, so only silence tells, and the count.
        if end >= wanted && reached.elapsed() > SILENCE && counted.elapsed() > SILENCE {
            counted = Instant::now();
            let found = echo::count(stand.bootstrap(), topic, base)?;
            ensure!(found <= records, "{found} of {records} records in {topic}");
            if found == records {
                return Ok(((reached - first).as_secs_f64(), used));
            }
        }
        ensure!(Instant::now() < deadline, "{topic} ends at {end}");
        tokio::time::sleep(LOOK).await;
        let now = stand.end(topic)?;
        if now != end {
            (end, reached, used) = (now, Instant::now(), cpu()?);
        }
    }
}

/// Returns when a topic had its first new record.
async fn first_record(stand: &Stand, topic: &str, base: i64) -> Result<Instant> {
    stand
        .wait_end(topic, base + 1, async || Ok(true))
        .await
        .map(|_| Instant::now())
}

/// Deletes Debezium's connector with what it leaves behind.
async fn clear(stand: &Stand, rival: &Debezium, name: &str) -> Result<()> {
    rival.delete(name).await?;
    let db = stand.source_db().await?;
    stand.wait_inactive(&db, name).await?;
    db.batch_execute(&format!(
        "select pg_drop_replication_slot('{name}'); drop publication if exists {name}"
    ))
    .await?;
    echo::delete_topic(stand.bootstrap(), &stand.topic(name)).await
}

async fn snapshot(
    stand: &mut Stand,
    rival: &Debezium,
    figures: &mut Figures,
    (name, rows, asked): (&str, u64, &'static str),
    turns: usize,
) -> Result<()> {
    let db = stand.source_db().await?;
    load::prepare(&db, Kind::Inserts, rows).await?;
    load::fill(&db, rows).await?;
    load::each(&db, &["vacuum analyze bench", "checkpoint"]).await?;
    let mut rates = Vec::new();
    for turn in 0..turns {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for side in 0..2 {
            let connector = stand.name();
            let topic = stand.topic(&connector);
            let is_ours = (side == 0) == (turn % 2 == 0);
            if is_ours {
                let config = stand.source(&connector, "initial");
                stand.put(&connector, config).await?;
            } else {
                let config = debezium::config(stand, &connector, "initial");
                rival.put(&connector, config).await?;
            }
            let drained = drained(stand, &topic, 0, rows, || Ok(0.0));
            let (seconds, _) = match is_ours {
                true => drained.await?,
                false => rival.watched(&connector, drained).await?,
            };
            let rate = rows as f64 / seconds;
            if is_ours {
                ours = rate;
                stand.delete(&connector).await?;
                echo::delete_topic(stand.bootstrap(), &topic).await?;
            } else {
                theirs = rate;
                clear(stand, rival, &connector).await?;
            }
        }
        rates.push((ours, theirs));
    }
    figures.pairs(name, &rates, "rows/s", asked);
    Ok(())
}
