//! What is registered, for who may see it.

use std::collections::HashSet;

use super::references::{self, Definition};
use super::standby::Source;
use super::{Posted, Registry, Schema, refusal, subject_not_found};
use crate::caller::Caller;
use crate::error::Error;
use crate::store::schemas::{SchemaText, Subject, Version};

/// Which versions are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Those that are not deleted.
    Live,
    /// Those that were deleted softly, too.
    All,
    /// Those that were deleted softly.
    Deleted,
}

impl Shown {
    fn shows(self, deleted: bool) -> bool {
        match self {
            Self::Live => !deleted,
            Self::All => true,
            Self::Deleted => deleted,
        }
    }
}

/// A schema by its id.
pub(crate) type Found = SchemaText;

impl Registry {
    /// Lists the subjects that a caller may see.
    pub(crate) async fn subjects(
        &self,
        caller: &Caller,
        prefix: &str,
        shown: Shown,
    ) -> Result<Vec<String>, Error> {
        let mut source = self.source().await?;
        let subjects = source.subjects(prefix, caller.limit()).await?;
        let shown = subjects
            .into_iter()
            .filter(|subject| subject.has_versions && shown.shows(!subject.live));
        Ok(shown.map(|subject| subject.name).collect())
    }

    /// Returns the versions of a subject, oldest first; at least one.
    pub(crate) async fn versions(
        &self,
        caller: &Caller,
        subject: &str,
        shown: Shown,
    ) -> Result<Vec<Version>, Error> {
        versions(&mut self.source().await?, caller, subject, shown).await
    }

    /// Returns one version of a subject, given as a number or `latest`.
    pub(crate) async fn version(
        &self,
        caller: &Caller,
        subject: &str,
        wanted: &str,
        shown: Shown,
    ) -> Result<Version, Error> {
        version(&mut self.source().await?, caller, subject, wanted, shown).await
    }

    /// Finds the version of a subject that has a schema.
    pub(crate) async fn lookup(
        &self,
        caller: &Caller,
        subject: &str,
        posted: &Posted,
        shown: Shown,
    ) -> Result<Version, Error> {
        let mut source = self.source().await?;
        let found = definitions(&mut source, caller, posted).await?;
        let schema = Schema::read(posted, &found, false)?;
        let versions = versions(&mut source, caller, subject, shown).await?;
        versions
            .into_iter()
            .rev()
            .find(|version| version.hash == schema.hash)
            .ok_or_else(|| refusal(40403, "Schema not found"))
    }

    /// Returns a schema by its id.
    pub(crate) async fn schema(&self, caller: &Caller, id: &str) -> Result<Found, Error> {
        schema(&mut self.source().await?, caller, id).await
    }

    /// Returns where a schema is used.
    pub(crate) async fn uses(
        &self,
        caller: &Caller,
        id: &str,
        shown: Shown,
    ) -> Result<Vec<Version>, Error> {
        let mut source = self.source().await?;
        schema(&mut source, caller, id).await?;
        let number = id.parse().unwrap_or_default();
        let mut found = uses(&mut source, caller, number).await?;
        found.retain(|version| shown.shows(version.deleted));
        Ok(found)
    }

    /// Returns the ids of the schemas that refer to a version of a subject, as far as the caller may
    /// see them.
    pub(crate) async fn referenced_by(
        &self,
        caller: &Caller,
        subject: &str,
        wanted: &str,
    ) -> Result<Vec<i32>, Error> {
        let mut source = self.source().await?;
        let version = version(&mut source, caller, subject, wanted, Shown::All).await?;
        let mut visible = Vec::new();
        for id in source.referenced_by(subject, version.version).await? {
            let used = uses(&mut source, caller, id).await?;
            if used.iter().any(|version| !version.deleted) {
                visible.push(id);
            }
        }
        Ok(visible)
    }
}

pub(super) async fn versions(
    source: &mut Source,
    caller: &Caller,
    subject: &str,
    shown: Shown,
) -> Result<Vec<Version>, Error> {
    visible(source, caller, subject, shown).await?;
    let mut versions = source.versions(subject).await?;
    versions.retain(|version| shown.shows(version.deleted));
    if versions.is_empty() {
        return Err(subject_not_found(subject));
    }
    Ok(versions)
}

pub(super) async fn version(
    source: &mut Source,
    caller: &Caller,
    subject: &str,
    wanted: &str,
    shown: Shown,
) -> Result<Version, Error> {
    let wanted = parse_version(wanted)?;
    let mut versions = versions(source, caller, subject, shown).await?;
    match wanted {
        None => versions.pop().ok_or_else(|| subject_not_found(subject)),
        Some(wanted) => versions
            .into_iter()
            .find(|version| version.version == wanted)
            .ok_or_else(|| version_not_found(wanted)),
    }
}

pub(super) fn version_not_found(version: i32) -> Error {
    refusal(40402, format!("Version {version} not found."))
}

async fn schema(source: &mut Source, caller: &Caller, id: &str) -> Result<Found, Error> {
    let not_found = || refusal(40403, format!("Schema {id} not found"));
    let number: i32 = id.parse().map_err(|_| not_found())?;
    if !caller.is_platform() && uses(source, caller, number).await?.is_empty() {
        return Err(not_found());
    }
    let found = source.schema(number).await?;
    found.ok_or_else(not_found)
}

/// Finds what a posted schema refers to.
pub(super) async fn definitions(
    source: &mut Source,
    caller: &Caller,
    posted: &Posted,
) -> Result<Vec<Definition>, Error> {
    match source {
        Source::Store(db) => references::resolve(db, caller, &posted.references).await,
        Source::Topic(_) if posted.references.is_empty() => Ok(Vec::new()),
        Source::Topic(_) => Err(Error::unavailable(
            "references are not looked up while the control plane's database is away",
        )),
    }
}

pub(super) async fn visible(
    source: &mut Source,
    caller: &Caller,
    subject: &str,
    shown: Shown,
) -> Result<Subject, Error> {
    source
        .subject(subject)
        .await?
        .filter(|found| may_see(caller, found) && (found.live || shown != Shown::Live))
        .ok_or_else(|| subject_not_found(subject))
}

pub(super) fn may_see(caller: &Caller, subject: &Subject) -> bool {
    caller.sees(&subject.owner) || subject.subscriber.as_deref() == Some(caller.owner.as_str())
}

async fn uses(source: &mut Source, caller: &Caller, id: i32) -> Result<Vec<Version>, Error> {
    let mut found = source.uses(id).await?;
    let mut seen = HashSet::new();
    for version in &found {
        let subject = source.subject(&version.subject).await?;
        if subject.is_some_and(|subject| may_see(caller, &subject)) {
            seen.insert(version.subject.clone());
        }
    }
    found.retain(|version| seen.contains(&version.subject));
    Ok(found)
}

/// Reads `latest` (or `-1`, as Confluent's does) as `None`.
pub(super) fn parse_version(text: &str) -> Result<Option<i32>, Error> {
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
