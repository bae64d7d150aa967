//! Rows that a batch has changed and Kafka has not committed: seen before the store, dropped by an
//! abort. What it has changed of a view's members is the view's.

use std::collections::HashMap;

use crate::store::KeyHash;

/// The rows by key.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) rows: HashMap<Vec<u8>, PendingRow, KeyHash>,
    /// Bytes of the batch's records, also where several records are one piece of memory.
    pub(crate) output_bytes: usize,
}

/// A row that was changed.
#[derive(Debug)]
pub(crate) struct PendingRow {
    /// What it is now; `None` was deleted.
    pub(crate) row: Option<Vec<u8>>,
    /// Whether it was there before the batch, where that is known.
    pub(crate) was_there: Option<bool>,
}

impl Pending {
    pub(crate) fn set_row(&mut self, key: &[u8], row: Option<Vec<u8>>, was_there: Option<bool>) {
        if let Some(known) = self.rows.get_mut(key) {
            known.row = row;
        } else {
            self.rows
                .insert(key.to_vec(), PendingRow { row, was_there });
        }
    }
}
