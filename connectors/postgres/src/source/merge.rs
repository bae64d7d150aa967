//! When rows that were read may join the stream, and which of them: the deciding part of a snapshot
//! beside the stream. It reads nothing and waits for nothing.
//!
//! ```text
//!   stream  ──T1──────T2───────────T3──────────T4────▶ events, in the order of commit records
//!   chunk       open   └ read in snapshot S, then the end of the log A      ▲
//!                                                                   passed A: emit, less what
//!                                                                   T unseen by S has touched
//! ```
//!
//! # The hazard
//!
//! A row read by a query is as old as the query's snapshot, and the stream goes on meanwhile. Put
//! behind an event of a later change it would take its key back in time. The order of the log alone
//! does not tell: a transaction's commit record is in the log, and may be streamed, *before* it is
//! visible to others; with synchronous replication by a long time.
//!
//! # The rule, and why it is right
//!
//! A chunk is read in a snapshot S; E is a snapshot after that, and A the end of the log after E. It is
//! emitted once all transactions with a commit record before A have been streamed, or once an earlier
//! chunk was emitted so whose E saw all that this one's sees; and without the keys that a transaction
//! not seen by S has touched.
//!
//! - Of a transaction that S sees, or whose change of the table the read met, E sees it and the record
//!   lies before A, so its events come before the rows, and the rows hold what it did or something newer.
//!   The earlier chunk spares an idle server's readers the wait until what they themselves wrote to the
//!   log (pruned pages) is flushed, which nobody hurries with.
//! - A transaction that S does not see and that was streamed after the chunk was *opened* (which is
//!   before the read) has its keys noted, and they are taken out: its events are newer than the rows.
//! - One that S does not see and that began to be streamed before the chunk was opened has left no
//!   such note, nor does what is left of it. The reader is told which these are ([`Merge::must_see`]) and
//!   reads when it sees them: only those few must become visible, however many come after them. Should it
//!   read too early all the same, its rows are read again.
//! - One that is streamed later than the chunk is emitted stands behind it, where it belongs.
//!
//! What an earlier run streamed left no note either. Whoever uses this first waits until every
//! transaction that ran when this run began has ended ([`Visible::is_past`]).
//!
//! # Memory
//!
//! Noted keys are bounded per chunk; beyond the bound the chunk is spoiled, opened and read again. What the
//! spoiled read saw needs no notes then, so one large transaction spoils a chunk once. Of streamed
//! transactions only those are remembered that no snapshot has seen yet.

use std::collections::{BTreeMap, HashMap, HashSet};

use hutong_schemas::position::Lsn;

use super::visibility::Visible;

/// Bytes of noted keys beyond which a chunk is spoiled.
const NOTED_BYTES_MAX: usize = 1 << 20;
/// What a noted key costs beside its bytes.
const NOTE_BYTES: usize = 64;
/// What a transaction costs that has touched something.
const TOUCHED_BYTES: usize = 256;

/// Names a chunk while it is open.
pub(crate) type ChunkId = u64;

/// What to do with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not read yet, or the stream has not passed its place.
    Wait,
    /// It must be read again, [`Merge::again`].
    ReadAgain,
    /// Emit it now, before anything else of the stream, less what [`Merge::is_evicted`] names.
    Emit,
}

/// What is known of the stream and of the chunks that are open.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Transactions of which something was streamed and that no chunk's snapshot has seen yet.
    streamed: HashMap<u32, Streamed>,
    /// Number of transactions streamed so far.
    count: u64,
    windows: BTreeMap<ChunkId, Window>,
    /// The newest snapshot known to see nothing but what was streamed, and the place that showed it.
    settled: Option<(Lsn, Visible)>,
    noted_bytes_max: usize,
}

impl Default for Merge {
    fn default() -> Self {
        Self {
            streamed: HashMap::new(),
            count: 0,
            windows: BTreeMap::new(),
            settled: None,
            noted_bytes_max: NOTED_BYTES_MAX,
        }
    }
}

#[derive(Debug)]
struct Streamed {
    number: u64,
    seen: bool,
}

#[derive(Debug)]
struct Window {
    table: u32,
    /// Transactions streamed, in whole or in part, when it was opened.
    opened: u64,
    read: Option<ReadAt>,
    /// What it was read in last: too early, or with too many notes, if it is to be read again. What that
    /// saw, the next read sees.
    snapshot: Option<Visible>,
    /// Before the read: keys by transaction. After it: those not seen.
    touched: HashMap<u32, Touched>,
    bytes: usize,
    /// Notes were too many and are lost.
    is_spoiled: bool,
    /// The read does not see all that was streamed before the chunk was opened.
    is_early: bool,
}

/// When a chunk was read.
#[derive(Clone, Debug)]
pub(crate) struct ReadAt {
    /// What the rows were read in.
    pub(crate) snapshot: Visible,
    /// What was visible after that.
    pub(crate) seen: Visible,
    /// The end of the log after that.
    pub(crate) after: Lsn,
}

#[derive(Debug, Default)]
struct Touched {
    keys: HashSet<Vec<u8>>,
    /// The table was emptied.
    all: bool,
}

impl Touched {
    fn bytes(&self) -> usize {
        let keys = self.keys.iter().map(|key| key.len() + NOTE_BYTES);
        TOUCHED_BYTES + keys.sum::<usize>()
    }
}

impl Merge {
    /// A transaction begins to be streamed.
    pub(crate) fn begin(&mut self, xid: u32) {
        self.count += 1;
        let number = self.count;
        self.streamed.insert(
            xid,
            Streamed {
                number,
                seen: false,
            },
        );
    }

    /// Opens a chunk of a table, if it is not open; its snapshot must be taken after this.
    pub(crate) fn open(&mut self, chunk: ChunkId, table: u32) {
        let known = self.windows.get(&chunk);
        if known.is_some_and(|window| !window.is_spoiled) {
            return;
        }
        let spoiled = self.windows.remove(&chunk);
        let snapshot = spoiled.and_then(|window| window.snapshot);
        let window = Window {
            table,
            opened: self.count,
            read: None,
            snapshot,
            touched: HashMap::new(),
            bytes: 0,
            is_spoiled: false,
            is_early: false,
        };
        self.windows.insert(chunk, window);
    }

    /// Returns the transactions that a chunk's snapshot must see: those that began to be streamed before
    /// it was opened, and that may not be visible yet.
    pub(crate) fn must_see(&self, chunk: ChunkId) -> Vec<u32> {
        let Some(window) = self.windows.get(&chunk) else {
            return Vec::new();
        };
        let seen = |xid: u32| window.snapshot.as_ref().is_some_and(|seen| seen.sees(xid));
        let earlier = |streamed: &Streamed| streamed.number <= window.opened && !streamed.seen;
        self.streamed
            .iter()
            .filter(|(xid, streamed)| earlier(streamed) && !seen(**xid))
            .map(|(xid, _)| *xid)
            .collect()
    }

    /// A chunk is to be read again, under another id. It stays open, unless its notes are lost.
    pub(crate) fn again(&mut self, chunk: ChunkId, new: ChunkId) {
        if let Some(window) = self.windows.remove(&chunk) {
            let window = Window {
                read: None,
                is_early: false,
                ..window
            };
            self.windows.insert(new, window);
        }
        self.prune();
    }

    /// Forgets a chunk.
    pub(crate) fn close(&mut self, chunk: ChunkId) {
        self.windows.remove(&chunk);
        self.prune();
    }

    /// Returns whether keys of a table's changes are wanted.
    pub(crate) fn watches(&self, table: u32) -> bool {
        self.windows.values().any(|window| window.table == table)
    }

    /// A streamed transaction has touched a key.
    pub(crate) fn touch(&mut self, table: u32, xid: u32, key: &[u8]) {
        self.note(table, xid, |touched| {
            let is_new = !touched.keys.contains(key);
            if is_new {
                touched.keys.insert(key.to_vec());
            }
            if is_new { key.len() + NOTE_BYTES } else { 0 }
        });
    }

    /// A streamed transaction has emptied a table.
    pub(crate) fn truncate(&mut self, table: u32, xid: u32) {
        self.note(table, xid, |touched| {
            touched.all = true;
            0
        });
    }

    fn note(&mut self, table: u32, xid: u32, mut note: impl FnMut(&mut Touched) -> usize) {
        let number = self.streamed.get(&xid).map(|streamed| streamed.number);
        for window in self.windows.values_mut() {
            let sees = |snapshot: &Visible| snapshot.sees(xid);
            let is_seen = window.snapshot.as_ref().is_some_and(sees);
            // What had begun when the chunk was opened will be in its rows, or they are read again.
            let must_be_seen = number.is_some_and(|number| number <= window.opened);
            if window.table != table || window.is_spoiled || is_seen || must_be_seen {
                continue;
            }
            if !window.touched.contains_key(&xid) {
                window.bytes += TOUCHED_BYTES;
            }
            window.bytes += note(window.touched.entry(xid).or_default());
            if window.bytes > self.noted_bytes_max {
                window.is_spoiled = true;
                window.touched = HashMap::new();
            }
        }
    }

    /// A chunk was read.
    pub(crate) fn read(&mut self, chunk: ChunkId, at: ReadAt) {
        if let Some(window) = self.windows.get_mut(&chunk) {
            let snapshot = &at.snapshot;
            window.touched.retain(|xid, _| !snapshot.sees(*xid));
            window.bytes = window.touched.values().map(Touched::bytes).sum();
            window.snapshot = Some(snapshot.clone());
            window.is_early = self
                .streamed
                .iter()
                .any(|(xid, streamed)| streamed.number <= window.opened && !snapshot.sees(*xid));
            window.read = Some(at.clone());
            self.note_seen(&at.snapshot);
        }
        self.prune();
    }

    /// All transactions with a commit record before `passed` have been streamed: so has all that the
    /// chunks which waited for that see.
    pub(crate) fn settle(&mut self, passed: Lsn) {
        let reads = self
            .windows
            .values()
            .filter_map(|window| window.read.as_ref());
        let newest = reads
            .filter(|read| read.after <= passed)
            .max_by_key(|read| read.after);
        let known = self.settled.as_ref().map(|(after, _)| *after);
        if let Some(read) = newest.filter(|read| known < Some(read.after)) {
            self.settled = Some((read.after, read.seen.clone()));
        }
    }

    fn is_settled(&self, seen: &Visible) -> bool {
        let settled = self.settled.as_ref();
        settled.is_some_and(|(_, settled)| settled.sees_all_of(seen))
    }

    /// A snapshot was taken for nothing but this.
    pub(crate) fn saw(&mut self, snapshot: &Visible) {
        self.note_seen(snapshot);
        self.prune();
    }

    fn note_seen(&mut self, snapshot: &Visible) {
        for (xid, streamed) in &mut self.streamed {
            streamed.seen |= snapshot.sees(*xid);
        }
    }

    /// Forgets transactions that some snapshot has seen. Snapshots of chunks opened after that see
    /// them too; those opened before may have been taken earlier, and are waited for.
    fn prune(&mut self) {
        let unread = self.windows.values().filter(|window| window.read.is_none());
        let newest_unread = unread.map(|window| window.opened).max();
        self.streamed.retain(|_, streamed| {
            !streamed.seen || newest_unread.is_some_and(|opened| streamed.number <= opened)
        });
    }

    /// Says what to do with a chunk when all transactions with a commit record before `passed` have
    /// been streamed.
    pub(crate) fn decide(&self, chunk: ChunkId, passed: Lsn) -> Verdict {
        let Some(window) = self.windows.get(&chunk) else {
            return Verdict::Wait;
        };
        match &window.read {
            Some(_) if window.is_spoiled || window.is_early => Verdict::ReadAgain,
            Some(read) if passed >= read.after || self.is_settled(&read.seen) => Verdict::Emit,
            _ => Verdict::Wait,
        }
    }

    /// Returns the place that the stream must pass before a chunk can be emitted, if it waits for that.
    pub(crate) fn waits_for(&self, chunk: ChunkId) -> Option<Lsn> {
        let read = self.windows.get(&chunk)?.read.as_ref()?;
        (!self.is_settled(&read.seen)).then_some(read.after)
    }

    /// Returns whether an event newer than a row of the chunk has been streamed.
    pub(crate) fn is_evicted(&self, chunk: ChunkId, key: &[u8]) -> bool {
        self.windows.get(&chunk).is_some_and(|window| {
            let mut touched = window.touched.values();
            touched.any(|touched| touched.all || touched.keys.contains(key))
        })
    }

    /// Returns how many transactions are remembered.
    pub(crate) fn remembered(&self) -> usize {
        self.streamed.len()
    }
}

#[cfg(test)]
mod tests;
