//! Making records durable: in transactions together with positions, or one by one.

mod plain;
mod positions;
mod transactional;
mod worker;

use hutong_schemas::batch::RecordBatch;
use serde_json::Value;

pub use plain::PlainProducer;
pub use transactional::TransactionalProducer;

/// A position to be committed with a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct PositionWrite {
    /// The location whose topic of positions it goes to.
    pub location: String,
    /// What is owned.
    pub owner: String,
    /// A part of it, or empty for the owner itself.
    pub sub: String,
    /// The position; `None` deletes it.
    pub value: Option<Value>,
}

/// A record that is built one by one.
#[derive(Clone, PartialEq, Eq)]
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

impl std::fmt::Debug for PlainRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainRecord")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
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
