//! The four classes of errors, which every library error maps itself to.
//!
//! The class says what kind of thing went wrong; what is done about it is decided in one table, in
//! the worker, and nowhere else.

use serde::{Deserialize, Serialize};

/// What an error means for whoever runs the work that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Asking again gives the same answer: data or configuration is wrong and a person must act.
    Definite,
    /// The world may heal: try again, with backoff, without an attempt limit, visibly.
    Transient,
    /// A newer owner has this work: stop at once and write nothing more.
    Fenced,
    /// Our own invariant is broken: abort the attempt, keep the evidence, never skip ahead.
    Fatal,
}

impl Class {
    /// Returns the class's name as metrics label and in status documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Definite => "definite",
            Self::Transient => "transient",
            Self::Fenced => "fenced",
            Self::Fatal => "fatal",
        }
    }
}

/// An error that knows its class and, where there is one, what a person can do about it.
pub trait Classified: std::error::Error {
    /// Returns the class of this error.
    fn class(&self) -> Class;

    /// Returns what a person can do, such as the exact SQL for the owner of the database.
    fn hint(&self) -> Option<String> {
        None
    }
}
