//! Connectors as they are wanted, and what only one of them may have.

use std::collections::BTreeMap;

use hutong_transport::record::TargetState;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::tasks::word;
use crate::error::Error;

/// A connector.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Connector {
    /// Its name.
    pub(crate) name: String,
    /// Whose it is.
    pub(crate) owner: String,
    /// `source` or `sink`.
    pub(crate) kind: String,
    /// Its class.
    pub(crate) class: String,
    /// Where it runs.
    pub(crate) location: String,
    /// Its configuration as it was given, the name included.
    pub(crate) config: Json<BTreeMap<String, String>>,
    /// `running`, `paused`, `stopped` or `deleted`.
    pub(crate) target: String,
    /// When DELETE was asked for, in milliseconds since 1970.
    pub(crate) deleted_at_ms: Option<i64>,
}

const COLUMNS: &str = "name, owner, kind, class, location, config, target,
    (extract(epoch from deleted_at) * 1000)::bigint as deleted_at_ms";

fn select(rest: &str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("select {COLUMNS} from connector {rest}"))
}

/// Returns a connector, one that is being deleted too.
pub(crate) async fn get(db: &mut PgConnection, name: &str) -> Result<Option<Connector>, Error> {
    let row = sqlx::query_as(select("where name = $1"))
        .bind(name)
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// Returns the connectors of an owner, or all, that are not being deleted, by name.
pub(crate) async fn list(
    db: &mut PgConnection,
    owner: Option<&str>,
) -> Result<Vec<Connector>, Error> {
    let rest = "where target <> 'deleted' and ($1::text is null or owner = $1) order by name";
    let rows = sqlx::query_as(select(rest))
        .bind(owner)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Returns the connectors that are being deleted.
pub(crate) async fn list_deleting(
    db: &mut PgConnection,
    owner: Option<&str>,
) -> Result<Vec<Connector>, Error> {
    let rest = "where target = 'deleted' and ($1::text is null or owner = $1) order by name";
    let rows = sqlx::query_as(select(rest))
        .bind(owner)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Makes a connector, or replaces its configuration.
pub(crate) async fn write(db: &mut PgConnection, connector: &Connector) -> Result<(), Error> {
    sqlx::query(
        "insert into connector (name, owner, kind, class, location, config, target)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (name) do update set config = excluded.config, target = excluded.target",
    )
    .bind(&connector.name)
    .bind(&connector.owner)
    .bind(&connector.kind)
    .bind(&connector.class)
    .bind(&connector.location)
    .bind(&connector.config)
    .bind(&connector.target)
    .execute(db)
    .await?;
    Ok(())
}

/// Changes what is wanted of a connector.
pub(crate) async fn set_target(
    db: &mut PgConnection,
    name: &str,
    target: TargetState,
) -> Result<(), Error> {
    sqlx::query(
        "update connector set target = $2,
                deleted_at = case when $2 = 'deleted' then coalesce(deleted_at, now()) end
         where name = $1",
    )
    .bind(name)
    .bind(word(target)?)
    .execute(db)
    .await?;
    Ok(())
}

/// Removes a connector with its claims and inputs.
pub(crate) async fn remove(db: &mut PgConnection, name: &str) -> Result<(), Error> {
    sqlx::query("delete from connector where name = $1")
        .bind(name)
        .execute(db)
        .await?;
    Ok(())
}

/// Who has what a source connector wants for itself.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Claim {
    /// The connector that has it.
    pub(crate) connector: String,
    /// Whose that is.
    pub(crate) owner: String,
    /// Its topic prefix.
    pub(crate) topic_prefix: String,
    /// Its slot.
    pub(crate) slot: String,
}

/// Returns the claims of all source connectors but one. Two of the same prefix or slot cannot be,
/// by unique constraints; a prefix under another's is for the caller to find.
pub(crate) async fn claims_but(db: &mut PgConnection, name: &str) -> Result<Vec<Claim>, Error> {
    let rows = sqlx::query_as(
        "select connector, owner, topic_prefix, slot from source_claim where connector <> $1",
    )
    .bind(name)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Sets what a source connector has for itself.
pub(crate) async fn claim(db: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    sqlx::query(
        "insert into source_claim (connector, owner, topic_prefix, slot) values ($1, $2, $3, $4)
         on conflict (connector) do update
         set topic_prefix = excluded.topic_prefix, slot = excluded.slot",
    )
    .bind(&claim.connector)
    .bind(&claim.owner)
    .bind(&claim.topic_prefix)
    .bind(&claim.slot)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "insert into topic_prefix (prefix, owner) values ($1, $2) on conflict (prefix) do nothing",
    )
    .bind(&claim.topic_prefix)
    .bind(&claim.owner)
    .execute(&mut *db)
    .await?;
    // Subjects that the platform made before are those of topics that now have an owner.
    sqlx::query(
        "update subject set owner = $2 where view is null and starts_with(name, $1 || '.')",
    )
    .bind(&claim.topic_prefix)
    .bind(&claim.owner)
    .execute(db)
    .await?;
    Ok(())
}

/// Whose a topic prefix is, with all topics under it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Prefix {
    /// The prefix.
    pub(crate) prefix: String,
    /// Its owner.
    pub(crate) owner: String,
    /// Where the connector runs that uses it, if one does.
    pub(crate) location: Option<String>,
}

const PREFIX: &str = "select p.prefix, p.owner, c.location from topic_prefix p
     left join source_claim s on s.topic_prefix = p.prefix
     left join connector c on c.name = s.connector";

/// Returns the prefix under which a topic lies.
pub(crate) async fn prefix_of_topic(
    db: &mut PgConnection,
    topic: &str,
) -> Result<Option<Prefix>, Error> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{PREFIX} where starts_with($1, p.prefix || '.') order by length(p.prefix) desc limit 1"
    ));
    let row = sqlx::query_as(sql).bind(topic).fetch_optional(db).await?;
    Ok(row)
}

/// Returns the prefixes of all owners, or of one.
pub(crate) async fn prefixes(
    db: &mut PgConnection,
    owner: Option<&str>,
) -> Result<Vec<Prefix>, Error> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{PREFIX} where $1::text is null or p.owner = $1 order by p.prefix"
    ));
    let rows = sqlx::query_as(sql).bind(owner).fetch_all(db).await?;
    Ok(rows)
}

/// Forgets whose a prefix was.
pub(crate) async fn release(db: &mut PgConnection, prefix: &str) -> Result<(), Error> {
    sqlx::query("delete from topic_prefix where prefix = $1")
        .bind(prefix)
        .execute(db)
        .await?;
    Ok(())
}

/// An input of a sink.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(crate) struct Input {
    /// The topic, as the configuration names it.
    pub(crate) name: String,
    /// The view, if it is one.
    pub(crate) view: Option<String>,
    /// Else the id and partitions of the table's topic.
    pub(crate) fixed: Option<Json<TableTopic>>,
}

/// What does not change about a table's topic.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct TableTopic {
    /// Its id.
    pub(crate) topic_id: String,
    /// Its partitions.
    pub(crate) partitions: i32,
}

/// Sets the inputs of a sink, in order.
pub(crate) async fn set_inputs(
    db: &mut PgConnection,
    connector: &Connector,
    inputs: &[Input],
) -> Result<(), Error> {
    sqlx::query("delete from sink_input where connector = $1")
        .bind(&connector.name)
        .execute(&mut *db)
        .await?;
    for (ordinal, input) in (0_i32..).zip(inputs) {
        sqlx::query(
            "insert into sink_input (connector, owner, name, view, fixed, ordinal)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&connector.name)
        .bind(&connector.owner)
        .bind(&input.name)
        .bind(&input.view)
        .bind(&input.fixed)
        .bind(ordinal)
        .execute(&mut *db)
        .await?;
    }
    Ok(())
}

/// Returns the inputs of a sink.
pub(crate) async fn inputs(db: &mut PgConnection, connector: &str) -> Result<Vec<Input>, Error> {
    let rows = sqlx::query_as(
        "select name, view, fixed from sink_input where connector = $1 order by ordinal",
    )
    .bind(connector)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns the sinks, not being deleted, that have a view among their inputs.
pub(crate) async fn sinks_of_view(
    db: &mut PgConnection,
    view: &str,
) -> Result<Vec<Connector>, Error> {
    let rest = "where target <> 'deleted'
                  and name in (select connector from sink_input where view = $1) order by name";
    let rows = sqlx::query_as(select(rest))
        .bind(view)
        .fetch_all(db)
        .await?;
    Ok(rows)
}
