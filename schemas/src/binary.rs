//! Avro's binary encoding: numbers and lengths written, and read with every bound checked.

use crate::Error;

/// Appends an `int` or `long`: zigzag, seven bits a byte, least first.
#[inline]
pub(crate) fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    // Byte by byte: a copy of a length that is known too late is a call.
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

/// A value of so many bytes is large beside the rest of its record.
const LARGE_BYTES: usize = 1 << 20;

/// Appends a `bytes` or `string`.
#[inline]
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // A slice has at most isize::MAX bytes.
    put_long(i64::try_from(bytes.len()).unwrap_or(i64::MAX), out);
    if bytes.len() >= LARGE_BYTES {
        // Growing by doubling would take twice a large value's memory for the few bytes behind it.
        out.reserve_exact(bytes.len() + LARGE_BYTES / 16);
    }
    out.extend_from_slice(bytes);
}

/// Why bytes are no message of their schema. Small and free to drop, unlike [`Error`], because every
/// step of a plan returns it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl From<Malformed> for Error {
    fn from(Malformed(problem): Malformed) -> Self {
        Self::Malformed(problem)
    }
}

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns what lies between here and where a later reader of the same bytes stands.
    pub(crate) fn up_to(&self, later: &Self) -> &'a [u8] {
        &self.rest[..self.rest.len() - later.rest.len()]
    }

    /// Confirms that nothing is left.
    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes are left over at the end"))
        }
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.rest.split_first().ok_or(END)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(END)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(END)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<i64, Malformed> {
        let mut value = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            // The tenth byte has one bit left to give.
            if shift == 63 && byte > 1 {
                return Err(Malformed("a number has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
            shift += 7;
        }
    }

    #[inline]
    pub(crate) fn int(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.long()?).map_err(|_| Malformed("a number has more than 32 bits"))
    }

    /// Reads a `bytes` or `string`; its length is at most what is left.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length =
            usize::try_from(self.long()?).map_err(|_| Malformed("a length is negative"))?;
        self.take(length)
    }

    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a string is not UTF-8"))
    }
}

const END: Malformed = Malformed("the message ends too early");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_inverts_writing_a_number(value: i64) {
            let mut bytes = Vec::new();
            put_long(value, &mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.long().unwrap(), value);
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn any_bytes_are_a_number_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = Reader::new(&bytes).long();
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        for length in [4, -1, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            put_long(length, &mut bytes);
            bytes.extend_from_slice(b"abc");
            assert!(Reader::new(&bytes).bytes().is_err(), "{length}");
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert!(Reader::new(&[0xFF; 10]).long().is_err());
        assert!(Reader::new(&[0x80; 11]).long().is_err());
        let mut most = [0xFF; 10];
        most[9] = 1;
        assert_eq!(Reader::new(&most).long().unwrap(), i64::MIN);
    }
}
