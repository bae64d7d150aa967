//! Everything moves at once: rows, the policies of views, the tables of the source; and processes are
//! killed meanwhile, on topics whose cleaner is in a hurry.
//!
//! ```text
//!  schedule ── what happens, drawn from the seed ──▶ drive ──▶ the platform
//!  department ── sessions, and the ledger ─────────────────────▶   │
//!  model ◀── versions that were acknowledged ── drive              ▼
//!    └──────────▶ check, compare ◀── every record ── tail ◀── topics, tables
//! ```
//!
//! A failure names the seed, the steps that were taken and the ends of the logs; `SOAK_SEED=n` takes
//! the same steps again. `SOAK_SEEDS=n` runs the first n seeds.

mod check;
mod compare;
mod department;
mod drive;
mod model;
mod oracle;
mod records;
mod schedule;
mod step;
mod table;
mod tail;

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use hutong_local::kafka;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use self::department::Workload;
use self::drive::Drive;
use self::model::VIEWS;
use self::step::{Kind, Step};
use self::tail::Tail;
use crate::exactly_once::ledger::seeds;
use crate::exactly_once::mortal::{Mortal, VICTIMS};
use crate::world::{ensure, wait_found};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_at_once_a_view_never_shows_what_its_policy_in_force_hides() -> Result<()>
{
    for seed in seeds() {
        let started = Instant::now();
        let done = run(seed).await.with_context(|| format!("seed {seed}"))?;
        println!("seed {seed}: {done} in {:?}", started.elapsed());
    }
    Ok(())
}

async fn run(seed: u64) -> Result<String> {
    let steps = schedule::draw(seed);
    let mut drive = begin(seed).await?;
    for (number, step) in steps.iter().enumerate() {
        let started = Instant::now();
        let taken = drive.take(step).await;
        println!(
            "seed {seed}, step {number}: {step} in {:?}",
            started.elapsed()
        );
        if let Err(error) = taken {
            return Err(error.context(failure(&drive, &steps[..=number]).await));
        }
    }
    let transactions = drive.workload.stop().await?;
    let (counts, compared) = (drive.checker.counts, drive.compared);
    let kinds: BTreeSet<Kind> = drive.performed.keys().copied().collect();
    ensure(kinds.len() == KINDS, || format!("only {kinds:?}"))?;
    ensure(
        counts.rows > 4_000
            && counts.tombstones > 400
            && counts.bounded > 1_000
            && compared > 10_000,
        || format!("too little was checked: {counts:?}, {compared} compared"),
    )?;
    Ok(format!(
        "{} steps, {transactions} transactions, {counts:?}, {compared} compared",
        steps.len()
    ))
}

/// How many kinds of steps there are: each run takes all of them.
const KINDS: usize = 26;

async fn begin(seed: u64) -> Result<Drive> {
    let broker = kafka::Options::default()
        .with("log.cleaner.backoff.ms", "200")
        .with("log.roll.ms", "1000");
    let stand = Mortal::start(broker, |options| {
        let quick = [("status_interval", "500ms"), ("view_segment", "1s")];
        for (key, value) in quick {
            options.worker.insert(key.to_owned(), json!(value));
        }
    })
    .await?;
    department::install(&stand.world.department).await?;
    let views = format!("{}.view.", stand.world.platform.cluster());
    let tables = format!("{}.", stand.world.prefix("reg"));
    let whole = whole_topics(seed, &views, &tables);
    let data = stand.kafka.folder().join("data");
    let tail = Tail::start(&stand.world.kafka, &data, &[views, tables], &whole)?;
    let Value::Object(source) = drive::source(&stand, "reg\\.(person|account|scrap)") else {
        unreachable!("a configuration is an object");
    };
    stand.world.create_connector("reg", source).await?;
    wait_slot(&stand).await?;
    let workload = Workload::start(&stand.world.department, seed);
    Ok(Drive::new(stand, tail, workload))
}

/// Waits until every further change is in the stream, which the tables are read beside.
async fn wait_slot(stand: &Mortal) -> Result<()> {
    let slot =
        "select slot_name::text from pg_replication_slots where confirmed_flush_lsn is not null";
    let department = &stand.world.department;
    wait_found("the slot to have its place", department, slot).await
}

/// Half of the topics keep what was superseded for a while.
fn whole_topics(seed: u64, views: &str, tables: &str) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(!seed);
    let views = VIEWS.iter().map(|view| format!("{views}{}.", view.name));
    let names = ["person", "account", "scrap", "extra"];
    let tables = names.iter().map(|table| format!("{tables}reg.{table}"));
    views
        .chain(tables)
        .filter(|_| random.random_bool(0.5))
        .collect()
}

async fn failure(drive: &Drive, steps: &[Step]) -> String {
    let mut text = String::from("the steps were:\n");
    for step in steps {
        text.push_str(&format!("  {step}\n"));
    }
    let workers = VICTIMS.iter().filter_map(|victim| victim.worker());
    for name in workers.map(|(name, _)| name).chain(["control-plane"]) {
        let log = drive.stand.world.platform.log(name, 60);
        let log = log.lines().filter(|line| !line.contains("librdkafka"));
        let log: Vec<&str> = log.collect();
        text.push_str(&format!("the log of {name} ends:\n{}\n", log.join("\n")));
    }
    match drive.stand.world.status("reg").await {
        Ok(status) => text.push_str(&format!("the source: {status}")),
        Err(error) => text.push_str(&format!("the source: {error:#}")),
    }
    text
}
