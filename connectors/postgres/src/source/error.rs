//! What can go wrong with a PostgreSQL source, and what a person can do about it.

use hutong_connectors_core::source::HostError;
use hutong_schemas::class::{Class, Classified};

/// An error of the source. No variant holds a value of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server, its configuration, its rights or the tables are not as they must be.
    #[error("{message}")]
    Definite {
        /// What is wrong.
        message: String,
        /// What the owner of the database can do, as SQL where SQL does it.
        hint: Option<String>,
    },
    /// The server's log does not continue at the stored position: what lies between is lost.
    #[error("{message}")]
    Gap {
        /// What is missing.
        message: String,
        /// What can be done.
        hint: String,
    },
    /// Something that may pass.
    #[error("{message}")]
    Transient {
        /// What happened.
        message: String,
        /// What may help.
        hint: Option<String>,
    },
    /// The network failed.
    #[error("could not {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The server answered with an error.
    #[error("could not {doing}: {message} (SQLSTATE {sqlstate})")]
    Server {
        /// What was being done.
        doing: String,
        /// The server's message.
        message: String,
        /// The server's SQLSTATE.
        sqlstate: String,
        /// The server's hint or detail.
        hint: Option<String>,
    },
    /// The server sent what the protocol does not allow.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// A row cannot be carried.
    #[error("table {table}")]
    Row {
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: hutong_schemas::Error,
    },
    /// The platform could not do what the source needs.
    #[error("{doing}")]
    Host {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: HostError,
    },
    /// The stored position is not one of ours.
    #[error("the stored position cannot be read: {0}")]
    Position(String),
    /// An invariant of ours is broken.
    #[error("{0}")]
    Fatal(String),
}

impl Error {
    pub(crate) fn definite(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Definite {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    pub(crate) fn transient(message: impl Into<String>) -> Self {
        Self::Transient {
            message: message.into(),
            hint: None,
        }
    }

    /// Returns the server's SQLSTATE, if the server answered with an error.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Definite { .. } | Self::Gap { .. } | Self::Position(_) => Class::Definite,
            Self::Transient { .. } | Self::Io { .. } | Self::Protocol(_) => Class::Transient,
            Self::Server { sqlstate, .. } => class_of_sqlstate(sqlstate),
            Self::Row { source, .. } => source.class(),
            Self::Host { source, .. } => source.class(),
            Self::Fatal(_) => Class::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Definite { hint, .. }
            | Self::Transient { hint, .. }
            | Self::Server { hint, .. } => hint.clone(),
            Self::Gap { hint, .. } => Some(hint.clone()),
            Self::Row { source, .. } => source.hint(),
            Self::Host { source, .. } => source.hint(),
            Self::Io { .. } | Self::Protocol(_) | Self::Position(_) | Self::Fatal(_) => None,
        }
    }
}

/// What a server's answer means for whoever asked: wrong credentials, wrong names and missing rights
/// stay wrong until a person acts; everything else may pass, and a wrong retry is cheap.
fn class_of_sqlstate(sqlstate: &str) -> Class {
    match sqlstate.get(..2) {
        // Invalid authorization, no such database, syntax error or access rule violation, feature
        // not supported.
        Some("28" | "3D" | "42" | "0A") => Class::Definite,
        _ => Class::Transient,
    }
}
