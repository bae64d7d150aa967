//! The configuration of a sink, `io.debezium.connector.jdbc.JdbcSinkConnector`, on PostgreSQL.

use std::collections::BTreeMap;
use std::time::Duration;

use hutong_schemas::table::TableId;

use crate::connection::{Connection, SslMode, Tls};
use crate::property::{PropertyError, Values};

mod jdbc_url;
mod table;

use jdbc_url::JdbcUrl;
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
    /// The views and topics of tables, as named by the user: a view's without its generation.
    pub topics: Vec<String>,
    /// Whether tables are created and columns added.
    pub schema_evolution: SchemaEvolution,
    /// How target tables are named.
    pub collection_name_format: String,
    /// Schema of target tables whose name has none.
    pub default_schema: String,
    /// Largest size of a batch, in bytes.
    pub batch_bytes_max: usize,
    /// Longest time for which a batch stays open while more arrives.
    pub batch_time_max: Duration,
    /// Whether a record that cannot be written becomes a dead letter, and its table goes on.
    pub dead_letters: bool,
    /// The word under which dead letters are to be tried again.
    pub replay: String,
    /// Given properties that have no effect here.
    pub tuning: Vec<String>,
}

/// What is done about a missing table or column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaEvolution {
    /// It is an error.
    None,
    /// It is created.
    Basic,
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
        let url = jdbc_url(&mut values);
        let config = Self {
            name: name.to_owned(),
            location: crate::plugin::location(&mut values),
            connection: Connection {
                host: url.host,
                port: url.port,
                database: url.database,
                user: values.text("connection.username"),
                password: values.secret("connection.password"),
                tls: url.tls,
            },
            topics: values.list("topics"),
            schema_evolution: values.choice(
                "schema.evolution",
                &[
                    ("basic", SchemaEvolution::Basic),
                    ("none", SchemaEvolution::None),
                    ("validate-only", SchemaEvolution::None),
                ],
            ),
            collection_name_format: values
                .optional("table.name.format")
                .map_or_else(|| values.text("collection.name.format"), str::to_owned),
            default_schema: url.current_schema,
            batch_bytes_max: values.integer("hutong.batch.bytes.max", 1 << 16..=1 << 30),
            batch_time_max: Duration::from_millis(
                values.integer("hutong.batch.ms.max", 1..=60_000),
            ),
            dead_letters: dead_letters(&mut values),
            replay: values
                .optional("hutong.dead.letters.replay")
                .unwrap_or_default()
                .to_owned(),
            tuning: TABLE.tuning(properties),
        };
        check_tables(&config, &mut values);
        values.finish(config)
    }

    /// Returns the target table of a topic, as the user names it.
    ///
    /// # Errors
    ///
    /// What is wrong with the name.
    pub fn table_of(&self, topic: &str) -> Result<TableId, String> {
        let name = self
            .collection_name_format
            .replace("${topic}", &topic.replace('.', "_"));
        if name.contains("${") {
            return Err(format!(
                "\"{name}\" holds a placeholder other than ${{topic}}"
            ));
        }
        let (schema, table) = name
            .split_once('.')
            .unwrap_or((&self.default_schema, &name));
        for part in [schema, table] {
            if part.is_empty() || part.contains(['.', '"', '\0']) {
                return Err(format!("\"{name}\" is no name of a table"));
            }
            // PostgreSQL would cut it, and two topics could meet in one table.
            if part.len() > 63 {
                return Err(format!("\"{part}\" has more than 63 bytes"));
            }
        }
        Ok(TableId {
            schema: schema.to_owned(),
            table: table.to_owned(),
        })
    }
}

fn jdbc_url(values: &mut Values<'_>) -> JdbcUrl {
    let text = values.text("connection.url");
    if text.is_empty() {
        return JdbcUrl::default();
    }
    text.parse().unwrap_or_else(|message: String| {
        values.refuse("connection.url", message);
        JdbcUrl::default()
    })
}

/// What is skipped must be kept somewhere.
fn dead_letters(values: &mut Values<'_>) -> bool {
    let is_tolerant = values.choice("errors.tolerance", &[("none", false), ("all", true)]);
    let topic = values.optional("errors.deadletterqueue.topic.name");
    if is_tolerant && topic.is_none() {
        values.refuse(
            "errors.deadletterqueue.topic.name",
            "is required with errors.tolerance=all; set it to ${topic}.dlq",
        );
    }
    is_tolerant
}

/// Each topic has a table of its own: two in one would delete each other's rows.
fn check_tables(config: &Config, values: &mut Values<'_>) {
    let mut tables: BTreeMap<TableId, &str> = BTreeMap::new();
    for topic in &config.topics {
        match config.table_of(topic) {
            Err(message) => values.refuse("collection.name.format", message),
            Ok(table) => {
                if let Some(other) = tables.insert(table.clone(), topic) {
                    values.refuse(
                        "collection.name.format",
                        format!("{other} and {topic} would share the table {table}"),
                    );
                }
            }
        }
    }
}
