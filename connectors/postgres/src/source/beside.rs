//! The stream's side of the rows that are read beside it: it feeds readers, lets chunks join its
//! batches, stops tables that cannot go on, and sweeps.
//!
//! # What each crash leaves behind
//!
//! A chunk's rows and how far its table then is commit in one transaction, behind all that was
//! streamed before: a crash goes on at the next chunk, and no row is read twice into the topic. A
//! sweep's deletes leave in parts and the last one ends the reading; what a crash leaves is found live
//! by the next sweep, whose bound is stored.
//!
//! # The sweep
//!
//! The topic may hold rows that the table does not: of before a gap, or from a time in which the table
//! was not followed. When all rows are read, every row of the table has a record behind the place
//! where its partition ended when the reading began: it was read since, or changed. So the keys whose
//! newest record lies before that place are those that are gone. The list is taken while the stream
//! waits, with everything durable: nothing is changed between looking and deleting.

use std::time::Duration;

use hutong_connectors_core::ErrorReport;
use hutong_connectors_core::source::{SnapshotProgress, Step, TableState as Shown};
use hutong_connectors_core::spares;
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::{Class, Classified};
use tokio::time::Instant;

use super::backfill::{CHUNK_BYTES_MIN, Doable, Done};
use super::changes::{Closed, Entry};
use super::chunk::source_of_rows;
use super::delivery::Flow;
use super::error::Error;
use super::readers::{Prepared, Report};
use super::streaming::Streaming;
use super::table_plan::TablePlan;
use super::table_state::Reading;
use super::truncate::host_error;

/// How often progress is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);
/// How often an idle server is asked how far it has looked, while rows wait for that.
pub(crate) const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Streamed transactions after which it is asked which of them are visible.
const REMEMBERED_MAX: usize = 1 << 16;

impl Streaming {
    /// Waits for a report of a reader; for ever, if there are none.
    pub(crate) async fn next_report(backfill: &mut Option<super::backfill::Backfill>) -> Report {
        match backfill {
            Some(backfill) => match backfill.report().await {
                Some(report) => report,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// Takes what has been done beside the stream.
    pub(crate) fn on_report(&mut self, report: Report) -> Result<(), Error> {
        let (Some(backfill), Some(merge)) = (&mut self.backfill, &mut self.changes.merge) else {
            return Ok(());
        };
        match report {
            Report::Saw(snapshot) => merge.saw(&snapshot),
            Report::Past => backfill.past_barrier(),
            Report::Found { chunk, high } => backfill.found(chunk, high),
            Report::Read { chunk, rows, at } => {
                backfill.reader_is_free();
                backfill.read(chunk, rows, at, merge);
            }
            Report::Unreadable { chunk, error } => {
                backfill.reader_is_free();
                if let Some(oid) = backfill.table_of(chunk) {
                    self.fail_table(oid, &error)?;
                }
            }
            Report::Unfit { oid, error } => self.fail_table(oid, &error)?,
            Report::Prepared(tables) => {
                for table in tables {
                    self.on_prepared(&table);
                }
            }
        }
        Ok(())
    }

    fn on_prepared(&mut self, prepared: &Prepared) {
        let oid = prepared.readable.oid;
        let Some(state) = self.changes.states.change(oid) else {
            return;
        };
        state.announced = true;
        if let Some(reading) = &mut state.reading
            && reading.cursor.is_none()
        {
            // What an earlier owner of the topic left there is swept.
            reading.sweeps |= prepared.topic_existed;
        }
        let is_to_be_read = state.reading.is_some() && state.failed.is_none();
        if let Some(backfill) = &mut self.backfill {
            backfill.prepared(&prepared.readable, is_to_be_read);
        }
    }

    /// Does what can be done for the rows beside the stream without waiting for it.
    pub(crate) async fn drive_backfill(&mut self) -> Result<Flow, Error> {
        loop {
            let passed = self.changes.position().lsn;
            let (Some(backfill), Some(merge)) = (&mut self.backfill, &mut self.changes.merge)
            else {
                return Ok(Flow::Continue);
            };
            match backfill.next(merge, passed) {
                Doable::Nothing => break,
                Doable::Dispatch => {
                    let (mut bytes, in_memory) = backfill.chunk_bytes();
                    let mut permit = self.delivery.reserve(in_memory);
                    if permit.is_none() && backfill.holds_nothing() {
                        bytes = CHUNK_BYTES_MIN;
                        permit = self.delivery.reserve(bytes);
                    }
                    if permit.is_none() && backfill.must_read() {
                        bytes = CHUNK_BYTES_MIN;
                    } else if permit.is_none() {
                        break;
                    }
                    backfill.dispatch(merge, bytes, permit);
                }
                Doable::Activate if self.changes.in_transaction() => break,
                Doable::Activate => {
                    if self.activate().await? == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                Doable::Complete(_) if self.changes.in_transaction() => break,
                Doable::Complete(oid) => match self.complete(oid).await {
                    Ok(Flow::Continue) => {}
                    Ok(Flow::Stop) => return Ok(Flow::Stop),
                    Err(error) if error.class() == Class::Definite => {
                        self.fail_table(oid, &error)?;
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        self.end_backfill();
        self.ask_how_far().await?;
        Ok(Flow::Continue)
    }

    fn end_backfill(&mut self) {
        let is_done = self.backfill.as_ref().is_some_and(|b| b.is_done());
        if is_done {
            self.backfill = None;
            self.changes.merge = None;
            self.delivery.progress.snapshot = None;
            self.delivery.show();
            tracing::info!(connector = %self.config.name, "all tables are read");
        }
    }

    /// An idle server is asked how far it has looked, while rows wait for that.
    async fn ask_how_far(&mut self) -> Result<(), Error> {
        let (Some(backfill), Some(merge)) = (&self.backfill, &self.changes.merge) else {
            return Ok(());
        };
        let passed = self.changes.position().lsn;
        let waits = backfill.waits_for(merge).is_some_and(|lsn| lsn > passed);
        let is_time = self.asked_at.elapsed() >= ASK_INTERVAL;
        if waits && is_time && !self.changes.in_transaction() {
            self.asked_at = Instant::now();
            self.send_status(true).await?;
        }
        Ok(())
    }

    /// Keeps the memory of streamed transactions small while nothing is read.
    pub(crate) async fn look_at_visible(&mut self) {
        let remembered = self.changes.merge.as_ref().map_or(0, |m| m.remembered());
        if remembered < REMEMBERED_MAX {
            return;
        }
        let query = format!("SELECT {}", super::visibility::COLUMNS);
        let doing = "see which transactions run";
        // Without an answer the next look comes with the next tick.
        if let Ok(rows) = self.side.query(doing, &query).await
            && let Some(row) = rows.first()
            && let Ok(seen) = super::visibility::Visible::of_row(row)
            && let Some(merge) = &mut self.changes.merge
        {
            merge.saw(&seen);
        }
    }

    /// Takes up the next table. Where its reading ends with a sweep, the topic's ends are noted first,
    /// with nothing of ours on its way.
    async fn activate(&mut self) -> Result<Flow, Error> {
        let Some(table) = self.backfill.as_mut().and_then(|b| b.next_ready()) else {
            return Ok(Flow::Continue);
        };
        let oid = table.oid;
        let Some(mut reading) = self.reading_of(oid) else {
            return Ok(Flow::Continue);
        };
        if reading.sweeps && reading.began_at.is_none() {
            if self.make_durable().await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
            let topic = std::sync::Arc::clone(&table.plan.topic);
            let host = std::sync::Arc::clone(&self.delivery.host);
            let ends = async { host.end_offsets(&topic).await };
            let Some(ends) = self.while_answering(ends).await? else {
                return Ok(Flow::Stop);
            };
            reading.began_at = Some(ends.map_err(host_error(&topic))?);
            if let Some(state) = self.changes.states.change(oid) {
                state.reading = Some(reading.clone());
            }
        }
        self.show_state(oid, Shown::Snapshotting);
        if let Some(backfill) = &mut self.backfill {
            backfill.activate(table, &reading);
        }
        Ok(Flow::Continue)
    }

    fn reading_of(&self, oid: u32) -> Option<Reading> {
        self.changes.states.get(oid)?.reading.clone()
    }

    /// Hands over all that there is and waits until it is durable.
    async fn make_durable(&mut self) -> Result<Flow, Error> {
        let has_more = !self.changes.writer.is_empty() || self.changes.states.are_changed();
        if has_more && self.hand_over().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        self.wait_until_settled().await
    }

    pub(crate) fn can_emit_rows(&self) -> bool {
        match (&self.backfill, &self.changes.merge) {
            (Some(backfill), Some(merge)) => backfill.can_emit(merge, self.changes.position().lsn),
            _ => false,
        }
    }

    /// Lets chunks that may be emitted join a batch, up to its size. Not within a transaction: it
    /// would be torn for nothing.
    pub(crate) fn join_chunks(&mut self, closed: &mut Closed) -> Result<(), Error> {
        if self.changes.in_transaction() {
            return Ok(());
        }
        self.changes.rows_wait = false;
        let passed = self.changes.position().lsn;
        if let Some(merge) = &mut self.changes.merge {
            merge.settle(passed);
        }
        let mut room = self.config.batch_bytes_max;
        loop {
            let bytes = closed.batch.buffer.len();
            // The first one always fits: a row may be larger than a batch.
            let fits = if bytes == 0 {
                usize::MAX
            } else {
                room.saturating_sub(bytes)
            };
            room = room.min(self.config.batch_bytes_max);
            let (Some(backfill), Some(merge)) = (&mut self.backfill, &mut self.changes.merge)
            else {
                return Ok(());
            };
            let Some(mut done) = backfill.take(merge, passed, fits) else {
                break;
            };
            let (id, batch) = (done.id, &mut done.rows.batch);
            let buffer = &batch.buffer;
            batch.records.retain(|record| {
                let key = record.key.clone().map(|key| &buffer[key]);
                !key.is_some_and(|key| merge.is_evicted(id, key))
            });
            merge.close(id);
            self.emit(done, closed);
        }
        closed.parts.extend(self.changes.states.take_changed()?);
        Ok(())
    }

    fn emit(&mut self, done: Done, closed: &mut Closed) {
        let Done {
            table, rows, end, ..
        } = done;
        let count = u64::try_from(rows.batch.records.len()).unwrap_or(u64::MAX);
        append(&mut closed.batch, rows.batch);
        if let Some(permit) = rows.permit {
            self.delivery.join(permit);
        }
        closed.step = Step::Chunk;
        self.changes.events_total += count;
        let Some(state) = self.changes.states.change(table.oid) else {
            return;
        };
        if let Some(reading) = &mut state.reading {
            reading.rows += count;
            match end {
                Some(key) => reading.cursor = Some(key),
                None if reading.sweeps => reading.all_read = true,
                None => {
                    state.rows = reading.rows;
                    state.reading = None;
                }
            }
        }
        self.show_rows(table.oid);
    }

    /// All rows of a table are emitted: it streams, after a sweep where there may be something to
    /// sweep.
    async fn complete(&mut self, oid: u32) -> Result<Flow, Error> {
        if self.reading_of(oid).is_some_and(|reading| reading.all_read) {
            self.show_state(oid, Shown::Sweeping);
            if self.sweep(oid).await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        if let (Some(backfill), Some(merge)) = (&mut self.backfill, &mut self.changes.merge) {
            backfill.forget(oid, merge);
        }
        self.show_rows(oid);
        self.show_state(oid, Shown::Streaming);
        Ok(Flow::Continue)
    }

    async fn sweep(&mut self, oid: u32) -> Result<Flow, Error> {
        let began_at = self.reading_of(oid).and_then(|reading| reading.began_at);
        let active = self.backfill.as_ref().and_then(|backfill| {
            let mut active = backfill.active().iter();
            active.find(|active| active.table.oid == oid)
        });
        let (Some(began_at), Some(active)) = (began_at, active) else {
            return Err(Error::Fatal("a sweep without a beginning".to_owned()));
        };
        let table = std::sync::Arc::clone(&active.table);
        if self.make_durable().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        let topic = std::sync::Arc::clone(&table.plan.topic);
        let host = std::sync::Arc::clone(&self.delivery.host);
        let listing = async { host.live_keys(&topic, Some(&began_at)).await };
        let Some(keys) = self.while_answering(listing).await? else {
            return Ok(Flow::Stop);
        };
        let source = source_of_rows(self.changes.position().lsn);
        for key in keys.map_err(host_error(&topic))? {
            let (partition, key) = key.map_err(host_error(&topic))?;
            let batch = &mut self.changes.writer.batch;
            let is_ours = table.plan.read_key(&key, &mut Vec::new()).is_ok();
            if is_ours {
                let plan = &table.plan;
                plan.write_delete_of_key(&key, Some(partition), &source, batch)?;
            } else {
                // A key of another shape, from before the primary key changed: what it was cannot be
                // said in an event of the table as it is, that it is gone can.
                push_tombstone(&table.plan, &key, partition, batch);
            }
            self.changes.events_total += 1;
            let bytes = self.changes.writer.bytes();
            let is_full = bytes >= self.config.batch_bytes_max || !self.cover();
            if is_full && self.hand_over_sweep().await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        if let Some(state) = self.changes.states.change(oid) {
            state.rows = state.reading.take().map_or(0, |reading| reading.rows);
        }
        self.hand_over_sweep().await
    }

    async fn hand_over_sweep(&mut self) -> Result<Flow, Error> {
        let mut closed = self.changes.close()?;
        closed.step = Step::Sweep;
        self.hand_over_closed(closed).await
    }

    /// Stops one table: its changes make no events from here on. The others go on.
    pub(crate) fn fail_table(&mut self, oid: u32, error: &Error) -> Result<(), Error> {
        let report = report_of_table(error, self.changes.states.get(oid).map(|s| &s.known.name));
        if let (Some(backfill), Some(merge)) = (&mut self.backfill, &mut self.changes.merge) {
            backfill.forget(oid, merge);
        }
        self.changes.enter(oid, Entry::Ignored);
        let Some(state) = self.changes.states.change(oid) else {
            return Ok(());
        };
        tracing::error!(table = %state.known.name, error = %report.message, "a table stops");
        state.failed = Some(report.clone());
        let name = state.known.name.clone();
        // Of a table whose rows are still to be read nothing is missed: the next start looks again.
        let is_unread = |reading: &Reading| reading.cursor.is_none() && !reading.all_read;
        if state.reading.as_ref().is_some_and(is_unread) {
            self.changes.states.remove(oid);
        }
        if let Some(shown) = self.delivery.progress.table_mut(&name) {
            shown.state = Shown::Failed;
            shown.error = Some(report);
            shown.eta_seconds = None;
        }
        self.delivery.show();
        Ok(())
    }

    fn show_state(&mut self, oid: u32, state: Shown) {
        let name = self.changes.states.get(oid).map(|s| s.known.name.clone());
        if let Some(shown) = name.and_then(|name| self.delivery.progress.table_mut(&name)) {
            shown.state = state;
            shown.error = None;
        }
        self.show_soon();
    }

    /// Shows progress, but not for each of thousands of tables by itself.
    pub(crate) fn show_soon(&mut self) {
        self.is_show_due = true;
        self.show_if_due();
    }

    pub(crate) fn show_if_due(&mut self) {
        if self.is_show_due && self.shown_at.elapsed() >= SHOW_INTERVAL {
            self.is_show_due = false;
            self.shown_at = Instant::now();
            self.show_snapshot();
            self.delivery.show();
        }
    }

    fn show_rows(&mut self, oid: u32) {
        let Some(state) = self.changes.states.get(oid) else {
            return;
        };
        let rows = state.reading.as_ref().map_or(state.rows, |r| r.rows);
        let active = self.backfill.as_ref().and_then(|backfill| {
            let mut active = backfill.active().iter();
            active.find(|active| active.table.oid == oid)
        });
        if let Some(shown) = self.delivery.progress.table_mut(&state.known.name) {
            shown.rows_done = rows;
            let left = shown.rows_total.map(|total| total.saturating_sub(rows));
            shown.eta_seconds = left
                .zip(active)
                .and_then(|(left, active)| active.eta_seconds(left));
        }
        self.show_soon();
    }

    fn show_snapshot(&mut self) {
        let mut all = SnapshotProgress::default();
        for table in &self.delivery.progress.tables {
            let is_left = matches!(
                table.state,
                Shown::Waiting | Shown::Snapshotting | Shown::Sweeping
            );
            all.tables_left += u64::from(is_left);
            all.rows_done += table.rows_done;
            all.rows_total += table.rows_total.unwrap_or(0).max(table.rows_done);
        }
        all.eta_seconds = self.pace.eta_seconds(all.rows_done, all.rows_total);
        self.delivery.progress.snapshot = (all.tables_left > 0).then_some(all);
    }
}

/// How fast the rows of all tables are read.
#[derive(Debug, Default)]
pub(crate) struct OverallPace {
    /// When the first rows were counted, and how many there were then.
    began: Option<(Instant, u64)>,
}

impl OverallPace {
    fn eta_seconds(&mut self, done: u64, total: u64) -> Option<u64> {
        let (began, at_first) = *self.began.get_or_insert((Instant::now(), done));
        let millis = u64::try_from(began.elapsed().as_millis()).ok()?;
        let left = total.saturating_sub(done);
        let left = millis
            .saturating_mul(left)
            .checked_div(done - at_first.min(done))?;
        Some(left.div_ceil(1000))
    }
}

/// Returns what is shown of a table that stops, with the way back.
pub(crate) fn report_of_table(error: &Error, name: Option<&String>) -> ErrorReport {
    let mut report = ErrorReport::new(error);
    report.class = Class::Definite;
    let name = name.map_or("schema.table", String::as_str);
    let again = format!(
        "hutong.snapshot.again={name}@TOKEN, with a token not used before, reads the table again"
    );
    report.hint = Some(match report.hint {
        Some(hint) if hint.contains("hutong.snapshot.again") => hint,
        Some(hint) => format!("{hint}; then {again}"),
        None => again,
    });
    report
}

fn push_tombstone(plan: &TablePlan, key: &[u8], partition: i32, batch: &mut RecordBatch) {
    let start = batch.buffer.len();
    batch.buffer.extend_from_slice(key);
    plan.push(Some(start..batch.buffer.len()), None, batch);
    if let Some(record) = batch.records.last_mut() {
        record.partition = Some(partition);
    }
}

/// Appends the records of a batch to another one.
fn append(batch: &mut RecordBatch, more: RecordBatch) {
    if batch.records.is_empty() && batch.buffer.is_empty() {
        // Others will follow, for which it would have to grow.
        let Some(room) = spares::take(2 * more.buffer.len()..usize::MAX) else {
            *batch = more;
            return;
        };
        *batch = room;
    }
    let offset = batch.buffer.len();
    batch.buffer.extend_from_slice(&more.buffer);
    for record in &more.records {
        let mut record = record.clone();
        let name = &more.topics[usize::try_from(record.topic).expect("u32 fits usize")];
        record.topic = batch.topic(name);
        let parts = [&mut record.key, &mut record.value, &mut record.header];
        for range in parts.into_iter().flatten() {
            *range = range.start + offset..range.end + offset;
        }
        batch.records.push(record);
    }
    spares::give_back(more);
}
