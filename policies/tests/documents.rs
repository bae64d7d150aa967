//! Documents compiled against a table: what is derived, and what is refused with which words.

use hutong_policies::{ViewDocument, compile};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, TableId, TableSchema};
use serde_json::{Value, json};

fn table() -> TableSchema {
    let column = |position: i16, name: &str, sql_type, nullable| Column {
        name: name.to_owned(),
        attnum: position,
        sql_type,
        nullable,
        default: None,
        has_default_expression: false,
    };
    TableSchema {
        id: TableId {
            schema: "public".into(),
            table: "ent_base".into(),
        },
        oid: 1,
        columns: vec![
            column(1, "uscc", SqlType::Char { length: 18 }, false),
            column(2, "seq", SqlType::Int4, false),
            column(3, "name", SqlType::Text, true),
            column(
                4,
                "reg_cap",
                SqlType::Numeric {
                    precision: 18,
                    scale: 4,
                },
                true,
            ),
            column(5, "est_date", SqlType::Date, false),
        ],
        key: vec![0, 1],
    }
}

fn document(changes: Value) -> ViewDocument {
    let mut document = json!({
        "name": "s03_ent_base", "share": "s03", "subscriber": "qts",
        "source": { "topic": "aic.public.ent_base" },
        "columns": [{ "name": "uscc" }, { "name": "seq" }, { "name": "name" }],
    });
    for (field, value) in changes.as_object().unwrap() {
        document[field] = value.clone();
    }
    serde_json::from_value(document).unwrap()
}

fn fields(fields: &[hutong_schemas::record::ViewField]) -> Vec<String> {
    let field = |field: &hutong_schemas::record::ViewField| {
        format!(
            "{} {}{}",
            field.name,
            field.sql_type,
            if field.nullable { "" } else { " not null" }
        )
    };
    fields.iter().map(field).collect()
}

#[test]
fn a_clear_key_stays_and_columns_keep_their_order_and_types() {
    let plan = compile(
        &document(
            json!({ "columns": [{ "name": "name" }, { "name": "seq" }, { "name": "uscc" }] }),
        ),
        &table(),
    )
    .unwrap();
    assert_eq!(
        fields(&plan.key_fields),
        ["uscc character(18) not null", "seq integer not null"]
    );
    assert_eq!(
        fields(&plan.fields),
        [
            "name text",
            "seq integer not null",
            "uscc character(18) not null"
        ]
    );
    assert!(!plan.hides_key && !plan.needs_secret());
}

#[test]
fn a_key_that_is_not_wholly_clear_is_hidden() {
    for columns in [
        json!([{ "name": "uscc" }, { "name": "name" }]),
        json!([{ "name": "uscc", "mask": "SHOW_LAST 4" }, { "name": "seq" }]),
    ] {
        let plan = compile(&document(json!({ "columns": columns })), &table()).unwrap();
        assert_eq!(fields(&plan.key_fields), ["_rk text not null"]);
        assert_eq!(fields(&plan.fields)[0], "_rk text not null");
        assert!(plan.hides_key && plan.needs_secret());
    }
}

#[test]
fn masks_make_text_and_some_make_null() {
    let columns = json!([
        { "name": "uscc" }, { "name": "seq" },
        { "name": "reg_cap", "mask": "BAND" }, { "name": "est_date", "mask": "DATE_YEAR" },
    ]);
    let plan = compile(&document(json!({ "columns": columns })), &table()).unwrap();
    assert_eq!(fields(&plan.fields)[2..], ["reg_cap text", "est_date text"]);
}

#[test]
fn all_mistakes_come_together_with_field_and_column() {
    let wrong = document(json!({
        "name": "Wrong Name",
        "columns": [{ "name": "uscc" }, { "name": "phone" }, { "name": "name", "mask": "BAND" }, { "name": "uscc" }, { "name": "seq", "mask": "BLUR" }],
        "where": "secret_flag = 0",
        "valid_until": "2027-01-01",
        "source": { "topic": "ent_base" },
    }));
    let errors: Vec<String> = compile(&wrong, &table())
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    let all = errors.join("\n");
    for expected in [
        "name: \"Wrong Name\" is not a name",
        "columns[1].name: table public.ent_base has no column \"phone\"",
        "columns[2].mask: column \"name\": mask BAND",
        "columns[3].name: column \"uscc\" is listed twice",
        "columns[4].mask: \"BLUR\" is not a mask",
        "where: table public.ent_base has no column \"secret_flag\"",
        "valid_until: \"2027-01-01\" is not a time with an offset",
        "source.topic: \"ent_base\" is not a table's topic",
    ] {
        assert!(all.contains(expected), "{expected}\n--\n{all}");
    }
}

/// Whoever may post a document must not keep a thread busy with it.
#[test]
fn a_document_of_any_size_is_checked_at_once() {
    let begun = std::time::Instant::now();
    let column = |index: usize, mask: &str| json!({ "name": format!("c{index}"), "mask": mask });
    let many = |mask: &str| -> Vec<Value> { (0..20_000).map(|n| column(n, mask)).collect() };
    let band = format!("BAND {}", vec!["1e300"; 160].join(","));
    for (mask, words) in [
        ("BAND 1e131071", "not in the range of double precision"),
        (band.as_str(), "do not rise"),
        (&"BAND 1,".repeat(1_000), "more than 1024"),
    ] {
        let errors = document(json!({ "columns": many(mask) })).check();
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let all = all.join("\n");
        assert!(all.contains("columns: there are 20000; a table has at most 1600"));
        assert!(all.contains(words), "{words}");
        assert!(errors.len() < 1_700, "{}", errors.len());
    }
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_table_without_a_key_has_no_view() {
    let keyless = TableSchema {
        key: vec![],
        ..table()
    };
    let errors = compile(&document(json!({})), &keyless).unwrap_err();
    assert!(errors[0].message.contains("no primary key"), "{errors:?}");
}

#[test]
fn an_unknown_field_of_a_document_is_refused() {
    let text = r#"{"name":"a","share":"a","subscriber":"a","source":{"topic":"a.b.c"},"columns":[],"filter":"x"}"#;
    assert!(
        serde_json::from_str::<ViewDocument>(text)
            .unwrap_err()
            .to_string()
            .contains("filter")
    );
}
