//! apache-avro, which knows nothing of our plans.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;

pub(crate) fn parse(schema: &str) -> Schema {
    Schema::parse_str(schema).expect("a schema of ours is an Avro schema")
}

/// Reads a message with its prefix, to its end.
pub(crate) fn read(schema: &Schema, message: &[u8]) -> Value {
    let mut body = &message[5..];
    let reader = GenericDatumReader::builder(schema).build();
    let reader = reader.expect("a schema that was parsed can be read with");
    let value = reader.read_value(&mut body);
    let value = value.expect("apache-avro reads what the plan wrote");
    assert!(body.is_empty(), "nothing is left over");
    value
}

/// Writes a value, without a prefix.
pub(crate) fn write(schema: &Schema, value: Value) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).build();
    let writer = writer.expect("a schema that was parsed can be written with");
    writer
        .write_value_to_vec(value)
        .expect("the value is of the schema")
}

/// Whether these bytes, without a prefix, are what apache-avro writes. It writes the entries of a
/// map in any order: where one has more than one, the bytes must read as the value and be as many.
pub(crate) fn writes(schema: &Schema, value: &Value, bytes: &[u8]) -> bool {
    let expected = write(schema, value.clone());
    let reads_as = || {
        let mut body = bytes;
        let reader = GenericDatumReader::builder(schema).build();
        let read = reader
            .ok()
            .and_then(|reader| reader.read_value(&mut body).ok());
        body.is_empty() && read.as_ref() == Some(value)
    };
    bytes == expected || (bytes.len() == expected.len() && has_large_map(value) && reads_as())
}

fn has_large_map(value: &Value) -> bool {
    match value {
        Value::Map(entries) => entries.len() > 1,
        Value::Union(_, inner) => has_large_map(inner),
        Value::Record(fields) => fields.iter().any(|(_, field)| has_large_map(field)),
        _ => false,
    }
}

pub(crate) fn field<'v>(record: &'v Value, name: &str) -> &'v Value {
    let Value::Record(fields) = record else {
        panic!("it is a record")
    };
    let mut fields = fields.iter();
    let field = fields.find(|(field, _)| field == name);
    &field.expect("the field is there").1
}

pub(crate) fn long(value: &Value) -> Option<i64> {
    match value {
        Value::Long(value) => Some(*value),
        Value::Union(_, inner) => long(inner),
        _ => None,
    }
}
