//! What is committed with the output: how far the input was processed, and how far each view is.

use std::fmt;

use hutong_schemas::class::Class;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The newest form of positions that this release reads, and the one that it writes.
pub const VERSION: u64 = 1;

/// Where a processor stands in its input partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPosition {
    /// The version of the record's form.
    pub v: u64,
    /// The id of the input topic: a topic that was created anew has another.
    pub topic_id: String,
    /// The offset of the next record to process.
    pub next_offset: i64,
    /// Counts the commits, so that a store knows whether it reflects the last one; from the time of the
    /// first one, in milliseconds, so that no other life of the processor has the same counts. 0 before.
    pub seq: u64,
    /// Milliseconds since 1970 up to which the input was read: the last record's time, or the clock
    /// where the end was reached; 0 if nothing was read yet.
    pub read_up_to_ms: i64,
    /// Whether tombstones may have been missed, so that every view must be compared with the rows
    /// once the end of the input is reached.
    #[serde(default)]
    pub must_compare: bool,
}

/// Where one view of the partition stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPosition {
    /// The version of the record's form.
    pub v: u64,
    /// The policy's version that decides.
    pub version: u64,
    /// The generation that is written to.
    pub generation: u32,
    /// The id of the output topic.
    pub topic_id: String,
    /// The number of the last difference run. A run marks each row that it finds still to belong to
    /// the view; a member without the mark at its end has no row any more.
    pub mark: u32,
    /// Rows that the difference run has looked at.
    pub filled: u64,
    /// Rows that there were when it began.
    pub total: u64,
    /// The offset of the output partition behind the first fill of this generation, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_end: Option<i64>,
    /// When the newest tombstone was written, if it may lie in a segment to which is still appended. Not
    /// the oldest one: appends since may have begun another segment, which is not over when it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone_ms: Option<i64>,
    /// The fingerprint of the secret under which keys or hashes of this generation are computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_fingerprint: Option<String>,
    /// What the view is doing.
    #[serde(flatten)]
    pub progress: Progress,
}

/// What a view is doing. Durable: committed with the output that it accounts for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Progress {
    /// Its validity has not begun, and nothing is in it. Entered at the start, and where a later
    /// beginning was set; a crash changes nothing; ended by the clock.
    Pending,
    /// Rows of the store are compared with what the view holds, in key order, while changes are
    /// applied as they come. Entered by a new view, a changed policy and a resumption; a crash
    /// resumes behind the cursor; ended by the last row.
    Filling {
        /// The last row looked at.
        cursor: Option<Bytes>,
        /// Whether members that no row has marked must be looked for afterwards. Not for a new view,
        /// which had none.
        sweep: bool,
    },
    /// Members that no row has marked are deleted. Entered from filling; a crash resumes behind the
    /// cursor; ended by the last member.
    Sweeping {
        /// The last member looked at.
        cursor: Option<Bytes>,
    },
    /// Every change is applied as it comes. Entered from the two above; ended by a person, the clock
    /// or an error.
    Live,
    /// An error of this view alone keeps it from going on; what it holds stays. Entered from every
    /// state that writes; a restart and a new version end it by a difference run.
    Suspended {
        /// What kind of error it is.
        class: Class,
        /// The error.
        error: String,
        /// What a person can do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// The validity has ended, or shall begin later, and all members are being deleted. Entered by the
    /// clock, from every state that may hold members; a crash goes on with the members that are left;
    /// ended by the last.
    Expiring,
    /// The validity has ended and nothing is left. Ended by a new version only.
    Expired,
    /// It was taken back: nothing is written to its topic, which goes away. Ended by a person only.
    Revoked,
}

impl Progress {
    /// Returns whether changes are applied to the view.
    #[must_use]
    pub fn applies_changes(&self) -> bool {
        match self {
            Self::Filling { .. } | Self::Sweeping { .. } | Self::Live => true,
            Self::Pending
            | Self::Suspended { .. }
            | Self::Expiring
            | Self::Expired
            | Self::Revoked => false,
        }
    }

    /// Returns whether nothing will be written to the view's topic any more, by itself.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match self {
            Self::Expired | Self::Revoked => true,
            Self::Pending
            | Self::Filling { .. }
            | Self::Sweeping { .. }
            | Self::Live
            | Self::Suspended { .. }
            | Self::Expiring => false,
        }
    }

    /// Returns the state's name in status documents.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Filling { .. } | Self::Sweeping { .. } => "filling",
            Self::Live => "live",
            Self::Suspended { .. } => "suspended",
            Self::Expiring | Self::Expired => "expired",
            Self::Revoked => "gone",
        }
    }
}

/// Bytes, in hex where they are stored. `Debug` hides them: they may be a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bytes(…)")
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len() * 2);
        hutong_policies::text::hex(&self.0, &mut text);
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = format!("\\x{}", String::deserialize(deserializer)?);
        hutong_policies::literal::bytea(&text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("no hex digits"))
    }
}

#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

/// Reads a record that carries `v`.
///
/// # Errors
/// [`Error::TooNew`] and [`Error::Malformed`], definite.
pub fn read_versioned<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Error> {
    let malformed = |source| Error::Malformed {
        what: what.to_owned(),
        source,
    };
    let Versioned { v } = serde_json::from_slice(bytes).map_err(malformed)?;
    if v > VERSION {
        return Err(Error::TooNew {
            what: what.to_owned(),
            found: v,
            supported: VERSION,
        });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}
