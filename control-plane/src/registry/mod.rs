//! The schema registry: Avro schemas under subjects, as Confluent's clients know it.
//!
//! What differs from Confluent's, and why:
//! - A schema that records of a topic may carry is never deleted for good: see [`deleting`](self).
//! - Whatever a caller may not see does not exist for it: a subscriber finds the subjects of its own
//!   views, a provider those under its own topic prefixes, and the ids that these use.
//! - Subjects of views are written by the platform alone, through [`register`]; modes do not hold the
//!   platform back there.
//! - Schemas are compared in their canonical form always; `normalize` only says in which form one is
//!   kept.
//! - While the database is away, reads are answered from `<cluster>.schemas`: see [`standby`].
//!
//! Reading order: this file (registering), `reading`, `references`, `levels`, `modes`, `deleting`,
//! `standby`.

use hutong_schemas::compatibility;
use hutong_transport::names::Cluster;
use hutong_transport::record::SchemaReference;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::schemas::{self, NewSchema, Subject};
use crate::store::{Store, connectors};

mod deleting;
mod levels;
mod modes;
mod reading;
mod references;
pub(crate) mod standby;

pub(crate) use deleting::Users;
pub(crate) use modes::Mode;
pub(crate) use reading::Shown;

use levels::{incompatibilities, level};
use standby::Standby;

/// A posted schema.
#[derive(Clone, Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Posted {
    /// The Avro schema, as JSON in a text.
    pub(crate) schema: String,
    /// `AVRO`, which is the default.
    pub(crate) schema_type: Option<String>,
    /// Versions of other subjects that define names which the schema uses.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub(crate) references: Vec<SchemaReference>,
    /// In mode IMPORT: the id that the schema has elsewhere.
    pub(crate) id: Option<i32>,
    /// In mode IMPORT: the version that it has there.
    pub(crate) version: Option<i32>,
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
    pub(crate) standby: std::sync::Arc<Standby>,
}

impl Registry {
    /// Registers a schema under a subject and returns its id. Durable when it returns.
    pub(crate) async fn register(
        &self,
        caller: &Caller,
        subject: &str,
        posted: &Posted,
        normalize: bool,
    ) -> Result<i32, Error> {
        caller.require(Role::Operator)?;
        let mut tx = self.store.begin().await?;
        let owner = self.owner_of(&mut tx, caller, subject).await?;
        let schema = self.read(&mut tx, caller, posted, normalize).await?;
        let wanted = For {
            subject,
            owner: &owner,
            view: None,
        };
        let id = match modes::check(&mut tx, subject, posted).await? {
            modes::Registering::Next => register(&mut tx, &self.cluster, wanted, &schema).await?,
            modes::Registering::Import(id) => {
                self.import(&mut tx, wanted, &schema, id, posted.version)
                    .await?
            }
        };
        tx.commit().await?;
        Ok(id)
    }

    /// Registers a schema under the id, and the version if one is given, that it has elsewhere.
    async fn import(
        &self,
        db: &mut PgConnection,
        wanted: For<'_>,
        schema: &Schema,
        id: i32,
        version: Option<i32>,
    ) -> Result<i32, Error> {
        let For { subject, owner, .. } = wanted;
        schemas::lock_subject(db, subject, owner, None).await?;
        let new = schema.owned_by(owner);
        if !schemas::import(db, &self.cluster, id, &new).await? {
            let message = format!("Overwrite new schema with id {id} is not permitted.");
            return Err(refusal(42205, message));
        }
        let versions = schemas::versions(db, subject).await?;
        if let Some(same) = versions.iter().find(|v| v.schema_id == id && !v.deleted) {
            return if version.is_none_or(|version| version == same.version) {
                Ok(id)
            } else {
                let message = format!(
                    "Schema {id} is version {} of {subject} already",
                    same.version
                );
                Err(refusal(42205, message))
            };
        }
        let version = match version {
            Some(version) => version,
            None => schemas::next_version(db, subject).await?,
        };
        if version < 1 || versions.iter().any(|known| known.version == version) {
            let message =
                format!("Version {version} of {subject} cannot be imported: it exists already");
            return Err(refusal(42205, message));
        }
        schemas::add_version(db, &self.cluster, owner, subject, version, id).await?;
        Ok(id)
    }

    /// Reads a posted schema with what it refers to.
    async fn read(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        posted: &Posted,
        normalize: bool,
    ) -> Result<Schema, Error> {
        let found = references::resolve(db, caller, &posted.references).await?;
        Schema::read(posted, &found, normalize)
    }

    /// Returns a subject that the caller may change.
    async fn writable(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        subject: &str,
    ) -> Result<Subject, Error> {
        caller.require(Role::Operator)?;
        let found = schemas::subject(db, subject).await?;
        let found = found.filter(|found| reading::may_see(caller, found));
        let mut found = found.ok_or_else(|| subject_not_found(subject))?;
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
    schema: &Schema,
) -> Result<i32, Error> {
    let For {
        subject,
        owner,
        view,
    } = wanted;
    schemas::lock_subject(db, subject, owner, view).await?;
    let versions = schemas::versions(db, subject).await?;
    let next = schemas::next_version(db, subject).await?;
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
    let earlier = references::complete(db, &live).await?;
    let messages = incompatibilities(level, &schema.complete, &earlier)?;
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
    let id = schemas::issue_id(db, cluster, &schema.owned_by(owner)).await?;
    schemas::add_version(db, cluster, owner, subject, next, id).await?;
    Ok(id)
}

/// A posted schema that is one.
#[derive(Debug)]
pub(crate) struct Schema {
    /// As it is kept.
    text: String,
    /// The same with the definitions of the names that it refers to.
    complete: String,
    /// What it refers to.
    references: Vec<SchemaReference>,
    /// Of its canonical form and references, by which schemas are compared.
    hash: schemas::Hash,
}

impl Schema {
    fn read(
        posted: &Posted,
        found: &[references::Definition],
        normalize: bool,
    ) -> Result<Self, Error> {
        let kind = posted.schema_type.as_deref().unwrap_or("AVRO");
        if !kind.eq_ignore_ascii_case("AVRO") {
            let message = format!("Invalid schema type {kind}: only AVRO is supported");
            return Err(refusal(42201, message));
        }
        let invalid = |details: String| {
            refusal(
                42201,
                format!("Invalid schema of type AVRO, details: {details}"),
            )
        };
        let complete = references::inline(&posted.schema, found).map_err(invalid)?;
        let canonical = compatibility::canonical(&complete)
            .map_err(|error| invalid(crate::error::chain(&error)))?;
        let is_complete = posted.references.is_empty();
        Ok(Self {
            text: if normalize && is_complete {
                canonical.clone()
            } else {
                posted.schema.clone()
            },
            complete,
            references: posted.references.clone(),
            hash: hash(&canonical, &posted.references),
        })
    }

    fn owned_by<'a>(&'a self, owner: &'a str) -> NewSchema<'a> {
        NewSchema {
            owner,
            hash: &self.hash,
            text: &self.text,
            references: &self.references,
        }
    }
}

/// Returns the hash of a schema that is in use and so is one.
pub(crate) fn hash_of(schema: &str) -> schemas::Hash {
    let canonical = compatibility::canonical(schema);
    hash(&canonical.unwrap_or_else(|_| schema.to_owned()), &[])
}

/// The same text that refers to other definitions is another schema.
fn hash(canonical: &str, references: &[SchemaReference]) -> schemas::Hash {
    let mut digest = Sha256::new();
    digest.update(canonical.as_bytes());
    for reference in references {
        digest.update(format!(
            "\0{}\0{}\0{}",
            reference.name, reference.subject, reference.version
        ));
    }
    digest.finalize().into()
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
        id: None,
        version: None,
    };
    register(db, cluster, wanted, &Schema::read(&posted, &[], false)?).await
}
