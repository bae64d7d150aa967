//! A client of the platform's three HTTP APIs.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::Value;

/// What an API answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; a body that is not JSON is a string, none is null.
    pub body: Value,
}

impl Answer {
    /// Returns the body of a success.
    ///
    /// # Errors
    ///
    /// If the status is not 2xx; the message holds status and body.
    pub fn ok(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            Ok(self.body)
        } else {
            bail!("the API answered {}: {}", self.status, self.body)
        }
    }
}

/// A client with an administrator's token.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
    token: String,
    /// Base URL of the Kafka-Connect-compatible API.
    pub connect_url: String,
    /// Base URL of the schema registry.
    pub registry_url: String,
    /// Base URL of the platform's own API.
    pub platform_url: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("connect_url", &self.connect_url)
            .field("registry_url", &self.registry_url)
            .field("platform_url", &self.platform_url)
            .finish_non_exhaustive()
    }
}

impl Api {
    /// Makes a client of the APIs that listen on these ports of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If the TLS library cannot be set up.
    pub fn new(connect: u16, registry: u16, platform: u16) -> Result<Self> {
        // Another part of this program may have chosen the provider; there is only one.
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(100))
            .build()?;
        let url = |port| format!("http://127.0.0.1:{port}");
        Ok(Self {
            client,
            token: String::new(),
            connect_url: url(connect),
            registry_url: url(registry),
            platform_url: url(platform),
        })
    }

    /// Returns the same client with a token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// Returns the token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Calls the Kafka-Connect-compatible API.
    ///
    /// # Errors
    ///
    /// If there is no answer. An answer that refuses is an [`Answer`].
    pub async fn connect(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        self.call(method, &format!("{}{path}", self.connect_url), body)
            .await
    }

    /// Calls the schema registry.
    ///
    /// # Errors
    ///
    /// As [`Api::connect`].
    pub async fn registry(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        self.call(method, &format!("{}{path}", self.registry_url), body)
            .await
    }

    /// Calls the platform's own API.
    ///
    /// # Errors
    ///
    /// As [`Api::connect`].
    pub async fn platform(&self, method: &str, path: &str, body: Option<Value>) -> Result<Answer> {
        self.call(method, &format!("{}{path}", self.platform_url), body)
            .await
    }

    /// Calls any URL, with the token.
    ///
    /// # Errors
    ///
    /// As [`Api::connect`].
    pub async fn call(&self, method: &str, url: &str, body: Option<Value>) -> Result<Answer> {
        let method: Method = method.parse().context("not an HTTP method")?;
        let mut request = self.client.request(method.clone(), url);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request
            .send()
            .await
            .with_context(|| format!("{method} {url}"))?;
        let status = response.status().as_u16();
        let text = response
            .text()
            .await
            .with_context(|| format!("{method} {url}"))?;
        let body = match text.as_str() {
            "" => Value::Null,
            _ => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        };
        Ok(Answer { status, body })
    }
}
