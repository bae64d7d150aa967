//! Reading a request: its body, the parts of its path, its parameters. What cannot be read is answered
//! in JSON as every other mistake is, where axum would answer in plain text.
//!
//! A body's content type is not looked at: Confluent's clients send their own, curl sends a form's.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::HttpBody;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::DeserializeOwned;

use super::answer::{Dialect, failure, plain};
use crate::error::Error;

/// A JSON body; what is no such is answered as Kafka Connect's errors are.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

/// A JSON body of the schema registry.
#[derive(Debug)]
pub(crate) struct RegistryBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let read = read(request, Dialect::Platform).await?;
        Ok(Self(read))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for RegistryBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Response> {
        let read = read(request, Dialect::Registry).await?;
        Ok(Self(read))
    }
}

async fn read<T: DeserializeOwned>(request: Request, dialect: Dialect) -> Result<T, Response> {
    let bytes = collect(request.into_body())
        .await
        .map_err(|(status, message)| plain(dialect, status, &message))?;
    if let Some(field) = field_with_nul(&bytes) {
        let error = Error::field(&field, "holds the character U+0000, which cannot be stored");
        return Err(failure(dialect, error));
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Data => format!("the body is not as expected: {error}"),
            _ => format!("the body is malformed JSON: {error}"),
        };
        failure(dialect, Error::invalid(message))
    })
}

/// Returns the path to a text with U+0000, which JSON can say and PostgreSQL cannot store.
fn field_with_nul(bytes: &[u8]) -> Option<String> {
    let escape = b"u0000";
    if !bytes.windows(escape.len()).any(|window| window == escape) {
        return None;
    }
    // What is malformed is told so by who reads it.
    path_to_nul(&serde_json::from_slice(bytes).ok()?)
}

fn path_to_nul(value: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let below = |key: &str, value| {
        let rest: String = path_to_nul(value)?;
        Some(if rest.is_empty() {
            key.to_owned()
        } else {
            format!("{key}.{rest}")
        })
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| below(&index.to_string(), item)),
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            if key.contains('\0') {
                Some(key.replace('\0', "\u{fffd}"))
            } else {
                below(key, value)
            }
        }),
    }
}

/// Largest body of a request: a view document or schema is far below.
const BYTES_MAX: usize = 4 << 20;
/// How much of a body that is too large is taken in and dropped before it is answered: many clients
/// look for an answer only when they have sent everything, and lose it if the connection is closed
/// before.
const DROPPED_BYTES_MAX: usize = 64 << 20;

/// Reads a whole body, or says why that cannot be done.
async fn collect(mut body: axum::body::Body) -> Result<Vec<u8>, (StatusCode, String)> {
    let mut kept = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            let message = format!("the body could not be read: {error}");
            (StatusCode::BAD_REQUEST, message)
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length <= BYTES_MAX {
            kept.extend_from_slice(&data);
        } else if length > DROPPED_BYTES_MAX {
            break;
        }
    }
    if length > BYTES_MAX {
        let message = format!("the body is larger than {} MiB", BYTES_MAX >> 20);
        return Err((StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(kept)
}

/// The parts of a path that have names. It bears the name of axum's, by which the OpenAPI document
/// recognises parameters of a path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

/// The parts of a path of the schema registry.
#[derive(Debug)]
pub(crate) struct RegistryPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let named = path(parts, state, Dialect::Platform).await?;
        Ok(Self(named))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for RegistryPath<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let named = path(parts, state, Dialect::Registry).await?;
        Ok(Self(named))
    }
}

async fn path<T: DeserializeOwned + Send, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    dialect: Dialect,
) -> Result<T, Response> {
    if parts.uri.to_string().contains("%00") {
        let message = "the address holds the character U+0000, which no name has";
        return Err(plain(dialect, StatusCode::BAD_REQUEST, message));
    }
    axum::extract::Path::from_request_parts(parts, state)
        .await
        .map(|axum::extract::Path(named)| named)
        .map_err(|rejection| plain(dialect, rejection.status(), &rejection.body_text()))
}

/// The parameters behind `?`.
#[derive(Debug)]
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        match Query::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => {
                let error = Error::invalid(rejection.body_text());
                Err(failure(Dialect::Platform, error))
            }
        }
    }
}
