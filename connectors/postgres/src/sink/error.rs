//! What can go wrong at a subscriber's database, and of which class it is.

use hutong_schemas::class::{Class, Classified};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableId;
use tokio_postgres::error::SqlState;

use super::binary::Misfit;

/// An error of the sink.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection could not be made.
    #[error("could not connect to {place} as {user}")]
    Connect {
        /// `host:port/database`.
        place: String,
        /// The user.
        user: String,
        /// Why.
        #[source]
        source: DatabaseError,
    },
    /// The certificates or keys of the configuration cannot be used.
    #[error("cannot encrypt the connection: {reason}")]
    Tls {
        /// What is wrong with them.
        reason: String,
    },
    /// The password would go to a server that may be anybody.
    #[error(
        "the server at {place} asks for the password in clear text, and its certificate is not verified"
    )]
    ClearText {
        /// Host, port and database.
        place: String,
    },
    /// Something that concerns a table could not be done.
    #[error("could not {doing} table {table}")]
    Table {
        /// A verb.
        doing: &'static str,
        /// The target.
        table: TableId,
        /// Why.
        #[source]
        source: DatabaseError,
    },
    /// Whether a commit took place is not known: the position that is stored with the rows says it
    /// to whoever starts next.
    #[error("the answer to a commit into table {table} was lost")]
    CommitOutcomeUnknown {
        /// The target.
        table: TableId,
        /// What came instead of the answer.
        #[source]
        source: DatabaseError,
    },
    /// Another owner has taken the table's position over.
    #[error("table {table} has another owner since epoch {epoch}")]
    Fenced {
        /// The target.
        table: TableId,
        /// Ours.
        epoch: i64,
    },
    /// The table is not as it must be.
    #[error("table {table} cannot take the rows: {}", .differences.join("; "))]
    Incompatible {
        /// The target.
        table: TableId,
        /// Each with the column and the types.
        differences: Vec<String>,
        /// What a person can do about them.
        remedies: Vec<String>,
    },
    /// The table does not exist and may not be created.
    #[error("table {table} does not exist, and schema.evolution is none")]
    Missing {
        /// The target.
        table: TableId,
        /// The statement that would create it.
        create_table: String,
    },
    /// The table holds rows that did not come from here.
    #[error("table {table} holds rows already, of which the platform knows nothing")]
    NotEmpty {
        /// The target.
        table: TableId,
    },
    /// Another input is delivered into the table.
    #[error("table {table} is already the target of {topic}")]
    Taken {
        /// The target.
        table: TableId,
        /// The other input.
        topic: String,
    },
    /// The input has no key.
    #[error("table {table} cannot be kept equal to a topic whose records have no key")]
    NoKey {
        /// The target.
        table: TableId,
    },
    /// A value does not fit the type that its schema gives it.
    #[error("a value of column {column} of table {table} is no {sql_type}")]
    Value {
        /// The target.
        table: TableId,
        /// The column.
        column: String,
        /// Its type.
        sql_type: SqlType,
        /// Why.
        #[source]
        source: Misfit,
    },
    /// A former session could not be ended.
    #[error("could not end the former session of table {table}, backend {backend_pid}")]
    Predecessor {
        /// The target.
        table: TableId,
        /// Its process.
        backend_pid: i32,
    },
    /// A newer release has written what is known of the table.
    #[error(
        "what hutong_view says of table {table} has version {v}, but this release reads up to v1"
    )]
    Newer {
        /// The target.
        table: TableId,
        /// Its version.
        v: i32,
    },
    /// The stored position is beyond the one to be stored.
    #[error(
        "the position of table {table}, partition {partition}, would move back to {next_offset}"
    )]
    Backwards {
        /// The target.
        table: TableId,
        /// The partition.
        partition: i32,
        /// Where to.
        next_offset: i64,
    },
    /// A scripted fault of a test.
    #[error("scripted fault: {0}")]
    Scripted(&'static str),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Connect { source, .. } | Self::Table { source, .. } => source.class(),
            Self::CommitOutcomeUnknown { .. } | Self::Predecessor { .. } | Self::Scripted(_) => {
                Class::Transient
            }
            Self::Fenced { .. } => Class::Fenced,
            Self::Tls { .. }
            | Self::ClearText { .. }
            | Self::Incompatible { .. }
            | Self::Missing { .. }
            | Self::NotEmpty { .. }
            | Self::Taken { .. }
            | Self::NoKey { .. }
            | Self::Newer { .. }
            | Self::Value { .. } => Class::Definite,
            Self::Backwards { .. } => Class::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { source, user, .. } => source.hint_to(user),
            Self::Table { source, table, .. } => source.hint_about(table),
            Self::Incompatible { remedies, .. } => {
                let mut remedies = remedies.clone();
                remedies.push("or name another table by collection.name.format".to_owned());
                Some(remedies.join("; "))
            }
            Self::ClearText { .. } => Some(
                "use the method scram-sha-256 for this user in pg_hba.conf, or sslmode=verify-full"
                    .to_owned(),
            ),
            Self::Newer { .. } => Some("upgrade this process".to_owned()),
            Self::Missing { create_table, .. } => {
                Some(format!("{create_table}; or set schema.evolution to basic"))
            }
            Self::NotEmpty { table } => Some(format!(
                "TRUNCATE {}; or name another table by collection.name.format",
                super::target::qualified(table)
            )),
            Self::Taken { .. } => Some("name another table by collection.name.format".to_owned()),
            Self::Tls { .. }
            | Self::CommitOutcomeUnknown { .. }
            | Self::Fenced { .. }
            | Self::NoKey { .. }
            | Self::Value { .. }
            | Self::Predecessor { .. }
            | Self::Backwards { .. }
            | Self::Scripted(_) => None,
        }
    }
}

/// What the server or the way to it said. Holds the message only: details and context show rows.
#[derive(Debug)]
pub struct DatabaseError {
    message: String,
    state: Option<SqlState>,
    /// The server's certificate or its lack of TLS was refused, or its way to log in is unknown.
    is_refused_by_us: bool,
    /// The server is gone, or the way to it.
    is_lost: bool,
}

impl std::fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.state {
            Some(state) => write!(f, " (SQLSTATE {})", state.code()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DatabaseError {}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            return Self::from_client(&error);
        };
        let mut message = answer.message().to_owned();
        if let Some(constraint) = answer.constraint() {
            message.push_str(&format!(" [constraint {constraint}]"));
        }
        Self {
            message,
            state: Some(answer.code().clone()),
            is_refused_by_us: false,
            is_lost: false,
        }
    }
}

impl DatabaseError {
    fn from_client(error: &tokio_postgres::Error) -> Self {
        let mut message = error.to_string();
        let mut refused = None;
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            std::error::Error::source(error);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                refused = refused.or_else(|| crate::tls::refused_certificate(io));
            }
            cause = error.source();
        }
        let kind = error.to_string();
        let says = |text: &str| kind.starts_with(text);
        let is_refused_by_us = refused.is_some()
            || message.contains("server does not support TLS")
            || says("authentication error")
            || says("invalid configuration");
        Self {
            message: refused.unwrap_or(message),
            state: None,
            is_refused_by_us,
            is_lost: true,
        }
    }

    pub(super) fn text(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            state: None,
            is_refused_by_us: false,
            is_lost: true,
        }
    }

    /// Returns whether no answer came: what was asked for may have been done.
    pub(super) fn is_lost(&self) -> bool {
        let is_shutdown = self.state.as_ref().is_some_and(|state| {
            // 57P01 to 57P04: the server ends the session, 25P03: it was idle for too long.
            state.code().starts_with("57P") || state.code() == "25P03"
        });
        self.is_lost || is_shutdown
    }

    pub(super) fn code(&self) -> Option<&str> {
        self.state.as_ref().map(SqlState::code)
    }

    pub(super) fn class(&self) -> Class {
        match &self.state {
            Some(state) => class_of_sqlstate(state.code()),
            None if self.is_refused_by_us => Class::Definite,
            None => Class::Transient,
        }
    }

    fn hint_to(&self, user: &str) -> Option<String> {
        match self.code()? {
            "28P01" | "28000" => Some(format!(
                "check connection.username and connection.password, and the server's pg_hba.conf for {user}"
            )),
            "3D000" => Some("check the database in connection.url".to_owned()),
            _ => None,
        }
    }

    fn hint_about(&self, table: &TableId) -> Option<String> {
        match self.code()? {
            "53100" => Some("free space on the subscriber's server".to_owned()),
            "25006" => Some(
                "the subscriber's database is read-only: a standby, or default_transaction_read_only"
                    .to_owned(),
            ),
            "3F000" => Some(format!("CREATE SCHEMA {}", super::target::quote(&table.schema))),
            "42501" => Some(format!(
                "GRANT USAGE, CREATE ON SCHEMA {} TO the sink's user; GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO it, if the table is not its own",
                super::target::quote(&table.schema),
                super::target::qualified(table)
            )),
            _ => None,
        }
    }
}

/// The class of an error by its SQLSTATE (PostgreSQL manual, appendix A). Unknown ones are
/// transient: a wrong retry is cheap and visible, a wrong stop is an outage.
pub(super) fn class_of_sqlstate(code: &str) -> Class {
    let (class, _) = code.split_at_checked(2).unwrap_or((code, ""));
    match class {
        // Feature not supported, cardinality, data, integrity, authorization, no such database or
        // schema, syntax or access rule, WITH CHECK OPTION.
        "0A" | "21" | "22" | "23" | "28" | "3D" | "3F" | "42" | "44" => Class::Definite,
        // Connection, transaction state (a read-only database, 25006), rollback, resources (53100 is a
        // full disk), program limits, object state, operator intervention, system, internal.
        "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX" => Class::Transient,
        _ => Class::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlstate_has_the_class_that_its_meaning_asks_for() {
        for (code, class) in [
            ("53100", Class::Transient),
            ("25006", Class::Transient),
            ("40001", Class::Transient),
            ("57P01", Class::Transient),
            ("08006", Class::Transient),
            ("55P03", Class::Transient),
            ("XX000", Class::Transient),
            ("P0001", Class::Transient),
            ("42P01", Class::Definite),
            ("42501", Class::Definite),
            ("22001", Class::Definite),
            ("23505", Class::Definite),
            ("28P01", Class::Definite),
            ("3D000", Class::Definite),
            ("", Class::Transient),
        ] {
            assert_eq!(class_of_sqlstate(code), class, "{code}");
        }
    }
}
