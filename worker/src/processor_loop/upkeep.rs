//! What a processor does beside its input: asks where fills have ended, ends segments that nothing
//! else ends, and lets rows be counted.

use std::time::{Duration, Instant};

use hutong_transport::admin::Isolation;
use hutong_transport::reader::{Message, PartitionReader, Start};

use super::Attempt;
use crate::owned::Owned;
use crate::preview;
use crate::task::TaskError;

/// How long to wait before a topic's end is asked for again.
const END_RETRY: Duration = Duration::from_secs(5);
/// Bytes that are read at once on the way to a partition's last record.
const PART_BYTES: usize = 1024 * 1024;
const WAIT: Duration = Duration::from_secs(1);
/// How far before the end a partition's last record is looked for first: transactions' markers and
/// holes of the cleaner lie behind it.
const TAIL: i64 = 16;

impl Attempt {
    /// Does what is due. To be called between batches.
    pub(super) async fn keep_up(&mut self) -> Result<(), TaskError> {
        if !self.work().batch.is_empty() {
            return Ok(());
        }
        self.begin_counts();
        if self.asked_end_at.is_some_and(|at| at.elapsed() < END_RETRY) {
            return Ok(());
        }
        self.asked_end_at = None;
        for view in self.work().processor.fills_ended() {
            self.find_fill_end(view).await;
        }
        for view in self.work().processor.repeats_due() {
            self.repeat_last(view).await?;
        }
        Ok(())
    }

    /// Asks where a view's topic ends, now that its fill is committed. Nobody else writes to it, so
    /// the fill's last record lies before; the end of what is committed may not have got there yet.
    async fn find_fill_end(&mut self, view: usize) {
        let topic = self.work().processor.views()[view].task().topic.clone();
        let ends = self
            .ctx
            .admin
            .end_offsets(&topic, Isolation::ReadUncommitted)
            .await;
        let end = ends.map(|ends| ends.get(&self.task.partition).copied());
        match end {
            Ok(Some(end)) => {
                let work = self.work.as_mut().expect("no blocking call is under way");
                work.processor.set_fill_end(view, end);
                self.board.publish_now();
            }
            Ok(None) => self.asked_end_at = Some(Instant::now()),
            // A topic that cannot be reached will be told of by what is written to it.
            Err(error) => {
                tracing::warn!(task = self.ctx.task.task, topic, %error, "could not ask for the end of a view's topic");
                self.asked_end_at = Some(Instant::now());
            }
        }
    }

    /// Puts the last record of a view's partition into the next batch.
    async fn repeat_last(&mut self, view: usize) -> Result<(), TaskError> {
        let topic = self.work().processor.views()[view].task().topic.clone();
        let last = match self.last_record(&topic).await {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(task = self.ctx.task.task, topic, %error, "could not read the last record of a view's topic");
                self.asked_end_at = Some(Instant::now());
                return Ok(());
            }
        };
        tracing::debug!(
            task = self.ctx.task.task,
            topic,
            "the last record is written again, to end its segment"
        );
        let was_last = self
            .blocking(move |work| {
                let record = last
                    .as_ref()
                    .and_then(|last| Some((last.key.as_deref()?, last.value.as_deref())));
                work.repeat(view, record)
            })
            .await??;
        if !was_last {
            self.asked_end_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Reads the last record that the partition still has, from ever farther before its end.
    async fn last_record(&self, topic: &str) -> Result<Option<Message>, TaskError> {
        let mut ends = self
            .ctx
            .admin
            .end_offsets(topic, Isolation::ReadCommitted)
            .await?;
        let end = ends.remove(&self.task.partition).unwrap_or_default();
        let mut back = TAIL;
        loop {
            let from = end - back;
            let start = if from > 0 {
                Start::At(from)
            } else {
                Start::Earliest
            };
            let (kafka, partition) = (&self.ctx.kafka, self.task.partition);
            let isolation = Isolation::ReadCommitted;
            let mut reader =
                PartitionReader::open(kafka, topic, partition, start, isolation).await?;
            let mut last = None;
            while reader.position() < end {
                last = reader.poll(PART_BYTES, WAIT).await?.pop().or(last);
            }
            if last.is_some() || from <= 0 {
                return Ok(last);
            }
            back = back.saturating_mul(8);
        }
    }

    /// Begins to answer requests to count what a change of a view would move.
    fn begin_counts(&mut self) {
        self.counting.retain(|counting| !counting.is_finished());
        while let Some(asked) = self.desk.next() {
            let work = self.work();
            let views = work.processor.views();
            let Some(view) = views
                .iter()
                .find(|view| view.task().name == asked.then.name)
            else {
                drop(
                    asked
                        .reply
                        .send(Err("the view is not computed here".to_owned())),
                );
                continue;
            };
            let secret = self.ctx.master_secret.as_ref();
            let count = preview::count(
                work.processor.store().clone(),
                std::sync::Arc::clone(&self.ctx.schemas),
                view.task().clone(),
                asked.then,
                secret.map(|secret| secret.reveal().as_bytes().to_vec()),
            );
            let name = format!("count for {}", self.ctx.task.task);
            self.counting.push(Owned::spawn(name, async move {
                // Whoever asked may have stopped waiting.
                drop(asked.reply.send(count.await));
            }));
        }
    }
}
