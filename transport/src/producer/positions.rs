//! Reading an owner's positions, exactly.
//!
//! Out of a compacted topic in which neighbours write, whose last records may be of an aborted
//! transaction, with markers behind them. The reader is opened after the owner's predecessor was
//! fenced, at which moment the predecessor's last transaction has ended, one way or the other. The
//! end is that of all records, so that a neighbour's open transaction in front of ours delays the
//! answer and does not falsify it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::admin::{Admin, Isolation};
use crate::config::KafkaConfig;
use crate::error::Error;
use crate::names::{POSITION_PARTITIONS, partition_of};
use crate::reader::{CompactedReader, Event};
use crate::record::{PositionRecord, Record, position_key};

/// Beyond a neighbour's transaction timeout: reading a partition of a small compacted topic.
const READ: Duration = Duration::from_secs(20);

/// Reads all positions of an owner, by sub.
pub(super) async fn read(
    config: &KafkaConfig,
    topic: &str,
    owner: &str,
) -> Result<BTreeMap<String, Value>, Error> {
    let partition = partition_of(owner.as_bytes(), POSITION_PARTITIONS);
    let timeout = config.transaction_timeout() + READ;
    let read = read_to_end(config, topic, partition, owner);
    if let Ok(positions) = tokio::time::timeout(timeout, read).await {
        return positions;
    }
    Err(match open_at(config, topic, partition).await {
        Ok(Some(offset)) => Error::TransactionLeftOpen {
            topic: topic.to_owned(),
            partition,
            offset,
            after: timeout,
        },
        // Whatever keeps Kafka from answering that has kept it from answering before.
        Ok(None) | Err(_) => Error::TimedOut {
            operation: "read positions of",
            subject: owner.to_owned(),
            after: timeout,
        },
    })
}

/// Returns the last stable offset, if there are records behind it.
async fn open_at(config: &KafkaConfig, topic: &str, partition: i32) -> Result<Option<i64>, Error> {
    let admin = Admin::new(config)?;
    let end = async |isolation| {
        let ends = admin.end_offsets(topic, isolation).await;
        ends.map(|ends| ends.get(&partition).copied().unwrap_or(0))
    };
    let stable = end(Isolation::ReadCommitted).await?;
    let is_open = stable < end(Isolation::ReadUncommitted).await?;
    Ok(is_open.then_some(stable))
}

async fn read_to_end(
    config: &KafkaConfig,
    topic: &str,
    partition: i32,
    owner: &str,
) -> Result<BTreeMap<String, Value>, Error> {
    let mut reader = CompactedReader::open_partitions(config, topic, &[partition]).await?;
    let mut positions = BTreeMap::new();
    while let Event::Record(message) = reader.next().await? {
        let Some(sub) = sub_of(message.key.as_deref(), owner) else {
            continue;
        };
        match message.value {
            None => {
                positions.remove(&sub);
            }
            Some(value) => {
                let record = PositionRecord::decode(&value)?;
                positions.insert(sub, record.position);
            }
        }
    }
    Ok(positions)
}

/// Returns the part of an owner that a key names; `None` if the key is another owner's.
fn sub_of(key: Option<&[u8]>, owner: &str) -> Option<String> {
    let key = std::str::from_utf8(key?).ok()?;
    if key == owner {
        return Some(String::new());
    }
    let sub = key.strip_prefix(owner)?.strip_prefix('#')?;
    debug_assert_eq!(key, position_key(owner, sub));
    Some(sub.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_owners_are_not_taken_for_parts() {
        let sub = |key: &str| sub_of(Some(key.as_bytes()), "source/1/db/slot");
        assert_eq!(sub("source/1/db/slot"), Some(String::new()));
        assert_eq!(sub("source/1/db/slot#public.a"), Some("public.a".into()));
        assert_eq!(sub("source/1/db/slot2"), None);
        assert_eq!(sub("source/1/db/slot2#public.a"), None);
        assert_eq!(sub_of(None, "source/1/db/slot"), None);
    }
}
