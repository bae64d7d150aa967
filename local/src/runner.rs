//! Gives a Kafka and a PostgreSQL to a command: `hutong local test -- CMD…`.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::kafka::{self, Kafka};
use crate::postgres::{self, Postgres};
use crate::scratch::{Run, Scratch};

/// Names the broker that tests, demo and platform use, if one runs already.
pub const KAFKA_BOOTSTRAP: &str = "KAFKA_BOOTSTRAP";
/// Names the control plane's database.
pub const DATABASE_URL: &str = "DATABASE_URL";
/// Names a superuser's access to the server for departments' and subscribers' databases.
pub const TEST_POSTGRES: &str = "HUTONG_TEST_POSTGRES";

/// A Kafka and a PostgreSQL, ours or somebody's.
///
/// Fields are dropped in order: the servers before the folder that holds their data.
#[derive(Debug)]
pub struct Servers {
    /// Address of the broker.
    pub bootstrap: String,
    /// URL of the control plane's database.
    pub control_url: String,
    /// URL of the server for departments' and subscribers' databases, as superuser.
    pub departments_url: String,
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
}

impl Servers {
    /// Starts what the environment does not name.
    ///
    /// # Errors
    ///
    /// If a server cannot be had or does not start.
    pub async fn start(scratch: &Scratch, run: &Run) -> Result<Self> {
        Self::start_with(scratch, run, postgres::Options::for_tests()).await
    }

    /// The same, with options for the PostgreSQL if it is ours.
    ///
    /// # Errors
    ///
    /// As [`Servers::start`].
    pub async fn start_with(
        scratch: &Scratch,
        run: &Run,
        options: postgres::Options,
    ) -> Result<Self> {
        let kafka = async {
            match given(KAFKA_BOOTSTRAP) {
                Some(_) => Ok(None),
                None => Kafka::start(scratch, run, "kafka", kafka::Options::default())
                    .await
                    .map(Some),
            }
        };
        let postgres = async {
            if given(DATABASE_URL).is_some() && given(TEST_POSTGRES).is_some() {
                return Ok(None);
            }
            Postgres::start(scratch, run, "postgres", &options)
                .await
                .map(Some)
        };
        let (kafka, postgres) = tokio::try_join!(kafka, postgres)?;
        let bootstrap = match &kafka {
            Some(kafka) => kafka.bootstrap(),
            None => given(KAFKA_BOOTSTRAP).context("it was there a moment ago")?,
        };
        let own = postgres.as_ref().map(|server| server.url("postgres"));
        let url = |variable| {
            given(variable)
                .or_else(|| own.clone())
                .context("it was there a moment ago")
        };
        Ok(Self {
            bootstrap,
            control_url: url(DATABASE_URL)?,
            departments_url: url(TEST_POSTGRES)?,
            kafka,
            postgres,
        })
    }

    /// Returns whether the broker was started by us.
    #[must_use]
    pub fn owns_kafka(&self) -> bool {
        self.kafka.is_some()
    }

    /// Returns whether the server for departments' databases was started by us.
    #[must_use]
    pub fn owns_departments(&self) -> bool {
        self.postgres
            .as_ref()
            .is_some_and(|server| server.url("postgres") == self.departments_url)
    }

    /// Returns the variables by which a child finds these servers.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &str); 3] {
        [
            (KAFKA_BOOTSTRAP, &self.bootstrap),
            (DATABASE_URL, &self.control_url),
            (TEST_POSTGRES, &self.departments_url),
        ]
    }

    /// Stops what was started, and nothing else.
    ///
    /// # Errors
    ///
    /// If the kernel does not know a process of ours.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(kafka) = &mut self.kafka {
            kafka.stop().await?;
        }
        if let Some(postgres) = &mut self.postgres {
            postgres.stop().await?;
        }
        Ok(())
    }
}

/// Returns the value of a variable that is set and not empty.
#[must_use]
pub fn given(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

/// Runs `command` with servers to test against and returns its exit code, 128 + n for signal n.
///
/// # Errors
///
/// If a server does not start or the command is missing.
pub async fn test(command: &[OsString]) -> Result<u8> {
    let (program, arguments) = command.split_first().context("no command was given")?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let scratch = Scratch::open()?;
    let run = scratch.begin("test")?;
    let mut servers = tokio::select! {
        started = Servers::start(&scratch, &run) => started?,
        _ = interrupted.recv() => return Ok(130),
        _ = terminated.recv() => return Ok(143),
    };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .envs(servers.environment())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {}", program.display()))?;
    let status = loop {
        tokio::select! {
            ended = child.wait() => break ended?,
            // The command has the same terminal and ends by itself at Ctrl-C; we wait for it.
            _ = interrupted.recv() => {}
            _ = terminated.recv() => child.start_kill()?,
        }
    };
    servers.stop().await?;
    Ok(code_of(status))
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
