//! Runs tasks: source connectors, view processors, sink connectors.
//!
//! This crate joins all others and decides nothing about data: what an event is, what a view shows
//! and how a table is written is said elsewhere. It knows which tasks are its own
//! (`ownership`), keeps them running (`supervisor`, `error_policy`) and moves what they
//! yield into Kafka exactly once (`source_loop`, `processor_loop`, `sink_loop`). It holds
//! nothing that Kafka cannot rebuild, and needs no control plane to go on or to start.

mod config;

mod task;

mod folders;
mod follower;
mod ownership;
mod task_table;
mod tenure;

mod error_policy;
mod status;
mod supervisor;

mod live_keys;
mod offsets;
mod processor_loop;
mod sink_loop;
mod source_host;
mod source_loop;

mod requests;
mod schema_cache;

mod budget;
mod clock;
mod fail_point;
mod http;
mod metrics;
mod owned;
mod platform;
mod preview;
mod retry;

use std::net::SocketAddr;
use std::sync::Arc;

use hutong_schemas::class::{Class, Classified};
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use config::{Config, Mistakes};
pub use metrics::list as list_of_metrics;

use crate::owned::Owned;
use crate::ownership::{Ownership, Readiness};
use crate::platform::Platform;

/// Runs a worker until `shutdown` completes, then stops its tasks in order, commits, releases their
/// sources and leaves the group.
///
/// A broker or control plane that is away does not end it: it waits and says so in its log.
///
/// # Errors
///
/// What no waiting heals: a configuration that cannot work, an address that cannot be listened on,
/// another worker under the same instance id.
///
/// # Cancel safety
///
/// Dropping the future aborts all tasks, which is as safe as a crash.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    // The binary may have chosen the provider already; it is the same one.
    drop(rustls::crypto::ring::default_provider().install_default());
    let address = config.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let address = listener.local_addr().unwrap_or(address);
    let platform = Arc::new(Platform::new(config)?);
    let (readiness, ready) = watch::channel(Readiness::Joining);
    let mut serving = Owned::spawn(
        "http server",
        http::serve(listener, Arc::clone(&platform.metrics), ready),
    );
    tracing::info!(
        %address,
        cluster = %platform.cluster,
        location = &*platform.location,
        instance_id = platform.config.instance_id,
        "worker started"
    );

    let (stop, stopping) = watch::channel(false);
    let mut working = Owned::spawn("worker", work(platform, readiness, stopping));
    let ended = tokio::select! {
        ended = working.finished() => ended,
        served = serving.finished() => return Err(Error::Ended {
            what: "the http server",
            why: format!("{served:?}"),
        }),
        () = shutdown => {
            tracing::info!("worker stops");
            stop.send_replace(true);
            working.finished().await
        }
    };
    match ended {
        Ok(ended) => ended,
        Err(error) => Err(Error::Ended {
            what: "the worker",
            why: error.message,
        }),
    }
}

async fn work(
    platform: Arc<Platform>,
    readiness: watch::Sender<Readiness>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Error> {
    tokio::select! {
        () = platform.ensure_topics() => {}
        () = asked(&mut stopping) => return Ok(()),
    }
    let follow =
        Arc::clone(&platform.schemas).follow(platform.kafka.clone(), platform.cluster.schemas());
    let following = Owned::spawn("follower of schemas", follow);
    let ended = Ownership::run(platform, readiness, stopping).await;
    following.abort_and_wait().await;
    ended
}

/// Waits until a stop is asked for, by the value or by the end of who could ask.
async fn asked(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// A worker could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address is not to be had.
    #[error("could not listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A client of Kafka could not be made.
    #[error("cannot use Kafka as configured")]
    Kafka(#[from] hutong_transport::Error),
    /// A reference of the worker's own configuration has not the form of one.
    #[error("cannot read a secret reference of the worker's configuration")]
    Reference(#[source] hutong_connectors_core::secret::NotAReference),
    /// A secret of the worker's own configuration is not there.
    #[error("cannot resolve a secret of the worker's configuration")]
    Secret(#[source] hutong_connectors_core::secret::Error),
    /// The registry's client could not be made.
    #[error("cannot use the registry as configured: {0}")]
    Registry(String),
    /// Another worker has joined the group under this instance id.
    #[error("another worker has taken the instance id {instance_id}: {message}")]
    InstanceIdTaken {
        /// The id.
        instance_id: String,
        /// What the group said.
        message: String,
    },
    /// Something that must run ended.
    #[error("{what} ended: {why}")]
    Ended {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
}

impl From<schema_cache::Error> for Error {
    fn from(error: schema_cache::Error) -> Self {
        Self::Registry(task::chain(&error))
    }
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Listen { .. } | Self::Reference(_) | Self::Secret(_) | Self::Registry(_) => {
                Class::Definite
            }
            Self::Kafka(error) => error.class(),
            Self::InstanceIdTaken { .. } => Class::Fenced,
            Self::Ended { .. } => Class::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::InstanceIdTaken { .. } => {
                Some("give each worker of a location its own instance_id".to_owned())
            }
            Self::Kafka(error) => error.hint(),
            Self::Secret(error) => error.hint(),
            Self::Listen { .. } | Self::Reference(_) | Self::Registry(_) | Self::Ended { .. } => {
                None
            }
        }
    }
}
