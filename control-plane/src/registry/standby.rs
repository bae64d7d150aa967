//! What the registry answers from while the database is away.
//!
//! ```text
//!   <cluster>.schemas ── followed ──▶ schemas, versions ─┐
//!   database ── copied every few seconds ──▶ who may see ─┴─▶ reads, while the database is away
//! ```
//!
//! Consumers of a topic cannot read it without its schemas, so a registry that is down with its
//! database stops everybody. What is registered stands in the topic; who may see it stands in the
//! database alone, so tokens, owners and settings are copied while it answers. A token or a subject
//! that came after the last copy is not known, and a token that was revoked within that time is still
//! taken: nothing can be granted or revoked while the database is away, so the copy is at most so old.
//! A view's end is looked at by the clock. Nothing is written from here.
//!
//! Whether the database is away is asked every second; once a request has found it so, the next ones
//! do not wait for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use hutong_schemas::class::{Class, Classified};
use hutong_transport::KafkaConfig;
use hutong_transport::reader::{CompactedReader, Event, Message};
use hutong_transport::record::{
    Record, ReferencesRecord, SchemaRecord, SchemaReference, SubjectRecord,
};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::types::Json;
use tokio::time::{sleep, timeout};

use super::{Registry, hash_of};
use crate::caller::Caller;
use crate::error::Error;
use crate::store::Store;
use crate::store::schemas::{self, SchemaText, Setting, Subject, Version};
use crate::store::tokens;

/// How often it is asked whether the database answers.
const PROBE: Duration = Duration::from_secs(1);
/// Every how many probes who may see what is copied.
const COPY_PROBES: u32 = 5;
/// How long the database has to answer before it counts as away.
const STORE_TIME: Duration = Duration::from_secs(3);

/// What is answered from while the database is away.
#[derive(Debug)]
pub(crate) struct Standby {
    store: Store,
    is_away: AtomicBool,
    /// A few lines at a time, never across an await; likewise below.
    registered: RwLock<Arc<Registered>>,
    rights: RwLock<Option<Arc<Rights>>>,
}

/// What the topic holds.
#[derive(Clone, Debug, Default)]
struct Registered {
    is_complete: bool,
    schemas: BTreeMap<i32, Arc<SchemaKnown>>,
    references: BTreeMap<i32, Vec<SchemaReference>>,
    subjects: BTreeMap<String, BTreeMap<i32, (i32, bool)>>,
}

#[derive(Debug)]
struct SchemaKnown {
    text: String,
    hash: schemas::Hash,
}

/// Who may see what, and what is set.
#[derive(Debug)]
struct Rights {
    tokens: HashMap<Vec<u8>, Caller>,
    subjects: HashMap<String, Subject>,
    settings: HashMap<Setting, String>,
}

/// What a read is answered from.
pub(super) enum Source {
    /// The database.
    Store(PoolConnection<Postgres>),
    /// The topic, and rights as they were copied.
    Topic(Box<Facts>),
}

/// What is known without the database, at one moment.
pub(super) struct Facts {
    registered: Arc<Registered>,
    rights: Arc<Rights>,
    now_ms: i64,
}

impl Standby {
    /// Knows nothing yet.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            is_away: AtomicBool::new(false),
            registered: RwLock::default(),
            rights: RwLock::default(),
        }
    }

    /// Copies who may see what, and finds out whether the database is away, for ever.
    pub(crate) async fn keep_rights(self: Arc<Self>) {
        let mut probes = 0_u32;
        loop {
            let copies = probes.is_multiple_of(COPY_PROBES);
            let probed = timeout(STORE_TIME, self.probe(copies)).await;
            let error = match probed {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.chain()),
                Err(_) => Some(format!("no answer within {} s", STORE_TIME.as_secs())),
            };
            match error {
                None => {
                    probes = probes.wrapping_add(1);
                    if self.is_away.swap(false, Ordering::Relaxed) {
                        tracing::info!("the database answers again");
                    }
                }
                Some(error) => {
                    // The first copy after an outage is made at once.
                    probes = 0;
                    self.note_away(&error);
                }
            }
            sleep(PROBE).await;
        }
    }

    fn note_away(&self, error: &str) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error,
                "the database is away; the registry is read from the topic of schemas"
            );
        }
    }

    async fn probe(&self, copies: bool) -> Result<(), Error> {
        let mut db = self.store.acquire().await?;
        if !copies {
            sqlx::query("select 1").execute(&mut *db).await?;
            return Ok(());
        }
        let tokens = tokens::all(&mut db).await?;
        let subjects = schemas::subjects(&mut db, "", None).await?.into_iter();
        let subjects = subjects.map(|subject| (subject.name.clone(), subject));
        let subjects = subjects.collect();
        let mut settings = HashMap::new();
        for setting in [Setting::Compatibility, Setting::Mode] {
            if let Some(value) = schemas::setting(&mut db, setting).await? {
                settings.insert(setting, value);
            }
        }
        let rights = Rights {
            tokens,
            subjects,
            settings,
        };
        *self.rights.write().expect("no holder panics") = Some(Arc::new(rights));
        Ok(())
    }

    /// Follows the topic of schemas for ever. A reader that fails is replaced by one that begins
    /// anew; until its end what was known is answered.
    pub(crate) async fn follow(self: Arc<Self>, kafka: KafkaConfig, topic: String) {
        loop {
            let Err(error) = self.read(&kafka, &topic).await;
            let error = crate::error::chain(&error);
            tracing::warn!(topic, error, "schemas are not followed, trying again");
            sleep(PROBE).await;
        }
    }

    async fn read(
        &self,
        kafka: &KafkaConfig,
        topic: &str,
    ) -> Result<std::convert::Infallible, hutong_transport::Error> {
        let mut reader = CompactedReader::open(kafka, topic).await?;
        let mut fresh = Registered::default();
        loop {
            match reader.next().await? {
                Event::Record(message) if fresh.is_complete => {
                    let mut known = self.registered.write().expect("no holder panics");
                    Arc::make_mut(&mut known).take(&message);
                }
                Event::Record(message) => fresh.take(&message),
                Event::End if fresh.is_complete => {}
                Event::End => {
                    fresh.is_complete = true;
                    let complete = std::mem::take(&mut fresh);
                    *self.registered.write().expect("no holder panics") = Arc::new(complete);
                    fresh.is_complete = true;
                }
            }
        }
    }

    fn facts(&self) -> Result<Facts, Error> {
        let registered = Arc::clone(&self.registered.read().expect("no holder panics"));
        let rights = self.rights.read().expect("no holder panics").clone();
        match rights {
            Some(rights) if registered.is_complete => Ok(Facts {
                registered,
                rights,
                now_ms: crate::now_ms(),
            }),
            Some(_) | None => Err(Error::unavailable(
                "the control plane's database does not answer, and the topic of schemas has not been \
                 read yet; try again later",
            )),
        }
    }
}

impl Registry {
    /// Returns what a token allows; while the database is away, what it allowed before.
    pub(crate) async fn caller(&self, hash: &[u8; 32]) -> Result<Option<Caller>, Error> {
        match self.source().await? {
            Source::Store(mut db) => tokens::find(&mut db, hash).await,
            Source::Topic(facts) => Ok(facts.rights.tokens.get(&hash[..]).cloned()),
        }
    }

    /// Returns what a read is answered from: the database, unless it is away.
    pub(super) async fn source(&self) -> Result<Source, Error> {
        if !self.standby.is_away.load(Ordering::Relaxed) {
            match timeout(STORE_TIME, self.store.acquire()).await {
                Ok(Ok(db)) => return Ok(Source::Store(db)),
                Ok(Err(error)) if error.class() == Class::Transient => {
                    self.standby.note_away(&error.chain());
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => self.standby.note_away("no connection in time"),
            }
        }
        self.standby
            .facts()
            .map(|facts| Source::Topic(Box::new(facts)))
    }
}

impl Source {
    pub(super) async fn subject(&mut self, name: &str) -> Result<Option<Subject>, Error> {
        match self {
            Self::Store(db) => schemas::subject(db, name).await,
            Self::Topic(facts) => Ok(facts.subject(name)),
        }
    }

    pub(super) async fn subjects(
        &mut self,
        prefix: &str,
        reader: Option<&str>,
    ) -> Result<Vec<Subject>, Error> {
        match self {
            Self::Store(db) => schemas::subjects(db, prefix, reader).await,
            Self::Topic(facts) => Ok(facts.subjects(prefix, reader)),
        }
    }

    pub(super) async fn versions(&mut self, subject: &str) -> Result<Vec<Version>, Error> {
        match self {
            Self::Store(db) => schemas::versions(db, subject).await,
            Self::Topic(facts) => Ok(facts.versions(subject)),
        }
    }

    pub(super) async fn schema(&mut self, id: i32) -> Result<Option<SchemaText>, Error> {
        match self {
            Self::Store(db) => schemas::schema(db, id).await,
            Self::Topic(facts) => Ok(facts.schema(id)),
        }
    }

    pub(super) async fn uses(&mut self, id: i32) -> Result<Vec<Version>, Error> {
        match self {
            Self::Store(db) => schemas::uses(db, id).await,
            Self::Topic(facts) => Ok(facts.uses(id)),
        }
    }

    pub(super) async fn referenced_by(
        &mut self,
        subject: &str,
        version: i32,
    ) -> Result<Vec<i32>, Error> {
        match self {
            Self::Store(db) => schemas::referenced_by(db, subject, version).await,
            Self::Topic(facts) => Ok(facts.referenced_by(subject, version)),
        }
    }

    pub(super) async fn setting(&mut self, setting: Setting) -> Result<Option<String>, Error> {
        match self {
            Self::Store(db) => schemas::setting(db, setting).await,
            Self::Topic(facts) => Ok(facts.rights.settings.get(&setting).cloned()),
        }
    }
}

impl Facts {
    /// A subject that was not copied is not known: nobody could say whose it is.
    fn subject(&self, name: &str) -> Option<Subject> {
        let mut subject = self.rights.subjects.get(name)?.clone();
        let versions = self.registered.subjects.get(name);
        let mut versions = versions.into_iter().flat_map(BTreeMap::values).peekable();
        subject.has_versions = versions.peek().is_some();
        subject.live = versions.any(|(_, deleted)| !deleted);
        if subject.valid_until_ms.is_some_and(|end| end <= self.now_ms) {
            subject.subscriber = None;
        }
        Some(subject)
    }

    fn subjects(&self, prefix: &str, reader: Option<&str>) -> Vec<Subject> {
        let named = self.rights.subjects.keys();
        let named = named.filter(|name| name.starts_with(prefix));
        let found = named.filter_map(|name| self.subject(name));
        let reads = |subject: &Subject| {
            reader.is_none_or(|reader| {
                subject.owner == reader || subject.subscriber.as_deref() == Some(reader)
            })
        };
        let mut found: Vec<_> = found.filter(reads).collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    fn versions(&self, subject: &str) -> Vec<Version> {
        let versions = self.registered.subjects.get(subject);
        let versions = versions.into_iter().flatten();
        let known = versions
            .filter_map(|(version, (id, deleted))| self.version(subject, *version, *id, *deleted));
        known.collect()
    }

    fn version(&self, subject: &str, version: i32, id: i32, deleted: bool) -> Option<Version> {
        let schema = self.registered.schemas.get(&id)?;
        Some(Version {
            subject: subject.to_owned(),
            version,
            schema_id: id,
            deleted,
            text: schema.text.clone(),
            hash: schema.hash.to_vec(),
            references: Json(self.references(id)),
        })
    }

    fn references(&self, id: i32) -> Vec<SchemaReference> {
        let known = self.registered.references.get(&id);
        known.cloned().unwrap_or_default()
    }

    fn schema(&self, id: i32) -> Option<SchemaText> {
        let schema = self.registered.schemas.get(&id)?;
        Some(SchemaText {
            text: schema.text.clone(),
            references: Json(self.references(id)),
        })
    }

    fn uses(&self, id: i32) -> Vec<Version> {
        let mut found = Vec::new();
        for (subject, versions) in &self.registered.subjects {
            for (version, (used, deleted)) in versions {
                if *used == id {
                    found.extend(self.version(subject, *version, id, *deleted));
                }
            }
        }
        found
    }

    fn referenced_by(&self, subject: &str, version: i32) -> Vec<i32> {
        let refers = |references: &Vec<SchemaReference>| {
            references
                .iter()
                .any(|one| one.subject == subject && one.version == version)
        };
        let known = self.registered.references.iter();
        let found = known.filter(|(_, references)| refers(references));
        found.map(|(id, _)| *id).collect()
    }
}

impl Registered {
    fn take(&mut self, message: &Message) {
        if let Err(error) = self.try_take(message) {
            let error = crate::error::chain(&error);
            tracing::warn!(
                offset = message.offset,
                error,
                "a record of the topic of schemas is skipped"
            );
        }
    }

    fn try_take(&mut self, message: &Message) -> Result<(), hutong_transport::Error> {
        let key = String::from_utf8_lossy(message.key.as_deref().unwrap_or_default()).into_owned();
        let value = message.value.as_deref();
        match (key.split_once('/'), value) {
            (Some(("schema", _)), Some(value)) => {
                let record = SchemaRecord::decode(value)?;
                let known = SchemaKnown {
                    hash: hash_of(&record.schema),
                    text: record.schema,
                };
                self.schemas.insert(number(record.id), Arc::new(known));
            }
            (Some(("references", _)), Some(value)) => {
                let record = ReferencesRecord::decode(value)?;
                self.references.insert(number(record.id), record.references);
            }
            (Some(("subject", _)), Some(value)) => {
                let record = SubjectRecord::decode(value)?;
                let versions = self.subjects.entry(record.subject).or_default();
                versions.insert(record.version, (number(record.id), record.deleted));
            }
            (Some(("schema", id)), None) => {
                if let Ok(id) = id.parse() {
                    self.schemas.remove(&id);
                }
            }
            (Some(("references", id)), None) => {
                if let Ok(id) = id.parse() {
                    self.references.remove(&id);
                }
            }
            (Some(("subject", rest)), None) => {
                if let Some((subject, version)) = rest.rsplit_once('/')
                    && let Ok(version) = version.parse()
                    && let Some(versions) = self.subjects.get_mut(subject)
                {
                    versions.remove(&version);
                }
            }
            // Of a later release.
            (Some(_) | None, _) => {}
        }
        Ok(())
    }
}

fn number(id: u32) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}
