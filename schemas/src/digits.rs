//! Numbers as text, for what is written with each record: the machinery of formatting takes several
//! times as long.

/// As many as the largest number has in decimals.
pub type Buffer = [u8; 20];

/// Returns a number's digits, in capitals where the base has letters. The buffer holds them.
#[must_use]
pub fn digits<const BASE: u64>(mut number: u64, buffer: &mut Buffer) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut first = buffer.len();
    loop {
        first -= 1;
        buffer[first] = DIGITS[usize::try_from(number % BASE).unwrap_or(0)];
        number /= BASE;
        if number == 0 {
            return &buffer[first..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 9, 10, 15, 16, 0x16B3_74D8_48FF_0000, u64::MAX] {
            let mut buffer = Buffer::default();
            assert_eq!(
                digits::<10>(number, &mut buffer),
                number.to_string().as_bytes()
            );
            assert_eq!(
                digits::<16>(number, &mut buffer),
                format!("{number:X}").as_bytes()
            );
        }
    }
}
