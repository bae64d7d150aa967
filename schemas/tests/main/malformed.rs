//! Bytes and schemas that nobody meant: refused or read, never a panic.

use std::sync::LazyLock;

use hutong_schemas::cell::Cell;
use hutong_schemas::compatibility;
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, SnapshotMark, event_schemas};
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::{Lsn, SchemaId};
use hutong_schemas::record::{
    RecordDecoder, RecordEncoder, ViewField, view_key_schema, view_value_schema,
};
use hutong_schemas::table::TableSchema;
use hutong_schemas::wire;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::property::for_seconds;
use crate::random::{self, Owned, cells};
use crate::tables;

struct Plans {
    table: TableSchema,
    value_schema: String,
    encoder: EventEncoder,
    decoder: EventDecoder,
    row_decoder: RecordDecoder,
    row_encoder: RecordEncoder,
}

static PLANS: LazyLock<Plans> = LazyLock::new(|| {
    let table = tables::every_type();
    let id = SchemaId(1);
    let value_schema = event_schemas("p.samples.every_type", &table)
        .expect("the names are Avro names")
        .value;
    let view = view_value_schema(&view_fields(&table));
    Plans {
        encoder: EventEncoder::compile("p", "db", &table, Some(id), id).expect("it has a plan"),
        decoder: EventDecoder::compile(&value_schema).expect("it has a plan"),
        row_decoder: RecordDecoder::compile(&view).expect("it has a plan"),
        row_encoder: RecordEncoder::compile(&view, id).expect("it has a plan"),
        value_schema,
        table,
    }
});

fn view_fields(table: &TableSchema) -> Vec<ViewField> {
    let columns = table.columns.iter();
    columns
        .map(|column| ViewField {
            name: column.name.clone(),
            sql_type: column.sql_type,
            nullable: column.nullable,
        })
        .collect()
}

/// Tries every decoder. Whatever was read takes no more room than the table has columns.
fn read_all(message: &[u8]) -> Result<usize, TestCaseError> {
    let plans = &*PLANS;
    let columns = plans.table.columns.len();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut read = 0;
    let head = plans.decoder.decode(message, &mut before, &mut after);
    prop_assert!(before.len() <= columns && after.len() <= columns);
    if let Ok(head) = head {
        read += 1;
        let range = head.after_range.unwrap_or(0..0);
        prop_assert!(range.start <= range.end && range.end <= message.len());
        prop_assert_eq!(after.len(), if head.has_after { columns } else { 0 });
    }
    let mut row: Vec<Cell<'_>> = Vec::new();
    read += usize::from(plans.row_decoder.decode(message, &mut row).is_ok());
    prop_assert!(row.len() <= columns);
    read += usize::from(plans.encoder.key_cells(message, &mut row).is_ok());
    prop_assert!(row.len() <= columns);
    let split = wire::split(message);
    prop_assert_eq!(split.is_ok(), message.len() >= 5 && message[0] == 0);
    Ok(read)
}

#[test]
fn any_bytes_are_read_or_refused() {
    let framed = vec(any::<u8>(), 0..400).prop_map(|mut bytes| {
        bytes.splice(0..0, wire::prefix(SchemaId(1)));
        bytes
    });
    let bytes = prop_oneof![vec(any::<u8>(), 0..200), framed];
    for_seconds(2, &bytes, |bytes| read_all(&bytes).map(drop));
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Flip(usize, u8),
    Truncate(usize),
    Insert(usize, u8),
    Remove(usize),
    Repeat(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let edge = prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(0x7F),
        Just(0x80),
        Just(0xFF)
    ];
    let byte = prop_oneof![edge, any::<u8>()];
    prop_oneof![
        (any::<usize>(), byte.clone()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        any::<usize>().prop_map(Mutation::Truncate),
        (any::<usize>(), byte).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        any::<usize>().prop_map(Mutation::Remove),
        (any::<usize>(), 1..40usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    let place = |at: usize| at % bytes.len().max(1);
    match *mutation {
        _ if bytes.is_empty() => {}
        Mutation::Set(at, byte) => {
            let at = place(at);
            bytes[at] = byte;
        }
        Mutation::Flip(at, bit) => {
            let at = place(at);
            bytes[at] ^= 1 << bit;
        }
        Mutation::Truncate(at) => bytes.truncate(place(at)),
        Mutation::Insert(at, byte) => bytes.insert(place(at), byte),
        Mutation::Remove(at) => {
            bytes.remove(place(at));
        }
        Mutation::Repeat(at, count) => {
            let at = place(at);
            let end = bytes.len().min(at + count);
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
    }
}

#[test]
fn mutated_messages_are_read_or_refused() {
    let plans = &*PLANS;
    let rows = (random::row(&plans.table), random::row(&plans.table));
    let case = (rows, random::source(), vec(mutation(), 1..4));
    for_seconds(5, &case, |((before, after), source, mutations)| {
        let messages = valid_messages(&before, &after, &source);
        for mut message in messages {
            prop_assert!(read_all(&message)? >= 1, "it is valid before it is mutated");
            for mutation in &mutations {
                mutate(&mut message, mutation);
            }
            read_all(&message)?;
        }
        Ok(())
    });
}

fn valid_messages(before: &[Owned], after: &[Owned], source: &EventSource) -> [Vec<u8>; 3] {
    let plans = &*PLANS;
    let (mut event, mut key, mut row) = (Vec::new(), Vec::new(), Vec::new());
    let (before, after) = (cells(before), cells(after));
    let encoder = &plans.encoder;
    encoder
        .event(Op::Update, Some(&before), Some(&after), source, &mut event)
        .expect("a random row can be written");
    encoder.key(&after, &mut key).expect("it has a key");
    let known: Vec<_> = plans.table.columns.iter().zip(&after).collect();
    let known = known.into_iter().map(|(column, cell)| match cell {
        Cell::Unavailable if column.nullable => Cell::Null,
        Cell::Unavailable => match column.sql_type.to_string().as_str() {
            "bytea" => Cell::Bytes(b""),
            "numeric" => tables::number(&[0], 0),
            "numeric(18,4)" => tables::number(&[0], 4),
            "numeric(9,0)" => tables::number(&[0], 0),
            _ => Cell::Text(""),
        },
        cell => *cell,
    });
    let known: Vec<_> = known.collect();
    plans
        .row_encoder
        .encode(&known, &mut row)
        .expect("a row without unknown values can be written");
    [event, key, row]
}

#[test]
fn mutated_schemas_are_compiled_or_refused() {
    let case = (any::<prop::sample::Index>(), vec(mutation(), 1..4));
    for_seconds(4, &case, |(which, mutations)| {
        let plans = &*PLANS;
        let fields = view_fields(&plans.table);
        let schemas = [
            plans.value_schema.clone(),
            view_value_schema(&fields),
            view_key_schema(&fields[..3]),
        ];
        let mut text = which.get(&schemas).clone().into_bytes();
        for mutation in &mutations {
            mutate(&mut text, mutation);
        }
        let text = String::from_utf8_lossy(&text);
        let _ = EventDecoder::compile(&text);
        let _ = RecordDecoder::compile(&text);
        let _ = RecordEncoder::compile(&text, SchemaId(1));
        let _ = compatibility::canonical(&text);
        let _ = compatibility::check(compatibility::Level::Full, &text, &[&schemas[0]]);
        Ok(())
    });
}

#[test]
fn a_schema_that_refers_to_itself_is_refused() {
    let nested = r#"{"type":"record","name":"Envelope","fields":[
        {"name":"op","type":"string"},
        {"name":"after","type":["null",{"type":"record","name":"Value","fields":[]}]},
        {"name":"more","type":["null","Envelope"]}]}"#;
    assert!(EventDecoder::compile(nested).is_err());
    let row = r#"{"type":"record","name":"R","fields":[{"name":"a","type":["null","R"]}]}"#;
    assert!(RecordDecoder::compile(row).is_err());
}

/// Names that double at each step would otherwise stand for 2^40 types.
#[test]
fn a_schema_that_multiplies_is_refused() {
    let mut fields = String::from(r#"{"type":"fixed","name":"T0","size":1}"#);
    for step in 1..40 {
        let inner = step - 1;
        fields = format!(
            r#"{{"type":"record","name":"T{step}","fields":[{{"name":"a","type":{fields}}},{{"name":"b","type":"T{inner}"}}]}}"#
        );
    }
    let schema = format!(
        r#"{{"type":"record","name":"Envelope","fields":[{{"name":"op","type":"string"}},{{"name":"x","type":{fields}}}]}}"#
    );
    assert!(EventDecoder::compile(&schema).is_err());
}

#[test]
fn a_length_that_promises_too_much_takes_no_memory() {
    let plans = &*PLANS;
    let source = EventSource {
        ts_us: 0,
        snapshot: SnapshotMark::Last,
        tx_id: None,
        lsn: Some(Lsn(1)),
        last_commit_lsn: None,
        now_us: 0,
    };
    let mut event = Vec::new();
    let written = plans
        .encoder
        .event(Op::Truncate, None, None, &source, &mut event);
    written.unwrap();
    // The length of source.version becomes 2^62.
    let mut message = event[..7].to_vec();
    message.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    message.extend_from_slice(&event[8..]);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let read = plans.decoder.decode(&message, &mut before, &mut after);
    let error = read.unwrap_err().to_string();
    assert_eq!(error, "malformed message: the message ends too early");
}
