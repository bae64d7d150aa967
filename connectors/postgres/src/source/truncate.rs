//! TRUNCATE as deletes.
//!
//! A compacted topic cannot be emptied by one record: each live key needs its delete and tombstone.
//! Which keys are live is what the topic itself says, so first everything of earlier transactions
//! becomes durable; what the truncating transaction itself has written before, and has not handed
//! over, is laid over that.
//!
//! The deletes leave in parts if they are many. The position of such a part still stands before the
//! truncation: after a crash it is met again and finds live what is left, so each key gets exactly
//! one delete.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use hutong_schemas::batch::RecordBatch;
use tokio::time::interval;

use super::changes::Truncate;
use super::delivery::{Flow, stopped};
use super::error::Error;
use super::streaming::{Streaming, TICK};

/// Keys after which other tasks get their turn.
const KEYS_PER_TURN: usize = 256;

impl Streaming {
    /// Writes the deletes of a truncation.
    pub(crate) async fn truncate(&mut self, truncate: Truncate) -> Result<Flow, Error> {
        if self.make_earlier_durable().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        for oid in &truncate.oids {
            if self.truncate_table(*oid, &truncate).await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        self.changes.truncated(&truncate);
        Ok(Flow::Continue)
    }

    async fn make_earlier_durable(&mut self) -> Result<Flow, Error> {
        if self.resolve_waiting().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        let flow = if self.changes.current_has_parts() {
            if self.changes.writer.is_empty() {
                Flow::Continue
            } else {
                self.hand_over().await?
            }
        } else if self.changes.holds_earlier_transactions() {
            let closed = self.changes.close_before_current();
            self.hand_over_closed(closed).await?
        } else {
            Flow::Continue
        };
        if flow == Flow::Stop {
            return Ok(flow);
        }
        self.wait_until_settled().await
    }

    async fn truncate_table(&mut self, oid: u32, truncate: &Truncate) -> Result<Flow, Error> {
        let (writer, tables) = self.changes.parts();
        let Some(super::changes::Entry::Captured(plan)) = tables.get(&oid) else {
            return Ok(Flow::Continue);
        };
        if !plan.is_keyed() {
            plan.write_truncate(&truncate.source, &mut writer.batch)?;
            self.changes.wrote();
            return Ok(Flow::Continue);
        }
        let mut pending = pending_keys(&writer.batch, &plan.topic);
        let topic = Arc::clone(&plan.topic);
        let host = Arc::clone(&self.delivery.host);
        let live_keys = async { host.live_keys(&topic, None).await };
        let Some(live_keys) = self.while_answering(live_keys).await? else {
            return Ok(Flow::Stop);
        };
        let live_keys = live_keys.map_err(host_error(&topic))?;
        for (number, key) in live_keys.enumerate() {
            let (partition, key) = key.map_err(host_error(&topic))?;
            let died_meanwhile = pending.remove(&key) == Some(Pending::Dead);
            if died_meanwhile {
                continue;
            }
            if self
                .delete_key(oid, &key, Some(partition), truncate)
                .await?
                == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
            if number % KEYS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut born: Vec<_> = pending
            .into_iter()
            .filter(|(_, state)| *state == Pending::Live)
            .map(|(key, _)| key)
            .collect();
        born.sort_unstable();
        for key in born {
            if self.delete_key(oid, &key, None, truncate).await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    async fn delete_key(
        &mut self,
        oid: u32,
        key: &[u8],
        partition: Option<i32>,
        truncate: &Truncate,
    ) -> Result<Flow, Error> {
        let (writer, tables) = self.changes.parts();
        if let Some(super::changes::Entry::Captured(plan)) = tables.get(&oid) {
            plan.write_delete_of_key(key, partition, &truncate.source, &mut writer.batch)?;
        }
        let bytes = writer.bytes();
        self.changes.wrote();
        let is_full = bytes >= self.config.batch_bytes_max || !self.delivery.cover(bytes);
        if is_full {
            return self.hand_over().await;
        }
        Ok(Flow::Continue)
    }

    /// Waits for something that may take long, answering the server meanwhile. `None` if we were
    /// asked to stop.
    pub(crate) async fn while_answering<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Error> {
        let mut work = pin!(work);
        let mut tick = interval(TICK);
        let mut stop = self.delivery.stop_signal();
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(None),
                done = &mut work => return Ok(Some(done)),
                _ = tick.tick() => self.send_status_by_time().await?,
            }
        }
    }
}

/// What the records of a batch leave of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Live,
    Dead,
}

fn pending_keys(batch: &RecordBatch, topic: &Arc<str>) -> HashMap<Vec<u8>, Pending> {
    let mut keys = HashMap::new();
    let Some(index) = batch.topics.iter().position(|known| known == topic) else {
        return keys;
    };
    for record in &batch.records {
        if usize::try_from(record.topic) != Ok(index) {
            continue;
        }
        let Some(key) = record.key.clone() else {
            continue;
        };
        let state = match record.value {
            Some(_) => Pending::Live,
            None => Pending::Dead,
        };
        keys.insert(batch.buffer[key].to_vec(), state);
    }
    keys
}

pub(crate) fn host_error(
    topic: &str,
) -> impl Fn(hutong_connectors_core::source::HostError) -> Error + use<> {
    let doing = format!("could not look at the records of topic {topic}");
    move |source| Error::Host {
        doing: doing.clone(),
        source,
    }
}
