//! An entry as bytes: the lengths of key and value as varints, the key, the value. A value's length
//! is one more than it is, and 0 says that the key was removed.

use std::cmp::Ordering;

/// A key behind the number of its keyspace, by which entries are ordered first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    pub(crate) keyspace: u32,
    pub(crate) key: &'a [u8],
}

impl Key<'_> {
    /// Bytes that it takes in an entry.
    pub(crate) fn len(self) -> usize {
        size_of::<u32>() + self.key.len()
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.keyspace
            .cmp(&other.keyspace)
            .then_with(|| self.key.cmp(other.key))
    }
}

/// Returns how a key begins, as a number that orders keys as far as it differs: a look at the keys
/// themselves is seldom needed then.
#[must_use]
pub fn beginning(key: &[u8]) -> u64 {
    let mut word = [0; 8];
    for (byte, of_key) in word.iter_mut().zip(key) {
        *byte = *of_key;
    }
    u64::from_be_bytes(word)
}

/// An entry that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Key<'a>,
    /// `None` if the key was removed.
    pub(crate) value: Option<&'a [u8]>,
}

pub(crate) fn put(bytes: &mut Vec<u8>, key: Key<'_>, value: Option<&[u8]>) {
    put_head(bytes, key, value.map(<[u8]>::len));
    bytes.extend_from_slice(value.unwrap_or_default());
}

/// Puts what comes before a value of so many bytes.
pub(crate) fn put_head(bytes: &mut Vec<u8>, key: Key<'_>, value_length: Option<usize>) {
    put_varint(bytes, key.len());
    put_varint(bytes, value_length.map_or(0, |length| length + 1));
    bytes.extend_from_slice(&key.keyspace.to_be_bytes());
    bytes.extend_from_slice(key.key);
}

/// Reads the entry that begins at a place, and returns it and where it ends, or `None` if there is
/// none.
pub(crate) fn read(bytes: &[u8], at: usize) -> Option<(Entry<'_>, usize)> {
    let (key, value, at) = read_key(bytes, at)?;
    let Some(length) = value else {
        return Some((Entry { key, value: None }, at));
    };
    let end = at.checked_add(length)?;
    let value = Some(bytes.get(at..end)?);
    Some((Entry { key, value }, end))
}

/// Reads the key of an entry, the length of its value, and where that begins.
pub(crate) fn read_key(bytes: &[u8], at: usize) -> Option<(Key<'_>, Option<usize>, usize)> {
    let (key_length, at) = read_varint(bytes, at)?;
    let (value_length, at) = read_varint(bytes, at)?;
    let end = at.checked_add(key_length)?;
    let (keyspace, key) = bytes.get(at..end)?.split_first_chunk()?;
    let key = Key {
        keyspace: u32::from_be_bytes(*keyspace),
        key,
    };
    Some((key, value_length.checked_sub(1), end))
}

fn put_varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(low_seven(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low_seven(number));
}

fn low_seven(number: usize) -> u8 {
    number.to_le_bytes()[0] & 0x7F
}

fn read_varint(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut number = 0;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        number |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some((number, at));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_no_part_of_it_is_one() {
        for length in [0, 1, 126, 127, 128, 20_000] {
            for value in [None, Some(vec![7; length])] {
                let key = vec![3; length];
                let key = Key {
                    keyspace: 9,
                    key: &key,
                };
                let mut bytes = vec![1];
                put(&mut bytes, key, value.as_deref());
                let (entry, end) = read(&bytes, 1).unwrap();
                assert_eq!((entry.key, entry.value), (key, value.as_deref()));
                assert_eq!(end, bytes.len());
                for cut in 1..bytes.len().min(300) {
                    assert!(read(&bytes[..cut], 1).is_none(), "{cut}");
                }
            }
        }
        let too_long = [0xFF; 12];
        assert!(read(&too_long, 0).is_none());
    }
}
