//! The schema registry's API, as Confluent's clients call it, one file per subject.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::answer::{RegistryFailed, RegistryJson};
use crate::App;
use crate::registry::Shown;

mod config;
mod mode;
mod schemas;
mod subjects;

type Answer<T> = Result<RegistryJson<T>, RegistryFailed>;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .route("/", axum::routing::get(async || RegistryJson(json!({}))))
        .merge(subjects::router())
        .merge(schemas::router())
        .merge(config::router())
        .merge(mode::router())
}

/// What a listing shows.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
struct Listing {
    /// Show what was deleted softly too.
    #[serde(deserialize_with = "flag")]
    deleted: bool,
    /// Show only what was deleted softly.
    #[serde(deserialize_with = "flag")]
    deleted_only: bool,
    /// Only subjects that begin so; `:*:` in front, which stands for all contexts, is ignored.
    subject_prefix: String,
}

impl Listing {
    fn shown(&self) -> Shown {
        match (self.deleted, self.deleted_only) {
            (_, true) => Shown::Deleted,
            (true, false) => Shown::All,
            (false, false) => Shown::Live,
        }
    }

    fn prefix(&self) -> &str {
        let prefix = self.subject_prefix.as_str();
        prefix.strip_prefix(":*:").unwrap_or(prefix)
    }
}

/// Where to look for what a subject has not.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
struct Fallback {
    /// Answer with what holds for all where the subject has nothing of its own.
    #[serde(deserialize_with = "flag")]
    default_to_global: bool,
}

/// Reads a flag in any case: Confluent's Python client sends `True`.
fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(serde::de::Error::custom("neither true nor false"))
    }
}

/// Returns a schema as JSON by itself.
fn bare(schema: String) -> Answer<Box<serde_json::value::RawValue>> {
    let raw = serde_json::value::RawValue::from_string(schema);
    let raw = raw.map_err(|source| crate::Error::Stored {
        what: "a schema".to_owned(),
        source,
    })?;
    Ok(RegistryJson(raw))
}
