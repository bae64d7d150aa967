//! What can be wrong with a document, and with applying one.

use hutong_schemas::class::{Class, Classified};

/// One mistake in a document, for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct DocumentError {
    /// Where: a path into the document such as `columns[2].mask` or `where`.
    pub field: String,
    /// What, in the words of a sentence without full stop.
    pub message: String,
}

impl DocumentError {
    /// Makes an error.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Why a view cannot be applied to rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The task's document does not fit the task's table.
    #[error("view {view} cannot be compiled: {errors}")]
    Document {
        /// The view.
        view: String,
        /// All mistakes, separated by semicolons.
        errors: String,
    },
    /// The rows that arrive lack a column that the view needs, or have it in another type.
    #[error("view {view} cannot be applied: column \"{column}\" {problem}")]
    Column {
        /// The view.
        view: String,
        /// The column.
        column: String,
        /// What is the matter with it.
        problem: String,
    },
    /// The view hides a key or hashes a column and the worker has no secret for that, or another.
    #[error("view {view} cannot be applied: {problem}")]
    Secret {
        /// The view.
        view: String,
        /// What is the matter.
        problem: String,
    },
    /// A row could not be encoded.
    #[error("view {view}: could not encode a row")]
    Encode {
        /// The view.
        view: String,
        /// Why.
        #[source]
        source: hutong_schemas::Error,
    },
    /// A key lacks a value. Keys are NOT NULL and never left out, so this is a broken invariant.
    #[error("view {view}: a row has no value in key column \"{column}\"")]
    Key {
        /// The view.
        view: String,
        /// The column.
        column: String,
    },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Document { .. } | Self::Column { .. } | Self::Secret { .. } => Class::Definite,
            Self::Encode { source, .. } => source.class(),
            Self::Key { .. } => Class::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Column { column, .. } => Some(format!(
                "save the view again without column \"{column}\", or restore the column at the source"
            )),
            Self::Secret { .. } => Some(
                "set master_secret in the worker's configuration to the secret that the view was made with"
                    .to_owned(),
            ),
            Self::Document { .. } | Self::Encode { .. } | Self::Key { .. } => None,
        }
    }
}
