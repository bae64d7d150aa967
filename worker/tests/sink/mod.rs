//! A sink task from its record to the subscriber's table.

mod dead_letters;
mod delivering;
mod failing;
mod generations;
mod grants;
mod once;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_connectors_core::SINK_CLASS;
use hutong_schemas::batch::{Record as BatchRecord, RecordBatch};
use hutong_schemas::cell::Cell;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{RecordEncoder, ViewField, view_key_schema, view_value_schema};
use hutong_schemas::sql_type::SqlType;
use hutong_transport::admin::{Admin, Isolation, TopicSpec};
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
    generation: u64,
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
        let id = view_field(&format!("id_{column}"), SqlType::Int8, false);
        let text = view_field(column, SqlType::Text, true);
        let row = [id.clone(), text];
        Self::of(bench, name, 1, partitions, &id, &row).await
    }

    async fn of(
        bench: &Bench,
        name: &str,
        generation: u64,
        partitions: i32,
        key: &ViewField,
        row: &[ViewField],
    ) -> Self {
        let admin = Admin::new(&bench.kafka).unwrap();
        let spec = TopicSpec::view(&bench.cluster, name, generation, partitions);
        let info = admin.ensure_topic(&spec).await.unwrap();
        let key_schema = view_key_schema(std::slice::from_ref(key));
        let value_schema = view_value_schema(row);
        let key_id = register(bench, &format!("{}-key", spec.name), &key_schema).await;
        let value_id = register(bench, &format!("{}-value", spec.name), &value_schema).await;
        let transactional_id = format!("{}.{name}.{generation}", bench.name);
        let producer =
            TransactionalProducer::start(&bench.kafka, &bench.cluster, &transactional_id);
        Self {
            name: bench.cluster.view_alias(name),
            topic: Arc::from(spec.name.as_str()),
            topic_id: info.id.0,
            partitions,
            generation,
            key: RecordEncoder::compile(&key_schema, key_id).unwrap(),
            value: RecordEncoder::compile(&value_schema, value_id).unwrap(),
            producer: producer.await.unwrap(),
        }
    }

    /// Commits changes in one transaction.
    async fn commit(&self, changes: &[Change<'_>]) {
        let cells: Vec<Cell<'_>> = changes.iter().map(|(_, id, _)| Cell::Int(*id)).collect();
        let rows: Vec<[Cell<'_>; 2]> = changes
            .iter()
            .map(|(_, id, text)| [Cell::Int(*id), text.map_or(Cell::Null, Cell::Text)])
            .collect();
        let records = changes.iter().zip(&cells).zip(&rows);
        let records = records.map(|(((tx, _, text), key), row)| {
            let row = text.is_some().then_some(row.as_slice());
            (*tx, *key, row)
        });
        self.write(records).await;
    }

    /// Commits records, each of a source transaction, with a key and a row or nothing.
    async fn write<'a>(
        &self,
        records: impl Iterator<Item = (i64, Cell<'a>, Option<&'a [Cell<'a>]>)>,
    ) {
        let mut batch = RecordBatch::default();
        let topic = batch.topic(&self.topic);
        for (tx, key, row) in records {
            let start = batch.buffer.len();
            self.key.encode(&[key], &mut batch.buffer).unwrap();
            let key = start..batch.buffer.len();
            let value = row.map(|row| {
                let start = batch.buffer.len();
                self.value.encode(row, &mut batch.buffer).unwrap();
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

    async fn end_offsets(&self, bench: &Bench) -> BTreeMap<i32, i64> {
        let admin = Admin::new(&bench.kafka).unwrap();
        let ends = admin.end_offsets(&self.topic, Isolation::ReadCommitted);
        ends.await.unwrap()
    }

    fn input(&self, state: &str) -> Value {
        json!({
            "name": self.name, "topic": &*self.topic, "topic_id": self.topic_id,
            "partitions": self.partitions, "view": self.name, "generation": self.generation, "version": self.generation,
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
