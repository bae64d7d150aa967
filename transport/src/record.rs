//! The JSON records of the platform's own topics. Each carries `v`; a newer `v` is refused by name.

use hutong_schemas::class::Class;
use hutong_schemas::table::TableSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Error;

/// The version that this release writes, of every record.
pub const VERSION: u64 = 1;

/// A record of ours: what it is called in an error, and that it carries `v`.
pub trait Record: Serialize + DeserializeOwned {
    /// What an error calls it.
    const NAME: &'static str;

    /// Returns the record as it is stored.
    ///
    /// # Panics
    ///
    /// Never: all records have text keys and no other reason to be no JSON.
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("records of ours are representable in JSON")
    }

    /// Reads a stored record.
    ///
    /// # Errors
    ///
    /// Definite: it was written by a newer release, or is no such record.
    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let malformed = |source| Error::RecordMalformed {
            record: Self::NAME.to_owned(),
            source,
        };
        let Versioned { v } = serde_json::from_slice(bytes).map_err(malformed)?;
        if v > VERSION {
            return Err(Error::RecordTooNew {
                record: Self::NAME.to_owned(),
                found: v,
                supported: VERSION,
            });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

#[derive(Deserialize)]
struct Versioned {
    v: u64,
}

macro_rules! record {
    ($type:ty, $name:literal) => {
        impl Record for $type {
            const NAME: &'static str = $name;
        }
    };
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    /// Captures tables of a database.
    Source,
    /// Computes views over one partition of a table's topic.
    Processor,
    /// Keeps a subscriber's tables equal to views.
    Sink,
}

/// What a person wants of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// It shall run.
    Running,
    /// It shall keep its resources and do nothing.
    Paused,
    /// It shall give up its resources and do nothing.
    Stopped,
    /// It shall remove what it made, report, and go.
    Deleted,
}

/// A task as it is wanted. Key: `task/<task>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The id of the task.
    pub task: String,
    /// The connector that it belongs to; for a processor, its task id again.
    pub connector: String,
    /// The version of the task: a worker ignores an older one.
    pub version: u64,
    /// What it does.
    pub kind: TaskKind,
    /// What is wanted of it.
    pub target: TargetState,
    /// Raised to restart the task as it is.
    #[serde(default)]
    pub restart: u64,
    /// What only the task's kind understands.
    pub config: Value,
}
record!(TaskRecord, "task record");

impl TaskRecord {
    /// Returns the record's key.
    #[must_use]
    pub fn key(&self) -> String {
        task_key(&self.task)
    }
}

/// Returns the key of a task in the topics of tasks and of states.
#[must_use]
pub fn task_key(task: &str) -> String {
    format!("task/{task}")
}

/// Returns the key of a request, and of its answer.
#[must_use]
pub fn request_key(request: &str) -> String {
    format!("request/{request}")
}

/// Whose record a key names, in the topics of tasks and of states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskKey {
    /// `task/<id>`.
    Task(String),
    /// `request/<uuid>`.
    Request(String),
}

impl TaskKey {
    /// Reads a key; `None` if it is neither, which a reader skips.
    #[must_use]
    pub fn parse(key: &[u8]) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?;
        match key.split_once('/')? {
            ("task", id) => Some(Self::Task(id.to_owned())),
            ("request", id) => Some(Self::Request(id.to_owned())),
            _ => None,
        }
    }
}

/// What is asked of a location's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// Validate a connector's configuration with a real connection.
    Validate,
    /// Read or change where a connector's task goes on.
    Offsets,
    /// Count the rows that a change of a view would move. Of the task of a processor.
    Preview,
    /// Log more or less. Not answered: every worker of the location is told.
    Levels,
}

/// Something to be answered once, in time. Key: `request/<uuid>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The request's uuid.
    pub request: String,
    /// When it is not worth answering any more, in milliseconds since 1970.
    pub deadline_ms: i64,
    /// What is asked.
    pub kind: RequestKind,
    /// About what.
    pub config: Value,
}
record!(RequestRecord, "request record");

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TaskState {
    /// It runs.
    Running,
    /// It is paused, as wanted.
    Paused,
    /// It is stopped, as wanted.
    Stopped,
    /// It cannot go on without a person.
    Failed,
    /// It starts again by itself.
    Restarting,
    /// No worker has it.
    Unassigned,
    /// It has removed what it made.
    Deleted,
}

/// An error as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// Its class.
    pub class: Class,
    /// The whole chain of causes.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Automatic restarts of a task since it last worked for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// How many there were.
    pub count: u64,
    /// When the first of them was decided on, in milliseconds since 1970, by the worker's clock.
    pub since_ms: i64,
    /// When the next attempt begins, likewise; `None` while one is under way or none will be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<i64>,
}

/// What a task reports. Key: `task/<task>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The id of the task.
    pub task: String,
    /// The version of the task that this is about.
    pub version: u64,
    /// The restart of the task that this is about.
    #[serde(default)]
    pub restart: u64,
    /// What it does.
    pub state: TaskState,
    /// Which worker says so.
    pub worker_id: String,
    /// Why it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// Since when it is in this state, in milliseconds since 1970, by the worker's clock.
    pub since_ms: i64,
    /// When this was said, likewise.
    pub ts_ms: i64,
    /// How often it was started again by itself, while that has not helped for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<Restarts>,
    /// What only the task's kind understands.
    #[serde(default)]
    pub details: Value,
}
record!(StatusRecord, "status record");

/// A mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PropertyMistake {
    /// The property.
    pub property: String,
    /// What is wrong with it.
    pub message: String,
}

/// The answer to a request. Key: `request/<uuid>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The request's uuid.
    pub request: String,
    /// What is wrong, if anything.
    pub errors: Vec<PropertyMistake>,
    /// What else was found out.
    #[serde(default)]
    pub details: Value,
}
record!(AnswerRecord, "answer record");

/// A schema. Key: `schema/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The id.
    pub id: u32,
    /// The Avro schema's JSON.
    pub schema: String,
}
record!(SchemaRecord, "schema record");

/// A version of a subject that defines a name which a schema uses, as Confluent's registry has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaReference {
    /// The name, in full.
    pub name: String,
    /// The subject.
    pub subject: String,
    /// The version.
    pub version: i32,
}

/// What a schema refers to, if anything. Key: `references/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferencesRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The schema's id.
    pub id: u32,
    /// What it refers to.
    pub references: Vec<SchemaReference>,
}
record!(ReferencesRecord, "references record");

/// A version of a subject. Key: `subject/<subject>/<version>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The subject.
    pub subject: String,
    /// The version within the subject.
    pub version: i32,
    /// The schema's id.
    pub id: u32,
    /// Whether it was deleted softly.
    pub deleted: bool,
}
record!(SubjectRecord, "subject record");

/// A captured table. Key: its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The connector that captures it.
    pub connector: String,
    /// Its topic.
    pub topic: String,
    /// Its database.
    pub database: String,
    /// Its columns and key.
    pub table: TableSchema,
    /// The partitions of its topic.
    pub partitions: i32,
    /// The id of the key's schema, unless it has no key.
    pub key_schema_id: Option<u32>,
    /// The id of the value's schema.
    pub value_schema_id: u32,
}
record!(TableRecord, "table record");

/// A position. Key: `<owner>` or `<owner>#<sub>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRecord {
    /// The version of the record's form.
    pub v: u64,
    /// The position, which only its owner understands.
    pub position: Value,
}
record!(PositionRecord, "position record");

/// Returns the key of a position.
#[must_use]
pub fn position_key(owner: &str, sub: &str) -> String {
    if sub.is_empty() {
        owner.to_owned()
    } else {
        format!("{owner}#{sub}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_record_is_refused_by_name_before_its_fields_are_looked_at() {
        let error = TaskRecord::decode(br#"{"v":2,"something":"else"}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "task record has v=2, but this release reads up to v=1"
        );
    }

    #[test]
    fn a_record_without_version_is_refused() {
        assert!(StatusRecord::decode(br#"{"task":"a"}"#).is_err());
        assert!(StatusRecord::decode(b"not json").is_err());
    }

    #[test]
    fn a_task_reads_back_as_it_was_written() {
        let task = TaskRecord {
            v: VERSION,
            task: "rk-0".into(),
            connector: "rk".into(),
            version: 7,
            kind: TaskKind::Source,
            target: TargetState::Running,
            restart: 1,
            config: serde_json::json!({"class": "x"}),
        };
        let bytes = task.encode();
        assert_eq!(TaskRecord::decode(&bytes).unwrap(), task);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""kind":"source""#) && text.contains(r#""target":"running""#));
    }

    #[test]
    fn keys_of_tasks_and_requests_are_told_apart() {
        assert_eq!(
            TaskKey::parse(b"task/a/b"),
            Some(TaskKey::Task("a/b".into()))
        );
        assert_eq!(
            TaskKey::parse(b"request/x"),
            Some(TaskKey::Request("x".into()))
        );
        assert_eq!(TaskKey::parse(b"other/x"), None);
        assert_eq!(TaskKey::parse(&[0xff, b'/']), None);
    }
}
