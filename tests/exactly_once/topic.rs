//! What a reader of a table's topic sees, for comparison with the ledger.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::Op;
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::RecordDecoder;
use hutong_schemas::wire;
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, Isolation};
use hutong_transport::reader::{Message, PartitionReader, Start};

/// Changes of a topic's keys in the order of the topic: operation and number of the change (0 for
/// deletes, whose events carry only the key).
pub(crate) type Observed = BTreeMap<i64, Vec<(char, i64)>>;

/// Reads every committed record of a topic, to its end.
pub(crate) async fn read(kafka: &KafkaConfig, topic: &str) -> Vec<Message> {
    let admin = Admin::new(kafka).unwrap();
    let info = admin
        .topic(topic)
        .await
        .unwrap()
        .unwrap_or_else(|| panic!("no topic {topic}"));
    let mut messages = Vec::new();
    for partition in 0..info.partitions {
        let mut reader = PartitionReader::open(
            kafka,
            topic,
            partition,
            Start::Earliest,
            Isolation::ReadCommitted,
        )
        .await
        .unwrap();
        let end = reader.end_offset().await.unwrap();
        while reader.position() < end {
            messages.extend(reader.poll(8 << 20, Duration::from_secs(1)).await.unwrap());
        }
    }
    messages
}

/// Decodes the events of a table whose key is `id` and which counts its changes in `ver`.
///
/// # Panics
///
/// If an event breaks a rule that holds for all: a delete without its tombstone, a tombstone
/// without a delete, a value that was never resolved though its row is there.
pub(crate) fn observe(messages: &[Message], schemas: &HashMap<SchemaId, String>) -> Observed {
    let mut observed = Observed::new();
    let mut decoders = HashMap::new();
    let mut awaits_tombstone = None;
    let mut awaits_deletion = HashMap::new();
    for message in messages {
        let key = message.key.as_ref().expect("a key");
        let (key_schema, _) = wire::split(key).unwrap();
        let mut cells = Vec::new();
        RecordDecoder::compile(&schemas[&key_schema])
            .unwrap()
            .decode(key, &mut cells)
            .unwrap();
        let [Cell::Int(id)] = cells[..] else {
            panic!("the key is not one integer")
        };
        let Some(value) = &message.value else {
            assert_eq!(
                awaits_tombstone.take(),
                Some(id),
                "a tombstone follows its delete at once"
            );
            continue;
        };
        assert_eq!(
            awaits_tombstone, None,
            "a delete is followed by its tombstone"
        );
        let (value_schema, _) = wire::split(value).unwrap();
        let decoder = decoders
            .entry(value_schema)
            .or_insert_with(|| EventDecoder::compile(&schemas[&value_schema]).unwrap());
        let ver = decoder
            .columns()
            .iter()
            .position(|column| column.name == "ver")
            .unwrap();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let head = decoder.decode(value, &mut before, &mut after).unwrap();
        let unresolved = after.iter().any(|cell| matches!(cell, Cell::Unavailable));
        // It could not be read again, because the row was gone by then.
        if let Some(offset) = awaits_deletion.remove(&id) {
            assert!(
                unresolved || head.op == Op::Delete,
                "offset {offset} of partition {} has a value that was not resolved",
                message.partition
            );
        }
        if unresolved {
            awaits_deletion.insert(id, message.offset);
        }
        let number = || match after[ver] {
            Cell::Int(number) => number,
            _ => panic!("ver is not an integer"),
        };
        let change = match head.op {
            Op::Read => ('r', number()),
            Op::Create => ('c', number()),
            Op::Update => ('u', number()),
            Op::Delete => {
                awaits_tombstone = Some(id);
                ('d', 0)
            }
            Op::Truncate => panic!("a truncate in a compacted topic"),
        };
        observed.entry(id).or_default().push(change);
    }
    assert_eq!(
        awaits_tombstone, None,
        "the last delete is followed by its tombstone"
    );
    assert!(
        awaits_deletion.is_empty(),
        "values were not resolved: keys and offsets {awaits_deletion:?}"
    );
    observed
}
