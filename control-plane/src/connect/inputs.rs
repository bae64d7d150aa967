//! What a sink reads: views that its organisation receives or gives, and tables of its own.

use std::collections::BTreeMap;

use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::{jdbc_sink, plugin};
use sqlx::types::Json;

use super::check::{Checked, Typed, invalid};
use crate::App;
use crate::caller::Caller;
use crate::error::Error;
use crate::store::connectors::{self, Connector, Input, TableTopic};
use crate::store::{Transaction, views};

/// Asks Kafka for the topics of tables among a sink's inputs, before any transaction begins.
pub(super) async fn resolve_topics(
    app: &App,
    caller: &Caller,
    checked: &Checked,
) -> Result<BTreeMap<String, TableTopic>, Error> {
    let mut found = BTreeMap::new();
    let Typed::Sink(config) = &checked.typed else {
        return Ok(found);
    };
    for topic in &config.topics {
        if view_of(app, topic).is_some() {
            continue;
        }
        let prefix = {
            let mut db = app.store.acquire().await?;
            connectors::prefix_of_topic(&mut db, topic).await?
        };
        let location = prefix
            .as_ref()
            .and_then(|prefix| prefix.location.as_deref());
        let Some(captured) = app.live.table(topic, location) else {
            continue;
        };
        let is_own =
            caller.is_platform() || prefix.is_some_and(|prefix| caller.sees(&prefix.owner));
        if captured.record.table.key.is_empty() || !is_own {
            continue;
        }
        if let Some(info) = app.admin.topic(topic).await? {
            let fixed = TableTopic {
                topic_id: info.id.0,
                partitions: info.partitions,
            };
            found.insert(topic.clone(), fixed);
        }
    }
    Ok(found)
}

fn view_of<'a>(app: &App, topic: &'a str) -> Option<&'a str> {
    let rest = topic.strip_prefix(app.cluster.as_str())?;
    rest.strip_prefix(".view.")
}

/// Returns what a sink's topics are: views that the caller receives or gives, or its own tables.
pub(super) async fn resolve_inputs(
    app: &App,
    tx: &mut Transaction,
    caller: &Caller,
    connector: &Connector,
    config: &jdbc_sink::Config,
    mut topics: BTreeMap<String, TableTopic>,
) -> Result<Vec<Input>, Error> {
    let before = connectors::inputs(tx, &connector.name).await?;
    let mut inputs = Vec::new();
    let mut errors = Vec::new();
    for name in &config.topics {
        let mut refuse = |message: String| errors.push(PropertyError::new("topics", message));
        let mut input = Input {
            name: name.clone(),
            view: None,
            fixed: None,
        };
        if let Some(view_name) = view_of(app, name) {
            let view = views::get(tx, view_name).await?;
            let view =
                view.filter(|view| caller.sees(&view.owner) || caller.sees(&view.subscriber));
            match view {
                None => refuse(format!("there is no view \"{view_name}\"")),
                Some(view) if !view.is_live() && !before.iter().any(|b| b.name == *name) => {
                    refuse(format!("view \"{view_name}\" is {}", view.state));
                }
                Some(view) => input.view = Some(view.name),
            }
        } else {
            match topics.remove(name) {
                None => refuse(format!(
                    "\"{name}\" is neither a view, which is {}.view.<name>, nor the topic of a \
                     captured table with a key",
                    app.cluster
                )),
                Some(fixed) => input.fixed = Some(Json(fixed)),
            }
        }
        inputs.push(input);
    }
    if errors.is_empty() {
        return Ok(inputs);
    }
    let plugin = plugin::find(hutong_connectors_core::SINK_CLASS).expect("it is a plugin");
    Err(invalid(plugin, &errors))
}
