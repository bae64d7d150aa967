//! Puts the outbox into Kafka, and at the start of a leadership takes over what Kafka knows better.
//!
//! ```text
//!   change of desired state ──(one database transaction)──> rows + outbox
//!   outbox, oldest first ──(one Kafka transaction)──> tasks, schemas ──> mark as published
//! ```
//!
//! A crash between Kafka's commit and the mark publishes again what is there already, which changes
//! nothing (see `store::outbox`). A crash before the commit leaves an open transaction, which the next
//! leader's start aborts. A leader that was replaced without knowing it is fenced by Kafka, as it
//! writes under the same transactional id, and its mark goes over a connection that no longer holds
//! the lock, which the server has closed.

use hutong_transport::KafkaConfig;
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PlainRecord, Transaction, TransactionalProducer};
use hutong_transport::reader::{CompactedReader, Event, Message};
use hutong_transport::record::{Record, RequestRecord, SchemaRecord, TaskKey, TaskRecord};
use sqlx::{Connection, PgConnection};

use crate::error::Error;
use crate::requests::withdraw;
use crate::store::{outbox, schemas, tasks};

/// Most records of one Kafka transaction.
const BATCH_RECORDS_MAX: i64 = 500;

/// The publisher of the leader.
#[derive(Debug)]
pub(crate) struct Publisher {
    producer: TransactionalProducer,
}

impl Publisher {
    /// Fences former publishers, then raises the store above what the topics hold, so that nothing
    /// is published that workers or readers of schemas would take for old.
    pub(crate) async fn start(
        kafka: &KafkaConfig,
        cluster: &Cluster,
        locations: &[String],
        db: &mut PgConnection,
    ) -> Result<Self, Error> {
        let id = format!("{cluster}-control");
        let producer = TransactionalProducer::start(kafka, cluster, &id).await?;
        for location in locations {
            raise_versions(kafka, cluster, location, db).await?;
        }
        take_over_schemas(kafka, cluster, db).await?;
        Ok(Self { producer })
    }

    /// Publishes everything that waits, and returns how many records that were.
    pub(crate) async fn publish(&self, db: &mut PgConnection) -> Result<usize, Error> {
        let mut published = 0;
        loop {
            let entries = outbox::pending(db, BATCH_RECORDS_MAX).await?;
            if entries.is_empty() {
                return Ok(published);
            }
            let ids: Vec<i64> = entries.iter().map(|entry| entry.id).collect();
            let plain = entries.into_iter().map(|entry| PlainRecord {
                topic: entry.topic,
                partition: entry.topic_partition,
                key: entry.key.into_bytes(),
                value: entry.value.map(String::into_bytes),
            });
            let transaction = Transaction {
                plain: plain.collect(),
                ..Transaction::default()
            };
            self.producer.commit(transaction).await?;
            outbox::mark(db, &ids).await?;
            published += ids.len();
        }
    }

    /// Ends the producer.
    pub(crate) async fn close(self) {
        self.producer.close().await;
    }
}

/// Raises versions of tasks above those in the topic, and withdraws requests nobody waits for.
async fn raise_versions(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    location: &str,
    db: &mut PgConnection,
) -> Result<(), Error> {
    let topic = cluster.tasks(location);
    for message in read_all(kafka, &topic).await? {
        let (Some(key), Some(value)) = (&message.key, &message.value) else {
            continue;
        };
        match TaskKey::parse(key) {
            Some(TaskKey::Task(_)) => {
                let found = TaskRecord::decode(value)?;
                let mut tx = db.begin().await?;
                if tasks::raise(&mut tx, cluster, &found, location).await? {
                    tracing::warn!(
                        task = found.task,
                        version = found.version,
                        "the topic had a newer version of a task than the database; raised"
                    );
                }
                tx.commit().await?;
            }
            Some(TaskKey::Request(request)) => {
                let found = RequestRecord::decode(value)?;
                if found.deadline_ms < crate::now_ms() {
                    let mut tx = db.begin().await?;
                    withdraw(&mut tx, cluster, location, message.partition, &request).await?;
                    tx.commit().await?;
                }
            }
            None => {}
        }
    }
    Ok(())
}

async fn take_over_schemas(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    db: &mut PgConnection,
) -> Result<(), Error> {
    for message in read_all(kafka, &cluster.schemas()).await? {
        let (Some(key), Some(value)) = (&message.key, &message.value) else {
            continue;
        };
        if !key.starts_with(b"schema/") {
            continue;
        }
        let found = SchemaRecord::decode(value)?;
        let mut tx = db.begin().await?;
        if schemas::take_over(&mut tx, &found, &crate::registry::hash_of(&found.schema)).await? {
            tracing::warn!(
                id = found.id,
                "took over a schema that the database did not have"
            );
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Reads a topic to its end and returns the newest record of each key.
async fn read_all(kafka: &KafkaConfig, topic: &str) -> Result<Vec<Message>, Error> {
    let mut reader = CompactedReader::open(kafka, topic).await?;
    let mut newest = std::collections::BTreeMap::new();
    loop {
        match reader.next().await? {
            Event::Record(message) => {
                if let Some(key) = message.key.clone() {
                    newest.insert(key, message);
                }
            }
            Event::End => return Ok(newest.into_values().collect()),
        }
    }
}
