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

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hutong_schemas::batch::RecordBatch;
use hutong_schemas::envelope::{EventSource, SnapshotMark};
use hutong_schemas::position::Lsn;

use super::error::Error;
use super::pgoutput::{self, Begin, Commit, Message, Relation};
use super::position::{Partial, Position};
use super::table_plan::TablePlan;
use super::writer::Writer;

/// What we do with a table's changes.
#[derive(Debug)]
pub(crate) enum Entry {
    /// They become events.
    Captured(Box<TablePlan>),
    /// The table is in the publication and not captured.
    Ignored,
}

/// What the caller has to do before the next message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Continue,
    /// A table looks as it says from here on: look at it, then call [`Changes::enter`].
    Relation(Relation),
    /// Tables were emptied: write the deletes, then call [`Changes::truncated`].
    Truncate(Truncate),
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
    tables: HashMap<u32, Entry>,
    transaction: Option<Transaction>,
    limits: Limits,
    skipped: Skipped,
    opened_at: Option<Instant>,
    last_commit_ts_us: Option<i64>,
    /// The connector's clock, set by the caller once per piece of input.
    pub(crate) now_us: i64,
    pub(crate) events_total: u64,
}

/// A batch, and the position behind it.
pub(crate) struct Closed {
    pub(crate) batch: RecordBatch,
    pub(crate) position: Position,
    pub(crate) last_commit_ts_us: Option<i64>,
}

impl Changes {
    pub(crate) fn new(position: Position, limits: Limits, skipped: Skipped) -> Self {
        Self {
            writer: Writer::default(),
            position,
            tables: HashMap::new(),
            transaction: None,
            limits,
            skipped,
            opened_at: None,
            last_commit_ts_us: None,
            now_us: 0,
            events_total: 0,
        }
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
    pub(crate) fn parts(&mut self) -> (&mut Writer, &HashMap<u32, Entry>) {
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
        match pgoutput::message(message)? {
            Message::Begin(begin) => {
                self.begin(begin);
                Ok(Step::Continue)
            }
            Message::Commit(commit) => self.commit(commit),
            Message::Relation(relation) => Ok(Step::Relation(relation)),
            Message::Truncate(oids) => self.truncate(lsn, &oids),
            Message::Other => Ok(Step::Continue),
            change @ (Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. }) => {
                self.change(lsn, &change)
            }
        }
    }

    fn begin(&mut self, begin: Begin) {
        let skip = match self.position.partial {
            _ if begin.commit_lsn < self.position.lsn => Skip::All,
            Some(partial) if partial.commit_lsn == begin.commit_lsn => Skip::UpTo(partial),
            _ => Skip::Nothing,
        };
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
        if old && !self.writer.is_empty() {
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
        let (last_lsn, last_ordinal) = transaction.received;
        let ordinal = if lsn == last_lsn { last_ordinal + 1 } else { 1 };
        transaction.received = (lsn, ordinal);
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
        let entry = self.tables.get(&oid).ok_or_else(|| {
            Error::Protocol(format!("a change of table {oid}, which was not described"))
        })?;
        let records_before = self.writer.batch.records.len();
        if let Entry::Captured(plan) = entry {
            match *change {
                Message::Insert { new, .. } if !self.skipped.create => {
                    self.writer.insert(plan, new, &source)?;
                }
                Message::Update { old, new, .. } if !self.skipped.update => {
                    self.writer.update(plan, old, new, &source)?;
                }
                Message::Delete { old, .. } if !self.skipped.delete => {
                    self.writer.delete(plan, old, &source)?;
                }
                _ => {}
            }
        }
        let has_events = self.writer.batch.records.len() > records_before;
        self.done(lsn, ordinal, has_events);
        Ok(self.full())
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
    pub(crate) fn close(&mut self) -> Closed {
        if let Some(transaction) = &mut self.transaction {
            if let Some((change_lsn, ordinal)) = transaction.done {
                self.position.partial = Some(Partial {
                    commit_lsn: transaction.begin.commit_lsn,
                    change_lsn,
                    ordinal,
                });
            }
            transaction.first_record = 0;
            if transaction.has_events {
                self.last_commit_ts_us = Some(transaction.begin.ts_us);
            }
        }
        self.opened_at = None;
        Closed {
            batch: self.writer.take(),
            position: self.position.clone(),
            last_commit_ts_us: self.last_commit_ts_us.take(),
        }
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
            last_commit_ts_us: self.last_commit_ts_us.take(),
        }
    }
}

/// Moves the records from `first` on into a batch of their own.
fn split_off(batch: &mut RecordBatch, first: usize) -> RecordBatch {
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
