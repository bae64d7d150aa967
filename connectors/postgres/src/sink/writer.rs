//! The owner of a target: assignment, transactions, emptying. The argument is in the module above.

use std::collections::BTreeMap;

use futures::future::join4;
use hutong_connectors_core::jdbc_sink::SchemaEvolution;
use hutong_schemas::record::FieldInfo;
use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::changes::Changes;
use super::error::{DatabaseError, Error};
#[cfg(debug_assertions)]
use super::faults;
use super::position::{self, Found, Input, Plan, Refusal, StartOffset, failed};
use super::session::Session;
use super::statement::{self, Statements};
use super::target::{Target, qualified, quote};
use super::{Sink, catalogue};

/// The only writer of a target, as long as its epoch stands. After an error, or when one of its
/// futures was dropped, it must be dropped.
#[derive(Debug)]
pub struct Writer {
    session: Session,
    connector: String,
    evolution: SchemaEvolution,
    target: Target,
    topic: String,
    topic_id: String,
    epoch: i64,
    next_offsets: BTreeMap<i32, i64>,
    /// The offsets at which the rebuild ends, of the partitions that have not reached them.
    rebuild_ends: BTreeMap<i32, i64>,
    statements: Statements,
}

pub(super) async fn assign(
    sink: Sink,
    target: Target,
    input: &Input,
    now_ms: i64,
) -> Result<(Writer, Vec<StartOffset>), Error> {
    let client = &sink.session.client;
    let table = target.table().clone();
    if fences(&sink.connector) && position::exists(client, &table).await? {
        position::terminate_predecessors(client, &table).await?;
    }
    execute(client, &table, "begin a transaction on", "BEGIN").await?;
    position::ensure(client, &table).await?;
    let rebuilding_since = rebuilding_since(client, &table).await?;
    let stored = position::stored(client, &table).await?;
    let found = catalogue::found(client, &table).await?;
    let plan = position::plan(input, &stored, found, rebuilding_since, now_ms);
    let plan = plan.map_err(|refusal| match refusal {
        Refusal::NotEmpty => Error::NotEmpty {
            table: table.clone(),
        },
        Refusal::Taken(topic) => Error::Taken {
            table: table.clone(),
            topic,
        },
    })?;
    ensure_table(client, &target, sink.evolution).await?;
    let starts = match &plan {
        Plan::Fresh => vec![0; input.end_offsets.len()],
        Plan::Continue(known) => next_offsets(input, known),
        Plan::Rebuild => {
            begin_rebuild(client, &target, input, found).await?;
            vec![0; input.end_offsets.len()]
        }
    };
    let epoch = take(client, &table, input, &starts, now_ms).await?;
    let rebuild_ends = rebuild_ends(client, &table).await?;
    if plan == Plan::Rebuild && rebuild_ends.is_empty() {
        let sweep = statement::sweep(&target);
        execute(client, &table, "sweep", &sweep).await?;
    }
    execute(client, &table, "take over", "COMMIT").await?;
    let statements = Statements::prepare(client, &target).await?;
    let writer = Writer {
        connector: sink.connector,
        evolution: sink.evolution,
        topic: input.topic.clone(),
        topic_id: input.topic_id.clone(),
        epoch,
        next_offsets: (0..).zip(starts.iter().copied()).collect(),
        rebuild_ends,
        statements,
        session: sink.session,
        target,
    };
    let starts = starts.into_iter().map(|offset| match offset {
        0 => StartOffset::Earliest,
        offset => StartOffset::At(offset),
    });
    Ok((writer, starts.collect()))
}

#[cfg(not(debug_assertions))]
fn fences(_connector: &str) -> bool {
    true
}

#[cfg(debug_assertions)]
fn fences(connector: &str) -> bool {
    !faults::sabotages_fence(connector)
}

fn next_offsets(input: &Input, known: &[(i32, i64)]) -> Vec<i64> {
    (0..)
        .zip(&input.end_offsets)
        .map(|(partition, _)| {
            let stored = known.iter().find(|(known, _)| *known == partition);
            stored.map_or(0, |(_, next_offset)| *next_offset)
        })
        .collect()
}

/// Writes the position rows under a new epoch. An epoch is larger than every one before it, also
/// than those of rows that were deleted in between, so it begins with the server's clock.
async fn take(
    client: &Client,
    table: &TableId,
    input: &Input,
    starts: &[i64],
    now_ms: i64,
) -> Result<i64, Error> {
    let positions = position::table(table);
    let name = table.to_string();
    let row = client
        .query_one(
            &format!(
                "SELECT GREATEST(coalesce(max(epoch), 0) + 1,
                                 (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
                 FROM {positions} WHERE target = $1"
            ),
            &[&name],
        )
        .await
        .map_err(failed(table, "take over"))?;
    let epoch: i64 = row.get(0);
    let partitions: Vec<i32> = (0..).zip(starts).map(|(partition, _)| partition).collect();
    client
        .execute(
            &format!(
                "INSERT INTO {positions} AS p (target, topic, topic_id, partition, next_offset,
                        epoch, backend_pid, backend_start, read_up_to)
                 SELECT $1, $2, $3, u.partition, u.next_offset, $4, a.pid, a.backend_start,
                        to_timestamp($7::double precision / 1000)
                 FROM unnest($5::integer[], $6::bigint[]) AS u(partition, next_offset),
                      pg_catalog.pg_stat_activity a
                 WHERE a.pid = pg_catalog.pg_backend_pid()
                 ON CONFLICT (target, topic, partition) DO UPDATE
                 SET epoch = EXCLUDED.epoch, backend_pid = EXCLUDED.backend_pid,
                     backend_start = EXCLUDED.backend_start"
            ),
            &[
                &name,
                &input.topic,
                &input.topic_id,
                &epoch,
                &partitions,
                &starts,
                &millis(now_ms),
            ],
        )
        .await
        .map_err(failed(table, "take over"))?;
    Ok(epoch)
}

/// Milliseconds since 1970 are far below 2^53, up to which a double is exact.
#[expect(
    clippy::cast_precision_loss,
    reason = "a time in milliseconds is below 2^53"
)]
fn millis(ms: i64) -> f64 {
    ms as f64
}

/// Creates the table, or adds columns that newer schemas brought, or says what is wrong with it.
async fn ensure_table(
    client: &Client,
    target: &Target,
    evolution: SchemaEvolution,
) -> Result<(), Error> {
    let table = target.table();
    let Some(existing) = catalogue::existing(client, table).await? else {
        return match evolution {
            SchemaEvolution::Basic => {
                execute(client, table, "create", &target.create_table()).await
            }
            SchemaEvolution::None => Err(Error::Missing {
                table: table.clone(),
                create_table: target.create_table(),
            }),
        };
    };
    let missing = target.reconcile(&existing)?;
    if missing.is_empty() {
        return Ok(());
    }
    if evolution == SchemaEvolution::None {
        return Err(Error::Incompatible {
            table: table.clone(),
            differences: missing
                .iter()
                .map(|f| format!("column {} {} is missing", f.name, f.sql_type))
                .collect(),
        });
    }
    let columns: Vec<String> = missing
        .iter()
        .map(|field| format!("ADD COLUMN {} {}", quote(&field.name), field.sql_type))
        .collect();
    let sql = format!("ALTER TABLE {} {}", qualified(table), columns.join(", "));
    execute(client, table, "add a column to", &sql).await
}

async fn rebuilding_since(client: &Client, table: &TableId) -> Result<Option<i64>, Error> {
    let sql = format!(
        "SELECT (extract(epoch FROM min(started_at)) * 1000)::bigint FROM {} WHERE target = $1",
        position::rebuild_table(table)
    );
    let row = client
        .query_one(&sql, &[&table.to_string()])
        .await
        .map_err(failed(table, "look up the rebuild of"))?;
    Ok(row.get(0))
}

async fn rebuild_ends(client: &Client, table: &TableId) -> Result<BTreeMap<i32, i64>, Error> {
    let sql = format!(
        "SELECT partition, end_offset FROM {} WHERE target = $1",
        position::rebuild_table(table)
    );
    let rows = client
        .query(&sql, &[&table.to_string()])
        .await
        .map_err(failed(table, "look up the rebuild of"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Forgets the positions, notes where each partition ends now, and begins to note keys.
async fn begin_rebuild(
    client: &Client,
    target: &Target,
    input: &Input,
    found: Found,
) -> Result<(), Error> {
    let table = target.table();
    tracing::info!(%table, ?found, topic = input.topic, "rebuilding a table");
    let name = table.to_string();
    for owned in [position::table(table), position::rebuild_table(table)] {
        client
            .execute(&format!("DELETE FROM {owned} WHERE target = $1"), &[&name])
            .await
            .map_err(failed(table, "rebuild"))?;
    }
    let (partitions, ends): (Vec<i32>, Vec<i64>) = (0..)
        .zip(&input.end_offsets)
        .filter(|(_, end)| **end > 0)
        .unzip();
    client
        .execute(
            &format!(
                "INSERT INTO {} (target, partition, end_offset, started_at)
                 SELECT $1, u.partition, u.end_offset, clock_timestamp()
                 FROM unnest($2::integer[], $3::bigint[]) AS u(partition, end_offset)",
                position::rebuild_table(table)
            ),
            &[&name, &partitions, &ends],
        )
        .await
        .map_err(failed(table, "rebuild"))?;
    execute(client, table, "rebuild", &statement::begin_notes(target)).await
}

async fn execute(
    client: &Client,
    table: &TableId,
    doing: &'static str,
    sql: &str,
) -> Result<(), Error> {
    client
        .batch_execute(sql)
        .await
        .map_err(failed(table, doing))
}

impl Writer {
    /// Returns the target as it is now.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Returns whether a rebuild waits for a partition to reach its end: a reader that stands at the
    /// end reports it by [`apply`](Self::apply) even without changes.
    #[must_use]
    pub fn awaits_end(&self, partition: i32) -> bool {
        self.rebuild_ends.contains_key(&partition)
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
        let owned = client
            .query(
                &format!(
                    "SELECT 1 FROM {} WHERE target = $1 AND epoch = $2 FOR UPDATE",
                    position::table(table)
                ),
                &[&table.to_string(), &self.epoch],
            )
            .await
            .map_err(failed(table, "add a column to"))?;
        if owned.is_empty() && fences(&self.connector) {
            return Err(self.fenced());
        }
        ensure_table(client, &self.target, self.evolution).await?;
        execute(client, table, "add a column to", "COMMIT").await?;
        self.statements = Statements::prepare(client, &self.target).await?;
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
        if !self.rebuild_ends.is_empty() {
            self.advance_rebuild(partition, changes, next_offset)
                .await?;
        }
        self.commit().await?;
        #[cfg(debug_assertions)]
        if faults::sabotages_positions() {
            let advanced = self.advance(partition, next_offset, read_up_to_ms).await;
            advanced.map_err(failed(self.target.table(), "write"))?;
        }
        self.next_offsets.insert(partition, next_offset);
        Ok(())
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
        let (begun, advanced, deleted, upserted) = join4(
            client.batch_execute("BEGIN"),
            self.advance_first(partition, next_offset, read_up_to_ms),
            self.delete(changes),
            self.upsert(changes),
        )
        .await;
        let table = self.target.table();
        begun.map_err(failed(table, "begin a transaction on"))?;
        if advanced.map_err(failed(table, "advance the position of"))? != 1 {
            return Err(self.fenced());
        }
        // Deletes come first: a key that moved may free a value that is unique in the table.
        deleted.map_err(failed(table, "delete from"))?;
        upserted.map_err(failed(table, "write"))?;
        for (columns, rows) in &changes.partial {
            let Some(sql) = statement::partial(&self.target, columns) else {
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
        let epoch = if fences(&self.connector) { "epoch = $5" } else { "$5 > 0" };
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

    /// Notes the keys of a batch; when the partition has reached its end, says so; when all have,
    /// deletes what none noted.
    async fn advance_rebuild(
        &mut self,
        partition: i32,
        changes: &Changes,
        next_offset: i64,
    ) -> Result<(), Error> {
        let client = &self.session.client;
        let table = self.target.table();
        let partial = changes.partial.iter().map(|(_, rows)| rows);
        let written = std::iter::once(&changes.upserts).chain(partial);
        let written: Vec<_> = written.filter(|rows| rows.count > 0).collect();
        if !written.is_empty() {
            let sql = statement::note(&self.target);
            let note = statement::prepare(client, &self.target, &sql, self.target.key()).await?;
            for rows in written {
                client
                    .execute(&note, &rows.parameters_of(self.target.key()))
                    .await
                    .map_err(failed(table, "rebuild"))?;
            }
        }
        let has_ended = |end: &i64| next_offset >= *end;
        if !self.rebuild_ends.get(&partition).is_some_and(has_ended) {
            return Ok(());
        }
        client
            .execute(
                &format!(
                    "DELETE FROM {} WHERE target = $1 AND partition = $2",
                    position::rebuild_table(table)
                ),
                &[&table.to_string(), &partition],
            )
            .await
            .map_err(failed(table, "rebuild"))?;
        self.rebuild_ends.remove(&partition);
        if self.rebuild_ends.is_empty() {
            execute(client, table, "sweep", &statement::sweep(&self.target)).await?;
            tracing::info!(%table, "rebuilt a table");
        }
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

pub(super) async fn empty(
    sink: &mut Sink,
    table: &TableId,
    topic: &str,
) -> Result<Option<u64>, Error> {
    let client = &sink.session.client;
    if !position::exists(client, table).await? {
        return Ok(None);
    }
    if fences(&sink.connector) {
        position::terminate_predecessors(client, table).await?;
    }
    execute(client, table, "begin a transaction on", "BEGIN").await?;
    let stored = position::stored(client, table).await?;
    let is_ours = stored
        .iter()
        .any(|stored| position::is_same_input(&stored.topic, topic));
    if !is_ours {
        execute(client, table, "leave", "ROLLBACK").await?;
        return Ok(None);
    }
    let mut deleted = 0;
    if catalogue::found(client, table).await? != Found::Missing {
        let sql = format!("DELETE FROM {}", qualified(table));
        let answer = client.execute(&sql, &[]).await;
        deleted = answer.map_err(failed(table, "empty"))?;
    }
    let name = table.to_string();
    for owned in [position::table(table), position::rebuild_table(table)] {
        client
            .execute(&format!("DELETE FROM {owned} WHERE target = $1"), &[&name])
            .await
            .map_err(failed(table, "forget the positions of"))?;
    }
    let seen = position::seen_table(table);
    let drop_notes = format!("DROP TABLE IF EXISTS {seen}; COMMIT");
    execute(client, table, "empty", &drop_notes).await?;
    Ok(Some(deleted))
}
