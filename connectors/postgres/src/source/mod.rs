//! The source: tables and their changes, from PostgreSQL's logical replication.
//!
//! Read in this order. How the server is spoken to: [`client`], [`mod@connect`]. What it says, as values:
//! [`pgoutput`], [`text`]. What is looked at before a row is read: [`startup`], with [`catalogue`],
//! [`publication`] and [`slot`]. Where we stand: [`position`]. Then the two things that a source does,
//! [`snapshot`] and [`streaming`]; what streaming decides is in [`changes`], and the hard cases have
//! their own rooms: [`writer`] and [`toast`], [`truncate`], [`relation_change`].

use std::sync::Arc;

use hutong_connectors_core::postgres_source::{Config, PublicationAutocreate, SnapshotMode};
use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::secret::Secret;
use hutong_connectors_core::source::{
    SourceBatch, SourceHost, SourceProgress, TableProgress, TableState,
};
use hutong_schemas::class::Classified;
use hutong_schemas::position::Lsn;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};

mod catalogue;
mod changes;
mod client;
mod connect;
mod delivery;
mod error;
mod literal;
mod pgoutput;
mod position;
mod publication;
mod relation_change;
mod side;
mod slot;
mod snapshot;
mod sql;
mod startup;
mod streaming;
mod table_plan;
mod text;
mod toast;
mod truncate;
mod writer;

pub use error::Error;

use catalogue::Row;
use changes::{Changes, Limits};
use connect::{AnyClient, Purpose, connect};
use delivery::{Delivery, Flow, stopped};
use position::{Position, System, check_lineage, parse_history};
use side::Side;
use startup::{Facts, Fault};
use streaming::Streaming;

/// The share of memory that a source takes by itself: so many batches.
const BUDGET_BATCHES: usize = 3;

/// A source whose server, rights, slot and tables have been looked at and found right.
pub struct Connected {
    config: Arc<Config>,
    password: Option<Secret>,
    side: Side,
    client: AnyClient,
    system: System,
    facts: Facts,
    budget: Arc<Semaphore>,
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
            faults.extend(facts.judge(&config, |_| true).err().unwrap_or_default());
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
        let kib = config.batch_bytes_max.div_ceil(1024);
        Ok(Self {
            budget: Arc::new(Semaphore::new(BUDGET_BATCHES * kib)),
            config,
            password,
            side,
            client,
            system,
            facts,
        })
    }

    /// Replaces the byte budget (one permit is one KiB) from which each batch takes its share; by
    /// default a source has one of its own.
    #[must_use]
    pub fn with_budget(mut self, budget: Arc<Semaphore>) -> Self {
        self.budget = budget;
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

    /// Runs until `stop` becomes true or an error: without a position the initial snapshot first,
    /// then the stream.
    ///
    /// Batches go to `out` in order. `confirmed` says the number of the last durable one; only then
    /// is the slot told. The caller has fenced whoever ran this source before: a walsender of ours
    /// that still holds the slot is ended.
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
        position: Option<Value>,
        host: Arc<dyn SourceHost>,
        out: mpsc::Sender<SourceBatch>,
        confirmed: watch::Receiver<u64>,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let progress = SourceProgress {
            position: position.clone(),
            slot: self.config.slot_name.clone(),
            publication: self.config.publication_name.clone(),
            warnings: self.facts.warnings.clone(),
            ..SourceProgress::default()
        };
        let mut stop_signal = stop.clone();
        let budget = Arc::clone(&self.budget);
        let mut delivery = Delivery::new(host, progress, out, confirmed, stop, budget);
        let position = position.as_ref().map(Position::parse).transpose()?;
        // Until the stream runs there is nothing that could not be dropped; the stream itself looks
        // for the signal where it must.
        let streaming = tokio::select! {
            biased;
            () = stopped(&mut stop_signal) => return Ok(()),
            streaming = self.begin(position, &mut delivery) => streaming?,
        };
        let Some(Beginning {
            config,
            client,
            side,
            position,
            is_durable,
        }) = streaming
        else {
            return Ok(());
        };
        let limits = Limits {
            bytes_max: config.batch_bytes_max,
            time_max: config.batch_time_max,
        };
        let changes = Changes::new(position, limits, config.skipped_operations);
        let mut streaming = Streaming::start(config, client, side, delivery, changes).await?;
        if is_durable {
            streaming.start_is_durable();
        }
        streaming.run().await
    }

    /// Brings the source to the place where it streams. `None` if nobody takes batches any more.
    async fn begin(
        mut self,
        position: Option<Position>,
        delivery: &mut Delivery,
    ) -> Result<Option<Beginning>, Error> {
        if let Some(position) = &position {
            self.check_lineage(position).await?;
        }
        delivery.show();
        let stored = match position {
            Some(position) if position.snapshot.is_none() => Ok(position),
            interrupted => Err(interrupted),
        };
        let (position, is_durable) = match stored {
            Ok(mut position) => {
                self.check_followed(&position)?;
                self.take_slot(Some(&position)).await?;
                position.timeline = self.system.timeline;
                self.forget_uncaptured(&mut position, delivery);
                (Some(position), true)
            }
            Err(interrupted) => {
                let position = interrupted.unwrap_or_else(|| self.first_position());
                (self.begin_anew(position, delivery).await?, false)
            }
        };
        Ok(position.map(|position| Beginning {
            config: self.config,
            client: self.client,
            side: self.side,
            position,
            is_durable,
        }))
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
        position.snapshot = Some(position::Snapshot {
            lsn: Lsn::default(),
            attempt: 0,
        });
        position
    }

    /// Checks the tables that are followed already. One that was taken out of the publication has
    /// missed changes; putting it back would hide that.
    fn check_followed(&self, position: &Position) -> Result<(), Error> {
        let is_followed = |table: &catalogue::Table| position.tables.contains_key(&table.oid);
        match self
            .facts
            .judge(&self.config, is_followed)
            .map_err(all_at_once)?
        {
            publication::Plan::Nothing => Ok(()),
            publication::Plan::Create(_) | publication::Plan::Alter(_) => {
                Err(position::gap(format!(
                    "publication \"{}\" does not hold all tables any more that it held",
                    self.config.publication_name
                )))
            }
        }
    }

    /// Makes the publication and the slot where they are missing and reads the tables.
    ///
    /// What we are going to make is stored first. A crash right after would otherwise leave behind
    /// what nobody knows to be ours, and a deleted connector would let it hold the server's log for
    /// ever.
    async fn begin_anew(
        &mut self,
        mut position: Position,
        delivery: &mut Delivery,
    ) -> Result<Option<Position>, Error> {
        let plan = self
            .facts
            .judge(&self.config, |_| true)
            .map_err(all_at_once)?;
        let slot_plan = self.take_slot(None).await?;
        let makes_publication = matches!(plan, publication::Plan::Create(_));
        let makes_slot = slot_plan == slot::Plan::Create;
        if makes_publication || makes_slot {
            position.made.publication |= makes_publication;
            position.made.slot |= makes_slot;
            if delivery.send_position(&position).await? == Flow::Stop
                || delivery.settled().await == Flow::Stop
            {
                return Ok(None);
            }
        }
        // The publication comes before the slot: the slot's decoding looks for it from its first
        // change on.
        self.make_publication(&plan).await?;
        if makes_slot {
            slot::create(&mut self.client, &self.config.slot_name).await?;
        }
        let slot_is_older = makes_publication && !makes_slot;
        match self.config.snapshot_mode {
            SnapshotMode::Initial => {
                let client = self.second_client().await?;
                snapshot::run(&self.config, client, delivery, &self.facts.tables, position).await
            }
            SnapshotMode::NoData => self.skip_tables(position, slot_is_older, delivery).await,
        }
    }

    async fn make_publication(&mut self, plan: &publication::Plan) -> Result<(), Error> {
        let (doing, statement) = match plan {
            publication::Plan::Nothing => return Ok(()),
            publication::Plan::Create(statement) => ("create the publication", statement),
            publication::Plan::Alter(statement) => ("add tables to the publication", statement),
        };
        self.side.query(doing, statement).await?;
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
    async fn take_slot(&mut self, position: Option<&Position>) -> Result<slot::Plan, Error> {
        let name = &self.config.slot_name;
        let client = self.side.client().await?;
        slot::take_over(client, name).await?;
        let slot = slot::fetch(client, name).await?;
        slot::plan(name, slot.as_ref(), position)
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

    /// Drops from the position what the configuration does not capture any more, and says what it
    /// captures that was not read.
    fn forget_uncaptured(&self, position: &mut Position, delivery: &mut Delivery) {
        let config = &self.config;
        position.tables.retain(|oid, known| {
            let captured = self.facts.tables.iter().any(|table| table.oid == *oid);
            if captured {
                known.columns.retain(|column| {
                    config
                        .columns
                        .accepts(&format!("{}.{}", known.name, column.name))
                });
            }
            captured
        });
        for table in &self.facts.tables {
            let topic = format!("{}.{}", config.topic_prefix, table.id);
            let is_known = position.tables.contains_key(&table.oid);
            if !is_known {
                delivery.progress.warnings.push(format!(
                    "table {} was added after the initial snapshot and is not captured; a new connector would read it",
                    table.id
                ));
            }
            delivery.progress.tables.push(TableProgress {
                table: table.id.clone(),
                topic,
                state: if is_known {
                    TableState::Streaming
                } else {
                    TableState::Failed
                },
                rows_done: 0,
                rows_total: table.rows_estimate,
            });
        }
        delivery.show();
    }

    /// `snapshot.mode=no_data`: the stream begins where the slot stands. If the publication is
    /// younger than the slot, it begins where every transaction knows the publication: a temporary
    /// slot finds that place by waiting for those that are running.
    async fn skip_tables(
        &mut self,
        mut position: Position,
        slot_is_older: bool,
        delivery: &mut Delivery,
    ) -> Result<Option<Position>, Error> {
        position.lsn = if slot_is_older {
            let mut client = self.second_client().await?;
            let point = snapshot::take(&mut client).await?;
            client.close().await;
            point
        } else {
            let client = self.side.client().await?;
            let slot = slot::fetch(client, &self.config.slot_name).await?;
            slot.and_then(|slot| slot.confirmed_flush)
                .ok_or_else(|| Error::transient("the replication slot has no position yet"))?
        };
        position.snapshot = None;
        let client = self.side.client().await?;
        let mut announcements = Vec::new();
        for table in &self.facts.tables {
            let defaults = catalogue::fetch_defaults(client, &self.config, table).await?;
            let schema = table.schema(&self.config, &defaults)?;
            let captured = vec![true; schema.columns.len()];
            let host = Arc::clone(&delivery.host);
            let (plan, announcement) =
                table_plan::compile(host.as_ref(), &self.config, schema, captured).await?;
            announcements.push(announcement);
            position
                .tables
                .insert(table.oid, relation_change::known(table, &self.config));
            delivery.progress.tables.push(TableProgress {
                table: table.id.clone(),
                topic: plan.topic.to_string(),
                state: TableState::Streaming,
                rows_done: 0,
                rows_total: None,
            });
        }
        delivery
            .host
            .announce_tables(&announcements)
            .await
            .map_err(|source| Error::Host {
                doing: "could not announce the tables".to_owned(),
                source,
            })?;
        delivery.show();
        let flow = delivery.send_position(&position).await?;
        Ok((flow == Flow::Continue).then_some(position))
    }
}

/// Where a stream begins, and with what.
struct Beginning {
    config: Arc<Config>,
    client: AnyClient,
    side: Side,
    position: Position,
    /// Whether the position is stored already.
    is_durable: bool,
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
    faults.extend(facts.judge(&config, |_| true).err().unwrap_or_default());
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
    if made.slot && slot::fetch(client, name).await?.is_some() {
        slot::take_over(client, name).await?;
        client
            .query(
                &format!("drop replication slot \"{name}\""),
                &format!("SELECT pg_drop_replication_slot({})", sql::literal(name)),
            )
            .await?;
        dropped.slot = true;
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
