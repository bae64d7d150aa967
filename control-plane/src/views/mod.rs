//! Views: who receives which rows and columns of which table.
//!
//! # Making one
//!
//! ```text
//!   document ──compile against the captured table──> schemas, ViewTask
//!   view's topic is made in Kafka              (again after a crash: it is the same topic)
//!   one database transaction: schemas registered, view, processors' tasks, sinks' tasks, outbox
//! ```
//!
//! A processor task is one partition of a table's topic and lists every view over it, so a new view
//! is a new version of each of these tasks. All views of a topic are computed at one location.
//!
//! # Taking one back
//!
//! Is a target state: the transaction sets the view to revoked under its next version and tells
//! processors and sinks; the grant in Kafka is taken away at once, and by the leader if that fails;
//! the leader deletes the topic (see `settle`). The row stays as `gone`, so a view made later under
//! the same name has the next generation and nobody mistakes its topic for the former one.

use hutong_policies::{DocumentError, ViewDocument, ViewPlan, ViewState, ViewTask};
use hutong_schemas::position::SchemaId;
use hutong_transport::admin::{TopicInfo, TopicSpec};
use hutong_transport::names::DEFAULT_LOCATION;
use hutong_transport::record::{TargetState, TaskKind};
use serde_json::json;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};

use crate::App;
use crate::caller::{Caller, Role};
use crate::connect;
use crate::error::{Error, Mistake};
use crate::live::Captured;
use crate::registry;
use crate::store::tasks::{self, Wanted, processor_task};
use crate::store::views::{self, GONE, LIVE, View};
use crate::store::{connectors, lock_desired_state, tokens};

mod status;

pub(crate) use status::{ViewStatus, of, progress};

/// Lists the views that a caller gives or receives; those over one table if it is named, by its topic
/// or as `schema.table`.
pub(crate) async fn list(
    app: &App,
    caller: &Caller,
    table: Option<&str>,
) -> Result<Vec<View>, Error> {
    let mut db = app.store.acquire().await?;
    let mut found = views::list(&mut db, caller.limit()).await?;
    if let Some(table) = table {
        found.retain(|view| {
            view.source_topic == table || view.compiled.table.id.to_string() == table
        });
    }
    Ok(found)
}

/// Returns a view that a caller gives or receives.
pub(crate) async fn get(app: &App, caller: &Caller, name: &str) -> Result<View, Error> {
    let mut db = app.store.acquire().await?;
    let found = views::get(&mut db, name).await?;
    found
        .filter(|view| caller.sees(&view.owner) || caller.sees(&view.subscriber))
        .ok_or_else(|| not_found(name))
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("there is no view \"{name}\""))
}

/// Makes a view. Durable when it returns; rows follow.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    document: ViewDocument,
) -> Result<View, Error> {
    caller.require(Role::Operator)?;
    let mistakes = document.check();
    if !mistakes.is_empty() {
        return Err(refused(&mistakes));
    }
    let (captured, owner) = find_table(app, caller, &document.source.topic).await?;
    let plan =
        hutong_policies::compile(&document, &captured.record.table).map_err(|e| refused(&e))?;
    let location = location(app, &document)?;
    if document
        .valid_until_ms()
        .is_some_and(|end| end <= crate::now_ms())
    {
        return Err(Error::field("valid_until", "is in the past"));
    }
    let before = {
        let mut db = app.store.acquire().await?;
        views::get(&mut db, &document.name).await?
    };
    refuse_existing(caller, before.as_ref())?;
    let draft = Draft {
        generation: before.as_ref().map_or(1, |before| before.generation + 1),
        version: before.as_ref().map_or(1, |before| before.version + 1),
        document,
        plan,
        captured,
        owner,
        location,
    };
    let (source, own) = ensure_topics(app, &draft).await?;

    let mut tx = app.store.begin_change().await?;
    let now = views::get(&mut tx, &draft.document.name).await?;
    if now.as_ref().map(|v| v.version) != before.as_ref().map(|v| v.version) {
        refuse_existing(caller, now.as_ref())?;
        return Err(already_there(&draft.document.name));
    }
    for other in views::of_topic(&mut tx, &draft.document.source.topic).await? {
        if other.location != draft.location {
            return Err(Error::field(
                "location",
                format!(
                    "views over topic {} are computed at location \"{}\", not at \"{}\"",
                    other.source_topic, other.location, draft.location
                ),
            ));
        }
    }
    let view = assemble(app, &mut tx, draft, &source, &own).await?;
    views::write(&mut tx, &view).await?;
    write_processors(app, &mut tx, &view.source_topic).await?;
    write_sinks(app, &mut tx, &view.name).await?;
    tx.commit().await?;
    tracing::info!(view = view.name, topic = view.compiled.topic, "view made");
    get(app, caller, &view.name).await
}

/// Takes a view back. Durable when it returns; processors and sinks follow. Taking back what was
/// taken back already changes nothing.
pub(crate) async fn revoke(app: &App, caller: &Caller, name: &str) -> Result<View, Error> {
    caller.require(Role::Operator)?;
    let view = get(app, caller, name).await?;
    if !caller.sees(&view.owner) {
        return Err(Error::forbidden(format!(
            "view \"{name}\" can be revoked by who gives it, not by who receives it"
        )));
    }
    let mut db = app.store.acquire().await?;
    take_back(app, &mut db, &view, "revoked").await?;
    if view.acl_granted
        && let Some(principal) = &view.kafka_principal
    {
        match app.admin.revoke_read(principal, &view.compiled.topic).await {
            Ok(_) => views::set_acl(&mut db, &view, false).await?,
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(view = name, error, "the leader will take the grant away");
            }
        }
    }
    drop(db);
    get(app, caller, name).await
}

/// Sets a live view to revoked and tells its processors and sinks.
pub(crate) async fn take_back(
    app: &App,
    db: &mut PgConnection,
    view: &View,
    reason: &str,
) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    lock_desired_state(&mut tx).await?;
    let now = views::get(&mut tx, &view.name).await?;
    if now.is_none_or(|now| !now.is_live() || now.generation != view.generation) {
        return Ok(());
    }
    views::revoke(&mut tx, &view.name, reason).await?;
    write_processors(app, &mut tx, &view.source_topic).await?;
    write_sinks(app, &mut tx, &view.name).await?;
    tx.commit().await?;
    tracing::info!(view = view.name, reason, "view taken back");
    Ok(())
}

/// Writes the tasks of a table topic's processors as they follow from its views.
pub(crate) async fn write_processors(
    app: &App,
    tx: &mut PgConnection,
    topic: &str,
) -> Result<(), Error> {
    let all = views::of_topic(tx, topic).await?;
    let Some(newest) = all.iter().max_by_key(|view| view.created_at_ms) else {
        for task in tasks::processors(tx, topic).await? {
            tasks::remove(tx, &app.cluster, &task.id).await?;
        }
        return Ok(());
    };
    let listed: Vec<_> = all.iter().map(View::task).collect();
    for partition in 0..newest.partitions {
        let id = processor_task(topic, partition);
        let config = json!({
            "topic": topic,
            "topic_id": newest.source_topic_id,
            "partition": partition,
            "views": listed,
        });
        let wanted = Wanted {
            id: &id,
            owner: &newest.owner,
            location: &newest.location,
            connector: &id,
            kind: TaskKind::Processor,
            target: TargetState::Running,
            config: &config,
            source_topic: Some(topic),
        };
        tasks::write(tx, &app.cluster, wanted).await?;
    }
    Ok(())
}

/// Tells the sinks of a view how it is now.
async fn write_sinks(app: &App, tx: &mut PgConnection, view: &str) -> Result<(), Error> {
    for sink in connectors::sinks_of_view(tx, view).await? {
        connect::write_task(app, tx, &sink).await?;
    }
    Ok(())
}

/// What is to become a view.
struct Draft {
    document: ViewDocument,
    plan: ViewPlan,
    captured: Captured,
    owner: String,
    location: String,
    generation: i64,
    version: i64,
}

impl Draft {
    fn generation(&self) -> u64 {
        self.generation.unsigned_abs()
    }
}

/// Returns a captured table that the caller may give, and whose it is.
async fn find_table(app: &App, caller: &Caller, topic: &str) -> Result<(Captured, String), Error> {
    let missing = || {
        Error::field(
            "source.topic",
            format!(
                "no captured table has the topic \"{topic}\"; a source connector must capture it first"
            ),
        )
    };
    let Some(captured) = app.live.table(topic) else {
        if app.live.tables_known() {
            return Err(missing());
        }
        return Err(Error::unavailable(
            "captured tables have not been read from Kafka yet; try again later",
        ));
    };
    let mut db = app.store.acquire().await?;
    match connectors::claim_of_topic(&mut db, topic).await? {
        Some(claim) if caller.sees(&claim.owner) => Ok((captured, claim.owner)),
        None if caller.is_platform() => Ok((captured, caller.owner.clone())),
        Some(_) | None => Err(missing()),
    }
}

fn location(app: &App, document: &ViewDocument) -> Result<String, Error> {
    let is_known = |location: &str| app.locations.iter().any(|known| known == location);
    match &document.location {
        Some(location) if is_known(location) => Ok(location.clone()),
        Some(location) => Err(Error::field(
            "location",
            format!(
                "\"{location}\" is not a location of this installation, which has {}",
                app.locations.join(", ")
            ),
        )),
        None if is_known(DEFAULT_LOCATION) => Ok(DEFAULT_LOCATION.to_owned()),
        None => Err(Error::field(
            "location",
            format!(
                "is needed: this installation has {}",
                app.locations.join(", ")
            ),
        )),
    }
}

fn refuse_existing(caller: &Caller, existing: Option<&View>) -> Result<(), Error> {
    match existing {
        None => Ok(()),
        Some(view) if view.state == GONE && caller.sees(&view.owner) => Ok(()),
        Some(view) if view.state == LIVE || view.state == GONE || !caller.sees(&view.owner) => {
            Err(already_there(&view.name))
        }
        Some(view) => Err(Error::conflict(format!(
            "View {} was {} and its topic is not deleted yet; try again in a few seconds",
            view.name,
            view.reason.as_deref().unwrap_or("revoked"),
        ))),
    }
}

fn already_there(name: &str) -> Error {
    Error::conflict(format!("View {name} already exists"))
}

fn refused(errors: &[DocumentError]) -> Error {
    let mistakes = errors
        .iter()
        .map(|error| Mistake::new(&error.field, &error.message));
    Error::fields(mistakes.collect())
}

/// Makes the view's topic, with the partitions of the table's, and returns both.
async fn ensure_topics(app: &App, draft: &Draft) -> Result<(TopicInfo, TopicInfo), Error> {
    let topic = &draft.document.source.topic;
    let Some(source) = app.admin.topic(topic).await? else {
        return Err(Error::unavailable(format!(
            "topic {topic} does not exist yet; its connector has not run"
        )));
    };
    let spec = TopicSpec::view(
        &app.cluster,
        &draft.document.name,
        draft.generation(),
        source.partitions,
    );
    let own = app.admin.ensure_topic(&spec).await?;
    Ok((source, own))
}

/// Registers a view's schemas and puts together what is stored of it.
async fn assemble(
    app: &App,
    tx: &mut PgConnection,
    draft: Draft,
    source: &TopicInfo,
    own: &TopicInfo,
) -> Result<View, Error> {
    let name = draft.document.name.clone();
    let topic = app.cluster.view(&name, draft.generation());
    let (key_schema, value_schema) = (draft.plan.key_schema(), draft.plan.value_schema());
    let mut ids = Vec::new();
    for (part, schema) in [("key", &key_schema), ("value", &value_schema)] {
        let wanted = registry::For {
            subject: &format!("{topic}-{part}"),
            owner: &draft.owner,
            view: Some(&name),
        };
        let id = registry::register_text(tx, &app.cluster, wanted, schema).await?;
        ids.push(SchemaId(id.unsigned_abs()));
    }
    let compiled = ViewTask {
        name: name.clone(),
        document: draft.document.clone(),
        version: draft.version.unsigned_abs(),
        generation: u32::try_from(draft.generation).unwrap_or(u32::MAX),
        topic,
        topic_id: own.id.0.clone(),
        table: draft.captured.record.table,
        key_schema_id: ids[0],
        value_schema_id: ids[1],
        key_schema,
        value_schema,
        secret_fingerprint: None,
        share_key_version: 1,
        state: ViewState::Live,
        valid_until_ms: draft.document.valid_until_ms(),
    };
    Ok(View {
        name,
        owner: draft.owner,
        subscriber: draft.document.subscriber.clone(),
        state: LIVE.to_owned(),
        reason: None,
        source_topic: draft.document.source.topic.clone(),
        source_topic_id: source.id.0.clone(),
        location: draft.location,
        partitions: source.partitions,
        version: draft.version,
        generation: draft.generation,
        valid_until_ms: draft.document.valid_until_ms(),
        kafka_principal: tokens::principal(tx, &draft.document.subscriber).await?,
        acl_granted: false,
        created_at_ms: crate::now_ms(),
        revoked_at_ms: None,
        document: Json(draft.document),
        compiled: Json(compiled),
    })
}
