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
//!
//! Debezium has no right form for a negative scale (it announces 2048 too much), and Avro's decimal
//! allows none, so there the exact form without a scale is used.
//!
//! Which defaults appear in a schema is Debezium's choice too: none for `bytea` and for numbers
//! without scale; an expression shows as the zero of its type.

use serde_json::{Value, json};

use crate::binary::{put_bytes, put_long};
use crate::cell::{Cell, NEGATIVE_INFINITY, POSITIVE_INFINITY};
use crate::datetime::format_instant;
use crate::json_text::Object;
use crate::sql_type::SqlType;

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

/// The attribute that carries a view column's SQL type: of its type, or of the field where the type
/// is a named one.
pub(crate) const SQL_TYPE_ATTRIBUTE: &str = "hutong.sql.type";

impl Form {
    pub(crate) fn of(sql_type: SqlType) -> Self {
        match sql_type {
            SqlType::Bool => Self::Boolean,
            SqlType::Int2 => Self::Int16,
            SqlType::Int4 => Self::Int32,
            SqlType::Int8 => Self::Int64,
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
            | SqlType::Jsonb => Self::String,
            SqlType::Bytea => Self::Bytes,
            SqlType::Date => Self::Date,
            SqlType::Time { precision: 0..=3 } => Self::TimeMillis,
            SqlType::Time { .. } => Self::TimeMicros,
            SqlType::Timestamp { precision: 0..=3 } => Self::TimestampMillis,
            SqlType::Timestamp { .. } => Self::TimestampMicros,
            SqlType::Timestamptz { precision } => Self::ZonedTimestamp {
                fraction_digits: precision,
            },
        }
    }

    fn avro_type(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Int16 | Self::Int32 | Self::Date | Self::TimeMillis => "int",
            Self::Int64 | Self::TimeMicros | Self::TimestampMillis | Self::TimestampMicros => {
                "long"
            }
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { .. } | Self::Bytes => "bytes",
            Self::VariableDecimal => "record",
            Self::String | Self::ZonedTimestamp { .. } => "string",
        }
    }
}

fn connect_name(sql_type: SqlType) -> Option<&'static str> {
    match Form::of(sql_type) {
        Form::Boolean
        | Form::Int16
        | Form::Int32
        | Form::Int64
        | Form::Float
        | Form::Double
        | Form::Bytes => None,
        Form::String => match sql_type {
            SqlType::Uuid => Some(UUID),
            SqlType::Json | SqlType::Jsonb => Some(JSON),
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
    }
}

/// Writes the types of a record's fields; a named type is written out once and then by its name.
#[derive(Default)]
pub(crate) struct TypeWriter {
    /// Whether types carry [`SQL_TYPE_ATTRIBUTE`].
    marks_sql_types: bool,
    has_variable_decimal: bool,
}

impl TypeWriter {
    pub(crate) fn marking_sql_types() -> Self {
        Self {
            marks_sql_types: true,
            has_variable_decimal: false,
        }
    }

    /// Returns a field with its type, in Connect's rules for what is optional and has a default.
    pub(crate) fn field(
        &mut self,
        name: &str,
        sql_type: SqlType,
        nullable: bool,
        default: Option<&Value>,
    ) -> String {
        let value_type = self.value_type(sql_type, default);
        let field = Object::new().text("name", name);
        let field = match (nullable, default) {
            (false, None) => field.raw("type", value_type),
            (false, Some(default)) => field.raw("type", value_type).raw("default", default),
            (true, None) => field
                .raw("type", format_args!("[\"null\",{value_type}]"))
                .raw("default", "null"),
            (true, Some(default)) => field
                .raw("type", format_args!("[{value_type},\"null\"]"))
                .raw("default", default),
        };
        // A named type is shared by fields of several SQL types, so there the field is marked.
        if self.marks_sql_types && Form::of(sql_type) == Form::VariableDecimal {
            field.text(SQL_TYPE_ATTRIBUTE, &sql_type.to_string()).end()
        } else {
            field.end()
        }
    }

    fn value_type(&mut self, sql_type: SqlType, default: Option<&Value>) -> String {
        let form = Form::of(sql_type);
        if form == Form::VariableDecimal && std::mem::replace(&mut self.has_variable_decimal, true)
        {
            return format!("\"{VARIABLE_DECIMAL}\"");
        }
        let name = connect_name(sql_type);
        if name.is_none() && default.is_none() && form != Form::Int16 && !self.marks_sql_types {
            return format!("\"{}\"", form.avro_type());
        }

        let mut object = Object::new().text("type", form.avro_type());
        if form == Form::VariableDecimal {
            object = object
                .text("name", "VariableScaleDecimal")
                .text("namespace", "io.debezium.data")
                .raw(
                    "fields",
                    r#"[{"name":"scale","type":"int"},{"name":"value","type":"bytes"}]"#,
                )
                .text("connect.doc", "Variable scaled decimal");
        }
        if let SqlType::Numeric { precision, scale } = sql_type
            && form != Form::VariableDecimal
        {
            object = object
                .raw("scale", scale)
                .raw("precision", precision)
                .raw("connect.version", 1)
                .raw(
                    "connect.parameters",
                    Object::new()
                        .text("scale", &scale.to_string())
                        .text("connect.decimal.precision", &precision.to_string())
                        .end(),
                );
        } else if name.is_some() {
            object = object.raw("connect.version", 1);
        }
        if let Some(default) = default {
            object = object.raw("connect.default", default);
        }
        if let Some(name) = name {
            object = object.text("connect.name", name);
        }
        if form == Form::Int16 {
            object = object.text("connect.type", "int16");
        }
        if self.marks_sql_types && form != Form::VariableDecimal {
            object = object.text(SQL_TYPE_ATTRIBUTE, &sql_type.to_string());
        }
        if matches!(form, Form::Decimal { .. }) {
            object = object.text("logicalType", "decimal");
        }
        object.end()
    }
}

/// Returns a constant as a schema shows it; `None` if this type has no defaults there, or if JSON
/// cannot say it (NaN, infinities).
pub(crate) fn default_of_cell(sql_type: SqlType, cell: &Cell<'_>) -> Option<Value> {
    match (Form::of(sql_type), cell) {
        (Form::Boolean, Cell::Bool(value)) => Some(json!(value)),
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
        Form::String => Some(match sql_type {
            SqlType::Uuid => json!("00000000-0000-0000-0000-000000000000"),
            SqlType::Json | SqlType::Jsonb => json!("{}"),
            _ => json!(""),
        }),
        Form::ZonedTimestamp { .. } => default_of_cell(sql_type, &Cell::Int(0)),
        Form::VariableDecimal | Form::Bytes => None,
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
        Form::VariableDecimal | Form::Bytes => return None,
    }
    Some(())
}

/// Appends what Debezium writes for a required column without a default whose value it does not
/// know, as in the `before` of a delete when only the key was logged.
pub(crate) fn put_zero(form: Form, out: &mut Vec<u8>) {
    match form {
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
        | Form::Bytes => out.push(0),
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
