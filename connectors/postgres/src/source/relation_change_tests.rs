use std::collections::BTreeMap;

use hutong_connectors_core::postgres_source::Config;

use super::super::catalogue::{Kind, ReplicaIdentity};
use super::*;

const INT: u32 = 23;
const TEXT: u32 = 25;

fn config(more: &[(&str, &str)]) -> Config {
    let mut properties: BTreeMap<String, String> = [
        ("connector.class", hutong_connectors_core::SOURCE_CLASS),
        ("database.hostname", "h"),
        ("database.user", "u"),
        ("database.dbname", "d"),
        ("topic.prefix", "p"),
        ("plugin.name", "pgoutput"),
    ]
    .into_iter()
    .chain(more.iter().copied())
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    properties.insert("slot.name".to_owned(), "s".to_owned());
    Config::parse("test", &properties).expect("the properties are right")
}

/// Columns by number, name and type; the first one is the key.
fn table(storage: &str, highest: i16, columns: &[(i16, &str, u32)]) -> Table {
    Table {
        id: TableId {
            schema: "public".to_owned(),
            table: "t".to_owned(),
        },
        oid: 7,
        kind: Kind::Ordinary,
        replica_identity: ReplicaIdentity::Default,
        rows_estimate: None,
        may_use_schema: true,
        may_publish: true,
        columns: columns
            .iter()
            .map(|(attnum, name, type_oid)| CatalogueColumn {
                attnum: *attnum,
                name: (*name).to_owned(),
                type_oid: *type_oid,
                type_modifier: -1,
                type_text: "x".to_owned(),
                is_domain: false,
                not_null: *attnum == 1,
                generated: false,
                default_text: None,
                fill: None,
                may_select: true,
            })
            .collect(),
        primary_key: vec![1],
        primary_key_deferrable: false,
        identity_index: Vec::new(),
        storage: Some(storage.to_owned()),
        highest,
        types: std::sync::Arc::default(),
    }
}

fn relation(columns: &[(&str, u32)]) -> Relation {
    Relation {
        oid: 7,
        schema: "public".to_owned(),
        table: "t".to_owned(),
        replica_identity: b'd',
        columns: columns
            .iter()
            .enumerate()
            .map(|(index, (name, type_oid))| RelationColumn {
                is_key: index == 0,
                name: (*name).to_owned(),
                type_oid: *type_oid,
                type_modifier: -1,
            })
            .collect(),
    }
}

/// Follows from the columns `before` over `here` while the catalogue says `now`.
fn step(before: &Table, here: &[(&str, u32)], now: &Table) -> Result<Followed, String> {
    let config = config(&[]);
    follow(&known(before, &config), &relation(here), Some(now), &config)
        .map_err(|error| error.to_string())
}

fn refused(outcome: Result<Followed, String>, message: &str) {
    let error = outcome.expect_err(message);
    assert!(error.contains(message), "{error}");
}

#[test]
fn what_happens_further_on_is_not_taken_for_what_is_here() {
    let before = table("f", 3, &[(1, "id", INT), (2, "a", INT), (3, "b", TEXT)]);
    let here = [("id", INT), ("a", INT), ("b", TEXT)];
    let unchanged = known(&before, &config(&[]));
    for now in [
        table("f", 3, &[(1, "id", INT), (2, "z", INT), (3, "b", TEXT)]),
        table("g", 3, &[(1, "id", INT), (2, "a", TEXT), (3, "b", TEXT)]),
        table(
            "g",
            4,
            &[(1, "id", INT), (2, "a", INT), (3, "b", TEXT), (4, "w", INT)],
        ),
    ] {
        let followed = step(&before, &here, &now).unwrap();
        assert_eq!(followed.known, unchanged);
        assert_eq!(followed.captured, [true, true, true]);
    }
    // A column that is dropped further on may have been nullable before that.
    let dropped = table("f", 3, &[(1, "id", INT), (3, "b", TEXT)]);
    assert_eq!(step(&before, &here, &dropped).unwrap().known, unchanged);
    let other_key = Table {
        primary_key: vec![1, 2],
        ..before.clone()
    };
    assert_eq!(step(&before, &here, &other_key).unwrap().known, unchanged);
}

#[test]
fn the_files_of_the_rows_are_noted_only_where_the_catalogue_has_not_gone_on() {
    let before = table("f", 2, &[(1, "id", INT), (2, "a", INT)]);
    let here = [("id", INT), ("a", INT)];
    let emptied = table("g", 2, &[(1, "id", INT), (2, "a", INT)]);
    let followed = step(&before, &here, &emptied).unwrap();
    assert_eq!(followed.known.storage.as_deref(), Some("g"));
    // Written anew together with a column that comes later: that must still be seen then.
    let wider = table("g", 3, &[(1, "id", INT), (2, "a", INT), (3, "w", INT)]);
    let followed = step(&before, &here, &wider).unwrap();
    assert_eq!(followed.known.storage.as_deref(), Some("f"));
    let config = config(&[]);
    let wide = relation(&[("id", INT), ("a", INT), ("w", INT)]);
    let error = follow(&followed.known, &wide, Some(&wider), &config).unwrap_err();
    assert!(error.to_string().contains("written anew"), "{error}");
}

#[test]
fn a_name_that_two_columns_have_had_stops_the_table() {
    let before = table("f", 2, &[(1, "id", INT), (2, "a", INT)]);
    let here = [("id", INT), ("a", INT)];
    refused(
        step(
            &before,
            &here,
            &table("f", 3, &[(1, "id", INT), (3, "a", INT)]),
        ),
        "dropped and created again",
    );
    refused(
        step(
            &before,
            &here,
            &table("f", 3, &[(1, "id", INT), (2, "b", INT), (3, "a", INT)]),
        ),
        "renamed to \"b\"",
    );
    // The column of the name here may be one that came and went.
    refused(
        step(&before, &here, &table("f", 3, &[(1, "id", INT)])),
        "renamed, or dropped and created again",
    );
    // Two columns that take each other's names.
    let two = table("f", 3, &[(1, "id", INT), (2, "a", INT), (3, "b", INT)]);
    let swapped = table("f", 3, &[(1, "id", INT), (2, "b", INT), (3, "a", INT)]);
    refused(
        step(&two, &[("id", INT), ("b", INT), ("a", INT)], &swapped),
        "renamed",
    );
}

#[test]
fn a_column_that_came_and_went_is_not_captured() {
    let before = table("f", 2, &[(1, "id", INT), (2, "a", INT)]);
    let gone = table("f", 3, &[(1, "id", INT), (2, "a", INT)]);
    let followed = step(&before, &[("id", INT), ("a", INT), ("x", INT)], &gone).unwrap();
    assert_eq!(followed.captured, [true, true, false]);
    assert_eq!(followed.known.highest, 3);
    // It may as well go by another name.
    let renamed = table("f", 3, &[(1, "id", INT), (2, "a", INT), (3, "y", INT)]);
    refused(
        step(&before, &[("id", INT), ("a", INT), ("x", INT)], &renamed),
        "perhaps to \"y\"",
    );
    // Or an added one may be the second of its name.
    let second = table("f", 4, &[(1, "id", INT), (2, "a", INT), (4, "x", INT)]);
    refused(
        step(&before, &[("id", INT), ("a", INT), ("x", INT)], &second),
        "may have had it",
    );
}

#[test]
fn a_key_that_changes_here_stops_the_table() {
    let before = table("f", 2, &[(1, "id", INT), (2, "a", INT)]);
    let now = Table {
        primary_key: vec![1, 2],
        ..before.clone()
    };
    let config = config(&[]);
    let mut here = relation(&[("id", INT), ("a", INT)]);
    here.columns[1].is_key = true;
    let error = follow(&known(&before, &config), &here, Some(&now), &config).unwrap_err();
    assert!(error.to_string().contains("primary key changed"), "{error}");
    // Under FULL all columns are marked, so nothing tells which key holds here.
    let mut here = relation(&[("id", INT), ("a", INT)]);
    here.replica_identity = b'f';
    assert!(follow(&known(&before, &config), &here, Some(&now), &config).is_err());
}

#[test]
fn a_column_that_is_not_captured_may_change_as_it_likes() {
    let config = config(&[("column.exclude.list", "public\\.t\\.x")]);
    let before = table("f", 3, &[(1, "id", INT), (2, "x", INT), (3, "a", INT)]);
    let here = relation(&[("id", INT), ("x", TEXT), ("a", INT)]);
    let now = table("g", 3, &[(1, "id", INT), (2, "x", TEXT), (3, "a", INT)]);
    let followed = follow(&known(&before, &config), &here, Some(&now), &config).unwrap();
    assert_eq!(followed.captured, [true, false, true]);
    // Under a name that is captured it would be one that the topic's records lack.
    let here = relation(&[("id", INT), ("y", TEXT), ("a", INT)]);
    let now = table("f", 3, &[(1, "id", INT), (2, "y", TEXT), (3, "a", INT)]);
    let error = follow(&known(&before, &config), &here, Some(&now), &config).unwrap_err();
    assert!(
        error.to_string().contains("was not captured before"),
        "{error}"
    );
}

#[test]
fn a_constant_is_written_as_the_schema_wants_it() {
    let text = constant(SqlType::Text, "it's").unwrap();
    assert_eq!(text.0, serde_json::json!("it's"));
    let number = constant(SqlType::Int4, "5").unwrap();
    assert_eq!(number.0, serde_json::json!(5));
    assert!(constant(SqlType::Bytea, "\\x00").is_none());
}

#[test]
fn a_table_that_is_prepared_again_allows_null_wherever_its_topic_does() {
    let before = table("f", 2, &[(1, "id", INT), (2, "a", INT)]);
    let mut now = table(
        "f",
        4,
        &[(1, "id", INT), (2, "a", INT), (3, "b", INT), (4, "c", INT)],
    );
    let mut here = step(&before, &[("id", INT), ("a", INT), ("b", INT)], &now)
        .unwrap()
        .known;
    here.columns[1].nullable = false;
    for column in &mut now.columns {
        column.not_null = true;
    }
    let prepared = as_nullable_as(&here, &now);
    let not_null: Vec<bool> = prepared.columns.iter().map(|it| it.not_null).collect();
    // The key and what never was nullable; not what the stream has added, or will.
    assert_eq!(not_null, [true, true, false, false]);
}
