//! Where servers keep their files: `target/local` of the checkout.
//!
//! ```text
//! target/local/
//!   kafka-4.3.1/            the broker's jars
//!   postgresql-17.11/       PostgreSQL's binaries, where none are installed
//!   runs/<kind>-<random>/   one run: its servers' data and logs, removed at its end
//!     owner                 pid and start time of the program that answers for the run
//!     <name>.pid            the same of each server
//! ```
//!
//! Two checkouts have two such folders, so they never meet. A run whose owner is gone (killed, or
//! the machine went down) is cleaned up by the next run of the same checkout: its servers are
//! killed by their records, its folder is removed.
//!
//! If the servers' user cannot enter the checkout (it lies in a home that is closed to others), the
//! folder lies in the system's folder for temporary files instead, under a name that is made from
//! the checkout's path.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::identity::{self, Identity};
use crate::process::Recorded;

/// The folder of a checkout.
#[derive(Clone, Debug)]
pub struct Scratch {
    base: PathBuf,
    identity: Option<Identity>,
}

/// Returns the root of the checkout: where this crate was built, or the present folder if that has
/// gone.
///
/// # Errors
///
/// If the present folder cannot be told.
pub fn checkout() -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    match built {
        Some(root) if root.join("Cargo.toml").is_file() => Ok(root.to_owned()),
        _ => std::env::current_dir().context("could not tell the present folder"),
    }
}

impl Scratch {
    /// Opens the checkout's folder, creating it, and cleans up what dead runs left in it.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn open() -> Result<Self> {
        let identity = identity::for_servers()?;
        let root = checkout()?;
        let base = if identity.is_none() || is_open_to_others(&root) {
            root.join("target/local")
        } else {
            std::env::temp_dir().join(format!("hutong-{:016x}", fnv1a(&root)))
        };
        let scratch = Self { base, identity };
        create(&scratch.runs())?;
        scratch.sweep();
        Ok(scratch)
    }

    /// Returns a folder for files that all runs share.
    #[must_use]
    pub fn shared(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Returns the user whom servers run as.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Creates the folder of a run that this program answers for.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written.
    pub fn begin(&self, kind: &str) -> Result<Run> {
        let path = self
            .runs()
            .join(format!("{kind}-{:08x}", rand::random::<u32>()));
        create(&path)?;
        let owner = Recorded::of(std::process::id()).context("this process runs")?;
        std::fs::write(path.join("owner"), owner.to_string())
            .with_context(|| format!("could not write into {}", path.display()))?;
        Ok(Run {
            path,
            identity: self.identity,
            keep: false,
        })
    }

    fn runs(&self) -> PathBuf {
        self.base.join("runs")
    }

    fn sweep(&self) {
        for run in folders(&self.runs()) {
            // A run that has just been created has no owner yet; another program is writing it.
            let Some(owner) = Recorded::read(&run.join("owner")) else {
                continue;
            };
            if !owner.is_alive() {
                end(&run);
            }
        }
    }
}

/// The folder of one run. Dropping it kills the servers recorded in it and removes it.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    identity: Option<Identity>,
    keep: bool,
}

impl Run {
    /// Returns the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the user whom servers run as.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Creates a folder for a server, owned by the servers' user.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        create(&path)?;
        identity::give(&path, self.identity)?;
        Ok(path)
    }

    /// Keeps the folder, so that its logs can be read; the next run of the checkout removes it.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.keep {
            end(&self.path);
        }
    }
}

fn end(run: &Path) {
    kill_recorded(run);
    let _best_effort = std::fs::remove_dir_all(run);
}

/// Kills every process recorded in the folder of a run or in a server's folder below it.
pub fn kill_recorded(run: &Path) {
    let servers = folders(run);
    for folder in std::iter::once(run.to_owned()).chain(servers) {
        for file in files(&folder) {
            if file.extension().is_some_and(|extension| extension == "pid")
                && let Some(recorded) = Recorded::read(&file)
            {
                recorded.kill();
            }
        }
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    entries(path).filter(|path| path.is_dir()).collect()
}

fn files(path: &Path) -> impl Iterator<Item = PathBuf> {
    entries(path).filter(|path| path.is_file())
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn create(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("could not create {}", path.display()))
}

/// Returns whether every folder down to `path` lets others enter.
fn is_open_to_others(path: &Path) -> bool {
    path.ancestors().all(|folder| {
        std::fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

/// FNV-1a, which unlike the standard library's hash gives the same name in every release.
fn fnv1a(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
