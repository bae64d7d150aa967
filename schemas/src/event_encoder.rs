//! The plan that writes the keys and events of one version of one table.
//!
//! What does not change from event to event is encoded when the plan is compiled: the frame, the
//! beginning of `source`, its database, its schema and table, each snapshot mark. Writing an event
//! is then a walk over the row's cells between such constants, into the caller's buffer, without
//! allocating.

use crate::Error;
use crate::binary::{Reader, put_bytes, put_long};
use crate::cell::Cell;
use crate::codec::{BRANCH_0, BRANCH_1, Column, Nullability, check_length};
use crate::digits::{self, digits};
use crate::envelope::{EventSource, Op, SnapshotMark, event_schemas, schema_default};
use crate::form::{Form, put_default, put_zero};
use crate::position::{Lsn, SchemaId};
use crate::table::{self, TableSchema};
use crate::wire;

/// A compiled plan that writes the keys and events of one version of one table.
#[derive(Debug)]
pub struct EventEncoder {
    table: String,
    columns: Vec<RowColumn>,
    /// Indices into `columns`, in the order of the key.
    key: Vec<usize>,
    key_prefix: Option<[u8; wire::PREFIX_BYTES]>,
    value_prefix: [u8; wire::PREFIX_BYTES],
    /// `source` up to `ts_ms`: version, connector, name.
    source_head: Vec<u8>,
    /// `source.snapshot` and `source.db`, by the mark's place in [`SnapshotMark::ALL`].
    snapshot_and_database: [Vec<u8>; SnapshotMark::ALL.len()],
    /// `source.schema` and `source.table`.
    source_table: Vec<u8>,
}

#[derive(Debug)]
struct RowColumn {
    column: Column,
    /// What a `before` that only knows its key has in this column, if it cannot be NULL.
    unknown: Vec<u8>,
}

/// `source.version`: ours.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl EventEncoder {
    /// Compiles the plan. `topic_prefix` becomes `source.name`, `database` `source.db`.
    ///
    /// # Errors
    /// As [`event_schemas`]; and [`Error::Schema`] (definite) for a default that is not of its
    /// column's type.
    pub fn compile(
        topic_prefix: &str,
        database: &str,
        table: &TableSchema,
        key_id: Option<SchemaId>,
        value_id: SchemaId,
    ) -> Result<Self, Error> {
        event_schemas(&format!("{topic_prefix}.{}", table.id), table)?;
        let columns = table.columns.iter().map(RowColumn::compile);

        let mut source_head = Vec::new();
        for text in [VERSION, "postgresql", topic_prefix] {
            put_bytes(text.as_bytes(), &mut source_head);
        }
        let mut source_table = Vec::new();
        for text in [&table.id.schema, &table.id.table] {
            put_bytes(text.as_bytes(), &mut source_table);
        }
        let snapshot_and_database = SnapshotMark::ALL.map(|mark| {
            let mut bytes = vec![BRANCH_0];
            put_bytes(mark.as_str().as_bytes(), &mut bytes);
            put_bytes(database.as_bytes(), &mut bytes);
            bytes
        });
        Ok(Self {
            table: table.id.to_string(),
            columns: columns.collect::<Result<_, _>>()?,
            key: table.key.clone(),
            key_prefix: key_id.filter(|_| !table.key.is_empty()).map(wire::prefix),
            value_prefix: wire::prefix(value_id),
            source_head,
            snapshot_and_database,
            source_table,
        })
    }

    /// Appends the message key of `row`, which has all columns.
    ///
    /// # Errors
    /// If a cell does not fit its column, or the table has no key; `out` is then as it was.
    pub fn key(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        self.try_key(row, out).inspect_err(|_| out.truncate(start))
    }

    fn try_key(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        self.check_length(row)?;
        let prefix = self.key_prefix.ok_or_else(|| self.no_key())?;
        out.extend_from_slice(&prefix);
        for index in &self.key {
            let column = &self.columns[*index].column;
            if matches!(row[*index], Cell::Unavailable) {
                return Err(Error::UnexpectedUnavailable(column.info.name.clone()));
            }
            column.encode(&row[*index], out)?;
        }
        Ok(())
    }

    /// Appends an event.
    ///
    /// In `before`, a column that cannot be NULL may be [`Cell::Null`], which means that only the
    /// key was logged: its default or its type's zero is written, as Debezium does. A NULL of a
    /// nullable column is always written as NULL.
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
        let start = out.len();
        self.try_event(op, before, after, source, out)
            .inspect_err(|_| out.truncate(start))
    }

    fn try_event(
        &self,
        op: Op,
        before: Option<&[Cell<'_>]>,
        after: Option<&[Cell<'_>]>,
        source: &EventSource,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        out.extend_from_slice(&self.value_prefix);
        match before {
            Some(row) => self.before(row, out)?,
            None => out.push(BRANCH_0),
        }
        match after {
            Some(row) => self.after(row, out)?,
            None => out.push(BRANCH_0),
        }
        self.source(source, out);
        // No transaction metadata.
        out.push(BRANCH_0);
        put_bytes(op.as_str().as_bytes(), out);
        put_optional_long(Some(source.now_us.div_euclid(1000)), out);
        put_optional_long(Some(source.now_us), out);
        put_optional_long(Some(source.now_us.saturating_mul(1000)), out);
        Ok(())
    }

    fn before(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        self.check_length(row)?;
        out.push(BRANCH_1);
        for (row_column, cell) in self.columns.iter().zip(row) {
            let RowColumn { column, unknown } = row_column;
            if matches!(cell, Cell::Null) && column.nullability == Nullability::Required {
                out.extend_from_slice(unknown);
            } else {
                column.encode(cell, out)?;
            }
        }
        Ok(())
    }

    fn after(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        self.check_length(row)?;
        out.push(BRANCH_1);
        for (row_column, cell) in self.columns.iter().zip(row) {
            row_column.column.encode(cell, out)?;
        }
        Ok(())
    }

    fn source(&self, source: &EventSource, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.source_head);
        put_long(source.ts_us.div_euclid(1000), out);
        out.extend_from_slice(self.snapshot_and_database(source.snapshot));
        put_sequence(source.last_commit_lsn, source.lsn, out);
        put_optional_long(Some(source.ts_us), out);
        put_optional_long(Some(source.ts_us.saturating_mul(1000)), out);
        out.extend_from_slice(&self.source_table);
        put_optional_long(source.tx_id, out);
        put_optional_long(source.lsn.map(|lsn| lsn.0.cast_signed()), out);
        // xmin, origin, origin_lsn.
        out.extend_from_slice(&[BRANCH_0; 3]);
    }

    fn snapshot_and_database(&self, mark: SnapshotMark) -> &[u8] {
        let place = SnapshotMark::ALL.iter().position(|known| *known == mark);
        &self.snapshot_and_database[place.expect("every mark is in the list of all")]
    }

    /// Reads a message key into the row's key columns; all others become NULL.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if the bytes are no such key.
    pub fn key_cells<'a>(&self, key: &'a [u8], row: &mut Vec<Cell<'a>>) -> Result<(), Error> {
        if self.key.is_empty() {
            return Err(self.no_key());
        }
        let (_, body) = wire::split(key)?;
        let mut reader = Reader::new(body);
        row.clear();
        row.resize(self.columns.len(), Cell::Null);
        for index in &self.key {
            row[*index] = self.columns[*index].column.decode(&mut reader)?;
        }
        Ok(reader.finish()?)
    }

    fn check_length(&self, row: &[Cell<'_>]) -> Result<(), Error> {
        check_length(self.columns.len(), row)
    }

    fn no_key(&self) -> Error {
        Error::NoKey(self.table.clone())
    }
}

impl RowColumn {
    fn compile(column: &table::Column) -> Result<Self, Error> {
        let default = schema_default(column);
        let is_optional = column.nullable || Form::of(column.sql_type).is_always_optional();
        let nullability = match (is_optional, &default) {
            (false, _) => Nullability::Required,
            (true, None) => Nullability::NullFirst,
            (true, Some(_)) => Nullability::NullLast,
        };
        let compiled = Column::new(&column.name, column.sql_type, nullability);
        let mut unknown = Vec::new();
        match default {
            None => put_zero(column.sql_type, &mut unknown),
            Some(default) => {
                put_default(compiled.form, &default, &mut unknown).ok_or_else(|| {
                    Error::Schema(format!(
                        "the default of column \"{}\" is not of type {}",
                        column.name, column.sql_type
                    ))
                })?;
            }
        }
        Ok(Self {
            column: compiled,
            unknown,
        })
    }
}

fn put_optional_long(value: Option<i64>, out: &mut Vec<u8>) {
    match value {
        Some(value) => {
            out.push(BRANCH_1);
            put_long(value, out);
        }
        None => out.push(BRANCH_0),
    }
}

/// Appends `source.sequence`, the JSON text `["<last commit>","<this change>"]` in decimals.
fn put_sequence(last_commit: Option<Lsn>, change: Option<Lsn>, out: &mut Vec<u8>) {
    let mut text = Sequence {
        bytes: [0; SEQUENCE_BYTES_MAX],
        length: 0,
    };
    text.push(b"[");
    text.push_lsn(last_commit);
    text.push(b",");
    text.push_lsn(change);
    text.push(b"]");
    out.push(BRANCH_1);
    put_bytes(&text.bytes[..text.length], out);
}

/// Two numbers of 20 digits in quotes, a comma and brackets.
const SEQUENCE_BYTES_MAX: usize = 2 * 22 + 3;

struct Sequence {
    bytes: [u8; SEQUENCE_BYTES_MAX],
    length: usize,
}

impl Sequence {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn push_lsn(&mut self, lsn: Option<Lsn>) {
        let Some(Lsn(number)) = lsn else {
            return self.push(b"null");
        };
        self.push(b"\"");
        self.push(digits::<10>(number, &mut digits::Buffer::default()));
        self.push(b"\"");
    }
}
