//! The difference between what a view holds and what its policy gives for the rows in the store.
//!
//! ```text
//!   rows, in key order ──▶ policy ──▶ compared with members ──▶ upsert, tombstone, mark, nothing
//!   members, in key order ── without this run's mark ──▶ tombstone
//! ```
//!
//! A run fills a new view, brings a view to a new policy, resumes a suspended one, and finds members
//! whose deletion was lost. It goes in parts that fit a batch, beside the input:
//!
//! - A change is applied to the view wherever the run stands. If it is ahead of the run, the run
//!   finds it applied: same digest, nothing to do.
//! - Rows come from the store, that is from committed batches. A row that the current batch has
//!   changed is passed over, because the change itself was applied to the view.
//! - Views that look at rows at the same place look together, so that each row is read once for all of
//!   them. The hindmost go first, until they have caught up with the next: a view that comes later
//!   makes the ones before it wait, and all of them together are through as soon as one scan is.
//! - The cursor commits with the part's output. After a crash the run goes on behind it, if the
//!   members are those of that commit; if they had to be rebuilt from the view's topic, the marks are
//!   lost, and a run that must sweep begins again ([`crate::Processor::adopt`]).
//!
//! A member without a row in the store is deleted at the end. It may be a row that the input still
//! has further on, then it returns with its record; or one whose tombstone was lost, then it is gone
//! at last.

use hutong_schemas::batch::RecordBatch;
use hutong_schemas::position::SchemaId;
use hutong_schemas::wire;

use crate::Error;
use crate::decoders::{Decoders, fields};
use crate::pending::Pending;
use crate::position::{Bytes, Progress};
use crate::shared::Shared;
use crate::store::{Member, Store};
use crate::view::{Effects, Row, View};

/// How much one part may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the batch's records may have together.
    pub bytes_max: usize,
    /// Rows or members to look at, whatever comes out. A row is looked at once for each view.
    pub looks_max: u64,
}

/// What a part of a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The budget is used up, or the run is through.
    Done,
    /// A row was written with a schema that is not known here. The run stands before it.
    Needs(SchemaId),
}

/// Does the next part of a view's run over its members, and takes what it looked at from the limits.
pub(crate) fn advance<S: Store>(
    view: &mut View,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<(), Error> {
    match view.position.progress.clone() {
        Progress::Sweeping { cursor } => sweep(view, cursor, effects, limits),
        Progress::Expiring => empty(view, effects, limits),
        Progress::Filling { .. }
        | Progress::Pending
        | Progress::Live
        | Progress::Suspended { .. }
        | Progress::Expired
        | Progress::Revoked => Ok(()),
    }
}

/// Views that look at the same rows next.
struct Group {
    /// Behind this key; the first of all if there is none.
    cursor: Option<Vec<u8>>,
    /// Indices of the views.
    views: Vec<usize>,
    /// The key behind which other views go on.
    until: Option<Vec<u8>>,
}

impl Group {
    fn hindmost(views: &[View]) -> Option<Self> {
        let cursors = || {
            let filling = views.iter().enumerate();
            filling.filter_map(|(index, view)| match &view.position.progress {
                Progress::Filling { cursor, .. } => {
                    Some((index, cursor.as_ref().map(|cursor| &cursor.0)))
                }
                _ => None,
            })
        };
        let first = cursors().map(|(_, cursor)| cursor).min()?;
        let same = cursors().filter(|(_, cursor)| *cursor == first);
        let others = cursors().filter_map(|(_, cursor)| cursor.filter(|_| cursor != first));
        Some(Self {
            cursor: first.cloned(),
            views: same.map(|(index, _)| index).collect(),
            until: others.min().cloned(),
        })
    }
}

/// Does the next part of the runs over the rows, and takes what was looked at from the limits.
pub(crate) fn fill<S: Store>(
    views: &mut [View],
    decoders: &Decoders,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<Part, Error> {
    let Some(group) = Group::hindmost(views) else {
        return Ok(Part::Done);
    };
    let store = effects.store;
    let mut cursor = group.cursor.clone();
    let at_once = u64::try_from(group.views.len()).unwrap_or(u64::MAX);
    let (mut looks, mut rows, mut through, mut part) = (0, 0, true, Part::Done);
    store.rows_after(group.cursor.as_deref(), &mut |key, row| {
        if looks >= limits.looks_max || effects.pending.output_bytes >= limits.bytes_max {
            through = false;
            return Ok(false);
        }
        if let Some(until) = group.until.as_ref().filter(|until| key > until.as_slice()) {
            cursor = Some(until.clone());
            through = false;
            return Ok(false);
        }
        if !effects.pending.rows.contains_key(key) {
            let Some(()) = fill_row(views, &group.views, row, decoders, effects, &mut part)? else {
                through = false;
                return Ok(false);
            };
        }
        looks += at_once;
        rows += 1;
        match &mut cursor {
            Some(cursor) => key.clone_into(cursor),
            None => cursor = Some(key.to_vec()),
        }
        Ok(true)
    })?;
    limits.looks_max = limits.looks_max.saturating_sub(looks);
    for index in group.views {
        let position = &mut views[index].position;
        // A row may have suspended the view.
        let Progress::Filling { sweep, .. } = position.progress else {
            continue;
        };
        position.filled += rows;
        if through {
            // Rows came and went meanwhile: all that there were are done.
            position.total = position.filled;
        }
        position.progress = match (through, sweep) {
            (false, _) => Progress::Filling {
                cursor: cursor.clone().map(Bytes),
                sweep,
            },
            (true, true) => Progress::Sweeping { cursor: None },
            (true, false) => Progress::Live,
        };
    }
    Ok(part)
}

/// Applies a stored row to some views; `None` if its schema is missing, which `part` then names.
fn fill_row<S: Store>(
    views: &mut [View],
    which: &[usize],
    row: &[u8],
    decoders: &Decoders,
    effects: &mut Effects<'_, S>,
    part: &mut Part,
) -> Result<Option<()>, Error> {
    let unreadable = |source| Error::Input { offset: -1, source };
    let (schema, _) = wire::split(row).map_err(unreadable)?;
    let Some(decoder) = decoders.value(schema) else {
        *part = Part::Needs(schema);
        return Ok(None);
    };
    let mut cells = Vec::with_capacity(fields(&decoder.row).len());
    decoder
        .row
        .decode_image(row, &mut cells)
        .map_err(unreadable)?;
    let row = Row {
        number: effects.shared.begin_row(),
        schema,
        columns: fields(&decoder.row),
        cells: &cells,
        is_new: false,
    };
    for index in which {
        let view = &mut views[*index];
        if view.position.progress.applies_changes() {
            view.apply_row(&row, None, effects)?;
        }
    }
    Ok(Some(()))
}

fn sweep<S: Store>(
    view: &mut View,
    cursor: Option<Bytes>,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<(), Error> {
    let mark = view.position.mark;
    let cursor = cursor.map(|bytes| bytes.0);
    let (last, through) =
        remove_members(view, cursor, effects, limits, |member| member.mark != mark)?;
    view.position.progress = if through {
        Progress::Live
    } else {
        Progress::Sweeping {
            cursor: last.map(Bytes),
        }
    };
    Ok(())
}

/// Deletes members until none is left. What this batch has deleted is passed over, what earlier ones
/// have deleted is gone, so no cursor is needed.
fn empty<S: Store>(
    view: &mut View,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<(), Error> {
    let (_, through) = remove_members(view, None, effects, limits, |_| true)?;
    if through {
        view.position.progress = Progress::Expired;
    }
    Ok(())
}

/// Deletes the members behind a key that are chosen; returns the last one looked at, and whether
/// there are no more.
fn remove_members<S: Store>(
    view: &mut View,
    cursor: Option<Vec<u8>>,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
    chosen: impl Fn(&Member) -> bool,
) -> Result<(Option<Vec<u8>>, bool), Error> {
    let store = effects.store;
    let id = view.id.clone();
    let start = cursor.clone();
    let (mut last, mut looks, mut through) = (cursor, 0, true);
    store.members_after(&id, start.as_deref(), &mut |key, member| {
        if looks >= limits.looks_max || effects.pending.output_bytes >= limits.bytes_max {
            through = false;
            return Ok(false);
        }
        let current = view.changed(key).unwrap_or(Some(member));
        if let Some(member) = current.filter(&chosen) {
            view.remove_member(key, member, effects);
        }
        looks += 1;
        last = Some(key.to_vec());
        Ok(true)
    })?;
    limits.looks_max = limits.looks_max.saturating_sub(looks);
    Ok((last, through))
}

/// Returns effects on a batch.
pub(crate) fn effects<'a, S>(
    store: &'a S,
    pending: &'a mut Pending,
    out: &'a mut RecordBatch,
    partition: i32,
    secret: Option<&'a [u8]>,
    shared: &'a mut Shared,
) -> Effects<'a, S> {
    Effects {
        store,
        pending,
        out,
        partition,
        secret,
        shared,
    }
}
