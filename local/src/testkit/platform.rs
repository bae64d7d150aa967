//! A platform as child processes: a control plane, and workers by name.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use super::{Api, Kit, PATIENCE, until};
use crate::port;
use crate::process::{self, Process};
use crate::scratch::{Run, Scratch};

/// The control plane's name among the processes.
const CONTROL_PLANE: &str = "control-plane";
/// Longer than the workers' own `stop_deadline`.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// What a platform shall be like. All fields may be changed before the start.
#[derive(Clone, Debug)]
pub struct PlatformOptions {
    /// The `hutong` program.
    pub binary: PathBuf,
    /// The installation's name, first part of all its topics.
    pub cluster: String,
    /// URL of the control plane's database, which must be there.
    pub database_url: String,
    /// Properties of librdkafka for all processes.
    pub kafka: BTreeMap<String, String>,
    /// The locations at which workers may run.
    pub locations: Vec<String>,
    /// Ports of connector API, registry, platform API and the first worker; free ones by default.
    pub ports: Option<[u16; 4]>,
    /// Further keys of the workers' configuration, such as `session_timeout`.
    pub worker: Map<String, Value>,
    /// Further keys of the control plane's configuration.
    pub control_plane: Map<String, Value>,
    /// Further variables of the processes' environment.
    pub environment: Vec<(String, String)>,
}

impl PlatformOptions {
    /// Returns options for a platform of a test, with a name and a control database of its own.
    ///
    /// # Errors
    ///
    /// If the database cannot be created.
    pub async fn new(binary: impl Into<PathBuf>, kit: &Kit) -> Result<Self> {
        let database = kit.control_database().await?;
        let cluster = format!("t{:08x}", rand::random::<u32>());
        Ok(Self::on(binary, &cluster, &kit.bootstrap, &database.url))
    }

    /// Returns options for a platform on given servers.
    #[must_use]
    pub fn on(
        binary: impl Into<PathBuf>,
        cluster: &str,
        bootstrap: &str,
        database_url: &str,
    ) -> Self {
        let kafka = [("bootstrap.servers", bootstrap)];
        let kafka = kafka.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            binary: binary.into(),
            cluster: cluster.to_owned(),
            database_url: database_url.to_owned(),
            kafka: kafka.into(),
            locations: vec!["default".to_owned()],
            ports: None,
            worker: Map::new(),
            control_plane: Map::new(),
            environment: Vec::new(),
        }
    }
}

/// A running platform. Dropping it kills its processes.
#[derive(Debug)]
pub struct Platform {
    options: PlatformOptions,
    processes: BTreeMap<String, Process>,
    worker_ports: BTreeMap<String, u16>,
    api: Api,
    folder: PathBuf,
    /// Dropped last: it removes the folder.
    _run: Option<Run>,
}

impl Platform {
    /// Starts a control plane in a folder of the checkout and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it does not become ready; the message holds the end of its log.
    pub async fn start(options: PlatformOptions) -> Result<Self> {
        let run = Scratch::open()?.begin("platform")?;
        let folder = run.path().to_owned();
        Self::start_in(folder, Some(run), options).await
    }

    /// Starts a control plane whose files lie in a folder of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Platform::start`].
    pub async fn start_in(
        folder: PathBuf,
        run: Option<Run>,
        options: PlatformOptions,
    ) -> Result<Self> {
        let [connect, registry, api, _] = match options.ports {
            Some(ports) => ports,
            None => [port::free()?, port::free()?, port::free()?, 0],
        };
        let mut platform = Self {
            api: Api::new(connect, registry, api)?,
            options,
            processes: BTreeMap::new(),
            worker_ports: BTreeMap::new(),
            folder,
            _run: run,
        };
        private_folder(&platform.worker_secrets_dir())?;
        private_folder(&platform.secrets_dir())?;
        if !platform.worker_secrets_dir().join("master").exists() {
            let master = uuid::Uuid::new_v4().simple().to_string();
            platform.write_worker_secret("master", &master)?;
        }
        platform.configure_control_plane([connect, registry, api])?;
        platform.start_control_plane().await?;
        Ok(platform)
    }

    /// Returns the client of the APIs, with the administrator's token.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Returns the installation's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.options.cluster
    }

    /// Returns the folder with configurations and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the file with the administrator's token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("admin-token")
    }

    /// Returns the workers' `secrets.dir`: what they need themselves, and a folder per organisation.
    #[must_use]
    pub fn worker_secrets_dir(&self) -> PathBuf {
        self.folder.join("secrets")
    }

    /// Returns the folder with the secrets of the platform's connectors, which are those that are
    /// posted with the administrator's token.
    #[must_use]
    pub fn secrets_dir(&self) -> PathBuf {
        self.worker_secrets_dir().join("platform")
    }

    /// Writes secrets, each a file of its own, and returns nothing: they are referred to as
    /// [`Platform::secret`] says.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn write_secrets(&self, secrets: &[(&str, &str)]) -> Result<()> {
        for (name, value) in secrets {
            write_secret(&self.secrets_dir(), name, value)?;
        }
        Ok(())
    }

    /// Writes a secret of the workers' own, such as `master`, for workers that start after this.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn write_worker_secret(&self, name: &str, value: &str) -> Result<()> {
        write_secret(&self.worker_secrets_dir(), name, value)
    }

    /// Returns the reference to a secret that was written.
    #[must_use]
    pub fn secret(&self, name: &str) -> String {
        format!("${{directory:{}:{name}}}", self.secrets_dir().display())
    }

    /// Starts the control plane, if it does not run, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub async fn start_control_plane(&mut self) -> Result<()> {
        self.launch(CONTROL_PLANE, "control-plane")?;
        let api = self.api.clone();
        for url in [&api.connect_url, &api.registry_url, &api.platform_url] {
            self.wait_ready(CONTROL_PLANE, &api, url).await?;
        }
        let file = self.token_file();
        let token = fs::read_to_string(&file)
            .with_context(|| format!("could not read {}", file.display()))?;
        self.api = api.with_token(token.trim());
        Ok(())
    }

    /// Starts the control plane and does not wait.
    ///
    /// # Errors
    ///
    /// If the program is missing.
    pub fn launch_control_plane(&mut self) -> Result<()> {
        self.launch(CONTROL_PLANE, "control-plane")
    }

    /// Starts a worker under an instance id, which is also its name here, and waits until it is
    /// ready. A worker that ran under this name before is replaced by its like.
    ///
    /// # Errors
    ///
    /// If it does not become ready.
    pub async fn start_worker(&mut self, name: &str, location: &str) -> Result<()> {
        self.launch_worker(name, location)?;
        self.wait_worker(name).await
    }

    /// Starts a worker and does not wait.
    ///
    /// # Errors
    ///
    /// If the program is missing.
    pub fn launch_worker(&mut self, name: &str, location: &str) -> Result<()> {
        self.configure_worker(name, location)?;
        self.launch(name, "worker")
    }

    /// Waits until a worker knows its tasks.
    ///
    /// # Errors
    ///
    /// If it ends or is not ready after a minute.
    pub async fn wait_worker(&mut self, name: &str) -> Result<()> {
        let api = self.api.clone();
        let url = self.worker_url(name)?;
        self.wait_ready(name, &api, &url).await
    }

    /// Returns the base URL of a worker's health and metrics.
    ///
    /// # Errors
    ///
    /// If no worker of this name was started.
    pub fn worker_url(&self, name: &str) -> Result<String> {
        let port = self
            .worker_ports
            .get(name)
            .with_context(|| format!("no worker {name}"))?;
        Ok(format!("http://127.0.0.1:{port}"))
    }

    /// Returns a process by its name; the control plane is `control-plane`.
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes
            .get_mut(name)
            .with_context(|| format!("{name} does not run"))
    }

    /// Kills a process as a crash does (SIGKILL).
    ///
    /// # Errors
    ///
    /// If it does not run.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let mut process = self
            .processes
            .remove(name)
            .with_context(|| format!("{name} does not run"))?;
        process.kill();
        Ok(())
    }

    /// Asks a process to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    ///
    /// If it does not run, or did not end by itself.
    pub async fn stop(&mut self, name: &str) -> Result<()> {
        let mut process = self
            .processes
            .remove(name)
            .with_context(|| format!("{name} does not run"))?;
        let status = process.stop(Signal::TERM, STOP_PATIENCE).await?;
        if !status.success() {
            bail!(
                "{name} did not end in good order ({status}); the end of its log:\n{}",
                process::tail(process.log(), 20)
            );
        }
        Ok(())
    }

    /// Stops all processes, workers first.
    ///
    /// # Errors
    ///
    /// If one did not end by itself; the others are stopped all the same.
    pub async fn stop_all(&mut self) -> Result<()> {
        let workers = self.processes.keys().filter(|name| *name != CONTROL_PLANE);
        let mut names: Vec<String> = workers.cloned().collect();
        names.extend(
            self.processes
                .contains_key(CONTROL_PLANE)
                .then(|| CONTROL_PLANE.to_owned()),
        );
        let mut outcome = Ok(());
        for name in names {
            outcome = outcome.and(self.stop(&name).await);
        }
        outcome
    }

    /// Lets all processes outlive this program.
    pub fn detach(mut self) {
        for (_, process) in std::mem::take(&mut self.processes) {
            process.detach();
        }
    }

    /// Returns the end of a process's log.
    #[must_use]
    pub fn log(&self, name: &str, lines: usize) -> String {
        process::tail(&self.folder.join(format!("{name}.log")), lines)
    }

    fn launch(&mut self, name: &str, role: &str) -> Result<()> {
        if let Some(process) = self.processes.get_mut(name)
            && process.exited()?.is_none()
        {
            return Ok(());
        }
        let mut command = Command::new(&self.options.binary);
        command
            .arg(role)
            .arg("--config")
            .arg(self.folder.join(format!("{name}.yaml")))
            .current_dir(&self.folder)
            .envs(
                self.options
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            );
        let process = Process::start(&self.folder, name, &mut command)?;
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    async fn wait_ready(&mut self, name: &str, api: &Api, url: &str) -> Result<()> {
        let process = self.process(name)?;
        let ready = format!("{url}/readyz");
        until(&format!("{name} to be ready"), PATIENCE, async || {
            process.must_run()?;
            Ok(match api.call("GET", &ready, None).await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("{}: {}", answer.status, answer.body)),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await
        .with_context(|| format!("the end of the log of {name}:\n{}", self.log(name, 20)))
    }

    fn configure_control_plane(&self, [connect, registry, api]: [u16; 3]) -> Result<()> {
        let options = &self.options;
        let mut config = json!({
            "cluster": options.cluster,
            "database_url": options.database_url,
            "kafka": options.kafka,
            "listen": {
                "connect": format!("127.0.0.1:{connect}"),
                "registry": format!("127.0.0.1:{registry}"),
                "api": format!("127.0.0.1:{api}"),
            },
            "locations": options.locations,
            "admin_token_file": self.token_file(),
        });
        self.write_config(CONTROL_PLANE, &mut config, &options.control_plane)
    }

    fn configure_worker(&mut self, name: &str, location: &str) -> Result<()> {
        let port = match (self.worker_ports.get(name), self.options.ports) {
            (Some(port), _) => *port,
            (None, Some([_, _, _, port])) if self.worker_ports.is_empty() => port,
            (None, _) => port::free()?,
        };
        self.worker_ports.insert(name.to_owned(), port);
        self.write_worker_secret("registry-token", self.api.token())?;
        let own = |name| format!("${{directory:.:{name}}}");
        let options = &self.options;
        let mut config = json!({
            "cluster": options.cluster,
            "location": location,
            "instance_id": name,
            "kafka": options.kafka,
            "registry": { "url": self.api.registry_url, "token": own("registry-token") },
            "listen": format!("127.0.0.1:{port}"),
            "data_dir": self.folder.join(format!("{name}-data")),
            "secrets": { "dir": self.worker_secrets_dir() },
            "master_secret": own("master"),
        });
        self.write_config(name, &mut config, &options.worker)
    }

    /// A JSON document is a YAML document.
    fn write_config(
        &self,
        name: &str,
        config: &mut Value,
        further: &Map<String, Value>,
    ) -> Result<()> {
        if let Value::Object(keys) = config {
            keys.extend(further.clone());
        }
        let path = self.folder.join(format!("{name}.yaml"));
        fs::write(&path, format!("{config:#}\n"))
            .with_context(|| format!("could not write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

fn write_secret(folder: &Path, name: &str, value: &str) -> Result<()> {
    let path = folder.join(name);
    fs::write(&path, value).with_context(|| format!("could not write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn private_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("could not create {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(())
}
