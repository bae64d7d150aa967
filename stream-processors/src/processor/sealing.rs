//! The end of a batch: sealed, committed, settled; or aborted.

use std::sync::Arc;

use super::{Processor, count};
use crate::Error;
use crate::pending::Pending;
use crate::position::InputPosition;
use crate::store::{Store, StoreBatch, StorePosition};
use crate::view::View;

/// A batch that is on its way: into Kafka, and then into the store.
#[derive(Debug)]
pub struct Sealed {
    batch: StoreBatch,
    position: StorePosition,
    /// What is saved once it is settled.
    input: (InputPosition, u64),
}

impl Sealed {
    /// Brings the batch, which was committed, into the store of its processor.
    ///
    /// # Errors
    /// [`Error::Store`]. The store is then behind; a new start brings it up.
    pub fn enter(&self, store: &mut impl Store) -> Result<(), Error> {
        store.apply(&self.batch, &self.position)
    }
}

impl<S: Store> Processor<S> {
    /// Seals the batch, which is to be committed with the positions last returned; the one sealed
    /// before must be settled. Whoever commits it lets it [enter](Sealed::enter) the store.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn seal(&mut self) -> Result<Arc<Sealed>, Error> {
        debug_assert!(self.sealed.is_none(), "a sealed batch is not settled");
        let batch = self.take_batch()?;
        let sealed = Arc::new(Sealed {
            batch,
            position: self.store_position(),
            input: (self.position.clone(), self.rows),
        });
        self.sealed = Some(Arc::clone(&sealed));
        Ok(sealed)
    }

    /// Says that the sealed batch is committed and has entered the store.
    pub fn settled(&mut self) {
        if let Some(sealed) = self.sealed.take() {
            self.saved = sealed.input.clone();
            self.gone.clear();
            self.views.iter_mut().for_each(View::settled);
        }
    }

    /// Says that the sealed batch was committed, or the current one where none is sealed, with the
    /// positions last returned before: it enters the store.
    ///
    /// # Errors
    /// [`Error::Store`]. The store is then behind; a new start brings it up.
    pub fn committed(&mut self) -> Result<(), Error> {
        let sealed = match &self.sealed {
            Some(sealed) => Arc::clone(sealed),
            None => self.seal()?,
        };
        sealed.enter(&mut self.store)?;
        self.settled();
        Ok(())
    }

    /// Forgets the batch, and the sealed one, which was not committed.
    pub fn aborted(&mut self) {
        (self.position, self.rows) = self.saved.clone();
        self.sealed = None;
        self.pending = Pending::default();
        self.views.iter_mut().for_each(View::aborted);
    }

    /// Takes what the batch has changed, and counts the rows once it has entered.
    fn take_batch(&mut self) -> Result<StoreBatch, Error> {
        let mut batch = StoreBatch::default();
        for (key, changed) in std::mem::take(&mut self.pending).rows {
            let was_there = match changed.was_there {
                Some(was_there) => was_there,
                None => self.store.has_row(&key)?,
            };
            self.rows = count(self.rows, was_there, changed.row.is_some());
            batch.rows.push((key, changed.row));
        }
        for view in &mut self.views {
            view.seal(&mut batch);
        }
        Ok(batch)
    }
}
