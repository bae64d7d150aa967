//! Names of topics, groups and transactional ids, and which partition a key belongs to.

use std::fmt;

use crate::error::Error;

/// Partitions of `<cluster>.tasks.<location>`.
pub const TASK_PARTITIONS: i32 = 64;
/// Partitions of `<cluster>.positions.<location>`.
pub const POSITION_PARTITIONS: i32 = 25;
/// Partitions of `<cluster>.status.<location>`.
pub const STATUS_PARTITIONS: i32 = 5;
/// The location where tasks run that name none.
pub const DEFAULT_LOCATION: &str = "default";
/// The name of the one header that view records carry.
pub const HEADER: &str = "hutong";

/// The name of an installation; prefix of all topics, groups and transactional ids of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cluster(String);

impl Cluster {
    /// Checks the name against `[a-z0-9][a-z0-9_-]{0,62}`.
    ///
    /// # Errors
    ///
    /// Definite: it does not match.
    pub fn new(name: &str) -> Result<Self, Error> {
        if is_name(name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::InvalidName {
                name: name.to_owned(),
            })
        }
    }

    /// Returns the name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the topic of desired tasks of a location.
    #[must_use]
    pub fn tasks(&self, location: &str) -> String {
        format!("{}.tasks.{location}", self.0)
    }

    /// Returns the topic of positions of a location.
    #[must_use]
    pub fn positions(&self, location: &str) -> String {
        format!("{}.positions.{location}", self.0)
    }

    /// Returns the topic of states that a location reports.
    #[must_use]
    pub fn status(&self, location: &str) -> String {
        format!("{}.status.{location}", self.0)
    }

    /// Returns the topic of the tables that a location captures, with their SQL types.
    #[must_use]
    pub fn tables(&self, location: &str) -> String {
        format!("{}.tables.{location}", self.0)
    }

    /// Returns the topic of all registered schemas.
    #[must_use]
    pub fn schemas(&self) -> String {
        format!("{}.schemas", self.0)
    }

    /// Returns the topic of one generation of a view.
    #[must_use]
    pub fn view(&self, name: &str, generation: u64) -> String {
        format!("{}.view.{name}.g{generation}", self.0)
    }

    /// Returns the name by which sinks and users call a view's topic, whatever its generation.
    #[must_use]
    pub fn view_alias(&self, name: &str) -> String {
        format!("{}.view.{name}", self.0)
    }

    /// Returns the topic for records of another topic that could not be processed.
    #[must_use]
    pub fn dlq(&self, topic: &str) -> String {
        format!("{topic}.dlq")
    }

    /// Returns the consumer group of a location's workers.
    #[must_use]
    pub fn workers(&self, location: &str) -> String {
        format!("{}.workers.{location}", self.0)
    }

    /// Returns the transactional id of whoever works on what `owner` names.
    #[must_use]
    pub fn transactional_id(&self, owner: &str) -> String {
        format!("{}.{owner}", self.0)
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a text may name a connector, view, location, share or cluster.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|first| alphanumeric(*first))
        && bytes
            .iter()
            .all(|byte| alphanumeric(*byte) || *byte == b'_' || *byte == b'-')
}

/// Returns the partition that Kafka's Java client would choose for a key.
///
/// # Panics
///
/// If `partitions` is not positive: a topic has at least one.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    let positive = i32::try_from(murmur2(key) & 0x7fff_ffff).expect("31 bits fit");
    positive % partitions
}

/// Returns the partition of a record key in Confluent framing: that of the bytes behind the prefix
/// of five, so that a newly registered but equal schema does not move a key.
///
/// # Panics
///
/// If `partitions` is not positive.
#[must_use]
pub fn partition_of_record_key(key: &[u8], partitions: i32) -> i32 {
    partition_of(key.get(5..).unwrap_or(key), partitions)
}

/// Murmur2 as `org.apache.kafka.common.utils.Utils.murmur2` computes it, seed included.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    // Java's array length is an `int`; keys of 2 GiB do not exist.
    let length = u32::try_from(data.len()).expect("a key is shorter than 4 GiB");
    let mut hash = SEED ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("the chunk has four bytes"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `UtilsTest.testMurmur2` in Apache Kafka.
    #[test]
    fn murmur2_agrees_with_the_vectors_of_the_java_client() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ];
        for (key, expected) in vectors {
            assert_eq!(
                murmur2(key).to_ne_bytes(),
                expected.to_ne_bytes(),
                "{key:?}"
            );
        }
    }

    #[test]
    fn partitions_are_never_negative() {
        for n in 0..1000_u32 {
            let partition = partition_of(&n.to_be_bytes(), 25);
            assert!((0..25).contains(&partition));
        }
    }

    #[test]
    fn the_partition_of_a_record_key_ignores_its_schema_id() {
        let one = [0, 0, 0, 0, 7, b'k', b'e', b'y'];
        let other = [0, 0, 0, 1, 9, b'k', b'e', b'y'];
        assert_eq!(partition_of_record_key(&one, 64), partition_of(b"key", 64));
        assert_eq!(
            partition_of_record_key(&other, 64),
            partition_of(b"key", 64)
        );
    }

    #[test]
    fn names_are_lower_case_and_bounded() {
        for good in ["a", "0a", "a-b_c", &"a".repeat(63)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a.b", "互通", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
