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

use std::collections::HashMap;

use hutong_schemas::class::{Class, Classified};
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PlainRecord, Transaction, TransactionalProducer};
use hutong_transport::reader::{CompactedReader, Event, Message};
use hutong_transport::record::{
    Record, ReferencesRecord, RequestRecord, SchemaRecord, SubjectRecord, TaskKey, TaskRecord,
};
use hutong_transport::{Error as TransportError, KafkaConfig};
use sqlx::{Connection, PgConnection};

use crate::caller::PLATFORM;
use crate::error::Error;
use crate::requests::withdraw;
use crate::store::outbox::Entry;
use crate::store::schemas::NewSchema;
use crate::store::tasks::Raised;
use crate::store::{outbox, schemas, tasks};

/// Most records of one Kafka transaction.
const BATCH_RECORDS_MAX: i64 = 500;
/// How often the session with the lock is used while a topic is read; the server ends it after 15 s.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(4);

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

    /// Publishes everything that waits, and returns how many records that were. A record that Kafka
    /// will never take is set aside, and a topic that cannot be written now is left out: neither holds
    /// up the others.
    pub(crate) async fn publish(&self, db: &mut PgConnection) -> Result<usize, Error> {
        let mut published = 0;
        let mut left_out = Vec::new();
        loop {
            let entries = outbox::pending(db, &left_out, BATCH_RECORDS_MAX).await?;
            if entries.is_empty() {
                return Ok(published);
            }
            match self.commit(&entries).await {
                Ok(()) => {
                    let ids: Vec<i64> = entries.iter().map(|entry| entry.id).collect();
                    outbox::mark(db, &ids).await?;
                    published += ids.len();
                }
                Err(error) if error.class() == Class::Definite => {
                    published += self.publish_singly(db, &entries, &mut left_out).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Publishes record by record, because one of them cannot be. Of a topic with one that may still
    /// be published later, none goes before it.
    async fn publish_singly(
        &self,
        db: &mut PgConnection,
        entries: &[Entry],
        left_out: &mut Vec<String>,
    ) -> Result<usize, Error> {
        let mut published = 0;
        for entry in entries {
            if left_out.contains(&entry.topic) {
                continue;
            }
            match self.commit(std::slice::from_ref(entry)).await {
                Ok(()) => {
                    outbox::mark(db, &[entry.id]).await?;
                    published += 1;
                }
                Err(error @ TransportError::RecordTooLarge { .. }) => {
                    let error = Error::from(error).chain();
                    tracing::error!(key = entry.key, error, "a record is set aside");
                    outbox::refuse(db, entry.id, &error).await?;
                }
                Err(error) if error.class() == Class::Definite => {
                    let topic = &entry.topic;
                    let error = Error::from(error).chain();
                    tracing::warn!(topic, error, "nothing is published to a topic for now");
                    left_out.push(topic.clone());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(published)
    }

    async fn commit(&self, entries: &[Entry]) -> Result<(), TransportError> {
        let plain = entries.iter().map(|entry| PlainRecord {
            topic: entry.topic.clone(),
            partition: entry.topic_partition,
            key: entry.key.clone().into_bytes(),
            value: entry.value.clone().map(String::into_bytes),
        });
        let transaction = Transaction {
            plain: plain.collect(),
            ..Transaction::default()
        };
        self.producer.commit(transaction).await.map(drop)
    }

    /// Ends the producer.
    pub(crate) async fn close(self) {
        self.producer.close().await;
    }
}

/// Raises versions of tasks above those in the topic, ends tasks that nobody wants, and withdraws
/// requests nobody waits for.
async fn raise_versions(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    location: &str,
    db: &mut PgConnection,
) -> Result<(), Error> {
    let topic = cluster.tasks(location);
    for message in read_all(kafka, &topic, db).await? {
        let (Some(key), Some(value)) = (&message.key, &message.value) else {
            continue;
        };
        match TaskKey::parse(key) {
            Some(TaskKey::Task(_)) => {
                let Some(found) = readable::<TaskRecord>(&topic, value) else {
                    continue;
                };
                let mut tx = db.begin().await?;
                let (task, version) = (&found.task, found.version);
                match tasks::raise(&mut tx, cluster, &found, location).await? {
                    Raised::Nothing => {}
                    Raised::Version => tracing::warn!(
                        task,
                        version,
                        "the topic had a newer version of a task than the database; raised"
                    ),
                    Raised::Ended => tracing::warn!(
                        task,
                        version,
                        location,
                        connector = found.connector,
                        "the topic had a task that the database does not have; ended. What it made at a \
                         source, such as a slot, is still there"
                    ),
                }
                tx.commit().await?;
            }
            Some(TaskKey::Request(request)) => {
                let Some(found) = readable::<RequestRecord>(&topic, value) else {
                    continue;
                };
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

/// Takes over schemas and versions of subjects that the store does not have.
async fn take_over_schemas(
    kafka: &KafkaConfig,
    cluster: &Cluster,
    db: &mut PgConnection,
) -> Result<(), Error> {
    let topic = cluster.schemas();
    let messages = read_all(kafka, &topic, db).await?;
    let known = schemas::known(db).await?;
    let referring = messages
        .iter()
        .filter_map(|message| value_under(message, b"references/"))
        .filter_map(|value| readable::<ReferencesRecord>(&topic, value))
        .map(|found| (found.id, found.references));
    let referring: HashMap<_, _> = referring.collect();
    // Schemas before the versions that use them.
    for message in &messages {
        let Some(value) = value_under(message, b"schema/") else {
            continue;
        };
        let Some((found, id)) = readable::<SchemaRecord>(&topic, value)
            .and_then(|found| i32::try_from(found.id).ok().map(|id| (found, id)))
            .filter(|(_, id)| !known.ids.contains(id))
        else {
            continue;
        };
        let references = referring.get(&found.id).map_or(&[][..], Vec::as_slice);
        let hash = crate::registry::hash_of(&found.schema);
        let new = NewSchema {
            owner: PLATFORM,
            hash: &hash,
            text: &found.schema,
            references,
        };
        let mut tx = db.begin().await?;
        schemas::take_over(&mut tx, id, &new).await?;
        tx.commit().await?;
        tracing::warn!(id, "took over a schema that the database did not have");
    }
    for message in &messages {
        let Some(value) = value_under(message, b"subject/") else {
            continue;
        };
        let Some((found, id)) = readable::<SubjectRecord>(&topic, value)
            .and_then(|found| i32::try_from(found.id).ok().map(|id| (found, id)))
            .filter(|(found, _)| {
                !known
                    .versions
                    .contains(&(found.subject.clone(), found.version))
            })
        else {
            continue;
        };
        let mut tx = db.begin().await?;
        schemas::take_over_version(&mut tx, cluster, &found, id).await?;
        tx.commit().await?;
        tracing::warn!(
            subject = found.subject,
            version = found.version,
            "took over a version of a subject that the database did not have"
        );
    }
    Ok(())
}

fn value_under<'a>(message: &'a Message, prefix: &[u8]) -> Option<&'a [u8]> {
    let key = message.key.as_deref()?;
    key.starts_with(prefix).then_some(message.value.as_deref()?)
}

/// Reads a record. One that cannot be read is reported and left alone: it must not keep every
/// replica from leading.
fn readable<R: Record>(topic: &str, value: &[u8]) -> Option<R> {
    match R::decode(value) {
        Ok(record) => Some(record),
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::error!(topic, error, "a record cannot be read and is left alone");
            None
        }
    }
}

/// Reads a topic to its end and returns the newest record of each key. The session that holds the lock
/// is kept busy meanwhile, because the server ends a silent one.
async fn read_all(
    kafka: &KafkaConfig,
    topic: &str,
    db: &mut PgConnection,
) -> Result<Vec<Message>, Error> {
    let reading = async {
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
    };
    let mut reading = std::pin::pin!(reading);
    loop {
        tokio::select! {
            read = &mut reading => return read,
            () = tokio::time::sleep(KEEP_ALIVE) => db.ping().await?,
        }
    }
}
