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
//! # Changing one
//!
//! Is a new version of its processors' tasks where the policy can change in place, and another
//! generation where something that was delivered is granted no longer (see `change` and
//! `generation`, and `hutong_policies::change` for which is which).
//!
//! # Taking one back
//!
//! Is a target state: the transaction sets the view to revoked under its next version and tells
//! processors and sinks; the grant in Kafka is taken away at once, and by the leader if that fails;
//! the leader deletes the topic (see `settle`). The row stays as `gone`, so a view made later under
//! the same name has the next generation and nobody mistakes its topic for the former one.

use hutong_policies::{DocumentError, ViewDocument, ViewPlan, ViewState, ViewTask};
use hutong_schemas::position::SchemaId;
use hutong_schemas::table::TableSchema;
use hutong_transport::admin::{Isolation, TopicInfo, TopicSpec};
use hutong_transport::names::DEFAULT_LOCATION;
use hutong_transport::record::{TargetState, TaskKind};
use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{Connection, PgConnection};

use crate::App;
use crate::caller::{Caller, PLATFORM, Role};
use crate::connect;
use crate::error::{Error, Mistake};
use crate::live::Captured;
use crate::registry;
use crate::store::tasks::{self, Wanted, processor_task};
use crate::store::views::{self, GONE, LIVE, View};
use crate::store::{connectors, lock_desired_state, shares, tokens};

mod change;
mod generation;
mod preview;
mod rotation;
mod status;

pub(crate) use change::change;
pub(crate) use preview::{Preview, preview};
pub(crate) use rotation::{Rotation, rotate};
pub(crate) use status::{ViewStatus, fill_ends, fingerprint, has_let_go, of, progress};

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
    let location = location(app, caller, &document)?;
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
    if let Some(before) = before
        .as_ref()
        .filter(|before| before.subscriber != document.subscriber)
    {
        // Sinks subscribe by the name, and those of the former subscriber still do.
        return Err(Error::field(
            "name",
            format!(
                "\"{}\" was a view for \"{}\"; one for another subscriber needs another name",
                before.name, before.subscriber
            ),
        ));
    }
    let generation = before.as_ref().map_or(1, |before| before.generation + 1);
    let generation = unused_generation(app, &document.name, generation).await?;
    let draft = Draft {
        generation,
        version: before.as_ref().map_or(1, |before| before.version + 1),
        value_schema: plan.value_schema(),
        document,
        plan,
        table: captured.record.table,
        table_schema_id: captured.record.value_schema_id,
        owner,
        location,
        withdrawn: Vec::new(),
        rekeyed: false,
        withdrawn_since: generation,
        // A sink may still hold what a former view of this name was emptied of or not.
        is_refilling: generation > 1,
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
            Ok(_) => {
                if let Some(now) = views::get(&mut db, name).await? {
                    views::end_grant(&mut db, &now).await?;
                }
            }
            Err(error) => {
                let error = crate::error::chain(&error);
                tracing::warn!(view = name, error, "the leader will take the grant away");
            }
        }
    }
    drop(db);
    get(app, caller, name).await
}

/// Starts the processors of a view's table again, as they are: what stopped them, or suspended the
/// view, is tried again.
pub(crate) async fn restart(app: &App, caller: &Caller, name: &str) -> Result<View, Error> {
    caller.require(Role::Operator)?;
    let view = get(app, caller, name).await?;
    if !caller.sees(&view.owner) {
        return Err(Error::forbidden(format!(
            "view \"{name}\" can be restarted by who gives it, not by who receives it"
        )));
    }
    let mut tx = app.store.begin_change().await?;
    for task in tasks::processors(&mut tx, &view.source_topic).await? {
        tasks::restart(&mut tx, &app.cluster, &task.id).await?;
    }
    tx.commit().await?;
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
        return tasks::end_processors(tx, &app.cluster, topic).await;
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
pub(crate) async fn write_sinks(app: &App, tx: &mut PgConnection, view: &str) -> Result<(), Error> {
    for sink in connectors::sinks_of_view(tx, view).await? {
        connect::write_task(app, tx, &sink).await?;
    }
    Ok(())
}

/// Returns what the task of an organisation's sink carries of a view. Who neither gives nor receives
/// it gets nothing, whatever the sink was made for.
pub(crate) fn sink_input(app: &App, view: &View, sink_owner: &str) -> Value {
    let is_concerned = [PLATFORM, &view.owner, &view.subscriber].contains(&sink_owner);
    let mut input = json!({
        "name": app.cluster.view_alias(&view.name),
        "topic": view.compiled.topic,
        "topic_id": view.compiled.topic_id,
        "partitions": view.partitions,
        "view": view.name,
        "generation": view.generation,
        "version": view.version,
        "state": if view.is_live() && is_concerned { "live" } else { "revoked" },
        "valid_until_ms": view.valid_until_ms,
        "withdrawn": view.withdrawn,
        "rekeyed": view.rekeyed,
        "withdrawn_since": view.withdrawn_since,
    });
    if let Some(ends) = &view.fill_ends {
        input["fill_ends"] = json!(ends);
    }
    input
}

/// Returns the first generation, from one on, whose topic was never written. The store knows what it
/// has used, unless it was restored from a backup: then the topic of a later life may be there, with
/// the rows and the readers of another grant.
async fn unused_generation(app: &App, view: &str, from: i64) -> Result<i64, Error> {
    let mut generation = from;
    loop {
        let topic = app.cluster.view(view, generation.unsigned_abs());
        if app.admin.topic(&topic).await?.is_none() {
            return Ok(generation);
        }
        let ends = app.admin.end_offsets(&topic, Isolation::ReadUncommitted);
        if ends.await?.values().all(|end| *end == 0) {
            return Ok(generation);
        }
        tracing::warn!(
            topic,
            "a view's topic that the store does not know; delete it"
        );
        generation += 1;
    }
}

/// What is to become a generation of a view.
struct Draft {
    document: ViewDocument,
    plan: ViewPlan,
    value_schema: String,
    table: TableSchema,
    table_schema_id: u32,
    owner: String,
    location: String,
    generation: i64,
    version: i64,
    withdrawn: Vec<String>,
    rekeyed: bool,
    withdrawn_since: i64,
    is_refilling: bool,
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
    let mut db = app.store.acquire().await?;
    let prefix = connectors::prefix_of_topic(&mut db, topic).await?;
    drop(db);
    let location = prefix
        .as_ref()
        .and_then(|prefix| prefix.location.as_deref());
    let Some(captured) = app.live.table(topic, location) else {
        if app.live.tables_known() {
            return Err(missing());
        }
        return Err(Error::unavailable(
            "captured tables have not been read from Kafka yet; try again later",
        ));
    };
    match prefix {
        Some(prefix) if caller.sees(&prefix.owner) => Ok((captured, prefix.owner)),
        None if caller.is_platform() => Ok((captured, caller.owner.clone())),
        Some(_) | None => Err(missing()),
    }
}

fn location(app: &App, caller: &Caller, document: &ViewDocument) -> Result<String, Error> {
    let wanted = document.location.as_deref().unwrap_or(DEFAULT_LOCATION);
    match app.whose_locations.refusal(caller, wanted) {
        None => Ok(wanted.to_owned()),
        Some(refusal) => Err(Error::field("location", refusal)),
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
    let (key_schema, value_schema) = (draft.plan.key_schema(), draft.value_schema);
    let mut ids = Vec::new();
    for (part, schema) in [("key", &key_schema), ("value", &value_schema)] {
        ids.push(register_part(app, tx, &draft.owner, &name, &topic, part, schema).await?);
    }
    let share = shares::ensure(tx, &draft.owner, &draft.document.share).await?;
    let compiled = ViewTask {
        name: name.clone(),
        document: draft.document.clone(),
        version: draft.version.unsigned_abs(),
        generation: u32::try_from(draft.generation).unwrap_or(u32::MAX),
        topic,
        topic_id: own.id.0.clone(),
        table: draft.table,
        table_schema_id: Some(SchemaId(draft.table_schema_id)),
        key_schema_id: ids[0],
        value_schema_id: ids[1],
        key_schema,
        value_schema,
        secret_fingerprint: share
            .secret_fingerprint
            .filter(|_| draft.plan.needs_secret()),
        needs_secret: draft.plan.needs_secret(),
        share_key_version: share.key_version.unsigned_abs(),
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
        acl_confirmed: false,
        withdrawn: Json(draft.withdrawn),
        rekeyed: draft.rekeyed,
        withdrawn_since: draft.withdrawn_since,
        is_refilling: draft.is_refilling,
        fill_ends: None,
        is_closing: false,
        created_at_ms: crate::now_ms(),
        revoked_at_ms: None,
        document: Json(draft.document),
        compiled: Json(compiled),
    })
}

/// Registers a schema of a view's generation and returns its id.
async fn register_part(
    app: &App,
    tx: &mut PgConnection,
    owner: &str,
    view: &str,
    topic: &str,
    part: &str,
    schema: &str,
) -> Result<SchemaId, Error> {
    let wanted = registry::For {
        subject: &format!("{topic}-{part}"),
        owner,
        view: Some(view),
    };
    let id = registry::register_text(tx, &app.cluster, wanted, schema).await?;
    Ok(SchemaId(id.unsigned_abs()))
}

fn already_changed(name: &str) -> Error {
    Error::conflict(format!(
        "View {name} was changed by somebody else meanwhile; look at it and try again"
    ))
}
