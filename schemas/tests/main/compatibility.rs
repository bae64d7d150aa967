//! Compatibility, with apache-avro's own check as oracle.

use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use hutong_schemas::compatibility::{Level, canonical, check};
use hutong_schemas::envelope::event_schemas;
use hutong_schemas::table::TableSchema;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::oracle;
use crate::property::for_seconds;
use crate::tables::{self, table};

fn value(table: &TableSchema) -> String {
    let topic = format!("p.{}", table.id);
    let schemas = event_schemas(&topic, table);
    schemas.expect("the names are Avro names").value
}

fn check_columns(level: Level, old: &[&str], new: &[&str], expected: &[&str]) {
    let old = value(&table("s.t", &[], old));
    let new = value(&table("s.t", &[], new));
    let messages = check(level, &new, &[&old]).unwrap();
    assert_eq!(messages, expected);
}

const NEW_CANNOT: &str = "the new schema cannot read data of an earlier one: ";
const OLD_CANNOT: &str = "an earlier schema cannot read data of the new one: ";

#[test]
fn an_added_nullable_column_is_fully_compatible() {
    let old = ["a integer !", "n numeric"];
    let new = ["a integer !", "n numeric", "b text", "m numeric"];
    check_columns(Level::Full, &old, &new, &[]);
}

/// The record of `numeric` is then written out at another place.
#[test]
fn a_dropped_nullable_column_is_fully_compatible() {
    let old = ["a integer !", "n numeric", "m numeric"];
    let new = ["a integer !", "m numeric"];
    check_columns(Level::Full, &old, &new, &[]);
}

#[test]
fn an_added_required_column_is_named() {
    let message = "before.b: the field is new to the reader and has no default";
    let expected = format!("{NEW_CANNOT}{message}");
    let (old, new) = (["a integer !"], ["a integer !", "b text !"]);
    check_columns(Level::Backward, &old, &new, &[&expected]);
    check_columns(Level::Forward, &old, &new, &[]);
    let expected = format!("{OLD_CANNOT}{message}");
    check_columns(Level::Forward, &new, &old, &[&expected]);
}

#[test]
fn a_changed_type_is_named() {
    let expected = format!("{NEW_CANNOT}before.a: long is written, int is read");
    check_columns(Level::Backward, &["a bigint"], &["a integer"], &[&expected]);
    check_columns(Level::Backward, &["a integer"], &["a bigint"], &[]);
    let expected = format!("{NEW_CANNOT}before.a: string is written, int is read");
    check_columns(Level::Backward, &["a text"], &["a integer"], &[&expected]);
}

#[test]
fn a_column_that_may_no_longer_be_null_is_named() {
    let expected = format!("{NEW_CANNOT}before.a: null is written, int is read");
    check_columns(
        Level::Backward,
        &["a integer"],
        &["a integer !"],
        &[&expected],
    );
    check_columns(Level::Backward, &["a integer !"], &["a integer"], &[]);
}

#[test]
fn another_scale_is_named() {
    let expected = format!(
        "{NEW_CANNOT}before.a: the decimals differ in scale, or only one of both is a decimal"
    );
    check_columns(
        Level::Backward,
        &["a numeric(10,2)"],
        &["a numeric(10,3)"],
        &[&expected],
    );
    check_columns(Level::Full, &["a numeric(10,2)"], &["a numeric(12,2)"], &[]);
}

#[test]
fn levels_choose_which_schemas_are_compared() {
    let of = |columns: &[&str]| value(&table("s.t", &[], columns));
    let oldest = of(&["a text"]);
    let latest = of(&["a integer", "b text"]);
    let new = of(&["a bigint", "b text"]);
    let existing = [oldest.as_str(), latest.as_str()];
    let count = |level| check(level, &new, &existing).unwrap().len();
    assert_eq!(count(Level::None), 0);
    assert_eq!(count(Level::Backward), 0);
    assert_eq!(count(Level::BackwardTransitive), 1);
    assert_eq!(count(Level::Forward), 1);
    assert_eq!(count(Level::ForwardTransitive), 2);
    assert_eq!(count(Level::Full), 1);
    assert_eq!(count(Level::FullTransitive), 3);
    assert!(check(Level::FullTransitive, &new, &[]).unwrap().is_empty());
    assert!(check(Level::Full, "{", &existing).is_err());
}

#[test]
fn level_names_are_the_registrys() {
    for name in [
        "NONE",
        "BACKWARD",
        "BACKWARD_TRANSITIVE",
        "FORWARD",
        "FORWARD_TRANSITIVE",
        "FULL",
        "FULL_TRANSITIVE",
    ] {
        assert_eq!(name.parse::<Level>().unwrap().to_string(), name);
    }
    assert!("backward".parse::<Level>().is_err());
}

#[test]
fn equal_schemas_have_one_canonical_text() {
    for (left, right) in [
        (r#""int""#, r#"{ "type" : "int" }"#),
        (
            r#"{"type":"record","name":"R","namespace":"a.b","fields":[{"name":"f","type":{"type":"string"}}]}"#,
            r#"{"fields":[{"type":"string","name":"f"}],"name":"a.b.R","type":"record"}"#,
        ),
        (
            r#"{"type":"record","name":"a.R","fields":[{"name":"f","type":["null",{"type":"record","name":"S","fields":[]}]},{"name":"g","type":"S"}]}"#,
            r#"{"type":"record","name":"a.R","fields":[{"name":"f","type":["null",{"type":"record","name":"a.S","fields":[]}]},{"name":"g","type":"a.S"}]}"#,
        ),
    ] {
        assert_eq!(canonical(left).unwrap(), canonical(right).unwrap());
    }
    for (left, right) in [
        (r#"{"type":"int","x":1}"#, r#"{"type":"int"}"#),
        (r#"["null","int"]"#, r#"["int","null"]"#),
    ] {
        assert_ne!(canonical(left).unwrap(), canonical(right).unwrap());
    }
    assert!(canonical("{").is_err());
}

#[test]
fn a_canonical_text_is_a_schema_and_its_own_canonical_text() {
    for table in [tables::every_type(), tables::ent_base()] {
        let text = canonical(&value(&table)).unwrap();
        assert_eq!(canonical(&text).unwrap(), text);
        assert_eq!(
            check(Level::Full, &text, &[&value(&table)]).unwrap().len(),
            0
        );
    }
}

/// A random field: name, type, whether it has a default.
type Field = (&'static str, &'static str);

fn record() -> impl Strategy<Value = String> {
    let types = vec![
        r#""type":"int""#,
        r#""type":"long""#,
        r#""type":"float""#,
        r#""type":"double""#,
        r#""type":"string""#,
        r#""type":"bytes""#,
        r#""type":"boolean""#,
        r#""type":["null","int"],"default":null"#,
        r#""type":["null","long"],"default":null"#,
        r#""type":["int","null"],"default":1"#,
        r#""type":["null","string"],"default":null"#,
        r#""type":"int","default":1"#,
        r#""type":{"type":"array","items":"int"}"#,
        r#""type":{"type":"array","items":"long"}"#,
        r#""type":{"type":"map","values":"string"}"#,
        r#""type":{"type":"enum","name":"E","symbols":["A","B"]}"#,
        r#""type":{"type":"enum","name":"E","symbols":["A","B","C"]}"#,
        r#""type":{"type":"fixed","name":"F","size":4}"#,
        r#""type":{"type":"fixed","name":"F","size":5}"#,
        r#""type":{"type":"record","name":"I","fields":[{"name":"x","type":"int"}]}"#,
        r#""type":{"type":"record","name":"I","fields":[{"name":"x","type":"long"},{"name":"y","type":"int","default":2}]}"#,
        r#""type":{"type":"record","name":"I","fields":[{"name":"y","type":"int"}]}"#,
    ];
    let field = (select(vec!["a", "b", "c"]), select(types));
    vec(field, 0..4).prop_map(|fields: Vec<Field>| {
        let mut names = std::collections::BTreeSet::new();
        let mut kinds = std::collections::BTreeSet::new();
        let fields: Vec<String> = fields
            .into_iter()
            .filter(|(name, _)| names.insert(*name))
            .filter(|(_, field_type)| {
                let named = ["\"E\"", "\"F\"", "\"I\""];
                let named = named.into_iter().find(|name| field_type.contains(name));
                named.is_none_or(|name| kinds.insert(name))
            })
            .map(|(name, field_type)| format!(r#"{{"name":"{name}",{field_type}}}"#))
            .collect();
        let fields = fields.join(",");
        format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#)
    })
}

#[test]
fn the_answer_is_that_of_apache_avro() {
    for_seconds(3, &(record(), record()), |(writer, reader)| {
        let ours = check(Level::Backward, &reader, &[&writer]).unwrap();
        let theirs =
            SchemaCompatibility::can_read(&oracle::parse(&writer), &oracle::parse(&reader));
        let is_readable = matches!(theirs, Ok(Compatibility::Full));
        prop_assert_eq!(ours.is_empty(), is_readable, "{:?} {:?}", ours, theirs);
        Ok(())
    });
}
