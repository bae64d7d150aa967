//! How results and errors are put into HTTP: `{error_code, message}` in all three APIs, with the
//! codes that each API's clients know.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::error::{Error, Mistake};

/// Whose words an API speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Kafka Connect's.
    Connect,
    /// Confluent's schema registry's.
    Registry,
    /// Our own.
    Platform,
}

impl Dialect {
    /// Returns the name that metrics and the OpenAPI document use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Registry => "registry",
            Self::Platform => "platform",
        }
    }
}

/// The body of every error.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    /// The HTTP status, or in the schema registry a code of five digits that begins with it.
    error_code: u32,
    /// What is wrong, naming the field where there is one.
    message: String,
    /// The same by field; only where fields are known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Mistake>,
}

/// An error on its way out of the Connect or platform API.
#[derive(Debug)]
pub(crate) struct Failed(Error);

/// An error on its way out of the schema registry.
#[derive(Debug)]
pub(crate) struct RegistryFailed(Error);

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl<E: Into<Error>> From<E> for RegistryFailed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        failure(Dialect::Platform, self.0)
    }
}

impl IntoResponse for RegistryFailed {
    fn into_response(self) -> Response {
        failure(Dialect::Registry, self.0)
    }
}

/// The content type of the schema registry's answers.
const REGISTRY_TYPE: HeaderValue =
    HeaderValue::from_static("application/vnd.schemaregistry.v1+json");

/// An answer of the schema registry.
#[derive(Debug)]
pub(crate) struct RegistryJson<T>(pub(crate) T);

impl<T: serde::Serialize> IntoResponse for RegistryJson<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.0).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, REGISTRY_TYPE);
        response
    }
}

/// Puts an error into an API's words. What is ours to repair is logged with all its causes; the
/// caller learns only that it happened, because causes may name what is not the caller's.
pub(crate) fn failure(dialect: Dialect, error: Error) -> Response {
    let (status, code, message) = match &error {
        Error::Invalid { message, .. } => (StatusCode::BAD_REQUEST, None, message.clone()),
        Error::Unauthenticated { message } => {
            (StatusCode::UNAUTHORIZED, Some(40101), (*message).to_owned())
        }
        Error::Forbidden { message } => (StatusCode::FORBIDDEN, Some(40301), message.clone()),
        Error::NotFound { message } => (StatusCode::NOT_FOUND, None, message.clone()),
        Error::Conflict { message } => (StatusCode::CONFLICT, None, message.clone()),
        Error::Registry { code, message } => {
            let leading = if *code > 999 { code / 100 } else { *code };
            let status = u16::try_from(leading)
                .ok()
                .and_then(|s| StatusCode::from_u16(s).ok());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, Some(*code), message.clone())
        }
        Error::Unavailable { message } => (StatusCode::SERVICE_UNAVAILABLE, None, message.clone()),
        Error::Store(_) | Error::Migrate(_) => {
            tracing::error!(error = error.chain(), "request failed in the database");
            let text = "the control plane's database does not answer as it should; try again later";
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                Some(50001),
                text.to_owned(),
            )
        }
        Error::Kafka(_) => {
            tracing::warn!(error = error.chain(), "request failed in Kafka");
            let text = format!("{error}; try again later");
            (StatusCode::SERVICE_UNAVAILABLE, None, text)
        }
        Error::Listen { .. } | Error::AdminToken { .. } | Error::Stored { .. } => {
            tracing::error!(error = error.chain(), "request failed");
            let text = "internal error; the control plane's log has the cause";
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                Some(50001),
                text.to_owned(),
            )
        }
    };
    let code = match (dialect, code) {
        (Dialect::Registry, Some(code)) => code,
        _ => u32::from(status.as_u16()),
    };
    let errors = match error {
        Error::Invalid { mistakes, .. } => mistakes,
        _ => Vec::new(),
    };
    respond(
        dialect,
        status,
        ErrorBody {
            error_code: code,
            message,
            errors,
        },
    )
}

/// Returns an error that only has a status.
pub(crate) fn plain(dialect: Dialect, status: StatusCode, message: &str) -> Response {
    let body = ErrorBody {
        error_code: u32::from(status.as_u16()),
        message: message.to_owned(),
        errors: Vec::new(),
    };
    respond(dialect, status, body)
}

fn respond(dialect: Dialect, status: StatusCode, body: ErrorBody) -> Response {
    let mut response = (status, Json(body)).into_response();
    let headers = response.headers_mut();
    if dialect == Dialect::Registry {
        headers.insert(header::CONTENT_TYPE, REGISTRY_TYPE);
    }
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"hutong\", charset=\"UTF-8\"");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
