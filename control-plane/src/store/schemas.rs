//! Schemas, subjects and their versions. Whatever changes goes to `<cluster>.schemas`, from where
//! workers read it.

use std::collections::HashSet;

use hutong_transport::names::Cluster;
use hutong_transport::record::{Record, SchemaRecord, SubjectRecord, VERSION};
use sqlx::PgConnection;

use super::outbox;
use crate::error::Error;

/// A version of a subject.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Version {
    /// The subject.
    pub(crate) subject: String,
    /// The version, from 1.
    pub(crate) version: i32,
    /// The id of the schema.
    pub(crate) schema_id: i32,
    /// Whether it was deleted, softly.
    pub(crate) deleted: bool,
    /// The schema, as it was first posted.
    pub(crate) text: String,
    /// SHA-256 of its canonical form: equal schemas have equal ones.
    pub(crate) hash: Vec<u8>,
}

/// SHA-256 of a schema's canonical form.
pub(crate) type Hash = [u8; 32];

/// A subject.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Subject {
    /// Its name.
    pub(crate) name: String,
    /// Whose it is.
    pub(crate) owner: String,
    /// The subscriber of the view to which it belongs, if that is live in this subject's generation.
    pub(crate) subscriber: Option<String>,
    /// Its own compatibility level.
    pub(crate) compatibility: Option<String>,
    /// Whether any version is not deleted.
    pub(crate) live: bool,
}

const SUBJECT: &str = "select s.name, s.owner, v.subscriber, s.compatibility,
        exists (select from subject_version x where x.subject = s.name and not x.deleted) as live
     from subject s left join view v on v.name = s.view and v.state = 'live'
        and starts_with(s.name, (v.compiled ->> 'topic') || '-')";

/// Returns a subject, one with only deleted versions too.
pub(crate) async fn subject(db: &mut PgConnection, name: &str) -> Result<Option<Subject>, Error> {
    let sql = sqlx::AssertSqlSafe(format!("{SUBJECT} where s.name = $1"));
    let row = sqlx::query_as(sql).bind(name).fetch_optional(db).await?;
    Ok(row)
}

/// Returns subjects that begin with a prefix, by name: of one reader, or all.
pub(crate) async fn subjects(
    db: &mut PgConnection,
    prefix: &str,
    reader: Option<&str>,
) -> Result<Vec<Subject>, Error> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{SUBJECT} where starts_with(s.name, $1)
           and ($2::text is null or s.owner = $2 or v.subscriber = $2) order by s.name"
    ));
    let rows = sqlx::query_as(sql)
        .bind(prefix)
        .bind(reader)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Makes a subject unless it exists, says whose it is, and locks it until the transaction ends.
pub(crate) async fn lock_subject(
    db: &mut PgConnection,
    name: &str,
    owner: &str,
    view: Option<&str>,
) -> Result<(), Error> {
    sqlx::query(
        "insert into subject (name, owner, view) values ($1, $2, $3)
         on conflict (name) do update
         set view = coalesce(subject.view, excluded.view), owner = excluded.owner",
    )
    .bind(name)
    .bind(owner)
    .bind(view)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns all versions of a subject, deleted ones too, oldest first.
pub(crate) async fn versions(db: &mut PgConnection, subject: &str) -> Result<Vec<Version>, Error> {
    let rows = sqlx::query_as(
        "select v.subject, v.version, v.schema_id, v.deleted, s.text, s.hash
         from subject_version v join schema s on s.id = v.schema_id
         where v.subject = $1 order by v.version",
    )
    .bind(subject)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns a schema.
pub(crate) async fn schema(db: &mut PgConnection, id: i32) -> Result<Option<String>, Error> {
    let row = sqlx::query_scalar("select text from schema where id = $1")
        .bind(id)
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// Returns where a schema is used, by subject and version.
pub(crate) async fn uses(db: &mut PgConnection, id: i32) -> Result<Vec<Version>, Error> {
    let rows = sqlx::query_as(
        "select v.subject, v.version, v.schema_id, v.deleted, s.text, s.hash
         from subject_version v join schema s on s.id = v.schema_id
         where v.schema_id = $1 order by v.subject, v.version",
    )
    .bind(id)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns the id of a schema, issuing one where it is new.
pub(crate) async fn issue_id(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    hash: &Hash,
    text: &str,
) -> Result<i32, Error> {
    let find = || {
        sqlx::query_scalar("select id from schema where hash = $1 order by id limit 1")
            .bind(&hash[..])
    };
    if let Some(id) = find().fetch_optional(&mut *db).await? {
        return Ok(id);
    }
    // The one row is the lock: whoever waited for it finds what was issued meanwhile.
    sqlx::query("select from schema_id_highest for update")
        .execute(&mut *db)
        .await?;
    if let Some(id) = find().fetch_optional(&mut *db).await? {
        return Ok(id);
    }
    let id: i32 = sqlx::query_scalar("update schema_id_highest set id = id + 1 returning id")
        .fetch_one(&mut *db)
        .await?;
    store_schema(db, id, owner, hash, text).await?;
    let record = SchemaRecord {
        v: VERSION,
        id: id.unsigned_abs(),
        schema: text.to_owned(),
    };
    publish(db, cluster, owner, &format!("schema/{id}"), &record).await?;
    Ok(id)
}

async fn store_schema(
    db: &mut PgConnection,
    id: i32,
    owner: &str,
    hash: &Hash,
    text: &str,
) -> Result<(), Error> {
    sqlx::query(
        "insert into schema (id, owner, hash, text) values ($1, $2, $3, $4) on conflict (id) do nothing",
    )
    .bind(id)
    .bind(owner)
    .bind(&hash[..])
    .bind(text)
    .execute(db)
    .await?;
    Ok(())
}

/// What the store knows of schemas, to be compared with the topic.
pub(crate) struct Known {
    /// The ids.
    pub(crate) ids: HashSet<i32>,
    /// The versions of subjects.
    pub(crate) versions: HashSet<(String, i32)>,
}

/// Returns what the store knows.
pub(crate) async fn known(db: &mut PgConnection) -> Result<Known, Error> {
    let ids: Vec<i32> = sqlx::query_scalar("select id from schema")
        .fetch_all(&mut *db)
        .await?;
    let versions: Vec<(String, i32)> =
        sqlx::query_as("select subject, version from subject_version")
            .fetch_all(db)
            .await?;
    Ok(Known {
        ids: ids.into_iter().collect(),
        versions: versions.into_iter().collect(),
    })
}

/// Takes over a schema that was found in the topic and is not in the store, and never issues its id
/// again. The topic knows more than the store only after the store was restored from a backup.
pub(crate) async fn take_over(
    db: &mut PgConnection,
    id: i32,
    text: &str,
    hash: &Hash,
) -> Result<(), Error> {
    sqlx::query("update schema_id_highest set id = $1 where id < $1")
        .bind(id)
        .execute(&mut *db)
        .await?;
    store_schema(db, id, "platform", hash, text).await
}

/// Takes over a version of a subject likewise. Whose it is follows from the topic's prefix, and for
/// a view from the view; else it is the platform's.
pub(crate) async fn take_over_version(
    db: &mut PgConnection,
    cluster: &Cluster,
    found: &SubjectRecord,
    schema_id: i32,
) -> Result<(), Error> {
    // <cluster>.view.<name>.g<n>-value
    let of_view = found
        .subject
        .strip_prefix(cluster.as_str())
        .and_then(|rest| rest.strip_prefix(".view."))
        .and_then(|rest| rest.split('.').next());
    sqlx::query(
        "insert into subject (name, owner, view)
         select $1, coalesce((select owner from view where name = $2),
                             (select owner from topic_prefix where starts_with($1, prefix || '.')
                              order by length(prefix) desc limit 1),
                             'platform'), $2
         on conflict do nothing",
    )
    .bind(&found.subject)
    .bind(of_view)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "insert into subject_version (subject, version, owner, schema_id, deleted)
         select $1, $2, (select owner from subject where name = $1), $3, $4
         where exists (select from schema where id = $3) on conflict do nothing",
    )
    .bind(&found.subject)
    .bind(found.version)
    .bind(schema_id)
    .bind(found.deleted)
    .execute(db)
    .await?;
    Ok(())
}

/// Adds a version to a subject.
pub(crate) async fn add_version(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    subject: &str,
    version: i32,
    schema_id: i32,
) -> Result<(), Error> {
    sqlx::query(
        "insert into subject_version (subject, version, owner, schema_id) values ($1, $2, $3, $4)",
    )
    .bind(subject)
    .bind(version)
    .bind(owner)
    .bind(schema_id)
    .execute(&mut *db)
    .await?;
    publish_version(db, cluster, owner, subject, version, schema_id, false).await
}

/// Deletes a version softly: it is not listed, its id stays.
pub(crate) async fn delete_version(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    version: &Version,
) -> Result<(), Error> {
    let (subject, number) = (version.subject.as_str(), version.version);
    sqlx::query("update subject_version set deleted = true where subject = $1 and version = $2")
        .bind(subject)
        .bind(number)
        .execute(&mut *db)
        .await?;
    publish_version(db, cluster, owner, subject, number, version.schema_id, true).await
}

async fn publish_version(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    subject: &str,
    version: i32,
    schema_id: i32,
    deleted: bool,
) -> Result<(), Error> {
    let record = SubjectRecord {
        v: VERSION,
        subject: subject.to_owned(),
        version,
        id: schema_id.unsigned_abs(),
        deleted,
    };
    let key = format!("subject/{subject}/{version}");
    publish(db, cluster, owner, &key, &record).await
}

async fn publish(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    key: &str,
    record: &impl Record,
) -> Result<(), Error> {
    let value = String::from_utf8(record.encode()).expect("JSON is UTF-8");
    let new = outbox::New {
        owner,
        topic: &cluster.schemas(),
        partition: Some(0),
        key,
        value: Some(&value),
    };
    outbox::add(db, new).await
}

/// Sets or removes a subject's own compatibility level.
pub(crate) async fn set_compatibility(
    db: &mut PgConnection,
    subject: &str,
    level: Option<&str>,
) -> Result<(), Error> {
    sqlx::query("update subject set compatibility = $2 where name = $1")
        .bind(subject)
        .bind(level)
        .execute(db)
        .await?;
    Ok(())
}

/// Returns the compatibility level of subjects without their own, if one was set.
pub(crate) async fn global_compatibility(db: &mut PgConnection) -> Result<Option<String>, Error> {
    let row = sqlx::query_scalar("select value from setting where name = 'compatibility'")
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// Sets or removes the compatibility level of subjects without their own.
pub(crate) async fn set_global_compatibility(
    db: &mut PgConnection,
    level: Option<&str>,
) -> Result<(), Error> {
    let Some(level) = level else {
        sqlx::query("delete from setting where name = 'compatibility'")
            .execute(db)
            .await?;
        return Ok(());
    };
    sqlx::query(
        "insert into setting (name, owner, value) values ('compatibility', 'platform', $1)
         on conflict (name) do update set value = excluded.value",
    )
    .bind(level)
    .execute(db)
    .await?;
    Ok(())
}
