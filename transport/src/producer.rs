//! Producers.

use std::collections::BTreeMap;

use hutong_schemas::batch::RecordBatch;
use serde_json::Value;

use crate::config::KafkaConfig;
use crate::error::Error;
use crate::names::Cluster;

/// A position to be committed with a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionWrite {
    /// The location whose topic of positions it goes to.
    pub location: String,
    /// What is owned.
    pub owner: String,
    /// A part of it, or empty.
    pub sub: String,
    /// The position; `None` deletes it.
    pub value: Option<Value>,
}

/// A record that is built one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainRecord {
    /// The topic.
    pub topic: String,
    /// The partition, or `None` for "by murmur2 of the whole key".
    pub partition: Option<i32>,
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// What is committed at once.
#[derive(Debug, Default)]
pub struct Transaction {
    /// Encoded records, in this order.
    pub batches: Vec<RecordBatch>,
    /// Positions.
    pub positions: Vec<PositionWrite>,
    /// Other records.
    pub plain: Vec<PlainRecord>,
}

/// A producer that has fenced its predecessors.
#[derive(Debug)]
pub struct TransactionalProducer {
    _private: (),
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl TransactionalProducer {
    /// Fences predecessors and ends their open transaction.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn start(
        config: &KafkaConfig,
        cluster: &Cluster,
        transactional_id: &str,
    ) -> Result<Self, Error> {
        let _ = (config, cluster, transactional_id);
        Err(Error::NoAuthorizer)
    }

    /// Returns the stored positions of an owner, by sub; `""` is the owner's own.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn positions(
        &self,
        location: &str,
        owner: &str,
    ) -> Result<BTreeMap<String, Value>, Error> {
        let _ = (location, owner);
        Ok(BTreeMap::new())
    }

    /// Commits a transaction and gives its batches back, emptied, for reuse.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn commit(&self, transaction: Transaction) -> Result<Vec<RecordBatch>, Error> {
        Ok(transaction.batches)
    }

    /// Ends the producer.
    pub async fn close(self) {}
}

/// A producer without transactions, for records that report.
#[derive(Clone, Debug)]
pub struct PlainProducer {
    _private: (),
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl PlainProducer {
    /// Makes a producer. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// Definite.
    pub fn new(config: &KafkaConfig) -> Result<Self, Error> {
        let _ = config;
        Ok(Self { _private: () })
    }

    /// Sends a record and returns, when it is durable, its timestamp in milliseconds: the broker's
    /// where the topic is LogAppendTime.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn send(&self, record: PlainRecord) -> Result<i64, Error> {
        let _ = record;
        Ok(0)
    }
}
