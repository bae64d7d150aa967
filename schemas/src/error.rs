//! Why a schema, a row or a message cannot be carried.

use crate::class::{Class, Classified};

/// What went wrong between schemas, rows and bytes. No variant holds a value of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A schema, table, column or topic prefix is no Avro name.
    #[error("{what} \"{name}\" is not an Avro name")]
    NotAnAvroName {
        /// What bears the name, such as `column` or `topic prefix`.
        what: &'static str,
        /// The name.
        name: String,
        /// The property that would adjust such names.
        property: &'static str,
    },
    /// The text is not an Avro schema, or not one that we read.
    #[error("cannot use the schema: {0}")]
    Schema(String),
    /// A field's type is none that we carry.
    #[error("field \"{field}\" has a type that is not supported: {avro_type}")]
    UnsupportedField {
        /// The field.
        field: String,
        /// Its type, as the schema has it.
        avro_type: String,
    },
    /// The bytes are not a message of this schema.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A row has another number of cells than its table has columns.
    #[error("a row has {cells} cells, its schema {columns} columns")]
    RowLength {
        /// The row's cells.
        cells: usize,
        /// The schema's columns.
        columns: usize,
    },
    /// A cell is not of its column's type, or out of its range.
    #[error("the value of column \"{column}\" does not fit its type {sql_type}")]
    CellType {
        /// The column.
        column: String,
        /// The column's type.
        sql_type: String,
    },
    /// A column that cannot be NULL holds NULL.
    #[error("column \"{0}\" is NULL but its schema says NOT NULL")]
    UnexpectedNull(String),
    /// A value that the source did not send stands where only known values may.
    #[error("the value of column \"{0}\" is not known")]
    UnexpectedUnavailable(String),
    /// The table has no key.
    #[error("table {0} has no key")]
    NoKey(String),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotAnAvroName { .. }
            | Self::Schema(_)
            | Self::UnsupportedField { .. }
            | Self::Malformed(_)
            | Self::UnexpectedNull(_) => Class::Definite,
            Self::RowLength { .. }
            | Self::CellType { .. }
            | Self::UnexpectedUnavailable(_)
            | Self::NoKey(_) => Class::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotAnAvroName { what, property, .. } => Some(format!(
                "rename the {what}, or set {property} to avro or avro_unicode"
            )),
            Self::UnexpectedNull(column) => Some(format!(
                "column \"{column}\" became NOT NULL after this row was written; the table must be read again"
            )),
            Self::Schema(_)
            | Self::UnsupportedField { .. }
            | Self::Malformed(_)
            | Self::RowLength { .. }
            | Self::CellType { .. }
            | Self::UnexpectedUnavailable(_)
            | Self::NoKey(_) => None,
        }
    }
}
