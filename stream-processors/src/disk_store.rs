//! The store on disk: keyspaces of one fjall database, written in one batch.
//!
//! A large row lies in parts: to merge tables a block of each is held, and a block is a whole value at
//! least.
//!
//! Writes reach the operating system, not the disk: after a crash of the machine the store may be
//! behind Kafka, which is what it is allowed to be, and it can be rebuilt from Kafka altogether.

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Readable, Snapshot};

use crate::Error;
use crate::filter::Filter;
use crate::store::{
    Member, Store, StoreBatch, StorePosition, ViewId, VisitMember, VisitRow, split_member_key,
};

/// Memory that one partition's store may take for blocks it has read. There is a store for each
/// partition with views, so it is small.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// Memory for what was written and is not on disk yet, per keyspace.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// How many memtables' tables lie side by side before they are merged into the next level. Twice the
/// default: a fill of a large view spends more on merging than on writing, and to look a key up in more
/// of them costs little, because the filter in memory answers for nearly every key that is new.
const TABLES_UNMERGED: u8 = 8;
/// A row that is larger lies in parts of this size.
const PART_BYTES: usize = 256 * 1024;
/// What stands in the place of a row in parts begins with this, a row with its schema's prefix, which
/// begins with 0. Then follows the number of parts, as a big-endian u32.
const IN_PARTS: u8 = 1;
/// Disk for the log of what is in memory, and so what a start reads of it. The least that is allowed.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

const POSITION: &[u8] = b"position";

/// The store. Clones are the same store: another thread may read one while this one writes.
#[derive(Clone)]
pub struct FjallStore {
    database: Database,
    rows: Keyspace,
    /// Parts of large rows, by the row's key and the part's number.
    parts: Keyspace,
    /// Every key whose row lies in parts, and others; `None` if there were such rows before us.
    large: Arc<Mutex<Option<Filter>>>,
    members: Keyspace,
    meta: Keyspace,
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStore").finish_non_exhaustive()
    }
}

fn failed(operation: &'static str) -> impl Fn(fjall::Error) -> Error {
    move |source| Error::Store {
        operation,
        source: Box::new(source),
    }
}

impl FjallStore {
    /// Opens or creates the store in a folder. One that cannot be opened is a cache that is broken:
    /// it is removed and begun anew. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`], also while somebody else has it open, such as an attempt that is ending.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        match Self::try_open(folder) {
            Err(Error::Store { source, .. }) if !is_passing(&*source) => {
                let failed = |source| Error::Store {
                    operation: "remove",
                    source: Box::new(source),
                };
                std::fs::remove_dir_all(folder).map_err(failed)?;
                Self::try_open(folder)
            }
            opened => opened,
        }
    }

    fn try_open(folder: &Path) -> Result<Self, Error> {
        let database = Database::builder(folder)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(1)
            .open()
            .map_err(failed("open"))?;
        let keyspace = |name| {
            database
                .keyspace(name, || {
                    KeyspaceCreateOptions::default()
                        .max_memtable_size(MEMTABLE_BYTES)
                        .compaction_strategy(Arc::new(
                            Leveled::default().with_l0_threshold(TABLES_UNMERGED),
                        ))
                })
                .map_err(failed("open"))
        };
        let parts = keyspace("parts")?;
        let large = parts.is_empty().map_err(failed("read"))?;
        Ok(Self {
            rows: keyspace("rows")?,
            parts,
            large: Arc::new(Mutex::new(large.then(Filter::default))),
            members: keyspace("members")?,
            meta: keyspace("meta")?,
            database,
        })
    }
}

/// Returns whether a store that cannot be opened now is nevertheless whole.
fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(fjall::Error::Locked | fjall::Error::Io(_))
    )
}

/// Returns how many parts a row lies in, from what stands in its place.
fn parts_of(stored: &[u8]) -> Option<u32> {
    let (first, count) = stored.split_first()?;
    (*first == IN_PARTS).then(|| u32::from_be_bytes(count.try_into().unwrap_or_default()))
}

fn part_key(key: &[u8], part: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 4);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&part.to_be_bytes());
    bytes
}

impl FjallStore {
    /// Puts a row together from its parts, as of the moment at which its place was read.
    fn assemble(&self, at: &Snapshot, key: &[u8], count: u32) -> Result<Vec<u8>, Error> {
        let mut row = Vec::with_capacity(PART_BYTES * usize::try_from(count).unwrap_or(0));
        for number in 0..count {
            let part = at.get(&self.parts, part_key(key, number));
            let part = part.map_err(failed("read"))?;
            let part = part.ok_or_else(|| Error::Store {
                operation: "read",
                source: format!("part {number} of a row is missing").into(),
            })?;
            row.extend_from_slice(&part);
        }
        Ok(row)
    }

    /// Writes a row, or none, in the place of the one that is there.
    fn put_row(
        &self,
        batch: &mut OwnedWriteBatch,
        large: &mut Option<Filter>,
        key: &[u8],
        row: Option<&[u8]>,
    ) -> Result<(), Error> {
        let may_be_large = large.as_ref().is_none_or(|large| large.may_contain(key));
        let before = if may_be_large {
            let stored = self.rows.get(key).map_err(failed("read"))?;
            stored.and_then(|stored| parts_of(&stored)).unwrap_or(0)
        } else {
            0
        };
        let mut count = 0;
        match row {
            None => batch.remove(&self.rows, key),
            Some(row) if row.len() <= PART_BYTES => batch.insert(&self.rows, key, row),
            Some(row) => {
                if let Some(large) = large {
                    large.insert(key);
                }
                for part in row.chunks(PART_BYTES) {
                    batch.insert(&self.parts, part_key(key, count), part);
                    count += 1;
                }
                let mut place = vec![IN_PARTS];
                place.extend_from_slice(&count.to_be_bytes());
                batch.insert(&self.rows, key, place);
            }
        }
        for part in count..before {
            batch.remove(&self.parts, part_key(key, part));
        }
        Ok(())
    }
}

fn member_key(view: &ViewId, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(view.as_bytes().len() + key.len());
    put_member_key(view, key, &mut bytes);
    bytes
}

fn put_member_key(view: &ViewId, key: &[u8], bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.extend_from_slice(view.as_bytes());
    bytes.extend_from_slice(key);
}

/// Returns entries in the order of their keys, those of one key in the order given: each is then looked
/// for where the one before it was put, which is in the processor's cache. How keys begin is compared
/// first, without a look at the keys themselves.
fn in_order<'a, V>(
    entries: impl Iterator<Item = (&'a [u8], V)>,
) -> impl Iterator<Item = (&'a [u8], V)> {
    let begin = |key: &[u8]| {
        let mut word = [0; 8];
        for (byte, of_key) in word.iter_mut().zip(key) {
            *byte = *of_key;
        }
        u64::from_be_bytes(word)
    };
    let mut entries: Vec<_> = entries
        .map(|(key, value)| (begin(key), key, value))
        .collect();
    entries.sort_by(|left, right| (left.0, left.1).cmp(&(right.0, right.1)));
    entries.into_iter().map(|(_, key, value)| (key, value))
}

impl Store for FjallStore {
    fn position(&self) -> Result<Option<StorePosition>, Error> {
        let Some(bytes) = self.meta.get(POSITION).map_err(failed("read"))? else {
            return Ok(None);
        };
        crate::position::read_versioned(&bytes, "the state store's position").map(Some)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let now = self.database.snapshot();
        let Some(row) = now.get(&self.rows, key).map_err(failed("read"))? else {
            return Ok(None);
        };
        match parts_of(&row) {
            Some(count) => self.assemble(&now, key, count).map(Some),
            None => Ok(Some(row.to_vec())),
        }
    }

    fn has_row(&self, key: &[u8]) -> Result<bool, Error> {
        self.rows.contains_key(key).map_err(failed("read"))
    }

    fn rows_after(&self, key: Option<&[u8]>, visit: VisitRow<'_>) -> Result<(), Error> {
        let start = key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        let now = self.database.snapshot();
        for entry in now.range::<Vec<u8>, _>(&self.rows, (start, Bound::Unbounded)) {
            let (key, row) = entry.into_inner().map_err(failed("read"))?;
            let goes_on = match parts_of(&row) {
                Some(count) => visit(&key, &self.assemble(&now, &key, count)?)?,
                None => visit(&key, &row)?,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    fn count_rows(&self) -> Result<u64, Error> {
        let count = self.rows.len().map_err(failed("read"))?;
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    fn member(&self, view: &ViewId, key: &[u8]) -> Result<Option<Member>, Error> {
        let bytes = self
            .members
            .get(member_key(view, key))
            .map_err(failed("read"))?;
        Ok(bytes.and_then(|bytes| Member::from_bytes(&bytes)))
    }

    fn members_after(
        &self,
        view: &ViewId,
        key: Option<&[u8]>,
        visit: VisitMember<'_>,
    ) -> Result<(), Error> {
        let start = match key {
            Some(key) => Bound::Excluded(member_key(view, key)),
            None => Bound::Included(view.as_bytes().to_vec()),
        };
        for entry in self.members.range::<Vec<u8>, _>((start, Bound::Unbounded)) {
            let (key, member) = entry.into_inner().map_err(failed("read"))?;
            let Some(key) = key.strip_prefix(view.as_bytes()) else {
                break;
            };
            if let Some(member) = Member::from_bytes(&member)
                && !visit(key, member)?
            {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: &StoreBatch, position: &StorePosition) -> Result<(), Error> {
        let mut batch = self.database.batch();
        let mut large = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = changes.rows.iter().map(|(key, row)| (&**key, row));
        let mut rows = in_order(rows).peekable();
        while let Some((key, row)) = rows.next() {
            // Of one key the last counts; those before it would leave parts behind.
            if rows.peek().is_none_or(|(next, _)| *next != key) {
                self.put_row(&mut batch, &mut large, key, row.as_deref())?;
            }
        }
        drop(large);
        let mut bytes = Vec::new();
        for (view, members) in &changes.members {
            let members = members.iter().map(|(key, member)| (&**key, member));
            for (key, member) in in_order(members) {
                put_member_key(view, key, &mut bytes);
                match member {
                    Some(member) => batch.insert(&self.members, &*bytes, member.to_bytes()),
                    None => batch.remove(&self.members, &*bytes),
                }
            }
        }
        let text = serde_json::to_vec(position).expect("a position is representable in JSON");
        batch.insert(&self.meta, POSITION, text);
        batch.commit().map_err(failed("write"))
    }

    fn clear_rows(&mut self) -> Result<(), Error> {
        self.meta.remove(POSITION).map_err(failed("write"))?;
        self.rows.clear().map_err(failed("clear"))?;
        self.parts.clear().map_err(failed("clear"))?;
        *self.large.lock().unwrap_or_else(PoisonError::into_inner) = Some(Filter::default());
        Ok(())
    }

    fn clear_members(&mut self, view: &ViewId, max: usize) -> Result<bool, Error> {
        let mut batch = self.database.batch();
        let mut count = 0;
        for entry in self.members.prefix(view.as_bytes()).take(max) {
            batch.remove(&self.members, entry.key().map_err(failed("read"))?);
            count += 1;
        }
        batch.commit().map_err(failed("clear"))?;
        Ok(count < max)
    }

    fn views(&self) -> Result<Vec<ViewId>, Error> {
        let mut views: Vec<ViewId> = Vec::new();
        let mut start = Bound::Unbounded;
        while let Some(entry) = self
            .members
            .range::<Vec<u8>, _>((start, Bound::Unbounded))
            .next()
        {
            let key = entry.key().map_err(failed("read"))?;
            let Some((view, _)) = split_member_key(&key) else {
                break;
            };
            let behind = successor(view.as_bytes());
            views.push(view);
            start = Bound::Included(behind);
        }
        Ok(views)
    }
}

/// Returns the first bytes behind all that begin with `prefix`, which begins with a name and so is
/// not all 0xFF.
fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut bytes = prefix.to_vec();
    while bytes.last() == Some(&0xFF) {
        bytes.pop();
    }
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}
