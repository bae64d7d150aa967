//! Finishes what was begun: deletions that workers have carried out, grants of views, views that
//! have ended, and topics of views that were taken back.
//!
//! Every step looks at the store and at what workers report, does at most one durable thing, and may
//! be repeated: a crash anywhere leaves a state that the next look continues from.
//!
//! A revoked view's topic is deleted when every processor of its table has committed the view's
//! version and reports it gone, or at the bound: five seconds and one per ten thousand rows since
//! processors were told. It never waits for sinks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hutong_transport::record::TaskState;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::App;
use crate::error::Error;
use crate::store::views::{self, View};
use crate::store::{connectors, tasks};
use crate::views as service;

/// The bound of a revocation for a view without rows.
const BOUND: Duration = Duration::from_secs(5);
/// Rows for which the bound grows by a second.
const ROWS_PER_SECOND: u64 = 10_000;

/// What the leader remembers between looks.
#[derive(Debug)]
pub(crate) struct Settler {
    app: Arc<App>,
    /// When a revoked view's version was first seen published; with the view's generation.
    told: HashMap<(String, i64), Instant>,
    has_authorizer: Option<bool>,
}

impl Settler {
    /// Remembers nothing yet.
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            told: HashMap::new(),
            has_authorizer: None,
        }
    }

    /// Takes every step that can be taken now. Call it after everything was published.
    pub(crate) async fn settle(&mut self, db: &mut PgConnection) -> Result<(), Error> {
        self.finish_deletions(db).await?;
        for view in views::unsettled(db).await? {
            if view.is_live()
                && view
                    .valid_until_ms
                    .is_some_and(|end| end <= crate::now_ms())
            {
                service::take_back(&self.app, db, &view, "expired").await?;
                continue;
            }
            self.settle_acl(db, &view).await?;
            if view.state == views::REVOKED {
                self.settle_topic(db, &view).await?;
            }
        }
        Ok(())
    }

    /// Removes connectors whose workers report that what they made is removed.
    async fn finish_deletions(&self, db: &mut PgConnection) -> Result<(), Error> {
        for (connector, task) in tasks::deleting(db).await? {
            let status = self.app.live.status(&task.location, &task.id);
            let is_done = status.is_some_and(|status| {
                status.state == TaskState::Deleted
                    && i64::try_from(status.version).is_ok_and(|version| version >= task.version)
            });
            if is_done {
                let mut tx = db.begin().await?;
                tasks::remove(&mut tx, &self.app.cluster, &task.id).await?;
                connectors::remove(&mut tx, &connector).await?;
                tx.commit().await?;
                tracing::info!(connector, "deleted");
            }
        }
        Ok(())
    }

    /// Gives the subscriber's principal the topic of a live view, or takes it away.
    async fn settle_acl(&mut self, db: &mut PgConnection, view: &View) -> Result<(), Error> {
        let Some(principal) = &view.kafka_principal else {
            return Ok(());
        };
        if view.is_live() == view.acl_granted {
            return Ok(());
        }
        let has_authorizer = match self.has_authorizer {
            Some(known) => known,
            None => self.app.admin.has_authorizer().await?,
        };
        self.has_authorizer = Some(has_authorizer);
        if !has_authorizer {
            return Ok(());
        }
        let topic = &view.compiled.topic;
        if view.is_live() {
            let groups = format!("{}.", view.subscriber);
            self.app.admin.allow_read(principal, topic, &groups).await?;
        } else {
            self.app.admin.revoke_read(principal, topic).await?;
        }
        views::set_acl(db, view, view.is_live()).await
    }

    /// Deletes the topic of a revoked view once its writers have let go of it, or at the bound.
    async fn settle_topic(&mut self, db: &mut PgConnection, view: &View) -> Result<(), Error> {
        let key = (view.name.clone(), view.generation);
        let told = *self.told.entry(key.clone()).or_insert_with(Instant::now);
        let progress = service::progress(&self.app, db, view).await?;
        let rows = u64::try_from(progress.rows).unwrap_or_default();
        let bound = BOUND + Duration::from_secs(rows / ROWS_PER_SECOND);
        if !progress.is_gone && told.elapsed() < bound {
            return Ok(());
        }
        self.app.admin.delete_topic(&view.compiled.topic).await?;
        let mut tx = db.begin().await?;
        crate::store::lock_desired_state(&mut tx).await?;
        views::set_gone(&mut tx, &view.name).await?;
        service::write_processors(&self.app, &mut tx, &view.source_topic).await?;
        tx.commit().await?;
        self.told.remove(&key);
        tracing::info!(
            view = view.name,
            topic = view.compiled.topic,
            "topic deleted"
        );
        Ok(())
    }
}
