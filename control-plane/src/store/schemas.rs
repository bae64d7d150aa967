//! Schemas, subjects and their versions. Whatever changes goes to `<cluster>.schemas`, from where
//! workers read it.

use std::collections::HashSet;

use hutong_transport::names::Cluster;
use hutong_transport::record::{
    Record, ReferencesRecord, SchemaRecord, SchemaReference, SubjectRecord, VERSION,
};
use sqlx::PgConnection;
use sqlx::types::Json;

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
    /// What the schema refers to.
    pub(crate) references: Json<Vec<SchemaReference>>,
}

/// A schema by itself.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct SchemaText {
    /// The schema, as it was first posted.
    pub(crate) text: String,
    /// What it refers to.
    pub(crate) references: Json<Vec<SchemaReference>>,
}

/// A schema to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSchema<'a> {
    /// Who posts it.
    pub(crate) owner: &'a str,
    /// SHA-256 of its canonical form.
    pub(crate) hash: &'a Hash,
    /// As it is posted.
    pub(crate) text: &'a str,
    /// What it refers to.
    pub(crate) references: &'a [SchemaReference],
}

/// What is set for all subjects that have nothing of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Setting {
    /// The compatibility level.
    Compatibility,
    /// The mode.
    Mode,
}

impl Setting {
    fn as_str(self) -> &'static str {
        match self {
            Self::Compatibility => "compatibility",
            Self::Mode => "mode",
        }
    }
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
    /// Its own mode.
    pub(crate) mode: Option<String>,
    /// When its view ends by itself, in milliseconds since 1970.
    pub(crate) valid_until_ms: Option<i64>,
    /// Whether any version is not deleted.
    pub(crate) live: bool,
    /// Whether there is any version.
    pub(crate) has_versions: bool,
}

const SUBJECT: &str =
    "select s.name, s.owner, v.subscriber, s.compatibility, s.mode, v.valid_until_ms,
        exists (select from subject_version x where x.subject = s.name) as has_versions,
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
        "select v.subject, v.version, v.schema_id, v.deleted, s.text, s.hash, s.refers_to as \"references\"
         from subject_version v join schema s on s.id = v.schema_id
         where v.subject = $1 order by v.version",
    )
    .bind(subject)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns a schema that was not deleted for good.
pub(crate) async fn schema(db: &mut PgConnection, id: i32) -> Result<Option<SchemaText>, Error> {
    let row = sqlx::query_as(
        "select text, refers_to as \"references\" from schema where id = $1 and not gone",
    )
    .bind(id)
    .fetch_optional(db)
    .await?;
    Ok(row)
}

/// Returns the schemas that refer to a version of a subject.
pub(crate) async fn referenced_by(
    db: &mut PgConnection,
    subject: &str,
    version: i32,
) -> Result<Vec<i32>, Error> {
    let rows = sqlx::query_scalar(
        "select s.id from schema s
         where s.refers_to @> jsonb_build_array(jsonb_build_object('subject', $1::text, 'version', $2::int))
           and not s.gone and exists (select from subject_version v where v.schema_id = s.id)
         order by s.id",
    )
    .bind(subject)
    .bind(version)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Returns whether a subject, or any, has a version that is not deleted.
pub(crate) async fn any_live(db: &mut PgConnection, subject: Option<&str>) -> Result<bool, Error> {
    let found = sqlx::query_scalar(
        "select exists (select from subject_version
                        where not deleted and ($1::text is null or subject = $1))",
    )
    .bind(subject)
    .fetch_one(db)
    .await?;
    Ok(found)
}

/// Returns the version that a subject, which is locked, gets next: none is ever used twice.
pub(crate) async fn next_version(db: &mut PgConnection, subject: &str) -> Result<i32, Error> {
    let next = sqlx::query_scalar(
        "select 1 + greatest(s.version_highest, coalesce(max(v.version), 0))
         from subject s left join subject_version v on v.subject = s.name
         where s.name = $1 group by s.version_highest",
    )
    .bind(subject)
    .fetch_one(db)
    .await?;
    Ok(next)
}

/// Returns where a schema is used, by subject and version.
pub(crate) async fn uses(db: &mut PgConnection, id: i32) -> Result<Vec<Version>, Error> {
    let rows = sqlx::query_as(
        "select v.subject, v.version, v.schema_id, v.deleted, s.text, s.hash, s.refers_to as \"references\"
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
    new: &NewSchema<'_>,
) -> Result<i32, Error> {
    let find = || {
        sqlx::query_scalar("select id from schema where hash = $1 and not gone order by id limit 1")
            .bind(&new.hash[..])
    };
    if let Some(id) = find().fetch_optional(&mut *db).await? {
        return Ok(id);
    }
    // The one row is the lock: whoever waited for it finds what was issued meanwhile.
    lock_ids(db).await?;
    if let Some(id) = find().fetch_optional(&mut *db).await? {
        return Ok(id);
    }
    // What was deleted for good has its id for ever, and gets it back.
    let gone = sqlx::query_scalar("select id from schema where hash = $1 order by id limit 1");
    let gone: Option<i32> = gone.bind(&new.hash[..]).fetch_optional(&mut *db).await?;
    let id = match gone {
        Some(id) => id,
        None => {
            sqlx::query_scalar("update schema_id_highest set id = id + 1 returning id")
                .fetch_one(&mut *db)
                .await?
        }
    };
    put_schema(db, cluster, id, new).await?;
    Ok(id)
}

/// Stores a schema under an id that it has elsewhere; false if another schema has or had that id.
pub(crate) async fn import(
    db: &mut PgConnection,
    cluster: &Cluster,
    id: i32,
    new: &NewSchema<'_>,
) -> Result<bool, Error> {
    lock_ids(db).await?;
    let known: Option<(Vec<u8>, bool)> =
        sqlx::query_as("select hash, gone from schema where id = $1")
            .bind(id)
            .fetch_optional(&mut *db)
            .await?;
    match known {
        Some((hash, _)) if hash != new.hash => return Ok(false),
        Some((_, false)) => return Ok(true),
        Some((_, true)) | None => {}
    }
    sqlx::query("update schema_id_highest set id = $1 where id < $1")
        .bind(id)
        .execute(&mut *db)
        .await?;
    put_schema(db, cluster, id, new).await?;
    Ok(true)
}

async fn lock_ids(db: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("select from schema_id_highest for update")
        .execute(db)
        .await?;
    Ok(())
}

/// Stores and publishes a schema under an id that is its own.
async fn put_schema(
    db: &mut PgConnection,
    cluster: &Cluster,
    id: i32,
    new: &NewSchema<'_>,
) -> Result<(), Error> {
    store_schema(db, id, new).await?;
    let record = SchemaRecord {
        v: VERSION,
        id: id.unsigned_abs(),
        schema: new.text.to_owned(),
    };
    publish(
        db,
        cluster,
        new.owner,
        &format!("schema/{id}"),
        Some(&record),
    )
    .await?;
    if new.references.is_empty() {
        return Ok(());
    }
    let record = ReferencesRecord {
        v: VERSION,
        id: id.unsigned_abs(),
        references: new.references.to_vec(),
    };
    publish(
        db,
        cluster,
        new.owner,
        &format!("references/{id}"),
        Some(&record),
    )
    .await
}

async fn store_schema(db: &mut PgConnection, id: i32, new: &NewSchema<'_>) -> Result<(), Error> {
    sqlx::query(
        "insert into schema (id, owner, hash, text, refers_to) values ($1, $2, $3, $4, $5)
         on conflict (id) do update set gone = false",
    )
    .bind(id)
    .bind(new.owner)
    .bind(&new.hash[..])
    .bind(new.text)
    .bind(Json(new.references))
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
    new: &NewSchema<'_>,
) -> Result<(), Error> {
    sqlx::query("update schema_id_highest set id = $1 where id < $1")
        .bind(id)
        .execute(&mut *db)
        .await?;
    store_schema(db, id, new).await
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
    sqlx::query(
        "update subject set version_highest = greatest(version_highest, $2) where name = $1",
    )
    .bind(subject)
    .bind(version)
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

/// Deletes a version for good, and its schema where no other version has it. The schema's row stays,
/// so that its id is never another's.
pub(crate) async fn purge_version(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    version: &Version,
) -> Result<(), Error> {
    let (subject, number, id) = (version.subject.as_str(), version.version, version.schema_id);
    sqlx::query("delete from subject_version where subject = $1 and version = $2")
        .bind(subject)
        .bind(number)
        .execute(&mut *db)
        .await?;
    let tombstone = None::<&SubjectRecord>;
    publish(
        db,
        cluster,
        owner,
        &format!("subject/{subject}/{number}"),
        tombstone,
    )
    .await?;
    let gone = sqlx::query(
        "update schema set gone = true
         where id = $1 and not exists (select from subject_version where schema_id = $1)",
    )
    .bind(id)
    .execute(&mut *db)
    .await?;
    if gone.rows_affected() == 0 {
        return Ok(());
    }
    for key in [format!("schema/{id}"), format!("references/{id}")] {
        publish(db, cluster, owner, &key, None::<&SchemaRecord>).await?;
    }
    Ok(())
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
    publish(db, cluster, owner, &key, Some(&record)).await
}

async fn publish(
    db: &mut PgConnection,
    cluster: &Cluster,
    owner: &str,
    key: &str,
    record: Option<&impl Record>,
) -> Result<(), Error> {
    let value = record.map(|record| String::from_utf8(record.encode()).expect("JSON is UTF-8"));
    let new = outbox::New {
        owner,
        topic: &cluster.schemas(),
        partition: Some(0),
        key,
        value: value.as_deref(),
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

/// Sets or removes a subject's own mode.
pub(crate) async fn set_mode(
    db: &mut PgConnection,
    subject: &str,
    mode: Option<&str>,
) -> Result<(), Error> {
    sqlx::query("update subject set mode = $2 where name = $1")
        .bind(subject)
        .bind(mode)
        .execute(db)
        .await?;
    Ok(())
}

/// Returns what is set for subjects that have nothing of their own, if anything is.
pub(crate) async fn setting(
    db: &mut PgConnection,
    setting: Setting,
) -> Result<Option<String>, Error> {
    let row = sqlx::query_scalar("select value from setting where name = $1")
        .bind(setting.as_str())
        .fetch_optional(db)
        .await?;
    Ok(row)
}

/// Sets or removes what holds for subjects that have nothing of their own.
pub(crate) async fn set(
    db: &mut PgConnection,
    setting: Setting,
    value: Option<&str>,
) -> Result<(), Error> {
    let Some(value) = value else {
        sqlx::query("delete from setting where name = $1")
            .bind(setting.as_str())
            .execute(db)
            .await?;
        return Ok(());
    };
    sqlx::query(
        "insert into setting (name, owner, value) values ($1, 'platform', $2)
         on conflict (name) do update set value = excluded.value",
    )
    .bind(setting.as_str())
    .bind(value)
    .execute(db)
    .await?;
    Ok(())
}
