//! Which offset a table has reached, and who may move it on.
//!
//! One row of `hutong_position` per table and partition, in the table's own schema, so that two
//! sinks that write one table meet in one row wherever else they were configured to look. The row
//! moves in the transaction that changes the table, and only under the epoch of its owner.
//!
//! An owner is made by [`Plan`]: a pure function from what is stored and what is wanted to where
//! each partition goes on.

use std::collections::BTreeMap;

use hutong_schemas::table::TableId;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::dead_letters;
use super::error::{DatabaseError, Error};
use super::holding::{self, Holding};
use super::target::quote;

/// An input as it exists in Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The input as its user names it: a view's topic without its generation. A table belongs to it
    /// whatever the topic is called at the time.
    pub name: String,
    /// The physical topic.
    pub topic: String,
    /// What tells it from another topic of the same name.
    pub topic_id: String,
    /// The end of each partition, by which a rebuild ends; their number is the topic's.
    pub end_offsets: Vec<i64>,
    /// The generation of a view; a table's topic has the same for ever.
    pub generation: u64,
    /// For each partition the offset behind the last record of the generation's first fill, as far as
    /// known; `None` for a topic that is not filled from elsewhere.
    pub fill_ends: Option<BTreeMap<i32, i64>>,
    /// What earlier generations showed and this one must not.
    pub withdrawal: Withdrawal,
}

/// What a new generation takes away from rows of earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    /// Columns whose values go at once.
    pub columns: Vec<String>,
    /// The key has changed: all rows go at once.
    pub is_rekeyed: bool,
    /// The lowest generation for whose rows the above says everything.
    pub since_generation: Option<u64>,
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
    Rebuild(Ends),
}

/// Where a rebuild ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Where the partitions end now.
    Now,
    /// Where the fill of the generation ends, which may be known later only.
    Fill,
}

/// What is done about rows of earlier generations before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Withdraw {
    /// Nothing of them has to go at once.
    Nothing,
    /// The values of these columns go.
    Columns(Vec<String>),
    /// All of them go.
    Everything,
}

/// Decides what a generation takes away from what a table holds. `None`: it holds this generation.
pub(super) fn withdraw(input: &Input, holding: &Holding) -> Option<Withdraw> {
    let generation = i64::try_from(input.generation).unwrap_or(i64::MAX);
    if holding.is_released() || holding.generation == generation {
        return None;
    }
    let Withdrawal {
        columns,
        is_rekeyed,
        since_generation,
    } = &input.withdrawal;
    // What lies between is told for the generations since a certain one only.
    let since = since_generation.unwrap_or_else(|| input.generation.saturating_sub(1));
    let is_told = i64::try_from(since).is_ok_and(|since| holding.generation >= since);
    Some(
        if *is_rekeyed || !is_told || holding.generation > generation {
            Withdraw::Everything
        } else if columns.is_empty() {
            Withdraw::Nothing
        } else {
            Withdraw::Columns(columns.clone())
        },
    )
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
pub const BEHIND_MAX_MS: i64 = 12 * 3600 * 1000;

/// Decides where an input goes on.
pub(super) fn plan(
    input: &Input,
    stored: &[Stored],
    holding: Option<&Holding>,
    found: Found,
    now_ms: i64,
) -> Result<Plan, Refusal> {
    match holding {
        Some(holding) if !holding.is_released() => {
            if holding.input != input.name {
                return Err(Refusal::Taken(holding.input.clone()));
            }
        }
        Some(_) | None if stored.is_empty() && found == Found::WithRows => {
            return Err(Refusal::NotEmpty);
        }
        Some(_) | None => {}
    }
    let is_this_topic = |s: &Stored| s.topic == input.topic && s.topic_id == input.topic_id;
    let goes_on = found != Found::Missing
        && !stored.is_empty()
        && stored.iter().all(is_this_topic)
        && !stored.iter().any(|s| is_behind(s, holding, now_ms));
    if goes_on {
        let positions = stored.iter().map(|s| (s.partition, s.next_offset));
        return Ok(Plan::Continue(positions.collect()));
    }
    if found != Found::WithRows {
        return Ok(Plan::Fresh);
    }
    Ok(rebuild(input, holding))
}

/// Returns the plan to read everything again beside what the table holds.
pub(super) fn rebuild(input: &Input, holding: Option<&Holding>) -> Plan {
    let swept = holding.map(|holding| holding.swept_generation);
    let is_swept = swept.and_then(|swept| u64::try_from(swept).ok()) >= Some(input.generation);
    Plan::Rebuild(if input.fill_ends.is_none() || is_swept {
        Ends::Now
    } else {
        Ends::Fill
    })
}

/// Whoever reads from the beginning meets old records; until it has come past the moment at which it
/// began, that moment counts.
fn is_behind(stored: &Stored, holding: Option<&Holding>, now_ms: i64) -> bool {
    let began_ms = holding.map_or(i64::MIN, |holding| holding.reading_since_ms);
    now_ms.saturating_sub(stored.read_up_to_ms.max(began_ms)) > BEHIND_MAX_MS
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

/// Creates our tables where they are missing, and lets nobody else decide about the target until the
/// caller's transaction ends.
pub(super) async fn ensure(client: &Client, target: &TableId) -> Result<(), Error> {
    let lock = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended($1, 1)),
                       pg_catalog.to_regclass($2) IS NOT NULL
                       AND pg_catalog.to_regclass($3) IS NOT NULL
                       AND pg_catalog.to_regclass($4) IS NOT NULL";
    let names: [&(dyn ToSql + Sync); 4] = [
        &target.to_string(),
        &holding::table(target),
        &table(target),
        &dead_letters::table(target),
    ];
    let row = client.query_one(lock, &names).await;
    if row
        .map_err(failed(target, "look up the positions of"))?
        .get(1)
    {
        return Ok(());
    }
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
            end_offset bigint,
            v integer NOT NULL DEFAULT 1,
            PRIMARY KEY (target, partition)
         );
         {holdings};
         {letters}",
        positions = table(target),
        rebuilds = rebuild_table(target),
        holdings = holding::create(target),
        letters = dead_letters::create(target),
    );
    client
        .batch_execute(&sql)
        .await
        .map_err(failed(target, "create the positions of"))
}

/// Returns whether our tables exist.
pub(super) async fn exists(client: &Client, target: &TableId) -> Result<bool, Error> {
    let row = client
        .query_one(
            "SELECT pg_catalog.to_regclass($1) IS NOT NULL
                    AND pg_catalog.to_regclass($2) IS NOT NULL",
            &[&holding::table(target), &table(target)],
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
         FROM (SELECT target, backend_pid, backend_start FROM {}
               UNION ALL SELECT target, backend_pid, backend_start FROM {}) p
         JOIN pg_catalog.pg_stat_activity a
           ON a.pid = p.backend_pid AND a.backend_start = p.backend_start
         WHERE p.target = $1 AND a.pid <> pg_catalog.pg_backend_pid()",
        table(target),
        holding::table(target),
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

/// Writes the position rows of an assignment under its epoch.
pub(super) async fn take(
    client: &Client,
    target: &TableId,
    input: &Input,
    starts: &[i64],
    epoch: i64,
    now_ms: i64,
) -> Result<(), Error> {
    let partitions: Vec<i32> = (0..).zip(starts).map(|(partition, _)| partition).collect();
    client
        .execute(
            &format!(
                "INSERT INTO {} AS p (target, topic, topic_id, partition, next_offset,
                        epoch, backend_pid, backend_start, read_up_to)
                 SELECT $1, $2, $3, u.partition, u.next_offset, $4, a.pid, a.backend_start,
                        to_timestamp($7::double precision / 1000)
                 FROM unnest($5::integer[], $6::bigint[]) AS u(partition, next_offset),
                      pg_catalog.pg_stat_activity a
                 WHERE a.pid = pg_catalog.pg_backend_pid()
                 ON CONFLICT (target, topic, partition) DO UPDATE
                 SET epoch = EXCLUDED.epoch, backend_pid = EXCLUDED.backend_pid,
                     backend_start = EXCLUDED.backend_start",
                table(target)
            ),
            &[
                &target.to_string(),
                &input.topic,
                &input.topic_id,
                &epoch,
                &partitions,
                &starts,
                &holding::millis(now_ms),
            ],
        )
        .await
        .map_err(failed(target, "take over"))?;
    Ok(())
}

/// Forgets positions, rebuild and notes: nothing is known of what was read.
pub(super) async fn forget(client: &Client, target: &TableId) -> Result<(), Error> {
    let name = target.to_string();
    for owned in [
        table(target),
        rebuild_table(target),
        dead_letters::table(target),
    ] {
        client
            .execute(&format!("DELETE FROM {owned} WHERE target = $1"), &[&name])
            .await
            .map_err(failed(target, "forget the positions of"))?;
    }
    client
        .batch_execute(&format!("DROP TABLE IF EXISTS {}", seen_table(target)))
        .await
        .map_err(failed(target, "forget the positions of"))
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
            name: "hutong.view.v".to_owned(),
            topic: "hutong.view.v.g2".to_owned(),
            topic_id: "id".to_owned(),
            end_offsets: vec![100, 100],
            generation: 2,
            fill_ends: Some(BTreeMap::new()),
            withdrawal: Withdrawal::default(),
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

    fn holding(generation: i64, swept_generation: i64, reading_since_ms: i64) -> Holding {
        Holding {
            input: "hutong.view.v".to_owned(),
            generation,
            swept_generation,
            is_emptying: false,
            reading_since_ms,
            columns: Vec::new(),
            table_oid: 1,
            replayed: String::new(),
            is_made: true,
        }
    }

    fn decide(stored: &[Stored], found: Found) -> Result<Plan, Refusal> {
        let holding = (!stored.is_empty()).then(|| holding(2, 2, 0));
        plan(&input(), stored, holding.as_ref(), found, NOW)
    }

    #[test]
    fn an_unknown_table_is_taken_only_if_it_is_empty() {
        assert_eq!(decide(&[], Found::Missing), Ok(Plan::Fresh));
        assert_eq!(decide(&[], Found::Empty), Ok(Plan::Fresh));
        assert_eq!(decide(&[], Found::WithRows), Err(Refusal::NotEmpty));
    }

    #[test]
    fn a_known_table_goes_on_where_it_was() {
        let rows = [stored("hutong.view.v.g2", "id", 0)];
        let on = Ok(Plan::Continue(vec![(0, 40)]));
        assert_eq!(decide(&rows, Found::WithRows), on);
        assert_eq!(decide(&rows, Found::Empty), on);
    }

    #[test]
    fn a_new_topic_is_read_anew_and_a_dropped_or_empty_table_needs_no_marks() {
        let other_id = [stored("hutong.view.v.g2", "other", 0)];
        let same = [stored("hutong.view.v.g2", "id", 0)];
        assert_eq!(
            decide(&other_id, Found::WithRows),
            Ok(Plan::Rebuild(Ends::Now))
        );
        assert_eq!(decide(&other_id, Found::Empty), Ok(Plan::Fresh));
        assert_eq!(decide(&same, Found::Missing), Ok(Plan::Fresh));
    }

    #[test]
    fn a_generation_that_is_not_swept_is_rebuilt_up_to_the_end_of_its_fill() {
        let begun = holding(2, 1, NOW);
        assert_eq!(
            plan(&input(), &[], Some(&begun), Found::WithRows, NOW),
            Ok(Plan::Rebuild(Ends::Fill))
        );
        assert_eq!(
            plan(&input(), &[], Some(&begun), Found::Empty, NOW),
            Ok(Plan::Fresh)
        );
        let table = Input {
            fill_ends: None,
            ..input()
        };
        assert_eq!(
            plan(&table, &[], Some(&begun), Found::WithRows, NOW),
            Ok(Plan::Rebuild(Ends::Now))
        );
    }

    #[test]
    fn a_table_of_another_input_is_refused() {
        let taken = |name: &str| Err(Refusal::Taken(name.to_owned()));
        let mut other = Holding {
            input: "hutong.view.w".to_owned(),
            ..holding(1, 1, 0)
        };
        let decide = |other: &Holding, found| plan(&input(), &[], Some(other), found, NOW);
        assert_eq!(decide(&other, Found::WithRows), taken("hutong.view.w"));
        // Emptied, it is free for another.
        other.generation = 0;
        assert_eq!(decide(&other, Found::Empty), Ok(Plan::Fresh));
        assert_eq!(decide(&other, Found::WithRows), Err(Refusal::NotEmpty));
    }

    #[test]
    fn a_reader_that_may_have_missed_a_tombstone_reads_everything_again() {
        let mut rows = [
            stored("hutong.view.v.g2", "id", 0),
            stored("hutong.view.v.g2", "id", 1),
        ];
        rows[1].read_up_to_ms = NOW - BEHIND_MAX_MS - 1;
        let decide = |since| {
            let holding = holding(2, 2, since);
            plan(&input(), &rows, Some(&holding), Found::WithRows, NOW)
        };
        assert_eq!(decide(0), Ok(Plan::Rebuild(Ends::Now)));
        // It began lately, and has not yet read the records of the last hours.
        assert!(matches!(decide(NOW - 1000), Ok(Plan::Continue(_))));
        // It began long ago, and still has not.
        let too_long = NOW - BEHIND_MAX_MS - 1;
        assert_eq!(decide(too_long), Ok(Plan::Rebuild(Ends::Now)));
    }

    #[test]
    fn a_new_generation_takes_away_what_the_task_says_or_everything_where_it_cannot_say() {
        let mut input = input();
        input.withdrawal.columns = vec!["name".to_owned()];
        let columns = Withdraw::Columns(vec!["name".to_owned()]);
        let decide = |input: &Input, held| withdraw(input, &holding(held, held, 0));
        assert_eq!(decide(&input, 2), None);
        assert_eq!(decide(&input, 1), Some(columns.clone()));
        input.generation = 4;
        assert_eq!(decide(&input, 1), Some(Withdraw::Everything));
        assert_eq!(decide(&input, 5), Some(Withdraw::Everything));
        input.withdrawal.since_generation = Some(1);
        assert_eq!(decide(&input, 1), Some(columns));
        input.withdrawal.since_generation = Some(2);
        assert_eq!(decide(&input, 1), Some(Withdraw::Everything));
        input.generation = 2;
        input.withdrawal = Withdrawal::default();
        assert_eq!(decide(&input, 1), Some(Withdraw::Nothing));
        input.withdrawal.is_rekeyed = true;
        assert_eq!(decide(&input, 1), Some(Withdraw::Everything));
    }
}
