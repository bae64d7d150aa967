//! A sink's offsets: one for each partition of each input, kept in the subscriber's database.

use std::collections::BTreeMap;

use hutong_connectors_core::jdbc_sink::Config;
use hutong_connectors_postgres::sink::{OffsetChange, SessionSettings, Sink};
use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use hutong_transport::admin::Isolation;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Asked, PartitionOffset};
use crate::task::{TaskContext, TaskError};

/// As much of a sink's task as is needed here.
#[derive(Debug, Deserialize)]
struct SinkTask {
    properties: BTreeMap<String, String>,
    inputs: Vec<Input>,
}

#[derive(Debug, Deserialize)]
struct Input {
    name: String,
    topic: String,
}

/// By the topic's place among the inputs: partition and offset.
type Wanted = BTreeMap<usize, Vec<(i32, Option<i64>)>>;

pub(super) async fn carry_out(ctx: &TaskContext, asked: &Asked) -> Result<Value, TaskError> {
    let malformed = |error: serde_json::Error| {
        TaskError::new(Class::Definite, format!("the task cannot be read: {error}"))
    };
    let task = SinkTask::deserialize(&ctx.task.config).map_err(malformed)?;
    let mut config = Config::parse(&ctx.task.connector, &task.properties).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        TaskError::definite(mistakes.join("; "))
    })?;
    let wanted = match asked.action {
        Action::Get | Action::Reset => Wanted::new(),
        Action::Alter => wanted(&asked.offsets, &task.inputs)?,
    };
    check_ends(ctx, &task.inputs, &wanted).await?;
    let password = ctx.secrets.unlock(&mut config.connection)?;
    let settings = SessionSettings {
        group_session_timeout: ctx.session_timeout,
        ..SessionSettings::default()
    };
    let sink = Sink::open(&config, password.as_ref(), settings).await?;
    let mut shown = Vec::new();
    for (index, input) in task.inputs.iter().enumerate() {
        let table = config
            .table_of(&input.name)
            .map_err(|message| TaskError::definite(format!("input {}: {message}", input.name)))?;
        let change = match asked.action {
            Action::Get => None,
            Action::Reset => Some(OffsetChange::Reset),
            Action::Alter => wanted.get(&index).cloned().map(OffsetChange::Alter),
        };
        if let Some(change) = change {
            apply(ctx, &sink, &table, input, &change).await?;
        }
        for (partition, next_offset) in sink.offsets(&table, &input.topic).await? {
            shown.push(json!({
                "partition": {"kafka_topic": input.topic, "kafka_partition": partition},
                "offset": {"kafka_offset": next_offset},
            }));
        }
    }
    Ok(shown.into())
}

async fn apply(
    ctx: &TaskContext,
    sink: &Sink,
    table: &TableId,
    input: &Input,
    change: &OffsetChange,
) -> Result<(), TaskError> {
    let changed = sink.change_offsets(table, &input.topic, change).await?;
    if changed {
        tracing::info!(task = ctx.task.task, topic = input.topic, %table, "offsets of a sink were changed");
        return Ok(());
    }
    match change {
        // What was never read begins at its beginning anyway.
        OffsetChange::Reset => Ok(()),
        OffsetChange::Alter(_) => Err(TaskError::definite(format!(
            "{} was not read into {table} yet, so there is no offset that could be altered",
            input.topic
        ))),
    }
}

/// Finds the inputs and reads the numbers, whose form the control plane has checked.
fn wanted(offsets: &[PartitionOffset], inputs: &[Input]) -> Result<Wanted, TaskError> {
    let mut wanted = Wanted::new();
    for one in offsets {
        let topic = one.partition.get("kafka_topic").and_then(Value::as_str);
        let partition = one.partition.get("kafka_partition").and_then(integer);
        let (Some(topic), Some(partition)) = (topic, partition) else {
            return Err(TaskError::definite(
                "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'",
            ));
        };
        let offset = match &one.offset {
            None => None,
            Some(offset) => Some(offset.get("kafka_offset").and_then(integer).ok_or_else(|| {
                TaskError::definite(
                    "The offset for a sink connector should either be null or contain the key 'kafka_offset'",
                )
            })?),
        };
        let found = inputs
            .iter()
            .position(|input| input.topic == topic || input.name == topic);
        let index = found.ok_or_else(|| {
            TaskError::definite(format!("{topic} is none of this connector's topics"))
        })?;
        let partition = i32::try_from(partition)
            .map_err(|_| TaskError::definite(format!("{topic} has no partition {partition}")))?;
        wanted.entry(index).or_default().push((partition, offset));
    }
    Ok(wanted)
}

/// A number, or text that is one, as Kafka Connect takes both.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Refuses partitions and offsets that the topics do not have: a reader would not start there.
async fn check_ends(ctx: &TaskContext, inputs: &[Input], wanted: &Wanted) -> Result<(), TaskError> {
    for (index, offsets) in wanted {
        let topic = &inputs[*index].topic;
        let ends = ctx
            .admin
            .end_offsets(topic, Isolation::ReadCommitted)
            .await?;
        for (partition, offset) in offsets {
            let Some(end) = ends.get(partition) else {
                return Err(TaskError::definite(format!(
                    "{topic} has no partition {partition}"
                )));
            };
            if let Some(offset) = offset.filter(|offset| !(0..=*end).contains(offset)) {
                return Err(TaskError::definite(format!(
                    "partition {partition} of {topic} ends at {end}, and {offset} was given"
                )));
            }
        }
    }
    Ok(())
}
