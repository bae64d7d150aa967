//! Modes: whether new schemas are taken, and under whose ids.

use std::sync::Arc;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, Fallback, flag};
use crate::App;
use crate::caller::Caller;
use crate::registry::Mode;
use crate::routes::answer::{ErrorBody, RegistryJson};
use crate::routes::body::{Params, RegistryBody, RegistryPath as Path};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(mode, set_mode, unset_mode))
        .routes(routes!(subject_mode, set_subject_mode, unset_subject_mode))
}

/// A mode that is in force.
#[derive(Debug, Serialize, ToSchema)]
struct ModeInForce {
    /// `READWRITE`, `READONLY`, `READONLY_OVERRIDE` or `IMPORT`.
    mode: &'static str,
}

impl From<Mode> for ModeInForce {
    fn from(mode: Mode) -> Self {
        Self {
            mode: mode.as_str(),
        }
    }
}

/// A mode to set.
#[derive(Debug, Deserialize, ToSchema)]
struct ModeWanted {
    /// `READWRITE`, `READONLY`, `IMPORT`, or of all subjects `READONLY_OVERRIDE`.
    mode: String,
}

/// How to set a mode.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Force {
    /// Import although there are schemas.
    #[serde(deserialize_with = "flag")]
    force: bool,
}

/// Returns the mode of subjects without their own.
#[utoipa::path(get, path = "/mode", tag = "registry", responses((status = 200, body = ModeInForce)))]
async fn mode(State(app): State<Arc<App>>, caller: Caller) -> Answer<ModeInForce> {
    let mode = app.registry.mode(&caller, None, true).await?;
    Ok(RegistryJson(mode.into()))
}

/// Sets the mode of subjects without their own.
#[utoipa::path(put, path = "/mode", tag = "registry", params(Force), request_body = ModeWanted,
    responses((status = 200, body = ModeInForce), (status = 422, body = ErrorBody)))]
async fn set_mode(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(force): Params<Force>,
    RegistryBody(wanted): RegistryBody<ModeWanted>,
) -> Answer<ModeInForce> {
    let registry = &app.registry;
    let mode = registry.set_mode(&caller, None, &wanted.mode, force.force);
    Ok(RegistryJson(mode.await?.into()))
}

/// Returns to READWRITE, and says what the mode was.
#[utoipa::path(delete, path = "/mode", tag = "registry", responses((status = 200, body = ModeInForce)))]
async fn unset_mode(State(app): State<Arc<App>>, caller: Caller) -> Answer<ModeInForce> {
    let mode = app.registry.unset_mode(&caller, None).await?;
    Ok(RegistryJson(mode.into()))
}

/// Returns the mode of a subject.
#[utoipa::path(get, path = "/mode/{subject}", tag = "registry", params(Fallback),
    responses((status = 200, body = ModeInForce), (status = 404, body = ErrorBody)))]
async fn subject_mode(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(fallback): Params<Fallback>,
) -> Answer<ModeInForce> {
    let registry = &app.registry;
    let mode = registry.mode(&caller, Some(&subject), fallback.default_to_global);
    Ok(RegistryJson(mode.await?.into()))
}

/// Sets the mode of a subject.
#[utoipa::path(put, path = "/mode/{subject}", tag = "registry", params(Force), request_body = ModeWanted,
    responses((status = 200, body = ModeInForce), (status = 422, body = ErrorBody)))]
async fn set_subject_mode(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
    Params(force): Params<Force>,
    RegistryBody(wanted): RegistryBody<ModeWanted>,
) -> Answer<ModeInForce> {
    let registry = &app.registry;
    let mode = registry.set_mode(&caller, Some(&subject), &wanted.mode, force.force);
    Ok(RegistryJson(mode.await?.into()))
}

/// Returns a subject to the mode of all, and says what its mode was.
#[utoipa::path(delete, path = "/mode/{subject}", tag = "registry",
    responses((status = 200, body = ModeInForce), (status = 404, body = ErrorBody)))]
async fn unset_subject_mode(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(subject): Path<String>,
) -> Answer<ModeInForce> {
    let mode = app.registry.unset_mode(&caller, Some(&subject)).await?;
    Ok(RegistryJson(mode.into()))
}
