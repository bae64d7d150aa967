//! Compatibility: levels, and checks against them.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Fallback, flag};
use crate::App;
use crate::caller::Caller;
use crate::registry::Posted;
use crate::routes::answer::{ErrorBody, RegistryJson};
use crate::routes::body::{Params, RegistryBody, RegistryPath as Path};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(config, set_config, unset_config))
        .routes(routes!(
            subject_config,
            set_subject_config,
            unset_subject_config
        ))
        .routes(routes!(check_version))
        .routes(routes!(check_all))
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
