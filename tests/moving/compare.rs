//! What must be equal when nothing moves: subscribers' tables and views' topics to the policy in force,
//! applied by the department's own server; tables' topics to the ledger; and what was withdrawn is
//! nowhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hutong_local::testkit::until;
use hutong_transport::admin::Isolation;
use hutong_transport::reader::Message;

use super::check::topic_prefix;
use super::department::is_read_again;
use super::model::{History, Policy, View};
use super::records::Schemas;
use super::tail::Tail;
use crate::exactly_once::topic;
use crate::world::{World, texts};

/// Longest time from the end of the workload to equal tables.
const CATCH_UP: Duration = Duration::from_secs(90);
/// Longest time from a tombstone to the end of the bytes that it stands for: the segment ends, its
/// last record is written again, the cleaner passes.
const CLEANED: Duration = Duration::from_secs(60);

/// How values of columns begin that somebody may not see; they occur nowhere else.
const MARKERS: [(&str, &str); 4] = [
    ("name", "Zq7Name"),
    ("phone", "Zq7Phone"),
    ("card", "Zq7Card"),
    ("added", "Zq7Added"),
];

/// Waits until a subscriber's table holds what the policy in force shows, and returns the rows.
pub(super) async fn view(world: &World, view: View, policy: &Policy) -> Result<usize> {
    let shown = policy.columns.iter().map(|column| shown(&column.sql()));
    let expected = format!(
        "select {} from reg.{} where {} order by ver",
        shown.collect::<Vec<_>>().join(" || '|' || "),
        view.table,
        policy.condition.sql()
    );
    let held = policy.columns.iter().map(|column| shown_name(column.name));
    let found = format!(
        "select {} from public.in_{} order by ver",
        held.collect::<Vec<_>>().join(" || '|' || "),
        view.name
    );
    let equal = world.wait_equal(&expected, &found, CATCH_UP).await;
    equal.with_context(|| format!("view {}: {policy:?}", view.name))
}

/// Waits until a subscriber's table is empty.
pub(super) async fn empty(world: &World, view: View) -> Result<()> {
    let count = format!("select count(*)::text from public.in_{}", view.name);
    until("a revoked view's table to be empty", CATCH_UP, async || {
        let left = texts(&world.subscriber, &count).await?;
        Ok(if left == ["0"] {
            Ok(())
        } else {
            Err(left.concat())
        })
    })
    .await
    .with_context(|| view.name)
}

fn shown_name(name: &str) -> String {
    shown(&format!("{name}::text"))
}

/// Long values are compared by their digests.
fn shown(expression: &str) -> String {
    format!(
        "coalesce(case when length({expression}) > 200 then md5({expression}) else {expression} end, '~')"
    )
}

/// Fails if the table of a view has a value that its policy does not show.
pub(super) async fn nothing_withdrawn_in_table(
    world: &World,
    view: View,
    policy: &Policy,
) -> Result<()> {
    let rows = format!("select t::text from public.in_{} t", view.name);
    let columns = format!(
        "select column_name::text from information_schema.columns where table_name = 'in_{}'",
        view.name
    );
    let rows = texts(&world.subscriber, &rows).await?;
    for (column, marker) in MARKERS {
        let is_hidden = !policy.shows_clear(column);
        ensure!(
            !is_hidden || !rows.iter().any(|row| row.contains(marker)),
            "table in_{} holds a value of column {column}",
            view.name
        );
    }
    for column in texts(&world.subscriber, &columns).await? {
        if !policy.grants(&column) && column != "_rk" {
            let left = format!("select count({column})::text from public.in_{}", view.name);
            let left = texts(&world.subscriber, &left).await?;
            ensure!(
                left == ["0"],
                "table in_{} holds {left:?} values of column {column}",
                view.name
            );
        }
    }
    Ok(())
}

/// Waits until the topics of a view are its last generation's alone, and hold the rows that it shows
/// and no bytes of others. Returns the rows.
pub(super) async fn topics(
    world: &World,
    tail: &Tail,
    schemas: &mut Schemas,
    view: View,
    history: &History,
) -> Result<usize> {
    let prefix = topic_prefix(world, view);
    let (_, newest) = history.newest().context("a view that was never made")?;
    let own = format!("{prefix}{}", newest.generation);
    let wanted: BTreeSet<String> = history.is_live.then(|| own.clone()).into_iter().collect();
    until("closed generations to be deleted", CATCH_UP, async || {
        let mut found = tail.topics();
        found.retain(|topic| topic.starts_with(&prefix));
        Ok(if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })
    .await?;
    if !history.is_live {
        return Ok(0);
    }
    let expected = format!(
        "select ver::text from reg.{} where {} order by ver",
        view.table,
        newest.policy.condition.sql()
    );
    let expected: BTreeSet<String> = texts(&world.department, &expected)
        .await?
        .into_iter()
        .collect();
    until(
        "a view's topic to hold its rows and no others",
        CLEANED,
        async || {
            let messages = tail.read_anew(&own, Isolation::ReadCommitted).await?;
            schemas.learn(world, &messages).await?;
            let (held, hidden) = contents(schemas, &messages)?;
            Ok(if held != expected {
                Err(difference(&expected, &held))
            } else if hidden > 0 && !tail.has_lag(&own) {
                let left = messages.iter().map(|record| {
                    let what = if record.value.is_some() { "row" } else { "tombstone" };
                    format!("{}/{} {what} at {}", record.partition, record.offset, record.timestamp_ms)
                });
                let left: Vec<String> = left.collect();
                Err(format!(
                    "{hidden} records of keys that are not in the view; segments {:?}; records {left:?}",
                    tail.segments(&own)
                ))
            } else {
                Ok(())
            })
        },
    )
    .await
    .with_context(|| own.clone())?;
    // Also of transactions that were aborted.
    let raw = tail.read_anew(&own, Isolation::ReadUncommitted).await?;
    ensure!(raw.len() >= expected.len(), "a topic with too few records");
    for (column, marker) in MARKERS {
        if !newest.policy.shows_clear(column) {
            let found = raw.iter().find(|message| holds(message, marker));
            ensure!(
                found.is_none(),
                "{own} holds a value of column {column}: {found:?}"
            );
        }
    }
    Ok(expected.len())
}

fn difference(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> String {
    let missing: Vec<_> = expected.difference(found).take(5).collect();
    let excess: Vec<_> = found.difference(expected).take(5).collect();
    format!(
        "{} versions of rows expected, {} found; missing {missing:?}, too many {excess:?}",
        expected.len(),
        found.len()
    )
}

fn holds(message: &Message, marker: &str) -> bool {
    let parts = [&message.key, &message.value, &message.header_hutong];
    parts.into_iter().flatten().any(|part| {
        part.windows(marker.len())
            .any(|window| window == marker.as_bytes())
    })
}

/// Returns the versions of rows that a compacted topic holds, and how many rows of it belong to keys
/// that it does not hold.
fn contents(schemas: &mut Schemas, messages: &[Message]) -> Result<(BTreeSet<String>, usize)> {
    let mut held = HashMap::new();
    let mut rows = Vec::new();
    for message in messages {
        let key = message.key.as_deref().context("no key")?;
        let value = message.value.as_deref();
        let ver = match value {
            Some(value) => schemas
                .flat(value)?
                .into_iter()
                .find(|(name, _)| name == "ver"),
            None => None,
        };
        let ver = ver.and_then(|(_, ver)| ver);
        rows.extend(ver.is_some().then_some(key));
        held.insert(key, ver);
    }
    let hidden = rows.iter().filter(|key| held[**key].is_none()).count();
    let held: BTreeSet<String> = held.into_values().flatten().collect();
    Ok((held, hidden))
}

/// Compares the topic of a table with the ledger, and returns the changes.
///
/// Of a topic of which nothing was missed, each change of each key must be there once and in order.
/// Of others, what is there must be in order, once, and end in what the table holds.
pub(super) async fn table(
    world: &World,
    tail: &Tail,
    schemas: &mut Schemas,
    table: &str,
    is_gapless: bool,
) -> Result<usize> {
    let name = world.topic("reg", &format!("reg.{table}"));
    let (messages, is_whole) = read_so_far(tail, &name);
    schemas.learn(world, &messages).await?;
    let ledger = ledger(world, table).await?;
    let events = events(schemas, &messages)?;
    if is_whole && table != "person" {
        // It fails by itself if a rule is broken. One does not hold where a value that could not be
        // read again, because its row was gone by then, was changed before that.
        let _observed = topic::observe(&messages, schemas.texts());
    }
    for (key, found) in &events {
        let expected = ledger.get(key).map(Vec::as_slice).unwrap_or_default();
        let mut outcome = some(found, expected, is_read_again(table, *key));
        if is_whole && is_gapless {
            outcome = outcome.and_then(|()| all(found, expected));
        }
        outcome.with_context(|| {
            let (last, ledger) = (tail_of(found), tail_of(expected));
            format!(
                "{table} {key} ends with {last:?} in the topic, and in the ledger with {ledger:?}"
            )
        })?;
    }
    // A row that a truncation has deleted before it was read is not there.
    let is_unread = |changes: &[Entry]| matches!(changes, [('r', _), ('d', _)]);
    let missing = ledger
        .iter()
        .find(|(key, changes)| !events.contains_key(key) && !is_unread(changes));
    ensure!(
        missing.is_none() || !is_gapless,
        "{table} {missing:?} is not in the topic"
    );
    compacted(world, tail, schemas, table, &name).await?;
    Ok(ledger.values().map(Vec::len).sum())
}

fn tail_of<T>(all: &[T]) -> &[T] {
    &all[all.len().saturating_sub(6)..]
}

/// An entry of the ledger: operation, and number of the change (0 for deletes).
type Entry = (char, i64);

async fn ledger(world: &World, table: &str) -> Result<BTreeMap<i64, Vec<Entry>>> {
    let client = world.department.connect().await?;
    let sql = "select key, op::text, ver from ledger.entry where tbl = $1 order by seq";
    let mut ledger: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
    for row in client.query(sql, &[&table]).await? {
        let op: String = row.get(1);
        let op = op.chars().next().context("no operation")?;
        let ver = if op == 'd' { 0 } else { row.get(2) };
        ledger.entry(row.get(0)).or_default().push((op, ver));
    }
    Ok(ledger)
}

fn events(schemas: &mut Schemas, messages: &[Message]) -> Result<BTreeMap<i64, Vec<(char, i64)>>> {
    let mut events: BTreeMap<i64, Vec<(char, i64)>> = BTreeMap::new();
    for message in messages {
        if let Some(event) = schemas.event(message)? {
            let key = schemas.table_key(message)?;
            events.entry(key).or_default().push(event);
        }
    }
    Ok(events)
}

/// Every change is there, once, in order. Where a value had to be read again, the row is as it was
/// then: that of the change, or of a later one. A row that changed before it was read is never read.
fn all(found: &[(char, i64)], expected: &[Entry]) -> Result<()> {
    let was_there = expected.first().is_some_and(|(op, _)| *op == 'r');
    let found: Vec<_> = found.iter().filter(|(op, _)| *op != 'r').collect();
    let mut expected: Vec<_> = expected.iter().filter(|(op, _)| *op != 'r').collect();
    // A truncation deletes what the topic holds, not a row that was not read yet.
    let is_deleted = |first: Option<&&(char, i64)>| first.is_some_and(|(op, _)| *op == 'd');
    if was_there && is_deleted(expected.first()) && !is_deleted(found.first()) {
        expected.remove(0);
    }
    ensure!(
        found.len() == expected.len(),
        "{} changes in the topic, {} in the ledger",
        found.len(),
        expected.len()
    );
    for (index, (op, ver)) in found.into_iter().enumerate() {
        let (committed, _) = *expected[index];
        let is_shown = expected[index..].iter().any(|(_, later)| later == ver);
        ensure!(*op == committed && is_shown, "change {index} is {op} {ver}");
    }
    Ok(())
}

/// What is there goes forward in the ledger, if no value of the row is read again, and ends where the
/// ledger ends.
fn some(found: &[(char, i64)], expected: &[Entry], is_read_again: bool) -> Result<()> {
    let mut at = 0_usize;
    for (index, (op, ver)) in found.iter().enumerate() {
        let is_it = |(committed, number): &Entry| match op {
            'd' => *committed == 'd',
            _ => *committed != 'd' && number == ver,
        };
        let from = match op {
            _ if is_read_again => 0,
            // A table that is read again shows what was changed before.
            'r' => at.saturating_sub(1),
            _ => at,
        };
        let step = expected[from..].iter().position(is_it);
        let step = step.with_context(|| format!("event {index}, {op} {ver}, goes back"))?;
        at = from + step + 1;
    }
    let (Some((op, ver)), Some((committed, newest))) = (found.last(), expected.last()) else {
        bail!("no events");
    };
    ensure!(
        (*op == 'd') == (*committed == 'd') && ver == newest,
        "the last event is {op} {ver}"
    );
    Ok(())
}

fn read_so_far(tail: &Tail, topic: &str) -> (Vec<Message>, bool) {
    let logs = tail.logs();
    let own = logs.iter().filter(|((name, _), _)| name == topic);
    let (mut messages, mut is_whole) = (Vec::new(), true);
    for (_, log) in own {
        messages.extend(log.records.iter().cloned());
        is_whole &= log.is_whole();
    }
    (messages, is_whole)
}

/// A reader who comes now finds the table's rows.
async fn compacted(
    world: &World,
    tail: &Tail,
    schemas: &mut Schemas,
    table: &str,
    topic: &str,
) -> Result<()> {
    let messages = tail.read_anew(topic, Isolation::ReadCommitted).await?;
    let mut held = BTreeMap::new();
    for message in &messages {
        let event = schemas.event(message)?;
        let row = event.filter(|(op, _)| *op != 'd').map(|(_, ver)| ver);
        held.insert(schemas.table_key(message)?, row);
    }
    let found: BTreeSet<String> = held
        .into_values()
        .flatten()
        .map(|ver| ver.to_string())
        .collect();
    let expected = format!("select ver::text from reg.{table}");
    let expected: BTreeSet<String> = texts(&world.department, &expected)
        .await?
        .into_iter()
        .collect();
    ensure!(
        found == expected,
        "{topic}: {}",
        difference(&expected, &found)
    );
    Ok(())
}
