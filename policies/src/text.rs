//! Values as text, exactly as PostgreSQL's `::text` writes them.
//!
//! Where that depends on a session's settings we take the defaults, and UTC: `DateStyle` ISO,
//! `bytea_output` hex, `extra_float_digits` 1, `TimeZone` UTC.

use std::fmt::Write;

use hutong_schemas::cell::{Cell, NEGATIVE_INFINITY, POSITIVE_INFINITY};
use hutong_schemas::sql_type::SqlType;

use crate::decimal;
use crate::literal::civil_from_days;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Appends a value's text. Returns `false`, and appends nothing, for NULL and for a value that is
/// unavailable or not of the type.
pub fn write(sql_type: SqlType, cell: Cell<'_>, out: &mut String) -> bool {
    match (sql_type, cell) {
        (SqlType::Bool, Cell::Bool(value)) => out.push_str(if value { "true" } else { "false" }),
        (SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid, Cell::Int(value)) => {
            display(out, value);
        }
        (SqlType::Float4, Cell::Float4(value)) => float4(value, out),
        (SqlType::Float8, Cell::Float8(value)) => float8(value, out),
        (SqlType::Numeric { .. } | SqlType::NumericUnscaled, Cell::Numeric(value)) => {
            decimal::write(value, out)
        }
        // The cast from character(n) to text drops the blanks that pad it.
        (SqlType::Char { .. }, Cell::Text(value)) => out.push_str(value.trim_end_matches(' ')),
        (
            SqlType::Text
            | SqlType::Varchar { .. }
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Enum
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
            | SqlType::Daterange,
            Cell::Text(value),
        ) => out.push_str(value),
        // The cast from inet to text always names the mask.
        (SqlType::Inet, Cell::Text(value)) => {
            out.push_str(value);
            if !value.contains('/') {
                out.push_str(if value.contains(':') { "/128" } else { "/32" });
            }
        }
        (SqlType::Bytea, Cell::Bytes(value)) => {
            out.push_str("\\x");
            hex(value, out);
        }
        (SqlType::Date, Cell::Int(value)) => with_infinity(value, out, date),
        (SqlType::Time { .. }, Cell::Int(value)) => time(value, out),
        (SqlType::Timestamp { .. }, Cell::Int(value)) => {
            with_infinity(value, out, |value, out| timestamp(value, "", out));
        }
        (SqlType::Timestamptz { .. }, Cell::Int(value)) => {
            with_infinity(value, out, |value, out| timestamp(value, "+00", out));
        }
        _ => return false,
    }
    true
}

/// Returns whether a type's values have a text here: some are not carried as the source has them, of
/// others the text is not worth the code.
#[must_use]
pub fn has_text(sql_type: SqlType) -> bool {
    !matches!(
        sql_type,
        SqlType::Bit { .. }
            | SqlType::Varbit { .. }
            | SqlType::Money
            | SqlType::Interval
            | SqlType::Timetz { .. }
            | SqlType::Hstore
            | SqlType::Array { .. }
    ) && !sql_type.is_geometric()
}

/// Appends bytes as lower-case hex digits.
pub fn hex(bytes: &[u8], out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 0xF)]);
    }
}

fn display(out: &mut String, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to a string cannot fail");
}

fn with_infinity(value: i64, out: &mut String, finite: impl FnOnce(i64, &mut String)) {
    match value {
        POSITIVE_INFINITY => out.push_str("infinity"),
        NEGATIVE_INFINITY => out.push_str("-infinity"),
        value => finite(value, out),
    }
}

fn date(days: i64, out: &mut String) {
    if calendar(days, out) {
        out.push_str(" BC");
    }
}

fn timestamp(micros: i64, offset: &str, out: &mut String) {
    let before_christ = calendar(micros.div_euclid(MICROS_PER_DAY), out);
    out.push(' ');
    time(micros.rem_euclid(MICROS_PER_DAY), out);
    out.push_str(offset);
    if before_christ {
        out.push_str(" BC");
    }
}

/// Appends year, month and day; returns whether the year is before Christ.
fn calendar(days: i64, out: &mut String) -> bool {
    let (year, month, day) = civil_from_days(days);
    display(
        out,
        format_args!("{:04}-{month:02}-{day:02}", printed_year(year)),
    );
    year <= 0
}

/// Returns the year as PostgreSQL prints it: year 0 is 1 BC.
pub(crate) fn printed_year(year: i64) -> i64 {
    if year <= 0 { 1 - year } else { year }
}

fn time(micros: i64, out: &mut String) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    display(
        out,
        format_args!(
            "{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        ),
    );
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
}

fn float8(value: f64, out: &mut String) {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 52 & 0x7FF).expect("eleven bits");
    let fraction = bits & ((1 << 52) - 1);
    let binary = if exponent == 0 {
        Binary {
            mantissa: fraction,
            exponent: -1074,
            lowest_of_power: false,
        }
    } else {
        Binary {
            mantissa: fraction | 1 << 52,
            exponent: exponent - 1075,
            lowest_of_power: fraction == 0 && exponent > 1,
        }
    };
    float(
        value.is_nan(),
        value.is_infinite(),
        value.is_sign_negative(),
        value == 0.0,
        out,
        |out| {
            let magnitude = value.abs();
            let reads_back = |digits: &Digits| digits.to_string().parse::<f64>() == Ok(magnitude);
            let shortest =
                Digits::parse(&format!("{magnitude:e}")).with_ties_to_even(&binary, reads_back);
            let digits = inside(shortest, &binary, 17, |places| {
                let text = format!("{magnitude:.places$e}");
                (text.parse::<f64>() == Ok(magnitude)).then_some(text)
            });
            digits.layout(15, out);
        },
    );
}

fn float4(value: f32, out: &mut String) {
    let bits = value.to_bits();
    let exponent = i32::try_from(bits >> 23 & 0xFF).expect("eight bits");
    let fraction = u64::from(bits & ((1 << 23) - 1));
    let binary = if exponent == 0 {
        Binary {
            mantissa: fraction,
            exponent: -149,
            lowest_of_power: false,
        }
    } else {
        Binary {
            mantissa: fraction | 1 << 23,
            exponent: exponent - 150,
            lowest_of_power: fraction == 0 && exponent > 1,
        }
    };
    float(
        value.is_nan(),
        value.is_infinite(),
        value.is_sign_negative(),
        value == 0.0,
        out,
        |out| {
            let magnitude = value.abs();
            let reads_back = |digits: &Digits| digits.to_string().parse::<f32>() == Ok(magnitude);
            let shortest =
                Digits::parse(&format!("{magnitude:e}")).with_ties_to_even(&binary, reads_back);
            let digits = inside(shortest, &binary, 9, |places| {
                let text = format!("{magnitude:.places$e}");
                (text.parse::<f32>() == Ok(magnitude)).then_some(text)
            });
            digits.layout(6, out);
        },
    );
}

#[expect(
    clippy::fn_params_excessive_bools,
    reason = "the four questions that both widths answer"
)]
fn float(
    nan: bool,
    infinite: bool,
    negative: bool,
    zero: bool,
    out: &mut String,
    finite: impl FnOnce(&mut String),
) {
    if nan {
        out.push_str("NaN");
        return;
    }
    if negative {
        out.push('-');
    }
    match (infinite, zero) {
        (true, _) => out.push_str("Infinity"),
        (_, true) => out.push('0'),
        _ => finite(out),
    }
}

/// PostgreSQL prints the shortest digits that lie strictly between the midpoints to the neighbours;
/// Rust's formatter also takes a midpoint itself where reading rounds back to the value (1e23). Such
/// digits are lengthened until they lie inside. (PostgreSQL `src/common/d2s.c`, `acceptBounds`.)
fn inside(
    shortest: Digits,
    binary: &Binary,
    digits_max: usize,
    at: impl Fn(usize) -> Option<String>,
) -> Digits {
    if !binary.has_midpoint(&shortest) {
        return shortest;
    }
    for places in shortest.digits.len()..digits_max {
        if let Some(digits) = at(places).map(|text| Digits::parse(&text))
            && !binary.has_midpoint(&digits)
        {
            return digits;
        }
    }
    shortest
}

/// `mantissa × 2^exponent`.
struct Binary {
    mantissa: u64,
    exponent: i32,
    /// The neighbour below is only half as far away as the one above.
    lowest_of_power: bool,
}

impl Binary {
    fn has_midpoint(&self, digits: &Digits) -> bool {
        let doubled = u128::from(self.mantissa) * 2;
        let below = if self.lowest_of_power {
            (doubled * 2 - 1, self.exponent - 2)
        } else {
            (doubled.wrapping_sub(1), self.exponent - 1)
        };
        digits.equals(doubled + 1, self.exponent - 1) || digits.equals(below.0, below.1)
    }
}

/// `d₁.d₂d₃… × 10^exponent`.
struct Digits {
    digits: String,
    /// Power of ten of the first digit.
    exponent: i32,
}

impl std::fmt::Display for Digits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.exponent + 1 - i32::try_from(self.digits.len()).expect("few digits");
        write!(f, "{}e{last}", self.digits)
    }
}

impl Digits {
    /// Reads what `{:e}` writes.
    fn parse(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once('e').expect("`{:e}` writes an e");
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let trimmed = digits.trim_end_matches('0');
        Self {
            digits: if trimmed.is_empty() {
                "0".to_owned()
            } else {
                trimmed.to_owned()
            },
            exponent: exponent.parse().expect("`{:e}` writes an exponent"),
        }
    }

    /// Where the value lies exactly between two numbers of so many digits, Rust's formatter takes the
    /// upper and PostgreSQL's the even one (`d2s.c`, "round even").
    fn with_ties_to_even(self, binary: &Binary, reads_back: impl Fn(&Self) -> bool) -> Self {
        let Ok(value) = self.digits.parse::<u128>() else {
            return self;
        };
        let zeros = binary.mantissa.trailing_zeros();
        let power = binary.exponent + i32::try_from(zeros).expect("at most 64");
        let length = i32::try_from(self.digits.len()).expect("few digits");
        let is_tie = value % 2 == 1 && {
            // Half a unit of the last digit below: five units of the next one.
            let between = Self {
                digits: (value * 10 - 5).to_string(),
                exponent: self.exponent,
            };
            let shift = i32::try_from(between.digits.len()).expect("few digits") - length;
            shift == 1 && between.equals(u128::from(binary.mantissa >> zeros), power)
        };
        let even = Self {
            digits: (value - u128::from(is_tie)).to_string(),
            exponent: self.exponent,
        };
        if is_tie && even.digits.len() == self.digits.len() && reads_back(&even) {
            even
        } else {
            self
        }
    }

    /// Returns whether the number equals `odd × 2^power`, `odd` being odd. Beyond 5^27 they cannot
    /// be equal: one side would have more bits than a double's mantissa and 17 digits have.
    fn equals(&self, odd: u128, power: i32) -> bool {
        let Ok(value) = self.digits.parse::<u128>() else {
            return false;
        };
        let last = self.exponent + 1 - i32::try_from(self.digits.len()).expect("few digits");
        if value == 0 || last.unsigned_abs() > 27 {
            return false;
        }
        let fives = 5u128.pow(last.unsigned_abs());
        let zeros = i32::try_from(value.trailing_zeros()).expect("at most 128");
        let value_odd = value >> zeros;
        let equal = if last >= 0 {
            value_odd.checked_mul(fives) == Some(odd)
        } else {
            odd.checked_mul(fives) == Some(value_odd)
        };
        equal && zeros + last == power
    }

    /// Appends the digits as `%g` would, with scientific notation below 1e-4 and from
    /// 10^`fixed_end` on.
    fn layout(&self, fixed_end: i32, out: &mut String) {
        let digits = self.digits.as_str();
        if self.exponent < -4 || self.exponent >= fixed_end {
            let (first, rest) = digits.split_at(1);
            out.push_str(first);
            if !rest.is_empty() {
                out.push('.');
                out.push_str(rest);
            }
            let sign = if self.exponent < 0 { '-' } else { '+' };
            display(
                out,
                format_args!("e{sign}{:02}", self.exponent.unsigned_abs()),
            );
        } else if let Ok(exponent) = usize::try_from(self.exponent) {
            let (whole, fraction) = digits.split_at(digits.len().min(exponent + 1));
            out.push_str(whole);
            out.extend(std::iter::repeat_n('0', exponent + 1 - whole.len()));
            if !fraction.is_empty() {
                out.push('.');
                out.push_str(fraction);
            }
        } else {
            out.push_str("0.");
            let zeros = usize::try_from(-self.exponent - 1).expect("the exponent is negative");
            out.extend(std::iter::repeat_n('0', zeros));
            out.push_str(digits);
        }
    }
}
