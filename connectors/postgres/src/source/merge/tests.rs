//! The rule against a model of a database: rows with versions, transactions that commit, are
//! streamed and become visible in any interleaving, readers that read and arrive late.

use std::collections::{BTreeMap, VecDeque};

use hutong_schemas::position::Lsn;
use proptest::prelude::*;

use super::{Merge, NOTED_BYTES_MAX, ReadAt, Verdict};
use crate::source::visibility::Visible;

const TABLE: u32 = 1;
const KEYS: u8 = 8;
const READERS: usize = 2;
/// Keys per chunk.
const CHUNK: u8 = 1;

/// One step of the schedule. What cannot be done now is skipped.
#[derive(Clone, Copy, Debug)]
enum Act {
    Begin,
    Write { tx: usize, key: u8, delete: bool },
    Truncate { tx: usize },
    Commit { tx: usize },
    BecomeVisible { tx: usize },
    Stream { records: usize },
    Open,
    Read { reader: usize },
    End { reader: usize },
    Arrive { reader: usize },
    Emit,
}

#[derive(Clone, Debug)]
struct Tx {
    xid: u32,
    writes: Vec<Write>,
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Put(u8),
    Delete(u8),
    Truncate,
}

/// What a record of the stream is.
#[derive(Clone, Debug)]
enum Piece {
    Begin(u32),
    Write(u32, Write, u64),
    /// The position behind the commit.
    Commit(u64),
}

#[derive(Clone, Debug)]
struct Chunk {
    id: u64,
    keys: (u8, u8),
    is_open: bool,
    rows: Option<(BTreeMap<u8, u64>, Visible)>,
    ended: Option<ReadAt>,
    arrived: bool,
}

/// Versions count commits; 0 is the row before all of them.
#[derive(Default)]
struct World {
    merge: Merge,
    next_xid: u32,
    log_end: u64,
    running: Vec<Tx>,
    /// Committed in the log, not visible.
    committed: Vec<(Tx, u64)>,
    visible: BTreeMap<u8, u64>,
    stream: VecDeque<Piece>,
    passed: u64,
    in_transaction: bool,
    chunks: VecDeque<Chunk>,
    next_chunk: u64,
    next_key: u8,
    /// Whether readers wait until they see what they must.
    is_patient: bool,
    /// The topic: by key the newest version and whether it is a row.
    topic: BTreeMap<u8, (u64, bool)>,
}

impl World {
    fn new(is_patient: bool, noted_bytes_max: usize) -> Self {
        Self {
            next_xid: 3,
            log_end: 1,
            visible: (0..KEYS).map(|key| (key, 0)).collect(),
            merge: Merge {
                noted_bytes_max,
                ..Merge::default()
            },
            is_patient,
            ..Self::default()
        }
    }

    fn locked(&self, key: u8) -> bool {
        let committed = self.committed.iter().map(|(tx, _)| tx);
        self.running.iter().chain(committed).any(|tx| {
            tx.writes.iter().any(|write| match write {
                Write::Put(k) | Write::Delete(k) => *k == key,
                Write::Truncate => true,
            })
        })
    }

    fn snapshot(&self) -> Visible {
        let committed = self.committed.iter().map(|(tx, _)| tx.xid);
        let running = self.running.iter().map(|tx| tx.xid).chain(committed);
        Visible::of_primary(self.next_xid, running.collect())
    }

    fn write(&mut self, tx: usize, write: Write) {
        let is_free = match write {
            Write::Put(key) | Write::Delete(key) => !self.locked(key),
            Write::Truncate => (0..KEYS).all(|key| !self.locked(key)),
        };
        if is_free && tx < self.running.len() {
            self.running[tx].writes.push(write);
            self.log_end += 1;
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Begin if self.running.len() < 3 => {
                self.running.push(Tx {
                    xid: self.next_xid,
                    writes: Vec::new(),
                });
                self.next_xid += 1;
            }
            Act::Write { tx, key, delete } => {
                let write = if delete { Write::Delete } else { Write::Put };
                self.write(tx, write(key));
            }
            Act::Truncate { tx } => self.write(tx, Write::Truncate),
            Act::Commit { tx } if tx < self.running.len() => {
                let tx = self.running.remove(tx);
                self.log_end += 1;
                let version = self.log_end;
                self.stream.push_back(Piece::Begin(tx.xid));
                for write in &tx.writes {
                    self.stream.push_back(Piece::Write(tx.xid, *write, version));
                }
                self.stream.push_back(Piece::Commit(self.log_end));
                self.committed.push((tx, version));
            }
            Act::BecomeVisible { tx } if tx < self.committed.len() => {
                let (tx, version) = self.committed.remove(tx);
                for write in tx.writes {
                    match write {
                        Write::Put(key) => drop(self.visible.insert(key, version)),
                        Write::Delete(key) => drop(self.visible.remove(&key)),
                        Write::Truncate => self.visible.clear(),
                    }
                }
            }
            Act::Stream { records } => {
                for _ in 0..records {
                    self.stream_one();
                }
            }
            Act::Open => self.open(),
            Act::Read { reader } => {
                let snapshot = self.snapshot();
                let visible = self.visible.clone();
                let unread = self
                    .chunks
                    .iter_mut()
                    .filter(|chunk| chunk.is_open && chunk.rows.is_none());
                if let Some(chunk) = unread.take(READERS).nth(reader) {
                    let must_see = self.merge.must_see(chunk.id);
                    if self.is_patient && !must_see.iter().all(|xid| snapshot.sees(*xid)) {
                        return;
                    }
                    let rows = visible.range(chunk.keys.0..chunk.keys.1);
                    let rows = rows.map(|(key, version)| (*key, *version)).collect();
                    chunk.rows = Some((rows, snapshot));
                }
            }
            Act::End { reader } => {
                let (seen, after) = (self.snapshot(), Lsn(self.log_end));
                let reading = self
                    .chunks
                    .iter_mut()
                    .filter(|chunk| chunk.rows.is_some() && chunk.ended.is_none());
                if let Some(chunk) = reading.take(READERS).nth(reader) {
                    let snapshot = chunk.rows.as_ref().unwrap().1.clone();
                    chunk.ended = Some(ReadAt {
                        snapshot,
                        seen,
                        after,
                    });
                }
            }
            Act::Arrive { reader } => {
                let arriving = self
                    .chunks
                    .iter_mut()
                    .filter(|chunk| chunk.ended.is_some() && !chunk.arrived);
                if let Some(chunk) = arriving.take(READERS).nth(reader) {
                    chunk.arrived = true;
                    self.merge.read(chunk.id, chunk.ended.clone().unwrap());
                }
            }
            Act::Emit => self.emit(),
            Act::Begin | Act::Commit { .. } | Act::BecomeVisible { .. } => {}
        }
    }

    /// Opens the first chunk that is not open, or else the next one.
    fn open(&mut self) {
        let planned = self.chunks.iter_mut().find(|chunk| !chunk.is_open);
        if let Some(chunk) = planned {
            chunk.is_open = true;
            self.merge.open(chunk.id, TABLE);
        } else if self.chunks.len() < READERS + 1 && self.next_key < KEYS {
            let keys = (self.next_key, self.next_key + CHUNK);
            self.next_key += CHUNK;
            self.next_chunk += 1;
            self.merge.open(self.next_chunk, TABLE);
            self.chunks.push_back(Chunk {
                id: self.next_chunk,
                keys,
                is_open: true,
                rows: None,
                ended: None,
                arrived: false,
            });
        }
    }

    fn stream_one(&mut self) {
        match self.stream.pop_front() {
            None => {
                // Nothing is left: the server says how far it has looked.
                self.passed = self.log_end;
            }
            Some(Piece::Begin(xid)) => {
                self.in_transaction = true;
                self.merge.begin(xid);
            }
            Some(Piece::Write(xid, write, version)) => match write {
                Write::Put(key) => {
                    self.merge.touch(TABLE, xid, &[key]);
                    self.stream_put(key, version, true);
                }
                Write::Delete(key) => {
                    self.merge.touch(TABLE, xid, &[key]);
                    self.stream_put(key, version, false);
                }
                Write::Truncate => {
                    self.merge.truncate(TABLE, xid);
                    let live: Vec<u8> = self.topic.keys().copied().collect();
                    for key in live {
                        self.stream_put(key, version, false);
                    }
                }
            },
            Some(Piece::Commit(end)) => {
                self.in_transaction = false;
                self.passed = self.passed.max(end);
            }
        }
    }

    fn stream_put(&mut self, key: u8, version: u64, is_row: bool) {
        let known = self.topic.get(&key).map_or(0, |(version, _)| *version);
        assert!(known < version, "a row of key {key} came before its event");
        self.put(key, version, is_row);
    }

    fn put(&mut self, key: u8, version: u64, is_row: bool) {
        let known = self.topic.get(&key).map_or(0, |(version, _)| *version);
        assert!(known <= version, "key {key} went back in time");
        self.topic.insert(key, (version, is_row));
    }

    fn emit(&mut self) {
        let Some(chunk) = self.chunks.front().filter(|chunk| chunk.arrived) else {
            return;
        };
        self.merge.settle(Lsn(self.passed));
        match self.merge.decide(chunk.id, Lsn(self.passed)) {
            Verdict::Wait => {}
            Verdict::ReadAgain => {
                assert!(
                    !self.is_patient || self.merge.noted_bytes_max < NOTED_BYTES_MAX,
                    "what a reader waited for is read again"
                );
                self.next_chunk += 1;
                self.merge.again(chunk.id, self.next_chunk);
                if let Some(chunk) = self.chunks.front_mut() {
                    chunk.id = self.next_chunk;
                    chunk.is_open = false;
                    (chunk.rows, chunk.ended, chunk.arrived) = (None, None, false);
                }
            }
            Verdict::Emit => {
                let chunk = self.chunks.pop_front().unwrap();
                let (rows, snapshot) = chunk.rows.unwrap();
                let comes_late =
                    |piece: &Piece| matches!(piece, Piece::Begin(xid) if snapshot.sees(*xid));
                assert!(
                    !self.stream.iter().any(comes_late),
                    "rows before what made them"
                );
                for (key, version) in rows {
                    if !self.merge.is_evicted(chunk.id, &[key]) {
                        self.put(key, version, true);
                    }
                }
                self.merge.close(chunk.id);
            }
        }
    }

    fn finish(&mut self) {
        while !self.running.is_empty() {
            self.act(Act::Commit { tx: 0 });
        }
        while !self.committed.is_empty() {
            self.act(Act::BecomeVisible { tx: 0 });
        }
        for _ in 0..100 {
            self.act(Act::Open);
            self.act(Act::Read { reader: 0 });
            self.act(Act::End { reader: 0 });
            self.act(Act::Arrive { reader: 0 });
            self.act(Act::Stream { records: 100 });
            self.act(Act::Emit);
        }
        assert!(self.chunks.is_empty(), "a chunk never leaves");
        let rows = self.topic.iter().filter(|(_, (_, is_row))| *is_row);
        let rows: BTreeMap<u8, u64> = rows.map(|(key, (version, _))| (*key, *version)).collect();
        assert_eq!(rows, self.visible);
        let now = self.snapshot();
        self.merge.saw(&now);
        assert_eq!(self.merge.remembered(), 0, "what all see is forgotten");
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => Just(Act::Begin),
        4 => (0..3_usize, 0..KEYS, any::<bool>())
            .prop_map(|(tx, key, delete)| Act::Write { tx, key, delete }),
        1 => (0..3_usize).prop_map(|tx| Act::Truncate { tx }),
        3 => (0..3_usize).prop_map(|tx| Act::Commit { tx }),
        2 => (0..3_usize).prop_map(|tx| Act::BecomeVisible { tx }),
        2 => (1..8_usize).prop_map(|records| Act::Stream { records }),
        3 => Just(Act::Open),
        3 => (0..READERS).prop_map(|reader| Act::Read { reader }),
        3 => (0..READERS).prop_map(|reader| Act::End { reader }),
        3 => (0..READERS).prop_map(|reader| Act::Arrive { reader }),
        4 => Just(Act::Emit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]
    #[test]
    fn no_key_goes_back_in_time_and_the_topic_ends_as_the_table(
        acts in prop::collection::vec(act(), 0..200),
        is_patient in any::<bool>(),
        noted_bytes_max in prop::sample::select(&[600, NOTED_BYTES_MAX]),
    ) {
        let mut world = World::new(is_patient, noted_bytes_max);
        for act in acts {
            world.act(act);
        }
        world.finish();
    }
}

fn at(snapshot: Visible, after: u64) -> ReadAt {
    ReadAt {
        seen: snapshot.clone(),
        snapshot,
        after: Lsn(after),
    }
}

#[test]
fn a_chunk_waits_for_nothing_where_nothing_was_committed_since_one_that_was_waited_for() {
    let mut merge = Merge::default();
    let read = |merge: &mut Merge, chunk, xmax, after| {
        merge.open(chunk, TABLE);
        merge.read(chunk, at(Visible::of_primary(xmax, vec![5]), after));
    };
    read(&mut merge, 1, 8, 10);
    read(&mut merge, 2, 8, 20);
    read(&mut merge, 3, 9, 30);
    merge.settle(Lsn(9));
    assert_eq!(merge.decide(2, Lsn(9)), Verdict::Wait);
    merge.settle(Lsn(10));
    assert_eq!(merge.decide(2, Lsn(10)), Verdict::Emit);
    assert_eq!(merge.waits_for(2), None);
    assert_eq!(merge.decide(3, Lsn(10)), Verdict::Wait);
    assert_eq!(merge.waits_for(3), Some(Lsn(30)));
}

#[test]
fn a_transaction_streamed_before_it_is_visible_makes_the_chunk_be_read_again() {
    let mut merge = Merge::default();
    merge.begin(7);
    merge.touch(TABLE, 7, b"k");
    merge.open(1, TABLE);
    merge.read(1, at(Visible::of_primary(8, vec![7]), 10));
    assert_eq!(merge.decide(1, Lsn(10)), Verdict::ReadAgain);
    merge.again(1, 2);
    merge.open(2, TABLE);
    merge.read(2, at(Visible::of_primary(8, vec![]), 10));
    assert_eq!(merge.decide(2, Lsn(9)), Verdict::Wait);
    assert_eq!(merge.decide(2, Lsn(10)), Verdict::Emit);
    assert!(!merge.is_evicted(2, b"k"));
}

#[test]
fn a_chunk_leaves_however_many_transactions_are_streamed_before_they_are_visible() {
    let mut merge = Merge::default();
    merge.begin(7);
    merge.touch(TABLE, 7, b"old");
    merge.open(1, TABLE);
    merge.begin(8);
    merge.touch(TABLE, 8, b"new");
    merge.read(1, at(Visible::of_primary(9, vec![7, 8]), 10));
    assert_eq!(merge.decide(1, Lsn(10)), Verdict::ReadAgain);
    merge.again(1, 2);
    merge.begin(9);
    merge.touch(TABLE, 9, b"newer");
    merge.open(2, TABLE);
    merge.read(2, at(Visible::of_primary(10, vec![8, 9]), 20));
    assert_eq!(merge.decide(2, Lsn(20)), Verdict::Emit);
    let evicted = [&b"old"[..], b"new", b"newer"].map(|key| merge.is_evicted(2, key));
    assert_eq!(evicted, [false, true, true]);
}

#[test]
fn too_many_noted_keys_spoil_a_chunk_and_cost_no_more_memory() {
    let mut merge = Merge::default();
    merge.open(1, TABLE);
    merge.begin(7);
    for key in 0..(NOTED_BYTES_MAX / 64) {
        merge.touch(TABLE, 7, &key.to_be_bytes());
    }
    assert!(merge.windows[&1].touched.is_empty());
    merge.read(1, at(Visible::of_primary(8, vec![7]), 1));
    assert_eq!(merge.decide(1, Lsn(1)), Verdict::ReadAgain);
    merge.again(1, 2);
    merge.open(2, TABLE);
    assert_eq!(merge.must_see(2), [7]);
    merge.read(2, at(Visible::of_primary(8, vec![]), 1));
    assert_eq!(merge.decide(2, Lsn(1)), Verdict::Emit);
}

#[test]
fn a_large_transaction_spoils_a_chunk_once() {
    let mut merge = Merge::default();
    let mut touched = 0_usize..;
    let mut touch = |merge: &mut Merge| {
        for key in touched.by_ref().take(NOTED_BYTES_MAX / 64) {
            merge.touch(TABLE, 7, &key.to_be_bytes());
        }
    };
    merge.open(1, TABLE);
    merge.begin(7);
    touch(&mut merge);
    merge.read(1, at(Visible::of_primary(8, vec![]), 1));
    assert_eq!(merge.decide(1, Lsn(1)), Verdict::ReadAgain);
    merge.again(1, 2);
    touch(&mut merge);
    merge.open(2, TABLE);
    touch(&mut merge);
    merge.read(2, at(Visible::of_primary(8, vec![]), 1));
    touch(&mut merge);
    assert_eq!(merge.decide(2, Lsn(1)), Verdict::Emit);
}

#[test]
fn a_chunk_that_is_opened_amid_a_large_transaction_is_read_once() {
    let mut merge = Merge::default();
    merge.begin(7);
    merge.open(1, TABLE);
    assert_eq!(merge.must_see(1), [7]);
    for key in 0..(NOTED_BYTES_MAX / 64) {
        merge.touch(TABLE, 7, &key.to_be_bytes());
    }
    merge.read(1, at(Visible::of_primary(8, vec![]), 1));
    assert_eq!(merge.decide(1, Lsn(1)), Verdict::Emit);
    assert!(!merge.is_evicted(1, &0_usize.to_be_bytes()));
}

#[test]
fn a_chunk_that_is_spoiled_before_it_is_read_again_is_opened_anew() {
    let mut merge = Merge::default();
    merge.begin(7);
    merge.open(1, TABLE);
    merge.read(1, at(Visible::of_primary(8, vec![7]), 1));
    merge.again(1, 2);
    merge.begin(8);
    for key in 0..(NOTED_BYTES_MAX / 64) {
        merge.touch(TABLE, 8, &key.to_be_bytes());
    }
    merge.open(2, TABLE);
    merge.read(2, at(Visible::of_primary(9, vec![]), 2));
    assert_eq!(merge.decide(2, Lsn(2)), Verdict::Emit);
}

#[test]
fn notes_of_what_a_read_has_seen_take_no_room_when_it_is_read_again() {
    let mut merge = Merge::default();
    merge.begin(7);
    merge.open(1, TABLE);
    merge.begin(8);
    merge.touch(TABLE, 8, b"k");
    assert!(merge.windows[&1].bytes > 0);
    merge.read(1, at(Visible::of_primary(9, vec![7]), 1));
    merge.again(1, 2);
    assert_eq!(merge.windows[&2].bytes, 0);
    merge.touch(TABLE, 8, b"k");
    assert_eq!(merge.windows[&2].bytes, 0, "seen before, seen again");
}
