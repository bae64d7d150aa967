//! Tables without a key, read whole in one snapshot, before the stream.
//!
//! Rows without a key cannot be told apart, so those that are read cannot be merged with changes, and
//! a reading that was interrupted cannot be taken up. Each is therefore read in the snapshot of a
//! *temporary* slot, which holds exactly the transactions committed before its place C in the log; of
//! the stream, which begins before C and runs later, their changes from C on are events and those
//! before are not. The reading begins with a `t` where the topic may hold rows: it tells readers to
//! drop what came before.

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::{Step, TableState as Shown};
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::position::Lsn;

use super::beside::report_of_table;
use super::catalogue::{self, Row, Table};
use super::changes::Closed;
use super::chunk::{RowEncoder, source_of_rows};
use super::connect::AnyClient;
use super::delivery::{Delivery, Flow};
use super::error::Error;
use super::position::Position;
use super::table_plan;
use super::table_state::Tables;

/// Opens a transaction in the snapshot of a new temporary slot and returns its place in the log.
pub(crate) async fn take_snapshot(client: &mut AnyClient) -> Result<Lsn, Error> {
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

/// What is read, and where it goes.
pub(crate) struct Reading<'a> {
    pub(crate) config: &'a Config,
    pub(crate) client: AnyClient,
    pub(crate) delivery: &'a mut Delivery,
    pub(crate) tables: &'a mut Tables,
    pub(crate) position: &'a Position,
}

impl Reading<'_> {
    /// Reads a table. What is wrong with it stops it alone.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any place; what was handed over stays valid.
    pub(crate) async fn run(mut self, table: &Table) -> Result<Flow, Error> {
        let from = take_snapshot(&mut self.client).await?;
        let outcome = self.read(table, from).await;
        match outcome {
            Err(error) if error.class() == Class::Definite => {
                self.fail(table, &error);
                Ok(Flow::Continue)
            }
            other => {
                self.client.close().await;
                other
            }
        }
    }

    /// Forgets the table until the next start, which looks again: nothing of it is followed yet.
    fn fail(&mut self, table: &Table, error: &Error) {
        let name = table.id.to_string();
        let report = report_of_table(error, Some(&name));
        tracing::error!(table = %name, error = %report.message, "a table stops");
        self.tables.remove(table.oid);
        if let Some(shown) = self.delivery.progress.table_mut(&name) {
            shown.state = Shown::Failed;
            shown.error = Some(report);
        }
        self.delivery.show();
    }

    async fn read(&mut self, table: &Table, from: Lsn) -> Result<Flow, Error> {
        let name = table.id.to_string();
        let doing = format!("read table {name}");
        let defaults = catalogue::fetch_defaults(&mut self.client, self.config, table).await?;
        let schema = table.schema(self.config, &defaults)?;
        let captured = vec![true; schema.columns.len()];
        let host = self.delivery.host.as_ref();
        let plan = table_plan::announce(host, self.config, schema, captured).await?;
        if let Some(shown) = self.delivery.progress.table_mut(&name) {
            shown.state = Shown::Snapshotting;
        }
        self.delivery.show();
        host.reached("source-keyless-snapshot").await;
        let sql_source = table.sql_source();
        catalogue::lock_as_seen(&mut self.client, &plan.schema, &sql_source).await?;
        host.reached("source-keyless-locked").await;
        let mut encoder = RowEncoder::default();
        let source = source_of_rows(from);
        if plan.topic_existed {
            plan.write_truncate(&source, &mut encoder.batch)?;
        }
        self.client
            .start_rows(&format!(
                "SELECT {} FROM {sql_source} WHERE {}",
                catalogue::column_list(&plan.schema),
                catalogue::is_row_of(table),
            ))
            .await?;
        let mut rows = 0;
        while let Some(row) = self.client.next_row(&doing).await? {
            encoder.push(&plan, row, &source)?;
            rows += 1;
            let bytes = encoder.batch.used_bytes();
            let is_full = bytes >= self.config.batch_bytes_max || !self.delivery.cover(bytes);
            if is_full {
                if let Some(shown) = self.delivery.progress.table_mut(&name) {
                    shown.rows_done = rows;
                }
                if self.hand_over(&mut encoder).await? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            }
        }
        let has_its_name = format!("SELECT {}", catalogue::has_its_name(&plan.schema));
        let answer = self.client.query(&doing, &has_its_name).await?;
        if !Row(answer.into_iter().next().unwrap_or_default()).flag(0)? {
            return Err(catalogue::is_another(&table.id));
        }
        if let Some(state) = self.tables.change(table.oid) {
            state.announced = true;
            state.reading = None;
            state.rows = rows;
            state.from = Some(from);
        }
        if let Some(shown) = self.delivery.progress.table_mut(&name) {
            shown.state = Shown::Streaming;
            shown.rows_done = rows;
            shown.error = None;
        }
        let flow = self.hand_over(&mut encoder).await?;
        self.delivery.show();
        Ok(flow)
    }

    async fn hand_over(&mut self, encoder: &mut RowEncoder) -> Result<Flow, Error> {
        let batch = std::mem::take(&mut encoder.batch);
        self.delivery.progress.events_total +=
            u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        let closed = Closed {
            batch,
            position: self.position.clone(),
            parts: self.tables.take_changed()?,
            step: Step::Chunk,
            last_commit_ts_us: None,
        };
        let flow = self.delivery.send(closed).await?;
        // Only what is shown is wanted here, the slot is told nothing before the stream begins.
        let _durable = self.delivery.take_confirmed();
        Ok(flow)
    }
}
