//! Schemas by their ids.

use std::sync::Arc;

use axum::extract::State;
use hutong_transport::record::SchemaReference;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Listing, bare};
use crate::App;
use crate::caller::Caller;
use crate::routes::answer::{ErrorBody, RegistryJson};
use crate::routes::body::{Params, RegistryPath as Path};
use crate::store::schemas::Version;

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(schema))
        .routes(routes!(schema_only))
        .routes(routes!(schema_subjects))
        .routes(routes!(schema_versions))
        .routes(routes!(types))
}

/// A schema.
#[derive(Debug, Serialize, ToSchema)]
struct SchemaText {
    schema: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    references: Vec<SchemaReference>,
}

/// A subject and version in which a schema is used.
#[derive(Debug, Serialize, ToSchema)]
struct Used {
    subject: String,
    version: i32,
}

/// Returns a schema by its id.
#[utoipa::path(get, path = "/schemas/ids/{id}", tag = "registry",
    responses((status = 200, body = SchemaText), (status = 404, body = ErrorBody)))]
async fn schema(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<SchemaText> {
    let found = app.registry.schema(&caller, &id).await?;
    Ok(RegistryJson(SchemaText {
        schema: found.text,
        references: found.references.0,
    }))
}

/// Returns a schema by its id, by itself.
#[utoipa::path(get, path = "/schemas/ids/{id}/schema", tag = "registry",
    responses((status = 200, body = Object), (status = 404, body = ErrorBody)))]
async fn schema_only(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Box<serde_json::value::RawValue>> {
    bare(app.registry.schema(&caller, &id).await?.text)
}

/// Lists the subjects in which a schema is used.
#[utoipa::path(get, path = "/schemas/ids/{id}/subjects", tag = "registry", params(Listing),
    responses((status = 200, body = Vec<String>), (status = 404, body = ErrorBody)))]
async fn schema_subjects(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(listing): Params<Listing>,
) -> Answer<Vec<String>> {
    let uses = app.registry.uses(&caller, &id, listing.shown()).await?;
    let mut subjects: Vec<_> = uses.into_iter().map(|version| version.subject).collect();
    subjects.dedup();
    Ok(RegistryJson(subjects))
}

/// Lists the subjects and versions in which a schema is used.
#[utoipa::path(get, path = "/schemas/ids/{id}/versions", tag = "registry", params(Listing),
    responses((status = 200, body = Vec<Used>), (status = 404, body = ErrorBody)))]
async fn schema_versions(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Params(listing): Params<Listing>,
) -> Answer<Vec<Used>> {
    let uses = app.registry.uses(&caller, &id, listing.shown()).await?;
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
