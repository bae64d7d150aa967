//! A plain local platform that stays: `hutong up` and `hutong down`.
//!
//! It listens on the standard ports, keeps its data in `target/local/up` of the checkout, and goes
//! on when the program that started it has ended. What runs is known by the records in that folder
//! ([`Recorded`]), so `down` finds it, `up` twice starts nothing twice, and the two never touch a
//! process that is not theirs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::kafka::{self, Kafka};
use crate::port;
use crate::postgres::{self, Postgres};
use crate::process::Recorded;
use crate::runner::{self, given};
use crate::scratch::Scratch;
use crate::testkit::{Database, Platform, PlatformOptions, connect};

/// Connector API, registry, platform API, worker.
const PORTS: [u16; 4] = [8083, 8081, 8080, 8084];
const CONTROL_DATABASE: &str = "hutong";
const WORKER: &str = "worker";
/// Longer than a worker's own deadline for stopping.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a Kafka, a PostgreSQL, a control plane and a worker, unless they run, and tells where they
/// are.
///
/// # Errors
///
/// If a port is taken by somebody else or something does not start; what was started is stopped.
pub async fn up(binary: PathBuf) -> Result<String> {
    let scratch = Scratch::open()?;
    let folder = scratch.shared("up");
    if recorded(&folder)
        .iter()
        .any(|(_, process)| process.is_alive())
    {
        bail!(
            "it is up already (folder {}); `hutong down` stops it",
            folder.display()
        );
    }
    for port in PORTS {
        if !port::is_free(port) {
            bail!("port {port} of 127.0.0.1 is taken by another program");
        }
    }
    let (bootstrap, kafka) = match given(runner::KAFKA_BOOTSTRAP) {
        Some(bootstrap) => (bootstrap, None),
        None => {
            let broker =
                Kafka::start_in(&scratch, &folder.join("kafka"), kafka::Options::default()).await?;
            (broker.bootstrap(), Some(broker))
        }
    };
    let (database, postgres) = match given(runner::DATABASE_URL) {
        Some(url) => (url, None),
        None => {
            let options = postgres::Options::durable();
            let server = Postgres::start_in(&scratch, &folder.join("postgres"), &options).await?;
            (
                control_database(&server.url("postgres")).await?,
                Some(server),
            )
        }
    };
    let mut options = PlatformOptions::on(binary, "hutong", &bootstrap, &database);
    options.ports = Some(PORTS);
    let platform_folder = folder.join("platform");
    std::fs::create_dir_all(&platform_folder)?;
    let mut platform = Platform::start_in(platform_folder, None, options).await?;
    platform.start_worker(WORKER, "default").await?;
    let environment = folder.join("env");
    std::fs::write(&environment, exports(&platform, postgres.as_ref()))?;
    let mut told = describe(&platform, &bootstrap, postgres.as_ref());
    told.push_str(&format!("\nfor a shell       . {}", environment.display()));
    platform.detach();
    if let Some(kafka) = kafka {
        kafka.detach();
    }
    if let Some(postgres) = postgres {
        postgres.detach();
    }
    Ok(told)
}

/// Stops what [`up`] has started, the platform before its servers. The data stay.
///
/// # Errors
///
/// If the folder cannot be read.
pub async fn down() -> Result<String> {
    let scratch = Scratch::open()?;
    let folder = scratch.shared("up");
    let mut stopped = Vec::new();
    for (record, process) in recorded(&folder) {
        if process.is_alive() {
            let name = record.file_stem().unwrap_or_default().display().to_string();
            // A PostgreSQL that gets SIGTERM waits for its sessions; SIGINT ends them.
            let signal = if name == "postgres" {
                Signal::INT
            } else {
                Signal::TERM
            };
            process.stop(signal, PATIENCE).await;
            stopped.push(name);
        }
        std::fs::remove_file(&record)
            .with_context(|| format!("could not remove {}", record.display()))?;
    }
    Ok(if stopped.is_empty() {
        "nothing was up".to_owned()
    } else {
        format!(
            "stopped {}; data stay in {}",
            stopped.join(", "),
            folder.display()
        )
    })
}

/// Returns the records of processes, in the order in which they are to be stopped.
fn recorded(folder: &Path) -> Vec<(PathBuf, Recorded)> {
    let order = [
        "platform/worker.pid",
        "platform/control-plane.pid",
        "kafka/kafka.pid",
        "postgres/postgres.pid",
    ];
    let paths = order.iter().map(|name| folder.join(name));
    paths
        .filter_map(|path| Some((path.clone(), Recorded::read(&path)?)))
        .collect()
}

async fn control_database(server_url: &str) -> Result<String> {
    let server = connect(server_url).await?;
    let exists = "SELECT 1 FROM pg_database WHERE datname = $1";
    if server
        .query_opt(exists, &[&CONTROL_DATABASE])
        .await?
        .is_none()
    {
        return Ok(Database::create_named(server_url, CONTROL_DATABASE)
            .await?
            .url);
    }
    Ok(Database::named(server_url, CONTROL_DATABASE)?.url)
}

/// Returns what a shell sources to use the platform: addresses, and a token read from its file.
fn exports(platform: &Platform, postgres: Option<&Postgres>) -> String {
    let api = platform.api();
    let mut lines = vec![
        format!("export API={}", api.platform_url),
        format!("export CONNECT={}", api.connect_url),
        format!("export REGISTRY={}", api.registry_url),
        format!("export WORKER=http://127.0.0.1:{}", PORTS[3]),
        format!(
            "export TOKEN=\"$(cat '{}')\"",
            platform.token_file().display()
        ),
        format!("export SECRETS='{}'", platform.secrets_dir().display()),
    ];
    if let Some(postgres) = postgres {
        lines.push(format!(
            "export PGHOST=127.0.0.1 PGPORT={} PGUSER=postgres",
            postgres.port()
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn describe(platform: &Platform, bootstrap: &str, postgres: Option<&Postgres>) -> String {
    let api = platform.api();
    let mut lines = vec![
        format!("platform API     {}", api.platform_url),
        format!("connector API    {}", api.connect_url),
        format!("schema registry  {}", api.registry_url),
        format!(
            "worker           http://127.0.0.1:{} (health and metrics)",
            PORTS[3]
        ),
        format!("token            in {}", platform.token_file().display()),
        format!("secrets          in {}", platform.secrets_dir().display()),
        format!("Kafka            {bootstrap}"),
    ];
    if let Some(postgres) = postgres {
        lines.push(format!("PostgreSQL       {}", postgres.url("postgres")));
    }
    lines.join("\n")
}
