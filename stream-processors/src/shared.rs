//! What several views make of a row alike, made once.
//!
//! The views of one table are mostly grants of the same columns under the same masks to different
//! subscribers, each with a condition of its own. What such a view shows of a row is a function of its
//! [`Projection`] and the row alone, so the first of them that shows a row keeps what it made, and the
//! others take it. Conditions are evaluated for each. What they write is one piece of the batch, to which
//! the records of all of them refer.

use std::ops::Range;

use hutong_policies::{Decision, Projection};

/// A value beyond this is not kept: memory of large rows is counted by how often they lie somewhere.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// The projections of a processor's views, and what those that several have made of the last row.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Counts rows.
    row: u64,
    slots: Vec<Slot>,
}

/// A view's projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(usize);

/// A row, as long as it is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowNumber(u64);

#[derive(Debug)]
struct Slot {
    projection: Projection,
    /// How many views may show rows by it.
    users: usize,
    /// The row that the rest was made of.
    row: u64,
    made: Made,
}

/// What a projection makes of a row that its view shows.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) decision: Decision,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    pub(crate) digest: [u8; 16],
    /// Where it lies in the batch, once a view has written it.
    pub(crate) written: Option<Written>,
}

/// Where a record's parts lie in the batch.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) key: Range<usize>,
    pub(crate) value: Range<usize>,
    /// The header that names this version of a view's policy.
    pub(crate) header: Range<usize>,
    pub(crate) version: u64,
}

impl Shared {
    /// Begins another row: what was made of the last one is forgotten.
    pub(crate) fn begin_row(&mut self) -> RowNumber {
        self.row += 1;
        RowNumber(self.row)
    }

    /// Forgets all views.
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
    }

    /// Takes up a view's projection.
    pub(crate) fn join(&mut self, projection: &Projection) -> SlotId {
        let mut slots = self.slots.iter();
        let known = slots.position(|slot| slot.projection == *projection);
        let index = known.unwrap_or_else(|| {
            self.slots.push(Slot {
                projection: projection.clone(),
                users: 0,
                row: 0,
                made: Made {
                    decision: Decision::Hidden,
                    key: Vec::new(),
                    value: Vec::new(),
                    digest: [0; 16],
                    written: None,
                },
            });
            self.slots.len() - 1
        });
        self.slots[index].users += 1;
        SlotId(index)
    }

    /// Returns what another view with the same projection has made of the row.
    pub(crate) fn made(&self, SlotId(slot): SlotId, RowNumber(row): RowNumber) -> Option<&Made> {
        let slot = &self.slots[slot];
        (slot.row == row).then_some(&slot.made)
    }

    /// Returns what was made last of a projection, to note where it was written.
    pub(crate) fn made_mut(&mut self, SlotId(slot): SlotId) -> &mut Made {
        &mut self.slots[slot].made
    }

    /// Keeps what a view has made of the row, for others; returns whether there are any.
    pub(crate) fn keep(
        &mut self,
        SlotId(slot): SlotId,
        RowNumber(row): RowNumber,
        (decision, key, value, digest): (Decision, &[u8], &[u8], [u8; 16]),
    ) -> bool {
        let slot = &mut self.slots[slot];
        if slot.users < 2 || value.len() > VALUE_BYTES_MAX {
            return false;
        }
        let made = &mut slot.made;
        made.key.clear();
        made.key.extend_from_slice(key);
        made.value.clear();
        made.value.extend_from_slice(value);
        made.decision = decision;
        made.digest = digest;
        made.written = None;
        slot.row = row;
        true
    }
}
