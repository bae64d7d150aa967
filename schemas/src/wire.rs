//! Confluent framing: a zero byte and the schema's id, then Avro binary.

use crate::Error;
use crate::position::SchemaId;

/// Bytes before the Avro of a key or value.
pub const PREFIX_BYTES: usize = 5;

/// Returns what stands before every message written with the schema `id`.
#[must_use]
pub fn prefix(id: SchemaId) -> [u8; PREFIX_BYTES] {
    let [a, b, c, d] = id.0.to_be_bytes();
    [0, a, b, c, d]
}

/// Splits a message into the id of its writer's schema and its Avro bytes.
///
/// # Errors
/// [`Error::Malformed`] (definite) if the message is shorter than the prefix or does not begin
/// with zero.
pub fn split(message: &[u8]) -> Result<(SchemaId, &[u8]), Error> {
    let Some((head, body)) = message.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(Error::Malformed("shorter than the prefix of five bytes"));
    };
    let [magic, id @ ..] = *head;
    if magic != 0 {
        return Err(Error::Malformed("the first byte is not zero"));
    }
    Ok((SchemaId(u32::from_be_bytes(id)), body))
}
