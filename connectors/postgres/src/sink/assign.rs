//! Taking a target over: who owned it ends, the epoch rises, the table gets its shape, and each
//! partition gets its place. The argument is in the module above.

use hutong_connectors_core::jdbc_sink::SchemaEvolution;
use hutong_schemas::record::FieldInfo;
use tokio_postgres::Client;

use super::error::Error;
use super::holding::{self, Holding};
use super::position::{self, Found, Input, Plan, Refusal, StartOffset};
use super::shape::Freedom;
use super::statement::{Statements, execute};
use super::target::{Target, qualified};
use super::writer::Writer;
use super::{Sink, catalogue, dead_letters, emptying, fences, rebuild};

pub(super) async fn assign(
    sink: Sink,
    target: Target,
    input: &Input,
    now_ms: i64,
) -> Result<(Writer, Vec<StartOffset>), Error> {
    let table = target.table().clone();
    emptying::withdraw(&sink, &table, input).await?;
    let client = &sink.session.client;
    if fences(&sink.connector) && position::exists(client, &table).await? {
        position::terminate_predecessors(client, &table).await?;
    }
    execute(client, &table, "begin a transaction on", "BEGIN").await?;
    position::ensure(client, &table).await?;
    let held = holding::locked(client, &table).await?;
    let mut stored = position::stored(client, &table).await?;
    if held.is_none() {
        // Positions of a table that is gone.
        stored.clear();
    }
    let found = catalogue::found(client, &table).await?;
    let plan = position::plan(input, &stored, held.as_ref(), found, now_ms);
    let plan = plan.map_err(|refusal| refused(&table, refusal))?;
    let plan = match plan {
        Plan::Continue(_) if has_lost_notes(client, &target).await? => {
            position::rebuild(input, held.as_ref())
        }
        plan => plan,
    };
    let freedom = match (&plan, found) {
        (_, Found::Missing | Found::Empty) => Freedom::Everything,
        (Plan::Rebuild(_), _) => Freedom::Types,
        (Plan::Fresh | Plan::Continue(_), Found::WithRows) => Freedom::Columns,
    };
    let is_made = held.as_ref().is_some_and(|held| held.is_made);
    let shaped = ensure_table(client, &target, sink.evolution, is_made, freedom).await?;
    let next = next_holding(held, &plan, input, &target, &shaped, now_ms);
    let former = former(&next, &target, &shaped.columns);
    let epoch = holding::take(client, &table, &next).await?;
    let starts = match &plan {
        Plan::Continue(known) => next_offsets(input, known),
        Plan::Fresh | Plan::Rebuild(_) => {
            position::forget(client, &table).await?;
            vec![0; input.end_offsets.len()]
        }
    };
    if let Plan::Rebuild(ends) = &plan {
        tracing::info!(%table, topic = input.topic, ?ends, "rebuilding a table");
        rebuild::begin(client, &target, input, *ends).await?;
    }
    position::take(client, &table, input, &starts, epoch, now_ms).await?;
    let letters = dead_letters::open(client, &table).await?;
    let remaining = rebuild::remaining(client, &table).await?;
    let mut swept_generation = next.swept_generation;
    if matches!(plan, Plan::Rebuild(_)) && remaining.is_empty() {
        rebuild::sweep(client, &target, epoch).await?;
        swept_generation = next.generation;
    }
    execute(client, &table, "take over", "COMMIT").await?;
    let statements = Statements::prepare(client, &target, &former).await?;
    let mut writer = Writer {
        connector: sink.connector,
        evolution: sink.evolution,
        topic: input.topic.clone(),
        topic_id: input.topic_id.clone(),
        generation: next.generation,
        swept_generation,
        reading_since_ms: next.reading_since_ms,
        is_made: next.is_made,
        letters,
        replayed: next.replayed,
        may_fill: shaped.is_exact,
        epoch,
        next_offsets: (0..).zip(starts.iter().copied()).collect(),
        remaining,
        former,
        statements,
        session: sink.session,
        target,
    };
    if let Some(ends) = &input.fill_ends {
        writer.learn_fill_ends(ends);
    }
    let starts = starts.into_iter().map(|offset| match offset {
        0 => StartOffset::Earliest,
        offset => StartOffset::At(offset),
    });
    Ok((writer, starts.collect()))
}

fn refused(table: &hutong_schemas::table::TableId, refusal: Refusal) -> Error {
    let table = table.clone();
    match refusal {
        Refusal::NotEmpty => Error::NotEmpty { table },
        Refusal::Taken(topic) => Error::Taken { table, topic },
    }
}

/// A rebuild whose notes the subscriber has dropped begins anew.
async fn has_lost_notes(client: &Client, target: &Target) -> Result<bool, Error> {
    let table = target.table();
    let is_rebuilding = !rebuild::remaining(client, table).await?.is_empty();
    Ok(is_rebuilding && !rebuild::has_notes(client, table).await?)
}

fn next_holding(
    held: Option<Holding>,
    plan: &Plan,
    input: &Input,
    target: &Target,
    shaped: &Shaped,
    now_ms: i64,
) -> Holding {
    let generation = i64::try_from(input.generation).unwrap_or(i64::MAX);
    let replayed = held.as_ref().map(|held| held.replayed.clone());
    let replayed = replayed.unwrap_or_default();
    let mut columns = held
        .as_ref()
        .map_or_else(Vec::new, |held| held.columns.clone());
    let new = target.columns().iter().map(|field| field.name.clone());
    let new: Vec<String> = new.filter(|name| !columns.contains(name)).collect();
    columns.extend(new);
    let reading_since_ms = match (&held, plan) {
        (Some(held), Plan::Continue(_)) => held.reading_since_ms,
        (Some(_), Plan::Fresh | Plan::Rebuild(_)) | (None, _) => now_ms,
    };
    let swept_generation = match (&held, plan) {
        // Nothing of an earlier one is in a table that begins empty.
        (_, Plan::Fresh) | (None, _) => generation,
        (Some(held), Plan::Continue(_) | Plan::Rebuild(_)) => held.swept_generation,
    };
    Holding {
        input: input.name.clone(),
        generation,
        swept_generation,
        is_emptying: false,
        reading_since_ms,
        columns,
        table_oid: shaped.oid,
        replayed,
        is_made: shaped.is_made,
    }
}

/// Returns the columns that were written once, are still there, and are in the input no longer.
pub(super) fn former(held: &Holding, target: &Target, existing: &[String]) -> Vec<String> {
    let is_former = |name: &&String| {
        existing.contains(name) && !target.columns().iter().any(|field| field.name == **name)
    };
    held.columns.iter().filter(is_former).cloned().collect()
}

fn next_offsets(input: &Input, known: &[(i32, i64)]) -> Vec<i64> {
    (0..)
        .zip(&input.end_offsets)
        .map(|(partition, _)| {
            let stored = known.iter().find(|(known, _)| *known == partition);
            stored.map_or(0, |(_, next_offset)| *next_offset)
        })
        .collect()
}

/// A table that has got its shape.
pub(super) struct Shaped {
    pub(super) oid: u32,
    /// We have made it.
    pub(super) is_made: bool,
    /// Its columns take the binary form of the target's types.
    pub(super) is_exact: bool,
    /// The columns that it had before.
    pub(super) columns: Vec<String>,
}

/// Creates the table, or changes it as far as we may, or says what is wrong with it.
pub(super) async fn ensure_table(
    client: &Client,
    target: &Target,
    evolution: SchemaEvolution,
    is_made: bool,
    freedom: Freedom,
) -> Result<Shaped, Error> {
    let table = target.table();
    let Some(existing) = catalogue::existing(client, table).await? else {
        if evolution == SchemaEvolution::None {
            return Err(Error::Missing {
                table: table.clone(),
                create_table: target.create_table(),
            });
        }
        execute(client, table, "create", &target.create_table()).await?;
        return Ok(Shaped {
            oid: catalogue::oid(client, table).await?.unwrap_or_default(),
            is_made: true,
            is_exact: true,
            columns: Vec::new(),
        });
    };
    let freedom = if is_made { freedom } else { Freedom::None };
    let actions = super::shape::reconcile(target, &existing, freedom)?;
    if !actions.is_empty() {
        let parts: Vec<_> = actions.iter().map(|action| action.sql.as_str()).collect();
        let sql = format!("ALTER TABLE {} {}", qualified(table), parts.join(", "));
        if evolution == SchemaEvolution::None {
            return Err(Error::Incompatible {
                table: table.clone(),
                differences: actions.into_iter().map(|action| action.why).collect(),
                remedies: vec![sql, "set schema.evolution to basic".to_owned()],
            });
        }
        execute(client, table, "change the columns of", &sql).await?;
    }
    Ok(Shaped {
        oid: existing.oid,
        is_made,
        // What was just retyped is looked at again by the next assignment.
        is_exact: existing.is_exact(target),
        columns: existing
            .columns
            .into_iter()
            .map(|column| column.name)
            .collect(),
    })
}

/// Returns the names of some fields.
pub(super) fn names(fields: &[FieldInfo]) -> Vec<String> {
    fields.iter().map(|field| field.name.clone()).collect()
}
