//! Values that an update does not send.

use super::harness::{Database, Platform, Running, until_events};

/// A value that is stored out of line, without compression.
const BIG: &str = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 200) g)";
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;";

fn big_of(platform: &Platform, event: usize) -> String {
    platform.events()[event].after.as_ref().unwrap()[2].clone()
}

async fn stream(database: &Database, platform: &Platform) -> Running {
    let running = Running::start(database, platform, &[]).await;
    platform.until_streaming().await;
    running
}

#[tokio::test]
async fn an_unchanged_value_is_read_again() {
    let database = Database::create(&format!(
        "{TABLE} INSERT INTO t VALUES (1, 0, {BIG}), (2, 0, {BIG})"
    ))
    .await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute("UPDATE t SET a = 1 WHERE id = 1; UPDATE t SET a = 2 WHERE id = 2; INSERT INTO t VALUES (3, 3, 'small')")
        .await;
    until_events(&platform, 5).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short()[2..],
        [
            format!("u 1,1,{big}"),
            format!("u 2,2,{big}"),
            "c 3,3,small".to_owned()
        ]
    );
}

#[tokio::test]
async fn full_replica_identity_needs_no_second_reading() {
    let database = Database::create(&format!(
        "{TABLE} ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 0, {BIG})"
    ))
    .await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute("BEGIN; UPDATE t SET a = 1; DELETE FROM t; COMMIT")
        .await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    assert_eq!(big_of(&platform, 1), big);
}

#[tokio::test]
async fn an_earlier_event_of_the_transaction_gives_the_value_of_a_row_that_is_gone() {
    let database = Database::create(TABLE).await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute(&format!(
            "BEGIN; INSERT INTO t VALUES (1, 0, {BIG}); UPDATE t SET a = 1; UPDATE t SET id = 5; DELETE FROM t; COMMIT"
        ))
        .await;
    until_events(&platform, 5).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short(),
        [
            format!("c 1,0,{big}"),
            format!("u 1,1,{big}"),
            "d 1,NULL,NULL".to_owned(),
            format!("c 5,1,{big}"),
            "d 5,NULL,NULL".to_owned(),
        ]
    );
}

#[tokio::test]
async fn a_row_that_changed_meanwhile_is_taken_whole() {
    let database = Database::create(&format!("{TABLE} INSERT INTO t VALUES (1, 0, {BIG})")).await;
    let platform = Platform::default();
    stream(&database, &platform).await.stop().await.unwrap();
    database
        .execute("UPDATE t SET a = 1; UPDATE t SET a = 2, big = 'new'")
        .await;
    let running = stream(&database, &platform).await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short()[1..], ["u 1,2,new", "u 1,2,new"]);
}

#[tokio::test]
async fn the_value_of_a_row_that_is_gone_stays_unavailable() {
    let database = Database::create(&format!("{TABLE} INSERT INTO t VALUES (1, 0, {BIG})")).await;
    let platform = Platform::default();
    stream(&database, &platform).await.stop().await.unwrap();
    database.execute("UPDATE t SET a = 1; DELETE FROM t").await;
    let running = stream(&database, &platform).await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short()[1..],
        ["u 1,1,UNAVAILABLE", "d 1,NULL,NULL"]
    );
}

#[tokio::test]
async fn many_unchanged_values_are_read_again_within_the_budget() {
    let database = Database::create(&format!(
        "{TABLE} INSERT INTO t SELECT g, 0, {BIG} FROM generate_series(1, 300) g"
    ))
    .await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database.execute("UPDATE t SET a = 1").await;
    until_events(&platform, 600).await;
    running.stop().await.unwrap();
    let updates: Vec<_> = platform.short().split_off(300);
    for (id, update) in (1..=300).zip(updates) {
        assert_eq!(update, format!("u {id},1,{big}"));
    }
}
