//! What another policy would move: the rows of the store under both, counted and nothing else.

use std::collections::HashMap;

use hutong_policies::{Decision, Evaluator, ViewTask};
use hutong_schemas::cell::Cell;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::FieldInfo;
use hutong_schemas::wire;
use serde::Serialize;

use crate::Error;
use crate::decoders::{Decoders, fields};
use crate::store::Store;

/// Rows that another policy would move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Hidden now, visible then.
    pub enter: u64,
    /// Visible now, hidden then.
    pub leave: u64,
    /// Visible now and then.
    pub stay: u64,
}

/// A count on its way. It goes through the rows in key order, in parts, beside whoever writes them,
/// so rows that change meanwhile are counted before or after their change.
#[derive(Debug)]
pub struct Preview {
    now: ViewTask,
    then: ViewTask,
    secret: Option<Vec<u8>>,
    decoders: Decoders,
    evaluators: HashMap<SchemaId, (Evaluator, Evaluator)>,
    cursor: Option<Vec<u8>>,
    counts: Counts,
    scratch: (Vec<u8>, Vec<u8>),
}

/// What a part of a count came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Every row was looked at.
    Done(Counts),
    /// There are more.
    More,
    /// A schema must be given to [`Preview::add_schema`] first.
    Needs(SchemaId),
}

/// Why rows cannot be counted.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// The store or a row in it cannot be read.
    #[error("could not read the rows of the table")]
    Rows(#[from] Error),
    /// One of the policies cannot be applied to the rows.
    #[error(transparent)]
    Policy(#[from] hutong_policies::Error),
}

impl Preview {
    /// Begins to compare a view as it is with what it would be.
    #[must_use]
    pub fn new(now: ViewTask, then: ViewTask, secret: Option<Vec<u8>>) -> Self {
        Self {
            now,
            then,
            secret,
            decoders: Decoders::default(),
            evaluators: HashMap::new(),
            cursor: None,
            counts: Counts::default(),
            scratch: (Vec::new(), Vec::new()),
        }
    }

    /// Gives a schema that was asked for.
    ///
    /// # Errors
    /// [`Error::Schema`] if it is none that the platform writes.
    pub fn add_schema(&mut self, id: SchemaId, schema: &str) -> Result<(), Error> {
        self.decoders.add(id, schema)
    }

    /// Looks at up to `looks_max` further rows.
    ///
    /// # Errors
    /// [`PreviewError`]; a person must know, and the count ends.
    pub fn advance<S: Store>(
        &mut self,
        store: &S,
        looks_max: u64,
    ) -> Result<Counted, PreviewError> {
        let mut outcome = Counted::Done(self.counts);
        let (mut looks, mut failed) = (0, None);
        let cursor = self.cursor.clone();
        store.rows_after(cursor.as_deref(), &mut |key, row| {
            if looks >= looks_max {
                outcome = Counted::More;
                return Ok(false);
            }
            match self.look(row) {
                Ok(None) => {}
                Ok(Some(schema)) => {
                    outcome = Counted::Needs(schema);
                    return Ok(false);
                }
                Err(error) => {
                    failed = Some(error);
                    return Ok(false);
                }
            }
            looks += 1;
            self.cursor = Some(key.to_vec());
            Ok(true)
        })?;
        match (failed, outcome) {
            (Some(error), _) => Err(error),
            (None, Counted::Done(_)) => Ok(Counted::Done(self.counts)),
            (None, other) => Ok(other),
        }
    }

    fn look(&mut self, row: &[u8]) -> Result<Option<SchemaId>, PreviewError> {
        let unreadable = |source| Error::Input { offset: -1, source };
        let (schema, _) = wire::split(row).map_err(unreadable)?;
        let Some(decoder) = self.decoders.value(schema) else {
            return Ok(Some(schema));
        };
        let columns: &[FieldInfo] = fields(&decoder.row);
        let mut cells: Vec<Cell<'_>> = Vec::with_capacity(columns.len());
        decoder
            .row
            .decode_image(row, &mut cells)
            .map_err(unreadable)?;
        if !self.evaluators.contains_key(&schema) {
            let secret = self.secret.as_deref();
            let pair = (
                Evaluator::of_schema(&self.now, schema, columns, secret)?,
                Evaluator::of_schema(&self.then, schema, columns, secret)?,
            );
            self.evaluators.insert(schema, pair);
        }
        let (now, then) = self
            .evaluators
            .get_mut(&schema)
            .expect("it was just put there");
        let (key, value) = &mut self.scratch;
        let mut is_visible = |evaluator: &mut Evaluator| {
            key.clear();
            value.clear();
            let decision = evaluator.row(&cells, true, key, value)?;
            Ok::<_, hutong_policies::Error>(decision != Decision::Hidden)
        };
        match (is_visible(now)?, is_visible(then)?) {
            (false, true) => self.counts.enter += 1,
            (true, false) => self.counts.leave += 1,
            (true, true) => self.counts.stay += 1,
            (false, false) => {}
        }
        Ok(None)
    }
}
