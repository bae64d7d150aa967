//! Reading change events.

use std::ops::Range;

use crate::Error;
use crate::cell::Cell;
use crate::envelope::{Op, SnapshotMark};
use crate::position::Lsn;
use crate::record::FieldInfo;

/// A compiled plan that reads events written with one schema.
#[derive(Debug)]
pub struct EventDecoder {}

/// What an event says beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// What happened.
    pub op: Op,
    /// Whether the row before the change was decoded.
    pub has_before: bool,
    /// Whether the row after the change was decoded.
    pub has_after: bool,
    /// `source.ts_us`, else `source.ts_ms` in microseconds.
    pub ts_us: Option<i64>,
    /// `source.txId`.
    pub tx_id: Option<i64>,
    /// `source.lsn`.
    pub lsn: Option<Lsn>,
    /// `source.snapshot`.
    pub snapshot: SnapshotMark,
    /// Where in the message the Avro record of `after` lies.
    pub after_range: Option<Range<usize>>,
}

impl EventDecoder {
    /// Compiles the plan from the envelope's schema.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::UnsupportedField`] (definite).
    pub fn compile(writer_schema: &str) -> Result<Self, Error> {
        let _ = writer_schema;
        unimplemented!()
    }

    /// Returns the columns of `before` and `after`.
    #[must_use]
    pub fn columns(&self) -> &[FieldInfo] {
        unimplemented!()
    }

    /// Decodes a message, with its prefix, whose schema id the caller has looked at. The rows are
    /// replaced; a row that the event lacks is left empty.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if the bytes are no message of the schema.
    pub fn decode<'a>(
        &self,
        value: &'a [u8],
        before: &mut Vec<Cell<'a>>,
        after: &mut Vec<Cell<'a>>,
    ) -> Result<EventHead, Error> {
        let _ = (value, before, after);
        unimplemented!()
    }
}
