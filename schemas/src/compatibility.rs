//! Whether a new schema of a subject gets on with its earlier ones.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::Error;
use crate::resolution;
use crate::schema_text::{Object, Schema, full_name};

/// A compatibility level, named as schema registries name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Anything goes.
    None,
    /// The new schema reads data of the latest.
    Backward,
    /// The new schema reads data of all.
    BackwardTransitive,
    /// The latest schema reads data of the new one.
    Forward,
    /// All schemas read data of the new one.
    ForwardTransitive,
    /// Both, with the latest.
    Full,
    /// Both, with all.
    FullTransitive,
}

impl Level {
    /// Returns the level's name in the registry's API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    fn is_backward(self) -> bool {
        match self {
            Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive => true,
            Self::None | Self::Forward | Self::ForwardTransitive => false,
        }
    }

    fn is_forward(self) -> bool {
        match self {
            Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive => true,
            Self::None | Self::Backward | Self::BackwardTransitive => false,
        }
    }

    fn is_transitive(self) -> bool {
        match self {
            Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive => true,
            Self::None | Self::Backward | Self::Forward | Self::Full => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no compatibility level.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a compatibility level")]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        [
            Self::None,
            Self::Backward,
            Self::BackwardTransitive,
            Self::Forward,
            Self::ForwardTransitive,
            Self::Full,
            Self::FullTransitive,
        ]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

/// Returns why `new` cannot be registered beside `existing`, oldest first; empty if it can.
///
/// # Errors
/// [`Error::Schema`] (definite) if one of them is not an Avro schema.
pub fn check(level: Level, new: &str, existing: &[&str]) -> Result<Vec<String>, Error> {
    let new = parse(new)?;
    let compared = if level.is_transitive() {
        existing
    } else {
        &existing[existing.len().saturating_sub(1)..]
    };
    let mut messages = Vec::new();
    for old in compared {
        let old = parse(old)?;
        if level.is_backward() {
            let problems = resolution::problems(&old, &new)?;
            messages.extend(problems.into_iter().map(|problem| {
                format!("the new schema cannot read data of an earlier one: {problem}")
            }));
        }
        if level.is_forward() {
            let problems = resolution::problems(&new, &old)?;
            messages.extend(problems.into_iter().map(|problem| {
                format!("an earlier schema cannot read data of the new one: {problem}")
            }));
        }
    }
    Ok(messages)
}

/// Returns a text that is equal for equal schemas: without blanks, properties sorted, names in
/// full. Attributes and defaults count, and so does the order of a record's fields.
///
/// # Errors
/// [`Error::Schema`] (definite) if the text is not an Avro schema.
pub fn canonical(schema: &str) -> Result<String, Error> {
    let schema = parse(schema)?;
    Ok(canonical_type(schema.root(), "")?.to_string())
}

/// apache-avro says what is an Avro schema.
fn parse(text: &str) -> Result<Schema, Error> {
    apache_avro::Schema::parse_str(text).map_err(|error| Error::Schema(error.to_string()))?;
    Schema::parse(text)
}

fn canonical_type(schema: &Value, namespace: &str) -> Result<Value, Error> {
    match schema {
        Value::String(name) => Ok(Value::String(canonical_name(name, namespace))),
        Value::Array(branches) => branches
            .iter()
            .map(|branch| canonical_type(branch, namespace))
            .collect(),
        Value::Object(object) => canonical_object(object, namespace),
        other => Ok(other.clone()),
    }
}

fn canonical_object(object: &Object, namespace: &str) -> Result<Value, Error> {
    let is_named = matches!(
        object.get("type").and_then(Value::as_str),
        Some("record" | "error" | "enum" | "fixed")
    );
    let mut inner = namespace.to_owned();
    let mut result = object.clone();
    if is_named {
        let name = full_name(object, namespace)?;
        inner = name
            .rsplit_once('.')
            .map_or("", |(inner, _)| inner)
            .to_owned();
        result.remove("namespace");
        result.insert("name".to_owned(), Value::String(name));
    } else if let Some(kind) = object.get("type") {
        result.insert("type".to_owned(), canonical_type(kind, namespace)?);
    }
    for property in ["items", "values"] {
        if let Some(part) = object.get(property) {
            result.insert(property.to_owned(), canonical_type(part, namespace)?);
        }
    }
    if let Some(Value::Array(fields)) = object.get("fields") {
        let fields: Result<Value, Error> = fields
            .iter()
            .map(|field| canonical_field(field, &inner))
            .collect();
        result.insert("fields".to_owned(), fields?);
    }
    // `{"type": T}` says no more than T.
    match result.remove("type") {
        Some(only) if result.is_empty() => Ok(only),
        Some(kind) => {
            result.insert("type".to_owned(), kind);
            Ok(Value::Object(result))
        }
        None => Ok(Value::Object(result)),
    }
}

fn canonical_field(field: &Value, namespace: &str) -> Result<Value, Error> {
    let mut field = field.clone();
    if let Some(field_type) = field.get_mut("type") {
        *field_type = canonical_type(field_type, namespace)?;
    }
    Ok(field)
}

fn canonical_name(name: &str, namespace: &str) -> String {
    let is_known = name.contains('.') || namespace.is_empty() || is_primitive_or_complex(name);
    if is_known {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn is_primitive_or_complex(name: &str) -> bool {
    matches!(
        name,
        "null"
            | "boolean"
            | "int"
            | "long"
            | "float"
            | "double"
            | "bytes"
            | "string"
            | "array"
            | "map"
    )
}
