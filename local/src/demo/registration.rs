//! What is registered with the platform, through its public API alone.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::shares::Share;
use super::stage::{PUBLICATION, SINK_ROLE, SOURCE_ROLE, Stage};
use crate::departments::Department;
use crate::testkit::{Api, until};

/// How long a view may be refused because its table is not known yet.
const TABLES_KNOWN: Duration = Duration::from_secs(60);

/// Returns the name of a department's source connector.
pub(super) fn source_name(department: Department) -> String {
    format!("source-{}", department.database())
}

/// Registers a department's source connector.
pub(super) async fn source(
    api: &Api,
    stage: &Stage,
    department: Department,
    password: &str,
) -> Result<()> {
    let database = stage.database(department)?;
    let tables: Vec<String> = department
        .captured_tables()
        .iter()
        .map(|table| format!("public.{table}"))
        .collect();
    let config = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "database.hostname": database.host,
        "database.port": database.port.to_string(),
        "database.user": SOURCE_ROLE,
        "database.password": password,
        "database.dbname": database.name,
        "topic.prefix": stage.prefix(department),
        "slot.name": stage.slot(department),
        "publication.name": PUBLICATION,
        "publication.autocreate.mode": "disabled",
        "table.include.list": tables.join(","),
        "column.exclude.list": department.withheld_column(),
        "snapshot.mode": "initial",
    });
    create(api, &source_name(department), config).await
}

/// Adds a table to those that a department's connector captures.
pub(super) async fn capture_also(api: &Api, department: Department, table: &str) -> Result<()> {
    let mut tables: Vec<&str> = department.captured_tables().to_vec();
    tables.push(table);
    let tables: Vec<String> = tables
        .iter()
        .map(|table| format!("public.{table}"))
        .collect();
    let path = format!("/connectors/{}/config", source_name(department));
    let change = json!({ "table.include.list": tables.join(",") });
    let answer = api.connect("PATCH", &path, Some(change)).await?;
    answer
        .ok()
        .map(|_| ())
        .with_context(|| format!("table {table} was refused"))
}

/// Registers a share's view. Until the connector has announced the table, the platform refuses it.
pub(super) async fn view(api: &Api, stage: &Stage, share: &Share) -> Result<()> {
    let document = share.document(&stage.prefix(share.provider));
    until(
        &format!("view {} to be accepted", share.view()),
        TABLES_KNOWN,
        async || {
            let answer = api
                .platform("POST", "/api/v1/views", Some(document.clone()))
                .await?;
            Ok(answer.ok().map(|_| ()))
        },
    )
    .await
}

/// Registers the sink that keeps a share's table at its subscriber.
pub(super) async fn sink(api: &Api, stage: &Stage, share: &Share, password: &str) -> Result<()> {
    let front = stage.front(share.subscriber)?;
    let config = json!({
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "connection.url": format!("jdbc:postgresql://{}:{}/{}", front.host, front.port, front.name),
        "connection.username": SINK_ROLE,
        "connection.password": password,
        "topics": format!("{}.view.{}", stage.cluster(), share.view()),
        "collection.name.format": share.target(),
        "insert.mode": "upsert",
        "primary.key.mode": "record_key",
        "delete.enabled": "true",
        "schema.evolution": "basic",
    });
    create(api, &share.sink(), config).await
}

async fn create(api: &Api, name: &str, config: Value) -> Result<()> {
    let body = json!({ "name": name, "config": config });
    let answer = api.connect("POST", "/connectors", Some(body)).await?;
    answer
        .ok()
        .with_context(|| format!("connector {name} was refused"))?;
    Ok(())
}
