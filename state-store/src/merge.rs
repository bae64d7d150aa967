//! Entries of several sources as one, in order: of each key the newest.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::chunk::Chunk;
use crate::entry::{self, Key};
use crate::error::Error;
use crate::run::{Run, RunCursor, Value};

/// Goes through one source.
pub(crate) enum Cursor {
    /// Entries in memory.
    Chunk {
        /// The entries.
        chunk: Arc<Chunk>,
        /// Which is looked at.
        index: usize,
    },
    /// Entries in a file.
    Run(RunCursor),
}

impl Cursor {
    /// Begins at the first entry whose key is not below `key`, or at the first.
    pub(crate) fn of_chunk(chunk: &Arc<Chunk>, from: Option<Key<'_>>) -> Self {
        Self::Chunk {
            index: from.map_or(0, |key| chunk.first_from(key)),
            chunk: Arc::clone(chunk),
        }
    }

    /// Begins at the first entry whose key is not below `key`, or at the first.
    pub(crate) fn of_run(run: &Arc<Run>, from: Option<Key<'_>>) -> Result<Self, Error> {
        let run = Arc::clone(run);
        Ok(Self::Run(match from {
            Some(key) => RunCursor::from(run, key)?,
            None => RunCursor::new(run)?,
        }))
    }

    fn key(&self) -> Option<Key<'_>> {
        match self {
            Self::Chunk { chunk, index } => chunk.entry(*index).map(|entry| entry.key),
            Self::Run(cursor) => cursor.key(),
        }
    }

    fn value(&self) -> Value<'_> {
        match self {
            Self::Chunk { chunk, index } => {
                let value = chunk.entry(*index).and_then(|entry| entry.value);
                value.map_or(Value::Removed, Value::Here)
            }
            Self::Run(cursor) => cursor.value(),
        }
    }

    fn advance(&mut self) -> Result<(), Error> {
        match self {
            Self::Chunk { index, .. } => {
                *index += 1;
                Ok(())
            }
            Self::Run(cursor) => cursor.advance(),
        }
    }
}

/// How a key begins behind its keyspace. What differs here need not be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Beginning(u32, u64);

impl Beginning {
    fn of(key: Key<'_>) -> Self {
        Self(key.keyspace, entry::beginning(key.key))
    }
}

/// Goes through all of them.
pub(crate) struct Merge {
    /// The newest first, each with how its key begins.
    cursors: Vec<(Beginning, Cursor)>,
    /// Cursors that are not at their end; the one with the first key last, of equal ones the newest.
    order: Vec<usize>,
}

impl Merge {
    /// Begins where the cursors are, of which the newest comes first.
    pub(crate) fn new(cursors: Vec<Cursor>) -> Self {
        let mut merge = Self {
            order: Vec::with_capacity(cursors.len()),
            cursors: cursors
                .into_iter()
                .map(|cursor| (Beginning::default(), cursor))
                .collect(),
        };
        for index in 0..merge.cursors.len() {
            merge.enter(index);
        }
        merge
    }

    /// Puts a cursor where it belongs. Mostly that is where it was.
    fn enter(&mut self, index: usize) {
        let (beginning, cursor) = &mut self.cursors[index];
        let Some(key) = cursor.key() else {
            return;
        };
        *beginning = Beginning::of(key);
        let mut place = self.order.len();
        while let Some(before) = place.checked_sub(1) {
            let other = self.order[before];
            if self.compare(index, other).then(index.cmp(&other)).is_lt() {
                break;
            }
            place = before;
        }
        self.order.insert(place, index);
    }

    /// Compares the keys of two cursors that are not at their end.
    fn compare(&self, left: usize, right: usize) -> Ordering {
        let (left, right) = (&self.cursors[left], &self.cursors[right]);
        let by_beginning = left.0.cmp(&right.0);
        by_beginning.then_with(|| left.1.key().cmp(&right.1.key()))
    }

    /// Returns the next entry.
    pub(crate) fn entry(&self) -> Option<(Key<'_>, Value<'_>)> {
        let (_, cursor) = &self.cursors[*self.order.last()?];
        Some((cursor.key()?, cursor.value()))
    }

    /// Goes on to the next key.
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        let Some(first) = self.order.pop() else {
            return Ok(());
        };
        // What older sources say of the same key counts no more.
        while let Some(other) = self.order.last().copied()
            && self.compare(other, first).is_eq()
        {
            self.order.pop();
            self.cursors[other].1.advance()?;
            self.enter(other);
        }
        self.cursors[first].1.advance()?;
        self.enter(first);
        Ok(())
    }
}
