//! The control plane: the connector API, the schema registry, the platform's own API, and the store
//! behind them.
//!
//! It holds what is *wanted*, in PostgreSQL, and tells workers through Kafka; what *is*, workers
//! report through Kafka too. It never touches a department's database, resolves no secret, and moves
//! no row: workers go on without it. Replicas are equal; duties that only one may have are in
//! [`leader`](self).
//!
//! Reading order: `config`, `caller` and `token` (who may what), `store` (what is wanted), `registry`,
//! `connect` and `views` (the three services), `live` (what workers report), `publisher`, `settle` and
//! `leader` (how wishes reach workers and are finished), `routes` (HTTP).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use hutong_schemas::class::{Class, Classified};
use hutong_transport::KafkaConfig;
use hutong_transport::admin::Admin;
use hutong_transport::names::Cluster;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

mod access;
mod caller;
mod config;
mod connect;
mod error;
mod leader;
mod live;
mod location;
mod metrics;
mod publisher;
mod registry;
mod requests;
mod routes;
mod settle;
mod store;
mod tables;
mod token;
mod views;

pub use config::{Config, Listen};
pub use error::{Error, Mistake};
pub use location::Locations;

use live::{Follower, Live};
use metrics::Metrics;
use registry::Registry;
use registry::standby::Standby;
use store::Store;

/// How long requests that are being answered may take when the process ends.
const DRAIN: Duration = Duration::from_secs(10);

/// Everything that handlers and duties share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) cluster: Cluster,
    /// The names of all locations.
    pub(crate) locations: Vec<String>,
    /// Who may use which of them.
    pub(crate) whose_locations: Locations,
    pub(crate) kafka: KafkaConfig,
    pub(crate) admin: Arc<Admin>,
    pub(crate) store: Store,
    pub(crate) registry: Registry,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Metrics,
    /// Why this replica could not lead when it last tried.
    pub(crate) leader_error: Mutex<Option<String>>,
}

/// A control plane that serves.
#[derive(Debug)]
pub struct Running {
    /// Where the connector API listens.
    pub connect: SocketAddr,
    /// Where the schema registry listens.
    pub registry: SocketAddr,
    /// Where the platform's own API listens.
    pub api: SocketAddr,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    duties: JoinSet<()>,
    followers: JoinSet<()>,
    app: Arc<App>,
}

/// Runs a control plane until `shutdown` is ready, then ends it in order.
///
/// # Errors
///
/// As [`start`].
///
/// # Cancel safety
///
/// Dropped half-way it ends at once; nothing acknowledged is lost.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mut shutdown = std::pin::pin!(shutdown);
    let running = tokio::select! {
        running = start_patiently(&config) => running?,
        () = &mut shutdown => return Ok(()),
    };
    tracing::info!(
        connect = %running.connect, registry = %running.registry, api = %running.api,
        "control plane serves"
    );
    shutdown.await;
    tracing::info!("control plane ends");
    running.stop().await;
    Ok(())
}

/// Starts, and waits for a database that is away: it may come up after us.
async fn start_patiently(config: &Config) -> Result<Running, Error> {
    loop {
        match start(config.clone()).await {
            Err(error) if error.class() == Class::Transient => {
                tracing::warn!(error = error.chain(), "cannot start yet, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            result => return result,
        }
    }
}

/// Starts a control plane. Kafka need not be there: readiness says so, and what needs it waits.
///
/// # Errors
///
/// Definite: a wrong configuration, an address that is taken, a token file that cannot be used.
/// Transient: the database is away.
pub async fn start(config: Config) -> Result<Running, Error> {
    let cluster = Cluster::new(&config.cluster)?;
    config.locations.check()?;
    let locations: Vec<String> = config.locations.names().map(str::to_owned).collect();
    let kafka = KafkaConfig::new(config.kafka.clone())?;
    let options: PgConnectOptions = config.database_url.parse()?;
    let store = Store::open(&config.database_url).await?;
    token::ensure_admin(&store, &config.admin_token_file).await?;

    let listeners = [
        bind(config.listen.connect).await?,
        bind(config.listen.registry).await?,
        bind(config.listen.api).await?,
    ];
    let app = Arc::new(App {
        registry: Registry {
            store: store.clone(),
            cluster: cluster.clone(),
            standby: Arc::new(Standby::new(store.clone())),
        },
        live: Arc::new(Live::new(&locations)),
        admin: Arc::new(Admin::new(&kafka)?),
        metrics: Metrics::new(),
        locations,
        whose_locations: config.locations,
        leader_error: Mutex::new(None),
        cluster,
        kafka,
        store,
    });

    let (stop, stopped) = watch::channel(false);
    let mut followers = JoinSet::new();
    let follower = Follower {
        cluster: app.cluster.clone(),
        kafka: app.kafka.clone(),
        admin: Arc::clone(&app.admin),
        live: Arc::clone(&app.live),
    };
    follower.start(&app.locations, &mut followers);
    let standby = Arc::clone(&app.registry.standby);
    followers.spawn(standby.keep_rights());
    let standby = Arc::clone(&app.registry.standby);
    followers.spawn(standby.follow(app.kafka.clone(), app.cluster.schemas()));
    let mut duties = JoinSet::new();
    let options = options.application_name("hutong control plane leader");
    duties.spawn(leader::run(Arc::clone(&app), options, stopped.clone()));
    duties.spawn(leader::watch_backlog(Arc::clone(&app), stopped.clone()));

    let apis = routes::build(&app);
    let mut servers = JoinSet::new();
    let mut addresses = Vec::new();
    for (listener, api) in listeners
        .into_iter()
        .zip([apis.connect, apis.registry, apis.platform])
    {
        addresses.push(listener.1);
        servers.spawn(serve(listener.0, api, stopped.clone()));
    }
    Ok(Running {
        connect: addresses[0],
        registry: addresses[1],
        api: addresses[2],
        stop,
        servers,
        duties,
        followers,
        app,
    })
}

impl Running {
    /// Ends in order: no new requests, those begun are answered, what is durable is published, the
    /// lock is released.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let drained = tokio::time::timeout(DRAIN, self.servers.join_all()).await;
        if drained.is_err() {
            tracing::warn!("requests were still being answered and are cut off");
        }
        let done = tokio::time::timeout(DRAIN, self.duties.join_all()).await;
        if done.is_err() {
            tracing::warn!("the outbox could not be published to its end; the next leader goes on");
        }
        self.followers.abort_all();
        while self.followers.join_next().await.is_some() {}
        self.app.store.close().await;
    }
}

/// Returns the description of the three HTTP APIs as OpenAPI JSON.
#[must_use]
pub fn openapi() -> serde_json::Value {
    serde_json::to_value(routes::document()).expect("an OpenAPI document is JSON")
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn serve(listener: TcpListener, api: Router, mut stop: watch::Receiver<bool>) {
    let shutdown = async move {
        // An error means that the sender is gone, which is a stop too.
        drop(stop.wait_for(|stop| *stop).await);
    };
    if let Err(error) = axum::serve(listener, api)
        .with_graceful_shutdown(shutdown)
        .await
    {
        tracing::error!(error = %error, "a listener failed");
    }
}

/// Returns the time in milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
