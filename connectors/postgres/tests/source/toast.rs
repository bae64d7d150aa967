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

/// A value of less than a kilobyte of text that is stored out of line all the same: what an earlier
/// event of the batch held is not its value any more.
#[tokio::test]
async fn the_value_of_an_earlier_event_is_not_taken_after_a_shorter_one() {
    const ZEROS: &str = "(SELECT jsonb_agg(0) FROM generate_series(1, 250))";
    const ONES: &str = "(SELECT jsonb_agg(1) FROM generate_series(1, 900))";
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, n int, doc jsonb); ALTER TABLE t ALTER doc SET STORAGE EXTERNAL",
    )
    .await;
    let zeros = database.text(&format!("SELECT {ZEROS}::text")).await;
    assert!(zeros.len() < 1000, "{}", zeros.len());
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute(&format!(
            "BEGIN; INSERT INTO t VALUES (1, 0, {ONES}), (2, 0, {ONES}); \
             UPDATE t SET doc = {ZEROS} WHERE id = 1; \
             DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 0, {ZEROS}); \
             UPDATE t SET n = 1; COMMIT"
        ))
        .await;
    until_events(&platform, 7).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short()[5..],
        [format!("u 1,1,{zeros}"), format!("u 2,1,{zeros}")]
    );
}

#[tokio::test]
async fn an_earlier_event_is_not_read_with_the_columns_of_a_later_one() {
    let database = Database::create(TABLE).await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute(&format!(
            "BEGIN; INSERT INTO t VALUES (1, 0, {BIG}); ALTER TABLE t DROP COLUMN a, ADD COLUMN c int; \
             UPDATE t SET c = 1; COMMIT"
        ))
        .await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short(),
        [format!("c 1,0,{big}"), format!("u 1,{big},1")]
    );
}

#[tokio::test]
async fn an_event_that_waits_is_written_with_the_columns_that_it_had() {
    let database = Database::create(&format!(
        "{TABLE} INSERT INTO t VALUES (1, 0, {BIG}), (2, 0, {BIG})"
    ))
    .await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute(
            "BEGIN; UPDATE t SET a = 1; ALTER TABLE t ADD COLUMN c int; DELETE FROM t WHERE id = 1; COMMIT",
        )
        .await;
    until_events(&platform, 5).await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.short()[2..],
        [
            "u 1,1,UNAVAILABLE".to_owned(),
            format!("u 2,1,{big}"),
            "d 1,NULL,NULL,NULL".to_owned()
        ]
    );
}

/// The row is read by name, and the name is another column's by then, whose values nobody granted.
#[tokio::test]
async fn a_column_that_took_the_name_is_not_read_in_its_place() {
    let database = Database::create(&format!(
        "{TABLE} ALTER TABLE t ADD COLUMN x int; INSERT INTO t VALUES (1, 0, {BIG}, 7), (2, 0, {BIG}, 7)"
    ))
    .await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    // From here on the stream has said what the table looks like.
    database.execute("UPDATE t SET a = 5 WHERE id = 2").await;
    until_events(&platform, 3).await;
    // Whoever changes the columns waits for the row to be committed, and the reading waits for him.
    let writer = super::harness::connect(&database.name).await;
    writer
        .batch_execute("BEGIN; UPDATE t SET a = 1 WHERE id = 1")
        .await
        .unwrap();
    let change = database.execute(
        "ALTER TABLE t DROP COLUMN big; ALTER TABLE t ADD COLUMN big text DEFAULT 'secret'",
    );
    let commit = async {
        let waits =
            "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
        while !writer
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {
            tokio::task::yield_now().await;
        }
        writer.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(change, commit);
    database.execute("UPDATE t SET a = 2 WHERE id = 2").await;
    platform.until_failed("public.t").await;
    running.stop().await.unwrap();
    let events = platform.short();
    assert_eq!(events[2], format!("u 2,5,{big},7"));
    // The catalogue may be seen to have another column before the row is read or after it.
    assert!(
        events[3..].is_empty() || events[3..] == ["u 1,1,UNAVAILABLE,7"],
        "{:?}",
        &events[3..]
    );

    // Another column that went is no loss: the value is there.
    let database = Database::create(&format!(
        "{TABLE} ALTER TABLE t ADD COLUMN x int; INSERT INTO t VALUES (1, 0, {BIG}, 7)"
    ))
    .await;
    let platform = Platform::default();
    let running = stream(&database, &platform).await;
    database
        .execute("BEGIN; UPDATE t SET a = 1; ALTER TABLE t DROP COLUMN x; COMMIT")
        .await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short()[1..], [format!("u 1,1,{big},7")]);
}

/// Nothing tells how large the rows are before they are read: a batch holds few of them all the same.
#[tokio::test]
async fn large_rows_are_read_again_in_portions() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, a int, doc bytea); \
         ALTER TABLE t ALTER doc SET STORAGE EXTERNAL; \
         INSERT INTO t SELECT g, 0, decode(repeat(md5(g::text), 20000), 'hex') FROM generate_series(1, 60) g",
    )
    .await;
    let platform = Platform::default();
    let small = [("hutong.batch.bytes.max", "1048576")];
    let running = Running::start(&database, &platform, &small).await;
    platform.until_streaming().await;
    let before = platform.batch_bytes_max();
    let batches = platform.batches();
    assert!(before < 4 << 20, "the snapshot's batches: {before}");
    database
        .execute("BEGIN; UPDATE t SET a = 1 WHERE id <= 30; UPDATE t SET id = id + 1000 WHERE id > 30; COMMIT")
        .await;
    until_events(&platform, 60 + 30 + 60).await;
    running.stop().await.unwrap();
    assert!(
        platform.batch_bytes_max() < 4 << 20,
        "{} bytes",
        platform.batch_bytes_max()
    );
    assert!(platform.batches() - batches > 10, "one batch is no portion");
    let events = platform.events();
    let updates: Vec<_> = events
        .iter()
        .filter(|event| event.op == "u" || event.op == "c")
        .collect();
    assert_eq!(updates.len(), 60);
    for (number, update) in updates.iter().enumerate() {
        let row = update.after.as_ref().unwrap();
        assert!(row[2].len() > 320_000, "row {number} has its value");
    }
    let mut rows: Vec<_> = platform.table("p.public.t");
    rows.dedup();
    assert_eq!(rows.len(), 60);
}
