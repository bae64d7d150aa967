//! Bloom filters in blocks of 256 bits: which block a hash belongs to, and which bits of it.
//!
//! One cache line is touched for each question (F. Putze, P. Sanders, J. Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007).

/// Bits, one of each word for a key.
pub type Block = [u32; 8];

/// Odd factors that make eight independent positions of one number, as in Parquet's filters.
const SALT: Block = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

/// Returns the block of a hash, of so many.
#[must_use]
pub fn place(hash: u64, blocks: usize) -> usize {
    // The upper half, scaled to the number of blocks, which is far below 2^32.
    let scaled = (hash >> 32).wrapping_mul(blocks as u64) >> 32;
    usize::try_from(scaled).unwrap_or(0)
}

/// Returns the bits of a hash in its block.
#[must_use]
pub fn bits(hash: u64) -> Block {
    let low = u32::try_from(hash & 0xFFFF_FFFF).unwrap_or(0);
    SALT.map(|salt| 1 << (low.wrapping_mul(salt) >> 27))
}
