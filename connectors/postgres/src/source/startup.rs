//! All that is looked at before a row is read, each fault with the SQL that mends it.

use std::collections::BTreeMap;

use hutong_connectors_core::postgres_source::Config;
use hutong_schemas::table::TableId;
use tokio::io::{AsyncRead, AsyncWrite};

use super::catalogue::{self, Kind, Row, Table, Wanted};
use super::client::Client;
use super::error::Error;
use super::publication::{self, Publication};
use super::slot;
use super::sql;

/// Oldest server that the catalogue queries and slots are right for.
const OLDEST_SERVER: u32 = 140_000;

/// What the server told at start.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The captured tables.
    pub(crate) tables: Vec<Table>,
    publication: Option<Publication>,
    may_create_in_database: bool,
    /// What is not wrong enough to stop.
    pub(crate) warnings: Vec<String>,
}

/// A fault, and the property that it concerns most.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) property: &'static str,
    pub(crate) error: Error,
}

/// Looks at everything. The faults returned concern the source as a whole; those of tables are found
/// by [`Facts::judge`], because a table that is not followed must not stop the others.
///
/// # Errors
///
/// Where the server does not answer.
pub(crate) async fn inspect<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    config: &Config,
) -> Result<(Facts, Vec<Fault>), Error> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let role = fetch_role(client).await?;
    check_server(client.server_version, &role, config, &mut faults);
    if role.max_slot_wal_keep_size == "-1" {
        warnings.push(
            "max_slot_wal_keep_size is -1: while this connector does not read, the server keeps its log without limit, until its disk is full; to bound it: ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf();"
                .to_owned(),
        );
    }
    let all = catalogue::fetch_tables(client, Wanted::All).await?;
    let publication = publication::fetch(client, config).await?;
    if publication
        .as_ref()
        .is_some_and(|publication| publication.all_tables)
    {
        warnings.push(format!(
            "publication \"{}\" is FOR ALL TABLES: the server sends changes of tables that are not captured, too",
            config.publication_name
        ));
    }
    if let Some(slot) = slot::fetch(client, &config.slot_name).await?
        && let Err(error) = slot::check(&config.slot_name, &slot)
    {
        faults.push(Fault {
            property: "slot.name",
            error,
        });
    }
    let tables = choose(
        all,
        config,
        publication.as_ref(),
        &mut faults,
        &mut warnings,
    );
    let facts = Facts {
        tables,
        publication,
        may_create_in_database: role.may_create_in_database,
        warnings,
    };
    Ok((facts, faults))
}

impl Facts {
    /// Looks for faults of the tables that `is_wanted` names, and of the publication as far as it
    /// concerns them, and returns what is to be done about the publication.
    ///
    /// # Errors
    ///
    /// All faults.
    pub(crate) fn judge(
        &self,
        config: &Config,
        is_wanted: impl Fn(&Table) -> bool,
    ) -> Result<publication::Plan, Vec<Fault>> {
        let tables: Vec<&Table> = self
            .tables
            .iter()
            .filter(|table| is_wanted(table))
            .collect();
        let publication = self.publication.as_ref();
        let mut faults = Vec::new();
        for table in &tables {
            if let Err(error) = check_table(table, config, publication) {
                faults.push(Fault {
                    property: "table.include.list",
                    error,
                });
            }
        }
        match publication::plan(publication, config, &tables, self.may_create_in_database) {
            Ok(plan) if faults.is_empty() => return Ok(plan),
            Ok(_) => {}
            Err(error) => faults.push(Fault {
                property: "publication.name",
                error,
            }),
        }
        Err(faults)
    }
}

struct Role {
    name: String,
    wal_level: String,
    max_slot_wal_keep_size: String,
    may_replicate: bool,
    may_create_in_database: bool,
}

async fn fetch_role<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
) -> Result<Role, Error> {
    let rows = client
        .query(
            "read the server's settings",
            "SELECT current_user, current_setting('wal_level'), \
             current_setting('max_slot_wal_keep_size'), \
             (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), \
             has_database_privilege(current_database(), 'CREATE')",
        )
        .await?;
    let row = Row(rows.into_iter().next().unwrap_or_default());
    Ok(Role {
        name: row.text(0)?.to_owned(),
        wal_level: row.text(1)?.to_owned(),
        max_slot_wal_keep_size: row.text(2)?.to_owned(),
        may_replicate: row.flag(3)?,
        may_create_in_database: row.flag(4)?,
    })
}

fn check_server(version: u32, role: &Role, config: &Config, faults: &mut Vec<Fault>) {
    if version < OLDEST_SERVER {
        faults.push(Fault {
            property: "database.hostname",
            error: Error::Definite {
                message: format!(
                    "the server's version {} is older than 14, the oldest that is supported",
                    version / 10_000
                ),
                hint: None,
            },
        });
    }
    if role.wal_level != "logical" {
        faults.push(Fault {
            property: "database.hostname",
            error: Error::definite(
                format!(
                    "wal_level is {}, and logical replication needs logical",
                    role.wal_level
                ),
                "ALTER SYSTEM SET wal_level = logical; then restart the server",
            ),
        });
    }
    if !role.may_replicate {
        faults.push(Fault {
            property: "database.user",
            error: Error::definite(
                format!(
                    "user \"{}\" has no right to replicate",
                    config.connection.user
                ),
                format!("ALTER ROLE {} REPLICATION;", sql::readable(&role.name)),
            ),
        });
    }
}

/// Returns the tables to capture.
fn choose(
    all: Vec<Table>,
    config: &Config,
    publication: Option<&Publication>,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
) -> Vec<Table> {
    let names: Vec<_> = all.iter().map(|table| table.id.to_string()).collect();
    for expression in config.tables.unmatched(&names) {
        faults.push(Fault {
            property: "table.include.list",
            error: Error::definite(
                format!("no table is named \"{expression}\""),
                "table.include.list takes names as schema.table, as regular expressions; check the database and the user's view of it",
            ),
        });
    }
    let published_root = |id: &TableId| {
        publication
            .is_some_and(|publication| publication.tables.iter().any(|known| known.id == *id))
    };
    let mut chosen = Vec::new();
    for table in all {
        if !catalogue::captures_table(config, &table.id) {
            continue;
        }
        for column in table.columns.iter().filter(|column| column.generated) {
            warnings.push(format!(
                "table {}: column \"{}\" is generated; the server does not send it and it is not captured",
                table.id, column.name
            ));
        }
        match table.kind {
            Kind::Ordinary => chosen.push(table),
            Kind::Partitioned if published_root(&table.id) => chosen.push(table),
            Kind::Partitioned => warnings.push(format!(
                "table {} is partitioned: its partitions are captured one by one, as far as table.include.list names them",
                table.id
            )),
            Kind::Unlogged => warnings.push(format!(
                "table {} is unlogged and cannot be captured",
                table.id
            )),
        }
    }
    if chosen.is_empty() && faults.is_empty() {
        faults.push(Fault {
            property: "table.include.list",
            error: Error::definite(
                "no table of the database is captured",
                "check schema.include.list, table.include.list and their exclude lists",
            ),
        });
    }
    chosen
}

fn check_table(
    table: &Table,
    config: &Config,
    publication: Option<&Publication>,
) -> Result<(), Error> {
    table.schema(config, &BTreeMap::new())?;
    check_rights(table, config)?;
    publication::check_identity(table)?;
    let unpublished = publication
        .and_then(|publication| publication::unpublished_column(publication, config, table));
    if let Some(column) = unpublished {
        return Err(Error::definite(
            format!(
                "publication \"{}\" leaves out column \"{column}\" of table {}",
                config.publication_name, table.id
            ),
            format!(
                "leave the column out with column.exclude.list={}.{column}, or publish the table without a column list",
                table.id
            ),
        ));
    }
    Ok(())
}

fn check_rights(table: &Table, config: &Config) -> Result<(), Error> {
    let unreadable: Vec<_> = table
        .captured(config)
        .filter(|column| !column.may_select)
        .collect();
    if table.may_use_schema && unreadable.is_empty() {
        return Ok(());
    }
    let user = sql::readable(&config.connection.user);
    let whole_table = table.columns.len() == table.captured(config).count();
    let what = if whole_table {
        "SELECT".to_owned()
    } else {
        let names: Vec<_> = table
            .captured(config)
            .map(|column| sql::readable(&column.name))
            .collect();
        format!("SELECT ({})", names.join(", "))
    };
    Err(Error::definite(
        format!(
            "user \"{}\" may not read table {}",
            config.connection.user, table.id
        ),
        format!(
            "GRANT USAGE ON SCHEMA {} TO {user}; GRANT {what} ON {} TO {user};",
            sql::readable(&table.id.schema),
            sql::readable_table(&table.id)
        ),
    ))
}
