//! The schema registry: Avro schemas under subjects, as Confluent's clients know it.
//!
//! What differs from Confluent's, and why:
//! - Nothing is ever deleted for good, because an id may stand in any record of any topic.
//! - Whatever a caller may not see does not exist for it: a subscriber finds the subjects of its own
//!   views, a provider those under its own topic prefixes, and the ids that these use.
//! - Subjects of views are written by the platform alone, through [`register`].
//! - References between schemas are refused: no schema of ours has one.

use hutong_schemas::compatibility::{self, Level};
use hutong_transport::names::Cluster;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::schemas::{self, Subject, Version};
use crate::store::{Store, connectors};

/// The level where none was set, Confluent's default.
const DEFAULT_LEVEL: Level = Level::Backward;

/// A posted schema.
#[derive(Clone, Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Posted {
    /// The Avro schema, as JSON in a text.
    pub(crate) schema: String,
    /// `AVRO`, which is the default.
    pub(crate) schema_type: Option<String>,
    /// Must be empty.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub(crate) references: Vec<serde_json::Value>,
}

/// What a schema is registered for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct For<'a> {
    /// The subject.
    pub(crate) subject: &'a str,
    /// Whose it is, if it is new.
    pub(crate) owner: &'a str,
    /// The view that it belongs to.
    pub(crate) view: Option<&'a str>,
}

/// The registry.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
}

impl Registry {
    /// Lists the subjects that a caller may see.
    pub(crate) async fn subjects(
        &self,
        caller: &Caller,
        prefix: &str,
        deleted: bool,
    ) -> Result<Vec<String>, Error> {
        let mut db = self.store.acquire().await?;
        let subjects = schemas::subjects(&mut db, prefix, caller.limit()).await?;
        let shown = subjects
            .into_iter()
            .filter(|subject| subject.live || deleted);
        Ok(shown.map(|subject| subject.name).collect())
    }

    /// Returns the versions of a subject, oldest first; at least one.
    pub(crate) async fn versions(
        &self,
        caller: &Caller,
        subject: &str,
        deleted: bool,
    ) -> Result<Vec<Version>, Error> {
        let mut db = self.store.acquire().await?;
        visible(&mut db, caller, subject, deleted).await?;
        let mut versions = schemas::versions(&mut db, subject).await?;
        versions.retain(|version| !version.deleted || deleted);
        Ok(versions)
    }

    /// Returns one version of a subject, given as a number or `latest`.
    pub(crate) async fn version(
        &self,
        caller: &Caller,
        subject: &str,
        wanted: &str,
        deleted: bool,
    ) -> Result<Version, Error> {
        let wanted = parse_version(wanted)?;
        let mut versions = self.versions(caller, subject, deleted).await?;
        match wanted {
            None => versions.pop().ok_or_else(|| subject_not_found(subject)),
            Some(wanted) => versions
                .into_iter()
                .find(|version| version.version == wanted)
                .ok_or_else(|| refusal(40402, format!("Version {wanted} not found."))),
        }
    }

    /// Registers a schema under a subject and returns its id. Durable when it returns.
    pub(crate) async fn register(
        &self,
        caller: &Caller,
        subject: &str,
        posted: &Posted,
    ) -> Result<i32, Error> {
        caller.require(Role::Operator)?;
        let mut tx = self.store.begin().await?;
        let owner = self.owner_of(&mut tx, caller, subject).await?;
        let schema = Schema::read(posted)?;
        let wanted = For {
            subject,
            owner: &owner,
            view: None,
        };
        let id = register(&mut tx, &self.cluster, wanted, &schema).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Finds the version of a subject that has a schema.
    pub(crate) async fn lookup(
        &self,
        caller: &Caller,
        subject: &str,
        posted: &Posted,
        deleted: bool,
    ) -> Result<Version, Error> {
        let schema = Schema::read(posted)?;
        let versions = self.versions(caller, subject, deleted).await?;
        versions
            .into_iter()
            .rev()
            .find(|version| version.hash == schema.hash)
            .ok_or_else(|| refusal(40403, "Schema not found"))
    }

    /// Deletes all versions of a subject, softly, and returns them.
    pub(crate) async fn delete_subject(
        &self,
        caller: &Caller,
        subject: &str,
    ) -> Result<Vec<i32>, Error> {
        let mut tx = self.store.begin().await?;
        let found = self.writable(&mut tx, caller, subject).await?;
        if !found.live {
            return Err(refusal(
                40404,
                format!(
                    "Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
                ),
            ));
        }
        schemas::lock_subject(&mut tx, subject, &found.owner, None).await?;
        let mut deleted = Vec::new();
        for version in schemas::versions(&mut tx, subject).await? {
            if !version.deleted {
                schemas::delete_version(&mut tx, &self.cluster, &found.owner, &version).await?;
                deleted.push(version.version);
            }
        }
        tx.commit().await?;
        Ok(deleted)
    }

    /// Deletes a version of a subject, softly.
    pub(crate) async fn delete_version(
        &self,
        caller: &Caller,
        subject: &str,
        wanted: &str,
    ) -> Result<i32, Error> {
        let mut tx = self.store.begin().await?;
        let found = self.writable(&mut tx, caller, subject).await?;
        let version = self.version(caller, subject, wanted, false).await?;
        schemas::lock_subject(&mut tx, subject, &found.owner, None).await?;
        schemas::delete_version(&mut tx, &self.cluster, &found.owner, &version).await?;
        tx.commit().await?;
        Ok(version.version)
    }

    /// Returns a schema by its id.
    pub(crate) async fn schema(&self, caller: &Caller, id: &str) -> Result<String, Error> {
        let not_found = || refusal(40403, format!("Schema {id} not found"));
        let number: i32 = id.parse().map_err(|_| not_found())?;
        let mut db = self.store.acquire().await?;
        if !caller.is_platform() && uses(&mut db, caller, number).await?.is_empty() {
            return Err(not_found());
        }
        let text = schemas::schema(&mut db, number).await?;
        text.ok_or_else(not_found)
    }

    /// Returns where a schema is used.
    pub(crate) async fn uses(
        &self,
        caller: &Caller,
        id: &str,
        deleted: bool,
    ) -> Result<Vec<Version>, Error> {
        self.schema(caller, id).await?;
        let number = id.parse().unwrap_or_default();
        let mut db = self.store.acquire().await?;
        let mut found = uses(&mut db, caller, number).await?;
        found.retain(|version| !version.deleted || deleted);
        Ok(found)
    }

    /// Returns why a schema could not be registered under a subject; empty if it could.
    pub(crate) async fn check(
        &self,
        caller: &Caller,
        subject: &str,
        against: Option<&str>,
        posted: &Posted,
    ) -> Result<Vec<String>, Error> {
        let schema = Schema::read(posted)?;
        let wanted = against.map(parse_version).transpose()?;
        let mut db = self.store.acquire().await?;
        let known = schemas::subject(&mut db, subject).await?;
        let known = known.filter(|known| may_see(caller, known));
        let own = known.as_ref().and_then(|known| known.compatibility.clone());
        let level = level(&mut db, own.as_deref()).await?;
        let mut versions = match known {
            Some(_) => schemas::versions(&mut db, subject).await?,
            None => Vec::new(),
        };
        versions.retain(|version| !version.deleted);
        match wanted {
            None => {}
            Some(None) => versions = versions.pop().into_iter().collect(),
            Some(Some(number)) => {
                versions.retain(|version| version.version == number);
                if versions.is_empty() {
                    return Err(refusal(40402, format!("Version {number} not found.")));
                }
            }
        }
        incompatibilities(level, schema.text, &versions)
    }

    /// Returns the compatibility level of a subject, or of all that have none of their own.
    pub(crate) async fn compatibility(
        &self,
        caller: &Caller,
        subject: Option<&str>,
        default_to_global: bool,
    ) -> Result<Level, Error> {
        let mut db = self.store.acquire().await?;
        let Some(subject) = subject else {
            return level(&mut db, None).await;
        };
        let known = schemas::subject(&mut db, subject).await?;
        let known = known.filter(|known| may_see(caller, known));
        let own = known.and_then(|known| known.compatibility);
        if own.is_none() && !default_to_global {
            return Err(no_own_compatibility(subject));
        }
        level(&mut db, own.as_deref()).await
    }

    /// Sets the compatibility level of a subject, or of all that have none of their own.
    pub(crate) async fn set_compatibility(
        &self,
        caller: &Caller,
        subject: Option<&str>,
        text: &str,
    ) -> Result<Level, Error> {
        let level: Level = text.to_ascii_uppercase().parse().map_err(|_| {
            refusal(
                42203,
                "Invalid compatibility level. Valid values are none, backward, forward, full, \
                 backward_transitive, forward_transitive, and full_transitive",
            )
        })?;
        let mut tx = self.store.begin().await?;
        match subject {
            None => {
                caller.require_platform(Role::Admin)?;
                schemas::set_global_compatibility(&mut tx, Some(level.as_str())).await?;
            }
            Some(subject) => {
                caller.require(Role::Operator)?;
                let owner = self.owner_of(&mut tx, caller, subject).await?;
                schemas::lock_subject(&mut tx, subject, &owner, None).await?;
                schemas::set_compatibility(&mut tx, subject, Some(level.as_str())).await?;
            }
        }
        tx.commit().await?;
        Ok(level)
    }

    /// Removes a level that was set and returns it.
    pub(crate) async fn unset_compatibility(
        &self,
        caller: &Caller,
        subject: Option<&str>,
    ) -> Result<Level, Error> {
        let before = self.compatibility(caller, subject, false).await?;
        let mut tx = self.store.begin().await?;
        match subject {
            None => {
                caller.require_platform(Role::Admin)?;
                schemas::set_global_compatibility(&mut tx, None).await?;
            }
            Some(subject) => {
                self.writable(&mut tx, caller, subject).await?;
                schemas::set_compatibility(&mut tx, subject, None).await?;
            }
        }
        tx.commit().await?;
        Ok(before)
    }

    /// Returns a subject that the caller may change.
    async fn writable(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        subject: &str,
    ) -> Result<Subject, Error> {
        caller.require(Role::Operator)?;
        let mut found = visible(db, caller, subject, true).await?;
        found.owner = self.owner_of(db, caller, subject).await?;
        Ok(found)
    }

    /// Returns whose a subject is or would be, if the caller may write it.
    async fn owner_of(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        subject: &str,
    ) -> Result<String, Error> {
        if subject.starts_with(&format!("{}.", self.cluster)) {
            return Err(Error::forbidden(format!(
                "subject {subject} is the platform's own: views register their schemas by themselves"
            )));
        }
        // The prefix decides first: whoever was there before the connector must not own its subjects.
        let prefix = connectors::prefix_of_topic(db, subject).await?;
        let owner = match prefix {
            Some(prefix) => Some(prefix.owner),
            None => schemas::subject(db, subject)
                .await?
                .map(|known| known.owner),
        };
        match owner {
            Some(owner) if caller.sees(&owner) => Ok(owner),
            None if caller.is_platform() => Ok(caller.owner.clone()),
            // The same words for what others have and for what nobody has.
            Some(_) | None => Err(Error::forbidden(format!(
                "subject {subject} is under no topic.prefix of your organisation"
            ))),
        }
    }
}

/// Registers a schema within a transaction and returns its id.
///
/// # Errors
///
/// `409` if it is incompatible with the subject's earlier ones.
pub(crate) async fn register(
    db: &mut PgConnection,
    cluster: &Cluster,
    wanted: For<'_>,
    schema: &Schema<'_>,
) -> Result<i32, Error> {
    let For {
        subject,
        owner,
        view,
    } = wanted;
    schemas::lock_subject(db, subject, owner, view).await?;
    let versions = schemas::versions(db, subject).await?;
    let highest = versions
        .iter()
        .map(|version| version.version)
        .max()
        .unwrap_or(0);
    let live: Vec<_> = versions
        .into_iter()
        .filter(|version| !version.deleted)
        .collect();
    if let Some(same) = live.iter().find(|version| version.hash == schema.hash) {
        return Ok(same.schema_id);
    }
    let own = schemas::subject(db, subject)
        .await?
        .and_then(|subject| subject.compatibility);
    let level = level(db, own.as_deref()).await?;
    let messages = incompatibilities(level, schema.text, &live)?;
    if !messages.is_empty() {
        return Err(refusal(
            409,
            format!(
                "Schema being registered is incompatible with an earlier schema for subject \
                 \"{subject}\", details: [{}, {{compatibility: '{level}'}}]",
                messages.join(", ")
            ),
        ));
    }
    let id = schemas::issue_id(db, cluster, owner, &schema.hash, schema.text).await?;
    schemas::add_version(db, cluster, owner, subject, highest + 1, id).await?;
    Ok(id)
}

/// A posted schema that is one.
pub(crate) struct Schema<'a> {
    /// As it was posted.
    text: &'a str,
    /// Of its canonical form, by which schemas are compared.
    hash: schemas::Hash,
}

impl<'a> Schema<'a> {
    fn read(posted: &'a Posted) -> Result<Self, Error> {
        let kind = posted.schema_type.as_deref().unwrap_or("AVRO");
        if !kind.eq_ignore_ascii_case("AVRO") {
            let message = format!("Invalid schema type {kind}: only AVRO is supported");
            return Err(refusal(42201, message));
        }
        if !posted.references.is_empty() {
            let message = "Invalid schema: references to other subjects are not supported";
            return Err(refusal(42201, message));
        }
        let canonical = compatibility::canonical(&posted.schema).map_err(|error| {
            let details = crate::error::chain(&error);
            refusal(
                42201,
                format!("Invalid schema of type AVRO, details: {details}"),
            )
        })?;
        Ok(Self {
            text: &posted.schema,
            hash: hash(&canonical),
        })
    }
}

/// Returns the hash of a schema that is in use and so is one.
pub(crate) fn hash_of(schema: &str) -> schemas::Hash {
    hash(&compatibility::canonical(schema).unwrap_or_else(|_| schema.to_owned()))
}

fn hash(canonical: &str) -> schemas::Hash {
    Sha256::digest(canonical.as_bytes()).into()
}

fn incompatibilities(
    level: Level,
    schema: &str,
    versions: &[Version],
) -> Result<Vec<String>, Error> {
    let existing: Vec<_> = versions
        .iter()
        .map(|version| version.text.as_str())
        .collect();
    compatibility::check(level, schema, &existing).map_err(|error| {
        refusal(
            42201,
            format!("Invalid schema, details: {}", crate::error::chain(&error)),
        )
    })
}

async fn level(db: &mut PgConnection, own: Option<&str>) -> Result<Level, Error> {
    let stored = match own {
        Some(own) => Some(own.to_owned()),
        None => schemas::global_compatibility(db).await?,
    };
    let parsed = stored.and_then(|stored| stored.parse().ok());
    Ok(parsed.unwrap_or(DEFAULT_LEVEL))
}

async fn visible(
    db: &mut PgConnection,
    caller: &Caller,
    subject: &str,
    deleted: bool,
) -> Result<Subject, Error> {
    schemas::subject(db, subject)
        .await?
        .filter(|found| may_see(caller, found) && (found.live || deleted))
        .ok_or_else(|| subject_not_found(subject))
}

fn may_see(caller: &Caller, subject: &Subject) -> bool {
    caller.sees(&subject.owner) || subject.subscriber.as_deref() == Some(caller.owner.as_str())
}

async fn uses(db: &mut PgConnection, caller: &Caller, id: i32) -> Result<Vec<Version>, Error> {
    let mut found = Vec::new();
    for version in schemas::uses(db, id).await? {
        let subject = schemas::subject(db, &version.subject).await?;
        if subject.is_some_and(|subject| may_see(caller, &subject)) {
            found.push(version);
        }
    }
    Ok(found)
}

/// Reads `latest` (or `-1`, as Confluent's does) as `None`.
fn parse_version(text: &str) -> Result<Option<i32>, Error> {
    if text == "latest" || text == "-1" {
        return Ok(None);
    }
    match text.parse() {
        Ok(number) if number >= 1 => Ok(Some(number)),
        _ => Err(refusal(
            42202,
            format!(
                "The specified version '{text}' is not a valid version id. Allowed values are \
                 between [1, 2^31-1] and the string \"latest\""
            ),
        )),
    }
}

pub(crate) fn refusal(code: u32, message: impl Into<String>) -> Error {
    Error::Registry {
        code,
        message: message.into(),
    }
}

fn subject_not_found(subject: &str) -> Error {
    refusal(40401, format!("Subject '{subject}' not found."))
}

fn no_own_compatibility(subject: &str) -> Error {
    refusal(
        40408,
        format!("Subject '{subject}' does not have subject-level compatibility configured"),
    )
}

/// Registers a schema of ours within a transaction and returns its id.
pub(crate) async fn register_text(
    db: &mut PgConnection,
    cluster: &Cluster,
    wanted: For<'_>,
    schema: &str,
) -> Result<i32, Error> {
    let posted = Posted {
        schema: schema.to_owned(),
        schema_type: None,
        references: Vec::new(),
    };
    register(db, cluster, wanted, &Schema::read(&posted)?).await
}
