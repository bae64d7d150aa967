//! Reading a chunk of a table: the rows between two keys, in one snapshot, up to a number of bytes.
//!
//! Bounds are keys as the server writes them, and the server compares them: no order of ours could
//! differ from its collations. The rows are fetched in pieces and encoded as they come, so a chunk
//! needs the memory of its records and one piece on the wire; one that grows beyond its bytes ends
//! early, behind the row that was one too many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_connectors_core::source::SourceHost;
use hutong_connectors_core::spares;
use hutong_schemas::batch::{Record, RecordBatch};
use hutong_schemas::cell::{Cell, recycle};
use hutong_schemas::envelope::{EventSource, Op, SnapshotMark};
use hutong_schemas::position::Lsn;
use tokio::sync::OwnedSemaphorePermit;

use super::catalogue::{self, Row, Table};
use super::client;
use super::connect::AnyClient;
use super::error::Error;
use super::merge::{ChunkId, ReadAt};
use super::sql;
use super::streaming::now_us;
use super::table_plan::TablePlan;
use super::text::Scratch;
use super::visibility::{self, Visible};

/// Bytes of rows fetched at a time: what is fetched behind a chunk's early end is read for nothing.
const FETCH_BYTES: usize = 1 << 20;
/// Rows fetched at first.
const FETCH_ROWS_FIRST: i32 = 50;
/// Most rows fetched at a time.
const FETCH_ROWS_MAX: i32 = 20_000;

/// The values of a key's columns, as the server writes them.
pub(crate) type Key = Vec<String>;

/// A table with a key, ready to be read.
#[derive(Debug)]
pub(crate) struct Readable {
    pub(crate) oid: u32,
    pub(crate) plan: Arc<TablePlan>,
    /// Quoted names and types of the key's columns.
    key: Vec<(String, String)>,
    /// The table in a FROM clause.
    from: String,
}

/// What a reader is to do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) chunk: ChunkId,
    pub(crate) table: Arc<Readable>,
    /// The key before the first row; `None` at the table's beginning.
    pub(crate) low: Option<Key>,
    pub(crate) high: High,
    /// Transactions that its snapshot must see.
    pub(crate) must_see: Vec<u32>,
    /// Bytes of records after which the chunk ends early.
    pub(crate) bytes_max: usize,
    /// Rows and bytes that it will have, as far as is known.
    pub(crate) expected: (usize, usize),
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// Where a chunk ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum High {
    /// So many rows after its beginning: the key there is to be found first.
    Find { rows: u64 },
    /// With this key, or with the table.
    At(Option<Key>),
}

/// A chunk's rows.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) batch: RecordBatch,
    /// The last row's key, if the chunk ended early.
    pub(crate) ended_early_at: Option<Key>,
    pub(crate) took: Duration,
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Readable {
    pub(crate) fn new(table: &Table, plan: Arc<TablePlan>) -> Self {
        let key = plan.schema.key.iter().map(|index| {
            let column = &plan.schema.columns[*index];
            let type_text = table.column(column.attnum).map(|column| &column.type_text);
            (
                sql::identifier(&column.name),
                type_text.cloned().unwrap_or_default(),
            )
        });
        Self {
            oid: table.oid,
            key: key.collect(),
            from: table.sql_source(),
            plan,
        }
    }

    fn key_columns(&self) -> String {
        let names: Vec<_> = self.key.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    fn literal(&self, key: &[String]) -> String {
        let values: Vec<_> = key
            .iter()
            .zip(&self.key)
            .map(|(value, (_, type_text))| format!("{}::{type_text}", sql::literal(value)))
            .collect();
        values.join(", ")
    }

    fn condition(&self, low: Option<&Key>, high: Option<&Key>) -> String {
        let columns = self.key_columns();
        let mut conditions = Vec::new();
        if let Some(low) = low {
            conditions.push(format!("({columns}) > ({})", self.literal(low)));
        }
        if let Some(high) = high {
            conditions.push(format!("({columns}) <= ({})", self.literal(high)));
        }
        if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        }
    }

    fn bound_query(&self, low: Option<&Key>, rows: u64) -> String {
        let columns = self.key_columns();
        format!(
            "SELECT {columns} FROM {} {} ORDER BY {columns} OFFSET {} LIMIT 1",
            self.from,
            self.condition(low, None),
            rows.saturating_sub(1),
        )
    }

    fn rows_query(&self, low: Option<&Key>, high: Option<&Key>) -> String {
        format!(
            "SELECT {} FROM {} {} ORDER BY {}",
            catalogue::column_list(&self.plan.schema),
            self.from,
            self.condition(low, high),
            self.key_columns(),
        )
    }
}

/// Encodes rows as they come.
#[derive(Default)]
pub(crate) struct RowEncoder {
    pub(crate) batch: RecordBatch,
    scratch: Scratch,
    row: Vec<Cell<'static>>,
}

impl RowEncoder {
    /// Makes one with room for so many rows and bytes: memory that grows is copied.
    fn with_room(rows: usize, bytes: usize) -> Self {
        Self {
            batch: spares::with_room(rows, bytes),
            ..Self::default()
        }
    }

    /// Appends the event of a row as received.
    pub(crate) fn push(
        &mut self,
        plan: &TablePlan,
        received: &[u8],
        source: &EventSource,
    ) -> Result<(), Error> {
        let mut arena = self.scratch.arena(plan.arena_bytes(received.len()));
        let mut row = recycle(std::mem::take(&mut self.row));
        for (index, field) in client::fields(received)?.enumerate() {
            plan.push_cell(index, field?, &mut arena, &mut row)?;
        }
        plan.write_upsert(Op::Read, None, &row, source, &mut self.batch)?;
        self.row = recycle(row);
        Ok(())
    }
}

/// What the events of read rows say of their source.
pub(crate) fn source_of_rows(lsn: Lsn) -> EventSource {
    let now_us = now_us();
    EventSource {
        ts_us: now_us,
        snapshot: SnapshotMark::True,
        tx_id: None,
        lsn: Some(lsn),
        last_commit_lsn: None,
        now_us,
    }
}

/// Reads a chunk, unless its snapshot would not see what it must. Where its end had to be found, the job
/// names it afterwards, and `found` is told at once: the next chunk can then be read beside this one.
///
/// # Cancel safety
///
/// The connection is of no use after an error or a cancellation.
pub(crate) async fn read(
    client: &mut AnyClient,
    job: &mut Job,
    host: &dyn SourceHost,
    found: impl FnOnce(Option<Key>),
) -> Result<Option<(Rows, ReadAt)>, Error> {
    let table = Arc::clone(&job.table);
    let doing = format!("read rows of table {}", table.plan.schema.id);
    let query = format!(
        "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ; {IN_ORDER}; SELECT {}, {END_OF_LOG}",
        visibility::COLUMNS
    );
    let rows = client.query(&doing, &query).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let snapshot = Visible::of_row(&row)?;
    let lsn = Row(row).parse(2)?;
    if !job.must_see.iter().all(|xid| snapshot.sees(*xid)) {
        client.query(&doing, "ROLLBACK").await?;
        return Ok(None);
    }
    host.reached("source-chunk-snapshot").await;
    catalogue::lock_as_seen(client, &table.plan.schema, &table.from).await?;
    let low = job.low.clone();
    let high = match &job.high {
        High::At(high) => high.clone(),
        High::Find { rows } => {
            let query = table.bound_query(low.as_ref(), *rows);
            let bound = client.query(&doing, &query).await?.into_iter().next();
            let bound = bound.map(|row| row.into_iter().map(Option::unwrap_or_default).collect());
            job.high = High::At(bound.clone());
            found(bound.clone());
            bound
        }
    };
    let query = table.rows_query(low.as_ref(), high.as_ref());
    let (rows, bytes) = job.expected;
    let rows = rows.min(job.bytes_max / size_of::<Record>());
    let mut encoder = RowEncoder::with_room(rows, bytes.min(job.bytes_max));
    let source = source_of_rows(lsn);
    // What a chunk costs without its rows says nothing of how many it should have.
    let began = Instant::now();
    let ended_early_at = fetch(client, &query, job, &source, &mut encoder).await?;
    let took = began.elapsed();
    let (seen, after) = end(client, &doing, &table).await?;
    let rows = Rows {
        batch: encoder.batch,
        ended_early_at,
        took,
        permit: job.permit.take(),
    };
    let at = ReadAt {
        snapshot,
        seen,
        after,
    };
    Ok(Some((rows, at)))
}

/// Ends the transaction, and returns what is visible after that and the end of the log then. It is
/// committed, not rolled back: what reading wrote to the log (pruned pages) is then flushed soon, and an
/// idle server's stream passes it.
async fn end(
    client: &mut AnyClient,
    doing: &str,
    table: &Readable,
) -> Result<(Visible, Lsn), Error> {
    let schema = &table.plan.schema;
    let query = format!(
        "COMMIT; SELECT {}, {END_OF_LOG}, current_setting('wal_block_size'), {}",
        visibility::COLUMNS,
        catalogue::has_its_name(schema)
    );
    let rows = client.query(doing, &query).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    let seen = Visible::of_row(&row)?;
    let row = Row(row);
    if !row.flag(4)? {
        return Err(catalogue::is_another(&schema.id));
    }
    Ok((seen, before_page_header(row.parse(2)?, row.parse(3)?)))
}

async fn fetch(
    client: &mut AnyClient,
    query: &str,
    job: &Job,
    source: &EventSource,
    encoder: &mut RowEncoder,
) -> Result<Option<Key>, Error> {
    let plan = &job.table.plan;
    let doing = &format!("read rows of table {}", plan.schema.id);
    let mut wanted = FETCH_ROWS_FIRST;
    let mut bytes = 0;
    let mut done = 0_usize;
    client.start_portal(query, wanted).await?;
    loop {
        let mut fetched = 0;
        let mut full_at = None;
        while let Some(row) = client.next_row(doing).await? {
            fetched += 1;
            if full_at.is_some() {
                continue;
            }
            bytes += row.len();
            done += 1;
            encoder.push(plan, row, source)?;
            if encoder.batch.used_bytes() >= job.bytes_max {
                full_at = Some(key_of(plan, row)?);
            }
        }
        if full_at.is_some() || fetched < wanted {
            return Ok(full_at);
        }
        let row_bytes = (bytes / done.max(1)).max(1);
        let room = job.bytes_max.saturating_sub(encoder.batch.used_bytes());
        let fitting = FETCH_BYTES.min(room) / row_bytes;
        let fitting = i32::try_from(fitting).unwrap_or(FETCH_ROWS_MAX);
        // What comes next may be larger than what came.
        let most = FETCH_ROWS_MAX.min(wanted.saturating_mul(8));
        wanted = fitting.clamp(1, most);
        client.more_rows(wanted).await?;
    }
}

fn key_of(plan: &TablePlan, row: &[u8]) -> Result<Key, Error> {
    let fields = client::fields(row)?.collect::<Result<Vec<_>, _>>()?;
    plan.schema
        .key
        .iter()
        .map(|index| {
            fields
                .get(*index)
                .copied()
                .flatten()
                .and_then(|text| std::str::from_utf8(text).ok())
                .map(str::to_owned)
                .ok_or_else(|| Error::Protocol("a row without its key".to_owned()))
        })
        .collect()
}

/// Rows are read along the key's index: what a planner thinks of a chunk in the midst of a table, above all
/// where the key has several columns, may make it read and sort the whole table for each chunk.
const IN_ORDER: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; \
     SET LOCAL max_parallel_workers_per_gather = 0";

/// Where the log ends: on a standby, where what is visible ends.
pub(crate) const END_OF_LOG: &str = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
     ELSE pg_current_wal_insert_lsn() END";

/// The place for the next record at the beginning of a page lies behind the page's header, which is
/// not written before the record is: an idle server never says that it has passed it. No record
/// lies in a header.
fn before_page_header(lsn: Lsn, page_bytes: u64) -> Lsn {
    /// `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD` of the server's `xlog_internal.h`.
    const HEADER_BYTES: [u64; 2] = [24, 40];
    let within = lsn.0.checked_rem(page_bytes).unwrap_or(0);
    if HEADER_BYTES.contains(&within) {
        Lsn(lsn.0 - within)
    } else {
        lsn
    }
}

/// How many rows the next chunk shall have, so that it takes a share of a second and of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizer {
    rows: u64,
    bytes: u64,
    /// Of a row in the last chunk.
    row_bytes: u64,
}

impl Sizer {
    const ROWS_FIRST: u64 = 1000;
    const ROWS_MAX: u64 = 200_000;
    const TIME: Duration = Duration::from_millis(150);

    /// Aims at chunks of `bytes` bytes at most.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            rows: Self::ROWS_FIRST,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX) / 5 * 4,
            row_bytes: 0,
        }
    }

    pub(crate) fn rows(self) -> u64 {
        self.rows
    }

    /// Returns how many rows the next chunk is likely to have, and the bytes of its buffer, if anything is
    /// known.
    pub(crate) fn expected(self) -> (usize, usize) {
        if self.row_bytes == 0 {
            return (0, 0);
        }
        let count = |count: u64| usize::try_from(count).unwrap_or(0);
        let (rows, row_bytes) = (count(self.rows), count(self.row_bytes));
        let in_buffer = row_bytes.saturating_sub(size_of::<Record>());
        (rows, rows.saturating_mul(in_buffer))
    }

    /// Returns the size of the rows of late, in bytes, if one of them makes a chunk.
    pub(crate) fn large_row(self) -> Option<usize> {
        (self.row_bytes > self.bytes).then(|| usize::try_from(self.row_bytes).unwrap_or(usize::MAX))
    }

    /// Takes what a chunk was into account.
    pub(crate) fn measured(&mut self, rows: u64, bytes: usize, took: Duration) {
        if rows == 0 {
            return;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).max(1);
        self.row_bytes = bytes / rows;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let time = u64::try_from(Self::TIME.as_micros()).unwrap_or(u64::MAX);
        let by_bytes = self.bytes.saturating_mul(rows) / bytes;
        let by_time = time.saturating_mul(rows) / micros;
        let wanted = by_bytes.min(by_time);
        // One slow or odd chunk shall not decide alone.
        let (least, most) = (self.rows / 4, self.rows.saturating_mul(4));
        self.rows = wanted.clamp(least, most).clamp(1, Self::ROWS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_behind_a_page_header_is_the_page() {
        let check = |lsn: u64| before_page_header(Lsn(lsn), 8192).0;
        assert_eq!(check(3 * 8192 + 24), 3 * 8192);
        assert_eq!(check(2048 * 8192 + 40), 2048 * 8192);
        assert_eq!(check(3 * 8192), 3 * 8192);
        assert_eq!(check(3 * 8192 + 64), 3 * 8192 + 64);
    }

    #[test]
    fn chunks_shrink_with_wide_rows_and_grow_with_narrow_ones() {
        let mut sizer = Sizer::new(1 << 20);
        for _ in 0..10 {
            sizer.measured(10, 20 << 20, Duration::from_millis(500));
        }
        assert_eq!(sizer.rows(), 1);
        for _ in 0..10 {
            let rows = sizer.rows();
            let bytes = usize::try_from(rows).unwrap() * 100;
            sizer.measured(rows, bytes, Duration::from_micros(rows * 10));
        }
        assert!((7_000..9_000).contains(&sizer.rows()), "{}", sizer.rows());
        sizer.measured(0, 0, Duration::from_millis(1));
        assert!(sizer.rows() > 1);
    }
}
