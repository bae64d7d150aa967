//! Turning decoded changes into records of the batch that is being filled.
//!
//! A column stored out of line (TOAST) that an update did not touch is not sent. A topic whose newest
//! record lacks a value has lost it, so the value is found before the record leaves, in this order:
//!
//! 1. in the old row, which `REPLICA IDENTITY FULL` sends whole;
//! 2. in an earlier event of this batch for the same row: nothing came between them;
//! 3. by reading the row again. Such an event keeps its place among the records, without a value, and
//!    waits in [`Writer::waiting`] until the batch is closed; see [`toast`](super::toast).

use std::collections::HashMap;
use std::sync::Arc;

use hutong_connectors_core::spares;
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::cell::{Cell, recycle};
use hutong_schemas::envelope::{EventSource, Op};

use super::error::Error;
use super::pgoutput::{Old, Tuple};
use super::position::Position;
use super::table_plan::TablePlan;
use super::text::Scratch;

/// Rows with less text than this cannot be looked up as an earlier event. PostgreSQL stores values
/// out of line in rows of 2 kB and more only; some, such as `jsonb`, have less text than that, and
/// are read again instead.
const EARLIER_ROW_BYTES_MIN: usize = 1000;

/// What a row that has to be read again is guessed to need at least.
const WAITING_ROW_BYTES_MIN: usize = 16 << 10;

/// How much scratch memory is kept between rows.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// An event that lacks a value.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Index of its record in the batch.
    pub(crate) record: usize,
    /// Index of the first record of its change, and how far the stream was done before that; set by
    /// [`Changes`](super::changes::Changes).
    pub(crate) first_record: usize,
    pub(crate) before: Option<Box<Position>>,
    /// Its table, as it was when the event was received.
    pub(crate) plan: Arc<TablePlan>,
    pub(crate) op: Op,
    pub(crate) source: EventSource,
    /// The row as received.
    pub(crate) columns: u16,
    pub(crate) tuple: Vec<u8>,
}

/// A batch and what is needed to fill it.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) batch: RecordBatch,
    pub(crate) waiting: Vec<Waiting>,
    /// Memory of waiting events, and what their rows will need, as far as can be guessed.
    waiting_bytes: usize,
    /// The guess: the largest row of late, halved with each batch.
    waiting_row_bytes: usize,
    /// The newest record of large rows, by table and key.
    earlier: HashMap<(u32, Vec<u8>), Earlier>,
    earlier_bytes: usize,
    scratch: Scratch,
    row: Vec<Cell<'static>>,
    old_row: Vec<Cell<'static>>,
    copy: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Earlier {
    Written { record: usize },
    Waiting,
}

impl Writer {
    /// Returns the memory in use.
    pub(crate) fn bytes(&self) -> usize {
        self.batch.used_bytes() + self.waiting_bytes + self.earlier_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batch.records.is_empty()
    }

    /// Lets go of memory that is of no use while nothing comes.
    pub(crate) fn rest(&mut self) {
        spares::rest(&mut self.batch);
    }

    /// Takes the records from `first` on back: of a change that cannot become an event.
    pub(crate) fn take_back(&mut self, first: usize) {
        self.batch.records.truncate(first);
        self.waiting.retain(|waiting| waiting.record < first);
        self.earlier.retain(|_, earlier| match earlier {
            Earlier::Written { record } => *record < first,
            Earlier::Waiting => true,
        });
    }

    /// Forgets what was written of a table's rows: the table looks different from here on.
    pub(crate) fn forget(&mut self, oid: u32) {
        self.earlier.retain(|(of, _), _| *of != oid);
    }

    /// Takes the batch, all of whose records must have their values.
    pub(crate) fn take(&mut self) -> RecordBatch {
        debug_assert!(self.waiting.is_empty(), "an event still lacks a value");
        self.waiting_bytes = 0;
        self.waiting_row_bytes /= 2;
        self.earlier.clear();
        self.earlier_bytes = 0;
        self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
        self.copy.clear();
        self.copy.shrink_to(SCRATCH_BYTES_KEPT);
        spares::replace(&mut self.batch)
    }

    /// Writes a new row.
    pub(crate) fn insert(
        &mut self,
        plan: &Arc<TablePlan>,
        new: Tuple<'_>,
        source: &EventSource,
    ) -> Result<(), Error> {
        let mut arena = self.scratch.arena(plan.arena_bytes(new.bytes.len()));
        let mut row = recycle(std::mem::take(&mut self.row));
        plan.decode(new, &mut arena, &mut row)?;
        plan.write_upsert(Op::Create, None, &row, source, &mut self.batch)?;
        self.row = recycle(row);
        self.remember(plan, new);
        Ok(())
    }

    /// Writes a changed row. A changed key is a delete of the old and an insert of the new one.
    pub(crate) fn update(
        &mut self,
        plan: &Arc<TablePlan>,
        old: Old<'_>,
        new: Tuple<'_>,
        source: &EventSource,
    ) -> Result<(), Error> {
        let old_bytes = match old {
            Old::Nothing => 0,
            Old::Key(tuple) | Old::Row(tuple) => tuple.bytes.len(),
        };
        let room = plan.arena_bytes(new.bytes.len()) + plan.arena_bytes(old_bytes);
        let mut arena = self.scratch.arena(room);
        let mut row = recycle(std::mem::take(&mut self.row));
        let mut old_row = recycle(std::mem::take(&mut self.old_row));
        let mut lacks_values = plan.decode(new, &mut arena, &mut row)?;
        match old {
            Old::Nothing => {}
            Old::Key(tuple) => {
                plan.decode(tuple, &mut arena, &mut old_row)?;
                plan.keep_key(&mut old_row);
            }
            Old::Row(tuple) => {
                plan.decode(tuple, &mut arena, &mut old_row)?;
                lacks_values = fill(&mut row, &old_row);
            }
        }
        // An unchanged key stored out of line is not sent again, except as the old key.
        for index in &plan.schema.key {
            if let (Cell::Unavailable, Some(old)) = (row[*index], old_row.get(*index)) {
                row[*index] = *old;
            }
        }
        let lacks_values = lacks_values && row.iter().any(|cell| matches!(cell, Cell::Unavailable));
        let key_changed = !old_row.is_empty() && !plan.same_key(&old_row, &row);
        let op = if key_changed { Op::Create } else { Op::Update };
        let mut lookup_key = None;
        if key_changed {
            plan.write_delete(&old_row, source, &mut self.batch)?;
            lookup_key = last_key(&self.batch);
        }
        if lacks_values {
            let key = plan.write_key(&row, &mut self.batch)?;
            self.row = recycle(row);
            self.old_row = recycle(old_row);
            return self.update_lacking_values(plan, op, new, source, key, lookup_key);
        }
        let whole_before = matches!(old, Old::Row(_)) && !key_changed;
        let before = whole_before.then_some(old_row.as_slice());
        plan.write_upsert(op, before, &row, source, &mut self.batch)?;
        self.row = recycle(row);
        self.old_row = recycle(old_row);
        if let Some(old_key) = lookup_key {
            self.earlier.remove(&(plan.schema.oid, old_key));
        }
        self.remember(plan, new);
        Ok(())
    }

    /// Writes that a row is gone.
    pub(crate) fn delete(
        &mut self,
        plan: &Arc<TablePlan>,
        old: Old<'_>,
        source: &EventSource,
    ) -> Result<(), Error> {
        let (tuple, key_only) = match old {
            Old::Row(tuple) => (tuple, false),
            Old::Key(tuple) => (tuple, plan.is_keyed()),
            Old::Nothing => return Err(Error::Protocol("a delete without a row".to_owned())),
        };
        let mut arena = self.scratch.arena(plan.arena_bytes(tuple.bytes.len()));
        let mut row = recycle(std::mem::take(&mut self.row));
        plan.decode(tuple, &mut arena, &mut row)?;
        if key_only {
            plan.keep_key(&mut row);
        }
        plan.write_delete(&row, source, &mut self.batch)?;
        self.row = recycle(row);
        self.forget_newest(plan);
        Ok(())
    }

    /// Notes that the last record holds all values of its row. What an earlier record of it held is
    /// no value of it any more, whether this one is noted or not.
    fn remember(&mut self, plan: &TablePlan, tuple: Tuple<'_>) {
        if tuple.bytes.len() >= EARLIER_ROW_BYTES_MIN && plan.is_keyed() {
            let record = self.batch.records.len() - 1;
            self.note(plan.schema.oid, Earlier::Written { record });
        } else {
            self.forget_newest(plan);
        }
    }

    fn forget_newest(&mut self, plan: &TablePlan) {
        if self.earlier.is_empty() {
            return;
        }
        if let Some(key) = last_key(&self.batch) {
            self.earlier.remove(&(plan.schema.oid, key));
        }
    }

    /// Notes what is known of the row whose record is the last.
    fn note(&mut self, oid: u32, earlier: Earlier) {
        if let Some(key) = last_key(&self.batch) {
            self.earlier_bytes += key.len() + size_of::<(u32, Vec<u8>, Earlier)>();
            self.earlier.insert((oid, key), earlier);
        }
    }

    fn update_lacking_values(
        &mut self,
        plan: &Arc<TablePlan>,
        op: Op,
        new: Tuple<'_>,
        source: &EventSource,
        key: Option<std::ops::Range<usize>>,
        old_key: Option<Vec<u8>>,
    ) -> Result<(), Error> {
        let oid = plan.schema.oid;
        let earlier = match old_key {
            // Whoever has the old key from here on is another row.
            Some(old_key) => self.earlier.remove(&(oid, old_key)),
            None => {
                let key = key.clone().map(|key| self.batch.buffer[key].to_vec());
                let earlier = self.earlier.get(&(oid, key.unwrap_or_default()));
                earlier.copied()
            }
        };
        if let Some(Earlier::Written { record }) = earlier
            && let Some(value) = self.value_from_earlier(plan, op, new, source, record)?
        {
            plan.push(key, Some(value), &mut self.batch);
            let record = self.batch.records.len() - 1;
            self.note(oid, Earlier::Written { record });
            return Ok(());
        }
        let waiting = self.waiting_event(plan, op, new, source);
        plan.push(key, Some(0..0), &mut self.batch);
        if !plan.is_keyed() {
            // There is nothing to find the row by.
            return self.leave(&waiting);
        }
        self.waiting.push(waiting);
        let guess = self.waiting_row_bytes.max(WAITING_ROW_BYTES_MIN);
        self.waiting_bytes += new.bytes.len() + size_of::<(Waiting, Position)>() + guess;
        self.note(oid, Earlier::Waiting);
        Ok(())
    }

    /// Keeps what the next record's event needs.
    fn waiting_event(
        &self,
        plan: &Arc<TablePlan>,
        op: Op,
        new: Tuple<'_>,
        source: &EventSource,
    ) -> Waiting {
        Waiting {
            record: self.batch.records.len(),
            first_record: self.batch.records.len(),
            before: None,
            plan: Arc::clone(plan),
            op,
            source: *source,
            columns: new.columns,
            tuple: new.bytes.to_vec(),
        }
    }

    /// Writes the event with the missing values of an earlier record, or nothing if that lacks them
    /// too.
    fn value_from_earlier(
        &mut self,
        plan: &TablePlan,
        op: Op,
        new: Tuple<'_>,
        source: &EventSource,
        record: usize,
    ) -> Result<Option<std::ops::Range<usize>>, Error> {
        let Some(value) = self.batch.records[record].value.clone() else {
            return Ok(None);
        };
        self.copy.clear();
        self.copy.extend_from_slice(&self.batch.buffer[value]);
        let decoder = plan.decoder()?;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        decoder
            .decode(&self.copy, &mut before, &mut after)
            .map_err(|source| plan.row_error(source))?;
        let mut arena = self.scratch.arena(plan.arena_bytes(new.bytes.len()));
        let mut row = Vec::with_capacity(after.len());
        plan.decode(new, &mut arena, &mut row)?;
        if fill(&mut row, &after) {
            return Ok(None);
        }
        plan.write_value(op, None, Some(&row), source, &mut self.batch)
            .map(Some)
    }

    /// Gives a waiting event its row as read again, unless that lost a column since and is not the
    /// row of the event any more. `there` says which columns were read.
    pub(crate) fn resolve(
        &mut self,
        waiting: &Waiting,
        read: &[Option<&[u8]>],
        there: &[bool],
    ) -> Result<bool, Error> {
        let plan = &waiting.plan;
        let read_bytes: usize = read.iter().flatten().map(|text| text.len()).sum();
        self.waiting_row_bytes = self.waiting_row_bytes.max(read_bytes);
        let room = plan.arena_bytes(read_bytes) + plan.arena_bytes(waiting.tuple.len());
        let mut arena = self.scratch.arena(room);
        let mut row = Vec::with_capacity(plan.schema.columns.len());
        for (index, value) in read.iter().enumerate() {
            plan.push_cell(index, *value, &mut arena, &mut row)?;
        }
        if there.contains(&false) {
            let mut received = Vec::with_capacity(row.len());
            plan.decode(waiting.received(), &mut arena, &mut received)?;
            for ((read, received), there) in row.iter_mut().zip(&received).zip(there) {
                match received {
                    Cell::Unavailable if *there => {}
                    received if !there => *read = *received,
                    received if read == received => {}
                    _ => return Ok(false),
                }
            }
        }
        fill_in(&mut self.batch, waiting, &row)?;
        Ok(true)
    }

    /// Writes a waiting event as it was received: its row is gone.
    pub(crate) fn leave(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let plan = &waiting.plan;
        let mut arena = self.scratch.arena(plan.arena_bytes(waiting.tuple.len()));
        let mut row = Vec::with_capacity(plan.schema.columns.len());
        plan.decode(waiting.received(), &mut arena, &mut row)?;
        fill_in(&mut self.batch, waiting, &row)?;
        Ok(())
    }

    /// Takes the records before `first` out of the batch; the others stay.
    pub(crate) fn take_first(&mut self, first: usize) -> RecordBatch {
        let mut taken = std::mem::take(&mut self.batch);
        self.batch = split_off(&mut taken, first);
        for waiting in &mut self.waiting {
            waiting.record -= first;
            waiting.first_record -= first;
        }
        self.earlier.retain(|_, earlier| match earlier {
            Earlier::Written { record } if *record < first => false,
            Earlier::Written { record } => {
                *record -= first;
                true
            }
            Earlier::Waiting => true,
        });
        taken
    }
}

impl Waiting {
    fn received(&self) -> Tuple<'_> {
        Tuple {
            columns: self.columns,
            bytes: &self.tuple,
        }
    }
}

/// Moves the records from `first` on into a batch of their own.
pub(crate) fn split_off(batch: &mut RecordBatch, first: usize) -> RecordBatch {
    let mut rest = RecordBatch::default();
    for mut record in batch.records.split_off(first) {
        let topic = &batch.topics[usize::try_from(record.topic).expect("u32 fits usize")];
        record.topic = rest.topic(topic);
        let parts = [&mut record.key, &mut record.value, &mut record.header];
        for range in parts.into_iter().flatten() {
            let start = rest.buffer.len();
            rest.buffer.extend_from_slice(&batch.buffer[range.clone()]);
            *range = start..rest.buffer.len();
        }
        rest.records.push(record);
    }
    rest
}

/// Gives a waiting event its value.
fn fill_in(batch: &mut RecordBatch, waiting: &Waiting, row: &[Cell<'_>]) -> Result<(), Error> {
    let plan = &waiting.plan;
    let value = plan.write_value(waiting.op, None, Some(row), &waiting.source, batch)?;
    batch.records[waiting.record].value = Some(value);
    Ok(())
}

/// Returns the key of the newest record.
fn last_key(batch: &RecordBatch) -> Option<Vec<u8>> {
    let key = batch.records.last()?.key.clone()?;
    Some(batch.buffer[key].to_vec())
}

/// Replaces values that were not sent by those of another version of the row, and returns whether
/// some are still missing.
fn fill<'a>(row: &mut [Cell<'a>], other: &[Cell<'a>]) -> bool {
    let mut lacks_values = false;
    for (cell, other) in row.iter_mut().zip(other) {
        if matches!(cell, Cell::Unavailable) {
            *cell = *other;
            lacks_values |= matches!(cell, Cell::Unavailable);
        }
    }
    lacks_values
}
