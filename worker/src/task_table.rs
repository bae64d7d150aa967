//! What one partition of the tasks topic says is wanted.
//!
//! Pure: messages go in, what changed comes out. Reading may begin anew at any time (a reader that
//! failed is replaced by one at the beginning of the compacted topic), so a pass is judged at its
//! end: what it did not show any more is gone, although no tombstone of it was seen.

use std::collections::HashMap;
use std::sync::Arc;

use hutong_transport::reader::Message;
use hutong_transport::record::{Record, RequestRecord, TaskKey, TaskRecord};

use crate::supervisor::supersedes;

/// What is wanted in one partition, and how much of it is known.
#[derive(Debug, Default)]
pub(crate) struct TaskTable {
    tasks: HashMap<String, Entry>,
    requests: HashMap<String, RequestRecord>,
    pass: u64,
    complete: bool,
}

#[derive(Debug)]
struct Entry {
    record: Arc<TaskRecord>,
    seen_in_pass: u64,
}

/// What follows from a message or from the end of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// A task is wanted like this.
    Wanted(Arc<TaskRecord>),
    /// A task is wanted no more, not even as deleted.
    Gone(String),
    /// Something is to be answered.
    Asked(RequestRecord),
    /// A request is over and so is its answer.
    AnswerGone(String),
    /// A record cannot be read: of which task, if it is one, and why.
    Unreadable(Option<String>, String),
}

impl TaskTable {
    /// A reader begins at the beginning of the partition.
    pub(crate) fn begin_pass(&mut self) {
        self.pass += 1;
    }

    /// Whether the end has been reached once, so that tasks may run.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes a record. Until the first end nothing follows from it, because a newer one of the same
    /// task may lie behind it.
    pub(crate) fn take(&mut self, message: &Message) -> Vec<Change> {
        let key = message.key.as_deref().unwrap_or_default();
        match TaskKey::parse(key) {
            Some(TaskKey::Task(task)) => self.take_task(task, message.value.as_deref()),
            Some(TaskKey::Request(request)) => self.take_request(request, message.value.as_deref()),
            // Of a later release.
            None => Vec::new(),
        }
    }

    fn take_task(&mut self, task: String, value: Option<&[u8]>) -> Vec<Change> {
        let Some(value) = value else {
            let known = self.tasks.remove(&task).is_some();
            return self.if_complete(known.then_some(Change::Gone(task)));
        };
        let record = match TaskRecord::decode(value) {
            Ok(record) => Arc::new(record),
            Err(error) => return vec![Change::Unreadable(Some(task), crate::task::chain(&error))],
        };
        let pass = self.pass;
        if let Some(entry) = self.tasks.get_mut(&task) {
            entry.seen_in_pass = pass;
            if !supersedes(&entry.record, &record) {
                return Vec::new();
            }
            entry.record = Arc::clone(&record);
        } else {
            let entry = Entry {
                record: Arc::clone(&record),
                seen_in_pass: pass,
            };
            self.tasks.insert(task, entry);
        }
        self.if_complete(Some(Change::Wanted(record)))
    }

    fn take_request(&mut self, request: String, value: Option<&[u8]>) -> Vec<Change> {
        let Some(value) = value else {
            self.requests.remove(&request);
            return self.if_complete(Some(Change::AnswerGone(request)));
        };
        match RequestRecord::decode(value) {
            Ok(record) if self.complete => vec![Change::Asked(record)],
            Ok(record) => {
                self.requests.insert(request, record);
                Vec::new()
            }
            Err(error) => vec![Change::Unreadable(None, crate::task::chain(&error))],
        }
    }

    fn if_complete(&self, change: Option<Change>) -> Vec<Change> {
        change.filter(|_| self.complete).into_iter().collect()
    }

    /// The pass has reached the end.
    pub(crate) fn end_pass(&mut self) -> Vec<Change> {
        let pass = self.pass;
        let unseen =
            |(task, entry): (&String, &Entry)| (entry.seen_in_pass != pass).then(|| task.clone());
        let gone: Vec<String> = self.tasks.iter().filter_map(unseen).collect();
        for task in &gone {
            self.tasks.remove(task);
        }
        let mut changes: Vec<Change> = gone.into_iter().map(Change::Gone).collect();
        if !self.complete {
            self.complete = true;
            let wanted = self.tasks.values().map(|entry| Arc::clone(&entry.record));
            changes.extend(wanted.map(Change::Wanted));
        }
        let asked = self.requests.drain().map(|(_, request)| request);
        changes.extend(asked.map(Change::Asked));
        changes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hutong_transport::reader::Message;
    use hutong_transport::record::{
        Record, RequestKind, RequestRecord, TargetState, TaskKind, TaskRecord,
    };

    use super::{Change, TaskTable};

    fn task(id: &str, version: u64) -> TaskRecord {
        TaskRecord {
            v: 1,
            task: id.into(),
            connector: id.into(),
            version,
            kind: TaskKind::Sink,
            target: TargetState::Running,
            restart: 0,
            config: serde_json::Value::Null,
        }
    }

    fn message(key: &str, value: Option<Vec<u8>>) -> Message {
        Message {
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: Some(Bytes::from(key.to_owned())),
            value: value.map(Bytes::from),
            header_hutong: None,
        }
    }

    fn record(id: &str, version: u64) -> Message {
        message(&format!("task/{id}"), Some(task(id, version).encode()))
    }

    fn request() -> RequestRecord {
        RequestRecord {
            v: 1,
            request: "r".into(),
            deadline_ms: 1,
            kind: RequestKind::Validate,
            config: serde_json::Value::Null,
        }
    }

    fn wanted(id: &str, version: u64) -> Change {
        Change::Wanted(task(id, version).into())
    }

    #[test]
    fn nothing_follows_before_the_end_and_then_only_the_newest() {
        let mut table = TaskTable::default();
        table.begin_pass();
        assert_eq!(table.take(&record("a", 1)), []);
        assert_eq!(table.take(&record("b", 1)), []);
        assert_eq!(table.take(&record("a", 2)), []);
        assert_eq!(table.take(&message("task/b", None)), []);
        assert_eq!(table.end_pass(), [wanted("a", 2)]);
        assert_eq!(table.take(&record("a", 3)), [wanted("a", 3)]);
    }

    #[test]
    fn an_older_version_is_ignored() {
        let mut table = TaskTable::default();
        table.begin_pass();
        assert_eq!(table.take(&record("a", 5)), []);
        assert_eq!(table.end_pass(), [wanted("a", 5)]);
        assert_eq!(table.take(&record("a", 4)), []);
        assert_eq!(table.take(&record("a", 5)), []);
        assert_eq!(table.take(&record("a", 6)), [wanted("a", 6)]);
    }

    #[test]
    fn a_second_pass_finds_what_vanished_while_nobody_read() {
        let mut table = TaskTable::default();
        table.begin_pass();
        table.take(&record("a", 1));
        table.take(&record("b", 1));
        table.end_pass();
        table.begin_pass();
        assert_eq!(table.take(&record("b", 1)), []);
        assert_eq!(table.take(&record("c", 1)), [wanted("c", 1)]);
        assert_eq!(table.end_pass(), [Change::Gone("a".into())]);
    }

    #[test]
    fn a_request_is_asked_once_and_not_if_it_was_withdrawn_before_the_end() {
        let mut table = TaskTable::default();
        table.begin_pass();
        assert_eq!(
            table.take(&message("request/r", Some(request().encode()))),
            []
        );
        assert_eq!(table.end_pass(), [Change::Asked(request())]);
        table.begin_pass();
        assert_eq!(table.end_pass(), []);

        let mut table = TaskTable::default();
        table.begin_pass();
        table.take(&message("request/r", Some(request().encode())));
        table.take(&message("request/r", None));
        assert_eq!(table.end_pass(), []);
    }

    #[test]
    fn a_record_of_a_newer_release_is_named_and_the_rest_goes_on() {
        let mut table = TaskTable::default();
        table.begin_pass();
        let changes = table.take(&message("task/n", Some(br#"{"v":2}"#.to_vec())));
        let [Change::Unreadable(Some(task), why)] = &changes[..] else {
            panic!("{changes:?}")
        };
        assert_eq!(task, "n");
        assert!(why.contains("v=2"), "{why}");
        table.take(&record("a", 1));
        assert_eq!(table.end_pass(), [wanted("a", 1)]);
    }
}
