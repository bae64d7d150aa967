//! Change events in Debezium's envelope: the schemas of a table's topic.
//!
//! What consumers of Debezium know, they get: names, field order, attributes, defaults. The schemas
//! are compared with recorded ones in `tests/golden/debezium`. Plans that write and read events of
//! these schemas are in [`crate::event_encoder`] and [`crate::event_decoder`].

use serde_json::Value;

use crate::Error;
use crate::form::{default_of_expression, shows_defaults};
use crate::json_text::Object;
use crate::position::Lsn;
use crate::table::{Column, TableSchema};
use crate::type_writer::{Field, TypeWriter};

pub use crate::event_encoder::EventEncoder;

/// The Avro schemas of a table's topic, as JSON text in the property order of Confluent's converter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSchemas {
    /// The key's schema, if the table has a key.
    pub key: Option<String>,
    /// The envelope's schema.
    pub value: String,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// An insert, `c`.
    Create,
    /// An update, `u`.
    Update,
    /// A delete, `d`.
    Delete,
    /// A row read by a snapshot, `r`.
    Read,
    /// All rows are gone, `t`.
    Truncate,
}

impl Op {
    /// Returns the letter in the field `op`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
            Self::Truncate => "t",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "c" => Self::Create,
            "u" => Self::Update,
            "d" => Self::Delete,
            "r" => Self::Read,
            "t" => Self::Truncate,
            _ => return None,
        })
    }
}

/// Where in a snapshot an event stands: the field `source.snapshot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotMark {
    /// Not part of a snapshot.
    False,
    /// The first row of a snapshot.
    First,
    /// A row of a snapshot.
    True,
    /// The first row of a table.
    FirstInDataCollection,
    /// The last row of a table.
    LastInDataCollection,
    /// The last row of a snapshot.
    Last,
    /// A row of an incremental snapshot.
    Incremental,
}

impl SnapshotMark {
    pub(crate) const ALL: [Self; 7] = [
        Self::False,
        Self::First,
        Self::True,
        Self::FirstInDataCollection,
        Self::LastInDataCollection,
        Self::Last,
        Self::Incremental,
    ];

    /// Returns the text in the field `source.snapshot`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::False => "false",
            Self::First => "first",
            Self::True => "true",
            Self::FirstInDataCollection => "first_in_data_collection",
            Self::LastInDataCollection => "last_in_data_collection",
            Self::Last => "last",
            Self::Incremental => "incremental",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mark| mark.as_str() == text)
    }
}

/// Where an event comes from. Times are microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventSource {
    /// When the source committed the transaction; for a snapshot, when it was taken.
    pub ts_us: i64,
    /// Whether and where in a snapshot.
    pub snapshot: SnapshotMark,
    /// The source transaction.
    pub tx_id: Option<i64>,
    /// Where the change stands in the source's log.
    pub lsn: Option<Lsn>,
    /// Where the last commit before this change stands.
    pub last_commit_lsn: Option<Lsn>,
    /// The connector's clock.
    pub now_us: i64,
}

/// Returns the schemas of the topic `<prefix>.<schema>.<table>`.
///
/// # Errors
/// [`Error::NotAnAvroName`] (definite) for names that Avro does not allow.
pub fn event_schemas(topic: &str, table: &TableSchema) -> Result<EventSchemas, Error> {
    check_names(topic, table)?;
    let key = (!table.key.is_empty()).then(|| {
        let columns = table.key.iter().map(|index| &table.columns[*index]);
        row_record("Key", Some(topic), topic, columns)
    });
    let row = row_record("Value", None, topic, table.columns.iter());
    let fields = [
        optional_field("before", &row),
        optional_field("after", r#""Value""#),
        Object::new()
            .text("name", "source")
            .raw("type", SOURCE)
            .end(),
        optional_field("transaction", TRANSACTION),
        Object::new()
            .text("name", "op")
            .text("type", "string")
            .end(),
        optional_field("ts_ms", r#""long""#),
        optional_field("ts_us", r#""long""#),
        optional_field("ts_ns", r#""long""#),
    ];
    let value = Object::new()
        .text("type", "record")
        .text("name", "Envelope")
        .text("namespace", topic)
        .raw("fields", format_args!("[{}]", fields.join(",")))
        .raw("connect.version", 2)
        .text("connect.name", &format!("{topic}.Envelope"))
        .end();
    Ok(EventSchemas { key, value })
}

const SOURCE: &str = concat!(
    r#"{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":["#,
    r#"{"name":"version","type":"string"},"#,
    r#"{"name":"connector","type":"string"},"#,
    r#"{"name":"name","type":"string"},"#,
    r#"{"name":"ts_ms","type":"long"},"#,
    r#"{"name":"snapshot","type":[{"type":"string","connect.version":1,"connect.parameters":{"#,
    r#""allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"#,
    r#""connect.default":"false","connect.name":"io.debezium.data.Enum"},"null"],"default":"false"},"#,
    r#"{"name":"db","type":"string"},"#,
    r#"{"name":"sequence","type":["null","string"],"default":null},"#,
    r#"{"name":"ts_us","type":["null","long"],"default":null},"#,
    r#"{"name":"ts_ns","type":["null","long"],"default":null},"#,
    r#"{"name":"schema","type":"string"},"#,
    r#"{"name":"table","type":"string"},"#,
    r#"{"name":"txId","type":["null","long"],"default":null},"#,
    r#"{"name":"lsn","type":["null","long"],"default":null},"#,
    r#"{"name":"xmin","type":["null","long"],"default":null},"#,
    r#"{"name":"origin","type":["null","string"],"default":null},"#,
    r#"{"name":"origin_lsn","type":["null","long"],"default":null}"#,
    r#"],"connect.version":1,"connect.name":"io.debezium.connector.postgresql.Source"}"#,
);

const TRANSACTION: &str = concat!(
    r#"{"type":"record","name":"block","namespace":"event","fields":["#,
    r#"{"name":"id","type":"string"},"#,
    r#"{"name":"total_order","type":"long"},"#,
    r#"{"name":"data_collection_order","type":"long"}"#,
    r#"],"connect.version":1,"connect.name":"event.block"}"#,
);

fn optional_field(name: &str, value_type: &str) -> String {
    Object::new()
        .text("name", name)
        .raw("type", format_args!("[\"null\",{value_type}]"))
        .raw("default", "null")
        .end()
}

fn row_record<'t>(
    name: &str,
    namespace: Option<&str>,
    topic: &str,
    columns: impl Iterator<Item = &'t Column>,
) -> String {
    let mut types = TypeWriter::default();
    let fields: Vec<String> = columns
        .map(|column| {
            let default = schema_default(column);
            types.field(Field {
                name: &column.name,
                sql_type: column.sql_type,
                labels: &column.labels,
                nullable: column.nullable,
                default: default.as_ref(),
            })
        })
        .collect();
    let record = Object::new().text("type", "record").text("name", name);
    match namespace {
        Some(namespace) => record.text("namespace", namespace),
        None => record,
    }
    .raw("fields", format_args!("[{}]", fields.join(",")))
    .text("connect.name", &format!("{topic}.{name}"))
    .end()
}

/// Returns the default that a column's schema shows, never `null`.
pub(crate) fn schema_default(column: &Column) -> Option<Value> {
    match &column.default {
        Some(constant) if shows_defaults(column.sql_type) => {
            Some(constant.0.clone()).filter(|value| !value.is_null())
        }
        None if column.has_default_expression => default_of_expression(column.sql_type),
        _ => None,
    }
}

fn check_names(topic: &str, table: &TableSchema) -> Result<(), Error> {
    let own_parts = format!(".{}", table.id);
    let (prefix, is_ours) = match topic.strip_suffix(&own_parts) {
        Some(prefix) => (prefix, true),
        None => (topic, false),
    };
    for part in prefix.split('.') {
        check_name("topic prefix", part, "schema.name.adjustment.mode")?;
    }
    if is_ours {
        check_name("schema", &table.id.schema, "schema.name.adjustment.mode")?;
        check_name("table", &table.id.table, "schema.name.adjustment.mode")?;
    }
    for column in &table.columns {
        check_name("column", &column.name, "field.name.adjustment.mode")?;
    }
    Ok(())
}

fn check_name(what: &'static str, name: &str, property: &'static str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let begins = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        Ok(())
    } else {
        Err(Error::NotAnAvroName {
            what,
            name: name.to_owned(),
            property,
        })
    }
}
