//! What surely is not in a set of keys: a Bloom filter that grows.
//!
//! Most keys that a processor asks its store about are not there: rows that are new, and rows that a
//! view hides. A question to the store costs microseconds, for its filters and indices lie in blocks
//! that are read and evicted; a question here costs some nanoseconds. A key that was removed stays,
//! and keys that are not there may seem to be: both cost the question that would have been asked.
//!
//! Layers of blocks of 256 bits (F. Putze, P. Sanders, J. Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters", 2007): one cache line is touched per layer. A layer that is full,
//! at sixteen bits a key, is followed by one four times as large; the last takes what comes, and the
//! filter grows worse instead of larger.

use hutong_state_store::bloom::{self, Block};

/// The filter.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    blocks: Vec<Block>,
    /// How many more keys it may take until it is full.
    room: usize,
}

/// Blocks of the first layer: 4 KiB, 2,048 keys.
const BLOCKS_FIRST: usize = 128;
const GROWTH: usize = 4;
/// Layers up to 4 MiB, together 5.3 MiB and 2.8 million keys.
const LAYERS_MAX: usize = 6;
/// A layer that is full takes three in a thousand keys for its own; with ten bits it would be fifteen,
/// and a row that seems to be there is looked for once for each view.
const BITS_PER_KEY: usize = 16;

impl Filter {
    /// Adds a key; returns false if it surely was not there.
    pub(crate) fn insert(&mut self, key: &[u8]) -> bool {
        let hash = hash(key);
        // One that is there already must not fill a layer.
        if self.may_contain_hashed(hash) {
            return true;
        }
        self.insert_hashed(hash);
        false
    }

    /// Adds a key that surely was not there.
    pub(crate) fn insert_new(&mut self, key: &[u8]) {
        self.insert_hashed(hash(key));
    }

    fn insert_hashed(&mut self, hash: u64) {
        let is_full = self.layers.last().is_none_or(|layer| layer.room == 0);
        if is_full && self.layers.len() < LAYERS_MAX {
            let blocks = BLOCKS_FIRST * GROWTH.pow(u32::try_from(self.layers.len()).unwrap_or(0));
            self.layers.push(Layer {
                blocks: vec![Block::default(); blocks],
                room: blocks * size_of::<Block>() * 8 / BITS_PER_KEY,
            });
        }
        if let Some(layer) = self.layers.last_mut() {
            layer.room = layer.room.saturating_sub(1);
            let index = layer.index(hash);
            let bits = layer.blocks[index].iter_mut().zip(bloom::bits(hash));
            bits.for_each(|(word, bit)| *word |= bit);
        }
    }

    /// Returns whether a key may have been added; `false` is certain.
    pub(crate) fn may_contain(&self, key: &[u8]) -> bool {
        !self.layers.is_empty() && self.may_contain_hashed(hash(key))
    }

    fn may_contain_hashed(&self, hash: u64) -> bool {
        let mask = bloom::bits(hash);
        self.layers.iter().any(|layer| {
            let block = &layer.blocks[layer.index(hash)];
            block.iter().zip(mask).all(|(word, bit)| word & bit != 0)
        })
    }
}

impl Layer {
    fn index(&self, hash: u64) -> usize {
        bloom::place(hash, self.blocks.len())
    }
}

/// Mixes eight bytes at a time. Whoever chooses keys that collide makes nothing wrong, only slower.
fn hash(key: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: [u8; 8]| {
        let mixed = (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 29)
    };
    let (words, rest) = key.as_chunks::<8>();
    let mut hash = words
        .iter()
        .fold(FACTOR ^ key.len() as u64, |hash, word| mix(hash, *word));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    hash = mix(hash, last);
    mix(hash, [0; 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> Vec<u8> {
        // As Avro writes a long: zigzag, seven bits a byte.
        let mut rest = number << 1;
        let mut key = Vec::new();
        while rest >= 0x80 {
            key.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        key.push(rest.to_le_bytes()[0]);
        key
    }

    #[test]
    fn every_key_that_was_added_is_found_and_few_others_are() {
        let mut filter = Filter::default();
        assert!(!filter.may_contain(&key(1)));
        for number in 0..200_000 {
            filter.insert(&key(number));
        }
        assert!((0..200_000).all(|number| filter.may_contain(&key(number))));
        let found = (200_000..400_000).filter(|number| filter.may_contain(&key(*number)));
        let found = found.count();
        assert!(found < 200_000 / 50, "{found} of 200,000 seem to be there");
    }

    #[test]
    fn keys_of_any_length_are_told_apart() {
        let mut filter = Filter::default();
        filter.insert(&[0; 8]);
        assert!(filter.may_contain(&[0; 8]));
        for length in (0..8).chain(9..40) {
            assert!(!filter.may_contain(&vec![0; length]), "{length}");
        }
    }
}
