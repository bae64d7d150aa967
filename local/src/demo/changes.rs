//! Scenes in which a living share is narrowed and widened: a column is withdrawn, then rows, then
//! both come back while the terminal shows how far the filling is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::shares::{SHARES, Share};
use super::steps::Scenes;
use crate::testkit::until;

/// The share that is changed: 年检, from 地税 to 工商.
pub(super) const S07: &Share = &SHARES[3];
/// The column that is withdrawn.
const COLUMN: &str = "reg_date";
/// A narrower condition, and what no row at the subscriber may be then.
const NARROWER: &str = "status IN (2, 3) AND NOT is_self_emp";
const NO_LONGER: &str = "status::text = '4'";
/// Time for a change to arrive; the bound of what is withdrawn is stated apart.
pub(super) const ARRIVAL: Duration = Duration::from_secs(60);

impl Scenes<'_> {
    /// 地税 withdraws a column: its values must be gone from 工商's table.
    pub(super) async fn a_share_loses_a_column(&mut self) -> Result<()> {
        let (view, rows) = (S07.view(), self.watch.rows(S07).await?);
        let bound = Duration::from_secs(5) + Duration::from_secs(rows.div_ceil(10_000));
        self.screen.say(&format!(
            "scene 5: view {view} loses column {COLUMN}, whose {rows} values must be gone within {} s",
            bound.as_secs()
        ));
        self.say_what_would_move(&narrowed(self.document(), false))
            .await?;
        let begun = Instant::now();
        self.put(&narrowed(self.document(), false)).await?;
        self.wait_for_none(&format!("{COLUMN} IS NOT NULL")).await?;
        let took = begun.elapsed();
        if took > bound {
            bail!("the withdrawn column was empty only after {took:?}, the bound is {bound:?}");
        }
        self.screen
            .say(&format!("         gone after {} ms", took.as_millis()));
        self.wait_complete().await?;
        self.screen.say(&format!(
            "         filled anew under another generation after {} ms",
            begun.elapsed().as_millis()
        ));
        Ok(())
    }

    /// And gives fewer rows.
    pub(super) async fn a_share_loses_rows(&mut self) -> Result<()> {
        self.screen.say(&format!(
            "scene 6: view {} is narrowed to: {NARROWER}",
            S07.view()
        ));
        self.say_what_would_move(&narrowed(self.document(), true))
            .await?;
        let begun = Instant::now();
        self.put(&narrowed(self.document(), true)).await?;
        self.wait_for_none(NO_LONGER).await?;
        self.screen.say(&format!(
            "         gone after {} ms, in place",
            begun.elapsed().as_millis()
        ));
        Ok(())
    }

    /// Then everything comes back, and the terminal shows it coming.
    pub(super) async fn a_share_is_widened(&mut self) -> Result<()> {
        self.screen.say(&format!(
            "scene 7: view {} is widened again, by the column and the rows",
            S07.view()
        ));
        self.say_what_would_move(&self.document()).await?;
        let begun = Instant::now();
        self.put(&self.document()).await?;
        self.wait_complete().await?;
        for wanted in [NO_LONGER.to_owned(), format!("{COLUMN} IS NOT NULL")] {
            until("what was granted anew to arrive", ARRIVAL, async || {
                let count = self.count(&wanted).await?;
                Ok(if count > 0 {
                    Ok(())
                } else {
                    Err("none is there")
                })
            })
            .await?;
        }
        self.screen.say(&format!(
            "         all there after {} ms",
            begun.elapsed().as_millis()
        ));
        Ok(())
    }

    fn document(&self) -> Value {
        S07.document(&self.stage.prefix(S07.provider))
    }

    pub(super) async fn put(&self, document: &Value) -> Result<()> {
        let path = format!("/api/v1/views/{}", S07.view());
        let answer = self
            .platform
            .api()
            .platform("PUT", &path, Some(document.clone()))
            .await?;
        answer.ok().map(|_| ()).context("change of a view")
    }

    /// Asks beforehand what a change would come to, as a careful administrator does.
    pub(super) async fn say_what_would_move(&mut self, document: &Value) -> Result<()> {
        let path = format!("/api/v1/views/{}?dry_run=true", S07.view());
        let answer = self
            .platform
            .api()
            .platform("PUT", &path, Some(document.clone()))
            .await?
            .ok()
            .context("dry run")?;
        let rows = &answer["rows"];
        let columns = &answer["columns"];
        self.screen.say(&format!(
            "         a dry run says: {} rows leave, {} enter, {} stay; columns leave: {}, enter: {}",
            rows["leave"], rows["enter"], rows["stay"], columns["leave"], columns["enter"]
        ));
        Ok(())
    }

    /// Counts rows at the subscriber for which a condition holds.
    pub(super) async fn count(&self, condition: &str) -> Result<i64> {
        let front = self.watch.front(S07.subscriber);
        let sql = format!("SELECT count(*) FROM {} WHERE {condition}", S07.target());
        Ok(front.query_one(&sql, &[]).await?.get(0))
    }

    async fn wait_for_none(&self, condition: &str) -> Result<()> {
        until("what was withdrawn to be gone", ARRIVAL, async || {
            let left = self.count(condition).await?;
            Ok(if left == 0 {
                Ok(())
            } else {
                Err(format!("{left} rows have it"))
            })
        })
        .await
    }

    /// Waits until the view is complete in its newest version, and shows how far it is.
    pub(super) async fn wait_complete(&mut self) -> Result<()> {
        let path = format!("/api/v1/views/{}", S07.view());
        let deadline = Instant::now() + ARRIVAL;
        loop {
            let status = self
                .platform
                .api()
                .platform("GET", &path, None)
                .await?
                .ok()?;
            if status["complete"] == true {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the view is not complete after {ARRIVAL:?}: {status}");
            }
            let (filled, total) = (&status["filled"], &status["total"]);
            let eta = status["eta_seconds"].as_i64();
            let eta = eta.map_or_else(String::new, |eta| format!(", {eta} s left"));
            let line = format!("         {filled} of {total} rows looked at{eta}");
            self.screen.show(&[line]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The share without the column, and with fewer rows or not.
fn narrowed(mut document: Value, fewer_rows: bool) -> Value {
    if let Some(columns) = document["columns"].as_array_mut() {
        columns.retain(|column| column["name"] != COLUMN);
    }
    if fewer_rows {
        document["where"] = json!(NARROWER);
    }
    document
}
