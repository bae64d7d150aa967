//! The initial snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hutong_connectors_core::source::TableState;
use tokio::sync::Semaphore;

use super::harness::{Database, Platform, Running, connect, until, until_events};

#[tokio::test]
async fn rows_read_beside_concurrent_writers_never_take_a_key_back() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 2000) g;",
    )
    .await;
    let platform = Platform::default();
    let ended = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let client = connect(&database.name).await;
        let ended = Arc::clone(&ended);
        writers.push(tokio::spawn(async move {
            let mut id = 1_000_000 * (writer + 1);
            while !ended.load(Ordering::Relaxed) {
                client
                    .batch_execute(&format!(
                        "BEGIN; INSERT INTO t VALUES ({id}, 0), ({}, 0); UPDATE t SET v = v + 1 WHERE id = {}; \
                         DELETE FROM t WHERE id = {}; COMMIT",
                        id + 1,
                        1 + id % 1000,
                        1000 + id % 999,
                    ))
                    .await
                    .unwrap();
                id += 2;
            }
        }));
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 4000).await;
    platform.until_streaming().await;
    ended.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    database.execute("INSERT INTO t VALUES (0, -1)").await;
    until("the last change", || {
        platform.short().last().is_some_and(|last| last == "c 0,-1")
    })
    .await;
    running.stop().await.unwrap();

    never_goes_back(&platform);
    let rows = database
        .sql
        .query("SELECT id::text || ',' || v FROM t", &[])
        .await
        .unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    assert_eq!(platform.table("p.public.t"), rows);
}

/// Versions (the second column) of a key only grow, and after a delete only a `c` brings it back.
pub(crate) fn never_goes_back(platform: &Platform) {
    let mut newest: HashMap<Vec<u8>, (i64, bool)> = HashMap::new();
    let at_first = (i64::MIN, false);
    for event in platform.events() {
        let key = event.key.clone().unwrap();
        if event.op == "tombstone" {
            continue;
        }
        let Some(row) = &event.after else {
            newest.entry(key).or_insert(at_first).1 = true;
            continue;
        };
        let version: i64 = row[1].parse().unwrap();
        let (known, is_deleted) = newest.get(&key).copied().unwrap_or(at_first);
        assert!(version >= known || is_deleted, "{row:?} after {known}");
        assert!(
            !is_deleted || event.op == "c",
            "{row:?} came back as {}",
            event.op
        );
        newest.insert(key, (version, false));
    }
}

async fn rows(database: &Database, columns: &str) -> Vec<String> {
    let query = format!("SELECT concat_ws(',', {columns}) FROM t");
    let rows = database.sql.query(&query, &[]).await.unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn a_crash_resumes_at_the_chunk_and_repeats_no_row() {
    let database = Database::create(
        "CREATE TABLE t (a int, b text COLLATE \"C\", v text, PRIMARY KEY (b, a)); \
         INSERT INTO t SELECT g, 'k' || g % 7 || chr(39), repeat('x', 100) FROM generate_series(1, 3000) g;",
    )
    .await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "65536")];
    let mut crashes = 0;
    while !platform.is_streaming() {
        let before = platform.batches();
        let running = Running::start_for(&database, &platform, &more, 3).await;
        until("more of the snapshot", || {
            platform.batches() >= before + 3 || platform.is_streaming()
        })
        .await;
        running.kill().await;
        crashes += 1;
    }
    assert!(crashes > 4, "only {crashes} crashes");
    let events = platform.events();
    assert_eq!(events.len(), 3000, "a row was repeated");
    assert_eq!(
        platform.table("p.public.t"),
        rows(&database, "a, b, v").await
    );
}

#[tokio::test]
async fn a_table_is_read_along_its_key_and_never_whole_for_a_chunk() {
    // What the planner thinks of a range of two columns is far from it, and rows lie in no order.
    let database = Database::create(
        "CREATE TABLE t (a int, b int, v text, PRIMARY KEY (a, b)); \
         INSERT INTO t SELECT g % 20, g, 'x' FROM generate_series(1, 20000) g ORDER BY md5(g::text); \
         ANALYZE t;",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &SMALL_CHUNKS).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    assert!(platform.batches() > 10, "the table is one chunk");
    assert_eq!(platform.events().len(), 20_000);
    // A server process tells what it read a second later, or when it ends.
    let query = "SELECT coalesce(idx_tup_fetch, 0), seq_tup_read FROM pg_stat_user_tables \
                 WHERE relname = 't'";
    let deadline = Instant::now() + Duration::from_secs(30);
    let scanned: i64 = loop {
        let read = database.sql.query_one(query, &[]).await.unwrap();
        let (along_the_key, scanned): (i64, i64) = (read.get(0), read.get(1));
        if along_the_key + scanned >= 20_000 {
            break scanned;
        }
        assert!(Instant::now() < deadline, "only {along_the_key} are told");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(scanned, 0, "rows were read by going over the table");
}

#[tokio::test]
async fn changes_while_a_snapshot_stands_still_are_in_the_topic() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g;",
    )
    .await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start_for(&database, &platform, &more, 6).await;
    until("some of the snapshot", || platform.batches() == 6).await;
    running.kill().await;
    let read = platform.events().len();
    assert!(read > 100 && read < 3000, "{read} rows");
    database
        .execute("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 'new' WHERE id IN (1, 2999); UPDATE t SET id = 9999 WHERE id = 3; INSERT INTO t VALUES (5000, 'y')")
        .await;
    let running = Running::start(&database, &platform, &more).await;
    platform.until_streaming().await;
    database.execute("INSERT INTO t VALUES (5001, 'z')").await;
    until("the stream runs", || {
        platform
            .short()
            .last()
            .is_some_and(|last| last == "c 5001,z")
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(platform.table("p.public.t"), rows(&database, "id, v").await);
}

/// Several readers, and chunks of 16 KiB.
const SMALL_CHUNKS: [(&str, &str); 2] = [
    ("hutong.batch.bytes.max", "65536"),
    ("snapshot.max.threads", "3"),
];

/// Waits until all is read, and compares table `t` with what is in its topic.
async fn is_read(database: &Database, platform: &Platform, running: Running) {
    platform.until_streaming().await;
    running.stop().await.unwrap();
    assert_eq!(platform.table("p.public.t"), rows(database, "id, v").await);
}

#[tokio::test]
async fn rows_larger_than_a_chunk_are_read_one_by_one() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat(md5(g::text), 10000) FROM generate_series(1, 20) g;",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &SMALL_CHUNKS).await;
    is_read(&database, &platform, running).await;
    assert_eq!(platform.events().len(), 20);
    let largest = 320_000;
    assert!(platform.batch_bytes_max() < 65_536 + 4 * largest);
}

#[tokio::test]
async fn rows_larger_than_a_chunk_among_others_are_read_by_several_readers() {
    // A chunk is read behind one that turns out to be too large.
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat(md5(g::text), CASE WHEN g <= 30 THEN 640 ELSE 1 END) FROM generate_series(1, 2500) g;
         CREATE TABLE u (id int PRIMARY KEY, v text); INSERT INTO u SELECT g, 'small' FROM generate_series(1, 2500) g;",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &SMALL_CHUNKS).await;
    is_read(&database, &platform, running).await;
    assert_eq!(platform.events().len(), 5_000, "a row was repeated");
}

#[tokio::test]
async fn a_snapshot_ends_although_others_want_the_whole_budget_again_and_again() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat(md5(g::text), 100) FROM generate_series(1, 3000) g;",
    )
    .await;
    let platform = Platform::default();
    let kib: u32 = 512;
    let budget = Arc::new(Semaphore::new(512));
    let others = Arc::clone(&budget);
    let others = tokio::spawn(async move {
        loop {
            drop(others.acquire_many(kib).await.unwrap());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    });
    let running = Running::start_within(&database, &platform, &SMALL_CHUNKS, (budget, 512)).await;
    is_read(&database, &platform, running).await;
    others.abort();
    assert_eq!(platform.events().len(), 3_000, "a row was repeated");
}

#[tokio::test]
async fn progress_and_announcements_name_every_table() {
    let database = Database::create(
        "CREATE TABLE a (id int PRIMARY KEY, n numeric(10,2) DEFAULT 1.5, at timestamptz DEFAULT now()); \
         INSERT INTO a VALUES (1, 2.25), (2, 3);",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let announced = platform.announced();
    let table = &announced[0];
    assert_eq!(table.topic, "p.public.a");
    assert_eq!(table.schema.key, [0]);
    let types: Vec<_> = table
        .schema
        .columns
        .iter()
        .map(|column| column.sql_type.to_string())
        .collect();
    assert_eq!(
        types,
        ["integer", "numeric(10,2)", "timestamp(6) with time zone"]
    );
    assert!(
        table.schema.columns[1].default.is_some(),
        "a constant default"
    );
    assert!(table.schema.columns[2].has_default_expression);
    let progress = platform.progress_now();
    assert_eq!(progress.tables[0].rows_done, 2);
    assert_eq!(progress.tables[0].state, TableState::Streaming);
    assert!(
        progress
            .warnings
            .iter()
            .any(|warning| warning.contains("max_slot_wal_keep_size"))
    );
}

#[tokio::test]
async fn without_data_only_changes_are_read() {
    let database =
        Database::create("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1);").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[("snapshot.mode", "no_data")]).await;
    platform.until_streaming().await;
    database.execute("INSERT INTO t VALUES (2)").await;
    until_events(&platform, 1).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["c 2"]);
}

#[tokio::test]
async fn a_repeated_snapshot_of_a_table_without_a_key_begins_by_dropping_what_came_before() {
    let database = Database::create(
        "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 2000);",
    )
    .await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start_for(&database, &platform, &more, 3).await;
    until("some of the snapshot", || platform.batches() == 3).await;
    running.kill().await;
    let before = platform.events().len();
    let running = Running::start(&database, &platform, &more).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let events = platform.events();
    assert_eq!(events[before].op, "t");
    assert_eq!(events.len(), before + 1 + 2000);
}
