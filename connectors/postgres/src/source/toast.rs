//! Reading rows again whose events lack values.
//!
//! An update does not send a column that is stored out of line and did not change. The row is read
//! again, in a snapshot that sees the event's transaction: an older one could miss the row, or find
//! the value that an earlier update wrote. The commit record is in the log, and may have reached us,
//! before the transaction is visible to others (with synchronous replication by a long time), so we
//! wait for that.
//!
//! The row may have changed again by then. Its event therefore takes the *whole* row as read, never
//! old columns beside a new one: what is judged by a policy must be a row that existed. The later
//! change follows in the stream and writes the same row once more. If the row, the table or a column
//! is gone, the value stays marked as unavailable; the delete is on its way.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::changes::Entry;
use super::client;
use super::connect::AnyClient;
use super::error::Error;
use super::literal::literal;
use super::side::Side;
use super::sql;
use super::table_plan::TablePlan;
use super::writer::{Waiting, Writer};

/// Rows asked for by one query.
const ROWS_MAX: usize = 500;
/// How long a transaction may take from its commit record to being visible.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Gives every waiting event its row.
pub(crate) async fn resolve(
    side: &mut Side,
    writer: &mut Writer,
    tables: &HashMap<u32, Entry>,
) -> Result<(), Error> {
    let waiting = std::mem::take(&mut writer.waiting);
    let outcome = match side.client().await {
        Ok(client) => resolve_all(client, writer, tables, &waiting).await,
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        side.discard();
        writer.waiting = waiting;
    }
    outcome
}

async fn resolve_all(
    client: &mut AnyClient,
    writer: &mut Writer,
    tables: &HashMap<u32, Entry>,
    waiting: &[Waiting],
) -> Result<(), Error> {
    let mut by_table: BTreeMap<u32, Vec<&Waiting>> = BTreeMap::new();
    for event in waiting {
        by_table.entry(event.oid).or_default().push(event);
    }
    begin_seeing(client, waiting).await?;
    for (oid, events) in by_table {
        let Some(Entry::Captured(plan)) = tables.get(&oid) else {
            return Err(Error::Fatal(
                "an event waits for a table that is not captured".to_owned(),
            ));
        };
        for events in events.chunks(ROWS_MAX) {
            resolve_some(client, writer, plan, events).await?;
        }
    }
    client.query("end reading rows again", "ROLLBACK").await?;
    Ok(())
}

/// Begins a transaction whose snapshot sees the transactions of all events.
async fn begin_seeing(client: &mut AnyClient, waiting: &[Waiting]) -> Result<(), Error> {
    const DOING: &str = "read rows again";
    let xids: Vec<u32> = waiting
        .iter()
        .filter_map(|event| event.source.tx_id.and_then(|xid| u32::try_from(xid).ok()))
        .collect();
    let deadline = tokio::time::Instant::now() + VISIBLE_TIMEOUT;
    loop {
        client
            .query(DOING, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        let rows = client.query(DOING, "SELECT pg_current_snapshot()").await?;
        let snapshot = rows
            .first()
            .and_then(|row| row.first()?.as_deref())
            .and_then(Visible::parse)
            .ok_or_else(|| Error::Protocol("a snapshot that cannot be read".to_owned()))?;
        if xids.iter().all(|xid| snapshot.sees(*xid)) {
            return Ok(());
        }
        client.query(DOING, "ROLLBACK").await?;
        if tokio::time::Instant::now() > deadline {
            return Err(Error::transient(
                "a transaction whose changes were received does not become visible",
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What `pg_current_snapshot()` says, by the lower halves of transaction ids, which is all that the
/// stream tells of them.
#[derive(Debug, PartialEq, Eq)]
struct Visible {
    xmax: u32,
    running: Vec<u32>,
}

impl Visible {
    /// Parses `xmin:xmax:xip,xip,…`.
    fn parse(text: &str) -> Option<Self> {
        let lower = |text: &str| {
            let [.., a, b, c, d] = text.parse::<u64>().ok()?.to_be_bytes();
            Some(u32::from_be_bytes([a, b, c, d]))
        };
        let mut parts = text.split(':').skip(1);
        let xmax = lower(parts.next()?)?;
        let running = parts
            .next()?
            .split(',')
            .filter(|part| !part.is_empty())
            .map(lower)
            .collect::<Option<_>>()?;
        Some(Self { xmax, running })
    }

    /// Transaction ids are a circle: half of it is before, half after any of them.
    fn sees(&self, xid: u32) -> bool {
        let before_xmax = xid.wrapping_sub(self.xmax).cast_signed() < 0;
        before_xmax && !self.running.contains(&xid)
    }
}

async fn resolve_some(
    client: &mut AnyClient,
    writer: &mut Writer,
    plan: &TablePlan,
    events: &[&Waiting],
) -> Result<(), Error> {
    let doing = format!("read rows of table {} again", plan.schema.id);
    let query = query(plan, writer, events)?;
    let mut found = vec![false; events.len()];
    client.query(&doing, "SAVEPOINT before_reading").await?;
    client.start_rows(&query).await?;
    loop {
        let row = match client.next_row(&doing).await {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // Undefined table, undefined column, undefined schema: they are gone.
            Err(error) if matches!(error.sqlstate(), Some("42P01" | "42703" | "3F000")) => {
                client
                    .query(&doing, "ROLLBACK TO SAVEPOINT before_reading")
                    .await?;
                break;
            }
            Err(error) => return Err(error),
        };
        let fields = client::fields(&row)?.collect::<Result<Vec<_>, _>>()?;
        let (number, values) = fields
            .split_first()
            .ok_or_else(|| Error::Protocol("a row without columns".to_owned()))?;
        let number: usize = number
            .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
            .ok_or_else(|| Error::Protocol("a row without its number".to_owned()))?;
        if let (Some(event), Some(found)) = (events.get(number), found.get_mut(number)) {
            writer.resolve(plan, event, Some(values))?;
            *found = true;
        }
    }
    for (event, found) in events.iter().zip(found) {
        if !found {
            writer.resolve(plan, event, None)?;
        }
    }
    Ok(())
}

fn query(plan: &TablePlan, writer: &Writer, events: &[&Waiting]) -> Result<String, Error> {
    let mut values = Vec::with_capacity(events.len());
    for (number, event) in events.iter().enumerate() {
        let key = writer.batch.records[event.record]
            .key
            .clone()
            .ok_or_else(|| Error::Fatal("an event that waits has no key".to_owned()))?;
        values.push(format!(
            "({number}, {})",
            key_literals(plan, &writer.batch.buffer[key])?
        ));
    }
    let key = &plan.schema.key;
    let names: Vec<_> = (0..key.len()).map(|n| format!("k{n}")).collect();
    let conditions: Vec<_> = key
        .iter()
        .zip(&names)
        .map(|(index, name)| {
            let column = sql::identifier(&plan.schema.columns[*index].name);
            format!("t.{column} = k.{name}")
        })
        .collect();
    let columns: Vec<_> = plan
        .schema
        .columns
        .iter()
        .map(|column| format!("t.{}", sql::identifier(&column.name)))
        .collect();
    Ok(format!(
        "SELECT k.number, {} FROM (VALUES {}) AS k (number, {}) JOIN {} t ON {}",
        columns.join(", "),
        values.join(", "),
        names.join(", "),
        sql::table(&plan.schema.id),
        conditions.join(" AND "),
    ))
}

/// Returns the key's columns as SQL, separated by commas.
pub(crate) fn key_literals(plan: &TablePlan, key: &[u8]) -> Result<String, Error> {
    let mut row = Vec::with_capacity(plan.schema.columns.len());
    plan.read_key(key, &mut row)?;
    let literals: Vec<_> = plan
        .schema
        .key
        .iter()
        .map(|index| literal(&plan.schema.columns[*index].sql_type, &row[*index]))
        .collect();
    Ok(literals.join(", "))
}

/// Returns the SQL list of the key's columns, each behind `qualifier`.
pub(crate) fn key_columns(plan: &TablePlan, qualifier: &str) -> String {
    let names: Vec<_> = plan
        .schema
        .key
        .iter()
        .map(|index| {
            let name = sql::identifier(&plan.schema.columns[*index].name);
            format!("{qualifier}{name}")
        })
        .collect();
    names.join(", ")
}
