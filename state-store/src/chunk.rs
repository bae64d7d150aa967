//! Entries in memory, in order: what one batch changed, or several that were put together.

use std::cmp::Ordering;

use crate::entry::{self, Entry, Key};

/// The entries. Of a key there is one.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    /// Where the entries begin, in the order of their keys.
    starts: Vec<u32>,
}

impl Chunk {
    /// Returns the bytes of all entries, to be written.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads what [`as_bytes`](Chunk::as_bytes) gave.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let mut chunk = Self::default();
        let mut at = 0;
        while at < bytes.len() {
            chunk.starts.push(u32::try_from(at).ok()?);
            (_, at) = entry::read(&bytes, at)?;
        }
        chunk.bytes = bytes;
        chunk.sort();
        Some(chunk)
    }

    /// Makes room for what is known to come.
    pub(crate) fn with_capacity(entries: usize, bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            starts: Vec::with_capacity(entries),
        }
    }

    /// Adds an entry behind all others; [`sort`](Chunk::sort) puts it where it belongs. What is too much
    /// for one chunk is refused.
    pub(crate) fn push(&mut self, key: Key<'_>, value: Option<&[u8]>) -> bool {
        let Ok(start) = u32::try_from(self.bytes.len()) else {
            return false;
        };
        self.starts.push(start);
        entry::put(&mut self.bytes, key, value);
        true
    }

    /// Puts entries in order that were added otherwise. Of a key that is there twice the last counts.
    pub(crate) fn sort(&mut self) {
        let mut starts = std::mem::take(&mut self.starts);
        if !starts.is_sorted_by(|left, right| self.at(*left).key < self.at(*right).key) {
            starts.sort_by_key(|start| self.at(*start).key);
            starts.reverse();
            starts.dedup_by_key(|start| self.at(*start).key);
            starts.reverse();
        }
        self.starts = starts;
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + self.starts.capacity() * size_of::<u32>()
    }

    pub(crate) fn entry(&self, index: usize) -> Option<Entry<'_>> {
        self.starts.get(index).map(|start| self.at(*start))
    }

    pub(crate) fn get(&self, key: Key<'_>) -> Option<Entry<'_>> {
        let entry = self.entry(self.first_from(key))?;
        (entry.key == key).then_some(entry)
    }

    /// Returns the index of the first entry whose key is not below `key`.
    pub(crate) fn first_from(&self, key: Key<'_>) -> usize {
        self.starts
            .partition_point(|start| self.at(*start).key.cmp(&key) == Ordering::Less)
    }

    fn at(&self, start: u32) -> Entry<'_> {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let entry = entry::read(&self.bytes, start);
        entry
            .expect("entries begin where they were written or read")
            .0
    }
}
