//! Connectors, as Kafka Connect's users know them: what is wanted of them.
//!
//! A connector has one task, `<name>-0`. Its configuration is checked by `connectors/core` alone
//! when it is posted, because its location may be away for days; what a real connection would tell
//! is asked by [`validate`] and shown by the task's status. DELETE is a target state: the connector
//! is not listed any more, its worker removes slot and publication and says so, then its name, prefix
//! and slot are free again.

use std::collections::BTreeMap;

use hutong_connectors_core::plugin::{self, Plugin, PluginKind};
use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::{jdbc_sink, postgres_source};
use hutong_transport::names::is_name;
use hutong_transport::record::{TargetState, TaskKind};
use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::App;
use crate::caller::{Caller, Role};
use crate::error::{Error, Mistake};
use crate::store::connectors::{self, Claim, Connector, Input, TableTopic};
use crate::store::tasks::{self, Wanted, connector_task, from_word, word};
use crate::store::{Transaction, views};

pub(crate) mod status;
pub(crate) mod validate;

/// A configuration as it is posted.
pub(crate) type Properties = BTreeMap<String, String>;

/// Whether a connector may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// It must not, and begins in this state.
    Create(TargetState),
    /// It may, and is made where it is not.
    Upsert,
}

/// Lists the connectors that a caller may see.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<Connector>, Error> {
    let mut db = app.store.acquire().await?;
    connectors::list(&mut db, caller.limit()).await
}

/// Lists the connectors whose deletion was asked for and is not finished.
pub(crate) async fn list_deleting(app: &App, caller: &Caller) -> Result<Vec<Connector>, Error> {
    let mut db = app.store.acquire().await?;
    connectors::list_deleting(&mut db, caller.limit()).await
}

/// Returns a connector.
pub(crate) async fn get(app: &App, caller: &Caller, name: &str) -> Result<Connector, Error> {
    let mut db = app.store.acquire().await?;
    find(&mut db, caller, name).await
}

async fn find(db: &mut PgConnection, caller: &Caller, name: &str) -> Result<Connector, Error> {
    connectors::get(db, name)
        .await?
        .filter(|found| caller.sees(&found.owner) && found.deleted_at_ms.is_none())
        .ok_or_else(|| Error::not_found(format!("Connector {name} not found")))
}

/// Makes a connector or replaces its configuration; returns it, and whether it was made. Durable when
/// it returns.
pub(crate) async fn write(
    app: &App,
    caller: &Caller,
    name: &str,
    properties: Properties,
    how: Write,
) -> Result<(Connector, bool), Error> {
    caller.require(Role::Operator)?;
    let checked = check(app, name, properties)?;
    let topics = resolve_topics(app, caller, &checked).await?;
    let mut tx = app.store.begin_change().await?;
    let existing = connectors::get(&mut tx, name).await?;
    if let Some(existing) = &existing {
        refuse_existing(caller, existing, how, &checked)?;
    }
    let target = match (&existing, how) {
        (Some(existing), _) => existing.target.clone(),
        (None, Write::Create(target)) => word(target)?,
        (None, Write::Upsert) => word(TargetState::Running)?,
    };
    let owner = existing
        .as_ref()
        .map_or(&caller.owner, |existing| &existing.owner);
    let connector = Connector {
        name: name.to_owned(),
        owner: owner.clone(),
        kind: checked.plugin.kind.as_str().to_owned(),
        class: checked.plugin.class.to_owned(),
        location: checked.location.clone(),
        config: Json(checked.properties.clone()),
        target,
        deleted_at_ms: None,
    };
    connectors::write(&mut tx, &connector).await?;
    match &checked.typed {
        Typed::Source(config) => {
            let claim = claim(app, &connector, config);
            refuse_claim(&mut tx, caller, &claim).await?;
            connectors::claim(&mut tx, &claim).await?;
        }
        Typed::Sink(config) => {
            let inputs = resolve_inputs(app, &mut tx, caller, &connector, config, topics).await?;
            connectors::set_inputs(&mut tx, &connector, &inputs).await?;
        }
    }
    write_task(app, &mut tx, &connector).await?;
    tx.commit().await?;
    tracing::info!(
        connector = name,
        owner = connector.owner,
        "configuration accepted"
    );
    Ok((connector, existing.is_none()))
}

/// Changes single properties; null removes one.
pub(crate) async fn patch(
    app: &App,
    caller: &Caller,
    name: &str,
    changes: BTreeMap<String, Option<String>>,
) -> Result<Connector, Error> {
    let mut properties = get(app, caller, name).await?.config.0;
    for (property, value) in changes {
        match value {
            Some(value) => properties.insert(property, value),
            None => properties.remove(&property),
        };
    }
    Ok(write(app, caller, name, properties, Write::Upsert).await?.0)
}

/// Pauses, resumes or stops a connector. Asking for what is wanted already changes nothing.
pub(crate) async fn set_target(
    app: &App,
    caller: &Caller,
    name: &str,
    target: TargetState,
) -> Result<(), Error> {
    caller.require(Role::Operator)?;
    let mut tx = app.store.begin_change().await?;
    let connector = find(&mut tx, caller, name).await?;
    if connector.target == word(target)? {
        return Ok(());
    }
    connectors::set_target(&mut tx, name, target).await?;
    tasks::set_target(&mut tx, &app.cluster, &connector_task(name), target).await?;
    tx.commit().await?;
    tracing::info!(connector = name, target = ?target, "target state changed");
    Ok(())
}

/// Starts a connector's task again as it is.
pub(crate) async fn restart(app: &App, caller: &Caller, name: &str) -> Result<(), Error> {
    caller.require(Role::Operator)?;
    let mut tx = app.store.begin_change().await?;
    find(&mut tx, caller, name).await?;
    tasks::restart(&mut tx, &app.cluster, &connector_task(name)).await?;
    tx.commit().await?;
    Ok(())
}

/// Asks for a connector's deletion.
pub(crate) async fn delete(app: &App, caller: &Caller, name: &str) -> Result<(), Error> {
    set_target(app, caller, name, TargetState::Deleted).await
}

/// Forgets a connector whose deletion nobody finishes, such as that of a location that is gone for
/// good. What its worker made stays where it is.
pub(crate) async fn forget(app: &App, caller: &Caller, name: &str) -> Result<(), Error> {
    caller.require_platform(Role::Admin)?;
    let mut tx = app.store.begin_change().await?;
    let found = connectors::get(&mut tx, name).await?;
    if found.is_none_or(|found| found.deleted_at_ms.is_none()) {
        let message = format!("no deletion of a connector {name} is under way");
        return Err(Error::not_found(message));
    }
    tasks::remove(&mut tx, &app.cluster, &connector_task(name)).await?;
    connectors::remove(&mut tx, name).await?;
    tx.commit().await?;
    tracing::warn!(
        connector = name,
        "deletion given up; slot and publication may still exist"
    );
    Ok(())
}

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
        let config = json!({"class": connector.class, "properties": connector.config});
        (TaskKind::Source, config)
    } else {
        let inputs = task_inputs(app, tx, connector).await?;
        let config = json!({
            "class": connector.class, "properties": connector.config, "inputs": inputs,
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
            inputs.push(json!({
                "name": app.cluster.view_alias(&view.name),
                "topic": view.compiled.topic,
                "topic_id": view.compiled.topic_id,
                "partitions": view.partitions,
                "view": view.name,
                "generation": view.generation,
                "version": view.version,
                "state": if view.is_live() { "live" } else { "revoked" },
                "valid_until_ms": view.valid_until_ms,
            }));
        } else if let Some(Json(fixed)) = input.fixed {
            inputs.push(json!({
                "name": input.name,
                "topic": input.name,
                "topic_id": fixed.topic_id,
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

/// A configuration that is right by itself.
#[derive(Debug)]
struct Checked {
    plugin: &'static Plugin,
    properties: Properties,
    location: String,
    typed: Typed,
}

#[derive(Debug)]
enum Typed {
    Source(Box<postgres_source::Config>),
    Sink(Box<jdbc_sink::Config>),
}

/// Checks a configuration by itself, all mistakes together.
fn check(app: &App, name: &str, mut properties: Properties) -> Result<Checked, Error> {
    if !is_name(name) {
        return Err(Error::field(
            "name",
            format!(
                "\"{name}\" is not a name: lower-case letters, digits, _ and -, at most 63, the first a letter or digit"
            ),
        ));
    }
    let given = properties
        .entry("name".to_owned())
        .or_insert_with(|| name.to_owned());
    if given != name {
        let message = format!(
            "Connector name configuration ({given}) doesn't match connector name in the URL ({name})"
        );
        return Err(Error::Invalid {
            mistakes: vec![Mistake::new("name", message.clone())],
            message,
        });
    }
    let plugin = find_plugin(&properties)?;
    let parsed = match plugin.kind {
        PluginKind::Source => postgres_source::Config::parse(name, &properties)
            .map(|config| (config.location.clone(), Typed::Source(Box::new(config)))),
        PluginKind::Sink => jdbc_sink::Config::parse(name, &properties)
            .map(|config| (config.location.clone(), Typed::Sink(Box::new(config)))),
    };
    let (location, typed) = parsed.map_err(|errors| invalid(plugin, &errors))?;
    let errors = refused_here(app, &location, &typed);
    if !errors.is_empty() {
        return Err(invalid(plugin, &errors));
    }
    Ok(Checked {
        plugin,
        properties,
        location,
        typed,
    })
}

/// Returns the plugin that a configuration is for.
pub(crate) fn find_plugin(properties: &Properties) -> Result<&'static Plugin, Error> {
    let Some(class) = properties.get("connector.class") else {
        return Err(Error::field(
            "connector.class",
            "is required: it says which connector is configured",
        ));
    };
    plugin::find(class).ok_or_else(|| {
        let classes: Vec<_> = plugin::PLUGINS.iter().map(|plugin| plugin.class).collect();
        Error::field(
            "connector.class",
            format!(
                "Failed to find any class that implements Connector and which name matches {class}, \
                 available connectors are: {}",
                classes.join(", ")
            ),
        )
    })
}

/// Returns what this installation refuses although it is right by itself.
fn refused_here(app: &App, location: &str, typed: &Typed) -> Vec<PropertyError> {
    let mut errors = Vec::new();
    if !app.locations.iter().any(|known| known == location) {
        let known = app.locations.join(", ");
        errors.push(PropertyError::new(
            "hutong.location",
            format!("\"{location}\" is not a location of this installation, which has {known}"),
        ));
    }
    if let Typed::Source(config) = typed {
        let (prefix, cluster) = (&config.topic_prefix, app.cluster.as_str());
        if prefix == cluster || prefix.starts_with(&format!("{cluster}.")) {
            errors.push(PropertyError::new(
                "topic.prefix",
                format!("\"{prefix}\" is taken: topics under \"{cluster}\" are the platform's own"),
            ));
        }
    }
    errors
}

/// Returns mistakes in Kafka Connect's words.
fn invalid(plugin: &Plugin, errors: &[PropertyError]) -> Error {
    let lines: Vec<_> = errors.iter().map(PropertyError::to_string).collect();
    let mistakes = errors.iter().map(|e| Mistake::new(&e.property, &e.message));
    Error::Invalid {
        message: format!(
            "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can \
             also find the above list of errors at the endpoint \
             `/connector-plugins/{}/config/validate`",
            errors.len(),
            lines.join("\n"),
            plugin.class
        ),
        mistakes: mistakes.collect(),
    }
}

fn refuse_existing(
    caller: &Caller,
    existing: &Connector,
    how: Write,
    wanted: &Checked,
) -> Result<(), Error> {
    let name = &existing.name;
    // Names are one space for all organisations, so this much about another's must be said.
    if !caller.sees(&existing.owner) || how != Write::Upsert && existing.deleted_at_ms.is_none() {
        return Err(Error::conflict(format!("Connector {name} already exists")));
    }
    if existing.deleted_at_ms.is_some() {
        return Err(Error::conflict(format!(
            "Connector {name} is being deleted: location {} has not yet reported that it removed \
             what the connector made",
            existing.location
        )));
    }
    let mut errors = Vec::new();
    if existing.class != wanted.plugin.class {
        errors.push(PropertyError::new(
            "connector.class",
            format!(
                "cannot be changed from {}; delete the connector first",
                existing.class
            ),
        ));
    }
    if existing.location != wanted.location {
        errors.push(PropertyError::new(
            "hutong.location",
            format!(
                "cannot be changed from {}; delete the connector first",
                existing.location
            ),
        ));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(invalid(wanted.plugin, &errors))
    }
}

/// Returns what a source wants for itself. A loopback address means another server at each location.
fn claim(app: &App, connector: &Connector, config: &postgres_source::Config) -> Claim {
    let connection = &config.connection;
    let host = connection.host.to_ascii_lowercase();
    let is_loopback = host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    let host = if is_loopback && app.locations.len() > 1 {
        format!("{host}@{}", connector.location)
    } else {
        host
    };
    Claim {
        connector: connector.name.clone(),
        owner: connector.owner.clone(),
        topic_prefix: config.topic_prefix.clone(),
        slot: format!(
            "{host}:{}/{}/{}",
            connection.port, connection.database, config.slot_name
        ),
    }
}

async fn refuse_claim(tx: &mut Transaction, caller: &Caller, claim: &Claim) -> Result<(), Error> {
    let under = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}."));
    let mut errors = Vec::new();
    for other in connectors::claims_but(tx, &claim.connector).await? {
        let whose = if caller.sees(&other.owner) {
            format!("connector \"{}\"", other.connector)
        } else {
            "a connector of another organisation".to_owned()
        };
        let (mine, theirs) = (&claim.topic_prefix, &other.topic_prefix);
        if mine == theirs {
            errors.push(PropertyError::new(
                "topic.prefix",
                format!("\"{mine}\" is used by {whose} already"),
            ));
        } else if under(mine, theirs) || under(theirs, mine) {
            errors.push(PropertyError::new(
                "topic.prefix",
                format!("\"{mine}\" and the prefix of {whose} lie one under the other"),
            ));
        }
        if claim.slot == other.slot {
            let slot = claim.slot.rsplit('/').next().unwrap_or_default();
            errors.push(PropertyError::new(
                "slot.name",
                format!("slot \"{slot}\" of this database is used by {whose} already"),
            ));
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let plugin = plugin::find(hutong_connectors_core::SOURCE_CLASS).expect("it is a plugin");
    Err(invalid(plugin, &errors))
}

/// Asks Kafka for the topics of tables among a sink's inputs, before any transaction begins.
async fn resolve_topics(
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
        let Some(captured) = app.live.table(topic) else {
            continue;
        };
        if captured.record.table.key.is_empty() || !owns_table(app, caller, topic).await? {
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

async fn owns_table(app: &App, caller: &Caller, topic: &str) -> Result<bool, Error> {
    let mut db = app.store.acquire().await?;
    let claim = connectors::claim_of_topic(&mut db, topic).await?;
    Ok(caller.is_platform() || claim.is_some_and(|claim| caller.sees(&claim.owner)))
}

fn view_of<'a>(app: &App, topic: &'a str) -> Option<&'a str> {
    let rest = topic.strip_prefix(app.cluster.as_str())?;
    rest.strip_prefix(".view.")
}

/// Returns what a sink's topics are: views that the caller receives or gives, or its own tables.
async fn resolve_inputs(
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
