//! Which tasks this worker has, and what it does when that changes.
//!
//! ```text
//!   group (transport) ── assigned, revoked, lost ──▶ ┌───────────┐ ── give up, abort ─▶ supervisors
//!   followers of the tasks topic ── records, end ──▶ │ ownership │ ── newest record ──▶ (one a task)
//!   clock ── is what we know still current? ───────▶ └───────────┘ ── requests ───────▶ answers
//! ```
//!
//! Owning a partition means running the tasks in it. On assignment its records are read to the end
//! before any of its tasks starts, since a record may be followed by one that pauses or deletes the
//! task. On revocation its tasks stop in order, then the group is told. On loss they are aborted:
//! another worker may have them already, and its fencing ends what ours had begun.
//!
//! A worker that cannot follow its tasks does not know of grants that were withdrawn. So once it
//! has not reached the end of its partitions for a stated time it stops delivering, until it does.
//!
//! One task of the runtime owns all this state and handles one event after another. Handling may
//! wait for tasks to stop, at most for their deadline; events queue meanwhile. Nothing is lost if
//! the worker dies anywhere: all of it is read anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hutong_schemas::class::{Class, Classified};
use hutong_transport::admin::Isolation;
use hutong_transport::group::{GroupEvent, Membership, TaskGroup};
use hutong_transport::record::{
    ErrorReport, Record, RequestRecord, StatusRecord, TaskRecord, TaskState, VERSION, request_key,
    task_key,
};
use tokio::sync::{mpsc, watch};

use crate::folders::{self, Folders};
use crate::follower::{Followed, Follower, FollowerId, Reached};
use crate::owned::Owned;
use crate::platform::Platform;
use crate::task_table::{Change, TaskTable};
use crate::tenure::Tenure;
use crate::{Error, requests, retry};

/// How often it is asked whether the worker still follows its tasks.
const STALENESS_CHECK: Duration = Duration::from_secs(2);
/// Followed records that wait for being handled; each is a few KiB.
const FOLLOWED_MAX: usize = 64;

/// What `/readyz` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The platform's topics are not there yet or the group is not joined.
    Joining,
    /// Some partition's end has not been reached yet.
    Reading,
    /// All tasks of all partitions are known.
    Ready,
    /// The worker cannot follow its tasks and does not deliver.
    Stale,
}

/// The state of ownership. See the head of the file.
pub(crate) struct Ownership {
    platform: Arc<Platform>,
    membership: Membership,
    partitions: HashMap<i32, Partition>,
    followers: HashMap<FollowerId, Follower>,
    follower_next: FollowerId,
    followed: (mpsc::Sender<Followed>, mpsc::Receiver<Followed>),
    answers: Vec<Owned<()>>,
    may_deliver: watch::Sender<bool>,
    readiness: watch::Sender<Readiness>,
    current_at: Instant,
    folders: Folders,
}

/// A partition that is ours.
struct Partition {
    follower: FollowerId,
    table: TaskTable,
    tenures: HashMap<String, Tenure>,
}

/// Why serving ended although nobody asked.
enum End {
    /// The membership is broken.
    MustRejoin,
    /// The worker cannot go on.
    Fatal(Error),
}

impl Ownership {
    /// Runs the tasks of the partitions that the group assigns until `shutdown` is true, then gives
    /// everything up and leaves.
    ///
    /// # Errors
    ///
    /// Only what no waiting heals: another worker runs under this instance id.
    pub(crate) async fn run(
        platform: Arc<Platform>,
        readiness: watch::Sender<Readiness>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        loop {
            let mut group = tokio::select! {
                group = join(&platform) => group,
                () = crate::asked(&mut shutdown) => return Ok(()),
            };
            let mut ownership =
                Self::new(Arc::clone(&platform), group.membership(), readiness.clone());
            ownership.show_readiness();
            let ended = ownership.serve(&mut group, &mut shutdown).await;
            let all: Vec<i32> = ownership.partitions.keys().copied().collect();
            match ended {
                Ok(()) => ownership.give_up(&all).await,
                Err(_) => ownership.abort(&all).await,
            }
            group.leave().await;
            match ended {
                Err(End::MustRejoin) => tokio::time::sleep(Duration::from_secs(1)).await,
                Err(End::Fatal(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn new(
        platform: Arc<Platform>,
        membership: Membership,
        readiness: watch::Sender<Readiness>,
    ) -> Self {
        Self {
            folders: Folders::new(&platform.config.data_dir),
            membership,
            platform,
            partitions: HashMap::new(),
            followers: HashMap::new(),
            follower_next: 0,
            followed: mpsc::channel(FOLLOWED_MAX),
            answers: Vec::new(),
            may_deliver: watch::Sender::new(true),
            readiness,
            current_at: Instant::now(),
        }
    }

    async fn serve(
        &mut self,
        group: &mut TaskGroup,
        shutdown: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let mut tick = tokio::time::interval(STALENESS_CHECK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut checking: Option<Owned<bool>> = None;
        loop {
            tokio::select! {
                biased;
                () = crate::asked(shutdown) => return Ok(()),
                event = group.next() => match event {
                    Ok(event) => self.on_group(event).await,
                    Err(error) => self.on_group_error(&error).await?,
                },
                followed = self.followed.1.recv() => {
                    if let Some(followed) = followed {
                        self.on_followed(followed).await;
                    }
                }
                current = outcome(&mut checking) => {
                    checking = None;
                    self.on_checked(current);
                }
                _ = tick.tick() => {
                    if checking.is_none() {
                        checking = Some(self.begin_check());
                    }
                    self.answers.retain(|answer| !answer.is_finished());
                    self.measure();
                    self.remove_folders();
                }
            }
        }
    }

    async fn on_group(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned { partitions } => self.on_assigned(partitions),
            GroupEvent::Revoked { partitions, done } => {
                tracing::info!(?partitions, "giving up partitions of the tasks topic");
                self.give_up(&partitions).await;
                if done.send(()).is_err() {
                    tracing::warn!("the group did not wait until the partitions were given up");
                }
            }
            GroupEvent::Lost { partitions } => {
                tracing::warn!(?partitions, "lost partitions of the tasks topic");
                self.abort(&partitions).await;
            }
        }
        self.show_readiness();
    }

    async fn on_group_error(&self, error: &hutong_transport::Error) -> Result<(), End> {
        let message = crate::task::chain(error);
        match error.class() {
            Class::Transient => {
                tracing::warn!(error = message, "trouble with the group of workers");
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(())
            }
            Class::Fenced => Err(End::Fatal(Error::InstanceIdTaken {
                instance_id: self.platform.config.instance_id.clone(),
                message,
            })),
            Class::Definite | Class::Fatal => {
                tracing::error!(error = message, "the group of workers must be joined anew");
                Err(End::MustRejoin)
            }
        }
    }

    fn on_assigned(&mut self, partitions: Vec<i32>) {
        tracing::info!(?partitions, "partitions of the tasks topic are ours");
        if partitions.is_empty() {
            return;
        }
        let id = self.follower_next;
        self.follower_next += 1;
        for partition in &partitions {
            let partition_new = Partition {
                follower: id,
                table: TaskTable::default(),
                tenures: HashMap::new(),
            };
            self.partitions.insert(*partition, partition_new);
        }
        let follower = Follower::start(
            id,
            self.platform.kafka.clone(),
            self.platform.tasks_topic(),
            partitions,
            self.followed.0.clone(),
        );
        self.followers.insert(id, follower);
        // A worker without partitions knows all there is to know.
        self.current_at = Instant::now();
    }

    async fn on_followed(&mut self, followed: Followed) {
        match followed {
            Followed::Begun(id) => {
                for partition in self.partitions_of(id) {
                    self.table(partition).begin_pass();
                }
            }
            Followed::Record(id, message) => {
                let partition = message.partition;
                if self
                    .partitions
                    .get(&partition)
                    .is_some_and(|p| p.follower == id)
                {
                    let changes = self.table(partition).take(&message);
                    self.apply(partition, changes).await;
                }
            }
            Followed::End(id) => {
                for partition in self.partitions_of(id) {
                    let changes = self.table(partition).end_pass();
                    self.apply(partition, changes).await;
                }
                self.show_readiness();
            }
        }
    }

    fn partitions_of(&self, id: FollowerId) -> Vec<i32> {
        let of_it = self.partitions.iter().filter(|(_, p)| p.follower == id);
        of_it.map(|(partition, _)| *partition).collect()
    }

    fn table(&mut self, partition: i32) -> &mut TaskTable {
        let known = self.partitions.get_mut(&partition);
        &mut known.expect("callers look the partition up first").table
    }

    async fn apply(&mut self, partition: i32, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Wanted(record) => self.want(partition, record),
                Change::Gone(task) => self.forget(partition, task).await,
                Change::Asked(request) => self.answer(partition, request),
                Change::AnswerGone(request) => self.erase(request_key(&request)),
                Change::Unreadable(task, why) => self.refuse(task, why),
            }
        }
    }

    fn want(&mut self, partition: i32, record: Arc<TaskRecord>) {
        let Some(owned) = self.partitions.get_mut(&partition) else {
            return;
        };
        if let Some(tenure) = owned.tenures.get(&record.task) {
            tenure.want(record);
            return;
        }
        let tenure = Tenure::start(
            Arc::clone(&self.platform),
            self.membership.clone(),
            partition,
            Arc::clone(&record),
            self.may_deliver.subscribe(),
        );
        owned.tenures.insert(record.task.clone(), tenure);
    }

    async fn forget(&mut self, partition: i32, task: String) {
        let owned = self.partitions.get_mut(&partition);
        if let Some(tenure) = owned.and_then(|owned| owned.tenures.remove(&task)) {
            tenure.give_up().await;
            self.erase(task_key(&task));
        }
    }

    fn answer(&mut self, partition: i32, request: RequestRecord) {
        let platform = Arc::clone(&self.platform);
        let name = format!("answer to request {}", request.request);
        let desk = requests::task_of(&request).and_then(|task| {
            let tenure = self.partitions.get(&partition)?.tenures.get(&task)?;
            Some(tenure.requests())
        });
        let answer = Owned::spawn(name, requests::answer(platform, request, desk));
        self.answers.push(answer);
    }

    /// Removes a record of ours from the status topic, because what it was about is gone.
    fn erase(&mut self, key: String) {
        self.publish(key, None);
    }

    fn refuse(&mut self, task: Option<String>, why: String) {
        tracing::error!(
            task,
            error = why,
            "a record of the tasks topic cannot be read"
        );
        let Some(task) = task else {
            return;
        };
        let now_ms = self.platform.clock.now_ms();
        let status = StatusRecord {
            v: VERSION,
            task: task.clone(),
            version: 0,
            restart: 0,
            state: TaskState::Failed,
            worker_id: self.platform.config.instance_id.clone(),
            error: Some(ErrorReport {
                class: Class::Definite,
                message: why,
                hint: Some("upgrade the workers of this location".to_owned()),
            }),
            since_ms: now_ms,
            ts_ms: now_ms,
            restarts: None,
            details: serde_json::Value::Null,
        };
        self.publish(task_key(&task), Some(status.encode()));
    }

    fn publish(&mut self, key: String, value: Option<Vec<u8>>) {
        let publisher = Arc::clone(&self.platform.publisher);
        self.answers
            .push(Owned::spawn(format!("status of {key}"), async move {
                if let Err(error) = publisher.publish(key.clone(), value).await {
                    tracing::warn!(
                        key,
                        error = error.message,
                        "could not write to the status topic"
                    );
                }
            }));
    }

    /// Stops the tasks of some partitions in order, all at the same time.
    async fn give_up(&mut self, partitions: &[i32]) {
        let tenures = self.remove(partitions);
        join_all(tenures.into_iter().map(Tenure::give_up)).await;
    }

    /// Ends the tasks of some partitions where they stand. Their statuses are silent before the
    /// first of them is waited for.
    async fn abort(&mut self, partitions: &[i32]) {
        let tenures = self.remove(partitions);
        for tenure in &tenures {
            tenure.silence();
        }
        join_all(tenures.into_iter().map(Tenure::abort)).await;
    }

    fn remove(&mut self, partitions: &[i32]) -> Vec<Tenure> {
        let mut tenures = Vec::new();
        for partition in partitions {
            if let Some(partition) = self.partitions.remove(partition) {
                tenures.extend(partition.tenures.into_values());
            }
        }
        let used: BTreeSet<FollowerId> = self.partitions.values().map(|p| p.follower).collect();
        self.followers.retain(|id, _| used.contains(id));
        tenures
    }

    /// Begins to ask whether everything that is in our partitions by now has been read.
    fn begin_check(&self) -> Owned<bool> {
        let reached: Vec<watch::Receiver<Reached>> =
            self.followers.values().map(Follower::reached).collect();
        let owned: BTreeSet<i32> = self.partitions.keys().copied().collect();
        let platform = Arc::clone(&self.platform);
        Owned::spawn("check of staleness", async move {
            match are_at_end(&platform, &reached, &owned).await {
                Ok(at_end) => at_end,
                Err(error) => {
                    tracing::debug!(%error, "could not ask for the end of the tasks topic");
                    false
                }
            }
        })
    }

    fn on_checked(&mut self, current: bool) {
        let bound = self.platform.config.tasks_staleness_max;
        if current {
            self.current_at = Instant::now();
        }
        let may = current || self.current_at.elapsed() < bound;
        let changed = self.may_deliver.send_if_modified(|known| {
            let changed = *known != may;
            *known = may;
            changed
        });
        if changed && may {
            tracing::info!("following the tasks again; delivering goes on");
        } else if changed {
            tracing::error!(
                bound_seconds = bound.as_secs(),
                "the end of the tasks topic was not reached in time; nothing is delivered until it is"
            );
        }
        if changed {
            self.show_readiness();
        }
    }

    fn show_readiness(&self) {
        let complete = self.partitions.values().all(|p| p.table.is_complete());
        let readiness = match (*self.may_deliver.borrow(), complete) {
            (false, _) => Readiness::Stale,
            (true, false) => Readiness::Reading,
            (true, true) => Readiness::Ready,
        };
        self.readiness.send_replace(readiness);
    }

    /// Removes the folders of tasks that are not here, once it is known which are.
    fn remove_folders(&mut self) {
        if *self.readiness.borrow() != Readiness::Ready {
            return;
        }
        let tenures = self.partitions.values().flat_map(|p| p.tenures.keys());
        let due = self
            .folders
            .due(&tenures.cloned().collect(), Instant::now());
        if !due.is_empty() {
            let removing = tokio::task::spawn_blocking(move || folders::remove(due));
            self.answers
                .push(Owned::spawn("removal of folders", async move {
                    drop(removing.await);
                }));
        }
    }

    fn measure(&self) {
        let metrics = &self.platform.metrics;
        let set = |gauge: &prometheus::IntGaugeVec, labels: &[&str], value: usize| {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            gauge.with_label_values(labels).set(value);
        };
        set(&metrics.worker_partitions, &[], self.partitions.len());
        let mut by_state: BTreeMap<&'static str, usize> = STATES.iter().map(|s| (*s, 0)).collect();
        let tenures = self.partitions.values().flat_map(|p| p.tenures.values());
        for tenure in tenures {
            *by_state.entry(state_label(tenure.state())).or_default() += 1;
        }
        for (state, count) in by_state {
            set(&metrics.worker_tasks, &[state], count);
        }
        let delivering = usize::from(*self.may_deliver.borrow());
        set(&metrics.worker_delivering, &[], delivering);
        let used = usize::try_from(self.platform.budget.used_bytes()).unwrap_or(usize::MAX);
        set(&metrics.worker_budget_used_bytes, &[], used);
        #[expect(
            clippy::cast_precision_loss,
            reason = "a difference of clocks, in seconds"
        )]
        let ahead = self.platform.clock.broker_ahead_ms() as f64 / 1000.0;
        let gauge = &metrics.worker_clock_ahead_seconds;
        gauge.with_label_values::<&str>(&[]).set(ahead);
    }
}

const STATES: [&str; 7] = [
    "running",
    "paused",
    "stopped",
    "failed",
    "restarting",
    "unassigned",
    "deleted",
];

fn state_label(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Paused => "paused",
        TaskState::Stopped => "stopped",
        TaskState::Failed => "failed",
        TaskState::Restarting => "restarting",
        TaskState::Unassigned => "unassigned",
        TaskState::Deleted => "deleted",
    }
}

async fn join(platform: &Platform) -> TaskGroup {
    let group_id = platform.cluster.workers(&platform.location);
    let instance_id = &platform.config.instance_id;
    let topic = platform.tasks_topic();
    retry::until_done("join the group of workers", || {
        TaskGroup::join(&platform.kafka, &group_id, instance_id, &topic)
    })
    .await
}

/// Waits for the outcome of a check, for ever while none runs.
async fn outcome(checking: &mut Option<Owned<bool>>) -> bool {
    match checking {
        Some(check) => check.finished().await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

async fn are_at_end(
    platform: &Platform,
    reached: &[watch::Receiver<Reached>],
    owned: &BTreeSet<i32>,
) -> Result<bool, hutong_transport::Error> {
    let topic = platform.tasks_topic();
    let ends = platform
        .admin
        .end_offsets(&topic, Isolation::ReadCommitted)
        .await?;
    // The ends are asked for first: what is reached by now or a moment later was all there then.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut positions = Reached::new();
    for reached in reached {
        positions.extend(reached.borrow().iter().map(|(p, at)| (*p, *at)));
    }
    Ok(owned.iter().all(|partition| {
        let end = ends.get(partition).copied();
        end.is_some_and(|end| positions.get(partition).is_some_and(|at| *at >= end))
    }))
}
