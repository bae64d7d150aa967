//! Against recorded Debezium: `golden/debezium/README.md` says how it was recorded.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use apache_avro::types::Value;
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, event_schemas};
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::{Lsn, SchemaId};
use hutong_schemas::record::RecordDecoder;
use hutong_schemas::table::TableSchema;

use crate::oracle;
use crate::tables::{self, number, table, with_defaults};

const PREFIX: &str = "gov";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/debezium")
}

fn recorded_schema(name: &str) -> Option<String> {
    fs::read_to_string(folder().join(name)).ok()
}

/// The tables of `tables.sql`.
fn recorded_tables() -> Vec<TableSchema> {
    vec![
        tables::ent_base(),
        tables::ent_inspect(),
        tables::dj_nsrxx(),
        tables::tax_reg(),
        tables::org_code(),
        tables::every_type(),
        constant_default(),
        expression_default(),
        table(
            "samples.reversed_key",
            &["b", "a"],
            &["a integer !", "b character varying(5) !", "c text"],
        ),
        every_key(),
        table("samples.without_key", &[], &["a integer", "b text !"]),
        table(
            "samples.full_identity",
            &["id"],
            &["id integer !", "a text !", "b numeric(5,2)"],
        ),
        table(
            "samples.unbounded",
            &["id"],
            &[
                "id integer !",
                "ts3 timestamp(3) without time zone",
                "ts timestamp(6) without time zone",
                "tz timestamp(6) with time zone",
                "tz0 timestamp(0) with time zone ! ~",
            ],
        ),
        table(
            "samples.wide_numbers",
            &["id"],
            &[
                "id integer !",
                "small numeric(3,5)",
                "large numeric(100,30)",
            ],
        ),
        table(
            "samples.toast",
            &["id"],
            &[
                "id integer !",
                "n integer",
                "t text",
                "r text !",
                "b bytea",
                "j json",
                "v character varying",
            ],
        ),
    ]
}

fn constant_default() -> TableSchema {
    let table = table(
        "samples.constant_default",
        &["id"],
        &[
            "id integer !",
            "n_bool boolean",
            "r_bool boolean !",
            "f_bool boolean !",
            "n_int2 smallint",
            "r_int2 smallint !",
            "n_int4 integer",
            "r_int4 integer !",
            "n_int8 bigint",
            "r_int8 bigint !",
            "n_float4 real",
            "r_float4 real !",
            "n_float8 double precision",
            "r_float8 double precision !",
            "n_numeric numeric(18,4)",
            "r_numeric numeric(18,4) !",
            "z_numeric numeric(18,2) !",
            "n_unscaled numeric",
            "r_unscaled numeric !",
            "n_text text",
            "r_text text !",
            "q_text text !",
            "n_varchar character varying",
            "r_varchar character varying(20) !",
            "n_char character(4)",
            "r_char character(3) !",
            "n_bytea bytea",
            "r_bytea bytea !",
            "n_date date",
            "r_date date !",
            "n_time3 time(3) without time zone",
            "r_time time(6) without time zone !",
            "n_timestamp3 timestamp(3) without time zone",
            "r_timestamp timestamp(6) without time zone !",
            "n_timestamptz timestamp(6) with time zone",
            "r_timestamptz3 timestamp(3) with time zone !",
            "n_uuid uuid",
            "r_uuid uuid !",
            "n_json json",
            "r_json json !",
            "n_jsonb jsonb",
            "r_jsonb jsonb !",
            "null_text text",
        ],
    );
    let uuid = "11111111-2222-3333-4444-555555555555";
    let json = r#"{"a": 1}"#;
    let micros = 1_582_979_696_789_012;
    let millis = 1_582_979_696_789_000;
    with_defaults(
        table,
        &[
            ("id", Cell::Int(5)),
            ("n_bool", Cell::Bool(true)),
            ("r_bool", Cell::Bool(true)),
            ("f_bool", Cell::Bool(false)),
            ("n_int2", Cell::Int(7)),
            ("r_int2", Cell::Int(-7)),
            ("n_int4", Cell::Int(42)),
            ("r_int4", Cell::Int(-42)),
            ("n_int8", Cell::Int(i64::MAX)),
            ("r_int8", Cell::Int(0)),
            ("n_float4", Cell::Float4(1.5)),
            ("r_float4", Cell::Float4(-2.25)),
            ("n_float8", Cell::Float8(0.1)),
            ("r_float8", Cell::Float8(1e10)),
            ("n_numeric", number(&[0x13, 0x88], 4)),
            ("r_numeric", number(&[0xF8, 0xA4, 0x32, 0xEB], 4)),
            ("z_numeric", number(&[0], 2)),
            ("n_unscaled", number(&[4, 0xD2], 2)),
            ("r_unscaled", number(&[4, 0xD2], 2)),
            ("n_text", Cell::Text("abc")),
            ("r_text", Cell::Text("")),
            ("q_text", Cell::Text("it's")),
            ("n_varchar", Cell::Text("abc")),
            ("r_varchar", Cell::Text("中文")),
            ("n_char", Cell::Text("ab")),
            ("r_char", Cell::Text("CNY")),
            ("n_bytea", Cell::Bytes(&[1, 2, 0xFF])),
            ("r_bytea", Cell::Bytes(&[1, 2, 0xFF])),
            ("n_date", Cell::Int(18_321)),
            ("r_date", Cell::Int(18_321)),
            ("n_time3", Cell::Int(45_296_789_000)),
            ("r_time", Cell::Int(45_296_789_012)),
            ("n_timestamp3", Cell::Int(millis)),
            ("r_timestamp", Cell::Int(micros)),
            ("n_timestamptz", Cell::Int(micros)),
            ("r_timestamptz3", Cell::Int(millis)),
            ("n_uuid", Cell::Text(uuid)),
            ("r_uuid", Cell::Text(uuid)),
            ("n_json", Cell::Text(json)),
            ("r_json", Cell::Text(json)),
            ("n_jsonb", Cell::Text(json)),
            ("r_jsonb", Cell::Text(json)),
            ("null_text", Cell::Null),
        ],
    )
}

fn expression_default() -> TableSchema {
    table(
        "samples.expression_default",
        &["id"],
        &[
            "id integer ! ~",
            "n_bool boolean ~",
            "r_bool boolean ! ~",
            "n_int2 smallint ~",
            "r_int2 smallint ! ~",
            "n_int4 integer ~",
            "r_int4 integer ! ~",
            "n_int8 bigint ~",
            "r_int8 bigint ! ~",
            // An identity column has no default in the catalogue.
            "g_int8 bigint !",
            "n_float4 real ~",
            "r_float4 real ! ~",
            "n_float8 double precision ~",
            "r_float8 double precision ! ~",
            "n_numeric numeric(18,4) ~",
            "r_numeric numeric(18,4) ! ~",
            "n_unscaled numeric ~",
            "r_unscaled numeric ! ~",
            "n_text text ~",
            "r_text text ! ~",
            "n_varchar character varying ~",
            "r_varchar character varying(20) ! ~",
            "n_char character(4) ~",
            "r_char character(3) ! ~",
            "n_bytea bytea ~",
            "r_bytea bytea ! ~",
            "n_date date ~",
            "r_date date ! ~",
            "n_time3 time(3) without time zone ~",
            "r_time time(6) without time zone ! ~",
            "n_timestamp3 timestamp(3) without time zone ~",
            "r_timestamp timestamp(6) without time zone ! ~",
            "n_timestamptz timestamp(6) with time zone ~",
            "r_timestamptz timestamp(6) with time zone ! ~",
            "r_timestamptz3 timestamp(3) with time zone ! ~",
            "c_timestamptz timestamp(6) with time zone ! ~",
            "n_uuid uuid ~",
            "r_uuid uuid ! ~",
            "n_json json ~",
            "r_json json ! ~",
            "n_jsonb jsonb ~",
            "r_jsonb jsonb ! ~",
        ],
    )
}

fn every_key() -> TableSchema {
    let key = [
        "r_bool",
        "r_int2",
        "r_int8",
        "r_numeric",
        "r_text",
        "r_char",
        "r_bytea",
        "r_date",
        "r_time3",
        "r_timestamp",
        "r_timestamptz",
        "r_uuid",
    ];
    table(
        "samples.every_key",
        &key,
        &[
            "r_bool boolean !",
            "r_int2 smallint !",
            "r_int8 bigint !",
            "r_numeric numeric(10,2) !",
            "r_text text !",
            "r_char character(4) !",
            "r_bytea bytea !",
            "r_date date !",
            "r_time3 time(3) without time zone !",
            "r_timestamp timestamp(6) without time zone !",
            "r_timestamptz timestamp(6) with time zone !",
            "r_uuid uuid !",
            "note text",
        ],
    )
}

#[test]
fn schemas_are_those_that_debezium_registers() {
    let mut compared = BTreeSet::new();
    for table in recorded_tables() {
        let id = table.id.to_string();
        let schemas = event_schemas(&format!("{PREFIX}.{id}"), &table).unwrap();
        let recorded_value = recorded_schema(&format!("{id}-value.avsc"));
        compare(&schemas.value, &recorded_value.unwrap(), &id);
        compared.insert(format!("{id}-value.avsc"));

        let recorded_key = recorded_schema(&format!("{id}-key.avsc"));
        assert_eq!(schemas.key.is_some(), recorded_key.is_some(), "{id}");
        if let (Some(ours), Some(recorded)) = (schemas.key, recorded_key) {
            compare(&ours, &recorded, &id);
            compared.insert(format!("{id}-key.avsc"));
        }
    }
    let recorded: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".avsc"))
        .collect();
    assert_eq!(compared, recorded, "every recorded schema is compared");
}

/// Equal as JSON, and equal as text but for how a float is spelt.
fn compare(ours: &str, recorded: &str, table: &str) {
    let ours_json: serde_json::Value = serde_json::from_str(ours).unwrap();
    let recorded_json: serde_json::Value = serde_json::from_str(recorded).unwrap();
    assert_eq!(ours_json, recorded_json, "{table}");
    assert_eq!(ours, recorded.replace("1.0E10", "10000000000.0"), "{table}");
}

struct Recorded {
    table: TableSchema,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn recorded_messages() -> Vec<Recorded> {
    let text = fs::read_to_string(folder().join("records.jsonl")).unwrap();
    let tables = recorded_tables();
    let bytes = |value: &serde_json::Value| value.as_str().map(from_hex);
    text.lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let topic = line["topic"].as_str().unwrap();
            let mut tables = tables.iter();
            let table = tables.find(|table| topic == format!("{PREFIX}.{}", table.id));
            Recorded {
                table: table.unwrap().clone(),
                key: bytes(&line["key"]),
                value: bytes(&line["value"]),
            }
        })
        .collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let nibble = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    let pairs = text.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
        .collect()
}

fn encoder(table: &TableSchema) -> EventEncoder {
    let id = SchemaId(1);
    EventEncoder::compile(PREFIX, PREFIX, table, Some(id), id).unwrap()
}

#[test]
fn recorded_events_are_read_and_written_again() {
    let mut events = 0;
    let mut with_unknown_columns = 0;
    for Recorded { table, key, value } in recorded_messages() {
        let Some(value) = value else { continue };
        let id = table.id.to_string();
        let recorded_text = recorded_schema(&format!("{id}-value.avsc")).unwrap();
        let decoder = EventDecoder::compile(&recorded_text).unwrap();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let head = decoder.decode(&value, &mut before, &mut after).unwrap();

        let schema = oracle::parse(&recorded_text);
        let recorded = oracle::read(&schema, &value);
        let outer = |name| oracle::field(&recorded, name).clone();
        let now_us = oracle::long(&outer("ts_us")).unwrap();
        let source = EventSource {
            ts_us: head.ts_us.unwrap(),
            snapshot: head.snapshot,
            tx_id: head.tx_id,
            lsn: head.lsn,
            last_commit_lsn: last_commit(&oracle::field(&outer("source"), "sequence").clone()),
            now_us,
        };
        let mut ours = Vec::new();
        let encoder = encoder(&table);
        let present = |has, row: &'_ Vec<_>| if has { Some(row.clone()) } else { None };
        encoder
            .event(
                head.op,
                present(head.has_before, &as_logged(&table, head.op, &before)).as_deref(),
                present(head.has_after, &after).as_deref(),
                &source,
                &mut ours,
            )
            .unwrap();
        let ours = oracle::read(&schema, &ours);
        assert_eq!(without_ours(ours), without_ours(recorded), "{id}");

        if let Some(key) = key {
            let row = if head.has_after { &after } else { &before };
            let mut our_key = Vec::new();
            encoder.key(row, &mut our_key).unwrap();
            assert_eq!(our_key[5..], key[5..], "{id}");
            let key_schema = recorded_schema(&format!("{id}-key.avsc")).unwrap();
            let (mut cells, mut key_row) = (Vec::new(), Vec::new());
            let decoder = RecordDecoder::compile(&key_schema).unwrap();
            decoder.decode(&key, &mut cells).unwrap();
            encoder.key_cells(&key, &mut key_row).unwrap();
            let in_key_order: Vec<_> = table.key.iter().map(|index| key_row[*index]).collect();
            assert!(cells == in_key_order, "{id}");
        }
        events += 1;
        with_unknown_columns += usize::from(as_logged(&table, head.op, &before) != before);
    }
    assert!(events > 30, "{events}");
    assert!(with_unknown_columns >= 3, "{with_unknown_columns}");
}

fn last_commit(sequence: &Value) -> Option<Lsn> {
    let Value::Union(_, text) = sequence else {
        panic!("sequence is a union")
    };
    let Value::String(text) = &**text else {
        panic!("sequence is text")
    };
    let [last, _]: [Option<String>; 2] = serde_json::from_str(text).unwrap();
    last.map(|last| Lsn(last.parse().unwrap()))
}

/// Takes out what legitimately differs: `source.version`, and nanoseconds of the connector's clock.
fn without_ours(event: Value) -> Value {
    let Value::Record(fields) = event else {
        panic!("an event is a record")
    };
    let fields = fields.into_iter().map(|(name, value)| match name.as_str() {
        "source" => {
            let Value::Record(fields) = value else {
                panic!("source is a record")
            };
            let fields = fields.into_iter().filter(|(name, _)| name != "version");
            (name, Value::Record(fields.collect()))
        }
        "ts_ns" => {
            let nanos = oracle::long(&value).unwrap();
            (name, Value::Long(nanos / 1000))
        }
        _ => (name, value),
    });
    Value::Record(fields.collect())
}

/// Under the default replica identity a delete knows its key only, and a plan is given NULL for what
/// cannot be NULL. (Where NULL is allowed but there is a default, Debezium writes the default, so it
/// loses a NULL, in `after` too; the plans write the NULL. Here they are given what was recorded.)
fn as_logged<'a>(table: &TableSchema, op: Op, before: &[Cell<'a>]) -> Vec<Cell<'a>> {
    let is_full = table.key.is_empty() || table.id.table == "full_identity";
    let is_unknown = |index| {
        op == Op::Delete
            && !is_full
            && !table.key.contains(&index)
            && !table.columns[index].nullable
    };
    let cells = before.iter().enumerate();
    cells
        .map(|(index, cell)| if is_unknown(index) { Cell::Null } else { *cell })
        .collect()
}

#[test]
fn values_that_the_source_did_not_send_are_read_as_unavailable() {
    let messages = recorded_messages();
    let mut toast = messages
        .iter()
        .filter(|message| message.table.id.table == "toast");
    let update = toast.next_back().unwrap().value.as_ref().unwrap();
    let schema = recorded_schema("samples.toast-value.avsc").unwrap();
    let decoder = EventDecoder::compile(&schema).unwrap();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let head = decoder.decode(update, &mut before, &mut after).unwrap();
    assert_eq!(head.op, Op::Update);
    assert!(after[..2] == [Cell::Int(1), Cell::Int(2)]);
    let unavailable = |cell: &Cell<'_>| matches!(cell, Cell::Unavailable);
    assert!(after[2..].iter().all(unavailable));
}
