//! A worker of Kafka Connect with Debezium in it, driven through its REST API.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use hutong_local::port;
use hutong_local::process::Process;
use hutong_local::testkit::{Api, until};
use serde_json::{Map, Value, json};

use super::jars::Jars;
use crate::process::{cpu_seconds, peak_mebibytes};
use crate::stand::{PATIENCE, Stand};

/// A Java machine with the worker takes a while, longer on a busy machine.
const START: Duration = Duration::from_secs(180);

/// How often it is asked whether a connector still runs.
const WATCH: Duration = Duration::from_secs(2);

/// A running worker, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Debezium {
    process: Process,
    api: Api,
}

impl Debezium {
    /// Starts a worker with a heap of so many MiB, exactly once.
    pub(crate) async fn start(stand: &Stand, jars: &Jars, heap_mebibytes: u32) -> Result<Self> {
        let folder = stand.folder().join(format!("connect-{heap_mebibytes}"));
        fs::create_dir_all(&folder)?;
        let port = port::free()?;
        let group = format!("connect-{heap_mebibytes}-{port}");
        let properties = [
            ("bootstrap.servers", stand.bootstrap().to_owned()),
            ("group.id", group.clone()),
            ("config.storage.topic", format!("{group}-config")),
            ("offset.storage.topic", format!("{group}-offset")),
            ("status.storage.topic", format!("{group}-status")),
            ("config.storage.replication.factor", "1".to_owned()),
            ("offset.storage.replication.factor", "1".to_owned()),
            ("status.storage.replication.factor", "1".to_owned()),
            ("offset.storage.partitions", "1".to_owned()),
            ("status.storage.partitions", "1".to_owned()),
            ("key.converter", JSON.to_owned()),
            ("value.converter", JSON.to_owned()),
            ("listeners", format!("http://127.0.0.1:{port}")),
            ("plugin.path", jars.plugins.display().to_string()),
            ("connector.client.config.override.policy", "All".to_owned()),
            ("exactly.once.source.support", "enabled".to_owned()),
            ("scheduled.rebalance.max.delay.ms", "0".to_owned()),
        ];
        let text: String = properties
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        let file = folder.join("worker.properties");
        fs::write(&file, text)?;
        let log = folder.join("log4j2.properties");
        fs::write(&log, LOG)?;
        let mut command = Command::new("java");
        command
            .arg(format!("-Xms{heap_mebibytes}m"))
            .arg(format!("-Xmx{heap_mebibytes}m"))
            .arg("-XX:+UseG1GC")
            .arg("-Djava.awt.headless=true")
            .arg(format!("-Dlog4j2.configurationFile={}", log.display()))
            .arg("-cp")
            .arg(jars.worker.join("*"))
            .arg("org.apache.kafka.connect.cli.ConnectDistributed")
            .arg(&file);
        let mut process = Process::start(&folder, "connect", &mut command)?;
        let api = Api::new(port, port, port)?;
        until("Kafka Connect to answer", START, async || {
            process.must_run()?;
            Ok(match api.connect("GET", "/connectors", None).await {
                Ok(answer) => answer.ok().map(drop),
                Err(error) => Err(error),
            })
        })
        .await?;
        Ok(Self { process, api })
    }

    /// Returns the processor time that the worker has used.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.process.pid())
    }

    /// Returns the worker's peak of resident memory.
    pub(crate) fn peak_mebibytes(&self) -> Result<f64> {
        peak_mebibytes(self.process.pid())
    }

    /// Writes a connector's configuration and waits until its task runs.
    pub(crate) async fn put(&self, name: &str, config: Map<String, Value>) -> Result<()> {
        let path = format!("/connectors/{name}/config");
        self.ask("PUT", &path, Some(Value::Object(config))).await?;
        self.wait(name, |status| status["tasks"][0]["state"] == "RUNNING")
            .await
    }

    /// Lets a connector go on.
    pub(crate) async fn resume(&self, name: &str) -> Result<()> {
        self.ask("PUT", &format!("/connectors/{name}/resume"), None)
            .await
    }

    /// Stops a connector; its offsets stay.
    pub(crate) async fn stop(&self, name: &str) -> Result<()> {
        self.ask("PUT", &format!("/connectors/{name}/stop"), None)
            .await?;
        self.wait(name, |status| {
            status["connector"]["state"] == "STOPPED" && status["tasks"] == json!([])
        })
        .await
    }

    /// Deletes a connector; its slot and publication stay.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.ask("DELETE", &format!("/connectors/{name}"), None)
            .await
    }

    /// Asks until it is done: while its group settles, a worker of Connect refuses for a moment.
    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<()> {
        until(path, PATIENCE, async || {
            let answer = self.api.connect(method, path, body.clone()).await?;
            match answer.status {
                404 | 409 | 500 => Ok(Err(answer.body)),
                _ => answer.ok().map(|_| Ok(())),
            }
        })
        .await
    }

    /// Waits for what a connector does, and fails as soon as the connector does.
    pub(crate) async fn watched<T>(
        &self,
        name: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let fails = async {
            loop {
                tokio::time::sleep(WATCH).await;
                self.status(name).await?;
            }
        };
        tokio::select! {
            done = work => done,
            failed = fails => failed,
        }
    }

    async fn wait(&self, name: &str, is: fn(&Value) -> bool) -> Result<()> {
        until(name, PATIENCE, async || {
            let status = self.status(name).await?;
            Ok(if is(&status) { Ok(()) } else { Err(status) })
        })
        .await
    }

    /// Returns a connector's status, which is not that its task has failed.
    async fn status(&self, name: &str) -> Result<Value> {
        let path = format!("/connectors/{name}/status");
        let status = self.api.connect("GET", &path, None).await?.body;
        let task = &status["tasks"][0];
        if task["state"] == "FAILED" {
            let trace = task["trace"].as_str().unwrap_or_default();
            bail!("Debezium's connector {name} failed: {trace}");
        }
        Ok(status)
    }
}

/// Returns the configuration of Debezium's connector over the table, in its best settings: large
/// batches and queues, nothing in records that nobody reads, Avro, exactly once.
pub(crate) fn config(stand: &Stand, name: &str, snapshot_mode: &str) -> Map<String, Value> {
    let mut config = stand.source(name, snapshot_mode);
    config.insert("database.password".to_owned(), "not asked for".into());
    let api = stand.platform.api();
    let credentials = format!("bench:{}", api.token());
    for of in ["key", "value"] {
        for (property, value) in [
            ("", "io.confluent.connect.avro.AvroConverter"),
            (".schema.registry.url", api.registry_url.as_str()),
            (".basic.auth.credentials.source", "USER_INFO"),
            (".basic.auth.user.info", credentials.as_str()),
        ] {
            config.insert(format!("{of}.converter{property}"), value.into());
        }
    }
    for (property, value) in TUNED {
        config.insert(property.to_owned(), value.into());
    }
    config
}

const TUNED: [(&str, &str); 14] = [
    ("tasks.max", "1"),
    ("exactly.once.support", "required"),
    ("max.batch.size", "20000"),
    ("max.queue.size", "100000"),
    ("poll.interval.ms", "50"),
    ("snapshot.fetch.size", "20000"),
    ("producer.override.linger.ms", "50"),
    ("producer.override.batch.size", "1048576"),
    ("producer.override.compression.type", "lz4"),
    ("producer.override.buffer.memory", "134217728"),
    ("extended.headers.enabled", "false"),
    ("statistics.metrics.enabled", "false"),
    ("topic.creation.default.partitions", "1"),
    ("topic.creation.default.replication.factor", "1"),
];

const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";

const LOG: &str = "appender.c.type=Console
appender.c.name=C
appender.c.layout.type=PatternLayout
appender.c.layout.pattern=%d %p %c{1} %m%n
rootLogger.level=WARN
rootLogger.appenderRef.c.ref=C
";
