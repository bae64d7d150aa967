//! Records that must reach Kafka: written with the change that they tell of, published later.
//!
//! # Why "not yet published" and no high-water mark
//!
//! Ids are taken before transactions commit, so a lower id may become visible after a higher one,
//! and a publisher that remembers the highest would skip it. Records of one key are in order
//! nevertheless: whoever writes one holds the row lock of what it describes, so an id is taken only
//! after the transaction that took the one before has committed.
//!
//! A crash between Kafka's commit and the mark publishes a record twice. That is harmless: the
//! topics are compacted, the second is equal to the first, and no newer one of the same key can be
//! in between, because the publisher goes by id.

use sqlx::PgConnection;

use crate::error::Error;

/// Told to publishers when something was added; the name of a PostgreSQL channel.
pub(crate) const CHANNEL: &str = "hutong_outbox";

/// A record to publish.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Entry {
    /// Its place among the records.
    pub(crate) id: i64,
    /// The topic.
    pub(crate) topic: String,
    /// The partition; by the key where it is not said.
    pub(crate) topic_partition: Option<i32>,
    /// The key.
    pub(crate) key: String,
    /// The value; `None` is a tombstone.
    pub(crate) value: Option<String>,
}

/// A record to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New<'a> {
    /// Whose change it tells of.
    pub(crate) owner: &'a str,
    /// The topic.
    pub(crate) topic: &'a str,
    /// The partition; by the key where it is not said.
    pub(crate) partition: Option<i32>,
    /// The key.
    pub(crate) key: &'a str,
    /// The value; `None` is a tombstone.
    pub(crate) value: Option<&'a str>,
}

/// The largest record that is accepted for publishing. Below what the topics take (16 MiB, with what
/// Kafka puts around a record), so that what was acknowledged is not refused later.
const RECORD_BYTES_MAX: usize = 15 << 20;

/// Adds a record to the transaction's outbox.
pub(crate) async fn add(db: &mut PgConnection, new: New<'_>) -> Result<(), Error> {
    let bytes = new.key.len() + new.value.map_or(0, str::len);
    if bytes > RECORD_BYTES_MAX {
        return Err(Error::invalid(format!(
            "{} would have {bytes} bytes in Kafka, more than {RECORD_BYTES_MAX}",
            new.key
        )));
    }
    sqlx::query(
        "insert into outbox (owner, topic, topic_partition, key, value) values ($1, $2, $3, $4, $5)",
    )
    .bind(new.owner)
    .bind(new.topic)
    .bind(new.partition)
    .bind(new.key)
    .bind(new.value)
    .execute(&mut *db)
    .await?;
    ring(db).await
}

/// Adds a record for each partition of its topic.
pub(crate) async fn add_to_all(
    db: &mut PgConnection,
    new: New<'_>,
    partitions: i32,
) -> Result<(), Error> {
    sqlx::query(
        "insert into outbox (owner, topic, topic_partition, key, value)
         select $1, $2, p, $3, $4 from generate_series(0, $5 - 1) p",
    )
    .bind(new.owner)
    .bind(new.topic)
    .bind(new.key)
    .bind(new.value)
    .bind(partitions)
    .execute(&mut *db)
    .await?;
    ring(db).await
}

/// Tells publishers that something was added.
async fn ring(db: &mut PgConnection) -> Result<(), Error> {
    // Delivered when the transaction commits, once however often it is called in it.
    sqlx::query("select pg_notify($1, '')")
        .bind(CHANNEL)
        .execute(db)
        .await?;
    Ok(())
}

/// Returns the oldest records that are not marked, without those for some topics.
pub(crate) async fn pending(
    db: &mut PgConnection,
    but_topics: &[String],
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    let rows = sqlx::query_as(
        "select id, topic, topic_partition, key, value from outbox
         where published_at is null and topic <> all($1) order by id limit $2",
    )
    .bind(but_topics)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Marks records as published.
pub(crate) async fn mark(db: &mut PgConnection, ids: &[i64]) -> Result<(), Error> {
    sqlx::query("update outbox set published_at = now() where id = any($1)")
        .bind(ids)
        .execute(db)
        .await?;
    Ok(())
}

/// Sets a record aside that Kafka will never take. It counts as published, and says why it is not.
pub(crate) async fn refuse(db: &mut PgConnection, id: i64, why: &str) -> Result<(), Error> {
    sqlx::query("update outbox set published_at = now(), refused = $2 where id = $1")
        .bind(id)
        .bind(why)
        .execute(db)
        .await?;
    Ok(())
}

/// Removes records that were published an hour ago: they are kept that long for whoever asks what
/// was said when.
pub(crate) async fn prune(db: &mut PgConnection) -> Result<(), Error> {
    sqlx::query(
        "delete from outbox where published_at < now() - interval '1 hour' and refused is null",
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the number of records not published, the age of the oldest in seconds, and how many were
/// set aside.
pub(crate) async fn backlog(db: &mut PgConnection) -> Result<(i64, f64, i64), Error> {
    let row = sqlx::query_as(
        "select count(*) filter (where published_at is null),
                coalesce(extract(epoch from now() -
                    min(created_at) filter (where published_at is null)), 0)::float8,
                count(*) filter (where refused is not null)
         from outbox where published_at is null or refused is not null",
    )
    .fetch_one(db)
    .await?;
    Ok(row)
}
