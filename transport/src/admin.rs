//! Topics and access lists.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::KafkaConfig;
use crate::error::Error;
use crate::names::{Cluster, POSITION_PARTITIONS, STATUS_PARTITIONS, TASK_PARTITIONS};

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
/// megabytes at most, and a cleaner that does not wait for half the log to be dirty.
const COMPACTED_SMALL: [(&str, &str); 3] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// Whose records a reader or an offset counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Those of ended, not aborted transactions, up to the last stable offset.
    ReadCommitted,
    /// All, up to the high watermark.
    ReadUncommitted,
}

/// Creates, checks and deletes topics, and grants access to them.
#[derive(Clone, Debug)]
pub struct Admin {
    config: KafkaConfig,
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl Admin {
    /// Makes an administrative client. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// Definite: the properties make no client.
    pub fn new(config: &KafkaConfig) -> Result<Self, Error> {
        Ok(Self {
            config: config.clone(),
        })
    }

    /// Creates the topic if it is missing, and checks it if it is there.
    ///
    /// # Errors
    ///
    /// Definite: it is there with other partitions, cleanup policy or a smaller size limit.
    pub async fn ensure_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error> {
        let _ = (&self.config, spec);
        Err(Error::NoAuthorizer)
    }

    /// Returns the topic, or `None` if there is none of this name.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the right to describe it is missing.
    pub async fn topic(&self, name: &str) -> Result<Option<TopicInfo>, Error> {
        let _ = name;
        Ok(None)
    }

    /// Deletes the topic and returns whether it was there.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the right is missing.
    pub async fn delete_topic(&self, name: &str) -> Result<bool, Error> {
        let _ = name;
        Ok(false)
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
        let _ = (topic, isolation);
        Ok(BTreeMap::new())
    }

    /// Lets a principal (`User:name`) read a topic, literally, and use groups of a prefix.
    ///
    /// # Errors
    ///
    /// [`Error::NoAuthorizer`], or transient.
    pub async fn allow_read(
        &self,
        principal: &str,
        topic: &str,
        group_prefix: &str,
    ) -> Result<(), Error> {
        let _ = (principal, topic, group_prefix);
        Ok(())
    }

    /// Takes every right of a principal on a topic away and returns how many entries there were.
    ///
    /// # Errors
    ///
    /// [`Error::NoAuthorizer`], or transient.
    pub async fn revoke_read(&self, principal: &str, topic: &str) -> Result<usize, Error> {
        let _ = (principal, topic);
        Ok(0)
    }

    /// Returns whether the cluster keeps access lists at all.
    ///
    /// # Errors
    ///
    /// Transient, or definite where the right to describe them is missing.
    pub async fn has_authorizer(&self) -> Result<bool, Error> {
        Ok(false)
    }
}
