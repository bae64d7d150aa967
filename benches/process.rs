//! Processes: what they have used, and the servers' own tools.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Clock ticks per second in `/proc`, on every Linux of today; see proc(5).
const TICKS: f64 = 100.0;

/// Returns the processor time that a process has used, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    Ok(Stat::of(pid)?.own)
}

/// Returns the processor time that a process, its children, and those of them that have ended have
/// used, in seconds. A PostgreSQL server has a child for each connection, and no grandchildren.
pub(crate) fn family_cpu_seconds(pid: u32) -> Result<f64> {
    let parent = Stat::of(pid)?;
    let pids = std::fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may end while it is looked at.
    let children = pids
        .filter_map(|pid| Stat::of(pid).ok())
        .filter(|stat| stat.parent == pid);
    Ok(parent.own + parent.ended_children + children.map(|child| child.own).sum::<f64>())
}

/// What `/proc/<pid>/stat` says of a process; times in seconds.
struct Stat {
    parent: u32,
    own: f64,
    ended_children: f64,
}

impl Stat {
    fn of(pid: u32) -> Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = text.rsplit_once(") ").context("not a stat file")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let seconds = |index: usize| -> Result<f64> { Ok(fields[index].parse::<f64>()? / TICKS) };
        Ok(Self {
            parent: fields[1].parse()?,
            own: seconds(11)? + seconds(12)?,
            ended_children: seconds(13)? + seconds(14)?,
        })
    }
}

/// Returns the most resident memory that a process has had, in MiB.
pub(crate) fn peak_mebibytes(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kibibytes.context("no VmHWM")?.parse::<f64>()? / 1024.0)
}

/// Returns a description of the machine.
pub(crate) fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    format!("{cpus} cores of {model}")
}

/// Refuses to start without the tools that the limits are measured by.
pub(crate) fn require_tools(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| tool(name).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "{} not found in PATH, PGBIN or /usr/lib/postgresql; install PostgreSQL's client programs (Debian: postgresql-client)",
        missing.join(" and ")
    )
}

fn tool(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PGBIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let installed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    folders.extend(installed.map(|version| version.path().join("bin")));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Runs a tool to its end and returns how long it took.
pub(crate) async fn run_tool(name: &str, arguments: &[&str]) -> Result<Duration> {
    let mut command = Command::new(tool(name).with_context(|| format!("no {name}"))?);
    command.args(arguments);
    let name = name.to_owned();
    tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        let output = command.output()?;
        if !output.status.success() {
            bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(started.elapsed())
    })
    .await?
}
