//! Instants as text, as Debezium's `ZonedTimestamp` writes them, and back.
//!
//! The text is `2019-05-20T00:00:00.120Z`: always UTC, with as many fractional digits as the column's
//! `timestamptz(p)` has, none for p = 0. Years are proleptic Gregorian with a year zero, as in
//! Java's `ISO_OFFSET_DATE_TIME`: four digits, a sign before years above 9999 (`+12345-…`) and
//! before negative ones (`-0043-…` is 44 BC). Infinities are the words `infinity` and `-infinity`.
//!
//! Days are turned into dates by counting in eras of 400 years (146 097 days) that begin on the
//! first of March, so that the leap day is the last of its year: with March as month 0, the days
//! before month m are (153 m + 2) / 5.

use crate::cell::{NEGATIVE_INFINITY, POSITIVE_INFINITY};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// `+294247-01-10T04:00:54.775807Z` has 30 characters.
const TEXT_BYTES_MAX: usize = 32;

/// A text of bounded length, on the stack.
pub(crate) struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    length: usize,
}

impl Text {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn push_all(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Appends the last `width` decimal digits of a number.
    fn push_digits(&mut self, number: u64, width: usize) {
        let mut rest = number;
        for at in (self.length..self.length + width).rev() {
            self.bytes[at] = b'0' + (rest % 10).to_le_bytes()[0];
            rest /= 10;
        }
        self.length += width;
    }
}

/// Writes an instant with `fraction_digits` ≤ 6 digits behind the second; finer parts are cut off.
pub(crate) fn format_instant(micros: i64, fraction_digits: u8) -> Text {
    let mut text = Text {
        bytes: [0; TEXT_BYTES_MAX],
        length: 0,
    };
    match micros {
        POSITIVE_INFINITY => text.push_all(b"infinity"),
        NEGATIVE_INFINITY => text.push_all(b"-infinity"),
        _ => push_instant(&mut text, micros, fraction_digits),
    }
    text
}

fn push_instant(text: &mut Text, micros: i64, fraction_digits: u8) {
    let (year, month, day) = date_of_days(micros.div_euclid(MICROS_PER_DAY));
    let time = micros.rem_euclid(MICROS_PER_DAY).cast_unsigned();

    let years = year.unsigned_abs();
    if year < 0 {
        text.push(b'-');
    } else if year > 9999 {
        text.push(b'+');
    }
    let year_width = match years {
        0..=9999 => 4,
        10_000..=99_999 => 5,
        _ => 6,
    };
    text.push_digits(years, year_width);
    text.push(b'-');
    text.push_digits(month, 2);
    text.push(b'-');
    text.push_digits(day, 2);
    text.push(b'T');
    push_clock(text, time / MICROS_PER_SECOND.cast_unsigned());
    if fraction_digits > 0 {
        let digits = fraction_digits.min(6);
        let fraction = time % MICROS_PER_SECOND.cast_unsigned();
        text.push(b'.');
        text.push_digits(
            fraction / 10u64.pow(u32::from(6 - digits)),
            usize::from(digits),
        );
    }
    text.push(b'Z');
}

fn push_clock(text: &mut Text, seconds: u64) {
    text.push_digits(seconds / 3600, 2);
    text.push(b':');
    text.push_digits(seconds / 60 % 60, 2);
    text.push(b':');
    text.push_digits(seconds % 60, 2);
}

/// Writes a time of day at UTC as Debezium's `ZonedTime` does, with as many digits behind the second
/// as it needs. The end of the day is `24:00:00Z`.
pub(crate) fn format_time(micros: i64) -> Text {
    let mut text = Text {
        bytes: [0; TEXT_BYTES_MAX],
        length: 0,
    };
    let micros = micros.clamp(0, MICROS_PER_DAY).cast_unsigned();
    let second = MICROS_PER_SECOND.cast_unsigned();
    push_clock(&mut text, micros / second);
    let fraction = micros % second;
    if fraction > 0 {
        text.push(b'.');
        text.push_digits(fraction, 6);
        while text.bytes[text.length - 1] == b'0' {
            text.length -= 1;
        }
    }
    text.push(b'Z');
    text
}

/// Reads what [`format_time`] writes, and the same at another offset, as microseconds since midnight
/// UTC.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let mut scan = Scan(text.as_bytes());
    let clock = scan.clock(24)?;
    let offset_seconds = scan.offset()?;
    let micros = clock - offset_seconds * MICROS_PER_SECOND;
    if !scan.0.is_empty() || clock > MICROS_PER_DAY {
        return None;
    }
    Some(if micros == MICROS_PER_DAY {
        micros
    } else {
        micros.rem_euclid(MICROS_PER_DAY)
    })
}

/// Reads what [`format_instant`] writes, and any other ISO offset of hours and minutes.
/// `None` is no such text, a part out of range, or finer than a microsecond.
pub(crate) fn parse_instant(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(POSITIVE_INFINITY),
        "-infinity" => return Some(NEGATIVE_INFINITY),
        _ => {}
    }
    let mut scan = Scan(text.as_bytes());
    let year = scan.year()?;
    scan.expect(b'-')?;
    let month = scan.two_digits(1, 12)?;
    scan.expect(b'-')?;
    let day = scan.two_digits(1, days_in_month(year, month))?;
    scan.expect(b'T')?;
    let clock = scan.clock(23)?;
    let offset_seconds = scan.offset()?;
    if !scan.0.is_empty() {
        return None;
    }
    let micros = i128::from(days_of_date(year, month, day)) * i128::from(MICROS_PER_DAY)
        + i128::from(clock - offset_seconds * MICROS_PER_SECOND);
    let micros = i64::try_from(micros).ok()?;
    (micros != POSITIVE_INFINITY && micros != NEGATIVE_INFINITY).then_some(micros)
}

struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn digit(&mut self) -> Option<i64> {
        let (first, rest) = self.0.split_first()?;
        let value = first.checked_sub(b'0').filter(|value| *value < 10)?;
        self.0 = rest;
        Some(i64::from(value))
    }

    fn two_digits(&mut self, least: i64, most: i64) -> Option<i64> {
        let value = self.digit()? * 10 + self.digit()?;
        (least..=most).contains(&value).then_some(value)
    }

    /// Four digits, or a sign and four to six, which reaches beyond what 64 bits of microseconds do.
    fn year(&mut self) -> Option<i64> {
        let negative = self.take(b'-');
        let signed = negative || self.take(b'+');
        let mut year = 0;
        let mut digits = 0;
        while digits < if signed { 6 } else { 4 } {
            let Some(digit) = self.digit() else { break };
            year = year * 10 + digit;
            digits += 1;
        }
        (digits >= 4).then_some(if negative { -year } else { year })
    }

    /// Hours, minutes, and perhaps seconds and their fraction, as microseconds.
    fn clock(&mut self, hour_max: i64) -> Option<i64> {
        let hour = self.two_digits(0, hour_max)?;
        self.expect(b':')?;
        let minute = self.two_digits(0, 59)?;
        let second = if self.take(b':') {
            self.two_digits(0, 59)?
        } else {
            0
        };
        let fraction = if self.take(b'.') { self.fraction()? } else { 0 };
        Some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + fraction)
    }

    /// Up to nine digits, of which those behind the sixth must be zero, as microseconds.
    fn fraction(&mut self) -> Option<i64> {
        let mut micros = 0;
        let mut unit = MICROS_PER_SECOND;
        let mut digits = 0;
        while let Some(digit) = self.digit() {
            digits += 1;
            unit /= 10;
            if digits > 9 || (unit == 0 && digit != 0) {
                return None;
            }
            micros += digit * unit;
        }
        (digits > 0).then_some(micros)
    }

    fn offset(&mut self) -> Option<i64> {
        if self.take(b'Z') {
            return Some(0);
        }
        let negative = self.take(b'-');
        if !negative {
            self.expect(b'+')?;
        }
        let hours = self.two_digits(0, 18)?;
        self.expect(b':')?;
        let minutes = self.two_digits(0, 59)?;
        let seconds = (hours * 60 + minutes) * 60;
        Some(if negative { -seconds } else { seconds })
    }
}

fn date_of_days(days: i64) -> (i64, u64, u64) {
    let shifted = days + EPOCH_DAYS;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
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
    (year, month.cast_unsigned(), day.cast_unsigned())
}

fn days_of_date(year: i64, month: i64, day: i64) -> i64 {
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_DAYS
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(micros: i64, digits: u8, expected: &str) {
        let text = format_instant(micros, digits);
        assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), expected);
        assert_eq!(parse_instant(expected), Some(micros));
    }

    #[test]
    fn instants_are_written_with_the_digits_of_their_column() {
        check(0, 0, "1970-01-01T00:00:00Z");
        check(0, 3, "1970-01-01T00:00:00.000Z");
        check(-1, 6, "1969-12-31T23:59:59.999999Z");
        check(951_782_400_000_000, 1, "2000-02-29T00:00:00.0Z");
        check(1_558_310_400_120_000, 3, "2019-05-20T00:00:00.120Z");
        check(253_402_300_799_000_000, 0, "9999-12-31T23:59:59Z");
        check(253_402_300_800_000_000, 0, "+10000-01-01T00:00:00Z");
        check(-62_167_219_200_000_000, 0, "0000-01-01T00:00:00Z");
        check(-62_167_219_200_000_001, 6, "-0001-12-31T23:59:59.999999Z");
        check(i64::MAX - 1, 6, "+294247-01-10T04:00:54.775806Z");
        check(i64::MIN + 1, 6, "-290308-12-21T19:59:05.224193Z");
        check(POSITIVE_INFINITY, 6, "infinity");
        check(NEGATIVE_INFINITY, 0, "-infinity");
    }

    #[test]
    fn offsets_are_taken_off_and_odd_texts_refused() {
        let instant = parse_instant("2019-05-20T08:00:00.12+08:00");
        assert_eq!(instant, Some(1_558_310_400_120_000));
        assert_eq!(
            parse_instant("2019-05-20T00:00Z"),
            Some(1_558_310_400_000_000)
        );
        for text in [
            "",
            "2019-05-20",
            "2019-02-29T00:00:00Z",
            "2019-13-01T00:00:00Z",
            "2019-05-20T24:00:00Z",
            "2019-05-20T00:00:00",
            "2019-05-20T00:00:00.Z",
            "2019-05-20T00:00:00.0000001Z",
            "2019-05-20T00:00:00Zx",
            "+999999-05-20T00:00:00Z",
            "12345-05-20T00:00:00Z",
        ] {
            assert_eq!(parse_instant(text), None, "{text}");
        }
    }

    #[test]
    fn times_have_the_digits_that_they_need() {
        let check = |micros: i64, expected: &str| {
            let text = format_time(micros);
            assert_eq!(std::str::from_utf8(text.as_bytes()).unwrap(), expected);
            assert_eq!(parse_time(expected), Some(micros));
        };
        check(0, "00:00:00Z");
        check(45_296_120_000, "12:34:56.12Z");
        check(86_399_999_999, "23:59:59.999999Z");
        check(86_400_000_000, "24:00:00Z");
        assert_eq!(parse_time("01:00:00+02:00"), Some(82_800_000_000));
        for text in ["", "12:00:00", "24:00:01Z", "12:00:00Zx"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_inverts_writing(micros: i64) {
            let text = format_instant(micros, 6);
            prop_assert_eq!(parse_instant(std::str::from_utf8(text.as_bytes()).unwrap()), Some(micros));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            let _ = parse_instant(&text);
        }

        #[test]
        fn mutated_instants_are_parsed_or_refused(micros: i64, at in 0usize..32, byte in 0u8..128) {
            let mut text = format_instant(micros, 6).as_bytes().to_vec();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            let _ = parse_instant(std::str::from_utf8(&text).unwrap());
        }
    }
}
