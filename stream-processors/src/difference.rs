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
use crate::store::{Member, Store};
use crate::view::{Effects, Row, View};

/// How much one part may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that the batch may hold.
    pub bytes_max: usize,
    /// Rows or members to look at, whatever comes out.
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

/// Does the next part of a view's run, and takes what it looked at from the limits.
pub(crate) fn advance<S: Store>(
    view: &mut View,
    decoders: &Decoders,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<Part, Error> {
    match view.position.progress.clone() {
        Progress::Filling { cursor, sweep } => fill(view, cursor, sweep, decoders, effects, limits),
        Progress::Sweeping { cursor } => sweep(view, cursor, effects, limits),
        Progress::Expiring => empty(view, effects, limits),
        Progress::Pending
        | Progress::Live
        | Progress::Suspended { .. }
        | Progress::Expired
        | Progress::Revoked => Ok(Part::Done),
    }
}

fn fill<S: Store>(
    view: &mut View,
    cursor: Option<Bytes>,
    sweep: bool,
    decoders: &Decoders,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<Part, Error> {
    let store = effects.store;
    let mut cursor = cursor.map(|bytes| bytes.0);
    let start = cursor.clone();
    let (mut looks, mut through, mut part) = (0, true, Part::Done);
    store.rows_after(start.as_deref(), &mut |key, row| {
        if looks >= limits.looks_max || effects.out.buffer.len() >= limits.bytes_max {
            through = false;
            return Ok(false);
        }
        if !effects.pending.rows.contains_key(key) {
            let Some(()) = fill_row(view, row, decoders, effects, &mut part)? else {
                through = false;
                return Ok(false);
            };
            if !view.position.progress.applies_changes() {
                return Ok(false);
            }
        }
        looks += 1;
        cursor = Some(key.to_vec());
        Ok(true)
    })?;
    if !view.position.progress.applies_changes() {
        // A row suspended the view.
        return Ok(Part::Done);
    }
    limits.looks_max = limits.looks_max.saturating_sub(looks);
    view.position.filled += looks;
    if through {
        // Rows came and went meanwhile: all that there were are done.
        view.position.total = view.position.filled;
    }
    view.position.progress = match (through, sweep) {
        (false, _) => Progress::Filling {
            cursor: cursor.map(Bytes),
            sweep,
        },
        (true, true) => Progress::Sweeping { cursor: None },
        (true, false) => Progress::Live,
    };
    Ok(part)
}

/// Applies a stored row; `None` if its schema is missing, which `part` then names.
fn fill_row<S: Store>(
    view: &mut View,
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
        schema,
        columns: fields(&decoder.row),
        cells: &cells,
    };
    view.apply_row(&row, None, effects)?;
    Ok(Some(()))
}

fn sweep<S: Store>(
    view: &mut View,
    cursor: Option<Bytes>,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<Part, Error> {
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
    Ok(Part::Done)
}

/// Deletes members until none is left. What this batch has deleted is passed over, what earlier ones
/// have deleted is gone, so no cursor is needed.
fn empty<S: Store>(
    view: &mut View,
    effects: &mut Effects<'_, S>,
    limits: &mut Limits,
) -> Result<Part, Error> {
    let (_, through) = remove_members(view, None, effects, limits, |_| true)?;
    if through {
        view.position.progress = Progress::Expired;
    }
    Ok(Part::Done)
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
        if looks >= limits.looks_max || effects.out.buffer.len() >= limits.bytes_max {
            through = false;
            return Ok(false);
        }
        let current = effects.pending.member(&id, key).unwrap_or(Some(member));
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
) -> Effects<'a, S> {
    Effects {
        store,
        pending,
        out,
        partition,
        secret,
    }
}
