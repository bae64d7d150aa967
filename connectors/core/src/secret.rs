//! Secrets by reference.
//!
//! A configuration never holds a secret, only where the worker finds it. The forms are those of
//! Kafka's configuration providers, so an existing configuration needs nothing new:
//!
//! | form | the secret is |
//! |---|---|
//! | `${file:PATH:KEY}` | the value of KEY in the properties file PATH |
//! | `${directory:DIR:KEY}` | the content of the file KEY in the directory DIR |
//! | `${env:NAME}` | the environment variable NAME |
//!
//! A reference is written by whoever may post a configuration and resolved on another machine, with
//! that machine's rights. So it is resolved only below the worker's `secrets.dir` (symbolic links
//! followed first) and for variables named `HUTONG_SECRET_…`, and only where a property is a
//! credential: anywhere else the content of a file would come out again in a status or a topic.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hutong_schemas::class::{Class, Classified};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What every message about a missing or clear-text secret names.
pub const FORMS: &str = "${file:PATH:KEY}, ${directory:DIR:KEY} or ${env:NAME}";

/// The prefix of environment variables that references may name.
pub const ENV_PREFIX: &str = "HUTONG_SECRET_";

/// Where a secret lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// A key of a properties file.
    File {
        /// The file, absolute or relative to `secrets.dir`.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A file of a directory.
    Directory {
        /// The directory, absolute or relative to `secrets.dir`.
        dir: PathBuf,
        /// The name of the file.
        key: String,
    },
    /// An environment variable.
    Env {
        /// Its name.
        name: String,
    },
}

/// The text is no reference. The text itself is not shown: it may be a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a reference to a secret, {FORMS}; secrets in clear text are not accepted")]
pub struct NotAReference;

/// Returns whether the text has the outer form of a reference: `${provider:…}`.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    text.strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .and_then(|inner| inner.split_once(':'))
        .is_some_and(|(provider, _)| {
            !provider.is_empty() && provider.chars().all(|c| c.is_ascii_alphanumeric())
        })
}

impl FromStr for SecretRef {
    type Err = NotAReference;

    fn from_str(text: &str) -> Result<Self, NotAReference> {
        let inner = text
            .strip_prefix("${")
            .and_then(|rest| rest.strip_suffix('}'))
            .ok_or(NotAReference)?;
        let (provider, rest) = inner.split_once(':').ok_or(NotAReference)?;
        let path_and_key = || {
            rest.rsplit_once(':')
                .filter(|(path, key)| !path.is_empty() && !key.is_empty())
                .map(|(path, key)| (PathBuf::from(path), key.to_owned()))
                .ok_or(NotAReference)
        };
        match provider {
            "file" => path_and_key().map(|(path, key)| Self::File { path, key }),
            "directory" => path_and_key().map(|(dir, key)| Self::Directory { dir, key }),
            // Kafka also accepts an empty path before the name.
            "env" => match rest.strip_prefix(':').unwrap_or(rest) {
                "" => Err(NotAReference),
                name => Ok(Self::Env {
                    name: name.to_owned(),
                }),
            },
            _ => Err(NotAReference),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, key } => write!(f, "${{file:{}:{key}}}", path.display()),
            Self::Directory { dir, key } => write!(f, "${{directory:{}:{key}}}", dir.display()),
            Self::Env { name } => write!(f, "${{env:{name}}}"),
        }
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A secret. `Debug` hides it; it has no `Display` and is not serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret, for handing it to whoever asks for it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Resolves references, on a worker.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The only directory below which files are read; without it, only variables are resolved.
    pub dir: Option<PathBuf>,
}

/// A reference that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("could not resolve {reference}: {reason}")]
pub struct Error {
    reference: SecretRef,
    reason: String,
}

impl Classified for Error {
    /// Transient: whoever rotates a secret mounts a file or restarts a worker, and nothing should
    /// need a second step for the task to go on.
    fn class(&self) -> Class {
        Class::Transient
    }

    fn hint(&self) -> Option<String> {
        Some(format!(
            "put the secret below the worker's secrets.dir or into an environment variable named {ENV_PREFIX}…"
        ))
    }
}

impl Secrets {
    /// Returns what a reference refers to.
    ///
    /// # Errors
    ///
    /// Transient, when the file, key or variable is missing, or lies where references may not lead.
    pub fn resolve(&self, reference: &SecretRef) -> Result<Secret, Error> {
        let text = match reference {
            SecretRef::File { path, key } => self.file_key(path, key),
            SecretRef::Directory { dir, key } => self.directory_key(dir, key),
            SecretRef::Env { name } => env_variable(name),
        };
        text.map(Secret).map_err(|reason| Error {
            reference: reference.clone(),
            reason,
        })
    }

    fn file_key(&self, path: &Path, key: &str) -> Result<String, String> {
        let content = self.read(path)?;
        property(&content, key).ok_or_else(|| format!("the file has no key \"{key}\""))
    }

    fn directory_key(&self, dir: &Path, key: &str) -> Result<String, String> {
        // One trailing line end belongs to the editor that wrote the file, not to the secret.
        let content = self.read(&dir.join(key))?;
        let content = content.strip_suffix('\n').unwrap_or(&content);
        Ok(content.strip_suffix('\r').unwrap_or(content).to_owned())
    }

    /// Reads a file after making sure that it lies below `secrets.dir`, with all links followed.
    fn read(&self, path: &Path) -> Result<String, String> {
        let dir = self
            .dir
            .as_ref()
            .ok_or("this worker has no secrets.dir configured")?;
        let dir = dir
            .canonicalize()
            .map_err(|error| format!("secrets.dir cannot be read: {error}"))?;
        let path = dir
            .join(path)
            .canonicalize()
            .map_err(|error| error.to_string())?;
        if !path.starts_with(&dir) {
            return Err("the file does not lie below the worker's secrets.dir".to_owned());
        }
        std::fs::read_to_string(&path).map_err(|error| error.to_string())
    }
}

fn env_variable(name: &str) -> Result<String, String> {
    if !name.starts_with(ENV_PREFIX) {
        return Err(format!(
            "only variables named {ENV_PREFIX}… may be referred to"
        ));
    }
    std::env::var(name).map_err(|_| "the variable is not set".to_owned())
}

/// Returns the value of a key of a Java properties file: `key=value`, `key: value` or `key value`,
/// `#` and `!` begin comments, and a backslash takes the next character as it is.
fn property(content: &str, wanted: &str) -> Option<String> {
    content.lines().find_map(|line| {
        let line = line.trim_start();
        if line.starts_with(['#', '!']) {
            return None;
        }
        let (key, value) = split_property(line);
        (key == wanted).then_some(value)
    })
}

fn split_property(line: &str) -> (String, String) {
    let mut chars = line.chars();
    let mut key = String::new();
    let mut end = None;
    while let Some(char) = chars.next() {
        match char {
            '\\' => key.extend(chars.next()),
            '=' | ':' | ' ' | '\t' => {
                end = Some(char);
                break;
            }
            other => key.push(other),
        }
    }
    let mut rest = chars.as_str().trim_start();
    if matches!(end, Some(' ' | '\t')) {
        rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    }
    let mut value = String::new();
    let mut chars = rest.chars();
    while let Some(char) = chars.next() {
        if char == '\\' {
            value.extend(chars.next());
        } else {
            value.push(char);
        }
    }
    (key, value)
}
