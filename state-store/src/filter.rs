//! What surely is not among a run's keys: a Bloom filter, in blocks of 256 bits.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::bloom::{self, Block};
use crate::entry::Key;

pub(crate) const BLOCK_BYTES: usize = size_of::<Block>();

const BITS_PER_KEY: usize = 10;
/// A filter of more keys than fit grows worse instead of larger.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a key is known by in filters.
#[derive(Clone, Copy)]
pub(crate) struct Hash(u64);

impl Hash {
    pub(crate) fn of(key: Key<'_>) -> Self {
        Self(xxh3_64_with_seed(key.key, u64::from(key.keyspace)))
    }

    /// Returns the block that holds the key, of so many.
    pub(crate) fn block(self, blocks: usize) -> usize {
        bloom::place(self.0, blocks)
    }

    fn bits(self) -> Block {
        bloom::bits(self.0)
    }

    /// Returns whether the key may be in a block; `false` is certain.
    pub(crate) fn may_be_in(self, block: &[u8; BLOCK_BYTES]) -> bool {
        let (words, _) = block.as_chunks::<4>();
        let mut words = words.iter().zip(self.bits());
        words.all(|(word, bit)| u32::from_le_bytes(*word) & bit != 0)
    }
}

/// A filter that is being made.
pub(crate) struct Filter {
    blocks: Vec<Block>,
}

impl Filter {
    pub(crate) fn for_keys(count: usize) -> Self {
        let bytes = (count.saturating_mul(BITS_PER_KEY) / 8).min(BYTES_MAX);
        Self {
            blocks: vec![Block::default(); bytes.div_ceil(BLOCK_BYTES).max(1)],
        }
    }

    pub(crate) fn insert(&mut self, hash: Hash) {
        let index = hash.block(self.blocks.len());
        let words = self.blocks[index].iter_mut().zip(hash.bits());
        words.for_each(|(word, bit)| *word |= bit);
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let words = self.blocks.iter().flatten();
        words.flat_map(|word| word.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: &[u8; 4]) -> Key<'_> {
        Key {
            keyspace: 1,
            key: number,
        }
    }

    #[test]
    fn every_key_is_found_and_few_others_are() {
        let mut filter = Filter::for_keys(50_000);
        for number in 0..50_000u32 {
            filter.insert(Hash::of(key(&number.to_be_bytes())));
        }
        let bytes = filter.to_bytes();
        let (blocks, _) = bytes.as_chunks::<BLOCK_BYTES>();
        let is_found = |number: u32| {
            let hash = Hash::of(key(&number.to_be_bytes()));
            hash.may_be_in(&blocks[hash.block(blocks.len())])
        };
        assert!((0..50_000).all(is_found));
        let found = (50_000..100_000).filter(|number| is_found(*number)).count();
        assert!(found < 50_000 / 40, "{found} of 50,000 seem to be there");
    }
}
