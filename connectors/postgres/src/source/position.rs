//! Where a source stands.
//!
//! The log is a sequence of committed transactions in the order of their commit records. A position
//! says: everything whose commit record begins before `lsn` is in Kafka; and of the one transaction
//! that `partial` names, the changes up to and including it. It is committed together with the
//! events, so it is exact.
//!
//! What is known of each captured table is stored apart from it, see [`table_state`](super::table_state).
//!
//! Several changes may share one place in the log (a `COPY` writes many rows with one record), so a
//! change is named by its place *and* its number among those sharing it, counted from 1 as received,
//! before any filter of ours: a filter may change between two runs, what the server sends does not.

use hutong_schemas::position::Lsn;
use hutong_schemas::table::DefaultValue;
use serde::{Deserialize, Serialize};

use super::error::Error;

/// The version of the format.
const VERSION: u32 = 1;

/// A position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Version of this format.
    pub(crate) v: u32,
    /// The cluster that the log belongs to.
    pub(crate) system_identifier: String,
    /// Its timeline, on which the log may have forked from another one.
    pub(crate) timeline: u32,
    /// The first place whose transactions are not done.
    pub(crate) lsn: Lsn,
    /// Where the newest done transaction was committed: `source.sequence` of the next events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_commit_lsn: Option<Lsn>,
    /// How far the transaction after `lsn` is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partial: Option<Partial>,
    /// Whether the stream has not begun: what `made` says is being made, and `lsn` says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) preparing: bool,
    /// Whether the tables are read and, as `snapshot.mode=initial_only` says, nothing follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended: bool,
    /// What we made in the database and have to drop.
    pub(crate) made: Made,
}

/// The last done change of a transaction that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Partial {
    /// The transaction's commit.
    pub(crate) commit_lsn: Lsn,
    /// Place of the last done change.
    pub(crate) change_lsn: Lsn,
    /// Its number among the transaction's changes at this place, from 1.
    pub(crate) ordinal: u64,
}

impl Partial {
    /// Returns whether a change of the same transaction is done.
    pub(crate) fn covers(&self, change_lsn: Lsn, ordinal: u64) -> bool {
        (change_lsn, ordinal) <= (self.change_lsn, self.ordinal)
    }
}

/// What we made in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// The slot.
    pub(crate) slot: bool,
    /// The publication.
    pub(crate) publication: bool,
}

/// A captured table: what its last Relation message said, and the numbers of its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownTable {
    /// `schema.table`
    pub(crate) name: String,
    /// Columns in order.
    pub(crate) columns: Vec<KnownColumn>,
    /// Numbers of the key's columns, in its order.
    pub(crate) key: Vec<i16>,
    /// The highest column number, captured or not: what lies above it was added since.
    pub(crate) highest: i16,
    /// Where the server keeps its rows: another file holds rows that were written anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<String>,
    /// Names of columns that were dropped since the rows were read; the topic's records still have
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gone: Vec<String>,
}

/// A captured column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownColumn {
    /// `pg_attribute.attnum`
    #[serde(rename = "n")]
    pub(crate) attnum: i16,
    /// The name.
    #[serde(rename = "c")]
    pub(crate) name: String,
    /// `pg_attribute.atttypid`
    #[serde(rename = "t")]
    pub(crate) type_oid: u32,
    /// `pg_attribute.atttypmod`
    #[serde(rename = "m")]
    pub(crate) type_modifier: i32,
    /// Whether NULL is allowed.
    #[serde(rename = "o")]
    pub(crate) nullable: bool,
    /// What rows hold in it that are older than the column, if it was added since the rows were read.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub(crate) added: Option<Added>,
}

/// A column that records of its topic may lack.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Added {
    /// The constant with which it was added, as its schema's default; without it they hold NULL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fill: Option<DefaultValue>,
}

impl Position {
    pub(crate) fn new(system_identifier: String, timeline: u32, lsn: Lsn) -> Self {
        Self {
            v: VERSION,
            system_identifier,
            timeline,
            lsn,
            last_commit_lsn: None,
            partial: None,
            preparing: false,
            ended: false,
            made: Made::default(),
        }
    }

    /// Reads a stored position.
    pub(crate) fn parse(value: &serde_json::Value) -> Result<Self, Error> {
        let version = value.get("v").and_then(serde_json::Value::as_u64);
        match version {
            Some(v) if v == u64::from(VERSION) => {}
            Some(v) => {
                return Err(Error::Position(format!(
                    "it has version {v}, this release reads version {VERSION}"
                )));
            }
            None => return Err(Error::Position("it has no version".to_owned())),
        }
        Position::deserialize(value).map_err(|error| Error::Position(error.to_string()))
    }

    /// Writes the position.
    pub(crate) fn to_value(&self) -> Result<serde_json::Value, Error> {
        serde_json::to_value(self).map_err(|error| Error::Fatal(error.to_string()))
    }
}

/// What the server is, as `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct System {
    pub(crate) identifier: String,
    pub(crate) timeline: u32,
}

/// A place where one timeline left another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fork {
    pub(crate) timeline: u32,
    pub(crate) lsn: Lsn,
}

/// Reads the content of a timeline history file: lines of `timeline <tab> lsn <tab> reason`.
pub(crate) fn parse_history(text: &str) -> Vec<Fork> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            Some(Fork {
                timeline: parts.next()?.parse().ok()?,
                lsn: parts.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// Refuses a position whose log the server does not continue.
///
/// # Errors
///
/// Definite: another system, or a timeline that left ours before the position.
pub(crate) fn check_lineage(
    position: &Position,
    system: &System,
    history: &[Fork],
) -> Result<(), Error> {
    if position.system_identifier != system.identifier {
        return Err(gap(format!(
            "the server is another one: its system identifier is {}, the stored position belongs to {}",
            system.identifier, position.system_identifier
        )));
    }
    if position.timeline == system.timeline {
        return Ok(());
    }
    let fork = history
        .iter()
        .find(|fork| fork.timeline == position.timeline);
    match fork {
        Some(fork) if position.lsn <= fork.lsn => Ok(()),
        Some(fork) => Err(gap(format!(
            "the server's timeline {} left timeline {} at {}, before the stored position {}",
            system.timeline, position.timeline, fork.lsn, position.lsn
        ))),
        None => Err(gap(format!(
            "the server's timeline {} does not descend from timeline {} of the stored position",
            system.timeline, position.timeline
        ))),
    }
}

/// A definite error whose way out is to read everything again.
pub(crate) fn gap(message: String) -> Error {
    Error::Gap {
        message: format!("{message}; changes between are lost to this connector"),
        hint: "set snapshot.mode=when_needed: the tables are then read again and rows that are gone are deleted"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: &str, timeline: u32) -> Position {
        Position::new("7".to_owned(), timeline, lsn.parse().unwrap())
    }

    #[track_caller]
    fn check(position: &Position, timeline: u32, history: &str, expected: &str) {
        let system = System {
            identifier: "7".to_owned(),
            timeline,
        };
        let outcome = match check_lineage(position, &system, &parse_history(history)) {
            Ok(()) => "continues".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(outcome.contains(expected), "{outcome}");
    }

    #[test]
    fn a_timeline_that_left_ours_behind_the_position_continues_it() {
        let history = "1\t0/2000000\tno recovery target specified\n2\t0/4000000\tbefore 2026\n";
        check(&at("0/1000000", 1), 1, "", "continues");
        check(&at("0/1000000", 1), 3, history, "continues");
        check(&at("0/2000000", 1), 3, history, "continues");
        check(&at("0/3000000", 2), 3, history, "continues");
    }

    #[test]
    fn a_timeline_that_left_ours_before_the_position_is_a_gap() {
        let history = "1\t0/2000000\tno recovery target specified\n2\t0/4000000\tbefore 2026\n";
        check(
            &at("0/2000001", 1),
            3,
            history,
            "timeline 3 left timeline 1 at 0/2000000, before the stored position 0/2000001",
        );
        check(
            &at("0/1000000", 5),
            3,
            history,
            "does not descend from timeline 5",
        );
    }

    #[test]
    fn a_position_covers_its_change_and_those_before_it() {
        let partial = Partial {
            commit_lsn: Lsn(100),
            change_lsn: Lsn(50),
            ordinal: 3,
        };
        assert!(partial.covers(Lsn(49), 9));
        assert!(partial.covers(Lsn(50), 3));
        assert!(!partial.covers(Lsn(50), 4));
        assert!(!partial.covers(Lsn(51), 1));
    }

    #[test]
    fn a_position_reads_back_as_it_was_written() {
        let mut position = at("16/B374D848", 2);
        position.partial = Some(Partial {
            commit_lsn: Lsn(100),
            change_lsn: Lsn(50),
            ordinal: 3,
        });
        let value = position.to_value().unwrap();
        assert_eq!(value["lsn"], "16/B374D848");
        assert_eq!(Position::parse(&value).unwrap(), position);
    }
}
