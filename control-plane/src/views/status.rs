//! How a view fares: what its processors and sinks report, put together.
//!
//! Who receives a view sees its own rows' fate and no more: not the condition, whose constants may
//! tell of rows it never gets, and not the processors' errors, which may name columns it may not see.

use std::collections::BTreeMap;

use hutong_policies::document::Column;
use hutong_transport::record::StatusRecord;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;
use utoipa::ToSchema;

use crate::App;
use crate::caller::Caller;
use crate::connect::status as connect_status;
use crate::error::Error;
use crate::store::generations::Closed;
use crate::store::tasks::{self, Row};
use crate::store::views::View;
use crate::store::{connectors, views};

/// A view and how it fares.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ViewStatus {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    share: String,
    /// Who gives it.
    owner: String,
    /// Who receives it.
    subscriber: String,
    /// `live`, `revoked` (processors and sinks are being told) or `gone` (its topic is deleted).
    state: String,
    /// Why it is not live: `revoked` or `expired`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    version: i64,
    generation: i64,
    /// Under which name sinks subscribe to it.
    input: String,
    /// Its topic, in this generation.
    topic: String,
    /// The table's topic.
    source_topic: String,
    /// The table, as `schema.table`.
    table: String,
    /// Where it is computed.
    location: String,
    /// What leaves.
    columns: Vec<ViewColumn>,
    /// Which rows leave; only for who gives the view.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<String>,
    created_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at_ms: Option<i64>,
    /// Whether every partition has taken up this version.
    in_force: bool,
    /// Whether every partition has taken it up to the end.
    complete: bool,
    /// Rows that the view holds, as last reported.
    rows: i64,
    /// Rows of the table that were looked at to bring the view to this version, of `total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<i64>,
    /// Seconds until it is complete, at the speed so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<i64>,
    /// Its partitions.
    partitions: Vec<PartitionStatus>,
    /// Its sinks.
    sinks: Vec<SinkStatus>,
}

/// A column that leaves.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ViewColumn {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<String>,
}

/// How a partition of a view fares.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PartitionStatus {
    partition: i64,
    /// The processor's task.
    task: String,
    /// The task's state, in Kafka Connect's words.
    state: &'static str,
    worker_id: String,
    /// What the processor does with the view: `filling`, `live`, `suspended`, `expired` or `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    view_state: Option<String>,
    /// The view's version that is in force here.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<i64>,
    rows: i64,
    /// Rows of the table that were looked at to bring the view to this version, and how many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    filled: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<i64>,
    /// Seconds until all are looked at, at the speed so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How a sink of a view fares.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SinkStatus {
    connector: String,
    /// The task's state, in Kafka Connect's words.
    state: &'static str,
    worker_id: String,
    /// What the sink reports about this view, such as table, state, lag and latency.
    #[schema(value_type = Object)]
    input: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How far processors are with a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Rows that it holds.
    pub(crate) rows: i64,
    /// Every partition has taken up the view's version.
    pub(crate) in_force: bool,
    /// Every partition has taken it up to the end.
    pub(crate) complete: bool,
    /// Every partition has let go of the view's topic.
    pub(crate) is_gone: bool,
}

/// Returns how far processors are with a view.
pub(crate) async fn progress(
    app: &App,
    db: &mut PgConnection,
    view: &View,
) -> Result<Progress, Error> {
    let tasks = tasks::processors(db, &view.source_topic).await?;
    let parts: Vec<_> = tasks
        .iter()
        .map(|task| Part::read(app, task, view))
        .collect();
    Ok(total(view, &parts))
}

/// Returns whether every processor has committed that it writes no more to the topic of a closed
/// generation.
pub(crate) async fn has_let_go(
    app: &App,
    db: &mut PgConnection,
    closed: &Closed,
) -> Result<bool, Error> {
    let tasks = tasks::processors(db, &closed.source_topic).await?;
    Ok(tasks.iter().all(|task| {
        let part = Part::of_any_generation(app, task, &closed.view);
        match part.entry["generation"].as_i64() {
            Some(generation) => generation > closed.generation,
            None => part.has_taken_up_its_task(),
        }
    }))
}

/// Returns where the first fill of a view's generation has ended, by partition, once every partition
/// has said so.
pub(crate) async fn fill_ends(
    app: &App,
    db: &mut PgConnection,
    view: &View,
) -> Result<Option<BTreeMap<i32, i64>>, Error> {
    let tasks = tasks::processors(db, &view.source_topic).await?;
    let ends: BTreeMap<i32, i64> = (0..)
        .zip(&tasks)
        .filter_map(|(partition, task)| {
            let end = Part::read(app, task, view).entry["fill_end"].as_i64()?;
            Some((partition, end))
        })
        .collect();
    let complete = usize::try_from(view.partitions).is_ok_and(|wanted| ends.len() == wanted);
    Ok(complete.then_some(ends))
}

/// Returns the fingerprint of the master secret with which a processor computes a view's keys or
/// hashes, if one has taken up the view and says so.
pub(crate) async fn fingerprint(
    app: &App,
    db: &mut PgConnection,
    view: &View,
) -> Result<Option<String>, Error> {
    let tasks = tasks::processors(db, &view.source_topic).await?;
    Ok(tasks.iter().find_map(|task| {
        let part = Part::read(app, task, view);
        if part.view_state() == Some("suspended") {
            return None;
        }
        Some(part.entry["secret_fingerprint"].as_str()?.to_owned())
    }))
}

/// Returns whether a partition of a view cannot go on because of the view itself.
pub(crate) async fn is_suspended(app: &App, view: &View) -> Result<bool, Error> {
    let mut db = app.store.acquire().await?;
    let tasks = tasks::processors(&mut db, &view.source_topic).await?;
    let mut parts = tasks.iter().map(|task| Part::read(app, task, view));
    Ok(parts.any(|part| part.view_state() == Some("suspended")))
}

/// Returns whether every sink of a view has forgotten what the view's generation withdrew.
pub(crate) async fn sinks_have_swept(app: &App, view: &View) -> Result<bool, Error> {
    let mut db = app.store.acquire().await?;
    let sinks = connectors::sinks_of_view(&mut db, &view.name).await?;
    drop(db);
    for sink in sinks {
        let status = connect_status::reported(app, &sink).await?;
        let input = status.as_ref().and_then(|status| own_input(view, status));
        let swept = input.and_then(|input| input["swept_generation"].as_i64());
        if swept.is_none_or(|swept| swept < view.generation) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sum(parts: &[Part], field: &str) -> Option<i64> {
    parts.iter().map(|part| part.entry[field].as_i64()).sum()
}

fn total(view: &View, parts: &[Part]) -> Progress {
    let in_force = |part: &Part| part.version.is_some_and(|version| version >= view.version);
    let complete = |part: &Part| in_force(part) && part.view_state() == Some("live");
    Progress {
        rows: parts.iter().map(|part| part.rows).sum(),
        in_force: !parts.is_empty() && parts.iter().all(in_force),
        complete: !parts.is_empty() && parts.iter().all(complete),
        is_gone: parts.iter().all(|part| part.has_let_go(view)),
    }
}

/// Returns a view and how it fares, as far as a caller may know.
pub(crate) async fn of(app: &App, caller: &Caller, view: &View) -> Result<ViewStatus, Error> {
    let mut db = app.store.acquire().await?;
    let gives = caller.sees(&view.owner);
    let tasks = if view.state == views::GONE {
        Vec::new()
    } else {
        tasks::processors(&mut db, &view.source_topic).await?
    };
    let parts: Vec<_> = tasks
        .iter()
        .map(|task| Part::read(app, task, view))
        .collect();
    let progress = total(view, &parts);
    let sinks = connectors::sinks_of_view(&mut db, &view.name).await?;
    drop(db);
    let mut sink_statuses = Vec::new();
    for sink in sinks
        .iter()
        .filter(|sink| gives || caller.sees(&sink.owner))
    {
        let status = connect_status::reported(app, sink).await?;
        let is_own = caller.sees(&sink.owner);
        sink_statuses.push(sink_status(&sink.name, is_own, view, status.as_ref()));
    }
    let document = &view.document.0;
    Ok(ViewStatus {
        name: view.name.clone(),
        title: document.title.clone(),
        share: document.share.clone(),
        owner: view.owner.clone(),
        subscriber: view.subscriber.clone(),
        state: view.state.clone(),
        reason: view.reason.clone(),
        version: view.version,
        generation: view.generation,
        input: app.cluster.view_alias(&view.name),
        topic: view.compiled.topic.clone(),
        source_topic: view.source_topic.clone(),
        table: view.compiled.table.id.to_string(),
        location: view.location.clone(),
        columns: document.columns.iter().map(ViewColumn::from).collect(),
        condition: document.where_.clone().filter(|_| gives),
        valid_from: document.valid_from.clone(),
        valid_until: document.valid_until.clone(),
        created_at_ms: view.created_at_ms,
        revoked_at_ms: view.revoked_at_ms,
        in_force: progress.in_force,
        complete: progress.complete,
        rows: progress.rows,
        filled: sum(&parts, "filled").filter(|_| gives),
        total: sum(&parts, "total").filter(|_| gives),
        eta_seconds: parts
            .iter()
            .filter_map(|part| part.entry["eta_seconds"].as_i64())
            .max(),
        partitions: parts
            .into_iter()
            .zip(0..)
            .map(|(part, n)| part.show(n, gives))
            .collect(),
        sinks: sink_statuses,
    })
}

impl From<&Column> for ViewColumn {
    fn from(column: &Column) -> Self {
        Self {
            name: column.name.clone(),
            mask: column.mask.clone(),
        }
    }
}

/// What a processor says about a view.
struct Part {
    task: String,
    task_version: i64,
    status: Option<StatusRecord>,
    /// The view's entry in the details.
    entry: Value,
    version: Option<i64>,
    rows: i64,
}

impl Part {
    fn read(app: &App, task: &Row, view: &View) -> Self {
        let mut part = Self::of_any_generation(app, task, &view.name);
        if part.entry["generation"] != view.generation {
            part.entry = Value::Null;
            part.version = None;
            part.rows = 0;
        }
        part
    }

    fn of_any_generation(app: &App, task: &Row, view: &str) -> Self {
        let status = app.live.status(&task.location, &task.id);
        let status = status.filter(|status| connect_status::is_about(status, task.first_version));
        let entries = status
            .as_ref()
            .and_then(|status| status.details["views"].as_array());
        let own = entries
            .into_iter()
            .flatten()
            .find(|entry| entry["name"] == view);
        let entry = own.cloned().unwrap_or_default();
        Self {
            task: task.id.clone(),
            task_version: task.version,
            version: entry["version"].as_i64(),
            rows: entry["rows"].as_i64().unwrap_or_default(),
            status,
            entry,
        }
    }

    fn view_state(&self) -> Option<&str> {
        self.entry["state"].as_str()
    }

    /// Returns whether the processor has committed that it writes no more to the view's topic.
    fn has_let_go(&self, view: &View) -> bool {
        match self.version {
            Some(version) => {
                version >= view.version && matches!(self.view_state(), Some("gone" | "revoked"))
            }
            None => self.has_taken_up_its_task(),
        }
    }

    fn has_taken_up_its_task(&self) -> bool {
        self.status.as_ref().is_some_and(|status| {
            i64::try_from(status.version).is_ok_and(|version| version >= self.task_version)
        })
    }

    fn show(self, partition: i64, gives: bool) -> PartitionStatus {
        let task_error = self.status.as_ref().and_then(connect_status::trace);
        let view_error = match &self.entry["error"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            report => Some(
                report["message"]
                    .as_str()
                    .map_or_else(|| report.to_string(), str::to_owned),
            ),
        };
        let error = view_error.or(task_error);
        let error = if gives {
            error
        } else {
            error.map(|_| "an error on the side of who gives this view".to_owned())
        };
        let details = self.status.as_ref().map(|status| &status.details);
        // How many rows the table has and how often it changes is the giver's to know.
        let number = |name: &str| {
            details
                .filter(|_| gives)
                .and_then(|details| details[name].as_i64())
        };
        let entry = |name: &str| self.entry[name].as_i64().filter(|_| gives);
        PartitionStatus {
            partition,
            state: self
                .status
                .as_ref()
                .map_or("UNASSIGNED", |s| connect_status::name(s.state)),
            worker_id: self
                .status
                .as_ref()
                .map_or_else(String::new, |s| s.worker_id.clone()),
            view_state: self.view_state().map(str::to_owned),
            version: self.version,
            rows: self.rows,
            filled: entry("filled"),
            total: entry("total"),
            eta_seconds: self.entry["eta_seconds"].as_i64(),
            next_offset: number("next_offset"),
            end_offset: number("end_offset"),
            error,
            task: self.task,
        }
    }
}

fn own_input<'a>(view: &View, status: &'a StatusRecord) -> Option<&'a Value> {
    let inputs = status.details["inputs"].as_array();
    inputs.into_iter().flatten().find(|input| {
        input["view"] == view.name.as_str()
            || input["topic"] == view.compiled.topic.as_str()
            || input["name"].as_str().is_some_and(|name| {
                name.rsplit_once(".view.")
                    .is_some_and(|(_, view_name)| view_name == view.name)
            })
    })
}

/// Shows a sink. What its whole task says may be about other views, which are nobody's business but
/// its owner's.
fn sink_status(
    connector: &str,
    is_own: bool,
    view: &View,
    status: Option<&StatusRecord>,
) -> SinkStatus {
    let own = status.and_then(|status| own_input(view, status));
    let own_error = own.and_then(|input| match &input["error"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        report => report["message"].as_str().map(str::to_owned),
    });
    let trace = status.and_then(connect_status::trace);
    let error = if is_own {
        own_error.or(trace)
    } else {
        own_error
            .or(trace)
            .map(|_| "an error on the side of who receives this view".to_owned())
    };
    let mut input = own.cloned().unwrap_or_default();
    if !is_own && let Some(fields) = input.as_object_mut() {
        fields.remove("error");
    }
    SinkStatus {
        connector: connector.to_owned(),
        state: status.map_or("UNASSIGNED", |status| connect_status::name(status.state)),
        worker_id: status
            .filter(|_| is_own)
            .map_or_else(String::new, |status| status.worker_id.clone()),
        input,
        error,
    }
}
