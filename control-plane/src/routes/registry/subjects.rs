//! Subjects and their versions: listed, looked up, registered, deleted.

use std::sync::Arc;

use axum::extract::State;
use hutong_transport::record::SchemaReference;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Listing, bare, flag};
use crate::App;
use crate::caller::Caller;
use crate::registry::{Posted, Users};
use crate::routes::answer::{ErrorBody, RegistryJson};
use crate::routes::body::{Params, RegistryBody, RegistryPath as Path};
use crate::store::schemas::Version;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(subjects))
        .routes(routes!(lookup, delete_subject))
        .routes(routes!(versions, register))
        .routes(routes!(version, delete_version))
        .routes(routes!(version_schema))
        .routes(routes!(referenced_by))
}

/// How to delete.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// For good; only what was deleted softly before, and what no topic uses.
    #[serde(deserialize_with = "flag")]
    permanent: bool,
}

impl Deletion {
    fn users(&self, app: &App) -> Option<Users> {
        self.permanent.then(|| Users {
            admin: Arc::clone(&app.admin),
            live: Arc::clone(&app.live),
        })
    }
}

/// How to read a posted schema.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Form {
    /// Keep it in its canonical form. Schemas are compared in that form always.
    #[serde(deserialize_with = "flag")]
    normalize: bool,
}

/// A version of a subject.
#[derive(Debug, Serialize, ToSchema)]
struct SubjectVersion {
    subject: String,
    version: i32,
    id: i32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    references: Vec<SchemaReference>,
    schema: String,
}

impl From<Version> for SubjectVersion {
    fn from(version: Version) -> Self {
        Self {
            subject: version.subject,
            version: version.version,
            id: version.schema_id,
            references: version.references.0,
            schema: version.text,
        }
    }
}

/// The id of a schema.
#[derive(Debug, Serialize, ToSchema)]
struct Registered {
    id: i32,
}

/// Lists the subjects that the caller may see.
#[utoipa::path(get, path = "/subjects", tag = "registry", params(Listing),
    responses((status = 200, body = Vec<String>)))]
async fn subjects(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(listing): Params<Listing>,
) -> Answer<Vec<String>> {
    let registry = &app.registry;
    let subjects = registry.subjects(&caller, listing.prefix(), listing.shown());
    Ok(RegistryJson(subjects.await?))
}

/// Finds the version of a subject that has a schema.
#[utoipa::path(post, path = "/subjects/{subject}", tag = "registry", params(Listing), request_body = Posted,
    responses((status = 200, body = SubjectVersion), (status = 404, body = ErrorBody)))]
async fn lookup(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(listing): Params<Listing>,
    RegistryBody(posted): RegistryBody<Posted>,
) -> Answer<SubjectVersion> {
    let registry = &app.registry;
    let found = registry.lookup(&caller, &subject, &posted, listing.shown());
    Ok(RegistryJson(found.await?.into()))
}

/// Deletes all versions of a subject.
#[utoipa::path(delete, path = "/subjects/{subject}", tag = "registry", params(Deletion),
    responses((status = 200, body = Vec<i32>), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn delete_subject(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(deletion): Params<Deletion>,
) -> Answer<Vec<i32>> {
    let users = deletion.users(&app);
    let registry = &app.registry;
    let deleted = registry.delete_subject(&caller, &subject, users.as_ref());
    Ok(RegistryJson(deleted.await?))
}

/// Lists the versions of a subject.
#[utoipa::path(get, path = "/subjects/{subject}/versions", tag = "registry", params(Listing),
    responses((status = 200, body = Vec<i32>), (status = 404, body = ErrorBody)))]
async fn versions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(listing): Params<Listing>,
) -> Answer<Vec<i32>> {
    let registry = &app.registry;
    let versions = registry
        .versions(&caller, &subject, listing.shown())
        .await?;
    let numbers = versions.iter().map(|version| version.version);
    Ok(RegistryJson(numbers.collect()))
}

/// Registers a schema under a subject, or returns the id that it has there.
#[utoipa::path(post, path = "/subjects/{subject}/versions", tag = "registry", params(Form), request_body = Posted,
    responses((status = 200, body = Registered), (status = 409, description = "Incompatible", body = ErrorBody),
        (status = 422, description = "No Avro schema, or the mode does not allow it", body = ErrorBody)))]
async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(form): Params<Form>,
    RegistryBody(posted): RegistryBody<Posted>,
) -> Answer<Registered> {
    let registry = &app.registry;
    let id = registry.register(&caller, &subject, &posted, form.normalize);
    Ok(RegistryJson(Registered { id: id.await? }))
}

/// Returns a version of a subject; `latest` is the newest.
#[utoipa::path(get, path = "/subjects/{subject}/versions/{version}", tag = "registry", params(Listing),
    responses((status = 200, body = SubjectVersion), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(listing): Params<Listing>,
) -> Answer<SubjectVersion> {
    let registry = &app.registry;
    let found = registry.version(&caller, &subject, &version, listing.shown());
    Ok(RegistryJson(found.await?.into()))
}

/// Deletes a version of a subject.
#[utoipa::path(delete, path = "/subjects/{subject}/versions/{version}", tag = "registry", params(Deletion),
    responses((status = 200, body = i32), (status = 404, body = ErrorBody), (status = 422, body = ErrorBody)))]
async fn delete_version(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(deletion): Params<Deletion>,
) -> Answer<i32> {
    let users = deletion.users(&app);
    let registry = &app.registry;
    let deleted = registry.delete_version(&caller, &subject, &version, users.as_ref());
    Ok(RegistryJson(deleted.await?))
}

/// Returns the schema of a version by itself.
#[utoipa::path(get, path = "/subjects/{subject}/versions/{version}/schema", tag = "registry", params(Listing),
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
async fn version_schema(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
    Params(listing): Params<Listing>,
) -> Answer<Box<serde_json::value::RawValue>> {
    let registry = &app.registry;
    let found = registry.version(&caller, &subject, &version, listing.shown());
    bare(found.await?.text)
}

/// Lists the ids of the schemas that refer to a version of a subject.
#[utoipa::path(get, path = "/subjects/{subject}/versions/{version}/referencedby", tag = "registry",
    responses((status = 200, body = Vec<i32>), (status = 404, body = ErrorBody)))]
async fn referenced_by(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((subject, version)): Path<(String, String)>,
) -> Answer<Vec<i32>> {
    let registry = &app.registry;
    let ids = registry.referenced_by(&caller, &subject, &version);
    Ok(RegistryJson(ids.await?))
}
