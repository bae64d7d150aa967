//! Records that the table refused, and that no later record has made up for.
//!
//! Where the user tolerates errors, a record that the table refuses is put aside: its bytes go to a
//! topic, and a row of `hutong_dead_letter` says, in the transaction that passes it by, which record
//! it was. The row is closed by the next record of its key that is written, so the open ones are what
//! the table lacks. To try one again is therefore never to go back in time.
//!
//! Positions that are forgotten take their letters with them: everything is read again.

use hutong_schemas::class::{Class, Classified};
use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::changes::Changes;
use super::error::Error;
use super::holding;
use super::position::failed;
use super::statement::execute;
use super::target::quote;
use super::writer::Writer;

/// A record that the table lacks.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The partition of the input.
    pub partition: i32,
    /// The record's offset.
    pub offset: i64,
    /// Its key behind the schema id, by which a later record of the same row is known.
    pub key: Vec<u8>,
}

/// A key is a value of a row and must not reach a log.
impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter")
            .field("partition", &self.partition)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// What a batch does to dead letters.
#[derive(Debug, Default)]
pub(super) struct Letters {
    opened: Vec<DeadLetter>,
    closed: Vec<(i32, i64)>,
    replayed: Option<String>,
}

/// Returns the table of dead letters that belongs to a target, quoted.
pub(super) fn table(target: &TableId) -> String {
    format!("{}.hutong_dead_letter", quote(&target.schema))
}

/// Returns the statement that makes the table. Runs under the lock of `position::ensure`.
pub(super) fn create(target: &TableId) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (
            target text NOT NULL,
            partition integer NOT NULL,
            record_offset bigint NOT NULL,
            record_key bytea NOT NULL,
            put_aside_at timestamp with time zone NOT NULL DEFAULT now(),
            v integer NOT NULL DEFAULT 1,
            PRIMARY KEY (target, partition, record_offset)
         )",
        table(target)
    )
}

/// Returns the open letters of a target, in the order of their offsets.
pub(super) async fn open(client: &Client, target: &TableId) -> Result<Vec<DeadLetter>, Error> {
    let sql = format!(
        "SELECT partition, record_offset, record_key FROM {} WHERE target = $1
         ORDER BY partition, record_offset",
        table(target)
    );
    let rows = client.query(&sql, &[&target.to_string()]).await;
    let rows = rows.map_err(failed(target, "look up the dead letters of"))?;
    Ok(rows
        .iter()
        .map(|row| DeadLetter {
            partition: row.get(0),
            offset: row.get(1),
            key: row.get(2),
        })
        .collect())
}

impl Changes {
    /// Says that a record is put aside.
    pub fn put_aside(&mut self, letter: DeadLetter) {
        self.letters.opened.push(letter);
    }

    /// Says that a letter has been made up for, or is void.
    pub fn close_letter(&mut self, partition: i32, offset: i64) {
        self.letters.closed.push((partition, offset));
    }

    /// Says under which word dead letters have been tried again with this.
    pub fn replayed(&mut self, word: &str) {
        self.letters.replayed = Some(word.to_owned());
    }
}

impl Writer {
    /// Returns the open letters, in the order of their partitions and offsets.
    #[must_use]
    pub fn letters(&self) -> &[DeadLetter] {
        &self.letters
    }

    /// Returns under which word dead letters were last tried again.
    #[must_use]
    pub fn replayed_under(&self) -> &str {
        &self.replayed
    }

    /// Ends the transaction that an error about rows has left. Only after such an error may the writer
    /// be used again.
    ///
    /// # Errors
    ///
    /// Transient, when the session is lost.
    pub async fn rollback(&self) -> Result<(), Error> {
        execute(
            &self.session.client,
            self.target.table(),
            "leave a batch of",
            "ROLLBACK",
        )
        .await
    }

    /// Finds out whether the table takes changes, without a change that lasts.
    ///
    /// # Errors
    ///
    /// What [`apply`](Self::apply) would fail with.
    pub async fn probe(&self, changes: &Changes) -> Result<(), Error> {
        let client = &self.session.client;
        let table = self.target.table();
        execute(client, table, "begin a transaction on", "BEGIN").await?;
        holding::hold(client, table, self.epoch).await?;
        let outcome = async {
            self.write_rows(changes).await?;
            execute(client, table, "write", "SET CONSTRAINTS ALL IMMEDIATE").await
        }
        .await;
        self.rollback().await?;
        outcome
    }

    /// Writes what a batch does to dead letters, in its transaction.
    pub(super) async fn write_letters(&self, letters: &Letters) -> Result<(), Error> {
        let client = &self.session.client;
        let target = self.target.table();
        let name = target.to_string();
        if !letters.opened.is_empty() {
            let partitions: Vec<i32> = letters.opened.iter().map(|l| l.partition).collect();
            let offsets: Vec<i64> = letters.opened.iter().map(|l| l.offset).collect();
            let keys: Vec<&[u8]> = letters.opened.iter().map(|l| l.key.as_slice()).collect();
            let sql = format!(
                "INSERT INTO {} (target, partition, record_offset, record_key)
                 SELECT $1, u.* FROM unnest($2::integer[], $3::bigint[], $4::bytea[]) AS u
                 ON CONFLICT DO NOTHING",
                table(target)
            );
            let put = client
                .execute(&sql, &[&name, &partitions, &offsets, &keys])
                .await;
            put.map_err(failed(target, "put a record aside of"))?;
        }
        if !letters.closed.is_empty() {
            let (partitions, offsets): (Vec<i32>, Vec<i64>) =
                letters.closed.iter().copied().unzip();
            let sql = format!(
                "DELETE FROM {} AS l USING unnest($2::integer[], $3::bigint[]) AS u(p, o)
                 WHERE l.target = $1 AND l.partition = u.p AND l.record_offset = u.o",
                table(target)
            );
            let closed = client.execute(&sql, &[&name, &partitions, &offsets]).await;
            closed.map_err(failed(target, "close a dead letter of"))?;
        }
        if let Some(word) = &letters.replayed {
            let sql = format!(
                "UPDATE {} SET replayed = $2 WHERE target = $1",
                holding::table(target)
            );
            let noted = client.execute(&sql, &[&name, word]).await;
            noted.map_err(failed(target, "replay the dead letters of"))?;
        }
        Ok(())
    }

    /// Takes up what a committed batch did to dead letters.
    pub(super) fn take_letters(&mut self, letters: &Letters) {
        self.letters
            .retain(|open| !letters.closed.contains(&(open.partition, open.offset)));
        for opened in &letters.opened {
            if !self.letters.contains(opened) {
                self.letters.push(opened.clone());
            }
        }
        if let Some(word) = &letters.replayed {
            self.replayed.clone_from(word);
        }
    }
}

impl Error {
    /// Returns whether the rows are what is wrong, and others may be taken: a value that does not
    /// fit, a constraint that is violated.
    #[must_use]
    pub fn is_about_rows(&self) -> bool {
        match self {
            Self::Value { .. } => true,
            Self::Table { source, .. } => {
                let class = source.code().and_then(|code| code.get(..2));
                self.class() == Class::Definite && matches!(class, Some("22" | "23" | "44"))
            }
            _ => false,
        }
    }
}
