//! From the stream's messages to records and a position: the part of streaming that decides.
//!
//! It reads no socket and waits for nothing. [`Changes::message`] takes one message and returns what
//! its caller has to do before the next one.
//!
//! # Exactly once
//!
//! The server sends whole transactions in the order of their commits, each change with its place in
//! the log. A batch's position says what of that is in the batch and all before it; both become
//! durable together. After a restart the server sends again whatever it was not told to forget,
//! which is at least everything after the position: transactions whose commit lies before
//! `position.lsn` are dropped, and of the transaction that `position.partial` names the changes up to
//! there. Both are decided by what the server sends alone (places, and the order among equals), never
//! by what we made of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hutong_connectors_core::source::{self, PartPosition};
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::envelope::{EventSource, SnapshotMark};
use hutong_schemas::position::Lsn;

use super::error::Error;
use super::merge::Merge;
use super::pgoutput::{self, Begin, Commit, Message, Relation};
use super::position::{Partial, Position};
use super::table_plan::TablePlan;
use super::table_state::Tables;
use super::writer::{Writer, split_off};

/// What we do with a table's changes.
#[derive(Debug)]
pub(crate) enum Entry {
    /// They become events.
    Captured(Arc<TablePlan>),
    /// The table is in the publication and not captured.
    Ignored,
}

/// What the caller has to do before the next message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Continue,
    /// A table looks as it says from here on: look at it, call [`Changes::enter`], then give the
    /// same message again.
    Relation(Relation),
    /// Tables were emptied: write the deletes, then call [`Changes::truncated`].
    Truncate(Truncate),
    /// A change of this table cannot become an event: the table stops, the others go on. The change
    /// counts as done.
    Unfit { oid: u32, error: Error },
    /// The batch is full or old enough: hand it over.
    Full,
}

/// Tables emptied by one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Truncate {
    /// The captured ones, by `pg_class.oid`.
    pub(crate) oids: Vec<u32>,
    /// What their events say of their source.
    pub(crate) source: EventSource,
    /// Where the statement stands.
    change: (Lsn, u64),
}

struct Transaction {
    begin: Begin,
    skip: Skip,
    /// Place and number of the last change received.
    received: (Lsn, u64),
    /// Place and number of the last change done.
    done: Option<(Lsn, u64)>,
    first_record: usize,
    has_events: bool,
}

impl Transaction {
    /// Returns how far it is done, if any of it is that was not done before.
    fn partial(&self) -> Option<Partial> {
        let (change_lsn, ordinal) = self.done?;
        Some(Partial {
            commit_lsn: self.begin.commit_lsn,
            change_lsn,
            ordinal,
        })
    }

    /// Returns place and number of a change that is received now.
    fn next(&self, lsn: Lsn) -> (Lsn, u64) {
        let (last_lsn, last_ordinal) = self.received;
        let ordinal = if lsn == last_lsn { last_ordinal + 1 } else { 1 };
        (lsn, ordinal)
    }
}

#[derive(Clone, Copy)]
enum Skip {
    Nothing,
    UpTo(Partial),
    All,
}

impl Skip {
    fn covers(self, change_lsn: Lsn, ordinal: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::UpTo(partial) => partial.covers(change_lsn, ordinal),
            Self::All => true,
        }
    }
}

/// Operations that make no event.
pub(crate) type Skipped = hutong_connectors_core::postgres_source::SkippedOperations;

/// The share of its lateness for which a batch is held, see [`Changes::held_until`].
const HELD_SHARE: u32 = 50;
/// Less is not worth a timer.
const HELD_MIN: Duration = Duration::from_millis(1);

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes_max: usize,
    pub(crate) time_max: Duration,
}

/// The batch being filled and where it ends.
pub(crate) struct Changes {
    pub(crate) writer: Writer,
    /// Behind the last complete transaction, and what the last one before it in a batch was.
    position: Position,
    /// What is known of the captured tables.
    pub(crate) states: Tables,
    tables: BTreeMap<u32, Entry>,
    /// What the server says tables look like, until their first change that is not done. What it
    /// sends before changes that are done may be older than what is stored.
    described: HashMap<u32, Relation>,
    /// How the rows being read beside the stream join it; `None` when all are read.
    pub(crate) merge: Option<Merge>,
    /// Whether rows wait to join a batch: then the next end of a transaction closes it, however much
    /// there is to read behind.
    pub(crate) rows_wait: bool,
    transaction: Option<Transaction>,
    limits: Limits,
    skipped: Skipped,
    opened_at: Option<Instant>,
    last_commit_ts_us: Option<i64>,
    /// The connector's clock, set by the caller once per piece of input.
    pub(crate) now_us: i64,
    /// When the server sent the newest message, by its clock; set by the caller.
    pub(crate) sent_us: i64,
    pub(crate) events_total: u64,
}

/// A batch, and the position behind it.
pub(crate) struct Closed {
    pub(crate) batch: RecordBatch,
    pub(crate) position: Position,
    /// What changed about tables.
    pub(crate) parts: Vec<PartPosition>,
    pub(crate) step: source::Step,
    pub(crate) last_commit_ts_us: Option<i64>,
}

impl Changes {
    pub(crate) fn new(
        position: Position,
        states: Tables,
        limits: Limits,
        skipped: Skipped,
    ) -> Self {
        Self {
            writer: Writer::default(),
            position,
            states,
            merge: None,
            rows_wait: false,
            tables: BTreeMap::new(),
            described: HashMap::new(),
            transaction: None,
            limits,
            skipped,
            opened_at: None,
            last_commit_ts_us: None,
            now_us: 0,
            sent_us: 0,
            events_total: 0,
        }
    }

    /// Returns until when the batch shall wait for more though it could leave: for a fiftieth of the time
    /// that the server took to send what was committed, so that what is late becomes hardly later and many
    /// small commits become one. Both times are of the server's clock, whatever that shows; but of what a
    /// standby sends its primary's clock says when it was committed.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        let late_us = self.sent_us.saturating_sub(self.last_commit_ts_us?);
        let until = self.opened_at? + hold(late_us)?.min(self.limits.time_max);
        (until > Instant::now()).then_some(until)
    }

    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    pub(crate) fn position_mut(&mut self) -> &mut Position {
        &mut self.position
    }

    pub(crate) fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    pub(crate) fn plan(&self, oid: u32) -> Option<&TablePlan> {
        match self.tables.get(&oid)? {
            Entry::Captured(plan) => Some(plan),
            Entry::Ignored => None,
        }
    }

    /// Says what to do with a table's changes from here on.
    pub(crate) fn enter(&mut self, oid: u32, entry: Entry) {
        self.tables.insert(oid, entry);
    }

    /// Returns the writer with the plans, for finding missing values.
    pub(crate) fn parts(&mut self) -> (&mut Writer, &BTreeMap<u32, Entry>) {
        (&mut self.writer, &self.tables)
    }

    /// Everything before `lsn` has been sent: an idle stream advances by this.
    pub(crate) fn advance(&mut self, lsn: Lsn) {
        if self.transaction.is_some() || lsn <= self.position.lsn {
            return;
        }
        self.position.lsn = lsn;
        // The rest of a transaction that was done in part is still to come, unless its commit lies
        // behind us and it was not sent: then nothing of it is published any more.
        self.position.partial = self
            .position
            .partial
            .filter(|partial| partial.commit_lsn >= lsn);
    }

    /// Takes one message of the plugin.
    pub(crate) fn message(&mut self, lsn: Lsn, message: &[u8]) -> Result<Step, Error> {
        let message = pgoutput::message(message)?;
        if let Some(relation) = self.description_due(lsn, &message) {
            return Ok(Step::Relation(relation));
        }
        match message {
            Message::Begin(begin) => {
                self.begin(begin);
                Ok(Step::Continue)
            }
            Message::Commit(commit) => self.commit(commit),
            Message::Relation(relation) => {
                self.described.insert(relation.oid, relation);
                Ok(Step::Continue)
            }
            Message::Truncate(oids) => self.truncate(lsn, &oids),
            Message::Other => Ok(Step::Continue),
            change @ (Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. }) => {
                self.change(lsn, &change)
            }
        }
    }

    /// Returns what a table looks like from this change on, if it was not looked at yet.
    fn description_due(&mut self, lsn: Lsn, message: &Message<'_>) -> Option<Relation> {
        if self.described.is_empty() {
            return None;
        }
        let transaction = self.transaction.as_ref()?;
        let (lsn, ordinal) = transaction.next(lsn);
        if transaction.skip.covers(lsn, ordinal) {
            return None;
        }
        let described = &mut self.described;
        let states = &self.states;
        // How a table looked when it had the changes that are in its rows does not matter.
        let mut due = |oid: &u32| {
            if is_in_rows(states, *oid, Some(transaction)) {
                return None;
            }
            described.remove(oid)
        };
        match message {
            Message::Insert { oid, .. }
            | Message::Update { oid, .. }
            | Message::Delete { oid, .. } => due(oid),
            Message::Truncate(oids) => oids.iter().find_map(due),
            _ => None,
        }
    }

    /// Returns the transaction that is being received.
    pub(crate) fn xid(&self) -> Option<u32> {
        Some(self.transaction.as_ref()?.begin.xid)
    }

    fn begin(&mut self, begin: Begin) {
        let skip = match self.position.partial {
            _ if begin.commit_lsn < self.position.lsn => Skip::All,
            Some(partial) if partial.commit_lsn == begin.commit_lsn => Skip::UpTo(partial),
            _ => Skip::Nothing,
        };
        if let (Some(merge), false) = (&mut self.merge, matches!(skip, Skip::All)) {
            merge.begin(begin.xid);
        }
        self.transaction = Some(Transaction {
            begin,
            skip,
            received: (Lsn(0), 0),
            done: None,
            first_record: self.writer.batch.records.len(),
            has_events: false,
        });
    }

    fn commit(&mut self, commit: Commit) -> Result<Step, Error> {
        let transaction = self.transaction.take().ok_or_else(|| {
            Error::Protocol("the end of a transaction that did not begin".to_owned())
        })?;
        if transaction.begin.commit_lsn != commit.commit_lsn {
            return Err(Error::Protocol(
                "a transaction within another one".to_owned(),
            ));
        }
        if matches!(transaction.skip, Skip::All) {
            return Ok(Step::Continue);
        }
        if commit.end_lsn < self.position.lsn {
            return Err(Error::Fatal(format!(
                "the transaction at {} ends at {}, before the position {}",
                commit.commit_lsn, commit.end_lsn, self.position.lsn
            )));
        }
        self.position.lsn = commit.end_lsn;
        self.position.partial = None;
        if transaction.has_events || matches!(transaction.skip, Skip::UpTo(_)) {
            self.position.last_commit_lsn = Some(commit.commit_lsn);
            self.last_commit_ts_us = Some(transaction.begin.ts_us);
        }
        Ok(self.full_or_old())
    }

    fn full_or_old(&self) -> Step {
        let old = self
            .opened_at
            .is_some_and(|opened_at| opened_at.elapsed() >= self.limits.time_max);
        if self.rows_wait || (old && !self.writer.is_empty()) {
            Step::Full
        } else {
            self.full()
        }
    }

    fn full(&self) -> Step {
        if self.writer.bytes() >= self.limits.bytes_max {
            Step::Full
        } else {
            Step::Continue
        }
    }

    /// Numbers a change and returns its number and what its event says of its source, or `None` if
    /// it is done already.
    fn receive(&mut self, lsn: Lsn) -> Result<Option<(u64, EventSource)>, Error> {
        let last_commit_lsn = self.position.last_commit_lsn;
        let transaction = self
            .transaction
            .as_mut()
            .ok_or_else(|| Error::Protocol("a change outside a transaction".to_owned()))?;
        transaction.received = transaction.next(lsn);
        let (_, ordinal) = transaction.received;
        if transaction.skip.covers(lsn, ordinal) {
            return Ok(None);
        }
        let source = EventSource {
            ts_us: transaction.begin.ts_us,
            snapshot: SnapshotMark::False,
            tx_id: Some(i64::from(transaction.begin.xid)),
            lsn: Some(lsn),
            last_commit_lsn,
            now_us: self.now_us,
        };
        Ok(Some((ordinal, source)))
    }

    fn change(&mut self, lsn: Lsn, change: &Message<'_>) -> Result<Step, Error> {
        let Some((ordinal, source)) = self.receive(lsn)? else {
            return Ok(Step::Continue);
        };
        let oid = match change {
            Message::Insert { oid, .. }
            | Message::Update { oid, .. }
            | Message::Delete { oid, .. } => *oid,
            _ => return Err(Error::Fatal("no change of a row".to_owned())),
        };
        if is_in_rows(&self.states, oid, self.transaction.as_ref()) {
            self.done(lsn, ordinal, false);
            return Ok(Step::Continue);
        }
        let entry = self.tables.get(&oid).ok_or_else(|| {
            Error::Protocol(format!("a change of table {oid}, which was not described"))
        })?;
        let records_before = self.writer.batch.records.len();
        let waiting_before = self.writer.waiting.len();
        if let Entry::Captured(plan) = entry
            && let Err(error) = write(&mut self.writer, self.skipped, plan, change, &source)
        {
            if error.class() != Class::Definite {
                return Err(error);
            }
            self.writer.take_back(records_before);
            self.done(lsn, ordinal, false);
            return Ok(Step::Unfit { oid, error });
        }
        let has_events = self.writer.batch.records.len() > records_before;
        if has_events {
            self.note_keys(oid, records_before);
        }
        if self.writer.waiting.len() > waiting_before {
            self.note_before(records_before);
        }
        self.done(lsn, ordinal, has_events);
        Ok(self.full())
    }

    /// Notes with the newest event that waits how far the stream was done before it.
    fn note_before(&mut self, first_record: usize) {
        let mut before = self.position.clone();
        if let Some(transaction) = &self.transaction
            && let Some(partial) = transaction.partial()
        {
            before.partial = Some(partial);
        }
        if let Some(waiting) = self.writer.waiting.last_mut() {
            waiting.first_record = first_record;
            waiting.before = Some(Box::new(before));
        }
    }

    /// Tells rows being read of what the newest records touch.
    fn note_keys(&mut self, oid: u32, records_before: usize) {
        let (Some(merge), Some(transaction)) = (&mut self.merge, &self.transaction) else {
            return;
        };
        if !merge.watches(oid) {
            return;
        }
        let batch = &self.writer.batch;
        for record in &batch.records[records_before..] {
            if let Some(key) = record.key.clone() {
                merge.touch(oid, transaction.begin.xid, &batch.buffer[key]);
            }
        }
    }

    fn done(&mut self, lsn: Lsn, ordinal: u64, has_events: bool) {
        if let Some(transaction) = &mut self.transaction {
            transaction.done = Some((lsn, ordinal));
            transaction.has_events |= has_events;
        }
        if has_events {
            self.events_total += 1;
            self.opened_at.get_or_insert_with(Instant::now);
        }
    }

    fn truncate(&mut self, lsn: Lsn, oids: &[u32]) -> Result<Step, Error> {
        let Some((ordinal, source)) = self.receive(lsn)? else {
            return Ok(Step::Continue);
        };
        let captured: Vec<_> = oids
            .iter()
            .copied()
            .filter(|oid| matches!(self.tables.get(oid), Some(Entry::Captured(_))))
            .filter(|oid| !is_in_rows(&self.states, *oid, self.transaction.as_ref()))
            .collect();
        if captured.is_empty() || self.skipped.truncate {
            self.done(lsn, ordinal, false);
            return Ok(Step::Continue);
        }
        Ok(Step::Truncate(Truncate {
            oids: captured,
            source,
            change: (lsn, ordinal),
        }))
    }

    /// The deletes of a truncation are written.
    pub(crate) fn truncated(&mut self, truncate: &Truncate) {
        let (lsn, ordinal) = truncate.change;
        if let (Some(merge), Some(transaction)) = (&mut self.merge, &self.transaction) {
            for oid in &truncate.oids {
                merge.truncate(*oid, transaction.begin.xid);
            }
        }
        self.done(lsn, ordinal, true);
    }

    /// Says that records were written for the current transaction otherwise than by a change.
    pub(crate) fn wrote(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.has_events = true;
        }
        self.opened_at.get_or_insert_with(Instant::now);
    }

    /// Returns whether the batch holds records of earlier transactions than the current one.
    pub(crate) fn holds_earlier_transactions(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|transaction| transaction.first_record > 0)
    }

    /// Returns whether part of the current transaction has left in an earlier batch.
    pub(crate) fn current_has_parts(&self) -> bool {
        self.position.partial.is_some()
    }

    /// Closes the batch with all that is in it: up to the end of the last transaction, or in the
    /// midst of the current one. Waiting events must have been resolved.
    pub(crate) fn close(&mut self) -> Result<Closed, Error> {
        if let Some(transaction) = &mut self.transaction {
            if let Some(partial) = transaction.partial() {
                self.position.partial = Some(partial);
            }
            transaction.first_record = 0;
            if transaction.has_events {
                self.last_commit_ts_us = Some(transaction.begin.ts_us);
            }
        }
        self.opened_at = None;
        Ok(Closed {
            batch: self.writer.take(),
            position: self.position.clone(),
            parts: self.states.take_changed()?,
            step: source::Step::Stream,
            last_commit_ts_us: self.last_commit_ts_us.take(),
        })
    }

    /// Closes the batch before the first event that waits, which stays with all that came after it.
    /// `None` if there is nothing before it.
    pub(crate) fn close_before_waiting(&mut self) -> Option<Closed> {
        let waiting = self.writer.waiting.first_mut()?;
        let first = waiting.first_record;
        let before = waiting.before.clone()?;
        if first == 0 {
            return None;
        }
        if let Some(transaction) = &mut self.transaction {
            // What leaves of the current transaction is done from here on.
            if before.lsn == self.position.lsn {
                self.position.partial = before.partial;
            }
            transaction.first_record = transaction.first_record.saturating_sub(first);
        }
        let batch = self.writer.take_first(first);
        Some(Closed {
            batch,
            position: *before,
            // A table's new looks may belong to what stays.
            parts: Vec::new(),
            step: source::Step::Stream,
            last_commit_ts_us: self.last_commit_ts_us,
        })
    }

    /// Closes the batch with the transactions before the current one, whose records stay. Nothing of
    /// the current one may have left before. Waiting events must have been resolved.
    pub(crate) fn close_before_current(&mut self) -> Closed {
        let first = self.transaction.as_ref().map_or(0, |t| t.first_record);
        let mut whole = self.writer.take();
        let current = split_off(&mut whole, first);
        self.writer.batch = current;
        if let Some(transaction) = &mut self.transaction {
            transaction.first_record = 0;
        }
        self.opened_at = (!self.writer.is_empty()).then(Instant::now);
        Closed {
            batch: whole,
            position: self.position.clone(),
            // A table's new looks belong to the current transaction, whose records stay.
            parts: Vec::new(),
            step: source::Step::Stream,
            last_commit_ts_us: self.last_commit_ts_us.take(),
        }
    }
}

/// Returns how long a batch is held whose last transaction the server sent so many microseconds after its
/// commit.
fn hold(late_us: i64) -> Option<Duration> {
    let late = Duration::from_micros(u64::try_from(late_us).ok()?);
    let hold = late / HELD_SHARE;
    (hold >= HELD_MIN).then_some(hold)
}

/// Writes the event of a change, unless its operation is skipped.
fn write(
    writer: &mut Writer,
    skipped: Skipped,
    plan: &Arc<TablePlan>,
    change: &Message<'_>,
    source: &EventSource,
) -> Result<(), Error> {
    match *change {
        Message::Insert { new, .. } if !skipped.create => writer.insert(plan, new, source),
        Message::Update { old, new, .. } if !skipped.update => {
            writer.update(plan, old, new, source)
        }
        Message::Delete { old, .. } if !skipped.delete => writer.delete(plan, old, source),
        _ => Ok(()),
    }
}

/// Returns whether a table's rows were read in a snapshot that holds the transaction.
fn is_in_rows(states: &Tables, oid: u32, transaction: Option<&Transaction>) -> bool {
    let from = states.get(oid).and_then(|state| state.from);
    let commit_lsn = transaction.map(|transaction| transaction.begin.commit_lsn);
    matches!((from, commit_lsn), (Some(from), Some(commit_lsn)) if commit_lsn < from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_held_for_a_fiftieth_of_its_lateness_and_not_at_all_when_it_is_live() {
        let millis = |late_ms: i64| hold(late_ms * 1000).map(|hold| hold.as_millis());
        // A clock that was set back says that a transaction was sent before its commit.
        assert_eq!([-1000, 0, 49].map(millis), [None; 3]);
        assert_eq!([50, 1000].map(millis), [Some(1), Some(20)]);
    }
}
