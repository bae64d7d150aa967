//! Cells as text that the server reads as values of their type.

use std::fmt::Write;

use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, Numeric, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Returns the text, or `None` for what is NULL, not known, or has parts.
pub(crate) fn text(sql_type: &SqlType, cell: &Cell<'_>) -> Option<String> {
    Some(match cell {
        Cell::Null | Cell::Unavailable | Cell::Composite(_) => return None,
        Cell::Bool(bit) if matches!(sql_type, SqlType::Bit { .. } | SqlType::Varbit { .. }) => {
            u8::from(*bit).to_string()
        }
        Cell::Bool(value) => value.to_string(),
        Cell::Int(value) => integer(sql_type, *value),
        Cell::Float4(value) => value.to_string(),
        Cell::Float8(value) => value.to_string(),
        Cell::Numeric(value) if *sql_type == SqlType::Money => money(value),
        Cell::Numeric(value) => numeric(value),
        Cell::Text(text) => (*text).to_owned(),
        Cell::Bytes(bytes) => match sql_type {
            SqlType::Bit { length } => bits(bytes, usize::try_from(*length).ok()),
            SqlType::Varbit { .. } => bits(bytes, None),
            _ => hex(bytes),
        },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::from("\\x"), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Bits that lie with the last one first; without a length from the first that is set on.
fn bits(bytes: &[u8], length: Option<usize>) -> String {
    let all = bytes.iter().rev().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "{byte:08b}");
        all
    });
    let digits = all.trim_start_matches('0');
    match length {
        Some(length) => format!("{digits:0>length$}"),
        None => digits.to_owned(),
    }
}

fn integer(sql_type: &SqlType, value: i64) -> String {
    let is_moment = matches!(
        sql_type,
        SqlType::Date | SqlType::Timestamp { .. } | SqlType::Timestamptz { .. }
    );
    match value {
        POSITIVE_INFINITY if is_moment => return "infinity".to_owned(),
        NEGATIVE_INFINITY if is_moment => return "-infinity".to_owned(),
        _ => {}
    }
    match sql_type {
        SqlType::Date => date(value, ""),
        SqlType::Time { .. } => time(value),
        SqlType::Timetz { .. } => format!("{}+00", time(value)),
        SqlType::Interval => format!("{value} microseconds"),
        SqlType::Timestamp { .. } => timestamp(value, ""),
        SqlType::Timestamptz { .. } => timestamp(value, "+00"),
        _ => value.to_string(),
    }
}

fn timestamp(micros: i64, zone: &str) -> String {
    let clock = time(micros.rem_euclid(MICROS_PER_DAY));
    date(
        micros.div_euclid(MICROS_PER_DAY),
        &format!(" {clock}{zone}"),
    )
}

fn time(micros: i64) -> String {
    let seconds = micros / MICROS_PER_SECOND;
    format!(
        "{:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        micros % MICROS_PER_SECOND
    )
}

/// The calendar day of a number of days since 1970-01-01, `rest`, and the era.
fn date(days: i64, rest: &str) -> String {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
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
    if year > 0 {
        format!("{year:04}-{month:02}-{day:02}{rest}")
    } else {
        format!("{:04}-{month:02}-{day:02}{rest} BC", 1 - year)
    }
}

/// Writes hundredths with a point, whatever the server's currency is.
fn money(value: &Numeric<'_>) -> String {
    let digits = integer_text(value.unscaled);
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.as_str()),
    };
    let digits = format!("{digits:0>3}");
    let (whole, hundredths) = digits.split_at(digits.len() - 2);
    format!("{sign}{whole}.{hundredths}")
}

/// Writes `unscaled × 10^-scale` with an exponent, which the server reads exactly.
fn numeric(value: &Numeric<'_>) -> String {
    format!("{}e{}", integer_text(value.unscaled), -value.scale)
}

/// Turns a big-endian two's complement number into decimal digits.
fn integer_text(bytes: &[u8]) -> String {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let mut magnitude: Vec<u8> = bytes.to_vec();
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut remainder = 0_u16;
        for byte in &mut magnitude {
            let dividend = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(dividend / 10).unwrap_or(u8::MAX);
            remainder = dividend % 10;
        }
        digits.push(char::from_digit(u32::from(remainder), 10).unwrap_or('0'));
    }
    if digits.is_empty() {
        digits.push('0');
    }
    if negative {
        digits.push('-');
    }
    digits.iter().rev().collect()
}
