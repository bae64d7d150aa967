//! Which tables a start finds, and what becomes of each.
//!
//! Three things are compared: what the configuration captures, what the server has, and what is
//! stored of the tables that were captured before.
//!
//! | configuration | server | stored | what is done |
//! |---|---|---|---|
//! | captures | has it | nothing | it is added: published where it is not, then read |
//! | captures | has it | something | it goes on where it stands |
//! | captures | lacks it | something | it stops, and says so |
//! | captures | has it under another oid | something | what is stored is forgotten, the new table is added |
//! | does not | | something | it is removed: forgotten, and taken out of a publication of ours |
//!
//! A table that cannot go on stops alone. Where it was followed before, that is stored, because its
//! changes are missed from here on: only reading it again brings it back. Where it was not, the next
//! start looks again.

use hutong_connectors_core::ErrorReport;
use hutong_connectors_core::postgres_source::{Config, SnapshotMode};
use hutong_connectors_core::source::{TableProgress, TableState as Shown};
use hutong_schemas::position::Lsn;
use hutong_schemas::table::TableId;

use super::beside::report_of_table;
use super::catalogue::{self, Table};
use super::error::Error;
use super::position::KnownTable;
use super::publication;
use super::relation_change;
use super::startup::{Facts, Fault};
use super::table_state::{Reading, TableState, Tables};

/// What a start has to do about tables.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// Tables with a key, or to be announced only; in the order in which they are read.
    pub(crate) beside: Vec<Table>,
    /// Tables without a key that are to be read.
    pub(crate) keyless: Vec<Table>,
    /// How to publish tables that are not.
    pub(crate) publish: Vec<publication::Plan>,
    /// Tables that are captured no more and are in the publication.
    pub(crate) unpublish: Vec<TableId>,
    /// What is shown of each table.
    pub(crate) shown: Vec<TableProgress>,
    /// What is not wrong enough to stop.
    pub(crate) warnings: Vec<String>,
}

/// What a start knows of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances {
    /// Whether the stream begins, rather than goes on where it stood.
    pub(crate) is_first: bool,
    /// Whether changes were missed, so that all tables must be read again.
    pub(crate) has_gap: bool,
    /// The server's end of log, where the stream goes on: what was committed before it is in rows
    /// that are read from now on.
    pub(crate) end_of_log: Option<Lsn>,
}

/// Compares and decides; `tables` takes what is decided.
///
/// # Errors
///
/// Where no table can be captured: the faults of all of them.
pub(crate) fn start(
    facts: &Facts,
    config: &Config,
    tables: &mut Tables,
    circumstances: Circumstances,
) -> Result<Start, Vec<Fault>> {
    let mut start = Start::default();
    if circumstances.is_first && !facts.unmatched.is_empty() {
        return Err(facts.faults_of_names(config));
    }
    for name in &facts.unmatched {
        start.warnings.push(format!(
            "no table is named \"{name}\", which table.include.list names"
        ));
    }
    forget_removed(facts, config, tables, &mut start);
    let mut errors = Vec::new();
    let mut unpublished = Vec::new();
    for table in &facts.tables {
        let fault = facts.table_fault(config, table);
        match decide(config, tables.get(table.oid), table, circumstances, fault) {
            Decision::Stays(error) => {
                start.shown.push(failed(config, table, error));
            }
            Decision::Unfit(error) => {
                start
                    .shown
                    .push(failed(config, table, report_of_fault(&error)));
                errors.push(error);
            }
            Decision::Stops(error) => {
                let report = report_of_table(&error, Some(&table.id.to_string()));
                if let Some(state) = tables.change(table.oid) {
                    state.failed = Some(report.clone());
                }
                start.shown.push(failed(config, table, report));
                errors.push(error);
            }
            Decision::GoesOn(state) => {
                // A reading that has not begun misses nothing while the table is not published.
                let has_begun = state.reading.as_ref() != Some(&fresh(&state));
                let is_followed = has_begun && tables.get(table.oid).is_some();
                if facts.is_published(table) {
                    take_up(config, tables, &mut start, table, *state);
                } else if is_followed {
                    let error = taken_out(config, table);
                    let report = report_of_table(&error, Some(&table.id.to_string()));
                    if let Some(state) = tables.change(table.oid) {
                        state.failed = Some(report.clone());
                    }
                    start.shown.push(failed(config, table, report));
                    errors.push(error);
                } else {
                    unpublished.push((table, *state));
                }
            }
        }
    }
    publish(facts, config, tables, unpublished, &mut start, &mut errors);
    let captures_none = facts
        .tables
        .iter()
        .all(|table| tables.known(table.oid).is_none());
    if circumstances.is_first && captures_none && !errors.is_empty() {
        return Err(errors
            .into_iter()
            .map(|error| Fault {
                property: "table.include.list",
                error,
            })
            .collect());
    }
    Ok(start)
}

enum Decision {
    /// It has stopped before and nothing has changed.
    Stays(ErrorReport),
    /// It was not followed and cannot be.
    Unfit(Error),
    /// It was followed and cannot be any more.
    Stops(Error),
    GoesOn(Box<TableState>),
}

fn decide(
    config: &Config,
    stored: Option<&TableState>,
    table: &Table,
    circumstances: Circumstances,
    fault: Option<Error>,
) -> Decision {
    let demand = config.snapshot_again.get(&table.id.to_string());
    let Some(stored) = stored else {
        if let Some(error) = fault {
            return Decision::Unfit(error);
        }
        let mut state = TableState::new(relation_change::known(table, config));
        let reads = config.snapshot_mode != SnapshotMode::NoData;
        state.reading = reads.then(Reading::default);
        state.demand = demand.cloned();
        // The stream may go on before a time in which the table was published once already. What it
        // says of that is in the rows or was undone since by what nobody published: it would bring
        // back rows that are gone, where the sweep does not look for them.
        state.from = circumstances.end_of_log;
        return Decision::GoesOn(Box::new(state));
    };
    let is_demanded = demand.is_some() && demand != stored.demand.as_ref();
    let always = config.snapshot_mode == SnapshotMode::Always
        && stored.reading.is_none()
        && stored.failed.is_none();
    let reads_again = is_demanded || always || circumstances.has_gap;
    match (&stored.failed, fault) {
        (Some(report), _) if !reads_again => return Decision::Stays(report.clone()),
        (_, Some(error)) => return Decision::Stops(error),
        _ => {}
    }
    let mut state = stored.clone();
    if reads_again {
        let table = relation_change::as_nullable_as(&stored.known, table);
        state.known = relation_change::known(&table, config);
        state.failed = None;
        state.announced = false;
        // What lies between was written while the table looked otherwise, and is in the rows: nobody
        // reads them before all transactions that run now have ended.
        state.from = circumstances.end_of_log;
        state.demand = demand.cloned().or(state.demand);
        state.reading = Some(Reading {
            sweeps: true,
            ..Reading::default()
        });
    } else {
        forget_columns(config, &mut state.known);
    }
    Decision::GoesOn(Box::new(state))
}

/// Returns a reading that has not begun.
fn fresh(state: &TableState) -> Reading {
    Reading {
        sweeps: state.reading.as_ref().is_some_and(|r| r.sweeps),
        ..Reading::default()
    }
}

/// Columns that the configuration does not capture any more are not looked for in the stream.
fn forget_columns(config: &Config, known: &mut KnownTable) {
    let name = known.name.clone();
    known
        .columns
        .retain(|column| config.columns.accepts(&format!("{name}.{}", column.name)));
}

fn take_up(
    config: &Config,
    tables: &mut Tables,
    start: &mut Start,
    table: &Table,
    state: TableState,
) {
    let is_read = state.reading.is_none();
    let is_keyless = state.known.key.is_empty();
    let prepared = || relation_change::as_nullable_as(&state.known, table);
    if !is_read && is_keyless {
        start.keyless.push(prepared());
    } else if !is_read || !state.announced {
        start.beside.push(prepared());
    }
    start.shown.push(TableProgress {
        state: if is_read {
            Shown::Streaming
        } else {
            Shown::Waiting
        },
        rows_done: state.reading.as_ref().map_or(state.rows, |r| r.rows),
        ..shown(config, table)
    });
    if tables.get(table.oid) != Some(&state) {
        tables.put(table.oid, state);
    }
}

/// Publishes tables together where that is possible, else those that can be.
fn publish(
    facts: &Facts,
    config: &Config,
    tables: &mut Tables,
    unpublished: Vec<(&Table, TableState)>,
    start: &mut Start,
    errors: &mut Vec<Error>,
) {
    let all: Vec<&Table> = unpublished.iter().map(|(table, _)| *table).collect();
    if all.is_empty() {
        return;
    }
    let together = facts.plan(config, &all);
    let is_one_publication = facts.publication.is_none();
    match together {
        Ok(plan) => {
            start.publish.push(plan);
            for (table, state) in unpublished {
                take_up(config, tables, start, table, state);
            }
        }
        Err(error) if is_one_publication => {
            let report = report_of_fault(&error);
            for (table, _) in unpublished {
                start.shown.push(failed(config, table, report.clone()));
            }
            errors.push(error);
        }
        Err(_) => {
            for (table, state) in unpublished {
                match facts.plan(config, &[table]) {
                    Ok(plan) => {
                        start.publish.push(plan);
                        take_up(config, tables, start, table, state);
                    }
                    Err(error) => {
                        start
                            .shown
                            .push(failed(config, table, report_of_fault(&error)));
                        errors.push(error);
                    }
                }
            }
        }
    }
}

/// What is captured no more, or gone.
fn forget_removed(facts: &Facts, config: &Config, tables: &mut Tables, start: &mut Start) {
    let captured = |oid: u32| facts.tables.iter().any(|table| table.oid == oid);
    let gone: Vec<(u32, TableState)> = tables
        .iter()
        .filter(|(oid, _)| !captured(*oid))
        .map(|(oid, state)| (oid, state.clone()))
        .collect();
    for (oid, state) in gone {
        let name = &state.known.name;
        let at_server = facts.all_tables.get(&oid);
        let was_made_again = facts
            .tables
            .iter()
            .any(|table| table.id.to_string() == *name);
        let id = at_server.cloned().or_else(|| id_of(name));
        let is_captured = id.as_ref().is_some_and(|_| captures_name(config, name));
        if was_made_again || !is_captured {
            tracing::info!(table = %name, "a table is not captured any more");
            tables.remove(oid);
            let published = facts.publication.iter().flat_map(|known| &known.tables);
            let id = at_server.filter(|id| published.clone().any(|known| known.id == **id));
            start.unpublish.extend(id.cloned());
            continue;
        }
        let report = match state.failed {
            Some(report) => report,
            None => {
                let what = match at_server {
                    Some(now) => format!("table {name} was renamed to {now}"),
                    None => format!("table {name} was dropped"),
                };
                let error = Error::definite(
                    format!("{what}; its topic still holds its rows"),
                    "take it out of table.include.list, or give the table back its name",
                );
                let report = report_of_table(&error, Some(name));
                if let Some(state) = tables.change(oid) {
                    state.failed = Some(report.clone());
                }
                report
            }
        };
        if let Some(id) = id_of(name) {
            start.shown.push(TableProgress {
                topic: format!("{}.{name}", config.topic_prefix),
                table: id,
                state: Shown::Failed,
                rows_done: state.rows,
                rows_total: None,
                eta_seconds: None,
                error: Some(report),
            });
        }
    }
}

fn captures_name(config: &Config, name: &str) -> bool {
    id_of(name).is_some_and(|id| catalogue::captures_table(config, &id))
}

fn id_of(name: &str) -> Option<TableId> {
    let (schema, table) = name.split_once('.')?;
    Some(TableId {
        schema: schema.to_owned(),
        table: table.to_owned(),
    })
}

fn taken_out(config: &Config, table: &Table) -> Error {
    Error::definite(
        format!(
            "publication \"{}\" does not hold table {} any more; its changes since then are lost to this connector",
            config.publication_name, table.id
        ),
        format!(
            "hutong.snapshot.again={}@TOKEN, with a token not used before, publishes it and reads it again",
            table.id
        ),
    )
}

fn report_of_fault(error: &Error) -> ErrorReport {
    let mut report = ErrorReport::new(error);
    let again = "then restart the connector";
    report.hint = Some(match report.hint {
        Some(hint) => format!("{hint} {again}"),
        None => again.to_owned(),
    });
    report
}

fn shown(config: &Config, table: &Table) -> TableProgress {
    TableProgress {
        table: table.id.clone(),
        topic: format!("{}.{}", config.topic_prefix, table.id),
        state: Shown::Waiting,
        rows_done: 0,
        rows_total: table.rows_estimate,
        eta_seconds: None,
        error: None,
    }
}

fn failed(config: &Config, table: &Table, report: ErrorReport) -> TableProgress {
    TableProgress {
        state: Shown::Failed,
        error: Some(report),
        ..shown(config, table)
    }
}
