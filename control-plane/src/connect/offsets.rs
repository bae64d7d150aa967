//! Where connectors go on, in the form of KIP-875.
//!
//! Positions are their owners': a source's lie in Kafka under its transactional id, a sink's in the
//! subscriber's database. So they are read and changed by the worker that has the task, while the
//! connector is stopped; what a running one last reported is good enough to be shown.

use hutong_schemas::position::Lsn;
use hutong_transport::record::{RequestKind, StatusRecord};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::status::reported;
use super::{find, get as get_connector};
use crate::App;
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::requests::{self, ANSWER_TIME, Question, Whom};
use crate::store::connectors::Connector;
use crate::store::tasks::connector_task;

/// Where a part of a connector's input shall go on.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct GivenOffset {
    /// `{"server": …}` of a source; `{"kafka_topic": …, "kafka_partition": …}` of a sink.
    #[schema(value_type = Object)]
    partition: Option<Map<String, Value>>,
    /// `{"lsn": …}`; `{"kafka_offset": …}`; null begins it anew.
    #[schema(value_type = Option<Object>)]
    offset: Option<Map<String, Value>>,
}

/// Returns the offsets of a connector.
pub(crate) async fn get(app: &App, caller: &Caller, name: &str) -> Result<Vec<Value>, Error> {
    let connector = get_connector(app, caller, name).await?;
    let status = reported(app, &connector).await?;
    let known = status.map(|status| of_status(&connector, &status));
    match known {
        // A stopped task's status is as old as its end; its offsets may have been changed since.
        _ if connector.target == "stopped" => {}
        Some(offsets) if !offsets.is_empty() || connector.target == "running" => {
            return Ok(offsets);
        }
        None if connector.target == "running" => return Ok(Vec::new()),
        Some(_) | None => {}
    }
    ask(app, caller, &connector, json!({"action": "get"})).await
}

/// Changes offsets of a stopped connector and returns what Kafka Connect says about it.
pub(crate) async fn alter(
    app: &App,
    caller: &Caller,
    name: &str,
    given: &[GivenOffset],
) -> Result<&'static str, Error> {
    let connector = stopped(app, caller, name).await?;
    if given.is_empty() {
        return Err(Error::invalid(
            "Partitions / offsets need to be provided for an alter offsets request",
        ));
    }
    let mut offsets = Vec::new();
    for one in given {
        let partition = match connector.kind.as_str() {
            "sink" => sink_partition(one)?,
            _ => one.partition.clone().ok_or_else(|| {
                Error::invalid(
                    "The partition for a source connector offset cannot be null or missing",
                )
            })?,
        };
        offsets.push(json!({"partition": partition, "offset": one.offset}));
    }
    let question = json!({"action": "alter", "offsets": offsets});
    ask(app, caller, &connector, question).await?;
    tracing::info!(connector = name, "offsets altered");
    Ok("The offsets for this connector have been altered successfully")
}

/// Lets a stopped connector begin anew and returns what Kafka Connect says about it.
pub(crate) async fn reset(app: &App, caller: &Caller, name: &str) -> Result<&'static str, Error> {
    let connector = stopped(app, caller, name).await?;
    ask(app, caller, &connector, json!({"action": "reset"})).await?;
    tracing::info!(connector = name, "offsets reset");
    Ok("The offsets for this connector have been reset successfully")
}

async fn stopped(app: &App, caller: &Caller, name: &str) -> Result<Connector, Error> {
    caller.require(Role::Operator)?;
    let mut db = app.store.acquire().await?;
    let connector = find(&mut db, caller, name).await?;
    if connector.target == "stopped" {
        return Ok(connector);
    }
    Err(Error::invalid(format!(
        "Connectors must be in the STOPPED state before their offsets can be modified. This can be \
         done for the specified connector by issuing a 'PUT' request to the '/connectors/{name}/stop' \
         endpoint"
    )))
}

/// Checks the form of a sink's partition and offset, in Kafka Connect's words.
fn sink_partition(given: &GivenOffset) -> Result<Map<String, Value>, Error> {
    let refuse = |message: &str| Err(Error::invalid(message));
    let Some(partition) = &given.partition else {
        return refuse("The partition for a sink connector offset cannot be null or missing");
    };
    if !partition.contains_key("kafka_topic") || !partition.contains_key("kafka_partition") {
        return refuse(
            "The partition for a sink connector offset must contain the keys 'kafka_topic' and \
             'kafka_partition'",
        );
    }
    if !partition["kafka_topic"].is_string() {
        return refuse("Kafka topic names must be valid strings and may not be null");
    }
    let number = &partition["kafka_partition"];
    if number.is_null() {
        return refuse("Kafka partitions must be valid numbers and may not be null");
    }
    if !is_integer(number) {
        return refuse(&format!(
            "Failed to parse the following Kafka partition value in the provided offsets: '{}'. \
             Partition values for sink connectors need to be integers.",
            plain(number)
        ));
    }
    if let Some(offset) = &given.offset {
        let Some(number) = offset.get("kafka_offset") else {
            return refuse(
                "The offset for a sink connector should either be null or contain the key \
                 'kafka_offset'",
            );
        };
        if !is_integer(number) {
            return refuse(&format!(
                "Failed to parse the following Kafka offset value in the provided offsets: '{}'. \
                 Offset values for sink connectors need to be integers",
                plain(number)
            ));
        }
    }
    Ok(partition.clone())
}

fn is_integer(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_i64(),
        Value::String(text) => text.trim().parse::<i64>().is_ok(),
        _ => false,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Asks the worker that has the connector's task.
async fn ask(
    app: &App,
    caller: &Caller,
    connector: &Connector,
    mut question: Value,
) -> Result<Vec<Value>, Error> {
    let task = connector_task(&connector.name);
    question["task"] = task.clone().into();
    let question = Question {
        owner: &caller.owner,
        location: &connector.location,
        whom: Whom::TaskOwner(&task),
        kind: RequestKind::Offsets,
        config: question,
    };
    let Some(answer) = requests::ask(app, question).await? else {
        return Err(Error::unavailable(format!(
            "location \"{}\" did not answer within {} s: no worker there has task {task}, or its \
             database does not answer. Look at the offsets before you try again",
            connector.location,
            ANSWER_TIME.as_secs()
        )));
    };
    if let Some(error) = answer.errors.into_iter().next() {
        return Err(match answer.details["class"].as_str() {
            Some("definite") => Error::invalid(error.message),
            _ => Error::unavailable(error.message),
        });
    }
    let offsets = answer.details["offsets"].as_array().cloned();
    let offsets = offsets.unwrap_or_default().into_iter();
    Ok(offsets.map(shown).collect())
}

/// Returns the offsets that a task last reported.
fn of_status(connector: &Connector, status: &StatusRecord) -> Vec<Value> {
    if connector.kind == "source" {
        let position = &status.details["position"];
        if position.is_null() {
            return Vec::new();
        }
        let server = connector.config.get("topic.prefix");
        let offset = json!({"partition": {"server": server}, "offset": position});
        return vec![shown(offset)];
    }
    let mut offsets = Vec::new();
    for input in status.details["inputs"].as_array().into_iter().flatten() {
        for partition in input["partitions"].as_array().into_iter().flatten() {
            offsets.push(json!({
                "partition": {
                    "kafka_topic": input["topic"], "kafka_partition": partition["partition"],
                },
                "offset": {"kafka_offset": partition["next_offset"]},
            }));
        }
    }
    offsets
}

/// Puts a source's position as Debezium does: the place in the log is a number. What else is in it
/// concerns the connector alone.
fn shown(mut one: Value) -> Value {
    let number = |value: &Value| -> Option<u64> {
        let lsn: Lsn = value.as_str()?.parse().ok()?;
        Some(lsn.0)
    };
    let position = &one["offset"];
    let Some(lsn) = number(&position["lsn"]) else {
        return one;
    };
    let mut offset = json!({ "lsn": lsn });
    if let Some(commit) = number(&position["last_commit_lsn"]) {
        offset["lsn_commit"] = commit.into();
    }
    if !position["snapshot"].is_null() {
        offset["snapshot"] = true.into();
    }
    one["offset"] = offset;
    one
}
