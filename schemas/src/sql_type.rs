//! The column types that we can carry, in PostgreSQL's words.
//!
//! A type that is not listed here is refused when its table is first looked at; it is never carried
//! as something else. A domain is the type that it is made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The SQL type of a column, with the modifiers that change its values.
///
/// Serialised, it is an object such as `{"type":"numeric","precision":18,"scale":4}`.
/// `Display` writes it as PostgreSQL's `format_type` does (`numeric(18,4)`, `character varying(20)`),
/// so that it can stand in a `CREATE TABLE`; but for those that have no fixed name there (`enum`) or
/// come with an extension (`citext`, `ltree`, `hstore`), see [`SqlType::stored_as`].
pub type SqlType = Type<Element>;

/// What an array has for elements: any type but an array. Arrays of more than one dimension have the
/// same type in PostgreSQL, and no form in Avro.
pub type Element = Type<NoArray>;

/// There is no such thing: it makes an array of arrays impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoArray {}

/// [`SqlType`] and [`Element`], which differ in whether there are arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Type<A> {
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
    /// An enum; its labels stand beside the type, in the column.
    Enum,
    /// `bit(n)`
    Bit {
        /// Number of bits.
        length: u32,
    },
    /// `bit varying(n)`; `None` is without limit.
    Varbit {
        /// Most bits, if limited.
        length: Option<u32>,
    },
    /// `oid`
    Oid,
    /// `money`, with two digits behind the point.
    Money,
    /// `interval`, as microseconds: months and days are turned into them.
    Interval,
    /// `time(p) with time zone`, 0 ≤ p ≤ 6, at UTC.
    Timetz {
        /// Fractional digits of a second.
        precision: u8,
    },
    /// `inet`
    Inet,
    /// `cidr`
    Cidr,
    /// `macaddr`
    Macaddr,
    /// `macaddr8`
    Macaddr8,
    /// `xml`
    Xml,
    /// `tsvector`
    Tsvector,
    /// `citext`, of the extension
    Citext,
    /// `ltree`, of the extension
    Ltree,
    /// `hstore`, of the extension, as a JSON object
    Hstore,
    /// `int4range`
    Int4range,
    /// `int8range`
    Int8range,
    /// `numrange`
    Numrange,
    /// `tsrange`
    Tsrange,
    /// `tstzrange`
    Tstzrange,
    /// `daterange`
    Daterange,
    /// `point`
    Point,
    /// `line`
    Line,
    /// `lseg`
    Lseg,
    /// `box`
    Box,
    /// `path`
    Path,
    /// `polygon`
    Polygon,
    /// `circle`
    Circle,
    /// A one-dimensional array.
    Array {
        /// What it has.
        element: A,
    },
}

impl<A> Type<A> {
    /// Returns the same type, with another kind of arrays.
    fn try_map<B, E>(self, array: impl FnOnce(A) -> Result<B, E>) -> Result<Type<B>, E> {
        Ok(match self {
            Self::Array { element } => Type::Array {
                element: array(element)?,
            },
            Self::Bool => Type::Bool,
            Self::Int2 => Type::Int2,
            Self::Int4 => Type::Int4,
            Self::Int8 => Type::Int8,
            Self::Float4 => Type::Float4,
            Self::Float8 => Type::Float8,
            Self::Numeric { precision, scale } => Type::Numeric { precision, scale },
            Self::NumericUnscaled => Type::NumericUnscaled,
            Self::Text => Type::Text,
            Self::Varchar { length } => Type::Varchar { length },
            Self::Char { length } => Type::Char { length },
            Self::Bytea => Type::Bytea,
            Self::Date => Type::Date,
            Self::Time { precision } => Type::Time { precision },
            Self::Timestamp { precision } => Type::Timestamp { precision },
            Self::Timestamptz { precision } => Type::Timestamptz { precision },
            Self::Uuid => Type::Uuid,
            Self::Json => Type::Json,
            Self::Jsonb => Type::Jsonb,
            Self::Enum => Type::Enum,
            Self::Bit { length } => Type::Bit { length },
            Self::Varbit { length } => Type::Varbit { length },
            Self::Oid => Type::Oid,
            Self::Money => Type::Money,
            Self::Interval => Type::Interval,
            Self::Timetz { precision } => Type::Timetz { precision },
            Self::Inet => Type::Inet,
            Self::Cidr => Type::Cidr,
            Self::Macaddr => Type::Macaddr,
            Self::Macaddr8 => Type::Macaddr8,
            Self::Xml => Type::Xml,
            Self::Tsvector => Type::Tsvector,
            Self::Citext => Type::Citext,
            Self::Ltree => Type::Ltree,
            Self::Hstore => Type::Hstore,
            Self::Int4range => Type::Int4range,
            Self::Int8range => Type::Int8range,
            Self::Numrange => Type::Numrange,
            Self::Tsrange => Type::Tsrange,
            Self::Tstzrange => Type::Tstzrange,
            Self::Daterange => Type::Daterange,
            Self::Point => Type::Point,
            Self::Line => Type::Line,
            Self::Lseg => Type::Lseg,
            Self::Box => Type::Box,
            Self::Path => Type::Path,
            Self::Polygon => Type::Polygon,
            Self::Circle => Type::Circle,
        })
    }
}

impl From<Element> for SqlType {
    fn from(element: Element) -> Self {
        let Ok(sql_type) = element.try_map(|none| -> Result<Element, NoArray> { match none {} });
        sql_type
    }
}

impl TryFrom<SqlType> for Element {
    type Error = UnknownType;

    /// Refuses arrays, and geometric types, of which Avro's records would need one name each.
    fn try_from(sql_type: SqlType) -> Result<Self, UnknownType> {
        let refusal = || UnknownType(format!("{sql_type}[]"));
        if sql_type.is_geometric() {
            return Err(refusal());
        }
        sql_type.try_map(|_| Err(refusal()))
    }
}

impl SqlType {
    /// Returns whether values are points, lines or areas.
    #[must_use]
    pub fn is_geometric(self) -> bool {
        matches!(
            self,
            Self::Point
                | Self::Line
                | Self::Lseg
                | Self::Box
                | Self::Path
                | Self::Polygon
                | Self::Circle
        )
    }

    /// Returns the type of a range's bounds.
    #[must_use]
    pub fn bound(self) -> Option<Self> {
        Some(match self {
            Self::Int4range => Self::Int4,
            Self::Int8range => Self::Int8,
            Self::Numrange => Self::NumericUnscaled,
            Self::Tsrange => Self::Timestamp { precision: 6 },
            Self::Tstzrange => Self::Timestamptz { precision: 6 },
            Self::Daterange => Self::Date,
            _ => return None,
        })
    }

    /// Returns whether two values that differ may be carried as the same one, so that the type cannot
    /// be that of a key.
    #[must_use]
    pub fn loses_values(self) -> bool {
        match self {
            // Months and days are turned into microseconds, the zone is gone, leading zeros are gone.
            Self::Interval | Self::Timetz { .. } | Self::Varbit { .. } => true,
            // Bounds other than 1 are gone.
            Self::Array { .. } => true,
            _ => false,
        }
    }

    /// Returns the type in which a column of another database holds the values: one that every
    /// PostgreSQL server has.
    #[must_use]
    pub fn stored_as(self) -> Self {
        match self {
            Self::Enum | Self::Citext | Self::Ltree => Self::Text,
            Self::Hstore => Self::Json,
            Self::Array { element } => {
                let stored = Element::try_from(Self::from(element).stored_as());
                Self::Array {
                    element: stored.unwrap_or(element),
                }
            }
            other => other,
        }
    }
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
            Self::Enum => f.write_str("enum"),
            Self::Bit { length } => write!(f, "bit({length})"),
            Self::Varbit { length: None } => f.write_str("bit varying"),
            Self::Varbit { length: Some(n) } => write!(f, "bit varying({n})"),
            Self::Oid => f.write_str("oid"),
            Self::Money => f.write_str("money"),
            Self::Interval => f.write_str("interval"),
            Self::Timetz { precision } => write!(f, "time({precision}) with time zone"),
            Self::Inet => f.write_str("inet"),
            Self::Cidr => f.write_str("cidr"),
            Self::Macaddr => f.write_str("macaddr"),
            Self::Macaddr8 => f.write_str("macaddr8"),
            Self::Xml => f.write_str("xml"),
            Self::Tsvector => f.write_str("tsvector"),
            Self::Citext => f.write_str("citext"),
            Self::Ltree => f.write_str("ltree"),
            Self::Hstore => f.write_str("hstore"),
            Self::Int4range => f.write_str("int4range"),
            Self::Int8range => f.write_str("int8range"),
            Self::Numrange => f.write_str("numrange"),
            Self::Tsrange => f.write_str("tsrange"),
            Self::Tstzrange => f.write_str("tstzrange"),
            Self::Daterange => f.write_str("daterange"),
            Self::Point => f.write_str("point"),
            Self::Line => f.write_str("line"),
            Self::Lseg => f.write_str("lseg"),
            Self::Box => f.write_str("box"),
            Self::Path => f.write_str("path"),
            Self::Polygon => f.write_str("polygon"),
            Self::Circle => f.write_str("circle"),
            Self::Array { element } => write!(f, "{}[]", Self::from(*element)),
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
    if let Some(element) = text.strip_suffix("[]") {
        let element = Element::try_from(parse(element)?).ok()?;
        return Some(SqlType::Array { element });
    }
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
        ("time", " with time zone") => {
            return precision().map(|precision| SqlType::Timetz { precision });
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
        ("bit", Some(_)) => SqlType::Bit { length: length()? },
        ("bit varying", None) => SqlType::Varbit { length: None },
        ("bit varying", Some(_)) => SqlType::Varbit {
            length: Some(length()?),
        },
        ("enum", None) => SqlType::Enum,
        ("oid", None) => SqlType::Oid,
        ("money", None) => SqlType::Money,
        ("interval", None) => SqlType::Interval,
        ("inet", None) => SqlType::Inet,
        ("cidr", None) => SqlType::Cidr,
        ("macaddr", None) => SqlType::Macaddr,
        ("macaddr8", None) => SqlType::Macaddr8,
        ("xml", None) => SqlType::Xml,
        ("tsvector", None) => SqlType::Tsvector,
        ("citext", None) => SqlType::Citext,
        ("ltree", None) => SqlType::Ltree,
        ("hstore", None) => SqlType::Hstore,
        ("int4range", None) => SqlType::Int4range,
        ("int8range", None) => SqlType::Int8range,
        ("numrange", None) => SqlType::Numrange,
        ("tsrange", None) => SqlType::Tsrange,
        ("tstzrange", None) => SqlType::Tstzrange,
        ("daterange", None) => SqlType::Daterange,
        ("point", None) => SqlType::Point,
        ("line", None) => SqlType::Line,
        ("lseg", None) => SqlType::Lseg,
        ("box", None) => SqlType::Box,
        ("path", None) => SqlType::Path,
        ("polygon", None) => SqlType::Polygon,
        ("circle", None) => SqlType::Circle,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_a_type_inverts_writing_it() {
        for text in [
            "boolean",
            "smallint",
            "integer",
            "bigint",
            "real",
            "double precision",
            "numeric(18,4)",
            "numeric(5,-2)",
            "numeric",
            "text",
            "character varying",
            "character varying(20)",
            "character(6)",
            "bytea",
            "date",
            "time(0) without time zone",
            "time(6) with time zone",
            "timestamp(3) without time zone",
            "timestamp(6) with time zone",
            "uuid",
            "json",
            "jsonb",
            "enum",
            "bit(1)",
            "bit(9)",
            "bit varying",
            "bit varying(9)",
            "oid",
            "money",
            "interval",
            "inet",
            "cidr",
            "macaddr",
            "macaddr8",
            "xml",
            "tsvector",
            "citext",
            "ltree",
            "hstore",
            "int4range",
            "int8range",
            "numrange",
            "tsrange",
            "tstzrange",
            "daterange",
            "point",
            "line",
            "lseg",
            "box",
            "path",
            "polygon",
            "circle",
            "integer[]",
            "numeric(5,-2)[]",
            "time(6) with time zone[]",
            "enum[]",
        ] {
            let sql_type: SqlType = text.parse().unwrap();
            assert_eq!(sql_type.to_string(), text);
            let json = serde_json::to_value(sql_type).unwrap();
            assert_eq!(serde_json::from_value::<SqlType>(json).unwrap(), sql_type);
        }
    }

    #[test]
    fn other_types_are_refused() {
        for text in [
            "",
            "point(1)",
            "point[]",
            "integer[][]",
            "bit",
            "text(3)",
            "numeric(3)",
            "character",
            "time",
            "timestamp(7) with time zone",
            "character varying(20",
            "interval(3)",
            "date without time zone",
        ] {
            assert!(text.parse::<SqlType>().is_err(), "{text}");
        }
    }
}
