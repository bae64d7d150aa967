//! The state of one input partition: two caches of Kafka.
//!
//! - *Rows*: the input, compacted, up to a position. Input key (behind its five-byte prefix) to the
//!   row's Avro bytes, behind the prefix of the envelope's schema.
//! - *Members*: what each view holds, which is the view's own output, compacted. View key (behind its
//!   prefix) to a digest of what was given.
//!
//! Members are never derived from rows: compaction may already have dropped the version of a row
//! that put it into a view, and the row would stay in the view for ever.
//!
//! A batch is applied atomically together with the position that it reflects, after its Kafka
//! commit. So a store is never ahead of Kafka; if it is behind, it is brought up from there.

use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Names the members of one generation of one view.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId {
    /// Shared, because each member on its way names its view.
    name: Arc<str>,
    generation: u32,
}

impl ViewId {
    /// Names a generation of a view.
    #[must_use]
    pub fn new(name: &str, generation: u32) -> Self {
        Self {
            name: name.into(),
            generation,
        }
    }

    /// Returns the view's name and the generation.
    #[must_use]
    pub fn parts(&self) -> (&str, u32) {
        (&self.name, self.generation)
    }
}

/// What is known of a row that a view holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The first 16 bytes of SHA-256 over the value as it was given, prefix included.
    pub digest: [u8; 16],
    /// The difference run that saw the row last; see [`crate::position::ViewPosition::mark`].
    pub mark: u32,
}

impl Member {
    pub(crate) const BYTES: usize = 20;

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.digest);
        bytes[16..].copy_from_slice(&self.mark.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let (digest, mark) = bytes.split_at(16);
        Some(Self {
            digest: digest.try_into().ok()?,
            mark: u32::from_be_bytes(mark.try_into().ok()?),
        })
    }
}

/// What a store reflects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorePosition {
    /// The version of the record's form.
    pub v: u64,
    /// The id of the input topic.
    pub topic_id: String,
    /// The offset behind the last input record in the rows.
    pub next_offset: i64,
    /// The commit that the members reflect; 0 if they are not known to reflect any.
    pub seq: u64,
    /// Milliseconds since 1970 up to which the input was read when the rows were what they are.
    pub read_up_to_ms: i64,
    /// How many rows there are, so that nobody must count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// Members of a view by key, in the order in which they came, which is often that of their keys; `None`
/// removes.
pub type Members = IndexMap<Vec<u8>, Option<Member>, KeyHash>;

/// The hash of keys in memory: seeded, as keys come from outside, and several times as fast as the
/// standard library's.
pub type KeyHash = foldhash::fast::RandomState;

/// Changes that enter a store together.
#[derive(Debug, Default)]
pub struct StoreBatch {
    /// Rows by key; `None` removes. Of a key that stands here twice the last counts.
    pub rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Members by view. Shared, because the view looks into them until they are in the store.
    pub members: Vec<(ViewId, Arc<Members>)>,
}

/// Looks at a row and returns whether to go on.
pub type VisitRow<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<bool, Error>;
/// Looks at a member and returns whether to go on.
pub type VisitMember<'a> = &'a mut dyn FnMut(&[u8], Member) -> Result<bool, Error>;

/// A store. Keys are visited in the order of their bytes.
pub trait Store {
    /// Returns what the store reflects, or `None` if it is new.
    ///
    /// # Errors
    /// Of every function: [`Error::Store`], transient.
    fn position(&self) -> Result<Option<StorePosition>, Error>;
    /// Returns a row.
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Returns whether there is a row.
    fn has_row(&self, key: &[u8]) -> Result<bool, Error>;
    /// Visits the rows behind a key, or all.
    fn rows_after(&self, key: Option<&[u8]>, visit: VisitRow<'_>) -> Result<(), Error>;
    /// Counts the rows.
    fn count_rows(&self) -> Result<u64, Error>;
    /// Returns a member.
    fn member(&self, view: &ViewId, key: &[u8]) -> Result<Option<Member>, Error>;
    /// Visits a view's members behind a key, or all.
    fn members_after(
        &self,
        view: &ViewId,
        key: Option<&[u8]>,
        visit: VisitMember<'_>,
    ) -> Result<(), Error>;
    /// Applies changes and the position that holds after them, all or nothing.
    fn apply(&mut self, batch: &StoreBatch, position: &StorePosition) -> Result<(), Error>;
    /// Forgets all rows and the position.
    fn clear_rows(&mut self) -> Result<(), Error>;
    /// Forgets the members of a view. Not atomic with anything: callers first make the position say that
    /// members are not known, or mean members that nobody will ask for.
    fn clear_members(&mut self, view: &ViewId) -> Result<(), Error>;
    /// Returns the views that may have members.
    fn views(&self) -> Result<Vec<ViewId>, Error>;
}
