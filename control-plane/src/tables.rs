//! Captured tables, as far as a caller may know.

use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::caller::Caller;
use crate::error::Error;
use crate::store::connectors;

/// A captured table.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CapturedTable {
    /// Its topic.
    topic: String,
    /// The connector that captures it.
    connector: String,
    /// Where that runs.
    location: String,
    /// The database.
    database: String,
    /// The schema in it.
    schema: String,
    /// The table in that.
    table: String,
    /// Captured columns.
    columns: Vec<CapturedColumn>,
    /// The names of the key's columns; empty without a key, then no view can stand on it.
    key: Vec<String>,
    /// The partitions of its topic.
    partitions: i32,
}

/// A captured column.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CapturedColumn {
    name: String,
    /// As PostgreSQL writes it.
    #[serde(rename = "type")]
    sql_type: String,
    nullable: bool,
}

/// Lists the captured tables of the caller's connectors; the platform sees all.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<CapturedTable>, Error> {
    let mut db = app.store.acquire().await?;
    let mut tables = Vec::new();
    for captured in app.live.tables() {
        let prefix = connectors::prefix_of_topic(&mut db, &captured.record.topic).await?;
        let owner = prefix.as_ref().map(|prefix| prefix.owner.as_str());
        if !caller.is_platform() && owner.is_none_or(|owner| !caller.sees(owner)) {
            continue;
        }
        // A location that announced the topic before, or never may.
        let location = prefix.and_then(|prefix| prefix.location);
        if location.is_some_and(|location| location != captured.location) {
            continue;
        }
        let record = captured.record;
        let columns = &record.table.columns;
        tables.push(CapturedTable {
            key: record
                .table
                .key
                .iter()
                .map(|index| columns[*index].name.clone())
                .collect(),
            columns: columns
                .iter()
                .map(|column| CapturedColumn {
                    name: column.name.clone(),
                    sql_type: column.sql_type.to_string(),
                    nullable: column.nullable,
                })
                .collect(),
            topic: record.topic,
            connector: record.connector,
            location: captured.location,
            database: record.database,
            schema: record.table.id.schema.clone(),
            table: record.table.id.table.clone(),
            partitions: record.partitions,
        });
    }
    Ok(tables)
}
