//! Changes of a live view: which go in place, which need another generation, and what is withdrawn.

use hutong_policies::change::{Change, compare};
use hutong_policies::{ViewDocument, ViewState, ViewTask, compile};
use hutong_schemas::position::SchemaId;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, TableId, TableSchema};
use serde_json::{Value, json};

fn table() -> TableSchema {
    let column = |attnum: i16, name: &str, sql_type, nullable| Column {
        name: name.to_owned(),
        attnum,
        sql_type,
        nullable,
        default: None,
        has_default_expression: false,
        labels: Vec::new(),
    };
    TableSchema {
        id: TableId {
            schema: "public".into(),
            table: "ent_base".into(),
        },
        oid: 1,
        columns: vec![
            column(1, "id", SqlType::Int8, false),
            column(2, "name", SqlType::Text, false),
            column(3, "phone", SqlType::Text, true),
            column(4, "amount", SqlType::Int4, false),
        ],
        key: vec![0],
    }
}

fn document(columns: &Value, condition: Option<&str>) -> ViewDocument {
    let mut document = json!({
        "name": "s03", "share": "s03", "subscriber": "qts",
        "source": { "topic": "aic.public.ent_base" }, "columns": columns,
    });
    if let Some(condition) = condition {
        document["where"] = condition.into();
    }
    serde_json::from_value(document).unwrap()
}

fn task(document: ViewDocument, table: TableSchema) -> ViewTask {
    let plan = compile(&document, &table).unwrap();
    ViewTask {
        name: document.name.clone(),
        version: 1,
        generation: 1,
        topic: "hutong.view.s03.g1".into(),
        topic_id: "id".into(),
        key_schema_id: SchemaId(1),
        value_schema_id: SchemaId(2),
        key_schema: plan.key_schema(),
        value_schema: plan.value_schema(),
        secret_fingerprint: None,
        table_schema_id: None,
        needs_secret: plan.needs_secret(),
        share_key_version: 1,
        state: ViewState::Live,
        valid_until_ms: None,
        document,
        table,
    }
}

fn change_at(before: &ViewTask, columns: &Value, table: &TableSchema, key_version: u32) -> Change {
    let document = document(columns, None);
    let plan = compile(&document, table).unwrap();
    compare(before, &document, table, &plan, key_version).unwrap()
}

/// Columns as `name` or `name mask`.
fn columns(texts: &[&str]) -> Value {
    let column = |text: &&str| match text.split_once(' ') {
        Some((name, mask)) => json!({ "name": name, "mask": mask }),
        None => json!({ "name": text }),
    };
    texts.iter().map(column).collect()
}

/// What a change comes to: `in place`, or what is withdrawn and whether keys are others.
fn outcome(change: &Change) -> String {
    match (change.needs_generation, change.rekeyed) {
        (false, false) => "in place".to_owned(),
        (true, false) => format!("generation, without {}", change.withdrawn().join(" ")),
        (true, true) => format!("keys, without {}", change.withdrawn().join(" ")),
        (false, true) => panic!("other keys in the same generation"),
    }
}

#[test]
fn a_change_goes_in_place_exactly_where_nothing_that_was_delivered_is_withdrawn() {
    let table = table();
    for (before, after, expected) in [
        (&["id", "name"][..], &["id", "name"][..], "in place"),
        (&["id", "name"], &["id", "name", "amount"], "in place"),
        (&["id", "name"], &["name", "id"], "in place"),
        (
            &["id", "name", "phone"],
            &["id", "name"],
            "generation, without phone",
        ),
        (
            &["id", "phone"],
            &["id", "phone SHOW_LAST 4"],
            "generation, without phone",
        ),
        (&["id", "phone SHOW_LAST 4"], &["id", "phone"], "in place"),
        (
            &["id", "phone NULL"],
            &["id", "phone SHOW_LAST 4"],
            "in place",
        ),
        (&["id", "phone NULL"], &["id", "phone"], "in place"),
        (&["id", "phone HASH"], &["id", "phone"], "in place"),
        (
            &["id", "phone SHOW_FIRST 4"],
            &["id", "phone SHOW_FIRST 6"],
            "generation, without phone",
        ),
        (
            &["id", "phone SHOW_LAST 4"],
            &["id", "phone SHOW_FIRST 4"],
            "generation, without phone",
        ),
        // Text cannot become a number in the same topic.
        (
            &["id", "amount BAND"],
            &["id", "amount"],
            "generation, without ",
        ),
        (&["id", "name"], &["name"], "keys, without id"),
        (&["name"], &["id", "name"], "keys, without "),
        (
            &["id SHOW_LAST 1", "name"],
            &["id", "name"],
            "keys, without ",
        ),
        (
            &["id", "name"],
            &["id SHOW_LAST 1", "name"],
            "keys, without id",
        ),
    ] {
        let before_task = task(document(&columns(before), None), table.clone());
        let change = change_at(&before_task, &columns(after), &table, 1);
        assert_eq!(outcome(&change), expected, "{before:?} to {after:?}");
        assert_eq!(change.is_any, before != after, "{before:?} to {after:?}");
    }
}

#[test]
fn columns_added_within_a_generation_may_be_null_and_stay_so() {
    let table = table();
    let first = task(document(&columns(&["id", "name"]), None), table.clone());
    let change = change_at(&first, &columns(&["id", "name", "amount"]), &table, 1);
    let schema: Value = serde_json::from_str(&change.value_schema).unwrap();
    let field = |name: &str| {
        let fields = schema["fields"].as_array().unwrap();
        fields
            .iter()
            .find(|field| field["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(field("amount")["type"][0], "null");
    assert_eq!(field("amount")["default"], Value::Null);
    assert!(field("amount").as_object().unwrap().contains_key("default"));
    assert!(!field("id")["type"].is_array());

    // And the next version keeps it, although the table says NOT NULL.
    let mut second = task(
        document(&columns(&["id", "name", "amount"]), None),
        table.clone(),
    );
    second.value_schema = change.value_schema.clone();
    let next = change_at(
        &second,
        &columns(&["id", "name", "amount", "phone"]),
        &table,
        1,
    );
    assert!(!next.needs_generation);
    assert!(next.value_schema.contains(r#""default":null"#));
    let again = change_at(&second, &columns(&["id", "name", "amount"]), &table, 1);
    assert_eq!(again.value_schema, change.value_schema);
}

#[test]
fn another_key_version_concerns_hidden_keys_and_hashes_only() {
    let table = table();
    for (granted, expected) in [
        (&["name"][..], "keys, without "),
        (&["id", "phone HASH"], "generation, without phone"),
        (&["name", "phone HASH"], "keys, without phone"),
        (&["id", "name"], "in place"),
    ] {
        let before = task(document(&columns(granted), None), table.clone());
        let change = change_at(&before, &columns(granted), &table, 2);
        assert_eq!(outcome(&change), expected, "{granted:?}");
    }
}

#[test]
fn a_column_of_the_same_name_that_is_another_one_is_withdrawn() {
    let before = task(document(&columns(&["id", "name"]), None), table());
    let mut dropped_and_added = table();
    dropped_and_added.columns[1].attnum = 9;
    let change = change_at(&before, &columns(&["id", "name"]), &dropped_and_added, 1);
    assert_eq!(outcome(&change), "generation, without name");
    let mut wider = table();
    wider.columns[3].attnum = 10;
    let change = change_at(&before, &columns(&["id", "name"]), &wider, 1);
    assert_eq!(outcome(&change), "in place", "it is not granted");
}

#[test]
fn what_makes_a_view_another_view_cannot_be_changed() {
    let before = task(document(&columns(&["id"]), None), table());
    for (field, value) in [
        ("name", json!("s04")),
        ("share", json!("other")),
        ("subscriber", json!("ltax")),
        ("source", json!({ "topic": "aic.public.other" })),
    ] {
        let mut changed = serde_json::to_value(&before.document).unwrap();
        changed[field] = value;
        let changed: ViewDocument = serde_json::from_value(changed).unwrap();
        let plan = compile(&changed, &before.table).unwrap();
        let errors = compare(&before, &changed, &before.table, &plan, 1).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].field.starts_with(field), "{errors:?}");
        assert!(errors[0].message.contains("cannot become"), "{errors:?}");
    }
}

#[test]
fn a_condition_and_a_validity_change_in_place() {
    let before = task(document(&columns(&["id"]), Some("amount > 1")), table());
    let mut changed = document(&columns(&["id"]), Some("amount > 2"));
    changed.valid_until = Some("2099-01-01T00:00:00Z".to_owned());
    let plan = compile(&changed, &before.table).unwrap();
    let change = compare(&before, &changed, &before.table, &plan, 1).unwrap();
    assert!(change.condition && change.validity && change.is_any);
    assert_eq!(outcome(&change), "in place");
    assert_eq!(change.value_schema, before.value_schema);
}
