//! Reading values from text as PostgreSQL's input functions do, for the formats that mean one thing
//! everywhere.
//!
//! PostgreSQL reads many more forms of a date (`Jan 8, 1999`, `1/8/1999`), some of which depend on
//! the session's settings. A condition must mean the same to everyone, so only ISO forms are taken,
//! and a `timestamptz` needs an offset. What is refused here is refused when a view is saved.

use crate::decimal::OwnedNumeric;

/// A text that is no value of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

fn invalid<T>(text: &str, what: &str) -> Result<T, Invalid> {
    Err(Invalid(format!("'{text}' is not {what}")))
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The most digits that a numeric literal may stand for before the decimal point, and after it.
/// PostgreSQL allows 131,072 and 16,383, but a text of ten characters, `1e131071`, must not cost
/// seconds; nobody compares with such numbers.
const NUMERIC_DIGITS_MAX: i64 = 1_000;

/// Reads a finite `numeric`: `12`, `-1.50`, `.5`, `1e3`.
pub(crate) fn numeric(text: &str) -> Result<OwnedNumeric, Invalid> {
    let trimmed = text.trim_matches(is_space);
    let (negative, unsigned) = split_sign(trimmed);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        None => (unsigned, 0),
        Some((mantissa, exponent)) => match exponent.parse::<i32>() {
            Ok(exponent) => (mantissa, i64::from(exponent)),
            Err(_) => return invalid(text, "a number"),
        },
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return invalid(text, "a number");
    }
    let mut scale = i64::try_from(fraction.len()).unwrap_or(i64::MAX) - exponent;
    let before = i64::try_from(digits.len()).unwrap_or(i64::MAX) - scale;
    if before > NUMERIC_DIGITS_MAX || scale > NUMERIC_DIGITS_MAX {
        return invalid(
            text,
            "a number of at most 1000 digits on each side of the point",
        );
    }
    if scale < 0 {
        let zeros = usize::try_from(-scale).expect("bounded above");
        digits.extend(std::iter::repeat_n(b'0', zeros));
        scale = 0;
    }
    let scale = i32::try_from(scale).expect("bounded above");
    Ok(OwnedNumeric::from_digits(negative, &digits, scale))
}

/// Reads an integer of a type between its bounds.
pub fn integer(text: &str, min: i64, max: i64) -> Result<i64, Invalid> {
    let trimmed = text.trim_matches(is_space);
    match trimmed.parse::<i64>() {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        _ => invalid(text, &format!("an integer between {min} and {max}")),
    }
}

/// Reads a `double precision`.
pub fn float8(text: &str) -> Result<f64, Invalid> {
    let trimmed = text.trim_matches(is_space);
    match float_special(trimmed) {
        Some(value) => Ok(value),
        None if !is_float(trimmed) => invalid(text, "a number"),
        None => match trimmed.parse::<f64>() {
            Ok(value) if in_range(value, trimmed) => Ok(value),
            _ => invalid(text, "in the range of double precision"),
        },
    }
}

/// Reads a `real`.
pub fn float4(text: &str) -> Result<f32, Invalid> {
    let trimmed = text.trim_matches(is_space);
    match float_special(trimmed) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "infinities and NaN exist in both"
        )]
        Some(value) => Ok(value as f32),
        None if !is_float(trimmed) => invalid(text, "a number"),
        None => match trimmed.parse::<f32>() {
            Ok(value) if in_range(f64::from(value), trimmed) => Ok(value),
            _ => invalid(text, "in the range of real"),
        },
    }
}

fn float_special(text: &str) -> Option<f64> {
    match text.to_ascii_lowercase().as_str() {
        "nan" => Some(f64::NAN),
        "infinity" | "+infinity" | "inf" | "+inf" => Some(f64::INFINITY),
        "-infinity" | "-inf" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn is_float(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'))
}

/// A number that was not zero and not infinite must not become so by being read.
fn in_range(value: f64, text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or("");
    value.is_finite() && (value != 0.0 || !mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9')))
}

/// Reads a `boolean`: any unambiguous beginning of true, false, yes, no, on, off, 1, 0.
pub fn boolean(text: &str) -> Result<bool, Invalid> {
    let word = text.trim_matches(is_space).to_ascii_lowercase();
    match word.as_str() {
        "" => invalid(text, "a boolean"),
        "1" | "on" => Ok(true),
        "0" | "of" | "off" => Ok(false),
        _ if "true".starts_with(&word) || "yes".starts_with(&word) => Ok(true),
        _ if "false".starts_with(&word) || "no".starts_with(&word) => Ok(false),
        _ => invalid(text, "a boolean"),
    }
}

/// Reads a `uuid` in any form that PostgreSQL takes, and returns the form that it writes.
pub fn uuid(text: &str) -> Result<String, Invalid> {
    let bare = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').unwrap_or(""),
        None => text,
    };
    let mut digits = String::with_capacity(32);
    let mut after_hyphen = false;
    for character in bare.chars() {
        let hyphen_fits = digits.len().is_multiple_of(4)
            && !digits.is_empty()
            && digits.len() < 32
            && !after_hyphen;
        match character {
            '-' if hyphen_fits => after_hyphen = true,
            digit if digit.is_ascii_hexdigit() => {
                digits.push(digit.to_ascii_lowercase());
                after_hyphen = false;
            }
            _ => return invalid(text, "a uuid"),
        }
    }
    if digits.len() != 32 || after_hyphen {
        return invalid(text, "a uuid");
    }
    for position in [20, 16, 12, 8] {
        digits.insert(position, '-');
    }
    Ok(digits)
}

/// Reads a `bytea` in hex form, `\x01ff`, or in escape form, `a\\b\001`.
pub fn bytea(text: &str) -> Result<Vec<u8>, Invalid> {
    let Some(hex) = text.strip_prefix("\\x") else {
        return bytea_escape(text);
    };
    let nibble = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    let mut characters = hex.bytes();
    while let Some(high) = characters.next() {
        if is_space(char::from(high)) {
            continue;
        }
        match (nibble(high), characters.next().and_then(nibble)) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return invalid(text, "a bytea"),
        }
    }
    Ok(bytes)
}

fn bytea_escape(text: &str) -> Result<Vec<u8>, Invalid> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                tail
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                tail
            }
            (b'\\', _) => return invalid(text, "a bytea"),
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    Ok(bytes)
}

/// Reads a `date`: days since 1970-01-01.
pub fn date(text: &str) -> Result<i64, Invalid> {
    let what = "a date such as 2026-01-31";
    match date_part(text.trim_matches(is_space)) {
        Some((days, "")) if (DATE_MIN..=DATE_MAX).contains(&days) => Ok(days),
        _ => infinity(text).map_or_else(|| invalid(text, what), Ok),
    }
}

/// 4714-11-24 BC, the first day of PostgreSQL's calendar.
const DATE_MIN: i64 = -2_440_588;
/// 5874898-06-02, the last.
const DATE_MAX: i64 = 2_145_042_905;
/// Midnight of that first day. The last timestamp is the last that a cell can hold, in the year
/// 294247; PostgreSQL's own end lies thirty years later.
const TIMESTAMP_MIN: i64 = DATE_MIN * MICROS_PER_DAY;

/// Reads a `time`: microseconds since midnight.
pub fn time(text: &str) -> Result<i64, Invalid> {
    match time_part(text.trim_matches(is_space)) {
        Some((micros, "")) => Ok(micros),
        _ => invalid(text, "a time such as 23:59:59.999"),
    }
}

/// Reads a `timestamp`: microseconds since 1970.
pub fn timestamp(text: &str) -> Result<i64, Invalid> {
    let what = "a timestamp such as 2026-01-31 23:59:59, without an offset";
    match date_and_time(text.trim_matches(is_space)) {
        Some((micros, "")) => in_timestamp_range(text, micros),
        _ => infinity(text).map_or_else(|| invalid(text, what), Ok),
    }
}

/// Reads a `timestamptz`: microseconds since 1970 UTC. The offset is mandatory, because without one
/// the value would depend on a session's time zone.
pub fn timestamptz(text: &str) -> Result<i64, Invalid> {
    let what = "a time with an offset, such as 2026-01-31 23:59:59+08";
    let parsed = date_and_time(text.trim_matches(is_space)).and_then(|(micros, rest)| {
        let offset = offset_part(rest.trim_start_matches(' '))?;
        Some(micros - i128::from(offset) * i128::from(MICROS_PER_SECOND))
    });
    match parsed {
        Some(micros) => in_timestamp_range(text, micros),
        None => infinity(text).map_or_else(|| invalid(text, what), Ok),
    }
}

fn in_timestamp_range(text: &str, micros: i128) -> Result<i64, Invalid> {
    match i64::try_from(micros) {
        Ok(micros) if (TIMESTAMP_MIN..i64::MAX).contains(&micros) => Ok(micros),
        _ => invalid(text, "in the range of timestamps"),
    }
}

fn infinity(text: &str) -> Option<i64> {
    match text.trim_matches(is_space).to_ascii_lowercase().as_str() {
        "infinity" => Some(hutong_schemas::cell::POSITIVE_INFINITY),
        "-infinity" => Some(hutong_schemas::cell::NEGATIVE_INFINITY),
        _ => None,
    }
}

fn date_and_time(text: &str) -> Option<(i128, &str)> {
    let (days, rest) = date_part(text)?;
    let midnight = i128::from(days) * i128::from(MICROS_PER_DAY);
    let after_separator = rest
        .strip_prefix(['T', 't', ' '])
        .map(|rest| rest.trim_start_matches(' '));
    match after_separator.and_then(time_part) {
        Some((micros, rest)) => Some((midnight + i128::from(micros), rest)),
        None => Some((midnight, rest)),
    }
}

/// Reads `YYYY-MM-DD`, the year of four to seven digits.
fn date_part(text: &str) -> Option<(i64, &str)> {
    let (year, digits, rest) = digits_part(text, 7)?;
    let (month, month_digits, rest) = digits_part(rest.strip_prefix('-')?, 2)?;
    let (day, day_digits, rest) = digits_part(rest.strip_prefix('-')?, 2)?;
    let well_formed = digits >= 4 && month_digits == 2 && day_digits == 2;
    let exists =
        year >= 1 && (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    (well_formed && exists).then(|| (days_from_civil(year, month, day), rest))
}

/// Reads `HH:MM`, `HH:MM:SS` or `HH:MM:SS.ffffff`; 24:00:00 is the end of the day.
fn time_part(text: &str) -> Option<(i64, &str)> {
    let (hour, hour_digits, rest) = digits_part(text, 2)?;
    let (minute, minute_digits, rest) = digits_part(rest.strip_prefix(':')?, 2)?;
    let (second, second_digits, rest) = match rest.strip_prefix(':') {
        Some(rest) => digits_part(rest, 2)?,
        None => (0, 2, rest),
    };
    let (micros, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let (fraction, digits, rest) = digits_part(rest, 6)?;
            (fraction * 10i64.pow(u32::try_from(6 - digits).ok()?), rest)
        }
        None => (0, rest),
    };
    let well_formed = hour_digits == 2 && minute_digits == 2 && second_digits == 2;
    let total = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros;
    (well_formed && minute < 60 && second < 60 && total <= MICROS_PER_DAY).then_some((total, rest))
}

/// Reads `Z`, `+08`, `+0800` or `+08:00`: seconds east of UTC. PostgreSQL's bound is 15:59:59.
fn offset_part(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (negative, rest) = match text.as_bytes().first()? {
        b'+' => (false, text.strip_prefix('+')?),
        b'-' => (true, text.strip_prefix('-')?),
        _ => return None,
    };
    let (hours, digits, rest) = digits_part(rest, 2)?;
    let minutes = match rest {
        "" => 0,
        _ => {
            let (minutes, digits, rest) = digits_part(rest.strip_prefix(':').unwrap_or(rest), 2)?;
            (digits == 2 && rest.is_empty()).then_some(minutes)?
        }
    };
    let seconds = (hours * 60 + minutes) * 60;
    (digits == 2 && hours <= 15 && minutes < 60).then_some(if negative {
        -seconds
    } else {
        seconds
    })
}

/// Reads up to `most` digits: their value, their number, the rest.
fn digits_part(text: &str, most: usize) -> Option<(i64, usize, &str)> {
    let count = text
        .bytes()
        .take(most)
        .take_while(u8::is_ascii_digit)
        .count();
    let (digits, rest) = text.split_at(count);
    Some((digits.parse().ok()?, count, rest))
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// What PostgreSQL's input functions skip around a value.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the days from 1970-01-01 to a day of the proleptic Gregorian calendar (year 0 is 1 BC).
/// The algorithm counts years from March, so that the leap day is the last of its year.
pub(crate) fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
