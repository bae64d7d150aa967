//! From records to changes of a table: flat records of views, and change events of tables.
//!
//! Each schema id has its own compiled decoder, and each decoder its places in the target, found by
//! the columns' names. A column that a record's schema lacks is NULL.

use std::collections::HashMap;
use std::sync::Arc;

use hutong_connectors_postgres::sink::{Changes, Target};
use hutong_schemas::cell::Cell;
use hutong_schemas::class::Class;
use hutong_schemas::envelope::Op;
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{FieldInfo, RecordDecoder};
use hutong_schemas::wire;
use hutong_transport::reader::Message;

use super::stamp::Stamp;
use crate::schema_cache::SchemaCache;
use crate::task::TaskError;

/// The decoders of all schemas that an input's records have named.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoders {
    keys: HashMap<SchemaId, Arc<RecordDecoder>>,
    values: HashMap<SchemaId, Arc<ValueDecoder>>,
}

/// How a value is read.
#[derive(Debug)]
pub(super) enum ValueDecoder {
    /// A row of a view.
    Row(RecordDecoder),
    /// A change event of a table.
    Event(EventDecoder),
}

impl ValueDecoder {
    fn compile(schema: &str) -> Result<Self, TaskError> {
        if is_envelope(schema) {
            Ok(Self::Event(EventDecoder::compile(schema)?))
        } else {
            Ok(Self::Row(RecordDecoder::compile(schema)?))
        }
    }

    pub(super) fn fields(&self) -> &[FieldInfo] {
        match self {
            Self::Row(decoder) => decoder.fields(),
            Self::Event(decoder) => decoder.columns(),
        }
    }
}

fn is_envelope(schema: &str) -> bool {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(schema);
    parsed.is_ok_and(|schema| schema["name"] == "Envelope")
}

impl Decoders {
    /// Compiles the decoder of a key's schema, unless it is known.
    pub(super) async fn key(
        &mut self,
        schemas: &SchemaCache,
        id: SchemaId,
    ) -> Result<Arc<RecordDecoder>, TaskError> {
        if let Some(known) = self.keys.get(&id) {
            return Ok(Arc::clone(known));
        }
        let schema = schemas.schema(id).await?;
        let decoder = Arc::new(RecordDecoder::compile(&schema)?);
        self.keys.insert(id, Arc::clone(&decoder));
        Ok(decoder)
    }

    /// Compiles the decoder of a value's schema, unless it is known.
    pub(super) async fn value(
        &mut self,
        schemas: &SchemaCache,
        id: SchemaId,
    ) -> Result<Arc<ValueDecoder>, TaskError> {
        if let Some(known) = self.values.get(&id) {
            return Ok(Arc::clone(known));
        }
        let schema = schemas.schema(id).await?;
        let decoder = Arc::new(ValueDecoder::compile(&schema)?);
        self.values.insert(id, Arc::clone(&decoder));
        Ok(decoder)
    }

    /// Compiles what a record needs and returns the fields of its value if they were not known.
    pub(super) async fn prepare(
        &mut self,
        schemas: &SchemaCache,
        message: &Message,
    ) -> Result<Option<Arc<ValueDecoder>>, TaskError> {
        // Only a truncation may have no key, which shows when it is decoded.
        if let Some(key) = message.key.as_deref() {
            self.key(schemas, wire::split(key)?.0).await?;
        }
        let Some(value) = message.value.as_deref() else {
            return Ok(None);
        };
        let id = wire::split(value)?.0;
        if self.values.contains_key(&id) {
            return Ok(None);
        }
        self.value(schemas, id).await.map(Some)
    }

    /// Returns where a prepared record comes from. A tombstone of a table's topic belongs to the
    /// deletion before it.
    pub(super) fn stamp(&self, message: &Message, before: Stamp) -> Result<Stamp, TaskError> {
        if let Some(header) = &message.header_hutong {
            return Stamp::of_header(header);
        }
        let Some(value) = message.value.as_deref() else {
            return Ok(before);
        };
        match &*self.values[&wire::split(value)?.0] {
            ValueDecoder::Row(_) => Ok(Stamp::default()),
            ValueDecoder::Event(decoder) => {
                let (mut old, mut new) = (Vec::new(), Vec::new());
                let head = decoder.decode(value, &mut old, &mut new)?;
                // A row of a snapshot names the snapshot's transaction, which may end anywhere.
                let tx = head.tx_id.filter(|_| head.op != Op::Read);
                let ts_us = head.ts_us.filter(|_| head.op != Op::Read);
                Ok(Stamp { tx, ts_us })
            }
        }
    }

    /// Returns what prepared records do to a target: the last record of each key decides, and what it
    /// leaves open is taken from the ones before it. `changes` is empty and of the target.
    pub(super) fn changes(
        &self,
        target: &Target,
        messages: &[Message],
        mut changes: Changes,
    ) -> Result<Changes, TaskError> {
        let collapsed = self.collapse(messages)?;
        if collapsed.is_truncated {
            changes.truncate();
        }
        let mut reading = Reading::new(self, target);
        for index in collapsed.last {
            let mut row = std::mem::take(&mut reading.row);
            let mut then = reading.read(&messages[index], &mut row)?;
            let mut earlier = collapsed.before[index];
            while let (Then::Upsert, Some(index)) = (then, earlier) {
                if !row.iter().any(is_unavailable) {
                    break;
                }
                let mut older = std::mem::take(&mut reading.older);
                match reading.read(&messages[index], &mut older)? {
                    Then::Upsert => complete(&mut row, &older),
                    // The row that the later record completes is gone by then.
                    Then::Delete => then = Then::Delete,
                }
                earlier = collapsed.before[index];
                reading.older = older;
            }
            match then {
                Then::Upsert => changes.upsert(target, &row)?,
                Then::Delete => changes.delete(target, &row)?,
            }
            reading.row = row;
        }
        Ok(changes)
    }

    /// Keys are compared by their bytes behind the schema id.
    fn collapse(&self, messages: &[Message]) -> Result<Collapsed, TaskError> {
        let mut last: HashMap<&[u8], usize> = HashMap::with_capacity(messages.len());
        let mut before = vec![None; messages.len()];
        let mut is_truncated = false;
        for (index, message) in messages.iter().enumerate() {
            match message.key.as_deref() {
                Some(key) => before[index] = last.insert(wire::split(key)?.1, index),
                None if self.is_truncation(message)? => {
                    is_truncated = true;
                    last.clear();
                }
                None => return Err(no_key()),
            }
        }
        let mut last: Vec<usize> = last.into_values().collect();
        last.sort_unstable();
        Ok(Collapsed {
            last,
            before,
            is_truncated,
        })
    }

    fn is_truncation(&self, message: &Message) -> Result<bool, TaskError> {
        let Some(value) = message.value.as_deref() else {
            return Ok(false);
        };
        match &*self.values[&wire::split(value)?.0] {
            ValueDecoder::Row(_) => Ok(false),
            ValueDecoder::Event(decoder) => {
                let head = decoder.decode(value, &mut Vec::new(), &mut Vec::new())?;
                Ok(head.op == Op::Truncate)
            }
        }
    }
}

/// The records of a batch by their keys.
struct Collapsed {
    /// The last record of each key, in the order of the records.
    last: Vec<usize>,
    /// For each record the one before it of the same key.
    before: Vec<Option<usize>>,
    /// Before all of them the table was emptied.
    is_truncated: bool,
}

/// What a record does to its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Upsert,
    Delete,
}

fn is_unavailable(cell: &Cell<'_>) -> bool {
    matches!(cell, Cell::Unavailable)
}

/// Fills what a later record leaves open.
fn complete<'a>(row: &mut [Cell<'a>], older: &[Cell<'a>]) {
    for (cell, older) in row.iter_mut().zip(older) {
        if is_unavailable(cell) {
            *cell = *older;
        }
    }
}

/// Reads records into rows of a target, in memory that is reused from record to record.
struct Reading<'d, 't, 'a> {
    decoders: &'d Decoders,
    places: Places<'t>,
    cells: Vec<Cell<'a>>,
    before: Vec<Cell<'a>>,
    row: Vec<Cell<'a>>,
    older: Vec<Cell<'a>>,
}

impl<'d, 't, 'a> Reading<'d, 't, 'a> {
    fn new(decoders: &'d Decoders, target: &'t Target) -> Self {
        Self {
            decoders,
            places: Places::new(target),
            cells: Vec::new(),
            before: Vec::new(),
            row: Vec::new(),
            older: Vec::new(),
        }
    }

    /// Reads a record's row, or of a deletion its key.
    fn read(&mut self, message: &'a Message, row: &mut Vec<Cell<'a>>) -> Result<Then, TaskError> {
        let key = message.key.as_deref().ok_or_else(no_key)?;
        let key_id = wire::split(key)?.0;
        row.clear();
        row.resize(self.places.target.columns().len(), Cell::Null);
        let decoder = &self.decoders.keys[&key_id];
        decoder.decode(key, &mut self.cells)?;
        put(
            self.places.of_key(key_id, decoder.fields()),
            &self.cells,
            row,
        );
        let Some(value) = message.value.as_deref() else {
            return Ok(Then::Delete);
        };
        let id = wire::split(value)?.0;
        let decoder = &self.decoders.values[&id];
        match &**decoder {
            ValueDecoder::Row(decoder) => decoder.decode(value, &mut self.cells)?,
            ValueDecoder::Event(decoder) => {
                let head = decoder.decode(value, &mut self.before, &mut self.cells)?;
                if head.op == Op::Delete || !head.has_after {
                    return Ok(Then::Delete);
                }
            }
        }
        put(self.places.of_value(id, decoder.fields()), &self.cells, row);
        Ok(Then::Upsert)
    }
}

fn no_key() -> TaskError {
    TaskError::new(
        Class::Definite,
        "a record without a key cannot be delivered into a table",
    )
    .with_hint("deliver a view, or the topic of a table with a primary key")
}

/// For each field of a schema its column in the target.
struct Places<'t> {
    target: &'t Target,
    keys: HashMap<SchemaId, Vec<Option<usize>>>,
    values: HashMap<SchemaId, Vec<Option<usize>>>,
}

impl<'t> Places<'t> {
    fn new(target: &'t Target) -> Self {
        Self {
            target,
            keys: HashMap::new(),
            values: HashMap::new(),
        }
    }

    fn of_key(&mut self, id: SchemaId, fields: &[FieldInfo]) -> &[Option<usize>] {
        let target = self.target;
        self.keys.entry(id).or_insert_with(|| find(target, fields))
    }

    fn of_value(&mut self, id: SchemaId, fields: &[FieldInfo]) -> &[Option<usize>] {
        let target = self.target;
        self.values
            .entry(id)
            .or_insert_with(|| find(target, fields))
    }
}

fn find(target: &Target, fields: &[FieldInfo]) -> Vec<Option<usize>> {
    let column = |field: &FieldInfo| target.columns().iter().position(|c| c.name == field.name);
    fields.iter().map(column).collect()
}

fn put<'a>(places: &[Option<usize>], cells: &[Cell<'a>], row: &mut [Cell<'a>]) {
    for (place, cell) in places.iter().zip(cells) {
        if let Some(column) = place {
            row[*column] = *cell;
        }
    }
}
