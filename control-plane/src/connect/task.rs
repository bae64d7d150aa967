//! What workers get of a connector: its task, written with whatever changed it.

use hutong_connectors_core::plugin::PluginKind;
use hutong_transport::record::TaskKind;
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::App;
use crate::error::Error;
use crate::store::connectors::{self, Connector};
use crate::store::tasks::{self, Wanted, connector_task, from_word};
use crate::store::views;

/// Writes a connector's task as it follows from the store. Views call it for their sinks.
pub(crate) async fn write_task(
    app: &App,
    tx: &mut PgConnection,
    connector: &Connector,
) -> Result<(), Error> {
    let unreadable = |source| Error::Stored {
        what: format!("connector {}", connector.name),
        source,
    };
    let (kind, config) = if connector.kind == PluginKind::Source.as_str() {
        let config = json!({
            "owner": connector.owner, "class": connector.class, "properties": connector.config,
        });
        (TaskKind::Source, config)
    } else {
        let inputs = task_inputs(app, tx, connector).await?;
        let config = json!({
            "owner": connector.owner, "class": connector.class, "properties": connector.config,
            "inputs": inputs,
        });
        (TaskKind::Sink, config)
    };
    let wanted = Wanted {
        id: &connector_task(&connector.name),
        owner: &connector.owner,
        location: &connector.location,
        connector: &connector.name,
        kind,
        target: from_word(&connector.target).map_err(unreadable)?,
        config: &config,
        source_topic: None,
    };
    tasks::write(tx, &app.cluster, wanted).await
}

/// Returns a sink's inputs as its task carries them.
async fn task_inputs(
    app: &App,
    tx: &mut PgConnection,
    connector: &Connector,
) -> Result<Vec<Value>, Error> {
    let mut inputs = Vec::new();
    for input in connectors::inputs(tx, &connector.name).await? {
        let view = match &input.view {
            Some(view) => views::get(tx, view).await?,
            None => None,
        };
        if let Some(view) = view {
            inputs.push(crate::views::sink_input(app, &view, &connector.owner));
        } else if let Some(Json(fixed)) = input.fixed {
            inputs.push(json!({
                "name": input.name,
                "topic": input.name,
                "topic_id": fixed.topic_id,
                // Where the exact SQL types of its columns are published.
                "location": app.live.table(&input.name, None).map(|captured| captured.location),
                "partitions": fixed.partitions,
                "view": null,
                "generation": 1,
                "version": 1,
                "state": "live",
            }));
        }
    }
    Ok(inputs)
}
