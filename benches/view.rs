//! `view`, `view_fan`: from topic to topic through a condition, a projection and a mask, with row
//! state, exactly once; beside the Kafka library alone, which reads the same records and writes as
//! many, of the same size.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hutong_local::testkit::until;
use serde_json::{Value, json};

use crate::cost::{self, Cost};
use crate::figures::Figures;
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
    const NAME: &str = "view";
    const FAN_NAME: &str = "view_fan";
    let wants_fan = figures.wants(FAN_NAME);
    if !figures.wants(NAME) && !wants_fan {
        return Ok(());
    }
    let table = Table::capture(stand, ROWS).await?;
    let (mut alone, mut fan) = (Vec::new(), Vec::new());
    for _ in 0..figures.turns {
        let beside_echo = table.alone(stand).await?;
        if wants_fan {
            let (ours, cost) = table.fan(stand).await?;
            fan.push(Turn {
                ours,
                limit: beside_echo.ours,
                cost,
                peak: stand.worker_peak()?,
            });
        }
        alone.push(beside_echo);
    }
    report(figures, NAME, &alone, "≥ 0.40");
    if wants_fan {
        report(figures, FAN_NAME, &fan, "≥ 0.30");
    }
    table.release(stand).await
}

/// What a turn measured: records a second of ours and of its limit, processor time in microseconds a
/// record, and the worker's peak resident memory in MiB.
pub(crate) struct Turn {
    ours: f64,
    limit: f64,
    cost: Cost,
    peak: f64,
}

/// Adds what the turns of a benchmark measured.
pub(crate) fn report(figures: &mut Figures, name: &str, turns: &[Turn], asked: &'static str) {
    let pairs: Vec<(f64, f64)> = turns.iter().map(|turn| (turn.ours, turn.limit)).collect();
    let costs: Vec<Cost> = turns.iter().map(|turn| turn.cost).collect();
    figures.pairs(name, &pairs, "records/s", asked);
    cost::add(figures, name, &costs, "–");
    let peak = turns.iter().map(|turn| turn.peak).fold(0.0, f64::max);
    figures.rss(name, peak);
}

/// The table in its topic.
pub(crate) struct Table {
    connector: String,
    pub(crate) topic: String,
    pub(crate) rows: u64,
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

    /// Returns what a connector has written to its topic.
    pub(crate) fn of_topic(connector: &str, topic: &str, rows: u64) -> Self {
        Self {
            connector: connector.to_owned(),
            topic: topic.to_owned(),
            rows,
        }
    }

    pub(crate) async fn release(self, stand: &Stand) -> Result<()> {
        stand.delete(&self.connector).await?;
        echo::delete_topic(stand.bootstrap(), &self.topic).await
    }

    /// Measures one view beside its limit.
    pub(crate) async fn alone(&self, stand: &mut Stand) -> Result<Turn> {
        let view = stand.name();
        let document = document(&view, &self.topic, "valid");
        let (ours, cost) = self.run(stand, &[document]).await?;
        let peak = stand.worker_peak()?;
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
        drop_view(stand, &view).await?;
        Ok(Turn {
            ours,
            limit,
            cost,
            peak,
        })
    }

    /// Many views over the table, a tenth of its rows each.
    async fn fan(&self, stand: &mut Stand) -> Result<(f64, Cost)> {
        let mut documents = Vec::new();
        for number in 0..FAN {
            let low = number * 90_000 / FAN;
            let condition = format!("kind >= {low} and kind < {}", low + 10_000);
            documents.push(document(&stand.name(), &self.topic, &condition));
        }
        let run = self.run(stand, &documents).await?;
        let names = documents.iter().filter_map(|one| one["name"].as_str());
        let names: Vec<&str> = names.collect();
        for name in &names {
            revoke(stand, name).await?;
        }
        for name in names {
            wait_gone(stand, name).await?;
        }
        Ok(run)
    }

    /// Returns input records a second, from the first commit to the end of the views, and what a record
    /// cost.
    async fn run(&self, stand: &mut Stand, documents: &[Value]) -> Result<(f64, Cost)> {
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
                if first.is_none() {
                    first = Some((last, stand.cost()?));
                }
            }
            ensure!(
                Instant::now() < deadline,
                "{processed} of {} records were processed",
                self.rows
            );
            tokio::time::sleep(LOOK).await;
        }
        let cost = stand.cost()?;
        let ((began, before), cost_before) = first.context("nothing was processed")?;
        ensure!(
            before < self.rows / 2,
            "the work began before it was looked at"
        );
        let records = last.1 - before;
        let rate = records as f64 / (last.0 - began).as_secs_f64();
        let cost = cost.per_event(cost_before, records);
        for document in documents {
            let name = document["name"].as_str().context("a name")?;
            wait_complete(stand, name, &self.topic).await?;
        }
        Ok((rate, cost))
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
