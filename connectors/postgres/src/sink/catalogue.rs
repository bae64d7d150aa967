//! What the subscriber's catalogue says about a target.

use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::error::Error;
use super::position::{Found, failed};
use super::shape::{Existing, ExistingColumn};
use super::target::{qualified, quote};

/// Returns the table's oid, or `None` where there is none.
pub(super) async fn oid(client: &Client, table: &TableId) -> Result<Option<u32>, Error> {
    let row = client
        .query_opt(
            "SELECT c.oid,
                    CASE c.relkind WHEN 'r' THEN NULL WHEN 'p' THEN NULL WHEN 'v' THEN 'view'
                         WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table'
                         WHEN 'S' THEN 'sequence' WHEN 'i' THEN 'index' ELSE 'relation' END
             FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2",
            &[&table.schema, &table.table],
        )
        .await
        .map_err(failed(table, "look up"))?;
    let Some(row) = row else {
        return Ok(None);
    };
    let Some(kind): Option<String> = row.get(1) else {
        return Ok(Some(row.get(0)));
    };
    Err(Error::Incompatible {
        table: table.clone(),
        differences: vec![format!("it is a {kind}, not a table")],
        remedies: vec!["let it select from a table that the sink may fill".to_owned()],
    })
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
                    atthasdef OR attidentity <> '', attgenerated <> '' OR attidentity = 'a'
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
        is_generated: row.get(4),
    });
    let keys = keys.iter().map(|row| {
        let mut names: Vec<String> = row.get(0);
        names.sort_unstable();
        names
    });
    Ok(Some(Existing {
        oid,
        columns: columns.collect(),
        unique_keys: keys.collect(),
        primary_key: primary_key(client, table, oid).await?,
        obstacles: obstacles(client, table, oid).await?,
    }))
}

async fn primary_key(client: &Client, table: &TableId, oid: u32) -> Result<Option<String>, Error> {
    let sql = "SELECT conname::text FROM pg_catalog.pg_constraint
               WHERE conrelid = $1 AND contype = 'p'";
    let row = client.query_opt(sql, &[&oid]).await;
    Ok(row.map_err(failed(table, "look up"))?.map(|row| row.get(0)))
}

/// Rules rewrite our statements, and row security hides rows from them. Triggers are the subscriber's
/// own business: what they refuse is an error like any other.
async fn obstacles(
    client: &Client,
    table: &TableId,
    oid: u32,
) -> Result<Vec<(String, String)>, Error> {
    let rules = "SELECT rulename::text FROM pg_catalog.pg_rewrite
                 WHERE ev_class = $1 AND ev_enabled <> 'D' ORDER BY 1";
    let rules = client.query(rules, &[&oid]).await;
    let mut obstacles = Vec::new();
    for row in rules.map_err(failed(table, "look up"))? {
        let rule: String = row.get(0);
        obstacles.push((
            format!("rule {rule} rewrites what is written"),
            format!("DROP RULE {} ON {}", quote(&rule), qualified(table)),
        ));
    }
    let security = "SELECT pg_catalog.row_security_active($1::oid), current_user::text";
    let row = client.query_one(security, &[&oid]).await;
    let row = row.map_err(failed(table, "look up"))?;
    if row.get(0) {
        let user: String = row.get(1);
        obstacles.push((
            format!("row-level security applies to {user}"),
            format!("ALTER ROLE {} BYPASSRLS", quote(&user)),
        ));
    }
    Ok(obstacles)
}
