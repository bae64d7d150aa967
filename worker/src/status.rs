//! What a task says about itself, and when it is published.
//!
//! The supervisor sets the state, the loop the details; a publisher of the task's own sends both to
//! `<cluster>.status.<location>`: at once when something happened that somebody waits for, else at
//! a regular interval. The status topic is LogAppendTime, so the answer to each write shows the
//! broker's clock, and a write is made at every interval even if nothing changed.
//!
//! Who has lost a task writes nothing more about it: a handle that is closed keeps what it is told
//! to itself, and the publisher ends. A worker that gives a task up in order says UNASSIGNED first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hutong_transport::record::{
    ErrorReport, Record, Restarts, StatusRecord, TaskRecord, TaskState, VERSION, task_key,
};
use serde_json::Value;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::error_policy::HEALED_AFTER;

/// Where a task's supervisor and loop say how it fares. Clones speak for the same task.
#[derive(Clone)]
pub(crate) struct StatusHandle {
    shared: Arc<Shared>,
}

struct Shared {
    worker_id: String,
    clock: Clock,
    /// A `std` mutex: held for a few assignments, never across an await.
    current: Mutex<Current>,
    /// Counts changes that shall be published at once.
    urgent: watch::Sender<u64>,
}

struct Current {
    record: StatusRecord,
    voice: Voice,
}

/// Whether what is said is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// Not until membership is proven: at the start, and after the task was fenced.
    Muted,
    /// Yes.
    Open,
    /// Never again.
    Closed,
}

impl std::fmt::Debug for StatusHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.read(|current| {
            f.debug_struct("StatusHandle")
                .field("task", &current.record.task)
                .field("state", &current.record.state)
                .finish_non_exhaustive()
        })
    }
}

/// What loops call.
impl StatusHandle {
    /// Says that the start is over and the loop works: the state becomes RUNNING, an earlier
    /// error is forgotten. Published at once. A loop calls it once per attempt, after it has fenced
    /// its predecessor and found its position.
    pub(crate) fn running(&self) {
        self.set_state(TaskState::Running, None);
    }

    /// Replaces the details. Published with the next regular write, every few seconds.
    pub(crate) fn details(&self, details: Value) {
        self.shared.write(|record| record.details = details);
    }

    /// Replaces the details and publishes them at once, for what somebody waits for: a table's
    /// state changed, a view is filled, a sink is emptied.
    pub(crate) fn details_now(&self, details: Value) {
        self.details(details);
        self.shared.urge();
    }

    /// Returns the details as they were last set, by an earlier attempt too.
    pub(crate) fn last_details(&self) -> Value {
        self.shared.read(|current| current.record.details.clone())
    }

    /// Says that the loop has taken up this version of its task. Published at once. At a start the
    /// version is the one that the attempt started with.
    pub(crate) fn took_up(&self, version: u64) {
        self.shared.write(|record| record.version = version);
        self.shared.urge();
    }
}

/// What the supervisor calls.
impl StatusHandle {
    /// Makes the status of a task that nobody has said anything about yet.
    pub(crate) fn new(task: &TaskRecord, worker_id: &str, clock: Clock) -> Self {
        let now_ms = clock.now_ms();
        let record = StatusRecord {
            v: VERSION,
            task: task.task.clone(),
            version: task.version,
            restart: task.restart,
            state: TaskState::Unassigned,
            worker_id: worker_id.to_owned(),
            error: None,
            since_ms: now_ms,
            ts_ms: now_ms,
            restarts: None,
            details: Value::Null,
        };
        Self {
            shared: Arc::new(Shared {
                worker_id: worker_id.to_owned(),
                clock,
                current: Mutex::new(Current {
                    record,
                    voice: Voice::Muted,
                }),
                urgent: watch::Sender::new(0),
            }),
        }
    }

    /// Says, after a proof of membership, which version and restart of the task the state is about
    /// from now on.
    pub(crate) fn about(&self, task: &TaskRecord) {
        self.shared.write(|record| {
            // Whoever asks for a start, or for another state, begins a new count.
            if record.restart != task.restart {
                record.restarts = None;
            }
            record.version = task.version;
            record.restart = task.restart;
        });
        let mut current = self.shared.lock();
        if current.voice == Voice::Muted {
            current.voice = Voice::Open;
        }
    }

    /// Says, after a proof of membership, that an attempt begins. An error that the attempt is to
    /// overcome stays visible until it has.
    pub(crate) fn starting(&self, task: &TaskRecord) {
        self.about(task);
        let error = match self.state() {
            (TaskState::Restarting, error) => error,
            _ => None,
        };
        self.set_state(TaskState::Restarting, error);
    }

    /// Says that an attempt failed and another follows by itself. Published with the state.
    pub(crate) fn restarts_after(&self, wait: Duration) {
        let now_ms = self.shared.clock.now_ms();
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.shared.write(|record| {
            let before = record.restarts;
            record.restarts = Some(Restarts {
                count: before.map_or(0, |restarts| restarts.count) + 1,
                since_ms: before.map_or(now_ms, |restarts| restarts.since_ms),
                next_try_ms: Some(now_ms.saturating_add(wait_ms)),
            });
        });
    }

    /// Publishes nothing until membership is proven again.
    pub(crate) fn mute(&self) {
        let mut current = self.shared.lock();
        if current.voice == Voice::Open {
            current.voice = Voice::Muted;
        }
    }

    /// Says that this worker has given the task up.
    pub(crate) fn unassigned(&self) {
        self.set_state(TaskState::Unassigned, None);
    }

    /// Sets the state and why, and publishes it at once where it is a change.
    pub(crate) fn set_state(&self, state: TaskState, error: Option<ErrorReport>) {
        let now_ms = self.shared.clock.now_ms();
        self.shared.write(|record| {
            if record.state != state {
                record.state = state;
                record.since_ms = now_ms;
            }
            record.error = error;
            match (state, &mut record.restarts) {
                (TaskState::Running | TaskState::Failed, Some(restarts)) => {
                    restarts.next_try_ms = None;
                }
                // What is wanted otherwise now has no attempts to count.
                (TaskState::Paused | TaskState::Stopped | TaskState::Deleted, restarts) => {
                    *restarts = None;
                }
                _ => {}
            }
        });
        self.shared.urge();
    }

    /// Returns the state and the error as they would be published.
    pub(crate) fn state(&self) -> (TaskState, Option<ErrorReport>) {
        self.shared
            .read(|current| (current.record.state, current.record.error.clone()))
    }

    /// Ends it: nothing that is said from now on is published.
    pub(crate) fn close(&self) {
        self.shared.lock().voice = Voice::Closed;
        self.shared.urge();
    }

    fn voice(&self) -> Voice {
        self.shared.read(|current| current.voice)
    }

    fn record_to_publish(&self) -> Option<StatusRecord> {
        let now_ms = self.shared.clock.now_ms();
        let mut current = self.shared.lock();
        current.record.ts_ms = now_ms;
        let healed_ms = i64::try_from(HEALED_AFTER.as_millis()).unwrap_or(i64::MAX);
        let works_for_ms = now_ms.saturating_sub(current.record.since_ms);
        if current.record.state == TaskState::Running && works_for_ms >= healed_ms {
            current.record.restarts = None;
        }
        (current.voice == Voice::Open).then(|| current.record.clone())
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Current> {
        // A panic between two assignments leaves a status that is at worst of two moments.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, look: impl FnOnce(&Current) -> T) -> T {
        look(&self.lock())
    }

    fn write(&self, change: impl FnOnce(&mut StatusRecord)) {
        let mut current = self.lock();
        change(&mut current.record);
        current.record.worker_id.clone_from(&self.worker_id);
    }

    fn urge(&self) {
        self.urgent.send_modify(|count| *count += 1);
    }
}

/// Where statuses are sent.
#[async_trait::async_trait]
pub(crate) trait Publish: Send + Sync {
    /// Makes a record of the status topic durable and returns the broker's time of it. `None`
    /// removes what stood under the key.
    async fn publish(
        &self,
        key: String,
        value: Option<Vec<u8>>,
    ) -> Result<i64, crate::task::TaskError>;
}

/// Publishes a task's status until its handle is closed. A write that fails is repeated with what
/// is then true: only the newest status matters.
pub(crate) async fn publish_loop(
    status: StatusHandle,
    publisher: Arc<dyn Publish>,
    interval: Duration,
) {
    let mut urgent = status.shared.urgent.subscribe();
    loop {
        urgent.borrow_and_update();
        publish_once(&status, &*publisher).await;
        if status.voice() == Voice::Closed {
            return;
        }
        let waited = tokio::time::timeout(interval, urgent.changed()).await;
        if matches!(waited, Ok(Err(_))) {
            return;
        }
    }
}

/// Publishes what is true now, if it may be published.
pub(crate) async fn publish_once(status: &StatusHandle, publisher: &dyn Publish) {
    let Some(record) = status.record_to_publish() else {
        return;
    };
    let clock = &status.shared.clock;
    let sent_ms = clock.now_ms();
    match publisher
        .publish(task_key(&record.task), Some(record.encode()))
        .await
    {
        Ok(broker_ms) => clock.observe(broker_ms, sent_ms, clock.now_ms()),
        Err(error) => {
            tracing::warn!(task = record.task, %error, "could not publish a task's status");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use hutong_transport::record::{
        Record, StatusRecord, TargetState, TaskKind, TaskRecord, TaskState,
    };
    use tokio::sync::mpsc;

    use super::{Publish, StatusHandle, publish_loop, publish_once};
    use crate::clock::Clock;
    use crate::task::TaskError;

    struct Sent(mpsc::Sender<StatusRecord>, Mutex<i64>);

    #[async_trait::async_trait]
    impl Publish for Sent {
        async fn publish(&self, key: String, value: Option<Vec<u8>>) -> Result<i64, TaskError> {
            let record = StatusRecord::decode(&value.unwrap()).unwrap();
            assert_eq!(key, format!("task/{}", record.task));
            self.0.send(record).await.unwrap();
            Ok(*self.1.lock().unwrap())
        }
    }

    fn task() -> TaskRecord {
        TaskRecord {
            v: 1,
            task: "rk-0".into(),
            connector: "rk".into(),
            version: 3,
            kind: TaskKind::Source,
            target: TargetState::Running,
            restart: 1,
            config: serde_json::Value::Null,
        }
    }

    #[tokio::test]
    async fn a_change_of_state_is_published_at_once_and_details_with_the_next_write() {
        let clock = Clock::default();
        let status = StatusHandle::new(&task(), "worker-1", clock.clone());
        let (sender, mut sent) = mpsc::channel(10);
        let broker_ms = clock.now_ms() + 3_600_000;
        let publisher = Arc::new(Sent(sender, Mutex::new(broker_ms)));
        let an_hour = Duration::from_secs(3600);
        let publishing = tokio::spawn(publish_loop(status.clone(), publisher, an_hour));
        status.starting(&task());
        assert_eq!(sent.recv().await.unwrap().state, TaskState::Restarting);
        status.details(serde_json::json!({"slot": "s"}));
        status.running();
        let record = sent.recv().await.unwrap();
        assert_eq!(record.state, TaskState::Running);
        assert_eq!(record.details["slot"], "s");
        assert_eq!((record.version, record.restart), (3, 1));
        status.took_up(4);
        assert_eq!(sent.recv().await.unwrap().version, 4);
        assert!(clock.broker_ahead_ms() > 3_500_000);
        status.close();
        publishing.await.unwrap();
        status.running();
        assert!(sent.recv().await.is_none());
    }

    #[tokio::test]
    async fn automatic_restarts_are_counted_until_a_person_asks_for_one() {
        let status = StatusHandle::new(&task(), "worker-1", Clock::default());
        status.starting(&task());
        for count in 1..=3 {
            status.restarts_after(Duration::from_secs(5));
            status.set_state(TaskState::Restarting, None);
            let restarts = status.record_to_publish().unwrap().restarts.unwrap();
            assert_eq!(restarts.count, count);
            assert!(restarts.next_try_ms.unwrap() >= restarts.since_ms + 5000);
        }
        status.starting(&task());
        status.running();
        let restarts = status.record_to_publish().unwrap().restarts.unwrap();
        assert_eq!((restarts.count, restarts.next_try_ms), (3, None));
        let asked = TaskRecord {
            restart: 2,
            ..task()
        };
        status.starting(&asked);
        assert_eq!(status.record_to_publish().unwrap().restarts, None);
    }

    #[tokio::test]
    async fn nothing_is_published_before_membership_is_proven_nor_after_a_fence() {
        let status = StatusHandle::new(&task(), "worker-1", Clock::default());
        let (sender, mut sent) = mpsc::channel(10);
        let publisher = Sent(sender, Mutex::new(0));
        status.running();
        publish_once(&status, &publisher).await;
        assert!(sent.try_recv().is_err());
        status.about(&task());
        publish_once(&status, &publisher).await;
        assert_eq!(sent.try_recv().unwrap().state, TaskState::Running);
        status.mute();
        publish_once(&status, &publisher).await;
        assert!(sent.try_recv().is_err());
    }
}
