//! How things stand, as the platform tells over its API and the subscribers' tables show.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use tokio_postgres::Client;

use super::registration::source_name;
use super::screen::bar;
use super::shares::{SHARES, Share};
use super::stage::Stage;
use crate::departments::Department;
use crate::testkit::{Api, connect};

/// A rate is taken over that time: sources report their counts every few seconds only.
const WINDOW: Duration = Duration::from_secs(10);

/// Looks at the platform, again and again.
#[derive(Debug)]
pub(super) struct Watch {
    api: Api,
    fronts: BTreeMap<&'static str, Client>,
    /// The shares as they are now.
    shares: Vec<Share>,
    /// When a source had committed how many events, over the last [`WINDOW`].
    before: BTreeMap<Department, VecDeque<(Instant, u64)>>,
}

/// A source as it reports itself.
#[derive(Clone, Debug, Default)]
struct Source {
    rows_done: u64,
    rows_total: u64,
    seconds_left: Option<u64>,
    is_streaming: bool,
    events: u64,
    lag_seconds: f64,
}

impl Watch {
    /// Connects to the subscribers' databases.
    pub(super) async fn new(api: &Api, stage: &Stage) -> Result<Self> {
        let mut fronts = BTreeMap::new();
        for department in Department::ALL {
            fronts.insert(
                department.front(),
                connect(&stage.front(department)?.url).await?,
            );
        }
        Ok(Self {
            api: api.clone(),
            fronts,
            shares: SHARES.to_vec(),
            before: BTreeMap::new(),
        })
    }

    /// Returns the sources' lines. Fails if a task has failed.
    pub(super) async fn sources(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for department in Department::ALL {
            lines.push(self.source_line(department).await?);
        }
        Ok(lines)
    }

    /// Returns the lines of a panel. Fails if a task has failed.
    pub(super) async fn panel(&mut self) -> Result<Vec<String>> {
        let mut lines = self.sources().await?;
        for share in &self.shares {
            lines.push(self.view_line(share).await?);
        }
        Ok(lines)
    }

    /// Returns whether all sources have read their tables.
    pub(super) async fn all_streaming(&self) -> Result<bool> {
        for department in Department::ALL {
            if !self.source(department).await?.is_streaming {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the connectors that do not run, with their states.
    pub(super) async fn not_running(&self) -> Result<Vec<String>> {
        let answer = self
            .api
            .connect("GET", "/connectors?expand=status", None)
            .await?
            .ok()?;
        let mut found = Vec::new();
        for (name, about) in answer.as_object().into_iter().flatten() {
            let task = &about["status"]["tasks"][0];
            if task["state"] != "RUNNING" {
                found.push(format!(
                    "{name} {}",
                    task["state"].as_str().unwrap_or("UNASSIGNED")
                ));
            }
        }
        Ok(found)
    }

    /// Returns the worker that runs a connector.
    pub(super) async fn worker_of(&self, connector: &str) -> Result<String> {
        let status = self.status(connector).await?;
        Ok(status["worker_id"].as_str().unwrap_or_default().to_owned())
    }

    /// Returns the number of rows at a share's subscriber; 0 while the table is not there.
    pub(super) async fn rows(&self, share: &Share) -> Result<u64> {
        let client = &self.fronts[share.subscriber.front()];
        let target = share.target();
        let exists: bool = client
            .query_one(
                "SELECT to_regclass($1) IS NOT NULL",
                &[&format!("public.{target}")],
            )
            .await?
            .get(0);
        if !exists {
            return Ok(0);
        }
        let count: i64 = client
            .query_one(&format!("SELECT count(*) FROM {target}"), &[])
            .await?
            .get(0);
        Ok(count.unsigned_abs())
    }

    /// Returns the shares as they are now.
    pub(super) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Takes note of a share that is new or has changed.
    pub(super) fn put_share(&mut self, share: Share) {
        match self.shares.iter_mut().find(|known| known.id == share.id) {
            Some(known) => *known = share,
            None => self.shares.push(share),
        }
    }

    /// Returns the client of a subscriber's database.
    pub(super) fn front(&self, department: Department) -> &Client {
        &self.fronts[department.front()]
    }

    async fn source_line(&mut self, department: Department) -> Result<String> {
        let source = self.source(department).await?;
        let name = department.database();
        if !source.is_streaming {
            let (done, total) = (source.rows_done, source.rows_total);
            let percent = (done * 100).checked_div(total).unwrap_or(0);
            let left = match source.seconds_left {
                Some(seconds) => format!("{seconds} s left"),
                None => "…".to_owned(),
            };
            return Ok(format!(
                "snapshot {name:<5}{} {percent:>3} % {done:>7} rows, {left}",
                bar(done, total.max(1))
            ));
        }
        let rate = self.rate(department, source.events);
        Ok(format!(
            "stream   {name:<5}{rate:>8.1} events/s, lag {:>5.1} s, {} events in all",
            source.lag_seconds, source.events
        ))
    }

    fn rate(&mut self, department: Department, events: u64) -> f64 {
        let now = Instant::now();
        let seen = self.before.entry(department).or_default();
        // A source that has moved to another worker counts anew.
        if seen.back().is_some_and(|(_, before)| *before > events) {
            seen.clear();
        }
        seen.push_back((now, events));
        while seen.front().is_some_and(|(then, _)| now - *then > WINDOW) {
            seen.pop_front();
        }
        let (then, before) = seen.front().copied().unwrap_or((now, events));
        let seconds = (now - then).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
        let new = (events - before) as f64;
        if seconds > 0.0 { new / seconds } else { 0.0 }
    }

    async fn view_line(&self, share: &Share) -> Result<String> {
        let rows = self.rows(share).await?;
        let status = self.status(&share.sink()).await?;
        let input = &status["details"]["inputs"][0];
        let milliseconds = |name: &str| match input[name].as_f64() {
            Some(value) => format!("{value:.0} ms"),
            None => "–".to_owned(),
        };
        Ok(format!(
            "view     {:<17}{rows:>6} rows at {:<6} latency p50 {:>7} p99 {:>7}",
            share.view(),
            share.subscriber.database(),
            milliseconds("latency_ms_p50"),
            milliseconds("latency_ms_p99")
        ))
    }

    async fn source(&self, department: Department) -> Result<Source> {
        let status = self.status(&source_name(department)).await?;
        let details = &status["details"];
        let mut source = Source {
            events: details["events_total"].as_u64().unwrap_or(0),
            lag_seconds: details["lag_seconds"].as_f64().unwrap_or(0.0),
            ..Source::default()
        };
        source.seconds_left = details["snapshot"]["eta_seconds"].as_u64();
        let tables = details["tables"].as_array();
        source.is_streaming = tables.is_some_and(|tables| {
            !tables.is_empty() && tables.iter().all(|table| table["state"] == "streaming")
        });
        for table in tables.into_iter().flatten() {
            source.rows_done += table["rows_done"].as_u64().unwrap_or(0);
            source.rows_total += table["rows_total"].as_u64().unwrap_or(0);
        }
        Ok(source)
    }

    /// Returns a connector's task with what its worker reports; null while there is none. A failed
    /// task ends the demo with its message.
    async fn status(&self, connector: &str) -> Result<Value> {
        let path = format!("/api/v1/connectors/{connector}");
        let answer = self.api.platform("GET", &path, None).await?;
        if answer.status == 404 {
            return Ok(Value::Null);
        }
        let mut about = answer.ok()?;
        let mut task = about["status"]["tasks"][0].take();
        if task["state"] == "FAILED" {
            bail!(
                "connector {connector} failed: {}",
                task["trace"].as_str().unwrap_or("no reason given")
            );
        }
        if let Value::Object(task) = &mut task {
            task.insert("details".to_owned(), about["details"].take());
        }
        Ok(task)
    }
}
