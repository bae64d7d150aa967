//! The platform's own API: views, and what has no place in the compatible ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hutong_policies::ViewDocument;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{ErrorBody, Failed};
use super::body::{Body, Params, Path};
use super::operations;
use crate::App;
use crate::access::{self, NewToken, Organisation};
use crate::caller::Caller;
use crate::connect;
use crate::connect::prefix::{self, Prefix};
use crate::connect::status::ConnectorStatus;
use crate::error::Error;
use crate::store::tokens::Listed;
use crate::tables::{self, CapturedTable};
use crate::views::{self, Preview, Rotation, ViewStatus};

type Answer<T> = Result<Json<T>, Failed>;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_views, create_view))
        .routes(routes!(get_view, change_view, delete_view))
        .routes(routes!(view_status))
        .routes(routes!(revoke_view))
        .routes(routes!(restart_view))
        .routes(routes!(rotate_key))
        .routes(routes!(list_connectors))
        .routes(routes!(get_connector))
        .routes(routes!(list_deletions))
        .routes(routes!(forget_deletion))
        .routes(routes!(list_prefixes))
        .routes(routes!(release_prefix))
        .routes(routes!(list_tables))
        .routes(routes!(list_locations))
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(put_organisation))
        .routes(routes!(openapi))
        .routes(routes!(operations::metrics))
}

/// Which views.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WhichViews {
    /// Only those over this table, by its topic or as `schema.table`: who receives this table.
    table: Option<String>,
}

/// A view to make. A column is a name and, where it is not clear, a mask such as `SHOW_LAST 4`.
#[derive(Debug, ToSchema)]
#[expect(
    dead_code,
    reason = "describes hutong_policies::ViewDocument, which knows no HTTP"
)]
struct NewView {
    /// `[a-z0-9][a-z0-9_-]{0,62}`, never changed.
    name: String,
    /// A title for people.
    title: Option<String>,
    /// The share to which it belongs.
    share: String,
    /// The table's topic: `{"topic": "<topic.prefix>.<schema>.<table>"}`.
    source: BTreeMap<String, String>,
    /// Who receives it.
    subscriber: String,
    /// What leaves: `{"name": …, "mask": …}`.
    columns: Vec<BTreeMap<String, String>>,
    /// Which rows leave: SQL over the columns of one row.
    r#where: Option<String>,
    /// RFC 3339 with an offset.
    valid_from: Option<String>,
    /// RFC 3339 with an offset.
    valid_until: Option<String>,
    /// Where it is computed.
    location: Option<String>,
}

/// How to change a view.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct HowToChange {
    /// Only says what the change would come to, by what the location has of the table now.
    dry_run: bool,
}

/// Whose share.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WhoseShare {
    /// The organisation, where several have a share of this name.
    owner: Option<String>,
}

/// A connector and everything that its worker reports.
#[derive(Debug, Serialize, ToSchema)]
struct ConnectorDetails {
    owner: String,
    location: String,
    /// `running`, `paused`, `stopped`.
    target: String,
    status: ConnectorStatus,
    /// Of a source: `position`, `lag_bytes`, `lag_seconds`, `retained_wal_bytes`, `tables` with the
    /// progress of their snapshots. Of a sink: `inputs` with lag and latency.
    #[schema(value_type = Object)]
    details: Value,
}

/// A connector that is being deleted.
#[derive(Debug, Serialize, ToSchema)]
struct Deletion {
    name: String,
    owner: String,
    location: String,
    /// When it was asked for, in milliseconds since 1970.
    since_ms: Option<i64>,
    /// How its worker fares with it.
    status: ConnectorStatus,
}

/// Lists the views that the caller gives or receives.
#[utoipa::path(get, path = "/api/v1/views", tag = "platform", params(WhichViews),
    responses((status = 200, body = Vec<ViewStatus>)))]
async fn list_views(
    State(app): State<Arc<App>>,
    caller: Caller,
    Params(which): Params<WhichViews>,
) -> Answer<Vec<ViewStatus>> {
    let mut answer = Vec::new();
    for view in views::list(&app, &caller, which.table.as_deref()).await? {
        answer.push(views::of(&app, &caller, &view).await?);
    }
    Ok(Json(answer))
}

/// Makes a view.
#[utoipa::path(post, path = "/api/v1/views", tag = "platform", request_body = NewView,
    responses((status = 201, body = ViewStatus), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, description = "Kafka is away", body = ErrorBody)))]
async fn create_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(document): Body<ViewDocument>,
) -> Result<Response, Failed> {
    let view = views::create(&app, &caller, document).await?;
    let status = views::of(&app, &caller, &view).await?;
    let location = [(header::LOCATION, format!("/api/v1/views/{}", view.name))];
    Ok((StatusCode::CREATED, location, Json(status)).into_response())
}

/// Returns a view and how it fares.
#[utoipa::path(get, path = "/api/v1/views/{view}", tag = "platform",
    responses((status = 200, body = ViewStatus), (status = 404, body = ErrorBody)))]
async fn get_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<ViewStatus> {
    let view = views::get(&app, &caller, &name).await?;
    Ok(Json(views::of(&app, &caller, &view).await?))
}

/// Returns how a view fares; the same as the view itself.
#[utoipa::path(get, path = "/api/v1/views/{view}/status", tag = "platform",
    responses((status = 200, body = ViewStatus), (status = 404, body = ErrorBody)))]
async fn view_status(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<ViewStatus> {
    let view = views::get(&app, &caller, &name).await?;
    Ok(Json(views::of(&app, &caller, &view).await?))
}

/// Changes a live view: its columns, masks, condition, validity or title. What was delivered and is
/// granted no longer is taken away first; what is granted anew is filled in.
#[utoipa::path(put, path = "/api/v1/views/{view}", tag = "platform", params(HowToChange), request_body = NewView,
    responses((status = 200, description = "The view; with `dry_run`, what the change would come to", body = ViewStatus),
        (status = 202, description = "With `dry_run`: what the change would come to", body = Preview),
        (status = 400, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, description = "Kafka is away", body = ErrorBody)))]
async fn change_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Params(how): Params<HowToChange>,
    Body(document): Body<ViewDocument>,
) -> Result<Response, Failed> {
    if how.dry_run {
        let preview = views::preview(&app, &caller, &name, document).await?;
        return Ok((StatusCode::ACCEPTED, Json(preview)).into_response());
    }
    let view = Box::pin(views::change(&app, &caller, &name, document)).await?;
    Ok(Json(views::of(&app, &caller, &view).await?).into_response())
}

/// Starts the processors of a view's table again: a view that was suspended, and tasks that failed,
/// try again.
#[utoipa::path(post, path = "/api/v1/views/{view}/restart", tag = "platform",
    responses((status = 202, body = ViewStatus), (status = 404, body = ErrorBody)))]
async fn restart_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    let view = views::restart(&app, &caller, &name).await?;
    let status = views::of(&app, &caller, &view).await?;
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

/// Gives a share another key: hidden keys and hashes of its views are computed anew, and what was
/// computed with the former key is taken away first.
#[utoipa::path(post, path = "/api/v1/shares/{share}/rotate-key", tag = "platform", params(WhoseShare),
    responses((status = 202, body = Rotation), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, description = "Kafka is away", body = ErrorBody)))]
async fn rotate_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(share): Path<String>,
    Params(whose): Params<WhoseShare>,
) -> Result<Response, Failed> {
    let rotation = views::rotate(&app, &caller, &share, whose.owner.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, Json(rotation)).into_response())
}

/// Takes a view back, as `revoke` does.
#[utoipa::path(delete, path = "/api/v1/views/{view}", tag = "platform",
    responses((status = 202, body = ViewStatus), (status = 404, body = ErrorBody)))]
async fn delete_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    take_back(&app, &caller, &name).await
}

/// Takes a view back: no rows leave any more, and what left is removed from topic and sinks.
#[utoipa::path(post, path = "/api/v1/views/{view}/revoke", tag = "platform",
    responses((status = 202, body = ViewStatus), (status = 404, body = ErrorBody)))]
async fn revoke_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Failed> {
    take_back(&app, &caller, &name).await
}

async fn take_back(app: &App, caller: &Caller, name: &str) -> Result<Response, Failed> {
    let view = views::revoke(app, caller, name).await?;
    let status = views::of(app, caller, &view).await?;
    Ok((StatusCode::ACCEPTED, Json(status)).into_response())
}

/// Lists connectors with everything that their workers report.
#[utoipa::path(get, path = "/api/v1/connectors", tag = "platform",
    responses((status = 200, body = Vec<ConnectorDetails>)))]
async fn list_connectors(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Answer<Vec<ConnectorDetails>> {
    let mut answer = Vec::new();
    for connector in connect::list(&app, &caller).await? {
        answer.push(details(&app, &connector).await?);
    }
    Ok(Json(answer))
}

/// Returns a connector with everything that its worker reports.
#[utoipa::path(get, path = "/api/v1/connectors/{connector}", tag = "platform",
    responses((status = 200, body = ConnectorDetails), (status = 404, body = ErrorBody)))]
async fn get_connector(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Answer<ConnectorDetails> {
    let connector = connect::get(&app, &caller, &name).await?;
    Ok(Json(details(&app, &connector).await?))
}

async fn details(
    app: &App,
    connector: &crate::store::connectors::Connector,
) -> Result<ConnectorDetails, Error> {
    let reported = connect::status::reported(app, connector).await?;
    Ok(ConnectorDetails {
        owner: connector.owner.clone(),
        location: connector.location.clone(),
        target: connector.target.clone(),
        status: connect::status::of(app, connector).await?,
        details: reported.map(|status| status.details).unwrap_or_default(),
    })
}

/// Lists deletions of connectors that are not finished: what a location that cannot be reached has
/// not removed yet.
#[utoipa::path(get, path = "/api/v1/deletions", tag = "platform",
    responses((status = 200, body = Vec<Deletion>)))]
async fn list_deletions(State(app): State<Arc<App>>, caller: Caller) -> Answer<Vec<Deletion>> {
    let mut answer = Vec::new();
    for connector in connect::list_deleting(&app, &caller).await? {
        answer.push(Deletion {
            status: connect::status::of(&app, &connector).await?,
            name: connector.name,
            owner: connector.owner,
            location: connector.location,
            since_ms: connector.deleted_at_ms,
        });
    }
    Ok(Json(answer))
}

/// Gives a deletion up: the connector is forgotten, its slot and publication stay where they are.
#[utoipa::path(delete, path = "/api/v1/deletions/{connector}", tag = "platform",
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn forget_deletion(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    connect::forget(&app, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists topic prefixes and whose they are.
#[utoipa::path(get, path = "/api/v1/prefixes", tag = "platform",
    responses((status = 200, body = Vec<Prefix>)))]
async fn list_prefixes(State(app): State<Arc<App>>, caller: Caller) -> Answer<Vec<Prefix>> {
    Ok(Json(prefix::list(&app, &caller).await?))
}

/// Lets anybody take a topic prefix whose topics are gone.
#[utoipa::path(delete, path = "/api/v1/prefixes/{prefix}", tag = "platform",
    responses((status = 204), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
async fn release_prefix(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Failed> {
    prefix::release(&app, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists captured tables.
#[utoipa::path(get, path = "/api/v1/tables", tag = "platform",
    responses((status = 200, body = Vec<CapturedTable>)))]
async fn list_tables(State(app): State<Arc<App>>, caller: Caller) -> Answer<Vec<CapturedTable>> {
    Ok(Json(tables::list(&app, &caller).await?))
}

/// Lists the locations that the caller may use.
#[utoipa::path(get, path = "/api/v1/locations", tag = "platform",
    responses((status = 200, body = Vec<String>)))]
async fn list_locations(State(app): State<Arc<App>>, caller: Caller) -> Json<Vec<String>> {
    Json(app.whose_locations.of(&caller))
}

/// Lists the tokens of the caller's organisation; the platform's sees all.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "platform", responses((status = 200, body = Vec<Listed>)))]
async fn list_tokens(State(app): State<Arc<App>>, caller: Caller) -> Answer<Vec<Listed>> {
    Ok(Json(access::list(&app, &caller).await?))
}

/// Makes a token. It is shown in this answer and never again.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "platform", request_body = NewToken,
    responses((status = 201, body = Object), (status = 400, body = ErrorBody), (status = 403, body = ErrorBody)))]
async fn create_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewToken>,
) -> Result<Response, Failed> {
    let (id, token) = access::create(&app, &caller, &new).await?;
    let body = json!({"id": id, "owner": new.owner, "role": new.role, "token": token.0});
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// Revokes a token.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "platform",
    responses((status = 204), (status = 404, body = ErrorBody)))]
async fn revoke_token(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Failed> {
    access::revoke(&app, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says who may read topics of views given to an organisation.
#[utoipa::path(put, path = "/api/v1/organisations/{name}", tag = "platform", request_body = Organisation,
    responses((status = 200, body = Organisation), (status = 409, body = ErrorBody)))]
async fn put_organisation(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(organisation): Body<Organisation>,
) -> Answer<Organisation> {
    access::set_organisation(&app, &caller, &name, &organisation).await?;
    Ok(Json(organisation))
}

/// Describes all three APIs.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "platform", responses((status = 200, body = Object)))]
async fn openapi(_caller: Caller) -> Json<utoipa::openapi::OpenApi> {
    Json(super::document())
}
