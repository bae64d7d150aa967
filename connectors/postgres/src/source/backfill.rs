//! The rows of tables, read beside the stream: what is read next, and what of it is done.
//!
//! ```text
//!              ┌─ prepare ─▶ ready ─▶ active: chunk │ chunk │ chunk … ─▶ (sweep) ─▶ streaming
//!   tables ────┤                        │ jobs   ▲ rows
//!              └─ wait for what runs    ▼        │           head emitted with its completion
//!                                     readers ───┘ ─────────▶ by the stream, see [`beside`](super::beside)
//! ```
//!
//! A few tables are active at a time, each with chunks in the order of its key. The next chunk begins
//! where the one before it ends, which its reader finds out before it reads: so several readers work
//! on one table. Chunks are emitted in their order, so that how far a table is is one key.
//!
//! Nothing here waits. [`Backfill::next`] says what can be done, the stream does it.
//!
//! # Memory
//!
//! At most two chunks per reader are being read or wait to be emitted, or up to four where those of this
//! source are at most a quarter of the worker's byte budget. Each has its share of the budget, taken before
//! it is read and never waited for; only a chunk behind which others wait is read without, in little pieces,
//! because what they hold may be what others wait for. Where a row is larger than a chunk there is one chunk
//! at a time, with the share of all copies of a row.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::SourceHost;
use hutong_schemas::position::Lsn;
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};

use super::catalogue::Table;
use super::chunk::{High, Job, Key, Readable, Rows, Sizer};
use super::delivery::COPIES;
use super::merge::{ChunkId, Merge, ReadAt, Verdict};
use super::readers::{self, Helper, Jobs, Report};
use super::side::Side;
use super::table_state::Reading;

/// Chunks of each reader that are being read or wait to be emitted, where the byte budget is large enough:
/// so many that it goes on reading while a batch commits.
const CHUNKS_A_READER: usize = 4;
/// Most bytes of a chunk: small beside a batch, so that what streams waits little for one.
const CHUNK_BYTES_MAX: usize = 2 << 20;
/// Fewest, where the byte budget is nearly used up.
pub(crate) const CHUNK_BYTES_MIN: usize = 16 << 10;

/// The reading of tables.
#[derive(Debug)]
pub(crate) struct Backfill {
    readers: usize,
    /// Chunks that are being read or wait to be emitted, at most.
    chunks_max: usize,
    busy_readers: usize,
    chunk_bytes: usize,
    /// Tables that are not prepared.
    unprepared: BTreeSet<u32>,
    is_past_barrier: bool,
    ready: VecDeque<Arc<Readable>>,
    active: Vec<Active>,
    next_chunk: ChunkId,
    jobs: mpsc::Sender<Job>,
    reports: mpsc::Receiver<Report>,
    _helpers: Vec<Helper>,
}

/// A table being read.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) table: Arc<Readable>,
    chunks: VecDeque<Chunk>,
    next: Next,
    sizer: Sizer,
    pace: Pace,
}

/// Where the chunk after the last one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// The last one's reader will tell.
    Unknown,
    At(Option<Key>),
    /// There is none.
    Nowhere,
}

#[derive(Debug)]
struct Chunk {
    id: ChunkId,
    low: Option<Key>,
    high: High,
    state: ChunkState,
}

#[derive(Debug)]
enum ChunkState {
    Planned,
    BeingRead,
    Read(Rows),
}

/// What can be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Doable {
    /// Nothing, until a report comes or the stream moves on.
    Nothing,
    /// Take up the next table.
    Activate,
    /// Hand a job to a reader, if the budget allows it.
    Dispatch,
    /// All rows of this table are emitted.
    Complete(u32),
}

/// A chunk that leaves.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) table: Arc<Readable>,
    pub(crate) id: ChunkId,
    pub(crate) rows: Rows,
    /// The key of its last row; `None`: the table's end.
    pub(crate) end: Option<Key>,
}

impl Backfill {
    /// Starts to prepare `tables`, and to read those that are `to_read`.
    pub(crate) fn start(
        config: &Arc<Config>,
        side: &Side,
        host: &Arc<dyn SourceHost>,
        budget_bytes: usize,
        tables: Vec<Table>,
    ) -> Self {
        let readers = config.snapshot_readers;
        let chunk_bytes = (config.batch_bytes_max / 4).min(CHUNK_BYTES_MAX);
        // What streams beside them needs most of the budget.
        let chunks_max = budget_bytes / 4 / chunk_bytes.max(1);
        let (report, reports) = mpsc::channel(4 * config.snapshot_readers);
        let (jobs, inbox) = mpsc::channel(config.snapshot_readers);
        let inbox: Jobs = Arc::new(Mutex::new(inbox));
        let mut helpers = vec![readers::barrier(side.another(), report.clone())];
        for _ in 0..config.snapshot_readers {
            let jobs = Arc::clone(&inbox);
            let (side, host) = (side.another(), Arc::clone(host));
            helpers.push(readers::reader(side, host, jobs, report.clone()));
        }
        let unprepared = tables.iter().map(|table| table.oid).collect();
        let (config_of, host) = (Arc::clone(config), Arc::clone(host));
        helpers.push(readers::preparation(
            side.another(),
            config_of,
            host,
            tables,
            report,
        ));
        Self {
            readers,
            chunks_max: chunks_max.clamp(2 * readers, CHUNKS_A_READER * readers),
            busy_readers: 0,
            chunk_bytes,
            unprepared,
            is_past_barrier: false,
            ready: VecDeque::new(),
            active: Vec::new(),
            next_chunk: 1,
            jobs,
            reports,
            _helpers: helpers,
        }
    }

    /// Waits for the next report.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// Returns the most bytes of a chunk, and the memory that the next one may take.
    pub(crate) fn chunk_bytes(&self) -> (usize, usize) {
        let large = self.large_row().map_or(0, |row| row.saturating_mul(COPIES));
        (self.chunk_bytes, self.chunk_bytes.max(large))
    }

    /// Returns the size of the largest rows of late, in bytes, if one of them makes a chunk.
    fn large_row(&self) -> Option<usize> {
        let large = self
            .active
            .iter()
            .filter_map(|active| active.sizer.large_row());
        large.max()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.unprepared.is_empty() && self.ready.is_empty() && self.active.is_empty()
    }

    pub(crate) fn active(&self) -> &[Active] {
        &self.active
    }

    pub(crate) fn past_barrier(&mut self) {
        self.is_past_barrier = true;
    }

    pub(crate) fn prepared(&mut self, table: &Arc<Readable>, is_to_be_read: bool) {
        let is_wanted = self.unprepared.remove(&table.oid);
        if is_wanted && is_to_be_read {
            self.ready.push_back(Arc::clone(table));
        }
    }

    /// Gives a table up.
    pub(crate) fn forget(&mut self, oid: u32, merge: &mut Merge) {
        self.unprepared.remove(&oid);
        self.ready.retain(|table| table.oid != oid);
        for active in self.active.iter().filter(|active| active.table.oid == oid) {
            for chunk in &active.chunks {
                merge.close(chunk.id);
            }
        }
        self.active.retain(|active| active.table.oid != oid);
    }

    /// A table looks otherwise from here on: what was read of it and is not emitted is read again.
    pub(crate) fn replan(&mut self, table: Arc<Readable>, merge: &mut Merge) {
        for ready in &mut self.ready {
            if ready.oid == table.oid {
                *ready = Arc::clone(&table);
            }
        }
        let mut next_chunk = self.next_chunk;
        for active in &mut self.active {
            if active.table.oid == table.oid && active.table.plan.schema != table.plan.schema {
                active.table = Arc::clone(&table);
                for chunk in &mut active.chunks {
                    // Noted keys are those of the table as it was.
                    merge.close(chunk.id);
                    chunk.again(&mut next_chunk, merge);
                }
            }
        }
        self.next_chunk = next_chunk;
    }

    /// Returns the table that a chunk belongs to.
    pub(crate) fn table_of(&self, chunk: ChunkId) -> Option<u32> {
        let mut active = self.active.iter();
        let active = active.find(|active| active.chunks.iter().any(|known| known.id == chunk))?;
        Some(active.table.oid)
    }

    pub(crate) fn found(&mut self, id: ChunkId, high: Option<Key>) {
        for active in &mut self.active {
            if let Some(last) = active.chunks.back_mut()
                && last.id == id
                && active.next == Next::Unknown
            {
                active.next = match &high {
                    Some(key) => Next::At(Some(key.clone())),
                    None => Next::Nowhere,
                };
                last.high = High::At(high);
                return;
            }
        }
    }

    pub(crate) fn reader_is_free(&mut self) {
        self.busy_readers -= 1;
    }

    pub(crate) fn read(&mut self, id: ChunkId, rows: Rows, at: ReadAt, merge: &mut Merge) {
        for active in &mut self.active {
            let Some(index) = active.chunks.iter().position(|chunk| chunk.id == id) else {
                continue;
            };
            merge.read(id, at);
            let count = u64::try_from(rows.batch.records.len()).unwrap_or(u64::MAX);
            let bytes = rows.batch.used_bytes();
            active.sizer.measured(count, bytes, rows.took);
            let chunk = &mut active.chunks[index];
            let rest = rows.ended_early_at.clone().map(|end| Chunk {
                id: self.next_chunk,
                low: Some(end.clone()),
                high: std::mem::replace(&mut chunk.high, High::At(Some(end))),
                state: ChunkState::Planned,
            });
            chunk.state = ChunkState::Read(rows);
            if let Some(rest) = rest {
                self.next_chunk += 1;
                active.chunks.insert(index + 1, rest);
            }
            return;
        }
    }

    /// Says what can be done, having looked at which chunks must be read again.
    pub(crate) fn next(&mut self, merge: &mut Merge, passed: Lsn) -> Doable {
        let mut next_chunk = self.next_chunk;
        for chunk in self.active.iter_mut().flat_map(|active| &mut active.chunks) {
            let is_read = matches!(chunk.state, ChunkState::Read(_));
            if is_read && merge.decide(chunk.id, passed) == Verdict::ReadAgain {
                chunk.again(&mut next_chunk, merge);
            }
        }
        self.next_chunk = next_chunk;
        let complete = self
            .active
            .iter()
            .find(|active| active.chunks.is_empty() && active.next == Next::Nowhere);
        if let Some(active) = complete {
            return Doable::Complete(active.table.oid);
        }
        if !self.is_past_barrier {
            return Doable::Nothing;
        }
        let is_free = self.busy_readers < self.readers;
        if is_free && self.plannable().is_some() {
            Doable::Dispatch
        } else if is_free && !self.ready.is_empty() && self.active.len() < self.readers {
            Doable::Activate
        } else {
            Doable::Nothing
        }
    }

    /// Returns the table of which a chunk can be read next.
    fn plannable(&self) -> Option<usize> {
        if let Some(index) = self.waited_for() {
            return Some(index);
        }
        if self.large_row().is_some() && !self.holds_nothing() {
            return None;
        }
        let planned = |active: &Active| active.chunks.iter().any(Chunk::is_planned);
        if let Some(index) = self.active.iter().position(planned) {
            return Some(index);
        }
        let outstanding: usize = self.active.iter().map(|active| active.chunks.len()).sum();
        let has_next = |active: &Active| matches!(active.next, Next::At(_));
        (outstanding < self.chunks_max)
            .then(|| self.active.iter().position(has_next))
            .flatten()
    }

    /// Returns the table whose first chunk is to be read while others of its chunks, which can only
    /// leave behind it, hold memory: nothing may keep it waiting.
    fn waited_for(&self) -> Option<usize> {
        self.active.iter().position(|active| {
            let mut chunks = active.chunks.iter();
            chunks.next().is_some_and(Chunk::is_planned) && !chunks.all(Chunk::is_planned)
        })
    }

    /// Returns whether the next chunk is waited for by what holds memory, so that it must be read
    /// whether there is memory for it or not.
    pub(crate) fn must_read(&self) -> bool {
        self.waited_for().is_some()
    }

    /// Returns whether no chunk is being read or waits to be emitted.
    pub(crate) fn holds_nothing(&self) -> bool {
        let mut chunks = self.active.iter().flat_map(|active| &active.chunks);
        chunks.all(Chunk::is_planned)
    }

    /// Hands the next chunk to a reader, with its share of the byte budget.
    pub(crate) fn dispatch(
        &mut self,
        merge: &mut Merge,
        bytes_max: usize,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let Some(index) = self.plannable() else {
            return;
        };
        let active = &mut self.active[index];
        let planned = active.chunks.iter().position(Chunk::is_planned);
        let planned = planned.unwrap_or_else(|| {
            let Next::At(low) = std::mem::replace(&mut active.next, Next::Unknown) else {
                unreachable!("a table without a planned chunk is plannable by its next one");
            };
            active.chunks.push_back(Chunk {
                id: self.next_chunk,
                low,
                high: High::Find {
                    rows: active.sizer.rows(),
                },
                state: ChunkState::Planned,
            });
            self.next_chunk += 1;
            active.chunks.len() - 1
        });
        let chunk = &mut active.chunks[planned];
        // Before the read begins: what is streamed from here on is noted.
        merge.open(chunk.id, active.table.oid);
        chunk.state = ChunkState::BeingRead;
        let job = Job {
            chunk: chunk.id,
            table: Arc::clone(&active.table),
            low: chunk.low.clone(),
            high: chunk.high.clone(),
            must_see: merge.must_see(chunk.id),
            bytes_max,
            expected: active.sizer.expected(),
            permit,
        };
        self.busy_readers += 1;
        // There is room for one job of each reader, and readers live as long as this.
        let _ = self.jobs.try_send(job);
    }

    /// Returns the next table to take up.
    pub(crate) fn next_ready(&mut self) -> Option<Arc<Readable>> {
        self.ready.pop_front()
    }

    /// Takes a table up where it stands.
    pub(crate) fn activate(&mut self, table: Arc<Readable>, reading: &Reading) {
        self.active.push(Active {
            table,
            chunks: VecDeque::new(),
            next: if reading.all_read {
                Next::Nowhere
            } else {
                Next::At(reading.cursor.clone())
            },
            sizer: Sizer::new(self.chunk_bytes),
            pace: Pace::new(),
        });
    }

    /// Returns whether a chunk can be emitted.
    pub(crate) fn can_emit(&self, merge: &Merge, passed: Lsn) -> bool {
        self.active
            .iter()
            .any(|active| active.can_emit(merge, passed))
    }

    /// Returns the farthest place that a read chunk waits for the stream to pass.
    pub(crate) fn waits_for(&self, merge: &Merge) -> Option<Lsn> {
        let first = |active: &Active| active.chunks.front().map(|chunk| chunk.id);
        let chunks = self.active.iter().filter_map(first);
        chunks.filter_map(|chunk| merge.waits_for(chunk)).max()
    }

    /// Takes a chunk that can be emitted and has at most `bytes_max` bytes. Its window is still open.
    pub(crate) fn take(&mut self, merge: &Merge, passed: Lsn, bytes_max: usize) -> Option<Done> {
        for active in &mut self.active {
            if !active.can_emit(merge, passed) {
                continue;
            }
            let fits = |chunk: &Chunk| match &chunk.state {
                ChunkState::Read(rows) => rows.batch.buffer.len() <= bytes_max,
                ChunkState::Planned | ChunkState::BeingRead => false,
            };
            if !active.chunks.front().is_some_and(fits) {
                continue;
            }
            let chunk = active.chunks.pop_front()?;
            let (ChunkState::Read(rows), High::At(end)) = (chunk.state, chunk.high) else {
                return None;
            };
            let count = rows.batch.records.len();
            active.pace.count(u64::try_from(count).unwrap_or(u64::MAX));
            return Some(Done {
                table: Arc::clone(&active.table),
                id: chunk.id,
                rows,
                end,
            });
        }
        None
    }
}

impl Active {
    fn can_emit(&self, merge: &Merge, passed: Lsn) -> bool {
        self.chunks.front().is_some_and(|chunk| {
            matches!(chunk.state, ChunkState::Read(_))
                && merge.decide(chunk.id, passed) == Verdict::Emit
        })
    }

    /// Returns the seconds that so many rows take at the speed of late.
    pub(crate) fn eta_seconds(&self, rows_left: u64) -> Option<u64> {
        self.pace.eta_seconds(rows_left)
    }
}

impl Chunk {
    fn is_planned(&self) -> bool {
        matches!(self.state, ChunkState::Planned)
    }

    /// Plans the chunk once more, under another id: what its reader may still report of the old one
    /// concerns nobody.
    fn again(&mut self, next_chunk: &mut ChunkId, merge: &mut Merge) {
        if self.is_planned() {
            return;
        }
        merge.again(self.id, *next_chunk);
        // A reader that has not found the end yet will not be heard when it does.
        self.id = *next_chunk;
        *next_chunk += 1;
        self.state = ChunkState::Planned;
    }
}

/// How fast rows of a table leave.
#[derive(Debug)]
struct Pace {
    began: Instant,
    rows: u64,
}

impl Pace {
    /// Before that nothing can be said.
    const LEAST: Duration = Duration::from_millis(500);

    fn new() -> Self {
        Self {
            began: Instant::now(),
            rows: 0,
        }
    }

    fn count(&mut self, rows: u64) {
        self.rows += rows;
    }

    fn eta_seconds(&self, rows_left: u64) -> Option<u64> {
        let elapsed = self.began.elapsed();
        if elapsed < Self::LEAST {
            return None;
        }
        let millis = u64::try_from(elapsed.as_millis()).ok()?;
        let left = millis.saturating_mul(rows_left).checked_div(self.rows)?;
        Some(left.div_ceil(1000))
    }
}
