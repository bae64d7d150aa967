//! The schema registry's API, as Confluent's clients call it.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ErrorBody, RegistryFailed, RegistryJson};
use super::body::{Params, RegistryBody, RegistryPath as Path};
use crate::App;
use crate::caller::Caller;
use crate::registry::{Posted, refusal};
use crate::store::schemas::Version;

type Answer<T> = Result<RegistryJson<T>, RegistryFailed>;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .route("/", axum::routing::get(async || RegistryJson(json!({}))))
        .routes(routes!(subjects))
        .routes(routes!(lookup, delete_subject))
        .routes(routes!(versions, register))
        .routes(routes!(version, delete_version))
        .routes(routes!(version_schema))
        .routes(routes!(schema))
        .routes(routes!(schema_only))
        .routes(routes!(schema_subjects))
        .routes(routes!(schema_versions))
        .routes(routes!(types))
        .routes(routes!(config, set_config, unset_config))
        .routes(routes!(
            subject_config,
            set_subject_config,
            unset_subject_config
        ))
        .routes(routes!(check_version))
        .routes(routes!(check_all))
        .routes(routes!(mode))
        .routes(routes!(subject_mode))
}

/// What a listing shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
#[derive(Default)]
struct Shown {
    /// Show what was deleted softly too.
    #[serde(deserialize_with = "flag")]
    deleted: bool,
    /// Only subjects that begin so.
    subject_prefix: String,
}

/// How to delete.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// Refused: an id may stand in any record.
    #[serde(deserialize_with = "flag")]
    permanent: bool,
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

/// How to answer a check.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Verbosity {
    /// Say why not.
    #[serde(deserialize_with = "flag")]
    verbose: bool,
}

/// Where to look for a level.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", default)]
#[into_params(parameter_in = Query)]
struct Fallback {
    /// Answer with the global level where the subject has none.
    #[serde(deserialize_with = "flag")]
    default_to_global: bool,
}

/// A version of a subject.
#[derive(Debug, Serialize, ToSchema)]
struct SubjectVersion {
    subject: String,
    version: i32,
    id: i32,
    schema: String,
}

impl From<Version> for SubjectVersion {
    fn from(version: Version) -> Self {
        Self {
            subject: version.subject,
            version: version.version,
            id: version.schema_id,
            schema: version.text,
        }
    }
}

/// The id of a schema.
#[derive(Debug, Serialize, ToSchema)]
struct Registered {
    id: i32,
}

/// A schema.
#[derive(Debug, Serialize, ToSchema)]
struct SchemaText {
    schema: String,
}

/// A subject and version in which a schema is used.
#[derive(Debug, Serialize, ToSchema)]
struct Used {
    subject: String,
    version: i32,
}

/// Whether a schema could be registered.
#[derive(Debug, Serialize, ToSchema)]
struct Compatibility {
    is_compatible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<String>>,
}

/// A compatibility level that is in force.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LevelInForce {
    compatibility_level: String,
}

/// A compatibility level to set.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
struct LevelWanted {
    /// `NONE`, `BACKWARD`, `FORWARD`, `FULL`, or one of the last three with `_TRANSITIVE`.
    compatibility: String,
}

/// Whether the registry takes new schemas.
#[derive(Debug, Serialize, ToSchema)]
struct Mode {
    mode: &'static str,
}

/// Lists the subjects that the caller may see.
#[utoipa::path(get, path = "/subjects", tag = "registry", params(Shown),
    responses((status = 200, body = Vec<String>)))]
async fn subjects(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(shown): Params<Shown>,
) -> Answer<Vec<String>> {
    let subjects = app
        .registry
        .subjects(&caller, &shown.subject_prefix, shown.deleted)
        .await?;
    Ok(RegistryJson(subjects))
}

/// Finds the version of a subject that has a schema.
#[utoipa::path(post, path = "/subjects/{subject}", tag = "registry", params(Shown), request_body = Posted,
    responses((status = 200, body = SubjectVersion), (status = 404, body = ErrorBody)))]
async fn lookup(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(shown): Params<Shown>,
    RegistryBody(posted): RegistryBody<Posted>,
) -> Answer<SubjectVersion> {
    let found = app
        .registry
        .lookup(&caller, &subject, &posted, shown.deleted)
        .await?;
    Ok(RegistryJson(found.into()))
}

/// Deletes all versions of a subject, softly.
#[utoipa::path(delete, path = "/subjects/{subject}", tag = "registry", params(Deletion),
    responses((status = 200, body = Vec<i32>), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn delete_subject(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(deletion): Params<Deletion>,
) -> Answer<Vec<i32>> {
    refuse_permanent(&deletion)?;
    Ok(RegistryJson(
        app.registry.delete_subject(&caller, &subject).await?,
    ))
}

/// Lists the versions of a subject.
#[utoipa::path(get, path = "/subjects/{subject}/versions", tag = "registry", params(Shown),
    responses((status = 200, body = Vec<i32>), (status = 404, body = ErrorBody)))]
async fn versions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(shown): Params<Shown>,
) -> Answer<Vec<i32>> {
    let versions = app
        .registry
        .versions(&caller, &subject, shown.deleted)
        .await?;
    Ok(RegistryJson(
        versions.iter().map(|version| version.version).collect(),
    ))
}

/// Registers a schema under a subject, or returns the id that it has there.
#[utoipa::path(post, path = "/subjects/{subject}/versions", tag = "registry", request_body = Posted,
    responses((status = 200, body = Registered), (status = 409, description = "Incompatible", body = ErrorBody),
        (status = 422, description = "No Avro schema", body = ErrorBody)))]
async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    RegistryBody(posted): RegistryBody<Posted>,
) -> Answer<Registered> {
    let id = app.registry.register(&caller, &subject, &posted).await?;
    Ok(RegistryJson(Registered { id }))
}

/// Returns a version of a subject; `latest` is the newest.
#[utoipa::path(get, path = "/subjects/{subject}/versions/{version}", tag = "registry", params(Shown),
    responses((status = 200, body = SubjectVersion), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(shown): Params<Shown>,
) -> Answer<SubjectVersion> {
    let found = app
        .registry
        .version(&caller, &subject, &version, shown.deleted)
        .await?;
    Ok(RegistryJson(found.into()))
}

/// Deletes a version of a subject, softly.
#[utoipa::path(delete, path = "/subjects/{subject}/versions/{version}", tag = "registry", params(Deletion),
    responses((status = 200, body = i32), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn delete_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(deletion): Params<Deletion>,
) -> Answer<i32> {
    refuse_permanent(&deletion)?;
    Ok(RegistryJson(
        app.registry
            .delete_version(&caller, &subject, &version)
            .await?,
    ))
}

/// Returns the schema of a version by itself.
#[utoipa::path(get, path = "/subjects/{subject}/versions/{version}/schema", tag = "registry", params(Shown),
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
async fn version_schema(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(shown): Params<Shown>,
) -> Answer<Box<serde_json::value::RawValue>> {
    let found = app
        .registry
        .version(&caller, &subject, &version, shown.deleted)
        .await?;
    bare(found.text)
}

/// Returns a schema by its id.
#[utoipa::path(get, path = "/schemas/ids/{id}", tag = "registry",
    responses((status = 200, body = SchemaText), (status = 404, body = ErrorBody)))]
async fn schema(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<SchemaText> {
    let schema = app.registry.schema(&caller, &id).await?;
    Ok(RegistryJson(SchemaText { schema }))
}

/// Returns a schema by its id, by itself.
#[utoipa::path(get, path = "/schemas/ids/{id}/schema", tag = "registry",
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
async fn schema_only(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Box<serde_json::value::RawValue>> {
    bare(app.registry.schema(&caller, &id).await?)
}

/// Lists the subjects in which a schema is used.
#[utoipa::path(get, path = "/schemas/ids/{id}/subjects", tag = "registry", params(Shown),
    responses((status = 200, body = Vec<String>), (status = 404, body = ErrorBody)))]
async fn schema_subjects(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(shown): Params<Shown>,
) -> Answer<Vec<String>> {
    let uses = app.registry.uses(&caller, &id, shown.deleted).await?;
    let mut subjects: Vec<_> = uses.into_iter().map(|version| version.subject).collect();
    subjects.dedup();
    Ok(RegistryJson(subjects))
}

/// Lists the subjects and versions in which a schema is used.
#[utoipa::path(get, path = "/schemas/ids/{id}/versions", tag = "registry", params(Shown),
    responses((status = 200, body = Vec<Used>), (status = 404, body = ErrorBody)))]
async fn schema_versions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(shown): Params<Shown>,
) -> Answer<Vec<Used>> {
    let uses = app.registry.uses(&caller, &id, shown.deleted).await?;
    let used = |version: Version| Used {
        subject: version.subject,
        version: version.version,
    };
    Ok(RegistryJson(uses.into_iter().map(used).collect()))
}

/// Lists the kinds of schemas.
#[utoipa::path(get, path = "/schemas/types", tag = "registry", responses((status = 200, body = Vec<String>)))]
async fn types(_caller: Caller) -> RegistryJson<[&'static str; 1]> {
    RegistryJson(["AVRO"])
}

/// Returns the compatibility level of subjects without their own.
#[utoipa::path(get, path = "/config", tag = "registry", responses((status = 200, body = LevelInForce)))]
async fn config(State(app): State<Arc<App>>, caller: Caller) -> Answer<LevelInForce> {
    level_of(&app, &caller, None, true).await
}

/// Sets the compatibility level of subjects without their own.
#[utoipa::path(put, path = "/config", tag = "registry", request_body = LevelWanted,
    responses((status = 200, body = LevelWanted), (status = 422, body = ErrorBody)))]
async fn set_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    RegistryBody(wanted): RegistryBody<LevelWanted>,
) -> Answer<LevelWanted> {
    set_level(&app, &caller, None, &wanted).await
}

/// Returns to the built-in compatibility level.
#[utoipa::path(delete, path = "/config", tag = "registry", responses((status = 200, body = LevelInForce)))]
async fn unset_config(State(app): State<Arc<App>>, caller: Caller) -> Answer<LevelInForce> {
    unset_level(&app, &caller, None).await
}

/// Returns the compatibility level of a subject.
#[utoipa::path(get, path = "/config/{subject}", tag = "registry", params(Fallback),
    responses((status = 200, body = LevelInForce), (status = 404, body = ErrorBody)))]
async fn subject_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(fallback): Params<Fallback>,
) -> Answer<LevelInForce> {
    level_of(&app, &caller, Some(&subject), fallback.default_to_global).await
}

/// Sets the compatibility level of a subject.
#[utoipa::path(put, path = "/config/{subject}", tag = "registry", request_body = LevelWanted,
    responses((status = 200, body = LevelWanted), (status = 422, body = ErrorBody)))]
async fn set_subject_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    RegistryBody(wanted): RegistryBody<LevelWanted>,
) -> Answer<LevelWanted> {
    set_level(&app, &caller, Some(&subject), &wanted).await
}

/// Returns a subject to the global compatibility level.
#[utoipa::path(delete, path = "/config/{subject}", tag = "registry",
    responses((status = 200, body = LevelInForce), (status = 404, body = ErrorBody)))]
async fn unset_subject_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
) -> Answer<LevelInForce> {
    unset_level(&app, &caller, Some(&subject)).await
}

/// Returns whether a schema gets on with a version of a subject.
#[utoipa::path(post, path = "/compatibility/subjects/{subject}/versions/{version}", tag = "registry",
    params(Verbosity), request_body = Posted,
    responses((status = 200, body = Compatibility), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn check_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(verbosity): Params<Verbosity>,
    RegistryBody(posted): RegistryBody<Posted>,
) -> Answer<Compatibility> {
    let messages = app
        .registry
        .check(&caller, &subject, Some(&version), &posted)
        .await?;
    Ok(compatibility(messages, &verbosity))
}

/// Returns whether a schema could be registered under a subject.
#[utoipa::path(post, path = "/compatibility/subjects/{subject}/versions", tag = "registry",
    params(Verbosity), request_body = Posted,
    responses((status = 200, body = Compatibility), (status = 422, body = ErrorBody)))]
async fn check_all(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(verbosity): Params<Verbosity>,
    RegistryBody(posted): RegistryBody<Posted>,
) -> Answer<Compatibility> {
    let messages = app.registry.check(&caller, &subject, None, &posted).await?;
    Ok(compatibility(messages, &verbosity))
}

/// Returns whether new schemas are taken.
#[utoipa::path(get, path = "/mode", tag = "registry", responses((status = 200, body = Mode)))]
async fn mode(_caller: Caller) -> RegistryJson<Mode> {
    RegistryJson(Mode { mode: "READWRITE" })
}

/// Returns whether new schemas of a subject are taken.
#[utoipa::path(get, path = "/mode/{subject}", tag = "registry", responses((status = 200, body = Mode)))]
async fn subject_mode(_caller: Caller, Path(_subject): Path<String>) -> RegistryJson<Mode> {
    RegistryJson(Mode { mode: "READWRITE" })
}

fn refuse_permanent(deletion: &Deletion) -> Result<(), RegistryFailed> {
    if deletion.permanent {
        let text = "permanent=true is not offered: an id may stand in any record of any topic";
        return Err(refusal(42205, text).into());
    }
    Ok(())
}

fn bare(schema: String) -> Answer<Box<serde_json::value::RawValue>> {
    let raw = serde_json::value::RawValue::from_string(schema);
    let raw = raw.map_err(|source| crate::Error::Stored {
        what: "a schema".to_owned(),
        source,
    })?;
    Ok(RegistryJson(raw))
}

fn compatibility(messages: Vec<String>, verbosity: &Verbosity) -> RegistryJson<Compatibility> {
    RegistryJson(Compatibility {
        is_compatible: messages.is_empty(),
        messages: verbosity.verbose.then_some(messages),
    })
}

async fn level_of(
    app: &App,
    caller: &Caller,
    subject: Option<&str>,
    default_to_global: bool,
) -> Answer<LevelInForce> {
    let level = app
        .registry
        .compatibility(caller, subject, default_to_global)
        .await?;
    Ok(RegistryJson(LevelInForce {
        compatibility_level: level.to_string(),
    }))
}

async fn set_level(
    app: &App,
    caller: &Caller,
    subject: Option<&str>,
    wanted: &LevelWanted,
) -> Answer<LevelWanted> {
    let level = app
        .registry
        .set_compatibility(caller, subject, &wanted.compatibility)
        .await?;
    Ok(RegistryJson(LevelWanted {
        compatibility: level.to_string(),
    }))
}

async fn unset_level(app: &App, caller: &Caller, subject: Option<&str>) -> Answer<LevelInForce> {
    let level = app.registry.unset_compatibility(caller, subject).await?;
    Ok(RegistryJson(LevelInForce {
        compatibility_level: level.to_string(),
    }))
}
