//! Tables that change while they are followed.

use super::harness::{Database, Platform, Running, until_events};

#[tokio::test]
async fn an_added_column_that_allows_null_flows_on() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 1).await;
    database
        .execute("INSERT INTO t VALUES (2, 'b'); ALTER TABLE t ADD COLUMN w int; INSERT INTO t VALUES (3, 'c', 7); UPDATE t SET v = 'A' WHERE id = 1")
        .await;
    until_events(&platform, 4).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short(),
        ["r 1,a", "c 2,b", "c 3,c,7", "u 1,A,NULL"]
    );
    let announced = platform.announced();
    assert_eq!(announced.last().unwrap().schema.columns.len(), 3);
    assert_eq!(announced.last().unwrap().schema.columns[2].attnum, 3);
}

#[tokio::test]
async fn a_column_added_while_the_connector_is_down_flows_on() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    database
        .execute(
            "INSERT INTO t VALUES (1); ALTER TABLE t ADD COLUMN w int; INSERT INTO t VALUES (2, 2)",
        )
        .await;
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["c 1", "c 2,2"]);
}

#[tokio::test]
async fn a_column_that_the_configuration_adds_later_needs_a_new_snapshot() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a');",
    )
    .await;
    let platform = Platform::default();
    let more = [("column.exclude.list", "public.t.v")];
    let running = Running::start(&database, &platform, &more).await;
    until_events(&platform, 1).await;
    running.stop().await.unwrap();
    database.execute("INSERT INTO t VALUES (2, 'b')").await;
    let running = Running::start(&database, &platform, &[]).await;
    let error = platform.until_failed("public.t").await;
    assert!(
        error.contains("column \"v\" was not captured before"),
        "{error}"
    );
    running.stop().await.unwrap();
}
