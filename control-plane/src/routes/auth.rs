//! Who asks: a bearer token, or HTTP Basic with the token as password, which existing clients of
//! Kafka Connect and of the schema registry can send. The user name is not looked at.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::answer::{Dialect, failure};
use crate::App;
use crate::caller::Caller;
use crate::error::Error;
use crate::store::tokens;
use crate::token::Token;

/// What stands before an API.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) app: Arc<App>,
    pub(crate) dialect: Dialect,
}

/// Lets a request through with its [`Caller`], or answers 401.
pub(crate) async fn authenticate(
    State(guard): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    match identify(&guard, request.headers()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => failure(guard.dialect, error),
    }
}

async fn identify(guard: &Guard, headers: &HeaderMap) -> Result<Caller, Error> {
    let app = &guard.app;
    let hash = token(headers)?.hash();
    let unknown = Error::Unauthenticated {
        message: "the token is not known or was revoked",
    };
    // The registry is read while the database is away, by those who were known before.
    if guard.dialect == Dialect::Registry {
        return app.registry.caller(&hash).await?.ok_or(unknown);
    }
    let mut db = app.store.acquire().await?;
    let caller = tokens::find(&mut db, &hash).await?;
    caller.ok_or(unknown)
}

fn token(headers: &HeaderMap) -> Result<Token, Error> {
    let missing = Error::Unauthenticated {
        message: "a token is needed: \"Authorization: Bearer <token>\", or Basic with the token as password",
    };
    let malformed = || Error::Unauthenticated {
        message: "the header Authorization is neither \"Bearer <token>\" nor Basic with the token as password",
    };
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(missing);
    };
    let (scheme, rest) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .ok_or_else(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Token(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(rest.trim()).map_err(|_| malformed())?;
    let text = String::from_utf8(decoded).map_err(|_| malformed())?;
    let (_user, password) = text.split_once(':').ok_or_else(malformed)?;
    Ok(Token(password.to_owned()))
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Response> {
        let caller = parts.extensions.get::<Self>().cloned();
        // Only a route outside of the guard gets here; it must not be answered.
        caller.ok_or_else(|| {
            let error = Error::Unauthenticated {
                message: "a token is needed",
            };
            failure(Dialect::Platform, error).into_response()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        let found = token(&headers).ok().map(|token| token.0);
        assert_eq!(found.as_deref(), expected, "{header}");
    }

    #[test]
    fn a_token_is_taken_from_bearer_and_from_the_password_of_basic() {
        check("Bearer abc", Some("abc"));
        check("bearer abc", Some("abc"));
        check(
            &format!("Basic {}", STANDARD.encode("anyone:a:b")),
            Some("a:b"),
        );
        check("Basic !!!", None);
        check(&format!("Basic {}", STANDARD.encode("no colon")), None);
        check("Digest abc", None);
        check("abc", None);
    }
}
