//! What a change of a view would come to, without making it: columns are compared here, rows are
//! counted at the location, by the processors that have them.

use futures::future::try_join_all;
use hutong_policies::{ViewDocument, ViewTask};
use hutong_schemas::position::SchemaId;
use hutong_transport::record::RequestKind;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::change::{self, Planned};
use crate::App;
use crate::caller::Caller;
use crate::error::Error;
use crate::requests::{self, ANSWER_TIME, Question, Whom};
use crate::store::tasks;

/// What a change of a view would come to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Preview {
    /// The view.
    view: String,
    /// The generation that the change would be in force in: the next one where something that was
    /// delivered would be granted no longer.
    generation: i64,
    /// Whether rows would get other keys.
    rekeyed: bool,
    /// What would become of columns.
    columns: PreviewColumns,
    /// What would become of rows, by what processors have of the table now.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<PreviewRows>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_unknown: Option<String>,
}

/// What a change would do to columns.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PreviewColumns {
    /// Not granted now.
    enter: Vec<String>,
    /// Granted now and no longer.
    leave: Vec<String>,
    /// Shown whole instead of masked.
    clearer: Vec<String>,
    /// Shown less, or otherwise.
    masked: Vec<String>,
}

/// What a change would do to rows.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct PreviewRows {
    /// Hidden now.
    enter: u64,
    /// Visible now and no longer.
    leave: u64,
    /// Visible before and after.
    stay: u64,
}

/// Says what a change would come to.
pub(crate) async fn preview(
    app: &App,
    caller: &Caller,
    name: &str,
    document: ViewDocument,
) -> Result<Preview, Error> {
    let planned = change::plan(app, caller, name, document).await?;
    let counted = count(app, &planned).await?;
    let Planned { before, change, .. } = planned;
    let (rows, rows_unknown) = match counted {
        Ok(rows) => (Some(rows), None),
        Err(why) => (None, Some(why)),
    };
    Ok(Preview {
        generation: before.generation + i64::from(change.needs_generation),
        view: before.name,
        rekeyed: change.rekeyed,
        columns: PreviewColumns {
            enter: change.columns_entering,
            leave: change.columns_leaving,
            clearer: change.columns_clearer,
            masked: change.columns_masked,
        },
        rows,
        rows_unknown,
    })
}

/// Asks every processor of the table and adds up.
async fn count(app: &App, planned: &Planned) -> Result<Result<PreviewRows, String>, Error> {
    let before = &planned.before;
    let wanted = ViewTask {
        document: planned.document.clone(),
        table: planned.table.clone(),
        table_schema_id: Some(SchemaId(planned.table_schema_id)),
        key_schema: planned.plan.key_schema(),
        value_schema: planned.plan.value_schema(),
        needs_secret: planned.plan.needs_secret(),
        ..before.task()
    };
    let processors = {
        let mut db = app.store.acquire().await?;
        tasks::processors(&mut db, &before.source_topic).await?
    };
    let asking = processors.iter().map(|task| {
        let question = Question {
            owner: &before.owner,
            location: &before.location,
            whom: Whom::TaskOwner(&task.id),
            kind: RequestKind::Preview,
            config: json!({"task": task.id, "view": wanted}),
        };
        requests::ask(app, question)
    });
    let mut total = PreviewRows::default();
    for answer in try_join_all(asking).await? {
        let Some(answer) = answer else {
            return Ok(Err(format!(
                "location \"{}\" did not answer within {} s",
                before.location,
                ANSWER_TIME.as_secs()
            )));
        };
        if let Some(mistake) = answer.errors.first() {
            return Ok(Err(mistake.message.clone()));
        }
        let rows = PreviewRows::deserialize(&answer.details).map_err(|source| Error::Stored {
            what: "an answer about a view".to_owned(),
            source,
        })?;
        total.enter += rows.enter;
        total.leave += rows.leave;
        total.stay += rows.stay;
    }
    Ok(Ok(total))
}
