//! The column types that we can carry, in PostgreSQL's words.
//!
//! A type that is not listed here is refused when its table is first looked at; it is never carried
//! as something else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The SQL type of a column, with the modifiers that change its values.
///
/// Serialised, it is an object such as `{"type":"numeric","precision":18,"scale":4}`.
/// `Display` writes it as PostgreSQL's `format_type` does (`numeric(18,4)`, `character varying(20)`),
/// so that it can stand in a `CREATE TABLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SqlType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(p,s)`: 1 ≤ precision ≤ 1000; `scale` may be negative or larger than the precision.
    Numeric {
        /// Total number of decimal digits.
        precision: u16,
        /// Digits after the decimal point.
        scale: i16,
    },
    /// `numeric` without precision and scale.
    NumericUnscaled,
    /// `text`
    Text,
    /// `character varying(n)`, `n` in characters; `None` is without limit.
    Varchar {
        /// Most characters, if limited.
        length: Option<u32>,
    },
    /// `character(n)`, blank-padded.
    Char {
        /// Number of characters.
        length: u32,
    },
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time(p) without time zone`, 0 ≤ p ≤ 6
    Time {
        /// Fractional digits of a second.
        precision: u8,
    },
    /// `timestamp(p) without time zone`, 0 ≤ p ≤ 6
    Timestamp {
        /// Fractional digits of a second.
        precision: u8,
    },
    /// `timestamp(p) with time zone`, 0 ≤ p ≤ 6
    Timestamptz {
        /// Fractional digits of a second.
        precision: u8,
    },
    /// `uuid`
    Uuid,
    /// `json`
    Json,
    /// `jsonb`
    Jsonb,
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("boolean"),
            Self::Int2 => f.write_str("smallint"),
            Self::Int4 => f.write_str("integer"),
            Self::Int8 => f.write_str("bigint"),
            Self::Float4 => f.write_str("real"),
            Self::Float8 => f.write_str("double precision"),
            Self::Numeric { precision, scale } => write!(f, "numeric({precision},{scale})"),
            Self::NumericUnscaled => f.write_str("numeric"),
            Self::Text => f.write_str("text"),
            Self::Varchar { length: None } => f.write_str("character varying"),
            Self::Varchar { length: Some(n) } => write!(f, "character varying({n})"),
            Self::Char { length } => write!(f, "character({length})"),
            Self::Bytea => f.write_str("bytea"),
            Self::Date => f.write_str("date"),
            Self::Time { precision } => write!(f, "time({precision}) without time zone"),
            Self::Timestamp { precision } => write!(f, "timestamp({precision}) without time zone"),
            Self::Timestamptz { precision } => write!(f, "timestamp({precision}) with time zone"),
            Self::Uuid => f.write_str("uuid"),
            Self::Json => f.write_str("json"),
            Self::Jsonb => f.write_str("jsonb"),
        }
    }
}

/// The text is no type that we carry.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a type that is supported")]
pub struct UnknownType(pub String);

impl FromStr for SqlType {
    type Err = UnknownType;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, UnknownType> {
        parse(text).ok_or_else(|| UnknownType(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<SqlType> {
    let (name, arguments, suffix) = match text.split_once('(') {
        None => (text, None, ""),
        Some((name, rest)) => {
            let (arguments, suffix) = rest.split_once(')')?;
            (name, Some(arguments), suffix)
        }
    };
    let precision = || {
        let precision = arguments?.parse().ok()?;
        (precision <= 6).then_some(precision)
    };
    let length = || arguments?.parse().ok();
    match (name, suffix) {
        ("time", " without time zone") => {
            return precision().map(|precision| SqlType::Time { precision });
        }
        ("timestamp", " without time zone") => {
            return precision().map(|precision| SqlType::Timestamp { precision });
        }
        ("timestamp", " with time zone") => {
            return precision().map(|precision| SqlType::Timestamptz { precision });
        }
        (_, "") => {}
        _ => return None,
    }
    Some(match (name, arguments) {
        ("boolean", None) => SqlType::Bool,
        ("smallint", None) => SqlType::Int2,
        ("integer", None) => SqlType::Int4,
        ("bigint", None) => SqlType::Int8,
        ("real", None) => SqlType::Float4,
        ("double precision", None) => SqlType::Float8,
        ("numeric", None) => SqlType::NumericUnscaled,
        ("numeric", Some(arguments)) => {
            let (precision, scale) = arguments.split_once(',')?;
            SqlType::Numeric {
                precision: precision.parse().ok()?,
                scale: scale.parse().ok()?,
            }
        }
        ("text", None) => SqlType::Text,
        ("character varying", None) => SqlType::Varchar { length: None },
        ("character varying", Some(_)) => SqlType::Varchar {
            length: Some(length()?),
        },
        ("character", Some(_)) => SqlType::Char { length: length()? },
        ("bytea", None) => SqlType::Bytea,
        ("date", None) => SqlType::Date,
        ("uuid", None) => SqlType::Uuid,
        ("json", None) => SqlType::Json,
        ("jsonb", None) => SqlType::Jsonb,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_type_inverts_writing_it() {
        for sql_type in [
            SqlType::Bool,
            SqlType::Int2,
            SqlType::Int4,
            SqlType::Int8,
            SqlType::Float4,
            SqlType::Float8,
            SqlType::Numeric {
                precision: 18,
                scale: 4,
            },
            SqlType::Numeric {
                precision: 5,
                scale: -2,
            },
            SqlType::NumericUnscaled,
            SqlType::Text,
            SqlType::Varchar { length: None },
            SqlType::Varchar { length: Some(20) },
            SqlType::Char { length: 6 },
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time { precision: 0 },
            SqlType::Timestamp { precision: 3 },
            SqlType::Timestamptz { precision: 6 },
            SqlType::Uuid,
            SqlType::Json,
            SqlType::Jsonb,
        ] {
            let text = sql_type.to_string();
            assert_eq!(text.parse::<SqlType>().unwrap(), sql_type, "{text}");
        }
    }

    #[test]
    fn other_types_are_refused() {
        for text in [
            "",
            "point",
            "text(3)",
            "numeric(3)",
            "character",
            "time",
            "timestamp(7) with time zone",
            "character varying(20",
            "interval",
            "date without time zone",
        ] {
            assert!(text.parse::<SqlType>().is_err(), "{text}");
        }
    }
}
