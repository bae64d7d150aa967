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
//! that machine's rights, for a server that its writer chose as well. So a secret has an owner, as a
//! connector has: what organisation `aic` posts is resolved below `<secrets.dir>/aic` (symbolic
//! links followed first) and for variables named `HUTONG_SECRET_AIC__…`, nothing else. What the
//! worker itself needs (its registry token, the master secret) lies beside these folders and is in
//! nobody's reach. And a reference is resolved only where a property is a credential: anywhere else
//! the content of a file would come out again in a status or a topic.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hutong_schemas::class::{Class, Classified};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::connection::Connection;

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

/// The organisation that runs the installation, and the workers with it.
const PLATFORM: &str = "platform";

/// Resolves references, on a worker.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// The only directory below which files are read; without it, only variables are resolved.
    pub dir: Option<PathBuf>,
}

/// Resolves the references of one organisation's connectors.
#[derive(Clone, Debug)]
pub struct OwnerSecrets {
    /// The folder of all, if there is one.
    dir: Option<PathBuf>,
    owner: String,
}

/// A reference that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("could not resolve {reference}: {reason}")]
pub struct Error {
    reference: String,
    reason: String,
    hint: String,
}

impl Classified for Error {
    /// Transient: whoever rotates a secret mounts a file or restarts a worker, and nothing should
    /// need a second step for the task to go on.
    fn class(&self) -> Class {
        Class::Transient
    }

    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}

impl Secrets {
    /// Returns what a reference of the worker's own configuration refers to.
    ///
    /// # Errors
    ///
    /// Transient, when the file, key or variable is missing, or lies where references may not lead.
    pub fn resolve_own(&self, reference: &SecretRef) -> Result<Secret, Error> {
        resolve(reference, self.dir.as_deref(), ENV_PREFIX).map_err(|reason| Error {
            reference: reference.to_string(),
            reason,
            hint: format!(
                "put the secret below the worker's secrets.dir or into an environment variable named {ENV_PREFIX}…"
            ),
        })
    }

    /// Returns what resolves the references of an organisation's connectors.
    #[must_use]
    pub fn of(&self, owner: &str) -> OwnerSecrets {
        OwnerSecrets {
            dir: self.dir.clone(),
            owner: owner.to_owned(),
        }
    }
}

impl OwnerSecrets {
    /// Returns what a reference refers to.
    ///
    /// # Errors
    ///
    /// Transient, when the file, key or variable is missing, or is not this organisation's.
    pub fn resolve(&self, reference: &SecretRef) -> Result<Secret, Error> {
        let outcome = match reference {
            SecretRef::Env { .. } => self
                .env_prefix()
                .and_then(|prefix| resolve(reference, None, &prefix)),
            SecretRef::File { .. } | SecretRef::Directory { .. } => self
                .folder()
                .and_then(|dir| resolve(reference, dir.as_deref(), ENV_PREFIX)),
        };
        outcome.map_err(|reason| self.error(reference.to_string(), reason))
    }

    /// Makes a connection ready for use: resolves its password and makes sure that the files of its
    /// encryption are its owner's. A client's key is a secret like any other; only the platform's
    /// own connectors may name files elsewhere, such as those of the operating system.
    ///
    /// # Errors
    ///
    /// As [`OwnerSecrets::resolve`].
    pub fn unlock(&self, connection: &mut Connection) -> Result<Option<Secret>, Error> {
        if self.owner != PLATFORM {
            let tls = &mut connection.tls;
            let paths = [&mut tls.root_cert, &mut tls.cert, &mut tls.key];
            for path in paths.into_iter().flatten() {
                *path = self
                    .folder()
                    .and_then(|dir| confined(dir.as_deref(), path))
                    .map_err(|reason| self.error(path.display().to_string(), reason))?;
            }
        }
        let reference = connection.password.as_ref();
        reference
            .map(|reference| self.resolve(reference))
            .transpose()
    }

    /// Returns the organisation's own folder. Names of organisations are no paths; one that is
    /// none of ours owns nothing.
    fn folder(&self) -> Result<Option<PathBuf>, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if self.owner.is_empty() || !self.owner.chars().all(plain) {
            return Err("it is not known whose connector this is".to_owned());
        }
        Ok(self.dir.as_ref().map(|dir| dir.join(&self.owner)))
    }

    /// Returns how the organisation's variables begin. A name with `-` or `_` has none: its prefix
    /// would not be a variable's, or would be another organisation's too.
    fn env_prefix(&self) -> Result<String, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if self.owner.is_empty() || !self.owner.chars().all(plain) {
            return Err(
                "variables are for organisations whose names are letters and digits; use a file"
                    .to_owned(),
            );
        }
        Ok(format!("{ENV_PREFIX}{}__", self.owner.to_ascii_uppercase()))
    }

    fn error(&self, reference: String, reason: String) -> Error {
        let owner = &self.owner;
        let variables = self.env_prefix().map_or_else(
            |_| String::new(),
            |prefix| format!(" or into an environment variable named {prefix}…"),
        );
        Error {
            reference,
            reason,
            hint: format!(
                "the connector belongs to {owner}: put the secret below {owner}/ in the worker's secrets.dir{variables}"
            ),
        }
    }
}

fn resolve(reference: &SecretRef, dir: Option<&Path>, env_prefix: &str) -> Result<Secret, String> {
    let text = match reference {
        SecretRef::File { path, key } => {
            let content = read(dir, path)?;
            property(&content, key).ok_or_else(|| format!("the file has no key \"{key}\""))?
        }
        SecretRef::Directory { dir: path, key } => {
            // One trailing line end belongs to the editor that wrote the file, not to the secret.
            let content = read(dir, &path.join(key))?;
            let content = content.strip_suffix('\n').unwrap_or(&content);
            content.strip_suffix('\r').unwrap_or(content).to_owned()
        }
        SecretRef::Env { name } => env_variable(name, env_prefix)?,
    };
    Ok(Secret(text))
}

fn read(dir: Option<&Path>, path: &Path) -> Result<String, String> {
    std::fs::read_to_string(confined(dir, path)?).map_err(|error| error.to_string())
}

/// Returns where a file really is, with all links followed, if that is below a folder. Of files
/// elsewhere not even their existence is told.
fn confined(dir: Option<&Path>, path: &Path) -> Result<PathBuf, String> {
    let dir = dir.ok_or("this worker has no secrets.dir configured")?;
    let real = dir
        .canonicalize()
        .map_err(|error| format!("{} cannot be read: {error}", dir.display()))?;
    match real.join(path).canonicalize() {
        Ok(path) if path.starts_with(&real) => Ok(path),
        _ => Err(format!("there is no such file below {}", dir.display())),
    }
}

fn env_variable(name: &str, prefix: &str) -> Result<String, String> {
    if !name.starts_with(prefix) {
        return Err(format!("only variables named {prefix}… may be referred to"));
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
