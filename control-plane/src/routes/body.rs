//! Reading a request: its body, the parts of its path, its parameters. What cannot be read is answered
//! in JSON as every other mistake is, where axum would answer in plain text.
//!
//! A body's content type is not looked at: Confluent's clients send their own, curl sends a form's.

use axum::body::Bytes;
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

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read = read(request, state, Dialect::Platform).await?;
        Ok(Self(read))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for RegistryBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let read = read(request, state, Dialect::Registry).await?;
        Ok(Self(read))
    }
}

async fn read<T: DeserializeOwned, S: Send + Sync>(
    request: Request,
    state: &S,
    dialect: Dialect,
) -> Result<T, Response> {
    let bytes = Bytes::from_request(request, state)
        .await
        .map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!(
                    "the body is larger than {} MiB",
                    super::BODY_BYTES_MAX >> 20
                );
                plain(dialect, StatusCode::PAYLOAD_TOO_LARGE, &message)
            }
            status => plain(dialect, status, &rejection.body_text()),
        })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Data => format!("the body is not as expected: {error}"),
            _ => format!("the body is malformed JSON: {error}"),
        };
        failure(dialect, Error::invalid(message))
    })
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
