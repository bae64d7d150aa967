//! A Kafka broker: one node that is broker and controller (KRaft), from the jars that the Apache
//! project publishes in Maven repositories.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::identity::{self, Identity};
use crate::process::{self, Process};
use crate::scratch::{self, Run, Scratch};
use crate::tls::Certificates;
use crate::{maven, port, prerequisites};

/// The version that `servers/kafka.xml` names.
pub const VERSION: &str = "4.3.1";
/// A broker that is not ready by then will not be.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// What the broker logs when its listeners are open and its log is recovered.
const READY_LINE: &str = "Kafka Server started";

/// What a broker shall be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// The heap of its Java machine.
    pub heap_mebibytes: u32,
    /// Properties of the broker, later ones win.
    pub properties: Vec<(String, String)>,
    /// Whether clients must use TLS and SCRAM, and ACLs decide what they may.
    pub secured: Option<Secured>,
    /// The port for clients; by default a free one.
    pub port: Option<u16>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heap_mebibytes: 512,
            properties: Vec::new(),
            secured: None,
            port: None,
        }
    }
}

impl Options {
    /// Adds a property.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A listener with SASL_SSL, SCRAM-SHA-256 and the standard authorizer, which denies by default.
/// The broker is reached as `localhost`; the listener without TLS stays, for `User:ANONYMOUS`, who
/// is a superuser as `admin` is.
#[derive(Clone, Debug)]
pub struct Secured {
    /// Names and passwords of the users.
    pub users: Vec<(String, String)>,
    /// The broker's certificate.
    pub certificates: Certificates,
}

/// A broker. Dropping it kills it; its data stay in the run's folder.
#[derive(Debug)]
pub struct Kafka {
    jars: PathBuf,
    folder: PathBuf,
    identity: Option<Identity>,
    options: Options,
    ports: Ports,
    process: Option<Process>,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    clients: u16,
    controller: u16,
    secured: u16,
}

impl Kafka {
    /// Formats and starts a broker in the run's folder, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If Java is missing, the jars cannot be had, or the broker does not start.
    pub async fn start(scratch: &Scratch, run: &Run, name: &str, options: Options) -> Result<Self> {
        Self::start_in(scratch, &run.folder(name)?, options).await
    }

    /// Starts the broker of an earlier run, or formats a new one, in a folder that stays.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub async fn start_in(scratch: &Scratch, folder: &Path, options: Options) -> Result<Self> {
        prerequisites::require_java()?;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("could not create {}", folder.display()))?;
        identity::give(folder, scratch.identity())?;
        let mut broker = Self {
            jars: jars(scratch)?,
            folder: folder.to_owned(),
            identity: scratch.identity(),
            ports: Ports::choose(options.port)?,
            options,
            process: None,
        };
        const ATTEMPTS: u32 = 5;
        for attempt in 1.. {
            broker.configure()?;
            if !broker.folder.join("data/meta.properties").is_file() {
                broker.format()?;
            }
            match broker.launch().await {
                Err(_) if attempt < ATTEMPTS && broker.somebody_has_a_port() => {
                    broker.ports = Ports::choose(broker.options.port)?;
                }
                outcome => return outcome.map(|()| broker),
            }
        }
        unreachable!("the loop returns")
    }

    /// Returns the address for clients without TLS.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.clients)
    }

    /// Returns the address of the listener with TLS and SCRAM, whose certificate is for
    /// `localhost`.
    #[must_use]
    pub fn secured_bootstrap(&self) -> String {
        format!("localhost:{}", self.ports.secured)
    }

    /// Returns the process, if the broker runs.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Returns the folder with configuration, log and data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Kills the broker, as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts a killed or stopped broker again, on the same ports, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch().await
    }

    /// Stops the broker in good order.
    ///
    /// # Errors
    ///
    /// If the kernel does not know the process.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::TERM, Duration::from_secs(15)).await?;
        }
        Ok(())
    }

    /// Lets the broker outlive this program.
    pub fn detach(mut self) {
        if let Some(process) = self.process.take() {
            process.detach();
        }
    }

    fn configure(&self) -> Result<()> {
        let mut text = String::new();
        for (name, value) in self.properties() {
            text.push_str(&format!("{name}={value}\n"));
        }
        std::fs::write(self.folder.join("server.properties"), text)?;
        let log4j = concat!(
            "Configuration:\n",
            "  Appenders: {Console: {name: C, PatternLayout: {pattern: '%d %p %c{1} %m%n'}}}\n",
            "  Loggers:\n",
            "    Root: {level: WARN, AppenderRef: {ref: C}}\n",
            "    Logger:\n",
            "    - {name: kafka.server.KafkaRaftServer, level: INFO}\n",
        );
        std::fs::write(self.folder.join("log4j2.yaml"), log4j)?;
        Ok(())
    }

    fn properties(&self) -> Vec<(String, String)> {
        let Ports {
            clients,
            controller,
            secured,
        } = self.ports;
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{clients}");
        let mut security = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
        if self.options.secured.is_some() {
            listeners.push_str(&format!(",SASL_SSL://localhost:{secured}"));
            security.push_str(",SASL_SSL:SASL_SSL");
        }
        let data = self.folder.join("data").display().to_string();
        let mut properties: Vec<(String, String)> = [
            ("process.roles", "broker,controller".to_owned()),
            ("node.id", "1".to_owned()),
            (
                "controller.quorum.voters",
                format!("1@127.0.0.1:{controller}"),
            ),
            (
                "listeners",
                format!("{listeners},CONTROLLER://127.0.0.1:{controller}"),
            ),
            ("advertised.listeners", listeners),
            ("listener.security.protocol.map", security),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("log.dirs", data),
            // The platform creates its topics itself; a broker that creates them hides mistakes.
            ("auto.create.topics.enable", "false".to_owned()),
            ("num.partitions", "1".to_owned()),
            ("default.replication.factor", "1".to_owned()),
            ("offsets.topic.replication.factor", "1".to_owned()),
            ("offsets.topic.num.partitions", "4".to_owned()),
            ("transaction.state.log.replication.factor", "1".to_owned()),
            ("transaction.state.log.min.isr", "1".to_owned()),
            ("transaction.state.log.num.partitions", "4".to_owned()),
            (
                "share.coordinator.state.topic.replication.factor",
                "1".to_owned(),
            ),
            ("share.coordinator.state.topic.min.isr", "1".to_owned()),
            // One worker must not wait three seconds for others that never come.
            ("group.initial.rebalance.delay.ms", "0".to_owned()),
            ("message.max.bytes", "67108864".to_owned()),
            ("replica.fetch.max.bytes", "67108864".to_owned()),
            ("log.retention.ms", "-1".to_owned()),
            ("log.segment.bytes", "268435456".to_owned()),
            // The default of 128 MiB is a quarter of our heap.
            ("log.cleaner.dedupe.buffer.size", "16777216".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(secured) = &self.options.secured {
            properties.extend(secured.properties());
        }
        properties.extend(self.options.properties.iter().cloned());
        properties
    }

    fn format(&self) -> Result<()> {
        use base64_of_uuid as cluster_id;
        let mut command = self.java();
        command
            .arg("kafka.tools.StorageTool")
            .args(["format", "--ignore-formatted"])
            // One word with its value: an id may begin with a hyphen.
            .arg(format!("--cluster-id={}", cluster_id()))
            .arg("--config")
            .arg(self.folder.join("server.properties"));
        if let Some(secured) = &self.options.secured {
            for (name, password) in &secured.users {
                command.arg("--add-scram");
                command.arg(format!("SCRAM-SHA-256=[name={name},password={password}]"));
            }
        }
        process::output_of("formatting Kafka's storage", &mut command)?;
        Ok(())
    }

    async fn launch(&mut self) -> Result<()> {
        let mut command = self.java();
        command
            .arg("kafka.Kafka")
            .arg(self.folder.join("server.properties"));
        let log = self.folder.join("kafka.log");
        let seen_before = std::fs::read(&log).map_or(0, |bytes| bytes.len());
        let mut process = Process::start(&self.folder, "kafka", &mut command)?;
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        while !says_ready(&log, seen_before) {
            process.must_run()?;
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "Kafka is not ready after {READY_TIMEOUT:?}; the end of its log:\n{}",
                    process::tail(process.log(), 20)
                );
            }
            tokio::time::sleep(process::LOOK).await;
        }
        self.process = Some(process);
        Ok(())
    }

    fn java(&self) -> Command {
        let mut command = Command::new("java");
        let heap = self.options.heap_mebibytes;
        let log4j = self.folder.join("log4j2.yaml");
        command
            .current_dir("/")
            .arg(format!("-Xms{heap}m"))
            .arg(format!("-Xmx{heap}m"))
            // On two cores its one thread is cheaper than the default collector's many.
            .arg("-XX:+UseSerialGC")
            .arg("-Djava.awt.headless=true")
            .arg(format!("-Dlog4j2.configurationFile={}", log4j.display()))
            .arg("-cp")
            .arg(self.jars.join("*"));
        identity::assume(&mut command, self.identity);
        command
    }

    fn somebody_has_a_port(&self) -> bool {
        let Ports {
            clients,
            controller,
            secured,
        } = self.ports;
        ![clients, controller, secured]
            .into_iter()
            .all(port::is_free)
    }
}

impl Ports {
    fn choose(clients: Option<u16>) -> Result<Self> {
        Ok(Self {
            clients: clients.map_or_else(port::free, Ok)?,
            controller: port::free()?,
            secured: port::free()?,
        })
    }
}

impl Secured {
    fn properties(&self) -> Vec<(String, String)> {
        let pem = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        // A property's value is one line; the PEM reader accepts blanks between the lines' places.
        let one_line = |text: String| text.trim().replace('\n', "\\n");
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        [
            ("sasl.enabled.mechanisms", "SCRAM-SHA-256".to_owned()),
            (
                "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config",
                scram.to_owned(),
            ),
            ("ssl.keystore.type", "PEM".to_owned()),
            (
                "ssl.keystore.certificate.chain",
                one_line(pem(&self.certificates.certificate)),
            ),
            ("ssl.keystore.key", one_line(pem(&self.certificates.key))),
            (
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            ),
            ("super.users", "User:admin;User:ANONYMOUS".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

fn says_ready(log: &Path, from: usize) -> bool {
    let bytes = std::fs::read(log).unwrap_or_default();
    let new = bytes.get(from..).unwrap_or_default();
    String::from_utf8_lossy(new).contains(READY_LINE)
}

/// Returns a new cluster id as Kafka wants it: 16 random bytes in 22 characters of base64url.
fn base64_of_uuid() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = uuid::Uuid::new_v4().as_u128();
    // 22 characters hold 132 bits: the last has its four low bits empty.
    (0..22_u32)
        .map(|place| {
            let shifted = if place == 21 {
                bits << 4
            } else {
                bits >> (122 - 6 * place)
            };
            char::from(ALPHABET[usize::from(shifted.to_le_bytes()[0] & 0x3F)])
        })
        .collect()
}

fn jars(scratch: &Scratch) -> Result<PathBuf> {
    let target = scratch.shared(&format!("kafka-{VERSION}"));
    let pom = scratch::checkout()?.join("local/servers/kafka.xml");
    maven::once(&target, |folder| maven::copy_dependencies(&pom, folder))?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pom_names_the_version_that_the_jars_folder_is_named_after() {
        let pom = include_str!("../servers/kafka.xml");
        assert!(pom.contains(&format!("<version>{VERSION}</version>")));
    }

    #[test]
    fn a_cluster_id_has_22_characters_and_differs_from_the_next() {
        let (one, two) = (base64_of_uuid(), base64_of_uuid());
        assert_eq!(one.len(), 22);
        assert_ne!(one, two);
    }
}
