//! All that is looked at before a row is read, each fault with the SQL that mends it.

use std::collections::BTreeMap;

use hutong_connectors_core::postgres_source::{Config, PublicationAutocreate, SnapshotMode};
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
    pub(crate) publication: Option<Publication>,
    may_create_in_database: bool,
    /// All tables of the database, captured or not.
    pub(crate) all_tables: BTreeMap<u32, TableId>,
    /// Entries of the list of tables that name no table.
    pub(crate) unmatched: Vec<String>,
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
/// by [`Facts::table_fault`], because one table must not stop the others.
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
    if let Some(publication) = &publication
        && let Err(error) = publication::check(publication, &config.publication_name)
    {
        faults.push(Fault {
            property: "publication.name",
            error,
        });
    }
    let reads_again = config.snapshot_mode == SnapshotMode::WhenNeeded;
    if let Some(slot) = slot::fetch(client, &config.slot_name).await?
        && !(slot.lost && reads_again)
        && let Err(error) = slot::check(&config.slot_name, &slot)
    {
        faults.push(Fault {
            property: "slot.name",
            error,
        });
    }
    let all_tables = all.iter().map(|table| (table.oid, table.id.clone()));
    let all_tables: BTreeMap<_, _> = all_tables.collect();
    let names: Vec<_> = all_tables.values().map(ToString::to_string).collect();
    let unmatched = config.tables.unmatched(&names);
    let unmatched: Vec<String> = unmatched.into_iter().map(Into::into).collect();
    let tables = choose(all, config, publication.as_ref(), &mut warnings);
    if tables.is_empty() && unmatched.is_empty() {
        faults.push(Fault {
            property: "table.include.list",
            error: Error::definite(
                "no table of the database is captured",
                "check schema.include.list, table.include.list and their exclude lists",
            ),
        });
    }
    let facts = Facts {
        tables,
        all_tables,
        unmatched,
        publication,
        may_create_in_database: role.may_create_in_database,
        warnings,
    };
    Ok((facts, faults))
}

impl Facts {
    /// Returns every fault that keeps a source from beginning to capture all tables.
    pub(crate) fn judge(&self, config: &Config) -> Vec<Fault> {
        let mut faults = self.faults_of_names(config);
        for table in &self.tables {
            if let Some(error) = self.table_fault(config, table) {
                faults.push(Fault {
                    property: "table.include.list",
                    error,
                });
            }
        }
        // Whoever mends the tables makes the publication in the same visit, with all of them in it.
        let tables: Vec<&Table> = self.tables.iter().collect();
        if !tables.is_empty()
            && let Err(error) = self.plan(config, &tables)
        {
            faults.push(Fault {
                property: "publication.name",
                error,
            });
        }
        faults
    }

    /// Returns a fault for each entry of the list of tables that names no table.
    pub(crate) fn faults_of_names(&self, config: &Config) -> Vec<Fault> {
        let faults = self.unmatched.iter().map(|expression| Fault {
            property: "table.include.list",
            error: Error::definite(
                format!(
                    "no table of database \"{}\" has the name \"{expression}\"",
                    config.connection.database
                ),
                "table.include.list takes names as schema.table, as regular expressions; check them, and database.dbname",
            ),
        });
        faults.collect()
    }

    /// Returns what keeps a table from being captured.
    pub(crate) fn table_fault(&self, config: &Config, table: &Table) -> Option<Error> {
        self.check_table(config, table).err()
    }

    fn check_table(&self, config: &Config, table: &Table) -> Result<(), Error> {
        table.schema(config, &BTreeMap::new())?;
        check_rights(table, config)?;
        publication::check_identity(table)?;
        let we_publish = config.publication_autocreate == PublicationAutocreate::Filtered;
        if !self.is_published(table) && we_publish {
            publication::require_identity(table)?;
        }
        match &self.publication {
            Some(publication) => publication::check_whole(publication, config, table),
            None => Ok(()),
        }
    }

    /// Returns whether the publication has a table.
    pub(crate) fn is_published(&self, table: &Table) -> bool {
        let mut published = self.publication.iter().flat_map(|known| &known.tables);
        published.any(|known| known.id == table.id)
    }

    /// Returns what is to be done so that the publication has these tables.
    pub(crate) fn plan(
        &self,
        config: &Config,
        tables: &[&Table],
    ) -> Result<publication::Plan, Error> {
        publication::plan(
            self.publication.as_ref(),
            config,
            tables,
            self.may_create_in_database,
        )
    }
}

struct Role {
    name: String,
    wal_level: String,
    max_slot_wal_keep_size: String,
    synchronous_standby_names: String,
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
             CASE WHEN pg_is_in_recovery() THEN '' ELSE current_setting('synchronous_standby_names') END, \
             (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), \
             has_database_privilege(current_database(), 'CREATE')",
        )
        .await?;
    let row = Row(rows.into_iter().next().unwrap_or_default());
    Ok(Role {
        name: row.text(0)?.to_owned(),
        wal_level: row.text(1)?.to_owned(),
        max_slot_wal_keep_size: row.text(2)?.to_owned(),
        synchronous_standby_names: row.text(3)?.to_owned(),
        may_replicate: row.flag(4)?,
        may_create_in_database: row.flag(5)?,
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
    if waits_for_us(&role.synchronous_standby_names) {
        faults.push(Fault {
            property: "database.hostname",
            // What manages a cluster may set it for a while.
            error: Error::Transient {
                message: format!(
                    "synchronous_standby_names is '{}', which makes this connector a standby that commits wait for",
                    role.synchronous_standby_names
                ),
                hint: Some(
                    "name the standbys alone: ALTER SYSTEM SET synchronous_standby_names = '…'; SELECT pg_reload_conf();"
                        .to_owned(),
                ),
            },
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

/// Returns whether commits wait for who receives the log under our name: PostgreSQL makes no difference
/// between a standby and a receiver of logical changes. The syntax is `FIRST 1 (a, "b")`, `ANY 1 (*)`, or a
/// list of names, which are compared without regard to case.
fn waits_for_us(synchronous_standby_names: &str) -> bool {
    let mut is_quoted = false;
    let is_between = |c: char| {
        is_quoted ^= c == '"';
        !is_quoted && (c == ',' || c == '(' || c == ')' || c.is_whitespace())
    };
    let mut names = synchronous_standby_names.split(is_between);
    names.any(|name| {
        let name = name.trim_matches('"');
        name == "*" || name.eq_ignore_ascii_case(slot::APPLICATION_NAME)
    })
}

/// Returns the tables to capture.
fn choose(
    all: Vec<Table>,
    config: &Config,
    publication: Option<&Publication>,
    warnings: &mut Vec<String>,
) -> Vec<Table> {
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
    chosen
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

#[cfg(test)]
mod tests {
    use super::waits_for_us;

    #[test]
    fn commits_wait_for_us_where_all_names_or_ours_are_given() {
        for names in ["*", "FIRST 1 (a,*)", "ANY 2 (a, \"Hutong\")", "hutong, a"] {
            assert!(waits_for_us(names), "{names}");
        }
        for names in ["", "a", "ANY 1 (a, b)", "hutong_standby", "\"a *\""] {
            assert!(!waits_for_us(names), "{names}");
        }
    }
}
