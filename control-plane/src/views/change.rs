//! Changing a live view.

use hutong_policies::change::{Change, compare};
use hutong_policies::{ViewDocument, ViewPlan};
use hutong_schemas::position::SchemaId;
use hutong_schemas::table::TableSchema;
use sqlx::types::Json;

use super::generation::{self, Next};
use super::{already_changed, find_table, get, refused, register_part, status};
use crate::App;
use crate::caller::{Caller, Role};
use crate::error::Error;
use crate::store::shares;
use crate::store::views::{self, View};

/// A change that was checked against the view and the captured table, and not carried out.
pub(super) struct Planned {
    pub(super) before: View,
    pub(super) document: ViewDocument,
    pub(super) table: TableSchema,
    pub(super) table_schema_id: u32,
    pub(super) plan: ViewPlan,
    pub(super) change: Change,
    pub(super) share: shares::Share,
}

/// Changes a live view. Durable when it returns; processors and sinks follow. A document that says
/// what holds already changes nothing, but lets a suspended view try again.
pub(crate) async fn change(
    app: &App,
    caller: &Caller,
    name: &str,
    document: ViewDocument,
) -> Result<View, Error> {
    let planned = plan(app, caller, name, document).await?;
    if planned.change.needs_generation {
        generation::open(app, vec![Next::from(planned)], None).await?;
    } else if planned.change.is_any || status::is_suspended(app, &planned.before).await? {
        in_place(app, planned).await?;
    }
    get(app, caller, name).await
}

/// Checks a change.
pub(super) async fn plan(
    app: &App,
    caller: &Caller,
    name: &str,
    document: ViewDocument,
) -> Result<Planned, Error> {
    caller.require(Role::Operator)?;
    let before = get(app, caller, name).await?;
    if !caller.sees(&before.owner) {
        return Err(Error::forbidden(format!(
            "view \"{name}\" can be changed by who gives it, not by who receives it"
        )));
    }
    if !before.is_live() {
        return Err(Error::conflict(format!(
            "View {name} is {} and cannot be changed; make it anew",
            before.state
        )));
    }
    let mistakes = document.check();
    if !mistakes.is_empty() {
        return Err(refused(&mistakes));
    }
    if let Some(location) = &document.location
        && *location != before.location
    {
        return Err(Error::field(
            "location",
            format!(
                "is \"{}\" and cannot become \"{location}\": revoke the view and make another",
                before.location
            ),
        ));
    }
    let ends = document.valid_until_ms();
    if ends != before.valid_until_ms && ends.is_some_and(|end| end <= crate::now_ms()) {
        return Err(Error::field("valid_until", "is in the past"));
    }
    let (captured, _) = find_table(app, caller, &before.source_topic).await?;
    let table_schema_id = captured.record.value_schema_id;
    let table = captured.record.table;
    let plan = hutong_policies::compile(&document, &table).map_err(|errors| refused(&errors))?;
    let share = {
        let mut db = app.store.acquire().await?;
        shares::ensure(&mut db, &before.owner, &before.document.share).await?
    };
    let key_version = share.key_version.unsigned_abs();
    let change = compare(&before.compiled, &document, &table, &plan, key_version)
        .map_err(|errors| refused(&errors))?;
    Ok(Planned {
        before,
        document,
        table,
        table_schema_id,
        plan,
        change,
        share,
    })
}

/// Gives the view its next version within its generation. Sinks hear of it only where their grant
/// ends at another time: rows and schemas reach them with the rows.
async fn in_place(app: &App, planned: Planned) -> Result<(), Error> {
    let Planned {
        before,
        document,
        table,
        table_schema_id,
        plan,
        change,
        share,
    } = planned;
    let mut tx = app.store.begin_change().await?;
    let now = views::get(&mut tx, &before.name).await?;
    if now.is_none_or(|now| now.version != before.version) {
        return Err(already_changed(&before.name));
    }
    let mut view = before.clone();
    view.version += 1;
    view.valid_until_ms = document.valid_until_ms();
    let compiled = &mut view.compiled.0;
    if change.value_schema != compiled.value_schema {
        let (topic, schema) = (&compiled.topic, &change.value_schema);
        compiled.value_schema_id = register_part(
            app,
            &mut tx,
            &before.owner,
            &before.name,
            topic,
            "value",
            schema,
        )
        .await?;
        compiled.value_schema = change.value_schema;
    }
    compiled.version = view.version.unsigned_abs();
    compiled.document = document.clone();
    compiled.table = table;
    compiled.table_schema_id = Some(SchemaId(table_schema_id));
    compiled.valid_until_ms = view.valid_until_ms;
    compiled.share_key_version = share.key_version.unsigned_abs();
    compiled.needs_secret = plan.needs_secret();
    compiled.secret_fingerprint = share.secret_fingerprint.filter(|_| plan.needs_secret());
    view.document = Json(document);
    views::change(&mut tx, &view).await?;
    super::write_processors(app, &mut tx, &view.source_topic).await?;
    if view.valid_until_ms != before.valid_until_ms {
        super::write_sinks(app, &mut tx, &view.name).await?;
    }
    tx.commit().await?;
    tracing::info!(
        view = view.name,
        version = view.version,
        "view changed in place"
    );
    Ok(())
}
