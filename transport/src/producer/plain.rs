//! A producer without transactions, for records that only report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
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
    shared: Arc<Shared>,
}

struct Shared {
    properties: ClientConfig,
    logged: Logged,
    /// Held to look or to replace only: a client that has ended is made anew.
    client: Mutex<FutureProducer<Logged>>,
    /// Held for a look-up only.
    partitions: Mutex<HashMap<String, i32>>,
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
        let mut properties = config.client(&defaults, ClientKind::Producer);
        // A property of transactional producers, which librdkafka would warn about.
        properties.remove("transaction.timeout.ms");
        properties.set("enable.idempotence", "true");
        let logged = Logged::default();
        let client = connect(&properties, &logged)?;
        let shared = Shared {
            properties,
            logged,
            client: Mutex::new(client),
            partitions: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
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
        self.send_with_headers(record, &[]).await
    }

    /// Sends a record with headers, as [`send`](Self::send) does one without.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn send_with_headers(
        &self,
        record: PlainRecord,
        headers: &[(&str, &[u8])],
    ) -> Result<i64, Error> {
        let client = self.client()?;
        let partition = match record.partition {
            Some(partition) => partition,
            None => {
                let partitions = self.partitions_of(&client, &record.topic).await?;
                partition_of(&record.key, partitions)
            }
        };
        let mut outgoing = FutureRecord::to(&record.topic)
            .partition(partition)
            .key(&record.key);
        if let Some(value) = &record.value {
            outgoing = outgoing.payload(value);
        }
        if !headers.is_empty() {
            let named = OwnedHeaders::new_with_capacity(headers.len());
            let named = headers.iter().fold(named, |named, (key, value)| {
                named.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
            outgoing = outgoing.headers(named);
        }
        match client.send(outgoing, SEND).await {
            Ok(delivery) => Ok(delivery.timestamp.to_millis().unwrap_or_default()),
            Err((error, _)) => Err(operation(
                "send a record to",
                &record.topic,
                self.shared.logged.explain(Failure::from(error)),
            )),
        }
    }

    /// Returns a client that can be used: an idempotent one may end, at a gap in its sequence.
    fn client(&self) -> Result<FutureProducer<Logged>, Error> {
        let mut client = lock(&self.shared.client);
        if let Some((code, reason)) = client.client().fatal_error() {
            tracing::warn!(%code, reason, "making a producer anew");
            *client = connect(&self.shared.properties, &self.shared.logged)?;
        }
        Ok(client.clone())
    }

    async fn partitions_of(
        &self,
        client: &FutureProducer<Logged>,
        topic: &str,
    ) -> Result<i32, Error> {
        let known = lock(&self.shared.partitions).get(topic).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let client = client.clone();
        let name = topic.to_owned();
        let logged = self.shared.logged.clone();
        let described = blocking(move || {
            topics::describe_surely(client.client(), &name, ASK)
                .map_err(|failure| logged.explain(failure))
                .map_err(|failure| operation("describe topic", &name, failure))?
                .ok_or(Error::TopicMissing { topic: name })
        })
        .await?;
        lock(&self.shared.partitions).insert(topic.to_owned(), described.partitions);
        Ok(described.partitions)
    }
}

fn connect(properties: &ClientConfig, logged: &Logged) -> Result<FutureProducer<Logged>, Error> {
    properties
        .create_with_context(logged.clone())
        .map_err(|error| Error::Client(Failure::from(error)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
