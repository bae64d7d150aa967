//! Connectors, as Kafka Connect's users know them: what is wanted of them.
//!
//! A connector has one task, `<name>-0`. Its configuration is checked by `connectors/core` alone
//! when it is posted, because its location may be away for days; what a real connection would tell
//! is asked by [`validate`] and shown by the task's status. DELETE is a target state: the connector
//! is not listed any more, its worker removes slot and publication and says so, then its name, prefix
//! and slot are free again.

use std::collections::BTreeMap;

use hutong_transport::record::TargetState;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::App;
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::connectors::{self, Connector};
use crate::store::tasks::{self, connector_task, word};

mod check;
mod inputs;
pub(crate) mod loggers;
pub(crate) mod offsets;
pub(crate) mod prefix;
pub(crate) mod status;
mod task;
pub(crate) mod validate;

use check::{Typed, check, claim, refuse_claim, refuse_existing};
use inputs::{resolve_inputs, resolve_topics};
pub(crate) use task::write_task;

/// How often a change of single properties is tried again when others change the same connector.
const PATCH_ATTEMPTS: u32 = 10;

/// A configuration as it is posted.
pub(crate) type Properties = BTreeMap<String, String>;

/// Whether a connector may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// It must not, and begins in this state.
    Create(TargetState),
    /// It may, and is made where it is not.
    Upsert,
}

/// Lists the connectors that a caller may see.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<Connector>, Error> {
    let mut db = app.store.acquire().await?;
    connectors::list(&mut db, caller.limit()).await
}

/// Lists the connectors whose deletion was asked for and is not finished.
pub(crate) async fn list_deleting(app: &App, caller: &Caller) -> Result<Vec<Connector>, Error> {
    let mut db = app.store.acquire().await?;
    connectors::list_deleting(&mut db, caller.limit()).await
}

/// Returns a connector.
pub(crate) async fn get(app: &App, caller: &Caller, name: &str) -> Result<Connector, Error> {
    let mut db = app.store.acquire().await?;
    find(&mut db, caller, name).await
}

async fn find(db: &mut PgConnection, caller: &Caller, name: &str) -> Result<Connector, Error> {
    connectors::get(db, name)
        .await?
        .filter(|found| caller.sees(&found.owner) && found.deleted_at_ms.is_none())
        .ok_or_else(|| not_found(name))
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("Connector {name} not found"))
}

/// Makes a connector or replaces its configuration; returns it, and whether it was made. Durable when
/// it returns.
pub(crate) async fn write(
    app: &App,
    caller: &Caller,
    name: &str,
    properties: Properties,
    how: Write,
) -> Result<(Connector, bool), Error> {
    let written = write_over(app, caller, name, properties, how, None).await?;
    Ok(written.expect("only a configuration that was read before may be found changed"))
}

/// As [`write()`], unless the configuration is not `read` any more; then nothing is changed.
async fn write_over(
    app: &App,
    caller: &Caller,
    name: &str,
    properties: Properties,
    how: Write,
    read: Option<&Properties>,
) -> Result<Option<(Connector, bool)>, Error> {
    caller.require(Role::Operator)?;
    let checked = check(app, caller, name, properties)?;
    let topics = resolve_topics(app, caller, &checked).await?;
    let mut tx = app.store.begin_change().await?;
    let existing = connectors::get(&mut tx, name).await?;
    if let Some(existing) = &existing {
        refuse_existing(caller, existing, how, &checked)?;
    }
    if let Some(read) = read {
        match &existing {
            None => return Err(not_found(name)),
            Some(existing) if existing.config.0 != *read => return Ok(None),
            Some(_) => {}
        }
    }
    let target = match (&existing, how) {
        (Some(existing), _) => existing.target.clone(),
        (None, Write::Create(target)) => word(target)?,
        (None, Write::Upsert) => word(TargetState::Running)?,
    };
    let owner = existing
        .as_ref()
        .map_or(&caller.owner, |existing| &existing.owner);
    let connector = Connector {
        name: name.to_owned(),
        owner: owner.clone(),
        kind: checked.plugin.kind.as_str().to_owned(),
        class: checked.plugin.class.to_owned(),
        location: checked.location.clone(),
        config: Json(checked.properties.clone()),
        target,
        deleted_at_ms: None,
    };
    connectors::write(&mut tx, &connector).await?;
    match &checked.typed {
        Typed::Source(config) => {
            let claim = claim(app, &connector, config);
            refuse_claim(&mut tx, caller, &claim).await?;
            connectors::claim(&mut tx, &claim).await?;
        }
        Typed::Sink(config) => {
            let inputs = resolve_inputs(app, &mut tx, caller, &connector, config, topics).await?;
            connectors::set_inputs(&mut tx, &connector, &inputs).await?;
        }
    }
    write_task(app, &mut tx, &connector).await?;
    tx.commit().await?;
    tracing::info!(
        connector = name,
        owner = connector.owner,
        "configuration accepted"
    );
    Ok(Some((connector, existing.is_none())))
}

/// Changes single properties, as RFC 7386 says; `None` removes one. What somebody else changes
/// meanwhile is kept: the change is then applied to that.
pub(crate) async fn patch(
    app: &App,
    caller: &Caller,
    name: &str,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<Connector, Error> {
    for _ in 0..PATCH_ATTEMPTS {
        let before = get(app, caller, name).await?.config.0;
        let mut properties = before.clone();
        for (property, value) in changes {
            match value {
                Some(value) => properties.insert(property.clone(), value.clone()),
                None => properties.remove(property),
            };
        }
        let how = Write::Upsert;
        let written = write_over(app, caller, name, properties, how, Some(&before)).await?;
        if let Some((connector, _)) = written {
            return Ok(connector);
        }
    }
    Err(Error::conflict(format!(
        "the configuration of connector {name} is being changed by others all the time; try again"
    )))
}

/// Pauses, resumes or stops a connector. Asking for what is wanted already changes nothing.
pub(crate) async fn set_target(
    app: &App,
    caller: &Caller,
    name: &str,
    target: TargetState,
) -> Result<(), Error> {
    caller.require(Role::Operator)?;
    let mut tx = app.store.begin_change().await?;
    let connector = find(&mut tx, caller, name).await?;
    if connector.target == word(target)? {
        return Ok(());
    }
    connectors::set_target(&mut tx, name, target).await?;
    tasks::set_target(&mut tx, &app.cluster, &connector_task(name), target).await?;
    tx.commit().await?;
    tracing::info!(connector = name, target = ?target, "target state changed");
    Ok(())
}

/// Starts a connector's task again as it is.
pub(crate) async fn restart(app: &App, caller: &Caller, name: &str) -> Result<(), Error> {
    caller.require(Role::Operator)?;
    let mut tx = app.store.begin_change().await?;
    find(&mut tx, caller, name).await?;
    tasks::restart(&mut tx, &app.cluster, &connector_task(name)).await?;
    tx.commit().await?;
    Ok(())
}

/// Asks for a connector's deletion.
pub(crate) async fn delete(app: &App, caller: &Caller, name: &str) -> Result<(), Error> {
    set_target(app, caller, name, TargetState::Deleted).await
}

/// Forgets a connector whose deletion nobody finishes, such as that of a location that is gone for
/// good. What its worker made stays where it is.
pub(crate) async fn forget(app: &App, caller: &Caller, name: &str) -> Result<(), Error> {
    caller.require_platform(Role::Admin)?;
    let mut tx = app.store.begin_change().await?;
    let found = connectors::get(&mut tx, name).await?;
    if found.is_none_or(|found| found.deleted_at_ms.is_none()) {
        let message = format!("no deletion of a connector {name} is under way");
        return Err(Error::not_found(message));
    }
    tasks::remove(&mut tx, &app.cluster, &connector_task(name)).await?;
    connectors::remove(&mut tx, name).await?;
    tx.commit().await?;
    tracing::warn!(
        connector = name,
        "deletion given up; slot and publication may still exist"
    );
    Ok(())
}
