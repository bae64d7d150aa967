//! Supervision of a loop that does what a script says.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hutong_schemas::class::Class;
use hutong_transport::record::{TargetState, TaskKind, TaskRecord, TaskState};
use proptest::prelude::{Just, Strategy, prop_oneof, proptest};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Attempt, Phase, Runner, Step, Supervisor, next_step, supersedes};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::offsets::{Asked, Request};
use crate::owned::Owned;
use crate::status::StatusHandle;
use crate::task::{Stopped, TaskError};

/// What the loop does when it is run.
#[derive(Clone, Debug)]
enum Does {
    /// Works until it is told to stop.
    Work,
    /// Works and does not hear that it shall stop.
    Hang,
    /// Fails at once.
    Fail(Class),
    /// Panics.
    Panic,
    /// Works until a newer version comes, then asks for a new start.
    TakeNewVersion,
    /// Ends although nobody asked.
    EndUnasked,
}

/// A loop after a script, and what has been seen of it.
struct Model {
    script: Mutex<Vec<Does>>,
    is_member: AtomicBool,
    running: AtomicU32,
    starts: mpsc::Sender<u64>,
    deletions: AtomicU32,
}

struct RunningGuard<'a>(&'a AtomicU32);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Runner for Model {
    async fn prove_membership(&self) -> Result<(), TaskError> {
        if self.is_member.load(Ordering::SeqCst) {
            Ok(())
        } else {
            Err(TaskError::new(Class::Fenced, "not a member"))
        }
    }

    async fn run(&self, mut attempt: Attempt) -> Result<Stopped, TaskError> {
        let others = self.running.fetch_add(1, Ordering::SeqCst);
        assert_eq!(others, 0, "two attempts at once");
        let _guard = RunningGuard(&self.running);
        let does = {
            let mut script = self.script.lock().unwrap();
            if script.is_empty() {
                Does::Work
            } else {
                script.remove(0)
            }
        };
        self.starts.send(attempt.task.version).await.unwrap();
        match does {
            Does::Work => {
                attempt.status.running();
                attempt.stop.wait_for(|stop| *stop).await.unwrap();
                Ok(Stopped::Asked)
            }
            Does::Hang => {
                attempt.status.running();
                std::future::pending().await
            }
            Does::Fail(class) => Err(
                TaskError::new(class, format!("scripted {}", class.as_str()))
                    .with_hint("change the script"),
            ),
            Does::Panic => panic!("scripted panic"),
            Does::TakeNewVersion => {
                attempt.status.running();
                let version = attempt.task.version;
                attempt
                    .newest
                    .wait_for(|task| task.version > version)
                    .await
                    .unwrap();
                Ok(Stopped::ForNewVersion)
            }
            Does::EndUnasked => Ok(Stopped::Asked),
        }
    }

    async fn delete(&self, _attempt: Attempt) -> Result<(), TaskError> {
        assert_eq!(
            self.running.load(Ordering::SeqCst),
            0,
            "deleted while it runs"
        );
        self.deletions.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn offsets(&self, _attempt: Attempt, asked: &Asked) -> Result<Value, TaskError> {
        assert_eq!(
            self.running.load(Ordering::SeqCst),
            0,
            "offsets while it runs"
        );
        Ok(json!({"asked": asked.task}))
    }
}

fn record(kind: TaskKind) -> TaskRecord {
    TaskRecord {
        v: 1,
        task: "rk-0".into(),
        connector: "rk".into(),
        version: 1,
        kind,
        target: TargetState::Running,
        restart: 0,
        config: serde_json::json!({"a": 1}),
    }
}

/// A supervised model.
struct Bench {
    model: Arc<Model>,
    starts: mpsc::Receiver<u64>,
    newest: watch::Sender<Arc<TaskRecord>>,
    may_deliver: watch::Sender<bool>,
    status: StatusHandle,
    give_up: oneshot::Sender<()>,
    requests: mpsc::Sender<Request>,
    supervisor: Owned<()>,
}

impl Bench {
    fn new(kind: TaskKind, script: &[Does]) -> Self {
        let (sender, starts) = mpsc::channel(1000);
        let model = Arc::new(Model {
            script: Mutex::new(script.to_vec()),
            is_member: AtomicBool::new(true),
            running: AtomicU32::new(0),
            starts: sender,
            deletions: AtomicU32::new(0),
        });
        let task = Arc::new(record(kind));
        let status = StatusHandle::new(&task, "worker-1", Clock::default());
        let (newest, newest_seen) = watch::channel(task);
        let (may_deliver, may_deliver_seen) = watch::channel(true);
        let (give_up, given_up) = oneshot::channel();
        let (requests, requested) = mpsc::channel(1);
        let runner: Arc<dyn Runner> = Arc::<Model>::clone(&model);
        let supervisor = Supervisor {
            runner,
            newest: newest_seen,
            may_deliver: may_deliver_seen,
            requests: requested,
            status: status.clone(),
            metrics: Arc::new(Metrics::new()),
            stop_deadline: Duration::from_millis(100),
        };
        Self {
            model,
            starts,
            newest,
            may_deliver,
            status,
            give_up,
            requests,
            supervisor: Owned::spawn("supervisor", supervisor.supervise(given_up)),
        }
    }

    async fn started(&mut self) -> u64 {
        let started = tokio::time::timeout(Duration::from_secs(20), self.starts.recv());
        started.await.expect("the task starts in time").unwrap()
    }

    fn want(&self, change: impl FnOnce(&mut TaskRecord)) {
        let mut record = (**self.newest.borrow()).clone();
        change(&mut record);
        self.newest.send_replace(Arc::new(record));
    }

    async fn reaches(&self, state: TaskState) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.status.state().0 != state {
            assert!(
                Instant::now() < deadline,
                "{:?}, not {state:?}",
                self.status.state()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn message(&self) -> String {
        self.status.state().1.expect("there is an error").message
    }

    async fn give_up(mut self) -> Arc<Model> {
        self.give_up.send(()).unwrap();
        self.supervisor.finished().await.unwrap();
        assert_eq!(self.model.running.load(Ordering::SeqCst), 0);
        assert_eq!(self.status.state().0, TaskState::Unassigned);
        self.model
    }
}

#[tokio::test]
async fn a_task_runs_until_it_is_given_up() {
    let mut bench = Bench::new(TaskKind::Source, &[]);
    assert_eq!(bench.started().await, 1);
    bench.reaches(TaskState::Running).await;
    bench.give_up().await;
}

#[tokio::test]
async fn a_task_that_does_not_stop_in_time_is_aborted() {
    let mut bench = Bench::new(TaskKind::Source, &[Does::Hang]);
    bench.started().await;
    let began = Instant::now();
    bench.give_up().await;
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn dropping_the_supervisor_ends_the_loop_where_it_stands() {
    let mut bench = Bench::new(TaskKind::Source, &[Does::Hang]);
    bench.started().await;
    let model = Arc::clone(&bench.model);
    bench.supervisor.abort_and_wait().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while model.running.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_definite_error_shows_failed_with_its_hint_and_waits_for_a_person() {
    let mut bench = Bench::new(TaskKind::Source, &[Does::Fail(Class::Definite)]);
    bench.started().await;
    bench.reaches(TaskState::Failed).await;
    let error = bench.status.state().1.unwrap();
    assert_eq!(error.message, "scripted definite");
    assert_eq!(error.hint.as_deref(), Some("change the script"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(bench.starts.try_recv().is_err());
    bench.want(|task| task.restart += 1);
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    assert!(bench.status.state().1.is_none());
    bench.give_up().await;
}

#[tokio::test]
async fn a_new_configuration_ends_failed() {
    let mut bench = Bench::new(TaskKind::Sink, &[Does::Fail(Class::Definite)]);
    bench.started().await;
    bench.reaches(TaskState::Failed).await;
    bench.want(|task| task.version = 2);
    assert_eq!(bench.started().await, 2);
    bench.give_up().await;
}

#[tokio::test]
async fn a_transient_error_starts_again_and_is_visible_until_it_works() {
    let fail = Does::Fail(Class::Transient);
    let mut bench = Bench::new(TaskKind::Source, &[fail.clone(), fail]);
    bench.started().await;
    bench.reaches(TaskState::Restarting).await;
    bench.started().await;
    assert_eq!(bench.message(), "scripted transient");
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    assert!(bench.status.state().1.is_none());
    bench.give_up().await;
}

#[tokio::test]
async fn a_panic_is_a_fatal_error_and_the_fourth_in_a_row_fails_the_task() {
    let mut bench = Bench::new(
        TaskKind::Source,
        &[Does::Panic, Does::Panic, Does::EndUnasked, Does::Panic],
    );
    for _ in 0..4 {
        bench.started().await;
    }
    bench.reaches(TaskState::Failed).await;
    assert_eq!(bench.message(), "attempt rk-0 panicked: scripted panic");
    bench.give_up().await;
}

#[tokio::test]
async fn a_fenced_task_starts_again_only_while_it_is_a_member() {
    let mut bench = Bench::new(TaskKind::Source, &[Does::Fail(Class::Fenced)]);
    bench.started().await;
    bench.model.is_member.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(
        bench.starts.try_recv().is_err(),
        "started without membership"
    );
    assert_ne!(bench.status.state().0, TaskState::Failed);
    bench.model.is_member.store(true, Ordering::SeqCst);
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    bench.give_up().await;
}

#[tokio::test]
async fn a_source_takes_a_new_configuration_by_a_start_and_others_in_place() {
    let mut source = Bench::new(TaskKind::Source, &[]);
    source.started().await;
    source.want(|task| {
        task.version = 2;
        task.config = serde_json::json!({"a": 2});
    });
    assert_eq!(source.started().await, 2);
    source.want(|task| task.version = 3);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(
        source.starts.try_recv().is_err(),
        "restarted without a change"
    );
    source.give_up().await;

    let mut sink = Bench::new(TaskKind::Sink, &[Does::TakeNewVersion]);
    sink.started().await;
    sink.want(|task| task.version = 2);
    assert_eq!(sink.started().await, 2, "the loop asked for a start");
    sink.want(|task| task.version = 3);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(sink.starts.try_recv().is_err(), "taken up in place");
    sink.want(|task| task.restart = 1);
    assert_eq!(sink.started().await, 3);
    sink.give_up().await;
}

#[tokio::test]
async fn a_task_is_paused_resumed_stopped_and_deleted() {
    let mut bench = Bench::new(TaskKind::Source, &[]);
    bench.started().await;
    bench.want(|task| task.target = TargetState::Paused);
    bench.reaches(TaskState::Paused).await;
    assert_eq!(bench.model.running.load(Ordering::SeqCst), 0);
    bench.want(|task| task.target = TargetState::Running);
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    bench.want(|task| task.target = TargetState::Stopped);
    bench.reaches(TaskState::Stopped).await;
    bench.want(|task| task.target = TargetState::Deleted);
    bench.reaches(TaskState::Deleted).await;
    let model = bench.give_up().await;
    assert_eq!(model.deletions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_worker_that_cannot_follow_its_tasks_does_not_run_them() {
    let mut bench = Bench::new(TaskKind::Processor, &[]);
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    bench.may_deliver.send_replace(false);
    bench.reaches(TaskState::Restarting).await;
    assert_eq!(bench.model.running.load(Ordering::SeqCst), 0);
    assert!(bench.message().contains("follow its tasks"));
    bench.may_deliver.send_replace(true);
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    bench.give_up().await;
}

#[test]
fn an_older_version_never_takes_the_place_of_a_newer_one() {
    let known = record(TaskKind::Source);
    let mut other = known.clone();
    assert!(!supersedes(&known, &other));
    other.restart = 1;
    assert!(supersedes(&known, &other));
    other.version = 0;
    assert!(!supersedes(&known, &other));
    other.version = 2;
    assert!(supersedes(&known, &other));
}

fn any_record() -> impl Strategy<Value = TaskRecord> {
    let target = prop_oneof![
        Just(TargetState::Running),
        Just(TargetState::Paused),
        Just(TargetState::Stopped),
        Just(TargetState::Deleted),
    ];
    (target, 0..3_u64, 0..2_u64).prop_map(|(target, version, restart)| TaskRecord {
        target,
        version,
        restart,
        ..record(TaskKind::Source)
    })
}

proptest! {
    /// Whatever is wanted, a phase without an attempt leads, by steps alone, to rest or to a start,
    /// never round in a circle.
    #[test]
    fn every_phase_at_rest_comes_to_a_start_or_a_wait(
        was in any_record(),
        wanted in any_record(),
        may_deliver: bool,
        which in 0..4,
    ) {
        let now = Instant::now();
        let was = Arc::new(was);
        let mut phase = match which {
            0 => Phase::Idle,
            1 => Phase::Waiting { until: now, task: was },
            2 => Phase::Failed { task: was },
            _ => Phase::Deleted,
        };
        for steps in 0..3 {
            match next_step(&wanted, may_deliver, &phase, now) {
                Step::Start => {
                    let may = may_deliver || wanted.target == TargetState::Deleted;
                    assert!(may && !matches!(wanted.target, TargetState::Paused | TargetState::Stopped));
                    return Ok(());
                }
                Step::Wait => return Ok(()),
                Step::Stop => panic!("nothing runs"),
                Step::Show(state) => phase = Phase::Shown { task: Arc::new(wanted.clone()), state },
            }
            assert!(steps < 2, "still not at rest: {phase:?}");
        }
    }
}

#[tokio::test]
async fn offsets_change_only_while_the_task_is_stopped_and_nothing_of_it_runs() {
    let mut bench = Bench::new(TaskKind::Source, &[]);
    bench.started().await;
    bench.reaches(TaskState::Running).await;
    let ask = async |action: &str| {
        let asked = serde_json::from_value(json!({"task": "rk-0", "action": action})).unwrap();
        let (reply, answer) = oneshot::channel();
        bench.requests.send(Request { asked, reply }).await.unwrap();
        answer.await.unwrap().map_err(|error| error.message)
    };
    assert_eq!(ask("get").await, Err("the task runs".to_owned()));
    let refused = ask("reset").await;
    assert_eq!(refused, Err("the connector is not stopped".to_owned()));
    bench.want(|task| {
        task.version = 2;
        task.target = TargetState::Stopped;
    });
    // Not waited for: the request is taken after the attempt has ended.
    assert_eq!(ask("reset").await, Ok(json!({"asked": "rk-0"})));
    bench.reaches(TaskState::Stopped).await;
    bench.model.is_member.store(false, Ordering::SeqCst);
    assert_eq!(ask("alter").await, Err("not a member".to_owned()));
}
