//! Races, step by step: the source is held at a named place while others write and commit, so that
//! each order of events is the one that is meant, and what leaves is exactly known.

use std::collections::BTreeMap;
use std::time::Duration;

use hutong_connectors_core::source::TableState;
use hutong_local::postgres::{Options, Postgres};
use hutong_local::testkit::OwnServers;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::harness::{Database, PATIENCE, Platform, Running, explain, until, until_events};
use super::snapshot::never_goes_back;

/// Two transactions that began before a table was published and go on after it. Both write before and
/// after; they commit while the source has just published the table, or when it waits for them; in
/// every order.
#[tokio::test]
async fn transactions_that_straddle_the_publication_of_a_table_commit_in_any_order() {
    // Who commits at once, and who when the source waits.
    let orders: [(&[usize], &[usize]); 6] = [
        (&[0, 1], &[]),
        (&[1, 0], &[]),
        (&[0], &[1]),
        (&[1], &[0]),
        (&[], &[0, 1]),
        (&[], &[1, 0]),
    ];
    let before = [
        "BEGIN; INSERT INTO $u VALUES (10, 0); UPDATE $u SET v = v + 1 WHERE id = 1",
        "BEGIN; INSERT INTO $u VALUES (20, 0); UPDATE $u SET v = v + 1 WHERE id = 5",
    ];
    let after = [
        "UPDATE $u SET v = v + 1 WHERE id IN (10, 2); DELETE FROM $u WHERE id = 3; UPDATE $u SET id = 40, v = v + 1 WHERE id = 4",
        "UPDATE $u SET v = v + 1 WHERE id IN (5, 6); DELETE FROM $u WHERE id = 20; INSERT INTO $u VALUES (21, 0)",
    ];
    let mut setup = "CREATE TABLE t (id int PRIMARY KEY, v int);".to_owned();
    for number in 0..orders.len() {
        setup += &format!(
            "CREATE TABLE u{number} (id int PRIMARY KEY, v int); \
             INSERT INTO u{number} SELECT g, 0 FROM generate_series(1, 7) g;"
        );
    }
    let database = Database::create(&setup).await;
    let platform = Platform::default();
    let mut captured = "public.t".to_owned();
    let running = Running::start(
        &database,
        &platform,
        &[("table.include.list", captured.as_str())],
    )
    .await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let sessions = [database.session().await, database.session().await];
    for (number, (at_once, waited_for)) in orders.iter().enumerate() {
        let table = format!("u{number}");
        let run = async |session: usize, sql: &str| {
            let sql = sql.replace("$u", &table);
            sessions[session].batch_execute(&sql).await.expect(&sql);
        };
        captured += &format!(",public.{table}");
        let mut publishes = platform.hold("source-publish-before");
        let mut published = platform.hold("source-publish-after");
        let running = Running::start(
            &database,
            &platform,
            &[("table.include.list", captured.as_str())],
        )
        .await;
        publishes.reached().await;
        for (session, sql) in before.iter().enumerate() {
            run(session, sql).await;
        }
        publishes.release();
        published.reached().await;
        for (session, sql) in after.iter().enumerate() {
            run(session, sql).await;
        }
        for session in *at_once {
            run(*session, "COMMIT").await;
        }
        published.release();
        let name = format!("public.{table}");
        if !waited_for.is_empty() {
            until("the table is announced", || {
                platform
                    .stored(&name)
                    .is_some_and(|state| state["announced"] == true)
            })
            .await;
        }
        for session in *waited_for {
            assert_eq!(platform.shown(&name).state, TableState::Waiting);
            run(*session, "COMMIT").await;
        }
        until("the table is read", || {
            platform.stored(&name).is_some() && platform.is_streaming()
        })
        .await;
        database
            .execute(&format!("UPDATE {table} SET v = v + 1 WHERE id = 7"))
            .await;
        let topic = format!("p.public.{table}");
        let expected = ["1,1", "10,1", "2,1", "21,0", "40,1", "5,2", "6,1", "7,1"];
        until("the last change", || {
            platform.table(&topic).contains(&expected[7].to_owned())
        })
        .await;
        running.stop().await.unwrap();
        assert_eq!(
            platform.table(&topic),
            expected,
            "{at_once:?}, {waited_for:?}"
        );
        never_goes_back(&platform);
        let reads = platform.events();
        let reads = reads
            .iter()
            .filter(|event| event.topic == topic && event.op == "r");
        assert_eq!(
            reads.count(),
            8,
            "each row is read, and once: {at_once:?}, {waited_for:?}"
        );
    }
}

/// Waits until somebody waits for a lock of a table.
async fn until_waited_for(database: &Database, table: &str) {
    let waits = format!(
        "SELECT (count(*) > 0)::text FROM pg_locks \
         WHERE NOT granted AND relation = '{table}'::regclass \
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    );
    let waited = async {
        while database.text(&waits).await != "true" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waited).await;
    waited.unwrap_or_else(|_| panic!("nobody waits for {table}"));
}

/// To a snapshot that is older, a table that was written anew is empty: both when that was done before the
/// reader asks for its lock, and when the reader waits for the end of it.
#[tokio::test]
async fn a_table_that_is_written_anew_behind_a_readers_snapshot_is_read_whole() {
    let reads = |platform: &Platform, topic: &str| {
        let events = platform.events();
        let of_topic = events.iter().filter(|event| event.topic == topic);
        of_topic.filter(|event| event.op == "r").count()
    };
    let keyed = "CREATE TABLE t (id int PRIMARY KEY, v text)";
    let keyless = "CREATE TABLE k (id int, v text); ALTER TABLE k REPLICA IDENTITY FULL";
    let partitioned = "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (1) TO (4); \
         CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (4) TO (9); \
         CREATE PUBLICATION hutong_test FOR TABLE p WITH (publish_via_partition_root = true)";
    let cases = [
        ("t", keyed, "source-chunk-snapshot"),
        ("p", partitioned, "source-chunk-snapshot"),
        ("k", keyless, "source-keyless-snapshot"),
    ];
    for (table, create, place) in cases {
        for reader_waits in [false, true] {
            let database = Database::create(&format!(
                "{create}; INSERT INTO {table} SELECT g, 'x' FROM generate_series(1, 7) g"
            ))
            .await;
            let platform = Platform::default();
            let captured = format!("public.{table}");
            let properties = [("table.include.list", captured.as_str())];
            let mut reader = platform.hold(place);
            let mut running = Running::start(&database, &platform, &properties).await;
            reader.reached().await;
            let session = database.session().await;
            let anew = "ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED";
            let alter = format!("BEGIN; ALTER TABLE {table} {anew}");
            session.batch_execute(&alter).await.unwrap();
            if reader_waits {
                reader.release();
                until_waited_for(&database, table).await;
                session.batch_execute("COMMIT").await.unwrap();
            } else {
                session.batch_execute("COMMIT").await.unwrap();
                reader.release();
            }
            if table == "k" {
                // It is read before anything else, so the source begins again.
                let error = running.end().await.unwrap_err();
                assert!(explain(&error).contains("written anew"), "{error}");
                running = Running::start(&database, &platform, &properties).await;
            }
            platform.until_read(&captured).await;
            running.stop().await.unwrap();
            let topic = format!("p.public.{table}");
            assert_eq!(reads(&platform, &topic), 7, "{table}, {reader_waits}");
        }
    }
}

/// A reader asks by names, and another table or another column has the name by then, whose values nobody
/// granted.
#[tokio::test]
async fn neither_another_table_nor_another_column_is_read_in_place_of_the_one_that_had_the_name() {
    let cases = [
        ("PRIMARY KEY", "source-chunk-snapshot"),
        ("", "source-keyless-snapshot"),
    ];
    let changes = [
        "ALTER TABLE t RENAME TO t_old; ALTER TABLE t_new RENAME TO t",
        "ALTER TABLE t DROP COLUMN v; ALTER TABLE t RENAME COLUMN secret TO v",
        "DROP TABLE t; ALTER TABLE t_new RENAME TO t",
        "ALTER SCHEMA public RENAME TO old; ALTER SCHEMA other RENAME TO public",
    ];
    for (key, place) in cases {
        for change in changes {
            let rows = "SELECT g, 'x', 'secret' FROM generate_series(1, 7) g";
            let database = Database::create(&format!(
                "CREATE TABLE t (id int {key}, v text, secret text); ALTER TABLE t REPLICA IDENTITY FULL; \
                 INSERT INTO t {rows}; CREATE TABLE t_new (LIKE t INCLUDING ALL); \
                 INSERT INTO t_new SELECT g, 'secret', 'secret' FROM generate_series(1, 7) g; \
                 CREATE SCHEMA other; CREATE TABLE other.t AS SELECT * FROM t_new"
            ))
            .await;
            let platform = Platform::default();
            let mut reader = platform.hold(place);
            let properties = [
                ("table.include.list", "public\\.t"),
                ("column.exclude.list", "public\\.t\\.secret"),
            ];
            let running = Running::start(&database, &platform, &properties).await;
            reader.reached().await;
            let session = database.session().await;
            session
                .batch_execute(&format!("BEGIN; {change}; COMMIT"))
                .await
                .unwrap();
            reader.release();
            let error = platform.until_failed("public.t").await;
            assert!(error.contains("was to be read, and"), "{error}");
            running.stop().await.unwrap();
            assert_eq!(platform.short(), [""; 0], "{key}, {change}");
        }
    }
}

/// The lock of a table does not keep its schema from being renamed.
#[tokio::test]
async fn no_row_leaves_of_a_table_without_a_key_that_has_taken_the_name_of_a_locked_one() {
    let rows = "SELECT repeat(md5(g::text), 1000) AS v FROM generate_series(1, 100) g";
    let database = Database::create(&format!(
        "CREATE TABLE t (v text); ALTER TABLE t REPLICA IDENTITY FULL; CREATE SCHEMA other; \
         CREATE TABLE other.t AS {rows}"
    ))
    .await;
    let platform = Platform::default();
    let mut reader = platform.hold("source-keyless-locked");
    let properties = [
        ("table.include.list", "public\\.t"),
        ("hutong.batch.bytes.max", "65536"),
    ];
    let running = Running::start(&database, &platform, &properties).await;
    reader.reached().await;
    database
        .execute(
            "BEGIN; ALTER SCHEMA public RENAME TO old; ALTER SCHEMA other RENAME TO public; COMMIT",
        )
        .await;
    reader.release();
    let error = platform.until_failed("public.t").await;
    assert!(error.contains("another table has its name"), "{error}");
    running.stop().await.unwrap();
    assert_eq!(platform.short(), [""; 0]);
}

/// A server at which a commit with `synchronous_commit` waits for a standby that never comes: it is in
/// the log, and streamed, long before others see it.
async fn waiting_server(servers: &OwnServers) -> (Postgres, tokio_postgres::Config) {
    let options = Options::for_tests()
        .with("synchronous_standby_names", "nobody")
        .with("synchronous_commit", "local");
    let server = servers.postgres("waiting", &options).await.unwrap();
    let config = server.url("postgres").parse().unwrap();
    (server, config)
}

/// A commit that waits for its standby.
struct WaitingCommit {
    pid: i32,
    session: JoinHandle<()>,
}

impl WaitingCommit {
    /// Commits, and returns once the commit is in the log and waits.
    async fn begin(database: &Database, session: Client) -> Self {
        let pid = session.query_one("SELECT pg_backend_pid()", &[]).await;
        let pid: i32 = pid.unwrap().get(0);
        let session = tokio::spawn(async move {
            session
                .batch_execute("SET LOCAL synchronous_commit = 'on'; COMMIT")
                .await
                .expect("a commit whose wait was cancelled has taken place");
        });
        let waits = format!(
            "SELECT (wait_event = 'SyncRep')::text FROM pg_stat_activity WHERE pid = {pid}"
        );
        while database.text(&waits).await != "true" {
            assert!(!session.is_finished(), "the commit did not wait");
            tokio::task::yield_now().await;
        }
        Self { pid, session }
    }

    /// Lets the transaction become visible.
    async fn end(self, database: &Database) {
        let cancel = format!("SELECT pg_cancel_backend({})::text", self.pid);
        assert_eq!(database.text(&cancel).await, "true");
        self.session.await.unwrap();
    }
}

/// What left of each key, in order.
fn by_key(platform: &Platform) -> BTreeMap<i64, Vec<String>> {
    let mut events: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for event in platform.events() {
        if event.op == "tombstone" {
            continue;
        }
        let row = event.after.as_ref().or(event.before.as_ref()).unwrap();
        let text = match &event.after {
            Some(row) => format!("{} {}", event.op, row[1..].join(",")),
            None => event.op.to_owned(),
        };
        let key = row[0].parse().unwrap();
        events.entry(key).or_default().push(text);
    }
    events
}

/// Writers beside two chunks of a table (keys 1 to 1000, and the rest):
///
/// | writer | begins, before the chunk's snapshot is taken | commits | in the first chunk |
/// |---|---|---|---|
/// | `seen` | | before it | `u`, then the row as it left it |
/// | `early` | writes | when it is taken | `u` alone |
/// | `late` | writes | when the chunk has left | the row as it was, then `u` |
/// | `waiting` | writes | before it, and waits for the standby | `u` alone |
/// | `later` | writes | when it is taken, and waits | `u` alone |
///
/// The second chunk is opened when `waiting` and `later` were streamed and still cannot be seen: it
/// must be read again until they can.
#[tokio::test]
async fn a_chunk_beside_commits_that_wait_for_a_standby_never_shows_what_was_before() {
    let servers = OwnServers::begin().unwrap();
    let (mut server, at) = waiting_server(&servers).await;
    {
        let database = Database::create_at(
            at,
            "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 1500) g;",
        )
        .await;
        chunks_beside_waiting_commits(&database).await;
    }
    server.stop().await.unwrap();
}

async fn chunks_beside_waiting_commits(database: &Database) {
    let platform = Platform::default();
    let mut opened = platform.hold("source-chunk-open");
    let mut taken = platform.hold("source-chunk-snapshot");
    let one_reader = [("snapshot.max.threads", "1")];
    let running = Running::start(database, &platform, &one_reader).await;
    let begun = async |sql: &str| {
        let session = database.session().await;
        session
            .batch_execute(&format!("BEGIN; {sql}"))
            .await
            .expect(sql);
        session
    };

    opened.reached().await;
    database.execute("UPDATE t SET v = 1 WHERE id = 1").await;
    let early = begun("UPDATE t SET v = 1 WHERE id = 2").await;
    let late = begun("UPDATE t SET v = 1 WHERE id = 3").await;
    let waiting = begun(
        "UPDATE t SET v = 1 WHERE id IN (4, 1204); DELETE FROM t WHERE id IN (5, 1205); \
         UPDATE t SET id = 1607 WHERE id = 7; UPDATE t SET id = 1606 WHERE id = 1206; \
         INSERT INTO t VALUES (0, 0), (1601, 0)",
    )
    .await;
    let waiting = WaitingCommit::begin(database, waiting).await;
    let later = begun("UPDATE t SET v = 1 WHERE id = 8").await;
    until("what waits to be streamed", || {
        by_key(&platform).contains_key(&1601)
    })
    .await;
    opened.release();

    taken.reached().await;
    early.batch_execute("COMMIT").await.unwrap();
    let later = WaitingCommit::begin(database, later).await;
    let mut opened = platform.hold("source-chunk-open");
    taken.release();

    // The second chunk is not read before all that cannot be seen was streamed.
    opened.reached().await;
    until("the first chunk to leave", || {
        by_key(&platform).contains_key(&1000)
    })
    .await;
    until("what waits to be streamed", || {
        by_key(&platform).contains_key(&8)
    })
    .await;
    late.batch_execute("COMMIT").await.unwrap();
    let mut again = platform.hold("source-chunk-open");
    opened.release();
    again.reached().await;
    assert!(
        by_key(&platform).range(1001..=1200).next().is_none(),
        "rows left that may be older than what was streamed"
    );
    waiting.end(database).await;
    later.end(database).await;
    again.release();
    platform.until_streaming().await;
    running.stop().await.unwrap();

    let mut expected: BTreeMap<i64, Vec<&str>> = (9..=1500).map(|id| (id, vec!["r 0"])).collect();
    expected.insert(6, vec!["r 0"]);
    expected.insert(1, vec!["u 1", "r 1"]);
    expected.insert(2, vec!["u 1"]);
    expected.insert(3, vec!["r 0", "u 1"]);
    expected.insert(4, vec!["u 1"]);
    expected.insert(1204, vec!["u 1", "r 1"]);
    for id in [5, 7, 1205, 1206] {
        expected.insert(id, vec!["d"]);
    }
    expected.insert(8, vec!["u 1"]);
    expected.insert(0, vec!["c 0"]);
    for id in [1601, 1606, 1607] {
        expected.insert(id, vec!["c 0", "r 0"]);
    }
    let found = by_key(&platform);
    for (id, events) in &expected {
        assert_eq!(
            found.get(id).map_or(&[][..], |events| events),
            events,
            "key {id}"
        );
    }
    assert_eq!(found.len(), expected.len());
}

/// The row is read again in a snapshot that sees the event's transaction, which waits.
#[tokio::test]
async fn a_row_is_not_read_again_before_its_own_commit_can_be_seen() {
    let servers = OwnServers::begin().unwrap();
    let (mut server, at) = waiting_server(&servers).await;
    {
        let database =
            Database::create_at(at, &format!("{TOASTED} INSERT INTO t VALUES (1, 0, {BIG})")).await;
        let big = database.text("SELECT big FROM t").await;
        let platform = Platform::default();
        let running = Running::start(&database, &platform, &[]).await;
        platform.until_streaming().await;
        // From here on the stream has said what the table looks like, which is looked at no sooner
        // than the row is.
        database.execute("UPDATE t SET a = 2").await;
        until_events(&platform, 2).await;
        let mut streamed = platform.hold("source-reread-before");
        let mut seen = platform.hold("source-reread-snapshot");
        let session = database.session().await;
        session
            .batch_execute("BEGIN; UPDATE t SET a = 1 WHERE id = 1")
            .await
            .unwrap();
        let waiting = WaitingCommit::begin(&database, session).await;
        streamed.reached().await;
        streamed.release();
        // Some looks at what can be seen pass: each is another query of the source's.
        let looked = "SELECT max(query_start)::text FROM pg_stat_activity WHERE application_name = 'hutong' AND backend_type = 'client backend'";
        let mut looks = std::collections::BTreeSet::new();
        while looks.len() < 10 {
            looks.insert(database.text(looked).await);
        }
        assert!(seen.is_ahead(), "the row was read as it was before");
        waiting.end(&database).await;
        seen.reached().await;
        seen.release();
        until_events(&platform, 3).await;
        running.stop().await.unwrap();
        assert_eq!(platform.short()[2..], [format!("u 1,1,{big}")]);
    }
    server.stop().await.unwrap();
}

/// A value that is stored out of line, without compression.
const BIG: &str = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 200) g)";
const TOASTED: &str = "CREATE TABLE t (id int PRIMARY KEY, a int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;";

/// The snapshot in which the row is to be read finds the table empty; the next one does not.
#[tokio::test]
async fn a_row_is_read_again_though_its_table_was_written_anew_behind_the_snapshot() {
    let database = Database::create(&format!("{TOASTED} INSERT INTO t VALUES (1, 0, {BIG})")).await;
    let big = database.text("SELECT big FROM t").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    let mut seen = platform.hold("source-reread-snapshot");
    database.execute("UPDATE t SET a = 1").await;
    seen.reached().await;
    database
        .execute("ALTER TABLE t ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED")
        .await;
    seen.release();
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short()[1..], [format!("u 1,1,{big}")]);
}

/// Whoever waits for a second table while he has the first can be part of a circle, and the department's
/// statement be the one that the server ends.
#[tokio::test]
async fn rows_of_several_tables_are_read_again_under_one_lock_at_a_time() {
    let database = Database::create(&format!(
        "{TOASTED} CREATE TABLE u (LIKE t INCLUDING ALL); \
         INSERT INTO t VALUES (1, 0, {BIG}); INSERT INTO u VALUES (1, 0, {BIG})"
    ))
    .await;
    let big = database.text("SELECT big FROM t").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    let mut seen = platform.hold("source-reread-snapshot");
    database
        .execute("BEGIN; UPDATE t SET a = 1; UPDATE u SET a = 1; COMMIT")
        .await;
    seen.reached().await;
    let session = database.session().await;
    session.batch_execute("BEGIN; LOCK TABLE u").await.unwrap();
    seen.release();
    until_waited_for(&database, "u").await;
    session
        .batch_execute("LOCK TABLE t NOWAIT; COMMIT")
        .await
        .unwrap();
    until_events(&platform, 4).await;
    running.stop().await.unwrap();
    let expected = format!("u 1,1,{big}");
    assert_eq!(platform.short()[2..], [expected.clone(), expected]);
}

/// A primary key is not inherited, so a table that inherits may have the same key.
#[tokio::test]
async fn a_row_of_an_inheriting_table_is_not_read_again_in_place_of_its_parents() {
    let database = Database::create(&format!(
        "{TOASTED} CREATE TABLE heir () INHERITS (t); \
         INSERT INTO t VALUES (1, 0, {BIG}); INSERT INTO heir VALUES (1, 7, 'of the heir')"
    ))
    .await;
    let big = database.text("SELECT big FROM ONLY t").await;
    let platform = Platform::default();
    let only = [("table.include.list", "public\\.t")];
    let running = Running::start(&database, &platform, &only).await;
    platform.until_streaming().await;
    database.execute("UPDATE ONLY t SET a = 1").await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short()[1..], [format!("u 1,1,{big}")]);
}

/// Updates, deletes and key changes that come between an event and the reading of its row: before the
/// snapshot in which it is read, and after it.
#[tokio::test]
async fn a_row_read_again_races_with_updates_deletes_and_key_changes() {
    let database = Database::create(&format!(
        "{TOASTED} INSERT INTO t SELECT g, 0, {BIG} || g FROM generate_series(1, 20) g"
    ))
    .await;
    let big = database.text(&format!("SELECT {BIG}")).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;

    let mut streamed = platform.hold("source-reread-before");
    database.execute("UPDATE t SET a = 1 WHERE id <= 9").await;
    streamed.reached().await;
    database
        .execute(
            "UPDATE t SET a = 2 WHERE id = 2; UPDATE t SET big = 'new' WHERE id = 3; \
             DELETE FROM t WHERE id = 4; UPDATE t SET id = 50 WHERE id = 5",
        )
        .await;
    database.execute("DELETE FROM t WHERE id = 6").await;
    database
        .execute("INSERT INTO t VALUES (6, 9, 'other')")
        .await;
    // A row takes the key of another one.
    database.execute("UPDATE t SET id = 80 WHERE id = 8").await;
    database.execute("UPDATE t SET id = 8 WHERE id = 7").await;
    let uncommitted = database.session().await;
    uncommitted
        .batch_execute("BEGIN; UPDATE t SET a = 2, big = 'never' WHERE id = 9")
        .await
        .unwrap();
    streamed.release();
    until_events(&platform, 20 + 9 + 11).await;
    uncommitted.batch_execute("ROLLBACK").await.unwrap();

    let mut seen = platform.hold("source-reread-snapshot");
    database
        .execute("UPDATE t SET a = 1 WHERE id BETWEEN 11 AND 15")
        .await;
    seen.reached().await;
    database
        .execute("UPDATE t SET a = 2 WHERE id = 11; UPDATE t SET big = 'new' WHERE id = 12")
        .await;
    database.execute("DELETE FROM t WHERE id = 13").await;
    database
        .execute("UPDATE t SET id = 140 WHERE id = 14")
        .await;
    seen.release();
    until_events(&platform, 20 + 9 + 11 + 5 + 5).await;
    running.stop().await.unwrap();

    let was = |id: i32, a: i32| format!("{a},{big}{id}");
    let read = |id: i32| format!("r {}", was(id, 0));
    let updated = |id: i32, a: i32| format!("u {}", was(id, a));
    let gone = || "u 1,UNAVAILABLE".to_owned();
    let delete = || "d".to_owned();
    let new = || "u 1,new".to_owned();
    let expected: [(i64, Vec<String>); 18] = [
        (1, vec![read(1), updated(1, 1)]),
        (2, vec![read(2), updated(2, 2), updated(2, 2)]),
        (3, vec![read(3), new(), new()]),
        (4, vec![read(4), gone(), delete()]),
        (5, vec![read(5), gone(), delete()]),
        (50, vec![format!("c {}", was(5, 1))]),
        (
            6,
            vec![
                read(6),
                "u 9,other".to_owned(),
                delete(),
                "c 9,other".to_owned(),
            ],
        ),
        (7, vec![read(7), gone(), delete()]),
        (
            8,
            vec![read(8), updated(7, 1), delete(), format!("c {}", was(7, 1))],
        ),
        (80, vec![format!("c {}", was(8, 1))]),
        (9, vec![read(9), updated(9, 1)]),
        (10, vec![read(10)]),
        (11, vec![read(11), updated(11, 1), updated(11, 2)]),
        (12, vec![read(12), updated(12, 1), new()]),
        (13, vec![read(13), updated(13, 1), delete()]),
        (14, vec![read(14), updated(14, 1), delete()]),
        (140, vec![format!("c {}", was(14, 1))]),
        (15, vec![read(15), updated(15, 1)]),
    ];
    let found = by_key(&platform);
    for (id, events) in expected {
        assert_eq!(found.get(&id), Some(&events), "key {id}");
    }
}
