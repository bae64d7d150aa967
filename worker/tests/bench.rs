//! A cluster name, a database and workers of a test's own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_connectors_core::SOURCE_CLASS;
use hutong_schemas::cell::Cell;
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::wire;
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, Isolation, TopicSpec};
use hutong_transport::names::{Cluster, TASK_PARTITIONS, partition_of};
use hutong_transport::producer::{PlainProducer, PlainRecord};
use hutong_transport::reader::{CompactedReader, Event, PartitionReader, Start};
use hutong_transport::record::{
    AnswerRecord, Record, RequestRecord, StatusRecord, TargetState, TaskKind, TaskRecord, TaskState,
};
use hutong_worker::Config;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::registry::Registry;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

/// What a test has to itself.
pub(crate) struct Bench {
    pub(crate) name: String,
    pub(crate) cluster: Cluster,
    pub(crate) kafka: KafkaConfig,
    pub(crate) registry: Registry,
    pub(crate) bootstrap: String,
    producer: PlainProducer,
    data_dir: tempfile::TempDir,
}

/// A running worker. Dropping it is a crash.
pub(crate) struct Worker {
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), hutong_worker::Error>>,
}

impl Bench {
    pub(crate) async fn new(name: &str) -> Self {
        // Only the first of the tests in this process sets it.
        drop(
            tracing_subscriber::fmt()
                .with_env_filter(
                    tracing_subscriber::EnvFilter::try_from_default_env()
                        .unwrap_or_else(|_| "info,hutong_worker=debug".into()),
                )
                .with_test_writer()
                .try_init(),
        );
        let name = format!("wk{name}{:06x}", rand::random::<u32>() & 0xff_ffff);
        let bootstrap = variable("KAFKA_BOOTSTRAP");
        let kafka = KafkaConfig::plain(&bootstrap).unwrap();
        let cluster = Cluster::new(&name).unwrap();
        let admin = Admin::new(&kafka).unwrap();
        for spec in [
            TopicSpec::tasks(&cluster, "default"),
            TopicSpec::status(&cluster, "default"),
            TopicSpec::schemas(&cluster),
        ] {
            admin.ensure_topic(&spec).await.unwrap();
        }
        let producer = PlainProducer::new(&kafka).unwrap();
        Self {
            registry: Registry::start(&cluster, producer.clone()).await,
            name,
            cluster,
            kafka,
            bootstrap,
            producer,
            data_dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn config(&self, instance_id: &str, bootstrap: &str) -> Config {
        Config::from_value(json!({
            "cluster": self.name,
            "instance_id": instance_id,
            "kafka": { "bootstrap.servers": bootstrap },
            "registry": { "url": self.registry.url },
            "listen": format!("127.0.0.1:{}", free_port()),
            "data_dir": self.data_dir.path().join(instance_id),
            "secrets": { "dir": self.data_dir.path() },
            "session_timeout": "6s",
            "status_interval": "500ms",
        }))
        .unwrap()
    }

    /// Returns the workers' `secrets.dir`.
    pub(crate) fn secrets_dir(&self) -> &std::path::Path {
        self.data_dir.path()
    }

    pub(crate) fn worker(&self, instance_id: &str) -> Worker {
        Worker::start(self.config(instance_id, &self.bootstrap))
    }

    async fn send(&self, key: String, owner: &str, value: Option<Vec<u8>>) {
        let record = PlainRecord {
            topic: self.cluster.tasks("default"),
            partition: Some(partition_of(owner.as_bytes(), TASK_PARTITIONS)),
            key: key.into_bytes(),
            value,
        };
        self.producer.send(record).await.unwrap();
    }

    pub(crate) async fn want(&self, task: &TaskRecord) {
        self.send(task.key(), &task.task, Some(task.encode())).await;
    }

    pub(crate) async fn forget(&self, task: &TaskRecord) {
        self.send(task.key(), &task.task, None).await;
    }

    pub(crate) async fn ask(&self, request: &RequestRecord) {
        let key = format!("request/{}", request.request);
        self.send(key, &request.request, Some(request.encode()))
            .await;
    }

    /// Waits until the newest status of a task is as wanted.
    pub(crate) async fn status(
        &self,
        task: &TaskRecord,
        is_it: impl Fn(&StatusRecord) -> bool,
    ) -> StatusRecord {
        let mut last = None;
        let key = task.key();
        let found = self.follow_status(&key, |value| {
            let status = StatusRecord::decode(value?).unwrap();
            let it = is_it(&status);
            last = Some(status.clone());
            it.then_some(status)
        });
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("the status did not come; the last was {last:#?}"))
    }

    /// Waits until a task is in a state at the version and restart of its record.
    pub(crate) async fn state(&self, task: &TaskRecord, state: TaskState) -> StatusRecord {
        self.status(task, |status| {
            status.state == state
                && status.version == task.version
                && status.restart == task.restart
        })
        .await
    }

    /// Waits until a source with one table has left its snapshot behind, durably.
    pub(crate) async fn streams(&self, task: &TaskRecord) -> StatusRecord {
        self.status(task, |status| {
            let position = &status.details["position"];
            status.state == TaskState::Running
                && status.details["tables"][0]["state"] == "streaming"
                && position["lsn"].is_string()
                && position["preparing"].is_null()
        })
        .await
    }

    pub(crate) async fn answer(&self, request: &str, patience: Duration) -> Option<AnswerRecord> {
        let key = format!("request/{request}");
        let found = self.follow_status(&key, |value| Some(AnswerRecord::decode(value?).unwrap()));
        tokio::time::timeout(patience, found).await.ok()
    }

    async fn follow_status<T>(
        &self,
        key: &str,
        mut look: impl FnMut(Option<&[u8]>) -> Option<T>,
    ) -> T {
        let topic = self.cluster.status("default");
        let mut reader = CompactedReader::open(&self.kafka, &topic).await.unwrap();
        let mut newest: Option<Option<bytes::Bytes>> = None;
        let mut at_end = false;
        loop {
            match reader.next().await.unwrap() {
                Event::Record(message) if message.key.as_deref() == Some(key.as_bytes()) => {
                    newest = Some(message.value);
                }
                Event::Record(_) => continue,
                Event::End => at_end = true,
            }
            // An older status than the newest at the beginning proves nothing.
            if let (true, Some(value)) = (at_end, &newest)
                && let Some(found) = look(value.as_deref())
            {
                return found;
            }
        }
    }

    /// Returns all committed change events of a topic with one partition, as text: the operation
    /// and the first two columns of the row.
    pub(crate) async fn events(&self, topic: &str) -> Vec<String> {
        let admin = Admin::new(&self.kafka).unwrap();
        let Some(_) = admin.topic(topic).await.unwrap() else {
            return Vec::new();
        };
        let ends = admin
            .end_offsets(topic, Isolation::ReadCommitted)
            .await
            .unwrap();
        let mut reader = PartitionReader::open(
            &self.kafka,
            topic,
            0,
            Start::Earliest,
            Isolation::ReadCommitted,
        )
        .await
        .unwrap();
        let mut decoders: BTreeMap<u32, EventDecoder> = BTreeMap::new();
        let mut events = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while reader.position() < ends[&0] {
            assert!(
                Instant::now() < deadline,
                "the end of {topic} does not come"
            );
            for message in reader
                .poll(1 << 20, Duration::from_millis(200))
                .await
                .unwrap()
            {
                let Some(value) = message.value else {
                    events.push("tombstone".to_owned());
                    continue;
                };
                let (id, _) = wire::split(&value).unwrap();
                let decoder = decoders
                    .entry(id.0)
                    .or_insert_with(|| EventDecoder::compile(&self.registry.schema(id.0)).unwrap());
                let (mut before, mut after) = (Vec::new(), Vec::new());
                let head = decoder.decode(&value, &mut before, &mut after).unwrap();
                let row = if head.has_after { &after } else { &before };
                let cells: Vec<String> = row.iter().take(2).map(text).collect();
                events.push(format!("{:?} {}", head.op, cells.join(" ")));
            }
        }
        events
    }

    /// Waits until a topic has so many events, and returns them.
    pub(crate) async fn events_until(&self, topic: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let events = self.events(topic).await;
            if events.len() >= count {
                return events;
            }
            assert!(
                Instant::now() < deadline,
                "{} of {count} events in {topic}",
                events.len()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn text(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Int(number) => number.to_string(),
        Cell::Text(text) => (*text).to_string(),
        other => format!("{other:?}"),
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Worker {
    pub(crate) fn start(config: Config) -> Self {
        let address = format!("http://{}", config.listen);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let shutdown = async {
                drop(stopped.await);
            };
            Box::pin(hutong_worker::run(config, shutdown)).await
        });
        Self {
            address,
            stop: Some(stop),
            running,
        }
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        self.stop
            .take()
            .unwrap()
            .send(())
            .expect("the worker has not ended");
        let ended = tokio::time::timeout(PATIENCE, &mut self.running).await;
        ended.expect("the worker stops in time").unwrap().unwrap();
    }

    /// Ends it where it stands.
    pub(crate) async fn crash(mut self) {
        self.running.abort();
        drop((&mut self.running).await);
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        match reqwest::get(format!("{}{path}", self.address)).await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap()),
            Err(error) => (0, error.to_string()),
        }
    }

    pub(crate) async fn is_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/readyz").await.0 != 200 {
            assert!(Instant::now() < deadline, "{:?}", self.get("/readyz").await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A database of a test's own. Its slots go with it.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) client: Arc<tokio_postgres::Client>,
    host: String,
    port: u16,
    user: String,
}

impl Database {
    pub(crate) async fn new(bench: &Bench) -> Self {
        let url = variable("HUTONG_TEST_POSTGRES");
        let admin = connect(&url, None).await;
        let name = bench.name.clone();
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        let config: tokio_postgres::Config = url.parse().unwrap();
        let host = match &config.get_hosts()[0] {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            other @ tokio_postgres::config::Host::Unix(_) => {
                panic!("HUTONG_TEST_POSTGRES must name a host, not {other:?}")
            }
        };
        Self {
            client: Arc::new(connect(&url, Some(&name)).await),
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            user: config.get_user().unwrap_or("postgres").to_owned(),
            name,
        }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        self.client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn slots(&self) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_replication_slots WHERE database = '{}' AND NOT temporary",
            self.name
        );
        self.count(&sql).await
    }

    /// Returns a source task on some tables of this database, with the database's name as prefix.
    pub(crate) fn source(&self, tables: &str) -> TaskRecord {
        TaskRecord {
            v: 1,
            task: format!("{}-0", self.name),
            connector: self.name.clone(),
            version: 1,
            kind: TaskKind::Source,
            target: TargetState::Running,
            restart: 0,
            config: json!({ "class": SOURCE_CLASS, "properties": self.properties(tables) }),
        }
    }

    pub(crate) fn properties(&self, tables: &str) -> Value {
        json!({
            "connector.class": SOURCE_CLASS,
            "database.hostname": self.host,
            "database.port": self.port.to_string(),
            "database.user": self.user,
            "database.dbname": self.name,
            "database.sslmode": "disable",
            "topic.prefix": self.name,
            "slot.name": self.name,
            "publication.name": self.name,
            "table.include.list": tables,
        })
    }

    /// Removes slots and the database; a test that fails leaves them for the next one's look.
    pub(crate) async fn remove(self) {
        let admin = connect(&variable("HUTONG_TEST_POSTGRES"), None).await;
        let name = &self.name;
        let kill = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{name}' AND active"
        );
        let drop_slots = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}'"
        );
        let deadline = Instant::now() + PATIENCE;
        loop {
            admin.batch_execute(&kill).await.unwrap();
            match admin.batch_execute(&drop_slots).await {
                Ok(()) => break,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        admin
            .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await
            .unwrap();
    }
}

async fn connect(url: &str, database: Option<&str>) -> tokio_postgres::Client {
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    if let Some(database) = database {
        config.dbname(database);
    }
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
