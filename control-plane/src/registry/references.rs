//! Schemas that use names which other subjects define.
//!
//! Avro resolves names within one text, so a schema is read, compared and hashed with the definitions
//! of what it refers to put in at the first place where each name stands. It is kept as it was posted.

use hutong_schemas::compatibility;
use hutong_transport::record::SchemaReference;
use serde_json::Value;
use sqlx::PgConnection;

use super::reading::may_see;
use super::refusal;
use crate::caller::Caller;
use crate::error::Error;
use crate::store::schemas::{self, Version};

/// How deep references may refer to others.
const DEPTH_MAX: usize = 16;

/// What a name means: the whole definition, names in full.
#[derive(Clone, Debug)]
pub(crate) struct Definition {
    name: String,
    schema: Value,
}

/// Finds what a schema refers to, as far as the caller may see it.
pub(super) async fn resolve(
    db: &mut PgConnection,
    caller: &Caller,
    references: &[SchemaReference],
) -> Result<Vec<Definition>, Error> {
    let mut found = Vec::new();
    for reference in references {
        let missing = || {
            refusal(
                42201,
                format!(
                    "Invalid schema: no schema reference found for subject \"{}\" and version {}",
                    reference.subject, reference.version
                ),
            )
        };
        let subject = schemas::subject(db, &reference.subject).await?;
        subject
            .filter(|subject| may_see(caller, subject))
            .ok_or_else(missing)?;
        let versions = schemas::versions(db, &reference.subject).await?;
        let version = versions
            .into_iter()
            .find(|version| version.version == reference.version && !version.deleted)
            .ok_or_else(missing)?;
        let complete = complete_one(db, &version).await?;
        found.push(define(&reference.name, &complete)?);
    }
    Ok(found)
}

/// Returns the texts of versions with what they refer to.
pub(super) async fn complete(
    db: &mut PgConnection,
    versions: &[Version],
) -> Result<Vec<String>, Error> {
    let mut texts = Vec::new();
    for version in versions {
        texts.push(complete_one(db, version).await?);
    }
    Ok(texts)
}

async fn complete_one(db: &mut PgConnection, version: &Version) -> Result<String, Error> {
    complete_to(db, &version.text, &version.references.0, 0).await
}

async fn complete_to(
    db: &mut PgConnection,
    text: &str,
    references: &[SchemaReference],
    depth: usize,
) -> Result<String, Error> {
    if references.is_empty() {
        return Ok(text.to_owned());
    }
    if depth == DEPTH_MAX {
        let message = format!("Invalid schema: references are nested more than {DEPTH_MAX} deep");
        return Err(refusal(42201, message));
    }
    let mut found = Vec::new();
    for reference in references {
        // What is referred to is never deleted, see `deleting`.
        let versions = schemas::versions(db, &reference.subject).await?;
        let mut versions = versions.into_iter();
        if let Some(version) = versions.find(|version| version.version == reference.version) {
            let deeper = complete_to(db, &version.text, &version.references.0, depth + 1);
            let complete = Box::pin(deeper).await?;
            found.push(define(&reference.name, &complete)?);
        }
    }
    inline(text, &found).map_err(|details| refusal(42201, format!("Invalid schema: {details}")))
}

fn define(name: &str, complete: &str) -> Result<Definition, Error> {
    let invalid = |details: String| refusal(42201, format!("Invalid schema reference: {details}"));
    let canonical =
        compatibility::canonical(complete).map_err(|error| invalid(crate::error::chain(&error)))?;
    let schema = serde_json::from_str(&canonical).map_err(|error| invalid(error.to_string()))?;
    Ok(Definition {
        name: name.to_owned(),
        schema,
    })
}

/// Puts definitions into a text, each where its name stands first.
pub(super) fn inline(text: &str, found: &[Definition]) -> Result<String, String> {
    if found.is_empty() {
        return Ok(text.to_owned());
    }
    let mut schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut inlining = Inlining {
        found,
        defined: Vec::new(),
    };
    inlining.visit(&mut schema, "");
    Ok(schema.to_string())
}

struct Inlining<'a> {
    found: &'a [Definition],
    /// Names that stand in the text by now.
    defined: Vec<String>,
}

impl Inlining<'_> {
    fn visit(&mut self, schema: &mut Value, namespace: &str) {
        match schema {
            Value::String(name) => {
                let full = full_name(name, namespace);
                let definition = self
                    .found
                    .iter()
                    .find(|known| known.name == full || known.name == *name);
                if let Some(definition) = definition
                    && !self.defined.contains(&definition.name)
                {
                    let mut inlined = definition.schema.clone();
                    self.prune(&mut inlined);
                    *schema = inlined;
                }
            }
            Value::Array(branches) => {
                for branch in branches {
                    self.visit(branch, namespace);
                }
            }
            Value::Object(object) => {
                let mut inner = namespace.to_owned();
                if let Some(own) = object.get("namespace").and_then(Value::as_str) {
                    own.clone_into(&mut inner);
                }
                if let Some(name) = object.get("name").and_then(Value::as_str)
                    && object.get("fields").is_some()
                    && let Some((own, _)) = name.rsplit_once('.')
                {
                    own.clone_into(&mut inner);
                }
                if let Some(Value::Array(fields)) = object.get_mut("fields") {
                    for field in fields {
                        if let Some(kind) = field.get_mut("type") {
                            self.visit(kind, &inner);
                        }
                    }
                } else if let Some(kind) = object.get_mut("type") {
                    self.visit(kind, &inner);
                }
                for part in ["items", "values"] {
                    if let Some(part) = object.get_mut(part) {
                        self.visit(part, &inner);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Notes the names that a definition brings, and leaves only names where they stand already: two
    /// references may share a third.
    fn prune(&mut self, schema: &mut Value) {
        match schema {
            Value::Array(parts) => parts.iter_mut().for_each(|part| self.prune(part)),
            Value::Object(object) => {
                let is_named = matches!(
                    object.get("type").and_then(Value::as_str),
                    Some("record" | "error" | "enum" | "fixed")
                );
                if is_named && let Some(name) = object.get("name").and_then(Value::as_str) {
                    if self.defined.iter().any(|known| known == name) {
                        *schema = Value::String(name.to_owned());
                        return;
                    }
                    self.defined.push(name.to_owned());
                }
                for part in ["type", "items", "values"] {
                    if let Some(part) = object.get_mut(part) {
                        self.prune(part);
                    }
                }
                if let Some(Value::Array(fields)) = object.get_mut("fields") {
                    for field in fields {
                        if let Some(kind) = field.get_mut("type") {
                            self.prune(kind);
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Definition, define, inline};

    fn definition(name: &str, schema: &str) -> Definition {
        define(name, schema).unwrap()
    }

    #[test]
    fn a_definition_stands_once_where_its_name_stands_first() {
        let code = r#"{"type":"fixed","name":"n.Code","size":4}"#;
        let person = r#"{"type":"record","name":"n.Person","fields":[
            {"name":"code","type":{"type":"fixed","name":"Code","size":4}}]}"#;
        let found = [definition("n.Code", code), definition("n.Person", person)];
        let text = r#"{"type":"record","name":"R","namespace":"n","fields":[
            {"name":"a","type":"n.Code"},{"name":"b","type":["null","Person"]},{"name":"c","type":"Code"}]}"#;
        let complete = inline(text, &found).unwrap();
        assert_eq!(complete.matches("\"size\"").count(), 1, "{complete}");
        assert!(
            hutong_schemas::compatibility::canonical(&complete).is_ok(),
            "{complete}"
        );
        assert!(hutong_schemas::compatibility::canonical(text).is_err());
    }
}
