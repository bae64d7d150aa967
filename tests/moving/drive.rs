//! Carries a schedule out, and keeps the oracle's books.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use hutong_local::testkit::{PATIENCE, until};
use hutong_transport::admin::{Admin, Isolation};
use serde_json::{Value, json};

use super::check::{Bound, Checker, topic_prefix};
use super::compare;
use super::department::Workload;
use super::model::{EXTRAS, HIDDEN, History, Policy, VIEWS, Version, View};
use super::step::{Action, Killed, Kind, Place, Step};
use super::table;
use super::tail::Tail;
use crate::exactly_once::mortal::{Mortal, Victim};
use crate::world::{ensure, texts};

/// The share to which all views belong.
const SHARE: &str = "moving";
const TABLES: &str = "reg\\.(person|account|scrap)";
const TABLES_AND_EXTRA: &str = "reg\\.(person|account|scrap|extra)";

/// A run on its way.
pub(super) struct Drive {
    pub(super) stand: Mortal,
    pub(super) tail: Tail,
    pub(super) workload: Workload,
    pub(super) checker: Checker,
    pub(super) performed: BTreeMap<Kind, usize>,
    /// Rows and changes that comparisons have compared.
    pub(super) compared: usize,
    histories: BTreeMap<View, History>,
    bounds: Vec<Bound>,
    /// Versions that are known to be in force.
    in_force: BTreeSet<(View, u64)>,
    key: u32,
    has_extra: bool,
}

impl Drive {
    pub(super) fn new(stand: Mortal, tail: Tail, workload: Workload) -> Self {
        Self {
            stand,
            tail,
            workload,
            checker: Checker::default(),
            performed: BTreeMap::new(),
            compared: 0,
            histories: BTreeMap::new(),
            bounds: Vec::new(),
            in_force: BTreeSet::new(),
            key: 1,
            has_extra: false,
        }
    }

    /// Takes a step.
    pub(super) async fn take(&mut self, step: &Step) -> Result<()> {
        match &step.action {
            Action::Create(view, policy) => self.create(*view, policy, step.waits).await?,
            Action::Change(view, policy) => self.change(*view, policy, step.waits).await?,
            Action::ChangeAndKill(view, policy, place) => {
                self.arm(*place)?;
                self.change(*view, policy, false).await?;
                self.kill_held(*place).await?;
            }
            Action::Rotate => self.rotate(step.waits).await?,
            Action::Revoke(view) => self.revoke(*view, step.waits).await?,
            Action::Source(sql) => self.at_source(sql).await?,
            Action::AddTable => self.capture(true).await?,
            Action::AddTableAndKill(place) => {
                self.arm(*place)?;
                self.capture(true).await?;
                self.kill_held(*place).await?;
            }
            Action::RemoveTable => {
                self.capture(false).await?;
                // Else the source might see that nothing has changed.
                self.wait_removed().await?;
            }
            Action::Kill(killed) => {
                let _is_open = self.stand.kill(victim(*killed)).await?;
            }
            Action::LoseState => self.lose_state()?,
            Action::Compare => self.compare().await?,
        }
        self.note_in_force().await?;
        *self.performed.entry(step.kind).or_default() += 1;
        Ok(())
    }

    fn document(&self, view: View, policy: &Policy) -> Value {
        let table = format!("reg.{}", view.table);
        json!({
            "name": view.name, "share": SHARE, "subscriber": "subscriber", "location": "center",
            "source": { "topic": self.stand.world.topic("reg", &table) },
            "columns": policy.document_columns(), "where": policy.condition.sql(),
        })
    }

    async fn create(&mut self, view: View, policy: &Policy, waits: bool) -> Result<()> {
        let document = self.document(view, policy);
        let body = self.insist("POST", "/api/v1/views", Some(document)).await?;
        if !self.histories.contains_key(&view) {
            let world = &self.stand.world;
            let mut sink = world.sink(view.name, &format!("in_{}", view.name));
            sink.insert("hutong.location".to_owned(), json!("subscriber"));
            let name = format!("sink-{}", view.name);
            world.create_connector(&name, sink).await?;
        }
        self.enter(view, policy, &body)?;
        self.wait(view, waits).await
    }

    async fn change(&mut self, view: View, policy: &Policy, waits: bool) -> Result<()> {
        let document = self.document(view, policy);
        let path = format!("/api/v1/views/{}", view.name);
        let body = self.insist("PUT", &path, Some(document)).await?;
        let before = self.histories.get(&view).and_then(History::newest);
        let (_, before) = before.context("a view that was never made")?;
        let withdraws = before.policy.columns.iter().any(|column| {
            let now = policy.columns.iter().find(|now| now.name == column.name);
            now.is_none_or(|now| now.mask.is_some() && now.mask != column.mask)
        });
        let is_closed = body["generation"].as_u64() > Some(before.generation);
        ensure(is_closed || !withdraws, || {
            format!("something is withdrawn, and the generation goes on: {body}")
        })?;
        self.enter(view, policy, &body)?;
        self.wait(view, waits).await
    }

    async fn rotate(&mut self, waits: bool) -> Result<()> {
        let path = format!("/api/v1/shares/{SHARE}/rotate-key");
        let body = self.insist("POST", &path, None).await?;
        let is_counted = body["key_version"] == self.key + 1;
        let names_it = body["views"] == json!([HIDDEN.name]);
        ensure(is_counted && names_it, || format!("a rotation: {body}"))?;
        self.key += 1;
        let status = self.status(HIDDEN).await?;
        let newest = self.histories.get(&HIDDEN).and_then(History::newest);
        let policy = newest.context("no hidden view")?.1.policy.clone();
        self.enter(HIDDEN, &policy, &status)?;
        self.wait(HIDDEN, waits).await
    }

    async fn revoke(&mut self, view: View, waits: bool) -> Result<()> {
        let path = format!("/api/v1/views/{}", view.name);
        self.insist("DELETE", &path, None).await?;
        let history = self.histories.get_mut(&view).context("no such view")?;
        history.is_live = false;
        if !waits {
            return Ok(());
        }
        until("a revoked view to be gone", PATIENCE, async || {
            let status = self.status(view).await?;
            let is_gone = status["state"] == "gone";
            Ok(if is_gone { Ok(()) } else { Err(status) })
        })
        .await
    }

    /// Enters a policy that the control plane has acknowledged.
    fn enter(&mut self, view: View, policy: &Policy, body: &Value) -> Result<()> {
        let number = body["version"].as_u64().context("no version")?;
        let version = Version {
            generation: body["generation"].as_u64().context("no generation")?,
            policy: policy.clone(),
            key: self.key,
        };
        let history = self.histories.entry(view).or_default();
        history.is_live = true;
        let newest = history.newest().map_or(0, |(number, _)| number);
        ensure(number > newest, || {
            format!("version {number} of {view:?} after {newest}")
        })?;
        history.versions.insert(number, version);
        Ok(())
    }

    /// Calls the API until it accepts: a broker may just have been killed, a topic may not be gone, a
    /// column not be known yet.
    async fn insist(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        until("the API to accept a change", PATIENCE, async || {
            let api = self.stand.world.api();
            let answer = api.platform(method, path, body.clone()).await?;
            Ok(match answer.status {
                200..300 => Ok(answer.body),
                _ => Err(format!("{method} {path}: {answer:?}")),
            })
        })
        .await
    }

    async fn status(&self, view: View) -> Result<Value> {
        let path = format!("/api/v1/views/{}", view.name);
        let answer = self.stand.world.api().platform("GET", &path, None).await?;
        answer.ok()
    }

    async fn wait(&self, view: View, waits: bool) -> Result<()> {
        if !waits {
            return Ok(());
        }
        let newest = self.histories[&view].newest().map(|(number, _)| number);
        until("a view to be complete", PATIENCE, async || {
            let status = self.status(view).await?;
            let is_it = status["version"].as_u64() == newest && status["complete"] == true;
            Ok(if is_it { Ok(()) } else { Err(status) })
        })
        .await
    }

    /// Where a version is in force in all partitions, no record may follow under an earlier one.
    async fn note_in_force(&mut self) -> Result<()> {
        let admin = Admin::new(&self.stand.world.kafka)?;
        for (view, history) in &self.histories {
            let Some((version, _)) = history.newest().filter(|_| history.is_live) else {
                continue;
            };
            if self.in_force.contains(&(*view, version)) {
                continue;
            }
            let status = self.status(*view).await?;
            if status["version"] != version || status["in_force"] != true {
                continue;
            }
            self.in_force.insert((*view, version));
            let prefix = topic_prefix(&self.stand.world, *view);
            let topics = self.tail.topics().into_iter();
            for topic in topics.filter(|topic| topic.starts_with(&prefix)) {
                // A closed generation may be deleted at any moment.
                let ends = admin.end_offsets(&topic, Isolation::ReadUncommitted).await;
                let bounds = ends.unwrap_or_default().into_iter();
                self.bounds.extend(bounds.map(|(partition, offset)| Bound {
                    partition: (topic.clone(), partition),
                    offset,
                    version,
                }));
            }
        }
        Ok(())
    }

    async fn at_source(&self, sql: &str) -> Result<()> {
        until("the source to take a statement", PATIENCE, async || {
            let client = self.stand.world.department.connect().await?;
            // A deadlock with the sessions.
            Ok(client.batch_execute(sql).await)
        })
        .await
        .with_context(|| sql.to_owned())
    }

    /// Puts the additional table into the running connector, or takes it out.
    async fn capture(&mut self, with_extra: bool) -> Result<()> {
        let tables = if with_extra { TABLES_AND_EXTRA } else { TABLES };
        let config = source(&self.stand, tables);
        let path = "/connectors/reg/config";
        let api = self.stand.world.api();
        let answer = api.connect("PUT", path, Some(config)).await?;
        answer.ok()?;
        self.has_extra = with_extra;
        Ok(())
    }

    async fn wait_removed(&self) -> Result<()> {
        let published =
            "select tablename::text from pg_publication_tables where tablename = 'extra'";
        until("the table to be taken out", PATIENCE, async || {
            let left = texts(&self.stand.world.department, published).await?;
            Ok(if left.is_empty() {
                Ok(())
            } else {
                Err("it is published")
            })
        })
        .await
    }

    fn arm(&self, place: Place) -> Result<()> {
        for name in ["release".to_owned(), format!("{}.taken", place.file)] {
            let _none_before = fs::remove_file(self.stand.faults.join(name));
        }
        fs::write(self.stand.faults.join(place.file), place.whose)?;
        Ok(())
    }

    /// Kills the worker that is held at a place, and starts it again.
    async fn kill_held(&mut self, place: Place) -> Result<()> {
        let taken = self.stand.faults.join(format!("{}.taken", place.file));
        until("a worker to come to a place", PATIENCE, async || {
            Ok(if taken.exists() {
                Ok(())
            } else {
                Err(place.file)
            })
        })
        .await?;
        let killed = if place.whose.starts_with("source") {
            Victim::SourceWorker
        } else {
            Victim::ProcessorWorker
        };
        let (name, location) = killed.worker().context("a worker has a name")?;
        self.stand.world.platform.kill(name)?;
        self.stand.world.platform.launch_worker(name, location)
    }

    fn lose_state(&mut self) -> Result<()> {
        let (name, location) = Victim::ProcessorWorker.worker().context("it has a name")?;
        let platform = &mut self.stand.world.platform;
        platform.kill(name)?;
        fs::remove_dir_all(platform.folder().join(format!("{name}-data")))?;
        platform.launch_worker(name, location)
    }

    /// Waits until the source has made durable whatever the department has committed by now.
    async fn wait_delivered(&self) -> Result<()> {
        let department = &self.stand.world.department;
        let end = texts(department, "select pg_current_wal_lsn()::text").await?;
        let end = end.first().context("a log has an end")?;
        let confirmed = format!(
            "select confirmed_flush_lsn::text from pg_replication_slots
             where slot_name = 'reg_{}' and confirmed_flush_lsn >= '{end}'",
            department.name
        );
        until(
            "the source to have delivered everything",
            compare::CATCH_UP,
            async || {
                let confirmed = texts(department, &confirmed).await?;
                Ok(confirmed.first().map(|_| ()).ok_or("not yet"))
            },
        )
        .await
    }

    /// Lets everything come to rest and compares it.
    async fn compare(&mut self) -> Result<()> {
        let _pause = self.workload.pause().await;
        self.wait_delivered().await?;
        let known: Vec<View> = VIEWS
            .into_iter()
            .filter(|view| self.histories.contains_key(view))
            .collect();
        for view in &known {
            let history = &self.histories[view];
            let (_, newest) = history.newest().context("a view without versions")?;
            let world = &self.stand.world;
            if !history.is_live {
                compare::empty(world, *view).await?;
            } else if *view != EXTRAS || self.has_extra {
                self.compared += compare::view(world, *view, &newest.policy).await?;
                compare::nothing_withdrawn_in_table(world, *view, &newest.policy).await?;
            }
        }
        self.note_in_force().await?;
        self.tail.catch_up().await?;
        let (world, checker) = (&self.stand.world, &mut self.checker);
        checker
            .check(world, &self.tail, &self.histories, &self.bounds)
            .await?;
        for table in ["person", "account", "scrap"] {
            self.compared +=
                table::compare(world, &self.tail, &mut checker.schemas, table, true).await?;
        }
        if self.has_extra {
            self.compared +=
                table::compare(world, &self.tail, &mut checker.schemas, "extra", false).await?;
        }
        for view in known {
            if view != EXTRAS || self.has_extra {
                let (schemas, history) = (&mut checker.schemas, &self.histories[&view]);
                self.compared += compare::topics(world, &self.tail, schemas, view, history).await?;
            }
        }
        Ok(())
    }
}

fn victim(killed: Killed) -> Victim {
    match killed {
        Killed::Source => Victim::SourceWorker,
        Killed::Processor => Victim::ProcessorWorker,
        Killed::Sink => Victim::SinkWorker,
        Killed::ControlPlane => Victim::ControlPlane,
        Killed::Broker => Victim::Broker,
    }
}

/// Returns the configuration of the source connector.
pub(super) fn source(stand: &Mortal, tables: &str) -> Value {
    let mut source = stand.world.source("reg", tables);
    source.insert("hutong.location".to_owned(), json!("department"));
    source.insert("topic.creation.default.partitions".to_owned(), json!("2"));
    Value::Object(source)
}
