//! Modes: whether new schemas are taken, and under whose ids.

use sqlx::PgConnection;

use super::reading::may_see;
use super::{Posted, Registry, refusal};
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::schemas::{self, Setting};

/// What may be done to subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything; ids are issued here.
    ReadWrite,
    /// Nothing is registered or deleted.
    ReadOnly,
    /// The same, whatever the mode of a subject says; only of all subjects.
    ReadOnlyOverride,
    /// Schemas are registered under ids that they have elsewhere.
    Import,
}

impl Mode {
    const ALL: [Self; 4] = [
        Self::ReadWrite,
        Self::ReadOnly,
        Self::ReadOnlyOverride,
        Self::Import,
    ];

    /// Returns its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "READWRITE",
            Self::ReadOnly => "READONLY",
            Self::ReadOnlyOverride => "READONLY_OVERRIDE",
            Self::Import => "IMPORT",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_uppercase();
        Self::ALL.into_iter().find(|mode| mode.as_str() == text)
    }
}

/// How a schema is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registering {
    /// Under the next id.
    Next,
    /// Under this one.
    Import(i32),
}

impl Registry {
    /// Returns the mode of a subject, or of all that have none of their own.
    pub(crate) async fn mode(
        &self,
        caller: &Caller,
        subject: Option<&str>,
        default_to_global: bool,
    ) -> Result<Mode, Error> {
        let mut source = self.source().await?;
        let global = source.setting(Setting::Mode).await?;
        let Some(subject) = subject else {
            return Ok(parsed(global));
        };
        let known = source.subject(subject).await?;
        let known = known.filter(|known| may_see(caller, known));
        match known.and_then(|known| known.mode) {
            Some(own) => Ok(parsed(Some(own))),
            None if default_to_global => Ok(parsed(global)),
            None => Err(no_own_mode(subject)),
        }
    }

    /// Sets the mode of a subject, or of all that have none of their own.
    pub(crate) async fn set_mode(
        &self,
        caller: &Caller,
        subject: Option<&str>,
        text: &str,
        force: bool,
    ) -> Result<Mode, Error> {
        let mode = Mode::parse(text)
            .filter(|mode| subject.is_none() || *mode != Mode::ReadOnlyOverride)
            .ok_or_else(|| {
                refusal(
                    42204,
                    "Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT",
                )
            })?;
        let mut tx = self.store.begin().await?;
        match subject {
            None => {
                caller.require_platform(Role::Admin)?;
                if mode == Mode::Import && !force && schemas::any_live(&mut tx, None).await? {
                    return Err(found_existing());
                }
                schemas::set(&mut tx, Setting::Mode, Some(mode.as_str())).await?;
            }
            Some(subject) => {
                // Ids are one space for all: who imports chooses ids, and may take those of others.
                match mode {
                    Mode::Import => caller.require_platform(Role::Operator)?,
                    Mode::ReadWrite | Mode::ReadOnly | Mode::ReadOnlyOverride => {
                        caller.require(Role::Operator)?;
                    }
                }
                let owner = self.owner_of(&mut tx, caller, subject).await?;
                schemas::lock_subject(&mut tx, subject, &owner, None).await?;
                let exists = schemas::any_live(&mut tx, Some(subject)).await?;
                if mode == Mode::Import && !force && exists {
                    return Err(found_existing());
                }
                schemas::set_mode(&mut tx, subject, Some(mode.as_str())).await?;
            }
        }
        tx.commit().await?;
        tracing::info!(
            subject,
            mode = mode.as_str(),
            "mode of the registry changed"
        );
        Ok(mode)
    }

    /// Removes a mode that was set and returns it.
    pub(crate) async fn unset_mode(
        &self,
        caller: &Caller,
        subject: Option<&str>,
    ) -> Result<Mode, Error> {
        let before = self.mode(caller, subject, false).await?;
        let mut tx = self.store.begin().await?;
        match subject {
            None => {
                caller.require_platform(Role::Admin)?;
                schemas::set(&mut tx, Setting::Mode, None).await?;
            }
            Some(subject) => {
                self.writable(&mut tx, caller, subject).await?;
                schemas::set_mode(&mut tx, subject, None).await?;
            }
        }
        tx.commit().await?;
        Ok(before)
    }
}

/// Refuses what the mode in force does not allow, and says under which id a schema goes.
pub(super) async fn check(
    db: &mut PgConnection,
    subject: &str,
    posted: &Posted,
) -> Result<Registering, Error> {
    let mode = in_force(db, subject).await?;
    let refuse = |what: &str| Err(refusal(42205, format!("Subject {subject} is {what} mode")));
    match (mode, posted.id) {
        (Mode::ReadOnly | Mode::ReadOnlyOverride, _) => refuse("in read-only"),
        (Mode::Import, Some(id)) if id >= 1 => Ok(Registering::Import(id)),
        (Mode::Import, _) => refuse("not in read-write"),
        (Mode::ReadWrite, None | Some(..=-1)) => Ok(Registering::Next),
        (Mode::ReadWrite, Some(_)) => refuse("not in import"),
    }
}

/// Refuses a change of a subject that is only read.
pub(super) async fn refuse_read_only(db: &mut PgConnection, subject: &str) -> Result<(), Error> {
    match in_force(db, subject).await? {
        Mode::ReadWrite | Mode::Import => Ok(()),
        Mode::ReadOnly | Mode::ReadOnlyOverride => Err(refusal(
            42205,
            format!("Subject {subject} is in read-only mode"),
        )),
    }
}

async fn in_force(db: &mut PgConnection, subject: &str) -> Result<Mode, Error> {
    let global = parsed(schemas::setting(db, Setting::Mode).await?);
    if global == Mode::ReadOnlyOverride {
        return Ok(global);
    }
    let known = schemas::subject(db, subject).await?;
    let own = known.and_then(|known| known.mode);
    Ok(own.map_or(global, |own| parsed(Some(own))))
}

fn parsed(stored: Option<String>) -> Mode {
    let parsed = stored.and_then(|stored| Mode::parse(&stored));
    parsed.unwrap_or(Mode::ReadWrite)
}

fn found_existing() -> Error {
    refusal(42205, "Cannot import since found existing subjects")
}

fn no_own_mode(subject: &str) -> Error {
    refusal(
        40409,
        format!("Subject '{subject}' does not have subject-level mode configured"),
    )
}
