//! Plans for reading the input, by schema id. Schemas are given by the caller, who can fetch them.

use std::collections::HashMap;

use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{FieldInfo, RecordDecoder};
use serde_json::Value;

use crate::Error;

/// The plans.
#[derive(Debug, Default)]
pub(crate) struct Decoders {
    values: HashMap<SchemaId, ValueDecoder>,
    keys: HashMap<SchemaId, RecordDecoder>,
}

/// Reads events of one schema, and rows that were cut out of them.
#[derive(Debug)]
pub(crate) struct ValueDecoder {
    pub(crate) event: EventDecoder,
    pub(crate) row: RecordDecoder,
}

impl Decoders {
    /// Adds a schema, of keys or of envelopes, as told by whether it has the field `after`.
    pub(crate) fn add(&mut self, id: SchemaId, schema: &str) -> Result<(), Error> {
        let failed = |source| Error::Schema { id, source };
        match row_schema(schema) {
            Some(row) => {
                let decoder = ValueDecoder {
                    event: EventDecoder::compile(schema).map_err(failed)?,
                    row: RecordDecoder::compile(&row).map_err(failed)?,
                };
                self.values.insert(id, decoder);
            }
            None => {
                self.keys
                    .insert(id, RecordDecoder::compile(schema).map_err(failed)?);
            }
        }
        Ok(())
    }

    pub(crate) fn value(&self, id: SchemaId) -> Option<&ValueDecoder> {
        self.values.get(&id)
    }

    pub(crate) fn key(&self, id: SchemaId) -> Option<&RecordDecoder> {
        self.keys.get(&id)
    }
}

/// Returns the schema of the rows in an envelope: the record that `before` defines and `after`
/// names. It is complete by itself, because it is the first that the envelope defines.
fn row_schema(envelope: &str) -> Option<String> {
    let schema: Value = serde_json::from_str(envelope).ok()?;
    let fields = schema.get("fields")?.as_array()?;
    let field = |name: &str| {
        fields
            .iter()
            .find(|field| field.get("name").is_some_and(|found| found == name))
    };
    field("after")?;
    let mut record = field("before")?
        .get("type")?
        .as_array()?
        .iter()
        .find(|part| part.is_object())?
        .clone();
    if record.get("namespace").is_none()
        && let Some(namespace) = schema.get("namespace")
    {
        record["namespace"] = namespace.clone();
    }
    Some(record.to_string())
}

/// Returns a row's fields as an evaluator wants them.
pub(crate) fn fields(decoder: &RecordDecoder) -> &[FieldInfo] {
    decoder.fields()
}
