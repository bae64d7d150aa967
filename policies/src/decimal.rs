//! Exact decimal numbers of any size: written as text, compared, parsed.
//!
//! Almost every number fits in 128 bits and takes the short way. The long way works on decimal
//! digits: slow, but PostgreSQL allows 131,072 of them and no crate of ours may round one.

use std::cmp::Ordering;

use hutong_schemas::cell::Numeric;

/// A number that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnedNumeric {
    unscaled: Vec<u8>,
    scale: i32,
}

impl OwnedNumeric {
    /// Makes `±digits × 10^-scale`; `digits` are ASCII digits.
    pub(crate) fn from_digits(negative: bool, digits: &[u8], scale: i32) -> Self {
        Self {
            unscaled: to_twos_complement(negative, digits),
            scale,
        }
    }

    /// Returns the number if it is written without decimals and fits.
    pub(crate) fn to_i64(&self) -> Option<i64> {
        let value = to_i128(&self.unscaled).filter(|_| self.scale == 0)?;
        i64::try_from(value).ok()
    }

    pub(crate) fn as_numeric(&self) -> Numeric<'_> {
        Numeric {
            unscaled: &self.unscaled,
            scale: self.scale,
        }
    }
}

/// Appends the number as PostgreSQL writes it.
pub(crate) fn write(number: Numeric<'_>, out: &mut String) {
    if is_negative(number) {
        out.push('-');
    }
    let digits = magnitude_digits(number.unscaled);
    let Ok(scale) = usize::try_from(number.scale) else {
        out.push_str(&digits);
        if digits != "0" {
            let zeros = usize::try_from(number.scale.unsigned_abs()).unwrap_or(usize::MAX);
            out.extend(std::iter::repeat_n('0', zeros));
        }
        return;
    };
    if scale == 0 {
        out.push_str(&digits);
        return;
    }
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
    out.push_str(if whole.is_empty() { "0" } else { whole });
    out.push('.');
    out.extend(std::iter::repeat_n('0', scale - fraction.len()));
    out.push_str(fraction);
}

/// Compares two numbers by value: 1.0 equals 1.00.
pub(crate) fn compare(left: Numeric<'_>, right: Numeric<'_>) -> Ordering {
    if let Some(ordering) = compare_short(left, right) {
        return ordering;
    }
    match (sign(left), sign(right)) {
        (1, 1) => compare_magnitudes(left, right),
        (-1, -1) => compare_magnitudes(right, left),
        (left, right) => left.cmp(&right),
    }
}

fn compare_short(left: Numeric<'_>, right: Numeric<'_>) -> Option<Ordering> {
    let (left_value, right_value) = (to_i128(left.unscaled)?, to_i128(right.unscaled)?);
    let difference = i64::from(left.scale) - i64::from(right.scale);
    let factor = 10i128.checked_pow(u32::try_from(difference.unsigned_abs()).ok()?)?;
    Some(if difference <= 0 {
        left_value.checked_mul(factor)?.cmp(&right_value)
    } else {
        left_value.cmp(&right_value.checked_mul(factor)?)
    })
}

/// Compares two positive numbers: by the place of the first digit, then digit by digit.
fn compare_magnitudes(left: Numeric<'_>, right: Numeric<'_>) -> Ordering {
    let (left_digits, right_digits) = (
        magnitude_digits(left.unscaled),
        magnitude_digits(right.unscaled),
    );
    let places = |digits: &str, scale: i32| {
        i64::try_from(digits.len()).unwrap_or(i64::MAX) - i64::from(scale)
    };
    places(&left_digits, left.scale)
        .cmp(&places(&right_digits, right.scale))
        .then_with(|| {
            left_digits
                .trim_end_matches('0')
                .cmp(right_digits.trim_end_matches('0'))
        })
}

fn to_i128(unscaled: &[u8]) -> Option<i128> {
    if unscaled.len() > 16 {
        return None;
    }
    let fill = if unscaled.first().is_some_and(|byte| byte & 0x80 != 0) {
        0xFF
    } else {
        0
    };
    let mut bytes = [fill; 16];
    bytes[16 - unscaled.len()..].copy_from_slice(unscaled);
    Some(i128::from_be_bytes(bytes))
}

fn is_negative(number: Numeric<'_>) -> bool {
    number.unscaled.first().is_some_and(|byte| byte & 0x80 != 0)
}

fn sign(number: Numeric<'_>) -> i8 {
    if is_negative(number) {
        -1
    } else {
        i8::from(number.unscaled.iter().any(|byte| *byte != 0))
    }
}

/// Returns the decimal digits of a two's complement integer without its sign, without leading
/// zeros, at least one digit.
fn magnitude_digits(unscaled: &[u8]) -> String {
    if let Some(value) = to_i128(unscaled) {
        return value.unsigned_abs().to_string();
    }
    let negative = unscaled[0] & 0x80 != 0;
    let mut bytes = unscaled.to_vec();
    if negative {
        negate(&mut bytes);
    }
    // Limbs of 32 bits, most significant first, divided by 10^9 until nothing is left.
    let pad = (4 - bytes.len() % 4) % 4;
    let mut padded = vec![0; pad];
    padded.extend_from_slice(&bytes);
    let mut limbs: Vec<u32> = padded
        .chunks_exact(4)
        .map(|chunk| u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
        .collect();
    let mut groups = Vec::new();
    let mut first = 0;
    while first < limbs.len() {
        let mut remainder = 0u64;
        for limb in &mut limbs[first..] {
            let value = remainder << 32 | u64::from(*limb);
            *limb =
                u32::try_from(value / 1_000_000_000).expect("the remainder is below the divisor");
            remainder = value % 1_000_000_000;
        }
        groups.push(remainder);
        while limbs.get(first) == Some(&0) {
            first += 1;
        }
    }
    let mut digits = String::with_capacity(groups.len() * 9);
    for (index, group) in groups.iter().rev().enumerate() {
        digits.push_str(&if index == 0 {
            format!("{group}")
        } else {
            format!("{group:09}")
        });
    }
    digits
}

fn to_twos_complement(negative: bool, digits: &[u8]) -> Vec<u8> {
    // Nine digits at a time into limbs of 32 bits, least significant first.
    let mut limbs: Vec<u32> = Vec::new();
    let (first, rest) = digits.split_at(digits.len() % 9);
    for group in std::iter::once(first).chain(rest.chunks(9)) {
        let mut factor = 1_u64;
        let mut carry = 0_u64;
        for digit in group {
            factor *= 10;
            carry = carry * 10 + u64::from(digit - b'0');
        }
        for limb in &mut limbs {
            let value = u64::from(*limb) * factor + carry;
            *limb = u32::try_from(value & u64::from(u32::MAX)).expect("it is masked");
            carry = value >> 32;
        }
        if carry > 0 {
            limbs.push(u32::try_from(carry).expect("a limb times a limb carries less than a limb"));
        }
    }
    let mut magnitude: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
    magnitude.push(0);
    magnitude.reverse();
    if negative {
        negate(&mut magnitude);
    }
    let sign_fill = if magnitude[0] & 0x80 != 0 { 0xFF } else { 0 };
    while magnitude.len() > 1 && magnitude[0] == sign_fill && (magnitude[1] ^ sign_fill) & 0x80 == 0
    {
        magnitude.remove(0);
    }
    magnitude
}

/// Negates a two's complement integer in place.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        let (value, overflow) = (!*byte).overflowing_add(u8::from(carry));
        *byte = value;
        carry = overflow;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> OwnedNumeric {
        crate::literal::numeric(text).unwrap()
    }

    #[test]
    fn what_is_parsed_is_written_again() {
        let long = format!("-{}.{}", "1234567890".repeat(30), "0987654321".repeat(20));
        for text in [
            "0",
            "1",
            "-1",
            "0.00",
            "-0.05",
            "127",
            "128",
            "-128",
            "-129",
            "255",
            "256",
            "12345.678900",
            &long,
        ] {
            let mut written = String::new();
            write(number(text).as_numeric(), &mut written);
            assert_eq!(written, text);
        }
    }

    #[test]
    fn order_is_by_value_on_the_short_and_on_the_long_way() {
        let big = "9".repeat(60);
        let bigger = format!("1{}", "0".repeat(60));
        let ascending = [
            &format!("-{bigger}"),
            &format!("-{big}"),
            "-2",
            "-1.5",
            "0",
            "0.1",
            "2",
            "10",
            &big,
            &format!("{big}.5"),
            &bigger,
        ];
        for (left_index, left) in ascending.iter().enumerate() {
            for (right_index, right) in ascending.iter().enumerate() {
                assert_eq!(
                    compare(number(left).as_numeric(), number(right).as_numeric()),
                    left_index.cmp(&right_index),
                    "{left} {right}"
                );
            }
        }
        assert_eq!(
            compare(number("1.0").as_numeric(), number("1.000").as_numeric()),
            Ordering::Equal
        );
        let zeros = format!("{big}.000");
        assert_eq!(
            compare(number(&big).as_numeric(), number(&zeros).as_numeric()),
            Ordering::Equal
        );
    }
}
