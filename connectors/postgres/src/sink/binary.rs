//! Cells as PostgreSQL's binary parameters, checked by the server's own functions in the tests.

mod array;
mod bits;
mod figure;
mod network;
mod range;
mod tsvector;

use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;
use tokio_postgres::types::Type;

pub(super) use array::text as array_text;

/// A value does not fit the type that its schema gives it. The value is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The cell is of another kind.
    #[error("the value is of another kind")]
    Kind,
    /// The number, date or time is out of the type's range.
    #[error("the value is out of range")]
    Range,
    /// The text is no uuid.
    #[error("the text is no uuid")]
    Uuid,
    /// The text is none that the type has.
    #[error("the text is not one of the type")]
    Text,
}

/// Returns the element and array types as which a column's values are sent. Length and scale stay
/// with the target's column, which checks them.
pub(super) fn wire_types(sql_type: &SqlType) -> (Type, Type) {
    match sql_type {
        SqlType::Bool => (Type::BOOL, Type::BOOL_ARRAY),
        SqlType::Int2 => (Type::INT2, Type::INT2_ARRAY),
        SqlType::Int4 => (Type::INT4, Type::INT4_ARRAY),
        SqlType::Int8 => (Type::INT8, Type::INT8_ARRAY),
        SqlType::Float4 => (Type::FLOAT4, Type::FLOAT4_ARRAY),
        SqlType::Float8 => (Type::FLOAT8, Type::FLOAT8_ARRAY),
        SqlType::Numeric { .. } | SqlType::NumericUnscaled => (Type::NUMERIC, Type::NUMERIC_ARRAY),
        SqlType::Text => (Type::TEXT, Type::TEXT_ARRAY),
        SqlType::Varchar { .. } => (Type::VARCHAR, Type::VARCHAR_ARRAY),
        SqlType::Char { .. } => (Type::BPCHAR, Type::BPCHAR_ARRAY),
        SqlType::Bytea => (Type::BYTEA, Type::BYTEA_ARRAY),
        SqlType::Date => (Type::DATE, Type::DATE_ARRAY),
        SqlType::Time { .. } => (Type::TIME, Type::TIME_ARRAY),
        SqlType::Timestamp { .. } => (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
        SqlType::Timestamptz { .. } => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        SqlType::Uuid => (Type::UUID, Type::UUID_ARRAY),
        SqlType::Json => (Type::JSON, Type::JSON_ARRAY),
        SqlType::Jsonb => (Type::JSONB, Type::JSONB_ARRAY),
        SqlType::Bit { .. } => (Type::BIT, Type::BIT_ARRAY),
        SqlType::Varbit { .. } => (Type::VARBIT, Type::VARBIT_ARRAY),
        SqlType::Oid => (Type::OID, Type::OID_ARRAY),
        SqlType::Money => (Type::MONEY, Type::MONEY_ARRAY),
        SqlType::Interval => (Type::INTERVAL, Type::INTERVAL_ARRAY),
        SqlType::Timetz { .. } => (Type::TIMETZ, Type::TIMETZ_ARRAY),
        SqlType::Inet => (Type::INET, Type::INET_ARRAY),
        SqlType::Cidr => (Type::CIDR, Type::CIDR_ARRAY),
        SqlType::Macaddr => (Type::MACADDR, Type::MACADDR_ARRAY),
        SqlType::Macaddr8 => (Type::MACADDR8, Type::MACADDR8_ARRAY),
        SqlType::Xml => (Type::XML, Type::XML_ARRAY),
        SqlType::Tsvector => (Type::TS_VECTOR, Type::TS_VECTOR_ARRAY),
        SqlType::Int4range => (Type::INT4_RANGE, Type::INT4_RANGE_ARRAY),
        SqlType::Int8range => (Type::INT8_RANGE, Type::INT8_RANGE_ARRAY),
        SqlType::Numrange => (Type::NUM_RANGE, Type::NUM_RANGE_ARRAY),
        SqlType::Tsrange => (Type::TS_RANGE, Type::TS_RANGE_ARRAY),
        SqlType::Tstzrange => (Type::TSTZ_RANGE, Type::TSTZ_RANGE_ARRAY),
        SqlType::Daterange => (Type::DATE_RANGE, Type::DATE_RANGE_ARRAY),
        SqlType::Point => (Type::POINT, Type::POINT_ARRAY),
        SqlType::Line => (Type::LINE, Type::LINE_ARRAY),
        SqlType::Lseg => (Type::LSEG, Type::LSEG_ARRAY),
        SqlType::Box => (Type::BOX, Type::BOX_ARRAY),
        SqlType::Path => (Type::PATH, Type::PATH_ARRAY),
        SqlType::Polygon => (Type::POLYGON, Type::POLYGON_ARRAY),
        SqlType::Circle => (Type::CIRCLE, Type::CIRCLE_ARRAY),
        // There is no array of arrays: they are sent as text, which the statement casts. The others
        // are text at a subscriber, see `SqlType::stored_as`.
        SqlType::Array { .. }
        | SqlType::Enum
        | SqlType::Citext
        | SqlType::Ltree
        | SqlType::Hstore => (Type::TEXT, Type::TEXT_ARRAY),
    }
}

/// Appends an element of an array: its length and its bytes, or -1 for NULL.
pub(super) fn element(
    sql_type: &SqlType,
    cell: &Cell<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Misfit> {
    if matches!(cell, Cell::Null) {
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        return Ok(());
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Err(misfit) = value(sql_type, cell, out) {
        out.truncate(start);
        return Err(misfit);
    }
    let length = i32::try_from(out.len() - start - 4).map_err(|_| Misfit::Range)?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// From 1970-01-01 to 2000-01-01, PostgreSQL's epoch.
const DAYS_TO_2000: i64 = 10_957;
const MICROS_TO_2000: i64 = DAYS_TO_2000 * 86_400_000_000;

fn value(sql_type: &SqlType, cell: &Cell<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    match (sql_type, cell) {
        (SqlType::Bool, Cell::Bool(value)) => out.push(u8::from(*value)),
        (SqlType::Int2, Cell::Int(value)) => {
            out.extend_from_slice(&narrow::<i16>(*value)?.to_be_bytes());
        }
        (SqlType::Int4, Cell::Int(value)) => {
            out.extend_from_slice(&narrow::<i32>(*value)?.to_be_bytes());
        }
        (SqlType::Int8 | SqlType::Time { .. }, Cell::Int(value)) => {
            out.extend_from_slice(&value.to_be_bytes());
        }
        (SqlType::Float4, Cell::Float4(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (SqlType::Float8, Cell::Float8(value)) => out.extend_from_slice(&value.to_be_bytes()),
        // Of a record from before the column was made wider.
        (SqlType::Float8, Cell::Float4(value)) => {
            out.extend_from_slice(&f64::from(*value).to_be_bytes());
        }
        (SqlType::Numeric { .. } | SqlType::NumericUnscaled, Cell::Numeric(value)) => {
            return numeric(value, out);
        }
        (
            SqlType::Text | SqlType::Varchar { .. } | SqlType::Char { .. } | SqlType::Json,
            Cell::Text(value),
        ) => out.extend_from_slice(value.as_bytes()),
        (SqlType::Jsonb, Cell::Text(value)) => {
            // The version of the binary form.
            out.push(1);
            out.extend_from_slice(value.as_bytes());
        }
        (
            SqlType::Xml | SqlType::Enum | SqlType::Citext | SqlType::Ltree | SqlType::Hstore,
            Cell::Text(value),
        ) => out.extend_from_slice(value.as_bytes()),
        (SqlType::Bit { .. } | SqlType::Varbit { .. }, Cell::Bool(bit)) => bits::one(*bit, out),
        (SqlType::Bit { length }, Cell::Bytes(bits)) => {
            return bits::put(bits, usize::try_from(*length).ok(), out);
        }
        (SqlType::Varbit { .. }, Cell::Bytes(bits)) => return bits::put(bits, None, out),
        (SqlType::Oid, Cell::Int(value)) => {
            out.extend_from_slice(&narrow::<u32>(*value)?.to_be_bytes());
        }
        (SqlType::Money, Cell::Numeric(value)) => return money(value, out),
        (SqlType::Interval, Cell::Int(micros)) => {
            out.extend_from_slice(&micros.to_be_bytes());
            // Days and months.
            out.extend_from_slice(&[0; 8]);
        }
        (SqlType::Timetz { .. }, Cell::Int(micros)) => {
            out.extend_from_slice(&micros.to_be_bytes());
            // The zone's distance from UTC.
            out.extend_from_slice(&[0; 4]);
        }
        (SqlType::Inet | SqlType::Cidr, Cell::Text(text)) => {
            let is_cidr = *sql_type == SqlType::Cidr;
            return network::address(text, is_cidr, out).ok_or(Misfit::Text);
        }
        (SqlType::Macaddr | SqlType::Macaddr8, Cell::Text(text)) => {
            let bytes = if *sql_type == SqlType::Macaddr { 6 } else { 8 };
            return network::hardware_address(text, bytes, out).ok_or(Misfit::Text);
        }
        (SqlType::Tsvector, Cell::Text(text)) => {
            return tsvector::put(text, out).ok_or(Misfit::Text);
        }
        (_, Cell::Text(text)) if sql_type.bound().is_some() => {
            return range::put(sql_type, text, out);
        }
        (SqlType::Array { element }, Cell::Composite(cell)) => {
            return array::put(*element, cell, out);
        }
        (_, Cell::Composite(cell)) => return figure::put(*sql_type, cell, out),
        (SqlType::Uuid, Cell::Text(value)) => return uuid(value, out),
        (SqlType::Bytea, Cell::Bytes(value)) => out.extend_from_slice(value),
        (SqlType::Date, Cell::Int(days)) => {
            let days = match *days {
                POSITIVE_INFINITY => i32::MAX,
                NEGATIVE_INFINITY => i32::MIN,
                days => narrow(days.checked_sub(DAYS_TO_2000).ok_or(Misfit::Range)?)?,
            };
            out.extend_from_slice(&days.to_be_bytes());
        }
        (SqlType::Timestamp { .. } | SqlType::Timestamptz { .. }, Cell::Int(micros)) => {
            let micros = match *micros {
                // PostgreSQL's infinities are the same two numbers.
                infinity @ (POSITIVE_INFINITY | NEGATIVE_INFINITY) => infinity,
                micros => micros.checked_sub(MICROS_TO_2000).ok_or(Misfit::Range)?,
            };
            out.extend_from_slice(&micros.to_be_bytes());
        }
        _ => return Err(Misfit::Kind),
    }
    Ok(())
}

fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, Misfit> {
    T::try_from(value).map_err(|_| Misfit::Range)
}

fn uuid(text: &str, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    for _ in 0..16 {
        let mut digit = || {
            let byte = digits.next()?;
            char::from(byte).to_digit(16)
        };
        let (high, low) = (digit(), digit());
        let byte = high.zip(low).ok_or(Misfit::Uuid)?;
        out.push(u8::try_from(byte.0 << 4 | byte.1).map_err(|_| Misfit::Uuid)?);
    }
    if digits.next().is_some() {
        return Err(Misfit::Uuid);
    }
    Ok(())
}

/// Writes the hundredths that the server keeps.
fn money(value: &Numeric<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let bytes = value.unscaled;
    let is_negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let missing = 8_usize.checked_sub(bytes.len()).ok_or(Misfit::Range)?;
    if value.scale != 2 {
        return Err(Misfit::Kind);
    }
    out.extend(std::iter::repeat_n(
        if is_negative { 0xFF } else { 0 },
        missing,
    ));
    out.extend_from_slice(bytes);
    Ok(())
}

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
/// The largest `dscale` that the server's `numeric_recv` takes.
const DSCALE_MAX: i32 = 0x3FFF;

/// Writes `unscaled × 10^-scale` as `numeric_recv` reads it: digits of base 10 000, most significant
/// first, aligned at the decimal point; the weight of the first; the sign; the number of decimals to
/// show.
fn numeric(value: &Numeric<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let dscale = value.scale.max(0);
    if dscale > DSCALE_MAX || value.scale < -DSCALE_MAX {
        return Err(Misfit::Range);
    }
    let is_negative = value.unscaled.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut limbs = magnitude(value.unscaled, is_negative);
    // Groups of four digits begin at the point, so the number of decimals becomes a multiple of four.
    let (factor_exponent, fraction_groups) = if value.scale > 0 {
        let groups = value.scale.unsigned_abs().div_ceil(4);
        (groups * 4 - value.scale.unsigned_abs(), groups)
    } else {
        (value.scale.unsigned_abs(), 0)
    };
    for _ in 0..factor_exponent {
        multiply_by_ten(&mut limbs);
    }
    let mut groups = Vec::new();
    while !limbs.is_empty() {
        groups.push(divide_by_ten_thousand(&mut limbs));
    }
    // Now least significant first. Zeros at the end are not stored; zeros at the front do not occur.
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    let kept = groups.get(zeros..).unwrap_or_default();
    let weight =
        i64::try_from(groups.len()).map_err(|_| Misfit::Range)? - i64::from(fraction_groups) - 1;
    let weight = if kept.is_empty() { 0 } else { weight };
    let sign = if is_negative { NEGATIVE } else { POSITIVE };
    let count = i16::try_from(kept.len()).map_err(|_| Misfit::Range)?;
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&narrow::<i16>(weight)?.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&narrow::<i16>(dscale.into())?.to_be_bytes());
    for group in kept.iter().rev() {
        out.extend_from_slice(&group.to_be_bytes());
    }
    Ok(())
}

/// Returns the magnitude of a two's complement number as 32-bit limbs, least significant first,
/// without leading zeros.
fn magnitude(bytes: &[u8], is_negative: bool) -> Vec<u32> {
    let mut limbs: Vec<u32> = bytes
        .rchunks(4)
        .map(|chunk| {
            let fill = if is_negative { 0xFF } else { 0 };
            let mut limb = [fill; 4];
            limb[4 - chunk.len()..].copy_from_slice(chunk);
            u32::from_be_bytes(limb)
        })
        .collect();
    if is_negative {
        let mut carry = true;
        for limb in &mut limbs {
            let (negated, overflows) = (!*limb).overflowing_add(u32::from(carry));
            *limb = negated;
            carry = overflows;
        }
    }
    trim(&mut limbs);
    limbs
}

fn trim(limbs: &mut Vec<u32>) {
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
}

fn multiply_by_ten(limbs: &mut Vec<u32>) {
    let mut carry = 0_u64;
    for limb in limbs.iter_mut() {
        let product = u64::from(*limb) * 10 + carry;
        *limb = low_half(product);
        carry = product >> 32;
    }
    if carry != 0 {
        limbs.push(low_half(carry));
    }
}

fn divide_by_ten_thousand(limbs: &mut Vec<u32>) -> u16 {
    let mut rest = 0_u64;
    for limb in limbs.iter_mut().rev() {
        let dividend = rest << 32 | u64::from(*limb);
        *limb = low_half(dividend / 10_000);
        rest = dividend % 10_000;
    }
    trim(limbs);
    u16::try_from(rest).expect("a remainder of division by 10 000 fits")
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xFFFF_FFFF).expect("the upper half is masked away")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(unscaled: i64, scale: i32) -> (i16, u16, i16, Vec<i16>) {
        let bytes = unscaled.to_be_bytes();
        let mut out = Vec::new();
        let value = Numeric {
            unscaled: &bytes,
            scale,
        };
        numeric(&value, &mut out).unwrap();
        let words: Vec<i16> = out
            .chunks(2)
            .map(|pair| i16::from_be_bytes([pair[0], pair[1]]))
            .collect();
        assert_eq!(usize::try_from(words[0]).unwrap(), words.len() - 4);
        let sign = u16::from_be_bytes(words[2].to_be_bytes());
        (words[1], sign, words[3], words[4..].to_vec())
    }

    #[test]
    fn digits_are_grouped_at_the_decimal_point() {
        assert_eq!(digits(12_345, 2), (0, POSITIVE, 2, vec![123, 4500]));
        assert_eq!(digits(-1, 4), (-1, NEGATIVE, 4, vec![1]));
        assert_eq!(digits(-1, 5), (-2, NEGATIVE, 5, vec![1000]));
        assert_eq!(digits(12, -2), (0, POSITIVE, 0, vec![1200]));
        assert_eq!(digits(10_000, 0), (1, POSITIVE, 0, vec![1]));
        assert_eq!(
            digits(123_456_789, 0),
            (2, POSITIVE, 0, vec![1, 2345, 6789])
        );
    }

    #[test]
    fn zero_keeps_its_scale() {
        assert_eq!(digits(0, 3), (0, POSITIVE, 3, vec![]));
    }

    #[test]
    fn a_value_of_another_kind_or_out_of_range_is_refused_and_leaves_nothing_behind() {
        let mut out = vec![7];
        let refused = |sql_type, cell, out: &mut Vec<u8>| element(&sql_type, &cell, out);
        assert_eq!(
            refused(SqlType::Int2, Cell::Int(40_000), &mut out),
            Err(Misfit::Range)
        );
        assert_eq!(
            refused(SqlType::Text, Cell::Int(1), &mut out),
            Err(Misfit::Kind)
        );
        assert_eq!(
            refused(SqlType::Uuid, Cell::Text("not a uuid"), &mut out),
            Err(Misfit::Uuid)
        );
        assert_eq!(
            refused(SqlType::Text, Cell::Unavailable, &mut out),
            Err(Misfit::Kind)
        );
        assert_eq!(out, [7]);
    }
}
