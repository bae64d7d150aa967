//! What a running source asks of the platform, answered through Kafka.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hutong_connectors_core::source::{
    HostError, LiveKeys, SourceHost, SourceProgress, TableAnnouncement, TableProgress, TableState,
    TableTopic, WantedTopic,
};
use hutong_schemas::position::SchemaId;
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, Isolation, TopicSpec};
use hutong_transport::producer::{PlainRecord, Transaction, TransactionalProducer};
use hutong_transport::record::{Record, TableRecord, VERSION};

use crate::live_keys;
use crate::metrics::Metrics;
use crate::schema_cache::SchemaCache;
use crate::status::StatusHandle;

/// The platform as one source sees it.
pub(crate) struct KafkaHost {
    pub(crate) connector: String,
    pub(crate) task: String,
    /// What the source owns, by which tests name it.
    #[cfg(debug_assertions)]
    pub(crate) owner: String,
    pub(crate) tables_topic: String,
    pub(crate) kafka: KafkaConfig,
    pub(crate) admin: Arc<Admin>,
    pub(crate) schemas: Arc<SchemaCache>,
    /// The fenced producer: what is announced is announced by the source's owner.
    pub(crate) producer: Arc<TransactionalProducer>,
    pub(crate) status: StatusHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) scratch_dir: PathBuf,
    /// The states of tables that were shown last. A `std` mutex: held for a comparison.
    pub(crate) shown: Mutex<Vec<TableState>>,
}

#[async_trait]
impl SourceHost for KafkaHost {
    async fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, HostError> {
        self.schemas
            .register(subject, schema)
            .await
            .map_err(|error| {
                HostError::wrap(
                    format!("could not get an id for the schema of {subject}"),
                    error,
                )
            })
    }

    async fn ensure_topics(
        &self,
        topics: &[WantedTopic],
    ) -> Result<Vec<Result<TableTopic, HostError>>, HostError> {
        let spec = |topic: &WantedTopic| match topic.keyed {
            true => TopicSpec::keyed_table(&topic.name, topic.partitions),
            false => TopicSpec::keyless_table(&topic.name),
        };
        let specs: Vec<TopicSpec> = topics.iter().map(spec).collect();
        let ensured = self.admin.ensure_topics(&specs).await;
        let ensured = ensured
            .map_err(|error| HostError::wrap("could not make the tables' topics ready", error))?;
        let each = ensured.into_iter().zip(&specs).map(|(ensured, spec)| {
            let name = &spec.name;
            let ensured = ensured.map_err(|error| {
                HostError::wrap(format!("could not make topic {name} ready"), error)
            })?;
            Ok(TableTopic {
                partitions: ensured.info.partitions,
                existed: ensured.existed,
            })
        });
        Ok(each.collect())
    }

    async fn end_offsets(&self, topic: &str) -> Result<Vec<i64>, HostError> {
        let wrap =
            |error| HostError::wrap(format!("could not find the end of topic {topic}"), error);
        let ends = self
            .admin
            .end_offsets(topic, Isolation::ReadUncommitted)
            .await
            .map_err(wrap)?;
        Ok(ends.into_values().collect())
    }

    async fn live_keys(&self, topic: &str, before: Option<&[i64]>) -> Result<LiveKeys, HostError> {
        live_keys::list(&self.kafka, topic, before, self.scratch_dir.join(topic)).await
    }

    async fn announce_tables(&self, tables: &[TableAnnouncement]) -> Result<(), HostError> {
        let plain = tables
            .iter()
            .map(|table| self.table_record(table))
            .collect();
        let transaction = Transaction {
            plain,
            ..Transaction::default()
        };
        self.reached("source-announce-before").await;
        let committed = self.producer.commit(transaction).await;
        self.reached("source-announce-after").await;
        committed
            .map(drop)
            .map_err(|error| HostError::wrap("could not announce the captured tables", error))
    }

    fn progress(&self, progress: SourceProgress) {
        self.measure(&progress);
        let states: Vec<TableState> = progress.tables.iter().map(|table| table.state).collect();
        let details = serde_json::to_value(&progress).unwrap_or_default();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown == states {
            self.status.details(details);
        } else {
            *shown = states;
            self.status.details_now(details);
        }
    }

    #[cfg(debug_assertions)]
    async fn reached(&self, place: &'static str) {
        hutong_transport::faults::reach(place, &self.owner).await;
    }
}

impl KafkaHost {
    fn table_record(&self, table: &TableAnnouncement) -> PlainRecord {
        let record = TableRecord {
            v: VERSION,
            connector: self.connector.clone(),
            topic: table.topic.clone(),
            database: table.database.clone(),
            table: table.schema.clone(),
            partitions: table.partitions,
            key_schema_id: table.key_schema_id.map(|id| id.0),
            value_schema_id: table.value_schema_id.0,
        };
        PlainRecord {
            topic: self.tables_topic.clone(),
            partition: None,
            key: table.topic.clone().into_bytes(),
            value: Some(record.encode()),
        }
    }

    fn measure(&self, progress: &SourceProgress) {
        let labels = [self.task.as_str()];
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(lag_bytes) = progress.lag_bytes {
            let gauge = self.metrics.source_lag_bytes.with_label_values(&labels);
            gauge.set(bytes(lag_bytes));
        }
        if let Some(lag_seconds) = progress.lag_seconds {
            let gauge = self.metrics.source_lag_seconds.with_label_values(&labels);
            gauge.set(lag_seconds);
        }
        self.measure_tables(progress);
        if let Some(retained) = progress.retained_wal_bytes {
            let gauge = &self.metrics.source_retained_wal_bytes;
            gauge.with_label_values(&labels).set(bytes(retained));
        }
    }

    fn measure_tables(&self, progress: &SourceProgress) {
        let labels = [self.task.as_str()];
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let snapshot = progress.snapshot.unwrap_or_default();
        let tables = &self.metrics.source_snapshot_tables;
        tables
            .with_label_values(&labels)
            .set(count(snapshot.tables_left));
        let rows = &self.metrics.source_snapshot_rows;
        rows.with_label_values(&labels)
            .set(count(snapshot.rows_done));
        let left = std::time::Duration::from_secs(snapshot.eta_seconds.unwrap_or(0));
        let seconds = &self.metrics.source_snapshot_left_seconds;
        seconds.with_label_values(&labels).set(left.as_secs_f64());
        let is_failed = |table: &&TableProgress| table.state == TableState::Failed;
        let failed = progress.tables.iter().filter(is_failed).count();
        let gauge = &self.metrics.source_tables_failed;
        gauge
            .with_label_values(&labels)
            .set(i64::try_from(failed).unwrap_or(i64::MAX));
    }
}
