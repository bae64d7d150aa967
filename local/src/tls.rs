//! Throw-away certificates for servers that speak TLS in a test, made by `openssl`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::prerequisites;
use crate::process::output_of;

/// A certificate authority and a server certificate signed by it, as PEM files.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's certificate, which clients trust.
    pub authority: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The server's key, PKCS #8.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes them for a server that is reached as `host` (a name such as `localhost`).
    ///
    /// # Errors
    ///
    /// If `openssl` is missing or fails.
    pub fn issue(folder: &Path, host: &str) -> Result<Self> {
        prerequisites::require("a server with TLS", &[("openssl", "openssl")])?;
        std::fs::create_dir_all(folder)?;
        let made = Self {
            authority: folder.join("ca.pem"),
            certificate: folder.join("server.pem"),
            key: folder.join("server-key.pem"),
        };
        openssl(
            folder,
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority \
            -keyout ca-key.pem -out ca.pem",
        )?;
        openssl(
            folder,
            &format!(
                "req -newkey rsa:2048 -nodes -subj /CN={host} \
            -keyout server-key.pem -out server.csr"
            ),
        )?;
        std::fs::write(
            folder.join("server.ext"),
            format!("subjectAltName=DNS:{host}\n"),
        )?;
        openssl(
            folder,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial \
            -days 2 -extfile server.ext -out server.pem",
        )?;
        Ok(made)
    }
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let mut command = Command::new("openssl");
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    output_of("certificate for a test", &mut command)?;
    Ok(())
}
