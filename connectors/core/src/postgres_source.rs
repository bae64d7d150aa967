//! The configuration of a PostgreSQL source, `io.debezium.connector.postgresql.PostgresConnector`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::connection::{Connection, SslMode, Tls};
use crate::name_filter::NameFilter;
use crate::property::{PropertyError, Values};

mod table;

pub use table::TABLE;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The connector's name.
    pub name: String,
    /// The location whose workers run it.
    pub location: String,
    /// The database.
    pub connection: Connection,
    /// SQL that is executed on each ordinary connection (not on the replication one), by
    /// `database.initial.statements`.
    pub initial_statements: Vec<String>,
    /// Bound on any query of start-up and validation.
    pub query_timeout: Duration,
    /// First part of the topics' names, and `source.name` of the events.
    pub topic_prefix: String,
    /// The replication slot.
    pub slot_name: String,
    /// The publication.
    pub publication_name: String,
    /// What is done about a missing publication.
    pub publication_autocreate: PublicationAutocreate,
    /// Schemas to capture, by name.
    pub schemas: NameFilter,
    /// Tables to capture, by `schema.table`.
    pub tables: NameFilter,
    /// Columns to capture, by `schema.table.column`.
    pub columns: NameFilter,
    /// What is read at the first start.
    pub snapshot_mode: SnapshotMode,
    /// Operations that make no event.
    pub skipped_operations: SkippedOperations,
    /// Number of partitions of new topics of tables with a key.
    pub partitions: i32,
    /// Largest size of a batch, in bytes.
    pub batch_bytes_max: usize,
    /// Longest time for which a batch stays open while more arrives.
    pub batch_time_max: Duration,
    /// Number of connections that read tables beside the stream.
    pub snapshot_readers: usize,
    /// Tables to be read again, by `schema.table`, each with a token: one that was not taken up yet
    /// makes the table be read again.
    pub snapshot_again: BTreeMap<String, String>,
    /// Longest time between two status messages to the server.
    pub status_update_interval: Duration,
    /// Given properties that have no effect here.
    pub tuning: Vec<String>,
}

/// What is done about a missing publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationAutocreate {
    /// Nothing: it must exist.
    Disabled,
    /// It is created for the captured tables, never `FOR ALL TABLES`.
    Filtered,
    /// It is created without tables, for its owner to fill.
    NoTables,
}

/// What is read of tables beside their changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotMode {
    /// All rows, and changes beside and after them.
    Initial,
    /// All rows, and changes until these are read.
    InitialOnly,
    /// Changes only.
    NoData,
    /// All rows at every start, and changes.
    Always,
    /// As `Initial`, and all rows again when the server's log does not continue where we stopped.
    WhenNeeded,
}

/// Operations that make no event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one letter of Debezium's skipped.operations, any set of them is meaningful"
)]
pub struct SkippedOperations {
    /// `c`
    pub create: bool,
    /// `u`
    pub update: bool,
    /// `d`
    pub delete: bool,
    /// `t`
    pub truncate: bool,
}

impl Config {
    /// Parses the properties of a connector.
    ///
    /// # Errors
    ///
    /// Every mistake, not the first.
    pub fn parse(
        name: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<Self, Vec<PropertyError>> {
        let mut values = Values::check(TABLE, properties);
        let config = Self {
            name: name.to_owned(),
            location: crate::plugin::location(&mut values),
            connection: connection(&mut values),
            initial_statements: initial_statements(&values),
            query_timeout: Duration::from_millis(
                values.integer("database.query.timeout.ms", 1..=3_600_000),
            ),
            topic_prefix: topic_prefix(&mut values),
            slot_name: slot_name(&mut values),
            publication_name: publication_name(&mut values),
            publication_autocreate: values.choice(
                "publication.autocreate.mode",
                &[
                    ("filtered", PublicationAutocreate::Filtered),
                    ("disabled", PublicationAutocreate::Disabled),
                    ("no_tables", PublicationAutocreate::NoTables),
                    ("all_tables", PublicationAutocreate::Filtered),
                ],
            ),
            schemas: filter(&mut values, "schema.include.list", "schema.exclude.list"),
            tables: filter(&mut values, "table.include.list", "table.exclude.list"),
            columns: filter(&mut values, "column.include.list", "column.exclude.list"),
            snapshot_mode: values.choice(
                "snapshot.mode",
                &[
                    ("initial", SnapshotMode::Initial),
                    ("initial_only", SnapshotMode::InitialOnly),
                    ("no_data", SnapshotMode::NoData),
                    ("always", SnapshotMode::Always),
                    ("when_needed", SnapshotMode::WhenNeeded),
                    // Debezium's name of it up to 2.x.
                    ("never", SnapshotMode::NoData),
                ],
            ),
            skipped_operations: skipped_operations(&mut values),
            partitions: values.integer("topic.creation.default.partitions", 1..=10_000),
            batch_bytes_max: values.integer("hutong.batch.bytes.max", 1 << 16..=1 << 30),
            batch_time_max: Duration::from_millis(
                values.integer("hutong.batch.ms.max", 1..=60_000),
            ),
            snapshot_readers: values.integer("snapshot.max.threads", 1..=32),
            snapshot_again: snapshot_again(&mut values),
            status_update_interval: Duration::from_millis(
                values.integer("status.update.interval.ms", 100..=600_000),
            ),
            tuning: TABLE.tuning(properties),
        };
        values.finish(config)
    }
}

fn connection(values: &mut Values<'_>) -> Connection {
    Connection {
        host: values.text("database.hostname"),
        port: values.integer("database.port", 1..=u16::MAX),
        database: values.text("database.dbname"),
        user: values.text("database.user"),
        password: values.secret("database.password"),
        tls: Tls {
            mode: values.choice("database.sslmode", SslMode::CHOICES),
            root_cert: values.optional("database.sslrootcert").map(Into::into),
            cert: values.optional("database.sslcert").map(Into::into),
            key: values.optional("database.sslkey").map(Into::into),
        },
    }
}

/// Statements are separated by semicolons; a doubled one stands for itself.
fn initial_statements(values: &Values<'_>) -> Vec<String> {
    let text = values.text("database.initial.statements");
    let text = text.replace(";;", "\0");
    let statements = text.split(';').map(|part| part.replace('\0', ";"));
    statements
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

fn topic_prefix(values: &mut Values<'_>) -> String {
    let prefix = values.text("topic.prefix");
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !prefix.chars().all(allowed) {
        values.refuse(
            "topic.prefix",
            "may hold letters, digits, full stop, hyphen and underscore only",
        );
    }
    prefix
}

/// The server's own rule, said before the server is asked.
fn slot_name(values: &mut Values<'_>) -> String {
    let name = values.text("slot.name");
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.len() > 63 || !name.chars().all(allowed) {
        values.refuse(
            "slot.name",
            "may hold up to 63 lower-case letters, digits and underscores only",
        );
    }
    name
}

fn publication_name(values: &mut Values<'_>) -> String {
    let name = values.text("publication.name");
    if name.len() > 63 {
        values.refuse("publication.name", "may have at most 63 bytes");
    }
    name
}

fn filter(values: &mut Values<'_>, include: &str, exclude: &str) -> NameFilter {
    let included = values.optional(include);
    let excluded = values.optional(exclude);
    if included.is_some() && excluded.is_some() {
        values.refuse(exclude, format!("cannot be combined with {include}"));
    }
    let mut part = |property, include, exclude| match NameFilter::new(include, exclude) {
        Ok(filter) => filter,
        Err(error) => {
            values.refuse(property, error.to_string());
            NameFilter::default()
        }
    };
    match included {
        Some(_) => part(include, included, None),
        None => part(exclude, None, excluded),
    }
}

/// Entries are `schema.table@token`.
fn snapshot_again(values: &mut Values<'_>) -> BTreeMap<String, String> {
    const PROPERTY: &str = "hutong.snapshot.again";
    let mut again = BTreeMap::new();
    for entry in values.list(PROPERTY) {
        match entry.rsplit_once('@') {
            Some((table, token)) if table.contains('.') && !token.is_empty() => {
                again.insert(table.to_owned(), token.to_owned());
            }
            _ => values.refuse(PROPERTY, format!("\"{entry}\" is not schema.table@token")),
        }
    }
    again
}

fn skipped_operations(values: &mut Values<'_>) -> SkippedOperations {
    let mut skipped = SkippedOperations::default();
    let list = values.list("skipped.operations");
    for operation in &list {
        match operation.as_str() {
            "c" => skipped.create = true,
            "u" => skipped.update = true,
            "d" => skipped.delete = true,
            "t" => skipped.truncate = true,
            "none" if list.len() == 1 => {}
            _ => values.refuse(
                "skipped.operations",
                "must be none, or some of c, u, d and t separated by commas",
            ),
        }
    }
    skipped
}
