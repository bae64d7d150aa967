//! Whether a table is still the one that we know, when the stream says what it looks like.
//!
//! A Relation message names columns but not their numbers, and a column is its number: a dropped
//! column whose name comes back is another column, whose values nobody granted. So the catalogue is
//! read after each Relation message. It can only be newer than the stream; a difference is then
//! noticed too early, never too late.
//!
//! The only change that is taken up is an added column that allows NULL and had no default: all
//! existing rows are NULL in it, so no row of the topic is wrong. Everything else leaves rows in the
//! topic that differ from the table, without any event, and needs the table to be read again.

use hutong_connectors_core::postgres_source::Config;

use super::catalogue::{self, CatalogueColumn, Table};
use super::error::Error;
use super::pgoutput::Relation;
use super::position::{KnownColumn, KnownTable};

/// What a captured table looks like, from the catalogue alone.
pub(crate) fn known(table: &Table, config: &Config) -> KnownTable {
    KnownTable {
        name: table.id.to_string(),
        columns: table.captured(config).map(known_column).collect(),
        key: table.primary_key.clone(),
        highest: highest(table),
    }
}

fn highest(table: &Table) -> i16 {
    table.columns.last().map_or(0, |column| column.attnum)
}

fn known_column(column: &CatalogueColumn) -> KnownColumn {
    KnownColumn {
        attnum: column.attnum,
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
        nullable: !column.not_null,
    }
}

/// Returns what the table looks like from a Relation message on.
///
/// # Errors
///
/// Definite, naming the change.
pub(crate) fn follow(
    known: &KnownTable,
    relation: &Relation,
    table: Option<&Table>,
    config: &Config,
) -> Result<KnownTable, Error> {
    let changed = |what: String| changed(&known.name, &what);
    let name = format!("{}.{}", relation.schema, relation.table);
    if name != known.name {
        return Err(changed(format!("it was renamed to {name}")));
    }
    let Some(table) = table else {
        return Err(changed("it was dropped".to_owned()));
    };
    if table.primary_key != known.key {
        return Err(changed("its primary key changed".to_owned()));
    }
    let mut columns = Vec::new();
    for column in &relation.columns {
        if !config
            .columns
            .accepts(&format!("{}.{}", known.name, column.name))
        {
            continue;
        }
        let now = table.columns.iter().find(|now| now.name == column.name);
        let Some(now) = now else {
            return Err(changed(format!(
                "column \"{}\" was dropped or renamed",
                column.name
            )));
        };
        let before = known
            .columns
            .iter()
            .find(|before| before.name == column.name);
        let received = (column.type_oid, column.type_modifier);
        columns.push(match before {
            Some(before) => {
                same_column(before, now, received).map_err(changed)?;
                before.clone()
            }
            None => {
                added_column(known, now).map_err(changed)?;
                known_column(now)
            }
        });
    }
    let lost = known
        .columns
        .iter()
        .find(|before| !columns.iter().any(|column| column.name == before.name));
    if let Some(lost) = lost {
        return Err(changed(match table.column(lost.attnum) {
            Some(now) if now.name != lost.name => {
                format!("column \"{}\" was renamed to \"{}\"", lost.name, now.name)
            }
            _ => format!("column \"{}\" was dropped", lost.name),
        }));
    }
    Ok(KnownTable {
        name,
        columns,
        key: known.key.clone(),
        highest: relation
            .columns
            .iter()
            .filter_map(|column| table.columns.iter().find(|now| now.name == column.name))
            .map(|column| column.attnum)
            .fold(known.highest, i16::max),
    })
}

fn same_column(
    before: &KnownColumn,
    now: &CatalogueColumn,
    received: (u32, i32),
) -> Result<(), String> {
    let name = &before.name;
    if now.attnum != before.attnum {
        return Err(format!("column \"{name}\" was dropped and created again"));
    }
    if received != (before.type_oid, before.type_modifier) {
        return Err(format!(
            "column \"{name}\" changed its type (now {})",
            now.type_text
        ));
    }
    // A column that became NOT NULL may stay nullable for us.
    if !before.nullable && !now.not_null {
        return Err(format!("column \"{name}\" allows NULL now"));
    }
    Ok(())
}

fn added_column(known: &KnownTable, now: &CatalogueColumn) -> Result<(), String> {
    let name = &now.name;
    if let Some(renamed) = known
        .columns
        .iter()
        .find(|before| before.attnum == now.attnum)
    {
        return Err(format!(
            "column \"{}\" was renamed to \"{name}\"",
            renamed.name
        ));
    }
    if catalogue::sql_type(now).is_none() {
        return Err(format!(
            "column \"{name}\" was added with the type {}, which is not supported",
            now.type_text
        ));
    }
    if now.attnum <= known.highest {
        return Err(format!("column \"{name}\" was not captured before"));
    }
    if now.not_null {
        return Err(format!("column \"{name}\" was added as NOT NULL"));
    }
    if now.has_default() || now.filled_at_add {
        return Err(format!("column \"{name}\" was added with a default"));
    }
    Ok(())
}

fn changed(table: &str, what: &str) -> Error {
    Error::definite(
        format!(
            "table {table} changed: {what}; its topic does not follow, it needs a new snapshot"
        ),
        "delete the connector and create it again under another name and slot, so that its tables are read again",
    )
}
