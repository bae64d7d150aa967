//! Topic prefixes and whose they are.
//!
//! A prefix belongs to the organisation whose connector used it first, and stays with it when the
//! connector goes, because the topics stay, with all rows in them. Only the platform gives a prefix
//! back to be taken by anybody, and only when nothing of it is left.

use serde::Serialize;
use utoipa::ToSchema;

use crate::App;
use crate::caller::{Caller, PLATFORM, Role};
use crate::error::Error;
use crate::store::{connectors, outbox, views};

/// A topic prefix.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prefix {
    /// The prefix.
    prefix: String,
    /// Whose the topics under it are.
    owner: String,
    /// Whether a connector uses it.
    in_use: bool,
}

/// Lists the prefixes of the caller; the platform sees all.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<Prefix>, Error> {
    let mut db = app.store.acquire().await?;
    let found = connectors::prefixes(&mut db, caller.limit()).await?;
    let listed = found.into_iter().map(|found| Prefix {
        prefix: found.prefix,
        owner: found.owner,
        in_use: found.location.is_some(),
    });
    Ok(listed.collect())
}

/// Lets anybody take a prefix whose topics are gone, and forgets the tables that were under it.
pub(crate) async fn release(app: &App, caller: &Caller, prefix: &str) -> Result<(), Error> {
    caller.require_platform(Role::Admin)?;
    if !app.live.tables_known() {
        return Err(Error::unavailable(
            "captured tables have not been read from Kafka yet; try again later",
        ));
    }
    let under = format!("{prefix}.");
    let mut tables = app.live.tables();
    tables.retain(|captured| captured.record.topic.starts_with(&under));
    for captured in &tables {
        let topic = &captured.record.topic;
        if app.admin.topic(topic).await?.is_some() {
            return Err(Error::conflict(format!(
                "topic {topic} still exists; whoever takes the prefix would have its rows, so delete it first"
            )));
        }
    }
    let mut tx = app.store.begin_change().await?;
    let found = connectors::prefixes(&mut tx, None).await?;
    let found = found.into_iter().find(|found| found.prefix == prefix);
    let Some(found) = found else {
        return Err(Error::not_found(format!("there is no prefix \"{prefix}\"")));
    };
    if found.location.is_some() {
        return Err(Error::conflict(format!(
            "prefix \"{prefix}\" is used by a connector"
        )));
    }
    for view in views::list(&mut tx, None).await? {
        if view.source_topic.starts_with(&under) && view.state != "gone" {
            return Err(Error::conflict(format!(
                "view \"{}\" is over topic {}",
                view.name, view.source_topic
            )));
        }
    }
    for captured in &tables {
        let new = outbox::New {
            owner: PLATFORM,
            topic: &app.cluster.tables(&captured.location),
            partition: Some(0),
            key: &captured.record.topic,
            value: None,
        };
        outbox::add(&mut tx, new).await?;
    }
    connectors::release(&mut tx, prefix).await?;
    tx.commit().await?;
    tracing::info!(prefix, owner = found.owner, "a topic prefix was released");
    Ok(())
}
