//! Processes are killed at random moments while changes go through; afterwards topics and tables
//! are compared with the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hutong_local::kafka;
use hutong_local::testkit::{PATIENCE, until};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::ledger::{self, History, Workload};
use super::mortal::{Mortal, VICTIMS, Victim};
use super::topic;
use crate::world::{ensure, texts};

/// Longest time from the end of the workload to equal tables.
const CATCH_UP: Duration = Duration::from_secs(90);

/// What a run did.
#[derive(Debug)]
struct Report {
    changes: usize,
    kills: usize,
    inside_transactions: usize,
    view_rows: usize,
}

impl Mortal {
    /// Registers the source, three views and their sinks.
    async fn share(&self) -> Result<()> {
        ledger::install(&self.world.department.url).await;
        self.world
            .subscriber
            .connect()
            .await?
            .batch_execute(GUARD)
            .await?;
        let mut source = self.world.source("reg", "reg\\..*");
        source.insert("hutong.location".to_owned(), json!("department"));
        // Small enough that the huge transaction goes in parts.
        source.insert("hutong.batch.bytes.max".to_owned(), json!("4194304"));
        self.world.create_connector("reg", source).await?;
        self.world.wait_state("reg", "RUNNING").await?;
        for (view, table, columns, condition) in VIEWS {
            let columns = columns.iter().map(|(name, mask)| match mask {
                Some(mask) => json!({ "name": name, "mask": mask }),
                None => json!({ "name": name }),
            });
            let columns: Vec<_> = columns.collect();
            let mut document = json!({
                "name": view, "share": "exact", "subscriber": "subscriber", "location": "center",
                "source": { "topic": self.world.topic("reg", &format!("reg.{table}")) }, "columns": columns,
            });
            if let Some(condition) = condition {
                document["where"] = json!(condition);
            }
            self.world.create_view(&document).await?;
            let mut sink = self.world.sink(view, &format!("in_{table}"));
            sink.insert("hutong.location".to_owned(), json!("subscriber"));
            self.world
                .create_connector(&format!("sink-{table}"), sink)
                .await?;
        }
        Ok(())
    }

    /// Compares everything with the ledger.
    async fn compare(&self) -> Result<(usize, usize)> {
        let mut view_rows = 0;
        for (expected, found) in COMPARISONS {
            view_rows += self.world.wait_equal(expected, found, CATCH_UP).await?;
        }
        let history = ledger::history(&self.world.department.url).await;
        let schemas = self.world.schemas().await?;
        for table in ["item", "pair", "scrap"] {
            let messages = topic::read(
                &self.world.kafka,
                &self.world.topic("reg", &format!("reg.{table}")),
            )
            .await;
            let observed = topic::observe(&messages, &schemas);
            compare_table(table, &history, &observed)?;
        }
        let torn = texts(
            &self.world.subscriber,
            "select count(*)::text from public.torn",
        )
        .await?;
        ensure(torn == ["0"], || {
            format!("{torn:?} sink commits held part of a source transaction")
        })?;
        Ok((history.values().map(Vec::len).sum(), view_rows))
    }
}

type View = (
    &'static str,
    &'static str,
    &'static [(&'static str, Option<&'static str>)],
    Option<&'static str>,
);

const VIEWS: [View; 3] = [
    (
        "items",
        "item",
        &[
            ("id", None),
            ("region", None),
            ("name", Some("SHOW_FIRST 6")),
            ("amount", None),
            ("note", None),
            ("ver", None),
        ],
        Some("region = '370705'"),
    ),
    (
        "pairs",
        "pair",
        &[("id", None), ("grp", None), ("mark", None)],
        None,
    ),
    ("scraps", "scrap", &[("id", None), ("ver", None)], None),
];

/// Each view, written apart from the product's evaluator, and what the subscriber has.
const COMPARISONS: [(&str, &str); 3] = [
    (
        "select concat_ws('|', id, region, case when length(name) <= 6 then repeat('*', length(name)) else left(name, 6) || repeat('*', length(name) - 6) end, amount, md5(note), ver)
         from reg.item where region = '370705' order by id",
        "select concat_ws('|', id, region, name, amount, md5(note), ver) from public.in_item order by id",
    ),
    (
        "select concat_ws('|', id, grp, mark) from reg.pair order by id",
        "select concat_ws('|', id, grp, mark) from public.in_pair order by id",
    ),
    (
        "select concat_ws('|', id, ver) from reg.scrap order by id",
        "select concat_ws('|', id, ver) from public.in_scrap order by id",
    ),
];

/// At the end of every sink transaction, a group whose rows differ in mark is noted.
const GUARD: &str = "
    create table public.torn (grp integer, at timestamptz default now());
    create table public.in_pair (id bigint primary key, grp integer, mark bigint);
    create index on public.in_pair (grp);
    create function public.note_torn() returns trigger language plpgsql as $$
    begin
        if exists (select from public.in_pair where grp = new.grp and mark <> new.mark) then
            insert into public.torn values (new.grp);
        end if;
        return null;
    end $$;
    create constraint trigger whole after insert or update on public.in_pair
        deferrable initially deferred for each row execute function public.note_torn();";

/// Each key's events must be the ledger's, in its order, once. Rows that the snapshot read were there
/// before the ledger began (`ver` 0).
fn compare_table(table: &str, history: &History, observed: &topic::Observed) -> Result<()> {
    let of_table = history.iter().filter(|((name, _), _)| name == table);
    let expected: BTreeMap<i64, &Vec<(char, i64)>> = of_table
        .map(|((_, key), changes)| (*key, changes))
        .collect();
    for (key, changes) in &expected {
        let found: Vec<(char, i64)> = observed
            .get(key)
            .into_iter()
            .flatten()
            .copied()
            .filter(|(op, _)| *op != 'r')
            .collect();
        let as_events: Vec<(char, i64)> = changes
            .iter()
            .map(|(op, ver)| if *op == 'd' { ('d', 0) } else { (*op, *ver) })
            .collect();
        ensure(found == as_events, || {
            let at = found
                .iter()
                .zip(&as_events)
                .position(|(one, other)| one != other);
            let at = at.unwrap_or(found.len().min(as_events.len()));
            format!(
                "{table} {key}: {} changes committed, {} in the topic; from change {at}: committed {:?}, in the topic {:?}",
                as_events.len(),
                found.len(),
                &as_events[at..as_events.len().min(at + 5)],
                &found[at..found.len().min(at + 5)]
            )
        })?;
    }
    for (key, events) in observed {
        let is_only_read = events.iter().all(|(op, ver)| *op == 'r' && *ver == 0);
        ensure(is_only_read || expected.contains_key(key), || {
            format!("{table} {key}: in the topic, never committed: {events:?}")
        })?;
    }
    Ok(())
}

async fn run(seed: u64, changes: u64) -> Result<Report> {
    let mut stand = Mortal::start(kafka::Options::default(), |_| ()).await?;
    stand.share().await?;
    let workload = Arc::new(Workload {
        seed,
        changes,
        done: AtomicU64::new(0),
    });
    let url = stand.world.department.url.clone();
    let sessions: Vec<_> = (0..3)
        .map(|session| {
            let (workload, url) = (Arc::clone(&workload), url.clone());
            tokio::spawn(async move { workload.session(&url, session).await })
        })
        .collect();
    let killed = kill_all(&mut stand, &workload, seed).await;
    if killed.is_err() {
        sessions.iter().for_each(tokio::task::JoinHandle::abort);
    }
    let (kills, inside_transactions) = killed?;
    for session in sessions {
        session.await?;
    }
    let (changes, view_rows) = stand.compare().await?;
    Ok(Report {
        changes,
        kills,
        inside_transactions,
        view_rows,
    })
}

/// Kills each process once, one of them twice, in random order, spread over the workload.
async fn kill_all(stand: &mut Mortal, workload: &Workload, seed: u64) -> Result<(usize, usize)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut victims = VICTIMS.to_vec();
    victims.push(
        [
            Victim::SourceWorker,
            Victim::ProcessorWorker,
            Victim::SinkWorker,
        ][random.random_range(0..3)],
    );
    victims.shuffle(&mut random);
    let mut inside = 0;
    for (index, victim) in victims.iter().enumerate() {
        let share = u64::try_from(index).unwrap_or(0) * workload.changes
            / u64::try_from(victims.len()).unwrap_or(1);
        until("the workload to go on", PATIENCE, async || {
            let done = workload.done.load(Ordering::Relaxed);
            Ok(if done >= share {
                Ok(())
            } else {
                Err(format!("{done} of {share} changes"))
            })
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        let started = Instant::now();
        let is_open = stand
            .kill(*victim)
            .await
            .with_context(|| format!("killing {victim:?}"))?;
        inside += usize::from(is_open);
        println!(
            "seed {seed}: killed {victim:?} after {share} changes, open transaction: {is_open}, back after {:?}",
            started.elapsed()
        );
    }
    Ok((victims.len(), inside))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_delivered_once_and_in_order_whatever_is_killed() -> Result<()> {
    for seed in ledger::seeds() {
        let started = Instant::now();
        let report = run(seed, 50_000)
            .await
            .with_context(|| format!("seed {seed}"))?;
        println!("seed {seed}: {report:?} in {:?}", started.elapsed());
        ensure(report.changes >= 100_000, || {
            format!("only {} changes were made", report.changes)
        })?;
        ensure(
            report.kills >= 8 && report.inside_transactions * 2 >= report.kills,
            || format!("{report:?}"),
        )?;
        ensure(report.view_rows > 100, || {
            format!("the views were nearly empty: {report:?}")
        })?;
    }
    Ok(())
}
