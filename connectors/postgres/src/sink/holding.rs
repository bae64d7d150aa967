//! What a target holds, beside its positions: its row of `hutong_view`.
//!
//! The row says whose rows the table holds, of which generation, and whether a former generation's
//! may still be among them. It carries the owner's epoch too, so that work on the table that moves no
//! position, emptying above all, is fenced like work that does.

use hutong_schemas::table::TableId;
use tokio_postgres::{Client, Row};

use super::catalogue;
use super::error::Error;
use super::position::{failed, table as positions};
use super::target::quote;

/// A row of `hutong_view`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    /// The input's name without a generation.
    pub(super) input: String,
    /// The generation whose rows are written; 0 once the table was emptied and is nobody's.
    pub(super) generation: i64,
    /// The newest generation of which it is certain that no rows of earlier ones are left.
    pub(super) swept_generation: i64,
    /// The table is being emptied: what it still holds is nobody's. Entered with the decision to
    /// empty; durable; a crash leaves it and the next owner goes on; ends with the empty table.
    pub(super) is_emptying: bool,
    /// When reading from the beginning was last begun, in milliseconds since 1970. Until a reader
    /// has come past that moment its records are old although it misses nothing.
    pub(super) reading_since_ms: i64,
    /// The columns that were ever written. One that the input no longer has is NULL from then on.
    pub(super) columns: Vec<String>,
    /// The table itself: one that its owner dropped and made anew is another.
    pub(super) table_oid: u32,
    /// The word under which dead letters were last tried again.
    pub(super) replayed: String,
    /// We have made the table, so its types and its key are ours to change.
    pub(super) is_made: bool,
}

impl Holding {
    /// Returns whether the table is nobody's.
    pub(super) fn is_released(&self) -> bool {
        self.generation == 0 && !self.is_emptying
    }
}

/// Returns the table's name, quoted.
pub(super) fn table(target: &TableId) -> String {
    format!("{}.hutong_view", quote(&target.schema))
}

/// Returns the statement that makes the table. Runs under the lock of `position::ensure`.
pub(super) fn create(target: &TableId) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
            target text PRIMARY KEY,
            input text NOT NULL,
            generation bigint NOT NULL,
            swept_generation bigint NOT NULL,
            is_emptying boolean NOT NULL,
            reading_since timestamp with time zone NOT NULL,
            columns text[] NOT NULL,
            table_oid oid NOT NULL,
            own_oid oid NOT NULL,
            is_made boolean NOT NULL,
            replayed text NOT NULL DEFAULT '',
            epoch bigint NOT NULL,
            backend_pid integer NOT NULL,
            backend_start timestamp with time zone NOT NULL,
            v integer NOT NULL DEFAULT 1
         )",
        table(target)
    )
}

/// Returns a target's row and keeps it locked until the end of the transaction. A row about a table
/// that is gone says nothing of the one that has its name now. Where our own table is another than
/// the row was written to, all of the database was copied or restored, and oids tell nothing.
pub(super) async fn locked(client: &Client, target: &TableId) -> Result<Option<Holding>, Error> {
    let sql = format!(
        "SELECT input, generation, swept_generation, is_emptying,
                (extract(epoch FROM reading_since) * 1000)::bigint, columns, table_oid, is_made, v,
                own_oid = '{holdings}'::regclass, replayed
         FROM {holdings} WHERE target = $1 FOR UPDATE",
        holdings = table(target)
    );
    let row = client.query_opt(&sql, &[&target.to_string()]).await;
    let row = row.map_err(failed(target, "look up the state of"))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let held = read(target, &row)?;
    let now = catalogue::oid(client, target).await?;
    let is_restored: bool = !row.get::<_, bool>(9);
    let is_the_same = now.is_none_or(|oid| oid == held.table_oid);
    Ok((is_restored || is_the_same).then_some(held))
}

fn read(target: &TableId, row: &Row) -> Result<Holding, Error> {
    let v: i32 = row.get(8);
    if v > 1 {
        return Err(Error::Newer {
            table: target.clone(),
            v,
        });
    }
    Ok(Holding {
        input: row.get(0),
        generation: row.get(1),
        swept_generation: row.get(2),
        is_emptying: row.get(3),
        reading_since_ms: row.get(4),
        columns: row.get(5),
        table_oid: row.get(6),
        is_made: row.get(7),
        replayed: row.get(10),
    })
}

/// Writes a target's row under a new epoch, which it returns: larger than every one before it, also
/// than those of rows that were deleted in between, so it begins with the server's clock.
pub(super) async fn take(
    client: &Client,
    target: &TableId,
    holding: &Holding,
) -> Result<i64, Error> {
    let sql = format!(
        "INSERT INTO {holdings} AS v (target, input, generation, swept_generation, is_emptying,
                reading_since, columns, table_oid, own_oid, is_made, epoch, backend_pid, backend_start)
         SELECT $1, $2, $3, $4, $5, to_timestamp($6::double precision / 1000), $7, $8,
                '{holdings}'::regclass, $9,
                GREATEST(e.epoch, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
                a.pid, a.backend_start
         FROM (SELECT coalesce(max(epoch), 0) + 1 AS epoch FROM (
                   SELECT epoch FROM {positions} WHERE target = $1
                   UNION ALL SELECT epoch FROM {holdings} WHERE target = $1) known) e,
              pg_catalog.pg_stat_activity a
         WHERE a.pid = pg_catalog.pg_backend_pid()
         ON CONFLICT (target) DO UPDATE
         SET input = EXCLUDED.input, generation = EXCLUDED.generation,
             swept_generation = EXCLUDED.swept_generation, is_emptying = EXCLUDED.is_emptying,
             reading_since = EXCLUDED.reading_since, columns = EXCLUDED.columns,
             table_oid = EXCLUDED.table_oid, own_oid = EXCLUDED.own_oid,
             is_made = EXCLUDED.is_made, epoch = EXCLUDED.epoch,
             backend_pid = EXCLUDED.backend_pid, backend_start = EXCLUDED.backend_start
         RETURNING epoch",
        holdings = table(target),
        positions = positions(target),
    );
    let row = client
        .query_one(
            &sql,
            &[
                &target.to_string(),
                &holding.input,
                &holding.generation,
                &holding.swept_generation,
                &holding.is_emptying,
                &millis(holding.reading_since_ms),
                &holding.columns,
                &holding.table_oid,
                &holding.is_made,
            ],
        )
        .await
        .map_err(failed(target, "take over"))?;
    Ok(row.get(0))
}

/// Locks a target's row for the transaction if the epoch is still ours.
///
/// # Errors
///
/// Fenced, when it is not.
pub(super) async fn hold(client: &Client, target: &TableId, epoch: i64) -> Result<(), Error> {
    let sql = format!(
        "SELECT FROM {} WHERE target = $1 AND epoch = $2 FOR UPDATE",
        table(target)
    );
    let rows = client.query(&sql, &[&target.to_string(), &epoch]).await;
    if rows.map_err(failed(target, "hold"))?.is_empty() {
        return Err(Error::Fenced {
            table: target.clone(),
            epoch,
        });
    }
    Ok(())
}

/// Says that nothing of earlier generations is left. The caller holds the row.
pub(super) async fn swept(client: &Client, target: &TableId) -> Result<(), Error> {
    let sql = format!(
        "UPDATE {} SET swept_generation = generation WHERE target = $1",
        table(target)
    );
    let updated = client.execute(&sql, &[&target.to_string()]).await;
    updated.map_err(failed(target, "sweep"))?;
    Ok(())
}

/// Adds columns to those that were ever written. The caller holds the row.
pub(super) async fn note_columns(
    client: &Client,
    target: &TableId,
    columns: &[String],
) -> Result<(), Error> {
    let sql = format!(
        "UPDATE {} SET columns = ARRAY(SELECT DISTINCT unnest(columns || $2) ORDER BY 1)
         WHERE target = $1",
        table(target)
    );
    let updated = client.execute(&sql, &[&target.to_string(), &columns]).await;
    updated.map_err(failed(target, "note the columns of"))?;
    Ok(())
}

/// Milliseconds since 1970 are far below 2^53, up to which a double is exact.
#[expect(
    clippy::cast_precision_loss,
    reason = "a time in milliseconds is below 2^53"
)]
pub(super) fn millis(ms: i64) -> f64 {
    ms as f64
}
