//! Plans of random tables against apache-avro.

use apache_avro::types::Value;
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, event_schemas};
use hutong_schemas::event_decoder::{EventDecoder, EventHead};
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::RecordDecoder;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableSchema;
use proptest::prelude::*;

use crate::oracle;
use crate::property::for_seconds;
use crate::random::{self, Owned, cells, same};

#[derive(Clone, Debug)]
struct Case {
    table: TableSchema,
    op: Op,
    before: Option<Vec<Owned>>,
    after: Option<Vec<Owned>>,
    source: EventSource,
}

fn case() -> impl Strategy<Value = Case> {
    let rows = random::table().prop_flat_map(|table| {
        let (before, after) = (random::row(&table), random::row(&table));
        (Just(table), before, after)
    });
    let presence = (any::<bool>(), any::<bool>(), any::<bool>());
    (rows, presence, random::op(), random::source()).prop_map(
        |((table, before, after), (has_before, has_after, is_full), op, source)| {
            let before = if is_full {
                before
            } else {
                random::key_only(&table, &before)
            };
            Case {
                before: has_before.then_some(before),
                after: has_after.then_some(after),
                table,
                op,
                source,
            }
        },
    )
}

const KEY: SchemaId = SchemaId(0x0102_0304);
const VALUE: SchemaId = SchemaId(77);

fn encoder(table: &TableSchema) -> EventEncoder {
    let key = (!table.key.is_empty()).then_some(KEY);
    EventEncoder::compile("p.q", "db", table, key, VALUE).expect("a random table has a plan")
}

fn encode(case: &Case) -> Vec<u8> {
    let before = case.before.as_deref().map(cells);
    let after = case.after.as_deref().map(cells);
    let mut out = Vec::new();
    let (before, after) = (before.as_deref(), after.as_deref());
    let written = encoder(&case.table).event(case.op, before, after, &case.source, &mut out);
    written.expect("a random row can be written");
    out
}

fn record(fields: Vec<(&str, Value)>) -> Value {
    let fields = fields.into_iter();
    Value::Record(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn optional(value: Option<Value>) -> Value {
    match value {
        Some(value) => Value::Union(1, Box::new(value)),
        None => Value::Union(0, Box::new(Value::Null)),
    }
}

fn row_value(table: &TableSchema, row: &[Owned]) -> Value {
    let fields = table.columns.iter().zip(row).map(|(column, cell)| {
        let shows_default = random::shows_default(column);
        let value = match (random::is_optional(column), cell) {
            (false, Owned::Null) => random::unknown(column),
            (false, cell) => random::avro(column.sql_type, cell),
            (true, Owned::Null) => Value::Union(u32::from(shows_default), Box::new(Value::Null)),
            (true, cell) => {
                let value = random::avro(column.sql_type, cell);
                Value::Union(u32::from(!shows_default), Box::new(value))
            }
        };
        (column.name.as_str(), value)
    });
    record(fields.collect())
}

fn event_value(case: &Case) -> Value {
    let EventSource {
        ts_us,
        snapshot,
        tx_id,
        lsn,
        last_commit_lsn,
        now_us,
    } = case.source;
    let text = |text: &str| Value::String(text.to_owned());
    let long = |value: i64| optional(Some(Value::Long(value)));
    let quoted = |lsn: Option<hutong_schemas::position::Lsn>| {
        lsn.map_or("null".to_owned(), |lsn| format!("\"{}\"", lsn.0))
    };
    let sequence = format!("[{},{}]", quoted(last_commit_lsn), quoted(lsn));
    let source = record(vec![
        ("version", text(env!("CARGO_PKG_VERSION"))),
        ("connector", text("postgresql")),
        ("name", text("p.q")),
        ("ts_ms", Value::Long(ts_us.div_euclid(1000))),
        (
            "snapshot",
            Value::Union(0, Box::new(text(snapshot.as_str()))),
        ),
        ("db", text("db")),
        ("sequence", optional(Some(text(&sequence)))),
        ("ts_us", long(ts_us)),
        ("ts_ns", long(ts_us * 1000)),
        ("schema", text(&case.table.id.schema)),
        ("table", text(&case.table.id.table)),
        ("txId", optional(tx_id.map(Value::Long))),
        (
            "lsn",
            optional(lsn.map(|lsn| Value::Long(lsn.0.cast_signed()))),
        ),
        ("xmin", optional(None)),
        ("origin", optional(None)),
        ("origin_lsn", optional(None)),
    ]);
    let image = |row: &Option<Vec<Owned>>| {
        let row = row.as_ref();
        optional(row.map(|row| row_value(&case.table, row)))
    };
    record(vec![
        ("before", image(&case.before)),
        ("after", image(&case.after)),
        ("source", source),
        ("transaction", optional(None)),
        ("op", text(case.op.as_str())),
        ("ts_ms", long(now_us.div_euclid(1000))),
        ("ts_us", long(now_us)),
        ("ts_ns", long(now_us * 1000)),
    ])
}

#[test]
fn events_are_written_as_apache_avro_writes_them() {
    for_seconds(6, &case(), |case| {
        let topic = format!("p.q.{}", case.table.id);
        let schemas = event_schemas(&topic, &case.table).unwrap();
        let schema = oracle::parse(&schemas.value);
        let ours = encode(&case);
        prop_assert_eq!(&ours[..5], &[0, 0, 0, 0, 77]);
        prop_assert!(oracle::writes(&schema, &event_value(&case), &ours[5..]));
        Ok(())
    });
}

#[test]
fn reading_an_event_inverts_writing_it() {
    for_seconds(4, &case(), |case| {
        let topic = format!("p.q.{}", case.table.id);
        let schemas = event_schemas(&topic, &case.table).unwrap();
        let decoder = EventDecoder::compile(&schemas.value).unwrap();
        let message = encode(&case);
        let (mut before, mut after) = (vec![Cell::Bool(true)], vec![Cell::Bool(true)]);
        let head = decoder.decode(&message, &mut before, &mut after).unwrap();

        let expected_before = case.before.as_deref().unwrap_or_default();
        let expected_after = case.after.as_deref().unwrap_or_default();
        prop_assert!(same(&after, &cells(expected_after)));
        prop_assert_eq!(before.len(), expected_before.len());
        for ((column, cell), expected) in
            case.table.columns.iter().zip(&before).zip(expected_before)
        {
            let is_unknown = !random::is_optional(column) && *expected == Owned::Null;
            prop_assert!(is_unknown || same(&[*cell], &[expected.cell()]));
        }
        let range = head.after_range.clone();
        prop_assert_eq!(
            head,
            EventHead {
                op: case.op,
                has_before: case.before.is_some(),
                has_after: case.after.is_some(),
                ts_us: Some(case.source.ts_us),
                tx_id: case.source.tx_id,
                lsn: case.source.lsn,
                snapshot: case.source.snapshot,
                after_range: range.clone(),
            }
        );
        prop_assert_eq!(range.is_some(), case.after.is_some());
        if let (Some(range), Some(row)) = (range, &case.after) {
            let schema: serde_json::Value = serde_json::from_str(&schemas.value).unwrap();
            let mut row_schema = schema["fields"][0]["type"][1].clone();
            row_schema["namespace"] = "p".into();
            let row_schema = oracle::parse(&row_schema.to_string());
            let expected = row_value(&case.table, row);
            prop_assert!(oracle::writes(&row_schema, &expected, &message[range]));
        }
        for (info, column) in decoder.columns().iter().zip(&case.table.columns) {
            prop_assert_eq!(&info.name, &column.name);
            prop_assert_eq!(info.nullable, random::is_optional(column));
            prop_assert_eq!(info.sql_type, widest(column.sql_type));
        }
        Ok(())
    });
}

/// What a schema without SQL types still tells of a type.
fn widest(sql_type: SqlType) -> SqlType {
    match sql_type {
        SqlType::Numeric { scale: ..0, .. } => SqlType::NumericUnscaled,
        SqlType::Varchar { .. } | SqlType::Char { .. } => SqlType::Text,
        SqlType::Citext | SqlType::Inet | SqlType::Cidr | SqlType::Macaddr | SqlType::Macaddr8 => {
            SqlType::Text
        }
        range if range.bound().is_some() => SqlType::Text,
        SqlType::Jsonb | SqlType::Hstore => SqlType::Json,
        SqlType::Oid => SqlType::Int8,
        SqlType::Money => SqlType::Numeric {
            precision: 64,
            scale: 2,
        },
        SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => SqlType::Bool,
        SqlType::Bit { length } => SqlType::Varbit {
            length: Some(length),
        },
        SqlType::Timetz { .. } => SqlType::Timetz { precision: 6 },
        SqlType::Lseg | SqlType::Box | SqlType::Polygon => SqlType::Path,
        SqlType::Array { element } => SqlType::Array {
            element: widest(element.into()).try_into().unwrap(),
        },
        SqlType::Time { precision: 0..=3 } => SqlType::Time { precision: 3 },
        SqlType::Time { .. } => SqlType::Time { precision: 6 },
        SqlType::Timestamp { precision: 0..=3 } => SqlType::Timestamp { precision: 3 },
        SqlType::Timestamp { .. } => SqlType::Timestamp { precision: 6 },
        SqlType::Timestamptz { .. } => SqlType::Timestamptz { precision: 6 },
        other => other,
    }
}

#[test]
fn keys_are_written_as_apache_avro_writes_them_and_read_back() {
    let keyed = random::table()
        .prop_filter("it has a key", |table| !table.key.is_empty())
        .prop_flat_map(|table| {
            let row = random::row(&table);
            (Just(table), row)
        });
    for_seconds(4, &keyed, |(table, row)| {
        let schema = event_schemas("p.q.s.t", &table).unwrap().key.unwrap();
        let encoder = encoder(&table);
        let row_cells = cells(&row);
        let mut message = vec![9];
        encoder.key(&row_cells, &mut message).unwrap();
        let message = &message[1..];
        prop_assert_eq!(&message[..5], &[0, 1, 2, 3, 4]);

        let fields = table.key.iter().map(|index| {
            let column = &table.columns[*index];
            let value = random::avro(column.sql_type, &row[*index]);
            (column.name.as_str(), value)
        });
        let expected = record(fields.collect());
        prop_assert!(oracle::writes(
            &oracle::parse(&schema),
            &expected,
            &message[5..]
        ));

        let mut read = Vec::new();
        encoder.key_cells(message, &mut read).unwrap();
        let key_only = random::key_only(&table, &row);
        prop_assert!(same(&read, &cells(&key_only)));

        let decoder = RecordDecoder::compile(&schema).unwrap();
        decoder.decode(message, &mut read).unwrap();
        let in_key_order: Vec<_> = table.key.iter().map(|index| row_cells[*index]).collect();
        prop_assert!(same(&read, &in_key_order));
        Ok(())
    });
}
