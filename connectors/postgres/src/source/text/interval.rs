//! Intervals: `1 year 2 mons -3 days 04:05:06.789`, the session's `IntervalStyle` being `postgres`.

use super::{MICROS_PER_SECOND, Malformed, SECONDS_PER_DAY, integer, time};

/// 365.25 days a year, as Debezium counts.
const MICROS_PER_MONTH: i64 = 2_629_800 * MICROS_PER_SECOND;
const MICROS_PER_DAY: i64 = SECONDS_PER_DAY * MICROS_PER_SECOND;

/// Returns the microseconds.
pub(super) fn parse(text: &[u8]) -> Result<i64, Malformed> {
    let mut total = 0_i128;
    let mut words = text.split(|byte| *byte == b' ');
    while let Some(word) = words.next() {
        if word.contains(&b':') {
            total += i128::from(clock(word)?);
            continue;
        }
        let count = integer(word.strip_prefix(b"+").unwrap_or(word))?;
        let unit = match words.next().ok_or(Malformed::Value)? {
            b"year" | b"years" => 12 * MICROS_PER_MONTH,
            b"mon" | b"mons" => MICROS_PER_MONTH,
            b"day" | b"days" => MICROS_PER_DAY,
            _ => return Err(Malformed::Value),
        };
        total += i128::from(count) * i128::from(unit);
    }
    i64::try_from(total).map_err(|_| Malformed::TooLong)
}

/// Hours may have any number of digits.
fn clock(text: &[u8]) -> Result<i64, Malformed> {
    let (is_negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        text => (false, text),
    };
    let colon = text.iter().position(|byte| *byte == b':');
    let (hours, rest) = text.split_at(colon.ok_or(Malformed::Value)?);
    let hours = integer(hours)?;
    // What is left is `:MM:SS.ffffff`.
    let mut within = b"00".to_vec();
    within.extend_from_slice(rest);
    let within = time(&within)?;
    let micros = hours
        .checked_mul(3600 * MICROS_PER_SECOND)
        .and_then(|hours| hours.checked_add(within))
        .ok_or(Malformed::TooLong)?;
    Ok(if is_negative { -micros } else { micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_counted_in_microseconds() {
        let day = MICROS_PER_DAY;
        for (text, micros) in [
            ("00:00:00", 0),
            ("00:00:00.000001", 1),
            ("-00:00:01", -1_000_000),
            ("1 day", day),
            ("-1 days +02:03:04", -day + 7_384_000_000),
            ("1 year 2 mons 3 days", 14 * MICROS_PER_MONTH + 3 * day),
            (
                "-1 years -1 mons +3 days -04:00:00",
                -13 * MICROS_PER_MONTH + 3 * day - day / 6,
            ),
            ("2562047788:00:54.775807", i64::MAX),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(micros), "{text}");
        }
        assert_eq!(parse(b"178000000 years"), Err(Malformed::TooLong));
        for text in ["", "1", "1 hour", "infinity", "1:2:3:4", "day 1"] {
            assert_eq!(parse(text.as_bytes()), Err(Malformed::Value), "{text}");
        }
    }
}
