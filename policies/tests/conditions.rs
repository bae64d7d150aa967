//! Random conditions over random rows, decided by us and by the server.

use hutong_policies::condition::{self, Truth};
use hutong_schemas::cell::Cell;
use hutong_schemas::sql_type::SqlType;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::rows::{self, COLUMNS, Owned, any_literal, quoted};
use crate::server::{Database, seed};

const ROWS: usize = 72;
const COMPOUNDS: usize = 700;
const SIMPLE_PER_COLUMN_AND_OPERATOR: usize = 3;

#[tokio::test]
async fn conditions_mean_what_postgresql_means_by_the_same_text() {
    let mut rng = StdRng::seed_from_u64(seed());
    let database = Database::create().await;
    let rows = rows::fill(&database.client, &mut rng, ROWS, 0.2).await;
    let mut counts = Counts::default();
    for (name, sql_type) in COLUMNS {
        for operator in operators(*sql_type) {
            for _ in 0..SIMPLE_PER_COLUMN_AND_OPERATOR {
                let text = test(&mut rng, name, *sql_type, operator, 0.0);
                check(&database, &rows, &text, &mut counts).await;
            }
            if *operator != "IS NULL" && *operator != "IS NOT NULL" && !operator.is_empty() {
                let text = test(&mut rng, name, *sql_type, operator, 1.0);
                check(&database, &rows, &text, &mut counts).await;
            }
        }
    }
    for (left, right) in column_pairs() {
        for operator in ["=", "<>", "<", "<=", ">", ">="] {
            let collate = if orders_text(left, operator) {
                " COLLATE \"C\""
            } else {
                ""
            };
            let text = format!("{}{collate} {operator} {}", left.0, right.0);
            check(&database, &rows, &text, &mut counts).await;
        }
    }
    for _ in 0..COMPOUNDS {
        let text = compound(&mut rng, 3);
        check(&database, &rows, &text, &mut counts).await;
    }
    database.drop().await;
    println!("{counts:?}");
    let total = counts.true_ + counts.false_ + counts.unknown;
    assert!(total >= 20_000, "{counts:?}");
    assert!(counts.left_out >= total / 50, "{counts:?}");
    for share in [counts.true_, counts.false_, counts.unknown] {
        assert!(
            share * 10 >= total,
            "one truth value is too rare: {counts:?}"
        );
    }
}

#[derive(Debug, Default)]
struct Counts {
    true_: usize,
    false_: usize,
    unknown: usize,
    /// Rows that are told from those that are shown without the condition.
    left_out: usize,
}

async fn check(database: &Database, rows: &[Vec<Owned>], text: &str, counts: &mut Counts) {
    let condition =
        condition::compile(text, &rows::table()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let expected = database.texts(text).await;
    for (row, expected) in rows.iter().zip(expected) {
        let cells: Vec<Cell<'_>> = row.iter().map(Owned::cell).collect();
        let expected = match expected.as_deref() {
            Some("true") => Truth::True,
            Some("false") => Truth::False,
            None => Truth::Unknown,
            Some(other) => panic!("{text} gave {other}"),
        };
        assert_eq!(condition.evaluate(&cells), expected, "{text}\n{row:?}");
        let passes = condition
            .screen()
            .is_none_or(|screen| screen.lets_pass(&cells));
        assert!(
            passes || expected != Truth::True,
            "left out: {text}\n{row:?}"
        );
        counts.left_out += usize::from(!passes);
        match expected {
            Truth::True => counts.true_ += 1,
            Truth::False => counts.false_ += 1,
            Truth::Unknown => counts.unknown += 1,
        }
    }
}

fn is_text(sql_type: SqlType) -> bool {
    matches!(
        sql_type,
        SqlType::Text | SqlType::Varchar { .. } | SqlType::Char { .. }
    )
}

/// Types that can only be asked whether they are NULL.
fn is_other(sql_type: SqlType) -> bool {
    matches!(
        sql_type,
        SqlType::Oid
            | SqlType::Inet
            | SqlType::Cidr
            | SqlType::Macaddr
            | SqlType::Xml
            | SqlType::Tsvector
            | SqlType::Int4range
            | SqlType::Daterange
    )
}

fn is_json(sql_type: SqlType) -> bool {
    matches!(sql_type, SqlType::Json | SqlType::Jsonb)
}

fn orders_text(column: (&str, SqlType), operator: &str) -> bool {
    is_text(column.1) && !matches!(operator, "=" | "<>" | "!=")
}

/// The operators of a type. The empty one is the column by itself.
fn operators(sql_type: SqlType) -> &'static [&'static str] {
    const NULL: &[&str] = &["IS NULL", "IS NOT NULL"];
    const ORDER: &[&str] = &[
        "IS NULL",
        "IS NOT NULL",
        "=",
        "<>",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "IN",
        "NOT IN",
        "BETWEEN",
        "NOT BETWEEN",
    ];
    const BOOL: &[&str] = &[
        "",
        "IS NULL",
        "IS NOT NULL",
        "=",
        "<>",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "IN",
        "NOT IN",
        "BETWEEN",
        "NOT BETWEEN",
    ];
    const TEXT: &[&str] = &[
        "IS NULL",
        "IS NOT NULL",
        "=",
        "<>",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "IN",
        "NOT IN",
        "BETWEEN",
        "NOT BETWEEN",
        "LIKE",
        "NOT LIKE",
    ];
    match sql_type {
        SqlType::Bool => BOOL,
        _ if is_json(sql_type) || is_other(sql_type) => NULL,
        _ if is_text(sql_type) || sql_type == SqlType::Bytea => TEXT,
        _ => ORDER,
    }
}

type NamedType = (&'static str, SqlType);

/// Pairs of columns whose types can be compared. Numbers with floats are left out where the server
/// raises an error (a numeric beyond the range of double precision); there are none in the pools.
fn column_pairs() -> Vec<(NamedType, NamedType)> {
    let group = |sql_type: SqlType| match sql_type {
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Float4 | SqlType::Float8 => {
            Some(0)
        }
        SqlType::Numeric { .. } | SqlType::NumericUnscaled => Some(0),
        SqlType::Text | SqlType::Varchar { .. } | SqlType::Char { .. } => Some(1),
        SqlType::Date | SqlType::Timestamp { .. } => Some(2),
        SqlType::Bool => Some(3),
        SqlType::Timestamptz { .. } => Some(4),
        SqlType::Uuid => Some(5),
        SqlType::Bytea => Some(6),
        SqlType::Time { .. } => Some(7),
        _ => None,
    };
    let mut pairs = Vec::new();
    for left in COLUMNS {
        for right in COLUMNS {
            if group(left.1).is_some() && group(left.1) == group(right.1) {
                pairs.push((*left, *right));
            }
        }
    }
    pairs
}

fn test(
    rng: &mut StdRng,
    name: &str,
    sql_type: SqlType,
    operator: &str,
    null_share: f64,
) -> String {
    let collate = if is_text(sql_type) && !matches!(operator, "" | "IS NULL" | "IS NOT NULL") {
        " COLLATE \"C\""
    } else {
        ""
    };
    let literal = |rng: &mut StdRng| {
        if rng.random_bool(null_share) {
            "NULL".to_owned()
        } else {
            any_literal(rng, sql_type)
        }
    };
    match operator {
        "" => name.to_owned(),
        "IS NULL" | "IS NOT NULL" => format!("{name} {operator}"),
        "LIKE" | "NOT LIKE" if null_share > 0.0 => format!("{name} {operator} NULL"),
        "LIKE" | "NOT LIKE" => format!("{name}{collate} {operator} {}", pattern(rng, sql_type)),
        "IN" | "NOT IN" => {
            let mut items: Vec<String> = (0..rng.random_range(1..5))
                .map(|_| any_literal(rng, sql_type))
                .collect();
            if null_share > 0.0 {
                items.push("NULL".to_owned());
            }
            format!("{name}{collate} {operator} ({})", items.join(", "))
        }
        "BETWEEN" | "NOT BETWEEN" => {
            let low = literal(rng);
            let high = any_literal(rng, sql_type);
            format!("{name}{collate} {operator} {low} AND {high}")
        }
        _ => {
            let literal = literal(rng);
            if rng.random_bool(0.2) {
                format!("{literal} {operator} {name}{collate}")
            } else {
                format!("{name}{collate} {operator} {literal}")
            }
        }
    }
}

fn pattern(rng: &mut StdRng, sql_type: SqlType) -> String {
    if sql_type == SqlType::Bytea {
        return (*[
            "'%'",
            "'a%'",
            "'_'",
            "'\\x6125'",
            "'a\\\\\\\\c'",
            "'%\\377'",
            "'__'",
        ]
        .choose(rng)
        .unwrap())
        .to_owned();
    }
    let pieces = [
        "a", "b", "c", "%", "%", "_", "赋", "码", "\\%", "\\_", "\\\\", " ", "37", "07", "é",
    ];
    let escapes = [
        None,
        None,
        None,
        Some("!"),
        Some(""),
        Some("a"),
        Some("%"),
        Some("赋"),
    ];
    let escape = *escapes.choose(rng).unwrap();
    let mut text: String = (0..rng.random_range(0..5))
        .map(|_| *pieces.choose(rng).unwrap())
        .collect();
    if rng.random_bool(0.3) {
        text.push('%');
    }
    if let Some(escape) = escape {
        // A pattern must not end with its escape.
        text = text.replace('%', if escape == "%" { "a" } else { "%" });
        let text = if escape.is_empty() {
            text
        } else {
            format!("{}{escape}%", text.replace(escape, "b"))
        };
        return format!("{} ESCAPE {}", quoted(&text), quoted(escape));
    }
    quoted(&text)
}

fn compound(rng: &mut StdRng, depth: u32) -> String {
    if depth == 0 || rng.random_bool(0.15) {
        let (name, sql_type) = *COLUMNS.choose(rng).unwrap();
        let operator = *operators(sql_type).choose(rng).unwrap();
        let null_share = if rng.random_bool(0.1) { 1.0 } else { 0.0 };
        return test(rng, name, sql_type, operator, null_share);
    }
    let left = compound(rng, depth - 1);
    match rng.random_range(0..5) {
        0 => format!("NOT ({left})"),
        1 => format!("NOT {left}"),
        2 => format!("({left}) AND {}", compound(rng, depth - 1)),
        3 => format!("{left} OR {}", compound(rng, depth - 1)),
        _ => format!(
            "{left} AND ({} or {})",
            compound(rng, depth - 1),
            compound(rng, depth - 1)
        ),
    }
}

#[tokio::test]
async fn what_postgresql_refuses_and_what_a_session_would_decide_is_refused() {
    let refused = [
        ("nosuch = 1", "no column \"nosuch\""),
        ("I9 = 1", "no column \"i9\""),
        ("i4 = 'x'", "'x' is not an integer"),
        (
            "i2 = '40000'",
            "'40000' is not an integer between -32768 and 32767",
        ),
        ("t1 = 5", "column \"t1\" (text) and 5 cannot be compared"),
        ("i4 LIKE '1%'", "cannot be compared by LIKE"),
        ("t1 < 'a'", "COLLATE \"C\""),
        ("t1 BETWEEN 'a' AND 'b'", "COLLATE \"C\""),
        ("t1 COLLATE \"en_US\" < 'a'", "only COLLATE \"C\""),
        ("tz = '2020-01-01 00:00:00'", "with an offset"),
        ("tz > DATE '2020-01-01'", "time zone"),
        ("ts = tz", "time zone"),
        ("ts = '2020-01-01 00:00:00+08'", "without an offset"),
        ("d = '1/8/1999'", "not a date"),
        ("d = 'now'", "not a date"),
        ("js = '{}'", "IS NULL"),
        ("jb = NULL", "IS NULL"),
        ("i4", "only a boolean column"),
        ("1 = 1", "a comparison needs a column"),
        ("true", "not in the language"),
        ("lower(t1) = 'a'", "lower is a function"),
        ("i4 + 1 = 2", "neither a column nor a literal"),
        ("i4 = (select 1)", "neither a column nor a literal"),
        ("i4 IN (select 1)", "not in the language"),
        ("i4 = i8 = b1", "neither a column nor a literal"),
        ("t1 ILIKE 'a'", "not in the language"),
        ("t1 SIMILAR TO 'a'", "not in the language"),
        ("t1 ~ 'a'", "not in the language"),
        ("t1::int = 1", "neither a column nor a literal"),
        ("i4 = $1", "not a literal"),
        ("t1 = E'a'", "not a literal"),
        ("t1 LIKE 'a\\'", "must not end"),
        ("t1 LIKE 'a' ESCAPE 'ab'", "one character"),
        ("by LIKE 'a!%' ESCAPE '!'", "no ESCAPE for bytea"),
        ("b1 IS TRUE", "not in the language"),
        ("i4 IS DISTINCT FROM 1", "not in the language"),
        ("i4 = 1 -- x", "comments"),
        ("i4 = 1 /* x */", "comments"),
        ("i4 = 1; drop table rows", "unexpected"),
        ("user = 'x'", ""),
        ("current_date = d", ""),
        ("rows.i4 = 1", "without the table's name"),
        ("i4 = 1 AND", "cannot be parsed"),
        ("", "cannot be parsed"),
        (
            "ts IN (DATE '5874897-12-31', '2020-01-01')",
            "beyond the range",
        ),
        ("f8 = 1e999", "range of double precision"),
        ("f4 = '1e39'", "range of real"),
        ("u = 'x'", "not a uuid"),
        ("by = '\\xzz'", "not a bytea"),
        ("i4 BETWEEN SYMMETRIC 1 AND 2", ""),
        ("i4 IN (1, 'x')", "not an integer"),
        ("i4 IN (1, true)", "cannot be compared"),
    ];
    for (text, expected) in refused {
        let error = condition::compile(text, &rows::table())
            .map(|_| ())
            .expect_err(text)
            .to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let deep = format!("{}i4 = 1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(condition::compile(&deep, &rows::table()).is_err());
    let long: Vec<&str> = vec!["b1"; 2_000];
    assert!(condition::compile(&long.join(" AND "), &rows::table()).is_ok());
}

/// Each text is as deep a tree as 16 KiB can hold, and the thread has the stack of tokio's workers.
#[test]
fn an_expression_of_any_depth_is_refused_and_not_a_crash() {
    let chain = |link: &str| {
        let links = (16 * 1024 - 8) / link.len();
        format!("i4{} = 1", link.repeat(links))
    };
    let links = [
        "+i4",
        "||i4",
        "::text",
        " IS TRUE",
        "=i4",
        " AT TIME ZONE t1",
        "[1]",
        " LIKE t1",
        " COLLATE \"C\"",
        " IS NULL",
        "-1",
        " IN (1)",
    ];
    let refuse = move || {
        for link in links {
            let text = chain(link);
            assert!(text.len() > 15_000 && text.len() <= 16 * 1024);
            let refused = condition::compile(&text, &rows::table()).map(|_| ());
            let message = refused.expect_err(link).to_string();
            assert!(message.chars().count() <= 501, "{link}: {message}");
        }
    };
    let small = std::thread::Builder::new().stack_size(2 << 20);
    small.spawn(refuse).unwrap().join().unwrap();
}

#[test]
fn numbers_that_are_long_when_written_out_are_refused_at_once() {
    let begun = std::time::Instant::now();
    for text in [
        "nn = 1e131071",
        "nn = 1e-16383",
        "nn IN (1, 1e1001)",
        "nn = 1e2147483647",
    ] {
        let refused = condition::compile(text, &rows::table()).map(|_| ());
        let message = refused.expect_err(text).to_string();
        assert!(message.contains("1000 digits"), "{text}: {message}");
    }
    let many = vec!["1e999"; 2_700].join(",");
    let text = format!("nn IN ({many})");
    condition::compile(&text, &rows::table()).unwrap();
    // It took an hour of multiplying before; now it is milliseconds, on a slow machine a second.
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_value_that_is_unavailable_makes_every_test_unknown() {
    let table = rows::table();
    let cells = vec![Cell::Unavailable; COLUMNS.len()];
    for text in [
        "b1",
        "NOT b1",
        "i4 = 1",
        "i4 <> 1",
        "t1 IS NULL",
        "t1 IS NOT NULL",
        "t1 LIKE '%'",
        "t1 IN ('a', 'b')",
        "d BETWEEN '2020-01-01' AND '2021-01-01'",
    ] {
        let condition = condition::compile(text, &table).unwrap();
        assert_eq!(condition.evaluate(&cells), Truth::Unknown, "{text}");
    }
}
