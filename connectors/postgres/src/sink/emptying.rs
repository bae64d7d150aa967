//! What must be gone at once: all rows of a table, or the values of some columns.
//!
//! ```text
//! live ──begin (epoch up, is_emptying)──▶ emptying ──parts──▶ finish (rest, positions) ──▶ empty
//!                                            ▲  │ crash
//!                                            └──┘ the next owner goes on
//! ```
//!
//! A table of millions of rows is emptied in parts, each a transaction of its own that ends within a
//! moment: none of the subscriber's sessions waits for long, and the server can reuse what was freed.
//! From the first part on the table is nobody's: `is_emptying` is stored before it, so whoever comes
//! next, whatever is wanted by then, finishes first and reads everything again. The parts are ranges
//! of pages, so the table is read once; the last transaction looks at all of it, for rows that the
//! subscriber's own updates have moved, and forgets the positions together with them.
//!
//! Values of columns go in one statement, in the transaction that takes the new generation up. What
//! keeps a value from going, such as a NOT NULL of the subscriber's that is not ours to drop, must not
//! keep it there: then the whole table is emptied.

use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::catalogue;
use super::error::{DatabaseError, Error};
#[cfg(debug_assertions)]
use super::faults;
use super::holding::{self, Holding};
use super::position::{self, Found, Input, Withdraw, failed};
use super::statement::execute;
use super::target::{qualified, quote};
use super::{Sink, fences};

/// Pages of a part: 4 MiB, some ten thousand rows, deleted in a fraction of a second.
const PART_PAGES: i64 = 512;

/// What was taken away before a table goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// Nothing: the table holds this generation already, or none of it has to go.
    Nothing,
    /// So many rows lost values.
    Values(u64),
    /// So many rows were deleted.
    Rows(u64),
}

pub(super) async fn empty(sink: &Sink, table: &TableId, name: &str) -> Result<Option<u64>, Error> {
    let client = &sink.session.client;
    let Some(mut held) = begin(sink, table).await? else {
        return Ok(None);
    };
    if held.input != name || held.is_released() {
        execute(client, table, "leave", "ROLLBACK").await?;
        return Ok(None);
    }
    let deleted = empty_held(sink, table, &mut held).await?;
    Ok(Some(deleted))
}

pub(super) async fn withdraw(
    sink: &Sink,
    table: &TableId,
    input: &Input,
) -> Result<Withdrawn, Error> {
    let client = &sink.session.client;
    let Some(mut held) = begin(sink, table).await? else {
        return Ok(Withdrawn::Nothing);
    };
    if held.input != input.name {
        // The assignment refuses it by name.
        execute(client, table, "leave", "ROLLBACK").await?;
        return Ok(Withdrawn::Nothing);
    }
    if held.is_emptying {
        return Ok(Withdrawn::Rows(empty_held(sink, table, &mut held).await?));
    }
    let Some(what) = position::withdraw(input, &held) else {
        execute(client, table, "leave", "ROLLBACK").await?;
        return Ok(Withdrawn::Nothing);
    };
    let columns = match what {
        Withdraw::Everything => {
            return Ok(Withdrawn::Rows(empty_held(sink, table, &mut held).await?));
        }
        Withdraw::Columns(columns) => columns,
        Withdraw::Nothing => Vec::new(),
    };
    tracing::info!(%table, topic = input.topic, ?columns, "a table takes a new generation up");
    point(sink, "before-null").await?;
    let nulled = match null(client, table, &columns).await {
        Ok(nulled) => nulled,
        // A lost connection or a lock is no reason to delete anything.
        Err(error) if error.class() != Class::Definite => return Err(error.of(table)),
        Err(error) => {
            let reason = error.to_string();
            tracing::warn!(%table, reason, "values cannot be withdrawn, the table is emptied");
            execute(client, table, "withdraw from", "ROLLBACK").await?;
            let Some(mut held) = begin(sink, table).await? else {
                return Ok(Withdrawn::Nothing);
            };
            return Ok(Withdrawn::Rows(empty_held(sink, table, &mut held).await?));
        }
    };
    position::forget(client, table).await?;
    held.generation = i64::try_from(input.generation).unwrap_or(i64::MAX);
    holding::take(client, table, &held).await?;
    point(sink, "after-null").await?;
    execute(client, table, "withdraw from", "COMMIT").await?;
    point(sink, "nulled").await?;
    Ok(Withdrawn::Values(nulled))
}

/// Ends the former owner and begins a transaction that holds the target's row; `None`, without a
/// transaction, if there is none.
async fn begin(sink: &Sink, table: &TableId) -> Result<Option<Holding>, Error> {
    let client = &sink.session.client;
    if !position::exists(client, table).await? {
        return Ok(None);
    }
    if fences(&sink.connector) {
        position::terminate_predecessors(client, table).await?;
    }
    execute(client, table, "begin a transaction on", "BEGIN").await?;
    position::ensure(client, table).await?;
    let held = holding::locked(client, table).await?;
    if held.is_none() {
        execute(client, table, "leave", "ROLLBACK").await?;
    }
    Ok(held)
}

/// Empties a table whose row the open transaction holds, and forgets everything about it.
async fn empty_held(sink: &Sink, table: &TableId, held: &mut Holding) -> Result<u64, Error> {
    let client = &sink.session.client;
    held.is_emptying = true;
    let epoch = holding::take(client, table, held).await?;
    execute(client, table, "empty", "COMMIT").await?;
    point(sink, "emptying").await?;
    let mut deleted = 0;
    let pages = pages(client, table).await?;
    let mut first = 0;
    while first < pages {
        let end = first + PART_PAGES;
        let part = format!(
            "DELETE FROM {} WHERE ctid >= '({first},0)'::tid AND ctid < '({end},0)'::tid",
            qualified(table)
        );
        execute(client, table, "begin a transaction on", "BEGIN").await?;
        holding::hold(client, table, epoch).await?;
        deleted += delete(client, table, &part).await?;
        execute(client, table, "empty", "COMMIT").await?;
        point(sink, "emptied-part").await?;
        first = end;
    }
    execute(client, table, "begin a transaction on", "BEGIN").await?;
    holding::hold(client, table, epoch).await?;
    if catalogue::found(client, table).await? == Found::WithRows {
        let all = format!("DELETE FROM {}", qualified(table));
        deleted += delete(client, table, &all).await?;
    }
    position::forget(client, table).await?;
    held.is_emptying = false;
    held.generation = 0;
    held.swept_generation = 0;
    holding::take(client, table, held).await?;
    point(sink, "before-emptied").await?;
    execute(client, table, "empty", "COMMIT").await?;
    point(sink, "emptied").await?;
    tracing::info!(%table, deleted, "a table was emptied");
    Ok(deleted)
}

async fn delete(client: &Client, table: &TableId, sql: &str) -> Result<u64, Error> {
    let deleted = client.execute(sql, &[]).await;
    deleted.map_err(failed(table, "empty"))
}

/// Returns the number of pages that can be deleted from range by range; 0 where a range would be
/// looked for in all of the table: before PostgreSQL 14, and over partitions.
async fn pages(client: &Client, table: &TableId) -> Result<i64, Error> {
    let sql = "SELECT pg_catalog.pg_relation_size(c.oid)
                      / pg_catalog.current_setting('block_size')::bigint
               FROM pg_catalog.pg_class c
               WHERE c.oid = pg_catalog.to_regclass($1) AND c.relkind = 'r'
                 AND pg_catalog.current_setting('server_version_num')::integer >= 140000";
    let row = client.query_opt(sql, &[&qualified(table)]).await;
    let row = row.map_err(failed(table, "look up the size of"))?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// Takes the values of some columns away, of those that the table has.
async fn null(client: &Client, table: &TableId, columns: &[String]) -> Result<u64, Failure> {
    let Some(existing) = catalogue::existing(client, table).await? else {
        return Ok(0);
    };
    let listed = existing
        .columns
        .iter()
        .filter(|column| columns.contains(&column.name));
    let (mut alter, mut set, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for column in listed {
        let name = quote(&column.name);
        if column.not_null {
            alter.push(format!("ALTER COLUMN {name} DROP NOT NULL"));
        }
        set.push(format!("{name} = NULL"));
        held.push(format!("{name} IS NOT NULL"));
    }
    if set.is_empty() {
        return Ok(0);
    }
    let name = qualified(table);
    if !alter.is_empty() {
        let alter = format!("ALTER TABLE {name} {}", alter.join(", "));
        client.batch_execute(&alter).await?;
    }
    let (set, held) = (set.join(", "), held.join(" OR "));
    let update = format!("UPDATE {name} SET {set} WHERE {held}");
    Ok(client.execute(&update, &[]).await?)
}

/// Why values could not be withdrawn.
enum Failure {
    Known(Error),
    Database(DatabaseError),
}

impl Failure {
    fn class(&self) -> Class {
        use hutong_schemas::class::Classified as _;
        match self {
            Self::Known(error) => error.class(),
            Self::Database(error) => error.class(),
        }
    }

    fn of(self, table: &TableId) -> Error {
        match self {
            Self::Known(error) => error,
            Self::Database(source) => Error::Table {
                doing: "withdraw from",
                table: table.clone(),
                source,
            },
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(error) => error.fmt(f),
            Self::Database(error) => error.fmt(f),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A place at which a test may let the work end as a crash would.
#[cfg(debug_assertions)]
async fn point(sink: &Sink, name: &'static str) -> Result<(), Error> {
    faults::point(&sink.connector, name).await
}

#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "it waits where there are faults")]
async fn point(_: &Sink, _: &'static str) -> Result<(), Error> {
    Ok(())
}
