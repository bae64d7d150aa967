//! The store on disk: three keyspaces of one fjall database, written in one batch.
//!
//! Writes reach the operating system, not the disk: after a crash of the machine the store may be
//! behind Kafka, which is what it is allowed to be, and it can be rebuilt from Kafka altogether.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use crate::Error;
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
/// Disk for the log of what is in memory, and so what a start reads of it. The least that is allowed.
const JOURNAL_BYTES: u64 = 64 * 1024 * 1024;

const POSITION: &[u8] = b"position";

/// The store. Clones are the same store: another thread may read one while this one writes.
#[derive(Clone)]
pub struct FjallStore {
    database: Database,
    rows: Keyspace,
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
        Ok(Self {
            rows: keyspace("rows")?,
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

impl Store for FjallStore {
    fn position(&self) -> Result<Option<StorePosition>, Error> {
        let Some(bytes) = self.meta.get(POSITION).map_err(failed("read"))? else {
            return Ok(None);
        };
        crate::position::read_versioned(&bytes, "the state store's position").map(Some)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let row = self.rows.get(key).map_err(failed("read"))?;
        Ok(row.map(|row| row.to_vec()))
    }

    fn has_row(&self, key: &[u8]) -> Result<bool, Error> {
        self.rows.contains_key(key).map_err(failed("read"))
    }

    fn rows_after(&self, key: Option<&[u8]>, visit: VisitRow<'_>) -> Result<(), Error> {
        let start = key.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        for entry in self.rows.range::<Vec<u8>, _>((start, Bound::Unbounded)) {
            let (key, row) = entry.into_inner().map_err(failed("read"))?;
            if !visit(&key, &row)? {
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
        // In the order of their keys each is looked for where the one before it was put, which is in the
        // processor's cache.
        let mut rows: Vec<_> = changes.rows.iter().collect();
        rows.sort_by(|(left, _), (right, _)| left.cmp(right));
        for (key, row) in rows {
            match row {
                Some(row) => batch.insert(&self.rows, key.as_slice(), row.as_slice()),
                None => batch.remove(&self.rows, key.as_slice()),
            }
        }
        let mut bytes = Vec::new();
        for (view, members) in &changes.members {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            for (key, member) in members {
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
        self.rows.clear().map_err(failed("clear"))
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
