//! What must be equal when nothing moves: subscribers' tables and views' topics to the policy in force,
//! applied by the department's own server; and what was withdrawn is nowhere.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hutong_local::testkit::until;
use hutong_transport::admin::Isolation;
use hutong_transport::reader::Message;

use super::check::topic_prefix;
use super::model::{History, Policy, View};
use super::records::Schemas;
use super::tail::Tail;
use crate::world::{World, texts};

/// Longest time from the end of the workload to equal tables.
pub(super) const CATCH_UP: Duration = Duration::from_secs(90);
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

pub(super) fn difference(expected: &BTreeSet<String>, found: &BTreeSet<String>) -> String {
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
