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
//!
//! Columns are asked for by name, and a name may be another column's by now. So it is seen first
//! which columns still have their names, under the lock of the reading: none can change after that.
//! Of a row that lost a column since, only missing values are taken, and only if all that was
//! received is as it was.
//!
//! # Memory
//!
//! Rows that are stored out of line may be of any size, and a batch holds many events. Their sizes
//! are asked for before their rows, and only so many are read as fit a batch; what is complete then
//! leaves, and the rest is read after it.

use std::sync::Arc;
use std::time::Duration;

use hutong_connectors_core::source::SourceHost;
use hutong_schemas::class::{Class, Classified as _};
use hutong_schemas::sql_type::SqlType;

use super::catalogue;
use super::client;
use super::connect::AnyClient;
use super::error::Error;
use super::literal::literal;
use super::side::Side;
use super::sql;
use super::table_plan::TablePlan;
use super::visibility::{self, Visible};
use super::writer::{Waiting, Writer};

/// Rows asked for by one query.
const ROWS_MAX: usize = 500;
const DOING: &str = "read rows again";
const SAVEPOINT: &str = "SAVEPOINT before_reading";
const UNLOCK: &str = "ROLLBACK TO SAVEPOINT before_reading";

/// How long a transaction may take from its commit record to being visible.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A table whose row cannot be carried as it was read.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) oid: u32,
    pub(crate) error: Error,
}

/// Gives waiting events their rows, from the first one on, as many as fit `bytes_max`. Those that
/// have theirs wait no more; of the others their records still lack the value.
pub(crate) async fn resolve(
    side: &mut Side,
    writer: &mut Writer,
    bytes_max: usize,
    host: &dyn SourceHost,
) -> Result<Vec<Unfit>, Error> {
    let waiting = std::mem::take(&mut writer.waiting);
    let mut unfit = Vec::new();
    let outcome = match side.client().await {
        Ok(client) => {
            host.reached("source-reread-before").await;
            resolve_first(client, writer, &waiting, bytes_max, &mut unfit, host).await
        }
        Err(error) => Err(error),
    };
    writer.waiting = waiting;
    match outcome {
        Ok(resolved) => {
            writer.waiting.drain(..resolved);
            Ok(unfit)
        }
        Err(error) => {
            side.discard();
            Err(error)
        }
    }
}

/// Returns how many of the first events have their rows.
async fn resolve_first(
    client: &mut AnyClient,
    writer: &mut Writer,
    waiting: &[Waiting],
    bytes_max: usize,
    unfit: &mut Vec<Unfit>,
    host: &dyn SourceHost,
) -> Result<usize, Error> {
    begin_seeing(client, waiting).await?;
    client.query(DOING, SAVEPOINT).await?;
    host.reached("source-reread-snapshot").await;
    let mut resolved = 0;
    let mut bytes = 0;
    while resolved < waiting.len() && bytes < bytes_max {
        let plan = &waiting[resolved].plan;
        let events: Vec<&Waiting> = waiting[resolved..]
            .iter()
            .take(ROWS_MAX)
            .take_while(|event| Arc::ptr_eq(&event.plan, plan))
            .collect();
        let Some(there) = lock(client, plan).await? else {
            // What is left is read in the next snapshot.
            break;
        };
        let sizes = sizes(client, writer, plan, &there, &events).await?;
        let mut count = 0;
        for size in sizes {
            if count > 0 && bytes + size > bytes_max {
                break;
            }
            bytes += size;
            count += 1;
        }
        let fits = count == events.len();
        resolve_some(client, writer, plan, &there, &events[..count], unfit).await?;
        if !there.is_nothing()
            && ask(client, &catalogue::has_its_name(&plan.schema)).await? != [true]
        {
            let table = &plan.schema.id;
            return Err(Error::transient(format!(
                "table {table} got another name while rows of it were read again"
            )));
        }
        resolved += count;
        if !fits {
            break;
        }
    }
    client.query("end reading rows again", "ROLLBACK").await?;
    Ok(resolved)
}

/// What is there of a table whose rows are to be read.
struct There {
    /// The table in a FROM clause.
    from: String,
    /// Which of the plan's columns it still has under their names; none, if it lost its own name or a key
    /// column.
    columns: Vec<bool>,
}

impl There {
    fn is_nothing(&self) -> bool {
        !self.columns.contains(&true)
    }
}

/// Locks a table against other columns, in place of the one before it, and returns what is there of it.
/// `None` where the snapshot may not find its rows, as they were written anew since.
///
/// One table at a time: who waits for the lock of a second one while he has the first can be part of a
/// circle, in which the server may choose the other one to fail.
async fn lock(client: &mut AnyClient, plan: &TablePlan) -> Result<Option<There>, Error> {
    let schema = &plan.schema;
    let nothing = There {
        from: sql::table(&schema.id),
        columns: vec![false; schema.columns.len()],
    };
    let key = key_columns(plan);
    // The table alone: those that inherit from it are not read.
    let lock = format!("{UNLOCK}; SELECT {key} FROM ONLY {} LIMIT 0", nothing.from);
    match client.query(DOING, &lock).await {
        Ok(_) => {}
        // Undefined table, undefined column, undefined schema: they are gone.
        Err(error) if matches!(error.sqlstate(), Some("42P01" | "42703" | "3F000")) => {
            client.query(DOING, UNLOCK).await?;
            return Ok(Some(nothing));
        }
        Err(error) => return Err(error),
    }
    let mut looks = catalogue::still_named(schema);
    looks.push(catalogue::is_partitioned(schema.oid));
    looks.push(catalogue::is_as_seen(schema.oid));
    let mut row = ask(client, &looks.join(", ")).await?;
    let mut is_as_seen = row.pop() == Some(true);
    let is_partitioned = row.pop() == Some(true);
    if is_partitioned {
        let lock = format!("SELECT {key} FROM {} LIMIT 0", nothing.from);
        client.query(DOING, &lock).await?;
        let row = ask(client, &catalogue::is_as_seen(schema.oid)).await?;
        is_as_seen = row == [true];
    }
    if !is_as_seen {
        return Ok(None);
    }
    let has_key = schema
        .key
        .iter()
        .all(|index| row.get(*index) == Some(&true));
    Ok(Some(match has_key {
        true => There {
            from: catalogue::from_clause(&schema.id, is_partitioned),
            columns: row,
        },
        false => nothing,
    }))
}

/// Returns which of some SQL conditions hold.
async fn ask(client: &mut AnyClient, conditions: &str) -> Result<Vec<bool>, Error> {
    let rows = client.query(DOING, &format!("SELECT {conditions}")).await?;
    let row = rows.into_iter().next().unwrap_or_default();
    Ok(row.iter().map(|is| is.as_deref() == Some("t")).collect())
}

/// Begins a transaction whose snapshot sees the transactions of all events.
async fn begin_seeing(client: &mut AnyClient, waiting: &[Waiting]) -> Result<(), Error> {
    let xids: Vec<u32> = waiting
        .iter()
        .filter_map(|event| event.source.tx_id.and_then(|xid| u32::try_from(xid).ok()))
        .collect();
    let deadline = tokio::time::Instant::now() + VISIBLE_TIMEOUT;
    loop {
        client
            .query(DOING, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?;
        if sees(client, &xids).await? {
            return Ok(());
        }
        client.query(DOING, "ROLLBACK").await?;
        pause(deadline).await?;
    }
}

/// Waits until others see what these transactions did.
pub(crate) async fn wait_until_visible(client: &mut AnyClient, xids: &[u32]) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + VISIBLE_TIMEOUT;
    while !sees(client, xids).await? {
        pause(deadline).await?;
    }
    Ok(())
}

async fn sees(client: &mut AnyClient, xids: &[u32]) -> Result<bool, Error> {
    let query = format!("SELECT {}", visibility::COLUMNS);
    let rows = client.query(DOING, &query).await?;
    let snapshot = Visible::of_row(&rows.into_iter().next().unwrap_or_default())?;
    Ok(xids.iter().all(|xid| snapshot.sees(*xid)))
}

async fn pause(deadline: tokio::time::Instant) -> Result<(), Error> {
    if tokio::time::Instant::now() > deadline {
        return Err(Error::transient(
            "a transaction whose changes were received does not become visible",
        ));
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(())
}

/// Returns what the rows of events need, as text.
async fn sizes(
    client: &mut AnyClient,
    writer: &Writer,
    plan: &TablePlan,
    there: &There,
    events: &[&Waiting],
) -> Result<Vec<usize>, Error> {
    let mut sizes: Vec<usize> = events.iter().map(|event| event.tuple.len()).collect();
    if there.is_nothing() {
        return Ok(sizes);
    }
    let columns = plan.schema.columns.iter().zip(&there.columns);
    let lengths: Vec<String> = columns
        .filter(|(_, there)| **there)
        .map(|(column, _)| {
            let name = sql::identifier(&column.name);
            match column.sql_type {
                // Without reading the value; its text has two digits a byte.
                SqlType::Bytea => format!("coalesce(octet_length(t.{name}) * 2, 0)"),
                _ => format!("coalesce(octet_length(t.{name}::text), 0)"),
            }
        })
        .collect();
    let query = query(plan, writer, events, &lengths.join(" + "), &there.from)?;
    for row in client.query(DOING, &query).await? {
        let number = |index: usize| -> Option<usize> { row.get(index)?.as_deref()?.parse().ok() };
        let (Some(index), Some(bytes)) = (number(0), number(1)) else {
            return Err(Error::Protocol("a size that cannot be read".to_owned()));
        };
        if let Some(size) = sizes.get_mut(index) {
            *size = bytes;
        }
    }
    Ok(sizes)
}

async fn resolve_some(
    client: &mut AnyClient,
    writer: &mut Writer,
    plan: &TablePlan,
    there: &There,
    events: &[&Waiting],
    unfit: &mut Vec<Unfit>,
) -> Result<(), Error> {
    let mut found = vec![false; events.len()];
    if !there.is_nothing() {
        let columns: Vec<String> = plan
            .schema
            .columns
            .iter()
            .zip(&there.columns)
            .map(|(column, there)| match there {
                true => format!("t.{}", sql::identifier(&column.name)),
                false => "NULL".to_owned(),
            })
            .collect();
        let doing = format!("read rows of table {} again", plan.schema.id);
        let query = query(plan, writer, events, &columns.join(", "), &there.from)?;
        client.start_rows(&query).await?;
        while let Some(row) = client.next_row(&doing).await? {
            let fields = client::fields(row)?.collect::<Result<Vec<_>, _>>()?;
            let (number, values) = fields
                .split_first()
                .ok_or_else(|| Error::Protocol("a row without columns".to_owned()))?;
            let number: usize = number
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())
                .ok_or_else(|| Error::Protocol("a row without its number".to_owned()))?;
            if let (Some(event), Some(found)) = (events.get(number), found.get_mut(number)) {
                match writer.resolve(event, values, &there.columns) {
                    Ok(taken) => *found = taken,
                    Err(error) if error.class() == Class::Definite => unfit.push(Unfit {
                        oid: plan.schema.oid,
                        error,
                    }),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    for (event, found) in events.iter().zip(found) {
        if !found {
            writer.leave(event)?;
        }
    }
    Ok(())
}

/// Asks for the rows of events: the number of the event, then `columns` of the row `t` of `from`.
fn query(
    plan: &TablePlan,
    writer: &Writer,
    events: &[&Waiting],
    columns: &str,
    from: &str,
) -> Result<String, Error> {
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
            let column = &plan.schema.columns[*index];
            let text = if column.sql_type.stored_as() == column.sql_type {
                ""
            } else {
                // A type without a name of its own: its literal is text here.
                "::text"
            };
            let column = sql::identifier(&column.name);
            format!("t.{column}{text} = k.{name}")
        })
        .collect();
    Ok(format!(
        "SELECT k.number, {columns} FROM (VALUES {}) AS k (number, {}) JOIN {from} t ON {}",
        values.join(", "),
        names.join(", "),
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

/// Returns the SQL list of the key's columns.
fn key_columns(plan: &TablePlan) -> String {
    let names: Vec<_> = plan
        .schema
        .key
        .iter()
        .map(|index| sql::identifier(&plan.schema.columns[*index].name))
        .collect();
    names.join(", ")
}
