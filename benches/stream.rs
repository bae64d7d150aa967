//! `stream…`: a slot drained into a topic, exactly once, beside the server's own receiver, which
//! throws away what it gets. Both drain the same log through slots made before it was written.

use std::time::Instant;

use anyhow::{Result, ensure};
use tokio_postgres::Client;

use crate::cost::{self, Cost};
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

/// Runs the benchmarks.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    for (name, kind, events, asked) in SETS {
        if figures.wants(name) {
            let turns = figures.turns;
            let logs = measure(stand, figures, (name, kind, events, asked), turns).await?;
            release(stand, logs).await?;
        }
    }
    Ok(())
}

/// Drains a log for nothing: the broker's Java machine compiles what it does only after it has done it
/// often.
pub(crate) async fn warm_up(stand: &mut Stand) -> Result<()> {
    println!("warming up");
    let (kind, events) = (Kind::Inserts, 1_000_000);
    let logs = prepare(stand, kind, events, 1).await?;
    for log in &logs {
        log.drain(stand, kind, events, true).await?;
    }
    release(stand, logs).await
}

/// Writes a log once and lets each turn drain it from slots of its own. Their connectors are left, stopped.
pub(crate) async fn measure(
    stand: &mut Stand,
    figures: &mut Figures,
    (name, kind, events, asked): (&str, Kind, u64, &'static str),
    turns: usize,
) -> Result<Vec<Log>> {
    stand.fresh_worker().await?;
    let logs = prepare(stand, kind, events, turns).await?;
    let (mut pairs, mut costs, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for (turn, log) in logs.iter().enumerate() {
        let pair = log.drain(stand, kind, events, turn % 2 == 0).await?;
        pairs.push((pair.ours, pair.limit));
        costs.push(pair.cost);
        bytes.push(pair.bytes);
    }
    figures.pairs(name, &pairs, "events/s", asked);
    let asked = if name == "stream" { "≤ 3" } else { "–" };
    cost::add(figures, name, &costs, asked);
    figures.plain(&format!("{name}_bytes"), median(bytes), "B/event", "–");
    figures.rss(name, stand.worker_peak()?);
    Ok(logs)
}

/// A log that a stopped connector and the server's own receiver can drain, each from its slot.
pub(crate) struct Log {
    pub(crate) connector: String,
    pub(crate) topic: String,
    /// Slot and publication of the server's own receiver.
    limit: String,
    /// The topic's end before the log.
    base: i64,
    /// The log's end.
    end: String,
}

struct Pair {
    /// Events a second.
    ours: f64,
    limit: f64,
    /// Processor time, in microseconds an event.
    cost: Cost,
    /// In the topic, an event.
    bytes: f64,
}

/// Makes so many connectors and slots, then the changes.
async fn prepare(stand: &mut Stand, kind: Kind, events: u64, count: usize) -> Result<Vec<Log>> {
    let db = stand.source_db().await?;
    load::prepare(&db, kind, events).await?;
    let mut logs = Vec::new();
    for _ in 0..count {
        let connector = stand.name();
        stand
            .put(&connector, stand.source(&connector, "no_data"))
            .await?;
        stand.wait_running(&connector).await?;
        stand.wait_active(&db, &connector).await?;
        logs.push(Log {
            topic: stand.topic(&connector),
            limit: format!("{connector}_limit"),
            connector,
            base: 0,
            end: String::new(),
        });
    }
    // A row that no view shows, so that topics and plans are there.
    db.batch_execute("insert into bench select -1, 'x', null, 0, now(), 0, false")
        .await?;
    for log in &mut logs {
        stand.wait_end(&log.topic, 1, async || Ok(true)).await?;
        stand.want(&log.connector, "stop").await?;
        stand.wait_stopped(&log.connector).await?;
        log.base = stand.end(&log.topic)?;
        let limit = &log.limit;
        let publish = format!("create publication {limit} for table bench");
        let slot = format!("select pg_create_logical_replication_slot('{limit}', 'pgoutput')");
        load::each(&db, &[&publish, &slot]).await?;
    }
    load::change(&db, kind, events).await?;
    let end = "select pg_current_wal_flush_lsn()::text";
    let end: String = db.query_one(end, &[]).await?.get(0);
    for log in &mut logs {
        log.end.clone_from(&end);
    }
    Ok(logs)
}

/// Deletes connectors, slots and topics.
async fn release(stand: &Stand, logs: Vec<Log>) -> Result<()> {
    for log in logs {
        stand.delete(&log.connector).await?;
        echo::delete_topic(stand.bootstrap(), &log.topic).await?;
    }
    Ok(())
}

impl Log {
    async fn drain(
        &self,
        stand: &mut Stand,
        kind: Kind,
        events: u64,
        ours_first: bool,
    ) -> Result<Pair> {
        let (name, topic) = (&self.connector, &self.topic);
        let db = stand.source_db().await?;
        let mut limit = 0.0;
        if !ours_first {
            limit = self.receive(stand, &db).await?;
        }
        let topic_bytes = stand.topic_bytes(topic)?;
        let before = stand.cost()?;
        stand.want(name, "resume").await?;
        let started = stand.wait_active(&db, name).await?;
        let records = i64::try_from(kind.records(events))?;
        let passed = "select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = $2";
        let reached = stand
            .wait_end(topic, self.base + records, async || {
                Ok(db.query_one(passed, &[&self.end, name]).await?.get(0))
            })
            .await?;
        let cost = stand.cost()?.per_event(before, events);
        let bytes = stand.topic_bytes(topic)? - topic_bytes;
        stand.want(name, "stop").await?;
        stand.wait_stopped(name).await?;
        if ours_first {
            limit = self.receive(stand, &db).await?;
        }
        let found = echo::count(stand.bootstrap(), topic, self.base)?;
        ensure!(
            found == kind.records(events),
            "{found} records are in {topic}, {} are right",
            kind.records(events)
        );
        Ok(Pair {
            ours: events as f64 / (reached - started).as_secs_f64(),
            limit: events as f64 / limit,
            cost,
            bytes: bytes as f64 / events as f64,
        })
    }

    /// Returns how many seconds the server's own receiver takes, from the slot's being in use. The slot is
    /// dropped after it.
    async fn receive(&self, stand: &Stand, db: &Client) -> Result<f64> {
        let port = stand.department.port.to_string();
        let limit = self.limit.as_str();
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
            limit,
            "--start",
            "--no-loop",
            "--option",
            "proto_version=1",
            "--option",
            &format!("publication_names={limit}"),
            "--file",
            "/dev/null",
            "--endpos",
            &self.end,
        ];
        let receiving = process::run_tool("pg_recvlogical", &arguments);
        let (took, active) = tokio::join!(
            async { receiving.await.map(|_| Instant::now()) },
            stand.wait_active(db, limit)
        );
        let seconds = (took? - active?).as_secs_f64();
        stand.wait_inactive(db, limit).await?;
        let drop_slot = format!("select pg_drop_replication_slot('{limit}')");
        load::each(db, &[&drop_slot, &format!("drop publication {limit}")]).await?;
        Ok(seconds)
    }
}
