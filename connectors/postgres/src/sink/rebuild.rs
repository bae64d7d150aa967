//! Mark and sweep: everything is read again, and in the end what was not read is deleted.
//!
//! ```text
//!  batch ──▶ rows, position, notes of its keys (one transaction) ──▶ … ──▶ the last partition passes
//!                                                                         its end: sweep, same transaction
//! ```
//!
//! A table needs it when rows may be in it whose deletion cannot be read: after an absence longer than
//! tombstones live, under another topic of the same name, and under a new generation, whose topic
//! knows nothing of what former ones held. Nothing is missing from the table meanwhile.
//!
//! *Why nothing stays that should not.* A row that is in the input at its end was written by a record
//! that is in the topic, so the rebuild has read it and noted its key; a key that none noted is in no
//! record. *Why nothing goes that should stay.* The sweep runs only when every partition was read up
//! to its end, in the transaction that says so of the last one, by the owner of the target's row in
//! `hutong_view`, and notes are written with the rows that they stand for.
//!
//! Where a partition ends is what the topic held when the rebuild began. Of a new generation, which may
//! still be filled, it is where the fill ends; that is told later, and until then nothing is swept.
//!
//! A crash leaves notes and positions of the same transactions, and the next owner goes on.

use std::collections::BTreeMap;

use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::changes::Changes;
use super::error::Error;
use super::holding;
use super::position::{Ends, Input, failed, rebuild_table, seen_table};
use super::statement::{self, execute};
use super::target::{Target, qualified};

/// Where the partitions end that have not been read so far yet; `None` where that is not known.
pub(super) type Remaining = BTreeMap<i32, Option<i64>>;

/// Notes where each partition ends, and begins to note keys. Positions must have been forgotten.
pub(super) async fn begin(
    client: &Client,
    target: &Target,
    input: &Input,
    ends: Ends,
) -> Result<(), Error> {
    let table = target.table();
    let known = |end: i64| (ends == Ends::Now).then_some(end);
    let (partitions, ends): (Vec<i32>, Vec<Option<i64>>) = (0..)
        .zip(input.end_offsets.iter().map(|end| known(*end)))
        .filter(|(_, end)| *end != Some(0))
        .unzip();
    client
        .execute(
            &format!(
                "INSERT INTO {} (target, partition, end_offset)
                 SELECT $1, u.partition, u.end_offset
                 FROM unnest($2::integer[], $3::bigint[]) AS u(partition, end_offset)",
                rebuild_table(table)
            ),
            &[&table.to_string(), &partitions, &ends],
        )
        .await
        .map_err(failed(table, "rebuild"))?;
    execute(client, table, "rebuild", &statement::begin_notes(target)).await
}

/// Returns what is left of a rebuild that is going on.
pub(super) async fn remaining(client: &Client, table: &TableId) -> Result<Remaining, Error> {
    let sql = format!(
        "SELECT partition, end_offset FROM {} WHERE target = $1",
        rebuild_table(table)
    );
    let rows = client.query(&sql, &[&table.to_string()]).await;
    let rows = rows.map_err(failed(table, "look up the rebuild of"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Returns whether there are notes: without them a rebuild cannot go on.
pub(super) async fn has_notes(client: &Client, table: &TableId) -> Result<bool, Error> {
    let sql = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
    let row = client.query_one(sql, &[&seen_table(table)]).await;
    Ok(row.map_err(failed(table, "look up the rebuild of"))?.get(0))
}

/// Notes the keys of the rows that a batch writes.
pub(super) async fn note(client: &Client, target: &Target, changes: &Changes) -> Result<(), Error> {
    let partial = changes.partial.iter().map(|(_, rows)| rows);
    let written = std::iter::once(&changes.upserts).chain(partial);
    let written: Vec<_> = written.filter(|rows| rows.count > 0).collect();
    if written.is_empty() {
        return Ok(());
    }
    let sql = statement::note(target);
    let note = statement::prepare(client, target, &sql, target.key()).await?;
    for rows in written {
        client
            .execute(&note, &rows.parameters_of(target.key()))
            .await
            .map_err(failed(target.table(), "rebuild"))?;
    }
    Ok(())
}

/// Says that a partition was read up to its end.
pub(super) async fn ended(client: &Client, table: &TableId, partition: i32) -> Result<(), Error> {
    let sql = format!(
        "DELETE FROM {} WHERE target = $1 AND partition = $2",
        rebuild_table(table)
    );
    let deleted = client
        .execute(&sql, &[&table.to_string(), &partition])
        .await;
    deleted.map_err(failed(table, "rebuild"))?;
    Ok(())
}

/// Deletes what none noted. Every partition has been read up to its end, as the open transaction
/// says; it holds the target's row.
pub(super) async fn sweep(client: &Client, target: &Target, epoch: i64) -> Result<u64, Error> {
    let table = target.table();
    holding::hold(client, table, epoch).await?;
    let sql = format!(
        "DELETE FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS s WHERE {})",
        qualified(table),
        seen_table(table),
        statement::same_key(target, "s"),
    );
    let deleted = client.execute(&sql, &[]).await;
    let deleted = deleted.map_err(failed(table, "sweep"))?;
    let drop_notes = format!("DROP TABLE {}", seen_table(table));
    execute(client, table, "sweep", &drop_notes).await?;
    holding::swept(client, table).await?;
    tracing::info!(%table, deleted, "rebuilt a table");
    Ok(deleted)
}
