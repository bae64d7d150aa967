//! Where connectors go on.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Answer;
use crate::App;
use crate::caller::Caller;
use crate::connect::offsets::{self, GivenOffset};
use crate::routes::answer::ErrorBody;
use crate::routes::body::{Body, Path};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(get, alter, reset))
}

/// Offsets of a connector.
#[derive(Debug, Serialize, ToSchema)]
struct Offsets {
    #[schema(value_type = Vec<Object>)]
    offsets: Vec<Value>,
}

/// Offsets to set.
#[derive(Debug, Deserialize, ToSchema)]
struct WantedOffsets {
    #[serde(default)]
    offsets: Option<Vec<GivenOffset>>,
}

/// What was done.
#[derive(Debug, Serialize, ToSchema)]
struct Message {
    message: &'static str,
}

/// Returns a connector's offsets.
#[utoipa::path(get, path = "/connectors/{connector}/offsets", tag = "connect",
    responses((status = 200, body = Offsets), (status = 404, body = ErrorBody),
        (status = 503, description = "A stopped connector's location did not answer", body = ErrorBody)))]
async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Offsets> {
    let offsets = offsets::get(&app, &caller, &name).await?;
    Ok(Json(Offsets { offsets }))
}

/// Lets a stopped connector go on elsewhere. Carried out by the worker that has its task.
#[utoipa::path(patch, path = "/connectors/{connector}/offsets", tag = "connect",
    request_body = WantedOffsets,
    responses((status = 200, body = Message), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 503, description = "The location did not answer within 10 s", body = ErrorBody)))]
async fn alter(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(wanted): Body<WantedOffsets>,
) -> Answer<Message> {
    let given = wanted.offsets.unwrap_or_default();
    let message = offsets::alter(&app, &caller, &name, &given).await?;
    Ok(Json(Message { message }))
}

/// Lets a stopped connector begin anew: a source drops slot and publication that it made and reads
/// its tables again, a sink reads its topics again and in the end deletes what is not in them.
#[utoipa::path(delete, path = "/connectors/{connector}/offsets", tag = "connect",
    responses((status = 200, body = Message), (status = 400, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 503, description = "The location did not answer within 10 s", body = ErrorBody)))]
async fn reset(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<Message> {
    let message = offsets::reset(&app, &caller, &name).await?;
    Ok(Json(Message { message }))
}
