//! Servers and a platform to measure, and what all benchmarks ask of them.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hutong_local::kafka::{self, Kafka};
use hutong_local::postgres::{self, Postgres};
use hutong_local::process::Process;
use hutong_local::testkit::{Database, OwnServers, Platform, PlatformOptions, until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde_json::{Map, Value, json};
use tokio_postgres::Client;

use crate::cost::Cost;
use crate::{load, process};

/// How long a step may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// How often a mark is looked at that ends a measurement.
pub(crate) const LOOK: Duration = Duration::from_millis(4);
const WORKER: &str = "worker";

/// Servers and a platform.
pub(crate) struct Stand {
    pub(crate) platform: Platform,
    pub(crate) department: Database,
    pub(crate) subscriber: Database,
    pub(crate) control: Database,
    watermarks: Watermarks,
    bootstrap: String,
    issued: u32,
    source_server: Postgres,
    sink_server: Postgres,
    kafka: Kafka,
    servers: OwnServers,
}

impl Stand {
    /// Starts everything, with the table in the department's database.
    pub(crate) async fn start() -> Result<Self> {
        println!("starting Kafka, two PostgreSQL servers and the platform");
        let servers = OwnServers::begin()?;
        let options = kafka::Options {
            heap_mebibytes: 1024,
            ..kafka::Options::default()
        };
        let kafka = servers.kafka("kafka", options).await?;
        let source_server = servers.postgres("source", &server()).await?;
        let sink_server = servers.postgres("sink", &server()).await?;
        let department =
            Database::create_named(&source_server.url("postgres"), "department").await?;
        let subscriber = Database::create_named(&sink_server.url("postgres"), "subscriber").await?;
        let control = Database::create_named(&sink_server.url("postgres"), "control").await?;
        load::install(&department.connect().await?).await?;
        let binary = env!("CARGO_BIN_EXE_hutong");
        let options = PlatformOptions::on(binary, "bench", &kafka.bootstrap(), &control.url);
        let mut platform = Platform::start(options).await?;
        platform.write_secrets(&[("postgres", "not asked for under trust")])?;
        platform.start_worker(WORKER, "default").await?;
        Ok(Self {
            platform,
            department,
            subscriber,
            control,
            watermarks: Watermarks::new(&kafka.bootstrap())?,
            bootstrap: kafka.bootstrap(),
            issued: 0,
            source_server,
            sink_server,
            kafka,
            servers,
        })
    }

    /// Starts a worker anew, so that its peak of memory is that of the next benchmark.
    pub(crate) async fn fresh_worker(&mut self) -> Result<()> {
        self.platform.stop(WORKER).await?;
        self.platform.start_worker(WORKER, "default").await
    }

    /// Returns the worker's pid.
    pub(crate) fn worker_pid(&mut self) -> Result<u32> {
        Ok(self.platform.process(WORKER)?.pid())
    }

    /// Returns the worker's peak resident memory since it was started, in MiB.
    pub(crate) fn worker_peak(&mut self) -> Result<f64> {
        process::peak_mebibytes(self.worker_pid()?)
    }

    /// Returns what everything has cost so far, children of the servers included, in seconds.
    pub(crate) fn cost(&mut self) -> Result<Cost> {
        let pid = |process: Option<&Process>| process.map(Process::pid).context("a server is down");
        Ok(Cost {
            worker: process::cpu_seconds(self.worker_pid()?)?,
            kafka: process::cpu_seconds(pid(self.kafka.process())?)?,
            department: process::family_cpu_seconds(pid(self.source_server.process())?)?,
            subscriber: process::family_cpu_seconds(pid(self.sink_server.process())?)?,
        })
    }

    /// Returns the bytes of a topic's only partition on the broker's disk, compressed as they are.
    pub(crate) fn topic_bytes(&self, topic: &str) -> Result<u64> {
        let partition = self.kafka.folder().join(format!("data/{topic}-0"));
        let mut bytes = 0;
        for file in std::fs::read_dir(partition)? {
            let file = file?;
            if file.path().extension().is_some_and(|is| is == "log") {
                bytes += file.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    /// Returns a name that nothing has yet.
    pub(crate) fn name(&mut self) -> String {
        self.issued += 1;
        format!("b{}", self.issued)
    }

    /// Returns the address of the broker.
    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Connects to the department's database.
    pub(crate) async fn source_db(&self) -> Result<Client> {
        self.department.connect().await
    }

    /// Connects to the subscriber's database.
    pub(crate) async fn sink_db(&self) -> Result<Client> {
        self.subscriber.connect().await
    }

    /// Returns the topic of the table as a connector writes it.
    pub(crate) fn topic(&self, connector: &str) -> String {
        format!("{connector}.public.bench")
    }

    /// Returns the configuration of a source over the table; names are the connector's.
    pub(crate) fn source(&self, name: &str, snapshot_mode: &str) -> Map<String, Value> {
        object(json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": self.department.host,
            "database.port": self.department.port.to_string(),
            "database.user": "postgres",
            "database.password": self.platform.secret("postgres"),
            "database.dbname": self.department.name,
            "plugin.name": "pgoutput",
            "topic.prefix": name,
            "slot.name": name,
            "publication.name": name,
            "publication.autocreate.mode": "filtered",
            "table.include.list": "public\\.bench",
            "snapshot.mode": snapshot_mode,
        }))
    }

    /// Returns the configuration of a sink of an input into `public.<table>`.
    pub(crate) fn sink(&self, input: &str, table: &str) -> Map<String, Value> {
        object(json!({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "topics": input,
            "connection.url": format!(
                "jdbc:postgresql://{}:{}/{}",
                self.subscriber.host, self.subscriber.port, self.subscriber.name
            ),
            "connection.username": "postgres",
            "connection.password": self.platform.secret("postgres"),
            "insert.mode": "upsert",
            "primary.key.mode": "record_key",
            "delete.enabled": "true",
            "schema.evolution": "basic",
            "collection.name.format": format!("public.{table}"),
        }))
    }

    /// Writes a connector's configuration.
    pub(crate) async fn put(&self, name: &str, config: Map<String, Value>) -> Result<()> {
        let path = format!("/connectors/{name}/config");
        let api = self.platform.api();
        api.connect("PUT", &path, Some(Value::Object(config)))
            .await?
            .ok()?;
        Ok(())
    }

    /// Sets what is wanted of a connector: `stop`, `resume`.
    pub(crate) async fn want(&self, name: &str, verb: &str) -> Result<()> {
        let path = format!("/connectors/{name}/{verb}");
        self.platform
            .api()
            .connect("PUT", &path, None)
            .await?
            .ok()?;
        Ok(())
    }

    /// Waits until a connector's task runs.
    pub(crate) async fn wait_running(&self, name: &str) -> Result<()> {
        self.wait_state(name, |status| status["tasks"][0]["state"] == "RUNNING")
            .await
    }

    /// Waits until a connector is stopped.
    pub(crate) async fn wait_stopped(&self, name: &str) -> Result<()> {
        self.wait_state(name, |status| status["connector"]["state"] == "STOPPED")
            .await
    }

    async fn wait_state(&self, name: &str, is: fn(&Value) -> bool) -> Result<()> {
        let path = format!("/connectors/{name}/status");
        until(name, PATIENCE, async || {
            let status = self
                .platform
                .api()
                .connect("GET", &path, None)
                .await?
                .ok()?;
            if status["tasks"][0]["state"] == "FAILED" {
                bail!("{name} failed: {status}");
            }
            Ok(if is(&status) { Ok(()) } else { Err(status) })
        })
        .await
    }

    /// Deletes a connector and waits until it is gone, with what it made in the database.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        let api = self.platform.api();
        let path = format!("/connectors/{name}");
        api.connect("DELETE", &path, None).await?.ok()?;
        until("the connector to be gone", PATIENCE, async || {
            let found = api.connect("GET", &format!("{path}/status"), None).await?;
            Ok(if found.status == 404 {
                Ok(())
            } else {
                Err(found.body)
            })
        })
        .await?;
        let db = self.source_db().await?;
        let held = "select count(*) from pg_replication_slots where slot_name = $1";
        until("the slot to be gone", PATIENCE, async || {
            let slots: i64 = db.query_one(held, &[&name]).await?.get(0);
            Ok(if slots == 0 { Ok(()) } else { Err(slots) })
        })
        .await
    }

    /// Returns the last stable offset of a topic's only partition: where a reader of committed
    /// records ends.
    pub(crate) fn end(&self, topic: &str) -> Result<i64> {
        self.watermarks.end(topic)
    }

    /// Waits until a topic's end has passed `at_least` and `is_done` says that nothing more comes.
    /// Returns when the end was reached, which may be long before it is known to be the end.
    pub(crate) async fn wait_end(
        &self,
        topic: &str,
        at_least: i64,
        mut is_done: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        let (mut end, mut reached) = (-1, Instant::now());
        let mut asked = Instant::now();
        loop {
            let now = self.end(topic)?;
            if now != end {
                (end, reached) = (now, Instant::now());
            }
            // Asking the server costs it something, so not at every look.
            if end >= at_least && asked.elapsed() > Duration::from_millis(100) {
                asked = Instant::now();
                if is_done().await? && self.end(topic)? == end {
                    return Ok(reached);
                }
            }
            if Instant::now() > deadline {
                bail!("{topic} ends at {end}, {at_least} was waited for");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until nobody uses a slot.
    pub(crate) async fn wait_inactive(&self, db: &Client, slot: &str) -> Result<()> {
        let active = "select count(*) from pg_replication_slots where slot_name = $1 and active";
        until("the slot to be free", PATIENCE, async || {
            let users: i64 = db.query_one(active, &[&slot]).await?.get(0);
            Ok(if users == 0 { Ok(()) } else { Err(users) })
        })
        .await
    }

    /// Returns the folder for files of this run.
    pub(crate) fn folder(&self) -> &Path {
        self.servers.run().path()
    }

    /// Waits until a slot is in use, and returns when that was. A slot that is still being made is in
    /// use too, and has not yet found the place from which it will send.
    pub(crate) async fn wait_active(&self, db: &Client, slot: &str) -> Result<Instant> {
        let active = "select active and confirmed_flush_lsn is not null
                      from pg_replication_slots where slot_name = $1";
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let row = db.query_opt(active, &[&slot]).await?;
            if row.is_some_and(|row| row.get(0)) {
                return Ok(Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bail!("nobody uses slot {slot}")
    }
}

fn server() -> postgres::Options {
    postgres::Options::default()
        .with("shared_buffers", "1GB")
        .with("max_wal_size", "16GB")
        .with("checkpoint_timeout", "30min")
        .with("max_replication_slots", "20")
        .with("max_wal_senders", "20")
        .with("max_connections", "100")
        .with("logical_decoding_work_mem", "256MB")
        .with("wal_sender_timeout", "10min")
        .with("track_commit_timestamp", "on")
        .with("autovacuum_naptime", "10min")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Asks the broker for ends of topics. A client that once did not find a topic is replaced, because
/// it goes on not finding it. A `std` mutex: held while the broker is asked, by one task.
struct Watermarks {
    bootstrap: String,
    client: Mutex<BaseConsumer>,
}

impl Watermarks {
    fn new(bootstrap: &str) -> Result<Self> {
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            client: Mutex::new(Self::client(bootstrap)?),
        })
    }

    fn client(bootstrap: &str) -> Result<BaseConsumer> {
        Ok(ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench-watermarks")
            .set("isolation.level", "read_committed")
            .create()?)
    }

    /// A topic that is not there yet, or has no leader yet, has its end at 0.
    fn end(&self, topic: &str) -> Result<i64> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match client.fetch_watermarks(topic, 0, Duration::from_secs(10)) {
            Ok((_, end)) => Ok(end),
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable,
            )) => {
                *client = Self::client(&self.bootstrap)?;
                Ok(0)
            }
            Err(error) => Err(error).with_context(|| format!("end of {topic}")),
        }
    }
}
