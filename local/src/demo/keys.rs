//! Hidden keys and HASH masks, computed a second time: in SQL, from keys derived here.
//!
//! Both are the first 16 bytes of an HMAC-SHA-256 in hex. PostgreSQL has `sha256` without any
//! extension, and an HMAC is two of them around the key's two pads (RFC 2104), so a query can
//! compute it once the pads are written into it.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Returns the SQL of `_rk` for a table with one key column.
pub(super) fn row_key_sql(
    master: &str,
    share: &str,
    provider: &str,
    table: &str,
    column: &str,
) -> String {
    let key = derive(master, "row key", share, &[]);
    let mut message = Vec::new();
    for part in [provider.to_owned(), format!("public.{table}")] {
        message.extend(with_length(part.as_bytes()));
    }
    let value = format!("convert_to({column}::text, 'UTF8')");
    let value = format!("int4send(octet_length({value})) || {value}");
    hmac_sql(&key, &format!("{} || {value}", bytea(&message)))
}

/// Returns the SQL of the mask HASH of a column.
pub(super) fn hash_sql(master: &str, share: &str, column: &str) -> String {
    let key = derive(master, "hash", share, &[column]);
    hmac_sql(&key, &format!("convert_to({column}::text, 'UTF8')"))
}

/// Derives a key from the master secret, by the rule in `docs/ARCHITECTURE.md`.
fn derive(master: &str, purpose: &str, share: &str, details: &[&str]) -> [u8; 32] {
    let mut mac: Hmac<Sha256> = Hmac::new_from_slice(master.as_bytes()).expect("takes any length");
    for part in ["hutong/1", purpose, share, "1"].iter().chain(details) {
        mac.update(&with_length(part.as_bytes()));
    }
    mac.finalize().into_bytes().into()
}

fn with_length(part: &[u8]) -> Vec<u8> {
    let length = u32::try_from(part.len()).expect("a short part");
    [&length.to_be_bytes(), part].concat()
}

fn hmac_sql(key: &[u8; 32], message: &str) -> String {
    let pad = |with: u8| {
        let mut block = [with; 64];
        for (byte, of_key) in block.iter_mut().zip(key) {
            *byte ^= of_key;
        }
        bytea(&block)
    };
    let inner = format!("sha256({} || {message})", pad(0x36));
    format!(
        "encode(substring(sha256({} || {inner}) FROM 1 FOR 16), 'hex')",
        pad(0x5C)
    )
}

fn bytea(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{hex}'::bytea")
}
