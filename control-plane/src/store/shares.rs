//! Shares: what their views have in common, which is the key that hides keys.

use sqlx::PgConnection;

use crate::error::Error;

/// A share.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Share {
    /// The version of its key.
    pub(crate) key_version: i32,
    /// The fingerprint of the master secret from which keys of this version are derived, once a
    /// processor has said so.
    pub(crate) secret_fingerprint: Option<String>,
}

/// Returns an organisation's share, and makes it if it has none of this name.
pub(crate) async fn ensure(db: &mut PgConnection, owner: &str, name: &str) -> Result<Share, Error> {
    let row = sqlx::query_as(
        "insert into share as s (owner, name) values ($1, $2)
         on conflict (owner, name) do update set key_version = s.key_version
         returning key_version, secret_fingerprint",
    )
    .bind(owner)
    .bind(name)
    .fetch_one(db)
    .await?;
    Ok(row)
}

/// Returns an organisation's share.
pub(crate) async fn get(
    db: &mut PgConnection,
    owner: &str,
    name: &str,
) -> Result<Option<Share>, Error> {
    let row = sqlx::query_as(
        "select key_version, secret_fingerprint from share where owner = $1 and name = $2",
    )
    .bind(owner)
    .bind(name)
    .fetch_optional(db)
    .await?;
    Ok(row)
}

/// Lists the organisations that have a share of this name.
pub(crate) async fn owners(db: &mut PgConnection, name: &str) -> Result<Vec<String>, Error> {
    let rows = sqlx::query_scalar("select owner from share where name = $1 order by owner")
        .bind(name)
        .fetch_all(db)
        .await?;
    Ok(rows)
}

/// Gives a share the next version of its key, of which nobody has said the secret yet; false if it
/// has another version than `from` by now.
pub(crate) async fn rotate(
    db: &mut PgConnection,
    owner: &str,
    name: &str,
    from: i32,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update share set key_version = key_version + 1, secret_fingerprint = null
         where owner = $1 and name = $2 and key_version = $3",
    )
    .bind(owner)
    .bind(name)
    .bind(from)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes the fingerprint of the secret behind a version of a share's key, unless one is known.
pub(crate) async fn set_fingerprint(
    db: &mut PgConnection,
    owner: &str,
    name: &str,
    key_version: i32,
    fingerprint: &str,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update share set secret_fingerprint = $4
         where owner = $1 and name = $2 and key_version = $3 and secret_fingerprint is null",
    )
    .bind(owner)
    .bind(name)
    .bind(key_version)
    .bind(fingerprint)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
