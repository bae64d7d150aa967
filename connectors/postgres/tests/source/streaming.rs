//! What reaches the topics.

use std::time::{Duration, Instant};

use super::harness::{Database, Platform, Running, until, until_events};

#[tokio::test]
async fn changes_arrive_in_commit_order_after_the_rows_that_were_there() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 2).await;
    database
        .execute("INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'A' WHERE id = 1; DELETE FROM t WHERE id = 2;")
        .await;
    until_events(&platform, 5).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short(),
        ["r 1,a", "r 2,b", "c 3,c", "u 1,A", "d 2,NULL"]
    );
    let events = platform.events();
    assert_eq!(
        events.last().unwrap().op,
        "tombstone",
        "a delete ends with a tombstone"
    );
    assert_eq!(events[0].topic, "p.public.t");
}

#[tokio::test]
async fn a_changed_key_is_a_delete_of_the_old_and_an_insert_of_the_new_in_one_batch() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 1).await;
    database.execute("UPDATE t SET id = 7 WHERE id = 1").await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    let events: Vec<_> = platform.events().split_off(1);
    let ops: Vec<_> = events.iter().map(|event| event.op).collect();
    assert_eq!(ops, ["d", "tombstone", "c"]);
    assert!(events.iter().all(|event| event.batch == events[0].batch));
    assert_ne!(events[0].key, events[2].key);
    assert_eq!(events[0].key, events[1].key);
}

#[tokio::test]
async fn full_replica_identity_gives_the_row_before_a_change() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'a');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 1).await;
    database
        .execute("UPDATE t SET v = 'b'; DELETE FROM t")
        .await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    let events = platform.events();
    assert_eq!(events[1].before.as_deref().unwrap(), ["1", "a"]);
    assert_eq!(events[1].after.as_deref().unwrap(), ["1", "b"]);
    assert_eq!(events[2].before.as_deref().unwrap(), ["1", "b"]);
}

#[tokio::test]
async fn a_table_without_a_key_has_records_without_keys() {
    let database = Database::create(
        "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES ('a');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 1).await;
    database
        .execute("INSERT INTO t VALUES ('b'); UPDATE t SET v = 'c' WHERE v = 'b'; DELETE FROM t WHERE v = 'c'")
        .await;
    until_events(&platform, 4).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["r a", "c b", "u c", "d c"]);
    assert!(platform.events().iter().all(|event| event.key.is_none()));
}

#[tokio::test]
async fn columns_and_tables_that_are_not_captured_do_not_leave() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, secret text, v text); CREATE TABLE other (id int PRIMARY KEY); \
         INSERT INTO t VALUES (1, 'x', 'a');",
    )
    .await;
    let platform = Platform::default();
    let more = [
        ("table.include.list", "public.t"),
        ("column.exclude.list", "public.t.secret"),
    ];
    let running = Running::start(&database, &platform, &more).await;
    until_events(&platform, 1).await;
    database
        .execute("INSERT INTO other VALUES (1); INSERT INTO t VALUES (2, 'x', 'b'); ALTER PUBLICATION hutong_test ADD TABLE other; INSERT INTO other VALUES (2); UPDATE t SET v = 'c' WHERE id = 2;")
        .await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["r 1,a", "c 2,b", "u 2,c"]);
}

#[tokio::test]
async fn skipped_operations_make_no_event() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[("skipped.operations", "d,u")]).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'; DELETE FROM t; INSERT INTO t VALUES (2, 'c')")
        .await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["c 1,a", "c 2,c"]);
}

#[tokio::test]
async fn an_idle_slot_advances_by_itself_position_first() {
    let database =
        Database::create("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (v text)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[("table.include.list", "public.t")]).await;
    platform.until_streaming().await;
    let before = platform.lsn();
    database
        .execute("INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        .await;
    until("the position moves without an event", || {
        platform.lsn() > before
    })
    .await;
    let position = platform.lsn();
    let slot = database.name.clone();
    let mut confirmed = String::new();
    for _ in 0..300 {
        confirmed = database
            .text(&format!(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
            ))
            .await;
        if confirmed.parse::<hutong_schemas::position::Lsn>().unwrap() >= position {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    running.stop().await.unwrap();
    let confirmed = confirmed.parse::<hutong_schemas::position::Lsn>().unwrap();
    assert!(confirmed >= position, "the slot follows");
    assert!(confirmed <= platform.lsn(), "and never passes the position");
    assert!(platform.events().is_empty());
}

#[tokio::test]
async fn a_transaction_within_the_budget_stays_in_one_batch() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    for transaction in 0..20 {
        database
            .execute(&format!(
                "BEGIN; INSERT INTO t SELECT g, 'x' FROM generate_series({0} * 100, {0} * 100 + 49) g; \
                 INSERT INTO t SELECT g, 'y' FROM generate_series({0} * 100 + 50, {0} * 100 + 99) g; COMMIT;",
                transaction
            ))
            .await;
    }
    until_events(&platform, 2000).await;
    running.stop().await.unwrap();
    let mut batch_of = std::collections::HashMap::new();
    for event in platform.events() {
        let batch = batch_of.entry(event.tx_id).or_insert(event.batch);
        assert_eq!(
            *batch, event.batch,
            "transaction {:?} was split",
            event.tx_id
        );
    }
}

#[tokio::test]
async fn batches_stay_within_the_budget_whatever_the_size_of_a_transaction() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "262144")];
    let running = Running::start(&database, &platform, &more).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 50000) g")
        .await;
    until_events(&platform, 50_000).await;
    running.stop().await.unwrap();
    let most = platform.batch_bytes_max();
    // Buffers grow by doubling.
    assert!(most <= 2 * 262_144 + 65_536, "a batch of {most} bytes");
}

#[tokio::test]
async fn a_row_larger_than_the_budget_passes() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text, b bytea); \
         INSERT INTO t VALUES (1, repeat('a', 20000000), decode(repeat('ab', 1000000), 'hex'));",
    )
    .await;
    let platform = Platform::default();
    let more = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start(&database, &platform, &more).await;
    until_events(&platform, 1).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t VALUES (2, repeat('b', 30000000)), (3, 'small')")
        .await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    let lengths: Vec<_> = platform
        .events()
        .iter()
        .map(|event| event.after.as_ref().unwrap()[1].len())
        .collect();
    assert_eq!(lengths, [20_000_000, 30_000_000, 5]);
}

#[tokio::test]
async fn a_partitioned_table_published_by_its_root_is_one_topic() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
         CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (10); \
         CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (10) TO (20); \
         INSERT INTO t VALUES (1, 'a'), (11, 'b'); \
         CREATE PUBLICATION hutong_test FOR TABLE t WITH (publish_via_partition_root = true);",
    )
    .await;
    let platform = Platform::default();
    let more = [("table.include.list", "public.t")];
    let running = Running::start(&database, &platform, &more).await;
    until_events(&platform, 2).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t VALUES (2, 'c'), (12, 'd')")
        .await;
    until_events(&platform, 4).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["r 1,a", "r 11,b", "c 2,c", "c 12,d"]);
    assert!(
        platform
            .events()
            .iter()
            .all(|event| event.topic == "p.public.t")
    );
}

#[tokio::test]
async fn many_commits_that_are_late_leave_in_few_batches() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE PROCEDURE make(n int) LANGUAGE plpgsql \
         AS 'BEGIN FOR i IN 1..n LOOP INSERT INTO t VALUES (i); COMMIT; END LOOP; END'",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    database.execute("CALL make(3000)").await;
    // A fiftieth of it is what a batch is held for at least.
    let late = Duration::from_secs(2);
    tokio::time::sleep(late).await;
    let before = platform.batches();
    let began = Instant::now();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 3000).await;
    let holds = began.elapsed().as_millis() / (late / 50).as_millis();
    running.stop().await.unwrap();
    let batches = platform.batches() - before;
    let most = 3 + usize::try_from(holds).unwrap();
    assert!(batches <= most, "{batches} batches, {most} at most");
}
