//! How to reach a database.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::secret::SecretRef;

/// Where a database is and how to log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// User.
    pub user: String,
    /// Where the worker finds the password; `None` where the server asks for none.
    pub password: Option<SecretRef>,
    /// Encryption.
    pub tls: Tls,
}

/// Encryption of a connection, in libpq's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// What is required of the server.
    pub mode: SslMode,
    /// PEM file of the authorities to trust, on the worker; without it the public ones.
    pub root_cert: Option<PathBuf>,
    /// PEM file of the client's certificate, on the worker.
    pub cert: Option<PathBuf>,
    /// PEM file of the client's key, on the worker.
    pub key: Option<PathBuf>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// No encryption.
    Disable,
    /// Encryption if the server offers it, its certificate unchecked.
    #[default]
    Prefer,
    /// Encryption or no connection; the certificate is checked if `root_cert` is given.
    Require,
    /// As `Require`, and a trusted authority signed the certificate.
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyFull,
}

impl SslMode {
    /// The values that properties accept. `allow` tries in the clear first and then encrypts, which
    /// protects nothing that `prefer` does not.
    pub const CHOICES: &[(&str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Prefer),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}
