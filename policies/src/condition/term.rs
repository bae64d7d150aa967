//! The two sides of a comparison at run time: how a cell or a constant becomes a value of the domain
//! in which the comparison takes place, and how values of a domain are ordered.

use std::cmp::Ordering;

use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};

use crate::decimal::{self, OwnedNumeric};

/// In what a comparison takes place: both sides are converted to it, as PostgreSQL's operator for
/// the two types does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Domain {
    Bool,
    /// Integers and `numeric`, exactly.
    Exact,
    Float4,
    Float8,
    /// Text byte by byte; the cast from `character(n)` drops its trailing blanks.
    Text,
    /// `character(n)`: trailing blanks of both sides do not count.
    Bpchar,
    Bytes,
    /// Dates, times and timestamps compared with their like.
    Int,
    /// Dates compared with timestamps.
    Moment,
}

/// A side of a comparison.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Column { index: usize, form: Form },
    Constant(Constant),
}

/// What of a column's type its cells do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Bpchar,
    Date,
}

/// A literal, converted to the domain when the condition was compiled.
#[derive(Clone, Debug)]
pub(super) enum Constant {
    Bool(bool),
    Exact(OwnedNumeric),
    /// `'NaN'` as numeric, which lies above `'Infinity'`.
    ExactNan,
    ExactInfinity,
    ExactNegativeInfinity,
    Float4(f32),
    Float8(f64),
    Bytes(Vec<u8>),
    Int(i64),
    Moment(i128),
}

/// A value in its domain.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Bool(bool),
    Integer(i64),
    Exact(Numeric<'a>),
    ExactNan,
    ExactInfinity,
    ExactNegativeInfinity,
    Float4(f32),
    Float8(f64),
    Bytes(&'a [u8]),
    Moment(i128),
}

impl Term {
    /// Returns the value in a row, or `None` for NULL, for what is unavailable, and for what the
    /// domain cannot hold (where PostgreSQL would raise an error).
    pub(super) fn load<'a>(&'a self, domain: Domain, cells: &[Cell<'a>]) -> Option<Value<'a>> {
        match self {
            Self::Constant(constant) => Some(constant.value()),
            Self::Column { index, form } => load(cells[*index], *form, domain),
        }
    }

    pub(super) fn column_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::Column { index, .. } => Some(index),
            Self::Constant(_) => None,
        }
    }
}

fn load(cell: Cell<'_>, form: Form, domain: Domain) -> Option<Value<'_>> {
    match (domain, cell) {
        (Domain::Bool, Cell::Bool(value)) => Some(Value::Bool(value)),
        (Domain::Exact | Domain::Int, Cell::Int(value)) => Some(Value::Integer(value)),
        (Domain::Exact, Cell::Numeric(value)) => Some(Value::Exact(value)),
        (Domain::Float4, Cell::Float4(value)) => Some(Value::Float4(value)),
        (Domain::Float8, Cell::Float4(value)) => Some(Value::Float8(f64::from(value))),
        (Domain::Float8, Cell::Float8(value)) => Some(Value::Float8(value)),
        #[expect(
            clippy::cast_precision_loss,
            reason = "PostgreSQL's cast from bigint rounds alike"
        )]
        (Domain::Float8, Cell::Int(value)) => Some(Value::Float8(value as f64)),
        (Domain::Float8, Cell::Numeric(value)) => {
            let mut text = String::new();
            decimal::write(value, &mut text);
            crate::literal::float8(&text).ok().map(Value::Float8)
        }
        (Domain::Text, Cell::Text(text)) if form == Form::Bpchar => {
            Some(Value::Bytes(trimmed(text.as_bytes())))
        }
        (Domain::Text, Cell::Text(text)) => Some(Value::Bytes(text.as_bytes())),
        (Domain::Bpchar, Cell::Text(text)) => Some(Value::Bytes(trimmed(text.as_bytes()))),
        (Domain::Bytes, Cell::Bytes(bytes)) => Some(Value::Bytes(bytes)),
        (Domain::Moment, Cell::Int(value)) => {
            Some(Value::Moment(moment(value, form == Form::Date)))
        }
        _ => None,
    }
}

/// Returns a date's or timestamp's place on one line: microseconds, wide enough that every date has
/// one, infinities at the ends.
pub(super) fn moment(value: i64, is_date: bool) -> i128 {
    match value {
        POSITIVE_INFINITY => i128::MAX,
        NEGATIVE_INFINITY => i128::MIN,
        days if is_date => i128::from(days) * 86_400_000_000,
        micros => i128::from(micros),
    }
}

/// Returns text without its trailing blanks.
pub(super) fn trimmed(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .rposition(|byte| *byte != b' ')
        .map_or(0, |last| last + 1);
    &text[..end]
}

impl Constant {
    /// Makes a constant of the exact domain. Integers are compared as such.
    pub(super) fn exact(number: OwnedNumeric) -> Self {
        match number.to_i64() {
            Some(integer) => Self::Int(integer),
            None => Self::Exact(number),
        }
    }

    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Exact(value) => Value::Exact(value.as_numeric()),
            Self::ExactNan => Value::ExactNan,
            Self::ExactInfinity => Value::ExactInfinity,
            Self::ExactNegativeInfinity => Value::ExactNegativeInfinity,
            Self::Float4(value) => Value::Float4(*value),
            Self::Float8(value) => Value::Float8(*value),
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Int(value) => Value::Integer(*value),
            Self::Moment(value) => Value::Moment(*value),
        }
    }
}

impl Value<'_> {
    /// Compares two values of one domain.
    pub(super) fn compare(&self, other: &Value<'_>) -> Ordering {
        match (self, other) {
            (Self::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Self::Integer(left), Value::Integer(right)) => left.cmp(right),
            (Self::Float4(left), Value::Float4(right)) => {
                floats(f64::from(*left), f64::from(*right))
            }
            (Self::Float8(left), Value::Float8(right)) => floats(*left, *right),
            (Self::Bytes(left), Value::Bytes(right)) => left.cmp(right),
            (Self::Moment(left), Value::Moment(right)) => left.cmp(right),
            (Self::Integer(left), Value::Exact(right)) => {
                decimal::compare(integer(&left.to_be_bytes()), *right)
            }
            (Self::Exact(left), Value::Integer(right)) => {
                decimal::compare(*left, integer(&right.to_be_bytes()))
            }
            (Self::Exact(left), Value::Exact(right)) => decimal::compare(*left, *right),
            (left, right) => left.exact_rank().cmp(&right.exact_rank()),
        }
    }

    /// Where a numeric stands that is no finite number, relative to all that are.
    fn exact_rank(&self) -> i8 {
        match self {
            Self::ExactNegativeInfinity => -1,
            Self::ExactInfinity => 1,
            Self::ExactNan => 2,
            _ => 0,
        }
    }
}

fn integer(bytes: &[u8; 8]) -> Numeric<'_> {
    Numeric {
        unscaled: bytes,
        scale: 0,
    }
}

/// PostgreSQL's order of floats: NaN equals NaN and lies above everything; -0 equals 0.
fn floats(left: f64, right: f64) -> Ordering {
    match left.partial_cmp(&right) {
        Some(ordering) => ordering,
        None => left.is_nan().cmp(&right.is_nan()),
    }
}
