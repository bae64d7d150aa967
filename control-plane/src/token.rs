//! Tokens: made from 32 random bytes, shown once, stored as SHA-256 only.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use sha2::{Digest, Sha256};

use crate::caller::{Caller, PLATFORM, Role};
use crate::error::Error;
use crate::store::Store;
use crate::store::tokens;

/// A new token. The prefix lets secret scanners find one that was committed somewhere.
#[derive(Clone)]
pub(crate) struct Token(pub(crate) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Makes a token that nobody can guess.
    pub(crate) fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::rngs::OsRng
            .try_fill_bytes(&mut bytes)
            .expect("the operating system has random bytes");
        Self(format!("hutong_{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Returns what is stored of it. Unsalted and fast on purpose: 256 random bits cannot be
    /// guessed, and each request looks one up.
    pub(crate) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// The bits of a file's mode that nobody but its owner may have; its group may read, because that is
/// how Kubernetes mounts secrets.
const OTHERS: u32 = 0o037;

/// The shortest token of a file: as long as a UUID in hexadecimal.
const TOKEN_CHARS_MIN: usize = 32;

/// Makes sure that there is an administrator.
///
/// The file's token is valid unless it was revoked. It must be nobody else's to read or to write, and
/// too long to be guessed: the platform hangs on it, and it may have been written by hand. Where neither the file nor an administrator
/// exists, both are made, the file first: a crash in between leaves a file whose token the next
/// start makes valid.
///
/// # Errors
///
/// Definite: the file cannot be read or written. Otherwise as the store.
pub(crate) async fn ensure_admin(store: &Store, path: &Path) -> Result<(), Error> {
    let failed = |source| Error::AdminToken {
        path: path.to_owned(),
        source,
    };
    let mut connection = store.acquire().await?;
    let token = match std::fs::read_to_string(path) {
        Ok(text) => {
            let mode = std::fs::metadata(path)
                .map_err(failed)?
                .permissions()
                .mode();
            if mode & OTHERS != 0 {
                let what = format!("it has mode {:o}, and others must not use it", mode & 0o777);
                return Err(failed(invalid(what)));
            }
            Token(text.trim().to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if tokens::any_platform_admin(&mut connection).await? {
                return Ok(());
            }
            let token = Token::generate();
            write_private(path, &token.0).map_err(failed)?;
            tracing::info!(path = %path.display(), "administrator's token written");
            token
        }
        Err(error) => return Err(failed(error)),
    };
    if token.0.len() < TOKEN_CHARS_MIN {
        let what = format!("it holds less than {TOKEN_CHARS_MIN} characters");
        return Err(failed(invalid(what)));
    }
    let admin = Caller {
        owner: PLATFORM.to_owned(),
        role: Role::Admin,
    };
    tokens::ensure(
        &mut connection,
        &token.hash(),
        &admin,
        "administrator's token file",
    )
    .await?;
    Ok(())
}

fn invalid(what: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}

/// Writes a file of mode 600 whole or not at all.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = std::path::PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
