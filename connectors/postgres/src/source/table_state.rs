//! What is stored of each captured table: what it looks like, how far its rows are read, whether it
//! has stopped. It lies apart from the stream's position, under `table/<pg_class.oid>`, and only what
//! changed is written with a batch: a source of thousands of tables pays for those that move.

use std::collections::{BTreeMap, BTreeSet};

use hutong_connectors_core::ErrorReport;
use hutong_connectors_core::source::PartPosition;
use hutong_schemas::position::Lsn;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Error;
use super::position::KnownTable;

/// The version of the format.
const VERSION: u32 = 1;
/// What names of parts begin with.
const PREFIX: &str = "table/";

/// A captured table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableState {
    v: u32,
    /// What it looks like.
    #[serde(flatten)]
    pub(crate) known: KnownTable,
    /// Whether the platform knows its topic and types.
    #[serde(default)]
    pub(crate) announced: bool,
    /// Its rows, while they are not all read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reading: Option<Reading>,
    /// Rows read by the newest complete reading.
    #[serde(default)]
    pub(crate) rows: u64,
    /// Why it has stopped: its changes since then are not in the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<ErrorReport>,
    /// The newest demand to read it again that was taken up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) demand: Option<String>,
    /// Transactions committed before this place are in the rows as read; their changes make no
    /// events. Of tables without a key, and of those that are read again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Lsn>,
}

/// How far a table's rows are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// The key of the last row done, as the server writes it; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<Vec<String>>,
    /// Rows done.
    #[serde(default)]
    pub(crate) rows: u64,
    /// Whether the topic may hold rows that the table does not: then the reading ends with a sweep.
    #[serde(default)]
    pub(crate) sweeps: bool,
    /// The end of each of the topic's partitions when the reading began: a key whose newest record
    /// lies before was neither read nor changed since. `None` until it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began_at: Option<Vec<i64>>,
    /// Whether all rows are done and the sweep is next.
    #[serde(default)]
    pub(crate) all_read: bool,
}

impl TableState {
    /// A table that nothing is known of but its looks.
    pub(crate) fn new(known: KnownTable) -> Self {
        Self {
            v: VERSION,
            known,
            announced: false,
            reading: None,
            rows: 0,
            failed: None,
            demand: None,
            from: None,
        }
    }
}

/// All captured tables, by `pg_class.oid`.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    states: BTreeMap<u32, TableState>,
    changed: BTreeSet<u32>,
}

impl Tables {
    /// Takes the tables out of what is stored.
    pub(crate) fn parse(positions: &BTreeMap<String, Value>) -> Result<Self, Error> {
        let mut tables = Self::default();
        for (part, value) in positions {
            let Some(oid) = part.strip_prefix(PREFIX).and_then(|oid| oid.parse().ok()) else {
                continue;
            };
            let state = TableState::deserialize(value)
                .map_err(|error| Error::Position(format!("{part}: {error}")))?;
            if state.v != VERSION {
                return Err(Error::Position(format!(
                    "{part} has version {}, this release reads version {VERSION}",
                    state.v
                )));
            }
            tables.states.insert(oid, state);
        }
        Ok(tables)
    }

    pub(crate) fn get(&self, oid: u32) -> Option<&TableState> {
        self.states.get(&oid)
    }

    /// Returns a table to be changed; the change is stored with the next batch.
    pub(crate) fn change(&mut self, oid: u32) -> Option<&mut TableState> {
        let state = self.states.get_mut(&oid)?;
        self.changed.insert(oid);
        Some(state)
    }

    pub(crate) fn put(&mut self, oid: u32, state: TableState) {
        self.states.insert(oid, state);
        self.changed.insert(oid);
    }

    pub(crate) fn remove(&mut self, oid: u32) {
        if self.states.remove(&oid).is_some() {
            self.changed.insert(oid);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &TableState)> {
        self.states.iter().map(|(oid, state)| (*oid, state))
    }

    /// Returns what a table looks like whose changes are followed.
    pub(crate) fn known(&self, oid: u32) -> Option<&KnownTable> {
        let state = self.states.get(&oid)?;
        state.failed.is_none().then_some(&state.known)
    }

    /// Says what a table looks like from here on.
    pub(crate) fn set_known(&mut self, oid: u32, known: KnownTable) {
        if let Some(state) = self.states.get_mut(&oid)
            && state.known != known
        {
            state.known = known;
            self.changed.insert(oid);
        }
    }

    /// Returns whether something is not handed over yet.
    pub(crate) fn are_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Returns what changed since the last call, to be stored with a batch.
    pub(crate) fn take_changed(&mut self) -> Result<Vec<PartPosition>, Error> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|oid| {
                let value = self.states.get(&oid).map(serde_json::to_value).transpose();
                Ok(PartPosition {
                    part: format!("{PREFIX}{oid}"),
                    value: value.map_err(|error| Error::Fatal(error.to_string()))?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str) -> TableState {
        TableState::new(KnownTable {
            name: name.to_owned(),
            columns: Vec::new(),
            key: vec![1],
            highest: 1,
            ..KnownTable::default()
        })
    }

    #[test]
    fn only_what_changed_is_written_and_it_reads_back() {
        let mut tables = Tables::default();
        tables.put(1, state("public.a"));
        tables.put(2, state("public.b"));
        let written = tables.take_changed().unwrap();
        assert_eq!(written.len(), 2);
        assert!(tables.take_changed().unwrap().is_empty());
        tables.change(2).unwrap().reading = Some(Reading {
            cursor: Some(vec!["7".to_owned()]),
            ..Reading::default()
        });
        tables.remove(1);
        let changed = tables.take_changed().unwrap();
        assert_eq!(changed[0].value, None);
        assert_eq!(changed[1].part, "table/2");
        let stored = BTreeMap::from([
            (String::new(), Value::Null),
            (changed[1].part.clone(), changed[1].value.clone().unwrap()),
        ]);
        let read = Tables::parse(&stored).unwrap();
        assert_eq!(read.get(2), tables.get(2));
    }

    #[test]
    fn a_table_that_stopped_is_not_followed() {
        let mut tables = Tables::default();
        tables.put(1, state("public.a"));
        assert!(tables.known(1).is_some());
        tables.change(1).unwrap().failed = Some(ErrorReport {
            class: hutong_schemas::class::Class::Definite,
            message: "gone".to_owned(),
            hint: None,
        });
        assert!(tables.known(1).is_none());
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut value = serde_json::to_value(state("public.a")).unwrap();
        value["v"] = 2.into();
        let stored = BTreeMap::from([("table/1".to_owned(), value)]);
        assert!(Tables::parse(&stored).is_err());
    }
}
