//! The hidden key `_rk`: what stands for a key whose columns a subscriber may not see.
//!
//! It is hex of the first 16 bytes of an HMAC-SHA-256 under a key of the share, over provider,
//! table and each key column's value as text, every part with its length before it. All views of a
//! share use the same, so that a child row can carry its parent's. The value is the column's text
//! (`::text`), not its Avro form, so that a foreign key of another width gives the same digest.

use hutong_schemas::cell::Cell;
use hutong_schemas::sql_type::SqlType;

use crate::secret::Key;
use crate::text;

/// The name of the field that holds it.
pub const ROW_KEY: &str = "_rk";

/// Computes `_rk` for rows of one table in one share.
#[derive(Clone, Debug)]
pub struct RowKey {
    /// The key, with provider and table already in the digest.
    start: Key,
}

impl RowKey {
    /// Prepares the digest. `topic` is the table's, `<provider>.<schema>.<table>`: the provider is
    /// what stands before the last two dots.
    #[must_use]
    pub fn new(master: &[u8], share: &str, key_version: u32, topic: &str) -> Self {
        let mut start = Key::derive(master, "row key", share, key_version, &[]);
        let mut parts = topic.rsplitn(3, '.');
        let (table, schema, provider) = (parts.next(), parts.next(), parts.next());
        start.update_part(provider.unwrap_or("").as_bytes());
        start.update_part(format!("{}.{}", schema.unwrap_or(""), table.unwrap_or("")).as_bytes());
        Self { start }
    }

    /// Appends the 32 hex digits for a key. Returns `false`, and appends nothing, if a value is
    /// missing.
    pub fn write<'a>(
        &self,
        key: impl Iterator<Item = (SqlType, Cell<'a>)>,
        scratch: &mut String,
        out: &mut String,
    ) -> bool {
        let mut mac = self.start.clone();
        for (sql_type, cell) in key {
            scratch.clear();
            if !text::write(sql_type, cell, scratch) {
                return false;
            }
            mac.update_part(scratch.as_bytes());
        }
        text::hex(&mac.finish()[..16], out);
        true
    }
}
