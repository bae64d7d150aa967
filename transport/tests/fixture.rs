//! What the tests share: the server, names of one's own, and shorthand.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hutong_schemas::batch::{Record, RecordBatch};
use hutong_transport::admin::{Admin, Isolation, TopicSpec};
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PositionWrite, Transaction, TransactionalProducer};
use hutong_transport::reader::{CompactedReader, Event, Message, PartitionReader, Start};
use hutong_transport::{Error, KafkaConfig};
use serde_json::Value;

/// Beyond anything that a healthy server needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LOCATION: &str = "default";

/// A cluster name of one's own on the shared server, its topics deleted at the end.
pub(crate) struct Fixture {
    pub(crate) config: KafkaConfig,
    pub(crate) admin: Admin,
    pub(crate) cluster: Cluster,
}

pub(crate) fn kafka() -> KafkaConfig {
    let servers = std::env::var("KAFKA_BOOTSTRAP").expect("KAFKA_BOOTSTRAP: run `make test`");
    KafkaConfig::plain(&servers).unwrap()
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let config = kafka();
        let id = uuid::Uuid::new_v4().simple().to_string();
        let id: String = id.chars().take(12).collect();
        Self {
            admin: Admin::new(&config).unwrap(),
            cluster: Cluster::new(&format!("transport-{id}")).unwrap(),
            config,
        }
    }

    pub(crate) async fn with_positions() -> Self {
        let fixture = Self::new();
        let spec = TopicSpec::positions(&fixture.cluster, LOCATION);
        fixture.admin.ensure_topic(&spec).await.unwrap();
        fixture
    }

    /// Creates a compacted topic under the cluster's name.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) -> Arc<str> {
        let name = format!("{}.{name}", self.cluster);
        let spec = TopicSpec::keyed_table(&name, partitions);
        self.admin.ensure_topic(&spec).await.unwrap();
        name.into()
    }

    pub(crate) async fn producer(&self, id: &str) -> TransactionalProducer {
        let id = self.cluster.transactional_id(id);
        let started = TransactionalProducer::start(&self.config, &self.cluster, &id);
        in_time(started).await.unwrap()
    }

    pub(crate) async fn reader(&self, topic: &str) -> PartitionReader {
        self.reader_at(topic, Start::Earliest).await.unwrap()
    }

    pub(crate) async fn reader_at(
        &self,
        topic: &str,
        start: Start,
    ) -> Result<PartitionReader, Error> {
        let isolation = Isolation::ReadCommitted;
        PartitionReader::open(&self.config, topic, 0, start, isolation).await
    }

    pub(crate) async fn compacted(&self, topic: &str) -> CompactedReader {
        CompactedReader::open(&self.config, topic).await.unwrap()
    }

    /// Ends a test: deletes the topics that it made.
    pub(crate) async fn delete(self, topics: &[&str]) {
        for topic in topics {
            let topic = if topic.contains('.') {
                (*topic).to_owned()
            } else {
                format!("{}.{topic}", self.cluster)
            };
            self.admin.delete_topic(&topic).await.unwrap();
        }
        let positions = self.cluster.positions(LOCATION);
        self.admin.delete_topic(&positions).await.unwrap();
    }
}

impl Deref for Fixture {
    type Target = KafkaConfig;

    fn deref(&self) -> &KafkaConfig {
        &self.config
    }
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("not done within {PATIENCE:?}"),
    }
}

/// A batch of records `(key, value)` for one topic, partition 0.
pub(crate) fn batch(topic: &Arc<str>, records: &[(&str, &str)]) -> RecordBatch {
    let mut batch = RecordBatch::default();
    let index = batch.topic(topic);
    for (key, value) in records {
        let key = put(&mut batch.buffer, key);
        let value = put(&mut batch.buffer, value);
        batch.records.push(Record {
            topic: index,
            partition: Some(0),
            key: Some(key),
            value: Some(value),
            header: None,
        });
    }
    batch
}

pub(crate) fn put(buffer: &mut Vec<u8>, text: &str) -> std::ops::Range<usize> {
    let start = buffer.len();
    buffer.extend_from_slice(text.as_bytes());
    start..buffer.len()
}

pub(crate) fn records(topic: &Arc<str>, records: &[(&str, &str)]) -> Transaction {
    Transaction {
        batches: vec![batch(topic, records)],
        ..Transaction::default()
    }
}

pub(crate) fn position(owner: &str, sub: &str, value: Option<Value>) -> PositionWrite {
    PositionWrite {
        location: LOCATION.to_owned(),
        owner: owner.to_owned(),
        sub: sub.to_owned(),
        value,
    }
}

pub(crate) fn text(bytes: Option<&bytes::Bytes>) -> String {
    String::from_utf8(bytes.expect("it is there").to_vec()).unwrap()
}

/// Polls until the reader is at the end, and returns the values read.
pub(crate) async fn values_to_end(reader: &mut PartitionReader) -> Vec<String> {
    let mut values = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let messages = reader
            .poll(1 << 20, Duration::from_millis(500))
            .await
            .unwrap();
        values.extend(messages.iter().map(|message| text(message.value.as_ref())));
        if reader.at_end() {
            return values;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the end was not found"
        );
    }
}

/// Reads a compacted topic to its end.
pub(crate) async fn all(reader: &mut CompactedReader) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match in_time(reader.next()).await.unwrap() {
            Event::Record(message) => messages.push(message),
            Event::End => return messages,
        }
    }
}
