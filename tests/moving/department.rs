//! The department: its tables, sessions that change them without end, and the ledger that knows what
//! they did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use hutong_local::testkit::Database;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use crate::exactly_once::ledger::connect;

/// Rows that are there before the connector begins, by table.
const INITIAL: [(&str, i64); 4] = [
    ("person", 2_000),
    ("account", 800),
    ("scrap", 200),
    ("extra", 1_500),
];

/// Creates tables and rows. What the ledger holds of them has the operation `r`.
pub(super) async fn install(database: &Database) -> Result<()> {
    let client = database.connect().await?;
    client.batch_execute(include_str!("department.sql")).await?;
    for (table, rows) in INITIAL {
        client.batch_execute(&insert(table, 1, rows, 0)).await?;
    }
    client
        .batch_execute("update ledger.entry set op = 'r'")
        .await?;
    Ok(())
}

fn insert(table: &str, low: i64, high: i64, pick: i64) -> String {
    format!(
        "insert into reg.{table} (id, region, n, note)
         select i, ledger.region(i + {pick}), (i * 7 + {pick}) % 100, {note}
         from generate_series({low}, {high}) i on conflict (id) do nothing;",
        note = note("i", table, pick)
    )
}

/// One in so many rows of `reg.person` has a value that is stored out of line. A move to another key
/// keeps that.
const LARGE: i64 = 40;

/// Returns whether an update may leave a value of the row out of the log. Such a value is read again,
/// and where the row has gone on by then the event shows it as read: later events of the key then
/// show what it was before.
pub(super) fn is_read_again(table: &str, key: i64) -> bool {
    table == "person" && key % LARGE == 0
}

fn note(id: &str, table: &str, pick: i64) -> String {
    let large = match table {
        "person" => format!("when {id} % {LARGE} = 0 then repeat(md5(({id} + {pick})::text), 80)"),
        _ => String::new(),
    };
    format!("case {large} when {id} % 3 = 0 then 'note ' || ({id} + {pick}) end")
}

/// Sessions that change the tables until they are stopped.
pub(super) struct Workload {
    gate: Arc<RwLock<()>>,
    is_over: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    sessions: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts some sessions, each drawing from its own seed.
    pub(super) fn start(database: &Database, seed: u64) -> Self {
        let mut workload = Self {
            gate: Arc::default(),
            is_over: Arc::default(),
            committed: Arc::default(),
            sessions: Vec::new(),
        };
        for session in 0..3 {
            let random = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(session));
            let session = run(
                database.url.clone(),
                random,
                Arc::clone(&workload.gate),
                Arc::clone(&workload.is_over),
                Arc::clone(&workload.committed),
            );
            workload.sessions.push(tokio::spawn(session));
        }
        workload
    }

    /// Lets every session end its transaction and begin no other, until the guard is dropped.
    pub(super) async fn pause(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Ends the sessions and returns how many transactions were committed.
    pub(super) async fn stop(&mut self) -> Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        for session in self.sessions.drain(..) {
            session.await?;
        }
        Ok(self.committed.load(Ordering::Relaxed))
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.sessions.iter().for_each(JoinHandle::abort);
    }
}

async fn run(
    url: String,
    mut random: StdRng,
    gate: Arc<RwLock<()>>,
    is_over: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
) {
    let mut client = connect(&url).await;
    while !is_over.load(Ordering::Relaxed) {
        let pass = gate.read().await;
        let sql = transaction(&mut random);
        match client.batch_execute(&sql).await {
            Ok(()) => {
                committed.fetch_add(1, Ordering::Relaxed);
            }
            // A deadlock, or a key that another session took.
            Err(_) if client.batch_execute("rollback").await.is_ok() => {}
            Err(_) => client = connect(&url).await,
        }
        drop(pass);
        tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
    }
}

/// Returns the text of a transaction.
fn transaction(random: &mut StdRng) -> String {
    let statements = if random.random_bool(0.7) {
        1
    } else {
        random.random_range(2..6)
    };
    let mut sql = String::from("begin;");
    for _ in 0..statements {
        sql.push_str(&statement(random));
    }
    sql.push_str("commit;");
    sql
}

fn statement(random: &mut StdRng) -> String {
    let (table, keys) = match random.random_range(0..100) {
        0..=54 => ("person", 2_400),
        55..=79 => ("account", 1_000),
        80..=89 => ("scrap", 300),
        _ => ("extra", 1_700),
    };
    let low = random.random_range(1..keys);
    let rows: i64 = match random.random_range(0..100) {
        0..=2 => random.random_range(50..200),
        3..=20 => random.random_range(10..30),
        _ => random.random_range(1..6),
    };
    let high = low + rows - 1;
    let pick = random.random_range(0..1_000);
    match random.random_range(0..100) {
        0..=24 => insert(table, low, high, pick),
        // A change that leaves the large values out of the log.
        25..=59 => format!(
            "update reg.{table} set n = (n + {pick}) % 100 where id between {low} and {high};"
        ),
        60..=74 => format!(
            "update reg.{table} set region = ledger.region(id + {pick}) where id between {low} and {high};"
        ),
        75..=79 => format!(
            "update reg.{table} set note = {} where id between {low} and {high};",
            note("id", table, pick)
        ),
        // Rare, because the stream stands still while the table's live keys are listed.
        80 if random.random_bool(0.05) => "truncate reg.scrap;".to_owned(),
        80..=92 => format!(
            "delete from reg.{table} where id between {low} and {};",
            low + rows / 2
        ),
        _ => format!(
            "update reg.{table} set id = {target} where id = {low}
             and not exists (select from reg.{table} where id = {target});",
            target = low + keys
        ),
    }
}
