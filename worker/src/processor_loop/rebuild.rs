//! Bringing the state up to the committed position: members from the views' topics, rows from the
//! input. Both are read to where they ended after fencing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hutong_schemas::class::{Class, Classified};
use hutong_stream_processors::position::ViewPosition;
use hutong_stream_processors::processor::RowsFrom;
use hutong_stream_processors::{Input, Step};
use hutong_transport::admin::Isolation;
use hutong_transport::reader::{Message, PartitionReader, Start};

use super::{Attempt, check_topic};
use crate::task::TaskError;

/// Bytes that are read at once.
const PART_BYTES: usize = 4 * 1024 * 1024;
const WAIT: Duration = Duration::from_secs(1);

/// Why one view cannot go on although the others can.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refusal {
    message: String,
    hint: Option<String>,
}

impl Classified for Refusal {
    fn class(&self) -> Class {
        Class::Definite
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

fn inputs(messages: &[Message]) -> impl Iterator<Item = Input<'_>> {
    messages.iter().map(|message| Input {
        offset: message.offset,
        key: message.key.as_deref(),
        value: message.value.as_deref(),
    })
}

impl Attempt {
    /// Takes up the views of the task and rebuilds what is not there. A view whose topic is gone, or
    /// is another one, is suspended alone.
    pub(super) async fn adopt(
        &mut self,
        positions: BTreeMap<String, ViewPosition>,
    ) -> Result<(), TaskError> {
        let tasks = self.task.views.clone();
        // Those that go on as they are need not be looked at: all views wait meanwhile.
        let running: BTreeSet<String> = self
            .work()
            .processor
            .views()
            .iter()
            .map(|view| view.task().topic_id.clone())
            .collect();
        let rebuild = self
            .blocking(move |work| work.processor.adopt(tasks, &positions))
            .await??;
        for view in 0..self.work().processor.views().len() {
            let must_rebuild = rebuild.members.contains(&view);
            let topic_id = &self.work().processor.views()[view].task().topic_id;
            if running.contains(topic_id) && !must_rebuild {
                continue;
            }
            match self.prepare(view, must_rebuild).await {
                Err(error) if error.class == Class::Definite => self.suspend(view, error),
                result => result?,
            }
            if must_rebuild {
                self.blocking(move |work| work.processor.members_rebuilt(view))
                    .await??;
            }
        }
        if let Some(from) = rebuild.rows_from {
            self.rebuild_rows(from).await?;
        }
        self.blocking(|work| work.processor.rebuilt()).await??;
        Ok(())
    }

    fn suspend(&mut self, view: usize, error: TaskError) {
        let work = self.work.as_mut().expect("no blocking call is under way");
        let topic = work.processor.views()[view].task().topic.clone();
        tracing::warn!(task = self.ctx.task.task, topic, %error, "a view is suspended because its topic cannot be read");
        let refusal = Refusal {
            message: error.message,
            hint: error.hint,
        };
        work.processor.cannot_rebuild(view, &refusal);
    }

    /// Checks that the view's topic is the one that the view was made with, and reads its members.
    async fn prepare(&mut self, view: usize, must_rebuild: bool) -> Result<(), TaskError> {
        let view_state = &self.work().processor.views()[view];
        if view_state.position().progress.has_ended() {
            return Ok(());
        }
        let task = view_state.task();
        let (topic, topic_id) = (task.topic.clone(), task.topic_id.clone());
        check_topic(&self.ctx, &topic, &topic_id).await?;
        if must_rebuild {
            self.rebuild_members(view, topic).await?;
        }
        Ok(())
    }

    async fn rebuild_members(&mut self, view: usize, topic: String) -> Result<(), TaskError> {
        let mut reader = self.open(&topic, Start::Earliest).await?;
        let end = reader.end_offset().await?;
        while reader.position() < end {
            let messages = reader.poll(PART_BYTES, WAIT).await?;
            self.blocking(move |work| work.processor.rebuild_members(view, inputs(&messages)))
                .await??;
        }
        Ok(())
    }

    async fn rebuild_rows(&mut self, from: RowsFrom) -> Result<(), TaskError> {
        let end = self.position().next_offset;
        let start = match from {
            RowsFrom::Beginning => Start::Earliest,
            RowsFrom::Offset(offset) => Start::At(offset),
        };
        let topic = self.task.topic.clone();
        let mut reader = self.open(&topic, start).await?;
        // The partition cannot end before what was processed, unless it was truncated.
        let last = reader.end_offset().await?;
        if last < end {
            let message = format!(
                "partition {} of topic {topic} ends at {last}, before the committed position {end}",
                self.task.partition
            );
            return Err(TaskError::new(Class::Definite, message).with_hint(
                "the topic lost records: create it anew by a new snapshot of its table",
            ));
        }
        while reader.position() < end {
            let mut messages = reader.poll(PART_BYTES, WAIT).await?;
            messages.retain(|message| message.offset < end);
            let next_offset = reader.position().min(end);
            self.replay(messages, next_offset).await?;
        }
        Ok(())
    }

    async fn replay(&mut self, messages: Vec<Message>, next_offset: i64) -> Result<(), TaskError> {
        loop {
            let messages = messages.clone();
            let step = self
                .blocking(move |work| work.processor.replay_rows(inputs(&messages), next_offset))
                .await??;
            match step {
                Step::Done => return Ok(()),
                Step::Needs(id) => self.fetch_schema(id).await?,
            }
        }
    }

    async fn open(&self, topic: &str, start: Start) -> Result<PartitionReader, TaskError> {
        let (kafka, partition) = (&self.ctx.kafka, self.task.partition);
        Ok(PartitionReader::open(kafka, topic, partition, start, Isolation::ReadCommitted).await?)
    }
}
