//! `bit` and `bit varying`: the number of bits, then the bits from the left, eight a byte.

use super::Misfit;

pub(super) fn one(bit: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&1_i32.to_be_bytes());
    out.push(u8::from(bit) << 7);
}

/// Writes bits that lie with the last one first. Without a length they begin with the first that is
/// set: the form does not tell how many zeros stood before it.
pub(super) fn put(bits: &[u8], length: Option<usize>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    let bit = |index: usize| {
        let byte = bits.get(index / 8).copied().unwrap_or(0);
        byte >> (index % 8) & 1
    };
    let used = (0..bits.len() * 8)
        .rev()
        .find(|index| bit(*index) == 1)
        .map_or(0, |last| last + 1);
    let length = length.unwrap_or(used);
    if used > length {
        return Err(Misfit::Range);
    }
    let count = i32::try_from(length).map_err(|_| Misfit::Range)?;
    out.extend_from_slice(&count.to_be_bytes());
    for start in (0..length).step_by(8) {
        let byte = (start..start + 8).fold(0, |byte, from_left| {
            let value = length.checked_sub(from_left + 1).map_or(0, bit);
            byte << 1 | value
        });
        out.push(byte);
    }
    Ok(())
}
