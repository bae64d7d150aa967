//! The initial snapshot.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hutong_connectors_core::source::TableState;
use hutong_schemas::envelope::SnapshotMark;

use super::harness::{Database, Platform, Running, connect, until, until_events};

#[tokio::test]
async fn a_snapshot_under_concurrent_writes_has_no_gap_and_no_overlap() {
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
            let mut id = 10_000 * (writer + 1);
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
    let running =
        Running::start(&database, &platform, &[("hutong.batch.bytes.max", "65536")]).await;
    until_events(&platform, 4000).await;
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

    let mut births: HashMap<Vec<u8>, usize> = HashMap::new();
    for event in platform.events() {
        if matches!(event.op, "r" | "c") {
            *births.entry(event.key.clone().unwrap()).or_default() += 1;
        }
    }
    assert!(
        births.values().all(|count| *count == 1),
        "a row was read and streamed"
    );
    let rows = database
        .sql
        .query("SELECT id::text || ',' || v FROM t", &[])
        .await
        .unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    assert_eq!(platform.table("p.public.t"), rows);
}

#[tokio::test]
async fn an_interrupted_snapshot_begins_again_and_sweeps_what_is_gone() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g;",
    )
    .await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start_for(&database, &platform, &more, 5).await;
    until("some of the snapshot", || platform.batches() == 5).await;
    running.kill().await;
    assert_eq!(platform.position().unwrap()["snapshot"]["attempt"], 1);
    let read = platform.events().len();
    assert!(read > 100 && read < 3000, "{read} rows");
    database
        .execute("DELETE FROM t WHERE id % 2 = 0; UPDATE t SET v = 'new' WHERE id = 1; INSERT INTO t VALUES (5000, 'y')")
        .await;
    let running = Running::start(&database, &platform, &more).await;
    until("the snapshot ends", || {
        platform.position().unwrap().get("snapshot").is_none()
    })
    .await;
    database.execute("INSERT INTO t VALUES (5001, 'z')").await;
    until("the stream runs", || {
        platform
            .short()
            .last()
            .is_some_and(|last| last == "c 5001,z")
    })
    .await;
    running.stop().await.unwrap();
    let rows = database
        .sql
        .query("SELECT id::text || ',' || v FROM t", &[])
        .await
        .unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    assert_eq!(platform.table("p.public.t"), rows);
    let deletes = platform
        .events()
        .iter()
        .filter(|event| event.op == "d")
        .count();
    assert!(deletes > 0, "nothing was swept");
}

#[tokio::test]
async fn the_first_and_last_rows_are_marked_as_debezium_marks_them() {
    let database = Database::create(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY); \
         INSERT INTO a VALUES (1), (2), (3); INSERT INTO b VALUES (1), (2), (3);",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let marks: Vec<_> = platform.events().iter().map(|event| event.mark).collect();
    assert_eq!(
        marks,
        [
            SnapshotMark::First,
            SnapshotMark::True,
            SnapshotMark::LastInDataCollection,
            SnapshotMark::FirstInDataCollection,
            SnapshotMark::True,
            SnapshotMark::Last,
        ]
    );
    assert!(
        platform
            .events()
            .iter()
            .all(|event| event.lsn == platform.events()[0].lsn)
    );
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
    until("the snapshot ends", || {
        platform.position().unwrap().get("snapshot").is_none()
    })
    .await;
    running.stop().await.unwrap();
    let events = platform.events();
    assert_eq!(events[before].op, "t");
    assert_eq!(events.len(), before + 1 + 2000);
}
