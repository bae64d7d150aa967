//! The initial snapshot: all rows, then everything that was committed after them.
//!
//! ```text
//!   permanent slot ─┬──────── keeps the log ────────────────────────────────▶ streaming from C'
//!                   │ C                        C'
//!   temporary slot ─┼──────────────────────────┤ its snapshot: SELECT table by table
//! ```
//!
//! Creating a logical slot yields a place in the log, its consistent point, and a snapshot that holds
//! exactly the transactions committed before that place. The permanent slot is created first and keeps
//! the log from its own point on. Then a *temporary* slot gives a later point C' and the snapshot; the
//! tables are read in it; and the stream begins at C', so that every transaction is either in what was
//! read or in what is streamed, and none in both. The temporary slot is what makes a second attempt
//! possible: the snapshot of the permanent one exists only once, right after its creation.
//!
//! # What a crash leaves behind
//!
//! The stored position says that a snapshot is running. A snapshot cannot be taken up again after its
//! connection is gone, so the next start takes a new one, at a later C', and reads everything again.
//! Rows that an earlier attempt read and that are deleted by now are in the topic, and their deletes
//! lie before the new C', where nothing is streamed. So a repeated snapshot ends with a sweep: of the
//! keys that the topic holds, those that do not exist in the snapshot are deleted. The server is asked
//! which exist, in the same snapshot, so nothing has to remember which rows were read. A topic
//! without keys begins with a `t` instead, which tells readers to drop what came before.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::{HostError, TableProgress, TableState};
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{EventSource, Op, SnapshotMark};
use hutong_schemas::position::Lsn;
use tokio::time::Instant;

use super::catalogue::{self, Kind, Row, Table, Wanted};
use super::changes::Closed;
use super::client;
use super::connect::AnyClient;
use super::delivery::{Delivery, Flow};
use super::error::Error;
use super::position::{Position, Snapshot};
use super::streaming::now_us;
use super::table_plan::{self, TablePlan, recycle};
use super::text::Scratch;
use super::toast::{key_columns, key_literals};
use super::writer::Writer;
use super::{relation_change, sql};

/// Keys that the server is asked about at once.
const SWEEP_KEYS: usize = 500;
/// How often progress is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(500);

/// A running snapshot.
pub(crate) struct Reading<'a> {
    config: &'a Config,
    client: AnyClient,
    delivery: &'a mut Delivery,
    position: Position,
    attempt: u32,
    taken_at_us: i64,
    writer: Writer,
    scratch: Scratch,
    row: Vec<Cell<'static>>,
    held: Option<Held>,
    any_emitted: bool,
    shown_at: Instant,
}

/// The newest row, held back until it is known whether it is the last one.
struct Held {
    table: usize,
    first_of_table: bool,
    row: BytesMut,
}

/// A table to read.
struct Reader {
    table: Table,
    plan: TablePlan,
}

/// Reads all tables and returns the position where the stream goes on, or `None` if nobody takes
/// batches any more.
///
/// # Cancel safety
///
/// May be dropped at any place; what was handed over stays valid.
pub(crate) async fn run(
    config: &Config,
    mut client: AnyClient,
    delivery: &mut Delivery,
    tables: &[Table],
    mut position: Position,
) -> Result<Option<Position>, Error> {
    let point = take(&mut client).await?;
    let attempt = position.snapshot.map_or(0, |snapshot| snapshot.attempt) + 1;
    position.lsn = point;
    position.partial = None;
    position.last_commit_lsn = None;
    position.snapshot = Some(Snapshot {
        lsn: point,
        attempt,
    });
    let mut reading = Reading {
        config,
        client,
        delivery,
        position,
        attempt,
        taken_at_us: now_us(),
        writer: Writer::default(),
        scratch: Scratch::default(),
        row: Vec::new(),
        held: None,
        any_emitted: false,
        shown_at: Instant::now(),
    };
    let readers = reading.prepare(tables).await?;
    if reading.hand_over().await? == Flow::Stop {
        return Ok(None);
    }
    for index in 0..readers.len() {
        if reading.read_table(&readers, index).await? == Flow::Stop {
            return Ok(None);
        }
    }
    reading.release(&readers, None)?;
    if attempt > 1 {
        for reader in &readers {
            if reading.sweep(reader).await? == Flow::Stop {
                return Ok(None);
            }
        }
    }
    reading.finish().await
}

/// Opens a transaction in the snapshot of a new temporary slot and returns its place in the log.
pub(crate) async fn take(client: &mut AnyClient) -> Result<Lsn, Error> {
    const DOING: &str = "take a snapshot with a temporary replication slot";
    client
        .query(DOING, "BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ")
        .await?;
    let name = format!("hutong_snapshot_{}", client.backend_pid);
    let rows = client
        .query(
            DOING,
            &format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT"),
        )
        .await?;
    Row(rows.into_iter().next().unwrap_or_default()).parse(1)
}

impl Reading<'_> {
    async fn prepare(&mut self, tables: &[Table]) -> Result<Vec<Reader>, Error> {
        let current = catalogue::fetch_tables(&mut self.client, Wanted::All).await?;
        let mut readers = Vec::new();
        let mut announcements = Vec::new();
        self.position.tables.clear();
        self.delivery.progress.tables.clear();
        for table in tables {
            let Some(table) = current.iter().find(|now| now.oid == table.oid) else {
                return Err(Error::transient(format!(
                    "table {} was dropped while the connector started",
                    table.id
                )));
            };
            let defaults = catalogue::fetch_defaults(&mut self.client, self.config, table).await?;
            let schema = table.schema(self.config, &defaults)?;
            let captured = vec![true; schema.columns.len()];
            let host = Arc::clone(&self.delivery.host);
            let (plan, announcement) =
                table_plan::compile(host.as_ref(), self.config, schema, captured).await?;
            self.position
                .tables
                .insert(table.oid, relation_change::known(table, self.config));
            self.delivery.progress.tables.push(TableProgress {
                table: table.id.clone(),
                topic: plan.topic.to_string(),
                state: TableState::Waiting,
                rows_done: 0,
                rows_total: table.rows_estimate,
            });
            announcements.push(announcement);
            readers.push(Reader {
                table: table.clone(),
                plan,
            });
        }
        self.delivery
            .host
            .announce_tables(&announcements)
            .await
            .map_err(|source| Error::Host {
                doing: "could not announce the tables".to_owned(),
                source,
            })?;
        self.delivery.show();
        Ok(readers)
    }

    async fn read_table(&mut self, readers: &[Reader], index: usize) -> Result<Flow, Error> {
        let Reader { table, plan } = &readers[index];
        let doing = format!("read table {}", table.id);
        self.delivery.progress.tables[index].state = TableState::Snapshotting;
        self.delivery.show();
        if !plan.is_keyed() && self.attempt > 1 {
            self.release(readers, Some(index))?;
            let source = self.source(SnapshotMark::True);
            plan.write_truncate(&source, &mut self.writer.batch)?;
        }
        // Rows of inheriting tables belong to those, rows of partitions to the root that publishes
        // them.
        let only = match table.kind {
            Kind::Ordinary | Kind::Unlogged => "ONLY ",
            Kind::Partitioned => "",
        };
        self.client
            .start_rows(&format!(
                "SELECT {} FROM {only}{}",
                catalogue::column_list(&plan.schema),
                sql::table(&table.id)
            ))
            .await?;
        let mut first_of_table = true;
        while let Some(row) = self.client.next_row(&doing).await? {
            self.release(readers, Some(index))?;
            self.held = Some(Held {
                table: index,
                first_of_table,
                row,
            });
            first_of_table = false;
            let bytes = self.writer.bytes();
            let is_full = bytes >= self.config.batch_bytes_max
                || (!self.delivery.cover(bytes) && !self.writer.is_empty());
            if is_full && self.hand_over().await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.delivery.progress.tables[index].state = TableState::Streaming;
        self.delivery.show();
        Ok(Flow::Continue)
    }

    /// Writes the row that was held back. `next` is the table of the row after it, if there is one.
    fn release(&mut self, readers: &[Reader], next: Option<usize>) -> Result<(), Error> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let mark = match next {
            None => SnapshotMark::Last,
            Some(_) if !self.any_emitted => SnapshotMark::First,
            Some(next) if next != held.table => SnapshotMark::LastInDataCollection,
            Some(_) if held.first_of_table => SnapshotMark::FirstInDataCollection,
            Some(_) => SnapshotMark::True,
        };
        let source = self.source(mark);
        let plan = &readers[held.table].plan;
        let mut arena = self.scratch.arena(plan.arena_bytes(held.row.len()));
        let mut row = recycle(std::mem::take(&mut self.row));
        for (index, field) in client::fields(&held.row)?.enumerate() {
            row.push(match field? {
                Some(text) => plan.cell(index, text, &mut arena)?,
                None => Cell::Null,
            });
        }
        plan.write_upsert(Op::Read, None, &row, &source, &mut self.writer.batch)?;
        self.row = recycle(row);
        self.any_emitted = true;
        self.delivery.progress.tables[held.table].rows_done += 1;
        self.delivery.progress.events_total += 1;
        Ok(())
    }

    fn source(&self, snapshot: SnapshotMark) -> EventSource {
        EventSource {
            ts_us: self.taken_at_us,
            snapshot,
            tx_id: None,
            lsn: Some(self.position.lsn),
            last_commit_lsn: None,
            now_us: now_us(),
        }
    }

    /// Deletes from the topic what the snapshot does not hold.
    async fn sweep(&mut self, reader: &Reader) -> Result<Flow, Error> {
        let plan = &reader.plan;
        if !plan.is_keyed() {
            return Ok(Flow::Continue);
        }
        let mut keys = self
            .delivery
            .host
            .live_keys(&plan.topic)
            .await
            .map_err(live_keys_error(plan))?;
        loop {
            let some: Vec<(i32, Vec<u8>)> = keys
                .by_ref()
                .take(SWEEP_KEYS)
                .collect::<Result<_, _>>()
                .map_err(live_keys_error(plan))?;
            if some.is_empty() {
                return Ok(Flow::Continue);
            }
            let exists = self.which_exist(plan, &reader.table, &some).await?;
            for ((partition, key), exists) in some.iter().zip(exists) {
                if !exists {
                    let source = self.source(SnapshotMark::True);
                    let batch = &mut self.writer.batch;
                    plan.write_delete_of_key(key, Some(*partition), &source, batch)?;
                }
            }
            let bytes = self.writer.bytes();
            let is_full = bytes >= self.config.batch_bytes_max || !self.delivery.cover(bytes);
            if is_full && !self.writer.is_empty() && self.hand_over().await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
    }

    async fn which_exist(
        &mut self,
        plan: &TablePlan,
        table: &Table,
        keys: &[(i32, Vec<u8>)],
    ) -> Result<Vec<bool>, Error> {
        let values = keys
            .iter()
            .enumerate()
            .map(|(number, (_, key))| Ok(format!("({number}, {})", key_literals(plan, key)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let columns = key_columns(plan, "t.");
        let names: Vec<_> = (0..plan.schema.key.len())
            .map(|n| format!("k{n}"))
            .collect();
        let names = names.join(", ");
        let rows = self
            .client
            .query(
                &format!("look for rows of table {} that are gone", table.id),
                &format!(
                    "SELECT k.number FROM (VALUES {}) AS k (number, {names}) \
                     WHERE EXISTS (SELECT FROM {} t WHERE ({}) = ({names}))",
                    values.join(", "),
                    sql::table(&table.id),
                    columns,
                ),
            )
            .await?;
        let mut exists = vec![false; keys.len()];
        for row in rows {
            let number: usize = Row(row).parse(0)?;
            if let Some(exists) = exists.get_mut(number) {
                *exists = true;
            }
        }
        Ok(exists)
    }

    async fn hand_over(&mut self) -> Result<Flow, Error> {
        let closed = Closed {
            batch: self.writer.take(),
            position: self.position.clone(),
            last_commit_ts_us: None,
        };
        let flow = self.delivery.send(closed).await?;
        // Only what is shown is wanted here, the slot is told nothing before the stream begins.
        let _durable = self.delivery.take_confirmed();
        if self.shown_at.elapsed() >= SHOW_INTERVAL {
            self.shown_at = Instant::now();
            self.delivery.show();
        }
        Ok(flow)
    }

    async fn finish(mut self) -> Result<Option<Position>, Error> {
        self.client.query("end the snapshot", "COMMIT").await?;
        self.position.snapshot = None;
        let flow = self.hand_over().await?;
        self.delivery.show();
        self.client.close().await;
        Ok((flow == Flow::Continue).then_some(self.position))
    }
}

fn live_keys_error(plan: &TablePlan) -> impl Fn(HostError) -> Error + use<> {
    let doing = format!("could not list the live keys of topic {}", plan.topic);
    move |source| Error::Host {
        doing: doing.clone(),
        source,
    }
}
