//! What a crash leaves behind, and what the next start makes of it.

use std::collections::HashSet;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::CopyInSink;

use super::harness::{Database, PATIENCE, Platform, Running, until, until_events};

const SMALL_BATCHES: [(&str, &str); 1] = [("hutong.batch.bytes.max", "65536")];

/// Copies rows `from..to` in one statement: many rows share one place in the log.
async fn copy(database: &Database, from: u32, to: u32) {
    let sink: CopyInSink<Bytes> = database.sql.copy_in("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let rows: String = (from..to).map(|id| format!("{id}\tv{id}\n")).collect();
    sink.send(Bytes::from(rows)).await.unwrap();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn a_transaction_in_parts_continues_exactly_after_a_crash_at_every_part() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &SMALL_BATCHES).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();

    database.execute("BEGIN").await;
    copy(&database, 0, 3000).await;
    database
        .execute("UPDATE t SET v = 'u' WHERE id < 500; DELETE FROM t WHERE id >= 2500; COMMIT")
        .await;
    database
        .execute("INSERT INTO t VALUES (9999, 'last')")
        .await;
    let expected = 3000 + 500 + 500 + 1;

    let mut crashes = 0;
    while platform.short().len() < expected {
        let before = platform.batches();
        let running = Running::start_for(&database, &platform, &SMALL_BATCHES, 1).await;
        until("one more batch", || platform.batches() > before).await;
        running.kill().await;
        crashes += 1;
    }
    assert!(crashes > 5, "only {crashes} batches");

    let events = platform.events();
    let shared = events
        .windows(2)
        .filter(|pair| pair[0].batch != pair[1].batch && pair[0].lsn == pair[1].lsn)
        .filter(|pair| pair[0].lsn.is_some())
        .count();
    assert!(
        shared > 0,
        "no boundary lies between changes that share a place in the log"
    );
    let mut wanted: Vec<String> = (0..3000).map(|id| format!("c {id},v{id}")).collect();
    wanted.extend((0..500).map(|id| format!("u {id},u")));
    wanted.extend((2500..3000).map(|id| format!("d {id},NULL")));
    wanted.push("c 9999,last".to_owned());
    assert_eq!(platform.short(), wanted);
}

#[tokio::test]
async fn a_crash_between_commits_neither_repeats_nor_loses_a_change() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let platform = Platform::default();
    let mut next = 0;
    for round in 0..12 {
        let running = Running::start_for(&database, &platform, &[], 2 + round % 3).await;
        for _ in 0..5 {
            database
                .execute(&format!(
                    "BEGIN; INSERT INTO t VALUES ({next}, 'x'), ({}, 'x'); COMMIT",
                    next + 1
                ))
                .await;
            next += 2;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        running.kill().await;
    }
    let running = Running::start(&database, &platform, &[]).await;
    // A row that was streamed may be read as well, so events cannot be counted.
    let rows = || -> HashSet<String> {
        let events = platform.events().into_iter();
        events
            .map(|event| event.after.as_ref().unwrap().join(","))
            .collect()
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rows().len() < next && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    running.stop().await.unwrap();
    let wanted: HashSet<String> = (0..next).map(|id| format!("{id},x")).collect();
    let distinct = rows();
    // A streamed change may not repeat.
    let streamed: Vec<_> = platform
        .short()
        .into_iter()
        .filter(|e| e.starts_with('c'))
        .collect();
    assert_eq!(
        streamed.iter().collect::<HashSet<_>>().len(),
        streamed.len()
    );
    assert_eq!(distinct, wanted);
}

#[tokio::test]
async fn a_stop_confirms_what_is_durable_and_the_next_start_repeats_nothing() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let platform = Platform::default();
    for round in 0..4 {
        let running = Running::start(&database, &platform, &[]).await;
        database
            .execute(&format!("INSERT INTO t VALUES ({round}, 'x')"))
            .await;
        until_events(&platform, round + 1).await;
        running.stop().await.unwrap();
        let confirmed = database
            .text("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = current_database()")
            .await;
        let confirmed: hutong_schemas::position::Lsn = confirmed.parse().unwrap();
        assert!(
            confirmed <= platform.lsn(),
            "the slot never passes the position"
        );
    }
    assert_eq!(platform.events().len(), 4);
}

#[tokio::test]
async fn a_position_tells_where_we_are_and_what_we_made() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database.execute("INSERT INTO t VALUES (1)").await;
    until_events(&platform, 1).await;
    running.stop().await.unwrap();
    let position = platform.position().unwrap();
    assert_eq!(position["v"], 1);
    assert!(position["last_commit_lsn"].is_string());
    assert_eq!(position["made"]["slot"], true);
    assert_eq!(position["made"]["publication"], true);
}
