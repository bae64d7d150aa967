//! A source's offsets: one, the place in the database's log.

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::secret::Secret;
use hutong_connectors_postgres::source;
use hutong_schemas::position::Lsn;
use hutong_transport::producer::Transaction;
use serde_json::{Map, Value, json};

use super::{Action, Asked, PartitionOffset};
use crate::source_loop;
use crate::task::{TaskContext, TaskError};

/// What Debezium keeps beside the place in the log. We have no use for it; a copied offset may have it.
const IGNORED: [&str; 8] = [
    "lsn_proc",
    "lsn_commit",
    "txId",
    "ts_usec",
    "ts_ms",
    "messageType",
    "xmin",
    "last_snapshot_record",
];

pub(super) async fn carry_out(ctx: &TaskContext, asked: &Asked) -> Result<Value, TaskError> {
    let mut config = source_loop::parse(ctx)?;
    let password = ctx.secrets.unlock(&mut config.connection)?;
    let server = config.topic_prefix.clone();
    let wanted = match asked.action {
        Action::Get => Wanted::Nothing,
        Action::Reset => Wanted::Beginning,
        Action::Alter => wanted(&asked.offsets, &server)?,
    };
    let owner = source::owner(&config, password.clone()).await?;
    let (producer, positions) = ctx.start_producer(&owner).await?;
    let write = |sub: &str, value| ctx.position_write(&owner, sub.to_owned(), value);
    let stored = positions.get("");
    let (writes, position) = match wanted {
        Wanted::Nothing => (Vec::new(), stored.cloned()),
        Wanted::At(lsn) => {
            let moved = move_to(config, password, stored, lsn).await?;
            (vec![write("", Some(moved.clone()))], Some(moved))
        }
        Wanted::Beginning => {
            let dropped = source::drop_owned(config, password, stored).await?;
            tracing::info!(task = ctx.task.task, ?dropped, "a source begins anew");
            let writes = positions.keys().map(|sub| write(sub, None));
            (writes.collect(), None)
        }
    };
    if !writes.is_empty() {
        let transaction = Transaction {
            positions: writes,
            ..Transaction::default()
        };
        producer.commit(transaction).await?;
        tracing::info!(
            task = ctx.task.task,
            owner,
            "offsets of a source were changed"
        );
    }
    producer.close().await;
    Ok(match position {
        Some(position) => json!([{"partition": {"server": server}, "offset": position}]),
        None => json!([]),
    })
}

async fn move_to(
    config: Config,
    password: Option<Secret>,
    stored: Option<&Value>,
    lsn: Lsn,
) -> Result<Value, TaskError> {
    let Some(stored) = stored else {
        return Err(TaskError::definite(
            "the connector has not read anything yet, so there is no offset that could be altered",
        ));
    };
    Ok(source::moved(config, password, stored, lsn).await?)
}

/// What is asked for, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    Beginning,
    At(Lsn),
}

fn wanted(offsets: &[PartitionOffset], server: &str) -> Result<Wanted, TaskError> {
    let [one] = offsets else {
        return Err(TaskError::definite(format!(
            "a PostgreSQL source has one partition, {{\"server\": \"{server}\"}}, and {} were given",
            offsets.len()
        )));
    };
    let is_ours =
        one.partition.len() == 1 && one.partition.get("server").is_some_and(|s| s == server);
    if !is_ours {
        return Err(TaskError::definite(format!(
            "the partition of this source is {{\"server\": \"{server}\"}}, not {}",
            Value::from(one.partition.clone())
        )));
    }
    match &one.offset {
        None => Ok(Wanted::Beginning),
        Some(offset) => lsn(offset).map(Wanted::At),
    }
}

/// Reads the place from an offset: a number as Debezium has it, or PostgreSQL's text.
fn lsn(offset: &Map<String, Value>) -> Result<Lsn, TaskError> {
    if let Some(unknown) = offset
        .keys()
        .find(|key| *key != "lsn" && !IGNORED.contains(&key.as_str()))
    {
        return Err(TaskError::definite(format!(
            "\"{unknown}\" cannot be altered: the offset of a PostgreSQL source is {{\"lsn\": …}}"
        )));
    }
    let found = match offset.get("lsn") {
        Some(Value::Number(number)) => number.as_u64().map(Lsn),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    found.ok_or_else(|| {
        TaskError::definite(
            "the offset of a PostgreSQL source needs \"lsn\": a number, or text such as \"16/B374D848\"",
        )
    })
}

#[cfg(test)]
mod tests {
    use hutong_schemas::position::Lsn;
    use serde_json::{Value, json};

    use super::{Wanted, wanted};
    use crate::offsets::Asked;

    #[track_caller]
    fn check(offsets: Value, expected: Result<Wanted, &str>) {
        let asked = json!({"task": "rk-0", "action": "alter", "offsets": offsets});
        let asked: Asked = serde_json::from_value(asked).unwrap();
        match (wanted(&asked.offsets, "rk"), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(part)) => assert!(error.message.contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn an_offset_is_a_place_in_the_log_as_debezium_or_as_postgresql_writes_it() {
        let rk = json!({"server": "rk"});
        let at = |offset: Value| json!([{"partition": rk, "offset": offset}]);
        check(at(json!({"lsn": 258})), Ok(Wanted::At(Lsn(258))));
        check(at(json!({"lsn": "0/102"})), Ok(Wanted::At(Lsn(258))));
        let copied = json!({"lsn": 258, "lsn_proc": 258, "txId": 7, "ts_usec": 1});
        check(at(copied), Ok(Wanted::At(Lsn(258))));
        check(at(Value::Null), Ok(Wanted::Beginning));
        check(at(json!({})), Err("needs \"lsn\""));
        check(at(json!({"lsn": -1})), Err("needs \"lsn\""));
        check(at(json!({"lsn": "there"})), Err("needs \"lsn\""));
        check(
            at(json!({"lsn": 1, "made": {}})),
            Err("\"made\" cannot be altered"),
        );
        check(json!([]), Err("0 were given"));
        let other = json!([{"partition": {"server": "x"}, "offset": {"lsn": 1}}]);
        check(
            other,
            Err("is {\"server\": \"rk\"}, not {\"server\":\"x\"}"),
        );
    }
}
