//! One task's supervision: from what is wanted to attempts at running it.
//!
//! ```text
//!            newest record, orders                       attempt
//!   partition ────────────────────▶ supervisor ── start ──▶ loop (source, processor, sink)
//!                                       ▲  │ stop, newest      │
//!                    membership ── proof┘  └───────────────────┘ ends: Stopped or TaskError
//! ```
//!
//! # Why it is correct
//!
//! *Wanted* is the newest record of the tasks topic; *observed* is [`Phase`]. [`next_step`] is a
//! pure function from both to one step, and the supervisor takes one step at a time. So there is
//! never more than one attempt at a task in a worker: a start is only a step when nothing runs, and
//! an attempt that was told to stop is awaited, or aborted and awaited, before the next step.
//!
//! Every attempt begins with proof of membership: a synchronous offset commit in the tasks
//! partition that succeeds now. A stale member cannot do it, so of two workers that both believe
//! they own a task, only the one whose partition it is goes on to fence the other. A proof is used
//! up by its attempt, which makes it a proof *since the task last stopped*.
//!
//! A panic of a loop is a fatal error of its attempt and of nothing else.
//!
//! # What ends it
//!
//! Being told to give up (the group asks for the partition, or the worker stops): the loop gets a
//! deadline for ending by itself and is then aborted; UNASSIGNED is published. Being dropped (the
//! group has already given the partition to another worker): the loop is aborted where it stands
//! and nothing is published. What a loop had begun is then ended by its successor, which fences it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hutong_schemas::class::Class;
use hutong_transport::record::{TargetState, TaskKind, TaskRecord, TaskState};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error_policy::{Action, History};
use crate::metrics::Metrics;
use crate::offsets::{Action as OffsetAction, Asked, Request};
use crate::owned::Owned;
use crate::status::StatusHandle;
use crate::task::{Stopped, TaskError};

/// What an attempt is made with.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// The task as it was when the attempt began.
    pub(crate) task: Arc<TaskRecord>,
    /// The newest version of it.
    pub(crate) newest: watch::Receiver<Arc<TaskRecord>>,
    /// True once the attempt shall end.
    pub(crate) stop: watch::Receiver<bool>,
    /// Where the loop says how it fares.
    pub(crate) status: StatusHandle,
}

/// What attempts are made of; the three loops, or a model of them.
#[async_trait]
pub(crate) trait Runner: Send + Sync {
    /// Proves that this worker owns the task's partition now.
    async fn prove_membership(&self) -> Result<(), TaskError>;
    /// Makes one attempt at running the task.
    async fn run(&self, attempt: Attempt) -> Result<Stopped, TaskError>;
    /// Gives up for good what the task owns outside Kafka.
    async fn delete(&self, attempt: Attempt) -> Result<(), TaskError>;
    /// Reads or changes where the task goes on. Nothing of the task runs meanwhile.
    async fn offsets(&self, attempt: Attempt, asked: &Asked) -> Result<Value, TaskError>;
}

/// Whether tasks may run: false while the worker does not know what is wanted.
pub(crate) type MayDeliver = watch::Receiver<bool>;

/// What is observed of a task.
#[derive(Debug)]
enum Phase {
    /// Nothing runs, nothing is due. Entered at the start and when an attempt has stopped; not
    /// durable; ends with the next step.
    Idle,
    /// Nothing runs, as wanted or because it may not, and the status says so. Ends when something
    /// else is wanted.
    Shown {
        task: Arc<TaskRecord>,
        state: TaskState,
    },
    /// Nothing runs until a moment. Entered after an error that is tried again; not durable, a
    /// crash forgets the wait; ends with the moment, or with a record that wants something else.
    Waiting {
        until: Instant,
        task: Arc<TaskRecord>,
    },
    /// An attempt runs. Ends when the attempt does.
    Running(Running),
    /// Nothing runs until a person acts. Entered after an error that is not tried again; the
    /// status record of it is durable, yet a worker that starts anew tries once; ends with a new
    /// version or restart.
    Failed { task: Arc<TaskRecord> },
    /// What the task owned is given up. Entered when its deletion has succeeded; a crash repeats
    /// the deletion, which does nothing then; ends with the record.
    Deleted,
}

/// An attempt that runs.
struct Running {
    task: Arc<TaskRecord>,
    since: Instant,
    stop: watch::Sender<bool>,
    ended: Owned<Ended>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("version", &self.task.version)
            .finish_non_exhaustive()
    }
}

/// How an attempt ended.
enum Ended {
    Ran(Result<Stopped, TaskError>),
    Deleted(Result<(), TaskError>),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Begin an attempt, or the deletion if that is wanted.
    Start,
    /// Tell the attempt to end, because of what the reason says.
    Stop,
    /// Show that it does not run, as wanted.
    Show(TaskState),
    /// Wait for something to happen.
    Wait,
}

/// From wanted and observed to the next step.
fn next_step(wanted: &TaskRecord, may_deliver: bool, phase: &Phase, now: Instant) -> Step {
    match phase {
        Phase::Running(running) => {
            let hold = !may_deliver && wanted.target == TargetState::Running;
            if hold || needs_new_attempt(&running.task, wanted) {
                Step::Stop
            } else {
                Step::Wait
            }
        }
        Phase::Waiting { until, task } => {
            let other = needs_new_attempt(task, wanted) || task.version < wanted.version;
            if other || now >= *until {
                idle_step(wanted, may_deliver)
            } else {
                Step::Wait
            }
        }
        Phase::Failed { task } => {
            let changed = task.version < wanted.version
                || task.restart != wanted.restart
                || task.target != wanted.target;
            if changed {
                idle_step(wanted, may_deliver)
            } else {
                Step::Wait
            }
        }
        Phase::Idle => idle_step(wanted, may_deliver),
        Phase::Shown { task, state } => match idle_step(wanted, may_deliver) {
            Step::Show(same) if same == *state && **task == *wanted => Step::Wait,
            other => other,
        },
        Phase::Deleted if wanted.target == TargetState::Deleted => Step::Wait,
        Phase::Deleted => idle_step(wanted, may_deliver),
    }
}

fn idle_step(wanted: &TaskRecord, may_deliver: bool) -> Step {
    match wanted.target {
        TargetState::Running if may_deliver => Step::Start,
        TargetState::Running => Step::Show(TaskState::Restarting),
        TargetState::Deleted => Step::Start,
        // A sink that rests still empties what its grant no longer covers, and does nothing else.
        TargetState::Paused | TargetState::Stopped if wanted.kind == TaskKind::Sink => Step::Start,
        TargetState::Paused => Step::Show(TaskState::Paused),
        TargetState::Stopped => Step::Show(TaskState::Stopped),
    }
}

/// Whether an attempt with one record cannot go on under another. A processor and a sink take up
/// views and inputs while they run; a source's configuration is taken up by a start.
fn needs_new_attempt(running: &TaskRecord, wanted: &TaskRecord) -> bool {
    let asked = running.restart != wanted.restart || running.target != wanted.target;
    match running.kind {
        TaskKind::Source => asked || running.config != wanted.config,
        TaskKind::Processor | TaskKind::Sink => asked,
    }
}

/// Whether a record may take the place of another: never an older version.
pub(crate) fn supersedes(known: &TaskRecord, record: &TaskRecord) -> bool {
    let newer = record.version > known.version;
    newer || (record.version == known.version && record != known)
}

/// The wait before a proof of membership that only a state to show depends on is tried again.
const PROOF_RETRY: Duration = Duration::from_secs(1);

/// How long reading or changing offsets may take; whoever asked does not wait longer.
const OFFSETS_DEADLINE: Duration = Duration::from_secs(10);

/// Waits for a change; for ever once nothing can change any more.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Supervises one task.
pub(crate) struct Supervisor {
    pub(crate) runner: Arc<dyn Runner>,
    pub(crate) newest: watch::Receiver<Arc<TaskRecord>>,
    pub(crate) may_deliver: MayDeliver,
    /// Who asks for offsets.
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) status: StatusHandle,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop_deadline: Duration,
}

/// What happened while the supervisor waited.
enum Event {
    GiveUp,
    Looked,
    Ended(Result<Ended, TaskError>),
    Asked(Request),
}

impl Supervisor {
    /// Runs until `give_up` is told or its sender is dropped; then nothing of the task runs any
    /// more.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts the attempt where it stands.
    pub(crate) async fn supervise(mut self, mut give_up: oneshot::Receiver<()>) {
        let mut phase = Phase::Idle;
        let mut history = History::default();
        loop {
            let wanted = Arc::clone(&self.newest.borrow_and_update());
            let may_deliver = *self.may_deliver.borrow_and_update();
            let step = next_step(&wanted, may_deliver, &phase, Instant::now());
            phase = match step {
                Step::Start => self.start(&wanted),
                Step::Stop => self.stop(phase).await,
                Step::Show(state) => self.show(&wanted, state).await,
                Step::Wait => match self.wait(&mut phase, &mut give_up).await {
                    Event::GiveUp => break,
                    Event::Looked => phase,
                    Event::Ended(ended) => self.after(phase, ended, &mut history),
                    Event::Asked(request) => self.answer(phase, &wanted, request).await,
                },
            };
        }
        if let Phase::Running(running) = phase {
            drop(self.end(running).await);
        }
        self.status.unassigned();
    }

    fn start(&self, wanted: &Arc<TaskRecord>) -> Phase {
        let (stop, stopping) = watch::channel(false);
        let attempt = Attempt {
            task: Arc::clone(wanted),
            newest: self.newest.clone(),
            stop: stopping,
            status: self.status.clone(),
        };
        tracing::info!(task = wanted.task, version = wanted.version, target = ?wanted.target, "starting a task");
        let runner = Arc::clone(&self.runner);
        let delete = wanted.target == TargetState::Deleted;
        let ended = Owned::spawn(format!("attempt {}", wanted.task), async move {
            let proof = runner.prove_membership().await;
            if proof.is_ok() {
                attempt.status.starting(&attempt.task);
            }
            match (delete, proof) {
                (false, Ok(())) => Ended::Ran(runner.run(attempt).await),
                (false, Err(error)) => Ended::Ran(Err(error)),
                (true, Ok(())) => Ended::Deleted(runner.delete(attempt).await),
                (true, Err(error)) => Ended::Deleted(Err(error)),
            }
        });
        Phase::Running(Running {
            task: Arc::clone(wanted),
            since: Instant::now(),
            stop,
            ended,
        })
    }

    /// Ends an attempt because something else is wanted. An error on the way out is counted and
    /// logged but decides nothing: what was not committed will be done by the next attempt.
    async fn stop(&self, phase: Phase) -> Phase {
        let Phase::Running(running) = phase else {
            return phase;
        };
        let task = Arc::clone(&running.task);
        match self.end(running).await {
            Some(Ok(Ended::Ran(Err(error)) | Ended::Deleted(Err(error))) | Err(error)) => {
                self.count(&task, &error);
                tracing::warn!(
                    task = task.task,
                    error = error.message,
                    "a task ended with an error when told to stop"
                );
                Phase::Idle
            }
            Some(Ok(Ended::Ran(Ok(_)) | Ended::Deleted(Ok(())))) | None => Phase::Idle,
        }
    }

    /// Tells an attempt to end, waits for the deadline, then aborts it. `None`: aborted.
    async fn end(&self, mut running: Running) -> Option<Result<Ended, TaskError>> {
        // The loop may be gone already, which is what is asked of it.
        running.stop.send_replace(true);
        match tokio::time::timeout(self.stop_deadline, running.ended.finished()).await {
            Ok(ended) => Some(ended),
            Err(_) => {
                tracing::warn!(
                    task = running.task.task,
                    deadline_seconds = self.stop_deadline.as_secs_f64(),
                    "a task did not stop in time and is aborted"
                );
                running.ended.abort_and_wait().await;
                None
            }
        }
    }

    /// Shows a state in which nothing runs, which only the owner may say.
    async fn show(&self, wanted: &Arc<TaskRecord>, state: TaskState) -> Phase {
        if let Err(error) = self.runner.prove_membership().await {
            tracing::debug!(
                task = wanted.task,
                error = error.message,
                "could not prove membership"
            );
            return self.wait_phase(PROOF_RETRY, Arc::clone(wanted));
        }
        self.status.about(wanted);
        self.metrics
            .task_failed
            .with_label_values(&[&wanted.task])
            .set(0);
        let held = TaskError::new(
            Class::Transient,
            "this worker has not been able to follow its tasks for too long and does not deliver until it can",
        );
        let error = (state == TaskState::Restarting).then(|| held.status_report());
        self.status.set_state(state, error);
        Phase::Shown {
            task: Arc::clone(wanted),
            state,
        }
    }

    /// Waits until something may have changed.
    async fn wait(&mut self, phase: &mut Phase, give_up: &mut oneshot::Receiver<()>) -> Event {
        let until = match phase {
            Phase::Waiting { until, .. } => Some(tokio::time::Instant::from_std(*until)),
            Phase::Idle
            | Phase::Shown { .. }
            | Phase::Running(_)
            | Phase::Failed { .. }
            | Phase::Deleted => None,
        };
        let timer = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let ended = async {
            match phase {
                Phase::Running(running) => running.ended.finished().await,
                Phase::Idle
                | Phase::Shown { .. }
                | Phase::Waiting { .. }
                | Phase::Failed { .. }
                | Phase::Deleted => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = give_up => Event::GiveUp,
            ended = ended => Event::Ended(ended),
            () = changed(&mut self.newest) => Event::Looked,
            () = changed(&mut self.may_deliver) => Event::Looked,
            Some(request) = self.requests.recv() => Event::Asked(request),
            () = timer => Event::Looked,
        }
    }

    /// Reads or changes offsets while nothing of the task runs. Offsets change only while the task is
    /// wanted stopped; what still runs then, guarding what was withdrawn, is ended for it and begins
    /// again after it.
    async fn answer(&self, phase: Phase, wanted: &Arc<TaskRecord>, request: Request) -> Phase {
        let Request { asked, reply } = request;
        let is_stopped = wanted.target == TargetState::Stopped;
        if !is_stopped && asked.action != OffsetAction::Get {
            // Whoever asked may have stopped waiting.
            drop(reply.send(Err(TaskError::definite("the connector is not stopped"))));
            return phase;
        }
        let phase = match phase {
            Phase::Running(running) if is_stopped => {
                drop(self.end(running).await);
                Phase::Idle
            }
            Phase::Running(running) => {
                drop(reply.send(Err(TaskError::definite("the task runs"))));
                return Phase::Running(running);
            }
            idle => idle,
        };
        drop(reply.send(self.offsets(wanted, asked).await));
        phase
    }

    async fn offsets(&self, wanted: &Arc<TaskRecord>, asked: Asked) -> Result<Value, TaskError> {
        let (_stop, stopping) = watch::channel(false);
        let attempt = Attempt {
            task: Arc::clone(wanted),
            newest: self.newest.clone(),
            stop: stopping,
            status: self.status.clone(),
        };
        let runner = Arc::clone(&self.runner);
        let mut working = Owned::spawn(format!("offsets of {}", wanted.task), async move {
            runner.prove_membership().await?;
            runner.offsets(attempt, &asked).await
        });
        match tokio::time::timeout(OFFSETS_DEADLINE, working.finished()).await {
            Ok(done) => done.flatten(),
            Err(_) => {
                working.abort_and_wait().await;
                Err(TaskError::new(
                    Class::Transient,
                    "reading or changing the offsets took too long; look at them before you try again",
                ))
            }
        }
    }

    /// What follows an attempt that ended by itself.
    fn after(&self, phase: Phase, ended: Result<Ended, TaskError>, history: &mut History) -> Phase {
        let Phase::Running(Running { task, since, .. }) = phase else {
            return phase;
        };
        let error = match ended {
            Ok(Ended::Ran(Ok(Stopped::ForNewVersion)))
                if self.newest.borrow().version > task.version =>
            {
                return Phase::Idle;
            }
            // Nobody asks an attempt to stop but `end`, which waits for it itself.
            Ok(Ended::Ran(Ok(Stopped::Asked | Stopped::ForNewVersion))) => {
                TaskError::new(Class::Fatal, "the task ended although nothing asked it to")
            }
            Ok(Ended::Deleted(Ok(()))) => {
                self.status.set_state(TaskState::Deleted, None);
                return Phase::Deleted;
            }
            Ok(Ended::Ran(Err(error)) | Ended::Deleted(Err(error))) | Err(error) => error,
        };
        match self.decide(&task, since, &error, history) {
            Action::Fail => {
                tracing::error!(
                    task = task.task,
                    class = error.class.as_str(),
                    error = error.message,
                    hint = error.hint,
                    "a task failed and waits for a person"
                );
                self.metrics
                    .task_failed
                    .with_label_values(&[&task.task])
                    .set(1);
                self.status
                    .set_state(TaskState::Failed, Some(error.status_report()));
                Phase::Failed { task }
            }
            Action::Restart { after, loud } => {
                if loud {
                    tracing::error!(
                        task = task.task,
                        class = error.class.as_str(),
                        error = error.message,
                        "a task keeps failing and starts again"
                    );
                } else {
                    tracing::warn!(
                        task = task.task,
                        class = error.class.as_str(),
                        error = error.message,
                        "a task starts again after an error"
                    );
                }
                self.status.restarts_after(after);
                self.status
                    .set_state(TaskState::Restarting, Some(error.status_report()));
                self.wait_phase(after, task)
            }
            Action::RestartSilently { after } => {
                tracing::info!(
                    task = task.task,
                    error = error.message,
                    "a task was fenced and asks the group whether it is still ours"
                );
                self.status.mute();
                self.wait_phase(after, task)
            }
        }
    }

    fn count(&self, task: &TaskRecord, error: &TaskError) {
        let labels = [task.task.as_str(), error.class.as_str()];
        self.metrics.task_errors.with_label_values(&labels).inc();
    }

    fn wait_phase(&self, after: Duration, task: Arc<TaskRecord>) -> Phase {
        self.metrics
            .task_restarts
            .with_label_values(&[&task.task])
            .inc();
        Phase::Waiting {
            until: Instant::now() + after,
            task,
        }
    }

    fn decide(
        &self,
        task: &TaskRecord,
        since: Instant,
        error: &TaskError,
        history: &mut History,
    ) -> Action {
        self.count(task, error);
        // What the loop did before it said that it works was a start, however long it took.
        let works = self.status.state().0 == TaskState::Running;
        let worked_for = if works {
            since.elapsed()
        } else {
            Duration::ZERO
        };
        history.decide(error.class, Instant::now(), worked_for, rand::random())
    }
}

#[cfg(test)]
mod tests;
