//! One view: what a change of a row does to it.
//!
//! | in the view before | after the change | delivered |
//! |---|---|---|
//! | no | hidden or gone | nothing: even a tombstone would tell that the key exists |
//! | no | visible | upsert |
//! | yes | visible | upsert if any byte of the view's row changed, else nothing |
//! | yes | hidden or gone | tombstone |
//! | any | visible, but a granted value is unavailable | nothing |
//!
//! *Before* is what the view's members say, never the change's `before` image, which the source
//! need not send. A row whose granted value is unavailable keeps what the view has of it: such a
//! change is followed by the row's deletion, or by a re-reading, or the value would have been found.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use hutong_policies::condition::Screen;
use hutong_policies::{Decision, Evaluator, ViewTask};
use hutong_schemas::batch::{Record, RecordBatch, empty};
use hutong_schemas::cell::Cell;
use hutong_schemas::class::Classified;
use hutong_schemas::event_decoder::EventHead;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::FieldInfo;
use hutong_schemas::wire;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::filter::Filter;
use crate::header;
use crate::pending::Pending;
use crate::position::{Progress, ViewPosition};
use crate::shared::{RowNumber, Shared, SlotId, Written};
use crate::store::{KeyHash, Member, Members, Store, StoreBatch, ViewId};

/// How long after a batch was begun its records may be appended: waiting for input, memory and the
/// commit before it, a few times over. Were the last record repeated earlier, and the tombstone the
/// first record of its segment, no segment would end, and what was withdrawn would stay.
const LATE_MS: i64 = 5_000;

/// A view over the partition.
#[derive(Debug)]
pub struct View {
    pub(crate) task: ViewTask,
    pub(crate) id: ViewId,
    topic: Arc<str>,
    /// What holds now.
    pub(crate) position: ViewPosition,
    /// What was committed last; `None` if nothing was committed for this view yet.
    pub(crate) committed: Option<ViewPosition>,
    /// Members now.
    pub(crate) rows: u64,
    /// Position and members as they are after an abort.
    saved: (ViewPosition, u64),
    /// The output was refused, or could not be read, so that trying again may help.
    pub(crate) refused: bool,
    /// What the view holds could not be read.
    pub(crate) is_unreadable: bool,
    /// The time, and after what time an append begins another segment.
    pub(crate) now_ms: i64,
    pub(crate) segment_ms: i64,
    /// By the rows' schemas, of which there are few.
    evaluators: Vec<(SchemaId, SlotId, Evaluator)>,
    key_evaluators: HashMap<SchemaId, Evaluator>,
    scratch: Scratch,
    /// Members that the batch has changed. Seen before the sealed ones.
    changed: Members,
    /// Members that the sealed batch has changed, and what position and members were with it. Seen
    /// before the store.
    sealed: Arc<Members>,
    sealed_as: (ViewPosition, u64),
    /// Every key that the view holds in the store, and others; `None` while they are not known.
    filter: Option<Filter>,
    /// Where the topic stands among those of a batch, if it is there.
    topic_index: u32,
}

#[derive(Debug, Default)]
struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
    header: Vec<u8>,
    /// Of the value.
    digest: [u8; 16],
    /// Where other views find the row's key and value too; the value may then not be here.
    shared: Option<SlotId>,
}

impl Scratch {
    /// Begins another row.
    fn begin(&mut self) {
        self.key.clear();
        empty(&mut self.value);
        self.shared = None;
    }
}

/// Appends bytes to a buffer and returns where they are.
fn append(buffer: &mut Vec<u8>, bytes: &[u8]) -> Range<usize> {
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    start..buffer.len()
}

/// Where a view's output goes, and what it changes.
pub(crate) struct Effects<'a, S> {
    pub(crate) store: &'a S,
    pub(crate) pending: &'a mut Pending,
    pub(crate) out: &'a mut RecordBatch,
    pub(crate) partition: i32,
    pub(crate) secret: Option<&'a [u8]>,
    pub(crate) shared: &'a mut Shared,
}

/// A row, decoded.
pub(crate) struct Row<'a> {
    pub(crate) number: RowNumber,
    pub(crate) schema: SchemaId,
    pub(crate) columns: &'a [FieldInfo],
    pub(crate) cells: &'a [Cell<'a>],
    /// Its key had no row before, so that it can be in no view.
    pub(crate) is_new: bool,
}

/// A key of the input, decoded.
pub(crate) struct InputKey<'a> {
    pub(crate) schema: SchemaId,
    pub(crate) fields: &'a [FieldInfo],
    pub(crate) cells: &'a [Cell<'a>],
}

/// The Avro behind a prefix that we have written or split before.
fn body(message: &[u8]) -> &[u8] {
    message.get(wire::PREFIX_BYTES..).unwrap_or_default()
}

pub(crate) fn digest(value: &[u8]) -> [u8; 16] {
    let digest = Sha256::digest(value);
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    first
}

impl View {
    pub(crate) fn new(
        task: ViewTask,
        position: ViewPosition,
        committed: Option<ViewPosition>,
    ) -> Self {
        Self {
            id: ViewId::new(&task.name, task.generation),
            topic: Arc::from(task.topic.as_str()),
            task,
            saved: (position.clone(), 0),
            sealed: Arc::default(),
            sealed_as: (position.clone(), 0),
            position,
            committed,
            rows: 0,
            refused: false,
            is_unreadable: false,
            now_ms: 0,
            segment_ms: i64::MAX,
            evaluators: Vec::new(),
            key_evaluators: HashMap::new(),
            scratch: Scratch::default(),
            changed: Members::default(),
            filter: None,
            topic_index: 0,
        }
    }

    /// Returns the view's task.
    #[must_use]
    pub fn task(&self) -> &ViewTask {
        &self.task
    }

    /// Returns where the view stands, with what is not committed yet.
    #[must_use]
    pub fn position(&self) -> &ViewPosition {
        &self.position
    }

    /// Returns how many rows the view holds in this partition.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Applies a row, as it is after a change (`head`) or as it was found by a difference run
    /// (`None`). An error of this view alone suspends it.
    pub(crate) fn apply_row<S: Store>(
        &mut self,
        row: &Row<'_>,
        head: Option<&EventHead>,
        effects: &mut Effects<'_, S>,
    ) -> Result<(), Error> {
        let decision = match self.evaluate(row, effects.secret, effects.shared) {
            Ok(decision) => decision,
            Err(error) => {
                self.suspend(&error);
                return Ok(());
            }
        };
        let member = if row.is_new {
            None
        } else {
            self.member(effects.store)?
        };
        match decision {
            Decision::Hidden => self.remove(member, head, effects),
            Decision::Unavailable => self.keep(member),
            Decision::Visible => {
                let digest = self.scratch.digest;
                if member.is_some_and(|member| member.digest == digest) {
                    self.keep(member);
                } else {
                    self.note_key(row.is_new);
                    self.upsert(member, digest, head, effects);
                }
            }
        }
        Ok(())
    }

    /// Applies the deletion of a row.
    pub(crate) fn apply_deletion<S: Store>(
        &mut self,
        key: &InputKey<'_>,
        head: Option<&EventHead>,
        effects: &mut Effects<'_, S>,
    ) -> Result<(), Error> {
        if let Err(error) = self.evaluate_key(key, effects.secret) {
            self.suspend(&error);
            return Ok(());
        }
        let member = self.member(effects.store)?;
        self.remove(member, head, effects);
        Ok(())
    }

    /// Returns the member of the key in the scratch buffer.
    fn member<S: Store>(&self, store: &S) -> Result<Option<Member>, Error> {
        let key = body(&self.scratch.key);
        if let Some(changed) = self.changed(key) {
            return Ok(changed);
        }
        match &self.filter {
            Some(filter) if !filter.may_contain(key) => Ok(None),
            Some(_) | None => store.member(&self.id, key),
        }
    }

    /// Returns a member that the batch, or the one sealed before it, has changed.
    pub(crate) fn changed(&self, key: &[u8]) -> Option<Option<Member>> {
        let changed = self.changed.get(key);
        changed.or_else(|| self.sealed.get(key)).copied()
    }

    /// Notes that the key in the scratch buffer has a member.
    fn note_key(&mut self, is_new: bool) {
        let key = body(&self.scratch.key);
        match &mut self.filter {
            Some(filter) if is_new => filter.insert_new(key),
            Some(filter) => {
                filter.insert(key);
            }
            None => {}
        }
    }

    /// Sets the member of the key in the scratch buffer, which was noted.
    fn set_member(&mut self, member: Option<Member>) {
        let key = body(&self.scratch.key);
        if let Some(changed) = self.changed.get_mut(key) {
            *changed = member;
        } else {
            self.changed.insert(key.to_vec(), member);
        }
    }

    /// Deletes a member by its key in the view.
    pub(crate) fn remove_member<S: Store>(
        &mut self,
        key: &[u8],
        member: Member,
        effects: &mut Effects<'_, S>,
    ) {
        self.scratch.begin();
        self.scratch
            .key
            .extend_from_slice(&wire::prefix(self.task.key_schema_id));
        self.scratch.key.extend_from_slice(key);
        self.remove(Some(member), None, effects);
    }

    /// Decides about a row: its key and value are then in the scratch buffers, as far as they matter.
    fn evaluate(
        &mut self,
        row: &Row<'_>,
        secret: Option<&[u8]>,
        shared: &mut Shared,
    ) -> Result<Decision, hutong_policies::Error> {
        self.scratch.begin();
        let index = self.evaluator(row.schema, row.columns, secret, shared)?;
        let Scratch {
            key,
            value,
            digest,
            shared: shared_slot,
            ..
        } = &mut self.scratch;
        let (_, slot, evaluator) = &mut self.evaluators[index];
        if !evaluator.is_in_view(row.cells) {
            if !row.is_new {
                evaluator.key_of_row(row.cells, key)?;
            }
            return Ok(Decision::Hidden);
        }
        if let Some(made) = shared.made(*slot, row.number) {
            key.extend_from_slice(&made.key);
            *digest = made.digest;
            *shared_slot = Some(*slot);
            return Ok(made.decision);
        }
        let decision = evaluator.show(row.cells, key, value)?;
        if decision == Decision::Visible {
            *digest = self::digest(value);
        }
        let is_kept = shared.keep(*slot, row.number, (decision, key, value, *digest));
        *shared_slot = is_kept.then_some(*slot);
        Ok(decision)
    }

    /// Returns what a row of a schema must have to be in the view, where one cell tells it.
    pub(crate) fn screen(
        &mut self,
        schema: SchemaId,
        columns: &[FieldInfo],
        secret: Option<&[u8]>,
        shared: &mut Shared,
    ) -> Option<Screen> {
        // Who asks for the row's decision finds the error again, and says it.
        let index = self.evaluator(schema, columns, secret, shared).ok()?;
        self.evaluators[index].2.screen()
    }

    /// Returns the index of the evaluator for rows of a schema.
    fn evaluator(
        &mut self,
        schema: SchemaId,
        columns: &[FieldInfo],
        secret: Option<&[u8]>,
        shared: &mut Shared,
    ) -> Result<usize, hutong_policies::Error> {
        let mut known = self.evaluators.iter();
        if let Some(index) = known.position(|(of, ..)| *of == schema) {
            return Ok(index);
        }
        let evaluator = Evaluator::of_schema(&self.task, schema, columns, secret)?;
        let slot = shared.join(evaluator.projection());
        self.evaluators.push((schema, slot, evaluator));
        Ok(self.evaluators.len() - 1)
    }

    fn evaluate_key(
        &mut self,
        key: &InputKey<'_>,
        secret: Option<&[u8]>,
    ) -> Result<(), hutong_policies::Error> {
        self.scratch.begin();
        if !self.key_evaluators.contains_key(&key.schema) {
            let evaluator = Evaluator::for_keys(&self.task, key.fields, secret)?;
            self.key_evaluators.insert(key.schema, evaluator);
        }
        let evaluator = self
            .key_evaluators
            .get_mut(&key.schema)
            .expect("it was just put there");
        evaluator.key(key.cells, &mut self.scratch.key)
    }

    fn upsert<S>(
        &mut self,
        before: Option<Member>,
        digest: [u8; 16],
        head: Option<&EventHead>,
        effects: &mut Effects<'_, S>,
    ) {
        self.rows += u64::from(before.is_none());
        let member = Member {
            digest,
            mark: self.position.mark,
        };
        self.set_member(Some(member));
        self.write(true, head, effects);
    }

    fn remove<S>(
        &mut self,
        before: Option<Member>,
        head: Option<&EventHead>,
        effects: &mut Effects<'_, S>,
    ) {
        if before.is_some() {
            self.rows = self.rows.saturating_sub(1);
            self.set_member(None);
            self.write(false, head, effects);
        }
    }

    /// Marks a member as still having a row.
    fn keep(&mut self, member: Option<Member>) {
        if let Some(member) = member.filter(|member| member.mark != self.position.mark) {
            let marked = Member {
                mark: self.position.mark,
                ..member
            };
            self.set_member(Some(marked));
        }
    }

    /// Appends a record of the view's topic again, as it is there, unless the view holds something
    /// else under its key: then a later record of the key was committed, and whoever read the topic
    /// did not see it yet, because a commit is acknowledged before its markers are written.
    ///
    /// Returns whether it was appended.
    pub(crate) fn repeat<S: Store>(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        effects: &mut Effects<'_, S>,
    ) -> Result<bool, Error> {
        self.scratch.begin();
        self.scratch.key.extend_from_slice(key);
        let member = self.member(effects.store)?;
        if member.map(|member| member.digest) != value.map(digest) {
            return Ok(false);
        }
        self.scratch
            .value
            .extend_from_slice(value.unwrap_or_default());
        self.write(value.is_some(), None, effects);
        // A tombstone that is repeated had its own hour.
        self.position.tombstone_ms = None;
        Ok(true)
    }

    /// Returns whether a tombstone has waited for its segment to end for as long as a segment is
    /// appended to: the next record, whatever it is, begins another. While a difference goes out, the
    /// last record may be a row that the policy in force hides, and must not be written again.
    pub(crate) fn is_repeat_due(&self) -> bool {
        let holds_what_it_may = match self.position.progress {
            Progress::Live | Progress::Expired => true,
            Progress::Filling { .. }
            | Progress::Sweeping { .. }
            | Progress::Expiring
            | Progress::Pending
            | Progress::Suspended { .. }
            | Progress::Revoked => false,
        };
        holds_what_it_may && self.segment_is_over()
    }

    /// Returns whether an append now begins another segment than that of the tombstone. A segment's
    /// age counts from its first append, which is later than our clock was when the batch was begun.
    fn segment_is_over(&self) -> bool {
        let is_over =
            |at| self.now_ms.saturating_sub(at) >= self.segment_ms.saturating_add(LATE_MS);
        self.position.tombstone_ms.is_some_and(is_over)
    }

    /// Appends a record: the key in the scratch buffer, with the value there, or the one that other views
    /// have too, or as a tombstone.
    fn write<S>(
        &mut self,
        with_value: bool,
        head: Option<&EventHead>,
        effects: &mut Effects<'_, S>,
    ) {
        if self.segment_is_over() {
            self.position.tombstone_ms = None;
        }
        if !with_value {
            self.position.tombstone_ms = Some(self.now_ms);
        }
        let version = self.task.version;
        let mut made = match self.scratch.shared {
            Some(slot) if with_value => Some(effects.shared.made_mut(slot)),
            _ => None,
        };
        let buffer = &mut effects.out.buffer;
        let Scratch {
            key, value, header, ..
        } = &mut self.scratch;
        let (key, value, header) = match made.as_ref().and_then(|made| made.written.clone()) {
            Some(written) if written.version == version => {
                (written.key, Some(written.value), written.header)
            }
            Some(written) => {
                header::write(head, version, header);
                let header = append(buffer, header);
                (written.key, Some(written.value), header)
            }
            None => {
                header::write(head, version, header);
                let value = with_value.then(|| made.as_ref().map_or(&*value, |made| &made.value));
                // At once: growing for a header would double what a large value takes.
                buffer.reserve(key.len() + value.map_or(0, Vec::len) + header.len());
                (
                    append(buffer, key),
                    value.map(|value| append(buffer, value)),
                    append(buffer, header),
                )
            }
        };
        if let (Some(made), Some(value)) = (&mut made, &value) {
            made.written = Some(Written {
                key: key.clone(),
                value: value.clone(),
                header: header.clone(),
                version,
            });
        }
        effects.pending.output_bytes +=
            key.len() + value.as_ref().map_or(0, Range::len) + header.len();
        let out = &mut *effects.out;
        let is_there = usize::try_from(self.topic_index)
            .ok()
            .and_then(|index| out.topics.get(index))
            .is_some_and(|topic| Arc::ptr_eq(topic, &self.topic));
        if !is_there {
            self.topic_index = out.topic(&self.topic);
        }
        empty(&mut self.scratch.value);
        let topic = self.topic_index;
        out.records.push(Record {
            topic,
            partition: Some(effects.partition),
            key: Some(key),
            value,
            header: Some(header),
        });
    }

    /// Stops the view alone.
    pub(crate) fn suspend(&mut self, error: &(impl Classified + 'static)) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.position.progress = Progress::Suspended {
            class: error.class(),
            error: text,
            hint: error.hint(),
        };
    }

    /// Returns whether nothing has changed since the last commit.
    pub(crate) fn is_committed(&self) -> bool {
        self.committed.as_ref() == Some(&self.position)
    }

    /// Makes an abort return to what holds now.
    pub(crate) fn save(&mut self) {
        self.saved = (self.position.clone(), self.rows);
    }

    /// Seals what the batch has changed, and gives it to what will enter the store.
    pub(crate) fn seal(&mut self, batch: &mut StoreBatch) {
        self.sealed_as = (self.position.clone(), self.rows);
        if self.changed.is_empty() {
            return;
        }
        // The next batch will be about as large.
        let next = Members::with_capacity_and_hasher(self.changed.len(), KeyHash::default());
        self.sealed = Arc::new(std::mem::replace(&mut self.changed, next));
        batch
            .members
            .push((self.id.clone(), Arc::clone(&self.sealed)));
    }

    /// Says that what was sealed is committed, and in the store.
    pub(crate) fn settled(&mut self) {
        self.sealed = Arc::default();
        self.saved = self.sealed_as.clone();
        self.committed = Some(self.sealed_as.0.clone());
    }

    /// Returns to what was saved, without what was sealed since.
    pub(crate) fn aborted(&mut self) {
        (self.position, self.rows) = self.saved.clone();
        self.changed.clear();
        self.sealed = Arc::default();
    }

    /// Returns whether a member has changed that is not in the store yet.
    pub(crate) fn has_changed(&self) -> bool {
        !self.changed.is_empty() || !self.sealed.is_empty()
    }

    /// Goes on with what is known of the members of the same generation.
    pub(crate) fn take_members(&mut self, running: Self) {
        let has_ended = self.position.progress.has_ended();
        self.rows = if has_ended { 0 } else { running.rows };
        self.filter = running.filter;
    }

    /// Counts the members in the store and learns their keys.
    pub(crate) fn learn_members<S: Store>(&mut self, store: &S) -> Result<(), Error> {
        let (mut filter, mut rows) = (Filter::default(), 0);
        store.members_after(&self.id, None, &mut |key, _| {
            filter.insert(key);
            rows += 1;
            Ok(true)
        })?;
        (self.filter, self.rows) = (Some(filter), rows);
        Ok(())
    }

    /// Begins to fill a view that has no rows yet; one that has some is brought up by a run.
    pub(crate) fn begin(&mut self, total: u64) {
        if self.rows > 0 {
            self.begin_difference(total);
        } else {
            self.position.total = total;
            self.position.progress = Progress::Filling {
                cursor: None,
                sweep: false,
            };
        }
    }

    /// Begins a difference run. Only between batches: a run passes over rows that the batch has
    /// changed, because these changes bear its mark.
    pub(crate) fn begin_difference(&mut self, total: u64) {
        self.position.mark += 1;
        self.position.filled = 0;
        self.position.total = total;
        self.position.progress = Progress::Filling {
            cursor: None,
            sweep: true,
        };
        self.refused = false;
    }
}
