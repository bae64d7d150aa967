//! What runs beside the stream while tables are read: readers, each with a connection of its own,
//! the preparation of tables, and the wait for transactions that ran when it all began. They send
//! [`Report`]s to the stream, which decides.
//!
//! A lost connection is no error of the source: the piece of work is done again on a new one. Only
//! what stays wrong is reported, of the table that it concerns.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::source::SourceHost;
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::table::TableSchema;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use super::catalogue::{self, Table};
use super::chunk::{self, High, Job, Key, Readable, Rows};
use super::error::Error;
use super::merge::{ChunkId, ReadAt};
use super::side::Side;
use super::table_plan::{self, Registered};
use super::visibility::{self, Visible};

/// Tables whose schemas are registered at the same time.
const REGISTERED_AT_ONCE: usize = 16;
/// Tables whose topics are made, and which are announced, together.
const ANNOUNCED_AT_ONCE: usize = 100;
/// Pause between looks at the transactions that run.
const LOOK: Duration = Duration::from_millis(100);
/// The first pause where what runs has committed, and mostly becomes visible at once.
const LOOK_FIRST: Duration = Duration::from_millis(2);
/// First and longest pause before a piece of work is done again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What has been done beside the stream.
#[derive(Debug)]
pub(crate) enum Report {
    /// These tables have their topics and schemas and are announced.
    Prepared(Vec<Prepared>),
    /// A table cannot be captured.
    Unfit { oid: u32, error: Error },
    /// A snapshot was looked at.
    Saw(Visible),
    /// All transactions that ran at the beginning have ended.
    Past,
    /// Where a chunk ends; `None`: with the table.
    Found { chunk: ChunkId, high: Option<Key> },
    /// A chunk is read.
    Read {
        chunk: ChunkId,
        rows: Rows,
        at: ReadAt,
    },
    /// A chunk cannot be read.
    Unreadable { chunk: ChunkId, error: Error },
}

/// A table that can be read.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) readable: Arc<Readable>,
    pub(crate) topic_existed: bool,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Helper(JoinHandle<()>);

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn start(work: impl Future<Output = ()> + Send + 'static) -> Helper {
    Helper(tokio::spawn(work))
}

/// Where jobs are taken from.
pub(crate) type Jobs = Arc<Mutex<mpsc::Receiver<Job>>>;

/// Starts a reader.
pub(crate) fn reader(
    side: Side,
    host: Arc<dyn SourceHost>,
    jobs: Jobs,
    reports: mpsc::Sender<Report>,
) -> Helper {
    start(async move {
        let mut side = side;
        loop {
            let job = jobs.lock().await.recv().await;
            let Some(job) = job else { return };
            let report = read(&mut side, host.as_ref(), job, &reports).await;
            if reports.send(report).await.is_err() {
                return;
            }
        }
    })
}

async fn read(
    side: &mut Side,
    host: &dyn SourceHost,
    mut job: Job,
    reports: &mpsc::Sender<Report>,
) -> Report {
    let chunk = job.chunk;
    // Before the table is locked: nobody shall wait for it while we wait for the stream.
    let mut slot = match job.high {
        High::Find { .. } => reports.reserve().await.ok(),
        High::At(_) => None,
    };
    let mut pause = PAUSE.0;
    let mut look = LOOK_FIRST;
    loop {
        let outcome = match side.client().await {
            Ok(client) => {
                let found = |high| {
                    // There is none if nobody listens any more, as the source ends.
                    if let Some(slot) = slot.take() {
                        slot.send(Report::Found { chunk, high });
                    }
                };
                host.reached("source-chunk-open").await;
                chunk::read(client, &mut job, host, found).await
            }
            Err(error) => Err(error),
        };
        let error = match outcome {
            Ok(Some((rows, at))) => return Report::Read { chunk, rows, at },
            // What was streamed is not visible yet.
            Ok(None) => {
                tokio::time::sleep(look).await;
                look = (look * 2).min(LOOK);
                continue;
            }
            Err(error) => error,
        };
        side.discard();
        if error.class() != Class::Transient {
            return Report::Unreadable { chunk, error };
        }
        wait("a chunk is read again", &error, &mut pause).await;
    }
}

async fn wait(doing: &str, error: &Error, pause: &mut Duration) {
    tracing::warn!(%error, "{doing}");
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE.1);
}

/// Starts the wait until every transaction that runs now has ended.
pub(crate) fn barrier(side: Side, reports: mpsc::Sender<Report>) -> Helper {
    start(async move {
        let mut side = side;
        let mut pause = PAUSE.0;
        let mut first = None;
        loop {
            let snapshot = match look(&mut side).await {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    side.discard();
                    wait("could not see which transactions run", &error, &mut pause).await;
                    continue;
                }
            };
            let is_past = snapshot.is_past(first.get_or_insert_with(|| snapshot.clone()));
            if reports.send(Report::Saw(snapshot)).await.is_err() {
                return;
            }
            if is_past {
                // Nobody listens any more when the source ends.
                let _ = reports.send(Report::Past).await;
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

async fn look(side: &mut Side) -> Result<Visible, Error> {
    let query = format!("SELECT {}", visibility::COLUMNS);
    let rows = side.query("see which transactions run", &query).await?;
    Visible::of_row(&rows.into_iter().next().unwrap_or_default())
}

/// Starts the preparation of tables, in their order.
pub(crate) fn preparation(
    side: Side,
    config: Arc<Config>,
    host: Arc<dyn SourceHost>,
    tables: Vec<Table>,
    reports: mpsc::Sender<Report>,
) -> Helper {
    start(async move {
        let mut side = side;
        let mut pause = PAUSE.0;
        for tables in tables.chunks(ANNOUNCED_AT_ONCE) {
            loop {
                match prepare(&mut side, &config, host.as_ref(), tables, &reports).await {
                    Ok(()) => break,
                    Err(error) => {
                        side.discard();
                        wait("tables are prepared again", &error, &mut pause).await;
                    }
                }
            }
        }
    })
}

/// Prepares some tables. What is wrong with one is reported, what may pass is returned.
async fn prepare(
    side: &mut Side,
    config: &Config,
    host: &dyn SourceHost,
    tables: &[Table],
    reports: &mpsc::Sender<Report>,
) -> Result<(), Error> {
    let client = side.client().await?;
    let mut schemas = Vec::new();
    for table in tables {
        let schema = match catalogue::fetch_defaults(client, config, table).await {
            Ok(defaults) => table.schema(config, &defaults),
            Err(error) => Err(error),
        };
        schemas.push(schema);
    }
    let fit: Vec<bool> = schemas.iter().map(Result::is_ok).collect();
    let wanted: Vec<_> = schemas
        .iter()
        .flatten()
        .map(|schema| table_plan::wanted_topic(config, schema))
        .collect();
    // A broker takes its time for each topic, and the registry for each schema: both at once.
    let (topics, registered) = tokio::join!(
        table_plan::topics(host, &wanted),
        register(host, config, schemas)
    );
    let mut topics = topics?.into_iter();
    let compiled = registered.into_iter().zip(fit).map(|(registered, is_fit)| {
        let topic = if is_fit { topics.next() } else { None };
        let registered = registered?;
        let topic = topic.unwrap_or_else(|| Err(Error::Protocol("no topic was made".to_owned())));
        Ok::<_, Error>(registered.in_topic(topic?))
    });
    let mut prepared = Vec::new();
    let mut announcements = Vec::new();
    let mut unfit = Vec::new();
    for (table, outcome) in tables.iter().zip(compiled) {
        match outcome {
            Ok((plan, announcement)) => {
                announcements.push(announcement);
                prepared.push(Prepared {
                    topic_existed: plan.topic_existed,
                    readable: Arc::new(Readable::new(table, Arc::new(plan))),
                });
            }
            Err(error) if error.class() == Class::Transient => return Err(error),
            Err(error) => unfit.push(Report::Unfit {
                oid: table.oid,
                error,
            }),
        }
    }
    if !announcements.is_empty() {
        host.announce_tables(&announcements)
            .await
            .map_err(|source| Error::Host {
                doing: "could not announce the tables".to_owned(),
                source,
            })?;
    }
    unfit.push(Report::Prepared(prepared));
    for report in unfit {
        // Nobody listens any more when the source ends.
        let _ = reports.send(report).await;
    }
    Ok(())
}

/// Registers the schemas of tables, some at a time.
async fn register(
    host: &dyn SourceHost,
    config: &Config,
    schemas: Vec<Result<TableSchema, Error>>,
) -> Vec<Result<Registered, Error>> {
    let count = schemas.len();
    let mut schemas = schemas.into_iter();
    let mut registered = Vec::with_capacity(count);
    while registered.len() < count {
        let some = schemas.by_ref().take(REGISTERED_AT_ONCE);
        let work: Vec<_> = some
            .map(async |schema| {
                let schema = schema?;
                let captured = vec![true; schema.columns.len()];
                table_plan::register(host, config, schema, captured).await
            })
            .collect();
        registered.extend(futures::future::join_all(work).await);
    }
    registered
}
