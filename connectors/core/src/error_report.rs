//! An error as a status shows it.

use hutong_schemas::class::{Class, Classified};
use serde::{Deserialize, Serialize};

/// What went wrong, of which class, and what a person can do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The class.
    pub class: Class,
    /// The message with all its causes, outermost first, joined by ": ".
    pub message: String,
    /// What a person can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ErrorReport {
    /// Reports an error with its whole chain of causes.
    #[must_use]
    pub fn new(error: &(impl Classified + ?Sized)) -> Self {
        Self {
            class: error.class(),
            message: chain(error),
            hint: error.hint(),
        }
    }
}

/// Joins an error and its causes. A cause whose text the message before it already ends with (some
/// libraries repeat their source) is left out.
fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}
