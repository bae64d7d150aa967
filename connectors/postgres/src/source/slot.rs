//! The replication slot: what keeps the server's log until we have it.

use std::time::Duration;

use hutong_schemas::position::Lsn;
use tokio::io::{AsyncRead, AsyncWrite};

use super::catalogue::Row;
use super::client::Client;
use super::connect::AnyClient;
use super::error::Error;
use super::position::{Position, gap};
use super::sql;

/// Under which name our connections appear in `pg_stat_activity`, by which a stale one is known.
pub(crate) const APPLICATION_NAME: &str = "hutong";

/// A slot as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) plugin: Option<String>,
    pub(crate) in_this_database: bool,
    pub(crate) active_pid: Option<i32>,
    pub(crate) lost: bool,
    pub(crate) confirmed_flush: Option<Lsn>,
    pub(crate) retained_bytes: Option<u64>,
    pub(crate) end_of_log: Lsn,
}

/// Reads the slot, if there is one of the name.
pub(crate) async fn fetch<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    name: &str,
) -> Result<Option<Slot>, Error> {
    let rows = client
        .query(
            "read the replication slot",
            &format!(
                "SELECT plugin, coalesce(database = current_database(), false), active_pid, \
                 coalesce(wal_status = 'lost', false) OR (restart_lsn IS NULL AND NOT active), confirmed_flush_lsn, \
                 pg_wal_lsn_diff(e.lsn, restart_lsn)::bigint, e.lsn \
                 FROM pg_catalog.pg_replication_slots, \
                 (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                 ELSE pg_current_wal_lsn() END AS lsn) e \
                 WHERE slot_name = {}",
                sql::literal(name)
            ),
        )
        .await?;
    let Some(row) = rows.into_iter().next().map(Row) else {
        return Ok(None);
    };
    Ok(Some(Slot {
        plugin: row.optional(0).map(str::to_owned),
        in_this_database: row.flag(1)?,
        active_pid: row.optional(2).and_then(|pid| pid.parse().ok()),
        lost: row.flag(3)?,
        confirmed_flush: row.optional(4).and_then(|lsn| lsn.parse().ok()),
        retained_bytes: row.optional(5).and_then(|bytes| bytes.parse().ok()),
        end_of_log: row.parse(6)?,
    }))
}

/// What is to be done about the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Stream from it.
    Use,
    /// Create it: nothing was read yet that it could have missed.
    Create,
}

/// Decides what is to be done, given what is stored.
///
/// # Errors
///
/// Definite, where the slot is none of ours, or cannot continue at the position.
pub(crate) fn plan(
    name: &str,
    slot: Option<&Slot>,
    position: Option<&Position>,
) -> Result<Plan, Error> {
    let streamed = position.filter(|position| !position.preparing);
    let Some(slot) = slot else {
        return match streamed {
            None => Ok(Plan::Create),
            Some(position) => Err(gap(format!(
                "replication slot \"{name}\" does not exist any more, and the stored position is {}",
                position.lsn
            ))),
        };
    };
    check(name, slot)?;
    match (streamed, slot.confirmed_flush) {
        (Some(position), Some(confirmed)) if confirmed > position.lsn => Err(gap(format!(
            "replication slot \"{name}\" stands at {confirmed}, ahead of the stored position {}: somebody else has read from it",
            position.lsn
        ))),
        _ => Ok(Plan::Use),
    }
}

/// Refuses a slot that we cannot read, whatever is stored.
pub(crate) fn check(name: &str, slot: &Slot) -> Result<(), Error> {
    let recreate =
        || format!("choose another slot.name, or SELECT pg_drop_replication_slot('{name}');");
    if slot.plugin.as_deref() != Some("pgoutput") {
        let found = slot.plugin.as_deref().unwrap_or("none, it is physical");
        return Err(Error::definite(
            format!("replication slot \"{name}\" has not the plugin pgoutput (it has {found})"),
            recreate(),
        ));
    }
    if !slot.in_this_database {
        return Err(Error::definite(
            format!("replication slot \"{name}\" belongs to another database"),
            "choose another slot.name",
        ));
    }
    if slot.lost {
        return Err(Error::Gap {
            message: format!(
                "replication slot \"{name}\" was invalidated: the server removed log that was not read yet (max_slot_wal_keep_size); changes between are lost to this connector"
            ),
            hint: format!(
                "SELECT pg_drop_replication_slot('{name}'); and set snapshot.mode=when_needed: the tables are then read again and rows that are gone are deleted"
            ),
        });
    }
    Ok(())
}

/// Creates the slot and returns its place in the log: it sends the transactions committed from there.
pub(crate) async fn create(client: &mut AnyClient, name: &str) -> Result<Lsn, Error> {
    let rows = client
        .query(
            &format!("create replication slot \"{name}\""),
            &format!(
                "CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT",
                sql::identifier(name)
            ),
        )
        .await?;
    Row(rows.into_iter().next().unwrap_or_default()).parse(1)
}

/// Drops the slot, if there is one of the name.
pub(crate) async fn drop(client: &mut AnyClient, name: &str) -> Result<bool, Error> {
    if fetch(client, name).await?.is_none() {
        return Ok(false);
    }
    take_over(client, name).await?;
    client
        .query(
            &format!("drop replication slot \"{name}\""),
            &format!("SELECT pg_drop_replication_slot({})", sql::literal(name)),
        )
        .await?;
    Ok(true)
}

/// How long a terminated walsender may take to let go of the slot.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes sure that nobody reads from the slot. A walsender of ours is stale, because whoever starts
/// here has fenced its owner already: it is terminated. Anybody else is left alone.
///
/// # Errors
///
/// Transient: whoever uses the slot may leave it.
pub(crate) async fn take_over<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    name: &str,
) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + RELEASE_TIMEOUT;
    loop {
        let active_pid = fetch(client, name).await?.and_then(|slot| slot.active_pid);
        let Some(pid) = active_pid else {
            return Ok(());
        };
        terminate_ours(client, name, pid).await?;
        if tokio::time::Instant::now() > deadline {
            return Err(Error::transient(format!(
                "replication slot \"{name}\" is still held by process {pid}, a former connection of ours that was told to end"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn terminate_ours<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    name: &str,
    pid: i32,
) -> Result<(), Error> {
    let holder = client
        .query(
            "find out who uses the replication slot",
            &format!(
                "SELECT application_name, usename, usename = current_user \
                 FROM pg_catalog.pg_stat_activity WHERE pid = {pid}"
            ),
        )
        .await?;
    let Some(holder) = holder.into_iter().next().map(Row) else {
        return Ok(());
    };
    let application = holder.optional(0).unwrap_or("unknown");
    let user = holder.optional(1).unwrap_or("unknown");
    let same_user = holder.optional(2) == Some("t");
    if application != APPLICATION_NAME || !same_user {
        return Err(Error::Transient {
            message: format!(
                "replication slot \"{name}\" is in use by process {pid} (application \"{application}\", user \"{user}\")"
            ),
            hint: Some(format!(
                "stop the other reader, or SELECT pg_terminate_backend({pid}); or choose another slot.name"
            )),
        });
    }
    client
        .query(
            "end a former connection of ours",
            &format!("SELECT pg_terminate_backend({pid})"),
        )
        .await?;
    Ok(())
}
