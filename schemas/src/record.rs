//! Flat records: message keys and the rows of views.

use crate::Error;
use crate::binary::Reader;
use crate::cell::Cell;
use crate::codec::{Column, check_length, decode_image_row, decode_row};
use crate::json_text::Object;
use crate::position::SchemaId;
use crate::schema_text::Schema;
use crate::sql_type::SqlType;
use crate::type_writer::{Field, TypeWriter};
use crate::wire;

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
///
/// Types are those of the table's events, and carry the SQL type in `hutong.sql.type`.
#[must_use]
pub fn view_key_schema(fields: &[ViewField]) -> String {
    view_schema("Key", fields)
}

/// Returns the schema of a view's rows: the record `hutong.view.Value`.
///
/// As [`view_key_schema`]. No field has a default but `null`: a default would tell what the table
/// has.
#[must_use]
pub fn view_value_schema(fields: &[ViewField]) -> String {
    view_schema("Value", fields)
}

fn view_schema(name: &str, fields: &[ViewField]) -> String {
    let mut types = TypeWriter::marking_sql_types();
    let fields: Vec<String> = fields
        .iter()
        .map(|field| {
            types.field(Field {
                name: &field.name,
                sql_type: field.sql_type,
                labels: &[],
                nullable: field.nullable,
                default: None,
            })
        })
        .collect();
    Object::new()
        .text("type", "record")
        .text("name", name)
        .text("namespace", "hutong.view")
        .raw("fields", format_args!("[{}]", fields.join(",")))
        .text("connect.name", &format!("hutong.view.{name}"))
        .end()
}

/// A compiled plan that reads flat records of one schema.
#[derive(Debug)]
pub struct RecordDecoder {
    columns: Vec<Column>,
    fields: Vec<FieldInfo>,
}

impl RecordDecoder {
    /// Compiles the plan.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::UnsupportedField`] (definite).
    pub fn compile(schema: &str) -> Result<Self, Error> {
        let columns = compile(schema)?;
        let fields = columns.iter().map(|column| column.info.clone()).collect();
        Ok(Self { columns, fields })
    }

    /// Returns the record's fields.
    #[must_use]
    pub fn fields(&self) -> &[FieldInfo] {
        &self.fields
    }

    /// Decodes a message with its prefix, replacing `row`.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if the bytes are no message of the schema.
    pub fn decode<'a>(&self, message: &'a [u8], row: &mut Vec<Cell<'a>>) -> Result<(), Error> {
        let (_, body) = wire::split(message)?;
        let mut reader = Reader::new(body);
        decode_row(&self.columns, &mut reader, row)?;
        Ok(reader.finish()?)
    }

    /// As [`RecordDecoder::decode`], for a row that was cut out of an event: a value that was
    /// unavailable there is unavailable here.
    ///
    /// # Errors
    /// As [`RecordDecoder::decode`].
    pub fn decode_image<'a>(
        &self,
        message: &'a [u8],
        row: &mut Vec<Cell<'a>>,
    ) -> Result<(), Error> {
        let (_, body) = wire::split(message)?;
        let mut reader = Reader::new(body);
        decode_image_row(&self.columns, &mut reader, row)?;
        Ok(reader.finish()?)
    }
}

/// A compiled plan that writes flat records of one schema.
#[derive(Debug)]
pub struct RecordEncoder {
    columns: Vec<Column>,
    prefix: [u8; wire::PREFIX_BYTES],
}

impl RecordEncoder {
    /// Compiles the plan.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::UnsupportedField`] (definite).
    pub fn compile(schema: &str, id: SchemaId) -> Result<Self, Error> {
        Ok(Self {
            columns: compile(schema)?,
            prefix: wire::prefix(id),
        })
    }

    /// Appends a message with its prefix.
    ///
    /// # Errors
    /// If a cell does not fit its field or is unavailable; `out` is then as it was.
    pub fn encode(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        self.try_encode(row, out)
            .inspect_err(|_| out.truncate(start))
    }

    fn try_encode(&self, row: &[Cell<'_>], out: &mut Vec<u8>) -> Result<(), Error> {
        check_length(self.columns.len(), row)?;
        out.extend_from_slice(&self.prefix);
        for (column, cell) in self.columns.iter().zip(row) {
            if matches!(cell, Cell::Unavailable) {
                return Err(Error::UnexpectedUnavailable(column.info.name.clone()));
            }
            column.encode(cell, out)?;
        }
        Ok(())
    }
}

fn compile(schema: &str) -> Result<Vec<Column>, Error> {
    let schema = Schema::parse(schema)?;
    let names = schema.names()?;
    let (record, namespace) = schema.record(&names)?;
    names.columns(record, &namespace)
}
