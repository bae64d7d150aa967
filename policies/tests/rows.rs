//! Random rows over every supported type, as cells for us and as SQL for the server.

use hutong_policies::literal;
use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, TableId, TableSchema};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A value that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Owned {
    Null,
    Bool(bool),
    Int(i64),
    Float4(f32),
    Float8(f64),
    Numeric(Vec<u8>, i32),
    Text(String),
    Bytes(Vec<u8>),
}

impl Owned {
    pub(crate) fn cell(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Bool(value) => Cell::Bool(*value),
            Self::Int(value) => Cell::Int(*value),
            Self::Float4(value) => Cell::Float4(*value),
            Self::Float8(value) => Cell::Float8(*value),
            Self::Numeric(unscaled, scale) => Cell::Numeric(Numeric {
                unscaled,
                scale: *scale,
            }),
            Self::Text(text) => Cell::Text(text),
            Self::Bytes(bytes) => Cell::Bytes(bytes),
        }
    }
}

pub(crate) const COLUMNS: &[(&str, SqlType)] = &[
    ("b1", SqlType::Bool),
    ("b2", SqlType::Bool),
    ("i2", SqlType::Int2),
    ("i4", SqlType::Int4),
    ("i8", SqlType::Int8),
    ("f4", SqlType::Float4),
    ("f8", SqlType::Float8),
    (
        "n4",
        SqlType::Numeric {
            precision: 18,
            scale: 4,
        },
    ),
    (
        "n0",
        SqlType::Numeric {
            precision: 40,
            scale: 0,
        },
    ),
    ("nn", SqlType::NumericUnscaled),
    ("t1", SqlType::Text),
    ("t2", SqlType::Text),
    ("v", SqlType::Varchar { length: Some(20) }),
    ("c6", SqlType::Char { length: 6 }),
    ("c8", SqlType::Char { length: 8 }),
    ("by", SqlType::Bytea),
    ("d", SqlType::Date),
    ("tm", SqlType::Time { precision: 6 }),
    ("ts", SqlType::Timestamp { precision: 6 }),
    ("ts3", SqlType::Timestamp { precision: 3 }),
    ("tz", SqlType::Timestamptz { precision: 6 }),
    ("u", SqlType::Uuid),
    ("js", SqlType::Json),
    ("jb", SqlType::Jsonb),
    ("o", SqlType::Oid),
    ("ip", SqlType::Inet),
    ("net", SqlType::Cidr),
    ("mac", SqlType::Macaddr),
    ("x", SqlType::Xml),
    ("lex", SqlType::Tsvector),
    ("ir", SqlType::Int4range),
    ("dr", SqlType::Daterange),
];

pub(crate) fn table() -> TableSchema {
    let column = |(position, (name, sql_type)): (usize, &(&str, SqlType))| Column {
        name: (*name).to_owned(),
        attnum: i16::try_from(position + 2).unwrap(),
        sql_type: *sql_type,
        nullable: true,
        default: None,
        has_default_expression: false,
        labels: Vec::new(),
    };
    TableSchema {
        id: TableId {
            schema: "public".into(),
            table: "rows".into(),
        },
        oid: 1,
        columns: COLUMNS.iter().enumerate().map(column).collect(),
        key: vec![],
    }
}

/// Returns a value and the SQL for it. Values come from small pools, so that equality happens.
pub(crate) fn value(rng: &mut StdRng, sql_type: SqlType, null_share: f64) -> (Owned, String) {
    if rng.random_bool(null_share) {
        return (Owned::Null, "null".to_owned());
    }
    match sql_type {
        SqlType::Bool => {
            let value = rng.random();
            (Owned::Bool(value), value.to_string())
        }
        SqlType::Int2 => integer(rng, &[-32768, -7, 0, 1, 2, 3, 5, 10, 100, 32767]),
        SqlType::Int4 => integer(
            rng,
            &[
                -2_147_483_648,
                -7,
                0,
                1,
                2,
                3,
                5,
                10,
                100,
                99_999,
                2_147_483_647,
            ],
        ),
        SqlType::Int8 => integer(
            rng,
            &[
                i64::MIN,
                -7,
                0,
                1,
                2,
                3,
                5,
                10,
                16_777_217,
                9_007_199_254_740_993,
                i64::MAX,
            ],
        ),
        SqlType::Float4 => {
            let value = if rng.random_bool(0.3) {
                f32::from_bits(rng.random())
            } else {
                *FLOAT4.choose(rng).unwrap()
            };
            (Owned::Float4(value), format!("'{value:e}'::real"))
        }
        SqlType::Float8 => {
            let value = if rng.random_bool(0.3) {
                f64::from_bits(rng.random())
            } else {
                *FLOAT8.choose(rng).unwrap()
            };
            (
                Owned::Float8(value),
                format!("'{value:e}'::double precision"),
            )
        }
        SqlType::Numeric { scale: 4, .. } => numeric(
            [
                "-12.5000",
                "-0.0100",
                "0.0000",
                "1.1000",
                "2.0000",
                "2.5000",
                "3.0000",
                "99999999999999.9999",
            ]
            .choose(rng)
            .unwrap(),
        ),
        SqlType::Numeric { .. } => numeric(
            [
                "-7",
                "0",
                "1",
                "2",
                "3",
                "10",
                "1234567890123456789012345678901234567890",
                "-9223372036854775809",
            ]
            .choose(rng)
            .unwrap(),
        ),
        SqlType::NumericUnscaled => {
            let long = format!("{}.{}", "9".repeat(50), "1".repeat(30));
            numeric(
                [
                    "-7",
                    "0.000",
                    "1.10",
                    "1.1",
                    "2",
                    "2.50",
                    "3.0",
                    "1e20",
                    "0.00000000000000000001",
                    &long,
                ]
                .choose(rng)
                .unwrap(),
            )
        }
        SqlType::Text | SqlType::Varchar { .. } => text(
            [
                "",
                "a",
                "ab",
                "ab ",
                "abc",
                "Abc",
                "b",
                "a%c",
                "a_c",
                "a\\c",
                "370705",
                "370702",
                "赋码",
                "赋",
                "é",
                "b\u{10400}",
                "'q'",
            ]
            .choose(rng)
            .unwrap(),
        ),
        SqlType::Char { length: 8 } => padded(
            ["", "a", "ab", "20140131", "20231231", "赋码", "a%c"]
                .choose(rng)
                .unwrap(),
            8,
        ),
        SqlType::Char { length } => padded(
            ["", "a", "ab", "abc", "a%c", "370705", "赋码", "abc\t"]
                .choose(rng)
                .unwrap(),
            usize::try_from(length).unwrap(),
        ),
        SqlType::Bytea => {
            let bytes = [
                &b""[..],
                b"a",
                b"ab",
                b"a\\c",
                b"a%c",
                b"\x00\xff",
                b"\xff",
                b"a_c",
            ]
            .choose(rng)
            .unwrap()
            .to_vec();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (Owned::Bytes(bytes), format!("'\\x{hex}'::bytea"))
        }
        SqlType::Date => {
            let days = *[
                0,
                1,
                -1,
                16_000,
                16_071,
                16_436,
                -719_529,
                -800_000,
                60_000_000,
                2_145_042_905,
                -2_440_588,
                POSITIVE_INFINITY,
                NEGATIVE_INFINITY,
            ]
            .choose(rng)
            .unwrap();
            let sql =
                infinity(days, "date").unwrap_or_else(|| format!("date '1970-01-01' + {days}"));
            (Owned::Int(days), sql)
        }
        SqlType::Time { .. } => {
            let micros = *[
                0,
                1,
                3_600_000_000,
                43_200_000_000,
                43_200_500_000,
                86_399_999_999,
                86_400_000_000,
            ]
            .choose(rng)
            .unwrap();
            let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
            let sql = format!(
                "time '{:02}:{:02}:{:02}.{fraction:06}'",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            );
            (Owned::Int(micros), sql)
        }
        SqlType::Timestamp { precision: 3 } => timestamp(
            rng,
            "timestamp",
            &[
                0,
                123_000,
                1_382_400_000_000_000,
                1_388_534_400_000_000,
                POSITIVE_INFINITY,
            ],
        ),
        SqlType::Timestamp { .. } => timestamp(rng, "timestamp", MOMENTS),
        SqlType::Timestamptz { .. } => timestamp(rng, "timestamptz", MOMENTS),
        SqlType::Uuid => text(
            [
                "00000000-0000-0000-0000-000000000000",
                "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "ffffffff-ffff-ffff-ffff-ffffffffffff",
            ]
            .choose(rng)
            .unwrap(),
        ),
        SqlType::Json => text(
            ["{}", "{\"a\": 1}", "[1,  2]", "\"x\""]
                .choose(rng)
                .unwrap(),
        ),
        SqlType::Jsonb => text(
            ["{}", "{\"a\": 1}", "[1, 2]", "\"x\"", "null"]
                .choose(rng)
                .unwrap(),
        ),
        SqlType::Oid => integer(rng, &[0, 1, 16_384, 4_294_967_295]),
        SqlType::Inet => text(
            [
                "10.0.0.1",
                "10.0.0.0/8",
                "::1",
                "2001:db8::/32",
                "::ffff:1.2.3.4",
            ]
            .choose(rng)
            .unwrap(),
        ),
        SqlType::Cidr => text(["10.0.0.0/8", "::/0"].choose(rng).unwrap()),
        SqlType::Macaddr => text(["08:00:2b:01:02:03"].choose(rng).unwrap()),
        SqlType::Xml => text(["<a/>", "中"].choose(rng).unwrap()),
        SqlType::Tsvector => text(["", "'a':1A 'b'"].choose(rng).unwrap()),
        SqlType::Int4range => text(["empty", "[1,5)", "(,)"].choose(rng).unwrap()),
        SqlType::Daterange => text(["[2020-01-01,2020-02-01)"].choose(rng).unwrap()),
        other => panic!("no column is of type {other}"),
    }
}

const FLOAT4: &[f32] = &[
    -0.0,
    0.0,
    1.0,
    1.1,
    -2.5,
    2.0,
    3.0,
    1e10,
    999_999.0,
    1_000_000.0,
    1e-5,
    0.0001,
    16_777_216.0,
    3.4e38,
    1e-45,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
];
const FLOAT8: &[f64] = &[
    -0.0,
    0.0,
    1.0,
    1.1,
    -2.5,
    2.0,
    3.0,
    1e23,
    9e22,
    1e15,
    123_456_789_012_345.0,
    999_999_999_999_999.0,
    1e-5,
    0.0001,
    0.1,
    5e-324,
    9_007_199_254_740_992.0,
    1.797_693_134_862_315_7e308,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];
const MOMENTS: &[i64] = &[
    0,
    1,
    -1,
    1_382_400_000_000_000,
    1_388_534_400_123_456,
    1_388_534_399_999_999,
    -62_167_219_200_000_000,
    -70_000_000_000_000_000,
    4_000_000_000_000_000_000,
    POSITIVE_INFINITY,
    NEGATIVE_INFINITY,
];

fn integer(rng: &mut StdRng, pool: &[i64]) -> (Owned, String) {
    let value = *pool.choose(rng).unwrap();
    (Owned::Int(value), format!("'{value}'"))
}

fn infinity(value: i64, sql_type: &str) -> Option<String> {
    match value {
        POSITIVE_INFINITY => Some(format!("{sql_type} 'infinity'")),
        NEGATIVE_INFINITY => Some(format!("{sql_type} '-infinity'")),
        _ => None,
    }
}

fn timestamp(rng: &mut StdRng, sql_type: &str, pool: &[i64]) -> (Owned, String) {
    let micros = *pool.choose(rng).unwrap();
    let zone = if sql_type == "timestamptz" { "+00" } else { "" };
    let sql = infinity(micros, sql_type).unwrap_or_else(|| {
        let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
        format!("{sql_type} '1970-01-01 00:00:00{zone}' + interval '{days} days' + interval '{rest} microseconds'")
    });
    (Owned::Int(micros), sql)
}

fn text(value: &str) -> (Owned, String) {
    (Owned::Text(value.to_owned()), quoted(value))
}

fn padded(value: &str, length: usize) -> (Owned, String) {
    let blanks = " ".repeat(length - value.chars().count());
    (Owned::Text(format!("{value}{blanks}")), quoted(value))
}

/// Two's complement by repeated halving of the decimal digits: slow, and not the way of the crate.
fn numeric(value: &str) -> (Owned, String) {
    let sql = value.to_owned();
    let value = if value == "1e20" {
        "100000000000000000000"
    } else {
        value
    };
    let negative = value.starts_with('-');
    let bare = value.trim_start_matches('-');
    let scale = bare
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len());
    let mut digits: Vec<u32> = bare
        .chars()
        .filter_map(|digit| digit.to_digit(10))
        .collect();
    let mut bits = Vec::new();
    while digits.iter().any(|digit| *digit != 0) {
        let mut carry = 0;
        for digit in &mut digits {
            let doubled = carry * 10 + *digit;
            *digit = doubled / 2;
            carry = doubled % 2;
        }
        bits.push(carry == 1);
    }
    if negative {
        let first = bits.iter().position(|bit| *bit).unwrap();
        bits[first + 1..].iter_mut().for_each(|bit| *bit = !*bit);
    }
    bits.push(negative);
    while bits.len() % 8 != 0 {
        bits.push(negative);
    }
    let mut bytes: Vec<u8> = bits
        .chunks(8)
        .map(|chunk| {
            chunk
                .iter()
                .rev()
                .fold(0, |byte, bit| byte << 1 | u8::from(*bit))
        })
        .collect();
    bytes.reverse();
    while bytes.len() > 1
        && (bytes[0] == 0 && bytes[1] < 0x80 || bytes[0] == 0xFF && bytes[1] >= 0x80)
    {
        bytes.remove(0);
    }
    (Owned::Numeric(bytes, i32::try_from(scale).unwrap()), sql)
}

pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Creates table `rows` with random rows and returns them.
pub(crate) async fn fill(
    client: &tokio_postgres::Client,
    rng: &mut StdRng,
    count: usize,
    null_share: f64,
) -> Vec<Vec<Owned>> {
    let columns: Vec<String> = COLUMNS
        .iter()
        .map(|(name, sql_type)| format!("{name} {sql_type}"))
        .collect();
    client
        .batch_execute(&format!(
            "create table rows (id int primary key, {})",
            columns.join(", ")
        ))
        .await
        .unwrap();
    let mut rows = Vec::new();
    let mut tuples = Vec::new();
    for id in 0..count {
        let (cells, sql): (Vec<Owned>, Vec<String>) = COLUMNS
            .iter()
            .map(|(_, sql_type)| value(rng, *sql_type, null_share))
            .unzip();
        rows.push(cells);
        tuples.push(format!(
            "insert into rows values ({id}, {});",
            sql.join(", ")
        ));
    }
    client.batch_execute(&tuples.join("\n")).await.unwrap();
    rows
}

/// Returns a literal to compare a column of the type with, and whether it is a string.
pub(crate) fn string_literal(rng: &mut StdRng, sql_type: SqlType) -> String {
    let plain = match sql_type {
        SqlType::Bool => (*["t", "yes", "off", "0", "TRUE"].choose(rng).unwrap()).to_owned(),
        SqlType::Float4 | SqlType::Float8 => (*[
            "1.1",
            "0",
            "-0",
            "NaN",
            "inf",
            "-Infinity",
            "2.5",
            "1e10",
            " 3 ",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        SqlType::Numeric { .. } | SqlType::NumericUnscaled => (*[
            "1.1", "0", "2.5000", "NaN", "Infinity", "-inf", "1e20", "-7", " 2 ",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => {
            (*["0", "1", " 5 ", "-7", "10", "+3", "32767"]
                .choose(rng)
                .unwrap())
            .to_owned()
        }
        SqlType::Char { .. } => (*["", "a", "ab", "ab  ", "20140131", "赋码", "b", "abc\t"]
            .choose(rng)
            .unwrap())
        .to_owned(),
        SqlType::Bytea => (*["", "\\x6162", "a\\\\c", "\\000\\377", "\\xFF", "ab"]
            .choose(rng)
            .unwrap())
        .to_owned(),
        SqlType::Date => (*[
            "1970-01-01",
            "2013-10-22",
            "2014-12-31",
            "infinity",
            "-infinity",
            "0001-01-01",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        SqlType::Time { .. } => (*[
            "00:00",
            "12:00:00.5",
            "24:00:00",
            "01:00:00",
            "23:59:59.999999",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        SqlType::Timestamp { .. } => (*[
            "1970-01-01",
            "2013-10-22 00:00",
            "2014-01-01T00:00:00.123456",
            "infinity",
            "-infinity",
            "1970-01-01 00:00:00.123",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        SqlType::Timestamptz { .. } => (*[
            "1970-01-01 00:00Z",
            "1970-01-01 08:00+08",
            "2013-10-21 20:30:00-03:30",
            "2014-01-01 00:00:00.123456+0000",
            "infinity",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        SqlType::Uuid => (*[
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "00000000-0000-0000-0000-000000000000",
        ]
        .choose(rng)
        .unwrap())
        .to_owned(),
        _ => match value(rng, SqlType::Text, 0.0).0 {
            Owned::Text(text) => text,
            other => panic!("{other:?} is no text"),
        },
    };
    quoted(&plain)
}

/// Returns any literal that may stand beside a column of the type.
pub(crate) fn any_literal(rng: &mut StdRng, sql_type: SqlType) -> String {
    let other: &[&str] = match sql_type {
        SqlType::Bool => &["true", "FALSE"],
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => &[
            "0",
            "1",
            "-7",
            "3",
            "100",
            "2.5",
            "3.0",
            "16777217",
            "2147483648",
            "-9223372036854775808",
            "99999999999999999999",
            "(5)",
            "+2",
        ],
        SqlType::Float4 | SqlType::Float8 => &[
            "0",
            "1.1",
            "-2.5",
            "3",
            "16777217",
            "9007199254740993",
            "1e23",
            ".5",
            "1e10",
        ],
        SqlType::Numeric { .. } | SqlType::NumericUnscaled => &[
            "0",
            "1.1",
            "1.10",
            "-12.5",
            "2",
            "3",
            "1e20",
            "99999999999999.9999",
            "0.00000000000000000001",
        ],
        SqlType::Date => &[
            "DATE '2014-01-01'",
            "date '1970-01-01'",
            "TIMESTAMP '1970-01-01 00:00:00'",
            "timestamp '2014-01-01 12:00'",
            "TIMESTAMP 'infinity'",
        ],
        SqlType::Time { .. } => &["TIME '12:00'", "time without time zone '00:00:00.000001'"],
        SqlType::Timestamp { .. } => &[
            "TIMESTAMP '1970-01-01 00:00:00'",
            "DATE '2014-01-01'",
            "DATE 'infinity'",
        ],
        SqlType::Timestamptz { .. } => &[
            "TIMESTAMP WITH TIME ZONE '1970-01-01 08:00:00+08'",
            "timestamptz '2014-01-01 00:00:00.123456Z'",
        ],
        _ => &[],
    };
    if other.is_empty() || rng.random_bool(0.4) {
        string_literal(rng, sql_type)
    } else {
        (*other.choose(rng).unwrap()).to_owned()
    }
}

/// Checks that the seeds of numbers are what the crate parses them to, for the error messages.
#[test]
fn numbers_are_twos_complement() {
    for text in [
        "0",
        "127",
        "128",
        "-128",
        "-129",
        "-9223372036854775809",
        "1.10",
    ] {
        let (Owned::Numeric(unscaled, scale), _) = numeric(text) else {
            panic!("{text}")
        };
        let mut written = String::new();
        let cell = Cell::Numeric(Numeric {
            unscaled: &unscaled,
            scale,
        });
        assert!(hutong_policies::text::write(
            SqlType::NumericUnscaled,
            cell,
            &mut written
        ));
        assert_eq!(written, text);
    }
    assert!(literal::integer("12", 0, 20).is_ok());
}
