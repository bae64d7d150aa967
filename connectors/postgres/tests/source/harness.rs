//! A database of its own for each test, and a platform in memory that takes a source's batches.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::{
    HostError, LiveKeys, SourceBatch, SourceHost, SourceProgress, TableAnnouncement, TableProgress,
    TableState, TableTopic, WantedTopic,
};
use hutong_connectors_postgres::source::{Connected, Error};
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{Op, SnapshotMark};
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::{Lsn, SchemaId};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to the test server.
pub(crate) async fn connect(database: &str) -> Client {
    connect_at(server(), database).await
}

async fn connect_at(mut config: tokio_postgres::Config, database: &str) -> Client {
    config.dbname(database);
    let (client, connection) = config
        .connect(NoTls)
        .await
        .expect("the test server answers");
    tokio::spawn(connection);
    client
}

pub(crate) fn server() -> tokio_postgres::Config {
    std::env::var("HUTONG_TEST_POSTGRES")
        .expect("HUTONG_TEST_POSTGRES is not set: run `make test`")
        .parse()
        .expect("HUTONG_TEST_POSTGRES is a URL")
}

/// A database with a slot's name, both gone at the end of the test.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) sql: Client,
    server: tokio_postgres::Config,
}

impl Database {
    /// Creates the database and runs `setup` in it.
    pub(crate) async fn create(setup: &str) -> Self {
        Self::create_at(server(), setup).await
    }

    /// Creates the database on another server.
    pub(crate) async fn create_at(server: tokio_postgres::Config, setup: &str) -> Self {
        let name = format!("hutong_source_{:08x}", rand::random::<u32>());
        let admin = connect_at(server.clone(), "postgres").await;
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("the test user may create databases");
        let sql = connect_at(server.clone(), &name).await;
        sql.batch_execute(setup).await.expect("the set-up runs");
        Self { name, sql, server }
    }

    /// Returns another session.
    pub(crate) async fn session(&self) -> Client {
        connect_at(self.server.clone(), &self.name).await
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.sql
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        let row = self.sql.query_one(sql, &[]).await.expect(sql);
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// The properties of a source on this database; `more` replaces and adds.
    pub(crate) fn properties(&self, more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let server = &self.server;
        let host = match &server.get_hosts()[0] {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        };
        let mut properties: BTreeMap<String, String> = [
            ("connector.class", hutong_connectors_core::SOURCE_CLASS),
            ("database.hostname", host.as_str()),
            ("database.port", &server.get_ports()[0].to_string()),
            ("database.user", server.get_user().expect("a user")),
            ("database.dbname", &self.name),
            ("database.sslmode", "disable"),
            ("topic.prefix", "p"),
            ("plugin.name", "pgoutput"),
            ("slot.name", &self.name),
            ("publication.name", "hutong_test"),
            ("publication.autocreate.mode", "filtered"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        for (name, value) in more {
            properties.insert((*name).to_owned(), (*value).to_owned());
        }
        properties
    }

    /// Creates a role `<database>_r` with these attributes and grants, `$role` standing for its name.
    pub(crate) async fn role(&self, statements: &str) -> String {
        let role = format!("{}_r", self.name);
        self.execute(&statements.replace("$role", &role)).await;
        role
    }

    pub(crate) fn config(&self, more: &[(&str, &str)]) -> Config {
        Config::parse("test", &self.properties(more)).expect("the properties are right")
    }
}

impl Drop for Database {
    /// Drops everything on a thread and runtime of its own: the test's may be unwinding.
    fn drop(&mut self) {
        let (name, server) = (self.name.clone(), self.server.clone());
        let cleanup = async move {
            let admin = connect_at(server, "postgres").await;
            for _ in 0..100 {
                let dropped = admin
                    .batch_execute(&format!(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'; \
                         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                         WHERE database = '{name}' AND NOT active;"
                    ))
                    .await;
                let gone = admin
                    .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                    .await;
                let roles = admin
                    .batch_execute(&format!(
                        "DROP ROLE IF EXISTS {name}_r; DROP ROLE IF EXISTS {name}_o"
                    ))
                    .await;
                if dropped.is_ok() && gone.is_ok() && roles.is_ok() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let thread = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(cleanup);
        });
        let _ = thread.join();
    }
}

/// A record as its reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
    /// `c`, `u`, `d`, `r`, `t`, or `tombstone`.
    pub(crate) op: &'static str,
    pub(crate) before: Option<Vec<String>>,
    pub(crate) after: Option<Vec<String>>,
    /// The names of the row's columns, by the schema that the record names.
    pub(crate) columns: Vec<String>,
    pub(crate) lsn: Option<Lsn>,
    pub(crate) tx_id: Option<i64>,
    pub(crate) mark: SnapshotMark,
    /// Number of the batch that it came in.
    pub(crate) batch: usize,
}

impl Event {
    /// `op after`, the part that most tests look at.
    pub(crate) fn short(&self) -> String {
        let row = self.after.as_ref().or(self.before.as_ref());
        let row = row.map(|row| row.join(",")).unwrap_or_default();
        format!("{} {row}", self.op).trim_end().to_owned()
    }
}

#[derive(Default)]
struct Log {
    subjects: BTreeMap<String, Vec<(SchemaId, String)>>,
    schemas: HashMap<u32, String>,
    topics: HashSet<String>,
    events: Vec<Event>,
    messages: Vec<Vec<u8>>,
    batches: usize,
    batch_bytes_max: usize,
    positions: BTreeMap<String, Value>,
    announced: Vec<TableAnnouncement>,
    progress: Option<SourceProgress>,
    holds: Vec<Hold>,
}

/// A place at which the source is to be held.
struct Hold {
    place: &'static str,
    reached: oneshot::Sender<()>,
    released: oneshot::Receiver<()>,
}

/// Holds the source at a place, until it is dropped.
pub(crate) struct Held {
    place: &'static str,
    reached: oneshot::Receiver<()>,
    released: oneshot::Sender<()>,
}

impl Held {
    /// Waits until the source is there.
    pub(crate) async fn reached(&mut self) {
        tokio::time::timeout(PATIENCE, &mut self.reached)
            .await
            .unwrap_or_else(|_| panic!("timed out: the source comes to {}", self.place))
            .expect("the platform lives");
    }

    /// Whether the source has not come there yet, asked before [`reached`](Self::reached).
    pub(crate) fn is_ahead(&mut self) -> bool {
        self.reached.try_recv().is_err()
    }

    /// Lets the source go on.
    pub(crate) fn release(self) {
        drop(self.released);
    }
}

/// What stands for Kafka, the registry and the worker: what is committed here is durable.
#[derive(Clone, Default)]
pub(crate) struct Platform {
    log: Arc<Mutex<Log>>,
}

#[async_trait]
impl SourceHost for Platform {
    async fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, HostError> {
        let mut log = self.log.lock().unwrap();
        if let Some(known) = log
            .subjects
            .get(subject)
            .and_then(|versions| versions.iter().find(|(_, known)| known == schema))
        {
            return Ok(known.0);
        }
        let id = u32::try_from(log.schemas.len()).unwrap() + 1;
        log.schemas.insert(id, schema.to_owned());
        log.subjects
            .entry(subject.to_owned())
            .or_default()
            .push((SchemaId(id), schema.to_owned()));
        Ok(SchemaId(id))
    }

    async fn ensure_topics(
        &self,
        topics: &[WantedTopic],
    ) -> Result<Vec<Result<TableTopic, HostError>>, HostError> {
        let mut log = self.log.lock().unwrap();
        let mut ensure = |topic: &WantedTopic| {
            Ok(TableTopic {
                partitions: topic.partitions,
                existed: !log.topics.insert(topic.name.clone()),
            })
        };
        Ok(topics.iter().map(&mut ensure).collect())
    }

    /// The number of events of all topics stands for an offset.
    async fn end_offsets(&self, _: &str) -> Result<Vec<i64>, HostError> {
        let count = self.log.lock().unwrap().events.len();
        Ok(vec![i64::try_from(count).unwrap()])
    }

    async fn live_keys(&self, topic: &str, before: Option<&[i64]>) -> Result<LiveKeys, HostError> {
        let log = self.log.lock().unwrap();
        let end = before.map_or(usize::MAX, |ends| usize::try_from(ends[0]).unwrap());
        let mut live: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        let events = log.events.iter().enumerate();
        for (offset, event) in events.filter(|(_, event)| event.topic == topic) {
            if let Some(key) = &event.key {
                live.insert(key.clone(), event.op != "tombstone" && offset < end);
            }
        }
        let keys: Vec<_> = live.into_iter().filter(|(_, live)| *live).collect();
        Ok(Box::new(keys.into_iter().map(|(key, _)| Ok((0, key)))))
    }

    async fn announce_tables(&self, tables: &[TableAnnouncement]) -> Result<(), HostError> {
        self.log.lock().unwrap().announced.extend_from_slice(tables);
        Ok(())
    }

    fn progress(&self, progress: SourceProgress) {
        self.log.lock().unwrap().progress = Some(progress);
    }

    async fn reached(&self, place: &'static str) {
        let hold = {
            let holds = &mut self.log.lock().unwrap().holds;
            let armed = holds.iter().position(|hold| hold.place == place);
            armed.map(|index| holds.remove(index))
        };
        if let Some(hold) = hold {
            // Whoever dropped the other half lets us go on.
            let _ = hold.reached.send(());
            let _ = hold.released.await;
        }
    }
}

impl Platform {
    /// Holds the source the next time that it comes to a place; see [`SourceHost::reached`].
    pub(crate) fn hold(&self, place: &'static str) -> Held {
        let (reached, is_reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        self.log.lock().unwrap().holds.push(Hold {
            place,
            reached,
            released,
        });
        Held {
            place,
            reached: is_reached,
            released: release,
        }
    }

    fn commit(&self, batch: &SourceBatch) {
        let mut log = self.log.lock().unwrap();
        let number = log.batches;
        log.batch_bytes_max = log.batch_bytes_max.max(batch.records.bytes());
        let records = &batch.records;
        let mut decoders: HashMap<u32, EventDecoder> = HashMap::new();
        for record in &records.records {
            let part = |range: &Option<std::ops::Range<usize>>| {
                range.clone().map(|range| records.buffer[range].to_vec())
            };
            let topic = records.topics[usize::try_from(record.topic).unwrap()].to_string();
            let key = part(&record.key);
            let event = match part(&record.value) {
                None => Event {
                    topic,
                    key,
                    op: "tombstone",
                    before: None,
                    after: None,
                    columns: Vec::new(),
                    lsn: None,
                    tx_id: None,
                    mark: SnapshotMark::False,
                    batch: number,
                },
                Some(value) => {
                    let (id, _) = hutong_schemas::wire::split(&value).expect("framed");
                    let decoder = decoders.entry(id.0).or_insert_with(|| {
                        EventDecoder::compile(&log.schemas[&id.0]).expect("our own schema")
                    });
                    let event = decode(decoder, topic, key, &value, number);
                    log.messages.push(value);
                    event
                }
            };
            log.events.push(event);
        }
        log.batches += 1;
        log.positions.insert(String::new(), batch.position.clone());
        for part in &batch.parts {
            match &part.value {
                Some(value) => drop(log.positions.insert(part.part.clone(), value.clone())),
                None => drop(log.positions.remove(&part.part)),
            }
        }
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.log.lock().unwrap().events.clone()
    }

    /// The events' values with their schemas, as they are in the topic.
    pub(crate) fn messages(&self) -> Vec<(String, Vec<u8>)> {
        let log = self.log.lock().unwrap();
        let schema = |value: &[u8]| {
            let (id, _) = hutong_schemas::wire::split(value).expect("framed");
            log.schemas[&id.0].clone()
        };
        let messages = log.messages.iter();
        messages
            .map(|value| (schema(value), value.clone()))
            .collect()
    }

    /// Events without tombstones, as `op row`.
    pub(crate) fn short(&self) -> Vec<String> {
        self.events()
            .iter()
            .filter(|event| event.op != "tombstone")
            .map(Event::short)
            .collect()
    }

    /// Waits until the stream runs and all tables are read, durably.
    pub(crate) async fn until_streaming(&self) {
        until("the snapshot ends", || self.is_streaming()).await;
    }

    /// Waits until a table that may not be known yet is read, durably, as are all others.
    pub(crate) async fn until_read(&self, table: &str) {
        until(&format!("table {table} is read"), || {
            self.stored(table).is_some() && self.is_streaming()
        })
        .await;
    }

    /// Whether the source that was started last says that it streams every table, and has stored it.
    pub(crate) fn is_streaming(&self) -> bool {
        let shown = self.log.lock().unwrap().progress.clone();
        let streams = |table: &TableProgress| table.state == TableState::Streaming;
        if !shown.is_some_and(|shown| shown.tables.iter().all(streams)) {
            return false;
        }
        let positions = self.positions();
        let has_begun = |position: &Value| position.get("preparing").is_none();
        let is_read = |(part, state): (&String, &Value)| {
            part.is_empty()
                || (state["failed"].is_null()
                    && state["reading"].is_null()
                    && state["announced"] == true)
        };
        positions.get("").is_some_and(has_begun)
            && positions.len() > 1
            && positions.iter().all(is_read)
    }

    /// Waits until a table has stopped, and returns why: `class: message | hint`.
    pub(crate) async fn until_failed(&self, table: &str) -> String {
        until(&format!("table {table} stops"), || {
            self.shown(table).state == TableState::Failed
        })
        .await;
        let error = self
            .shown(table)
            .error
            .expect("a table that stopped says why");
        format!(
            "{}: {} | {}",
            error.class.as_str(),
            error.message,
            error.hint.unwrap_or_default()
        )
    }

    /// What is shown of a table.
    pub(crate) fn shown(&self, table: &str) -> TableProgress {
        let shown = self.progress_now().table_mut(table).cloned();
        shown.unwrap_or(TableProgress {
            table: hutong_schemas::table::TableId {
                schema: String::new(),
                table: String::new(),
            },
            topic: String::new(),
            state: TableState::Waiting,
            rows_done: 0,
            rows_total: None,
            eta_seconds: None,
            error: None,
        })
    }

    /// What is stored of a table.
    pub(crate) fn stored(&self, table: &str) -> Option<Value> {
        let positions = self.positions();
        let mut parts = positions.into_values();
        parts.find(|state| state["name"] == table)
    }

    pub(crate) fn positions(&self) -> BTreeMap<String, Value> {
        self.log.lock().unwrap().positions.clone()
    }

    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.log.lock().unwrap().batch_bytes_max
    }

    pub(crate) fn batches(&self) -> usize {
        self.log.lock().unwrap().batches
    }

    pub(crate) fn position(&self) -> Option<Value> {
        self.log.lock().unwrap().positions.get("").cloned()
    }

    pub(crate) fn set_position(&self, position: Value) {
        let positions = &mut self.log.lock().unwrap().positions;
        positions.insert(String::new(), position);
    }

    pub(crate) fn progress_now(&self) -> SourceProgress {
        self.log
            .lock()
            .unwrap()
            .progress
            .clone()
            .unwrap_or_default()
    }

    pub(crate) fn announced(&self) -> Vec<TableAnnouncement> {
        self.log.lock().unwrap().announced.clone()
    }

    pub(crate) fn lsn(&self) -> Lsn {
        let position = self.position().expect("a position");
        position["lsn"].as_str().unwrap().parse().unwrap()
    }

    /// The newest row of each live key, as a compacted reader sees the topic.
    pub(crate) fn table(&self, topic: &str) -> Vec<String> {
        let mut rows: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        for event in self
            .events()
            .into_iter()
            .filter(|event| event.topic == topic)
        {
            let key = event.key.clone().expect("a key");
            match &event.after {
                Some(row) => {
                    rows.insert(key, row.join(","));
                }
                None => {
                    rows.remove(&key);
                }
            }
        }
        let mut rows: Vec<_> = rows.into_values().collect();
        rows.sort();
        rows
    }
}

fn decode(
    decoder: &EventDecoder,
    topic: String,
    key: Option<Vec<u8>>,
    value: &[u8],
    batch: usize,
) -> Event {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let head = decoder
        .decode(value, &mut before, &mut after)
        .expect("our own event");
    let texts = |row: &[Cell<'_>]| row.iter().map(cell_text).collect::<Vec<_>>();
    Event {
        topic,
        key,
        op: match head.op {
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Read => "r",
            Op::Truncate => "t",
        },
        before: head.has_before.then(|| texts(&before)),
        after: head.has_after.then(|| texts(&after)),
        columns: decoder
            .columns()
            .iter()
            .map(|column| column.name.clone())
            .collect(),
        lsn: head.lsn,
        tx_id: head.tx_id,
        mark: head.snapshot,
        batch,
    }
}

pub(crate) fn cell_text(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Unavailable => "UNAVAILABLE".to_owned(),
        Cell::Bool(value) => value.to_string(),
        Cell::Int(value) => value.to_string(),
        Cell::Float4(value) => value.to_string(),
        Cell::Float8(value) => value.to_string(),
        Cell::Numeric(value) => format!("{:?}e-{}", value.unscaled, value.scale),
        Cell::Text(text) => (*text).to_owned(),
        Cell::Bytes(bytes) | Cell::Composite(bytes) => format!("{bytes:?}"),
    }
}

async fn open(database: &Database, more: &[(&str, &str)]) -> Connected {
    let connected = Connected::open(database.config(more), None).await;
    connected.unwrap_or_else(|error| panic!("{}", explain(&error)))
}

/// A running source.
pub(crate) struct Running {
    source: JoinHandle<Result<(), Error>>,
    worker: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Starts a source whose batches are committed as they come.
    pub(crate) async fn start(
        database: &Database,
        platform: &Platform,
        more: &[(&str, &str)],
    ) -> Self {
        Self::start_for(database, platform, more, usize::MAX).await
    }

    /// Starts a source of which only the first `batches` batches are committed; what comes after is
    /// lost, as by a crash.
    pub(crate) async fn start_for(
        database: &Database,
        platform: &Platform,
        more: &[(&str, &str)],
        batches: usize,
    ) -> Self {
        Self::of(open(database, more).await, platform, batches)
    }

    /// Starts a source with a byte budget that others take from, too.
    pub(crate) async fn start_within(
        database: &Database,
        platform: &Platform,
        more: &[(&str, &str)],
        (budget, kib): (Arc<Semaphore>, usize),
    ) -> Self {
        let connected = open(database, more).await.with_budget(budget, kib);
        Self::of(connected, platform, usize::MAX)
    }

    fn of(connected: Connected, platform: &Platform, batches: usize) -> Self {
        let (out, mut inbox) = mpsc::channel::<SourceBatch>(1);
        let (confirm, confirmed) = watch::channel(0);
        let (stop, stop_signal) = watch::channel(false);
        // What the one before said is not what this one says.
        platform.log.lock().unwrap().progress = None;
        let host: Arc<dyn SourceHost> = Arc::new(platform.clone());
        let run = connected.run(platform.positions(), host, out, confirmed, stop_signal);
        let source = tokio::spawn(run);
        let platform = platform.clone();
        let worker = tokio::spawn(async move {
            let mut left = batches;
            while let Some(batch) = inbox.recv().await {
                if left == 0 {
                    continue;
                }
                left -= 1;
                platform.commit(&batch);
                // The source may have ended; its batches are good all the same.
                let _ = confirm.send(batch.seq);
            }
        });
        Self {
            source,
            worker,
            stop,
        }
    }

    /// Whether the source has ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.source.is_finished()
    }

    /// Asks the source to stop and returns how it ended.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        let _ = self.stop.send(true);
        self.end().await
    }

    /// Waits for the source to end by itself.
    pub(crate) async fn end(self) -> Result<(), Error> {
        let outcome = tokio::time::timeout(PATIENCE, self.source)
            .await
            .expect("the source ends in time")
            .expect("the source does not panic");
        self.worker.await.expect("the worker does not panic");
        outcome
    }

    /// Ends the source as `kill -9` would, the connection included.
    pub(crate) async fn kill(self) {
        self.source.abort();
        let _ = self.source.await;
        self.worker.await.expect("the worker does not panic");
    }
}

/// The message, its causes and its hint.
pub(crate) fn explain(error: &Error) -> String {
    use hutong_schemas::class::Classified as _;
    let report = hutong_connectors_core::ErrorReport::new(error);
    format!(
        "{}: {} | {}",
        error.class().as_str(),
        report.message,
        report.hint.unwrap_or_default()
    )
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the platform holds so many events, tombstones not counted.
pub(crate) async fn until_events(platform: &Platform, count: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while platform.short().len() < count {
        assert!(
            tokio::time::Instant::now() < deadline,
            "timed out: {count} events, there are {}: {:?}; {:?}",
            platform.short().len(),
            platform.progress_now().tables,
            platform.short()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
