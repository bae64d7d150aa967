//! One column's part of a plan: a cell to Avro bytes and back.

use crate::Error;
use crate::binary::{Malformed, Reader, put_bytes, put_long};
use crate::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use crate::composite;
use crate::datetime::{format_instant, format_time, parse_instant, parse_time};
use crate::form::Form;
use crate::record::FieldInfo;
use crate::sql_type::SqlType;

/// What stands in an event for a value that the source did not send.
pub(crate) const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// Infinities of `timestamp(0..3)`, as Debezium writes them.
const TIMESTAMP_MILLIS_POSITIVE_INFINITY: i64 = 9_223_372_036_825_200_000;
const TIMESTAMP_MILLIS_NEGATIVE_INFINITY: i64 = -9_223_372_036_832_400_000;

/// Infinities of `date`, as PostgreSQL stores them. Debezium has no form of its own for them: its
/// snapshot and its stream write different days.
const DATE_POSITIVE_INFINITY: i32 = i32::MAX;
const DATE_NEGATIVE_INFINITY: i32 = i32::MIN;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// How a column may be NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nullability {
    /// It may not: there is no union.
    Required,
    /// `["null", T]`.
    NullFirst,
    /// `[T, "null"]`, which a default asks for.
    NullLast,
}

/// A column of a compiled plan.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) info: FieldInfo,
    pub(crate) form: Form,
    pub(crate) nullability: Nullability,
    /// What an array has.
    items: Option<Box<Column>>,
    /// What stands for a composite value that the source did not send.
    unavailable: Vec<u8>,
}

impl Column {
    pub(crate) fn new(name: &str, sql_type: SqlType, nullability: Nullability) -> Self {
        let form = Form::of(sql_type);
        let items = match sql_type {
            SqlType::Array { element } => {
                let items = Self::new(name, element.into(), Nullability::NullFirst);
                Some(Box::new(items))
            }
            _ => None,
        };
        Self {
            unavailable: composite::unavailable(form, items.as_deref(), UNAVAILABLE),
            items,
            info: FieldInfo {
                name: name.to_owned(),
                sql_type,
                nullable: nullability != Nullability::Required,
            },
            form,
            nullability,
        }
    }

    /// Appends a cell. On an error some of it may have been appended.
    #[inline]
    pub(crate) fn encode(&self, cell: &Cell<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        match (self.nullability, matches!(cell, Cell::Null)) {
            (Nullability::Required, false) => {}
            (Nullability::NullFirst, false) => out.push(BRANCH_1),
            (Nullability::NullLast, false) => out.push(BRANCH_0),
            (Nullability::NullFirst, true) => {
                out.push(BRANCH_0);
                return Ok(());
            }
            (Nullability::NullLast, true) => {
                out.push(BRANCH_1);
                return Ok(());
            }
            (Nullability::Required, true) => {
                return Err(Error::UnexpectedNull(self.info.name.clone()));
            }
        }
        self.encode_value(cell, out)
            .ok_or_else(|| self.does_not_fit())
    }

    /// Appends a value; `None` if it does not fit the column.
    #[inline]
    fn encode_value(&self, cell: &Cell<'_>, out: &mut Vec<u8>) -> Option<()> {
        match (self.form, cell) {
            (Form::Int64, Cell::Int(value)) => put_long(*value, out),
            (Form::String, Cell::Text(text)) => put_bytes(text.as_bytes(), out),
            (Form::Int32, Cell::Int(value)) => {
                put_long(i64::from(i32::try_from(*value).ok()?), out);
            }
            (Form::Int16, Cell::Int(value)) => {
                put_long(i64::from(i16::try_from(*value).ok()?), out);
            }
            (Form::Boolean, Cell::Bool(value)) => out.push(u8::from(*value)),
            (Form::Decimal { scale }, Cell::Numeric(number)) if number.scale == scale => {
                put_bytes(shortest(number.unscaled)?, out);
            }
            (Form::ZonedTimestamp { fraction_digits }, Cell::Int(micros)) => {
                if *micros != POSITIVE_INFINITY && *micros != NEGATIVE_INFINITY {
                    let unit = 10i64.pow(6 - u32::from(fraction_digits.min(6)));
                    exact_quotient(*micros, unit)?;
                }
                put_bytes(format_instant(*micros, fraction_digits).as_bytes(), out);
            }
            (Form::TimestampMicros, Cell::Int(micros)) => put_long(*micros, out),
            (Form::TimestampMillis, Cell::Int(micros)) => put_long(
                match *micros {
                    POSITIVE_INFINITY => TIMESTAMP_MILLIS_POSITIVE_INFINITY,
                    NEGATIVE_INFINITY => TIMESTAMP_MILLIS_NEGATIVE_INFINITY,
                    finite => exact_quotient(finite, 1000)?,
                },
                out,
            ),
            (Form::Date, Cell::Int(days)) => put_long(
                i64::from(match *days {
                    POSITIVE_INFINITY => DATE_POSITIVE_INFINITY,
                    NEGATIVE_INFINITY => DATE_NEGATIVE_INFINITY,
                    finite => finite_date(i32::try_from(finite).ok()?)?,
                }),
                out,
            ),
            (Form::TimeMicros, Cell::Int(micros)) => put_long(time_of_day(*micros)?, out),
            (Form::TimeMillis, Cell::Int(micros)) => {
                put_long(exact_quotient(time_of_day(*micros)?, 1000)?, out);
            }
            (Form::Float, Cell::Float4(value)) => out.extend_from_slice(&value.to_le_bytes()),
            (Form::Double, Cell::Float8(value)) => out.extend_from_slice(&value.to_le_bytes()),
            (Form::Bytes | Form::Bits, Cell::Bytes(bytes)) => put_bytes(bytes, out),
            (Form::ZonedTime, Cell::Int(micros)) => {
                put_bytes(format_time(time_of_day(*micros)?).as_bytes(), out);
            }
            (_, Cell::Composite(bytes)) if self.form.is_composite() => {
                out.extend_from_slice(bytes);
            }
            (_, Cell::Unavailable) if !self.unavailable.is_empty() => {
                out.extend_from_slice(&self.unavailable);
            }
            (Form::VariableDecimal, Cell::Numeric(number)) => {
                put_long(i64::from(number.scale), out);
                put_bytes(shortest(number.unscaled)?, out);
            }
            (Form::String | Form::Bytes | Form::Bits | Form::Decimal { .. }, Cell::Unavailable) => {
                put_bytes(UNAVAILABLE.as_bytes(), out);
            }
            (Form::VariableDecimal, Cell::Unavailable) => {
                put_long(0, out);
                put_bytes(UNAVAILABLE.as_bytes(), out);
            }
            _ => return None,
        }
        Some(())
    }

    fn does_not_fit(&self) -> Error {
        Error::CellType {
            column: self.info.name.clone(),
            sql_type: self.info.sql_type.to_string(),
        }
    }

    /// Reads a cell.
    #[inline]
    pub(crate) fn decode<'a>(&self, reader: &mut Reader<'a>) -> Result<Cell<'a>, Malformed> {
        let is_null = match self.nullability {
            Nullability::Required => false,
            Nullability::NullFirst => !reader.branch()?,
            Nullability::NullLast => reader.branch()?,
        };
        if is_null {
            return Ok(Cell::Null);
        }
        Ok(match self.form {
            Form::Boolean => match reader.byte()? {
                0 => Cell::Bool(false),
                1 => Cell::Bool(true),
                _ => return Err(Malformed("a boolean is neither 0 nor 1")),
            },
            Form::Int16 => Cell::Int(i64::from(
                i16::try_from(reader.long()?)
                    .map_err(|_| Malformed("a number has more than 16 bits"))?,
            )),
            Form::Int32 => Cell::Int(i64::from(reader.int()?)),
            Form::Int64 | Form::TimestampMicros => Cell::Int(reader.long()?),
            Form::Float => Cell::Float4(f32::from_le_bytes(reader.array()?)),
            Form::Double => Cell::Float8(f64::from_le_bytes(reader.array()?)),
            Form::Decimal { scale } => Cell::Numeric(Numeric {
                unscaled: shortest(reader.bytes()?).ok_or(EMPTY_NUMBER)?,
                scale,
            }),
            Form::VariableDecimal => {
                let scale = reader.int()?;
                let unscaled = shortest(reader.bytes()?).ok_or(EMPTY_NUMBER)?;
                Cell::Numeric(Numeric { unscaled, scale })
            }
            Form::String => Cell::Text(reader.text()?),
            Form::Bytes | Form::Bits => Cell::Bytes(reader.bytes()?),
            Form::ZonedTime => {
                let micros = parse_time(reader.text()?).and_then(time_of_day);
                Cell::Int(micros.ok_or(NO_TIME)?)
            }
            Form::Point | Form::Geometry | Form::Circle | Form::Line | Form::Array { .. } => {
                let from = *reader;
                composite::skip(self.form, self.items.as_deref(), reader)?;
                Cell::Composite(from.up_to(reader))
            }
            Form::Date => Cell::Int(match reader.int()? {
                DATE_POSITIVE_INFINITY => POSITIVE_INFINITY,
                DATE_NEGATIVE_INFINITY => NEGATIVE_INFINITY,
                days => i64::from(days),
            }),
            Form::TimeMicros => Cell::Int(time_of_day(reader.long()?).ok_or(NO_TIME)?),
            Form::TimeMillis => {
                let micros = i64::from(reader.int()?) * 1000;
                Cell::Int(time_of_day(micros).ok_or(NO_TIME)?)
            }
            Form::TimestampMillis => Cell::Int(match reader.long()? {
                TIMESTAMP_MILLIS_POSITIVE_INFINITY => POSITIVE_INFINITY,
                TIMESTAMP_MILLIS_NEGATIVE_INFINITY => NEGATIVE_INFINITY,
                millis => millis
                    .checked_mul(1000)
                    .ok_or(Malformed("a timestamp is out of range"))?,
            }),
            Form::ZonedTimestamp { .. } => {
                let micros = parse_instant(reader.text()?);
                Cell::Int(micros.ok_or(Malformed("a text is not a timestamp"))?)
            }
        })
    }

    /// Steps over an item of an array: a cell, or where times are texts the placeholder, which then
    /// stands for the whole array.
    pub(crate) fn skip(&self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let begin = *reader;
        let Err(error) = self.decode(reader) else {
            return Ok(());
        };
        *reader = begin;
        if self.nullability != Nullability::Required {
            reader.branch()?;
        }
        match self.form {
            Form::ZonedTime | Form::ZonedTimestamp { .. } if reader.text()? == UNAVAILABLE => {
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Reads a cell of an event, where the placeholder means that the value is not known.
    #[inline]
    pub(crate) fn decode_image<'a>(&self, reader: &mut Reader<'a>) -> Result<Cell<'a>, Malformed> {
        let cell = self.decode(reader)?;
        let is_placeholder = match &cell {
            Cell::Text(text) => *text == UNAVAILABLE,
            Cell::Bytes(bytes) => *bytes == UNAVAILABLE.as_bytes(),
            Cell::Numeric(number) => number.unscaled == UNAVAILABLE.as_bytes(),
            Cell::Composite(bytes) => *bytes == self.unavailable,
            _ => false,
        };
        Ok(if is_placeholder {
            Cell::Unavailable
        } else {
            cell
        })
    }
}

/// Index 0 and 1 of a union, as `long`s.
pub(crate) const BRANCH_0: u8 = 0;
pub(crate) const BRANCH_1: u8 = 2;

const EMPTY_NUMBER: Malformed = Malformed("a number has no bytes");
const NO_TIME: Malformed = Malformed("a time is not within a day");

impl Reader<'_> {
    /// Reads the index of a union of two: whether it is the second.
    #[inline]
    pub(crate) fn branch(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            BRANCH_0 => Ok(false),
            BRANCH_1 => Ok(true),
            _ => Err(Malformed("a union has no such branch")),
        }
    }
}

/// Takes off leading bytes that only repeat the sign; `None` if there are no bytes.
#[inline]
fn shortest(unscaled: &[u8]) -> Option<&[u8]> {
    let mut bytes = unscaled;
    while let [first @ (0 | 0xFF), rest @ ..] = bytes
        && let Some(second) = rest.first()
        && (*first == 0xFF) == (*second >= 0x80)
    {
        bytes = rest;
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn exact_quotient(value: i64, unit: i64) -> Option<i64> {
    (value % unit == 0).then(|| value / unit)
}

fn time_of_day(micros: i64) -> Option<i64> {
    (0..=MICROS_PER_DAY).contains(&micros).then_some(micros)
}

fn finite_date(days: i32) -> Option<i32> {
    (days != DATE_POSITIVE_INFINITY && days != DATE_NEGATIVE_INFINITY).then_some(days)
}

/// Reads a row's cells in order, replacing `row`.
#[inline]
pub(crate) fn decode_row<'a>(
    columns: &[Column],
    reader: &mut Reader<'a>,
    row: &mut Vec<Cell<'a>>,
) -> Result<(), Malformed> {
    row.clear();
    row.reserve(columns.len());
    for column in columns {
        row.push(column.decode(reader)?);
    }
    Ok(())
}

/// As [`decode_row`], for the rows of events.
#[inline]
pub(crate) fn decode_image_row<'a>(
    columns: &[Column],
    reader: &mut Reader<'a>,
    row: &mut Vec<Cell<'a>>,
) -> Result<(), Malformed> {
    row.clear();
    row.reserve(columns.len());
    for column in columns {
        row.push(column.decode_image(reader)?);
    }
    Ok(())
}

pub(crate) fn check_length(columns: usize, row: &[Cell<'_>]) -> Result<(), Error> {
    if row.len() == columns {
        Ok(())
    } else {
        Err(Error::RowLength {
            cells: row.len(),
            columns,
        })
    }
}
