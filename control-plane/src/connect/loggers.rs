//! Tells all workers how much to log.
//!
//! A worker reads only the partitions of the tasks topic that it owns, so the same request goes into
//! each of them, followed at once by its tombstone: who follows the topic now takes it up, who starts
//! later does not, as Kafka Connect's `scope=cluster` says. A worker without any partition runs no
//! task and is not told. Other replicas of the control plane are not told either: ask them.

use hutong_logging::Level;
use hutong_transport::names::TASK_PARTITIONS;
use hutong_transport::record::{Record, RequestKind, RequestRecord, VERSION, request_key};
use serde_json::json;
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::error::Error;
use crate::requests::ANSWER_TIME;
use crate::store::outbox;

/// Puts the level into the outbox for every worker of every location.
pub(crate) async fn tell_workers(
    app: &App,
    caller: &Caller,
    logger: &str,
    level: Level,
) -> Result<(), Error> {
    let request = Uuid::new_v4().to_string();
    let time_ms = i64::try_from(ANSWER_TIME.as_millis()).unwrap_or(i64::MAX);
    let record = RequestRecord {
        v: VERSION,
        request: request.clone(),
        deadline_ms: crate::now_ms().saturating_add(time_ms),
        kind: RequestKind::Levels,
        config: json!({"logger": logger, "level": level.as_str()}),
    };
    let value = String::from_utf8(record.encode()).expect("JSON is UTF-8");
    let mut tx = app.store.begin().await?;
    for location in &app.locations {
        for value in [Some(value.as_str()), None] {
            let new = outbox::New {
                owner: &caller.owner,
                topic: &app.cluster.tasks(location),
                partition: None,
                key: &request_key(&request),
                value,
            };
            outbox::add_to_all(&mut tx, new, TASK_PARTITIONS).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}
