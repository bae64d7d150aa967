//! Random tables and rows, and what they should be in Avro.

use apache_avro::Decimal;
use apache_avro::types::Value;
use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use hutong_schemas::envelope::{EventSource, Op, SnapshotMark};
use hutong_schemas::position::Lsn;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, DefaultValue, TableId, TableSchema};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::tables::every_sql_type;

pub(crate) const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// A cell that owns its bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Owned {
    Null,
    Unavailable,
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
            Self::Unavailable => Cell::Unavailable,
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

pub(crate) fn cells(row: &[Owned]) -> Vec<Cell<'_>> {
    row.iter().map(Owned::cell).collect()
}

/// Equal to the bit, so that NaN equals itself.
pub(crate) fn same(left: &[Cell<'_>], right: &[Cell<'_>]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|pair| match pair {
            (Cell::Float4(left), Cell::Float4(right)) => left.to_bits() == right.to_bits(),
            (Cell::Float8(left), Cell::Float8(right)) => left.to_bits() == right.to_bits(),
            (Cell::Unavailable, Cell::Unavailable) => true,
            (left, right) => left == right,
        })
}

const DAY_US: i64 = 86_400_000_000;
/// Years -9999 to 19999 or so, which the oracle's calendar walks through in reasonable time.
const INSTANT_US_MAX: i64 = 570_000_000_000_000_000;

/// Values that a column of this type may hold.
pub(crate) fn value(sql_type: SqlType) -> BoxedStrategy<Owned> {
    let time = |precision: u8| {
        let unit = 10i64.pow(6 - u32::from(precision));
        (0..=DAY_US / unit).prop_map(move |count| Owned::Int(count * unit))
    };
    let instant = |precision: u8| {
        let unit = 10i64.pow(6 - u32::from(precision));
        let most = INSTANT_US_MAX / unit;
        prop_oneof![
            20 => (-most..most).prop_map(move |count| Owned::Int(count * unit)),
            5 => (-1_000_000..1_000_000i64).prop_map(move |count| Owned::Int(count * unit)),
            1 => select(&[POSITIVE_INFINITY, NEGATIVE_INFINITY][..]).prop_map(Owned::Int),
        ]
    };
    let number = || {
        prop_oneof![
            vec(any::<u8>(), 1..20),
            any::<i64>().prop_map(|value| value.to_be_bytes().to_vec())
        ]
        .prop_map(shortest)
    };
    match sql_type {
        SqlType::Bool => any::<bool>().prop_map(Owned::Bool).boxed(),
        SqlType::Int2 => any::<i16>()
            .prop_map(|value| Owned::Int(value.into()))
            .boxed(),
        SqlType::Int4 => any::<i32>()
            .prop_map(|value| Owned::Int(value.into()))
            .boxed(),
        SqlType::Int8 => any::<i64>().prop_map(Owned::Int).boxed(),
        SqlType::Float4 => any::<u32>()
            .prop_map(|bits| Owned::Float4(f32::from_bits(bits)))
            .boxed(),
        SqlType::Float8 => any::<u64>()
            .prop_map(|bits| Owned::Float8(f64::from_bits(bits)))
            .boxed(),
        SqlType::Numeric { scale, .. } => number()
            .prop_map(move |unscaled| Owned::Numeric(unscaled, scale.into()))
            .boxed(),
        SqlType::NumericUnscaled => (number(), 0..16_384i32)
            .prop_map(|(unscaled, scale)| Owned::Numeric(unscaled, scale))
            .boxed(),
        SqlType::Uuid => any::<u128>()
            .prop_map(|bits| {
                let hex = format!("{bits:032x}");
                let parts = [
                    &hex[..8],
                    &hex[8..12],
                    &hex[12..16],
                    &hex[16..20],
                    &hex[20..],
                ];
                Owned::Text(parts.join("-"))
            })
            .boxed(),
        SqlType::Json | SqlType::Jsonb => any::<String>()
            .prop_map(|text| Owned::Text(serde_json::Value::from(text).to_string()))
            .boxed(),
        SqlType::Text | SqlType::Varchar { .. } | SqlType::Char { .. } => prop_oneof![
            8 => any::<String>(),
            1 => Just("x".repeat(5000)),
        ]
        .prop_map(Owned::Text)
        .boxed(),
        SqlType::Bytea => vec(any::<u8>(), 0..200).prop_map(Owned::Bytes).boxed(),
        SqlType::Date => prop_oneof![
            10 => (i32::MIN + 1..i32::MAX).prop_map(|days| Owned::Int(days.into())),
            1 => select(&[POSITIVE_INFINITY, NEGATIVE_INFINITY][..]).prop_map(Owned::Int),
        ]
        .boxed(),
        SqlType::Time { precision } => time(precision).boxed(),
        SqlType::Timestamp { precision } | SqlType::Timestamptz { precision } => {
            instant(precision).boxed()
        }
    }
}

fn shortest(bytes: Vec<u8>) -> Vec<u8> {
    let redundant = bytes
        .windows(2)
        .take_while(|pair| (pair[0] == 0 && pair[1] < 0x80) || (pair[0] == 0xFF && pair[1] >= 0x80))
        .count();
    bytes[redundant..].to_vec()
}

fn column() -> impl Strategy<Value = Column> {
    let typed = select(every_sql_type())
        .prop_flat_map(|sql_type| (Just(sql_type), option::weighted(0.25, value(sql_type))));
    (typed, any::<bool>(), proptest::bool::weighted(0.15)).prop_map(
        |((sql_type, default), nullable, has_default_expression)| {
            let default = default.and_then(|cell| DefaultValue::from_cell(sql_type, &cell.cell()));
            Column {
                name: String::new(),
                attnum: 0,
                sql_type,
                nullable,
                has_default_expression: has_default_expression && default.is_none(),
                default,
            }
        },
    )
}

/// A table of 1 to 15 columns, some of those that are NOT NULL being its key, in any order.
pub(crate) fn table() -> impl Strategy<Value = TableSchema> {
    (vec(column(), 1..16), any::<u64>()).prop_map(|(mut columns, choice)| {
        for (attnum, column) in (1..).zip(&mut columns) {
            column.attnum = attnum;
            column.name = format!("c{attnum}");
        }
        let required = (0..columns.len()).filter(|index| !columns[*index].nullable);
        let mut key: Vec<usize> = required.filter(|index| choice >> index & 1 == 1).collect();
        if choice >> 63 == 1 {
            key.reverse();
        }
        TableSchema {
            id: TableId {
                schema: "s".to_owned(),
                table: "t".to_owned(),
            },
            oid: 1,
            columns,
            key,
        }
    })
}

/// A row that the source sent, where large values may be missing.
pub(crate) fn row(table: &TableSchema) -> BoxedStrategy<Vec<Owned>> {
    let columns = table.columns.iter().enumerate().map(|(index, column)| {
        let is_key = table.key.contains(&index);
        let can_miss = can_be_unavailable(column.sql_type) && !is_key;
        prop_oneof![
            8 => value(column.sql_type),
            if column.nullable { 2 } else { 0 } => Just(Owned::Null),
            if can_miss { 1 } else { 0 } => Just(Owned::Unavailable),
        ]
        .boxed()
    });
    columns.collect::<Vec<_>>().boxed()
}

fn can_be_unavailable(sql_type: SqlType) -> bool {
    match sql_type {
        SqlType::Numeric { .. }
        | SqlType::NumericUnscaled
        | SqlType::Text
        | SqlType::Varchar { .. }
        | SqlType::Char { .. }
        | SqlType::Bytea
        | SqlType::Json
        | SqlType::Jsonb => true,
        SqlType::Bool
        | SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::Date
        | SqlType::Time { .. }
        | SqlType::Timestamp { .. }
        | SqlType::Timestamptz { .. }
        | SqlType::Uuid => false,
    }
}

/// The same row as a source logs it that only logs the key.
pub(crate) fn key_only(table: &TableSchema, row: &[Owned]) -> Vec<Owned> {
    let cells = row.iter().enumerate();
    cells
        .map(|(index, cell)| {
            if table.key.contains(&index) {
                cell.clone()
            } else {
                Owned::Null
            }
        })
        .collect()
}

pub(crate) fn source() -> impl Strategy<Value = EventSource> {
    let marks = vec![
        SnapshotMark::False,
        SnapshotMark::First,
        SnapshotMark::True,
        SnapshotMark::FirstInDataCollection,
        SnapshotMark::LastInDataCollection,
        SnapshotMark::Last,
        SnapshotMark::Incremental,
    ];
    let time = -4_000_000_000_000_000..4_000_000_000_000_000i64;
    let lsn = || option::of(any::<u64>().prop_map(Lsn));
    let tx_id = option::of(any::<i64>());
    (time.clone(), select(marks), tx_id, lsn(), lsn(), time).prop_map(
        |(ts_us, snapshot, tx_id, lsn, last_commit_lsn, now_us)| EventSource {
            ts_us,
            snapshot,
            tx_id,
            lsn,
            last_commit_lsn,
            now_us,
        },
    )
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    select(&[Op::Create, Op::Update, Op::Delete, Op::Read, Op::Truncate][..])
}

/// The value that a column's cell is in Avro, without the union of a nullable column.
pub(crate) fn avro(sql_type: SqlType, cell: &Owned) -> Value {
    match (sql_type, cell) {
        (SqlType::Numeric { scale: ..0, .. } | SqlType::NumericUnscaled, _) => {
            let (unscaled, scale) = match cell {
                Owned::Numeric(unscaled, scale) => (unscaled.clone(), *scale),
                _ => (UNAVAILABLE.into(), 0),
            };
            Value::Record(vec![
                ("scale".to_owned(), Value::Int(scale)),
                ("value".to_owned(), Value::Bytes(unscaled)),
            ])
        }
        (_, Owned::Numeric(unscaled, _)) => Value::Decimal(Decimal::from(unscaled)),
        (SqlType::Numeric { .. }, _) => Value::Decimal(Decimal::from(UNAVAILABLE.as_bytes())),
        (SqlType::Bytea, Owned::Unavailable) => Value::Bytes(UNAVAILABLE.into()),
        (_, Owned::Unavailable) => Value::String(UNAVAILABLE.to_owned()),
        (_, Owned::Bool(value)) => Value::Boolean(*value),
        (_, Owned::Float4(value)) => Value::Float(*value),
        (_, Owned::Float8(value)) => Value::Double(*value),
        (_, Owned::Text(text)) => Value::String(text.clone()),
        (_, Owned::Bytes(bytes)) => Value::Bytes(bytes.clone()),
        (_, Owned::Int(value)) => integer(sql_type, *value),
        (_, Owned::Null) => Value::Null,
    }
}

fn integer(sql_type: SqlType, value: i64) -> Value {
    let int = |value: i64| Value::Int(i32::try_from(value).expect("the value is in range"));
    match (sql_type, value) {
        (SqlType::Int2 | SqlType::Int4, _) => int(value),
        (SqlType::Date, POSITIVE_INFINITY) => Value::Int(i32::MAX),
        (SqlType::Date, NEGATIVE_INFINITY) => Value::Int(i32::MIN),
        (SqlType::Date, days) => int(days),
        (SqlType::Time { precision: 0..=3 }, micros) => int(micros / 1000),
        (SqlType::Timestamp { precision: 0..=3 }, POSITIVE_INFINITY) => {
            Value::Long(9_223_372_036_825_200_000)
        }
        (SqlType::Timestamp { precision: 0..=3 }, NEGATIVE_INFINITY) => {
            Value::Long(-9_223_372_036_832_400_000)
        }
        (SqlType::Timestamp { precision: 0..=3 }, micros) => Value::Long(micros / 1000),
        (SqlType::Timestamptz { precision }, micros) => Value::String(instant(micros, precision)),
        (_, value) => Value::Long(value),
    }
}

/// Walks the calendar year by year and month by month.
fn instant(micros: i64, precision: u8) -> String {
    match micros {
        POSITIVE_INFINITY => return "infinity".to_owned(),
        NEGATIVE_INFINITY => return "-infinity".to_owned(),
        _ => {}
    }
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut days, time) = (micros.div_euclid(DAY_US), micros.rem_euclid(DAY_US));
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        let length_before = if is_leap(year - 1) { 366 } else { 365 };
        if days < 0 {
            year -= 1;
            days += length_before;
        } else if days >= length {
            year += 1;
            days -= length;
        } else {
            break;
        }
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let year = match year {
        10_000.. => format!("+{year}"),
        0.. => format!("{year:04}"),
        _ => format!("-{:04}", -year),
    };
    let seconds = time / 1_000_000;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = format!(".{:06}", time % 1_000_000);
    let fraction = match precision {
        0 => "",
        precision => &fraction[..=usize::from(precision)],
    };
    let day = days + 1;
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The default that the schema shows, as apache-avro's value.
pub(crate) fn shows_default(column: &Column) -> bool {
    let has_none = matches!(
        column.sql_type,
        SqlType::Bytea | SqlType::NumericUnscaled | SqlType::Numeric { scale: ..0, .. }
    );
    !has_none && (column.default.is_some() || column.has_default_expression)
}

/// What stands for an unknown value of a column that cannot be NULL.
pub(crate) fn unknown(column: &Column) -> Value {
    if let Some(default) = column.default.as_ref().filter(|_| shows_default(column)) {
        return default_value(column.sql_type, &default.0);
    }
    let is_expression = column.has_default_expression;
    let zero = match column.sql_type {
        SqlType::Bool => Owned::Bool(false),
        SqlType::Float4 => Owned::Float4(0.0),
        SqlType::Float8 => Owned::Float8(0.0),
        SqlType::Numeric { scale: ..0, .. } | SqlType::NumericUnscaled => {
            Owned::Numeric(vec![0], 0)
        }
        SqlType::Numeric { scale, .. } => Owned::Numeric(vec![0], scale.into()),
        SqlType::Uuid if is_expression => {
            Owned::Text("00000000-0000-0000-0000-000000000000".to_owned())
        }
        SqlType::Json | SqlType::Jsonb if is_expression => Owned::Text("{}".to_owned()),
        SqlType::Text
        | SqlType::Varchar { .. }
        | SqlType::Char { .. }
        | SqlType::Uuid
        | SqlType::Json
        | SqlType::Jsonb => Owned::Text(String::new()),
        SqlType::Bytea => Owned::Bytes(Vec::new()),
        SqlType::Timestamptz { .. } if !is_expression => {
            return Value::String("1970-01-01T00:00:00Z".to_owned());
        }
        _ => Owned::Int(0),
    };
    avro(column.sql_type, &zero)
}

fn default_value(sql_type: SqlType, default: &serde_json::Value) -> Value {
    let long = || default.as_i64().expect("the default is a number");
    let int = || Value::Int(i32::try_from(long()).expect("the default is in range"));
    match sql_type {
        SqlType::Bool => Value::Boolean(default.as_bool().expect("the default is a boolean")),
        SqlType::Int2 | SqlType::Int4 | SqlType::Date | SqlType::Time { precision: 0..=3 } => int(),
        SqlType::Float4 => {
            let text = default.to_string();
            Value::Float(text.parse().expect("the default is a number"))
        }
        SqlType::Float8 => Value::Double(default.as_f64().expect("the default is a number")),
        SqlType::Numeric { .. } => {
            let text = default.as_str().expect("the default is text");
            let bytes: Vec<u8> = text
                .chars()
                .map(|char| u8::try_from(char).expect("the characters are bytes"))
                .collect();
            Value::Decimal(Decimal::from(bytes))
        }
        SqlType::Int8 | SqlType::Time { .. } | SqlType::Timestamp { .. } => Value::Long(long()),
        _ => Value::String(default.as_str().expect("the default is text").to_owned()),
    }
}
