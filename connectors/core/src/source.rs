//! The contract between a source connector and the worker that runs it.
//!
//! The connector encodes its database's changes and hands them over in batches, each with the
//! position behind it; the worker commits both in one transaction and says which batch is durable.
//! What a connector needs from the platform it asks of its [`SourceHost`]; it never sees a broker.

use async_trait::async_trait;
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::position::SchemaId;
use hutong_schemas::table::{TableId, TableSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::error_report::ErrorReport;

/// Records and the position behind them, which become durable together or not at all.
///
/// Batches are committed in the order in which they were handed over. A batch without records
/// moves the position only.
#[derive(Debug)]
pub struct SourceBatch {
    /// The events.
    pub records: RecordBatch,
    /// Where to go on after this batch; opaque to the worker.
    pub position: Value,
    /// Positions of parts of what is owned, such as a table, as far as this batch changed them.
    pub parts: Vec<PartPosition>,
    /// Commit time at the source of the last transaction in the batch, in microseconds since 1970.
    pub last_commit_ts_us: Option<i64>,
    /// The share of the byte budget that the batch holds, in KiB; returns when the batch is durable.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Number of the batch within this run, starting at 1. The worker reports the highest durable
    /// one; only then may the connector let its database forget what the batch covers.
    pub seq: u64,
    /// What the batch does, by which tests name the moment at which they kill.
    pub step: Step,
}

/// The position of a part of what a source owns.
#[derive(Clone, Debug, PartialEq)]
pub struct PartPosition {
    /// The part's name.
    pub part: String,
    /// Its position; `None` forgets the part.
    pub value: Option<Value>,
}

/// What a batch does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// It carries changes, or moves the position.
    #[default]
    Stream,
    /// It completes chunks of rows that a snapshot read, changes beside them.
    Chunk,
    /// It deletes rows that the table does not hold any more.
    Sweep,
}

impl Step {
    /// Returns the step's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Chunk => "chunk",
            Self::Sweep => "sweep",
        }
    }
}

/// What the platform offers to a running source.
#[async_trait]
pub trait SourceHost: Send + Sync {
    /// Returns the id of a schema under a subject, registering it where it is new.
    async fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, HostError>;

    /// Creates the topics of tables where they are missing, checks those that are there, and returns
    /// what each is, in the order of the question. The number of partitions of an existing one may
    /// differ from what is asked for.
    async fn ensure_topics(
        &self,
        topics: &[WantedTopic],
    ) -> Result<Vec<Result<TableTopic, HostError>>, HostError>;

    /// Returns the offset behind the last record of each partition of a topic.
    async fn end_offsets(&self, topic: &str) -> Result<Vec<i64>, HostError>;

    /// Returns, partition by partition, the keys (with their prefix) whose newest committed record
    /// is not a tombstone and, where `before` names an offset for each partition, lies before it.
    /// The keys lie in a scratch store on disk, not in memory.
    async fn live_keys(&self, topic: &str, before: Option<&[i64]>) -> Result<LiveKeys, HostError>;

    /// Makes the tables' SQL types known to the platform.
    async fn announce_tables(&self, tables: &[TableAnnouncement]) -> Result<(), HostError>;

    /// Takes the state to show; cheap, keeps the newest only.
    fn progress(&self, progress: SourceProgress);

    /// Says that the source has come to a named place, before or after a durable step or inside a
    /// read, where a test may hold it. In a release nothing happens there.
    async fn reached(&self, _place: &'static str) {}
}

/// A topic that a table needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTopic {
    /// Its name.
    pub name: String,
    /// Whether the table has a key; without one its topic is not compacted.
    pub keyed: bool,
    /// The number of partitions; one where there is no key.
    pub partitions: i32,
}

/// A table's topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableTopic {
    /// Its number of partitions.
    pub partitions: i32,
    /// Whether it was there before it was asked for, so that it may hold rows.
    pub existed: bool,
}

/// Partition and key of each live row of a topic.
pub type LiveKeys = Box<dyn Iterator<Item = Result<(i32, Vec<u8>), HostError>> + Send>;

/// A table that a source captures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableAnnouncement {
    /// The table's topic.
    pub topic: String,
    /// The database.
    pub database: String,
    /// The captured columns and the key.
    pub schema: TableSchema,
    /// Number of partitions of the topic.
    pub partitions: i32,
    /// Schema id of the keys; `None` for a table without a key.
    pub key_schema_id: Option<SchemaId>,
    /// Schema id of the values.
    pub value_schema_id: SchemaId,
}

/// What a source shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceProgress {
    /// The newest durable position.
    pub position: Option<Value>,
    /// The replication slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// Bytes of log between the newest durable position and the server's end of log.
    pub lag_bytes: Option<u64>,
    /// Age of the last transaction handed over, while there is something behind it; else 0.
    pub lag_seconds: Option<f64>,
    /// Bytes of log that the slot keeps the server from removing.
    pub retained_wal_bytes: Option<u64>,
    /// The captured tables.
    pub tables: Vec<TableProgress>,
    /// The snapshot, while tables are still to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotProgress>,
    /// Events handed over since the start of this run.
    pub events_total: u64,
    /// What is not wrong enough to stop, such as a missing limit of retained log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl SourceProgress {
    /// Returns what is shown of a table by its `schema.table`.
    pub fn table_mut(&mut self, name: &str) -> Option<&mut TableProgress> {
        self.tables.iter_mut().find(|shown| {
            let TableId { schema, table } = &shown.table;
            let rest = name.strip_prefix(schema.as_str());
            rest.and_then(|rest| rest.strip_prefix('.')) == Some(table)
        })
    }
}

/// How far the snapshot is, over all tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// Tables that are not read to their end.
    pub tables_left: u64,
    /// Rows read.
    pub rows_done: u64,
    /// The server's estimate of all rows, as far as it has one.
    pub rows_total: u64,
    /// Seconds until the last row, at the speed of late.
    pub eta_seconds: Option<u64>,
}

/// How far a table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProgress {
    /// The table.
    pub table: TableId,
    /// Its topic.
    pub topic: String,
    /// What is being done.
    pub state: TableState,
    /// Rows read by the snapshot.
    pub rows_done: u64,
    /// The server's estimate of all rows.
    pub rows_total: Option<u64>,
    /// Seconds until the table's last row, at the speed of late, while it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Why the table has stopped, and what a person can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What is being done about a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableState {
    /// The snapshot has not reached it.
    Waiting,
    /// The snapshot is reading it.
    Snapshotting,
    /// Its changes flow.
    Streaming,
    /// All rows are read; those that the topic holds and the table does not are being deleted.
    Sweeping,
    /// It has stopped; its error says why. Other tables go on.
    Failed,
}

/// The platform could not do what a source asked for.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    class: Class,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl HostError {
    /// Returns an error of a class.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Wraps an error that knows its class, saying what was being done.
    #[must_use]
    pub fn wrap(doing: impl Into<String>, error: impl Classified + Send + Sync + 'static) -> Self {
        Self {
            class: error.class(),
            message: doing.into(),
            hint: error.hint(),
            source: Some(Box::new(error)),
        }
    }

    /// Adds what a person can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Classified for HostError {
    fn class(&self) -> Class {
        self.class
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}
