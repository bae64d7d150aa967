//! What a start reads again from Kafka: members from the views' topics, rows from the input.

use std::collections::HashMap;
use std::sync::Arc;

use super::{
    Input, Processor, Step, count, known_row, note_row, split_key, split_value, stored_row,
};
use crate::Error;
use crate::position::Progress;
use crate::store::{Member, Members, Store, StoreBatch, StorePosition};
use crate::view::digest;

impl<S: Store> Processor<S> {
    /// Forgets members of those that will be read anew, and of views that are not here.
    pub(super) fn forget_other_members(&mut self, rebuilt: &[usize]) -> Result<(), Error> {
        for id in self.store.views()? {
            let keeps = match self.views.iter().position(|view| view.id == id) {
                // A view that has expired holds nothing, whatever this store saw of it last.
                Some(index) => !rebuilt.contains(&index) && !self.has_expired(index),
                None => false,
            };
            if !keeps {
                self.store.clear_members(&id)?;
            }
        }
        Ok(())
    }

    fn has_expired(&self, view: usize) -> bool {
        matches!(self.views[view].position.progress, Progress::Expired)
    }

    /// Puts a part of a view's topic, read from its beginning, into its members.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Input`].
    pub fn rebuild_members<'a>(
        &mut self,
        view: usize,
        records: impl Iterator<Item = Input<'a>>,
    ) -> Result<(), Error> {
        let id = self.views[view].id.clone();
        let mut members = Members::default();
        for record in records {
            let (_, key) = split_key(&record)?;
            let member = record.value.map(|value| Member {
                digest: digest(value),
                mark: 0,
            });
            members.insert(key.to_vec(), member);
        }
        self.members_have_rows &= members.is_empty();
        let batch = StoreBatch {
            members: vec![(id, Arc::new(members))],
            ..StoreBatch::default()
        };
        let position = self.unknown_members()?;
        self.store.apply(&batch, &position)
    }

    /// Ends the rebuilding of a view's members.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn members_rebuilt(&mut self, view: usize) -> Result<(), Error> {
        let view = &mut self.views[view];
        view.learn_members(&self.store)?;
        view.save();
        Ok(())
    }

    /// Puts input records from before the committed position into the rows; `next_offset` is the one
    /// behind them.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Input`], [`Error::Unexpected`].
    pub fn replay_rows<'a>(
        &mut self,
        records: impl Iterator<Item = Input<'a>>,
        next_offset: i64,
    ) -> Result<Step, Error> {
        let mut batch = StoreBatch::default();
        for record in records {
            let (_, key) = split_key(&record)?;
            let Some(value) = record.value else {
                batch.rows.push((key.to_vec(), None));
                continue;
            };
            let (schema, _) = split_value(&record, value)?;
            let Some(decoder) = self.decoders.value(schema) else {
                return Ok(Step::Needs(schema));
            };
            let (mut before, mut after) = (Vec::new(), Vec::new());
            let head = decoder
                .event
                .decode(value, &mut before, &mut after)
                .map_err(|source| Error::Input {
                    offset: record.offset,
                    source,
                })?;
            batch
                .rows
                .push((key.to_vec(), stored_row(value, head.after_range)));
        }
        let mut position = self.unknown_members()?;
        position.next_offset = next_offset;
        self.count_replayed(&batch)?;
        position.rows = Some(self.rows);
        self.store.apply(&batch, &position)?;
        // Nothing can take this back.
        self.saved.1 = self.rows;
        Ok(Step::Done)
    }

    /// Counts the rows once a batch of records from before the position has entered.
    fn count_replayed(&mut self, batch: &StoreBatch) -> Result<(), Error> {
        // A key may stand in a batch more than once; the last counts.
        let mut seen = HashMap::new();
        for (key, row) in &batch.rows {
            let was_there = match seen.insert(key.as_slice(), row.is_some()) {
                Some(was_there) => was_there,
                None => match known_row(self.known_rows.as_ref(), key) {
                    Some(was_there) => was_there,
                    None => self.store.has_row(key)?,
                },
            };
            self.rows = count(self.rows, was_there, row.is_some());
        }
        for (key, row) in &batch.rows {
            if row.is_some() {
                note_row(&mut self.known_rows, key);
            }
        }
        Ok(())
    }

    /// Says that rows and members are those of the committed position. The store will say so with
    /// the next batch: a difference run that begins again because marks were lost must be committed
    /// by then, else a later start would sweep members for want of marks.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn rebuilt(&mut self) -> Result<(), Error> {
        let total = self.rows;
        for view in &mut self.views {
            if matches!(view.position.progress, Progress::Filling { .. }) {
                view.position.total = view.position.total.max(total);
                view.save();
            }
        }
        Ok(())
    }

    /// Returns the store's position with members that reflect no commit.
    fn unknown_members(&self) -> Result<StorePosition, Error> {
        let stored = self.store.position()?;
        Ok(StorePosition {
            seq: 0,
            next_offset: stored.map_or(0, |stored| stored.next_offset),
            ..self.store_position()
        })
    }
}
