//! PostgreSQL's text form of values, turned into cells.
//!
//! Both pgoutput and COPY carry a value as its type's output function writes it, under the session
//! settings of [`client`](super::client) (ISO dates in UTC, shortest exact floats, hex bytea). What
//! is text stays where it lies; what has another form in a cell, numerics and bytea, is written into
//! an [`Arena`], one piece of memory that is reused from row to row. Nothing is allocated per row, but
//! for values that have parts.

mod array;
mod figure;
mod hstore;
mod interval;

use std::sync::OnceLock;

use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;

/// Why a text is not a value of its type. Holds no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the value is not one of the type")]
    Value,
    #[error("the value is NaN or infinite, which no Avro decimal can hold")]
    NotFinite,
    #[error("the text is not UTF-8")]
    NotUtf8,
    #[error("the array has more than one dimension, which no Avro array has")]
    Dimensions,
    #[error("the value is beyond what 64 bits of microseconds hold")]
    TooLong,
}

/// Memory for decoded values, kept between rows.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    limbs: Vec<u32>,
    kept: OnceLock<Box<Kept>>,
}

/// A list of values that were written piece by piece, until the next row.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    next: OnceLock<Box<Kept>>,
}

impl Scratch {
    /// Hands out `bytes` bytes, which bound what the row's values need; see [`room`].
    pub(crate) fn arena(&mut self, bytes: usize) -> Arena<'_> {
        if self.bytes.len() < bytes {
            self.bytes.resize(bytes, 0);
        }
        self.kept = OnceLock::new();
        Arena {
            free: &mut self.bytes,
            limbs: &mut self.limbs,
            kept: &self.kept,
        }
    }

    /// Gives memory back after an unusually large row.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        if self.bytes.len() > bytes {
            self.bytes.truncate(bytes);
            self.bytes.shrink_to_fit();
        }
    }
}

/// Returns how much a value of the type may need in the arena beyond the length of its text.
pub(crate) fn room(sql_type: &SqlType) -> usize {
    match sql_type {
        SqlType::Numeric { scale, .. } => 8 + usize::from(scale.unsigned_abs()),
        SqlType::NumericUnscaled | SqlType::Money => 8,
        _ => 0,
    }
}

/// What is left of the scratch memory while a row is decoded.
#[derive(Debug)]
pub(crate) struct Arena<'a> {
    free: &'a mut [u8],
    limbs: &'a mut Vec<u32>,
    kept: &'a OnceLock<Box<Kept>>,
}

impl<'a> Arena<'a> {
    fn take(&mut self, bytes: usize) -> &'a mut [u8] {
        let (taken, free) = std::mem::take(&mut self.free).split_at_mut(bytes);
        self.free = free;
        taken
    }

    /// Takes bytes that were written elsewhere.
    fn keep(&mut self, bytes: Vec<u8>) -> &'a [u8] {
        let kept = self.kept.get_or_init(|| {
            Box::new(Kept {
                bytes,
                next: OnceLock::new(),
            })
        });
        self.kept = &kept.next;
        &kept.bytes
    }
}

/// Decodes a value that is not NULL.
pub(crate) fn decode<'a>(
    sql_type: &SqlType,
    text: &'a [u8],
    arena: &mut Arena<'a>,
) -> Result<Cell<'a>, Malformed> {
    let mut cell = Cell::Null;
    decode_into(sql_type, text, arena, &mut cell)?;
    Ok(cell)
}

/// Decodes a value that is not NULL to where it shall be. Returned beside an error it would be written in
/// parts and copied as a whole, and a load that spans several stores waits until they are in the cache
/// (store forwarding fails): that cost as much as the decoding.
pub(crate) fn decode_into<'a>(
    sql_type: &SqlType,
    text: &'a [u8],
    arena: &mut Arena<'a>,
    cell: &mut Cell<'a>,
) -> Result<(), Malformed> {
    match sql_type {
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
        | SqlType::Int4range
        | SqlType::Int8range
        | SqlType::Numrange
        | SqlType::Tsrange
        | SqlType::Tstzrange
        | SqlType::Daterange => *cell = Cell::Text(utf8(text)?),
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid => {
            *cell = Cell::Int(integer(text)?);
        }
        SqlType::Numeric { scale, .. } => {
            *cell = Cell::Numeric(numeric(text, Some(i32::from(*scale)), arena)?);
        }
        SqlType::NumericUnscaled => *cell = Cell::Numeric(numeric(text, None, arena)?),
        SqlType::Timestamp { .. } => *cell = Cell::Int(timestamp(text, Zone::None)?),
        SqlType::Timestamptz { .. } => *cell = Cell::Int(timestamp(text, Zone::Offset)?),
        SqlType::Date => *cell = Cell::Int(date(text)?),
        SqlType::Time { .. } => *cell = Cell::Int(time(text)?),
        SqlType::Bool => match text {
            b"t" => *cell = Cell::Bool(true),
            b"f" => *cell = Cell::Bool(false),
            _ => return Err(Malformed::Value),
        },
        SqlType::Float4 => *cell = Cell::Float4(parse(text)?),
        SqlType::Float8 => *cell = Cell::Float8(parse(text)?),
        SqlType::Bytea => *cell = Cell::Bytes(bytea(text, arena)?),
        SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => match text {
            b"1" => *cell = Cell::Bool(true),
            b"0" | b"" => *cell = Cell::Bool(false),
            _ => return Err(Malformed::Value),
        },
        SqlType::Bit { .. } | SqlType::Varbit { .. } => *cell = Cell::Bytes(bits(text, arena)?),
        SqlType::Money => *cell = Cell::Numeric(money(text, arena)?),
        SqlType::Interval => *cell = Cell::Int(interval::parse(text)?),
        SqlType::Timetz { .. } => *cell = Cell::Int(time_with_zone(text)?),
        SqlType::Hstore => {
            let json = hstore::to_json(utf8(text)?).ok_or(Malformed::Value)?;
            *cell = Cell::Text(utf8(arena.keep(json.into_bytes()))?);
        }
        SqlType::Array { element } => {
            let array = array::parse(*element, utf8(text)?)?;
            *cell = Cell::Composite(arena.keep(array));
        }
        SqlType::Point
        | SqlType::Line
        | SqlType::Lseg
        | SqlType::Box
        | SqlType::Path
        | SqlType::Polygon
        | SqlType::Circle => {
            let figure = figure::parse(*sql_type, utf8(text)?).ok_or(Malformed::Value)?;
            let composite = figure.to_cell(*sql_type).ok_or(Malformed::Value)?;
            *cell = Cell::Composite(arena.keep(composite));
        }
    }
    Ok(())
}

fn utf8(text: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(text).map_err(|_| Malformed::NotUtf8)
}

/// Bits with the last one first, eight a byte from the lowest on, without zeros at the end.
fn bits<'a>(text: &[u8], arena: &mut Arena<'a>) -> Result<&'a [u8], Malformed> {
    let out = arena.take(text.len().div_ceil(8));
    out.fill(0);
    for (index, digit) in text.iter().rev().enumerate() {
        match digit {
            b'1' => out[index / 8] |= 1 << (index % 8),
            b'0' => {}
            _ => return Err(Malformed::Value),
        }
    }
    let used = out.iter().rposition(|byte| *byte != 0);
    Ok(&out[..used.map_or(0, |last| last + 1)])
}

/// `-$1,234.56`, as the session's `lc_monetary` of C has it.
fn money<'a>(text: &[u8], arena: &mut Arena<'a>) -> Result<Numeric<'a>, Malformed> {
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'$' | b','))
        .collect();
    numeric(&digits, Some(2), arena)
}

/// Microseconds since midnight UTC of `HH:MM:SS[.ffffff]+HH[:MM[:SS]]`. Only at UTC the day has an end
/// beside its beginning.
fn time_with_zone(text: &[u8]) -> Result<i64, Malformed> {
    let (clock, ahead) = split_offset(text)?;
    let micros = time(clock)? - ahead * MICROS_PER_SECOND;
    let day = SECONDS_PER_DAY * MICROS_PER_SECOND;
    Ok(if micros == day && ahead == 0 {
        day
    } else {
        micros.rem_euclid(day)
    })
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Result<T, Malformed> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed::Value)
}

/// Faster than `str::parse` by not looking at UTF-8 first; integers are the most frequent values.
fn integer(text: &[u8]) -> Result<i64, Malformed> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    if digits.is_empty() || digits.len() > 19 {
        return Err(Malformed::Value);
    }
    let mut value = 0_i64;
    for digit in digits {
        let digit = i64::from(digit_value(*digit)?);
        let shifted = value.checked_mul(10).ok_or(Malformed::Value)?;
        // Negative numbers are built downwards: the smallest has no positive counterpart.
        let next = if negative {
            shifted.checked_sub(digit)
        } else {
            shifted.checked_add(digit)
        };
        value = next.ok_or(Malformed::Value)?;
    }
    Ok(value)
}

fn digit_value(byte: u8) -> Result<u8, Malformed> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        _ => Err(Malformed::Value),
    }
}

fn bytea<'a>(text: &[u8], arena: &mut Arena<'a>) -> Result<&'a [u8], Malformed> {
    let hex = text.strip_prefix(b"\\x").ok_or(Malformed::Value)?;
    let (pairs, rest) = hex.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Malformed::Value);
    }
    let out = arena.take(pairs.len());
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = hex_value(*high)? << 4 | hex_value(*low)?;
    }
    Ok(out)
}

fn hex_value(byte: u8) -> Result<u8, Malformed> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(Malformed::Value),
    }
}

/// Decodes `[-]digits[.digits]` to the scale wanted, or to as many digits as are written.
///
/// A server that writes more digits than the column's scale, other than zeros, breaks the type; so
/// does a negative scale whose last digits are not zeros.
fn numeric<'a>(
    text: &[u8],
    wanted_scale: Option<i32>,
    arena: &mut Arena<'a>,
) -> Result<Numeric<'a>, Malformed> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if matches!(text, b"NaN" | b"Infinity") {
        return Err(Malformed::NotFinite);
    }
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    let written = i32::try_from(fraction.len()).map_err(|_| Malformed::Value)?;
    let scale = wanted_scale.unwrap_or(written);
    let shift = scale - written;
    let digits = whole.iter().chain(fraction).copied();
    let count = whole.len() + fraction.len();
    let surplus = usize::try_from(-shift).unwrap_or(0).min(count);
    let padding = usize::try_from(shift).unwrap_or(0);
    if digits
        .clone()
        .skip(count - surplus)
        .any(|digit| digit != b'0')
    {
        return Err(Malformed::Value);
    }
    let zeros = std::iter::repeat_n(b'0', padding);
    let significant = digits.take(count - surplus).chain(zeros);
    let length = count - surplus + padding;
    let unscaled = if length <= SMALL_DIGITS {
        small_number(significant, negative, arena)?
    } else {
        large_number(significant, length, negative, arena)?
    };
    Ok(Numeric { unscaled, scale })
}

/// 10^38 is less than 2^127.
const SMALL_DIGITS: usize = 38;

fn small_number<'a>(
    digits: impl Iterator<Item = u8>,
    negative: bool,
    arena: &mut Arena<'a>,
) -> Result<&'a [u8], Malformed> {
    let mut value = 0_i128;
    for digit in digits {
        value = value * 10 + i128::from(digit_value(digit)?);
    }
    let bytes = if negative { -value } else { value }.to_be_bytes();
    let shortest = shortest(&bytes);
    let out = arena.take(shortest.len());
    out.copy_from_slice(shortest);
    Ok(out)
}

/// Schoolbook conversion, nine digits at a time, into little-endian limbs. Quadratic, which for
/// PostgreSQL's longest numbers (147,455 digits) is a fraction of a second and never happens.
fn large_number<'a>(
    digits: impl Iterator<Item = u8>,
    length: usize,
    negative: bool,
    arena: &mut Arena<'a>,
) -> Result<&'a [u8], Malformed> {
    arena.limbs.clear();
    let mut group = 0_u32;
    let mut base = 1_u32;
    for digit in digits {
        group = group * 10 + u32::from(digit_value(digit)?);
        base *= 10;
        if base == 1_000_000_000 {
            multiply_add(arena.limbs, base, group);
            (group, base) = (0, 1);
        }
    }
    multiply_add(arena.limbs, base, group);
    // log2(10) / 8 = 0.4153 bytes a digit, one for the sign, and the last limb whole.
    let bytes = (arena.limbs.len() * 4 + 1).min(length * 5 / 12 + 6);
    let out = arena.take(bytes);
    out.fill(0);
    for (byte, limb_byte) in out
        .iter_mut()
        .rev()
        .zip(arena.limbs.iter().flat_map(|limb| limb.to_le_bytes()))
    {
        *byte = limb_byte;
    }
    if negative {
        negate(out);
    }
    Ok(shortest(out))
}

fn multiply_add(limbs: &mut Vec<u32>, factor: u32, summand: u32) {
    let mut carry = u64::from(summand);
    for limb in limbs.iter_mut() {
        let sum = u64::from(*limb) * u64::from(factor) + carry;
        *limb = low_half(sum);
        carry = sum >> 32;
    }
    if carry > 0 {
        limbs.push(low_half(carry));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half is what is wanted"
)]
fn low_half(value: u64) -> u32 {
    value as u32
}

/// Negates a big-endian two's complement number in place.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
}

/// Drops leading bytes that only repeat the sign.
fn shortest(bytes: &[u8]) -> &[u8] {
    let repeats = |pair: &[u8]| match pair {
        [0x00, second] => *second < 0x80,
        [0xFF, second] => *second >= 0x80,
        _ => false,
    };
    let redundant = bytes.windows(2).take_while(|pair| repeats(pair)).count();
    &bytes[redundant..]
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// `infinity`, `-infinity`, or something finite.
fn unless_infinite(
    text: &[u8],
    finite: impl FnOnce(&[u8]) -> Result<i64, Malformed>,
) -> Result<i64, Malformed> {
    match text {
        b"infinity" => Ok(POSITIVE_INFINITY),
        b"-infinity" => Ok(NEGATIVE_INFINITY),
        text => finite(text),
    }
}

fn date(text: &[u8]) -> Result<i64, Malformed> {
    unless_infinite(text, |text| {
        let (text, era) = split_era(text);
        days(text, era)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Era {
    BeforeChrist,
    Common,
}

fn split_era(text: &[u8]) -> (&[u8], Era) {
    match text.strip_suffix(b" BC") {
        Some(rest) => (rest, Era::BeforeChrist),
        None => (text, Era::Common),
    }
}

/// Days since 1970-01-01 of `YYYY-MM-DD` in the proleptic Gregorian calendar, by counting from
/// 0000-03-01, where leap days come last in a year.
fn days(text: &[u8], era: Era) -> Result<i64, Malformed> {
    let mut parts = text.splitn(3, |byte| *byte == b'-');
    let mut part = || parts.next().ok_or(Malformed::Value).and_then(integer);
    let (year, month, day) = (part()?, part()?, part()?);
    if !(0..=10_000_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(Malformed::Value);
    }
    // 1 BC is the year 0.
    let year = if era == Era::BeforeChrist {
        1 - year
    } else {
        year
    };
    let year = if month <= 2 { year - 1 } else { year };
    let century = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Ok(century * 146_097 + day_of_era - 719_468)
}

/// Microseconds since midnight of `HH:MM:SS[.ffffff]`.
fn time(text: &[u8]) -> Result<i64, Malformed> {
    let (clock, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    if fraction.len() > 6 {
        return Err(Malformed::Value);
    }
    let mut micros = if fraction.is_empty() {
        0
    } else {
        integer(fraction)?
    };
    for _ in fraction.len()..6 {
        micros *= 10;
    }
    Ok(seconds(clock)? * MICROS_PER_SECOND + micros)
}

/// Seconds of `HH[:MM[:SS]]`.
fn seconds(text: &[u8]) -> Result<i64, Malformed> {
    let mut total = 0;
    let mut unit = 3600;
    for part in text.split(|byte| *byte == b':') {
        if unit == 0 || part.len() > 3 || part.starts_with(b"-") {
            return Err(Malformed::Value);
        }
        total += integer(part)? * unit;
        unit /= 60;
    }
    Ok(total)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Zone {
    None,
    Offset,
}

fn timestamp(text: &[u8], zone: Zone) -> Result<i64, Malformed> {
    unless_infinite(text, |text| {
        let (text, era) = split_era(text);
        let space = text.iter().position(|byte| *byte == b' ');
        let (date, rest) = text.split_at(space.ok_or(Malformed::Value)?);
        let rest = &rest[1..];
        let (clock, offset) = match zone {
            Zone::None => (rest, 0),
            Zone::Offset => split_offset(rest)?,
        };
        let midnight = days(date, era)? * SECONDS_PER_DAY - offset;
        let clock = time(clock)?;
        midnight
            .checked_mul(MICROS_PER_SECOND)
            .and_then(|midnight| midnight.checked_add(clock))
            .ok_or(Malformed::TooLong)
    })
}

/// Splits `HH:MM:SS+HH[:MM[:SS]]` into the clock and the seconds that it is ahead of UTC.
fn split_offset(text: &[u8]) -> Result<(&[u8], i64), Malformed> {
    let sign = text
        .iter()
        .position(|byte| matches!(byte, b'+' | b'-'))
        .ok_or(Malformed::Value)?;
    let ahead = seconds(&text[sign + 1..])?;
    let offset = if text[sign] == b'-' { -ahead } else { ahead };
    Ok((&text[..sign], offset))
}
