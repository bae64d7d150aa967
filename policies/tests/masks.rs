//! Masks, and values as text, against the expressions that define them.

use hutong_policies::mask::{Mask, Masked};
use hutong_policies::secret::Key;
use hutong_policies::text;
use hutong_schemas::cell::Cell;
use hutong_schemas::sql_type::SqlType;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::rows::{self, COLUMNS, Owned, quoted};
use crate::server::{Database, seed};

const KEY: &[u8] = b"a key of the share and the column";

#[tokio::test]
async fn values_as_text_are_what_postgresql_writes() {
    let mut rng = StdRng::seed_from_u64(seed());
    let database = Database::create().await;
    let rows = rows::fill(&database.client, &mut rng, 2_000, 0.1).await;
    for (index, (name, sql_type)) in COLUMNS.iter().enumerate() {
        let expected = database.texts(name).await;
        for (row, expected) in rows.iter().zip(expected) {
            let mut written = String::new();
            let found = text::write(*sql_type, row[index].cell(), &mut written).then_some(written);
            assert_eq!(found, expected, "{name} {:?}", row[index]);
        }
    }
    database.drop().await;
}

#[tokio::test]
async fn masks_are_their_expressions_for_every_type() {
    let mut rng = StdRng::seed_from_u64(seed());
    let database = Database::create().await;
    database
        .client
        .batch_execute("create extension pgcrypto")
        .await
        .unwrap();
    let rows = rows::fill(&database.client, &mut rng, 150, 0.1).await;
    for mask in masks() {
        for (index, (name, sql_type)) in COLUMNS.iter().enumerate() {
            let mask: Mask = mask.parse().unwrap();
            // The server raises an error for the year of a date beyond its timestamps.
            if mask.check(*sql_type).is_ok() {
                let values: Vec<&Owned> = rows.iter().map(|row| &row[index]).collect();
                check(&database, &mask, name, *sql_type, &values).await;
            }
        }
    }
    database.drop().await;
}

#[tokio::test]
async fn masks_are_their_expressions_for_every_length() {
    let database = Database::create().await;
    let texts: Vec<Owned> = (0..24)
        .flat_map(|length| {
            let ascii: String = ('a'..='z').cycle().take(length).collect();
            let wide: String = "统一社会信用代码".chars().cycle().take(length).collect();
            [Owned::Text(ascii), Owned::Text(wide)]
        })
        .collect();
    let inserts: Vec<String> = texts
        .iter()
        .enumerate()
        .map(|(id, text)| match text {
            Owned::Text(text) => format!("insert into rows values ({id}, {});", quoted(text)),
            other => panic!("{other:?} is no text"),
        })
        .collect();
    database
        .client
        .batch_execute("create extension pgcrypto; create table rows (id int, t1 text)")
        .await
        .unwrap();
    database
        .client
        .batch_execute(&inserts.join("\n"))
        .await
        .unwrap();
    let values: Vec<&Owned> = texts.iter().collect();
    for n in [0, 1, 2, 4, 6, 12, 30] {
        for m in [0, 1, 4, 7] {
            let mask = Mask::ShowEnds(n, m);
            check(&database, &mask, "t1", SqlType::Text, &values).await;
        }
        check(&database, &Mask::ShowFirst(n), "t1", SqlType::Text, &values).await;
        check(&database, &Mask::ShowLast(n), "t1", SqlType::Text, &values).await;
    }
    for mask in [Mask::Region4, Mask::Hash, Mask::Null] {
        check(&database, &mask, "t1", SqlType::Text, &values).await;
    }
    database.drop().await;
}

fn masks() -> [&'static str; 11] {
    [
        "SHOW_FIRST 2",
        "SHOW_FIRST 0",
        "SHOW_LAST 4",
        "SHOW_LAST 1",
        "SHOW_ENDS 1,1",
        "SHOW_ENDS 6,4",
        "DATE_YEAR",
        "REGION4",
        "BAND",
        "BAND -2.5, 0.01, 2, 1e10",
        "HASH",
    ]
}

async fn check(database: &Database, mask: &Mask, name: &str, sql_type: SqlType, values: &[&Owned]) {
    let expected = database.texts(&expression(mask, name, sql_type)).await;
    let key = Key::new(KEY);
    assert_eq!(values.len(), expected.len());
    for (value, expected) in values.iter().zip(expected) {
        let (mut scratch, mut out) = (String::new(), String::new());
        let masked = mask.apply(sql_type, value.cell(), Some(&key), &mut scratch, &mut out);
        let found = match masked {
            Masked::Null => None,
            Masked::Text => Some(out),
            Masked::Unavailable => panic!("{mask} {name} {value:?} is unavailable"),
        };
        assert_eq!(found, expected, "{mask} {name} {value:?}");
    }
}

/// The definitions of the masks; `x` is the column as text.
fn expression(mask: &Mask, name: &str, sql_type: SqlType) -> String {
    let x = format!("({name}::text)");
    let stars = |hidden: &str| format!("repeat('*', {hidden})");
    let all = stars(&format!("length({x})"));
    match mask {
        Mask::ShowFirst(n) => format!(
            "case when length({x}) <= {n} then {all} else left({x}, {n}) || {} end",
            stars(&format!("length({x}) - {n}"))
        ),
        Mask::ShowLast(n) => format!(
            "case when length({x}) <= {n} then {all} else {} || right({x}, {n}) end",
            stars(&format!("length({x}) - {n}"))
        ),
        Mask::ShowEnds(n, m) => format!(
            "case when length({x}) <= {n} + {m} then {all} else left({x}, {n}) || {} || right({x}, {m}) end",
            stars(&format!("length({x}) - {n} - {m}"))
        ),
        Mask::DateYear => match sql_type {
            SqlType::Timestamptz { .. } => format!("to_char({name} at time zone 'UTC', 'YYYY')"),
            SqlType::Char { .. } => format!("left({x}, 4)"),
            SqlType::Date => format!(
                "case when isfinite({name}) and {name} >= date '294277-01-01' then null else to_char(case when {name} < date '294277-01-01' or not isfinite({name}) then {name} end, 'YYYY') end"
            ),
            _ => format!("to_char({name}, 'YYYY')"),
        },
        Mask::Region4 => format!("left({x}, 4)"),
        Mask::Band(_) => {
            let text = mask.to_string();
            let bounds: Vec<&str> = text
                .trim_start_matches("BAND")
                .split(',')
                .map(str::trim)
                .collect();
            let mut sql = format!(
                "case when {name} is null then null when {name} < {} then '< {}'",
                bounds[0], bounds[0]
            );
            for pair in bounds.windows(2) {
                sql.push_str(&format!(
                    " when {name} < {} then '{} .. {}'",
                    pair[1], pair[0], pair[1]
                ));
            }
            format!("{sql} else '>= {}' end", bounds[bounds.len() - 1])
        }
        Mask::Hash => {
            let key: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
            format!(
                "encode(substr(hmac(convert_to({x}, 'UTF8'), '\\x{key}'::bytea, 'sha256'), 1, 16), 'hex')"
            )
        }
        Mask::Null => "null::text".to_owned(),
        Mask::Clear => name.to_owned(),
    }
}

#[test]
fn masks_are_read_as_they_are_written() {
    for text in masks().iter().chain(&["CLEAR", "NULL"]) {
        let mask: Mask = text.parse().unwrap();
        if *text == "BAND" {
            assert_eq!(
                mask.to_string(),
                "BAND 0, 10, 100, 1000, 10000, 100000, 1000000"
            );
        } else {
            assert_eq!(mask.to_string(), *text);
        }
    }
    for text in [
        "",
        "SHOW_FIRST",
        "SHOW_FIRST -1",
        "SHOW_ENDS 1",
        "show_first 1",
        "BAND 1, x",
        "BAND 2, 1",
        "HASH 1",
        "STARS",
    ] {
        assert!(text.parse::<Mask>().is_err(), "{text}");
    }
    assert!(Mask::DateYear.check(SqlType::Text).is_err());
    assert!(Mask::Band(vec![]).check(SqlType::Text).is_err());
}

#[test]
fn null_stays_null_and_what_is_unavailable_stays_so() {
    let key = Key::new(KEY);
    for text in masks() {
        let mask: Mask = text.parse().unwrap();
        let (mut scratch, mut out) = (String::new(), String::new());
        let mut apply = |cell| mask.apply(SqlType::Date, cell, Some(&key), &mut scratch, &mut out);
        assert_eq!(apply(Cell::Null), Masked::Null, "{text}");
        assert_eq!(apply(Cell::Unavailable), Masked::Unavailable, "{text}");
        assert_eq!(out, "");
    }
}
