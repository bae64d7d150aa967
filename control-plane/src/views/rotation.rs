//! Rotating a share's key: every hidden key and every HASH of its views is computed anew.

use hutong_policies::change::compare;
use serde::Serialize;
use utoipa::ToSchema;

use super::generation::{self, NewKey, Next};
use super::refused;
use crate::App;
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::{shares, views};

/// What a rotation came to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rotation {
    /// The share.
    share: String,
    /// Whose it is.
    owner: String,
    /// The version of its key from now on.
    key_version: u32,
    /// Views that got another generation, because they hide a key or hash a column.
    views: Vec<String>,
}

/// Gives a share another key. Durable when it returns; the views are filled anew, all of them from
/// one version of their tasks on.
pub(crate) async fn rotate(
    app: &App,
    caller: &Caller,
    share: &str,
    owner: Option<&str>,
) -> Result<Rotation, Error> {
    caller.require(Role::Operator)?;
    let owner = find_owner(app, caller, share, owner).await?;
    let mut db = app.store.acquire().await?;
    let missing = || Error::not_found(format!("there is no share \"{share}\""));
    let known = shares::get(&mut db, &owner, share)
        .await?
        .ok_or_else(missing)?;
    let all = views::list(&mut db, Some(&owner)).await?;
    drop(db);
    let next_version = known.key_version.unsigned_abs() + 1;
    let (mut next, mut seen) = (Vec::new(), Vec::new());
    for before in all {
        if before.owner != owner || before.document.share != share || !before.is_live() {
            continue;
        }
        seen.push((before.name.clone(), before.version));
        let (document, table) = (before.document.0.clone(), before.compiled.table.clone());
        let table_schema_id = before.compiled.table_schema_id.map_or(0, |id| id.0);
        let plan = hutong_policies::compile(&document, &table).map_err(|e| refused(&e))?;
        if !plan.needs_secret() {
            continue;
        }
        let change = compare(&before.compiled, &document, &table, &plan, next_version)
            .map_err(|errors| refused(&errors))?;
        next.push(Next {
            withdrawn: change.withdrawn(),
            rekeyed: change.rekeyed,
            before,
            document,
            table,
            table_schema_id,
            plan,
        });
    }
    let names = next.iter().map(|next| next.before.name.clone()).collect();
    let key = NewKey {
        owner: &owner,
        share,
        from: known.key_version,
        seen,
    };
    generation::open(app, next, Some(key)).await?;
    tracing::info!(
        share,
        owner,
        key_version = next_version,
        "a share's key was rotated"
    );
    Ok(Rotation {
        share: share.to_owned(),
        owner,
        key_version: next_version,
        views: names,
    })
}

async fn find_owner(
    app: &App,
    caller: &Caller,
    share: &str,
    owner: Option<&str>,
) -> Result<String, Error> {
    let mut db = app.store.acquire().await?;
    let mut owners = shares::owners(&mut db, share).await?;
    owners.retain(|found| caller.sees(found) && owner.is_none_or(|owner| owner == found));
    match owners.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::not_found(format!("there is no share \"{share}\""))),
        several => Err(Error::field(
            "owner",
            format!("is needed: {} have a share \"{share}\"", several.join(", ")),
        )),
    }
}
