//! All views over one partition of a table's topic.
//!
//! ```text
//!   adopt ─▶ rebuild members ─▶ replay rows ─▶ ┌ change … change, difference ┐ ─▶ committed
//!   (tasks, positions)  (view topics)  (input)  └───────── one batch ─────────┘    or aborted
//! ```
//!
//! The processor is a state machine without a clock and without I/O but the store's. Everything
//! that a batch does is provisional until [`Processor::committed`]: rows and members are pending in
//! memory, and each view remembers what it was. [`Processor::aborted`] forgets the batch, whose
//! records can then be fed again, for instance without a view whose output was refused.
//!
//! While a batch is being committed the next one may be applied to what it will leave: the batch is
//! [sealed](Processor::seal), and views look at what the current one has changed, then at what the
//! sealed one has, then at the store. There is one sealed batch at most, which becomes
//! [settled](Processor::settled) when it is in Kafka and in the store; an abort forgets both. Only
//! changes may be applied beside a sealed batch: views, difference runs and time wait until it is
//! settled, because what they look at is the store, and what they save is what holds.
//!
//! Which state is to be trusted at a start is a comparison of two positions: the committed one, read
//! after fencing, and the store's. The store applies a batch after its commit, so it reflects a
//! commit of the past; commits are counted, and only if the counts are equal are its members those
//! of the last commit. Else they are read anew from the views' topics, and the rows are brought up
//! from the store's offset to the committed one. A store of another topic, or one that has not been
//! kept up for so long that tombstones may have gone, is emptied first.

mod rebuild;
mod sealing;
mod take_up;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hutong_policies::ViewTask;
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::cell::{Cell, recycle};
use hutong_schemas::class::Classified;
use hutong_schemas::envelope::{Op, SnapshotMark};
use hutong_schemas::event_decoder::EventHead;
use hutong_schemas::position::SchemaId;
use hutong_schemas::wire;
use serde_json::Value;

pub use self::sealing::Sealed;
use self::take_up::{check_secret, restart_unmarked, take_up};
use crate::Error;
use crate::decoders::Decoders;
use crate::difference::{self, Limits, Part};
use crate::filter::Filter;
use crate::pending::Pending;
use crate::position::{InputPosition, Progress, VERSION, ViewPosition};
use crate::screens::Screens;
use crate::shared::Shared;
use crate::store::{Store, StorePosition};
use crate::view::{InputKey, Row, View};

/// A record of the input.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The offset.
    pub offset: i64,
    /// The key with its prefix.
    pub key: Option<&'a [u8]>,
    /// The value with its prefix; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// What a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is done.
    Done,
    /// A schema must be given to [`Processor::add_schema`], then the call be repeated. Nothing has
    /// happened, but for the part of a difference run before the row that needs it.
    Needs(SchemaId),
}

/// What a part of the difference runs does, by which tests name the moment at which they kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Run {
    /// There is none: changes are applied as they come.
    #[default]
    None,
    /// Rows are compared with what a view holds.
    Fill,
    /// Members without a row are deleted.
    Sweep,
    /// All members are deleted.
    Empty,
}

impl Run {
    fn of(progress: &Progress) -> Self {
        match progress {
            Progress::Filling { .. } => Self::Fill,
            Progress::Sweeping { .. } => Self::Sweep,
            Progress::Expiring => Self::Empty,
            Progress::Pending
            | Progress::Live
            | Progress::Suspended { .. }
            | Progress::Expired
            | Progress::Revoked => Self::None,
        }
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "live",
            Self::Fill => "fill",
            Self::Sweep => "sweep",
            Self::Empty => "empty",
        }
    }
}

/// What a start must read before the first change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// Views whose members must be read from their topics, as indices into [`Processor::views`].
    pub members: Vec<usize>,
    /// Where the rows' input must be read from, up to the committed position: an offset, or the
    /// beginning.
    pub rows_from: Option<RowsFrom>,
}

/// Where rows are to be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsFrom {
    /// The beginning of the partition.
    Beginning,
    /// This offset.
    Offset(i64),
}

/// The views over one partition.
#[derive(Debug)]
pub struct Processor<S> {
    store: S,
    partition: i32,
    topic_id: String,
    secret: Option<Vec<u8>>,
    decoders: Decoders,
    views: Vec<View>,
    shared: Shared,
    screens: Screens,
    /// Which view's run goes first in the next part.
    turn: usize,
    /// What the last part did.
    last_run: Run,
    /// Every member was made of a row that passed here, so that a key without a row is in no view. A
    /// member that was read from a view's topic may have lost its row.
    members_have_rows: bool,
    /// The schema of the first key that passed here.
    key_schema: Option<SchemaId>,
    /// Rows in the store.
    rows: u64,
    /// Every key that has a row in the store, and others; `None` if rows were there before us.
    known_rows: Option<Filter>,
    /// The source transaction of the last change.
    transaction: Option<Option<i64>>,
    /// Memory for the rows of a change, before and after it, and for its key.
    cells: [Vec<Cell<'static>>; 3],
    /// The time at the last tick, and after what time an append begins another segment of a view's
    /// topic.
    now_ms: i64,
    segment_ms: i64,
    /// Views whose positions must be deleted with the next commit.
    gone: BTreeSet<String>,
    pending: Pending,
    position: InputPosition,
    /// Position and rows as they are after an abort.
    saved: (InputPosition, u64),
    sealed: Option<Arc<Sealed>>,
}

impl<S: Store> Processor<S> {
    /// Makes a processor for a partition, without views. `position` is the committed one.
    /// `now_ms` and `stale_after_ms` decide whether what the store has may lack deletions.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn new(
        mut store: S,
        partition: i32,
        topic_id: &str,
        secret: Option<Vec<u8>>,
        position: Option<InputPosition>,
        now_ms: i64,
        stale_after_ms: i64,
    ) -> Result<Self, Error> {
        let had_position = position.is_some();
        let same_topic = position.filter(|position| position.topic_id == topic_id);
        // Where nothing was read, nothing can have been missed.
        let is_stale = |read_up_to_ms: i64| {
            read_up_to_ms != 0 && now_ms.saturating_sub(read_up_to_ms) > stale_after_ms
        };
        let must_compare = match &same_topic {
            Some(position) => position.must_compare || is_stale(position.read_up_to_ms),
            None => had_position,
        };
        let usable = |stored: &StorePosition| {
            same_topic
                .as_ref()
                .is_some_and(|position| stored.next_offset <= position.next_offset)
                && stored.topic_id == topic_id
                && !is_stale(stored.read_up_to_ms)
        };
        // Without a position there may be rows that were being forgotten.
        if store.position()?.is_none_or(|stored| !usable(&stored)) {
            store.clear_rows()?;
        }
        let position = InputPosition {
            must_compare,
            ..same_topic.unwrap_or_else(|| InputPosition {
                v: VERSION,
                topic_id: topic_id.to_owned(),
                next_offset: 0,
                seq: 0,
                read_up_to_ms: 0,
                must_compare,
            })
        };
        let (rows, known_rows) = match store.position()? {
            Some(StorePosition {
                rows: Some(rows), ..
            }) => (rows, None),
            Some(_) => (store.count_rows()?, None),
            None => (0, Some(Filter::default())),
        };
        Ok(Self {
            store,
            partition,
            topic_id: topic_id.to_owned(),
            secret,
            decoders: Decoders::default(),
            views: Vec::new(),
            shared: Shared::default(),
            screens: Screens::default(),
            turn: 0,
            last_run: Run::None,
            members_have_rows: position.seq == 0,
            key_schema: None,
            rows,
            known_rows,
            transaction: None,
            cells: [const { Vec::new() }; 3],
            now_ms,
            segment_ms: i64::MAX,
            gone: BTreeSet::new(),
            pending: Pending::default(),
            saved: (position.clone(), rows),
            position,
            sealed: None,
        })
    }

    /// Takes up the views of a task, at the start or of a newer version while running (between
    /// batches). `positions` are the committed ones of views that are new here.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn adopt(
        &mut self,
        tasks: Vec<ViewTask>,
        positions: &BTreeMap<String, ViewPosition>,
    ) -> Result<Rebuild, Error> {
        let store_position = self.store.position()?;
        let members_known = self.position.seq > 0
            && store_position
                .as_ref()
                .is_some_and(|stored| stored.seq == self.position.seq);
        let total = self.rows;
        self.shared.clear();
        self.screens.clear();
        let mut before: BTreeMap<String, View> = std::mem::take(&mut self.views)
            .into_iter()
            .map(|view| (view.task.name.clone(), view))
            .collect();
        let mut members = Vec::new();
        for task in tasks {
            let running = before
                .remove(&task.name)
                .filter(|view| view.task.generation == task.generation);
            let stored = positions.get(&task.name);
            let (base, committed) = match &running {
                Some(view) => (Some(view.position.clone()), view.committed.clone()),
                None => (stored.cloned(), stored.cloned()),
            };
            // What a suspended view holds may not have been readable when it was suspended.
            let was_unreadable = match &running {
                Some(view) => view.is_unreadable,
                None => {
                    matches!(&base, Some(position) if matches!(position.progress, Progress::Suspended { .. }))
                }
            };
            self.gone.remove(&task.name);
            let mut view = take_up(task, base, committed, total, running.is_none());
            if let Some(running) = &running {
                view.refused = running.refused;
            }
            (view.now_ms, view.segment_ms) = (self.now_ms, self.segment_ms);
            check_secret(&mut view, self.secret.as_deref());
            let has_ended = view.position.progress.has_ended();
            let known = !was_unreadable
                && (running.is_some()
                    || (members_known && positions.contains_key(&view.task.name)));
            if !has_ended && !known {
                restart_unmarked(&mut view, total);
                members.push(self.views.len());
            } else if let Some(running) = running {
                view.take_members(running);
            } else if !has_ended {
                view.learn_members(&self.store)?;
            }
            view.save();
            self.views.push(view);
        }
        let kept: BTreeSet<&str> = self
            .views
            .iter()
            .map(|view| view.task.name.as_str())
            .collect();
        let gone = before
            .keys()
            .chain(positions.keys())
            .filter(|name| !kept.contains(name.as_str()));
        self.gone.extend(gone.cloned());
        self.forget_other_members(&members)?;
        let rows_from = match store_position {
            _ if self.position.seq == 0 => None,
            None => Some(RowsFrom::Beginning),
            Some(stored) if stored.next_offset < self.position.next_offset => {
                Some(RowsFrom::Offset(stored.next_offset))
            }
            Some(_) => None,
        };
        Ok(Rebuild { members, rows_from })
    }

    fn store_position(&self) -> StorePosition {
        StorePosition {
            v: VERSION,
            topic_id: self.topic_id.clone(),
            next_offset: self.position.next_offset,
            seq: self.position.seq,
            read_up_to_ms: self.position.read_up_to_ms,
            rows: Some(self.rows),
        }
    }

    fn is_pending(&self) -> bool {
        self.sealed.is_some()
            || !self.pending.rows.is_empty()
            || self.views.iter().any(View::has_changed)
    }

    /// Gives a schema that was asked for, of keys or of envelopes.
    ///
    /// # Errors
    /// [`Error::Schema`] if it is none that the platform writes.
    pub fn add_schema(&mut self, id: SchemaId, schema: &str) -> Result<(), Error> {
        self.decoders.add(id, schema)
    }

    /// Lets time pass: validity begins and ends. Validity ends by `latest_ms`, which must be the later
    /// of the clocks that are known, and begins by `earliest_ms`, the earlier: so that no view lives
    /// longer by a clock that is behind, nor begins sooner by one that is ahead.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn tick(&mut self, earliest_ms: i64, latest_ms: i64) -> Result<(), Error> {
        self.now_ms = latest_ms;
        for view in &mut self.views {
            (view.now_ms, view.segment_ms) = (latest_ms, self.segment_ms);
            let until = view.task.valid_until_ms;
            let ended = until.is_some_and(|until| until <= latest_ms);
            let from = view.task.document.valid_from_ms();
            let begun = from.is_none_or(|from| from <= earliest_ms);
            match &view.position.progress {
                Progress::Pending if ended => view.position.progress = Progress::Expired,
                Progress::Pending if begun => view.begin(self.rows),
                Progress::Expired if !ended && !begun => {
                    view.position.progress = Progress::Pending;
                }
                // What is suspended can still be deleted, which takes keys only, unless they are not
                // known.
                Progress::Suspended { .. } if ended && !view.is_unreadable && !view.refused => {
                    view.position.progress = Progress::Expiring;
                }
                progress if (ended || !begun) && progress.applies_changes() => {
                    view.position.progress = Progress::Expiring;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Says after what time an append begins another segment of a view's topic.
    pub fn set_segment_ms(&mut self, segment_ms: i64) {
        self.segment_ms = segment_ms;
    }

    /// Returns the views of which a tombstone lies in a segment that nothing ends, as indices. Their
    /// partition's last record must be written again, because only an append ends a segment, and
    /// what the tombstone withdrew is there until it has ended.
    #[must_use]
    pub fn repeats_due(&self) -> Vec<usize> {
        let due = self.views.iter().enumerate();
        let due = due.filter(|(_, view)| view.is_repeat_due());
        due.map(|(index, _)| index).collect()
    }

    /// Writes the last record of a view's partition again; `None` if it holds none any more. Returns
    /// whether that was the last one: if not, it is not written, and must be read again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn repeat(
        &mut self,
        view: usize,
        record: Option<(&[u8], Option<&[u8]>)>,
        out: &mut RecordBatch,
    ) -> Result<bool, Error> {
        let secret = self.secret.as_deref();
        let (pending, partition) = (&mut self.pending, self.partition);
        let shared = &mut self.shared;
        let mut effects = difference::effects(&self.store, pending, out, partition, secret, shared);
        let view = &mut self.views[view];
        match record {
            Some((key, value)) => view.repeat(key, value, &mut effects),
            None => {
                view.position.tombstone_ms = None;
                Ok(true)
            }
        }
    }

    /// Returns the views whose generation is filled and of which it is not known where, as indices. To
    /// be called between batches.
    #[must_use]
    pub fn fills_ended(&self) -> Vec<usize> {
        let ended = self.views.iter().enumerate().filter(|(_, view)| {
            let is_live = matches!(view.position.progress, Progress::Live);
            is_live && view.position.fill_end.is_none() && view.is_committed()
        });
        ended.map(|(index, _)| index).collect()
    }

    /// Says where a view's generation was filled: an offset of the output's partition behind every
    /// record of the fill, a later one too. It is committed with the next batch.
    pub fn set_fill_end(&mut self, view: usize, offset: i64) {
        let view = &mut self.views[view];
        view.position.fill_end = Some(offset);
        view.save();
    }

    /// Returns the source transaction of a record: `Ok(None)` if it cannot be told apart from the
    /// record before it (a tombstone, or a schema that is not known yet), `Some(None)` if it has
    /// none, as in a snapshot.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn transaction(&self, input: &Input<'_>) -> Result<Option<Option<i64>>, Error> {
        let Some(value) = input.value else {
            return Ok(None);
        };
        let (schema, _) = split_value(input, value)?;
        let Some(decoder) = self.decoders.value(schema) else {
            return Ok(None);
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let head = decoder
            .event
            .decode(value, &mut before, &mut after)
            .map_err(|source| Error::Input {
                offset: input.offset,
                source,
            })?;
        Ok(Some(transaction_of(&head)))
    }

    /// Returns the source transaction of the record that [`Processor::change`] applied last, as
    /// [`Processor::transaction`] does.
    #[must_use]
    pub fn last_transaction(&self) -> Option<Option<i64>> {
        self.transaction
    }

    /// Applies a record of the input to the rows and to every view.
    ///
    /// # Errors
    /// What stops all views. An error of one view suspends it and is not returned.
    pub fn change(&mut self, input: &Input<'_>, out: &mut RecordBatch) -> Result<Step, Error> {
        let (key_schema, key) = split_key(input)?;
        let unreadable = |source| Error::Input {
            offset: input.offset,
            source,
        };
        // Given back at the end; what returns before it is rare.
        let [mut before, mut after, mut key_cells] = std::mem::take(&mut self.cells).map(recycle);
        let mut head = None;
        let mut row = None;
        if let Some(value) = input.value {
            let (schema, _) = split_value(input, value)?;
            let Some(decoder) = self.decoders.value(schema) else {
                return Ok(Step::Needs(schema));
            };
            let decoded = decoder
                .event
                .decode(value, &mut before, &mut after)
                .map_err(unreadable)?;
            let unexpected = |problem| Error::Unexpected {
                offset: input.offset,
                problem,
            };
            match decoded.op {
                Op::Create | Op::Update | Op::Read if decoded.has_after => {
                    let columns = decoder.event.columns();
                    row = Some((
                        Row {
                            number: self.shared.begin_row(),
                            schema,
                            columns,
                            cells: &after,
                            is_new: false,
                        },
                        stored_row(value, decoded.after_range.clone()),
                    ));
                }
                Op::Delete => {}
                Op::Truncate => {
                    return Err(unexpected(
                        "is a truncation, which a table with a key does not have",
                    ));
                }
                Op::Create | Op::Update | Op::Read => {
                    return Err(unexpected("has no row after the change"));
                }
            }
            head = Some(decoded);
        }
        let was_there = match row {
            Some((_, Some(_))) => note_row(&mut self.known_rows, key),
            Some((_, None)) | None => known_row(self.known_rows.as_ref(), key),
        };
        // Under another schema a key is another in the store, and the same in a view.
        let known_schema = *self.key_schema.get_or_insert(key_schema);
        self.members_have_rows &= known_schema == key_schema;
        if let Some((row, _)) = &mut row {
            row.is_new = self.members_have_rows && was_there == Some(false);
        }
        // Upserts take the view's key from the row.
        let input_key = match (&row, self.decoders.key(key_schema)) {
            (Some(_), _) => None,
            (None, None) => return Ok(Step::Needs(key_schema)),
            (None, Some(decoder)) => {
                let message = input.key.expect("it was just split");
                decoder
                    .decode(message, &mut key_cells)
                    .map_err(unreadable)?;
                Some(InputKey {
                    schema: key_schema,
                    fields: decoder.fields(),
                    cells: &key_cells,
                })
            }
        };
        let (secret, shared) = (self.secret.as_deref(), &mut self.shared);
        // A row that is not new may have to leave a view that does not show it.
        let new_row = row.as_ref().map(|(row, _)| row).filter(|row| row.is_new);
        let screens = match new_row {
            Some(row) => self.screens.of(row, &mut self.views, secret, shared),
            None => &[],
        };
        let may_change = |index: usize| match (new_row, screens.get(index)) {
            (Some(row), Some(Some(screen))) => screen.lets_pass(row.cells),
            _ => true,
        };
        let (pending, partition) = (&mut self.pending, self.partition);
        let mut effects = difference::effects(&self.store, pending, out, partition, secret, shared);
        for (index, view) in self.views.iter_mut().enumerate() {
            if !may_change(index) || !view.position.progress.applies_changes() {
                continue;
            }
            if let Some((row, _)) = &row {
                view.apply_row(row, head.as_ref(), &mut effects)?;
            } else if let Some(key) = &input_key {
                view.apply_deletion(key, head.as_ref(), &mut effects)?;
            }
        }
        self.transaction = head.as_ref().map(transaction_of);
        // An update of a row that is not known to be new has found it, and so has a deletion. Of a
        // compacted topic's past that may be wrong where the filter is, and the count, which only
        // progress is told by, a little too low.
        let finds = |head: &EventHead| matches!(head.op, Op::Update | Op::Delete).then_some(true);
        let stored = row.and_then(|(_, stored)| stored);
        let was_there = was_there.or_else(|| head.as_ref().and_then(finds));
        self.pending.set_row(key, stored, was_there);
        self.cells = [before, after, key_cells].map(recycle);
        Ok(Step::Done)
    }

    /// Says, before a batch, that the end of the input was reached, which ends the catching up after
    /// a long absence.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn at_end(&mut self) -> Result<(), Error> {
        if self.position.must_compare && !self.is_pending() {
            self.position.must_compare = false;
            let total = self.rows;
            for view in self
                .views
                .iter_mut()
                .filter(|view| view.position.progress.applies_changes())
            {
                view.begin_difference(total);
            }
        }
        Ok(())
    }

    /// Returns whether a view has a difference run, or is being emptied.
    #[must_use]
    pub fn has_difference(&self) -> bool {
        self.views.iter().any(|view| {
            matches!(
                view.position.progress,
                Progress::Filling { .. } | Progress::Sweeping { .. } | Progress::Expiring
            )
        })
    }

    /// Returns what the last part of the difference runs did; of several things what comes last in a
    /// run.
    #[must_use]
    pub fn last_run(&self) -> Run {
        self.last_run
    }

    /// Does the next part of the difference runs, as far as the limits go. Views that look at rows do
    /// it together; they and those that look at members take turns at being first.
    ///
    /// # Errors
    /// As [`Processor::change`].
    pub fn difference(&mut self, out: &mut RecordBatch, limits: Limits) -> Result<Step, Error> {
        let begin = self.views.iter();
        let begin = begin.map(|view| Run::of(&view.position.progress));
        let runs: Vec<Run> = begin.collect();
        self.last_run = runs.iter().copied().max().unwrap_or_default();
        let mut limits = limits;
        let rows = self.views.len();
        let count = rows + 1;
        for index in (0..count).map(|index| (index + self.turn) % count) {
            let secret = self.secret.as_deref();
            let (pending, shared) = (&mut self.pending, &mut self.shared);
            let partition = self.partition;
            let mut effects =
                difference::effects(&self.store, pending, out, partition, secret, shared);
            if index < rows {
                // What is through with the rows in this part goes over its members in the next one.
                if runs[index] != Run::Fill {
                    difference::advance(&mut self.views[index], &mut effects, &mut limits)?;
                }
            } else if let Part::Needs(schema) =
                difference::fill(&mut self.views, &self.decoders, &mut effects, &mut limits)?
            {
                return Ok(Step::Needs(schema));
            }
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(Step::Done)
    }

    /// Ends a batch: returns the positions to commit with it, by sub; `None` deletes one. The batch
    /// covers the input up to `next_offset`, read up to the time `read_up_to_ms`: that of its last
    /// record, but not one to come, or the clock where that was the partition's end.
    pub fn positions(
        &mut self,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Vec<(String, Option<Value>)> {
        self.position.next_offset = next_offset;
        // Not from 1: a store that has seen another life of this processor, at another worker, must not
        // find its count again.
        self.position.seq = match self.position.seq {
            0 => u64::try_from(self.now_ms).unwrap_or_default().max(1),
            seq => seq + 1,
        };
        self.position.read_up_to_ms = read_up_to_ms;
        let json = |position: &ViewPosition| {
            serde_json::to_value(position).expect("a position is representable in JSON")
        };
        let own =
            serde_json::to_value(&self.position).expect("a position is representable in JSON");
        let mut positions = vec![(String::new(), Some(own))];
        let changed = self
            .views
            .iter()
            .filter(|view| view.committed.as_ref() != Some(&view.position));
        positions.extend(changed.map(|view| (view.task.name.clone(), Some(json(&view.position)))));
        positions.extend(self.gone.iter().map(|name| (name.clone(), None)));
        positions
    }

    /// Returns the position of the last batch.
    #[must_use]
    pub fn position(&self) -> &InputPosition {
        &self.position
    }

    /// Returns the bytes of the batch's output: keys, values and headers.
    #[must_use]
    pub fn output_bytes(&self) -> usize {
        self.pending.output_bytes
    }

    /// Returns whether nothing was committed for this partition yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.position.seq == 0
    }

    /// Returns whether anything is to be committed but the input's position.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.gone.is_empty()
            || self
                .views
                .iter()
                .any(|view| view.committed.as_ref() != Some(&view.position))
    }

    /// Suspends a view whose members could not be read. It must be taken up again before it can
    /// resume.
    pub fn cannot_rebuild(&mut self, view: usize, error: &(impl Classified + 'static)) {
        let view = &mut self.views[view];
        view.suspend(error);
        view.refused = true;
        view.is_unreadable = true;
        view.save();
    }

    /// Returns whether there is a view whose members could not be read.
    #[must_use]
    pub fn has_unreadable(&self) -> bool {
        self.views.iter().any(|view| view.is_unreadable)
    }

    /// Suspends the views that write to a topic, because their output is refused. To be called after
    /// [`Processor::aborted`], before the batch is repeated. Returns whether there was one that was
    /// not suspended.
    pub fn refuse(&mut self, topic: &str, error: &(impl Classified + 'static)) -> bool {
        let mut found = false;
        for view in self
            .views
            .iter_mut()
            .filter(|view| view.task.topic == topic)
        {
            if !matches!(view.position.progress, Progress::Suspended { .. }) {
                view.suspend(error);
                view.refused = true;
                view.save();
                found = true;
            }
        }
        found
    }

    /// Lets views whose output was refused try again, by a difference run. To be called between
    /// batches.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn resume_refused(&mut self) -> Result<(), Error> {
        let total = self.rows;
        let resumable = |view: &&mut View| view.refused && !view.is_unreadable;
        for view in self.views.iter_mut().filter(resumable) {
            view.begin_difference(total);
            view.save();
        }
        Ok(())
    }

    /// Returns the views.
    #[must_use]
    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// Returns the store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Gives the store back.
    pub fn into_store(self) -> S {
        self.store
    }
}

/// Returns whether a key has a row in the store, where that is known without asking it.
fn known_row(known: Option<&Filter>, key: &[u8]) -> Option<bool> {
    (!known?.may_contain(key)).then_some(false)
}

/// Returns what [`known_row`] does of a key that is about to have a row.
fn note_row(known: &mut Option<Filter>, key: &[u8]) -> Option<bool> {
    (!known.as_mut()?.insert(key)).then_some(false)
}

fn split_key<'a>(input: &Input<'a>) -> Result<(SchemaId, &'a [u8]), Error> {
    let problem = "has no key, and views stand on tables with a key only";
    let key = input.key.ok_or(Error::Unexpected {
        offset: input.offset,
        problem,
    })?;
    wire::split(key).map_err(|source| Error::Input {
        offset: input.offset,
        source,
    })
}

fn split_value<'a>(input: &Input<'a>, value: &'a [u8]) -> Result<(SchemaId, &'a [u8]), Error> {
    wire::split(value).map_err(|source| Error::Input {
        offset: input.offset,
        source,
    })
}

/// Returns the source transaction of a change, if one caused it.
fn transaction_of(head: &EventHead) -> Option<i64> {
    head.tx_id.filter(|_| head.snapshot == SnapshotMark::False)
}

/// Returns the number of rows after one of them has changed.
fn count(rows: u64, was_there: bool, is_there: bool) -> u64 {
    match (was_there, is_there) {
        (false, true) => rows + 1,
        (true, false) => rows.saturating_sub(1),
        (true, true) | (false, false) => rows,
    }
}

/// Returns what is stored of an event: the envelope's prefix and the row after the change.
fn stored_row(value: &[u8], after: Option<std::ops::Range<usize>>) -> Option<Vec<u8>> {
    let after = value.get(after?)?;
    let mut row = Vec::with_capacity(wire::PREFIX_BYTES + after.len());
    row.extend_from_slice(value.get(..wire::PREFIX_BYTES)?);
    row.extend_from_slice(after);
    Some(row)
}
