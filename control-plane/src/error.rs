//! What can go wrong, once for all three APIs. How an API puts it is said in `routes::answer`.

use std::net::SocketAddr;
use std::path::PathBuf;

use hutong_schemas::class::{Class, Classified};

/// An error of the control plane.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked is wrong in itself.
    #[error("{message}")]
    Invalid {
        /// What is wrong, all of it.
        message: String,
        /// The same, by field, where fields are known.
        mistakes: Vec<Mistake>,
    },
    /// No token, or one that is not known.
    #[error("{message}")]
    Unauthenticated {
        /// What was wrong with it.
        message: &'static str,
    },
    /// The token's role or owner does not allow this.
    #[error("{message}")]
    Forbidden {
        /// What is needed.
        message: String,
    },
    /// It does not exist, as far as the caller may know.
    #[error("{message}")]
    NotFound {
        /// What does not exist.
        message: String,
    },
    /// It collides with what is there.
    #[error("{message}")]
    Conflict {
        /// With what.
        message: String,
    },
    /// A refusal of the schema registry, under Confluent's code.
    #[error("{message}")]
    Registry {
        /// The code; its first three digits are the HTTP status.
        code: u32,
        /// Confluent's words.
        message: String,
    },
    /// It cannot be answered now.
    #[error("{message}")]
    Unavailable {
        /// Why not.
        message: String,
    },
    /// The store failed.
    #[error("could not use the control plane's database")]
    Store(#[from] sqlx::Error),
    /// The store could not be brought to this release's form.
    #[error("could not migrate the control plane's database")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Kafka failed.
    #[error("could not use Kafka")]
    Kafka(#[from] hutong_transport::Error),
    /// An address could not be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The administrator's token could not be read or written.
    #[error("could not use the file of the administrator's token {}", path.display())]
    AdminToken {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A stored object is not what this release writes.
    #[error("{what} in the control plane's database cannot be read")]
    Stored {
        /// Which object.
        what: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Mistake {
    /// The field or property.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Mistake {
    /// Returns a mistake.
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl Error {
    /// Returns an error about one field.
    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        Self::fields(vec![Mistake::new(field, message)])
    }

    /// Returns an error about fields, all mistakes together.
    pub(crate) fn fields(mistakes: Vec<Mistake>) -> Self {
        let texts: Vec<_> = mistakes.iter().map(Mistake::to_string).collect();
        Self::Invalid {
            message: texts.join("; "),
            mistakes,
        }
    }

    /// Returns an error about a whole request.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid {
            message: message.into(),
            mistakes: Vec::new(),
        }
    }

    /// Returns "it does not exist".
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::NotFound {
            message: message.into(),
        }
    }

    /// Returns "it collides".
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::Conflict {
            message: message.into(),
        }
    }

    /// Returns "not allowed".
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::Forbidden {
            message: message.into(),
        }
    }

    /// Returns "not now".
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
        }
    }

    /// Returns the error with its causes, for logs and for answers about Kafka.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }
}

/// Joins an error and its causes, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Invalid { .. }
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Registry { .. }
            | Self::Listen { .. }
            | Self::AdminToken { .. } => Class::Definite,
            Self::Unavailable { .. } => Class::Transient,
            Self::Store(error) => store_class(error),
            Self::Migrate(sqlx::migrate::MigrateError::Execute(error)) => store_class(error),
            Self::Migrate(_) => Class::Definite,
            Self::Kafka(error) => error.class(),
            Self::Stored { .. } => Class::Fatal,
        }
    }
}

/// Returns the class of a store's error: by SQLSTATE where the server answered, transient where it
/// did not.
fn store_class(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(error) => match error.code().as_deref().and_then(|c| c.get(..2)) {
            Some("08" | "40" | "53" | "55" | "57") => Class::Transient,
            _ => Class::Definite,
        },
        sqlx::Error::Configuration(_) => Class::Definite,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) => Class::Fatal,
        _ => Class::Transient,
    }
}
