//! A producer without transactions, for records that only report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use super::PlainRecord;
use crate::config::{ClientKind, KafkaConfig};
use crate::error::{Error, Failure};
use crate::names::partition_of;
use crate::native::log::Logged;
use crate::native::topics;
use crate::reader::fetching::{ASK, blocking, operation};

/// How long a record may wait for the broker.
const SEND: Duration = Duration::from_secs(10);

/// Sends records one by one, each durable when it is acknowledged. Cheap to clone.
#[derive(Clone)]
pub struct PlainProducer {
    client: FutureProducer<Logged>,
    /// Held for a look-up only.
    partitions: Arc<Mutex<HashMap<String, i32>>>,
}

impl std::fmt::Debug for PlainProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainProducer").finish_non_exhaustive()
    }
}

impl PlainProducer {
    /// Makes a producer. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// Definite: the properties make no client.
    pub fn new(config: &KafkaConfig) -> Result<Self, Error> {
        let timeout_ms = SEND.as_millis().to_string();
        let defaults = [
            ("compression.type", "lz4"),
            ("linger.ms", "0"),
            ("queue.buffering.max.kbytes", "16384"),
            ("message.timeout.ms", timeout_ms.as_str()),
        ];
        let mut client = config.client(&defaults, ClientKind::Producer);
        // A property of transactional producers, which librdkafka would warn about.
        client.remove("transaction.timeout.ms");
        client.set("enable.idempotence", "true");
        let client = client
            .create_with_context(Logged)
            .map_err(|error| Error::Client(Failure::from(error)))?;
        Ok(Self {
            client,
            partitions: Arc::default(),
        })
    }

    /// Sends a record and returns, when it is durable, its timestamp in milliseconds since 1970:
    /// the broker's, where the topic is LogAppendTime.
    ///
    /// # Errors
    ///
    /// Definite: no such topic, a missing right, too large. Transient: no acknowledgement within ten
    /// seconds; the record may have been stored nevertheless.
    ///
    /// # Cancel safety
    ///
    /// The record may be sent or not when the future is dropped.
    pub async fn send(&self, record: PlainRecord) -> Result<i64, Error> {
        let partition = match record.partition {
            Some(partition) => partition,
            None => partition_of(&record.key, self.partitions_of(&record.topic).await?),
        };
        let mut outgoing = FutureRecord::to(&record.topic)
            .partition(partition)
            .key(&record.key);
        if let Some(value) = &record.value {
            outgoing = outgoing.payload(value);
        }
        match self.client.send(outgoing, SEND).await {
            Ok(delivery) => Ok(delivery.timestamp.to_millis().unwrap_or_default()),
            Err((error, _)) => Err(operation(
                "send a record to",
                &record.topic,
                Failure::from(error),
            )),
        }
    }

    async fn partitions_of(&self, topic: &str) -> Result<i32, Error> {
        let known = {
            let partitions = self.partitions.lock();
            let partitions = partitions.unwrap_or_else(PoisonError::into_inner);
            partitions.get(topic).copied()
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let client = self.client.clone();
        let name = topic.to_owned();
        let described = blocking(move || {
            topics::describe(client.client(), &name, ASK)
                .map_err(|failure| operation("describe topic", &name, failure))?
                .ok_or(Error::TopicMissing { topic: name })
        })
        .await?;
        let mut partitions = self
            .partitions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        partitions.insert(topic.to_owned(), described.partitions);
        Ok(described.partitions)
    }
}
