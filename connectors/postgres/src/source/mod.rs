//! The source: tables and their changes, from PostgreSQL's logical replication.
//!
//! Read in this order. How the server is spoken to: [`client`], [`mod@connect`]. What it says, as values:
//! [`pgoutput`], [`text`]. What is looked at before a row is read: [`startup`], with [`catalogue`],
//! [`publication`] and [`slot`], and what follows for each table: [`lifecycle`]. Where we stand:
//! [`position`] and [`table_state`]. Then the two things that a source does. [`streaming`]; what it
//! decides is in [`changes`], and the hard cases have their own rooms: [`writer`] and [`toast`],
//! [`truncate`], [`relation_change`]. And the rows of tables, read beside the stream: [`merge`] says
//! when they may join it, [`chunk`] and [`readers`] read, [`backfill`] plans, [`beside`] lets them join;
//! tables without a key are in [`keyless`].

use std::collections::BTreeMap;
use std::sync::Arc;

use hutong_connectors_core::postgres_source::{Config, PublicationAutocreate, SnapshotMode};
use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::secret::Secret;
use hutong_connectors_core::source::{SourceBatch, SourceHost, SourceProgress};
use hutong_schemas::class::Classified;
use hutong_schemas::position::Lsn;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};

mod backfill;
mod beside;
mod catalogue;
mod changes;
mod chunk;
mod client;
mod connect;
mod delivery;
mod error;
mod following;
mod keyless;
mod lifecycle;
mod literal;
mod merge;
mod offsets;
mod pgoutput;
mod position;
mod publication;
mod readers;
mod relation_change;
mod side;
mod silent_change;
mod slot;
mod socket;
mod sql;
mod startup;
mod streaming;
mod table_plan;
mod table_state;
pub(crate) mod text;
mod toast;
mod truncate;
mod types;
mod visibility;
mod writer;

pub use error::Error;
pub use offsets::moved;

use backfill::Backfill;
use catalogue::{Row, Table};
use changes::{Changes, Limits};
use connect::{AnyClient, Purpose, connect};
use delivery::{Delivery, Flow, stopped};
use lifecycle::Circumstances;
use merge::Merge;
use position::{Position, System, check_lineage, parse_history};
use side::Side;
use slot::Slot;
use startup::{Facts, Fault};
use streaming::Streaming;
use table_state::Tables;

/// The share of memory that a source takes by itself: so many batches.
const BUDGET_BATCHES: usize = 4;

/// A source whose server, rights, slot and tables have been looked at and found right.
pub struct Connected {
    config: Arc<Config>,
    password: Option<Secret>,
    side: Side,
    client: AnyClient,
    system: System,
    facts: Facts,
    /// The byte budget, and its size in KiB.
    budget: (Arc<Semaphore>, usize),
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected")
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

impl Connected {
    /// Connects and makes all checks that concern the source as a whole. Nothing is created or
    /// changed. Tables are checked by [`Connected::run`], which knows which of them are followed.
    ///
    /// # Errors
    ///
    /// Definite, with the exact SQL for the DBA as hint, where configuration, rights or tables are
    /// wrong; transient where the server cannot be reached.
    pub async fn open(config: Config, password: Option<Secret>) -> Result<Self, Error> {
        let config = Arc::new(config);
        let mut side = Side::open(Arc::clone(&config), password.clone()).await?;
        let (facts, mut faults) = startup::inspect(side.client().await?, &config).await?;
        if !faults.is_empty() {
            // Whoever comes to mend the server mends the tables in the same visit.
            faults.extend(facts.judge(&config));
            return Err(all_at_once(faults));
        }
        let mut client = connect(
            &config.connection,
            password.as_ref(),
            slot::APPLICATION_NAME,
            Purpose::Replication,
        )
        .await?;
        let system = identify(&mut client).await?;
        let kib = BUDGET_BATCHES * config.batch_bytes_max.div_ceil(1024);
        Ok(Self {
            budget: (Arc::new(Semaphore::new(kib)), kib),
            config,
            password,
            side,
            client,
            system,
            facts,
        })
    }

    /// Replaces the byte budget (one permit is one KiB, there are `kib` of them) from which each batch
    /// takes its share; by default a source has one of its own.
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<Semaphore>, kib: usize) -> Self {
        self.budget = (budget, kib);
        self
    }

    /// Returns what this source owns, under which positions are stored and writers fenced:
    /// `source/<system identifier>/<database>/<slot>`.
    #[must_use]
    pub fn owner(&self) -> String {
        owner_of(&self.system, &self.config)
    }

    /// Returns what is not wrong enough to refuse, such as a missing limit of retained log.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.facts.warnings
    }

    /// Runs until `stop` becomes true or an error: the stream, and beside it the rows of tables that
    /// are not all read.
    ///
    /// `positions` is what was stored: the source's own under the empty name, its parts' under
    /// theirs. Batches go to `out` in order. `confirmed` says the number of the last durable one; only
    /// then is the slot told. The caller has fenced whoever ran this source before: a walsender of
    /// ours that still holds the slot is ended.
    ///
    /// # Errors
    ///
    /// As classified by [`Error`]; all that was handed over before stays valid.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any place, as if the process had died there.
    pub async fn run(
        self,
        positions: BTreeMap<String, Value>,
        host: Arc<dyn SourceHost>,
        out: mpsc::Sender<SourceBatch>,
        confirmed: watch::Receiver<u64>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let position = positions.get("");
        let progress = SourceProgress {
            position: position.cloned(),
            slot: self.config.slot_name.clone(),
            publication: self.config.publication_name.clone(),
            warnings: self.facts.warnings.clone(),
            ..SourceProgress::default()
        };
        let mut stop_signal = stop.clone();
        let budget = self.budget.clone();
        let mut delivery = Delivery::new(host, progress, out, confirmed, stop, budget);
        let position = position.map(Position::parse).transpose()?;
        let tables = Tables::parse(&positions)?;
        let ends_after_reading = self.config.snapshot_mode == SnapshotMode::InitialOnly;
        // Until the stream runs there is nothing that could not be dropped; the stream itself looks
        // for the signal where it must.
        let begun = tokio::select! {
            biased;
            () = stopped(&mut stop_signal) => return Ok(()),
            begun = self.begin(position, tables, &mut delivery) => begun?,
        };
        let (mut side, delivery, config, made) = match begun {
            Begun::Stopped => return Ok(()),
            Begun::Ended { side, config, made } => (side, delivery, config, made),
            Begun::Streams(beginning) => {
                let config = Arc::clone(&beginning.config);
                let made = beginning.position.made;
                let (side, delivery) = beginning.stream(delivery, ends_after_reading).await?;
                (side, delivery, config, made)
            }
        };
        if ends_after_reading && !*stop_signal.borrow() {
            // The log is of no use any more; what is read again later begins with another slot.
            if made.slot {
                slot::drop(side.client().await?, &config.slot_name).await?;
            }
            stopped(&mut stop_signal).await;
        }
        drop(delivery);
        Ok(())
    }

    /// Brings the source to the place where it streams.
    async fn begin(
        mut self,
        stored: Option<Position>,
        mut tables: Tables,
        delivery: &mut Delivery,
    ) -> Result<Begun, Error> {
        let (mut position, circumstances) = self.find_place(stored).await?;
        let start = lifecycle::start(&self.facts, &self.config, &mut tables, circumstances)
            .map_err(all_at_once)?;
        delivery.progress.tables.clone_from(&start.shown);
        delivery
            .progress
            .tables
            .sort_by_cached_key(|shown| shown.table.to_string());
        delivery.progress.warnings.extend(start.warnings.clone());
        delivery.show();
        if position.ended && start.beside.is_empty() && start.keyless.is_empty() {
            return Ok(Begun::Ended {
                made: position.made,
                side: self.side,
                config: self.config,
            });
        }
        if circumstances.is_first {
            let begun = self
                .begin_anew(position, &start, &mut tables, circumstances, delivery)
                .await?;
            match begun {
                Some(begun) => position = begun,
                None => return Ok(Begun::Stopped),
            }
        } else {
            for plan in &start.publish {
                self.make_publication(plan, delivery).await?;
            }
            // What is captured no more is forgotten before it is taken out of the publication: a start
            // that captures it again would take a table that it knows and does not find there for one
            // that somebody else took out, and stop it.
            if !start.unpublish.is_empty() {
                let parts = tables.take_changed()?;
                if delivery.send_position(&position, parts).await? == Flow::Stop
                    || delivery.settled().await == Flow::Stop
                {
                    return Ok(Begun::Stopped);
                }
            }
        }
        self.unpublish(&start, &position, delivery).await;
        for table in &start.keyless {
            let reading = keyless::Reading {
                config: &self.config,
                client: self.second_client().await?,
                delivery,
                tables: &mut tables,
                position: &position,
            };
            if reading.run(table).await? == Flow::Stop {
                return Ok(Begun::Stopped);
            }
        }
        Ok(Begun::Streams(Box::new(Beginning {
            config: self.config,
            client: self.client,
            side: self.side,
            position,
            tables,
            beside: start.beside,
            is_durable: !circumstances.is_first,
        })))
    }

    /// Returns where the stream goes on, or the position to begin with.
    async fn find_place(
        &mut self,
        stored: Option<Position>,
    ) -> Result<(Position, Circumstances), Error> {
        let mut circumstances = Circumstances {
            is_first: true,
            has_gap: false,
            end_of_log: None,
        };
        let Some(mut position) = stored else {
            return Ok((self.first_position(), circumstances));
        };
        if position.preparing || position.ended {
            return Ok((position, circumstances));
        }
        match self.continue_at(&position).await {
            Ok(slot) => {
                circumstances.is_first = false;
                circumstances.end_of_log = slot.map(|slot| slot.end_of_log);
                position.timeline = self.system.timeline;
                Ok((position, circumstances))
            }
            Err(Error::Gap { message, .. })
                if self.config.snapshot_mode == SnapshotMode::WhenNeeded =>
            {
                tracing::warn!(connector = %self.config.name, message, "all tables are read again");
                circumstances.has_gap = true;
                Ok((position, circumstances))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the log continues at the position and that nobody else reads the slot, which
    /// it returns.
    async fn continue_at(&mut self, position: &Position) -> Result<Option<Slot>, Error> {
        self.check_lineage(position).await?;
        let (slot, _) = self.take_slot(Some(position)).await?;
        Ok(slot)
    }

    async fn check_lineage(&mut self, position: &Position) -> Result<(), Error> {
        let mut history = Vec::new();
        if position.timeline != self.system.timeline {
            let rows = self
                .client
                .query(
                    "read the timeline's history",
                    &format!("TIMELINE_HISTORY {}", self.system.timeline),
                )
                .await?;
            if let Some(row) = rows.into_iter().next() {
                history = parse_history(Row(row).text(1)?);
            }
        }
        check_lineage(position, &self.system, &history)
    }

    fn first_position(&self) -> Position {
        let mut position = Position::new(
            self.system.identifier.clone(),
            self.system.timeline,
            Lsn::default(),
        );
        position.preparing = true;
        position
    }

    /// Makes the publication and the slot where they are missing, and returns the position where the
    /// stream begins.
    ///
    /// What we are going to make is stored first. A crash right after would otherwise leave behind
    /// what nobody knows to be ours, and a deleted connector would let it hold the server's log for
    /// ever.
    async fn begin_anew(
        &mut self,
        mut position: Position,
        start: &lifecycle::Start,
        tables: &mut Tables,
        circumstances: Circumstances,
        delivery: &mut Delivery,
    ) -> Result<Option<Position>, Error> {
        if circumstances.has_gap {
            self.drop_lost_slot(&position).await?;
        }
        let (_, slot_plan) = self.take_slot(None).await?;
        let is_created = |plan: &publication::Plan| matches!(plan, publication::Plan::Create(_));
        let makes_publication = start.publish.iter().any(is_created);
        let makes_slot = slot_plan == slot::Plan::Create;
        if makes_publication || makes_slot {
            position.preparing = true;
            position.ended = false;
            position.made.publication |= makes_publication;
            position.made.slot |= makes_slot;
            let parts = tables.take_changed()?;
            if delivery.send_position(&position, parts).await? == Flow::Stop
                || delivery.settled().await == Flow::Stop
            {
                return Ok(None);
            }
        }
        // The publication comes before the slot: the slot's decoding looks for it from its first
        // change on.
        for plan in &start.publish {
            self.make_publication(plan, delivery).await?;
        }
        let reads_rows = self.config.snapshot_mode != SnapshotMode::NoData;
        position.lsn = if makes_slot {
            delivery.host.reached("source-slot-before").await;
            let lsn = slot::create(&mut self.client, &self.config.slot_name).await?;
            delivery.host.reached("source-slot-after").await;
            lsn
        } else if makes_publication || reads_rows {
            // A place where every transaction knows the publication: a temporary slot finds it by
            // waiting for those that are running.
            let mut client = self.second_client().await?;
            let point = keyless::take_snapshot(&mut client).await?;
            client.close().await;
            point
        } else {
            let client = self.side.client().await?;
            let slot = slot::fetch(client, &self.config.slot_name).await?;
            slot.and_then(|slot| slot.confirmed_flush)
                .ok_or_else(|| Error::transient("the replication slot has no position yet"))?
        };
        position
            .system_identifier
            .clone_from(&self.system.identifier);
        position.timeline = self.system.timeline;
        position.partial = None;
        position.last_commit_lsn = None;
        position.preparing = false;
        position.ended = false;
        Ok(Some(position))
    }

    async fn drop_lost_slot(&mut self, position: &Position) -> Result<(), Error> {
        let name = &self.config.slot_name;
        let client = self.side.client().await?;
        let is_lost = slot::fetch(client, name).await?.is_some_and(|s| s.lost);
        if !is_lost {
            return Ok(());
        }
        if !position.made.slot {
            return Err(Error::definite(
                format!("replication slot \"{name}\" was invalidated, and we did not make it"),
                format!("SELECT pg_drop_replication_slot('{name}');"),
            ));
        }
        slot::drop(client, name).await?;
        Ok(())
    }

    /// Takes tables that are captured no more out of a publication of ours. Where that fails they are
    /// sent and ignored.
    async fn unpublish(
        &mut self,
        start: &lifecycle::Start,
        position: &Position,
        delivery: &mut Delivery,
    ) {
        let name = &self.config.publication_name;
        let is_ours = position.made.publication
            && self
                .facts
                .publication
                .as_ref()
                .is_some_and(|p| p.may_alter && !p.all_tables);
        if start.unpublish.is_empty() || !is_ours {
            return;
        }
        let statement = publication::drop_tables(name, start.unpublish.iter());
        let doing = "take tables out of the publication";
        if let Err(error) = self.side.query(doing, &statement).await {
            let warning = format!("{error}; to do it: {statement};");
            delivery.progress.warnings.push(warning);
        }
    }

    async fn make_publication(
        &mut self,
        plan: &publication::Plan,
        delivery: &Delivery,
    ) -> Result<(), Error> {
        let (doing, statement) = match plan {
            publication::Plan::Nothing => return Ok(()),
            publication::Plan::Create(statement) => ("create the publication", statement),
            publication::Plan::Alter(statement) => ("add tables to the publication", statement),
        };
        delivery.host.reached("source-publish-before").await;
        self.side.query(doing, statement).await?;
        delivery.host.reached("source-publish-after").await;
        let is_empty = matches!(plan, publication::Plan::Create(_))
            && self.config.publication_autocreate == PublicationAutocreate::NoTables;
        if !is_empty {
            return Ok(());
        }
        let tables: Vec<_> = self
            .facts
            .tables
            .iter()
            .map(|table| sql::readable_table(&table.id))
            .collect();
        let name = &self.config.publication_name;
        Err(Error::definite(
            format!(
                "publication \"{name}\" was created without tables, as publication.autocreate.mode=no_tables says"
            ),
            format!(
                "ALTER PUBLICATION {} ADD TABLE {};",
                sql::readable(name),
                tables.join(", ")
            ),
        ))
    }

    /// Makes sure that nobody reads from the slot and that it can go on at the position. A walsender
    /// of ours that still runs may move the slot, or be creating it, until it ends: only then the
    /// slot is looked at.
    async fn take_slot(
        &mut self,
        position: Option<&Position>,
    ) -> Result<(Option<Slot>, slot::Plan), Error> {
        let name = &self.config.slot_name;
        let client = self.side.client().await?;
        slot::take_over(client, name).await?;
        let slot = slot::fetch(client, name).await?;
        let plan = slot::plan(name, slot.as_ref(), position)?;
        Ok((slot, plan))
    }

    async fn second_client(&self) -> Result<AnyClient, Error> {
        connect(
            &self.config.connection,
            self.password.as_ref(),
            slot::APPLICATION_NAME,
            Purpose::Replication,
        )
        .await
    }
}

/// How a start turns out.
enum Begun {
    /// Nobody takes batches any more.
    Stopped,
    /// All was read before, and nothing shall follow.
    Ended {
        side: Side,
        config: Arc<Config>,
        made: position::Made,
    },
    Streams(Box<Beginning>),
}

/// Where a stream begins, and with what.
struct Beginning {
    config: Arc<Config>,
    client: AnyClient,
    side: Side,
    position: Position,
    tables: Tables,
    /// Tables to be prepared, and read where they are not, beside the stream.
    beside: Vec<Table>,
    /// Whether the position is stored already.
    is_durable: bool,
}

impl Beginning {
    async fn stream(
        self,
        delivery: Delivery,
        ends_after_reading: bool,
    ) -> Result<(Side, Delivery), Error> {
        let config = self.config;
        let limits = Limits {
            bytes_max: config.batch_bytes_max,
            time_max: config.batch_time_max,
        };
        let skipped = config.skipped_operations;
        let mut changes = Changes::new(self.position, self.tables, limits, skipped);
        let backfill = (!self.beside.is_empty()).then(|| {
            changes.merge = Some(Merge::default());
            let budget_bytes = delivery.budget_bytes();
            let host = &delivery.host;
            Backfill::start(&config, &self.side, host, budget_bytes, self.beside)
        });
        let (client, side) = (self.client, self.side);
        let mut streaming = Streaming::start(config, client, side, delivery, changes).await?;
        streaming.backfill = backfill;
        streaming.ends_after_reading = ends_after_reading;
        if self.is_durable {
            streaming.start_is_durable();
        }
        streaming.run().await
    }
}

async fn identify(client: &mut AnyClient) -> Result<System, Error> {
    let rows = client
        .query("identify the server", "IDENTIFY_SYSTEM")
        .await?;
    let row = Row(rows.into_iter().next().unwrap_or_default());
    Ok(System {
        identifier: row.text(0)?.to_owned(),
        timeline: row.parse(1)?,
    })
}

/// One fault is itself; several become one error, so that a DBA mends them in one visit.
fn all_at_once(faults: Vec<Fault>) -> Error {
    let mut faults = faults;
    if faults.len() == 1
        && let Some(fault) = faults.pop()
    {
        return fault.error;
    }
    let messages: Vec<_> = faults.iter().map(|fault| fault.error.to_string()).collect();
    let hints: Vec<_> = faults
        .iter()
        .filter_map(|fault| fault.error.hint())
        .collect();
    Error::Definite {
        message: messages.join("; "),
        hint: (!hints.is_empty()).then(|| hints.join("\n")),
    }
}

/// Looks at everything that [`Connected::open`] looks at, without creating anything, and returns
/// every fault with the property that it concerns most. The messages end with what mends them.
pub async fn validate(config: Config, password: Option<Secret>) -> Vec<PropertyError> {
    let config = Arc::new(config);
    let mut side = match Side::open(Arc::clone(&config), password.clone()).await {
        Ok(side) => side,
        Err(error) => return vec![property_error(property_of_login(&error), &error)],
    };
    let client = match side.client().await {
        Ok(client) => client,
        Err(error) => return vec![property_error(property_of_login(&error), &error)],
    };
    let (facts, mut faults) = match startup::inspect(client, &config).await {
        Ok(inspected) => inspected,
        Err(error) => return vec![property_error("database.hostname", &error)],
    };
    faults.extend(facts.judge(&config));
    if !faults.is_empty() {
        return faults
            .iter()
            .map(|fault| property_error(fault.property, &fault.error))
            .collect();
    }
    let purpose = Purpose::Replication;
    let name = slot::APPLICATION_NAME;
    match connect(&config.connection, password.as_ref(), name, purpose).await {
        Ok(client) => {
            client.close().await;
            Vec::new()
        }
        Err(error) => vec![property_error(property_of_login(&error), &error)],
    }
}

fn property_error(property: &str, error: &Error) -> PropertyError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        message.push_str("; ");
        message.push_str(&hint);
    }
    PropertyError::new(property, message)
}

fn property_of_login(error: &Error) -> &'static str {
    match error.sqlstate() {
        Some("28P01") => "database.password",
        Some("3D000") => "database.dbname",
        Some(state) if state.starts_with("28") => "database.user",
        _ => "database.hostname",
    }
}

/// Returns what a source of this configuration owns, as [`Connected::owner`] does, without checking
/// anything: a connector that cannot run can still be deleted.
///
/// # Errors
///
/// Where the server cannot be reached or refuses the log-in.
pub async fn owner(config: &Config, password: Option<Secret>) -> Result<String, Error> {
    let purpose = Purpose::Replication;
    let name = slot::APPLICATION_NAME;
    let mut client = connect(&config.connection, password.as_ref(), name, purpose).await?;
    let system = identify(&mut client).await?;
    client.close().await;
    Ok(owner_of(&system, config))
}

fn owner_of(system: &System, config: &Config) -> String {
    format!(
        "source/{}/{}/{}",
        system.identifier, config.connection.database, config.slot_name
    )
}

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The replication slot.
    pub slot: bool,
    /// The publication.
    pub publication: bool,
}

/// Drops the slot and the publication that this source made, as its last position says. What the
/// owner of the database made stays.
///
/// # Errors
///
/// Transient where the server cannot be reached or the slot is in use; definite where the role may
/// not drop what it made.
pub async fn drop_owned(
    config: Config,
    password: Option<Secret>,
    position: Option<&Value>,
) -> Result<Dropped, Error> {
    let made = match position {
        Some(position) => Position::parse(position)?.made,
        None => return Ok(Dropped::default()),
    };
    let config = Arc::new(config);
    let mut dropped = Dropped::default();
    if !made.slot && !made.publication {
        return Ok(dropped);
    }
    let mut side = Side::open(Arc::clone(&config), password).await?;
    let client = side.client().await?;
    let name = &config.slot_name;
    if made.slot {
        dropped.slot = slot::drop(client, name).await?;
    }
    if made.publication {
        client
            .query(
                "drop the publication",
                &format!(
                    "DROP PUBLICATION IF EXISTS {}",
                    sql::identifier(&config.publication_name)
                ),
            )
            .await?;
        dropped.publication = true;
    }
    Ok(dropped)
}
