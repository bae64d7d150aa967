//! Tokens and what they allow, and organisations.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::caller::{Caller, Role};
use crate::error::Error;

/// A token as it is listed. The token itself is known to its holder only.
#[derive(Clone, Debug, serde::Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub(crate) struct Listed {
    /// By which it is revoked.
    pub(crate) id: i64,
    /// The organisation.
    pub(crate) owner: String,
    /// `admin`, `operator` or `reader`.
    pub(crate) role: String,
    /// What it is for.
    pub(crate) description: String,
    /// When it was made, in milliseconds since 1970.
    pub(crate) created_at_ms: i64,
}

/// Returns what a token allows; `None` for an unknown or revoked one.
pub(crate) async fn find(db: &mut PgConnection, hash: &[u8; 32]) -> Result<Option<Caller>, Error> {
    let row: Option<(String, String)> =
        sqlx::query_as("select owner, role from token where hash = $1 and revoked_at is null")
            .bind(&hash[..])
            .fetch_optional(db)
            .await?;
    Ok(row.and_then(|(owner, role)| {
        let role = Role::parse(&role)?;
        Some(Caller { owner, role })
    }))
}

/// Returns all tokens that are valid, by hash, with what they allow.
pub(crate) async fn all(db: &mut PgConnection) -> Result<HashMap<Vec<u8>, Caller>, Error> {
    let rows: Vec<(Vec<u8>, String, String)> =
        sqlx::query_as("select hash, owner, role from token where revoked_at is null")
            .fetch_all(db)
            .await?;
    let allowed = rows.into_iter().filter_map(|(hash, owner, role)| {
        let role = Role::parse(&role)?;
        Some((hash, Caller { owner, role }))
    });
    Ok(allowed.collect())
}

/// Stores a token unless it is known, revoked or not.
pub(crate) async fn ensure(
    db: &mut PgConnection,
    hash: &[u8; 32],
    allows: &Caller,
    description: &str,
) -> Result<(), Error> {
    sqlx::query(
        "insert into token (hash, owner, role, description) values ($1, $2, $3, $4)
         on conflict (hash) do nothing",
    )
    .bind(&hash[..])
    .bind(&allows.owner)
    .bind(allows.role.as_str())
    .bind(description)
    .execute(db)
    .await?;
    Ok(())
}

/// Stores a new token and returns its id.
pub(crate) async fn insert(
    db: &mut PgConnection,
    hash: &[u8; 32],
    allows: &Caller,
    description: &str,
) -> Result<i64, Error> {
    let id = sqlx::query_scalar(
        "insert into token (hash, owner, role, description) values ($1, $2, $3, $4) returning id",
    )
    .bind(&hash[..])
    .bind(&allows.owner)
    .bind(allows.role.as_str())
    .bind(description)
    .fetch_one(db)
    .await?;
    Ok(id)
}

/// Returns whether the installation has an administrator.
pub(crate) async fn any_platform_admin(db: &mut PgConnection) -> Result<bool, Error> {
    let found = sqlx::query_scalar(
        "select exists (select from token
         where owner = 'platform' and role = 'admin' and revoked_at is null)",
    )
    .fetch_one(db)
    .await?;
    Ok(found)
}

/// Lists the tokens of an owner, or of all.
pub(crate) async fn list(db: &mut PgConnection, owner: Option<&str>) -> Result<Vec<Listed>, Error> {
    let rows = sqlx::query_as(
        "select id, owner, role, description,
                (extract(epoch from created_at) * 1000)::bigint as created_at_ms
         from token where revoked_at is null and ($1::text is null or owner = $1) order by id",
    )
    .bind(owner)
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Revokes a token; false if there is none with this id that the owner may touch.
pub(crate) async fn revoke(
    db: &mut PgConnection,
    id: i64,
    owner: Option<&str>,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update token set revoked_at = now()
         where id = $1 and revoked_at is null and ($2::text is null or owner = $2)",
    )
    .bind(id)
    .bind(owner)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets who reads topics of views given to an organisation.
pub(crate) async fn set_principal(
    db: &mut PgConnection,
    organisation: &str,
    principal: Option<&str>,
) -> Result<(), Error> {
    sqlx::query(
        "insert into organisation (name, owner, kafka_principal) values ($1, $1, $2)
         on conflict (name) do update set kafka_principal = excluded.kafka_principal",
    )
    .bind(organisation)
    .bind(principal)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns who reads topics of views given to an organisation, if that was said.
pub(crate) async fn principal(
    db: &mut PgConnection,
    organisation: &str,
) -> Result<Option<String>, Error> {
    let row: Option<Option<String>> =
        sqlx::query_scalar("select kafka_principal from organisation where name = $1")
            .bind(organisation)
            .fetch_optional(db)
            .await?;
    Ok(row.flatten())
}
