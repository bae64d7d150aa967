//! Tasks as they are wanted. Every write takes the task's row lock, raises its version and puts the
//! new record into the outbox, all in the caller's transaction.

use hutong_transport::names::{Cluster, TASK_PARTITIONS, partition_of};
use hutong_transport::record::{Record, TargetState, TaskKind, TaskRecord, VERSION, task_key};
use serde_json::Value;
use sqlx::PgConnection;

use super::outbox;
use crate::error::Error;

/// A task as it shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Whose it is.
    pub(crate) owner: &'a str,
    /// Where it runs.
    pub(crate) location: &'a str,
    /// The connector that it belongs to; for a processor, its own id.
    pub(crate) connector: &'a str,
    /// What it does.
    pub(crate) kind: TaskKind,
    /// What is wanted of it.
    pub(crate) target: TargetState,
    /// What only its kind understands.
    pub(crate) config: &'a Value,
    /// The input of a processor.
    pub(crate) source_topic: Option<&'a str>,
}

/// A stored task.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Row {
    /// Its id.
    pub(crate) id: String,
    /// Where it runs.
    pub(crate) location: String,
    /// Its version.
    pub(crate) version: i64,
    /// The version with which this task began.
    pub(crate) first_version: i64,
}

#[derive(sqlx::FromRow)]
struct Stored {
    id: String,
    owner: String,
    location: String,
    connector: String,
    kind: String,
    version: i64,
    restart: i64,
    target: String,
    config: Option<Value>,
}

/// Returns the id of a connector's task. Processors' ids hold a topic and so a dot, which no
/// connector's name does.
pub(crate) fn connector_task(connector: &str) -> String {
    format!("{connector}-0")
}

/// Returns the id of the task that computes views over a partition of a table's topic.
pub(crate) fn processor_task(topic: &str, partition: i32) -> String {
    format!("view-{topic}-{partition}")
}

/// Makes a task, or gives it its next version.
pub(crate) async fn write(
    db: &mut PgConnection,
    cluster: &Cluster,
    wanted: Wanted<'_>,
) -> Result<(), Error> {
    let stored: Stored = sqlx::query_as(
        "insert into task as t
            (id, owner, location, connector, kind, version, first_version, target, config, source_topic)
         values ($1, $2, $3, $4, $5, 1, 1, $6, $7, $8)
         on conflict (id) do update set
            version = t.version + 1,
            first_version = case when t.config is null then t.version + 1 else t.first_version end,
            restart = case when t.config is null then 0 else t.restart end,
            owner = excluded.owner, location = excluded.location, connector = excluded.connector,
            kind = excluded.kind, target = excluded.target, config = excluded.config,
            source_topic = excluded.source_topic
         returning id, owner, location, connector, kind, version, restart, target, config",
    )
    .bind(wanted.id)
    .bind(wanted.owner)
    .bind(wanted.location)
    .bind(wanted.connector)
    .bind(word(wanted.kind)?)
    .bind(word(wanted.target)?)
    .bind(wanted.config)
    .bind(wanted.source_topic)
    .fetch_one(&mut *db)
    .await?;
    publish(db, cluster, &stored).await
}

/// Changes what is wanted of a task.
pub(crate) async fn set_target(
    db: &mut PgConnection,
    cluster: &Cluster,
    id: &str,
    target: TargetState,
) -> Result<(), Error> {
    let stored: Option<Stored> = sqlx::query_as(
        "update task set target = $2, version = version + 1 where id = $1 and config is not null
         returning id, owner, location, connector, kind, version, restart, target, config",
    )
    .bind(id)
    .bind(word(target)?)
    .fetch_optional(&mut *db)
    .await?;
    publish_if(db, cluster, stored).await
}

/// Starts a task again as it is.
pub(crate) async fn restart(
    db: &mut PgConnection,
    cluster: &Cluster,
    id: &str,
) -> Result<(), Error> {
    let stored: Option<Stored> = sqlx::query_as(
        "update task set restart = restart + 1, version = version + 1
         where id = $1 and config is not null
         returning id, owner, location, connector, kind, version, restart, target, config",
    )
    .bind(id)
    .fetch_optional(&mut *db)
    .await?;
    publish_if(db, cluster, stored).await
}

/// Lets the worker forget all that the processors of a table's topic have, as no view is left that
/// wants them. Their rows are removed once it says that it has. Repeating it changes nothing.
pub(crate) async fn end_processors(
    db: &mut PgConnection,
    cluster: &Cluster,
    topic: &str,
) -> Result<(), Error> {
    let ended: Vec<Stored> = sqlx::query_as(
        "update task set target = $2, version = version + 1
         where source_topic = $1 and config is not null and target <> $2
         returning id, owner, location, connector, kind, version, restart, target, config",
    )
    .bind(topic)
    .bind(word(TargetState::Deleted)?)
    .fetch_all(&mut *db)
    .await?;
    for stored in &ended {
        publish(db, cluster, stored).await?;
    }
    Ok(())
}

/// Removes a task. Its row and version stay.
pub(crate) async fn remove(
    db: &mut PgConnection,
    cluster: &Cluster,
    id: &str,
) -> Result<(), Error> {
    let stored: Option<Stored> = sqlx::query_as(
        "update task set config = null, version = version + 1 where id = $1 and config is not null
         returning id, owner, location, connector, kind, version, restart, target, config",
    )
    .bind(id)
    .fetch_optional(&mut *db)
    .await?;
    publish_if(db, cluster, stored).await
}

/// Makes a task's version higher than one that was found in its topic, and publishes the task
/// again. A task that nobody wants is ended, and its version remembered for whoever takes its id. The
/// topic knows more than the store only after the store was restored from a backup.
pub(crate) async fn raise(
    db: &mut PgConnection,
    cluster: &Cluster,
    found: &TaskRecord,
    location: &str,
) -> Result<Raised, Error> {
    let found_version = i64::try_from(found.version).unwrap_or(i64::MAX - 1);
    let known: Option<(i64, Option<Value>)> =
        sqlx::query_as("select version, config from task where id = $1 for update")
            .bind(&found.task)
            .fetch_optional(&mut *db)
            .await?;
    match known {
        Some((version, Some(_))) => {
            let unpublished: bool = sqlx::query_scalar(
                "select exists (select from outbox where key = $1 and published_at is null)",
            )
            .bind(task_key(&found.task))
            .fetch_one(&mut *db)
            .await?;
            // Equal is what an orderly end leaves behind. Equal while a record waits to be published
            // is a lost mark, or a restored store that has counted up to here again: raising is
            // harmless in the first case and needed in the second.
            if version > found_version || (version == found_version && !unpublished) {
                return Ok(Raised::Nothing);
            }
            let stored: Stored = sqlx::query_as(
                "update task set version = $2 + 1 where id = $1
                 returning id, owner, location, connector, kind, version, restart, target, config",
            )
            .bind(&found.task)
            .bind(found_version)
            .fetch_one(&mut *db)
            .await?;
            publish(db, cluster, &stored).await?;
            Ok(Raised::Version)
        }
        Some((version, None)) => {
            if version <= found_version {
                sqlx::query("update task set version = $2 + 1 where id = $1")
                    .bind(&found.task)
                    .bind(found_version)
                    .execute(&mut *db)
                    .await?;
            }
            end(db, cluster, location, found).await?;
            Ok(Raised::Ended)
        }
        None => {
            sqlx::query(
                "insert into task (id, owner, location, connector, kind, version, first_version,
                                   target)
                 values ($1, 'platform', $2, $3, $4, $5, $5, 'deleted') on conflict do nothing",
            )
            .bind(&found.task)
            .bind(location)
            .bind(&found.connector)
            .bind(word(found.kind)?)
            .bind(found_version)
            .execute(&mut *db)
            .await?;
            end(db, cluster, location, found).await?;
            Ok(Raised::Ended)
        }
    }
}

/// What was done about a task that was found in the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raised {
    /// Nothing: the store is at least as new.
    Nothing,
    /// The task got a version above that in the topic.
    Version,
    /// Nobody wants the task, as far as the store knows, so workers are told to end it.
    Ended,
}

/// Takes a task out of the topic. Without this it would run on, and no API could stop it.
async fn end(
    db: &mut PgConnection,
    cluster: &Cluster,
    location: &str,
    found: &TaskRecord,
) -> Result<(), Error> {
    let new = outbox::New {
        owner: crate::caller::PLATFORM,
        topic: &cluster.tasks(location),
        partition: Some(partition_of(found.task.as_bytes(), TASK_PARTITIONS)),
        key: &task_key(&found.task),
        value: None,
    };
    outbox::add(db, new).await
}

/// Returns the tasks whose removal is wanted.
pub(crate) async fn deleting(db: &mut PgConnection) -> Result<Vec<(String, Row)>, Error> {
    #[derive(sqlx::FromRow)]
    struct Of {
        connector: String,
        #[sqlx(flatten)]
        row: Row,
    }
    let rows: Vec<Of> = sqlx::query_as(
        "select connector, id, location, version, first_version from task
         where target = 'deleted' and config is not null",
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|of| (of.connector, of.row)).collect())
}

/// Returns a task.
pub(crate) async fn get(db: &mut PgConnection, id: &str) -> Result<Option<Row>, Error> {
    let row = sqlx::query_as(
        "select id, location, version, first_version from task
         where id = $1 and config is not null",
    )
    .bind(id)
    .fetch_optional(db)
    .await?;
    Ok(row)
}

/// Returns those of the tasks that there are.
pub(crate) async fn get_all(db: &mut PgConnection, ids: &[String]) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as(
        "select id, location, version, first_version from task
         where id = any($1) and config is not null order by id",
    )
    .bind(ids)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns the processors of a table's topic, by partition, but for those that are to forget it.
pub(crate) async fn processors(db: &mut PgConnection, topic: &str) -> Result<Vec<Row>, Error> {
    let rows = sqlx::query_as(
        "select id, location, version, first_version from task
         where source_topic = $1 and config is not null and target <> 'deleted'
         order by (config ->> 'partition')::integer",
    )
    .bind(topic)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

async fn publish_if(
    db: &mut PgConnection,
    cluster: &Cluster,
    stored: Option<Stored>,
) -> Result<(), Error> {
    match stored {
        Some(stored) => publish(db, cluster, &stored).await,
        None => Ok(()),
    }
}

/// Puts the task's record, or its tombstone, into the outbox.
async fn publish(db: &mut PgConnection, cluster: &Cluster, stored: &Stored) -> Result<(), Error> {
    let unreadable = |source| Error::Stored {
        what: format!("task {}", stored.id),
        source,
    };
    let value = match &stored.config {
        None => None,
        Some(config) => {
            let record = TaskRecord {
                v: VERSION,
                task: stored.id.clone(),
                connector: stored.connector.clone(),
                version: stored.version.unsigned_abs(),
                kind: from_word(&stored.kind).map_err(unreadable)?,
                target: from_word(&stored.target).map_err(unreadable)?,
                restart: stored.restart.unsigned_abs(),
                config: config.clone(),
            };
            Some(String::from_utf8(record.encode()).expect("JSON is UTF-8"))
        }
    };
    let new = outbox::New {
        owner: &stored.owner,
        topic: &cluster.tasks(&stored.location),
        partition: Some(partition_of(stored.id.as_bytes(), TASK_PARTITIONS)),
        key: &task_key(&stored.id),
        value: value.as_deref(),
    };
    outbox::add(db, new).await
}

/// Returns the word under which an enum of the records is stored, the same as in the records.
pub(crate) fn word<T: serde::Serialize>(value: T) -> Result<String, Error> {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => Ok(word),
        Ok(other) => unreachable!("the records' enums are words, not {other}"),
        Err(source) => Err(Error::Stored {
            what: "an enum".to_owned(),
            source,
        }),
    }
}

/// Reads such a word.
pub(crate) fn from_word<T: serde::de::DeserializeOwned>(
    word: &str,
) -> Result<T, serde_json::Error> {
    serde_json::from_value(Value::String(word.to_owned()))
}
