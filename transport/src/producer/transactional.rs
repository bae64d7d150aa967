//! A producer that commits records and positions together, and is alone with what it names.
//!
//! Who holds a [`TransactionalProducer`] has fenced every predecessor of the same transactional id:
//! [`start`](TransactionalProducer::start) returns after the coordinator has raised the epoch and
//! ended the predecessor's open transaction. From then on nothing of a predecessor can be committed
//! any more, and everything that it did commit can be read. Therefore positions are only to be had
//! from here: a position read before fencing could still be overtaken.
//!
//! ```text
//! begin ── produce … ── flush ── [hold | fail] ── commit ── [drop answer]
//!   │          │           │                         │
//!   └──────────┴───────────┴── error: abort ─────────┴── no answer: CommitOutcomeUnknown
//! ```
//!
//! A process that is killed before the commit request has reached the coordinator leaves an open
//! transaction, which its successor's start ends, or its timeout. Killed after that, it leaves a
//! committed transaction whose answer nobody heard. The successor cannot tell from the producer, but
//! from the position, which was part of the transaction.
//!
//! After a fatal error, a lost answer, or an abort that did not succeed, the producer has *ended*:
//! every further call is refused as [`Error::Ended`], whose class is fenced, so that the owner starts
//! again at the first step. We do not try to revive it, because librdkafka cannot.

use std::collections::BTreeMap;
use std::sync::mpsc;

use hutong_schemas::batch::RecordBatch;
use serde_json::Value;
use tokio::sync::oneshot;

use super::worker::{Command, Worker};
use super::{Transaction, positions};
use crate::config::KafkaConfig;
use crate::error::{Error, Failure};
use crate::names::Cluster;

/// A producer that has fenced its predecessors.
#[derive(Debug)]
pub struct TransactionalProducer {
    /// As many wait in it as there are callers.
    commands: mpsc::Sender<Command>,
    closed: oneshot::Receiver<()>,
    config: KafkaConfig,
    cluster: Cluster,
    transactional_id: String,
}

impl TransactionalProducer {
    /// Connects, fences predecessors of the transactional id and ends their open transaction.
    ///
    /// # Errors
    ///
    /// Definite: a missing right, properties that make no client. Transient: no coordinator.
    /// Fenced: another one of the same id started at the same time.
    pub async fn start(
        config: &KafkaConfig,
        cluster: &Cluster,
        transactional_id: &str,
    ) -> Result<Self, Error> {
        let worker_config = config.clone();
        #[cfg(not(debug_assertions))]
        let id = transactional_id.to_owned();
        #[cfg(debug_assertions)]
        let id = possibly_sabotaged(transactional_id);
        let worker_cluster = cluster.clone();
        let (commands, receiver) = mpsc::channel();
        let (started, start) = oneshot::channel();
        let (closing, closed) = oneshot::channel::<()>();
        // The client is made and closed on its own thread: both block.
        std::thread::Builder::new()
            .name("hutong-producer".to_owned())
            .spawn(move || {
                match Worker::start(&worker_config, worker_cluster, id) {
                    Ok(worker) => {
                        if started.send(Ok(())).is_ok() {
                            worker.serve(&receiver);
                        }
                    }
                    // Nobody may be waiting any more, who then has nothing to be told.
                    Err(error) => drop(started.send(Err(error))),
                }
                drop(closing);
            })
            .map_err(|error| {
                let code = rdkafka::error::RDKafkaErrorCode::CriticalSystemResource;
                Error::Client(Failure::described(code, error.to_string()))
            })?;
        start.await.map_err(|_| ended(transactional_id))??;
        Ok(Self {
            commands,
            closed,
            config: config.clone(),
            cluster: cluster.clone(),
            transactional_id: transactional_id.to_owned(),
        })
    }

    /// Returns the stored positions of an owner, by sub; `""` is the owner's own.
    ///
    /// Reads up to the end that the partition has now, of all transactions, and therefore waits for
    /// a neighbour's open transaction, at most for its timeout.
    ///
    /// # Errors
    ///
    /// Definite: a position was written by a newer release, or the topic is missing. Else transient.
    pub async fn positions(
        &self,
        location: &str,
        owner: &str,
    ) -> Result<BTreeMap<String, Value>, Error> {
        let topic = self.cluster.positions(location);
        positions::read(&self.config, &topic, owner).await
    }

    /// Commits a transaction and gives its batches back, emptied, for reuse. When it returns `Ok`,
    /// everything is durable and visible. One at a time: a second call waits for the first.
    ///
    /// # Errors
    ///
    /// Definite, transient: nothing of it was or will be committed, the producer can go on.
    /// [`Error::CommitOutcomeUnknown`] (fenced) and other fenced ones: the producer has ended.
    ///
    /// # Cancel safety
    ///
    /// A commit whose future is dropped goes on. Its outcome is then unknown, and the producer ends
    /// with it.
    pub async fn commit(&self, transaction: Transaction) -> Result<Vec<RecordBatch>, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command { transaction, reply };
        self.commands
            .send(command)
            .map_err(|_| ended(&self.transactional_id))?;
        answer.await.map_err(|_| ended(&self.transactional_id))?
    }

    /// Returns the transactional id.
    #[must_use]
    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Ends the producer and returns when its connections are closed.
    pub async fn close(self) {
        let Self {
            commands, closed, ..
        } = self;
        drop(commands);
        // The thread drops its end when the client is gone; it sends nothing.
        let _ = closed.await;
    }
}

fn ended(transactional_id: &str) -> Error {
    Error::Ended(format!("producer {transactional_id}"))
}

/// The id that was given or, where a test wants to see that fencing is needed, one of its own.
#[cfg(debug_assertions)]
fn possibly_sabotaged(transactional_id: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static STARTS: AtomicU64 = AtomicU64::new(0);
    if !crate::faults::is_fence_sabotaged(transactional_id) {
        return transactional_id.to_owned();
    }
    let start = STARTS.fetch_add(1, Ordering::Relaxed);
    format!("{transactional_id}.{}.{start}", std::process::id())
}
