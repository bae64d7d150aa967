//! What the subscriber's catalogue says about a target.

use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::error::Error;
use super::position::{Found, failed};
use super::target::{Existing, ExistingColumn, qualified};

/// Returns the table's oid, or `None` where there is none.
async fn oid(client: &Client, table: &TableId) -> Result<Option<u32>, Error> {
    let row = client
        .query_opt(
            "SELECT c.oid, c.relkind IN ('r', 'p')
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema, &table.table],
        )
        .await
        .map_err(failed(table, "look up"))?;
    match row {
        None => Ok(None),
        Some(row) if row.get(1) => Ok(Some(row.get(0))),
        Some(_) => Err(Error::Incompatible {
            table: table.clone(),
            differences: vec!["it is no table".to_owned()],
        }),
    }
}

/// Returns whether the table is there and has rows.
pub(super) async fn found(client: &Client, table: &TableId) -> Result<Found, Error> {
    if oid(client, table).await?.is_none() {
        return Ok(Found::Missing);
    }
    let sql = format!("SELECT EXISTS (SELECT FROM {})", qualified(table));
    let row = client
        .query_one(&sql, &[])
        .await
        .map_err(failed(table, "look into"))?;
    Ok(if row.get(0) {
        Found::WithRows
    } else {
        Found::Empty
    })
}

/// Returns the table's columns and unique keys, or `None` where there is no table.
pub(super) async fn existing(client: &Client, table: &TableId) -> Result<Option<Existing>, Error> {
    let Some(oid) = oid(client, table).await? else {
        return Ok(None);
    };
    let columns = client
        .query(
            "SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod), attnotnull,
                    atthasdef OR attidentity <> ''
             FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
             ORDER BY attnum",
            &[&oid],
        )
        .await
        .map_err(failed(table, "look up"))?;
    // An expression, a condition or a deferred check would keep ON CONFLICT from using the index.
    let keys = client
        .query(
            "SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                          WHERE a.attrelid = i.indrelid
                            AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
             FROM pg_catalog.pg_index i
             WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid
               AND i.indpred IS NULL AND i.indexprs IS NULL",
            &[&oid],
        )
        .await
        .map_err(failed(table, "look up"))?;
    let columns = columns.iter().map(|row| ExistingColumn {
        name: row.get(0),
        format_type: row.get(1),
        not_null: row.get(2),
        has_default: row.get(3),
    });
    let keys = keys.iter().map(|row| {
        let mut names: Vec<String> = row.get(0);
        names.sort_unstable();
        names
    });
    Ok(Some(Existing {
        columns: columns.collect(),
        unique_keys: keys.collect(),
    }))
}
