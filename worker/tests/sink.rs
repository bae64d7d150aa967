//! A sink task from its record to the subscriber's table.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_connectors_core::SINK_CLASS;
use hutong_connectors_postgres::sink::faults::{Fault, arm};
use hutong_schemas::batch::{Record as BatchRecord, RecordBatch};
use hutong_schemas::cell::Cell;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{RecordEncoder, ViewField, view_key_schema, view_value_schema};
use hutong_schemas::sql_type::SqlType;
use hutong_transport::admin::{Admin, TopicSpec};
use hutong_transport::producer::{Transaction, TransactionalProducer};
use hutong_transport::record::{TargetState, TaskKind, TaskRecord, TaskState};
use serde_json::{Value, json};

use crate::bench::{Bench, Database};

const PATIENCE: Duration = Duration::from_secs(60);

/// A view's topic with its schemas, and a processor's producer.
struct View {
    name: String,
    topic: Arc<str>,
    topic_id: String,
    partitions: i32,
    key: RecordEncoder,
    value: RecordEncoder,
    producer: TransactionalProducer,
}

/// One change of a view: the source's transaction, the key, the row's text or nothing.
type Change<'a> = (i64, i64, Option<&'a str>);

fn view_field(name: &str, sql_type: SqlType, nullable: bool) -> ViewField {
    ViewField {
        name: name.to_owned(),
        sql_type,
        nullable,
    }
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

async fn register(bench: &Bench, subject: &str, schema: &str) -> SchemaId {
    // Only the first of the tests in this process installs it.
    drop(rustls::crypto::ring::default_provider().install_default());
    let url = format!("{}/subjects/{subject}/versions", bench.registry.url);
    let answer = reqwest::Client::new()
        .post(url)
        .json(&json!({ "schema": schema }))
        .send()
        .await
        .unwrap();
    let body: Value = answer.json().await.unwrap();
    SchemaId(u32::try_from(body["id"].as_u64().unwrap()).unwrap())
}

impl View {
    async fn new(bench: &Bench, name: &str, column: &str, partitions: i32) -> Self {
        let admin = Admin::new(&bench.kafka).unwrap();
        let spec = TopicSpec::view(&bench.cluster, name, 1, partitions);
        let info = admin.ensure_topic(&spec).await.unwrap();
        let id = view_field(&format!("id_{column}"), SqlType::Int8, false);
        let text = view_field(column, SqlType::Text, true);
        let key_schema = view_key_schema(std::slice::from_ref(&id));
        let value_schema = view_value_schema(&[id, text]);
        let key_id = register(bench, &format!("{}-key", spec.name), &key_schema).await;
        let value_id = register(bench, &format!("{}-value", spec.name), &value_schema).await;
        let transactional_id = format!("{}.{name}", bench.name);
        let producer =
            TransactionalProducer::start(&bench.kafka, &bench.cluster, &transactional_id);
        Self {
            name: bench.cluster.view_alias(name),
            topic: Arc::from(spec.name.as_str()),
            topic_id: info.id.0,
            partitions,
            key: RecordEncoder::compile(&key_schema, key_id).unwrap(),
            value: RecordEncoder::compile(&value_schema, value_id).unwrap(),
            producer: producer.await.unwrap(),
        }
    }

    /// Commits changes in one transaction.
    async fn commit(&self, changes: &[Change<'_>]) {
        let mut batch = RecordBatch::default();
        let topic = batch.topic(&self.topic);
        for (tx, id, text) in changes {
            let start = batch.buffer.len();
            self.key
                .encode(&[Cell::Int(*id)], &mut batch.buffer)
                .unwrap();
            let key = start..batch.buffer.len();
            let value = text.map(|text| {
                let start = batch.buffer.len();
                let row = [Cell::Int(*id), Cell::Text(text)];
                self.value.encode(&row, &mut batch.buffer).unwrap();
                start..batch.buffer.len()
            });
            let start = batch.buffer.len();
            let header = format!("v1 tx={tx} lsn=0/1 ts_us={} policy=1", now_us());
            batch.buffer.extend_from_slice(header.as_bytes());
            let header = Some(start..batch.buffer.len());
            batch.records.push(BatchRecord {
                topic,
                partition: None,
                key: Some(key),
                value,
                header,
            });
        }
        let transaction = Transaction {
            batches: vec![batch],
            ..Transaction::default()
        };
        self.producer.commit(transaction).await.unwrap();
    }

    fn input(&self, state: &str) -> Value {
        json!({
            "name": self.name, "topic": &*self.topic, "topic_id": self.topic_id,
            "partitions": self.partitions, "view": self.name, "generation": 1, "version": 1,
            "state": state,
        })
    }
}

fn sink(bench: &Bench, database: &Database, topics: &str, inputs: Vec<Value>) -> TaskRecord {
    let source = database.properties("");
    let host = source["database.hostname"].as_str().unwrap();
    let port = source["database.port"].as_str().unwrap();
    let url = format!(
        "jdbc:postgresql://{host}:{port}/{}?sslmode=disable",
        database.name
    );
    let connector = format!("{}-sink", bench.name);
    TaskRecord {
        v: 1,
        task: format!("{connector}-0"),
        connector,
        version: 1,
        kind: TaskKind::Sink,
        target: TargetState::Running,
        restart: 0,
        config: json!({
            "class": SINK_CLASS,
            "properties": {
                "connector.class": SINK_CLASS,
                "connection.url": url,
                "connection.username": source["database.user"],
                "topics": topics,
                "hutong.batch.bytes.max": "64KiB",
            },
            "inputs": inputs,
        }),
    }
}

/// Returns the name that the default format gives a view's table.
fn table(view: &View) -> String {
    format!("\"{}\"", view.name.replace('.', "_"))
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn has_rows(database: &Database, table: &str, count: i64) {
    let exists = format!(
        "SELECT count(*) FROM pg_class WHERE relname = '{}'",
        table.trim_matches('"')
    );
    let rows = format!("SELECT count(*) FROM {table}");
    until("the table has its rows", async || {
        database.count(&exists).await == 1 && database.count(&rows).await == count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_several_partitions_is_kept_in_a_table_and_the_status_tells() {
    let bench = Bench::new("deliver").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 3).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let rows: Vec<Change<'_>> = (1..=500).map(|id| (id / 7, id, Some("first"))).collect();
    view.commit(&rows).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 500).await;
    view.commit(&[
        (90, 1, Some("again")),
        (90, 2, None),
        (91, 3, None),
        (91, 3, Some("back")),
    ])
    .await;
    has_rows(&database, &name, 499).await;
    let changed =
        format!("SELECT count(*) FROM {name} WHERE (id_txt, txt) IN ((1, 'again'), (3, 'back'))");
    until("both changes are there", async || {
        database.count(&changed).await == 2
    })
    .await;
    let status = bench
        .status(&task, |status| {
            let input = &status.details["inputs"][0];
            input["rows_applied_total"] == 503 && input["lag_records"] == 0
        })
        .await;
    assert_eq!(status.state, TaskState::Running);
    let input = &status.details["inputs"][0];
    assert_eq!(input["state"], "live");
    assert_eq!(input["table"], format!("public.{}", name.trim_matches('"')));
    assert_eq!(input["partitions"].as_array().unwrap().len(), 3);
    let p99 = input["latency_ms_p99"].as_u64().unwrap();
    assert!(p99 < 60_000, "{p99} ms");
    let (_, metrics) = worker.get("/metrics").await;
    assert!(
        metrics.contains(&format!(
            "hutong_sink_rows_total{{task=\"{}\"}} 503",
            task.task
        )),
        "{metrics}"
    );
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_ever_sees_half_of_a_source_transaction() {
    let bench = Bench::new("half").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    // Each source transaction writes its number into the same forty rows.
    let writing = async {
        for step in 0..40 {
            let texts: Vec<(i64, String)> = (1..=50)
                .map(|n| (step * 50 + n, (step * 50 + n).to_string()))
                .collect();
            let changes: Vec<Change<'_>> = texts
                .iter()
                .flat_map(|(tx, text)| (1..=40).map(|id| (*tx, id, Some(text.as_str()))))
                .collect();
            view.commit(&changes).await;
        }
    };
    let looking = async {
        let sql = format!(
            "SELECT count(DISTINCT txt) * 1000000 + count(*) * 10000 + coalesce(max(txt::int), 0) FROM {name}"
        );
        let mut seen = 0;
        loop {
            let found = database.count(&sql).await;
            let (distinct, rows, number) =
                (found / 1_000_000, found / 10_000 % 100, found % 10_000);
            assert!(
                distinct <= 1 && (rows == 0 || rows == 40),
                "half of a transaction: {found}"
            );
            seen += 1;
            if number == 2000 {
                return seen;
            }
        }
    };
    let ((), looks) = tokio::time::timeout(PATIENCE, futures_join(writing, looking))
        .await
        .unwrap();
    assert!(looks > 10, "{looks} looks prove little");
    worker.stop().await;
    database.remove().await;
}

async fn futures_join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    tokio::join!(a, b)
}

/// Notes each value that is ever written, so that a row written twice shows.
fn audit(table: &str) -> String {
    format!(
        "CREATE TABLE audit (txt text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO audit VALUES (NEW.txt); RETURN NEW; END $$;
         CREATE TRIGGER note BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note()"
    )
}

// An upsert of a present row passes the trigger before INSERT and the one before UPDATE.
const WRITTEN_TWICE: &str =
    "SELECT count(*) FROM (SELECT FROM audit GROUP BY txt HAVING count(*) > 2) twice";

#[tokio::test(flavor = "multi_thread")]
async fn crashes_and_lost_answers_write_every_change_once() {
    let bench = Bench::new("once").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let mut worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    database.sql(&audit(&name)).await;
    for round in 0..6_i64 {
        if round % 2 == 0 {
            arm(&task.connector, Fault::LoseAnswer);
        }
        for step in 0..20 {
            let tx = round * 20 + step;
            let texts: Vec<String> = (1..=30).map(|id| format!("{tx}-{id}")).collect();
            let changes: Vec<Change<'_>> = (1..)
                .zip(&texts)
                .map(|(id, text)| (tx, id, Some(text.as_str())))
                .collect();
            view.commit(&changes).await;
            if round % 2 == 1 && step == 10 {
                worker.crash().await;
                worker = bench.worker("worker-1");
            }
        }
        let last = format!(
            "SELECT count(*) FROM {name} WHERE txt LIKE '{}-%'",
            round * 20 + 19
        );
        until("the round has arrived", async || {
            database.count(&last).await == 30
        })
        .await;
    }
    assert_eq!(database.count(WRITTEN_TWICE).await, 0);
    let offset = "SELECT next_offset FROM hutong_position";
    assert!(database.count(offset).await >= 120 * 30);
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_input_is_emptied_and_its_neighbour_goes_on() {
    let bench = Bench::new("revoke").await;
    let database = Database::new(&bench).await;
    let kept = View::new(&bench, "kept", "k", 1).await;
    let lost = View::new(&bench, "lost", "l", 2).await;
    let topics = format!("{},{}", kept.name, lost.name);
    let inputs = vec![kept.input("live"), lost.input("live")];
    let mut task = sink(&bench, &database, &topics, inputs);
    let rows: Vec<Change<'_>> = (1..=100).map(|id| (id, id, Some("x"))).collect();
    kept.commit(&rows).await;
    lost.commit(&rows).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    has_rows(&database, &table(&kept), 100).await;
    has_rows(&database, &table(&lost), 100).await;
    task.version = 2;
    task.config["inputs"][1]["state"] = "revoked".into();
    let began = Instant::now();
    bench.want(&task).await;
    has_rows(&database, &table(&lost), 0).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "took {:?}",
        began.elapsed()
    );
    let status = bench
        .status(&task, |status| {
            status.version == 2 && status.details["inputs"][1]["state"] == "emptied"
        })
        .await;
    assert_eq!(status.details["inputs"][1]["rows_emptied"], 100);
    assert_eq!(
        database
            .count("SELECT count(*) FROM hutong_position WHERE topic LIKE '%lost%'")
            .await,
        0
    );
    kept.commit(&[(200, 200, Some("new"))]).await;
    has_rows(&database, &table(&kept), 101).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_runs_out_empties_its_table_without_the_control_plane() {
    let bench = Bench::new("expire").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    view.commit(&[(1, 1, Some("x"))]).await;
    let end_ms = now_us() / 1000 + 8_000;
    task.config["inputs"][0]["valid_until_ms"] = end_ms.into();
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    has_rows(&database, &table(&view), 1).await;
    assert!(now_us() / 1000 < end_ms, "the row came in time");
    has_rows(&database, &table(&view), 0).await;
    assert!(now_us() / 1000 >= end_ms, "not before its time");
    bench
        .status(&task, |status| {
            status.details["inputs"][0]["state"] == "emptied"
        })
        .await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_go_on_says_why_and_the_others_go_on() {
    let bench = Bench::new("alone").await;
    let database = Database::new(&bench).await;
    let good = View::new(&bench, "good", "g", 1).await;
    let bad = View::new(&bench, "bad", "b", 1).await;
    let topics = format!("{},{}", good.name, bad.name);
    let mut task = sink(
        &bench,
        &database,
        &topics,
        vec![good.input("live"), bad.input("live")],
    );
    database
        .sql(&format!(
            "CREATE TABLE {} (id_b text PRIMARY KEY, b text)",
            table(&bad)
        ))
        .await;
    good.commit(&[(1, 1, Some("x"))]).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    has_rows(&database, &table(&good), 1).await;
    let status = bench
        .status(&task, |status| {
            status.details["inputs"][1]["state"] == "failed"
        })
        .await;
    assert_eq!(status.details["inputs"][1]["error"]["class"], "definite");
    let message = status.details["inputs"][1]["error"]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("column id_b is text, it must be bigint"),
        "{message}"
    );
    good.commit(&[(2, 2, Some("y"))]).await;
    has_rows(&database, &table(&good), 2).await;
    database.sql(&format!("DROP TABLE {}", table(&bad))).await;
    bad.commit(&[(3, 3, Some("z"))]).await;
    task.restart += 1;
    bench.want(&task).await;
    has_rows(&database, &table(&bad), 1).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_shown_and_ends_by_itself() {
    let bench = Bench::new("full").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    database
        .sql(&format!(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON {name} EXECUTE FUNCTION full_disk()"
        ))
        .await;
    view.commit(&[(1, 1, Some("x"))]).await;
    let status = bench.state(&task, TaskState::Restarting).await;
    let error = status.error.unwrap();
    assert!(
        error
            .message
            .contains("No space left on device (SQLSTATE 53100)"),
        "{error:?}"
    );
    database
        .sql(&format!("DROP TRIGGER full_disk ON {name}"))
        .await;
    has_rows(&database, &name, 1).await;
    bench.state(&task, TaskState::Running).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_of_a_table_is_delivered_by_its_change_events() {
    let bench = Bench::new("events").await;
    let database = Database::new(&bench).await;
    database
        .sql(
            "CREATE TABLE person (id int, part char(3), name varchar(20), money numeric(18,4), any_number numeric,
                 born date, at timestamptz(3), seen timestamp, photo bytea, note jsonb, u uuid, ok boolean,
                 PRIMARY KEY (id, part));
             INSERT INTO person SELECT n, 'ab', 'p' || n, n * 1.2345, n / 7.0, date '1900-01-01' + n, now(),
                 'infinity', decode('00ff', 'hex'), '{\"a\": 1}', gen_random_uuid(), n % 2 = 0
             FROM generate_series(1, 200) n",
        )
        .await;
    let source = database.source("public.person");
    let worker = bench.worker("worker-1");
    bench.want(&source).await;
    bench.streams(&source).await;
    let topic = format!("{}.public.person", database.name);
    let admin = Admin::new(&bench.kafka).unwrap();
    let info = admin.topic(&topic).await.unwrap().unwrap();
    let input = json!({
        "name": topic, "topic": topic, "topic_id": info.id.0, "partitions": info.partitions,
        "view": null, "generation": 1, "version": 1, "state": "live",
    });
    let mut task = sink(&bench, &database, &topic, vec![input]);
    task.config["properties"]["collection.name.format"] = "copy".into();
    bench.want(&task).await;
    has_rows(&database, "copy", 200).await;
    database
        .sql(
            "BEGIN; DELETE FROM person WHERE id = 1; INSERT INTO person (id, part) VALUES (1, 'ab'); COMMIT;
             UPDATE person SET id = id + 1000 WHERE id BETWEEN 10 AND 19;
             UPDATE person SET name = NULL, money = -0.0001 WHERE id > 150;
             DELETE FROM person WHERE id BETWEEN 100 AND 120",
        )
        .await;
    let difference = "SELECT count(*) FROM (
        (SELECT p::text FROM person p EXCEPT SELECT c::text FROM copy c)
        UNION ALL (SELECT c::text FROM copy c EXCEPT SELECT p::text FROM person p)) d";
    until("the copy equals the table", async || {
        database.count(difference).await == 0
    })
    .await;
    assert_eq!(database.count("SELECT count(*) FROM copy").await, 179);
    // Change events name no lengths and no jsonb; what they do name is kept.
    let types = "SELECT count(*) FROM (
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'person'::regclass AND attnum > 0
        AND attname IN ('id', 'money', 'any_number', 'born', 'seen', 'photo', 'u', 'ok')
        EXCEPT SELECT attname, replace(format_type(atttypid, atttypmod), '(6)', '') FROM pg_attribute
        WHERE attrelid = 'copy'::regclass AND attnum > 0) d";
    let differing = database.count(types).await;
    assert_eq!(differing, 0, "columns whose type is not the source's");
    database.sql("TRUNCATE person").await;
    has_rows(&database, "copy", 0).await;
    worker.stop().await;
    database.remove().await;
}
