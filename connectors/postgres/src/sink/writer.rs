//! The owner of a target and its transactions. The argument is in the module above.

use std::collections::BTreeMap;
use std::pin::pin;

use bytes::Bytes;
use futures::SinkExt;
use futures::future::join3;
use hutong_connectors_core::jdbc_sink::SchemaEvolution;
use hutong_schemas::record::FieldInfo;

use tokio_postgres::CopyInSink;

use super::assign::{ensure_table, names};
use super::changes::Changes;
use super::dead_letters::DeadLetter;
use super::error::{DatabaseError, Error};
#[cfg(debug_assertions)]
use super::faults;
use super::fences;
use super::holding::{self, millis};
use super::position::{self, failed};
use super::rebuild::{self, Remaining};
use super::session::Session;
use super::shape::Freedom;
use super::statement::{self, Statements, execute};
use super::target::{Target, qualified};

/// The only writer of a target, as long as its epoch stands. After an error, or when one of its
/// futures was dropped, it must be dropped.
#[derive(Debug)]
pub struct Writer {
    pub(super) session: Session,
    pub(super) connector: String,
    pub(super) evolution: SchemaEvolution,
    pub(super) target: Target,
    pub(super) topic: String,
    pub(super) topic_id: String,
    pub(super) generation: i64,
    pub(super) swept_generation: i64,
    pub(super) reading_since_ms: i64,
    pub(super) is_made: bool,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) replayed: String,
    /// Rows may be copied into the table as they are.
    pub(super) may_fill: bool,
    pub(super) epoch: i64,
    pub(super) next_offsets: BTreeMap<i32, i64>,
    /// What is left of a rebuild.
    pub(super) remaining: Remaining,
    /// Columns that were written once and are in the input no longer.
    pub(super) former: Vec<String>,
    pub(super) statements: Statements,
}

impl Writer {
    /// Returns the target as it is now.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns whether a rebuild is going on.
    #[must_use]
    pub fn is_rebuilding(&self) -> bool {
        !self.remaining.is_empty()
    }

    /// Returns whether the table takes the rows as they are, so that [`fill`](Self::fill) may be tried.
    #[must_use]
    pub fn may_fill(&self) -> bool {
        self.may_fill && self.remaining.is_empty()
    }

    /// Returns the newest generation of which it is certain that nothing of earlier ones is left.
    #[must_use]
    pub fn swept_generation(&self) -> u64 {
        u64::try_from(self.swept_generation).unwrap_or(0)
    }

    /// Returns when reading from the beginning was last begun, in milliseconds since 1970.
    #[must_use]
    pub fn reading_since_ms(&self) -> i64 {
        self.reading_since_ms
    }

    /// Returns whether a partition that has been read up to an offset has reached the end of a
    /// rebuild and has not said so: [`apply`](Self::apply) says it, even without changes.
    #[must_use]
    pub fn reaches_end(&self, partition: i32, next_offset: i64) -> bool {
        let end = self.remaining.get(&partition).copied().flatten();
        end.is_some_and(|end| next_offset >= end)
    }

    /// Takes up where the fill of the generation ends, as far as it was not known.
    pub fn learn_fill_ends(&mut self, ends: &BTreeMap<i32, i64>) {
        for (partition, end) in &mut self.remaining {
            if end.is_none() {
                *end = ends.get(partition).copied();
            }
        }
    }

    /// Returns the next offset of a partition.
    #[must_use]
    pub fn next_offset(&self, partition: i32) -> i64 {
        self.next_offsets.get(&partition).copied().unwrap_or(0)
    }

    /// Takes up the fields of a newer schema of the input: nullable columns are added to the table.
    ///
    /// # Errors
    ///
    /// Definite when a type changed; fenced when the table has another owner.
    pub async fn extend(&mut self, row: &[FieldInfo]) -> Result<(), Error> {
        if !self.target.extend(row)? {
            return Ok(());
        }
        let client = &self.session.client;
        let table = self.target.table();
        execute(client, table, "begin a transaction on", "BEGIN").await?;
        if fences(&self.connector) {
            holding::hold(client, table, self.epoch).await?;
        }
        let (made, freedom) = (self.is_made, Freedom::Columns);
        let shaped = ensure_table(client, &self.target, self.evolution, made, freedom).await?;
        self.is_made = shaped.is_made;
        let columns = names(self.target.columns());
        holding::note_columns(client, table, &columns).await?;
        execute(client, table, "add a column to", "COMMIT").await?;
        self.former.retain(|name| !columns.contains(name));
        self.statements = Statements::prepare(client, &self.target, &self.former).await?;
        Ok(())
    }

    /// Makes changes durable together with the offset behind them. `read_up_to_ms` is the time up to
    /// which the partition was read with that.
    ///
    /// # Errors
    ///
    /// Fenced when the table has another owner; [`Error::CommitOutcomeUnknown`] when only the stored
    /// position can tell whether it succeeded; else nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// When dropped, the outcome is not known and the writer must be dropped too.
    pub async fn apply(
        &mut self,
        partition: i32,
        changes: &Changes,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<(), Error> {
        if next_offset < self.next_offset(partition) {
            return Err(Error::Backwards {
                table: self.target.table().clone(),
                partition,
                next_offset,
            });
        }
        #[cfg(debug_assertions)]
        let is_late = faults::before_begin(&self.connector).await;
        let outcome = self
            .transact(partition, changes, next_offset, read_up_to_ms)
            .await;
        #[cfg(debug_assertions)]
        if is_late {
            faults::over(&outcome).await;
        }
        outcome
    }

    async fn transact(
        &mut self,
        partition: i32,
        changes: &Changes,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<(), Error> {
        self.write(partition, changes, next_offset, read_up_to_ms)
            .await?;
        let mut remaining = self.remaining.clone();
        let is_swept = self.is_rebuilding()
            && self
                .advance_rebuild(&mut remaining, partition, changes, next_offset)
                .await?;
        self.commit().await?;
        self.take_letters(&changes.letters);
        self.remaining = remaining;
        if is_swept {
            self.swept_generation = self.generation;
            self.point("swept").await?;
        }
        #[cfg(debug_assertions)]
        if faults::sabotages_positions() {
            let advanced = self.advance(partition, next_offset, read_up_to_ms).await;
            advanced.map_err(failed(self.target.table(), "write"))?;
        }
        self.next_offsets.insert(partition, next_offset);
        Ok(())
    }

    /// Does what [`apply`](Self::apply) does with changes that are [`filling`](Changes::filling).
    /// Returns false, and has changed nothing, if a row of theirs is in the table already: then they
    /// are to be applied as upserts.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    ///
    /// # Cancel safety
    ///
    /// As [`apply`](Self::apply).
    pub async fn fill(
        &mut self,
        partition: i32,
        changes: &Changes,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<bool, Error> {
        let applied = self.apply(partition, changes, next_offset, read_up_to_ms);
        match applied.await {
            Ok(()) => Ok(true),
            Err(Error::Table { source, .. }) if source.code() == Some("23505") => {
                let table = self.target.table();
                execute(
                    &self.session.client,
                    table,
                    "repeat a batch into",
                    "ROLLBACK",
                )
                .await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends everything up to the commit in one go. The position comes first: whoever is fenced waits
    /// for nobody's rows, and two owners never lock in different orders.
    async fn write(
        &self,
        partition: i32,
        changes: &Changes,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<(), Error> {
        let client = &self.session.client;
        let (begun, advanced, written) = join3(
            client.batch_execute("BEGIN"),
            self.advance_first(partition, next_offset, read_up_to_ms),
            self.write_rows(changes),
        )
        .await;
        let table = self.target.table();
        begun.map_err(failed(table, "begin a transaction on"))?;
        if advanced.map_err(failed(table, "advance the position of"))? != 1 {
            return Err(self.fenced());
        }
        written?;
        self.write_letters(&changes.letters).await
    }

    pub(super) async fn write_rows(&self, changes: &Changes) -> Result<(), Error> {
        let client = &self.session.client;
        let table = self.target.table();
        let (truncated, deleted, upserted) = join3(
            self.truncate(changes),
            self.delete(changes),
            self.upsert(changes),
        )
        .await;
        truncated.map_err(failed(table, "empty"))?;
        // Deletes come first: a key that moved may free a value that is unique in the table.
        deleted.map_err(failed(table, "delete from"))?;
        upserted.map_err(failed(table, "write"))?;
        self.copy(changes).await.map_err(failed(table, "write"))?;
        for (columns, rows) in &changes.partial {
            let Some(sql) = statement::partial(&self.target, columns, &self.former) else {
                continue;
            };
            let prepared = statement::prepare(client, &self.target, &sql, columns).await?;
            client
                .execute(&prepared, &rows.parameters())
                .await
                .map_err(failed(table, "write"))?;
        }
        Ok(())
    }

    async fn advance_first(
        &self,
        partition: i32,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<u64, tokio_postgres::Error> {
        #[cfg(debug_assertions)]
        if faults::sabotages_positions() {
            return Ok(1);
        }
        self.advance(partition, next_offset, read_up_to_ms).await
    }

    async fn advance(
        &self,
        partition: i32,
        next_offset: i64,
        read_up_to_ms: i64,
    ) -> Result<u64, tokio_postgres::Error> {
        let epoch = if fences(&self.connector) {
            "epoch = $5"
        } else {
            "$5 > 0"
        };
        let sql = format!(
            "UPDATE {} SET next_offset = $6, read_up_to = to_timestamp($7::double precision / 1000)
             WHERE target = $1 AND topic = $2 AND topic_id = $3 AND partition = $4 AND {epoch}",
            position::table(self.target.table())
        );
        let target = self.target.table().to_string();
        self.session
            .client
            .execute_typed(
                &sql,
                &[
                    (&target, tokio_postgres::types::Type::TEXT),
                    (&self.topic, tokio_postgres::types::Type::TEXT),
                    (&self.topic_id, tokio_postgres::types::Type::TEXT),
                    (&partition, tokio_postgres::types::Type::INT4),
                    (&self.epoch, tokio_postgres::types::Type::INT8),
                    (&next_offset, tokio_postgres::types::Type::INT8),
                    (&millis(read_up_to_ms), tokio_postgres::types::Type::FLOAT8),
                ],
            )
            .await
    }

    /// Not by TRUNCATE, which keeps the subscriber's sessions from reading until the commit.
    async fn truncate(&self, changes: &Changes) -> Result<u64, tokio_postgres::Error> {
        if !changes.is_truncating {
            return Ok(0);
        }
        let sql = format!("DELETE FROM {}", qualified(self.target.table()));
        self.session.client.execute_typed(&sql, &[]).await
    }

    async fn delete(&self, changes: &Changes) -> Result<u64, tokio_postgres::Error> {
        if changes.deletes.count == 0 {
            return Ok(0);
        }
        let parameters = changes.deletes.parameters();
        let client = &self.session.client;
        client.execute(&self.statements.delete, &parameters).await
    }

    async fn upsert(&self, changes: &Changes) -> Result<u64, tokio_postgres::Error> {
        if changes.upserts.count == 0 {
            return Ok(0);
        }
        let parameters = changes.upserts.parameters();
        let client = &self.session.client;
        client.execute(&self.statements.upsert, &parameters).await
    }

    async fn copy(&self, changes: &Changes) -> Result<(), tokio_postgres::Error> {
        let Some(rows) = changes.copied.as_ref().filter(|rows| rows.count > 0) else {
            return Ok(());
        };
        let sql = statement::copy(&self.target);
        let copying: CopyInSink<Bytes> = self.session.client.copy_in(&sql).await?;
        let mut copying = pin!(copying);
        for piece in rows.pieces() {
            copying.feed(piece).await?;
        }
        copying.as_mut().finish().await?;
        Ok(())
    }

    /// Notes the keys of a batch; when the partition has reached its end, says so; when all have,
    /// deletes what none noted, and returns that.
    async fn advance_rebuild(
        &self,
        remaining: &mut Remaining,
        partition: i32,
        changes: &Changes,
        next_offset: i64,
    ) -> Result<bool, Error> {
        let client = &self.session.client;
        let table = self.target.table();
        self.point("before-note").await?;
        rebuild::note(client, &self.target, changes).await?;
        self.point("after-note").await?;
        if !self.reaches_end(partition, next_offset) {
            return Ok(false);
        }
        rebuild::ended(client, table, partition).await?;
        remaining.remove(&partition);
        if !remaining.is_empty() {
            return Ok(false);
        }
        self.point("before-sweep").await?;
        rebuild::sweep(client, &self.target, self.epoch).await?;
        self.point("after-sweep").await?;
        Ok(true)
    }

    /// A place at which a test may let the work end as a crash would.
    #[cfg(debug_assertions)]
    async fn point(&self, name: &'static str) -> Result<(), Error> {
        faults::point(&self.connector, name).await
    }

    #[cfg(not(debug_assertions))]
    #[expect(clippy::unused_async, reason = "it waits where there are faults")]
    async fn point(&self, _: &'static str) -> Result<(), Error> {
        Ok(())
    }

    async fn commit(&self) -> Result<(), Error> {
        #[cfg(debug_assertions)]
        let fault = faults::take(&self.connector);
        #[cfg(debug_assertions)]
        if fault == Some(faults::Fault::Hold) {
            faults::hold().await;
        }
        let unknown = |source| Error::CommitOutcomeUnknown {
            table: self.target.table().clone(),
            source,
        };
        let answer = self.session.client.batch_execute("COMMIT").await;
        answer.map_err(|error| {
            let source = DatabaseError::from(error);
            if source.is_lost() {
                unknown(source)
            } else {
                Error::Table {
                    doing: "commit into",
                    table: self.target.table().clone(),
                    source,
                }
            }
        })?;
        #[cfg(debug_assertions)]
        if fault == Some(faults::Fault::LoseAnswer) {
            return Err(unknown(DatabaseError::text(
                "connection closed by a script",
            )));
        }
        tracing::trace!(connector = self.connector, "committed");
        Ok(())
    }

    fn fenced(&self) -> Error {
        Error::Fenced {
            table: self.target.table().clone(),
            epoch: self.epoch,
        }
    }
}
