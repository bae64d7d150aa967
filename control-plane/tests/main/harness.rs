//! A control plane of a test's own: its own database, its own `<cluster>`, ports that are free.
//!
//! Where a worker is needed, the test plays one: it writes what a worker would report to the status
//! and tables topics, through the real Kafka, and reads the tasks topic as a worker does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Once;
use std::time::{Duration, Instant};

use hutong_control_plane::{Config, Listen, Running, start};
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, TopicSpec};
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PlainProducer, PlainRecord};
use hutong_transport::reader::{CompactedReader, Event};
use hutong_transport::record::{
    Record, Restarts, StatusRecord, TableRecord, TaskRecord, TaskState, task_key,
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

/// How long anything may take that somebody waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Platform {
    running: Option<Running>,
    config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) kafka: KafkaConfig,
    pub(crate) admin: String,
    pub(crate) database_url: String,
    database: String,
    client: reqwest::Client,
    folder: tempfile::TempDir,
}

/// Which of the three APIs.
#[derive(Clone, Copy)]
pub(crate) enum Api {
    Connect,
    Registry,
    Platform,
}

/// What an API answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) content_type: String,
}

impl Answer {
    /// Asserts an error and its message.
    #[track_caller]
    pub(crate) fn refuses(&self, code: u64, part: &str) {
        assert_eq!(self.body["error_code"], code, "{self:?}");
        let message = self.body["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "\"{part}\" is not in \"{message}\"");
    }

    /// Asserts success and returns the body.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }
}

/// Runs a test and does not wait for calls that wait for a Kafka that is away.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
    runtime.shutdown_background();
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`"))
}

fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()[..10].to_owned()
}

impl Platform {
    /// Starts one with Kafka.
    pub(crate) async fn with_kafka() -> Self {
        Self::begin(&variable("KAFKA_BOOTSTRAP"), json!(["default"])).await
    }

    /// Starts one whose Kafka is away: nobody listens on port 1.
    pub(crate) async fn without_kafka() -> Self {
        let locations = json!({"default": "*", "north": "*", "aic-front": "aic"});
        Self::begin("127.0.0.1:1", locations).await
    }

    async fn begin(bootstrap: &str, locations: Value) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            drop(rustls::crypto::ring::default_provider().install_default());
        });
        let name = format!("control-{}", random());
        let server = variable("DATABASE_URL");
        let database = name.replace('-', "_");
        let mut db = PgConnection::connect(&server).await.unwrap();
        let create = sqlx::AssertSqlSafe(format!("create database {database}"));
        sqlx::query(create).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
        let (host, _) = server.rsplit_once('/').unwrap();
        let database_url = format!("{host}/{database}");
        let folder = tempfile::tempdir().unwrap();
        let kafka = BTreeMap::from([("bootstrap.servers".to_owned(), bootstrap.to_owned())]);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            cluster: name.clone(),
            database_url: database_url.clone(),
            kafka: kafka.clone(),
            listen: Listen {
                connect: any,
                registry: any,
                api: any,
            },
            locations: serde_json::from_value(locations).unwrap(),
            admin_token_file: folder.path().join("admin-token"),
        };
        let running = start(config.clone()).await.unwrap();
        let admin = std::fs::read_to_string(&config.admin_token_file).unwrap();
        Self {
            running: Some(running),
            cluster: Cluster::new(&name).unwrap(),
            kafka: KafkaConfig::new(kafka).unwrap(),
            admin: admin.trim().to_owned(),
            client: reqwest::Client::new(),
            config,
            database_url,
            database,
            folder,
        }
    }

    /// The file with the administrator's token.
    pub(crate) fn token_file(&self) -> std::path::PathBuf {
        self.folder.path().join("admin-token")
    }

    /// Ends the control plane in order; the rest stays.
    pub(crate) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// Ends the control plane where it stands, as a crash does.
    pub(crate) fn kill(&mut self) {
        drop(self.running.take());
    }

    /// Starts a second replica over the same database and Kafka.
    pub(crate) async fn twin(&self) -> Self {
        Self {
            running: Some(start(self.config.clone()).await.unwrap()),
            config: self.config.clone(),
            cluster: self.cluster.clone(),
            kafka: self.kafka.clone(),
            admin: self.admin.clone(),
            database_url: self.database_url.clone(),
            database: self.database.clone(),
            client: self.client.clone(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Ends a replica; what it shares with the other stays.
    pub(crate) async fn leave(mut self) {
        self.stop().await;
    }

    /// Starts the control plane again.
    pub(crate) async fn restart(&mut self) {
        self.running = Some(start(self.config.clone()).await.unwrap());
    }

    /// Starts the control plane again, or says why it does not start.
    pub(crate) async fn try_restart(&mut self) -> Result<(), String> {
        match start(self.config.clone()).await {
            Ok(running) => {
                self.running = Some(running);
                Ok(())
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                Err(format!(
                    "{error}: {}",
                    cause.map(ToString::to_string).unwrap_or_default()
                ))
            }
        }
    }

    /// Ends everything and removes what was made.
    pub(crate) async fn end(mut self) {
        self.stop().await;
        if !self.kafka.get("bootstrap.servers").unwrap().ends_with(":1") {
            let admin = Admin::new(&self.kafka).unwrap();
            for location in self.config.locations.names() {
                for topic in [
                    self.cluster.tasks(location),
                    self.cluster.positions(location),
                    self.cluster.status(location),
                    self.cluster.tables(location),
                ] {
                    admin.delete_topic(&topic).await.unwrap();
                }
            }
            admin.delete_topic(&self.cluster.schemas()).await.unwrap();
        }
        let mut db = PgConnection::connect(&variable("DATABASE_URL"))
            .await
            .unwrap();
        let drop = sqlx::AssertSqlSafe(format!("drop database {} with (force)", self.database));
        sqlx::query(drop).execute(&mut db).await.unwrap();
    }

    /// Waits until nothing is left in the outbox that is not marked as published.
    pub(crate) async fn all_is_published(&self) {
        until("all is marked as published", async || {
            let count: i64 =
                sqlx::query_scalar("select count(*) from outbox where published_at is null")
                    .fetch_one(&mut self.database().await)
                    .await
                    .unwrap();
            (count == 0).then_some(()).ok_or(json!(count))
        })
        .await;
    }

    pub(crate) async fn database(&self) -> PgConnection {
        PgConnection::connect(&self.database_url).await.unwrap()
    }

    pub(crate) fn url(&self, api: Api, path: &str) -> String {
        let running = self.running.as_ref().unwrap();
        let address = match api {
            Api::Connect => running.connect,
            Api::Registry => running.registry,
            Api::Platform => running.api,
        };
        format!("http://{address}{path}")
    }

    /// Sends a request without any token.
    pub(crate) fn request(&self, api: Api, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, self.url(api, path))
    }

    /// Sends a request with a token.
    pub(crate) async fn send_as(
        &self,
        token: &str,
        api: Api,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = self.request(api, method, path).bearer_auth(token);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        answer(request).await
    }

    pub(crate) async fn send(
        &self,
        api: Api,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.send_as(&self.admin, api, method, path, body).await
    }

    pub(crate) async fn connect(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(Api::Connect, method, path, body).await
    }

    pub(crate) async fn registry(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(Api::Registry, method, path, body).await
    }

    pub(crate) async fn platform(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.send(Api::Platform, method, path, body).await
    }

    /// Makes a token.
    pub(crate) async fn token(&self, owner: &str, role: &str) -> String {
        let body = json!({"owner": owner, "role": role});
        let made = self
            .platform("POST", "/api/v1/tokens", Some(body))
            .await
            .ok();
        made["token"].as_str().unwrap().to_owned()
    }

    /// Waits until Kafka was found and read.
    pub(crate) async fn ready(&self) {
        until("the control plane is ready", async || {
            let answer = answer(self.request(Api::Platform, "GET", "/readyz")).await;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
    }

    /// Reads the tasks topic as a worker does: the newest of each task.
    pub(crate) async fn tasks(&self, location: &str) -> BTreeMap<String, TaskRecord> {
        let topic = self.cluster.tasks(location);
        let values = self.newest(&topic).await;
        let tasks = values
            .into_iter()
            .filter(|(key, _)| key.starts_with("task/"));
        let tasks = tasks.map(|(_, value)| TaskRecord::decode(&value).unwrap());
        tasks.map(|task| (task.task.clone(), task)).collect()
    }

    /// Reads a topic to its end: the newest value of each key that is no tombstone.
    pub(crate) async fn newest(&self, topic: &str) -> BTreeMap<String, Vec<u8>> {
        let mut newest = BTreeMap::new();
        for (key, value) in self.records(topic).await {
            match value {
                Some(value) => newest.insert(key, value),
                None => newest.remove(&key),
            };
        }
        newest
    }

    /// Reads a topic to its end.
    pub(crate) async fn records(&self, topic: &str) -> Vec<(String, Option<Vec<u8>>)> {
        let mut reader = CompactedReader::open(&self.kafka, topic).await.unwrap();
        let mut records = Vec::new();
        loop {
            match reader.next().await.unwrap() {
                Event::Record(message) => {
                    let key = String::from_utf8(message.key.unwrap().to_vec()).unwrap();
                    records.push((key, message.value.map(|value| value.to_vec())));
                }
                Event::End => return records,
            }
        }
    }

    /// Waits for a task to be as a condition wants it.
    pub(crate) async fn task_where(
        &self,
        id: &str,
        wanted: impl Fn(&TaskRecord) -> bool,
    ) -> TaskRecord {
        until("the task is published", async || {
            let tasks = self.tasks("default").await;
            match tasks.get(id) {
                Some(task) if wanted(task) => Ok(task.clone()),
                other => Err(json!(format!("{other:?}"))),
            }
        })
        .await
    }

    pub(crate) async fn produce(&self, topic: String, key: String, value: Option<Vec<u8>>) {
        let producer = PlainProducer::new(&self.kafka).unwrap();
        let record = PlainRecord {
            topic,
            partition: Some(0),
            key: key.into_bytes(),
            value,
        };
        producer.send(record).await.unwrap();
    }

    /// Writes a record of a task to the partition that the task has.
    pub(crate) async fn produce_where_it_belongs(
        &self,
        topic: &str,
        task: &str,
        key: String,
        value: Vec<u8>,
    ) {
        let partition = hutong_transport::names::partition_of(task.as_bytes(), 64);
        let producer = PlainProducer::new(&self.kafka).unwrap();
        let record = PlainRecord {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: key.into_bytes(),
            value: Some(value),
        };
        producer.send(record).await.unwrap();
    }

    /// Reports a state as a worker does.
    pub(crate) async fn report(&self, task: &TaskRecord, state: TaskState, details: Value) {
        self.report_error(task, state, details, None).await;
    }

    /// Reports that a task starts again by itself.
    pub(crate) async fn report_restarts(
        &self,
        task: &TaskRecord,
        error: hutong_transport::record::ErrorReport,
        restarts: Option<Restarts>,
    ) {
        self.report_all(
            task,
            TaskState::Restarting,
            Value::Null,
            Some(error),
            restarts,
        )
        .await;
    }

    pub(crate) async fn report_error(
        &self,
        task: &TaskRecord,
        state: TaskState,
        details: Value,
        error: Option<hutong_transport::record::ErrorReport>,
    ) {
        self.report_all(task, state, details, error, None).await;
    }

    async fn report_all(
        &self,
        task: &TaskRecord,
        state: TaskState,
        details: Value,
        error: Option<hutong_transport::record::ErrorReport>,
        restarts: Option<Restarts>,
    ) {
        let status = StatusRecord {
            v: 1,
            task: task.task.clone(),
            version: task.version,
            restart: task.restart,
            state,
            worker_id: "worker-a:8084".to_owned(),
            error,
            since_ms: 1,
            ts_ms: 2,
            restarts,
            details,
        };
        let topic = self.cluster.status("default");
        self.produce(topic, task_key(&task.task), Some(status.encode()))
            .await;
    }

    /// Announces a table as a source does, with its topic.
    pub(crate) async fn announce(&self, table: &TableRecord) {
        let admin = Admin::new(&self.kafka).unwrap();
        let spec = TopicSpec::keyed_table(&table.topic, table.partitions);
        admin.ensure_topic(&spec).await.unwrap();
        let topic = self.cluster.tables("default");
        self.produce(topic, table.topic.clone(), Some(table.encode()))
            .await;
    }
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let header = response.headers().get("content-type");
    let content_type = header
        .map_or("", |value| value.to_str().unwrap())
        .to_owned();
    let text = response.text().await.unwrap();
    Answer {
        status,
        body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        content_type,
    }
}

/// Waits for a condition, and says how things stand when it does not come.
pub(crate) async fn until<T>(what: &str, check: impl AsyncFn() -> Result<T, Value>) -> T {
    let begun = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(standing) => assert!(
                begun.elapsed() < PATIENCE,
                "waited in vain until {what}; now: {standing}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a topic is there or not; a broker may know a deleted one for a moment.
pub(crate) async fn wait_topic(platform: &Platform, topic: &str, there: bool) {
    let admin = Admin::new(&platform.kafka).unwrap();
    until("the topic is there, or gone, as wanted", async || {
        let found = admin.topic(topic).await.unwrap();
        (found.is_some() == there).then_some(()).ok_or(Value::Null)
    })
    .await;
}

/// A source's configuration.
pub(crate) fn source(prefix: &str, slot: &str) -> Value {
    json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": "db.example",
        "database.user": "hutong",
        "database.password": "${env:HUTONG_SECRET_DB}",
        "database.dbname": "aic",
        "topic.prefix": prefix,
        "slot.name": slot,
        "plugin.name": "pgoutput",
        "publication.autocreate.mode": "filtered",
        "table.include.list": "public.ent_base",
    })
}

/// A sink's configuration.
pub(crate) fn sink(topics: &str) -> Value {
    json!({
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "connection.url": "jdbc:postgresql://front.example:5432/front_qts",
        "connection.username": "hutong",
        "connection.password": "${env:HUTONG_SECRET_FRONT}",
        "topics": topics,
        "insert.mode": "upsert",
        "primary.key.mode": "record_key",
        "delete.enabled": "true",
        "collection.name.format": "public.in_aic_ent_base",
    })
}
