//! Validation of a configuration: by itself here, then with a real connection at its location.

use hutong_connectors_core::plugin::{self, Plugin};
use hutong_connectors_core::property::{Importance, Kind, Property, PropertyError, Treatment};
use hutong_transport::record::RequestKind;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Properties;
use crate::App;
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::requests::{self, ANSWER_TIME, Question, Whom};
use crate::store::connectors;

/// What Kafka Connect answers to a validation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConfigInfos {
    /// The connector's class.
    name: String,
    /// The number of mistakes.
    error_count: usize,
    /// The groups of properties.
    groups: Vec<&'static str>,
    /// Every property, with its definition and value.
    configs: Vec<ConfigInfo>,
}

/// A property, with its definition and value.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConfigInfo {
    definition: ConfigKeyInfo,
    value: ConfigValueInfo,
}

/// The definition of a property.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ConfigKeyInfo {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    required: bool,
    default_value: Option<String>,
    importance: &'static str,
    documentation: String,
    group: &'static str,
    order_in_group: usize,
    width: &'static str,
    display_name: String,
    dependents: Vec<String>,
    order: usize,
}

/// The value of a property.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConfigValueInfo {
    name: String,
    value: Option<String>,
    recommended_values: Vec<String>,
    errors: Vec<String>,
    visible: bool,
}

/// The one group of properties.
const GROUP: &str = "Connector";

/// Returns a plugin by the name in a path.
pub(crate) fn find(name: &str) -> Result<&'static Plugin, Error> {
    plugin::find(name).ok_or_else(|| Error::not_found(format!("Unknown connector plugin {name}")))
}

/// Returns the definitions of a plugin's properties.
pub(crate) fn definitions(plugin: &Plugin) -> Vec<ConfigKeyInfo> {
    plugin
        .properties
        .properties()
        .zip(1..)
        .map(|(p, order)| definition(p, p.name, order))
        .collect()
}

/// Validates a configuration and returns every mistake beside its property.
pub(crate) async fn validate(
    app: &App,
    caller: &Caller,
    plugin: &'static Plugin,
    properties: Properties,
) -> Result<ConfigInfos, Error> {
    caller.require(Role::Operator)?;
    let mut errors = Vec::new();
    let class = properties.get("connector.class").map_or("", String::as_str);
    if plugin::find(class).is_some_and(|named| named.class != plugin.class) {
        errors.push(PropertyError::new(
            "connector.class",
            format!("is {class}, but the path asks about {}", plugin.class),
        ));
    }
    let mut complete = properties.clone();
    complete
        .entry("connector.class".to_owned())
        .or_insert_with(|| plugin.class.to_owned());
    let name = properties.get("name").map_or("", String::as_str);
    errors.extend(plugin.validate(name, &complete));
    let location = complete
        .get("hutong.location")
        .map_or(hutong_transport::names::DEFAULT_LOCATION, String::as_str);
    if let Some(refusal) = app.whose_locations.refusal(caller, location)
        && errors.is_empty()
    {
        errors.push(PropertyError::new("hutong.location", refusal));
    }
    if errors.is_empty() {
        let owner = owner_of(app, caller, name).await?;
        errors = ask(app, &owner, plugin, location, &complete).await?;
    }
    Ok(report(plugin, &properties, &errors))
}

/// Returns whose connector it is or would be: secrets are resolved for that organisation.
async fn owner_of(app: &App, caller: &Caller, name: &str) -> Result<String, Error> {
    let mut db = app.store.acquire().await?;
    let existing = connectors::get(&mut db, name).await?;
    let existing = existing.filter(|existing| caller.sees(&existing.owner));
    Ok(existing.map_or_else(|| caller.owner.clone(), |existing| existing.owner))
}

/// Asks a worker at the location to validate with a real connection.
async fn ask(
    app: &App,
    owner: &str,
    plugin: &Plugin,
    location: &str,
    properties: &Properties,
) -> Result<Vec<PropertyError>, Error> {
    let question = Question {
        owner,
        location,
        whom: Whom::Anyone,
        kind: RequestKind::Validate,
        config: json!({"owner": owner, "class": plugin.class, "properties": properties}),
    };
    Ok(match requests::ask(app, question).await? {
        Some(answer) => {
            let mistakes = answer.errors.into_iter();
            mistakes
                .map(|error| PropertyError::new(error.property, error.message))
                .collect()
        }
        None => vec![PropertyError::new(
            "hutong.location",
            format!(
                "location \"{location}\" did not answer within {} s: the configuration is right by \
                 itself, but no connection was tried",
                ANSWER_TIME.as_secs()
            ),
        )],
    })
}

/// Puts values and mistakes beside the definitions. Mistakes about what has no definition get one.
fn report(plugin: &Plugin, given: &Properties, errors: &[PropertyError]) -> ConfigInfos {
    let mut configs: Vec<_> = plugin
        .properties
        .properties()
        .filter(|property| !property.name.contains('*'))
        .zip(1..)
        .map(|(property, order)| info(definition(property, property.name, order), given, errors))
        .collect();
    let listed = |name: &str| configs.iter().any(|config| config.definition.name == name);
    let named = given
        .keys()
        .chain(errors.iter().map(|error| &error.property));
    let mut others: Vec<_> = named.filter(|name| !listed(name)).cloned().collect();
    others.sort();
    others.dedup();
    for name in others {
        let order = configs.len() + 1;
        let definition = match plugin.properties.find(&name) {
            Some(property) => definition(property, &name, order),
            None => definition(&UNKNOWN, &name, order),
        };
        configs.push(info(definition, given, errors));
    }
    ConfigInfos {
        name: plugin.class.to_owned(),
        error_count: errors.len(),
        groups: vec![GROUP],
        configs,
    }
}

const UNKNOWN: Property = Property::new("", Kind::String, "Not a property of this connector.");

fn info(definition: ConfigKeyInfo, given: &Properties, errors: &[PropertyError]) -> ConfigInfo {
    let name = definition.name.clone();
    let own = errors.iter().filter(|error| error.property == name);
    let value = ConfigValueInfo {
        value: given
            .get(&name)
            .cloned()
            .or_else(|| definition.default_value.clone()),
        recommended_values: Vec::new(),
        errors: own.map(|error| error.message.clone()).collect(),
        visible: true,
        name,
    };
    ConfigInfo { definition, value }
}

fn definition(property: &Property, name: &str, order: usize) -> ConfigKeyInfo {
    let kind = match property.kind {
        Kind::Boolean => "BOOLEAN",
        Kind::Int => "INT",
        Kind::Long => "LONG",
        Kind::Bytes | Kind::String => "STRING",
        Kind::List => "LIST",
        Kind::Class => "CLASS",
        Kind::Password => "PASSWORD",
    };
    let importance = match property.importance {
        Importance::High => "HIGH",
        Importance::Medium => "MEDIUM",
        Importance::Low => "LOW",
    };
    let documentation = match property.treatment {
        Treatment::Honoured => property.documentation.to_owned(),
        Treatment::Tuning => format!("{} Accepted, without effect here.", property.documentation),
        Treatment::Only(values, reason) => {
            let values = values.join(" or ");
            format!("{} Only {values}: {reason}.", property.documentation)
        }
        Treatment::Refused(reason) => format!("{} Refused: {reason}.", property.documentation),
    };
    ConfigKeyInfo {
        name: name.to_owned(),
        kind,
        required: property.required,
        default_value: property.default.map(str::to_owned),
        importance,
        documentation,
        group: GROUP,
        order_in_group: order,
        width: "MEDIUM",
        display_name: name.to_owned(),
        dependents: Vec::new(),
        order,
    }
}
