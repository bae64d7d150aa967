//! Moving a source's stored position by hand, while nothing streams.
//!
//! The server sends again what its slot has not been told to be done, and nothing before. So a
//! position may go forward, which skips changes, up to the end of the log; and back as far as the
//! slot's confirmed place, which sends changes a second time.

use std::sync::Arc;

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::secret::Secret;
use hutong_schemas::position::Lsn;
use serde_json::Value;

use super::error::Error;
use super::position::Position;
use super::side::Side;
use super::slot::{self, Slot};

/// Returns the stored position, moved: transactions whose commit lies before `lsn` count as done,
/// all later ones as not begun. Nothing is written.
///
/// # Errors
///
/// Definite, where the slot cannot go on there, or the tables are still being read; transient where
/// the server cannot be reached.
pub async fn moved(
    config: Config,
    password: Option<Secret>,
    stored: &Value,
    lsn: Lsn,
) -> Result<Value, Error> {
    let mut position = Position::parse(stored)?;
    let config = Arc::new(config);
    let mut side = Side::open(Arc::clone(&config), password).await?;
    let slot = slot::fetch(side.client().await?, &config.slot_name).await?;
    check(&config.slot_name, &position, slot.as_ref(), lsn)?;
    position.lsn = lsn;
    position.last_commit_lsn = None;
    position.partial = None;
    position.to_value()
}

fn check(name: &str, position: &Position, slot: Option<&Slot>, lsn: Lsn) -> Result<(), Error> {
    if position.preparing {
        return Err(Error::definite(
            "the stream has not begun",
            "resume the connector until its tables stream, or reset its offsets",
        ));
    }
    let Some(slot) = slot else {
        return Err(Error::definite(
            format!(
                "replication slot \"{name}\" does not exist, so nothing could be read from {lsn}"
            ),
            "reset the offsets: the tables are then read again through a new slot",
        ));
    };
    slot::check(name, slot)?;
    if let Some(confirmed) = slot.confirmed_flush.filter(|confirmed| lsn < *confirmed) {
        return Err(Error::definite(
            format!(
                "replication slot \"{name}\" stands at {confirmed}: the server does not send again what lies before, such as {lsn}"
            ),
            format!("choose {confirmed} or later, or reset the offsets"),
        ));
    }
    if lsn > slot.end_of_log {
        return Err(Error::definite(
            format!(
                "{lsn} lies behind the end of the server's log, {}",
                slot.end_of_log
            ),
            format!("choose {} or earlier", slot.end_of_log),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_at(lsn: &str, slot: Option<&Slot>, expected: &str) {
        let position = Position::new("7".to_owned(), 1, "0/500".parse().unwrap());
        let outcome = match check("s", &position, slot, lsn.parse().unwrap()) {
            Ok(()) => "goes on".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(outcome.contains(expected), "{outcome}");
    }

    #[test]
    fn a_position_moves_between_the_slot_and_the_end_of_the_log() {
        let slot = Slot {
            plugin: Some("pgoutput".to_owned()),
            in_this_database: true,
            active_pid: None,
            lost: false,
            confirmed_flush: Some(Lsn(0x400)),
            retained_bytes: None,
            end_of_log: Lsn(0x600),
        };
        check_at("0/400", Some(&slot), "goes on");
        check_at("0/600", Some(&slot), "goes on");
        check_at("0/3FF", Some(&slot), "stands at 0/400");
        check_at(
            "0/601",
            Some(&slot),
            "behind the end of the server's log, 0/600",
        );
        check_at("0/500", None, "does not exist");
    }
}
