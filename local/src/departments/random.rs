//! Random numbers that are the same on every machine and in every release of this program.

/// A stream of numbers: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", OOPSLA 2014). Its few lines are here because crates promise no stable streams.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the stream of one thing (an enterprise by its index) under a seed. Streams of
    /// different indices are independent, so that more enterprises leave the first ones unchanged.
    #[must_use]
    pub fn of(seed: u64, index: u64) -> Self {
        let mut start = Self(seed);
        let mixed = start.next() ^ index.wrapping_mul(0xD134_2543_DE82_EF95);
        Self(Self(mixed).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Returns a number below `bound`, which is not 0. The bias, under 2^-32, does not matter here.
    pub fn below(&mut self, bound: u32) -> u32 {
        let scaled = (self.next() >> 32) * u64::from(bound);
        u32::try_from(scaled >> 32).expect("a product of 32-bit numbers, shifted by 32")
    }

    /// Returns a number from `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// Returns true with a probability given in ten-thousandths.
    pub fn chance(&mut self, ten_thousandths: u32) -> bool {
        self.below(10_000) < ten_thousandths
    }

    /// Returns one of the choices, all equally likely.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let count = u32::try_from(choices.len()).expect("a short list");
        choices[self.below(count) as usize]
    }

    /// Returns an index, each as likely as its weight.
    pub fn weighted(&mut self, weights: &[u32]) -> u32 {
        let mut left = self.below(weights.iter().sum());
        for (index, weight) in (0..).zip(weights) {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        unreachable!("the number was below the sum of the weights")
    }
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Permutes the numbers of `bits` bits (an even number) under a key: local keys and sequence
/// numbers come from it, so that their order tells nothing about the true enterprises'.
#[must_use]
pub fn permute(key: u64, bits: u32, value: u32) -> u32 {
    let half = bits / 2;
    let mask = (1_u32 << half) - 1;
    let (mut left, mut right) = (value >> half, value & mask);
    // Four rounds of a Feistel network, which is a permutation whatever its rounds compute.
    for round in 0..4 {
        let mixed = mix(key ^ (u64::from(right) << 8) ^ round);
        let next = left ^ (u32::try_from(mixed >> 32).expect("32 bits") & mask);
        left = right;
        right = next;
    }
    left << half | right
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_permutation_gives_every_number_once() {
        let all: HashSet<u32> = (0..1 << 12).map(|value| permute(7, 12, value)).collect();
        assert_eq!(all.len(), 1 << 12);
        assert!(all.iter().all(|value| *value < 1 << 12));
    }

    #[test]
    fn the_streams_never_change() {
        let mut random = Random::of(1, 2);
        let first: Vec<u32> = (0..4).map(|_| random.below(1000)).collect();
        assert_eq!(first, Random::of(1, 2).take(4));
        assert_ne!(first, Random::of(1, 3).take(4));
    }

    impl Random {
        fn take(&mut self, count: usize) -> Vec<u32> {
            (0..count).map(|_| self.below(1000)).collect()
        }
    }
}
