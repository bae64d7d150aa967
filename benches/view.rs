//! `view`, `view_fan`: from topic to topic through a condition, a projection and a mask, with row
//! state, exactly once; beside the Kafka library alone, which reads the same records and writes as
//! many, of the same size.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hutong_local::testkit::until;
use serde_json::{Value, json};

use crate::figures::{Figures, median};
use crate::stand::{PATIENCE, Stand};
use crate::{echo, load};

const ROWS: u64 = 1_000_000;
/// What an echo must reach, else the machine is too busy to say anything.
const ECHO_MIN: f64 = 300_000.0;
const FAN: u64 = 50;
/// How often the worker's counters are looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Runs the benchmarks.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    let wanted = ["view", "view_fan", "tenfold_view"].map(|name| figures.wants(name));
    if wanted.contains(&true) {
        let table = Table::capture(stand, ROWS).await?;
        let turns = figures.turns;
        let alone = table.alone(stand, figures, "view", turns, "≥ 0.40").await?;
        if figures.wants("view_fan") {
            let mut pairs = Vec::new();
            for _ in 0..2 {
                pairs.push((table.fan(stand).await?, alone));
            }
            figures.pairs("view_fan", &pairs, "records/s", "≥ 0.30");
            figures.rss("view_fan", stand.worker_peak()?);
        }
        table.release(stand).await?;
    }
    if figures.wants("tenfold_view") {
        let table = Table::capture(stand, 10 * ROWS).await?;
        table.alone(stand, figures, "tenfold_view", 1, "–").await?;
        table.release(stand).await?;
    }
    Ok(())
}

/// The table in its topic.
pub(crate) struct Table {
    connector: String,
    pub(crate) topic: String,
    rows: u64,
}

impl Table {
    /// Fills the table and lets a connector read it.
    pub(crate) async fn capture(stand: &mut Stand, rows: u64) -> Result<Self> {
        let db = stand.source_db().await?;
        db.batch_execute("truncate bench").await?;
        load::fill(&db, rows).await?;
        let connector = stand.name();
        let topic = stand.topic(&connector);
        stand
            .put(&connector, stand.source(&connector, "initial"))
            .await?;
        stand.wait_running(&connector).await?;
        stand
            .wait_end(&topic, i64::try_from(rows)?, async || Ok(true))
            .await?;
        Ok(Self {
            connector,
            topic,
            rows,
        })
    }

    pub(crate) async fn release(self, stand: &Stand) -> Result<()> {
        stand.delete(&self.connector).await?;
        echo::delete_topic(stand.bootstrap(), &self.topic).await
    }

    async fn alone(
        &self,
        stand: &mut Stand,
        figures: &mut Figures,
        name: &str,
        turns: usize,
        asked: &'static str,
    ) -> Result<f64> {
        let mut pairs = Vec::new();
        for _ in 0..turns {
            let view = stand.name();
            let document = document(&view, &self.topic, "valid");
            let ours = self.run(stand, &[document]).await?;
            let written = topic_of(&view);
            let value_bytes = echo::value_bytes(stand.bootstrap(), &written)?;
            let found = echo::count(stand.bootstrap(), &written, 0)?;
            ensure!(
                found == self.rows * 9 / 10,
                "{found} records are in {written}"
            );
            let share = found as f64 / self.rows as f64;
            let to = format!("echo.{view}");
            let echoed = echo::run(stand.bootstrap(), &self.topic, &to, share, value_bytes).await?;
            let limit = echoed.records as f64 / echoed.seconds;
            ensure!(
                limit >= ECHO_MIN,
                "the Kafka library alone moved {limit:.0} records/s, below {ECHO_MIN}: the machine is too busy"
            );
            pairs.push((ours, limit));
            drop_view(stand, &view).await?;
        }
        figures.pairs(name, &pairs, "records/s", asked);
        figures.rss(name, stand.worker_peak()?);
        Ok(median(pairs.iter().map(|(ours, _)| *ours).collect()))
    }

    /// Many views over the table, a tenth of its rows each.
    async fn fan(&self, stand: &mut Stand) -> Result<f64> {
        let mut documents = Vec::new();
        for number in 0..FAN {
            let low = number * 90_000 / FAN;
            let condition = format!("kind >= {low} and kind < {}", low + 10_000);
            documents.push(document(&stand.name(), &self.topic, &condition));
        }
        let rate = self.run(stand, &documents).await?;
        let names = documents.iter().filter_map(|one| one["name"].as_str());
        let names: Vec<&str> = names.collect();
        for name in &names {
            revoke(stand, name).await?;
        }
        for name in names {
            wait_gone(stand, name).await?;
        }
        Ok(rate)
    }

    /// Returns input records a second, from the first commit to the end of the views.
    async fn run(&self, stand: &mut Stand, documents: &[Value]) -> Result<f64> {
        wait_without_processor(stand).await?;
        stand.platform.stop("worker").await?;
        for document in documents {
            create(stand, document).await?;
        }
        stand.platform.start_worker("worker", "default").await?;
        let deadline = Instant::now() + PATIENCE;
        // What is committed first tells when the work began; the start of a process is no part of it.
        let (mut first, mut last) = (None, (Instant::now(), 0));
        while last.1 < self.rows {
            let processed = processed(stand).await?;
            if processed > last.1 {
                last = (Instant::now(), processed);
                first.get_or_insert(last);
            }
            ensure!(
                Instant::now() < deadline,
                "{processed} of {} records were processed",
                self.rows
            );
            tokio::time::sleep(LOOK).await;
        }
        let (began, before) = first.context("nothing was processed")?;
        ensure!(
            before < self.rows / 2,
            "the work began before it was looked at"
        );
        let rate = (last.1 - before) as f64 / (last.0 - began).as_secs_f64();
        for document in documents {
            let name = document["name"].as_str().context("a name")?;
            wait_complete(stand, name, &self.topic).await?;
        }
        Ok(rate)
    }
}

/// Returns how many records the processors of the worker have committed.
async fn processed(stand: &Stand) -> Result<u64> {
    let url = format!("{}/metrics", stand.platform.worker_url("worker")?);
    let answer = stand.platform.api().call("GET", &url, None).await?.ok()?;
    let lines = answer.as_str().unwrap_or_default().lines();
    let counters = lines.filter(|line| line.starts_with("hutong_processor_records_total{"));
    let values = counters.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    Ok(values.sum())
}

/// Waits until the last view's processor has forgotten where it was, so that the next one begins at
/// the beginning.
async fn wait_without_processor(stand: &Stand) -> Result<()> {
    let db = stand.control.connect().await?;
    let processors = "select count(*) from task where kind = 'processor' and config is not null";
    until("the processor to be gone", PATIENCE, async || {
        let left: i64 = db.query_one(processors, &[]).await?.get(0);
        Ok(if left == 0 { Ok(()) } else { Err(left) })
    })
    .await
}

/// Returns the topic of a view's first generation.
pub(crate) fn topic_of(view: &str) -> String {
    format!("bench.view.{view}.g1")
}

/// Returns the document of a view with a mask and a projection.
pub(crate) fn document(name: &str, topic: &str, condition: &str) -> Value {
    json!({
        "name": name, "share": "bench", "subscriber": "reader", "source": { "topic": topic },
        "columns": [
            { "name": "id" }, { "name": "code", "mask": "SHOW_FIRST 6" }, { "name": "amount" },
            { "name": "at" }, { "name": "kind" }, { "name": "note" },
        ],
        "where": condition,
    })
}

pub(crate) async fn create(stand: &Stand, document: &Value) -> Result<()> {
    until("the table to be known", PATIENCE, async || {
        let api = stand.platform.api();
        let answer = api
            .platform("POST", "/api/v1/views", Some(document.clone()))
            .await?;
        Ok(match answer.status {
            200..300 => Ok(()),
            _ => Err(answer.body),
        })
    })
    .await
}

/// Waits until a view holds what the table's topic holds now.
pub(crate) async fn wait_complete(stand: &Stand, view: &str, topic: &str) -> Result<()> {
    let end = stand.end(topic)?;
    until(view, PATIENCE, async || {
        let status = status(stand, view).await?;
        let partition = &status["partitions"][0];
        if partition["state"] == "FAILED" {
            bail!("the processor failed: {status}");
        }
        let is_there = status["complete"] == true
            && partition["next_offset"]
                .as_i64()
                .is_some_and(|next| next >= end);
        Ok(if is_there { Ok(()) } else { Err(status) })
    })
    .await
}

/// Returns whether a view holds what it is to hold.
pub(crate) async fn is_complete(stand: &Stand, view: &str) -> Result<bool> {
    Ok(status(stand, view).await?["complete"] == true)
}

/// Returns how many rows a view holds.
pub(crate) async fn rows(stand: &Stand, view: &str) -> Result<u64> {
    let status = status(stand, view).await?;
    let rows = status["partitions"][0]["rows"].as_u64();
    rows.with_context(|| format!("no rows in {status}"))
}

/// Takes a view back and waits until its topic is gone.
pub(crate) async fn drop_view(stand: &Stand, view: &str) -> Result<()> {
    revoke(stand, view).await?;
    wait_gone(stand, view).await
}

async fn revoke(stand: &Stand, view: &str) -> Result<()> {
    let path = format!("/api/v1/views/{view}/revoke");
    let api = stand.platform.api();
    api.platform("POST", &path, None).await?.ok()?;
    Ok(())
}

async fn wait_gone(stand: &Stand, view: &str) -> Result<()> {
    until("the view to be gone", PATIENCE, async || {
        let status = status(stand, view).await?;
        Ok(if status["state"] == "gone" {
            Ok(())
        } else {
            Err(status)
        })
    })
    .await
}

async fn status(stand: &Stand, view: &str) -> Result<Value> {
    let path = format!("/api/v1/views/{view}/status");
    stand
        .platform
        .api()
        .platform("GET", &path, None)
        .await?
        .ok()
}
