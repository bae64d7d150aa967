//! TRUNCATE.

use super::harness::{Database, Platform, Running, until, until_events};

#[tokio::test]
async fn truncate_deletes_every_live_key_and_nothing_else() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY); \
         INSERT INTO t SELECT generate_series(1, 5); INSERT INTO other VALUES (1);",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 6).await;
    database
        .execute("DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (6); TRUNCATE t; INSERT INTO t VALUES (1)")
        .await;
    until("the row after it", || {
        platform.short().last().is_some_and(|last| last == "c 1")
    })
    .await;
    running.stop().await.unwrap();
    let mut deleted: Vec<_> = platform
        .short()
        .into_iter()
        .filter(|event| event.starts_with('d'))
        .collect();
    deleted.sort();
    assert_eq!(deleted, ["d 1", "d 2", "d 3", "d 4", "d 5", "d 6"]);
    assert_eq!(platform.table("p.public.t"), ["1"]);
    assert_eq!(platform.table("p.public.other"), ["1"]);
    let events = platform.events();
    let tombstones = events
        .iter()
        .filter(|event| event.op == "tombstone")
        .count();
    assert_eq!(tombstones, 6, "each delete has its tombstone");
}

#[tokio::test]
async fn truncate_sees_what_its_own_transaction_wrote_before() {
    let database =
        Database::create("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2);")
            .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 2).await;
    database
        .execute("BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3); TRUNCATE t; INSERT INTO t VALUES (4); COMMIT")
        .await;
    until("the row after it", || {
        platform.short().last().is_some_and(|last| last == "c 4")
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short(),
        ["r 1", "r 2", "d 1", "c 3", "d 2", "d 3", "c 4"]
    );
    let events = platform.events();
    let of_truncation: Vec<_> = events
        .iter()
        .filter(|event| event.batch == events.last().unwrap().batch)
        .collect();
    assert_eq!(of_truncation.len(), 8, "the transaction is whole");
}

#[tokio::test]
async fn a_crash_within_a_truncation_deletes_each_key_once() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 2000);",
    )
    .await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start(&database, &platform, &more).await;
    until_events(&platform, 2000).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    database
        .execute("BEGIN; INSERT INTO t VALUES (5000); TRUNCATE t; INSERT INTO t VALUES (7); COMMIT")
        .await;
    let mut crashes = 0;
    while platform.short().last().is_none_or(|last| last != "c 7") {
        let before = platform.batches();
        let running = Running::start_for(&database, &platform, &more, 1).await;
        until("one more batch", || platform.batches() > before).await;
        running.kill().await;
        crashes += 1;
    }
    assert!(crashes > 2, "only {crashes} batches");
    let mut deleted: Vec<_> = platform
        .short()
        .into_iter()
        .filter(|event| event.starts_with('d'))
        .collect();
    assert_eq!(deleted.len(), 2001);
    deleted.sort();
    deleted.dedup();
    assert_eq!(deleted.len(), 2001, "a key was deleted twice");
    assert_eq!(platform.table("p.public.t"), ["7"]);
}

#[tokio::test]
async fn truncate_of_a_table_without_a_key_is_one_event() {
    let database = Database::create(
        "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES ('a');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 1).await;
    database.execute("TRUNCATE t").await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["r a", "t"]);
}
