//! The workload of the exactly-once tests, and the ledger that knows what it did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::{Client, NoTls};

/// Rows per group of `reg.pair`.
pub(crate) const GROUP_ROWS: i64 = 5;
/// Groups of `reg.pair`.
pub(crate) const GROUPS: i32 = 40;
/// Keys of `reg.item` that small transactions fall on.
const HOT_KEYS: i64 = 4_000;
/// Where the keys of the one huge transaction begin.
const HUGE_FIRST_KEY: i64 = 1_000_000;
/// Rows of the one huge transaction.
pub(crate) const HUGE_ROWS: i64 = 50_000;

/// What happened to a key, in order: the operation (`c`, `u`, `d`) and the change's number.
pub(crate) type History = BTreeMap<(String, i64), Vec<(char, i64)>>;

/// Connects to a database, for as long as it takes (it may just have been killed), and drives the
/// connection in a task of its own.
pub(crate) async fn connect(url: &str) -> Client {
    loop {
        if let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await {
            tokio::spawn(connection);
            return client;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Creates the tables and the ledger, with the groups of `reg.pair` and a few items in them, which
/// the snapshot will read.
pub(crate) async fn install(url: &str) {
    let client = connect(url).await;
    client
        .batch_execute(include_str!("ledger.sql"))
        .await
        .unwrap();
    client
        .batch_execute(&format!(
            "insert into reg.pair
             select n, (n - 1) / {GROUP_ROWS}, 0, 0 from generate_series(1, {GROUP_ROWS} * {GROUPS}) n;
             select ledger.insert_items(1, 500, 0);
             delete from ledger.entry;
             update reg.item set ver = 0;"
        ))
        .await
        .unwrap();
}

/// Several sessions that change the tables at random, each from its own seed, until together they
/// have made enough changes.
pub(crate) struct Workload {
    /// Printed with every failure.
    pub(crate) seed: u64,
    /// The changes to make, about, apart from the huge transaction.
    pub(crate) changes: u64,
    /// Changes committed so far, about (a lost answer is not counted).
    pub(crate) done: AtomicU64,
}

impl Workload {
    /// Runs one session to the end.
    pub(crate) async fn session(&self, url: &str, session: u64) {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_mul(31).wrapping_add(session));
        let mut client = connect(url).await;
        let mut huge_pending = session == 0;
        while self.done.load(Ordering::Relaxed) < self.changes {
            if huge_pending && self.done.load(Ordering::Relaxed) * 2 > self.changes {
                huge_pending = false;
                client = commit_huge(client, url).await;
            }
            let (sql, changes) = transaction(&mut random);
            match client.batch_execute(&sql).await {
                Ok(()) => {
                    self.done.fetch_add(changes, Ordering::Relaxed);
                }
                // Killed, or a deadlock: whether it was committed, the ledger knows.
                Err(_) => client = connect(url).await,
            }
        }
        if huge_pending {
            commit_huge(client, url).await;
        }
    }
}

/// Commits the huge transaction, once, however often the server is killed meanwhile: whether a lost
/// answer stood for a commit, its first row tells, which nothing else touches.
async fn commit_huge(mut client: Client, url: &str) -> Client {
    let is_there = format!("select from reg.item where id = {HUGE_FIRST_KEY}");
    loop {
        match client.query_opt(&is_there, &[]).await {
            Ok(Some(_)) => return client,
            Ok(None) if client.batch_execute(&huge_transaction()).await.is_ok() => return client,
            Ok(None) | Err(_) => client = connect(url).await,
        }
    }
}

fn huge_transaction() -> String {
    format!(
        "select ledger.insert_items({HUGE_FIRST_KEY}, {}, 1)",
        HUGE_FIRST_KEY + HUGE_ROWS - 1
    )
}

/// Returns the text of a transaction and the number of changes it makes, about.
fn transaction(random: &mut StdRng) -> (String, u64) {
    let statements = if random.random_bool(0.7) {
        1
    } else {
        random.random_range(2..8)
    };
    let mut sql = String::from("begin;");
    let mut changes = 0;
    for _ in 0..statements {
        let low = random.random_range(1..HOT_KEYS);
        let rows: i64 = match random.random_range(0..100) {
            0..=1 => random.random_range(500..2_000),
            2..=20 => random.random_range(20..200),
            _ => random.random_range(1..10),
        };
        let high = low + rows - 1;
        let pick = random.random_range(0..1_000_i32);
        let (statement, count) = match random.random_range(0..100) {
            0..=24 => (
                format!("select ledger.insert_items({low}, {high}, {pick});"),
                rows / 2,
            ),
            25..=64 => (
                format!("select ledger.update_items({low}, {high}, {pick});"),
                rows / 2,
            ),
            65..=74 => (
                format!("select ledger.delete_items({low}, {});", low + rows / 2),
                rows / 4,
            ),
            75..=79 => (
                format!("select ledger.move_item({low}, {});", low + HOT_KEYS),
                1,
            ),
            80..=94 => (
                format!(
                    "select ledger.mark_group({});",
                    random.random_range(0..GROUPS)
                ),
                GROUP_ROWS,
            ),
            95..=98 => {
                let low = random.random_range(1..5_000_i64);
                (
                    format!("select ledger.insert_scraps({low}, {});", low + 20),
                    10,
                )
            }
            _ => ("select ledger.truncate_scraps();".to_owned(), 50),
        };
        sql.push_str(&statement);
        changes += u64::try_from(count).unwrap_or(0);
    }
    sql.push_str("commit;");
    (sql, changes)
}

/// Returns the whole ledger.
pub(crate) async fn history(url: &str) -> History {
    let client = connect(url).await;
    let rows = client
        .query(
            "select tbl, key, op::text, ver from ledger.entry order by seq",
            &[],
        )
        .await
        .unwrap();
    let mut history = History::new();
    for row in rows {
        let op: String = row.get(2);
        let key = (row.get(0), row.get(1));
        history
            .entry(key)
            .or_default()
            .push((op.chars().next().unwrap(), row.get(3)));
    }
    history
}

/// The seeds of a run: `SOAK_SEEDS=n` runs the first n, `SOAK_SEED=n` that one alone.
pub(crate) fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SOAK_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SOAK_SEEDS").unwrap_or(1)).collect(),
    }
}
