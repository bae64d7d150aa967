//! Which offset a table has reached, and who may move it on.
//!
//! One row of `hutong_position` per table and partition, in the table's own schema, so that two
//! sinks that write one table meet in one row wherever else they were configured to look. The row
//! moves in the transaction that changes the table, and only under the epoch of its owner.
//!
//! An owner is made by [`Plan`]: a pure function from what is stored and what is wanted to where
//! each partition goes on.

use hutong_schemas::table::TableId;
use tokio_postgres::Client;

use super::error::{DatabaseError, Error};
use super::target::quote;

/// An input as it exists in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The physical topic.
    pub topic: String,
    /// What tells it from another topic of the same name.
    pub topic_id: String,
    /// The end of each partition, by which a rebuild ends; their number is the topic's.
    pub end_offsets: Vec<i64>,
}

/// Where a partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    /// At the first record that the partition still has.
    Earliest,
    /// At this offset: the next one to be read.
    At(i64),
}

/// A stored position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) topic: String,
    pub(super) topic_id: String,
    pub(super) partition: i32,
    pub(super) next_offset: i64,
    /// Time up to which the partition was read, in milliseconds since 1970.
    pub(super) read_up_to_ms: i64,
}

/// What an assignment does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The table is ours and is empty: everything is read.
    Fresh,
    /// The table goes on where it was; a partition that is not listed begins.
    Continue(Vec<(i32, i64)>),
    /// The table's rows may include some whose deletion can no longer be read: everything is read
    /// again, and in the end what was not read is deleted.
    Rebuild,
}

/// Why an input may not take a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotEmpty,
    Taken(String),
}

/// What is known about the table when it is assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Missing,
    Empty,
    WithRows,
}

/// A tombstone lives for `delete.retention.ms`, 24 h; whoever is further behind than half of it may
/// have missed one.
pub(super) const BEHIND_MAX_MS: i64 = 12 * 3600 * 1000;

/// Decides where an input goes on. `is_rebuilding` says since when a rebuild is going on.
pub(super) fn plan(
    input: &Input,
    stored: &[Stored],
    found: Found,
    rebuilding_since_ms: Option<i64>,
    now_ms: i64,
) -> Result<Plan, Refusal> {
    if stored.is_empty() {
        return match found {
            Found::Missing | Found::Empty => Ok(Plan::Fresh),
            Found::WithRows => Err(Refusal::NotEmpty),
        };
    }
    if let Some(other) = stored
        .iter()
        .find(|s| !is_same_input(&s.topic, &input.topic))
    {
        return Err(Refusal::Taken(other.topic.clone()));
    }
    let is_other_topic = stored
        .iter()
        .any(|s| s.topic != input.topic || s.topic_id != input.topic_id);
    let is_behind = |since: i64| now_ms.saturating_sub(since) > BEHIND_MAX_MS;
    // A rebuild renews the marks of all rows, so its own age counts, not that of the positions.
    let is_too_old = match rebuilding_since_ms {
        Some(since) => is_behind(since),
        None => stored.iter().any(|s| is_behind(s.read_up_to_ms)),
    };
    if found == Found::Missing || is_other_topic || is_too_old {
        return Ok(Plan::Rebuild);
    }
    Ok(Plan::Continue(
        stored
            .iter()
            .map(|s| (s.partition, s.next_offset))
            .collect(),
    ))
}

/// Returns whether two topics are generations of one view, or the same topic.
pub(super) fn is_same_input(one: &str, other: &str) -> bool {
    alias(one) == alias(other)
}

/// A view's topic without its generation.
fn alias(topic: &str) -> &str {
    match topic.rsplit_once(".g") {
        Some((alias, generation))
            if !generation.is_empty() && generation.bytes().all(|b| b.is_ascii_digit()) =>
        {
            alias
        }
        _ => topic,
    }
}

/// Returns the position table that belongs to a target, quoted.
pub(super) fn table(target: &TableId) -> String {
    format!("{}.hutong_position", quote(&target.schema))
}

/// Returns the table of rebuilds that belongs to a target, quoted.
pub(super) fn rebuild_table(target: &TableId) -> String {
    format!("{}.hutong_rebuild", quote(&target.schema))
}

/// Returns the table of the keys that a rebuild has seen, quoted.
pub(super) fn seen_table(target: &TableId) -> String {
    // An identifier has at most 63 bytes; the hash keeps long names apart.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in target.table.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{}.hutong_seen_{hash:016x}", quote(&target.schema))
}

/// Creates the tables of positions and rebuilds. Runs in the caller's transaction.
pub(super) async fn ensure(client: &Client, target: &TableId) -> Result<(), Error> {
    // `IF NOT EXISTS` alone lets two sessions collide in the catalogue.
    let sql = format!(
        "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('hutong_position', 0));
         CREATE TABLE IF NOT EXISTS {positions} (
            target text NOT NULL,
            topic text NOT NULL,
            topic_id text NOT NULL,
            partition integer NOT NULL,
            next_offset bigint NOT NULL,
            epoch bigint NOT NULL,
            backend_pid integer NOT NULL,
            backend_start timestamp with time zone NOT NULL,
            read_up_to timestamp with time zone NOT NULL,
            v integer NOT NULL DEFAULT 1,
            PRIMARY KEY (target, topic, partition)
         );
         CREATE TABLE IF NOT EXISTS {rebuilds} (
            target text NOT NULL,
            partition integer NOT NULL,
            end_offset bigint NOT NULL,
            started_at timestamp with time zone NOT NULL,
            v integer NOT NULL DEFAULT 1,
            PRIMARY KEY (target, partition)
         )",
        positions = table(target),
        rebuilds = rebuild_table(target),
    );
    client
        .batch_execute(&sql)
        .await
        .map_err(failed(target, "create the positions of"))
}

/// Returns whether the position table exists.
pub(super) async fn exists(client: &Client, target: &TableId) -> Result<bool, Error> {
    let row = client
        .query_one(
            "SELECT pg_catalog.to_regclass($1) IS NOT NULL",
            &[&table(target)],
        )
        .await
        .map_err(failed(target, "look up the positions of"))?;
    Ok(row.get(0))
}

/// Returns the stored positions of a target.
pub(super) async fn stored(client: &Client, target: &TableId) -> Result<Vec<Stored>, Error> {
    let sql = format!(
        "SELECT topic, topic_id, partition, next_offset,
                (extract(epoch FROM read_up_to) * 1000)::bigint
         FROM {} WHERE target = $1 ORDER BY partition FOR UPDATE",
        table(target)
    );
    let rows = client
        .query(&sql, &[&target.to_string()])
        .await
        .map_err(failed(target, "read the positions of"))?;
    Ok(rows
        .iter()
        .map(|row| Stored {
            topic: row.get(0),
            topic_id: row.get(1),
            partition: row.get(2),
            next_offset: row.get(3),
            read_up_to_ms: row.get(4),
        })
        .collect())
}

/// Ends the sessions of former owners and waits until they are gone: only then it is certain that
/// none of their transactions is still to be committed, and their locks are free.
pub(super) async fn terminate_predecessors(client: &Client, target: &TableId) -> Result<(), Error> {
    const ATTEMPTS: u32 = 100;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
    let sql = format!(
        "SELECT DISTINCT a.pid, pg_catalog.pg_terminate_backend(a.pid)
         FROM {} p JOIN pg_catalog.pg_stat_activity a
           ON a.pid = p.backend_pid AND a.backend_start = p.backend_start
         WHERE p.target = $1 AND a.pid <> pg_catalog.pg_backend_pid()",
        table(target)
    );
    let mut last = 0;
    for _ in 0..ATTEMPTS {
        let rows = client
            .query(&sql, &[&target.to_string()])
            .await
            .map_err(failed(target, "end the former session of"))?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        last = row.get(0);
        tokio::time::sleep(PAUSE).await;
    }
    Err(Error::Predecessor {
        table: target.clone(),
        backend_pid: last,
    })
}

pub(super) fn failed(
    target: &TableId,
    doing: &'static str,
) -> impl FnOnce(tokio_postgres::Error) -> Error {
    let table = target.clone();
    move |error| Error::Table {
        doing,
        table,
        source: DatabaseError::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn input() -> Input {
        Input {
            topic: "hutong.view.v.g2".to_owned(),
            topic_id: "id".to_owned(),
            end_offsets: vec![100, 100],
        }
    }

    fn stored(topic: &str, topic_id: &str, partition: i32) -> Stored {
        Stored {
            topic: topic.to_owned(),
            topic_id: topic_id.to_owned(),
            partition,
            next_offset: 40,
            read_up_to_ms: NOW - 1000,
        }
    }

    fn decide(stored: &[Stored], found: Found, rebuilding: Option<i64>) -> Result<Plan, Refusal> {
        plan(&input(), stored, found, rebuilding, NOW)
    }

    #[test]
    fn an_unknown_table_is_taken_only_if_it_is_empty() {
        assert_eq!(decide(&[], Found::Missing, None), Ok(Plan::Fresh));
        assert_eq!(decide(&[], Found::Empty, None), Ok(Plan::Fresh));
        assert_eq!(decide(&[], Found::WithRows, None), Err(Refusal::NotEmpty));
    }

    #[test]
    fn a_known_table_goes_on_where_it_was() {
        let rows = [stored("hutong.view.v.g2", "id", 0)];
        assert_eq!(
            decide(&rows, Found::WithRows, None),
            Ok(Plan::Continue(vec![(0, 40)]))
        );
    }

    #[test]
    fn another_generation_a_new_topic_and_a_dropped_table_are_read_anew() {
        let other_generation = [stored("hutong.view.v.g1", "id", 0)];
        let other_id = [stored("hutong.view.v.g2", "other", 0)];
        let same = [stored("hutong.view.v.g2", "id", 0)];
        assert_eq!(
            decide(&other_generation, Found::WithRows, None),
            Ok(Plan::Rebuild)
        );
        assert_eq!(decide(&other_id, Found::WithRows, None), Ok(Plan::Rebuild));
        assert_eq!(decide(&same, Found::Missing, None), Ok(Plan::Rebuild));
    }

    #[test]
    fn a_table_of_another_input_is_refused() {
        let rows = [stored("hutong.view.w.g2", "id", 0)];
        assert_eq!(
            decide(&rows, Found::Empty, None),
            Err(Refusal::Taken("hutong.view.w.g2".to_owned()))
        );
    }

    #[test]
    fn a_reader_that_may_have_missed_a_tombstone_reads_everything_again() {
        let mut rows = [
            stored("hutong.view.v.g2", "id", 0),
            stored("hutong.view.v.g2", "id", 1),
        ];
        rows[1].read_up_to_ms = NOW - BEHIND_MAX_MS - 1;
        assert_eq!(decide(&rows, Found::WithRows, None), Ok(Plan::Rebuild));
        let going_on = Some(NOW - 1000);
        assert!(matches!(
            decide(&rows, Found::WithRows, going_on),
            Ok(Plan::Continue(_))
        ));
        let too_long = Some(NOW - BEHIND_MAX_MS - 1);
        assert_eq!(decide(&rows, Found::WithRows, too_long), Ok(Plan::Rebuild));
    }

    #[test]
    fn generations_have_one_alias_and_other_names_are_left_alone() {
        assert_eq!(alias("hutong.view.v.g12"), "hutong.view.v");
        assert_eq!(alias("rk.public.g"), "rk.public.g");
        assert_eq!(alias("rk.public.garden"), "rk.public.garden");
        assert_eq!(alias("plain"), "plain");
    }
}
