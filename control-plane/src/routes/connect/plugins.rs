//! The connectors there are, their properties, and validation.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use hutong_connectors_core::plugin::PLUGINS;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Answer, properties};
use crate::App;
use crate::caller::Caller;
use crate::connect::validate::{self, ConfigInfos, ConfigKeyInfo};
use crate::routes::answer::ErrorBody;
use crate::routes::body::{Body, Path};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(plugins))
        .routes(routes!(plugin_config))
        .routes(routes!(validate_config))
}

/// A plugin.
#[derive(Debug, Serialize, ToSchema)]
struct PluginInfo {
    class: &'static str,
    /// `source` or `sink`.
    #[serde(rename = "type")]
    kind: &'static str,
    version: &'static str,
}

/// Lists the plugins.
#[utoipa::path(get, path = "/connector-plugins", tag = "connect",
    responses((status = 200, body = Vec<PluginInfo>)))]
async fn plugins(_caller: Caller) -> Json<Vec<PluginInfo>> {
    let info = PLUGINS.iter().map(|plugin| PluginInfo {
        class: plugin.class,
        kind: plugin.kind.as_str(),
        version: plugin.version,
    });
    Json(info.collect())
}

/// Returns the definitions of a plugin's properties.
#[utoipa::path(get, path = "/connector-plugins/{plugin}/config", tag = "connect",
    responses((status = 200, body = Vec<ConfigKeyInfo>), (status = 404, body = ErrorBody)))]
async fn plugin_config(_caller: Caller, Path(plugin): Path<String>) -> Answer<Vec<ConfigKeyInfo>> {
    let plugin = validate::find(&plugin)?;
    Ok(Json(validate::definitions(plugin)))
}

/// Validates properties: by themselves, then with a real connection by a worker at their location.
#[utoipa::path(put, path = "/connector-plugins/{plugin}/config/validate", tag = "connect",
    request_body = BTreeMap<String, String>,
    responses((status = 200, body = ConfigInfos), (status = 404, body = ErrorBody)))]
async fn validate_config(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(plugin): Path<String>,
    Body(given): Body<Map<String, Value>>,
) -> Answer<ConfigInfos> {
    let plugin = validate::find(&plugin)?;
    Ok(Json(
        validate::validate(&app, &caller, plugin, properties(given)?).await?,
    ))
}
