//! Deleting versions, softly and for good.
//!
//! A version that is deleted softly is not listed and does not bind later ones; its id is still
//! answered, because records carry it. For good goes only what was deleted softly before, what no
//! other schema refers to, and what no topic uses: while a topic of the subject's name exists, or a
//! table was announced with the id, any record may carry it. The number of a version and an id are
//! never used for something else, even then.

use std::sync::Arc;

use hutong_transport::admin::Admin;
use sqlx::PgConnection;

use super::reading::{parse_version, version_not_found};
use super::{Registry, modes, refusal, subject_not_found};
use crate::caller::Caller;
use crate::error::Error;
use crate::live::Live;
use crate::store::schemas::{self, Subject, Version};

/// What tells whether an id is in use: Kafka, and the tables that were announced.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    /// Asks Kafka for topics.
    pub(crate) admin: Arc<Admin>,
    /// Knows the captured tables.
    pub(crate) live: Arc<Live>,
}

impl Registry {
    /// Deletes all versions of a subject and returns them: softly, or those that were deleted softly
    /// for good.
    pub(crate) async fn delete_subject(
        &self,
        caller: &Caller,
        subject: &str,
        permanent: Option<&Users>,
    ) -> Result<Vec<i32>, Error> {
        let mut tx = self.store.begin().await?;
        let found = self.deletable(&mut tx, caller, subject).await?;
        let versions = schemas::versions(&mut tx, subject).await?;
        match (permanent, found.live) {
            (None, false) => {
                return Err(refusal(
                    40404,
                    format!(
                        "Subject '{subject}' was soft deleted. Set permanent=true to delete permanently"
                    ),
                ));
            }
            (Some(_), true) => {
                return Err(refusal(
                    40405,
                    format!(
                        "Subject '{subject}' was not deleted first before being permanently deleted"
                    ),
                ));
            }
            (None, true) | (Some(_), false) => {}
        }
        let mut deleted = Vec::new();
        for version in versions {
            if permanent.is_none() && version.deleted {
                continue;
            }
            self.delete(&mut tx, &found, &version, permanent).await?;
            deleted.push(version.version);
        }
        tx.commit().await?;
        Ok(deleted)
    }

    /// Deletes a version of a subject, softly, or for good if it was deleted softly.
    pub(crate) async fn delete_version(
        &self,
        caller: &Caller,
        subject: &str,
        wanted: &str,
        permanent: Option<&Users>,
    ) -> Result<i32, Error> {
        let wanted = parse_version(wanted)?;
        let mut tx = self.store.begin().await?;
        let found = self.deletable(&mut tx, caller, subject).await?;
        let mut versions = schemas::versions(&mut tx, subject).await?;
        if wanted.is_none() && permanent.is_none() {
            versions.retain(|version| !version.deleted);
        }
        let version = match wanted {
            None => versions.pop().ok_or_else(|| subject_not_found(subject))?,
            Some(wanted) => versions
                .into_iter()
                .find(|version| version.version == wanted)
                .ok_or_else(|| version_not_found(wanted))?,
        };
        let number = version.version;
        match (permanent, version.deleted) {
            (None, true) => {
                return Err(refusal(
                    40406,
                    format!(
                        "Subject '{subject}' Version {number} was soft deleted. Set permanent=true to \
                         delete permanently"
                    ),
                ));
            }
            (Some(_), false) => {
                return Err(refusal(
                    40407,
                    format!(
                        "Subject '{subject}' Version {number} was not deleted first before being \
                         permanently deleted"
                    ),
                ));
            }
            (None, false) | (Some(_), true) => {}
        }
        self.delete(&mut tx, &found, &version, permanent).await?;
        tx.commit().await?;
        Ok(number)
    }

    async fn deletable(
        &self,
        db: &mut PgConnection,
        caller: &Caller,
        subject: &str,
    ) -> Result<Subject, Error> {
        let found = self.writable(db, caller, subject).await?;
        modes::refuse_read_only(db, subject).await?;
        schemas::lock_subject(db, subject, &found.owner, None).await?;
        // Another deletion may have come first.
        let found = schemas::subject(db, subject).await?;
        found.ok_or_else(|| subject_not_found(subject))
    }

    async fn delete(
        &self,
        db: &mut PgConnection,
        subject: &Subject,
        version: &Version,
        permanent: Option<&Users>,
    ) -> Result<(), Error> {
        let (name, number) = (&version.subject, version.version);
        if !schemas::referenced_by(db, name, number).await?.is_empty() {
            return Err(refusal(
                42206,
                format!(
                    "One or more references exist to the schema \
                     {{magic=1,keytype=SCHEMA,subject={name},version={number}}}."
                ),
            ));
        }
        let Some(users) = permanent else {
            return schemas::delete_version(db, &self.cluster, &subject.owner, version).await;
        };
        if let Some(topic) = users.of(version).await? {
            return Err(refusal(
                42205,
                format!(
                    "schema {} cannot be deleted permanently: records of topic {topic} may carry it",
                    version.schema_id
                ),
            ));
        }
        schemas::purge_version(db, &self.cluster, &subject.owner, version).await
    }
}

impl Users {
    /// Returns a topic whose records may carry a version's id.
    async fn of(&self, version: &Version) -> Result<Option<String>, Error> {
        let id = version.schema_id.unsigned_abs();
        let uses = |table: &hutong_transport::record::TableRecord| {
            table.value_schema_id == id || table.key_schema_id == Some(id)
        };
        let tables = self.live.tables().into_iter();
        if let Some(used) = tables.map(|captured| captured.record).find(uses) {
            return Ok(Some(used.topic));
        }
        let subject = &version.subject;
        let topic = subject
            .strip_suffix("-value")
            .or_else(|| subject.strip_suffix("-key"))
            .unwrap_or(subject);
        let exists = self.admin.topic(topic).await?.is_some();
        Ok(exists.then(|| topic.to_owned()))
    }
}
