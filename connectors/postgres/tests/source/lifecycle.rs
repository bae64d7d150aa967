//! Tables that come, go, stop and are read again while a connector lives.

use std::time::{Duration, Instant};

use hutong_connectors_core::source::TableState;

use super::harness::{Database, Platform, Running, until, until_events};

async fn rows(database: &Database, table: &str) -> Vec<String> {
    let query = format!("SELECT id::text || ',' || v FROM {table}");
    let rows = database.sql.query(&query, &[]).await.unwrap();
    let mut rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn an_added_table_is_published_and_read_and_a_removed_one_is_forgotten() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text); \
         INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    let platform = Platform::default();
    let only_t = [("table.include.list", "public.t")];
    let running = Running::start(&database, &platform, &only_t).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    database.execute("UPDATE u SET v = 'B' WHERE id = 2").await;

    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO u VALUES (3, 'c'); INSERT INTO t VALUES (2, 'b')")
        .await;
    until_events(&platform, 5).await;
    running.stop().await.unwrap();
    assert_eq!(platform.table("p.public.u"), rows(&database, "u").await);
    assert_eq!(platform.table("p.public.t"), rows(&database, "t").await);

    let running = Running::start(&database, &platform, &only_t).await;
    until("the table is forgotten", || {
        platform.stored("public.u").is_none()
    })
    .await;
    let published = "SELECT string_agg(tablename, ',') FROM pg_publication_tables WHERE pubname = 'hutong_test'";
    assert_eq!(database.text(published).await, "t");
    database
        .execute("DELETE FROM u WHERE id = 1; INSERT INTO u VALUES (4, 'd')")
        .await;
    running.stop().await.unwrap();

    let running = Running::start(&database, &platform, &[]).await;
    platform.until_read("public.u").await;
    running.stop().await.unwrap();
    assert_eq!(
        platform.table("p.public.u"),
        rows(&database, "u").await,
        "what was deleted while the table was not captured is swept"
    );
}

#[tokio::test]
async fn a_transaction_that_ran_when_the_table_was_added_is_in_what_is_read() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text);",
    )
    .await;
    let platform = Platform::default();
    let only_t = [("table.include.list", "public.t")];
    let running = Running::start(&database, &platform, &only_t).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();

    let first = super::harness::connect(&database.name).await;
    let second = super::harness::connect(&database.name).await;
    for (client, id) in [(&first, 1), (&second, 11)] {
        client
            .batch_execute(&format!("BEGIN; INSERT INTO u VALUES ({id}, 'before')"))
            .await
            .unwrap();
    }
    let running = Running::start(&database, &platform, &[]).await;
    let published = "SELECT count(*)::text FROM pg_publication_tables WHERE tablename = 'u'";
    while database.text(published).await != "1" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    first
        .batch_execute("INSERT INTO u VALUES (2, 'after'); COMMIT")
        .await
        .unwrap();
    database.execute("INSERT INTO u VALUES (5, 'new')").await;
    second
        .batch_execute("INSERT INTO u VALUES (12, 'after')")
        .await
        .unwrap();
    assert_eq!(platform.shown("public.u").state, TableState::Waiting);
    second.batch_execute("COMMIT").await.unwrap();
    platform.until_read("public.u").await;
    running.stop().await.unwrap();
    assert_eq!(platform.table("p.public.u"), rows(&database, "u").await);
}

#[tokio::test]
async fn a_table_that_stops_is_read_again_on_demand_and_what_is_gone_is_swept() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v numeric(5,2)); CREATE TABLE u (id int PRIMARY KEY, v text); \
         INSERT INTO t VALUES (1, 1), (2, 2), (3, 3);",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t VALUES (4, 'NaN'); DELETE FROM t WHERE id = 1")
        .await;
    let text = platform.until_failed("public.t").await;
    assert!(text.contains("hutong.snapshot.again=public.t@"), "{text}");
    database
        .execute("INSERT INTO u VALUES (1, 'goes on')")
        .await;
    until_events(&platform, 4).await;
    running.stop().await.unwrap();

    let running = Running::start(&database, &platform, &[]).await;
    let again = platform.until_failed("public.t").await;
    assert_eq!(again, text, "a restart alone is no remedy");
    running.stop().await.unwrap();

    database.execute("DELETE FROM t WHERE id IN (2, 4)").await;
    let demand = [("hutong.snapshot.again", "public.t@1")];
    let running = Running::start(&database, &platform, &demand).await;
    platform.until_streaming().await;
    database.execute("INSERT INTO t VALUES (5, 5)").await;
    until("the table streams again", || {
        platform
            .short()
            .last()
            .is_some_and(|last| last.starts_with("c 5"))
    })
    .await;
    running.stop().await.unwrap();
    let ids: Vec<String> = platform
        .table("p.public.t")
        .iter()
        .map(|row| row.split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["3", "5"]);

    let count = platform.events().len();
    let running = Running::start(&database, &platform, &demand).await;
    database.execute("INSERT INTO t VALUES (6, 6)").await;
    until("one more event", || platform.events().len() > count).await;
    running.stop().await.unwrap();
    assert_eq!(platform.events().len(), count + 1, "a token counts once");
}

#[tokio::test]
async fn every_crash_of_a_reading_with_a_sweep_goes_on_where_it_was() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 1500) g;",
    )
    .await;
    let platform = Platform::default();
    let small = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start(&database, &platform, &small).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let read = platform.events().len();
    // What is deleted now is not streamed: somebody else moves the slot.
    database.execute("DELETE FROM t WHERE id % 3 = 0").await;
    database
        .execute(&format!(
            "SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
            database.name
        ))
        .await;
    let more = [
        ("hutong.batch.bytes.max", "65536"),
        ("snapshot.mode", "when_needed"),
    ];
    let mut crashes = 0;
    while crashes == 0 || !platform.is_streaming() {
        let before = platform.batches();
        let running = Running::start_for(&database, &platform, &more, 2).await;
        until("two more batches", || {
            platform.batches() >= before + 2 || (crashes > 0 && platform.is_streaming())
        })
        .await;
        running.kill().await;
        crashes += 1;
    }
    assert!(crashes > 3, "only {crashes} crashes");
    assert_eq!(platform.table("p.public.t"), rows(&database, "t").await);
    let new = &platform.events()[read..];
    let count = |op: &str| new.iter().filter(|event| event.op == op).count();
    assert_eq!((count("r"), count("d")), (1000, 500), "each once");
}

#[tokio::test]
async fn rows_are_read_at_every_start_or_once_and_no_more() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    let platform = Platform::default();
    let always = [("snapshot.mode", "always")];
    for round in 1..=2 {
        let running = Running::start(&database, &platform, &always).await;
        until("all rows are read", || {
            let reads = platform
                .short()
                .iter()
                .filter(|e| e.starts_with('r'))
                .count();
            reads == 2 * round && platform.is_streaming()
        })
        .await;
        running.stop().await.unwrap();
    }

    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    let platform = Platform::default();
    let once = [("snapshot.mode", "initial_only")];
    let slots =
        "SELECT count(*)::text FROM pg_replication_slots WHERE database = current_database()";
    for _ in 0..2 {
        let running = Running::start(&database, &platform, &once).await;
        until("the end", || {
            platform
                .position()
                .is_some_and(|position| position["ended"] == true)
        })
        .await;
        while database.text(slots).await != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        database.execute("UPDATE t SET v = v || '+'").await;
        running.stop().await.unwrap();
    }
    assert_eq!(platform.short(), ["r 1,a", "r 2,b"]);
}

#[tokio::test]
async fn a_table_that_is_dropped_says_so_and_its_name_used_again_is_another_table() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text); \
         INSERT INTO t VALUES (1, 'a'), (2, 'b');",
    )
    .await;
    let platform = Platform::default();
    let more = [("table.include.list", "public.t,public.u")];
    let running = Running::start(&database, &platform, &more).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    database.execute("DROP TABLE t").await;
    let running = Running::start(&database, &platform, &more).await;
    let text = platform.until_failed("public.t").await;
    assert!(text.contains("table public.t was dropped"), "{text}");
    running.stop().await.unwrap();
    database
        .execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (2, 'new')")
        .await;
    let running = Running::start(&database, &platform, &more).await;
    platform.until_read("public.t").await;
    running.stop().await.unwrap();
    assert_eq!(platform.table("p.public.t"), ["2,new"]);
}

#[tokio::test]
async fn two_thousand_tables_stream_within_thirty_seconds() {
    let database = Database::create(
        "DO $$ BEGIN FOR n IN 1..2000 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, v text DEFAULT ''x'')', n); END LOOP; END $$;",
    )
    .await;
    let platform = Platform::default();
    let began = Instant::now();
    let running = Running::start(&database, &platform, &[]).await;
    database.execute("INSERT INTO t1777 VALUES (1)").await;
    until("a change", || !platform.events().is_empty()).await;
    let first = began.elapsed();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !platform.is_streaming() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = began.elapsed();
    running.stop().await.unwrap();
    eprintln!("2,000 tables: first change after {first:?}, all read after {all:?}");
    assert!(first < Duration::from_secs(30), "{first:?}");
    assert!(
        platform.is_streaming(),
        "not all tables are read after {all:?}"
    );
}
