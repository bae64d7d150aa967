//! Topics and access lists.

mod making;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, TopicResult};
#[cfg(debug_assertions)]
use rdkafka::admin::{AlterConfig, ResourceSpecifier};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use serde::{Deserialize, Serialize};

use crate::config::{ClientKind, KafkaConfig};
use crate::error::{Error, Failure};
use crate::names::{Cluster, POSITION_PARTITIONS, STATUS_PARTITIONS, TASK_PARTITIONS};
use crate::native::access::{self, Target};
use crate::native::log::Logged;
use crate::native::topics;
use crate::reader::fetching::{self, blocking, operation};

pub use self::making::Ensured;

/// What identifies a topic for as long as it lives: another one of the same name has another id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub String);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    /// Its id.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: i32,
}

/// A topic as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Its configuration, by Kafka's names.
    pub config: BTreeMap<String, String>,
}

/// The largest record that topics of tables and views take. Below the broker's default for a whole
/// request (`socket.request.max.bytes`, 100 MiB), above a row of 30 MB with its `before` image.
const RECORD_BYTES_MAX: &str = "67108864";

impl TopicSpec {
    fn new(name: String, partitions: i32, config: &[(&str, &str)]) -> Self {
        let config = config
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            name,
            partitions,
            config,
        }
    }

    /// `<cluster>.tasks.<location>`.
    #[must_use]
    pub fn tasks(cluster: &Cluster, location: &str) -> Self {
        Self::new(cluster.tasks(location), TASK_PARTITIONS, &COMPACTED_SMALL)
    }

    /// `<cluster>.positions.<location>`. Transaction markers live for `delete.retention.ms`.
    #[must_use]
    pub fn positions(cluster: &Cluster, location: &str) -> Self {
        let mut config = COMPACTED_SMALL.to_vec();
        config.push(("delete.retention.ms", "600000"));
        Self::new(cluster.positions(location), POSITION_PARTITIONS, &config)
    }

    /// `<cluster>.status.<location>`. Timestamps are the broker's, so that every write shows how
    /// far the worker's clock is off.
    #[must_use]
    pub fn status(cluster: &Cluster, location: &str) -> Self {
        let mut config = COMPACTED_SMALL.to_vec();
        config.push(("message.timestamp.type", "LogAppendTime"));
        Self::new(cluster.status(location), STATUS_PARTITIONS, &config)
    }

    /// `<cluster>.schemas`. One partition, so that an id is read before what refers to it.
    #[must_use]
    pub fn schemas(cluster: &Cluster) -> Self {
        Self::new(cluster.schemas(), 1, &COMPACTED_SMALL)
    }

    /// `<cluster>.tables.<location>`.
    #[must_use]
    pub fn tables(cluster: &Cluster, location: &str) -> Self {
        Self::new(cluster.tables(location), 1, &COMPACTED_SMALL)
    }

    /// The topic of a table with a key: its current state, and every change for a day.
    #[must_use]
    pub fn keyed_table(topic: &str, partitions: i32) -> Self {
        let config = [
            ("cleanup.policy", "compact"),
            ("min.compaction.lag.ms", "86400000"),
            ("max.message.bytes", RECORD_BYTES_MAX),
        ];
        Self::new(topic.to_owned(), partitions, &config)
    }

    /// The topic of a table without a key, which cannot be compacted: one partition, kept as long
    /// as the brokers keep topics.
    #[must_use]
    pub fn keyless_table(topic: &str) -> Self {
        let config = [
            ("cleanup.policy", "delete"),
            ("max.message.bytes", RECORD_BYTES_MAX),
        ];
        Self::new(topic.to_owned(), 1, &config)
    }

    /// One generation of a view. Withdrawn bytes are gone two hours and a cleaner pass after their
    /// tombstone.
    #[must_use]
    pub fn view(cluster: &Cluster, view: &str, generation: u64, partitions: i32) -> Self {
        let config = [
            ("cleanup.policy", "compact"),
            ("max.compaction.lag.ms", "3600000"),
            ("segment.ms", "3600000"),
            ("max.message.bytes", RECORD_BYTES_MAX),
        ];
        Self::new(cluster.view(view, generation), partitions, &config)
    }

    /// The topic for records of another one that could not be processed.
    #[must_use]
    pub fn dlq(cluster: &Cluster, topic: &str) -> Self {
        let config = [
            ("cleanup.policy", "delete"),
            ("max.message.bytes", RECORD_BYTES_MAX),
        ];
        Self::new(cluster.dlq(topic), 1, &config)
    }
}

/// What the platform's own compacted topics have in common: segments so small that a start reads
/// megabytes at most, and a cleaner that does not wait for half the log to be dirty. A record may be
/// as large as a segment: a task grows with the views over its table, and one that the broker's
/// default of 1 MB refuses would have been acknowledged and never reach a worker.
const COMPACTED_SMALL: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("min.cleanable.dirty.ratio", "0.1"),
    ("max.message.bytes", "16777216"),
];

/// Whose records a reader or an offset counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of ended, not aborted transactions, up to the last stable offset.
    ReadCommitted,
    /// All, up to the high watermark.
    ReadUncommitted,
}

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(10);

/// Creates, checks and deletes topics, and grants access to them. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    config: KafkaConfig,
    client: Arc<Closing>,
}

/// Closing clients blocks, so it is done on a thread of its own.
struct Closing(Option<Clients>);

/// The wrapper's administrative client, and one whose troubles can be heard: the former never takes
/// log lines and errors out of its queue.
struct Clients {
    changing: AdminClient<Logged>,
    asking: BaseProducer<Logged>,
}

impl Closing {
    fn clients(&self) -> &Clients {
        self.0.as_ref().expect("it is taken by drop only")
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without a thread it blocks here, which is better than not at all.
        let closing = std::thread::Builder::new().name("hutong-closing".to_owned());
        let _ = closing.spawn(move || drop(client));
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Makes an administrative client. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// Definite: the properties make no client.
    pub fn new(config: &KafkaConfig) -> Result<Self, Error> {
        let mut client = config.client(&[], ClientKind::Admin);
        client.remove("allow.auto.create.topics");
        let made = |error| Error::Client(Failure::from(error));
        let logged = Logged::default();
        client.set_log_level(RDKafkaLogLevel::Emerg);
        let asking = client.create_with_context(logged.clone()).map_err(made)?;
        let changing = client.create_with_context(logged).map_err(made)?;
        Ok(Self {
            config: config.clone(),
            client: Arc::new(Closing(Some(Clients { changing, asking }))),
        })
    }

    /// Gives a topic this configuration and no other. The platform never does; it is there for tests
    /// that want a cleaner in a hurry.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the broker refuses a value.
    #[cfg(debug_assertions)]
    pub async fn configure_topic(&self, name: &str, config: &[(&str, &str)]) -> Result<(), Error> {
        let failed = |failure| operation("configure topic", name, failure);
        let mut wanted = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (property, value) in config {
            wanted = wanted.set(property, value);
        }
        let altered = self
            .client
            .clients()
            .changing
            .alter_configs([&wanted], &options());
        let altered = altered
            .await
            .map_err(|error| failed(Failure::from(error)))?;
        match altered.into_iter().next() {
            Some(Ok(_)) => Ok(()),
            Some(Err((_, code))) => Err(failed(Failure::of(code))),
            None => Err(failed(Failure::of(RDKafkaErrorCode::Fail))),
        }
    }

    /// Returns the topic, or `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the right to describe it is missing.
    pub async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, Error> {
        let mut found = self.describe_all(&[name.to_owned()]).await?;
        found.remove(name).unwrap_or(Ok(None))
    }

    /// Deletes the topic and returns whether it was there. Its records are gone when it returns; its
    /// name may be known to brokers for a moment longer, and who ensures it at once may be given the
    /// topic that goes.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the right is missing.
    pub async fn delete_topic(&self, name: &str) -> Result<bool, Error> {
        let deleted = self
            .client
            .clients()
            .changing
            .delete_topics(&[name], &options())
            .await;
        match single(deleted) {
            Ok(()) => Ok(true),
            Err(failure) if topics::is_unknown(&failure) => Ok(false),
            Err(failure) => Err(operation("delete topic", name, failure)),
        }
    }

    /// Returns the end offset of each partition: the offset that the next record will have or, of
    /// committed ones, the last stable offset.
    ///
    /// # Errors
    ///
    /// Definite: no such topic. Else transient.
    pub async fn end_offsets(
        &self,
        topic: &str,
        isolation: Isolation,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let info = self.topic(topic).await?;
        let info = info.ok_or_else(|| Error::TopicMissing {
            topic: topic.to_owned(),
        })?;
        let config = self.config.clone();
        let topic = topic.to_owned();
        blocking(move || {
            let asking = fetching::consumer(&config, isolation, None)?;
            let mut ends = BTreeMap::new();
            for partition in 0..info.partitions {
                let (_, end) = fetching::watermarks(&asking, &topic, partition)?;
                ends.insert(partition, end);
            }
            Ok(ends)
        })
        .await
    }

    /// Lets a principal (`User:name`) read a topic, of exactly this name, and use consumer groups
    /// whose names begin so.
    ///
    /// # Errors
    ///
    /// Definite: [`Error::NoAuthorizer`], a missing right. Else transient.
    pub async fn allow_read(
        &self,
        principal: &str,
        topic: &str,
        group_prefix: &str,
    ) -> Result<(), Error> {
        let principal = principal.to_owned();
        let topic = topic.to_owned();
        let groups = group_prefix.to_owned();
        self.ask(move |client| {
            let targets = [Target::Topic(&topic), Target::Groups(&groups)];
            access::allow_read(client, &principal, &targets, REQUEST)
                .map_err(|failure| access_error("grant access to topic", &topic, failure))
        })
        .await
    }

    /// Takes every right of a principal on a topic away and returns how many entries there were.
    /// Rights on groups stay: they show nothing.
    ///
    /// # Errors
    ///
    /// Definite: [`Error::NoAuthorizer`], a missing right. Else transient.
    pub async fn revoke_read(&self, principal: &str, topic: &str) -> Result<usize, Error> {
        let principal = principal.to_owned();
        let topic = topic.to_owned();
        self.ask(move |client| {
            access::revoke(client, &principal, Target::Topic(&topic), REQUEST)
                .map_err(|failure| access_error("withdraw access to topic", &topic, failure))
        })
        .await
    }

    /// Returns who has a right on exactly this topic.
    ///
    /// # Errors
    ///
    /// Definite: [`Error::NoAuthorizer`], a missing right. Else transient.
    pub async fn readers(&self, topic: &str) -> Result<Vec<String>, Error> {
        if !self.has_authorizer().await? {
            return Err(Error::NoAuthorizer);
        }
        let topic = topic.to_owned();
        self.ask(move |client| {
            access::principals(client, Target::Topic(&topic), REQUEST)
                .map_err(|failure| access_error("list access to topic", &topic, failure))
        })
        .await
    }

    /// Returns whether the cluster keeps access lists at all, and lets us change them. Asked by
    /// withdrawing what nobody has, because only that answer tells errors.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the right to change them is missing.
    pub async fn has_authorizer(&self) -> Result<bool, Error> {
        match self
            .revoke_read("User:hutong-nobody", "hutong-nothing")
            .await
        {
            Ok(_) => Ok(true),
            Err(Error::NoAuthorizer) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs a call that blocks, on a thread for that.
    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&rdkafka::client::Client<Logged>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let client = Arc::clone(&self.client);
        blocking(move || {
            let asking = &client.clients().asking;
            let outcome = call(asking.client());
            asking.poll(Duration::from_millis(1));
            outcome.map_err(|error| asking.context().explain_error(error))
        })
        .await
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST))
        .operation_timeout(Some(REQUEST))
}

/// Takes the answer about the one topic that was asked for.
fn single(answer: Result<Vec<TopicResult>, KafkaError>) -> Result<(), Failure> {
    match answer.map_err(Failure::from)?.into_iter().next() {
        Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(Failure::of(code)),
        None => Err(Failure::of(RDKafkaErrorCode::Fail)),
    }
}

fn access_error(verb: &'static str, topic: &str, failure: Failure) -> Error {
    if failure.code == RDKafkaErrorCode::SecurityDisabled {
        Error::NoAuthorizer
    } else {
        operation(verb, topic, failure)
    }
}

fn at_least(found: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(found), number(wanted)) {
        (Some(found), Some(wanted)) => found >= wanted,
        _ => false,
    }
}
