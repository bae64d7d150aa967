//! Whether a table's topic can follow, when the stream says what the table looks like from here on.
//!
//! A Relation message is true at its place in the log. It names columns, but not their numbers, and a
//! column is its number: a dropped column whose name comes back is another column, whose values
//! nobody granted. So the catalogue is read after each Relation message. It is newer than the stream,
//! by hours where we catch up, and may already show what happens further on. What is known from the
//! last message and what the catalogue says now enclose the message in time:
//!
//! ```text
//!   known (earlier)  ──────▶  Relation (here)  ──────▶  catalogue (later)
//!   names, numbers            names                     names, numbers, files of the rows
//! ```
//!
//! A column of the message is a known one if the catalogue does not give its name to another number,
//! and an added one if its number lies above all known ones. Where that leaves a doubt, because
//! columns came and went in between, the table stops: too early rather than too late.
//!
//! # What the topic can follow
//!
//! | change | rows that no event told of | |
//! |---|---|---|
//! | column added, with or without a constant default | hold NULL or the constant in it | follows: the schema's default says what they hold |
//! | column dropped | keep a column that is gone | follows |
//! | NOT NULL set or dropped | are as they were | follows; the schema stays nullable once it was |
//! | type that is carried the same way, such as a longer `varchar` | are as they were | follows |
//! | rows written anew: volatile default, other type | differ | stops |
//! | column renamed | have it under the old name | stops |
//! | name of a dropped column used again | have another column under it | stops |
//! | primary key changed | have other keys | stops |
//! | table renamed, or dropped | belong to another topic, or are gone | stops |
//!
//! Whether rows were written anew is told by the files that hold them: the catalogue has nothing else
//! left of a default that was volatile and was dropped again. VACUUM FULL, CLUSTER and TRUNCATE change
//! the files too; where that meets an added column or another type, the table stops without need.

use std::collections::BTreeMap;

use hutong_connectors_core::postgres_source::Config;
use hutong_schemas::envelope::event_schemas;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, DefaultValue, TableId, TableSchema};

use super::catalogue::{CatalogueColumn, Table};
use super::error::Error;
use super::pgoutput::{Relation, RelationColumn};
use super::position::{Added, KnownColumn, KnownTable};
use super::text;

/// What a captured table looks like, from the catalogue alone.
pub(crate) fn known(table: &Table, config: &Config) -> KnownTable {
    KnownTable {
        name: table.id.to_string(),
        columns: table
            .captured(config)
            .map(|column| known_column(column, !column.not_null, None))
            .collect(),
        key: table.primary_key.clone(),
        highest: table.highest,
        storage: table.storage.clone(),
        gone: Vec::new(),
    }
}

/// Returns a table that is prepared again, with NULL allowed wherever the topic's schema allows it
/// already: it stays nullable once it was, and the stream takes a column that was added as nullable.
/// A schema from the catalogue alone would be refused, because it could not read the topic's records.
pub(crate) fn as_nullable_as(known: &KnownTable, table: &Table) -> Table {
    let mut table = table.clone();
    for column in &mut table.columns {
        let mut columns = known.columns.iter();
        let before = columns.find(|before| before.attnum == column.attnum);
        let was_nullable = before.map_or(column.attnum > known.highest, |before| before.nullable);
        let is_key = table.primary_key.contains(&column.attnum);
        column.not_null &= is_key || !was_nullable;
    }
    table
}

fn known_column(column: &CatalogueColumn, nullable: bool, added: Option<Added>) -> KnownColumn {
    KnownColumn {
        attnum: column.attnum,
        name: column.name.clone(),
        type_oid: column.type_oid,
        type_modifier: column.type_modifier,
        nullable,
        added,
    }
}

/// A table from a Relation message on.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) known: KnownTable,
    /// Which columns of received rows are captured, in the order of the rows.
    pub(crate) captured: Vec<bool>,
}

/// Returns what the table looks like from a Relation message on. `table` is what the catalogue says
/// of it now; nothing, if it is dropped further on.
///
/// # Errors
///
/// Definite, naming the change.
pub(crate) fn follow(
    known: &KnownTable,
    relation: &Relation,
    table: Option<&Table>,
    config: &Config,
) -> Result<Followed, Error> {
    let name = format!("{}.{}", relation.schema, relation.table);
    let change = if name == known.name {
        let is_captured: Vec<bool> = relation
            .columns
            .iter()
            .map(|column| config.columns.accepts(&format!("{name}.{}", column.name)))
            .collect();
        let comparison = |table| Comparison {
            known,
            relation,
            table,
            is_captured: &is_captured,
        };
        match table {
            Some(table) => comparison(table).follow(),
            None => unchanged(known, relation, &is_captured),
        }
    } else {
        Err(format!("it was renamed to {name}"))
    };
    change.map_err(|what| changed(&known.name, &what))
}

/// A table that is dropped further on, as long as it looks as it is known.
fn unchanged(
    known: &KnownTable,
    relation: &Relation,
    is_captured: &[bool],
) -> Result<Followed, String> {
    let looks =
        |column: &RelationColumn| (column.name.clone(), column.type_oid, column.type_modifier);
    let captured = relation.columns.iter().zip(is_captured);
    let now = captured
        .filter(|(_, captured)| **captured)
        .map(|(column, _)| looks(column));
    let before = known
        .columns
        .iter()
        .map(|column| (column.name.clone(), column.type_oid, column.type_modifier));
    if now.eq(before) {
        Ok(Followed {
            known: known.clone(),
            captured: is_captured.to_vec(),
        })
    } else {
        Err("it was dropped".to_owned())
    }
}

/// Everything that is compared.
struct Comparison<'a> {
    known: &'a KnownTable,
    relation: &'a Relation,
    table: &'a Table,
    is_captured: &'a [bool],
}

/// What a column of the message is.
enum Found<'a> {
    /// One that is known, as the catalogue has it now, if it still does.
    Known(&'a KnownColumn, Option<&'a CatalogueColumn>),
    /// One that the catalogue has and that is not known.
    Other(&'a CatalogueColumn),
    /// One that came and, further on, went: nobody can have asked for it, so it is not captured.
    Passing,
}

impl Comparison<'_> {
    fn follow(&self) -> Result<Followed, String> {
        self.check_key()?;
        let mut columns = Vec::new();
        let mut captured = Vec::new();
        let mut passing = 0;
        for (column, is_captured) in self.relation.columns.iter().zip(self.is_captured) {
            if !is_captured {
                captured.push(false);
                continue;
            }
            let found = self.find(column)?;
            passing += usize::from(matches!(found, Found::Passing));
            let column = match found {
                Found::Passing => None,
                Found::Known(before, now) => Some(self.same_column(before, now, column)?),
                Found::Other(now) => Some(self.added_column(now, column)?),
            };
            captured.push(column.is_some());
            columns.extend(column);
        }
        let mut gone = self.known.gone.clone();
        for before in &self.known.columns {
            if !columns.iter().any(|now| now.attnum == before.attnum) {
                self.lost_column(before)?;
                gone.push(before.name.clone());
            }
        }
        let ghosts = self.ghosts();
        let highest = if passing == ghosts.len() {
            // They are the ones that came and went.
            ghosts.last().copied()
        } else {
            None
        };
        let known = KnownTable {
            name: self.known.name.clone(),
            key: self.known.key.clone(),
            highest: self
                .relation
                .columns
                .iter()
                .filter_map(|column| self.in_catalogue(&column.name))
                .map(|column| column.attnum)
                .chain(highest)
                .fold(self.known.highest, i16::max),
            storage: if self.catalogue_says_the_same() {
                self.table.storage.clone()
            } else {
                self.known.storage.clone()
            },
            columns,
            gone,
        };
        Ok(Followed { known, captured })
    }

    fn in_catalogue(&self, name: &str) -> Option<&CatalogueColumn> {
        self.table.columns.iter().find(|now| now.name == name)
    }

    fn in_relation(&self, name: &str) -> bool {
        let mut columns = self.relation.columns.iter();
        columns.any(|column| column.name == name)
    }

    /// Numbers above all known ones whose columns are dropped already.
    fn ghosts(&self) -> Vec<i16> {
        (self.known.highest.saturating_add(1)..=self.table.highest)
            .filter(|number| self.table.column(*number).is_none())
            .collect()
    }

    /// Whether the catalogue has not gone on from what the message says, so that its other facts
    /// belong to this place too.
    fn catalogue_says_the_same(&self) -> bool {
        let now = self.table.columns.iter().filter(|column| !column.generated);
        let now = now.map(|column| (&column.name, column.type_oid, column.type_modifier));
        let here = self.relation.columns.iter();
        let here = here.map(|column| (&column.name, column.type_oid, column.type_modifier));
        self.table.id.schema == self.relation.schema
            && self.table.id.table == self.relation.table
            && now.eq(here)
    }

    fn was_written_anew(&self) -> bool {
        self.known.storage.is_none() || self.known.storage != self.table.storage
    }

    /// The catalogue may show a key that is changed further on. Under the default replica identity
    /// the message marks the key's columns, though not their order.
    fn check_key(&self) -> Result<(), String> {
        let (before, now) = (&self.known.key, &self.table.primary_key);
        if before == now {
            return Ok(());
        }
        let sorted = |key: &[i16]| {
            let mut key = key.to_vec();
            key.sort_unstable();
            key
        };
        let marked = self.relation.columns.iter().filter(|column| column.is_key);
        let marked: Option<Vec<i16>> = marked
            .map(|column| {
                let mut known = self.known.columns.iter();
                let known = known.find(|known| known.name == column.name)?;
                Some(known.attnum)
            })
            .collect();
        let is_here_as_before = self.relation.replica_identity == b'd'
            && sorted(before) != sorted(now)
            && marked.is_some_and(|marked| sorted(&marked) == sorted(before));
        if is_here_as_before {
            Ok(())
        } else {
            Err("its primary key changed".to_owned())
        }
    }

    fn find(&self, column: &RelationColumn) -> Result<Found<'_>, String> {
        let name = &column.name;
        let known = self.known.columns.iter().find(|known| known.name == *name);
        let now = self.in_catalogue(name);
        match (known, now) {
            (Some(known), Some(now)) if known.attnum == now.attnum => {
                Ok(Found::Known(known, Some(now)))
            }
            (Some(known), Some(_)) => {
                let goes_by = self.table.column(known.attnum).map(|now| now.name.as_str());
                Err(match goes_by {
                    Some(now) => format!("column \"{name}\" was renamed to \"{now}\""),
                    None => format!("column \"{name}\" was dropped and created again"),
                })
            }
            // Renamed or dropped further on, unless a column that came and went had its name.
            (Some(known), None) => {
                let now = self.table.column(known.attnum);
                let has_new_name = now.is_some_and(|now| self.in_relation(&now.name));
                if has_new_name || !self.ghosts().is_empty() {
                    return Err(format!(
                        "column \"{name}\" was renamed, or dropped and created again"
                    ));
                }
                Ok(Found::Known(known, now))
            }
            (None, Some(now)) => Ok(Found::Other(now)),
            (None, None) => {
                // It may have another name by now.
                let mut unseen =
                    self.table.columns.iter().filter(|now| {
                        now.attnum > self.known.highest && !self.in_relation(&now.name)
                    });
                match unseen.next() {
                    Some(now) => Err(format!(
                        "column \"{name}\" was added and dropped or renamed, perhaps to \"{}\"",
                        now.name
                    )),
                    None => Ok(Found::Passing),
                }
            }
        }
    }

    fn same_column(
        &self,
        before: &KnownColumn,
        now: Option<&CatalogueColumn>,
        here: &RelationColumn,
    ) -> Result<KnownColumn, String> {
        let has_type = |type_oid: u32, type_modifier: i32| {
            (here.type_oid, here.type_modifier) == (type_oid, type_modifier)
        };
        let is_key = self.known.key.contains(&before.attnum);
        // What NULL may come through, now or until here, is no harm; what may not is.
        let nullable = !is_key && (before.nullable || now.is_none_or(|now| !now.not_null));
        if has_type(before.type_oid, before.type_modifier) {
            return Ok(KnownColumn {
                nullable,
                ..before.clone()
            });
        }
        let name = &before.name;
        let now = now.filter(|now| has_type(now.type_oid, now.type_modifier));
        let Some(now) = now else {
            return Err(format!("column \"{name}\" changed its type"));
        };
        let types = &self.table.types;
        let was = types.sql_type(before.type_oid, before.type_modifier);
        let is_carried_alike = match (was, self.table.sql_type(now)) {
            (Some(was), Some(now)) => is_carried_alike(was, now, is_key),
            _ => false,
        };
        if self.was_written_anew() || !is_carried_alike {
            return Err(format!(
                "column \"{name}\" changed its type (now {})",
                now.type_text
            ));
        }
        Ok(known_column(now, nullable, before.added.clone()))
    }

    fn added_column(
        &self,
        now: &CatalogueColumn,
        here: &RelationColumn,
    ) -> Result<KnownColumn, String> {
        let name = &now.name;
        let mut known = self.known.columns.iter();
        if let Some(renamed) = known.find(|before| before.attnum == now.attnum) {
            return Err(format!(
                "column \"{}\" was renamed to \"{name}\"",
                renamed.name
            ));
        }
        let Some(sql_type) = self.table.sql_type(now) else {
            return Err(format!(
                "column \"{name}\" was added with the type {}, which is not supported",
                now.type_text
            ));
        };
        if now.attnum <= self.known.highest {
            return Err(format!("column \"{name}\" was not captured before"));
        }
        if self.known.gone.contains(name) || !self.ghosts().is_empty() {
            return Err(format!(
                "column \"{name}\" was added, and a dropped one has had its name or may have had it"
            ));
        }
        if (here.type_oid, here.type_modifier) != (now.type_oid, now.type_modifier) {
            return Err(format!("column \"{name}\" was added and changed its type"));
        }
        if self.was_written_anew() {
            return Err(format!(
                "column \"{name}\" was added, and the rows were written anew: with a default that differs from row to row, or otherwise"
            ));
        }
        let fill = match &now.fill {
            None => None,
            Some(text) => Some(constant(sql_type, text).ok_or_else(|| {
                format!(
                    "column \"{name}\" was added with a default that a schema cannot carry for {}",
                    now.type_text
                )
            })?),
        };
        // Whether it was NOT NULL from the beginning is not known.
        Ok(known_column(now, true, Some(Added { fill })))
    }

    /// A known column that the message lacks.
    fn lost_column(&self, before: &KnownColumn) -> Result<(), String> {
        let name = &before.name;
        match self.table.column(before.attnum) {
            None => Ok(()),
            Some(now) if now.name == *name => {
                Err(format!("column \"{name}\" is not published any more"))
            }
            Some(now) => Err(format!("column \"{name}\" was renamed to \"{}\"", now.name)),
        }
    }
}

/// Returns what is wrong with the topic of a table whose rows were written anew: a column that it
/// carries holds values of another type. The files have changed; whether anything else has is told
/// here.
pub(crate) fn written_anew(known: &KnownTable, table: &Table) -> Option<String> {
    known.columns.iter().find_map(|before| {
        let now = table.column(before.attnum)?;
        let is_as_before =
            (now.type_oid, now.type_modifier) == (before.type_oid, before.type_modifier);
        (!is_as_before).then(|| {
            format!(
                "column \"{}\" changed its type (now {})",
                before.name, now.type_text
            )
        })
    })
}

/// Whether the values of a type are carried as those of another one: by the same Avro type, or as
/// numbers with more digits before the point.
fn is_carried_alike(was: SqlType, now: SqlType, is_key: bool) -> bool {
    if let (
        SqlType::Numeric {
            precision: was,
            scale: was_scale,
        },
        SqlType::Numeric {
            precision: now,
            scale: now_scale,
        },
    ) = (was, now)
        && !is_key
    {
        return now >= was && now_scale == was_scale;
    }
    avro_of(was).is_some_and(|was| avro_of(now).is_some_and(|now| was == now))
}

fn avro_of(sql_type: SqlType) -> Option<String> {
    let schema = TableSchema {
        id: TableId {
            schema: "s".to_owned(),
            table: "t".to_owned(),
        },
        oid: 0,
        columns: vec![Column {
            name: "c".to_owned(),
            attnum: 1,
            sql_type,
            nullable: false,
            default: None,
            has_default_expression: false,
            labels: Vec::new(),
        }],
        key: Vec::new(),
    };
    Some(event_schemas("s.t", &schema).ok()?.value)
}

/// Returns a constant, as the server writes it, as a schema's default.
fn constant(sql_type: SqlType, written: &str) -> Option<DefaultValue> {
    let mut scratch = text::Scratch::default();
    let mut arena = scratch.arena(written.len() + text::room(&sql_type));
    let cell = text::decode(&sql_type, written.as_bytes(), &mut arena).ok()?;
    DefaultValue::from_cell(sql_type, &cell)
}

/// Returns the schema of a table as it is known. The catalogue may have gone on; `before` is the
/// schema until here.
///
/// # Errors
///
/// Definite, for a type that only an older catalogue could tell.
pub(crate) fn schema(
    known: &KnownTable,
    relation: &Relation,
    table: &Table,
    defaults: &BTreeMap<i16, DefaultValue>,
    before: Option<&TableSchema>,
) -> Result<TableSchema, Error> {
    let mut columns = Vec::with_capacity(known.columns.len());
    for column in &known.columns {
        let attnum = column.attnum;
        let before = before.and_then(|before| {
            let mut columns = before.columns.iter();
            columns.find(|before| before.attnum == attnum)
        });
        let now = table.column(attnum).filter(|now| {
            (now.type_oid, now.type_modifier) == (column.type_oid, column.type_modifier)
        });
        let sql_type = match (now, before) {
            (Some(now), _) => table.sql_type(now),
            (None, Some(before)) => Some(before.sql_type),
            (None, None) => table.types.sql_type(column.type_oid, column.type_modifier),
        };
        let sql_type = sql_type.ok_or_else(|| {
            changed(
                &known.name,
                &format!("column \"{}\" changed its type", column.name),
            )
        })?;
        let constant = defaults.get(&attnum).cloned();
        let (default, has_default_expression) = match (&column.added, now) {
            // A reader gives the schema's default to records that lack the column.
            (Some(added), _) => (added.fill.clone(), false),
            (None, Some(now)) => {
                let is_expression = now.shows_default() && constant.is_none();
                (constant, is_expression)
            }
            (None, None) => before.map_or((None, false), |before| {
                (before.default.clone(), before.has_default_expression)
            }),
        };
        columns.push(Column {
            name: column.name.clone(),
            attnum,
            sql_type,
            nullable: column.nullable,
            default,
            has_default_expression,
            labels: table.labels(column.type_oid),
        });
    }
    let position = |attnum: &i16| columns.iter().position(|column| column.attnum == *attnum);
    let key = known.key.iter().map(position).collect::<Option<Vec<_>>>();
    let key =
        key.ok_or_else(|| changed(&known.name, "its primary key is not captured any more"))?;
    Ok(TableSchema {
        id: TableId {
            schema: relation.schema.clone(),
            table: relation.table.clone(),
        },
        oid: table.oid,
        columns,
        key,
    })
}

/// The table has changed in a way that its topic does not follow.
pub(crate) fn changed(table: &str, what: &str) -> Error {
    Error::definite(
        format!(
            "table {table} changed: {what}; its topic does not follow, it needs a new snapshot"
        ),
        format!(
            "hutong.snapshot.again={table}@TOKEN, with a token not used before, reads the table again"
        ),
    )
}

#[cfg(test)]
#[path = "relation_change_tests.rs"]
mod tests;
