//! Compatibility: which level is in force, and what it says about a schema.

use hutong_schemas::compatibility::{self, Level};
use sqlx::PgConnection;

use super::reading::{definitions, may_see, parse_version, version_not_found};
use super::standby::Source;
use super::{Posted, Registry, Schema, modes, references, refusal};
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::schemas::{self, Setting};

/// The level where none was set, Confluent's default.
const DEFAULT_LEVEL: Level = Level::Backward;

impl Registry {
    /// Returns why a schema could not be registered under a subject; empty if it could.
    pub(crate) async fn check(
        &self,
        caller: &Caller,
        subject: &str,
        against: Option<&str>,
        posted: &Posted,
    ) -> Result<Vec<String>, Error> {
        let mut source = self.source().await?;
        let found = definitions(&mut source, caller, posted).await?;
        let schema = Schema::read(posted, &found, false)?;
        let wanted = against.map(parse_version).transpose()?;
        let known = source.subject(subject).await?;
        let known = known.filter(|known| may_see(caller, known));
        let own = known.as_ref().and_then(|known| known.compatibility.clone());
        let level = in_force(&mut source, own.as_deref()).await?;
        let mut versions = match known {
            Some(_) => source.versions(subject).await?,
            None => Vec::new(),
        };
        versions.retain(|version| !version.deleted);
        match wanted {
            None => {}
            Some(None) => versions = versions.pop().into_iter().collect(),
            Some(Some(number)) => {
                versions.retain(|version| version.version == number);
                if versions.is_empty() {
                    return Err(version_not_found(number));
                }
            }
        }
        let earlier = match &mut source {
            Source::Store(db) => references::complete(db, &versions).await?,
            Source::Topic(_) => versions.into_iter().map(|version| version.text).collect(),
        };
        incompatibilities(level, &schema.complete, &earlier)
    }

    /// Returns the compatibility level of a subject, or of all that have none of their own.
    pub(crate) async fn compatibility(
        &self,
        caller: &Caller,
        subject: Option<&str>,
        default_to_global: bool,
    ) -> Result<Level, Error> {
        let mut source = self.source().await?;
        let Some(subject) = subject else {
            return in_force(&mut source, None).await;
        };
        let known = source.subject(subject).await?;
        let known = known.filter(|known| may_see(caller, known));
        let own = known.and_then(|known| known.compatibility);
        if own.is_none() && !default_to_global {
            return Err(no_own_compatibility(subject));
        }
        in_force(&mut source, own.as_deref()).await
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
                schemas::set(&mut tx, Setting::Compatibility, Some(level.as_str())).await?;
            }
            Some(subject) => {
                caller.require(Role::Operator)?;
                let owner = self.owner_of(&mut tx, caller, subject).await?;
                modes::refuse_read_only(&mut tx, subject).await?;
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
                schemas::set(&mut tx, Setting::Compatibility, None).await?;
            }
            Some(subject) => {
                self.writable(&mut tx, caller, subject).await?;
                modes::refuse_read_only(&mut tx, subject).await?;
                schemas::set_compatibility(&mut tx, subject, None).await?;
            }
        }
        tx.commit().await?;
        Ok(before)
    }
}

pub(super) fn incompatibilities(
    level: Level,
    schema: &str,
    earlier: &[String],
) -> Result<Vec<String>, Error> {
    let existing: Vec<_> = earlier.iter().map(String::as_str).collect();
    compatibility::check(level, schema, &existing).map_err(|error| {
        refusal(
            42201,
            format!("Invalid schema, details: {}", crate::error::chain(&error)),
        )
    })
}

pub(super) async fn level(db: &mut PgConnection, own: Option<&str>) -> Result<Level, Error> {
    let stored = match own {
        Some(own) => Some(own.to_owned()),
        None => schemas::setting(db, Setting::Compatibility).await?,
    };
    Ok(parsed(stored))
}

async fn in_force(source: &mut Source, own: Option<&str>) -> Result<Level, Error> {
    let stored = match own {
        Some(own) => Some(own.to_owned()),
        None => source.setting(Setting::Compatibility).await?,
    };
    Ok(parsed(stored))
}

fn parsed(stored: Option<String>) -> Level {
    let parsed = stored.and_then(|stored| stored.parse().ok());
    parsed.unwrap_or(DEFAULT_LEVEL)
}

fn no_own_compatibility(subject: &str) -> Error {
    refusal(
        40408,
        format!("Subject '{subject}' does not have subject-level compatibility configured"),
    )
}
