//! Keys derived from the worker's master secret.
//!
//! One secret, held by workers only, never stored: everything that must be reproducible but not
//! guessable is an HMAC-SHA-256 under a key derived from it. A key is derived by
//!
//! ```text
//! HMAC(master, lp("hutong/1") ‖ lp(purpose) ‖ lp(share) ‖ lp(key version as decimal) ‖ lp(detail)…)
//! ```
//!
//! where `lp` puts the length as four bytes, big-endian, before the bytes, so that no two lists of
//! parts give the same input. Rotating a share's key raises its version, which changes every `_rk`
//! and every HASH of that share, and of no other.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// The fewest bytes of a master secret: 128 bits, the strength of the digests that it protects.
pub const MASTER_BYTES_MIN: usize = 16;

/// Returns what may be told about a secret, so that two workers can be found to hold the same one:
/// hex of the first 8 bytes of a digest.
#[must_use]
pub fn fingerprint(master: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(b"hutong/1/fingerprint");
    digest.update(master);
    let digest = digest.finalize();
    let mut text = String::new();
    crate::text::hex(&digest[..8], &mut text);
    text
}

/// An HMAC-SHA-256 key. `Debug` hides it.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Derives the key for a purpose within a share.
    #[must_use]
    pub fn derive(
        master: &[u8],
        purpose: &str,
        share: &str,
        key_version: u32,
        details: &[&str],
    ) -> Self {
        let mut mac = Self::new(master);
        let version = key_version.to_string();
        for part in ["hutong/1", purpose, share, &version].iter().chain(details) {
            mac.update_part(part.as_bytes());
        }
        Self::new(&mac.finish())
    }

    /// Takes bytes as a key.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Hmac::new_from_slice(bytes).expect("HMAC takes keys of any length"))
    }

    /// Adds a part with its length before it.
    pub(crate) fn update_part(&mut self, part: &[u8]) {
        let length = u32::try_from(part.len()).expect("a part is shorter than 4 GiB");
        self.0.update(&length.to_be_bytes());
        self.0.update(part);
    }

    /// Adds bytes as they are.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the digest.
    pub(crate) fn finish(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}
