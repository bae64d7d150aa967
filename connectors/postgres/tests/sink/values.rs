//! Every type arrives as PostgreSQL itself would have it.

use hutong_schemas::cell::{NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};

use super::*;

/// Delivers one row per cell and compares it with PostgreSQL's reading of the literal.
async fn check(subscriber: &Subscriber, sql_type: SqlType, cases: &[(Cell<'_>, &str)]) {
    let key = [field("n", SqlType::Int8, false)];
    let row = [key[0].clone(), field("value", sql_type, true)];
    let target = Target::new(table(), &key, &row).unwrap();
    subscriber
        .execute("DROP TABLE IF EXISTS t, hutong_position, hutong_view, hutong_rebuild")
        .await;
    let assigned = subscriber.assign("a", target, &input()).await;
    let (mut writer, _) = assigned.unwrap();
    let mut changes = Changes::new(writer.target());
    for (n, (cell, _)) in (0..).zip(cases) {
        changes
            .upsert(writer.target(), &[Cell::Int(n), *cell])
            .unwrap();
    }
    writer.apply(0, &changes, 1, now_ms()).await.unwrap();
    let column = subscriber
        .texts(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
             WHERE attrelid = 't'::regclass AND attname = 'value'",
        )
        .await;
    let declared = sql_type.to_string();
    let declared = if declared.starts_with("time") {
        declared.replace("(6)", "")
    } else {
        declared
    };
    let column: Vec<String> = column.iter().map(|c| c.replace("(6)", "")).collect();
    assert_eq!(column, [declared]);
    for (n, (_, literal)) in (0_i64..).zip(cases) {
        let sql =
            format!("SELECT value::text, ('{literal}'::{sql_type})::text FROM t WHERE n = {n}");
        let row = subscriber.client.query_one(&sql, &[]).await.unwrap();
        let (found, expected): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        assert_eq!(found, expected, "{sql_type} '{literal}'");
    }
}

fn number(unscaled: &[u8], scale: i32) -> Cell<'_> {
    Cell::Numeric(Numeric { unscaled, scale })
}

#[tokio::test]
async fn every_type_arrives_exactly() {
    let subscriber = Subscriber::new().await;
    let s = &subscriber;
    check(
        s,
        SqlType::Bool,
        &[(Cell::Bool(true), "t"), (Cell::Bool(false), "f")],
    )
    .await;
    check(
        s,
        SqlType::Int2,
        &[(Cell::Int(-32768), "-32768"), (Cell::Int(32767), "32767")],
    )
    .await;
    check(
        s,
        SqlType::Int4,
        &[(Cell::Int(i32::MIN.into()), "-2147483648")],
    )
    .await;
    check(
        s,
        SqlType::Int8,
        &[
            (Cell::Int(i64::MIN), "-9223372036854775808"),
            (Cell::Int(7), "7"),
        ],
    )
    .await;
    let floats = [
        (Cell::Float4(1.5e-42), "1.5e-42"),
        (Cell::Float4(f32::NAN), "NaN"),
        (Cell::Float4(f32::NEG_INFINITY), "-Infinity"),
    ];
    check(s, SqlType::Float4, &floats).await;
    let doubles = [
        (Cell::Float8(0.1), "0.1"),
        (Cell::Float8(-0.0), "-0"),
        (Cell::Float8(f64::MAX), "1.7976931348623157e308"),
    ];
    check(s, SqlType::Float8, &doubles).await;
    check(
        s,
        SqlType::Text,
        &[(Cell::Text(""), ""), (Cell::Text("互通\n\\"), "互通\n\\")],
    )
    .await;
    check(
        s,
        SqlType::Varchar { length: Some(3) },
        &[(Cell::Text("一二三"), "一二三")],
    )
    .await;
    check(
        s,
        SqlType::Varchar { length: None },
        &[(Cell::Text("x "), "x ")],
    )
    .await;
    check(
        s,
        SqlType::Char { length: 4 },
        &[(Cell::Text("ab  "), "ab")],
    )
    .await;
    check(
        s,
        SqlType::Bytea,
        &[
            (Cell::Bytes(&[0, 255, 92]), "\\x00ff5c"),
            (Cell::Bytes(&[]), ""),
        ],
    )
    .await;
    let dates = [
        (Cell::Int(0), "1970-01-01"),
        (Cell::Int(-719_528), "0001-01-01 BC"),
        (Cell::Int(19_782), "2024-02-29"),
        (Cell::Int(POSITIVE_INFINITY), "infinity"),
        (Cell::Int(NEGATIVE_INFINITY), "-infinity"),
    ];
    check(s, SqlType::Date, &dates).await;
    let times = [
        (Cell::Int(86_400_000_000), "24:00:00"),
        (Cell::Int(1), "00:00:00.000001"),
    ];
    check(s, SqlType::Time { precision: 6 }, &times).await;
    check(
        s,
        SqlType::Time { precision: 0 },
        &[(Cell::Int(3_600_000_000), "01:00")],
    )
    .await;
    let stamps = [
        (Cell::Int(1), "1970-01-01 00:00:00.000001"),
        (Cell::Int(-1), "1969-12-31 23:59:59.999999"),
        (Cell::Int(POSITIVE_INFINITY), "infinity"),
    ];
    check(s, SqlType::Timestamp { precision: 6 }, &stamps).await;
    check(
        s,
        SqlType::Timestamp { precision: 3 },
        &[(Cell::Int(1_000), "1970-01-01 00:00:00.001")],
    )
    .await;
    let zoned = [
        (Cell::Int(0), "1970-01-01 00:00:00+00"),
        (Cell::Int(NEGATIVE_INFINITY), "-infinity"),
    ];
    check(s, SqlType::Timestamptz { precision: 6 }, &zoned).await;
    let uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    check(s, SqlType::Uuid, &[(Cell::Text(uuid), uuid)]).await;
    let json = r#"{"b" : 1,  "a":[null]}"#;
    check(s, SqlType::Json, &[(Cell::Text(json), json)]).await;
    check(
        s,
        SqlType::Jsonb,
        &[(Cell::Text(r#"{"a": [null], "b": 1}"#), json)],
    )
    .await;
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_null_arrives_as_null_among_values() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    let mut changes = rows(writer.target(), &[(1, "one")], &[]);
    changes
        .upsert(writer.target(), &[Cell::Int(2), Cell::Null])
        .unwrap();
    writer.apply(0, &changes, 1, now_ms()).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 one", "2 -"]);
    subscriber.drop_database().await;
}

/// Two's complement, shortest, as `BigInteger.toByteArray` has it.
fn shortest(value: i128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let fill = if value < 0 { 0xFF } else { 0 };
    let keeps_sign = |next: u8| (next & 0x80 != 0) == (value < 0);
    let mut start = 0;
    while start < 15 && bytes[start] == fill && keeps_sign(bytes[start + 1]) {
        start += 1;
    }
    bytes[start..].to_vec()
}

fn decimal(value: i128, scale: usize) -> String {
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    let point = if scale > 0 { "." } else { "" };
    format!("{sign}{whole}{point}{fraction}")
}

#[tokio::test]
async fn exact_numbers_of_any_length_and_scale_arrive_digit_by_digit() {
    let subscriber = Subscriber::new().await;
    let mut random = rand::rng();
    let mut kept = Vec::new();
    for scale in 0..40_usize {
        for bits in [0, 1, 7, 13, 14, 31, 63, 100, 126] {
            let value = random.random::<i128>() >> (127 - bits);
            kept.push((
                shortest(value),
                i32::try_from(scale).unwrap(),
                decimal(value, scale),
            ));
        }
    }
    let cases: Vec<(Cell<'_>, &str)> = kept
        .iter()
        .map(|(unscaled, scale, text)| (number(unscaled, *scale), text.as_str()))
        .collect();
    check(&subscriber, SqlType::NumericUnscaled, &cases).await;
    // 40 bytes are beyond every machine integer: 256^39, and its negative.
    let mut large = vec![1];
    large.resize(40, 0);
    let negative: Vec<u8> = std::iter::once(0xFF)
        .chain(std::iter::repeat_n(0, 39))
        .collect();
    let sql = "SELECT (256::numeric ^ 39)::numeric(100,0)::text";
    let text = subscriber.texts(sql).await.remove(0);
    let minus = format!("-{text}");
    let cases = [
        (number(&large, 0), text.as_str()),
        (number(&negative, 0), minus.as_str()),
    ];
    check(&subscriber, SqlType::NumericUnscaled, &cases).await;
    let money = SqlType::Numeric {
        precision: 18,
        scale: 4,
    };
    let cases = [
        (number(&[0x04, 0xD2], 4), "0.1234"),
        (number(&[0xFB, 0x2E], 4), "-0.1234"),
    ];
    check(&subscriber, money, &cases).await;
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_value_that_was_not_sent_keeps_what_the_table_has_and_makes_no_row() {
    let subscriber = Subscriber::new().await;
    let key = [field("id", SqlType::Int4, false)];
    let row = [
        field("id", SqlType::Int4, false),
        field("name", SqlType::Text, true),
        field("big", SqlType::Text, true),
    ];
    let target = Target::new(table(), &key, &row).unwrap();
    let assigned = subscriber.assign("a", target, &input()).await;
    let (mut writer, _) = assigned.unwrap();
    let mut changes = Changes::new(writer.target());
    let row = [Cell::Int(1), Cell::Text("old"), Cell::Text("long")];
    changes.upsert(writer.target(), &row).unwrap();
    writer.apply(0, &changes, 1, now_ms()).await.unwrap();
    let mut changes = Changes::new(writer.target());
    for id in [1, 2] {
        let row = [Cell::Int(id), Cell::Text("new"), Cell::Unavailable];
        changes.upsert(writer.target(), &row).unwrap();
    }
    writer.apply(0, &changes, 2, now_ms()).await.unwrap();
    let found = subscriber.texts("SELECT id || name || big FROM t").await;
    assert_eq!(found, ["1newlong"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn names_that_need_quoting_are_names_like_others() {
    let subscriber = Subscriber::new().await;
    let key = [field("键 \"x\"", SqlType::Text, false)];
    let row = [key[0].clone(), field("select", SqlType::Int4, true)];
    let target = Target::new(table(), &key, &row).unwrap();
    let assigned = subscriber.assign("a", target, &input()).await;
    let (mut writer, _) = assigned.unwrap();
    let mut changes = Changes::new(writer.target());
    changes
        .upsert(writer.target(), &[Cell::Text("k"), Cell::Int(1)])
        .unwrap();
    writer.apply(0, &changes, 1, now_ms()).await.unwrap();
    let found = subscriber
        .texts(r#"SELECT "键 ""x""" || "select" FROM t"#)
        .await;
    assert_eq!(found, ["k1"]);
    subscriber.drop_database().await;
}
