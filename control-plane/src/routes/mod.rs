//! The three HTTP APIs. A handler parses, authorises by what its service demands, calls the service
//! and maps the result; it never queries.
//!
//! Reading order: [`answer`] (how errors look), [`auth`] (who asks), then one file per API.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::App;

pub(crate) mod answer;
pub(crate) mod auth;
mod body;
pub(crate) mod connect;
mod openapi;
mod operations;
mod platform;
mod registry;

pub(crate) use openapi::document;

use answer::Dialect;

/// The three APIs, ready to be served.
#[derive(Debug)]
pub(crate) struct Apis {
    /// The Kafka-Connect-compatible API.
    pub(crate) connect: Router,
    /// The schema registry.
    pub(crate) registry: Router,
    /// The platform's own API.
    pub(crate) platform: Router,
}

/// Builds the APIs.
pub(crate) fn build(app: &Arc<App>) -> Apis {
    let (connect, _) = connect::router().split_for_parts();
    let (registry, _) = registry::router().split_for_parts();
    let (platform, _) = platform::router().split_for_parts();
    Apis {
        connect: finish(app, Dialect::Connect, connect),
        registry: finish(app, Dialect::Registry, registry),
        platform: finish(app, Dialect::Platform, platform),
    }
}

/// Returns the routers whose OpenAPI descriptions make the document.
fn described() -> [(Dialect, OpenApi); 3] {
    let describe = |router: OpenApiRouter<Arc<App>>| router.into_openapi();
    [
        (Dialect::Connect, describe(connect::router())),
        (Dialect::Registry, describe(registry::router())),
        (Dialect::Platform, describe(platform::router())),
    ]
}

/// Puts around an API what all have: no path without a token, known or not; health without one.
fn finish(app: &Arc<App>, dialect: Dialect, router: Router<Arc<App>>) -> Router {
    let guard = auth::Guard {
        app: Arc::clone(app),
        dialect,
    };
    router
        .fallback(move || async move {
            answer::plain(dialect, StatusCode::NOT_FOUND, "there is no such path")
        })
        .method_not_allowed_fallback(move || async move {
            answer::plain(
                dialect,
                StatusCode::METHOD_NOT_ALLOWED,
                "the path does not know this method",
            )
        })
        .layer(middleware::from_fn_with_state(guard, auth::authenticate))
        .merge(operations::health())
        .layer(middleware::from_fn_with_state(
            (Arc::clone(app), dialect),
            operations::count,
        ))
        .layer(tower_http::trace::TraceLayer::new_for_http())
        .with_state(Arc::clone(app))
}
