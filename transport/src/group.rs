//! Which worker has which tasks: an ordinary consumer group over the partitions of a topic of tasks.
//!
//! Kafka decides, we obey. The consumer reads nothing: partitions are paused as soon as they are
//! assigned, and what stands in them is read by readers of the tasks' records.
//!
//! A rebalance is told by librdkafka on the thread that polls. The callback sends a message and
//! waits: for a revocation until whoever runs the tasks says that they have stopped, or the time is
//! up, or the partitions are lost meanwhile. Heartbeats go on during the wait, on another thread.
//! When the time is up the partitions are given away with tasks still running in them, which is safe
//! though not nice: a successor fences them.
//!
//! Membership is static: a worker that restarts within the session timeout under the same instance
//! id gets its partitions back and nobody else is disturbed. The price is that a worker which leaves
//! is missed only when its session has timed out.
//!
//! *Am I still the owner?* cannot be answered by memory: a process that was frozen remembers
//! everything and owns nothing. [`Membership::commit_sync`] asks the coordinator: it refuses a
//! commit of an older generation or of a member that was replaced. The coordinator does not check
//! whose partition it is, so the list of our own is looked at before and after: a partition leaves it
//! before the coordinator can give it to somebody else, because that takes our consent or a newer
//! generation.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot};

use crate::config::{ClientKind, KafkaConfig};
use crate::error::{Error, Failure, is_fencing};
use crate::native::log::line;
use crate::reader::fetching::{blocking, operation};

/// How long the poll lasts before the thread looks whether it is still wanted.
const SLICE: Duration = Duration::from_millis(100);

/// How long tasks may take to stop when their partition is revoked: well below the interval after
/// which librdkafka takes a member that does not poll for dead (`max.poll.interval.ms`, 5 min).
const STOP: Duration = Duration::from_secs(60);

/// How often the callback looks whether the tasks have stopped.
const LOOK: Duration = Duration::from_millis(5);

/// Changes that nobody has taken yet; each names partitions, and there are few of those.
const EVENTS: usize = 256;

/// A change of what this member owns.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are ours from now on.
    Assigned {
        /// Which.
        partitions: Vec<i32>,
    },
    /// These partitions must be given up: stop what runs in them, then send `done`.
    Revoked {
        /// Which.
        partitions: Vec<i32>,
        /// To be sent, or dropped, when nothing runs there any more. The group waits for it for a
        /// minute.
        done: oneshot::Sender<()>,
    },
    /// These partitions may be somebody else's already: stop at once and write nothing more.
    Lost {
        /// Which.
        partitions: Vec<i32>,
    },
}

/// A member of a group. Dropping it is leaving without waiting.
#[derive(Debug)]
pub struct TaskGroup {
    events: mpsc::Receiver<Result<GroupEvent, Error>>,
    shared: Arc<Shared>,
    consumer: Weak<BaseConsumer<Member>>,
    topic: Arc<str>,
    session_timeout: Duration,
    closed: Option<oneshot::Receiver<()>>,
}

#[derive(Debug)]
struct Shared {
    group: String,
    instance: String,
    /// Held for a look or an update only, and by the callback, which must not await.
    owned: Mutex<BTreeSet<i32>>,
    is_closing: AtomicBool,
}

impl Shared {
    fn owned(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TaskGroup {
    /// Joins a group under an instance id, which no other living process may have, over the
    /// partitions of a topic. The first event comes when the group has agreed.
    ///
    /// # Errors
    ///
    /// Definite: the properties make no client. Everything else is told by [`next`](Self::next).
    pub async fn join(
        config: &KafkaConfig,
        group_id: &str,
        instance_id: &str,
        topic: &str,
    ) -> Result<Self, Error> {
        let session_timeout = config.session_timeout();
        let shared = Arc::new(Shared {
            group: group_id.to_owned(),
            instance: instance_id.to_owned(),
            owned: Mutex::new(BTreeSet::new()),
            is_closing: AtomicBool::new(false),
        });
        let (sender, events) = mpsc::channel(EVENTS);
        let member = Member {
            shared: Arc::clone(&shared),
            events: sender.clone(),
        };
        let config = config.clone();
        let topic: Arc<str> = topic.into();
        let subscribed = Arc::clone(&topic);
        let consumer = blocking(move || subscribe(&config, member, &subscribed)).await?;
        let consumer = Arc::new(consumer);
        let weak = Arc::downgrade(&consumer);
        let (closing, closed) = oneshot::channel::<()>();
        let polled = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("hutong-group".to_owned())
            .spawn(move || {
                poll(&consumer, &polled, &sender);
                drop(consumer);
                drop(closing);
            })
            .map_err(|error| {
                let code = RDKafkaErrorCode::CriticalSystemResource;
                Error::Client(Failure::described(code, error.to_string()))
            })?;
        Ok(Self {
            events,
            shared,
            consumer: weak,
            topic,
            session_timeout,
            closed: Some(closed),
        })
    }

    /// Waits for the next change.
    ///
    /// # Errors
    ///
    /// Fenced: another process has taken the instance id. Definite: a missing right, no such topic.
    /// After an error that is not transient the member must be dropped and may join again.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<GroupEvent, Error> {
        match self.events.recv().await {
            Some(event) => event,
            None => Err(Error::Ended(format!(
                "member {} of group {}",
                self.shared.instance, self.shared.group
            ))),
        }
    }

    /// Returns what proves membership, for the tasks, which do not see the group.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership {
            shared: Arc::clone(&self.shared),
            consumer: Weak::clone(&self.consumer),
            topic: Arc::clone(&self.topic),
            session_timeout: self.session_timeout,
        }
    }

    /// Ends the member and returns when its connections are closed. The tasks must have stopped
    /// before. The place in the group is kept for the session timeout.
    pub async fn leave(mut self) {
        self.shared.is_closing.store(true, Ordering::Release);
        if let Some(closed) = self.closed.take() {
            // The thread drops its end when the client is gone; it sends nothing.
            let _ = closed.await;
        }
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Release);
    }
}

/// Proves that the member still owns a partition. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Membership {
    shared: Arc<Shared>,
    consumer: Weak<BaseConsumer<Member>>,
    topic: Arc<str>,
    session_timeout: Duration,
}

impl Membership {
    /// Commits an offset that nobody reads, which only a current member can do. On success the
    /// partition was this member's at a moment between call and return.
    ///
    /// # Errors
    ///
    /// Fenced ([`Error::NotOwner`]): it is not, or cannot be known to be. Transient: the group is
    /// rebalancing, or its coordinator cannot be reached.
    pub async fn commit_sync(&self, partition: i32) -> Result<(), Error> {
        self.check_owned(partition)?;
        let Some(consumer) = self.consumer.upgrade() else {
            return Err(self.not_owner(partition, Failure::of(RDKafkaErrorCode::AssignmentLost)));
        };
        let topic = Arc::clone(&self.topic);
        let timeout = self.session_timeout + Duration::from_secs(5);
        let commit = blocking(move || Ok(commit(&consumer, &topic, partition)));
        let outcome = match tokio::time::timeout(timeout, commit).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                return Err(Error::TimedOut {
                    operation: "commit as a member of",
                    subject: self.shared.group.clone(),
                    after: timeout,
                });
            }
        };
        match outcome {
            Ok(()) => self.check_owned(partition),
            Err(failure) if is_fencing(failure.code) => Err(self.not_owner(partition, failure)),
            Err(failure) => Err(operation(
                "commit as a member of",
                &self.shared.group,
                failure,
            )),
        }
    }

    fn check_owned(&self, partition: i32) -> Result<(), Error> {
        if self.shared.owned().contains(&partition) {
            Ok(())
        } else {
            Err(self.not_owner(partition, Failure::of(RDKafkaErrorCode::AssignmentLost)))
        }
    }

    fn not_owner(&self, partition: i32, source: Failure) -> Error {
        Error::NotOwner {
            group: self.shared.group.clone(),
            member: self.shared.instance.clone(),
            partition,
            source,
        }
    }
}

/// Commits offset 0, synchronously.
fn commit(consumer: &BaseConsumer<Member>, topic: &str, partition: i32) -> Result<(), Failure> {
    let mut offsets = TopicPartitionList::with_capacity(1);
    offsets
        .add_partition_offset(topic, partition, Offset::Offset(0))
        .map_err(Failure::from)?;
    consumer
        .commit(&offsets, CommitMode::Sync)
        .map_err(Failure::from)
}

/// Makes the client and subscribes. Blocks.
fn subscribe(
    config: &KafkaConfig,
    member: Member,
    topic: &str,
) -> Result<BaseConsumer<Member>, Error> {
    let session_ms = config.session_timeout().as_millis();
    // Six beats a session: a rebalance is noticed by a beat, and so is its end.
    let heartbeat_ms = (session_ms / 6).max(100);
    let defaults = [("socket.timeout.ms", "10000")];
    let mut client = config.client(&defaults, ClientKind::Consumer);
    client.set("session.timeout.ms", session_ms.to_string());
    if config.get("heartbeat.interval.ms").is_none() {
        client.set("heartbeat.interval.ms", heartbeat_ms.to_string());
    }
    client.set("partition.assignment.strategy", "cooperative-sticky");
    client.set("group.id", &member.shared.group);
    client.set("group.instance.id", &member.shared.instance);
    client.set("enable.auto.commit", "false");
    client.set("enable.auto.offset.store", "false");
    client.set("auto.offset.reset", "error");
    let group = member.shared.group.clone();
    let consumer: BaseConsumer<Member> = client
        .create_with_context(member)
        .map_err(|error| Error::Client(Failure::from(error)))?;
    consumer
        .subscribe(&[topic])
        .map_err(|error| operation("join group", &group, Failure::from(error)))?;
    Ok(consumer)
}

/// Polls until the member leaves or cannot go on.
fn poll(
    consumer: &BaseConsumer<Member>,
    shared: &Shared,
    events: &mpsc::Sender<Result<GroupEvent, Error>>,
) {
    use hutong_schemas::class::Class;
    while !shared.is_closing.load(Ordering::Acquire) && !events.is_closed() {
        // Records would come only between an assignment and its pause; they are nothing to us.
        let Some(Err(error)) = consumer.poll(SLICE) else {
            continue;
        };
        let is_fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
        let failure = Failure::from(error);
        // Connections, coordinators and leaders are looked for again by librdkafka itself.
        if failure.class() == Class::Transient && !is_fatal {
            tracing::warn!(group = shared.group, error = %failure, "group is disturbed");
            continue;
        }
        // Positions of paused partitions are nobody's concern.
        if failure.code == RDKafkaErrorCode::AutoOffsetReset {
            continue;
        }
        let is_over = is_fatal || is_fencing(failure.code);
        let error = operation("stay in group", &shared.group, failure);
        if is_over {
            let partitions: Vec<i32> = std::mem::take(&mut *shared.owned()).into_iter().collect();
            if !partitions.is_empty() {
                send(events, shared, Ok(GroupEvent::Lost { partitions }));
            }
        }
        send(events, shared, Err(error));
        if is_over {
            break;
        }
    }
    shared.is_closing.store(true, Ordering::Release);
}

/// Hands an event over, waiting for room unless nobody wants it any more.
fn send(
    events: &mpsc::Sender<Result<GroupEvent, Error>>,
    shared: &Shared,
    event: Result<GroupEvent, Error>,
) {
    let mut event = event;
    while !shared.is_closing.load(Ordering::Acquire) {
        #[cfg(debug_assertions)]
        if crate::faults::is_deaf(&shared.instance) {
            std::thread::sleep(LOOK);
            continue;
        }
        match events.try_send(event) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
            Err(mpsc::error::TrySendError::Full(back)) => {
                event = back;
                std::thread::sleep(LOOK);
            }
        }
    }
}

/// The context of the member's client: it is told of rebalances.
struct Member {
    shared: Arc<Shared>,
    events: mpsc::Sender<Result<GroupEvent, Error>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions: Vec<i32> = list
            .elements()
            .iter()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect();
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, list, partitions)
        } else {
            self.revoke(consumer, partitions);
            consumer.incremental_unassign(list)
        };
        if let Err(error) = done {
            let failure = Failure::from(error);
            let error = operation("follow a rebalance of", &self.shared.group, failure);
            send(&self.events, &self.shared, Err(error));
        }
    }
}

impl Member {
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &mut TopicPartitionList,
        partitions: Vec<i32>,
    ) -> Result<(), KafkaError> {
        // A given offset saves the question for a committed one.
        list.set_all_offsets(Offset::Beginning)?;
        consumer.incremental_assign(list)?;
        consumer.pause(list)?;
        if !partitions.is_empty() {
            self.shared.owned().extend(&partitions);
            let event = GroupEvent::Assigned { partitions };
            send(&self.events, &self.shared, Ok(event));
        }
        Ok(())
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: Vec<i32>) {
        self.shared
            .owned()
            .retain(|partition| !partitions.contains(partition));
        if partitions.is_empty() || self.shared.is_closing.load(Ordering::Acquire) {
            return;
        }
        if consumer.assignment_lost() {
            send(
                &self.events,
                &self.shared,
                Ok(GroupEvent::Lost { partitions }),
            );
            return;
        }
        let (done, stopped) = oneshot::channel();
        let event = GroupEvent::Revoked {
            partitions: partitions.clone(),
            done,
        };
        send(&self.events, &self.shared, Ok(event));
        self.wait_until_stopped(consumer, partitions, stopped);
    }

    fn wait_until_stopped(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: Vec<i32>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let deadline = Instant::now() + STOP;
        while matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            if self.shared.is_closing.load(Ordering::Acquire) {
                return;
            }
            if consumer.assignment_lost() {
                send(
                    &self.events,
                    &self.shared,
                    Ok(GroupEvent::Lost { partitions }),
                );
                return;
            }
            if Instant::now() > deadline {
                let group = self.shared.group.as_str();
                tracing::warn!(group, ?partitions, "tasks did not stop in time");
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}
