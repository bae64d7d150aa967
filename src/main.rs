//! Hutong: the one binary, with a role per subcommand.

mod config;
mod memory;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

/// The platform by which government departments share data.
#[derive(Debug, Parser)]
#[command(name = "hutong", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Runs tasks: source connectors, view processors, sink connectors.
    Worker(Configured),
    /// Serves the platform API, the connector API and the schema registry.
    ControlPlane(Configured),
    /// Plays the four-department sample on servers of its own, and compares every view with its source.
    Demo(Demo),
    /// Starts a local platform on the standard ports, which stays when this ends.
    Up,
    /// Stops what `up` has started.
    Down,
    /// Servers for development.
    #[command(subcommand)]
    Local(Local),
}

#[derive(Debug, Args)]
struct Demo {
    /// Stay up at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Falsify a value at a subscriber before the comparison, which must then fail.
    #[arg(long)]
    plant_difference: bool,
    /// The seed that all made-up data follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of enterprises.
    #[arg(long, default_value_t = 2000)]
    enterprises: u32,
}

#[derive(Debug, Args)]
struct Configured {
    /// The configuration, a YAML file; each key A.B is also read from HUTONG_A__B.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Local {
    /// Starts a Kafka and a PostgreSQL, runs a command that finds them in its environment, stops
    /// them, and ends as the command did.
    Test {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One provider throughout. Nobody else has had the time to install another.
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let outcome = runtime.block_on(run(arguments.role));
    // Nothing that matters is left: a blocking call into a broker that is away must not hold us.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error),
    }
}

async fn run(role: Role) -> Result<u8> {
    match role {
        Role::Worker(Configured { config }) => {
            let config = configure(config.as_deref())?;
            raise_open_files();
            Box::pin(hutong_worker::run(config, asked_to_end()?)).await?;
            Ok(0)
        }
        Role::ControlPlane(Configured { config }) => {
            let config = configure(config.as_deref())?;
            Box::pin(hutong_control_plane::run(config, asked_to_end()?)).await?;
            Ok(0)
        }
        Role::Demo(Demo {
            keep,
            plant_difference,
            seed,
            enterprises,
        }) => {
            let binary = std::env::current_exe().context("could not tell this program's file")?;
            let options = hutong_local::demo::Options {
                binary,
                keep,
                plant_difference,
                seed,
                enterprises,
            };
            Box::pin(hutong_local::demo::run(options)).await
        }
        Role::Up => {
            let binary = std::env::current_exe().context("could not tell this program's file")?;
            say(&Box::pin(hutong_local::up::up(binary)).await?)
        }
        Role::Down => say(&hutong_local::up::down().await?),
        Role::Local(Local::Test { command }) => {
            Box::pin(hutong_local::runner::test(&command)).await
        }
    }
}

/// Lets the process have as many files open as it may at all: the state of each partition with views
/// takes some tens, and a shell's limit of 1,024 is meant for programs that wait with `select`.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // It is as well with what it has, until it has too many.
    let _raised = setrlimit(Resource::Nofile, raised);
}

fn say(text: &str) -> Result<u8> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(0)
}

/// Reads a role's configuration and starts the log.
fn configure<C: DeserializeOwned>(path: Option<&Path>) -> Result<C> {
    let mut value = config::read(path)?;
    let log = config::take_log(&mut value)?;
    hutong_logging::start(&log.filter, log.is_json).context("log.filter")?;
    let place = path.map_or_else(
        || "the environment".to_owned(),
        |path| path.display().to_string(),
    );
    serde_json::from_value(value).with_context(|| format!("the configuration in {place}"))
}

/// Returns a future that ends at SIGTERM or Ctrl-C.
fn asked_to_end() -> Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    })
}

/// Prints the whole chain of causes.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("hutong: {error:#}");
    ExitCode::FAILURE
}
