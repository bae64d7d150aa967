//! What is compiled once per version of a table: how its rows are decoded and its events written.

use std::sync::Arc;

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::{SourceHost, TableAnnouncement, TableTopic, WantedTopic};
use hutong_schemas::batch::{Record, RecordBatch};
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, event_schemas};
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::table::TableSchema;
use hutong_schemas::wire;

use super::error::Error;
use super::pgoutput::{Tuple, Value};
use super::text::{self, Arena, Malformed};

/// A version of a captured table, ready to write events.
#[derive(Debug)]
pub(crate) struct TablePlan {
    pub(crate) schema: TableSchema,
    pub(crate) topic: Arc<str>,
    /// Whether the topic was there before, so that it may hold rows.
    pub(crate) topic_existed: bool,
    encoder: EventEncoder,
    key_schema_id: Option<SchemaId>,
    value_schema: String,
    /// Which columns of a received row are captured, in the order of the row.
    pub(crate) captured: Vec<bool>,
    /// What a row needs in the arena beyond the length of its texts.
    room: usize,
}

/// Makes a table's topic, registers its schemas and makes its types known.
pub(crate) async fn announce(
    host: &dyn SourceHost,
    config: &Config,
    schema: TableSchema,
    captured: Vec<bool>,
) -> Result<TablePlan, Error> {
    let doing = format!("could not announce table {}", schema.id);
    let topic = topics(host, &[wanted_topic(config, &schema)]).await?.pop();
    let topic = topic.unwrap_or_else(|| Err(Error::Protocol("no topic was made".to_owned())))?;
    let registered = register(host, config, schema, captured).await?;
    let (plan, announcement) = registered.in_topic(topic);
    host.announce_tables(&[announcement])
        .await
        .map_err(|source| Error::Host { doing, source })?;
    Ok(plan)
}

/// Returns the topic that a table needs.
pub(crate) fn wanted_topic(config: &Config, schema: &TableSchema) -> WantedTopic {
    let keyed = !schema.key.is_empty();
    WantedTopic {
        name: topic_name(config, schema),
        keyed,
        partitions: if keyed { config.partitions } else { 1 },
    }
}

/// Makes sure of tables' topics, all at once, and returns them in the order of the question.
pub(crate) async fn topics(
    host: &dyn SourceHost,
    wanted: &[WantedTopic],
) -> Result<Vec<Result<TableTopic, Error>>, Error> {
    let failed = |source| Error::Host {
        doing: "could not create a table's topic".to_owned(),
        source,
    };
    let made = host.ensure_topics(wanted).await.map_err(failed)?;
    let made = made.into_iter().map(|topic| topic.map_err(failed));
    Ok(made.collect())
}

fn topic_name(config: &Config, schema: &TableSchema) -> String {
    format!("{}.{}", config.topic_prefix, schema.id)
}

/// A table whose schemas are registered.
#[derive(Debug)]
pub(crate) struct Registered {
    plan: TablePlan,
    announcement: TableAnnouncement,
}

impl Registered {
    /// Returns what can be used once the table's topic is there.
    pub(crate) fn in_topic(mut self, topic: TableTopic) -> (TablePlan, TableAnnouncement) {
        self.plan.topic_existed = topic.existed;
        self.announcement.partitions = topic.partitions;
        (self.plan, self.announcement)
    }
}

/// Registers a table's schemas and compiles its plan. `captured` says which columns of received rows
/// those of the schema are.
pub(crate) async fn register(
    host: &dyn SourceHost,
    config: &Config,
    schema: TableSchema,
    captured: Vec<bool>,
) -> Result<Registered, Error> {
    let table = schema.id.to_string();
    let row = |source| Error::Row {
        table: table.clone(),
        source,
    };
    let host_error = |doing: &str| {
        let doing = format!("could not {doing} of table {table}");
        move |source| Error::Host { doing, source }
    };
    let topic = topic_name(config, &schema);
    let schemas = event_schemas(&topic, &schema).map_err(row)?;
    let key_id = match &schemas.key {
        Some(key) => Some(
            host.register(&format!("{topic}-key"), key)
                .await
                .map_err(host_error("register the key schema"))?,
        ),
        None => None,
    };
    let value_id = host
        .register(&format!("{topic}-value"), &schemas.value)
        .await
        .map_err(host_error("register the value schema"))?;
    let database = &config.connection.database;
    let encoder = EventEncoder::compile(&config.topic_prefix, database, &schema, key_id, value_id)
        .map_err(row)?;
    let announcement = TableAnnouncement {
        topic: topic.clone(),
        database: database.clone(),
        schema: schema.clone(),
        partitions: config.partitions,
        key_schema_id: key_id,
        value_schema_id: value_id,
    };
    let plan = TablePlan {
        room: schema
            .columns
            .iter()
            .map(|column| text::room(&column.sql_type))
            .sum(),
        topic: Arc::from(topic),
        topic_existed: false,
        encoder,
        key_schema_id: key_id,
        value_schema: schemas.value,
        captured,
        schema,
    };
    Ok(Registered { plan, announcement })
}

impl TablePlan {
    /// Returns what a row of `bytes` bytes of text may need in the arena.
    pub(crate) fn arena_bytes(&self, bytes: usize) -> usize {
        bytes + self.room
    }

    pub(crate) fn is_keyed(&self) -> bool {
        !self.schema.key.is_empty()
    }

    pub(crate) fn decoder(&self) -> Result<EventDecoder, Error> {
        EventDecoder::compile(&self.value_schema).map_err(|source| self.row_error(source))
    }

    /// Decodes a received row into `row`, captured columns only, and returns whether a value of a
    /// captured column was not sent.
    pub(crate) fn decode<'a>(
        &self,
        tuple: Tuple<'a>,
        arena: &mut Arena<'a>,
        row: &mut Vec<Cell<'a>>,
    ) -> Result<bool, Error> {
        if usize::from(tuple.columns) != self.captured.len() {
            return Err(Error::Protocol(format!(
                "a row of {} columns for table {}, which has {}",
                tuple.columns,
                self.schema.id,
                self.captured.len()
            )));
        }
        row.clear();
        row.resize(self.schema.columns.len(), Cell::Null);
        let mut unavailable = false;
        let mut captured = self.captured.iter();
        let mut cells = row.iter_mut().enumerate();
        tuple.each(|value| {
            if captured.next() != Some(&true) {
                return Ok(());
            }
            let Some((index, cell)) = cells.next() else {
                return Err(self.too_many_columns());
            };
            match value {
                Value::Null => {}
                Value::Unchanged => {
                    unavailable = true;
                    *cell = Cell::Unavailable;
                }
                Value::Text(text) => self.decode_cell(index, text, arena, cell)?,
            }
            Ok(())
        })?;
        Ok(unavailable)
    }

    /// Decodes a value of the captured column `index`, or null, to behind those before it.
    pub(crate) fn push_cell<'a>(
        &self,
        index: usize,
        text: Option<&'a [u8]>,
        arena: &mut Arena<'a>,
        row: &mut Vec<Cell<'a>>,
    ) -> Result<(), Error> {
        row.push(Cell::Null);
        match (text, row.last_mut()) {
            (Some(text), Some(cell)) => self.decode_cell(index, text, arena, cell),
            _ => Ok(()),
        }
    }

    /// Decodes one value of the captured column `index` to where it shall be.
    fn decode_cell<'a>(
        &self,
        index: usize,
        text: &'a [u8],
        arena: &mut Arena<'a>,
        cell: &mut Cell<'a>,
    ) -> Result<(), Error> {
        let Some(column) = self.schema.columns.get(index) else {
            return Err(self.too_many_columns());
        };
        text::decode_into(&column.sql_type, text, arena, cell)
            .map_err(|malformed| self.malformed(index, malformed))
    }

    fn too_many_columns(&self) -> Error {
        Error::Protocol(format!("too many columns for {}", self.schema.id))
    }

    fn malformed(&self, index: usize, malformed: Malformed) -> Error {
        let column = &self.schema.columns[index];
        Error::Definite {
            message: format!(
                "table {}, column \"{}\" ({}): {malformed}",
                self.schema.id, column.name, column.sql_type
            ),
            hint: (malformed != Malformed::Value).then(|| {
                format!(
                    "correct the row at the source and read the table again, or leave the column out with column.exclude.list={}.{}",
                    self.schema.id, column.name
                )
            }),
        }
    }

    /// Replaces all but the key's columns by NULL: what is known of a row when only its key is.
    pub(crate) fn keep_key(&self, row: &mut [Cell<'_>]) {
        for (index, cell) in row.iter_mut().enumerate() {
            if !self.schema.key.contains(&index) {
                *cell = Cell::Null;
            }
        }
    }

    /// Returns whether two rows have the same key. A table without a key has one for all rows.
    pub(crate) fn same_key(&self, a: &[Cell<'_>], b: &[Cell<'_>]) -> bool {
        self.schema.key.iter().all(|index| a[*index] == b[*index])
    }

    /// Appends the key of `row`, if the table has one.
    pub(crate) fn write_key(
        &self,
        row: &[Cell<'_>],
        batch: &mut RecordBatch,
    ) -> Result<Option<std::ops::Range<usize>>, Error> {
        if !self.is_keyed() {
            return Ok(None);
        }
        let start = batch.buffer.len();
        self.encoder
            .key(row, &mut batch.buffer)
            .map_err(|source| self.row_error(source))?;
        Ok(Some(start..batch.buffer.len()))
    }

    /// Appends the value of an event.
    pub(crate) fn write_value(
        &self,
        op: Op,
        before: Option<&[Cell<'_>]>,
        after: Option<&[Cell<'_>]>,
        source: &EventSource,
        batch: &mut RecordBatch,
    ) -> Result<std::ops::Range<usize>, Error> {
        let start = batch.buffer.len();
        self.encoder
            .event(op, before, after, source, &mut batch.buffer)
            .map_err(|source| self.row_error(source))?;
        Ok(start..batch.buffer.len())
    }

    /// Appends a record.
    pub(crate) fn push(
        &self,
        key: Option<std::ops::Range<usize>>,
        value: Option<std::ops::Range<usize>>,
        batch: &mut RecordBatch,
    ) {
        let topic = batch.topic(&self.topic);
        batch.records.push(Record {
            topic,
            partition: None,
            key,
            value,
            header: None,
        });
    }

    /// Appends an event with a row after it.
    pub(crate) fn write_upsert(
        &self,
        op: Op,
        before: Option<&[Cell<'_>]>,
        after: &[Cell<'_>],
        source: &EventSource,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        let key = self.write_key(after, batch)?;
        let value = self.write_value(op, before, Some(after), source, batch)?;
        self.push(key, Some(value), batch);
        Ok(())
    }

    /// Appends a delete, and the tombstone that lets compaction forget the key.
    pub(crate) fn write_delete(
        &self,
        before: &[Cell<'_>],
        source: &EventSource,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        let key = self.write_key(before, batch)?;
        let value = self.write_value(Op::Delete, Some(before), None, source, batch)?;
        self.push(key.clone(), Some(value), batch);
        if key.is_some() {
            self.push(key, None, batch);
        }
        Ok(())
    }

    /// Appends a truncation, which only a topic without keys carries.
    pub(crate) fn write_truncate(
        &self,
        source: &EventSource,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        let value = self.write_value(Op::Truncate, None, None, source, batch)?;
        self.push(None, Some(value), batch);
        Ok(())
    }

    /// Appends a delete and a tombstone of a row of which only the message key is known. A key that
    /// was written when the table had another primary key says nothing of this one's columns: its
    /// tombstone alone must do.
    pub(crate) fn write_delete_of_key(
        &self,
        key: &[u8],
        partition: Option<i32>,
        source: &EventSource,
        batch: &mut RecordBatch,
    ) -> Result<(), Error> {
        let start = batch.buffer.len();
        batch.buffer.extend_from_slice(key);
        let range = Some(start..batch.buffer.len());
        if wire::split(key).ok().map(|(id, _)| id) != self.key_schema_id {
            self.push(range, None, batch);
            if let Some(record) = batch.records.last_mut() {
                record.partition = partition;
            }
            return Ok(());
        }
        let mut row = Vec::with_capacity(self.schema.columns.len());
        self.read_key(key, &mut row)?;
        let value = self.write_value(Op::Delete, Some(&row), None, source, batch)?;
        self.push(range.clone(), Some(value), batch);
        self.push(range, None, batch);
        for record in batch.records.iter_mut().rev().take(2) {
            record.partition = partition;
        }
        Ok(())
    }

    /// Reads a message key into a row, all other columns NULL.
    pub(crate) fn read_key<'a>(&self, key: &'a [u8], row: &mut Vec<Cell<'a>>) -> Result<(), Error> {
        self.encoder
            .key_cells(key, row)
            .map_err(|source| self.row_error(source))
    }

    pub(crate) fn row_error(&self, source: hutong_schemas::Error) -> Error {
        Error::Row {
            table: self.schema.id.to_string(),
            source,
        }
    }
}
