//! Which of PostgreSQL's operators a comparison is, and what its literals therefore are.
//!
//! The rules are those of the manual, section 10.2, and of `parse_oper.c` and `parse_expr.c`, worked
//! out for our types:
//!
//! - A quoted string takes the type of the other side.
//! - Integers and `numeric` compare exactly. As soon as one side is `double precision`, or one is
//!   `real` and the other of another type, both become `double precision`: `r = 1.1` is FALSE for a
//!   `real` 1.1, and TRUE as `r = '1.1'`.
//! - `character(n)` with `text` compares as text, after the cast that drops trailing blanks; with
//!   `character varying` or a string it compares as `character(n)`.
//! - `IN` with at least two literals first finds a common type of the left side and all literals
//!   (`transformAExprIn`), in which `real` absorbs numbers: `r IN (1.1, 2.2)` is TRUE for a `real` 1.1.

use hutong_schemas::cell::{NEGATIVE_INFINITY, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;

use super::Invalid;
use super::operand::{Operand, OperandKind};
use super::term::{Constant, Domain, Form, Term, moment, trimmed};
use crate::literal;

/// A type without its modifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Numeric,
    Float4,
    Float8,
    Text,
    Varchar,
    Bpchar,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Uuid,
    Json,
    Jsonb,
    /// A type that has no comparison in the language.
    Other,
}

impl Kind {
    pub(super) fn of(sql_type: SqlType) -> Self {
        match sql_type {
            SqlType::Bool => Self::Bool,
            SqlType::Int2 => Self::Int2,
            SqlType::Int4 => Self::Int4,
            SqlType::Int8 => Self::Int8,
            SqlType::Float4 => Self::Float4,
            SqlType::Float8 => Self::Float8,
            SqlType::Numeric { .. } | SqlType::NumericUnscaled => Self::Numeric,
            SqlType::Text => Self::Text,
            SqlType::Varchar { .. } => Self::Varchar,
            SqlType::Char { .. } => Self::Bpchar,
            SqlType::Bytea => Self::Bytea,
            SqlType::Date => Self::Date,
            SqlType::Time { .. } => Self::Time,
            SqlType::Timestamp { .. } => Self::Timestamp,
            SqlType::Timestamptz { .. } => Self::Timestamptz,
            SqlType::Uuid => Self::Uuid,
            SqlType::Json => Self::Json,
            SqlType::Jsonb => Self::Jsonb,
            SqlType::Enum
            | SqlType::Bit { .. }
            | SqlType::Varbit { .. }
            | SqlType::Oid
            | SqlType::Money
            | SqlType::Interval
            | SqlType::Timetz { .. }
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
            | SqlType::Daterange
            | SqlType::Point
            | SqlType::Line
            | SqlType::Lseg
            | SqlType::Box
            | SqlType::Path
            | SqlType::Polygon
            | SqlType::Circle
            | SqlType::Array { .. } => Self::Other,
        }
    }

    /// How far a number is towards the type that others convert to without being asked.
    fn number_rank(self) -> Option<u8> {
        match self {
            Self::Int2 => Some(0),
            Self::Int4 => Some(1),
            Self::Int8 => Some(2),
            Self::Numeric => Some(3),
            Self::Float4 => Some(4),
            Self::Float8 => Some(5),
            _ => None,
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Varchar | Self::Bpchar)
    }
}

/// Returns the kind of an operand, or `None` if it follows from the other side.
pub(super) fn kind(operand: &Operand) -> Option<Kind> {
    match &operand.kind {
        OperandKind::Column { sql_type, .. } | OperandKind::Typed(sql_type, _) => {
            Some(Kind::of(*sql_type))
        }
        OperandKind::Bool(_) => Some(Kind::Bool),
        OperandKind::Number(text) => Some(number_kind(text)),
        OperandKind::Null | OperandKind::String(_) => None,
    }
}

fn number_kind(text: &str) -> Kind {
    let integer = text.parse::<i64>().ok();
    match integer {
        Some(value) if i32::try_from(value).is_ok() => Kind::Int4,
        Some(_) => Kind::Int8,
        None => Kind::Numeric,
    }
}

/// Returns the domain in which two kinds are compared.
pub(super) fn domain(left: Kind, right: Kind) -> Option<Domain> {
    if let (Some(left_rank), Some(right_rank)) = (left.number_rank(), right.number_rank()) {
        return Some(match (left, right) {
            (Kind::Float4, Kind::Float4) => Domain::Float4,
            _ if left_rank.max(right_rank) >= 4 => Domain::Float8,
            _ => Domain::Exact,
        });
    }
    if left.is_text() && right.is_text() {
        let both = |kind| left == kind || right == kind;
        return Some(if both(Kind::Bpchar) && !both(Kind::Text) {
            Domain::Bpchar
        } else {
            Domain::Text
        });
    }
    match (left, right) {
        (Kind::Bool, Kind::Bool) => Some(Domain::Bool),
        (Kind::Bytea, Kind::Bytea) => Some(Domain::Bytes),
        // The 36 lower-case characters sort as the 16 bytes do.
        (Kind::Uuid, Kind::Uuid) => Some(Domain::Text),
        (Kind::Date, Kind::Date)
        | (Kind::Time, Kind::Time)
        | (Kind::Timestamp, Kind::Timestamp)
        | (Kind::Timestamptz, Kind::Timestamptz) => Some(Domain::Int),
        (Kind::Date, Kind::Timestamp) | (Kind::Timestamp, Kind::Date) => Some(Domain::Moment),
        _ => None,
    }
}

/// Returns the common type of the left side and the literals of an `IN`, as `select_common_type`
/// does: the left side's, unless it converts implicitly to a later one and not back.
pub(super) fn common(left: Kind, literals: &[Operand]) -> Kind {
    let mut result = left;
    for literal in literals.iter().filter_map(kind) {
        let widens = match (result.number_rank(), literal.number_rank()) {
            (Some(from), Some(to)) => to > from,
            _ => result == Kind::Date && matches!(literal, Kind::Timestamp | Kind::Timestamptz),
        };
        if widens {
            result = literal;
        }
    }
    result
}

/// Makes the run-time form of an operand. `kind` is its own, or what it was resolved to.
pub(super) fn term(operand: &Operand, kind: Kind, domain: Domain) -> Result<Term, Invalid> {
    match &operand.kind {
        OperandKind::Column {
            index, sql_type, ..
        } => {
            let form = match Kind::of(*sql_type) {
                Kind::Bpchar => Form::Bpchar,
                Kind::Date => Form::Date,
                _ => Form::Plain,
            };
            Ok(Term::Column {
                index: *index,
                form,
            })
        }
        _ => constant(operand, kind, domain).map(Term::Constant),
    }
}

/// Makes the run-time form of a literal that is not NULL.
pub(super) fn constant(operand: &Operand, kind: Kind, domain: Domain) -> Result<Constant, Invalid> {
    let invalid = |error: literal::Invalid| Invalid(error.to_string());
    match &operand.kind {
        OperandKind::Bool(value) => Ok(Constant::Bool(*value)),
        OperandKind::Typed(SqlType::Date, days) if kind == Kind::Timestamp => {
            let cast = midnight(*days)?;
            Ok(match domain {
                Domain::Moment => Constant::Moment(moment(cast, false)),
                _ => Constant::Int(cast),
            })
        }
        OperandKind::Typed(sql_type, value) => Ok(match domain {
            Domain::Moment => Constant::Moment(moment(*value, *sql_type == SqlType::Date)),
            _ => Constant::Int(*value),
        }),
        OperandKind::Number(text) => match domain {
            Domain::Float4 => literal::float4(text).map(Constant::Float4).map_err(invalid),
            Domain::Float8 => literal::float8(text).map(Constant::Float8).map_err(invalid),
            _ => literal::numeric(text).map(Constant::exact).map_err(invalid),
        },
        OperandKind::String(text) => string(text, kind, domain).map_err(invalid),
        OperandKind::Null | OperandKind::Column { .. } => {
            Err(Invalid(format!("{} is not a literal", operand.describe())))
        }
    }
}

/// Casts a date to a timestamp, as among the literals of an `IN` that has both.
fn midnight(days: i64) -> Result<i64, Invalid> {
    if matches!(days, POSITIVE_INFINITY | NEGATIVE_INFINITY) {
        return Ok(days);
    }
    let micros = days.checked_mul(86_400_000_000);
    micros.ok_or_else(|| Invalid("a date lies beyond the range of timestamps".to_owned()))
}

/// Reads a string as a value of a kind, then takes it to the domain.
fn string(text: &str, kind: Kind, domain: Domain) -> Result<Constant, literal::Invalid> {
    let integer = |min, max| literal::integer(text, min, max).map(Constant::Int);
    let moment_or_int = |value: i64, is_date| match domain {
        Domain::Moment => Constant::Moment(moment(value, is_date)),
        _ => Constant::Int(value),
    };
    match kind {
        Kind::Bool => literal::boolean(text).map(Constant::Bool),
        Kind::Int2 => integer(i64::from(i16::MIN), i64::from(i16::MAX)),
        Kind::Int4 => integer(i64::from(i32::MIN), i64::from(i32::MAX)),
        Kind::Int8 => integer(i64::MIN, i64::MAX),
        Kind::Numeric => match text.trim().to_ascii_lowercase().as_str() {
            "nan" => Ok(Constant::ExactNan),
            "infinity" | "+infinity" | "inf" | "+inf" => Ok(Constant::ExactInfinity),
            "-infinity" | "-inf" => Ok(Constant::ExactNegativeInfinity),
            _ => literal::numeric(text).map(Constant::exact),
        },
        Kind::Float4 => match domain {
            Domain::Float8 => literal::float4(text).map(|value| Constant::Float8(f64::from(value))),
            _ => literal::float4(text).map(Constant::Float4),
        },
        Kind::Float8 => literal::float8(text).map(Constant::Float8),
        Kind::Bpchar => Ok(Constant::Bytes(trimmed(text.as_bytes()).to_vec())),
        Kind::Text | Kind::Varchar if domain == Domain::Bpchar => {
            Ok(Constant::Bytes(trimmed(text.as_bytes()).to_vec()))
        }
        Kind::Text | Kind::Varchar | Kind::Json | Kind::Jsonb | Kind::Other => {
            Ok(Constant::Bytes(text.as_bytes().to_vec()))
        }
        Kind::Uuid => literal::uuid(text).map(|text| Constant::Bytes(text.into_bytes())),
        Kind::Bytea => literal::bytea(text).map(Constant::Bytes),
        Kind::Date => literal::date(text).map(|value| moment_or_int(value, true)),
        Kind::Time => literal::time(text).map(Constant::Int),
        Kind::Timestamp => literal::timestamp(text).map(|value| moment_or_int(value, false)),
        Kind::Timestamptz => literal::timestamptz(text).map(Constant::Int),
    }
}
