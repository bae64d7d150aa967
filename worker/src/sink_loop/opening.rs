//! From a wanted input to a lane that delivers it, and again when the lane has to begin anew.

use hutong_connectors_postgres::sink::{self, OffsetChange, Sink, StartOffset, Target, Writer};
use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use hutong_transport::Error as KafkaError;
use hutong_transport::admin::Isolation;
use hutong_transport::reader::{PartitionReader, Start};
use tokio::sync::watch;

use super::Shared;
use super::board::InputState;
use super::decoding::Decoders;
use super::input::Input;
use super::lane::{Ended, Lane, Orders, Part};
use super::types::Types;
use crate::task::{TaskContext, TaskError};

/// Why an input is not delivered any more.
pub(super) enum Undelivered {
    /// The input alone cannot be read for now. It waits, the others go on.
    Input(TaskError),
    /// By its class: the input is stopped, or the attempt ends.
    Attempt(TaskError),
}

impl<E: Into<TaskError>> From<E> for Undelivered {
    fn from(error: E) -> Self {
        Self::Attempt(error.into())
    }
}

/// An error of something that concerns one input only.
fn of_input(error: impl Into<TaskError>) -> Undelivered {
    let error = error.into();
    if error.class == Class::Transient {
        Undelivered::Input(error)
    } else {
        Undelivered::Attempt(error)
    }
}

/// An error of reading a topic. One that is gone is no mistake of the user: a new version of the task
/// will say what takes its place.
pub(super) fn of_topic(error: KafkaError) -> Undelivered {
    let is_missing = matches!(error, KafkaError::TopicMissing { .. });
    let mut error = TaskError::from(error);
    if is_missing {
        error.class = Class::Transient;
        return Undelivered::Input(error);
    }
    Undelivered::Attempt(error)
}

/// Delivers an input until it is told to end.
pub(super) async fn deliver(
    shared: &Shared,
    index: usize,
    input: &Input,
    table: &TableId,
    orders: watch::Receiver<Orders>,
) -> Result<(), Undelivered> {
    loop {
        let lane = Box::pin(open(shared, index, input, table, &orders)).await?;
        let ended = match lane {
            Some((lane, began)) => match Box::pin(lane.run(orders.clone())).await {
                // The source may have made a column wider since.
                Err(Undelivered::Attempt(error)) if error.class == Class::Definite => {
                    tracing::debug!(error = error.message, "an input cannot go on as it is");
                    let now = shape(&shared.ctx, &mut Decoders::default(), input, table).await?;
                    if now == began {
                        return Err(Undelivered::Attempt(error));
                    }
                    Ended::Retyped
                }
                ended => ended?,
            },
            None => Ended::Truncated,
        };
        match ended {
            Ended::Asked => return Ok(()),
            Ended::Retyped => {
                tracing::info!(
                    task = shared.ctx.task.task, topic = input.topic, %table,
                    "the table's columns have other types than when the sink began"
                );
            }
            Ended::Behind => {
                tracing::warn!(
                    task = shared.ctx.task.task, topic = input.topic, %table,
                    "a sink has fallen so far behind that it may miss deletions and reads everything again"
                );
            }
            Ended::Truncated => {
                tracing::warn!(
                    task = shared.ctx.task.task, topic = input.topic, %table,
                    "the topic no longer has what is to be read next; everything is read again"
                );
                let sink = shared.connect().await?;
                let reset = sink.change_offsets(table, &input.topic, &OffsetChange::Reset);
                reset.await?;
            }
        }
        if orders.borrow().is_ending {
            return Ok(());
        }
        shared.board.is(index, InputState::Opening);
    }
}

/// What the newest schemas of an input say of its table.
#[derive(Clone, PartialEq)]
struct Shape {
    types: Types,
    target: Target,
}

/// Takes the input's table over and opens its partitions where they go on; `None` if one of them does
/// not have what is to be read next.
async fn open<'a>(
    shared: &'a Shared,
    index: usize,
    input: &Input,
    table: &TableId,
    orders: &watch::Receiver<Orders>,
) -> Result<Option<(Lane<'a>, Shape)>, Undelivered> {
    let ctx = &shared.ctx;
    let sink = shared.connect().await?;
    let mut wanted = sink_input(input, orders);
    // Before anything that may not be there yet is asked for.
    sink.withdraw(table, &wanted).await.map_err(of_input)?;
    check_topic(ctx, input).await?;
    let mut decoders = Decoders::default();
    let shape = shape(ctx, &mut decoders, input, table).await?;
    let ends = ctx
        .admin
        .end_offsets(&input.topic, Isolation::ReadCommitted)
        .await
        .map_err(of_topic)?;
    wanted.end_offsets = ends.values().copied().collect();
    let (writer, starts) = assign(sink, shape.target.clone(), &wanted, ctx).await?;
    let mut parts = Vec::new();
    for (partition, start) in (0..).zip(starts) {
        let start = match start {
            StartOffset::Earliest => Start::Earliest,
            StartOffset::At(offset) => Start::At(offset),
        };
        let reader = PartitionReader::open(
            &ctx.kafka,
            &input.topic,
            partition,
            start,
            Isolation::ReadCommitted,
        )
        .await;
        let reader = match reader {
            Err(KafkaError::TopicTruncated { .. }) => return Ok(None),
            reader => reader.map_err(of_topic)?,
        };
        let end = ends.get(&partition).copied().unwrap_or(0);
        shared
            .board
            .at(index, partition, writer.next_offset(partition), end);
        parts.push(Part::new(partition, reader, ctx.clock.now_ms()));
    }
    tracing::info!(
        task = ctx.task.task, topic = input.topic, %table,
        partitions = parts.len(), "a sink delivers into a table"
    );
    let lane = Lane::new(
        shared,
        index,
        input.topic.clone(),
        writer,
        decoders,
        shape.types.clone(),
        parts,
    );
    Ok(Some((lane, shape)))
}

fn sink_input(input: &Input, orders: &watch::Receiver<Orders>) -> sink::Input {
    let fill_ends = |_: &String| orders.borrow().fill_ends.clone();
    sink::Input {
        name: input.name.clone(),
        topic: input.topic.clone(),
        topic_id: input.topic_id.clone(),
        end_offsets: Vec::new(),
        generation: input.generation.max(1),
        fill_ends: input.view.as_ref().map(fill_ends),
        withdrawal: input.withdrawal(),
    }
}

async fn assign(
    sink: Sink,
    target: Target,
    input: &sink::Input,
    ctx: &TaskContext,
) -> Result<(Writer, Vec<StartOffset>), Undelivered> {
    let assigned = sink.assign(target, input, ctx.clock.now_ms()).await;
    assigned.map_err(of_input)
}

/// The topic must be the one that the task means, not another of the same name.
async fn check_topic(ctx: &TaskContext, input: &Input) -> Result<(), Undelivered> {
    let found = ctx.admin.topic(&input.topic).await.map_err(of_topic)?;
    let found = found.ok_or_else(|| {
        // A new version of the task will say what takes its place.
        let message = format!("topic {} does not exist", input.topic);
        Undelivered::Input(TaskError::new(Class::Transient, message))
    })?;
    if found.id.0 == input.topic_id {
        return Ok(());
    }
    let message = format!(
        "topic {} was created anew: its id is {}, not {}",
        input.topic, found.id, input.topic_id
    );
    let error = TaskError::new(Class::Definite, message);
    Err(Undelivered::Attempt(error.with_hint(
        "write the connector's configuration again, so that the new topic is taken",
    )))
}

async fn shape(
    ctx: &TaskContext,
    decoders: &mut Decoders,
    input: &Input,
    table: &TableId,
) -> Result<Shape, Undelivered> {
    let types = Types::read(ctx, input).await.map_err(of_topic)?;
    let target = target(ctx, decoders, &types, input, table.clone()).await;
    let target = target.map_err(of_input)?;
    Ok(Shape { types, target })
}

/// Returns the table as the newest schemas of the input have it.
async fn target(
    ctx: &TaskContext,
    decoders: &mut Decoders,
    types: &Types,
    input: &Input,
    table: TableId,
) -> Result<Target, TaskError> {
    let key = ctx.schemas.latest(&format!("{}-key", input.topic)).await?;
    let value = ctx
        .schemas
        .latest(&format!("{}-value", input.topic))
        .await?;
    let key = decoders.key(&ctx.schemas, key).await?;
    let value = decoders.value(&ctx.schemas, value).await?;
    let (key, row) = (types.exact(key.fields()), types.exact(value.fields()));
    Ok(Target::new(table, &key, &row)?)
}
