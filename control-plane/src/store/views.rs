//! Views as they are wanted.

use std::collections::BTreeMap;

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
    /// Whether that may have been granted and was not taken away: noted before the grant is made.
    pub(crate) acl_granted: bool,
    /// Whether the grant was made for certain.
    pub(crate) acl_confirmed: bool,
    /// Columns whose values, in generations since `withdrawn_since`, must be nowhere any more.
    pub(crate) withdrawn: Json<Vec<String>>,
    /// Whether keys in a generation since `withdrawn_since` are others than now.
    pub(crate) rekeyed: bool,
    /// The generation up to which every sink was known to have forgotten what was withdrawn.
    pub(crate) withdrawn_since: i64,
    /// Whether the generation is being filled in place of a former one.
    pub(crate) is_refilling: bool,
    /// Where the generation's first fill ended, by partition, once known.
    pub(crate) fill_ends: Option<Json<BTreeMap<i32, i64>>>,
    /// Whether the generation is being closed, so that nobody may be granted its topic.
    pub(crate) is_closing: bool,
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
    acl_confirmed, withdrawn, rekeyed, withdrawn_since, is_refilling, fill_ends,
    coalesce(closing_at > now() - interval '1 minute', false) as is_closing,
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

/// Returns what is left to do: live views that have ended, have no grant or are being filled anew,
/// and views whose grant or topic is to be removed. A generation is closed within a minute, or was
/// not: then it is open again.
pub(crate) async fn unsettled(db: &mut PgConnection) -> Result<Vec<View>, Error> {
    let rest = "where state = 'revoked'
        or (state <> 'live' and acl_granted)
        or (state = 'live' and kafka_principal is not null and not acl_confirmed
            and coalesce(closing_at < now() - interval '1 minute', true))
        or (state = 'live' and is_refilling)
        or (state = 'live' and valid_until_ms <= (extract(epoch from now()) * 1000)::bigint)
        order by name";
    let rows = sqlx::query_as(select(rest)).fetch_all(db).await?;
    Ok(rows)
}

/// Makes a view, makes one that is gone anew, or gives one another generation.
pub(crate) async fn write(db: &mut PgConnection, view: &View) -> Result<(), Error> {
    sqlx::query(
        "insert into view (name, owner, subscriber, state, document, compiled, source_topic,
                           location, partitions, version, generation, valid_until_ms,
                           kafka_principal, source_topic_id, share, withdrawn, rekeyed,
                           withdrawn_since, is_refilling)
         values ($1, $2, $3, 'live', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
         on conflict (name) do update set
            owner = excluded.owner, subscriber = excluded.subscriber, state = 'live', reason = null,
            document = excluded.document, compiled = excluded.compiled,
            source_topic = excluded.source_topic, source_topic_id = excluded.source_topic_id,
            location = excluded.location, partitions = excluded.partitions,
            version = excluded.version, generation = excluded.generation,
            valid_until_ms = excluded.valid_until_ms, kafka_principal = excluded.kafka_principal,
            share = excluded.share, withdrawn = excluded.withdrawn, rekeyed = excluded.rekeyed,
            withdrawn_since = excluded.withdrawn_since, is_refilling = excluded.is_refilling,
            created_at = case when view.state = 'live' then view.created_at else now() end,
            fill_ends = null, closing_at = null, acl_granted = false, acl_confirmed = false, revoked_at = null",
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
    .bind(&view.document.share)
    .bind(&view.withdrawn)
    .bind(view.rekeyed)
    .bind(view.withdrawn_since)
    .bind(view.is_refilling)
    .execute(db)
    .await?;
    Ok(())
}

/// Changes a live view within its generation.
pub(crate) async fn change(db: &mut PgConnection, view: &View) -> Result<(), Error> {
    sqlx::query(
        "update view set document = $2, compiled = $3, version = $4, valid_until_ms = $5
         where name = $1 and state = 'live'",
    )
    .bind(&view.name)
    .bind(&view.document)
    .bind(&view.compiled)
    .bind(view.version)
    .bind(view.valid_until_ms)
    .execute(db)
    .await?;
    Ok(())
}

/// Begins to close a live view's generation, or gives that up: while it closes nobody is granted its
/// topic.
pub(crate) async fn set_closing(
    db: &mut PgConnection,
    view: &View,
    closing: bool,
) -> Result<(), Error> {
    sqlx::query(
        "update view set closing_at = case when $3 then now() end, acl_confirmed = false
         where name = $1 and generation = $2 and state = 'live'",
    )
    .bind(&view.name)
    .bind(view.generation)
    .bind(closing)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns live views that hide a key or hash a column, of shares whose secret is not known yet.
pub(crate) async fn without_fingerprint(db: &mut PgConnection) -> Result<Vec<View>, Error> {
    let rest = "where state = 'live' and compiled ->> 'secret_fingerprint' is null
        and (compiled ->> 'needs_secret')::boolean order by name";
    let rows = sqlx::query_as(select(rest)).fetch_all(db).await?;
    Ok(rows)
}

/// Puts a share's known fingerprint into its live views of that key version, and returns the topics
/// of their tables.
pub(crate) async fn take_fingerprint(
    db: &mut PgConnection,
    owner: &str,
    share: &str,
) -> Result<Vec<String>, Error> {
    let mut topics: Vec<String> = sqlx::query_scalar(
        "update view v
         set compiled = jsonb_set(compiled, '{secret_fingerprint}', to_jsonb(s.secret_fingerprint))
         from share s
         where s.owner = $1 and s.name = $2 and s.secret_fingerprint is not null
           and v.owner = s.owner and v.share = s.name and v.state = 'live'
           and (v.compiled ->> 'needs_secret')::boolean
           and (v.compiled ->> 'share_key_version')::integer = s.key_version
           and v.compiled ->> 'secret_fingerprint' is distinct from s.secret_fingerprint
         returning v.source_topic",
    )
    .bind(owner)
    .bind(share)
    .fetch_all(db)
    .await?;
    topics.sort();
    topics.dedup();
    Ok(topics)
}

/// Notes where the first fill of a generation has ended.
pub(crate) async fn set_fill_ends(
    db: &mut PgConnection,
    view: &View,
    ends: &BTreeMap<i32, i64>,
) -> Result<(), Error> {
    sqlx::query(
        "update view set fill_ends = $3, is_refilling = false where name = $1 and generation = $2",
    )
    .bind(&view.name)
    .bind(view.generation)
    .bind(Json(ends))
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

/// Notes that the subscriber's principal is about to be granted the view's topic. False, and nothing
/// is noted, if the view has another generation or principal by now, or is being closed.
pub(crate) async fn begin_grant(db: &mut PgConnection, view: &View) -> Result<bool, Error> {
    let done = sqlx::query(
        "update view set acl_granted = true
         where name = $1 and generation = $2 and kafka_principal = $3 and state = 'live'
           and coalesce(closing_at < now() - interval '1 minute', true)",
    )
    .bind(&view.name)
    .bind(view.generation)
    .bind(&view.kafka_principal)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that the grant was made. The generation guards against noting it of a successor.
pub(crate) async fn confirm_grant(db: &mut PgConnection, view: &View) -> Result<(), Error> {
    sqlx::query(
        "update view set acl_confirmed = true
         where name = $1 and generation = $2 and kafka_principal = $3 and state = 'live'
           and acl_granted and coalesce(closing_at < now() - interval '1 minute', true)",
    )
    .bind(&view.name)
    .bind(view.generation)
    .bind(&view.kafka_principal)
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that the grant was taken away.
pub(crate) async fn end_grant(db: &mut PgConnection, view: &View) -> Result<(), Error> {
    sqlx::query(
        "update view set acl_granted = false, acl_confirmed = false
         where name = $1 and generation = $2 and state <> 'live'",
    )
    .bind(&view.name)
    .bind(view.generation)
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
