//! Masks: how a value is shown without being shown whole.
//!
//! Each mask is defined by one PostgreSQL expression, which is also the oracle of its tests. `x` is
//! the column as text ([`crate::text`]), `c` the column itself:
//!
//! | mask | expression |
//! |---|---|
//! | `CLEAR` | `c` |
//! | `SHOW_FIRST n` | `case when length(x) <= n then repeat('*', length(x)) else left(x, n) \|\| repeat('*', length(x) - n) end` |
//! | `SHOW_LAST n` | the same from the right |
//! | `SHOW_ENDS n,m` | `case when length(x) <= n + m then repeat('*', length(x)) else left(x, n) \|\| repeat('*', length(x) - n - m) \|\| right(x, m) end` |
//! | `DATE_YEAR` | `to_char(c, 'YYYY')`, of a timestamptz at UTC; of a `character(8)` date `left(x, 4)` |
//! | `REGION4` | `left(x, 4)` |
//! | `BAND b1, …, bk` | `case when c is null then null when c < b1 then '< b1' when c < b2 then 'b1 .. b2' … else '>= bk' end` |
//! | `HASH` | `encode(substr(hmac(convert_to(x, 'UTF8'), key, 'sha256'), 1, 16), 'hex')` |
//! | `NULL` | `null::text` |
//!
//! Columns of bits, money, intervals, times with a zone, hstore, geometric types and arrays have no
//! text here: they can be shown as they are (`CLEAR`) or not at all (`NULL`).
//!
//! Every mask but `CLEAR` yields text, and NULL stays NULL. Where PostgreSQL would raise an error
//! (the year of a date that no timestamp can hold) the masked value is NULL.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;

use crate::decimal::{self, OwnedNumeric};
use crate::literal::{self, civil_from_days};
use crate::secret::Key;
use crate::text;

/// How a column's values are shown. Parses from, and prints as, the forms in the table above.
#[derive(Clone, Debug, PartialEq)]
pub enum Mask {
    /// As they are.
    Clear,
    /// The first characters; stars for the others.
    ShowFirst(u32),
    /// The last characters; stars for the others.
    ShowLast(u32),
    /// The first and the last characters; stars between them.
    ShowEnds(u32, u32),
    /// The year.
    DateYear,
    /// The first four digits of a region code.
    Region4,
    /// The band in which a number lies.
    Band(Vec<Bound>),
    /// A keyed digest.
    Hash,
    /// Nothing.
    Null,
}

/// A bound between two bands: the number, and the text it was given as, which labels show.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    text: String,
    exact: OwnedNumeric,
    float: f64,
}

/// The bounds of `BAND` without its own.
const DEFAULT_BOUNDS: &str = "0, 10, 100, 1000, 10000, 100000, 1000000";

/// The longest mask: only the bounds of a `BAND` are many.
const TEXT_BYTES_MAX: usize = 1024;

/// A text that is no mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidMask(String);

impl FromStr for Mask {
    type Err = InvalidMask;

    fn from_str(text: &str) -> Result<Self, InvalidMask> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(InvalidMask(format!(
                "the mask has {} bytes, more than {TEXT_BYTES_MAX}",
                text.len()
            )));
        }
        let (name, arguments) = text.split_once(' ').unwrap_or((text, ""));
        let arguments = arguments.trim();
        let parts: Vec<&str> = arguments.split(',').map(str::trim).collect();
        let count = |part: &str| {
            part.parse::<u32>().map_err(|_| {
                InvalidMask(format!(
                    "\"{text}\": \"{part}\" is not a number of characters"
                ))
            })
        };
        let mask = match (name, parts.as_slice()) {
            ("CLEAR", [""]) => Self::Clear,
            ("SHOW_FIRST", [n]) => Self::ShowFirst(count(n)?),
            ("SHOW_LAST", [n]) => Self::ShowLast(count(n)?),
            ("SHOW_ENDS", [n, m]) => Self::ShowEnds(count(n)?, count(m)?),
            ("DATE_YEAR", [""]) => Self::DateYear,
            ("REGION4", [""]) => Self::Region4,
            ("BAND", [""]) => Self::Band(bounds(DEFAULT_BOUNDS)?),
            ("BAND", _) => Self::Band(bounds(arguments)?),
            ("HASH", [""]) => Self::Hash,
            ("NULL", [""]) => Self::Null,
            _ => {
                return Err(InvalidMask(format!(
                    "\"{text}\" is not a mask: CLEAR, SHOW_FIRST n, SHOW_LAST n, SHOW_ENDS n,m, DATE_YEAR, REGION4, BAND [b1, b2, …], HASH or NULL"
                )));
            }
        };
        Ok(mask)
    }
}

fn bounds(text: &str) -> Result<Vec<Bound>, InvalidMask> {
    let bound = |part: &str| {
        let part = part.trim();
        let float = literal::float8(part).map_err(|error| InvalidMask(format!("BAND: {error}")))?;
        let exact =
            literal::numeric(part).map_err(|error| InvalidMask(format!("BAND: {error}")))?;
        Ok(Bound {
            text: part.to_owned(),
            exact,
            float,
        })
    };
    let bounds: Vec<Bound> = text
        .split(',')
        .map(bound)
        .collect::<Result<_, InvalidMask>>()?;
    let ascending = |pair: &[Bound]| {
        decimal::compare(pair[0].exact.as_numeric(), pair[1].exact.as_numeric()) == Ordering::Less
    };
    if bounds.windows(2).all(ascending) {
        Ok(bounds)
    } else {
        Err(InvalidMask(format!("BAND: the bounds {text} do not rise")))
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("CLEAR"),
            Self::ShowFirst(n) => write!(f, "SHOW_FIRST {n}"),
            Self::ShowLast(n) => write!(f, "SHOW_LAST {n}"),
            Self::ShowEnds(n, m) => write!(f, "SHOW_ENDS {n},{m}"),
            Self::DateYear => f.write_str("DATE_YEAR"),
            Self::Region4 => f.write_str("REGION4"),
            Self::Band(bounds) => {
                f.write_str("BAND")?;
                for (index, bound) in bounds.iter().enumerate() {
                    write!(f, "{} {}", if index == 0 { "" } else { "," }, bound.text)?;
                }
                Ok(())
            }
            Self::Hash => f.write_str("HASH"),
            Self::Null => f.write_str("NULL"),
        }
    }
}

/// What a mask made of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masked {
    /// NULL.
    Null,
    /// The text that was appended.
    Text,
    /// The value was not there to be masked.
    Unavailable,
}

impl Mask {
    /// Returns the type of what the mask makes of a column.
    #[must_use]
    pub fn output_type(&self, sql_type: SqlType) -> SqlType {
        if *self == Self::Clear {
            sql_type
        } else {
            SqlType::Text
        }
    }

    /// Returns whether the mask may make NULL of a value.
    #[must_use]
    pub fn makes_null(&self) -> bool {
        matches!(self, Self::Null | Self::DateYear)
    }

    /// Returns whether the mask fits a column of the type.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check(&self, sql_type: SqlType) -> Result<(), InvalidMask> {
        let fits = match self {
            Self::DateYear => matches!(
                sql_type,
                SqlType::Date
                    | SqlType::Timestamp { .. }
                    | SqlType::Timestamptz { .. }
                    | SqlType::Char { length: 8 }
            ),
            Self::Band(_) => matches!(
                sql_type,
                SqlType::Int2
                    | SqlType::Int4
                    | SqlType::Int8
                    | SqlType::Float4
                    | SqlType::Float8
                    | SqlType::Numeric { .. }
                    | SqlType::NumericUnscaled
            ),
            Self::Clear | Self::Null => true,
            Self::ShowFirst(_)
            | Self::ShowLast(_)
            | Self::ShowEnds(..)
            | Self::Region4
            | Self::Hash => text::has_text(sql_type),
        };
        if fits {
            return Ok(());
        }
        let wanted = match self {
            Self::DateYear => "date, timestamp, timestamp with time zone or character(8)",
            Self::Band(_) => "a number",
            _ => "what has a text of its own",
        };
        Err(InvalidMask(format!(
            "mask {self} is for {wanted}, not for {sql_type}"
        )))
    }

    /// Appends the masked form of a value. `key` is needed by `HASH` only.
    ///
    /// # Panics
    /// If it is `CLEAR`, which has no text form, or `HASH` without a key.
    pub fn apply(
        &self,
        sql_type: SqlType,
        cell: Cell<'_>,
        key: Option<&Key>,
        scratch: &mut String,
        out: &mut String,
    ) -> Masked {
        match cell {
            _ if *self == Self::Null => return Masked::Null,
            Cell::Null => return Masked::Null,
            Cell::Unavailable => return Masked::Unavailable,
            _ => {}
        }
        match self {
            Self::Clear | Self::Null => {
                unreachable!("CLEAR is not applied, NULL was answered above")
            }
            Self::Band(bounds) => return band(bounds, cell, out),
            Self::DateYear if !matches!(sql_type, SqlType::Char { .. }) => {
                return year(sql_type, cell, out);
            }
            _ => {}
        }
        scratch.clear();
        if !text::write(sql_type, cell, scratch) {
            return Masked::Unavailable;
        }
        match self {
            Self::ShowFirst(n) => stars(scratch, *n, 0, out),
            Self::ShowLast(m) => stars(scratch, 0, *m, out),
            Self::ShowEnds(n, m) => stars(scratch, *n, *m, out),
            Self::Region4 | Self::DateYear => out.extend(scratch.chars().take(4)),
            Self::Hash => {
                let mut mac = key.expect("a view that hashes has a key").clone();
                mac.update(scratch.as_bytes());
                text::hex(&mac.finish()[..16], out);
            }
            Self::Clear | Self::Null | Self::Band(_) => unreachable!("answered above"),
        }
        Masked::Text
    }
}

fn stars(text: &str, first: u32, last: u32, out: &mut String) {
    let is_ascii = text.is_ascii();
    let length = if is_ascii {
        text.len()
    } else {
        text.chars().count()
    };
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    let last = usize::try_from(last).unwrap_or(usize::MAX);
    let Some(hidden) = length
        .checked_sub(first.saturating_add(last))
        .filter(|hidden| *hidden > 0)
    else {
        return out.extend(std::iter::repeat_n('*', length));
    };
    let place = |character: usize| match is_ascii {
        true => character,
        false => text
            .char_indices()
            .nth(character)
            .map_or(text.len(), |(place, _)| place),
    };
    out.push_str(text.get(..place(first)).unwrap_or_default());
    out.extend(std::iter::repeat_n('*', hidden));
    out.push_str(text.get(place(first + hidden)..).unwrap_or_default());
}

fn year(sql_type: SqlType, cell: Cell<'_>, out: &mut String) -> Masked {
    /// The first day that no timestamp can hold: 294277-01-01.
    const TIMESTAMP_DAYS_END: i64 = 106_762_940;
    let Cell::Int(value) = cell else {
        return Masked::Unavailable;
    };
    let days = match (value, sql_type) {
        (POSITIVE_INFINITY | NEGATIVE_INFINITY, _) => return Masked::Null,
        (days, SqlType::Date) if days >= TIMESTAMP_DAYS_END => return Masked::Null,
        (days, SqlType::Date) => days,
        (micros, _) => micros.div_euclid(86_400_000_000),
    };
    let (year, _, _) = civil_from_days(days);
    out.push_str(&format!("{:04}", text::printed_year(year)));
    Masked::Text
}

fn band(bounds: &[Bound], cell: Cell<'_>, out: &mut String) -> Masked {
    let below = |bound: &Bound| match cell {
        Cell::Int(value) => {
            let bytes = value.to_be_bytes();
            let number = hutong_schemas::cell::Numeric {
                unscaled: &bytes,
                scale: 0,
            };
            Some(decimal::compare(number, bound.exact.as_numeric()) == Ordering::Less)
        }
        Cell::Numeric(value) => {
            Some(decimal::compare(value, bound.exact.as_numeric()) == Ordering::Less)
        }
        // NaN is above every number, and `<` is false for it.
        Cell::Float4(value) => Some(f64::from(value) < bound.float),
        Cell::Float8(value) => Some(value < bound.float),
        _ => None,
    };
    for (index, bound) in bounds.iter().enumerate() {
        match below(bound) {
            None => return Masked::Unavailable,
            Some(false) => {}
            Some(true) => {
                match index.checked_sub(1) {
                    None => out.push_str("< "),
                    Some(previous) => {
                        out.push_str(&bounds[previous].text);
                        out.push_str(" .. ");
                    }
                }
                out.push_str(&bound.text);
                return Masked::Text;
            }
        }
    }
    out.push_str(">= ");
    out.push_str(&bounds[bounds.len() - 1].text);
    Masked::Text
}
