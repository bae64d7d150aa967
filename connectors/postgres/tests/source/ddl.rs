//! One kind of DDL after the other, with transactions in flight before, across and after it. What
//! PostgreSQL says that it wrote (`RETURNING`) is what must arrive, each event read with its own
//! schema: live, while the connector follows, and from a backlog, where the catalogue is far ahead.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::Client;

use super::harness::{Database, Event, Platform, Running, connect, until};

/// `c`, `u` or `d`, and the row by column; of a deleted row its key only.
pub(crate) type Change = (&'static str, BTreeMap<String, String>);

const SETUP: &str = "CREATE TABLE t (id int PRIMARY KEY, v varchar(5) NOT NULL, n int); \
     CREATE TABLE beside (id int PRIMARY KEY); \
     INSERT INTO t VALUES (1, 'old', 1), (2, 'old', 2), (3, 'old', 3)";

/// A session of the table's owner, and what it changed and did not commit.
pub(crate) struct Session {
    pub(crate) sql: Client,
    pending: Vec<Change>,
}

impl Session {
    pub(crate) async fn begin(database: &str) -> Self {
        let sql = connect(database).await;
        sql.batch_execute("BEGIN").await.expect("BEGIN");
        Self {
            sql,
            pending: Vec::new(),
        }
    }

    /// Changes rows of `t`; `statement` names the table `t`.
    pub(crate) async fn change(&mut self, op: &'static str, statement: &str) {
        let returning = match op {
            "d" => "jsonb_build_object('id', t.id)",
            _ => "to_jsonb(t)",
        };
        let rows = self
            .sql
            .query(&format!("{statement} RETURNING ({returning})::text"), &[])
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        for row in rows {
            self.pending.push((op, texts(row.get(0))));
        }
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.sql
            .batch_execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }

    pub(crate) async fn commit(self, log: &mut Vec<Change>) {
        self.execute("COMMIT").await;
        log.extend(self.pending);
    }
}

/// A row of PostgreSQL's as the platform's cells are shown.
pub(crate) fn texts(row: &str) -> BTreeMap<String, String> {
    let row: BTreeMap<String, Value> = serde_json::from_str(row).expect("jsonb");
    let text = |value: Value| match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text,
        other => other.to_string(),
    };
    row.into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect()
}

pub(crate) fn change_of(event: &Event) -> Change {
    let row = event.after.as_ref().or(event.before.as_ref());
    let row = row.expect("a row").iter().cloned();
    let named = event.columns.iter().cloned().zip(row);
    let is_delete = event.op == "d";
    (
        event.op,
        named
            .filter(|(name, _)| !is_delete || name == "id")
            .collect(),
    )
}

/// The streamed changes of a topic.
pub(crate) fn changes(platform: &Platform, topic: &str) -> Vec<Change> {
    platform
        .events()
        .iter()
        .filter(|event| event.topic == topic && event.op != "tombstone" && event.op != "r")
        .map(change_of)
        .collect()
}

/// What is written with `insert` after the DDL: into the columns that are there then.
struct Script {
    ddl: &'static str,
    /// Column list and values for a row with the id `$id`.
    insert: &'static str,
    /// A statement that changes the row with the id 2.
    update: &'static str,
}

/// What PostgreSQL held, up to the DDL and after it.
struct Held {
    before: Vec<Change>,
    after: Vec<Change>,
}

impl Script {
    /// Plays the script. The DDL waits for one transaction that has written to the table, while
    /// another one, that began before it, writes to the table after it.
    async fn play(&self, database: &Database) -> Held {
        let name = &database.name;
        let mut before = Vec::new();
        let mut after = Vec::new();
        let insert = |id: i32| {
            let values = self.insert.replace("$id", &id.to_string());
            format!("INSERT INTO t {values}")
        };

        let mut first = Session::begin(name).await;
        first
            .change("c", "INSERT INTO t VALUES (10, 'first', 10)")
            .await;
        first
            .change("u", "UPDATE t SET n = n + 1 WHERE id IN (1, 10)")
            .await;
        let mut across = Session::begin(name).await;
        across.execute("INSERT INTO beside VALUES (1)").await;

        let mut changing = Session::begin(name).await;
        changing
            .change("c", "INSERT INTO t VALUES (11, 'same', 11)")
            .await;
        let pid: i32 = changing
            .sql
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap()
            .get(0);
        let ddl = changing.sql.batch_execute(self.ddl);
        let rest = async {
            until_waiting(database, pid).await;
            first
                .change("u", "UPDATE t SET v = 'late' WHERE id = 3")
                .await;
            first.commit(&mut before).await;
        };
        let (ddl, ()) = tokio::join!(ddl, rest);
        ddl.unwrap_or_else(|error| panic!("{}: {error:?}", self.ddl));
        before.append(&mut changing.pending);
        // The same transaction writes with the old columns and with the new ones.
        changing.change("c", &insert(12)).await;
        changing.commit(&mut after).await;

        across.change("c", &insert(13)).await;
        across.change("u", self.update).await;
        across.commit(&mut after).await;

        let mut last = Session::begin(name).await;
        last.change("c", &insert(14)).await;
        last.change("d", "DELETE FROM t WHERE id = 13").await;
        last.commit(&mut after).await;
        Held { before, after }
    }

    /// Plays the script while a connector follows, or before it is started again.
    async fn run(
        &self,
        is_live: bool,
        database: &Database,
        platform: &Platform,
    ) -> (Running, Held) {
        let running = Running::start(database, platform, &[]).await;
        platform.until_streaming().await;
        if is_live {
            return (running, self.play(database).await);
        }
        running.stop().await.unwrap();
        let held = self.play(database).await;
        (Running::start(database, platform, &[]).await, held)
    }

    /// The topic follows: every change arrives with the columns that it was written with.
    async fn follows(&self) {
        for is_live in [true, false] {
            let database = Database::create(SETUP).await;
            let platform = Platform::default();
            let (running, held) = self.run(is_live, &database, &platform).await;
            if is_live {
                // Wherever it is.
                running.kill().await;
            } else {
                running.stop().await.unwrap();
            }
            let running = Running::start(&database, &platform, &[]).await;
            let mut all = held.before;
            all.extend(held.after);
            until(self.ddl, || {
                changes(&platform, "p.public.t").len() >= all.len()
            })
            .await;
            running.stop().await.unwrap();
            assert_eq!(changes(&platform, "p.public.t"), all, "{}", self.ddl);
            assert_holds(&platform, &database, "t").await;
        }
    }

    /// The topic cannot follow: the table stops with `message`, exactly where the DDL stands if the
    /// connector follows, and not behind it in any case. Another table goes on.
    async fn stops(&self, message: &str) {
        for is_live in [true, false] {
            let database = Database::create(SETUP).await;
            let platform = Platform::default();
            let (running, held) = self.run(is_live, &database, &platform).await;
            let error = platform.until_failed("public.t").await;
            assert!(error.starts_with("definite: "), "{error}");
            assert!(error.contains(message), "{}: {error}", self.ddl);
            assert!(error.contains("public.t"), "{error}");
            assert!(error.contains("hutong.snapshot.again=public.t@"), "{error}");
            database.execute("INSERT INTO beside VALUES (99)").await;
            until("the other table goes on", || {
                changes(&platform, "p.public.beside")
                    .iter()
                    .any(|(_, row)| row["id"] == "99")
            })
            .await;
            running.stop().await.unwrap();
            let arrived = changes(&platform, "p.public.t");
            assert!(
                held.before.starts_with(&arrived),
                "{}: {arrived:?}\nis not the beginning of {:?}",
                self.ddl,
                held.before
            );
            // The remedy works.
            let again = [("hutong.snapshot.again", "public.t@1")];
            let running = Running::start(&database, &platform, &again).await;
            until("the table is read again", || platform.is_streaming()).await;
            running.stop().await.unwrap();
            assert_holds(&platform, &database, "t").await;
        }
    }
}

async fn until_waiting(database: &Database, pid: i32) {
    for _ in 0..3000 {
        let waits: bool = database
            .sql
            .query_one(
                "SELECT count(*) > 0 FROM pg_locks WHERE pid = $1 AND NOT granted",
                &[&pid],
            )
            .await
            .unwrap()
            .get(0);
        if waits {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the DDL does not wait");
}

/// The topic says what the table holds, read with the newest schema: a record that lacks a column
/// has the schema's default in it, and a column that the schema lacks is not read.
pub(crate) async fn assert_holds(platform: &Platform, database: &Database, table: &str) {
    let topic = format!("p.public.{table}");
    let announced = platform.announced();
    let newest = announced.iter().rev().find(|known| known.topic == topic);
    let schema = &newest.expect("the table is announced").schema;
    let mut rows: BTreeMap<Vec<u8>, BTreeMap<String, String>> = BTreeMap::new();
    for event in platform.events() {
        if event.topic != topic {
            continue;
        }
        let key = event.key.clone().expect("a key");
        if event.after.is_none() {
            rows.remove(&key);
            continue;
        }
        let (_, row) = change_of(&event);
        let read = schema.columns.iter().map(|column| {
            let value = row.get(&column.name).cloned();
            let default = || match &column.default {
                None => "NULL".to_owned(),
                Some(default) => match &default.0 {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                },
            };
            (column.name.clone(), value.unwrap_or_else(default))
        });
        rows.insert(key, read.collect());
    }
    let mut in_topic: Vec<_> = rows.into_values().collect();
    in_topic.sort();
    let rows = database
        .sql
        .query(&format!("SELECT to_jsonb(t)::text FROM {table} t"), &[])
        .await
        .unwrap();
    let mut at_source: Vec<_> = rows.iter().map(|row| texts(row.get(0))).collect();
    at_source.sort();
    assert_eq!(
        in_topic, at_source,
        "topic (left) and table {table} (right)"
    );
}

const AS_BEFORE: &str = "VALUES ($id, 'new', $id)";
const UPDATE: &str = "UPDATE t SET n = 0 WHERE id = 2";

fn script(ddl: &'static str, insert: &'static str) -> Script {
    Script {
        ddl,
        insert,
        update: UPDATE,
    }
}

#[tokio::test]
async fn a_column_added_without_a_default_is_followed() {
    script(
        "ALTER TABLE t ADD COLUMN w int",
        "VALUES ($id, 'new', 0, $id)",
    )
    .follows()
    .await;
}

#[tokio::test]
async fn a_column_added_with_a_constant_is_followed_and_its_schema_tells_the_constant() {
    script(
        "ALTER TABLE t ADD COLUMN w text NOT NULL DEFAULT 'it''s, {so}'",
        "(id, v) VALUES ($id, 'new')",
    )
    .follows()
    .await;
    // What is the default later says nothing of the rows that are older than the column.
    script(
        "ALTER TABLE t ADD COLUMN w int DEFAULT 5; ALTER TABLE t ALTER COLUMN w SET DEFAULT 7",
        "(id, v) VALUES ($id, 'new')",
    )
    .follows()
    .await;
    script(
        "ALTER TABLE t ADD COLUMN w int; ALTER TABLE t ALTER COLUMN w SET DEFAULT 7",
        "(id, v) VALUES ($id, 'new')",
    )
    .follows()
    .await;
}

#[tokio::test]
async fn a_column_filled_by_updates_and_then_not_null_is_followed() {
    Script {
        ddl: "ALTER TABLE t ADD COLUMN w int; INSERT INTO beside VALUES (7)",
        insert: "VALUES ($id, 'new', 0, $id)",
        update: "UPDATE t SET w = 2 WHERE id = 2",
    }
    .follows()
    .await;
    let database = Database::create(SETUP).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let mut log = Vec::new();
    database.execute("ALTER TABLE t ADD COLUMN w int").await;
    for id in 1..=3 {
        let mut session = Session::begin(&database.name).await;
        session
            .change("u", &format!("UPDATE t SET w = id WHERE id = {id}"))
            .await;
        session.commit(&mut log).await;
    }
    database
        .execute("ALTER TABLE t ALTER COLUMN w SET NOT NULL")
        .await;
    let running = Running::start(&database, &platform, &[]).await;
    until("all portions", || {
        changes(&platform, "p.public.t").len() >= 3
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(changes(&platform, "p.public.t"), log);
    assert_holds(&platform, &database, "t").await;
}

#[tokio::test]
async fn a_dropped_column_is_followed() {
    script("ALTER TABLE t DROP COLUMN v", "VALUES ($id, $id)")
        .follows()
        .await;
}

#[tokio::test]
async fn not_null_set_and_dropped_is_followed() {
    script(
        "ALTER TABLE t ALTER COLUMN v DROP NOT NULL",
        "VALUES ($id, NULL, 0)",
    )
    .follows()
    .await;
    script("ALTER TABLE t ALTER COLUMN n SET NOT NULL", AS_BEFORE)
        .follows()
        .await;
}

/// The catalogue says NOT NULL again when we look: that is too early, and the table stops.
#[tokio::test]
async fn a_null_between_two_times_of_not_null_stops_the_table() {
    script(
        "ALTER TABLE t ALTER COLUMN v DROP NOT NULL; INSERT INTO t VALUES (50, NULL); \
         DELETE FROM t WHERE id = 50; ALTER TABLE t ALTER COLUMN v SET NOT NULL",
        AS_BEFORE,
    )
    .stops("column \"v\" is NULL but its schema says NOT NULL")
    .await;
}

#[tokio::test]
async fn a_type_that_is_carried_alike_is_followed() {
    script(
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(9)",
        "VALUES ($id, 'new and 9', 0)",
    )
    .follows()
    .await;
    script(
        "ALTER TABLE t ALTER COLUMN v TYPE text",
        "VALUES ($id, 'as long as it likes', 0)",
    )
    .follows()
    .await;
}

#[tokio::test]
async fn several_columns_that_come_and_go_are_followed() {
    script(
        "ALTER TABLE t ADD COLUMN a int; ALTER TABLE t ADD COLUMN b int DEFAULT 3; \
         ALTER TABLE t DROP COLUMN n; ALTER TABLE t ADD COLUMN c text",
        "(id, v, c) VALUES ($id, 'new', 'c')",
    )
    .with_update("UPDATE t SET a = 1 WHERE id = 2")
    .follows()
    .await;
}

#[tokio::test]
async fn ddl_that_is_rolled_back_changes_nothing() {
    script(
        "SAVEPOINT s; ALTER TABLE t ADD COLUMN w int DEFAULT 4; \
         INSERT INTO t VALUES (77, 'gone', 0, 0); ROLLBACK TO SAVEPOINT s",
        AS_BEFORE,
    )
    .follows()
    .await;
}

#[tokio::test]
async fn a_volatile_default_stops_the_table() {
    let stopped = "column \"w\" was added, and the rows were written anew";
    script(
        "ALTER TABLE t ADD COLUMN w uuid DEFAULT gen_random_uuid()",
        "(id, v) VALUES ($id, 'new')",
    )
    .stops(stopped)
    .await;
    // Nothing but the rows' files tells of it afterwards.
    script(
        "ALTER TABLE t ADD COLUMN w text DEFAULT md5(random()::text); \
         ALTER TABLE t ALTER COLUMN w DROP DEFAULT",
        "(id, v) VALUES ($id, 'new')",
    )
    .stops(stopped)
    .await;
}

#[tokio::test]
async fn a_renamed_column_stops_the_table() {
    script("ALTER TABLE t RENAME COLUMN v TO w", AS_BEFORE)
        .stops("column \"v\" was renamed to \"w\"")
        .await;
    script(
        "ALTER TABLE t RENAME COLUMN n TO m; ALTER TABLE t ADD COLUMN n int",
        "VALUES ($id, 'new', 0, 0)",
    )
    .with_update("UPDATE t SET m = 0 WHERE id = 2")
    .stops("column \"n\" was renamed to \"m\"")
    .await;
}

#[tokio::test]
async fn rows_written_anew_with_another_type_stop_the_table() {
    script(
        "ALTER TABLE t ALTER COLUMN n TYPE bigint USING n * 1000",
        "VALUES ($id, 'new', 5000000000)",
    )
    .stops("column \"n\" changed its type (now bigint)")
    .await;
    // Carried alike, but not written alike.
    script(
        "ALTER TABLE t ALTER COLUMN v TYPE varchar(9) USING v || '!'",
        AS_BEFORE,
    )
    .stops("column \"v\" changed its type (now character varying(9))")
    .await;
}

#[tokio::test]
async fn a_name_used_again_stops_the_table() {
    script(
        "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v varchar(5)",
        "(id, v) VALUES ($id, 'new')",
    )
    .stops("column \"v\" was dropped and created again")
    .await;
}

#[tokio::test]
async fn another_primary_key_stops_the_table() {
    script(
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, v)",
        AS_BEFORE,
    )
    .stops("its primary key changed")
    .await;
}

impl Script {
    fn with_update(mut self, update: &'static str) -> Self {
        self.update = update;
        self
    }
}

#[tokio::test]
async fn a_name_used_again_later_stops_the_table() {
    let database = Database::create(SETUP).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("ALTER TABLE t DROP COLUMN v; INSERT INTO t VALUES (4, 4)")
        .await;
    until("the dropped column is followed", || {
        changes(&platform, "p.public.t").len() == 1
    })
    .await;
    database
        .execute("ALTER TABLE t ADD COLUMN v text; INSERT INTO t VALUES (5, 5, 'other')")
        .await;
    let error = platform.until_failed("public.t").await;
    assert!(error.contains("a dropped one has had its name"), "{error}");
    running.stop().await.unwrap();
    let again = [("hutong.snapshot.again", "public.t@1")];
    let running = Running::start(&database, &platform, &again).await;
    until("the table is read again", || platform.is_streaming()).await;
    running.stop().await.unwrap();
    assert_holds(&platform, &database, "t").await;
}

#[tokio::test]
async fn a_table_that_is_renamed_stops() {
    let database = Database::create(SETUP).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute(
            "INSERT INTO t VALUES (4, 'kept', 4); ALTER TABLE t RENAME TO t2; INSERT INTO t2 VALUES (5, 'new', 5)",
        )
        .await;
    let error = platform.until_failed("public.t").await;
    assert!(error.contains("it was renamed to public.t2"), "{error}");
    running.stop().await.unwrap();
    assert_eq!(changes(&platform, "p.public.t").len(), 1);
}

#[tokio::test]
async fn a_table_that_is_dropped_and_created_again_is_another_table() {
    let database = Database::create(SETUP).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t VALUES (4, 'kept', 4)")
        .await;
    until("the row is there", || {
        changes(&platform, "p.public.t").len() == 1
    })
    .await;
    database
        .execute(
            "DROP TABLE t; \
             CREATE TABLE t (id int PRIMARY KEY, secret text); \
             ALTER PUBLICATION hutong_test ADD TABLE t; INSERT INTO t VALUES (5, 'never shown')",
        )
        .await;
    let error = platform.until_failed("public.t").await;
    assert!(
        error.contains("it was dropped and created again"),
        "{error}"
    );
    running.stop().await.unwrap();
    let arrived = changes(&platform, "p.public.t");
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    let running = Running::start(&database, &platform, &[]).await;
    // What is stored of the former table may still say that it is read.
    let is_new = |event: &String| event.starts_with("r 5");
    until("the new table is read", || {
        platform.short().iter().any(is_new) && platform.is_streaming()
    })
    .await;
    running.stop().await.unwrap();
    assert_holds(&platform, &database, "t").await;
}

/// A table may have changed again when a part of a transaction that was done is sent once more: what
/// the server says of it first is then older than what is stored.
#[tokio::test]
async fn a_transaction_done_in_part_goes_on_with_the_columns_that_it_has_then() {
    let database = Database::create(SETUP).await;
    let platform = Platform::default();
    // Batches of a few rows.
    let small = [("hutong.batch.bytes.max", "65536")];
    let running = Running::start(&database, &platform, &small).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let mut log = Vec::new();
    let mut session = Session::begin(&database.name).await;
    let rows = |from: i32, more: &str| {
        format!(
            "INSERT INTO t SELECT n, repeat('x', 5), n{more} FROM generate_series({from}, {}) n",
            from + 999
        )
    };
    session.change("c", &rows(1000, "")).await;
    session.execute("ALTER TABLE t DROP COLUMN v").await;
    session
        .change(
            "c",
            "INSERT INTO t SELECT n, n FROM generate_series(2000, 2999) n",
        )
        .await;
    session
        .execute("ALTER TABLE t ADD COLUMN w int DEFAULT 9")
        .await;
    session
        .change(
            "c",
            "INSERT INTO t SELECT n, n FROM generate_series(3000, 3999) n",
        )
        .await;
    session.commit(&mut log).await;
    // One batch more with each start, the rest lost as by a crash.
    let mut starts = 0;
    while changes(&platform, "p.public.t").len() < log.len() {
        let done = changes(&platform, "p.public.t").len();
        let running = Running::start_for(&database, &platform, &small, 1).await;
        until("another part", || {
            changes(&platform, "p.public.t").len() > done
        })
        .await;
        running.kill().await;
        starts += 1;
        assert!(starts < 1000, "{} of {}", done, log.len());
    }
    assert!(starts > 5, "only {starts} parts");
    assert_eq!(changes(&platform, "p.public.t"), log);
    assert_holds(&platform, &database, "t").await;
}

/// Nothing is sent for these, and the topic says something else from then on.
#[tokio::test]
async fn a_change_that_no_event_tells_of_is_noticed() {
    let database = Database::create(SETUP).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("ALTER TABLE t ALTER COLUMN n TYPE bigint USING n * 1000")
        .await;
    database
        .execute("INSERT INTO beside VALUES (5); TRUNCATE beside; INSERT INTO beside VALUES (6)")
        .await;
    let error = platform.until_failed("public.t").await;
    assert!(
        error.contains("column \"n\" changed its type (now bigint)"),
        "{error}"
    );
    database.execute("DROP TABLE beside").await;
    let error = platform.until_failed("public.beside").await;
    assert!(error.contains("it was dropped"), "{error}");
    running.stop().await.unwrap();
    assert_eq!(changes(&platform, "p.public.beside").len(), 3);
}
