//! Handing out tokens, and who an organisation is to Kafka.

use hutong_transport::names::is_name;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::App;
use crate::caller::{Caller, PLATFORM, Role};
use crate::error::Error;
use crate::store::tokens::{self, Listed};
use crate::store::views;
use crate::token::Token;

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// The organisation; `platform` runs the installation.
    pub(crate) owner: String,
    /// What it allows.
    pub(crate) role: Role,
    /// What it is for.
    #[serde(default)]
    pub(crate) description: String,
}

/// Who an organisation is to Kafka.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Organisation {
    /// Who may read topics of views given to it, such as `User:qts`.
    pub(crate) kafka_principal: Option<String>,
}

/// Lists tokens of the caller's organisation, or all.
pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<Listed>, Error> {
    caller.require(Role::Admin)?;
    let mut db = app.store.acquire().await?;
    tokens::list(&mut db, caller.limit()).await
}

/// Makes a token.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    new: &NewToken,
) -> Result<(i64, Token), Error> {
    caller.require(Role::Admin)?;
    if !is_name(&new.owner) {
        let message = format!("\"{}\" is not the name of an organisation", new.owner);
        return Err(Error::field("owner", message));
    }
    if !caller.sees(&new.owner) {
        return Err(Error::forbidden(
            "an administrator makes tokens of its own organisation only",
        ));
    }
    let token = Token::generate();
    let allows = Caller {
        owner: new.owner.clone(),
        role: new.role,
    };
    let mut db = app.store.acquire().await?;
    let id = tokens::insert(&mut db, &token.hash(), &allows, &new.description).await?;
    tracing::info!(
        id,
        owner = new.owner,
        role = new.role.as_str(),
        "token made"
    );
    Ok((id, token))
}

/// Revokes a token.
pub(crate) async fn revoke(app: &App, caller: &Caller, id: &str) -> Result<(), Error> {
    caller.require(Role::Admin)?;
    let not_found = || Error::not_found(format!("there is no token {id}"));
    let number = id.parse().map_err(|_| not_found())?;
    let mut db = app.store.acquire().await?;
    if tokens::revoke(&mut db, number, caller.limit()).await? {
        return Ok(());
    }
    Err(not_found())
}

/// Says who may read topics of views given to an organisation.
pub(crate) async fn set_organisation(
    app: &App,
    caller: &Caller,
    name: &str,
    organisation: &Organisation,
) -> Result<(), Error> {
    caller.require_platform(Role::Admin)?;
    if !is_name(name) || name == PLATFORM {
        return Err(Error::field(
            "name",
            format!("\"{name}\" is not the name of an organisation"),
        ));
    }
    let principal = organisation.kafka_principal.as_deref();
    // `User:*` is everybody.
    let is_one = |principal: &str| {
        let name = principal.strip_prefix("User:");
        name.is_some_and(|name| !name.is_empty() && name != "*")
    };
    if principal.is_some_and(|principal| !is_one(principal)) {
        return Err(Error::field(
            "kafka_principal",
            "must be one principal such as User:qts",
        ));
    }
    let mut tx = app.store.begin_change().await?;
    if !views::set_principal(&mut tx, name, principal).await? {
        return Err(Error::conflict(format!(
            "another principal of {name} reads topics of its views now; revoke them first"
        )));
    }
    tokens::set_principal(&mut tx, name, principal).await?;
    tx.commit().await?;
    Ok(())
}
