//! The scenes of the demo: each is announced, done, and checked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::registration;
use super::screen::Screen;
use super::shares::{SHARES, Share};
use super::stage::Stage;
use super::watch::Watch;
use super::{MASTER, registration::source_name};
use crate::departments::Department;
use crate::departments::events::Script;
use crate::testkit::{Platform, connect, until};

/// A change has arrived within that time, or something is wrong.
const ARRIVAL: Duration = Duration::from_secs(30);
/// Time for a killed worker's tasks to run again under the same instance id (10 s), and for a busy
/// machine.
const REPLACEMENT: Duration = Duration::from_secs(30);
const S03: &Share = &SHARES[0];
const S12: &Share = &SHARES[5];

/// The enterprises that play in the scenes: their keys in 工商.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    /// In view S03 at the start.
    visible: u32,
    /// A secret one, so not in S03 at the start.
    secret: u32,
}

/// Chooses the cast, and keeps the script away from it.
pub(super) fn cast(script: &mut Script) -> Option<Cast> {
    let mut find = |is_secret: bool| {
        let found = script.members().iter().position(|member| {
            member.truth.is_secret == is_secret
                && member.truth.region().starts_with("3707")
                && member.aic.is_some_and(|copy| copy.state == '1')
        })?;
        let key = script.members()[found].aic?.key;
        script.spare(found);
        Some(key)
    };
    Some(Cast {
        visible: find(false)?,
        secret: find(true)?,
    })
}

/// What the scenes play with.
#[derive(Debug)]
pub(super) struct Scenes<'a> {
    pub(super) stage: &'a Stage,
    pub(super) platform: &'a mut Platform,
    pub(super) watch: &'a mut Watch,
    pub(super) screen: &'a mut Screen,
}

impl Scenes<'_> {
    /// 工商 makes an enterprise secret: 质监 must no longer have it.
    pub(super) async fn a_row_leaves(&mut self, cast: &Cast) -> Result<()> {
        self.screen
            .say("scene 1: an enterprise becomes secret, so its row must leave view s03");
        let took = self.set_secret(cast.visible, true).await?;
        self.screen.say(&format!(
            "         gone at the subscriber after {} ms",
            took.as_millis()
        ));
        Ok(())
    }

    /// And another is no longer secret.
    pub(super) async fn a_row_enters(&mut self, cast: &Cast) -> Result<()> {
        self.screen
            .say("scene 2: a secret enterprise becomes public, so its row must enter view s03");
        let took = self.set_secret(cast.secret, false).await?;
        self.screen.say(&format!(
            "         there at the subscriber after {} ms",
            took.as_millis()
        ));
        Ok(())
    }

    /// A share is taken back, and later granted again.
    pub(super) async fn a_share_is_revoked_and_granted_anew(&mut self) -> Result<()> {
        let rows = self.watch.rows(S12).await?;
        let bound = Duration::from_secs(5) + Duration::from_secs(rows.div_ceil(10_000));
        let view = S12.view();
        self.screen.say(&format!(
            "scene 3: view {view} is revoked, so its {rows} rows must be gone within {} s",
            bound.as_secs()
        ));
        let begun = Instant::now();
        let path = format!("/api/v1/views/{view}/revoke");
        self.platform
            .api()
            .platform("POST", &path, None)
            .await?
            .ok()
            .context("revocation")?;
        until(
            "the revoked view's table to be empty",
            ARRIVAL,
            async || {
                let rows = self.watch.rows(S12).await?;
                Ok(if rows == 0 {
                    Ok(())
                } else {
                    Err(format!("{rows} rows are left"))
                })
            },
        )
        .await?;
        let took = begun.elapsed();
        if took > bound {
            bail!("the revoked view's table was empty only after {took:?}, the bound is {bound:?}");
        }
        self.screen.say(&format!(
            "         empty after {} ms; granting it anew",
            took.as_millis()
        ));
        registration::view(self.platform.api(), self.stage, S12).await?;
        let begun = Instant::now();
        let enough = u64::try_from(super::compare::ROWS_MIN)?;
        until("the view granted anew to be filled", ARRIVAL, async || {
            let rows = self.watch.rows(S12).await?;
            Ok(if rows >= enough {
                Ok(())
            } else {
                Err(format!("{rows} rows"))
            })
        })
        .await?;
        self.screen.say(&format!(
            "         filling again after {} ms",
            begun.elapsed().as_millis()
        ));
        Ok(())
    }

    /// The worker that reads 工商 is killed; a new one takes its place.
    pub(super) async fn a_worker_is_killed(&mut self, cast: &Cast, workers: &[&str]) -> Result<()> {
        let busy = self.watch.worker_of(&source_name(Department::Aic)).await?;
        let victim = workers.iter().find(|worker| **worker == busy).copied();
        let victim = victim
            .or(workers.first().copied())
            .context("a worker to kill")?;
        self.screen.say(&format!(
            "scene 4: {victim}, which reads 工商, is killed (SIGKILL) and replaced"
        ));
        self.platform.kill(victim)?;
        let begun = Instant::now();
        self.platform.start_worker(victim, "default").await?;
        let database = self.stage.database(Department::Aic)?;
        let owner = connect(&database.url).await?;
        let key = self.key(&owner, cast.visible).await?;
        update_secret(&owner, cast.visible, false).await?;
        self.wait_for(&key, true, REPLACEMENT).await?;
        let took = begun.elapsed();
        self.screen.say(&format!(
            "         a change made after its death is at the subscriber {} ms after it",
            took.as_millis()
        ));
        until("every task to run again", REPLACEMENT, async || {
            let waiting = self.watch.not_running().await?;
            Ok(if waiting.is_empty() {
                Ok(())
            } else {
                Err(waiting.join(", "))
            })
        })
        .await
    }

    async fn set_secret(&mut self, pripid: u32, is_secret: bool) -> Result<Duration> {
        let database = self.stage.database(Department::Aic)?;
        let owner = connect(&database.url).await?;
        let key = self.key(&owner, pripid).await?;
        self.wait_for(&key, is_secret, ARRIVAL)
            .await
            .context("before the change")?;
        update_secret(&owner, pripid, is_secret).await?;
        let begun = Instant::now();
        self.wait_for(&key, !is_secret, ARRIVAL).await?;
        Ok(begun.elapsed())
    }

    /// Returns the key of an enterprise at the subscriber of S03.
    async fn key(&self, owner: &tokio_postgres::Client, pripid: u32) -> Result<String> {
        let sql = S03.judge_key(&self.stage.prefix(S03.provider), MASTER);
        let sql = format!("SELECT {sql} FROM ent_base WHERE pripid = {pripid}");
        Ok(owner.query_one(&sql, &[]).await?.get(0))
    }

    async fn wait_for(&self, key: &str, is_there: bool, patience: Duration) -> Result<()> {
        let front = self.watch.front(S03.subscriber);
        let sql = format!(
            "SELECT count(*) FROM {} WHERE {} = $1",
            S03.target(),
            S03.key_column()
        );
        let what = if is_there {
            "the row to be there"
        } else {
            "the row to be gone"
        };
        until(what, patience, async || {
            let count: i64 = front.query_one(&sql, &[&key]).await?.get(0);
            Ok(if (count == 1) == is_there {
                Ok(())
            } else {
                Err(format!("{count} rows have its key"))
            })
        })
        .await
    }
}

async fn update_secret(owner: &tokio_postgres::Client, pripid: u32, is_secret: bool) -> Result<()> {
    let flag = i16::from(is_secret);
    owner
        .execute(
            &format!("UPDATE ent_base SET secret_flag = {flag} WHERE pripid = {pripid}"),
            &[],
        )
        .await?;
    Ok(())
}

/// Changes one value at a subscriber, behind the platform's back.
pub(super) async fn falsify(stage: &Stage) -> Result<()> {
    let front = connect(&stage.front(S03.subscriber)?.url).await?;
    let target = S03.target();
    let sql = format!(
        "UPDATE {target} SET leg_rep = leg_rep || '?' WHERE _rk = (SELECT min(_rk) FROM {target})"
    );
    front.execute(&sql, &[]).await?;
    Ok(())
}
