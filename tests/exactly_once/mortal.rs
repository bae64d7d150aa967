//! Servers and a platform whose every process may be killed, and how each is killed.
//!
//! Half of the kills and more fall inside an open transaction, and not by luck: the worker that is
//! about to commit is held (see `HUTONG_FAULTS` in the transport), then the victim is killed: the
//! worker itself, its broker or its database. Everything that is killed is started again at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hutong_local::kafka::{self, Kafka};
use hutong_local::postgres::{self, Postgres};
use hutong_local::testkit::{Database, OwnServers, PlatformOptions};
use serde_json::json;

use crate::world::{BINARY, World};

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    SourceWorker,
    ProcessorWorker,
    SinkWorker,
    ControlPlane,
    Broker,
    SourceDatabase,
    SubscriberDatabase,
}

/// Everything that can be killed.
pub(crate) const VICTIMS: [Victim; 7] = [
    Victim::SourceWorker,
    Victim::ProcessorWorker,
    Victim::SinkWorker,
    Victim::ControlPlane,
    Victim::Broker,
    Victim::SourceDatabase,
    Victim::SubscriberDatabase,
];

impl Victim {
    /// The fault that holds a transaction in which the victim takes part, and whose.
    pub(crate) fn held(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::SourceWorker | Self::SourceDatabase | Self::Broker => {
                Some(("kafka-hold", "source/"))
            }
            Self::ProcessorWorker => Some(("kafka-hold", "processor/")),
            Self::SinkWorker | Self::SubscriberDatabase => Some(("sink-hold", "sink")),
            Self::ControlPlane => None,
        }
    }

    pub(crate) fn worker(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::SourceWorker => Some(("source-worker", "department")),
            Self::ProcessorWorker => Some(("processor-worker", "center")),
            Self::SinkWorker => Some(("sink-worker", "subscriber")),
            Self::ControlPlane | Self::Broker | Self::SourceDatabase | Self::SubscriberDatabase => {
                None
            }
        }
    }
}

/// Longer than a broker needs to end a transaction.
const ENDING: Duration = Duration::from_millis(500);

/// A platform with a worker for each kind of task, on servers of its own.
pub(crate) struct Mortal {
    pub(crate) world: World,
    pub(crate) kafka: Kafka,
    source_database: Postgres,
    subscriber_database: Postgres,
    pub(crate) faults: PathBuf,
    _servers: OwnServers,
}

impl Mortal {
    /// Starts everything; `adapt` may change what the platform is like.
    pub(crate) async fn start(
        broker: kafka::Options,
        adapt: impl FnOnce(&mut PlatformOptions),
    ) -> Result<Self> {
        let servers = OwnServers::begin()?;
        let kafka = servers.kafka("kafka", broker).await?;
        // What is committed must survive the kill: fsync may be off, since the machine goes on.
        let source_database = servers
            .postgres("source", &postgres::Options::for_tests())
            .await?;
        let subscriber_database = servers
            .postgres("subscriber", &postgres::Options::for_tests())
            .await?;
        let department =
            Database::create_named(&source_database.url("postgres"), "department").await?;
        let subscriber =
            Database::create_named(&subscriber_database.url("postgres"), "subscriber").await?;
        let control =
            Database::create_named(&subscriber_database.url("postgres"), "control").await?;
        let faults = servers.run().folder("faults")?;
        let mut options = PlatformOptions::on(BINARY, "exact", &kafka.bootstrap(), &control.url);
        options.locations = ["department", "center", "subscriber"]
            .map(str::to_owned)
            .to_vec();
        options
            .environment
            .push(("HUTONG_FAULTS".to_owned(), faults.display().to_string()));
        options
            .worker
            .insert("session_timeout".to_owned(), json!("10s"));
        adapt(&mut options);
        let mut world = World::on(options, department, subscriber).await?;
        for victim in VICTIMS {
            if let Some((name, location)) = victim.worker() {
                world.platform.start_worker(name, location).await?;
            }
        }
        Ok(Self {
            world,
            kafka,
            source_database,
            subscriber_database,
            faults,
            _servers: servers,
        })
    }

    /// Kills a victim, inside an open transaction if it takes part in any, and starts it again.
    /// Returns whether a transaction was open.
    pub(crate) async fn kill(&mut self, victim: Victim) -> Result<bool> {
        let is_open = match victim.held() {
            None => false,
            Some((fault, whose)) => self.hold(fault, whose).await?,
        };
        match victim {
            Victim::Broker => self.kill_broker().await?,
            Victim::SourceDatabase => self.source_database.kill(),
            Victim::SubscriberDatabase => self.subscriber_database.kill(),
            Victim::ControlPlane => self.world.platform.kill("control-plane")?,
            Victim::SourceWorker | Victim::ProcessorWorker | Victim::SinkWorker => {
                let (name, _) = victim.worker().context("a worker has a name")?;
                self.world.platform.kill(name)?;
            }
        }
        fs::write(self.faults.join("release"), "")?;
        match victim {
            Victim::Broker => self.kafka.restart().await?,
            Victim::SourceDatabase => self.source_database.restart().await?,
            Victim::SubscriberDatabase => self.subscriber_database.restart().await?,
            Victim::ControlPlane => self.world.platform.start_control_plane().await?,
            Victim::SourceWorker | Victim::ProcessorWorker | Victim::SinkWorker => {
                let (name, location) = victim.worker().context("a worker has a name")?;
                self.world.platform.launch_worker(name, location)?;
            }
        }
        Ok(is_open)
    }

    /// Kills the broker while no transaction is just ending: of one that is, it may leave the end out
    /// in some partitions when it is back, and nobody can read behind it then (KAFKA-20734).
    /// Transactions that are open stay so.
    async fn kill_broker(&mut self) -> Result<()> {
        let workers = VICTIMS.into_iter().filter_map(Victim::worker);
        let workers: Vec<&str> = workers.map(|(name, _)| name).collect();
        for name in &workers {
            self.world.platform.process(name)?.freeze()?;
        }
        tokio::time::sleep(ENDING).await;
        self.kafka.kill();
        for name in &workers {
            self.world.platform.process(name)?.thaw()?;
        }
        Ok(())
    }

    /// Waits until a worker stands before a commit. Returns false if none came to one, because the
    /// victim before had not recovered yet.
    pub(crate) async fn hold(&self, fault: &str, whose: &str) -> Result<bool> {
        remove(&self.faults.join("release"))?;
        let taken = self.faults.join(format!("{fault}.taken"));
        remove(&taken)?;
        let armed = self.faults.join(fault);
        fs::write(&armed, whose)?;
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if taken.exists() {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        remove(&armed)?;
        Ok(taken.exists())
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
