//! Finishes what was begun: deletions that workers have carried out, grants of views, views that
//! have ended, and topics of views that were taken back.
//!
//! Every step looks at the store and at what workers report, does at most one durable thing, and may
//! be repeated: a crash anywhere leaves a state that the next look continues from.
//!
//! What processors report of live views goes back to those who need it: where a generation's fill
//! ended to its sinks, the fingerprint of the first secret used for a share to its processors.
//!
//! A revoked view's topic, and that of a closed generation, is deleted when every processor of its table has committed the view's
//! version and reports it gone, or at the bound: five seconds and one per ten thousand rows since
//! processors were told. It never waits for sinks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hutong_transport::record::TaskState;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::App;
use crate::error::Error;
use crate::store::generations::{self, Closed};
use crate::store::views::{self, View};
use crate::store::{connectors, shares, tasks};
use crate::views as service;

/// The bound of a revocation for a view without rows.
const BOUND: Duration = Duration::from_secs(5);
/// Rows for which the bound grows by a second.
const ROWS_PER_SECOND: u64 = 10_000;

/// What the leader remembers between looks.
#[derive(Debug)]
pub(crate) struct Settler {
    app: Arc<App>,
    /// When the end of a view's generation was first seen published.
    told: HashMap<(String, i64), Instant>,
    /// Closed generations whose grant this leader has taken away.
    withdrawn: HashSet<(String, i64)>,
    has_authorizer: Option<bool>,
    /// What could not be done for a view when it was last tried.
    troubles: HashMap<String, String>,
}

impl Settler {
    /// Remembers nothing yet.
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            told: HashMap::new(),
            withdrawn: HashSet::new(),
            has_authorizer: None,
            troubles: HashMap::new(),
        }
    }

    /// Takes every step that can be taken now. Call it after everything was published.
    ///
    /// What cannot be done for one view or connector is logged and tried again with the next look; it
    /// keeps nothing else from being done. Only an error of the store ends the look, because the lock
    /// may be gone with the connection.
    pub(crate) async fn settle(&mut self, db: &mut PgConnection) -> Result<(), Error> {
        self.finish_deletions(db).await?;
        let unsettled = views::unsettled(db).await?;
        for view in &unsettled {
            let has_ended = view
                .valid_until_ms
                .is_some_and(|end| end <= crate::now_ms());
            if view.is_live() && has_ended {
                service::take_back(&self.app, db, view, "expired").await?;
            }
        }
        for view in views::unsettled(db).await? {
            let acl = self.settle_acl(db, &view).await;
            self.note(&view.name, acl)?;
            if view.state == views::REVOKED {
                let deleted = self.settle_topic(db, &view).await;
                self.note(&view.name, deleted)?;
            }
            if view.is_live() && view.is_refilling {
                self.pass_fill_ends_on(db, &view).await?;
            }
        }
        for closed in generations::list(db).await? {
            let deleted = self.settle_generation(db, &closed).await;
            self.note(&closed.view, deleted)?;
        }
        self.settle_fingerprints(db).await
    }

    /// Logs what Kafka refused or did not answer, once per view and text.
    fn note(&mut self, view: &str, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Ok(()) => {
                self.troubles.remove(view);
                Ok(())
            }
            Err(error @ Error::Kafka(_)) => {
                let text = error.chain();
                if self.troubles.get(view) != Some(&text) {
                    tracing::error!(
                        view,
                        error = text,
                        "a step for a view failed and is tried again"
                    );
                    self.troubles.insert(view.to_owned(), text);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes the topic of a closed generation once its writers have let go of it, or at the bound.
    async fn settle_generation(
        &mut self,
        db: &mut PgConnection,
        closed: &Closed,
    ) -> Result<(), Error> {
        let key = (closed.view.clone(), closed.generation);
        if self.withdrawn.insert(key.clone()) {
            self.take_away(closed).await?;
        }
        let rows = u64::try_from(closed.rows).unwrap_or_default();
        let has_let_go = service::has_let_go(&self.app, db, closed).await?;
        if !has_let_go && !self.is_due(&key, rows) {
            return Ok(());
        }
        self.app.admin.delete_topic(&closed.topic).await?;
        // Whoever led before may have granted it in the last moment.
        self.take_away(closed).await?;
        generations::forget(db, closed).await?;
        self.told.remove(&key);
        self.withdrawn.remove(&key);
        tracing::info!(view = closed.view, topic = closed.topic, "topic deleted");
        Ok(())
    }

    async fn take_away(&self, closed: &Closed) -> Result<(), Error> {
        let Some(principal) = &closed.kafka_principal else {
            return Ok(());
        };
        match self.app.admin.revoke_read(principal, &closed.topic).await {
            Ok(_) | Err(hutong_transport::Error::NoAuthorizer) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns whether processors have had the time that they may take to let go of a generation.
    fn is_due(&mut self, key: &(String, i64), rows: u64) -> bool {
        let told = self.told.entry(key.clone()).or_insert_with(Instant::now);
        told.elapsed() >= BOUND + Duration::from_secs(rows / ROWS_PER_SECOND)
    }

    /// Tells sinks where a generation's fill ended, once every partition has said so.
    async fn pass_fill_ends_on(&self, db: &mut PgConnection, view: &View) -> Result<(), Error> {
        let Some(ends) = service::fill_ends(&self.app, db, view).await? else {
            return Ok(());
        };
        let mut tx = db.begin().await?;
        crate::store::lock_desired_state(&mut tx).await?;
        views::set_fill_ends(&mut tx, view, &ends).await?;
        service::write_sinks(&self.app, &mut tx, &view.name).await?;
        tx.commit().await?;
        tracing::info!(
            view = view.name,
            generation = view.generation,
            ?ends,
            "filled anew"
        );
        Ok(())
    }

    /// Notes, for each share of which it is not known yet, the secret that the first processor used,
    /// and tells all processors of the share, so that one with another secret stops.
    async fn settle_fingerprints(&self, db: &mut PgConnection) -> Result<(), Error> {
        let mut found = BTreeMap::new();
        for view in views::without_fingerprint(db).await? {
            if let Some(fingerprint) = service::fingerprint(&self.app, db, &view).await? {
                let share = (view.owner.clone(), view.document.share.clone());
                let key_version = view.compiled.share_key_version;
                found.entry((share, key_version)).or_insert(fingerprint);
            }
        }
        for (((owner, share), key_version), fingerprint) in found {
            let mut tx = db.begin().await?;
            crate::store::lock_desired_state(&mut tx).await?;
            let version = i32::try_from(key_version).unwrap_or(i32::MAX);
            shares::set_fingerprint(&mut tx, &owner, &share, version, &fingerprint).await?;
            for topic in views::take_fingerprint(&mut tx, &owner, &share).await? {
                service::write_processors(&self.app, &mut tx, &topic).await?;
            }
            tx.commit().await?;
            tracing::info!(
                share,
                owner,
                key_version,
                fingerprint,
                "a share's secret is known"
            );
        }
        Ok(())
    }

    /// Removes connectors, and processors, whose workers report that what they made is removed.
    async fn finish_deletions(&self, db: &mut PgConnection) -> Result<(), Error> {
        for (connector, task) in tasks::deleting(db).await? {
            let status = self.app.live.status(&task.location, &task.id);
            let is_done = status.is_some_and(|status| {
                status.state == TaskState::Deleted
                    && i64::try_from(status.version).is_ok_and(|version| version >= task.version)
            });
            if is_done {
                let mut tx = db.begin().await?;
                crate::store::lock_desired_state(&mut tx).await?;
                let now = tasks::deleting(&mut tx).await?;
                let same = |(name, now): &(String, tasks::Row)| {
                    *name == connector && now.version == task.version
                };
                if !now.iter().any(same) {
                    continue;
                }
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
        let is_settled = if view.is_live() {
            view.acl_confirmed || view.is_closing
        } else {
            !view.acl_granted
        };
        if is_settled {
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
        if !view.is_live() {
            self.app.admin.revoke_read(principal, topic).await?;
            return views::end_grant(db, view).await;
        }
        // Noted first: whoever may have been granted the topic must be known when it is taken away.
        if !views::begin_grant(db, view).await? {
            return Ok(());
        }
        let groups = format!("{}.", view.subscriber);
        self.app.admin.allow_read(principal, topic, &groups).await?;
        views::confirm_grant(db, view).await
    }

    /// Deletes the topic of a revoked view once its writers have let go of it, or at the bound.
    async fn settle_topic(&mut self, db: &mut PgConnection, view: &View) -> Result<(), Error> {
        let key = (view.name.clone(), view.generation);
        let progress = service::progress(&self.app, db, view).await?;
        let rows = u64::try_from(progress.rows).unwrap_or_default();
        if !progress.is_gone && !self.is_due(&key, rows) {
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
