//! Closing a view's generation and opening the next.
//!
//! ```text
//!   1. hold the grant   database: nobody is granted the topic while it closes
//!   2. take it away     Kafka: the subscriber reads nothing more of what is withdrawn
//!   3. make the topic   Kafka: of the next generation; after a crash it is the same one
//!   4. one transaction  schemas, view, the closed generation, processors' and sinks' tasks, outbox
//! ```
//!
//! A crash or an error before 4 leaves the view as it was, but for the grant, which is given again
//! when the hold is released or, after a minute, ignored. From 4 on it is the leader's to finish (see
//! `settle`): grant the new topic, tell sinks where its fill ended, delete the old topic.

use std::collections::BTreeSet;

use hutong_policies::{ViewDocument, ViewPlan};
use hutong_schemas::table::TableSchema;
use sqlx::PgConnection;

use super::change::Planned;
use super::{Draft, already_changed, assemble, ensure_topics, status, unused_generation};
use crate::App;
use crate::error::Error;
use crate::store::views::{self, View};
use crate::store::{generations, shares};

/// A view that gets another generation.
pub(super) struct Next {
    pub(super) before: View,
    pub(super) document: ViewDocument,
    pub(super) table: TableSchema,
    pub(super) table_schema_id: u32,
    pub(super) plan: ViewPlan,
    /// Columns whose delivered values are withdrawn.
    pub(super) withdrawn: Vec<String>,
    pub(super) rekeyed: bool,
}

impl From<Planned> for Next {
    fn from(planned: Planned) -> Self {
        Self {
            withdrawn: planned.change.withdrawn(),
            rekeyed: planned.change.rekeyed,
            before: planned.before,
            document: planned.document,
            table: planned.table,
            table_schema_id: planned.table_schema_id,
            plan: planned.plan,
        }
    }
}

/// A share whose key is rotated with the generations.
pub(super) struct NewKey<'a> {
    pub(super) owner: &'a str,
    pub(super) share: &'a str,
    /// The version of its key until now.
    pub(super) from: i32,
    /// Name and version of every live view of the share, whether it gets a generation or not: one
    /// that came or changed meanwhile might need one.
    pub(super) seen: Vec<(String, i64)>,
}

/// Closes generations and opens the next ones, all in one transaction.
pub(super) async fn open(app: &App, next: Vec<Next>, key: Option<NewKey<'_>>) -> Result<(), Error> {
    let closing: Vec<View> = next.iter().map(|next| next.before.clone()).collect();
    let opened = async {
        for view in &closing {
            close(app, view).await?;
        }
        replace(app, next, key).await
    }
    .await;
    if opened.is_err() {
        for view in &closing {
            let mut db = app.store.acquire().await?;
            views::set_closing(&mut db, view, false).await?;
        }
    }
    opened
}

/// Takes the subscriber's grant away, and makes sure that nobody gives it back meanwhile. A leader
/// that was about to give it does so at most once more: the closed generation's grant is taken away
/// again before its topic is deleted.
async fn close(app: &App, view: &View) -> Result<(), Error> {
    let mut db = app.store.acquire().await?;
    views::set_closing(&mut db, view, true).await?;
    drop(db);
    let Some(principal) = &view.kafka_principal else {
        return Ok(());
    };
    match app.admin.revoke_read(principal, &view.compiled.topic).await {
        Ok(_) | Err(hutong_transport::Error::NoAuthorizer) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn replace(app: &App, next: Vec<Next>, key: Option<NewKey<'_>>) -> Result<(), Error> {
    let mut ready = Vec::new();
    for next in next {
        let sinks_are_through = status::sinks_have_swept(app, &next.before).await?;
        let rows = {
            let mut db = app.store.acquire().await?;
            super::progress(app, &mut db, &next.before).await?.rows
        };
        let before = next.before.clone();
        let mut draft = draft(next, sinks_are_through);
        draft.generation = unused_generation(app, &before.name, draft.generation).await?;
        let topics = ensure_topics(app, &draft).await?;
        ready.push((before, draft, topics, rows));
    }
    let mut tx = app.store.begin_change().await?;
    if let Some(key) = &key {
        rotate(&mut tx, key).await?;
    }
    let mut sources = BTreeSet::new();
    let mut names = Vec::new();
    for (before, draft, (source, own), rows) in ready {
        let now = views::get(&mut tx, &before.name).await?;
        if now.is_none_or(|now| now.version != before.version) {
            return Err(already_changed(&before.name));
        }
        generations::close(&mut tx, &before, rows).await?;
        let view = assemble(app, &mut tx, draft, &source, &own).await?;
        views::write(&mut tx, &view).await?;
        tracing::info!(
            view = view.name,
            version = view.version,
            topic = view.compiled.topic,
            withdrawn = ?view.withdrawn.0,
            rekeyed = view.rekeyed,
            "a generation was closed and the next one opened"
        );
        sources.insert(view.source_topic);
        names.push(view.name);
    }
    for source in sources {
        super::write_processors(app, &mut tx, &source).await?;
    }
    for name in names {
        super::write_sinks(app, &mut tx, &name).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Gives the share its next key, unless anything that depends on it was changed meanwhile.
async fn rotate(tx: &mut PgConnection, key: &NewKey<'_>) -> Result<(), Error> {
    let mut now = views::list(tx, Some(key.owner)).await?;
    now.retain(|view| {
        view.is_live() && view.owner == key.owner && view.document.share == key.share
    });
    let same = now.len() == key.seen.len()
        && now
            .iter()
            .all(|view| key.seen.contains(&(view.name.clone(), view.version)));
    if same && shares::rotate(tx, key.owner, key.share, key.from).await? {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "share {} or a view of it was changed by somebody else meanwhile; try again",
        key.share
    )))
}

/// What sinks must forget adds up from generation to generation, until all of them have done so.
fn draft(next: Next, sinks_are_through: bool) -> Draft {
    let before = next.before;
    let (mut withdrawn, mut rekeyed) = (next.withdrawn, next.rekeyed);
    let withdrawn_since = if sinks_are_through {
        before.generation
    } else {
        withdrawn.extend(before.withdrawn.0);
        rekeyed |= before.rekeyed;
        before.withdrawn_since
    };
    withdrawn.sort();
    withdrawn.dedup();
    Draft {
        value_schema: next.plan.value_schema(),
        document: next.document,
        plan: next.plan,
        table: next.table,
        table_schema_id: next.table_schema_id,
        owner: before.owner,
        location: before.location,
        generation: before.generation + 1,
        version: before.version + 1,
        withdrawn,
        rekeyed,
        withdrawn_since,
        is_refilling: true,
    }
}
