//! What stops all views of a partition. What stops one view alone is in its position instead.

use hutong_schemas::class::{Class, Classified};

/// An error of a processor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error("could not {operation} the state store")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record of the input cannot be read.
    #[error("the record at offset {offset} cannot be read")]
    Input {
        /// The record's offset.
        offset: i64,
        /// Why not.
        #[source]
        source: hutong_schemas::Error,
    },
    /// A record of the input is none that a table with a key can have.
    #[error("the record at offset {offset} {problem}")]
    Unexpected {
        /// The record's offset.
        offset: i64,
        /// What is the matter.
        problem: &'static str,
    },
    /// A schema of the input cannot be used.
    #[error("schema {id} of the input cannot be used")]
    Schema {
        /// The schema's id.
        id: hutong_schemas::position::SchemaId,
        /// Why not.
        #[source]
        source: hutong_schemas::Error,
    },
    /// The stored state was written by a newer release.
    #[error("{what} has v={found}, but this release reads up to v={supported}")]
    TooNew {
        /// Which record or file.
        what: String,
        /// Its version.
        found: u64,
        /// The newest known version.
        supported: u64,
    },
    /// A committed position is not what it should be.
    #[error("{what} cannot be read")]
    Malformed {
        /// Which record or file.
        what: String,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            // A disk that is full or slow may heal; a store that is broken is removed and rebuilt.
            Self::Store { .. } => Class::Transient,
            Self::Input { source, .. } | Self::Schema { source, .. } => source.class(),
            Self::Unexpected { .. } | Self::TooNew { .. } | Self::Malformed { .. } => {
                Class::Definite
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooNew { .. } => Some("upgrade this worker".to_owned()),
            Self::Unexpected { .. } => Some(
                "only the platform's own source connectors may write to a table's topic".to_owned(),
            ),
            Self::Store { .. }
            | Self::Input { .. }
            | Self::Schema { .. }
            | Self::Malformed { .. } => None,
        }
    }
}
