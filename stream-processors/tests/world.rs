//! A table, its topic, its views' topics and a processor between them, with everything that a
//! restart may find.

use std::collections::BTreeMap;

use hutong_policies::document::{Column as Granted, Source};
use hutong_policies::{ViewDocument, ViewState, ViewTask, compile, secret};
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, SnapshotMark, event_schemas};
use hutong_schemas::position::{Lsn, SchemaId};
use hutong_schemas::record::RecordDecoder;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, TableId, TableSchema};
use hutong_schemas::wire;
use hutong_stream_processors::position::{InputPosition, ViewPosition, read_versioned};
use hutong_stream_processors::processor::RowsFrom;
use hutong_stream_processors::{Input, Limits, Processor, Step, Store};
use serde_json::Value;

pub(crate) const TOPIC: &str = "aic.public.ent_base";
pub(crate) const SECRET: &[u8] = b"a master secret of thirty-two by";
pub(crate) const KEY_ID: SchemaId = SchemaId(1);
pub(crate) const VALUE_ID: SchemaId = SchemaId(2);

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) region: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) amount: i64,
    /// Granted to nobody.
    pub(crate) phone: String,
}

pub(crate) fn table() -> TableSchema {
    let column = |attnum: i16, name: &str, sql_type, nullable| Column {
        name: name.to_owned(),
        attnum,
        sql_type,
        nullable,
        default: None,
        has_default_expression: false,
        labels: Vec::new(),
    };
    TableSchema {
        id: TableId {
            schema: "public".into(),
            table: "ent_base".into(),
        },
        oid: 1,
        columns: vec![
            column(1, "id", SqlType::Int4, false),
            column(2, "region", SqlType::Text, true),
            column(3, "name", SqlType::Varchar { length: Some(40) }, true),
            column(4, "amount", SqlType::Int4, false),
            column(5, "phone", SqlType::Text, false),
        ],
        key: vec![0],
    }
}

/// A record of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) header: String,
}

impl Record {
    fn input(&self) -> Input<'_> {
        Input {
            offset: self.offset,
            key: Some(&self.key),
            value: self.value.as_deref(),
        }
    }
}

/// Writes the table's topic.
pub(crate) struct Table {
    encoder: EventEncoder,
    pub(crate) rows: BTreeMap<i64, Row>,
    pub(crate) log: Vec<Record>,
    tx: i64,
    end: i64,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            encoder: EventEncoder::compile("aic", "aic", &table(), Some(KEY_ID), VALUE_ID).unwrap(),
            rows: BTreeMap::new(),
            log: Vec::new(),
            tx: 100,
            end: 0,
        }
    }

    pub(crate) fn begin(&mut self) {
        self.tx += 1;
    }

    pub(crate) fn upsert(&mut self, row: Row) {
        let op = if self.rows.contains_key(&row.id) {
            Op::Update
        } else {
            Op::Create
        };
        let cells = cells(&row);
        let value = self.event(op, None, Some(&cells));
        self.append(&cells, Some(value));
        self.rows.insert(row.id, row);
    }

    /// An update whose name the source could not find any more.
    pub(crate) fn upsert_without_name(&mut self, row: &Row) {
        let mut cells = cells(row);
        cells[2] = Cell::Unavailable;
        let value = self.event(Op::Update, None, Some(&cells));
        self.append(&cells, Some(value));
    }

    pub(crate) fn delete(&mut self, id: i64) {
        if let Some(row) = self.rows.remove(&id) {
            let cells = cells(&row);
            let before = [cells[0], Cell::Null, Cell::Null, Cell::Null, Cell::Null];
            let value = self.event(Op::Delete, Some(&before), None);
            self.append(&cells, Some(value));
            self.append(&cells, None);
        }
    }

    fn event(&self, op: Op, before: Option<&[Cell<'_>]>, after: Option<&[Cell<'_>]>) -> Vec<u8> {
        let source = EventSource {
            ts_us: 1_700_000_000_000_000 + self.tx,
            snapshot: SnapshotMark::False,
            tx_id: Some(self.tx),
            lsn: Some(Lsn(self.tx.unsigned_abs() << 8)),
            last_commit_lsn: None,
            now_us: 1_700_000_000_000_000,
        };
        let mut value = Vec::new();
        self.encoder
            .event(op, before, after, &source, &mut value)
            .unwrap();
        value
    }

    fn append(&mut self, cells: &[Cell<'_>], value: Option<Vec<u8>>) {
        let mut key = Vec::new();
        self.encoder.key(cells, &mut key).unwrap();
        self.log.push(Record {
            offset: self.end,
            key,
            value,
            header: String::new(),
        });
        self.end += 1;
    }

    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    /// Drops records before an offset that a later one has replaced, and tombstones among them if
    /// they have lived long enough.
    pub(crate) fn compact(&mut self, before: i64, with_tombstones: bool) {
        let mut last = BTreeMap::new();
        for record in &self.log {
            last.insert(record.key.clone(), record.offset);
        }
        self.log.retain(|record| {
            let newest = last[&record.key] == record.offset;
            record.offset >= before || (newest && (record.value.is_some() || !with_tombstones))
        });
    }
}

fn cells(row: &Row) -> [Cell<'_>; 5] {
    [
        Cell::Int(row.id),
        row.region.as_deref().map_or(Cell::Null, Cell::Text),
        row.name.as_deref().map_or(Cell::Null, Cell::Text),
        Cell::Int(row.amount),
        Cell::Text(&row.phone),
    ]
}

/// Makes another generation of a view's task.
pub(crate) fn generation(task: ViewTask, generation: u32) -> ViewTask {
    ViewTask {
        generation,
        topic: format!("hutong.view.{}.g{generation}", task.name),
        topic_id: format!("id of {} {generation}", task.name),
        ..task
    }
}

/// Makes a view's task.
pub(crate) fn view(
    name: &str,
    version: u64,
    columns: &[(&str, Option<&str>)],
    condition: Option<&str>,
) -> ViewTask {
    let document = ViewDocument {
        name: name.to_owned(),
        title: None,
        share: "s03".into(),
        source: Source {
            topic: TOPIC.to_owned(),
        },
        subscriber: "qts".into(),
        columns: columns
            .iter()
            .map(|(name, mask)| Granted {
                name: (*name).to_owned(),
                mask: mask.map(str::to_owned),
            })
            .collect(),
        where_: condition.map(str::to_owned),
        valid_from: None,
        valid_until: None,
        location: None,
    };
    let plan = compile(&document, &table()).unwrap();
    ViewTask {
        name: name.to_owned(),
        version,
        generation: 1,
        topic: format!("hutong.view.{name}.g1"),
        topic_id: format!("id of {name}"),
        table: table(),
        key_schema_id: SchemaId(10),
        value_schema_id: SchemaId(11),
        key_schema: plan.key_schema(),
        value_schema: plan.value_schema(),
        secret_fingerprint: Some(secret::fingerprint(SECRET)),
        table_schema_id: None,
        needs_secret: plan.needs_secret(),
        share_key_version: 1,
        state: ViewState::Live,
        valid_until_ms: None,
        document,
    }
}

/// What Kafka holds beside the table's topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kafka {
    pub(crate) outputs: BTreeMap<String, Vec<Record>>,
    pub(crate) position: Option<InputPosition>,
    pub(crate) views: BTreeMap<String, ViewPosition>,
}

impl Kafka {
    pub(crate) fn commit(&mut self, batch: &RecordBatch, positions: Vec<(String, Option<Value>)>) {
        for record in &batch.records {
            let topic = &batch.topics[usize::try_from(record.topic).unwrap()];
            let bytes = |range: &Option<std::ops::Range<usize>>| {
                range.clone().map(|range| batch.buffer[range].to_vec())
            };
            let output = self.outputs.entry(topic.to_string()).or_default();
            assert_eq!(record.partition, Some(3));
            output.push(Record {
                offset: i64::try_from(output.len()).unwrap(),
                key: bytes(&record.key).unwrap(),
                value: bytes(&record.value),
                header: String::from_utf8(bytes(&record.header).unwrap()).unwrap(),
            });
        }
        for (sub, value) in positions {
            let text = value.map(|value| value.to_string());
            match (sub.as_str(), text) {
                ("", text) => {
                    self.position =
                        Some(read_versioned(text.unwrap().as_bytes(), "position").unwrap())
                }
                (_, Some(text)) => {
                    self.views
                        .insert(sub, read_versioned(text.as_bytes(), "position").unwrap());
                }
                (_, None) => {
                    self.views.remove(&sub);
                }
            }
        }
    }

    /// Returns what a view's topic holds, each row as field texts by key bytes; checks on the way
    /// that no record was useless.
    pub(crate) fn rows(&self, task: &ViewTask) -> BTreeMap<Vec<u8>, Vec<String>> {
        let mut raw: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for record in self.outputs.get(&task.topic).into_iter().flatten() {
            let key = record.key[wire::PREFIX_BYTES..].to_vec();
            match &record.value {
                Some(value) => {
                    let before = raw.insert(key, value.clone());
                    assert_ne!(
                        before.as_ref(),
                        Some(value),
                        "an upsert that changes nothing"
                    );
                }
                None => assert!(
                    raw.remove(&key).is_some(),
                    "a tombstone for a key that was not there"
                ),
            }
        }
        let decoder = RecordDecoder::compile(&task.value_schema).unwrap();
        let decode = |value: &Vec<u8>| {
            let mut cells = Vec::new();
            decoder.decode(value, &mut cells).unwrap();
            cells.iter().map(show).collect()
        };
        raw.iter()
            .map(|(key, value)| (key.clone(), decode(value)))
            .collect()
    }
}

pub(crate) fn show(cell: &Cell<'_>) -> String {
    match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Int(value) => value.to_string(),
        Cell::Text(text) => (*text).to_owned(),
        other => panic!("{other:?}"),
    }
}

/// Starts a processor as a worker does: positions, members, rows.
pub(crate) fn start<S: Store>(
    store: S,
    kafka: &Kafka,
    table: &Table,
    tasks: &[ViewTask],
    now_ms: i64,
) -> Processor<S> {
    let stale_after_ms = 1_000_000;
    let secret = Some(SECRET.to_vec());
    let mut processor = Processor::new(
        store,
        3,
        "table id",
        secret,
        kafka.position.clone(),
        now_ms,
        stale_after_ms,
    )
    .unwrap();
    adopt(&mut processor, kafka, table, tasks, &kafka.views);
    processor
}

pub(crate) fn adopt<S: Store>(
    processor: &mut Processor<S>,
    kafka: &Kafka,
    table: &Table,
    tasks: &[ViewTask],
    positions: &BTreeMap<String, ViewPosition>,
) {
    let rebuild = processor.adopt(tasks.to_vec(), positions).unwrap();
    for view in rebuild.members {
        let topic = processor.views()[view].task().topic.clone();
        let records = kafka.outputs.get(&topic).cloned().unwrap_or_default();
        for part in records.chunks(7) {
            processor
                .rebuild_members(view, part.iter().map(Record::input))
                .unwrap();
        }
        processor.members_rebuilt(view).unwrap();
    }
    if let Some(from) = rebuild.rows_from {
        let from = match from {
            RowsFrom::Beginning => 0,
            RowsFrom::Offset(offset) => offset,
        };
        let end = processor.position().next_offset;
        let records: Vec<&Record> = table
            .log
            .iter()
            .filter(|record| record.offset >= from && record.offset < end)
            .collect();
        for part in records.chunks(5) {
            let next = part.last().unwrap().offset + 1;
            let step = needing(processor, |processor| {
                processor.replay_rows(part.iter().map(|record| record.input()), next)
            });
            assert_eq!(step, Step::Done);
        }
    }
    processor.rebuilt().unwrap();
}

/// Repeats a call until it has the schemas that it needs.
fn needing<S: Store>(
    processor: &mut Processor<S>,
    mut call: impl FnMut(&mut Processor<S>) -> Result<Step, hutong_stream_processors::Error>,
) -> Step {
    loop {
        let Step::Needs(id) = call(processor).unwrap() else {
            return Step::Done;
        };
        let schemas = event_schemas(TOPIC, &table()).unwrap();
        let schema = if id == KEY_ID {
            schemas.key.unwrap()
        } else {
            schemas.value
        };
        processor.add_schema(id, &schema).unwrap();
    }
}

/// Applies up to `count` records behind the position; returns the offset behind them.
pub(crate) fn apply<S: Store>(
    processor: &mut Processor<S>,
    table: &Table,
    count: usize,
    out: &mut RecordBatch,
) -> i64 {
    let from = processor.position().next_offset;
    let mut next = from;
    for record in table
        .log
        .iter()
        .filter(|record| record.offset >= from)
        .take(count)
    {
        needing(processor, |processor| {
            processor.change(&record.input(), out)
        });
        next = record.offset + 1;
    }
    next
}

pub(crate) fn difference<S: Store>(
    processor: &mut Processor<S>,
    out: &mut RecordBatch,
    limits: Limits,
) {
    needing(processor, |processor| processor.difference(out, limits));
}

/// Processes and commits everything there is.
pub(crate) fn settle<S: Store>(
    processor: &mut Processor<S>,
    kafka: &mut Kafka,
    table: &Table,
    now_ms: i64,
) {
    for _ in 0..1_000 {
        processor.tick(now_ms, now_ms).unwrap();
        if processor.position().next_offset
            >= table.log.last().map_or(0, |record| record.offset + 1)
        {
            processor.at_end().unwrap();
        }
        let mut out = RecordBatch::default();
        let next = apply(processor, table, usize::MAX, &mut out);
        let limits = Limits {
            bytes_max: processor.output_bytes() + 300,
            looks_max: 7,
        };
        difference(processor, &mut out, limits);
        let idle = out.records.is_empty()
            && !processor.has_changes()
            && next == processor.position().next_offset;
        let positions = processor.positions(next, now_ms);
        kafka.commit(&out, positions);
        processor.committed().unwrap();
        if idle && !processor.has_difference() {
            return;
        }
    }
    panic!("the processor does not come to rest");
}
