//! Handing batches to the worker, within the byte budget, and learning what is durable.

use std::collections::VecDeque;
use std::sync::Arc;

use hutong_connectors_core::source::{PartPosition, SourceBatch, SourceHost, SourceProgress, Step};
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::position::Lsn;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::changes::Closed;
use super::error::Error;
use super::position::Position;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Flow {
    Continue,
    /// We were asked to stop, or nobody takes batches any more.
    Stop,
}

struct InFlight {
    seq: u64,
    position: Position,
}

/// The way out.
pub(crate) struct Delivery {
    pub(crate) host: Arc<dyn SourceHost>,
    pub(crate) progress: SourceProgress,
    out: mpsc::Sender<SourceBatch>,
    confirmed: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    budget: Arc<Semaphore>,
    budget_kib: usize,
    permit: Option<OwnedSemaphorePermit>,
    next_seq: u64,
    in_flight: VecDeque<InFlight>,
}

impl Delivery {
    pub(crate) fn new(
        host: Arc<dyn SourceHost>,
        progress: SourceProgress,
        out: mpsc::Sender<SourceBatch>,
        confirmed: watch::Receiver<u64>,
        stop: watch::Receiver<bool>,
        (budget, budget_kib): (Arc<Semaphore>, usize),
    ) -> Self {
        Self {
            host,
            progress,
            out,
            confirmed,
            stop,
            budget,
            budget_kib,
            permit: None,
            next_seq: 1,
            in_flight: VecDeque::new(),
        }
    }

    /// Takes `bytes` of the byte budget for the batch being filled. Returns false where the budget
    /// is used up: the batch should then leave as it is, so that memory comes back. Nobody ever
    /// waits for the budget while holding a part of it, so sources cannot block each other.
    /// More than the whole budget is the whole budget.
    pub(crate) fn cover(&mut self, bytes: usize) -> bool {
        let wanted = bytes.div_ceil(1024).min(self.budget_kib);
        let held = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(missing) = u32::try_from(wanted.saturating_sub(held)) else {
            return false;
        };
        if missing == 0 {
            return true;
        }
        match Arc::clone(&self.budget).try_acquire_many_owned(missing) {
            Ok(more) => {
                match &mut self.permit {
                    Some(permit) => permit.merge(more),
                    None => self.permit = Some(more),
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Returns the whole byte budget.
    pub(crate) fn budget_bytes(&self) -> usize {
        self.budget_kib.saturating_mul(1024)
    }

    /// Returns whether the batch being filled, or one on its way, holds a part of the budget.
    pub(crate) fn holds_something(&self) -> bool {
        self.permit.is_some() || !self.is_settled()
    }

    /// Takes `bytes` of the byte budget for rows to be read, or nothing where they are not free. More
    /// than the whole budget is the whole budget.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = u32::try_from(bytes.div_ceil(1024).min(self.budget_kib)).ok()?;
        Arc::clone(&self.budget).try_acquire_many_owned(wanted).ok()
    }

    /// Adds the share of the byte budget of rows that join the batch being filled.
    pub(crate) fn join(&mut self, share: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(permit) => permit.merge(share),
            None => self.permit = Some(share),
        }
    }

    /// Returns whether a batch could be handed over at once.
    pub(crate) fn is_ready(&self) -> bool {
        self.out.capacity() > 0
    }

    /// Waits until a batch can be handed over.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn ready(&self) -> Flow {
        match self.out.reserve().await {
            Ok(_) => Flow::Continue,
            Err(_) => Flow::Stop,
        }
    }

    /// Hands a batch over. There must be room, see [`Delivery::ready`], else this waits.
    pub(crate) async fn send(&mut self, closed: Closed) -> Result<Flow, Error> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let batch = SourceBatch {
            position: closed.position.to_value()?,
            parts: closed.parts,
            step: closed.step,
            records: closed.batch,
            last_commit_ts_us: closed.last_commit_ts_us,
            permit: self.permit.take(),
            seq,
        };
        self.in_flight.push_back(InFlight {
            seq,
            position: closed.position,
        });
        Ok(match self.out.send(batch).await {
            Ok(()) => Flow::Continue,
            Err(_) => Flow::Stop,
        })
    }

    /// Hands over a position without records.
    pub(crate) async fn send_position(
        &mut self,
        position: &Position,
        parts: Vec<PartPosition>,
    ) -> Result<Flow, Error> {
        self.send(Closed {
            batch: RecordBatch::default(),
            position: position.clone(),
            parts,
            step: Step::Stream,
            last_commit_ts_us: None,
        })
        .await
    }

    /// Waits until everything handed over is durable.
    pub(crate) async fn settled(&mut self) -> Flow {
        loop {
            // Where the slot may forget up to is looked at by whoever streams.
            let _durable = self.take_confirmed();
            if self.is_settled() {
                return Flow::Continue;
            }
            if self.confirmed.changed().await.is_err() {
                return Flow::Stop;
            }
        }
    }

    /// Forgets what has become durable and returns the newest such position, if there is a new one.
    pub(crate) fn take_confirmed(&mut self) -> Option<Lsn> {
        let seq = *self.confirmed.borrow_and_update();
        let mut newest = None;
        while let Some(first) = self.in_flight.front()
            && first.seq <= seq
        {
            let done = self.in_flight.pop_front()?;
            newest = Some(done.position.lsn);
            self.progress.position = done.position.to_value().ok();
        }
        newest
    }

    /// Returns whether everything handed over is durable.
    pub(crate) fn is_settled(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Returns a way to learn that more has become durable.
    pub(crate) fn confirmed_signal(&self) -> watch::Receiver<u64> {
        self.confirmed.clone()
    }

    /// Returns a way to learn that we were asked to stop.
    pub(crate) fn stop_signal(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Shows how we fare.
    pub(crate) fn show(&self) {
        self.host.progress(self.progress.clone());
    }
}

/// How often a row lies in memory while it is on its way: as received, decoded, in a batch, and with
/// the Kafka client.
pub(crate) const COPIES: usize = 4;

/// Returns the memory that `bytes` of rows take on their way. A batch of many rows is one buffer, but
/// for a moment; what is more than two batches can only be a row that is larger than a batch, which
/// takes as much in every buffer that it passes.
pub(crate) fn in_memory(bytes: usize, batch_bytes_max: usize) -> usize {
    if bytes > batch_bytes_max.saturating_mul(2) {
        bytes.saturating_mul(COPIES)
    } else {
        bytes
    }
}

/// Waits until more has become durable.
pub(crate) async fn more_confirmed(confirmed: &mut watch::Receiver<u64>) -> Flow {
    match confirmed.changed().await {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Stop,
    }
}

/// Waits until we are asked to stop. A sender that is gone asks too.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}
