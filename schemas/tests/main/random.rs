//! Random tables and rows, and what they should be in Avro.

use apache_avro::Decimal;
use apache_avro::types::Value;
use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use hutong_schemas::composite::{ArrayWriter, Figure};
use hutong_schemas::envelope::{EventSource, Op, SnapshotMark};
use hutong_schemas::position::Lsn;
use hutong_schemas::sql_type::{Element, SqlType};
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
    /// The elements, and the cell.
    Array(Vec<Owned>, Vec<u8>),
    /// The figure, and the cell.
    Figure(Figure, Vec<u8>),
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
            Self::Array(_, cell) | Self::Figure(_, cell) => Cell::Composite(cell),
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
        SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => {
            any::<bool>().prop_map(Owned::Bool).boxed()
        }
        SqlType::Bit { .. } | SqlType::Varbit { .. } => {
            vec(any::<u8>(), 0..9).prop_map(Owned::Bytes).boxed()
        }
        SqlType::Oid => any::<u32>().prop_map(|oid| Owned::Int(oid.into())).boxed(),
        SqlType::Money => any::<i64>()
            .prop_map(|cents| Owned::Numeric(shortest(cents.to_be_bytes().to_vec()), 2))
            .boxed(),
        SqlType::Interval => any::<i64>().prop_map(Owned::Int).boxed(),
        SqlType::Timetz { precision } => time(precision).boxed(),
        SqlType::Array { element } => array(element),
        SqlType::Point => doubles()
            .prop_map(move |[x, y, _]| figure(sql_type, Figure::Point([x, y])))
            .boxed(),
        SqlType::Line => doubles()
            .prop_map(move |line| figure(sql_type, Figure::Line(line)))
            .boxed(),
        SqlType::Circle => doubles()
            .prop_map(move |circle| figure(sql_type, Figure::Circle(circle)))
            .boxed(),
        SqlType::Lseg | SqlType::Box => points(sql_type, 2..3),
        SqlType::Path | SqlType::Polygon => points(sql_type, 1..6),
        SqlType::Text
        | SqlType::Varchar { .. }
        | SqlType::Char { .. }
        | SqlType::Enum
        | SqlType::Inet
        | SqlType::Cidr
        | SqlType::Macaddr
        | SqlType::Macaddr8
        | SqlType::Xml
        | SqlType::Tsvector
        | SqlType::Citext
        | SqlType::Ltree
        | SqlType::Hstore
        | SqlType::Int4range
        | SqlType::Int8range
        | SqlType::Numrange
        | SqlType::Tsrange
        | SqlType::Tstzrange
        | SqlType::Daterange => prop_oneof![
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

fn array(element: Element) -> BoxedStrategy<Owned> {
    let item = prop_oneof![
        6 => value(element.into()),
        1 => Just(Owned::Null),
    ];
    vec(item, 0..6)
        .prop_map(move |items| {
            let mut array = ArrayWriter::new(element);
            for item in &items {
                array
                    .push(&item.cell())
                    .expect("the cell is of the element's type");
            }
            Owned::Array(items, array.finish())
        })
        .boxed()
}

fn figure(sql_type: SqlType, figure: Figure) -> Owned {
    let cell = figure.to_cell(sql_type).expect("the figure is of the type");
    Owned::Figure(figure, cell)
}

/// No NaN, which would not equal itself.
fn double() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        select(&[0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 1.0][..]),
    ]
}

fn doubles() -> impl Strategy<Value = [f64; 3]> {
    [double(), double(), double()]
}

fn points(sql_type: SqlType, count: std::ops::Range<usize>) -> BoxedStrategy<Owned> {
    (vec([double(), double()], count), any::<bool>())
        .prop_filter(
            "a polygon's form cannot say that its points return",
            move |(points, _)| {
                sql_type != SqlType::Polygon || points.len() == 1 || points.first() != points.last()
            },
        )
        .prop_map(move |(points, is_closed)| {
            let is_closed = match sql_type {
                SqlType::Path => is_closed,
                _ => sql_type == SqlType::Polygon,
            };
            figure(sql_type, Figure::Points { points, is_closed })
        })
        .boxed()
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
                labels: vec!["one".to_owned(), "more, perhaps".to_owned()],
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
        let required = (0..columns.len()).filter(|index| {
            let Column {
                nullable, sql_type, ..
            } = columns[*index];
            !nullable && !sql_type.loses_values() && !sql_type.is_geometric()
        });
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
    matches!(
        sql_type,
        SqlType::Numeric { .. }
            | SqlType::NumericUnscaled
            | SqlType::Text
            | SqlType::Varchar { .. }
            | SqlType::Char { .. }
            | SqlType::Bytea
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Varbit { length: None }
            | SqlType::Xml
            | SqlType::Tsvector
            | SqlType::Hstore
            | SqlType::Numrange
            | SqlType::Path
            | SqlType::Polygon
            | SqlType::Array { .. }
    )
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
        (SqlType::Array { element }, Owned::Array(items, _)) => {
            let items = items.iter().map(|item| match item {
                Owned::Null => Value::Union(0, Box::new(Value::Null)),
                item => Value::Union(1, Box::new(avro(element.into(), item))),
            });
            Value::Array(items.collect())
        }
        (SqlType::Array { element }, _) => Value::Array(placeholder_items(element.into())),
        (_, Owned::Figure(figure, _)) => figure_value(sql_type, figure),
        (SqlType::Path | SqlType::Polygon, _) => geometry(UNAVAILABLE.into(), None),
        (SqlType::Varbit { .. }, Owned::Unavailable) => Value::Bytes(UNAVAILABLE.into()),
        (_, Owned::Array(..)) => unreachable!("an array is of an array's type"),
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

fn placeholder_items(sql_type: SqlType) -> Vec<Value> {
    let item = |value| Value::Union(1, Box::new(value));
    let number = |byte: u8| -> Option<Value> {
        let number = match sql_type {
            SqlType::Bool => Value::Boolean(byte % 2 == 1),
            SqlType::Int2 | SqlType::Int4 | SqlType::Date => Value::Int(byte.into()),
            SqlType::Float4 => Value::Float(byte.into()),
            SqlType::Float8 => Value::Double(byte.into()),
            SqlType::Int8
            | SqlType::Interval
            | SqlType::Time { precision: 6 }
            | SqlType::Timestamp { .. } => Value::Long(byte.into()),
            _ => return None,
        };
        Some(item(number))
    };
    let numbers: Option<Vec<Value>> = UNAVAILABLE.bytes().map(number).collect();
    numbers.unwrap_or_else(|| vec![item(avro(sql_type, &Owned::Unavailable))])
}

fn figure_value(sql_type: SqlType, figure: &Figure) -> Value {
    let double = |name: &str, value: f64| (name.to_owned(), Value::Double(value));
    let record = |names: [&str; 3], values: &[f64; 3]| {
        let fields = names.iter().zip(values);
        Value::Record(fields.map(|(name, value)| double(name, *value)).collect())
    };
    let wkb = |kind: u8, points: &[[f64; 2]]| {
        let mut wkb = vec![1, kind, 0, 0, 0];
        let count = u8::try_from(points.len()).expect("few points");
        match kind {
            1 => {}
            2 => wkb.extend([count, 0, 0, 0]),
            _ => wkb.extend([1, 0, 0, 0, count, 0, 0, 0]),
        }
        wkb.extend(points.concat().into_iter().flat_map(f64::to_le_bytes));
        wkb
    };
    let point = |x: f64, y: f64| {
        let wkb = Value::Bytes(wkb(1, &[[x, y]]));
        Value::Record(vec![
            double("x", x),
            double("y", y),
            ("wkb".to_owned(), Value::Union(1, Box::new(wkb))),
            ("srid".to_owned(), Value::Union(0, Box::new(Value::Null))),
        ])
    };
    match figure {
        Figure::Point([x, y]) => point(*x, *y),
        Figure::Line(line) => record(["a", "b", "c"], line),
        Figure::Circle([x, y, radius]) => Value::Record(vec![
            ("center".to_owned(), point(*x, *y)),
            double("radius", *radius),
        ]),
        Figure::Points { points, is_closed } => {
            let mut points = points.clone();
            let closed = is_closed.to_string();
            let (kind, closed) = match sql_type {
                SqlType::Box => {
                    let ([x1, y1], [x2, y2]) = (points[0], points[1]);
                    points = vec![[x1, y1], [x1, y2], [x2, y2], [x2, y1], [x1, y1]];
                    (3, None)
                }
                SqlType::Polygon => {
                    if points.first() != points.last() {
                        points.push(points[0]);
                    }
                    (3, None)
                }
                SqlType::Path => (2, Some(closed)),
                _ => (2, None),
            };
            geometry(wkb(kind, &points), Some((sql_type.to_string(), closed)))
        }
    }
}

fn geometry(wkb: Vec<u8>, extensions: Option<(String, Option<String>)>) -> Value {
    let extensions = match extensions {
        None => Value::Union(0, Box::new(Value::Null)),
        Some((kind, closed)) => {
            let closed = closed.map(|closed| ("closed".to_owned(), Value::String(closed)));
            let kind = ("type".to_owned(), Value::String(kind));
            let map = [kind].into_iter().chain(closed).collect();
            Value::Union(1, Box::new(Value::Map(map)))
        }
    };
    Value::Record(vec![
        ("wkb".to_owned(), Value::Bytes(wkb)),
        ("srid".to_owned(), Value::Union(0, Box::new(Value::Null))),
        ("extensions".to_owned(), extensions),
    ])
}

/// `24:00:00Z`, with the digits of the fraction that it needs.
fn time_at_utc(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let clock = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let fraction = format!(".{:06}", micros % 1_000_000);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{clock}{fraction}Z")
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
        (SqlType::Timetz { .. }, micros) => Value::String(time_at_utc(micros)),
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
    use hutong_schemas::sql_type::Type::{
        Bit, Char, Json, Jsonb, Text, Time, Timestamp, Timestamptz, Uuid,
    };
    use hutong_schemas::sql_type::Type::{
        Bool, Date, Enum, Float4, Float8, Int2, Int4, Int8, Interval,
    };
    use hutong_schemas::sql_type::Type::{Numeric, Varbit, Varchar, Xml};
    let has_some = matches!(
        column.sql_type,
        Bool | Int2
            | Int4
            | Int8
            | Float4
            | Float8
            | Text
            | Uuid
            | Json
            | Jsonb
            | Xml
            | Date
            | Interval
            | Bit { .. }
            | Varbit { .. }
            | Numeric { scale: 0.., .. }
            | Varchar { .. }
            | Char { .. }
            | Time { .. }
            | Timestamp { .. }
            | Timestamptz { .. }
    );
    let shows = has_some || (column.sql_type == Enum && column.default.is_some());
    shows && (column.default.is_some() || column.has_default_expression)
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
        SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => Owned::Bool(false),
        SqlType::Bit { .. } | SqlType::Varbit { .. } => Owned::Bytes(Vec::new()),
        SqlType::Money => Owned::Numeric(vec![0], 2),
        SqlType::Array { element } => Owned::Array(Vec::new(), ArrayWriter::new(element).finish()),
        SqlType::Point => figure(column.sql_type, Figure::Point([0.0; 2])),
        SqlType::Hstore => Owned::Text("{}".to_owned()),
        SqlType::Enum
        | SqlType::Inet
        | SqlType::Cidr
        | SqlType::Macaddr
        | SqlType::Macaddr8
        | SqlType::Xml
        | SqlType::Tsvector
        | SqlType::Citext
        | SqlType::Ltree
        | SqlType::Int4range
        | SqlType::Int8range
        | SqlType::Numrange
        | SqlType::Tsrange
        | SqlType::Tstzrange
        | SqlType::Daterange => Owned::Text(String::new()),
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
        SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => {
            Value::Boolean(default.as_bool().expect("the default is a boolean"))
        }
        SqlType::Bit { .. } | SqlType::Varbit { .. } => {
            let text = default.as_str().expect("the default is text");
            let bytes = text.chars().map(u8::try_from);
            Value::Bytes(
                bytes
                    .collect::<Result<_, _>>()
                    .expect("the characters are bytes"),
            )
        }
        SqlType::Int8 | SqlType::Interval | SqlType::Time { .. } | SqlType::Timestamp { .. } => {
            Value::Long(long())
        }
        _ => Value::String(default.as_str().expect("the default is text").to_owned()),
    }
}

/// Whether Debezium lets a field be null although its column is NOT NULL.
pub(crate) fn is_optional(column: &Column) -> bool {
    use hutong_schemas::sql_type::Type::{Box, Circle, Line, Lseg, Path, Polygon};
    column.nullable || matches!(column.sql_type, Box | Circle | Line | Lseg | Path | Polygon)
}
