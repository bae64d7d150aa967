//! The topic of a table, compared with the ledger.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use hutong_transport::admin::Isolation;
use hutong_transport::reader::Message;

use super::compare::difference;
use super::department::is_read_again;
use super::records::Schemas;
use super::tail::Tail;
use crate::exactly_once::topic;
use crate::world::{World, texts};

/// Compares the topic of a table with the ledger, and returns the changes.
///
/// Of a topic of which nothing was missed, each change of each key must be there once and in order.
/// Of others, what is there must be in order, once, and end in what the table holds.
pub(super) async fn compare(
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
