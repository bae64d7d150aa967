//! What a sink is to deliver: the task as the control plane writes it.

use std::collections::BTreeMap;

use hutong_connectors_core::SINK_CLASS;
use hutong_connectors_core::jdbc_sink::Config;
use hutong_connectors_postgres::sink::Withdrawal;
use hutong_schemas::class::Class;
use hutong_schemas::table::TableId;
use hutong_transport::record::TaskRecord;
use serde::Deserialize;

use crate::task::TaskError;

/// A sink's task as the control plane writes it.
#[derive(Debug, Deserialize)]
struct SinkTask {
    class: String,
    properties: BTreeMap<String, String>,
    inputs: Vec<Input>,
}

/// A view or a table's topic that goes into a table.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Input {
    /// As the user names it: a view's without its generation.
    pub(super) name: String,
    /// The topic as Kafka has it.
    pub(super) topic: String,
    /// What tells the topic from another of its name.
    pub(super) topic_id: String,
    /// The location that captures the table, if it is a table's topic.
    #[serde(default)]
    pub(super) location: Option<String>,
    #[serde(default)]
    pub(super) view: Option<String>,
    #[serde(default)]
    pub(super) generation: u64,
    #[serde(default)]
    pub(super) version: u64,
    state: Target,
    /// When the grant ends, in milliseconds since 1970.
    #[serde(default)]
    pub(super) valid_until_ms: Option<i64>,
    /// Columns whose values of former generations go at once.
    #[serde(default)]
    withdrawn: Vec<String>,
    /// The lowest generation for whose rows `withdrawn` and `rekeyed` say everything.
    #[serde(default)]
    withdrawn_since: Option<u64>,
    /// The key has changed, so all rows of former generations go at once.
    #[serde(default)]
    rekeyed: bool,
    /// For each partition the offset behind the generation's first fill, as far as known.
    #[serde(default)]
    pub(super) fill_ends: BTreeMap<i32, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Target {
    Live,
    Revoked,
}

impl Input {
    /// Returns whether the grant was taken away or has run out.
    pub(super) fn has_ended(&self, now_ms: i64) -> bool {
        self.state == Target::Revoked || self.valid_until_ms.is_some_and(|end| end <= now_ms)
    }

    pub(super) fn withdrawal(&self) -> Withdrawal {
        Withdrawal {
            columns: self.withdrawn.clone(),
            is_rekeyed: self.rekeyed,
            since_generation: self.withdrawn_since,
        }
    }

    /// Returns whether a lane that delivers one goes on with the other: what it may still learn is
    /// when the grant ends and where the fill does.
    pub(super) fn is_delivered_as(&self, other: &Self) -> bool {
        (&self.topic, &self.topic_id, self.generation)
            == (&other.topic, &other.topic_id, other.generation)
    }
}

/// A task that was understood.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) config: Config,
    properties: BTreeMap<String, String>,
    /// Each with its table.
    pub(super) inputs: Vec<(Input, TableId)>,
}

impl Wanted {
    pub(super) fn read(record: &TaskRecord) -> Result<Self, TaskError> {
        let task: SinkTask = serde_json::from_value(record.config.clone()).map_err(|error| {
            TaskError::new(
                Class::Definite,
                format!("the task of the sink cannot be read: {error}"),
            )
        })?;
        let config = parse(&record.connector, &task)?;
        let mut inputs = Vec::new();
        for input in task.inputs {
            let table = config.table_of(&input.name).map_err(|message| {
                TaskError::new(Class::Definite, format!("input {}: {message}", input.name))
            })?;
            inputs.push((input, table));
        }
        Ok(Self {
            config,
            properties: task.properties,
            inputs,
        })
    }

    /// Returns whether an attempt at one goes on with the other: the inputs are the same, whatever is
    /// wanted of each.
    pub(super) fn is_taken_up_by(&self, newer: &Self) -> bool {
        let names = |wanted: &Self| -> Vec<String> {
            let inputs = wanted.inputs.iter();
            inputs.map(|(input, _)| input.name.clone()).collect()
        };
        self.properties == newer.properties && names(self) == names(newer)
    }
}

fn parse(connector: &str, task: &SinkTask) -> Result<Config, TaskError> {
    if task.class != SINK_CLASS {
        let message = format!("{} is no sink that this worker knows", task.class);
        return Err(TaskError::new(Class::Definite, message));
    }
    Config::parse(connector, &task.properties).map_err(|mistakes| {
        let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        let message = format!("the configuration is wrong: {}", mistakes.join("; "));
        TaskError::new(Class::Definite, message)
    })
}
