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
        labels: Vec::new(),
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

#[test]
fn what_is_not_defined_on_a_type_is_refused_and_the_column_can_be_shown_as_it_is() {
    let mut table = table();
    for (name, sql_type) in [
        ("tags", "text[]"),
        ("place", "point"),
        ("state", "enum"),
        ("ip", "inet"),
        ("fee", "money"),
        ("bits", "bit(4)"),
    ] {
        table.columns.push(Column {
            name: name.to_owned(),
            sql_type: sql_type.parse().unwrap(),
            ..table.columns[2].clone()
        });
    }
    let names = ["uscc", "seq", "tags", "place", "state", "ip", "fee", "bits"];
    let clear: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let plan = compile(&document(json!({ "columns": clear })), &table).unwrap();
    assert_eq!(
        fields(&plan.fields)[2..],
        [
            "tags text[]",
            "place point",
            "state enum",
            "ip inet",
            "fee money",
            "bits bit(4)"
        ]
    );
    let hidden = json!([{ "name": "name" }]);
    for where_ in ["tags IS NULL", "place IS NOT NULL", "state IS NULL"] {
        compile(
            &document(json!({ "columns": hidden, "where": where_ })),
            &table,
        )
        .unwrap();
    }
    let refusal = |changes: Value| -> String {
        let errors = compile(&document(changes), &table).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    };
    for (where_, why) in [
        ("tags = '{a}'", "conditions have no comparison for the type"),
        (
            "place = '(1,2)'",
            "conditions have no comparison for the type",
        ),
        (
            "state IN ('a', 'b')",
            "conditions have no comparison for the type",
        ),
        ("fee > 3", "conditions have no comparison for the type"),
        ("bits", "bits"),
        ("ip LIKE '1%'", "ip"),
    ] {
        let refusal = refusal(json!({ "columns": clear, "where": where_ }));
        assert!(refusal.contains(why), "{where_}: {refusal}");
    }
    for (name, mask, sql_type) in [
        ("tags", "SHOW_FIRST 2", "text[]"),
        ("place", "HASH", "point"),
        ("fee", "REGION4", "money"),
        ("bits", "SHOW_LAST 1", "bit(4)"),
    ] {
        let columns =
            json!([{ "name": "uscc" }, { "name": "seq" }, { "name": name, "mask": mask }]);
        let refusal = refusal(json!({ "columns": columns }));
        let why = format!("is for what has a text of its own, not for {sql_type}");
        assert!(refusal.contains(&why), "{refusal}");
    }
    for (name, mask) in [("state", "SHOW_FIRST 1"), ("ip", "HASH"), ("tags", "NULL")] {
        let columns =
            json!([{ "name": "uscc" }, { "name": "seq" }, { "name": name, "mask": mask }]);
        compile(&document(json!({ "columns": columns })), &table).unwrap();
    }
    table.key = vec![10];
    let refusal = compile(&document(json!({ "columns": hidden })), &table).unwrap_err();
    let refusal: String = refusal.iter().map(ToString::to_string).collect();
    assert!(
        refusal.contains("column \"bits\" of type bit(4) cannot be hidden in the row's key"),
        "{refusal}"
    );
}
