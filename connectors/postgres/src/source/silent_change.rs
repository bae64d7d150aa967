//! Changes of tables that no event tells of.
//!
//! A Relation message comes with a change of a row. A table that is dropped sends none, and one whose
//! rows were written anew with other values may send none for days, while its topic says something
//! else. So the catalogue is looked at from time to time: one query, for all tables.
//!
//! The catalogue is ahead of the stream. What it says is noted with the end of the log, and judged
//! when the stream has come that far: the events up to there are written as before.

use std::collections::BTreeMap;
use std::time::Duration;

use hutong_schemas::position::Lsn;
use tokio::time::{Instant, timeout};

use super::catalogue::{self, Row, STORAGE, Wanted};
use super::chunk::END_OF_LOG;
use super::error::Error;
use super::position::KnownTable;
use super::relation_change;
use super::streaming::Streaming;

/// How often the catalogue is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// What was seen and is not judged yet.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    looked_at: Option<Instant>,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The end of the log before the look.
    end: Lsn,
    /// What stops a table, if it is still known as it was then.
    changes: Vec<(u32, KnownTable, String)>,
}

impl Streaming {
    /// Stops tables that have changed without an event.
    pub(crate) async fn look_for_silent_changes(&mut self) -> Result<(), Error> {
        self.judge_what_was_seen()?;
        let is_time = self
            .watch
            .looked_at
            .is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        if self.watch.seen.is_some() || !is_time {
            return Ok(());
        }
        self.watch.looked_at = Some(Instant::now());
        let followed: BTreeMap<u32, KnownTable> = self
            .changes
            .states
            .iter()
            .filter(|(_, state)| state.failed.is_none() && state.reading.is_none())
            .map(|(oid, state)| (oid, state.known.clone()))
            .collect();
        if followed.is_empty() {
            return Ok(());
        }
        match timeout(LOOK_TIMEOUT, look(&mut self.side, &followed)).await {
            Ok(Ok(seen)) => self.watch.seen = seen,
            // The next look comes; a lost server is noticed by the stream.
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look for changes of tables");
                self.side.discard();
            }
            Err(_) => self.side.discard(),
        }
        Ok(())
    }

    fn judge_what_was_seen(&mut self) -> Result<(), Error> {
        let passed = self.changes.position().lsn;
        let is_due = |seen: &mut Seen| seen.end <= passed;
        let Some(seen) = self.watch.seen.take_if(is_due) else {
            return Ok(());
        };
        for (oid, known, what) in seen.changes {
            // A Relation message that came in between has been judged by itself.
            if self.changes.states.known(oid) == Some(&known) {
                self.fail_table(oid, &relation_change::changed(&known.name, &what))?;
            }
        }
        Ok(())
    }
}

/// Returns what would stop tables; nothing, if all is as it is known.
async fn look(
    side: &mut super::side::Side,
    followed: &BTreeMap<u32, KnownTable>,
) -> Result<Option<Seen>, Error> {
    const DOING: &str = "look for changes of tables";
    let client = side.client().await?;
    let rows = client.query(DOING, &format!("SELECT {END_OF_LOG}")).await?;
    let end = Row(rows.into_iter().next().unwrap_or_default()).parse(0)?;
    let oids: Vec<String> = followed.keys().map(u32::to_string).collect();
    let rows = client
        .query(
            DOING,
            &format!(
                "SELECT c.oid, {STORAGE} FROM pg_catalog.pg_class c WHERE c.oid IN ({})",
                oids.join(", ")
            ),
        )
        .await?;
    let mut there: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for row in rows {
        let row = Row(row);
        there.insert(row.parse(0)?, row.optional(1).map(str::to_owned));
    }
    let mut changes = Vec::new();
    for (oid, known) in followed {
        let what = match there.get(oid) {
            None => Some("it was dropped".to_owned()),
            Some(storage) if *storage == known.storage => None,
            // TRUNCATE and VACUUM FULL change the files as well.
            Some(_) => {
                let tables = catalogue::fetch_tables(client, Wanted::Oid(*oid)).await?;
                let table = tables.first();
                table.and_then(|table| relation_change::written_anew(known, table))
            }
        };
        changes.extend(what.map(|what| (*oid, known.clone(), what)));
    }
    Ok((!changes.is_empty()).then_some(Seen { end, changes }))
}
