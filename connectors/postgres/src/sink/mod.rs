//! Keeps tables of a subscriber equal to views, exactly once.
//!
//! ```text
//! records of a partition ──collapse per key──▶ Changes ──one transaction──▶ hutong_position, rows
//!                                                                              │
//! next record to read ◀──────────── assign ◀── stored position ◀──────────────┘
//! ```
//!
//! Kafka and the subscriber's database cannot commit together, so only the database commits: the
//! rows and the offset behind them are one transaction of it, and no offset is kept anywhere else.
//! Whoever starts asks the database where to go on. A batch is therefore in the table exactly once,
//! whatever dies, as long as no two writers interleave.
//!
//! *No two writers.* [`Sink::assign`] ends the session that the stored position names, waits until it
//! is gone, and raises the position's epoch. A [`Writer`] moves the position first in each of its
//! transactions, `WHERE epoch = mine`, and looks at the count before anything is committed. So of two
//! writers the older either was ended before it committed, in which case its transaction never
//! happened; or had committed before the epoch was raised, in which case the newer one read its
//! position; or finds no row, and stops.
//!
//! *A lost answer* to a commit is not an error but a question, and the stored position is the answer:
//! the attempt ends as [`Error::CommitOutcomeUnknown`], and the next one asks. It is not answered
//! within the attempt, by reconnecting at once, because a session may also have ended because a
//! newer owner ended it, and only the start of an attempt proves that the task is still ours.
//!
//! *A frozen worker* keeps its locks. The server ends a session that is silent within a transaction
//! after half the worker's group session timeout, before a successor is even chosen.
//!
//! *Absence.* Tombstones are kept for a day. A position says up to when it has read, and one that is
//! older than half a day, or belongs to another topic, leads to a mark and sweep (`rebuild`).
//!
//! *A new generation* first takes away what it must not show ([`Sink::withdraw`], `emptying`) and is
//! then written over the rows of the former one, which a mark and sweep removes in the end.
//!
//! What is not done: no column of ours stands in the subscriber's tables, and no table is swapped;
//! the subscriber's own views and grants hang on them.

mod assign;
mod binary;
mod catalogue;
mod changes;
mod dead_letters;
mod emptying;
mod error;
#[cfg(debug_assertions)]
pub mod faults;
mod holding;
mod offsets;
mod position;
mod rebuild;
mod session;
mod shape;
mod statement;
mod target;
mod validate;
mod writer;

pub use binary::Misfit;
pub use changes::Changes;
pub use dead_letters::DeadLetter;
pub use emptying::Withdrawn;
pub use error::{DatabaseError, Error};
use hutong_connectors_core::jdbc_sink::{Config, SchemaEvolution};
use hutong_connectors_core::secret::Secret;
use hutong_schemas::table::TableId;
pub use offsets::Change as OffsetChange;
pub use position::{BEHIND_MAX_MS, Input, StartOffset, Withdrawal};
use session::Session;
pub use session::SessionSettings;
pub use target::Target;
pub use validate::validate;
pub use writer::Writer;

#[cfg(not(debug_assertions))]
fn fences(_connector: &str) -> bool {
    true
}

#[cfg(debug_assertions)]
fn fences(connector: &str) -> bool {
    !faults::sabotages_fence(connector)
}

/// A session at the subscriber's database, which owns no table yet.
#[derive(Debug)]
pub struct Sink {
    session: Session,
    connector: String,
    evolution: SchemaEvolution,
}

impl Sink {
    /// Connects.
    ///
    /// # Errors
    ///
    /// By class: a wrong password or certificate is definite, an unreachable server transient.
    pub async fn open(
        config: &Config,
        password: Option<&Secret>,
        settings: SessionSettings,
    ) -> Result<Self, Error> {
        let application_name = format!("hutong sink {}", config.name);
        Ok(Self {
            session: Session::open(&config.connection, password, &application_name, settings)
                .await?,
            connector: config.name.clone(),
            evolution: config.schema_evolution,
        })
    }

    /// Takes a target over: ends its former owner, raises the epoch, creates or extends the table,
    /// and says where each partition of the input goes on.
    ///
    /// # Errors
    ///
    /// Definite when the table cannot take the rows, holds others, or belongs to another input;
    /// transient when the server or the former session cannot be reached.
    ///
    /// # Cancel safety
    ///
    /// May be dropped: the session ends with it, and what it had not committed never was.
    pub async fn assign(
        self,
        target: Target,
        input: &Input,
        now_ms: i64,
    ) -> Result<(Writer, Vec<StartOffset>), Error> {
        assign::assign(self, target, input, now_ms).await
    }

    /// Takes away what an earlier generation of the input left in the table and this one must not
    /// show, and finishes an emptying that was begun. It needs nothing but the task's word: neither
    /// the topic nor its schemas are looked at.
    ///
    /// # Errors
    ///
    /// By class of the server's answer.
    pub async fn withdraw(&self, table: &TableId, input: &Input) -> Result<Withdrawn, Error> {
        emptying::withdraw(self, table, input).await
    }

    /// Empties a table that belongs to an input and forgets its positions, so that no former owner
    /// can write it again. Returns the number of deleted rows; `None` if the table does not belong
    /// to the input, be it that it was emptied before.
    ///
    /// # Errors
    ///
    /// By class of the server's answer.
    pub async fn empty(&self, table: &TableId, name: &str) -> Result<Option<u64>, Error> {
        emptying::empty(self, table, name).await
    }
}
