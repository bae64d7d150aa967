//! Following a table from one Relation message to the next: the part that does. What a change of the
//! table means is decided by [`relation_change`].
//!
//! The catalogue is looked at when the transaction that sent the message is visible to others. Its
//! commit record is in the log, and may have reached us, before that; the catalogue would then be
//! older than the stream. Whoever changed the table before held it locked until it was visible.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hutong_connectors_core::postgres_source::Config;
use hutong_schemas::table::{DefaultValue, TableSchema};
use tokio::time::timeout;

use super::catalogue::{self, Table, Wanted};
use super::changes::Entry;
use super::chunk::Readable;
use super::delivery::Flow;
use super::error::Error;
use super::pgoutput::Relation;
use super::position::KnownTable;
use super::relation_change::{self, Followed};
use super::side::Side;
use super::streaming::Streaming;
use super::table_plan::{self, TablePlan};
use super::{publication, toast};

/// How long looking at the catalogue may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

enum Looked {
    Found(Box<Looks>),
    /// The catalogue does not have the table any more.
    Gone,
    /// We were asked to stop.
    Stop,
}

/// What the catalogue says of a table.
struct Looks {
    table: Table,
    defaults: BTreeMap<i16, DefaultValue>,
}

impl Streaming {
    /// Takes up what a table looks like from here on.
    pub(crate) async fn on_relation(&mut self, relation: &Relation) -> Result<Flow, Error> {
        let oid = relation.oid;
        let Some(known) = self.changes.states.known(oid).cloned() else {
            self.changes.enter(oid, Entry::Ignored);
            self.stop_namesake(relation)?;
            return Ok(Flow::Continue);
        };
        let looks = match self.look_up(relation).await? {
            Looked::Found(looks) => Some(looks),
            Looked::Gone => None,
            Looked::Stop => return Ok(Flow::Stop),
        };
        let table = looks.as_ref().map(|looks| &looks.table);
        let followed = relation_change::follow(&known, relation, table, &self.config)?;
        let Some(looks) = looks else {
            // Dropped further on. Up to there its events are written as before.
            return match self.changes.plan(oid) {
                Some(_) => Ok(Flow::Continue),
                None => Err(relation_change::changed(&known.name, "it was dropped")),
            };
        };
        publication::check_identity(&looks.table)?;
        let before = self.changes.plan(oid).map(|plan| &plan.schema);
        let schema = relation_change::schema(
            &followed.known,
            relation,
            &looks.table,
            &looks.defaults,
            before,
        )?;
        let Followed { known, captured } = followed;
        let is_unchanged = self
            .changes
            .plan(oid)
            .is_some_and(|plan| plan.schema == schema && plan.captures(&captured));
        if !is_unchanged {
            self.take_up(&looks.table, schema, captured).await?;
        }
        self.changes.states.set_known(oid, known);
        Ok(Flow::Continue)
    }

    async fn take_up(
        &mut self,
        table: &Table,
        schema: TableSchema,
        captured: Vec<bool>,
    ) -> Result<(), Error> {
        let host = self.delivery.host.as_ref();
        let plan = Arc::new(table_plan::announce(host, &self.config, schema, captured).await?);
        if let (Some(backfill), Some(merge)) = (&mut self.backfill, &mut self.changes.merge) {
            let readable = Readable::new(table, Arc::clone(&plan));
            backfill.replan(Arc::new(readable), merge);
        }
        // What was written under the earlier plan cannot be read with this one.
        self.changes.writer.forget(table.oid);
        self.changes.enter(table.oid, Entry::Captured(plan));
        Ok(())
    }

    /// A table that is not followed and has the name of one that is: that one was dropped.
    fn stop_namesake(&mut self, relation: &Relation) -> Result<(), Error> {
        let name = format!("{}.{}", relation.schema, relation.table);
        let is_namesake =
            |known: Option<&KnownTable>| known.is_some_and(|known| known.name == name);
        let namesake = self
            .changes
            .states
            .iter()
            .map(|(oid, _)| oid)
            .find(|oid| *oid != relation.oid && is_namesake(self.changes.states.known(*oid)));
        match namesake {
            Some(oid) => {
                let what = "it was dropped and created again";
                self.fail_table(oid, &relation_change::changed(&name, what))
            }
            None => Ok(()),
        }
    }

    /// Asks the catalogue, answering the server meanwhile.
    async fn look_up(&mut self, relation: &Relation) -> Result<Looked, Error> {
        let xid = self.changes.xid();
        let mut side = self.side.lend();
        let config = Arc::clone(&self.config);
        let look = timeout(LOOK_TIMEOUT, look_up(&mut side, &config, xid, relation));
        let looks = self.while_answering(look).await;
        self.side.give_back(side);
        let looks = match looks? {
            None => return Ok(Looked::Stop),
            Some(Ok(looks)) => looks,
            Some(Err(_)) => Err(Error::transient(format!(
                "could not look at table {}.{} in the catalogue: no answer within {} s",
                relation.schema,
                relation.table,
                LOOK_TIMEOUT.as_secs()
            ))),
        };
        if looks.is_err() {
            self.side.discard();
        }
        Ok(match looks? {
            Some(looks) => Looked::Found(Box::new(looks)),
            None => Looked::Gone,
        })
    }
}

async fn look_up(
    side: &mut Side,
    config: &Config,
    xid: Option<u32>,
    relation: &Relation,
) -> Result<Option<Looks>, Error> {
    let client = side.client().await?;
    if let Some(xid) = xid {
        toast::wait_until_visible(client, &[xid]).await?;
    }
    let tables = catalogue::fetch_tables(client, Wanted::Oid(relation.oid)).await?;
    let Some(mut table) = tables.into_iter().next() else {
        return Ok(None);
    };
    // Which columns are captured is said by the name that the table has here.
    let at_present = table.id.clone();
    table.id.schema.clone_from(&relation.schema);
    table.id.table.clone_from(&relation.table);
    let defaults = catalogue::fetch_defaults(client, config, &table).await?;
    table.id = at_present;
    Ok(Some(Looks { table, defaults }))
}

impl TablePlan {
    /// Whether these columns of received rows are the captured ones.
    fn captures(&self, captured: &[bool]) -> bool {
        self.captured == captured
    }
}
