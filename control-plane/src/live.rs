//! What workers report, in memory: states of tasks, answers to requests, and captured tables.
//!
//! Each replica follows the status and tables topics of every location by itself, so any replica can
//! answer and none asks another. Nothing here is durable: a replica that starts has read it all again
//! before it says that it is ready. A reader that fails is opened anew and reads from the beginning
//! into a fresh map, which replaces the old one at the end; until then the old one answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use hutong_transport::admin::{Admin, TopicSpec};
use hutong_transport::names::Cluster;
use hutong_transport::reader::{CompactedReader, Event, Message};
use hutong_transport::record::{
    AnswerRecord, Record, StatusRecord, TableRecord, TaskKey, TaskState,
};
use hutong_transport::{Error, KafkaConfig};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// How long to wait before Kafka is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of all locations.
#[derive(Debug)]
pub(crate) struct Live {
    /// A few lines at a time, never across an await.
    state: RwLock<BTreeMap<String, Location>>,
    /// Who waits for an answer; likewise.
    waiting: Mutex<HashMap<String, oneshot::Sender<AnswerRecord>>>,
    changed: watch::Sender<()>,
}

/// After how long without a word of its worker a task counts as unassigned. Workers report every few
/// seconds; a restarted one is back within ten, another takes over within the session timeout.
const SILENCE_MAX: Duration = Duration::from_secs(45);

#[derive(Debug)]
struct Location {
    tasks: HashMap<String, Reported>,
    newest: Option<Newest>,
    tables: BTreeMap<String, TableRecord>,
    /// Why its topics are not followed yet; `None` once they are.
    tasks_missing: Option<String>,
    tables_missing: Option<String>,
}

#[derive(Clone, Debug)]
struct Reported {
    status: StatusRecord,
    /// When, by the broker's clock.
    timestamp_ms: i64,
}

/// The newest report of a location: by it, and by the time since it came, the broker's clock is
/// known without comparing it with ours.
#[derive(Clone, Copy, Debug)]
struct Newest {
    timestamp_ms: i64,
    arrived: Instant,
}

/// A captured table and where.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// The location of its connector.
    pub(crate) location: String,
    /// The table.
    pub(crate) record: TableRecord,
}

impl Live {
    /// Returns what is known before anything was read.
    pub(crate) fn new(locations: &[String]) -> Self {
        let unread = |location: &String| {
            let missing = Some("not read yet".to_owned());
            let unread = Location {
                tasks: HashMap::new(),
                newest: None,
                tables: BTreeMap::new(),
                tasks_missing: missing.clone(),
                tables_missing: missing,
            };
            (location.clone(), unread)
        };
        Self {
            state: RwLock::new(locations.iter().map(unread).collect()),
            waiting: Mutex::new(HashMap::new()),
            changed: watch::Sender::new(()),
        }
    }

    /// Returns what is not there yet, for people; empty once all topics have been read.
    pub(crate) fn waiting_for(&self) -> Vec<String> {
        let state = self.state.read().expect("no holder panics");
        let mut waiting = Vec::new();
        for (name, location) in &*state {
            for (what, missing) in [
                ("states", &location.tasks_missing),
                ("tables", &location.tables_missing),
            ] {
                waiting.extend(
                    missing
                        .iter()
                        .map(|why| format!("{what} of location {name}: {why}")),
                );
            }
        }
        waiting
    }

    /// Returns what a location last reported about a task; UNASSIGNED if that is too long ago.
    pub(crate) fn status(&self, location: &str, task: &str) -> Option<StatusRecord> {
        let state = self.state.read().expect("no holder panics");
        let location = state.get(location)?;
        let reported = location.tasks.get(task)?;
        let mut status = reported.status.clone();
        if location.silence(reported) > SILENCE_MAX && status.state != TaskState::Deleted {
            status.state = TaskState::Unassigned;
        }
        Some(status)
    }

    /// Returns why a task may have fared otherwise since it was reported, for people: its location
    /// cannot be heard, or its worker says nothing.
    pub(crate) fn doubt(&self, location: &str, task: &str) -> Option<String> {
        let state = self.state.read().expect("no holder panics");
        let known = state.get(location)?;
        if let Some(why) = &known.tasks_missing {
            return Some(format!(
                "what workers at location {location} report is not known: {why}"
            ));
        }
        let reported = known.tasks.get(task)?;
        let silence = known.silence(reported);
        (silence > SILENCE_MAX && reported.status.state != TaskState::Deleted).then(|| {
            format!(
                "worker {} at location {location} has not reported for {} s: it does not run, or it \
                 cannot reach Kafka",
                reported.status.worker_id,
                silence.as_secs()
            )
        })
    }

    /// Returns the table whose changes go to a topic, as its connector's location announced it. Other
    /// locations may have announced the topic as well: one where the connector ran before, or one that
    /// has no business with it. Where no connector captures it any more, any location will do.
    pub(crate) fn table(&self, topic: &str, location: Option<&str>) -> Option<Captured> {
        let state = self.state.read().expect("no holder panics");
        let is_meant = |name: &str| location.is_none_or(|location| location == name);
        let meant = state.iter().filter(|(name, _)| is_meant(name));
        meant.into_iter().find_map(|(location, known)| {
            Some(Captured {
                location: location.clone(),
                record: known.tables.get(topic)?.clone(),
            })
        })
    }

    /// Returns all captured tables, by location and topic.
    pub(crate) fn tables(&self) -> Vec<Captured> {
        let state = self.state.read().expect("no holder panics");
        let mut all = Vec::new();
        for (location, known) in &*state {
            all.extend(known.tables.values().map(|record| Captured {
                location: location.clone(),
                record: record.clone(),
            }));
        }
        all
    }

    /// Returns whether the tables of all locations have been read.
    pub(crate) fn tables_known(&self) -> bool {
        let state = self.state.read().expect("no holder panics");
        state
            .values()
            .all(|location| location.tables_missing.is_none())
    }

    /// Waits for the answer to a request. Call it before the request can be seen by anyone.
    pub(crate) fn await_answer(&self, request: &str) -> oneshot::Receiver<AnswerRecord> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().expect("no holder panics");
        waiting.insert(request.to_owned(), sender);
        receiver
    }

    /// Stops waiting for an answer.
    pub(crate) fn forget(&self, request: &str) {
        self.waiting
            .lock()
            .expect("no holder panics")
            .remove(request);
    }

    /// Tells when anything was reported.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn edit(&self, location: &str, edit: impl FnOnce(&mut Location)) {
        let mut state = self.state.write().expect("no holder panics");
        if let Some(location) = state.get_mut(location) {
            edit(location);
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn answer(&self, answer: AnswerRecord) {
        let mut waiting = self.waiting.lock().expect("no holder panics");
        if let Some(sender) = waiting.remove(&answer.request) {
            // Whoever waited may have given up in this moment.
            drop(sender.send(answer));
        }
    }
}

impl Location {
    /// Returns the time since a report, by the broker's clock.
    fn silence(&self, reported: &Reported) -> Duration {
        let Some(newest) = self.newest else {
            return Duration::ZERO;
        };
        let behind_ms = newest.timestamp_ms.saturating_sub(reported.timestamp_ms);
        Duration::from_millis(behind_ms.max(0).unsigned_abs()) + newest.arrived.elapsed()
    }

    fn heard(&mut self, timestamp_ms: i64) {
        if self
            .newest
            .is_none_or(|newest| newest.timestamp_ms <= timestamp_ms)
        {
            self.newest = Some(Newest {
                timestamp_ms,
                arrived: Instant::now(),
            });
        }
    }
}

/// How to follow.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    pub(crate) cluster: Cluster,
    pub(crate) kafka: KafkaConfig,
    pub(crate) admin: Arc<Admin>,
    pub(crate) live: Arc<Live>,
}

impl Follower {
    /// Starts following all locations, for as long as the set lives. Makes the topics of a location
    /// where they are missing.
    pub(crate) fn start(&self, locations: &[String], tasks: &mut JoinSet<()>) {
        for location in locations {
            let follower = self.clone();
            let name = location.clone();
            tasks.spawn(async move { follower.follow_states(&name).await });
            let follower = self.clone();
            let name = location.clone();
            tasks.spawn(async move { follower.follow_tables(&name).await });
        }
    }

    async fn follow_states(&self, location: &str) {
        loop {
            let Err(error) = self.read_states(location).await;
            let why = crate::error::chain(&error);
            tracing::warn!(
                location,
                error = why,
                "states are not followed, trying again"
            );
            self.live
                .edit(location, |known| known.tasks_missing = Some(why));
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_tables(&self, location: &str) {
        loop {
            let Err(error) = self.read_tables(location).await;
            let why = crate::error::chain(&error);
            tracing::warn!(
                location,
                error = why,
                "tables are not followed, trying again"
            );
            self.live
                .edit(location, |known| known.tables_missing = Some(why));
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn read_states(&self, location: &str) -> Result<std::convert::Infallible, Error> {
        self.admin
            .ensure_topic(&TopicSpec::schemas(&self.cluster))
            .await?;
        self.admin
            .ensure_topic(&TopicSpec::tasks(&self.cluster, location))
            .await?;
        self.admin
            .ensure_topic(&TopicSpec::positions(&self.cluster, location))
            .await?;
        self.admin
            .ensure_topic(&TopicSpec::status(&self.cluster, location))
            .await?;
        let mut reader = CompactedReader::open(&self.kafka, &self.cluster.status(location)).await?;
        let mut fresh = Some(HashMap::new());
        loop {
            match reader.next().await? {
                Event::Record(message) => self.take_state(location, &message, fresh.as_mut()),
                Event::End => {
                    if let Some(fresh) = fresh.take() {
                        self.live.edit(location, |known| {
                            known.tasks = fresh;
                            known.tasks_missing = None;
                        });
                    }
                }
            }
        }
    }

    fn take_state(
        &self,
        location: &str,
        message: &Message,
        fresh: Option<&mut HashMap<String, Reported>>,
    ) {
        match message.key.as_deref().and_then(TaskKey::parse) {
            Some(TaskKey::Task(task)) => {
                let status = message
                    .value
                    .as_deref()
                    .and_then(|value| decode(location, value));
                if message.value.is_some() && status.is_none() {
                    return;
                }
                let timestamp_ms = message.timestamp_ms;
                let put = |tasks: &mut HashMap<String, Reported>| match status {
                    Some(status) => tasks.insert(
                        task,
                        Reported {
                            status,
                            timestamp_ms,
                        },
                    ),
                    None => tasks.remove(&task),
                };
                if let Some(fresh) = fresh {
                    put(fresh);
                    self.live.edit(location, |known| known.heard(timestamp_ms));
                } else {
                    self.live.edit(location, |known| {
                        known.heard(timestamp_ms);
                        put(&mut known.tasks);
                    });
                }
            }
            Some(TaskKey::Request(_)) => {
                if let Some(answer) = message.value.as_deref().and_then(|v| decode(location, v)) {
                    self.live.answer(answer);
                }
            }
            None => {}
        }
    }

    async fn read_tables(&self, location: &str) -> Result<std::convert::Infallible, Error> {
        self.admin
            .ensure_topic(&TopicSpec::tables(&self.cluster, location))
            .await?;
        let mut reader = CompactedReader::open(&self.kafka, &self.cluster.tables(location)).await?;
        let mut fresh = Some(BTreeMap::new());
        loop {
            match reader.next().await? {
                Event::Record(message) => self.take_table(location, &message, fresh.as_mut()),
                Event::End => {
                    if let Some(fresh) = fresh.take() {
                        self.live.edit(location, |known| {
                            known.tables = fresh;
                            known.tables_missing = None;
                        });
                    }
                }
            }
        }
    }

    fn take_table(
        &self,
        location: &str,
        message: &Message,
        fresh: Option<&mut BTreeMap<String, TableRecord>>,
    ) {
        let Some(Ok(topic)) = message.key.as_deref().map(std::str::from_utf8) else {
            return;
        };
        let table = message
            .value
            .as_deref()
            .and_then(|value| decode(location, value));
        if message.value.is_some() && table.is_none() {
            return;
        }
        if table
            .as_ref()
            .is_some_and(|record: &TableRecord| !is_whole(record))
        {
            tracing::warn!(
                location,
                topic,
                "a reported table whose key is none of its columns is skipped"
            );
            return;
        }
        let put = |tables: &mut BTreeMap<String, TableRecord>| match table {
            Some(table) => tables.insert(topic.to_owned(), table),
            None => tables.remove(topic),
        };
        match fresh {
            Some(fresh) => drop(put(fresh)),
            None => self
                .live
                .edit(location, |known| drop(put(&mut known.tables))),
        }
    }
}

/// Returns whether a table's key names columns that it has, on which whoever reads it relies.
fn is_whole(record: &TableRecord) -> bool {
    let columns = record.table.columns.len();
    record.table.key.iter().all(|index| *index < columns)
}

/// Reads a record; one that cannot be read is reported and skipped, because a location that runs a
/// newer release must not take the others' states away.
fn decode<R: Record>(location: &str, value: &[u8]) -> Option<R> {
    match R::decode(value) {
        Ok(record) => Some(record),
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::warn!(location, error, "a reported record is skipped");
            None
        }
    }
}
