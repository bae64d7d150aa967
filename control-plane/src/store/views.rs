//! Views as they are wanted.

use hutong_policies::{ViewDocument, ViewState, ViewTask};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::error::Error;

/// A view.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct View {
    /// Its name.
    pub(crate) name: String,
    /// Who gives it.
    pub(crate) owner: String,
    /// Who receives it.
    pub(crate) subscriber: String,
    /// Its state.
    pub(crate) state: String,
    /// Why it is not live: `revoked` or `expired`.
    pub(crate) reason: Option<String>,
    /// The document as it was posted.
    pub(crate) document: Json<ViewDocument>,
    /// What processors get, as of the compilation; version and state are the row's.
    pub(crate) compiled: Json<ViewTask>,
    /// The table's topic.
    pub(crate) source_topic: String,
    /// The id of that topic.
    pub(crate) source_topic_id: String,
    /// Where it is computed.
    pub(crate) location: String,
    /// The partitions of the table's topic, and so of its own.
    pub(crate) partitions: i32,
    /// The policy's version.
    pub(crate) version: i64,
    /// The generation of its topic.
    pub(crate) generation: i64,
    /// When it ends by itself, in milliseconds since 1970.
    pub(crate) valid_until_ms: Option<i64>,
    /// Who may read its topic.
    pub(crate) kafka_principal: Option<String>,
    /// Whether that was granted and not taken away.
    pub(crate) acl_granted: bool,
    /// When it was made, in milliseconds since 1970.
    pub(crate) created_at_ms: i64,
    /// When it was revoked or expired, in milliseconds since 1970.
    pub(crate) revoked_at_ms: Option<i64>,
}

impl View {
    /// Returns whether it delivers.
    pub(crate) fn is_live(&self) -> bool {
        self.state == LIVE
    }

    /// Returns what processors get.
    pub(crate) fn task(&self) -> ViewTask {
        let mut task = self.compiled.0.clone();
        task.version = self.version.unsigned_abs();
        task.state = if self.is_live() {
            ViewState::Live
        } else {
            ViewState::Revoked
        };
        task
    }
}

/// It delivers.
pub(crate) const LIVE: &str = "live";
/// It was taken back; processors and sinks are being told, its topic still exists.
pub(crate) const REVOKED: &str = "revoked";
/// Its topic is gone. The row stays, so that its generation is never used again.
pub(crate) const GONE: &str = "gone";

const COLUMNS: &str = "name, owner, subscriber, state, reason, document, compiled, source_topic,
    source_topic_id, location, partitions, version, generation, valid_until_ms, kafka_principal, acl_granted,
    (extract(epoch from created_at) * 1000)::bigint as created_at_ms,
    (extract(epoch from revoked_at) * 1000)::bigint as revoked_at_ms";

fn select(rest: &str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("select {COLUMNS} from view {rest}"))
}

/// Returns a view, one that is gone too.
pub(crate) async fn get(db: &mut PgConnection, name: &str) -> Result<Option<View>, Error> {
    let row = sqlx::query_as(select("where name = $1"))
        .bind(name)
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// Returns the views that an organisation gives or receives, or all, by name.
pub(crate) async fn list(
    db: &mut PgConnection,
    organisation: Option<&str>,
) -> Result<Vec<View>, Error> {
    let rest = "where $1::text is null or owner = $1 or subscriber = $1 order by name";
    let rows = sqlx::query_as(select(rest))
        .bind(organisation)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Returns the views over a table's topic that processors must know of, by name.
pub(crate) async fn of_topic(db: &mut PgConnection, topic: &str) -> Result<Vec<View>, Error> {
    let rows = sqlx::query_as(select(
        "where source_topic = $1 and state <> 'gone' order by name",
    ))
    .bind(topic)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns what is left to do: live views that have ended or have no grant, and views whose grant or
/// topic is to be removed.
pub(crate) async fn unsettled(db: &mut PgConnection) -> Result<Vec<View>, Error> {
    let rest = "where state = 'revoked'
        or (state <> 'live' and acl_granted)
        or (state = 'live' and kafka_principal is not null and not acl_granted)
        or (state = 'live' and valid_until_ms <= (extract(epoch from now()) * 1000)::bigint)
        order by name";
    let rows = sqlx::query_as(select(rest)).fetch_all(db).await?;
    Ok(rows)
}

/// Makes a view, or makes one that is gone anew.
pub(crate) async fn write(db: &mut PgConnection, view: &View) -> Result<(), Error> {
    sqlx::query(
        "insert into view (name, owner, subscriber, state, document, compiled, source_topic,
                           location, partitions, version, generation, valid_until_ms,
                           kafka_principal, source_topic_id)
         values ($1, $2, $3, 'live', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         on conflict (name) do update set
            owner = excluded.owner, subscriber = excluded.subscriber, state = 'live', reason = null,
            document = excluded.document, compiled = excluded.compiled,
            source_topic = excluded.source_topic, source_topic_id = excluded.source_topic_id,
            location = excluded.location, partitions = excluded.partitions,
            version = excluded.version, generation = excluded.generation,
            valid_until_ms = excluded.valid_until_ms, kafka_principal = excluded.kafka_principal,
            acl_granted = false, created_at = now(), revoked_at = null",
    )
    .bind(&view.name)
    .bind(&view.owner)
    .bind(&view.subscriber)
    .bind(&view.document)
    .bind(&view.compiled)
    .bind(&view.source_topic)
    .bind(&view.location)
    .bind(view.partitions)
    .bind(view.version)
    .bind(view.generation)
    .bind(view.valid_until_ms)
    .bind(&view.kafka_principal)
    .bind(&view.source_topic_id)
    .execute(db)
    .await?;
    Ok(())
}

/// Takes a live view back, under its next version.
pub(crate) async fn revoke(db: &mut PgConnection, name: &str, reason: &str) -> Result<(), Error> {
    sqlx::query(
        "update view set state = 'revoked', reason = $2, version = version + 1, revoked_at = now()
         where name = $1 and state = 'live'",
    )
    .bind(name)
    .bind(reason)
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that a revoked view's topic is gone.
pub(crate) async fn set_gone(db: &mut PgConnection, name: &str) -> Result<(), Error> {
    sqlx::query("update view set state = 'gone' where name = $1 and state = 'revoked'")
        .bind(name)
        .execute(db)
        .await?;
    Ok(())
}

/// Notes whether the subscriber may read the view's topic. The generation guards against noting it
/// of a successor.
pub(crate) async fn set_acl(
    db: &mut PgConnection,
    view: &View,
    granted: bool,
) -> Result<(), Error> {
    sqlx::query("update view set acl_granted = $3 where name = $1 and generation = $2")
        .bind(&view.name)
        .bind(view.generation)
        .bind(granted)
        .execute(db)
        .await?;
    Ok(())
}

/// Sets who reads topics of the live views given to an organisation; false, and nothing is changed,
/// if another principal may read one now.
pub(crate) async fn set_principal(
    db: &mut PgConnection,
    subscriber: &str,
    principal: Option<&str>,
) -> Result<bool, Error> {
    let taken: bool = sqlx::query_scalar(
        "select exists (select from view where subscriber = $1 and acl_granted
                        and kafka_principal is distinct from $2)",
    )
    .bind(subscriber)
    .bind(principal)
    .fetch_one(&mut *db)
    .await?;
    if !taken {
        sqlx::query(
            "update view set kafka_principal = $2
             where subscriber = $1 and state = 'live' and not acl_granted",
        )
        .bind(subscriber)
        .bind(principal)
        .execute(db)
        .await?;
    }
    Ok(!taken)
}
