//! Flat records: message keys and the rows of views.

use crate::Error;
use crate::cell::Cell;
use crate::position::SchemaId;
use crate::sql_type::SqlType;

/// A field of a record, as its schema describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// The name.
    pub name: String,
    /// The type: attribute `hutong.sql.type` where present, else derived from Avro type and
    /// `connect.name`.
    pub sql_type: SqlType,
    /// Whether NULL is allowed.
    pub nullable: bool,
}

/// A field of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewField {
    /// The name.
    pub name: String,
    /// The type.
    pub sql_type: SqlType,
    /// Whether NULL is allowed.
    pub nullable: bool,
}

/// Returns the schema of a view's keys: the record `hutong.view.Key`.
#[must_use]
pub fn view_key_schema(fields: &[ViewField]) -> String {
    let _ = fields;
    unimplemented!()
}

/// Returns the schema of a view's rows: the record `hutong.view.Value`.
#[must_use]
pub fn view_value_schema(fields: &[ViewField]) -> String {
    let _ = fields;
    unimplemented!()
}

/// A compiled plan that reads flat records of one schema.
#[derive(Debug)]
pub struct RecordDecoder {}

impl RecordDecoder {
    /// Compiles the plan.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::UnsupportedField`] (definite).
    pub fn compile(schema: &str) -> Result<Self, Error> {
        let _ = schema;
        unimplemented!()
    }

    /// Returns the record's fields.
    #[must_use]
    pub fn fields(&self) -> &[FieldInfo] {
        unimplemented!()
    }

    /// Decodes a message with its prefix, replacing `row`.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if the bytes are no message of the schema.
    pub fn decode<'a>(&self, message: &'a [u8], row: &mut Vec<Cell<'a>>) -> Result<(), Error> {
        let _ = (message, row);
        unimplemented!()
    }
}

/// A compiled plan that writes flat records of one schema.
#[derive(Debug)]
pub struct RecordEncoder {}

impl RecordEncoder {
    /// Compiles the plan.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::UnsupportedField`] (definite).
    pub fn compile(schema: &str, id: SchemaId) -> Result<Self, Error> {
        let _ = (schema, id);
        unimplemented!()
    }

    /// Appends a message with its prefix.
    ///
    /// # Errors
    /// If a cell does not fit its field or is unavailable; `out` is then as it was.
    pub fn encode(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        let _ = (row, out);
        unimplemented!()
    }
}
