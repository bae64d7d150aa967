//! Whether a configuration may be accepted: by itself, in this installation, beside the others.

use hutong_connectors_core::plugin::{self, Plugin, PluginKind};
use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::{jdbc_sink, postgres_source};
use hutong_transport::names::is_name;

use super::{Properties, Write};
use crate::App;
use crate::caller::Caller;
use crate::error::{Error, Mistake};
use crate::store::Transaction;
use crate::store::connectors::{self, Claim, Connector};

/// A configuration that is right by itself.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) plugin: &'static Plugin,
    pub(super) properties: Properties,
    pub(super) location: String,
    pub(super) typed: Typed,
}

#[derive(Debug)]
pub(super) enum Typed {
    Source(Box<postgres_source::Config>),
    Sink(Box<jdbc_sink::Config>),
}

/// Checks a configuration by itself, all mistakes together.
pub(super) fn check(
    app: &App,
    caller: &Caller,
    name: &str,
    mut properties: Properties,
) -> Result<Checked, Error> {
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
    let errors = refused_here(app, caller, &location, &typed);
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
fn find_plugin(properties: &Properties) -> Result<&'static Plugin, Error> {
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
fn refused_here(app: &App, caller: &Caller, location: &str, typed: &Typed) -> Vec<PropertyError> {
    let mut errors = Vec::new();
    if let Some(refusal) = app.whose_locations.refusal(caller, location) {
        errors.push(PropertyError::new("hutong.location", refusal));
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
pub(super) fn invalid(plugin: &Plugin, errors: &[PropertyError]) -> Error {
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

pub(super) fn refuse_existing(
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
pub(super) fn claim(app: &App, connector: &Connector, config: &postgres_source::Config) -> Claim {
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

pub(super) async fn refuse_claim(
    tx: &mut Transaction,
    caller: &Caller,
    claim: &Claim,
) -> Result<(), Error> {
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
        for kept in connectors::prefixes(tx, None).await? {
            let (mine, kept_prefix) = (&claim.topic_prefix, &kept.prefix);
            let overlaps =
                mine == kept_prefix || under(mine, kept_prefix) || under(kept_prefix, mine);
            if overlaps && kept.owner != claim.owner {
                let whose = if caller.sees(&kept.owner) {
                    kept.owner
                } else {
                    "another organisation".to_owned()
                };
                errors.push(PropertyError::new(
                    "topic.prefix",
                    format!(
                        "\"{mine}\": topics under prefix \"{kept_prefix}\" belong to {whose}, with or \
                         without a connector; once they are deleted, the platform can release the prefix"
                    ),
                ));
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    let plugin = plugin::find(hutong_connectors_core::SOURCE_CLASS).expect("it is a plugin");
    Err(invalid(plugin, &errors))
}
