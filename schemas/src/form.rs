//! How each SQL type stands in Avro: Debezium's mapping with its default settings.
//!
//! | SQL type | Avro | `connect.name` |
//! |---|---|---|
//! | `boolean` | boolean | |
//! | `smallint` | int, `connect.type` int16 | |
//! | `integer` / `bigint` | int / long | |
//! | `real` / `double precision` | float / double | |
//! | `numeric(p,s)`, s ≥ 0 | bytes, decimal | `org.apache.kafka.connect.data.Decimal` |
//! | `numeric`, `numeric(p,s)` with s < 0 | record of scale and value | `io.debezium.data.VariableScaleDecimal` |
//! | `text`, `varchar`, `char` | string | |
//! | `uuid` / `json`, `jsonb` | string | `io.debezium.data.Uuid` / `….Json` |
//! | `bytea` | bytes | |
//! | `date` | int: days | `io.debezium.time.Date` |
//! | `time(0..3)` / `time(4..6)` | int: ms / long: µs | `io.debezium.time.Time` / `….MicroTime` |
//! | `timestamp(0..3)` / `timestamp(4..6)` | long: ms / long: µs | `io.debezium.time.Timestamp` / `….MicroTimestamp` |
//! | `timestamptz` | string: ISO in UTC | `io.debezium.time.ZonedTimestamp` |
//! | `timetz` | string: ISO in UTC | `io.debezium.time.ZonedTime` |
//! | `interval` | long: µs | `io.debezium.time.MicroDuration` |
//! | `bit(1)`, `varbit(1)` / other bits | boolean / bytes, little-endian, shortest | / `io.debezium.data.Bits` |
//! | `oid` | long | |
//! | `money` | bytes, decimal of scale 2 | `org.apache.kafka.connect.data.Decimal` |
//! | enum | string, its labels in the schema | `io.debezium.data.Enum` |
//! | `inet`, `cidr`, `macaddr`, `macaddr8`, ranges, `citext` | string | |
//! | `xml` / `tsvector` / `ltree` / `hstore` | string | `io.debezium.data.Xml` / `….TsVector` / `….Ltree` / `….Json` |
//! | `point` | record of x, y, WKB | `io.debezium.data.geometry.Point` |
//! | `box`, `lseg`, `path`, `polygon` | record of WKB and what tells them apart | `….Geometry` |
//! | `circle` / `line` | record | `….Circle` / `….Line` |
//! | array | array of its elements, each of which may be null | |
//!
//! Debezium allows no null in an array of enums; we do, or such an array could not be carried.
//!
//! Debezium has no right form for a negative scale (it announces 2048 too much), and Avro's decimal
//! allows none, so there the exact form without a scale is used.
//!
//! Which defaults appear in a schema is Debezium's choice too: none for `bytea` and for numbers
//! without scale; an expression shows as the zero of its type.

use serde_json::{Value, json};

use crate::binary::{put_bytes, put_long};
use crate::cell::{Cell, NEGATIVE_INFINITY, POSITIVE_INFINITY};
use crate::composite::{self, Figure};
use crate::datetime::{format_instant, format_time};
use crate::sql_type::{Element, SqlType};

/// The encoding of a type's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float,
    Double,
    Decimal { scale: i32 },
    VariableDecimal,
    String,
    Bytes,
    Date,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    ZonedTimestamp { fraction_digits: u8 },
    ZonedTime,
    Bits,
    Point,
    Geometry,
    Circle,
    Line,
    Array { element: Element },
}

pub(crate) const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";
pub(crate) const VARIABLE_DECIMAL: &str = "io.debezium.data.VariableScaleDecimal";
pub(crate) const UUID: &str = "io.debezium.data.Uuid";
pub(crate) const JSON: &str = "io.debezium.data.Json";
pub(crate) const DATE: &str = "io.debezium.time.Date";
pub(crate) const TIME: &str = "io.debezium.time.Time";
pub(crate) const MICRO_TIME: &str = "io.debezium.time.MicroTime";
pub(crate) const TIMESTAMP: &str = "io.debezium.time.Timestamp";
pub(crate) const MICRO_TIMESTAMP: &str = "io.debezium.time.MicroTimestamp";
pub(crate) const ZONED_TIMESTAMP: &str = "io.debezium.time.ZonedTimestamp";
pub(crate) const ZONED_TIME: &str = "io.debezium.time.ZonedTime";
pub(crate) const MICRO_DURATION: &str = "io.debezium.time.MicroDuration";
pub(crate) const BITS: &str = "io.debezium.data.Bits";
pub(crate) const ENUM: &str = "io.debezium.data.Enum";
pub(crate) const XML: &str = "io.debezium.data.Xml";
pub(crate) const TSVECTOR: &str = "io.debezium.data.Tsvector";
pub(crate) const LTREE: &str = "io.debezium.data.Ltree";
pub(crate) const POINT: &str = "io.debezium.data.geometry.Point";
pub(crate) const GEOMETRY: &str = "io.debezium.data.geometry.Geometry";
pub(crate) const CIRCLE: &str = "io.debezium.data.geometry.Circle";
pub(crate) const LINE: &str = "io.debezium.data.geometry.Line";

/// The digits behind the point of `money`: Debezium's `money.fraction.digits`.
pub(crate) const MONEY_SCALE: u8 = 2;

/// The attribute that carries a view column's SQL type: of its type, or of the field where the type
/// is a named one.
pub(crate) const SQL_TYPE_ATTRIBUTE: &str = "hutong.sql.type";

impl Form {
    pub(crate) fn of(sql_type: SqlType) -> Self {
        match sql_type {
            SqlType::Bool | SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => {
                Self::Boolean
            }
            SqlType::Bit { .. } | SqlType::Varbit { .. } => Self::Bits,
            SqlType::Int2 => Self::Int16,
            SqlType::Int4 => Self::Int32,
            SqlType::Int8 | SqlType::Oid | SqlType::Interval => Self::Int64,
            SqlType::Money => Self::Decimal {
                scale: i32::from(MONEY_SCALE),
            },
            SqlType::Float4 => Self::Float,
            SqlType::Float8 => Self::Double,
            SqlType::Numeric { scale, .. } if scale >= 0 => Self::Decimal {
                scale: i32::from(scale),
            },
            SqlType::Numeric { .. } | SqlType::NumericUnscaled => Self::VariableDecimal,
            SqlType::Text
            | SqlType::Varchar { .. }
            | SqlType::Char { .. }
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Jsonb
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
            | SqlType::Daterange => Self::String,
            SqlType::Bytea => Self::Bytes,
            SqlType::Date => Self::Date,
            SqlType::Time { precision: 0..=3 } => Self::TimeMillis,
            SqlType::Time { .. } => Self::TimeMicros,
            SqlType::Timestamp { precision: 0..=3 } => Self::TimestampMillis,
            SqlType::Timestamp { .. } => Self::TimestampMicros,
            SqlType::Timestamptz { precision } => Self::ZonedTimestamp {
                fraction_digits: precision,
            },
            SqlType::Timetz { .. } => Self::ZonedTime,
            SqlType::Point => Self::Point,
            SqlType::Lseg | SqlType::Box | SqlType::Path | SqlType::Polygon => Self::Geometry,
            SqlType::Circle => Self::Circle,
            SqlType::Line => Self::Line,
            SqlType::Array { element } => Self::Array { element },
        }
    }

    /// Whether a value has parts.
    pub(crate) fn is_composite(self) -> bool {
        matches!(
            self,
            Self::Point | Self::Geometry | Self::Circle | Self::Line | Self::Array { .. }
        )
    }

    /// Whether Debezium makes every field of the form optional, whatever the column is.
    pub(crate) fn is_always_optional(self) -> bool {
        matches!(self, Self::Geometry | Self::Circle | Self::Line)
    }

    /// Whether the type is a record with a name.
    pub(crate) fn is_record(self) -> bool {
        self == Self::VariableDecimal
            || (self.is_composite() && !matches!(self, Self::Array { .. }))
    }

    pub(crate) fn avro_type(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Int16 | Self::Int32 | Self::Date | Self::TimeMillis => "int",
            Self::Int64 | Self::TimeMicros | Self::TimestampMillis | Self::TimestampMicros => {
                "long"
            }
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { .. } | Self::Bytes | Self::Bits => "bytes",
            Self::VariableDecimal | Self::Point | Self::Geometry | Self::Circle | Self::Line => {
                "record"
            }
            Self::String | Self::ZonedTimestamp { .. } | Self::ZonedTime => "string",
            Self::Array { .. } => "array",
        }
    }
}

pub(crate) fn connect_name(sql_type: SqlType) -> Option<&'static str> {
    match Form::of(sql_type) {
        Form::Boolean
        | Form::Int16
        | Form::Int32
        | Form::Float
        | Form::Double
        | Form::Bytes
        | Form::Array { .. } => None,
        Form::Int64 => (sql_type == SqlType::Interval).then_some(MICRO_DURATION),
        Form::String => match sql_type {
            SqlType::Uuid => Some(UUID),
            SqlType::Json | SqlType::Jsonb | SqlType::Hstore => Some(JSON),
            SqlType::Enum => Some(ENUM),
            SqlType::Xml => Some(XML),
            SqlType::Tsvector => Some(TSVECTOR),
            SqlType::Ltree => Some(LTREE),
            _ => None,
        },
        Form::Decimal { .. } => Some(DECIMAL),
        Form::VariableDecimal => Some(VARIABLE_DECIMAL),
        Form::Date => Some(DATE),
        Form::TimeMillis => Some(TIME),
        Form::TimeMicros => Some(MICRO_TIME),
        Form::TimestampMillis => Some(TIMESTAMP),
        Form::TimestampMicros => Some(MICRO_TIMESTAMP),
        Form::ZonedTimestamp { .. } => Some(ZONED_TIMESTAMP),
        Form::ZonedTime => Some(ZONED_TIME),
        Form::Bits => Some(BITS),
        Form::Point => Some(POINT),
        Form::Geometry => Some(GEOMETRY),
        Form::Circle => Some(CIRCLE),
        Form::Line => Some(LINE),
    }
}

/// Whether Debezium's schemas show defaults of the type at all.
pub(crate) fn shows_defaults(sql_type: SqlType) -> bool {
    match sql_type {
        SqlType::Bytea
        | SqlType::NumericUnscaled
        | SqlType::Numeric { scale: ..0, .. }
        | SqlType::Oid
        | SqlType::Money
        | SqlType::Timetz { .. }
        | SqlType::Array { .. }
        | SqlType::Inet
        | SqlType::Cidr
        | SqlType::Macaddr
        | SqlType::Macaddr8
        | SqlType::Tsvector
        | SqlType::Citext
        | SqlType::Ltree
        | SqlType::Hstore => false,
        other => other.bound().is_none() && !other.is_geometric(),
    }
}

/// Returns a constant as a schema shows it; `None` if this type has no defaults there, or if JSON
/// cannot say it (NaN, infinities).
pub(crate) fn default_of_cell(sql_type: SqlType, cell: &Cell<'_>) -> Option<Value> {
    if !shows_defaults(sql_type) {
        return None;
    }
    match (Form::of(sql_type), cell) {
        (Form::Boolean, Cell::Bool(value)) => Some(json!(value)),
        (Form::Bits, Cell::Bytes(bits)) => Some(Value::String(latin1(bits))),
        (
            Form::Int16 | Form::Int32 | Form::Int64 | Form::TimeMicros | Form::TimestampMicros,
            Cell::Int(value),
        ) => Some(json!(value)),
        (Form::Date, Cell::Int(value)) => i32::try_from(*value).ok().map(Value::from),
        (Form::TimeMillis | Form::TimestampMillis, Cell::Int(value)) => {
            let is_infinite = matches!(*value, POSITIVE_INFINITY | NEGATIVE_INFINITY);
            (!is_infinite).then(|| json!(value.div_euclid(1000)))
        }
        // The shortest text of a single-precision number, not that of its double.
        (Form::Float, Cell::Float4(value)) => {
            let value: f64 = value.to_string().parse().ok()?;
            serde_json::Number::from_f64(value).map(Value::Number)
        }
        (Form::Double, Cell::Float8(value)) => {
            serde_json::Number::from_f64(*value).map(Value::Number)
        }
        (Form::Decimal { .. }, Cell::Numeric(number)) => {
            Some(Value::String(latin1(number.unscaled)))
        }
        (Form::String, Cell::Text(text)) => Some(json!(text)),
        (Form::ZonedTimestamp { fraction_digits }, Cell::Int(micros)) => {
            let text = format_instant(*micros, fraction_digits);
            Some(json!(String::from_utf8_lossy(text.as_bytes())))
        }
        _ => None,
    }
}

/// Returns what a schema shows in place of a default that is an expression.
pub(crate) fn default_of_expression(sql_type: SqlType) -> Option<Value> {
    if !shows_defaults(sql_type) {
        return None;
    }
    match Form::of(sql_type) {
        Form::Boolean => Some(json!(false)),
        Form::Int16
        | Form::Int32
        | Form::Int64
        | Form::Date
        | Form::TimeMillis
        | Form::TimeMicros
        | Form::TimestampMillis
        | Form::TimestampMicros => Some(json!(0)),
        Form::Float | Form::Double => Some(json!(0.0)),
        Form::Decimal { .. } => Some(json!("\0")),
        Form::Bits => Some(json!("")),
        // An enum's constant shows, an expression does not.
        Form::String if sql_type == SqlType::Enum => None,
        Form::String => Some(match sql_type {
            SqlType::Uuid => json!("00000000-0000-0000-0000-000000000000"),
            SqlType::Json | SqlType::Jsonb => json!("{}"),
            _ => json!(""),
        }),
        Form::ZonedTimestamp { .. } => default_of_cell(sql_type, &Cell::Int(0)),
        Form::VariableDecimal
        | Form::Bytes
        | Form::ZonedTime
        | Form::Point
        | Form::Geometry
        | Form::Circle
        | Form::Line
        | Form::Array { .. } => None,
    }
}

/// Appends the Avro bytes of a default, without a union's branch; `None` if it is none of this form.
pub(crate) fn put_default(form: Form, default: &Value, out: &mut Vec<u8>) -> Option<()> {
    match form {
        Form::Boolean => out.push(u8::from(default.as_bool()?)),
        Form::Int16 => put_long(i64::from(i16::try_from(default.as_i64()?).ok()?), out),
        Form::Int32 | Form::Date | Form::TimeMillis => {
            put_long(i64::from(i32::try_from(default.as_i64()?).ok()?), out);
        }
        Form::Int64 | Form::TimeMicros | Form::TimestampMillis | Form::TimestampMicros => {
            put_long(default.as_i64()?, out);
        }
        Form::Float => {
            // Through its text, so that the nearest single-precision number is taken.
            let value: f32 = default.as_number()?.to_string().parse().ok()?;
            out.extend_from_slice(&value.to_le_bytes());
        }
        Form::Double => out.extend_from_slice(&default.as_f64()?.to_le_bytes()),
        Form::String | Form::ZonedTimestamp { .. } => put_bytes(default.as_str()?.as_bytes(), out),
        Form::Decimal { .. } => {
            let chars = default.as_str()?.chars();
            let bytes: Option<Vec<u8>> = chars.map(|char| u8::try_from(char).ok()).collect();
            put_bytes(&bytes.filter(|bytes| !bytes.is_empty())?, out);
        }
        Form::Bits => {
            let chars = default.as_str()?.chars();
            let bytes: Option<Vec<u8>> = chars.map(|char| u8::try_from(char).ok()).collect();
            put_bytes(&bytes?, out);
        }
        Form::VariableDecimal
        | Form::Bytes
        | Form::ZonedTime
        | Form::Point
        | Form::Geometry
        | Form::Circle
        | Form::Line
        | Form::Array { .. } => return None,
    }
    Some(())
}

/// Appends what Debezium writes for a required column without a default whose value it does not
/// know, as in the `before` of a delete when only the key was logged.
pub(crate) fn put_zero(sql_type: SqlType, out: &mut Vec<u8>) {
    match Form::of(sql_type) {
        Form::String if sql_type == SqlType::Hstore => put_bytes(b"{}", out),
        Form::ZonedTime => put_bytes(format_time(0).as_bytes(), out),
        Form::Point => composite::put(&Figure::Point([0.0; 2]), SqlType::Point, out),
        // What is always optional is NULL where it is not known.
        Form::Geometry | Form::Circle | Form::Line => {}
        Form::Boolean
        | Form::Int16
        | Form::Int32
        | Form::Int64
        | Form::Date
        | Form::TimeMillis
        | Form::TimeMicros
        | Form::TimestampMillis
        | Form::TimestampMicros
        | Form::String
        | Form::Bytes
        | Form::Bits
        | Form::Array { .. } => out.push(0),
        Form::Float => out.extend_from_slice(&0f32.to_le_bytes()),
        Form::Double => out.extend_from_slice(&0f64.to_le_bytes()),
        Form::Decimal { .. } => put_bytes(&[0], out),
        Form::VariableDecimal => {
            put_long(0, out);
            put_bytes(&[0], out);
        }
        // Without a fraction, whatever the column's precision.
        Form::ZonedTimestamp { .. } => put_bytes(format_instant(0, 0).as_bytes(), out),
    }
}

/// Bytes in a JSON default are a string whose characters are the bytes.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
