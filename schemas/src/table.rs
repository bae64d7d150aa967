//! What a table looks like at one place in its source's log.

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::form;
use crate::sql_type::SqlType;

/// A table's name: schema and table, unquoted, as the catalogue has them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableId {
    /// The schema (PostgreSQL) or database (MySQL).
    pub schema: String,
    /// The table.
    pub table: String,
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// A column that is captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The name, unquoted.
    pub name: String,
    /// What identifies the column for as long as it lives, across renames: `pg_attribute.attnum`.
    pub attnum: i16,
    /// The type.
    pub sql_type: SqlType,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// The default, if it is a constant that Debezium would put into the schema (else `None`,
    /// also for functions such as `nextval` or `now`, where `has_default_expression` is set).
    pub default: Option<DefaultValue>,
    /// Whether the column has a default that is an expression, which Debezium's schemas show as the
    /// type's zero value.
    pub has_default_expression: bool,
    /// The labels of an enum, or of an array of enums, in the enum's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// A constant default, already in the form that the Avro schema wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DefaultValue(pub serde_json::Value);

impl Eq for DefaultValue {}

impl DefaultValue {
    /// Returns the constant `cell` as the default of a column of this type.
    ///
    /// `None` where Debezium's schemas show no default: NULL, `bytea`, numbers without scale, and
    /// what JSON cannot say (NaN, infinite numbers).
    #[must_use]
    pub fn from_cell(sql_type: SqlType, cell: &Cell<'_>) -> Option<Self> {
        form::default_of_cell(sql_type, cell).map(Self)
    }
}

/// The captured columns of a table, in the order of the table, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// The name.
    pub id: TableId,
    /// What identifies the table for as long as it lives: `pg_class.oid`.
    pub oid: u32,
    /// The captured columns.
    pub columns: Vec<Column>,
    /// Indices into `columns` of the key, in the order of the primary key; empty without a key.
    pub key: Vec<usize>,
}
