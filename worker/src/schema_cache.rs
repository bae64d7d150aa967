//! Schemas by id and ids by subject, as `<cluster>.schemas` has them.
//!
//! ```text
//!   <cluster>.schemas ── follower ──▶ SchemaCache ◀── schema(id), register(subject, schema)
//!                                          │ only what the topic does not have
//!                                          ▼
//!                                   registry over HTTP
//! ```
//!
//! A worker that knows a schema already needs no control plane, so it restarts while that is down.
//! What the registry answers is kept as if the topic had brought it, because the topic brings it a
//! moment later. Ids are never issued twice, so a known id never changes its meaning.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hutong_connectors_core::secret::Secret;
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::compatibility::canonical;
use hutong_schemas::position::SchemaId;
use hutong_transport::KafkaConfig;
use hutong_transport::reader::{CompactedReader, Event, Message};
use hutong_transport::record::{Record, SchemaRecord, SubjectRecord};
use serde::Deserialize;
use tokio::sync::watch;

use crate::retry;

/// How long a schema is waited for that a record names and the topic has not brought yet.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the registry may take to answer.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(10);

/// The worker's view of the registry. Shared by all tasks.
#[derive(Debug)]
pub(crate) struct SchemaCache {
    /// A `std` mutex: held for map operations, never across an await.
    known: Mutex<Known>,
    /// Counts what the topic has brought, for those who wait.
    brought: watch::Sender<u64>,
    /// Whether the end that the topic had at the start has been reached.
    at_end: watch::Sender<bool>,
    registry: Option<Registry>,
}

#[derive(Debug, Default)]
struct Known {
    schemas: HashMap<SchemaId, Arc<str>>,
    /// By subject and version, so that a version that is deleted goes.
    subjects: HashMap<String, BTreeMap<i32, SchemaId>>,
    /// What the registry answered, until the topic says the same.
    answered: HashMap<String, Vec<(Arc<str>, SchemaId)>>,
}

/// Where schemas are registered.
#[derive(Debug)]
struct Registry {
    url: String,
    token: Option<Secret>,
    client: reqwest::Client,
}

impl SchemaCache {
    /// Makes an empty cache. `token` is what the registry wants as bearer token.
    ///
    /// # Errors
    ///
    /// Definite: no HTTP client can be made.
    pub(crate) fn new(url: Option<&str>, token: Option<Secret>) -> Result<Self, Error> {
        let registry = match url {
            Some(url) => Some(Registry::new(url, token)?),
            None => None,
        };
        Ok(Self {
            known: Mutex::default(),
            brought: watch::Sender::new(0),
            at_end: watch::Sender::new(false),
            registry,
        })
    }

    /// Follows the topic for ever; a reader that fails is replaced by one that begins anew, which
    /// changes nothing that is known.
    pub(crate) async fn follow(self: Arc<Self>, kafka: KafkaConfig, topic: String) {
        loop {
            let mut reader = retry::until_done("open the topic of schemas", || {
                CompactedReader::open(&kafka, &topic)
            })
            .await;
            let error = loop {
                match reader.next().await {
                    Ok(Event::Record(message)) => self.take(&message),
                    Ok(Event::End) => {
                        self.at_end.send_replace(true);
                    }
                    Err(error) => break error,
                }
            };
            tracing::warn!(topic, %error, "reading the topic of schemas begins anew");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn take(&self, message: &Message) {
        if let Err(error) = self.lock().take(message) {
            tracing::error!(offset = message.offset, %error, "a record of the topic of schemas cannot be read");
        }
        self.brought.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the schema with this id, as registered. Waits a while for one that the topic may
    /// still bring.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] (transient) if it does not come.
    pub(crate) async fn schema(&self, id: SchemaId) -> Result<Arc<str>, Error> {
        self.brought_in_time(|known| known.schemas.get(&id).map(Arc::clone))
            .await
            .ok_or(Error::Unknown { id })
    }

    /// Returns the id under which a subject already has this schema, without asking anybody.
    pub(crate) fn known(&self, subject: &str, schema: &str) -> Option<SchemaId> {
        self.lock().find(subject, &canonical(schema).ok()?)
    }

    /// Returns the id of a subject's newest version. Waits a while for one that the topic may still
    /// bring.
    ///
    /// # Errors
    ///
    /// [`Error::NoSubject`] (transient) if it does not come.
    pub(crate) async fn latest(&self, subject: &str) -> Result<SchemaId, Error> {
        let mut at_end = self.at_end.subscribe();
        // Before the end of the topic the newest version that is known may be an old one.
        drop(tokio::time::timeout(WAIT_MAX, at_end.wait_for(|at_end| *at_end)).await);
        self.brought_in_time(|known| known.newest(subject))
            .await
            .ok_or_else(|| Error::NoSubject {
                subject: subject.to_owned(),
            })
    }

    /// Looks now and whenever the topic has brought something, until it is found or the wait ends.
    async fn brought_in_time<T>(&self, look: impl Fn(&Known) -> Option<T>) -> Option<T> {
        let mut brought = self.brought.subscribe();
        let waiting = async {
            loop {
                brought.borrow_and_update();
                let found = look(&self.lock());
                if let Some(found) = found {
                    return found;
                }
                if brought.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(WAIT_MAX, waiting).await.ok()
    }

    /// Returns the id of a schema under a subject: the known one, else by registering it.
    ///
    /// # Errors
    ///
    /// Transient while the registry cannot be reached, definite when it refuses.
    pub(crate) async fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, Error> {
        let mut at_end = self.at_end.subscribe();
        // Before the end it is not known what is known; without a broker nothing else works either.
        drop(tokio::time::timeout(WAIT_MAX, at_end.wait_for(|at_end| *at_end)).await);
        if let Some(id) = self.known(subject, schema) {
            return Ok(id);
        }
        let registry = self.registry.as_ref().ok_or_else(|| Error::NoRegistry {
            subject: subject.to_owned(),
        })?;
        let id = registry.register(subject, schema).await?;
        self.lock().answer(subject, schema, id);
        Ok(id)
    }
}

impl Known {
    fn take(&mut self, message: &Message) -> Result<(), hutong_transport::Error> {
        let key = message.key.as_deref().unwrap_or_default();
        let key = String::from_utf8_lossy(key);
        match (key.split_once('/'), &message.value) {
            (Some(("schema", _)), Some(value)) => {
                let record = SchemaRecord::decode(value)?;
                self.schemas
                    .insert(SchemaId(record.id), Arc::from(record.schema));
            }
            (Some(("subject", _)), Some(value)) => {
                let record = SubjectRecord::decode(value)?;
                let versions = self.subjects.entry(record.subject.clone()).or_default();
                if record.deleted {
                    versions.remove(&record.version);
                    // The registry may have answered with what is deleted now.
                    self.answered.remove(&record.subject);
                } else {
                    versions.insert(record.version, SchemaId(record.id));
                }
            }
            (Some(("subject", rest)), None) => {
                if let Some((subject, version)) = rest.rsplit_once('/')
                    && let Some(versions) = self.subjects.get_mut(subject)
                    && let Ok(version) = version.parse::<i32>()
                {
                    versions.remove(&version);
                    self.answered.remove(subject);
                }
            }
            // A schema's id stays known: records that carry it may still be read. Other keys are
            // of a later release.
            _ => {}
        }
        Ok(())
    }

    fn find(&self, subject: &str, wanted: &str) -> Option<SchemaId> {
        let answered = self.answered.get(subject).into_iter().flatten();
        let mut answered = answered.filter(|(schema, _)| &**schema == wanted);
        if let Some((_, id)) = answered.next() {
            return Some(*id);
        }
        let mut versions = self.subjects.get(subject)?.values().rev();
        versions
            .find(|id| {
                let schema = self.schemas.get(id);
                schema.is_some_and(|schema| canonical(schema).is_ok_and(|text| text == wanted))
            })
            .copied()
    }

    fn newest(&self, subject: &str) -> Option<SchemaId> {
        let (_, id) = self.subjects.get(subject)?.last_key_value()?;
        Some(*id)
    }

    fn answer(&mut self, subject: &str, schema: &str, id: SchemaId) {
        if let Ok(text) = canonical(schema) {
            let answers = self.answered.entry(subject.to_owned()).or_default();
            answers.push((Arc::from(text), id));
        }
        let known = self.schemas.entry(id);
        known.or_insert_with(|| Arc::from(schema));
    }
}

impl Registry {
    fn new(url: &str, token: Option<Secret>) -> Result<Self, Error> {
        let client = reqwest::Client::builder()
            .timeout(REGISTRY_TIMEOUT)
            .build()
            .map_err(Error::Client)?;
        Ok(Self {
            url: url.to_owned(),
            token,
            client,
        })
    }

    async fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, Error> {
        let unreachable = |source: reqwest::Error| Error::Unreachable {
            subject: subject.to_owned(),
            source: source.without_url(),
        };
        let url = format!("{}/subjects/{}/versions", self.url, encode_segment(subject));
        let mut request = self
            .client
            .post(url)
            .json(&serde_json::json!({ "schema": schema }));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.reveal());
        }
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if status.is_success() {
            let registered: Registered = answer.json().await.map_err(unreachable)?;
            return Ok(SchemaId(registered.id));
        }
        let text = answer.text().await.unwrap_or_default();
        let refusal: Refusal = serde_json::from_str(&text).unwrap_or(Refusal { message: text });
        Err(Error::Refused {
            subject: subject.to_owned(),
            status: status.as_u16(),
            message: refusal.message,
        })
    }
}

/// The registry's answer to a registration.
#[derive(Deserialize)]
struct Registered {
    id: u32,
}

/// The registry's answer to one that it does not accept.
#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// Writes a subject as one segment of a path: all but unreserved characters of RFC 3986 in percent.
fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// A schema could not be found or registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The topic has not brought this schema.
    #[error("schema {id} is not in the topic of schemas yet")]
    Unknown {
        /// The schema's id.
        id: SchemaId,
    },
    /// The topic has not brought this subject.
    #[error("subject {subject} is not in the topic of schemas yet")]
    NoSubject {
        /// The subject.
        subject: String,
    },
    /// Nobody can be asked to register.
    #[error("cannot register a new schema under {subject} without a registry")]
    NoRegistry {
        /// The subject.
        subject: String,
    },
    /// The HTTP client could not be made.
    #[error("cannot make a client for the registry")]
    Client(#[source] reqwest::Error),
    /// The registry did not answer.
    #[error("could not register a schema under {subject}")]
    Unreachable {
        /// The subject.
        subject: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The registry answered no.
    #[error("the registry refused a schema under {subject} with status {status}: {message}")]
    Refused {
        /// The subject.
        subject: String,
        /// The HTTP status.
        status: u16,
        /// The registry's reason.
        message: String,
    },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Unknown { .. } | Self::NoSubject { .. } | Self::Unreachable { .. } => {
                Class::Transient
            }
            Self::NoRegistry { .. } | Self::Client(_) => Class::Definite,
            Self::Refused { status, .. } => match status {
                // Too many requests, and whatever is the server's own trouble.
                408 | 429 | 500..=599 => Class::Transient,
                _ => Class::Definite,
            },
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoRegistry { .. } => Some("set registry.url in the worker's configuration".to_owned()),
            Self::Refused { status: 401 | 403, .. } => Some(
                "let registry.token in the worker's configuration refer to a token that may register schemas".to_owned(),
            ),
            Self::Refused { status: 409, subject, .. } => Some(format!(
                "the table changed in a way that readers of the earlier schema cannot follow: change it back, or lower the compatibility level of {subject} if all readers are ready"
            )),
            Self::Unknown { .. }
            | Self::NoSubject { .. }
            | Self::Client(_)
            | Self::Unreachable { .. }
            | Self::Refused { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::extract::{Path, State};
    use axum::http::StatusCode;
    use axum::routing::post;
    use axum::{Json, Router};
    use bytes::Bytes;
    use hutong_connectors_core::secret::Secret;
    use hutong_schemas::class::{Class, Classified};
    use hutong_schemas::position::SchemaId;
    use hutong_transport::reader::Message;
    use hutong_transport::record::{Record, SchemaRecord, SubjectRecord};
    use serde_json::{Value, json};

    use super::{Registry, SchemaCache, encode_segment};

    const RECORD: &str = r#"{"type":"record","name":"Value","fields":[{"name":"a","type":"int"}]}"#;

    fn cache(registry: Option<Registry>) -> SchemaCache {
        let mut cache = SchemaCache::new(None, None).unwrap();
        cache.registry = registry;
        cache.at_end.send_replace(true);
        cache
    }

    fn bring(cache: &SchemaCache, key: &str, value: Option<Vec<u8>>) {
        cache.take(&Message {
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: Some(Bytes::from(key.to_owned())),
            value: value.map(Bytes::from),
            header_hutong: None,
        });
    }

    fn bring_schema(cache: &SchemaCache, id: u32, deleted: bool) {
        let schema = SchemaRecord {
            v: 1,
            id,
            schema: RECORD.to_owned(),
        };
        let subject = SubjectRecord {
            v: 1,
            subject: "a-value".into(),
            version: 1,
            id,
            deleted,
        };
        bring(cache, &format!("schema/{id}"), Some(schema.encode()));
        bring(cache, "subject/a-value/1", Some(subject.encode()));
    }

    #[tokio::test]
    async fn a_known_schema_needs_no_registry() {
        let cache = cache(None);
        bring_schema(&cache, 7, false);
        let spaced = RECORD.replace(',', " ,\n ");
        assert_eq!(
            cache.register("a-value", &spaced).await.unwrap(),
            SchemaId(7)
        );
        assert_eq!(&*cache.schema(SchemaId(7)).await.unwrap(), RECORD);
        let error = cache.register("b-value", RECORD).await.unwrap_err();
        assert_eq!(error.class(), Class::Definite);
        assert!(error.hint().unwrap().contains("registry.url"));
    }

    #[tokio::test]
    async fn a_deleted_version_is_not_known_but_its_schema_can_still_be_read() {
        let cache = cache(None);
        bring_schema(&cache, 7, false);
        bring_schema(&cache, 7, true);
        assert_eq!(cache.known("a-value", RECORD), None);
        assert!(cache.schema(SchemaId(7)).await.is_ok());
        bring_schema(&cache, 7, false);
        bring(&cache, "subject/a-value/1", None);
        assert_eq!(cache.known("a-value", RECORD), None);
    }

    #[tokio::test]
    async fn who_waits_for_a_schema_is_woken_when_the_topic_brings_it() {
        let cache = Arc::new(cache(None));
        let waiting = cache.schema(SchemaId(9));
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        bring_schema(&cache, 9, false);
        assert_eq!(&*waiting.await.unwrap(), RECORD);
        assert_eq!(cache.latest("a-value").await.unwrap(), SchemaId(9));
    }

    type Asked = Arc<std::sync::Mutex<Vec<(String, String)>>>;

    async fn answer(
        State(asked): State<Asked>,
        Path(subject): Path<String>,
        headers: axum::http::HeaderMap,
        Json(body): Json<Value>,
    ) -> (StatusCode, Json<Value>) {
        let authorization = headers["authorization"].to_str().unwrap().to_owned();
        asked.lock().unwrap().push((subject.clone(), authorization));
        assert!(body["schema"].is_string());
        match subject.as_str() {
            "busy" => (
                StatusCode::SERVICE_UNAVAILABLE,
                Json(json!({"error_code": 50301, "message": "busy"})),
            ),
            "narrow" => (
                StatusCode::CONFLICT,
                Json(json!({"error_code": 409, "message": "field a was removed"})),
            ),
            _ => (StatusCode::OK, Json(json!({"id": 41}))),
        }
    }

    async fn registry(asked: Asked) -> Registry {
        drop(rustls::crypto::ring::default_provider().install_default());
        let routes = Router::new()
            .route("/subjects/{subject}/versions", post(answer))
            .with_state(asked);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Registry::new(&url, Some(Secret::new("let-me-in"))).unwrap()
    }

    #[tokio::test]
    async fn a_new_schema_is_registered_once_and_then_known() {
        let asked = Asked::default();
        let cache = cache(Some(registry(Arc::clone(&asked)).await));
        for _ in 0..3 {
            let id = cache.register("区/a value", RECORD).await.unwrap();
            assert_eq!(id, SchemaId(41));
        }
        assert_eq!(
            *asked.lock().unwrap(),
            [("区/a value".to_owned(), "Bearer let-me-in".to_owned())]
        );
        assert_eq!(&*cache.schema(SchemaId(41)).await.unwrap(), RECORD);
    }

    #[tokio::test]
    async fn a_refusal_is_definite_with_the_registrys_words_and_trouble_is_transient() {
        let cache = cache(Some(registry(Asked::default()).await));
        let busy = cache.register("busy", RECORD).await.unwrap_err();
        assert_eq!(busy.class(), Class::Transient);
        let narrow = cache.register("narrow", RECORD).await.unwrap_err();
        assert_eq!(narrow.class(), Class::Definite);
        assert!(
            narrow.to_string().contains("field a was removed"),
            "{narrow}"
        );
    }

    #[test]
    fn a_subject_is_one_segment_of_the_path() {
        assert_eq!(
            encode_segment("rk.public.person-value"),
            "rk.public.person-value"
        );
        assert_eq!(encode_segment("a/b c%"), "a%2Fb%20c%25");
    }
}
