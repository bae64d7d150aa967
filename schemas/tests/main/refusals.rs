//! What cannot be written is refused, says what and where, and leaves the buffer as it was.

use hutong_schemas::Error;
use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, POSITIVE_INFINITY};
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, SnapshotMark, event_schemas};
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{RecordDecoder, RecordEncoder, ViewField, view_value_schema};
use hutong_schemas::table::{DefaultValue, TableSchema};

use crate::tables::{number, table};

const SOURCE: EventSource = EventSource {
    ts_us: 0,
    snapshot: SnapshotMark::False,
    tx_id: None,
    lsn: None,
    last_commit_lsn: None,
    now_us: 0,
};

fn write(table: &TableSchema, row: &[Cell<'_>]) -> Result<(), Error> {
    let id = SchemaId(1);
    let encoder = EventEncoder::compile("p", "db", table, Some(id), id)?;
    let mut out = vec![1, 2, 3];
    let written = encoder.event(Op::Create, None, Some(row), &SOURCE, &mut out);
    if written.is_err() {
        assert_eq!(out, [1, 2, 3], "the buffer is as it was");
    }
    written
}

fn check(column: &str, cell: Cell<'_>, message: &str) {
    let error = write(&table("s.t", &[], &[column]), &[cell]).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn values_that_do_not_fit_their_column_are_refused() {
    let does_not_fit =
        |sql_type: &str| format!("the value of column \"a\" does not fit its type {sql_type}");
    for (sql_type, cell) in [
        ("smallint", Cell::Int(32_768)),
        ("integer", Cell::Int(-2_147_483_649)),
        ("boolean", Cell::Int(1)),
        ("text", Cell::Bytes(b"a")),
        ("bytea", Cell::Text("a")),
        ("real", Cell::Float8(1.0)),
        ("numeric(18,4)", number(&[1], 3)),
        ("numeric(18,4)", number(&[], 4)),
        ("numeric", number(&[], 0)),
        ("date", Cell::Int(i64::from(i32::MAX))),
        ("date", Cell::Int(1 << 40)),
        ("time(3) without time zone", Cell::Int(1)),
        ("time(6) without time zone", Cell::Int(-1)),
        ("time(6) without time zone", Cell::Int(86_400_000_001)),
        ("timestamp(3) without time zone", Cell::Int(1)),
        ("timestamp(0) with time zone", Cell::Int(1_000)),
        ("bigint", Cell::Unavailable),
        ("date", Cell::Unavailable),
    ] {
        check(&format!("a {sql_type} !"), cell, &does_not_fit(sql_type));
    }
}

#[test]
fn the_ends_of_each_range_fit() {
    for (sql_type, cells) in [
        ("smallint", [Cell::Int(-32_768), Cell::Int(32_767)]),
        (
            "time(6) without time zone",
            [Cell::Int(0), Cell::Int(86_400_000_000)],
        ),
        (
            "date",
            [Cell::Int(POSITIVE_INFINITY), Cell::Int(NEGATIVE_INFINITY)],
        ),
        ("numeric(18,4)", [number(&[0], 4), Cell::Unavailable]),
        ("text", [Cell::Text(""), Cell::Unavailable]),
    ] {
        for cell in cells {
            let table = table("s.t", &[], &[&format!("a {sql_type}")]);
            assert!(write(&table, &[cell]).is_ok(), "{sql_type}");
            assert!(write(&table, &[Cell::Null]).is_ok(), "{sql_type}");
        }
    }
}

#[test]
fn null_in_a_column_that_cannot_be_null_is_refused() {
    let table = table("s.t", &[], &["a integer !"]);
    let error = write(&table, &[Cell::Null]).unwrap_err();
    assert_eq!(error.class(), Class::Definite);
    assert_eq!(
        error.to_string(),
        "column \"a\" is NULL but its schema says NOT NULL"
    );
    assert!(error.hint().unwrap().contains("must be read again"));
}

#[test]
fn a_row_of_another_length_is_refused() {
    let table = table("s.t", &[], &["a integer !", "b text"]);
    let error = write(&table, &[Cell::Int(1)]).unwrap_err();
    assert_eq!(error.to_string(), "a row has 1 cells, its schema 2 columns");
    assert_eq!(error.class(), Class::Fatal);
}

#[test]
fn a_table_without_a_key_has_no_message_keys() {
    let table = table("s.t", &[], &["a integer !"]);
    assert_eq!(event_schemas("p.s.t", &table).unwrap().key, None);
    let encoder = EventEncoder::compile("p", "db", &table, None, SchemaId(1)).unwrap();
    let mut out = Vec::new();
    let error = encoder.key(&[Cell::Int(1)], &mut out).unwrap_err();
    assert_eq!(error.to_string(), "table s.t has no key");
    assert!(encoder.key_cells(&[0; 6], &mut Vec::new()).is_err());
}

#[test]
fn a_key_is_never_unknown() {
    let table = table("s.t", &["a"], &["a text !"]);
    let id = SchemaId(1);
    let encoder = EventEncoder::compile("p", "db", &table, Some(id), id).unwrap();
    let mut out = Vec::new();
    let error = encoder.key(&[Cell::Unavailable], &mut out).unwrap_err();
    assert_eq!(error.to_string(), "the value of column \"a\" is not known");
    assert!(out.is_empty());
}

#[test]
fn names_that_avro_does_not_allow_propose_the_adjustment() {
    for (topic, id, column, what, name, property) in [
        ("p.s.t", "s.t", "名称 text", "column", "名称", "field"),
        ("p.s.t", "s.t", "a-b text", "column", "a-b", "field"),
        ("p.s.t", "s.t", "1a text", "column", "1a", "field"),
        ("p.s.表", "s.表", "a text", "table", "表", "schema"),
        ("p.s-x.t", "s-x.t", "a text", "schema", "s-x", "schema"),
        ("p-q.s.t", "s.t", "a text", "topic prefix", "p-q", "schema"),
        ("p..s.t", "s.t", "a text", "topic prefix", "", "schema"),
    ] {
        let error = event_schemas(topic, &table(id, &[], &[column])).unwrap_err();
        let expected = format!("{what} \"{name}\" is not an Avro name");
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.class(), Class::Definite);
        let hint = format!(
            "rename the {what}, or set {property}.name.adjustment.mode to avro or avro_unicode"
        );
        assert_eq!(error.hint(), Some(hint));
    }
}

#[test]
fn a_default_of_another_type_is_refused() {
    let mut table = table("s.t", &[], &["a integer !"]);
    table.columns[0].default = Some(DefaultValue("x".into()));
    let id = SchemaId(1);
    let error = EventEncoder::compile("p", "db", &table, None, id).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot use the schema: the default of column \"a\" is not of type integer"
    );
}

#[test]
fn fields_that_we_do_not_carry_are_named() {
    let schema = r#"{"type":"record","name":"Value","fields":[
        {"name":"id","type":"int"},
        {"name":"place","type":["null",{"type":"string","connect.name":"io.debezium.data.Isbn"}]}]}"#;
    let error = RecordDecoder::compile(schema).unwrap_err();
    assert_eq!(
        error.to_string(),
        "field \"place\" has a type that is not supported: \
         [\"null\",{\"connect.name\":\"io.debezium.data.Isbn\",\"type\":\"string\"}]"
    );
}

#[test]
fn a_marked_type_that_contradicts_its_field_is_refused() {
    let schema = r#"{"type":"record","name":"Value","fields":[
        {"name":"a","type":{"type":"int","hutong.sql.type":"bigint"}}]}"#;
    assert!(RecordDecoder::compile(schema).is_err());
}

#[test]
fn numbers_of_several_types_in_one_view_keep_theirs() {
    let types = ["numeric(5,-2)", "numeric", "numeric(7,-1)", "numeric(18,4)"];
    let fields: Vec<ViewField> = types
        .iter()
        .enumerate()
        .map(|(index, sql_type)| ViewField {
            name: format!("c{index}"),
            sql_type: sql_type.parse().unwrap(),
            nullable: index % 2 == 0,
        })
        .collect();
    let decoder = RecordDecoder::compile(&view_value_schema(&fields)).unwrap();
    let told: Vec<String> = decoder
        .fields()
        .iter()
        .map(|field| field.sql_type.to_string())
        .collect();
    assert_eq!(told, types);
}

#[test]
fn what_is_no_envelope_is_refused() {
    let key = event_schemas("p.s.t", &table("s.t", &["a"], &["a integer !"]));
    let key = key.unwrap().key.unwrap();
    let error = EventDecoder::compile(&key).unwrap_err();
    let expected = "cannot use the schema: it is not an envelope: before, after or op is missing";
    assert_eq!(error.to_string(), expected);
    assert!(EventDecoder::compile("\"string\"").is_err());
    assert!(EventDecoder::compile("nonsense").is_err());
}

#[test]
fn leftover_bytes_are_refused() {
    let schema = r#"{"type":"record","name":"K","fields":[{"name":"a","type":"int"}]}"#;
    let encoder = RecordEncoder::compile(schema, SchemaId(1)).unwrap();
    let decoder = RecordDecoder::compile(schema).unwrap();
    let mut message = Vec::new();
    encoder.encode(&[Cell::Int(1)], &mut message).unwrap();
    message.push(0);
    let error = decoder.decode(&message, &mut Vec::new()).unwrap_err();
    let expected = "malformed message: bytes are left over at the end";
    assert_eq!(error.to_string(), expected);
}

/// In a view, and in a key, text that happens to be the placeholder is text; in a row that was cut out
/// of an event it is a value that is not known.
#[test]
fn the_placeholder_means_unknown_in_events_only() {
    let schema = r#"{"type":"record","name":"K","fields":[{"name":"a","type":"string"}]}"#;
    let encoder = RecordEncoder::compile(schema, SchemaId(1)).unwrap();
    let decoder = RecordDecoder::compile(schema).unwrap();
    let text = [Cell::Text("__debezium_unavailable_value")];
    let mut message = Vec::new();
    encoder.encode(&text, &mut message).unwrap();
    let mut row = Vec::new();
    decoder.decode(&message, &mut row).unwrap();
    assert!(row == text);
    decoder.decode_image(&message, &mut row).unwrap();
    assert!(matches!(row[..], [Cell::Unavailable]));
}
