//! The publication: which tables the server sends us.
//!
//! It is never a filter. A row filter or a narrower list of operations would leave rows in the topic
//! that the source no longer has, or lack rows that it has; so an existing publication that filters
//! is refused. One is never created `FOR ALL TABLES`: it would make the updates of every table
//! without a replica identity fail, and needs a superuser; an existing one is used.

use std::collections::BTreeSet;

use hutong_connectors_core::postgres_source::{Config, PublicationAutocreate};
use hutong_schemas::table::TableId;
use tokio::io::{AsyncRead, AsyncWrite};

use super::catalogue::{ReplicaIdentity, Row, Table};
use super::client::Client;
use super::error::Error;
use super::sql;

/// A publication as the catalogue has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publication {
    pub(crate) all_tables: bool,
    pub(crate) missing_operations: Vec<&'static str>,
    /// Whether we are its owner or a member of the owner.
    pub(crate) may_alter: bool,
    pub(crate) tables: Vec<Published>,
}

/// A table in a publication.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) id: TableId,
    pub(crate) has_row_filter: bool,
    /// Names of the published columns; `None` where the server is too old for column lists.
    pub(crate) columns: Option<BTreeSet<String>>,
}

/// Reads the publication, if there is one of the name.
pub(crate) async fn fetch<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    config: &Config,
) -> Result<Option<Publication>, Error> {
    const DOING: &str = "read the publication";
    let name = sql::literal(&config.publication_name);
    let rows = client
        .query(
            DOING,
            &format!(
                "SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, \
                 pg_has_role(pubowner, 'USAGE') FROM pg_catalog.pg_publication WHERE pubname = {name}"
            ),
        )
        .await?;
    let Some(row) = rows.into_iter().next().map(Row) else {
        return Ok(None);
    };
    let skipped = config.skipped_operations;
    let operations = [
        ("insert", 1, skipped.create),
        ("update", 2, skipped.update),
        ("delete", 3, skipped.delete),
        ("truncate", 4, skipped.truncate),
    ];
    let mut publication = Publication {
        all_tables: row.flag(0)?,
        may_alter: row.flag(5)?,
        ..Publication::default()
    };
    for (operation, column, is_skipped) in operations {
        if !row.flag(column)? && !is_skipped {
            publication.missing_operations.push(operation);
        }
    }
    let narrowing = if client.server_version >= 150_000 {
        "rowfilter IS NOT NULL, array_to_string(attnames, E'\\x01')"
    } else {
        "false, NULL"
    };
    let rows = client
        .query(
            DOING,
            &format!(
                "SELECT schemaname, tablename, {narrowing} \
                 FROM pg_catalog.pg_publication_tables WHERE pubname = {name}"
            ),
        )
        .await?;
    for row in rows.into_iter().map(Row) {
        publication.tables.push(Published {
            id: TableId {
                schema: row.text(0)?.to_owned(),
                table: row.text(1)?.to_owned(),
            },
            has_row_filter: row.flag(2)?,
            columns: row
                .optional(3)
                .map(|names| names.split('\u{1}').map(str::to_owned).collect()),
        });
    }
    Ok(Some(publication))
}

/// What is to be done about the publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It is right as it is.
    Nothing,
    /// Create it, by this SQL.
    Create(String),
    /// Add tables, by this SQL.
    Alter(String),
}

/// Returns the SQL that takes tables out of a publication.
pub(crate) fn drop_tables<'a>(name: &str, tables: impl Iterator<Item = &'a TableId>) -> String {
    let tables: Vec<_> = tables.map(sql::table).collect();
    format!(
        "ALTER PUBLICATION {} DROP TABLE {}",
        sql::identifier(name),
        tables.join(", ")
    )
}

/// Decides what is to be done so that the publication sends all of `tables`.
///
/// # Errors
///
/// Definite, with the SQL for the DBA, where we may not do it ourselves.
pub(crate) fn plan(
    publication: Option<&Publication>,
    config: &Config,
    tables: &[&Table],
    may_create: bool,
) -> Result<Plan, Error> {
    let name = &config.publication_name;
    let Some(publication) = publication else {
        let sql = create(name, tables);
        return match config.publication_autocreate {
            PublicationAutocreate::NoTables => Ok(Plan::Create(format!(
                "CREATE PUBLICATION {};",
                sql::readable(name)
            ))),
            PublicationAutocreate::Filtered
                if may_create && tables.iter().all(|table| table.may_publish) =>
            {
                Ok(Plan::Create(sql))
            }
            PublicationAutocreate::Filtered => Err(Error::definite(
                format!(
                    "publication \"{name}\" does not exist, and this user may not create it for tables of another owner"
                ),
                sql,
            )),
            PublicationAutocreate::Disabled => Err(Error::definite(
                format!("publication \"{name}\" does not exist"),
                sql,
            )),
        };
    };
    let missing: Vec<&Table> = tables
        .iter()
        .copied()
        .filter(|table| !publication.tables.iter().any(|known| known.id == table.id))
        .collect();
    if missing.is_empty() {
        return Ok(Plan::Nothing);
    }
    let sql = format!(
        "ALTER PUBLICATION {} ADD TABLE {};",
        sql::readable(name),
        readable_list(&missing)
    );
    let may_add = publication.may_alter && missing.iter().all(|table| table.may_publish);
    if config.publication_autocreate == PublicationAutocreate::Filtered && may_add {
        return Ok(Plan::Alter(sql));
    }
    Err(Error::definite(
        format!("publication \"{name}\" lacks {}", readable_list(&missing)),
        sql,
    ))
}

/// Refuses a publication that leaves out operations.
pub(crate) fn check(publication: &Publication, name: &str) -> Result<(), Error> {
    if publication.missing_operations.is_empty() {
        return Ok(());
    }
    Err(Error::definite(
        format!(
            "publication \"{name}\" does not publish {}",
            publication.missing_operations.join(", ")
        ),
        format!(
            "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
            sql::readable(name)
        ),
    ))
}

/// Refuses a table of which the publication leaves out rows or captured columns.
pub(crate) fn check_whole(
    publication: &Publication,
    config: &Config,
    table: &Table,
) -> Result<(), Error> {
    let name = &config.publication_name;
    let published = publication.tables.iter().find(|known| known.id == table.id);
    if published.is_some_and(|published| published.has_row_filter) {
        let again = format!(
            "ALTER PUBLICATION {name} DROP TABLE {table}; ALTER PUBLICATION {name} ADD TABLE {table};",
            name = sql::readable(name),
            table = sql::readable_table(&table.id),
        );
        return Err(Error::definite(
            format!(
                "publication \"{name}\" filters the rows of table {}: its topic would differ from the table",
                table.id
            ),
            again,
        ));
    }
    if let Some(column) = unpublished_column(publication, config, table) {
        return Err(Error::definite(
            format!(
                "publication \"{name}\" leaves out column \"{column}\" of table {}",
                table.id
            ),
            format!(
                "leave the column out with column.exclude.list={}.{column}, or publish the table without a column list",
                table.id
            ),
        ));
    }
    Ok(())
}

/// Returns the first captured column that the publication's column list leaves out.
fn unpublished_column(publication: &Publication, config: &Config, table: &Table) -> Option<String> {
    let published = publication
        .tables
        .iter()
        .find(|known| known.id == table.id)?;
    let columns = published.columns.as_ref()?;
    table
        .captured(config)
        .find(|column| !columns.contains(&column.name))
        .map(|column| column.name.clone())
}

/// Publishing a table whose updates and deletes cannot name their row makes them fail at the owner.
pub(crate) fn require_identity(table: &Table) -> Result<(), Error> {
    let keyless = table.primary_key.is_empty() || table.primary_key_deferrable;
    let nameless = match table.replica_identity {
        ReplicaIdentity::Nothing => true,
        ReplicaIdentity::Default => keyless,
        ReplicaIdentity::Full | ReplicaIdentity::Index => false,
    };
    if !nameless {
        return Ok(());
    }
    Err(Error::definite(
        format!(
            "table {} has no replica identity: once published, its owner's UPDATE and DELETE would fail",
            table.id
        ),
        format!(
            "ALTER TABLE {} REPLICA IDENTITY {};",
            sql::readable_table(&table.id),
            if keyless { "FULL" } else { "DEFAULT" }
        ),
    ))
}

/// Refuses tables whose deletes would not tell the primary key.
pub(crate) fn check_identity(table: &Table) -> Result<(), Error> {
    let tells_key = match table.replica_identity {
        ReplicaIdentity::Default => !table.primary_key_deferrable,
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
        ReplicaIdentity::Index => table
            .primary_key
            .iter()
            .all(|attnum| table.identity_index.contains(attnum)),
    };
    if table.primary_key.is_empty() || tells_key {
        return Ok(());
    }
    let identity = if table.primary_key_deferrable {
        "FULL"
    } else {
        "DEFAULT"
    };
    Err(Error::definite(
        format!(
            "the replica identity of table {} does not hold its primary key, so deletes would not say which row is gone",
            table.id
        ),
        format!(
            "ALTER TABLE {} REPLICA IDENTITY {identity};",
            sql::readable_table(&table.id)
        ),
    ))
}

fn create(name: &str, tables: &[&Table]) -> String {
    format!(
        "CREATE PUBLICATION {} FOR TABLE {};",
        sql::readable(name),
        readable_list(tables)
    )
}

fn readable_list(tables: &[&Table]) -> String {
    let names: Vec<_> = tables
        .iter()
        .map(|table| sql::readable_table(&table.id))
        .collect();
    names.join(", ")
}
