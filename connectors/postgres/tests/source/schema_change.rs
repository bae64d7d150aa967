//! Tables that change while they are followed.

use super::harness::{Database, Platform, Running, explain, until_events};

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

/// Runs `change` between two inserts: the first arrives, then the source stops with `message`.
async fn stops(change: &str, second_insert: &str, message: &str) {
    let database =
        Database::create("CREATE TABLE t (id int PRIMARY KEY, v varchar(5) NOT NULL)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database.execute("INSERT INTO t VALUES (1, 'a')").await;
    until_events(&platform, 1).await;
    database.execute(change).await;
    database.execute(second_insert).await;
    let error = running.end().await.expect_err("the change is noticed");
    let text = explain(&error);
    assert!(text.starts_with("definite: "), "{text}");
    assert!(text.contains(message), "{text}");
    assert!(text.contains("needs a new snapshot"), "{text}");
    assert_eq!(platform.short(), ["c 1,a"]);
}

#[tokio::test]
async fn every_other_change_is_a_definite_error_that_names_it() {
    const INSERT: &str = "INSERT INTO t (id, v) VALUES (2, 'b')";
    stops(
        "ALTER TABLE t DROP COLUMN v",
        "INSERT INTO t VALUES (2)",
        "column \"v\" was dropped",
    )
    .await;
    stops(
        "ALTER TABLE t RENAME COLUMN v TO w",
        "INSERT INTO t VALUES (2, 'b')",
        "column \"v\" was renamed to \"w\"",
    )
    .await;
    stops(
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(9)",
        INSERT,
        "column \"v\" changed its type (now character varying(9))",
    )
    .await;
    stops(
        "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v varchar(5) NOT NULL DEFAULT ''",
        INSERT,
        "column \"v\" was dropped and created again",
    )
    .await;
    stops(
        "ALTER TABLE t ALTER COLUMN v DROP NOT NULL",
        INSERT,
        "column \"v\" allows NULL now",
    )
    .await;
    stops(
        "ALTER TABLE t ADD COLUMN w int DEFAULT 5",
        INSERT,
        "column \"w\" was added with a default",
    )
    .await;
    stops(
        "ALTER TABLE t ADD COLUMN w inet",
        INSERT,
        "column \"w\" was added with the type inet, which is not supported",
    )
    .await;
    stops(
        "ALTER TABLE t RENAME TO t2",
        "INSERT INTO t2 VALUES (2, 'b')",
        "it was renamed to public.t2",
    )
    .await;
    stops(
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, v)",
        INSERT,
        "its primary key changed",
    )
    .await;
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
    let error = running
        .end()
        .await
        .expect_err("rows in the topic lack the column");
    assert!(
        explain(&error).contains("column \"v\" was not captured before"),
        "{}",
        explain(&error)
    );
}
