//! Change events in Debezium's envelope.

use crate::Error;
use crate::cell::Cell;
use crate::position::{Lsn, SchemaId};
use crate::table::TableSchema;

/// The Avro schemas of a table's topic, as JSON text in the property order of Confluent's converter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSchemas {
    /// The key's schema, if the table has a key.
    pub key: Option<String>,
    /// The envelope's schema.
    pub value: String,
}

/// Returns the schemas of the topic `<prefix>.<schema>.<table>`.
///
/// # Errors
/// [`Error::NotAnAvroName`] (definite) for names that Avro does not allow.
pub fn event_schemas(topic: &str, table: &TableSchema) -> Result<EventSchemas, Error> {
    let _ = (topic, table);
    unimplemented!()
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// An insert, `c`.
    Create,
    /// An update, `u`.
    Update,
    /// A delete, `d`.
    Delete,
    /// A row read by a snapshot, `r`.
    Read,
    /// All rows are gone, `t`.
    Truncate,
}

/// Where in a snapshot an event stands: the field `source.snapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotMark {
    /// Not part of a snapshot.
    False,
    /// The first row of a snapshot.
    First,
    /// A row of a snapshot.
    True,
    /// The first row of a table.
    FirstInDataCollection,
    /// The last row of a table.
    LastInDataCollection,
    /// The last row of a snapshot.
    Last,
    /// A row of an incremental snapshot.
    Incremental,
}

/// Where an event comes from. Times are microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSource {
    /// When the source committed the transaction; for a snapshot, when it was taken.
    pub ts_us: i64,
    /// Whether and where in a snapshot.
    pub snapshot: SnapshotMark,
    /// The source transaction.
    pub tx_id: Option<i64>,
    /// Where the change stands in the source's log.
    pub lsn: Option<Lsn>,
    /// Where the last commit before this change stands.
    pub last_commit_lsn: Option<Lsn>,
    /// The connector's clock.
    pub now_us: i64,
}

/// A compiled plan that writes the keys and events of one version of one table.
#[derive(Debug)]
pub struct EventEncoder {}

impl EventEncoder {
    /// Compiles the plan. `topic_prefix` becomes `source.name`, `database` `source.db`.
    ///
    /// # Errors
    /// As [`event_schemas`].
    pub fn compile(
        topic_prefix: &str,
        database: &str,
        table: &TableSchema,
        key_id: Option<SchemaId>,
        value_id: SchemaId,
    ) -> Result<Self, Error> {
        let _ = (topic_prefix, database, table, key_id, value_id);
        unimplemented!()
    }

    /// Appends the message key of `row`, which has all columns.
    ///
    /// # Errors
    /// If a cell does not fit its column, or the table has no key; `out` is then as it was.
    pub fn key(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        let _ = (row, out);
        unimplemented!()
    }

    /// Appends an event.
    ///
    /// # Errors
    /// If a cell does not fit its column; `out` is then as it was.
    pub fn event(
        &self,
        op: Op,
        before: Option<&[Cell<'_>]>,
        after: Option<&[Cell<'_>]>,
        source: &EventSource,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let _ = (op, before, after, source, out);
        unimplemented!()
    }

    /// Reads a message key into the row's key columns; all others become NULL.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if the bytes are no such key.
    pub fn key_cells<'a>(&self, key: &'a [u8], row: &mut Vec<Cell<'a>>) -> Result<(), Error> {
        let _ = (key, row);
        unimplemented!()
    }
}
