//! Child processes: started in a group of their own, recorded on disk, stopped by pid.
//!
//! A process group of its own keeps Ctrl-C at the terminal away from a child: whoever started it
//! stops it, in the right order. The record on disk (`<name>.pid`: pid and start time) lets a later
//! run clean up after one that was killed, and never mistakes another process that was given the
//! same pid for ours.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a condition that nothing announces is looked at.
pub const LOOK: Duration = Duration::from_millis(20);

/// A running child. Dropping it kills the whole tree of processes under it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    record: PathBuf,
}

impl Process {
    /// Starts `command`, with its output appended to `<folder>/<name>.log` and its pid recorded in
    /// `<folder>/<name>.pid`.
    ///
    /// # Errors
    ///
    /// If the program is missing or the folder cannot be written.
    pub fn start(folder: &Path, name: &str, command: &mut Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let record = folder.join(format!("{name}.pid"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("could not write {}", log.display()))?;
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", program.display()))?;
        let identity = Recorded::of(child.id()).map(|recorded| recorded.to_string());
        std::fs::write(&record, identity.unwrap_or_default())
            .with_context(|| format!("could not write {}", record.display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
            record,
        })
    }

    /// Returns the name that the process was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the file that holds what the process wrote to its standard outputs.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns how the process ended, or `None` while it runs.
    ///
    /// # Errors
    ///
    /// If the kernel does not know the child.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("could not wait for {}", self.name))
    }

    /// Fails with the end of the log if the process has ended.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log, 30)
            ),
        }
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(pid_of(self.pid())?, signal)
            .with_context(|| format!("could not signal {}", self.name))
    }

    /// Freezes the process (SIGSTOP), as a machine does that is too busy to run it.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks the process to end by `signal`, and kills it if it has not after `patience`.
    ///
    /// # Errors
    ///
    /// If the kernel does not know the child.
    pub async fn stop(&mut self, signal: Signal, patience: Duration) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            self.signal(signal)?;
        }
        let deadline = tokio::time::Instant::now() + patience;
        while tokio::time::Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                self.forget();
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.kill();
        self.exited()?.context("a killed process does not end")
    }

    /// Kills the process and everything under it (SIGKILL), and waits until it is gone.
    pub fn kill(&mut self) {
        if matches!(self.exited(), Ok(None)) {
            kill_tree(self.pid());
            // Cannot hang: the process has been killed.
            let _status = self.child.wait();
        }
        self.forget();
    }

    /// Lets the process outlive this handle and this program; its record stays on disk.
    pub fn detach(self) {
        // Neither the destructor, which kills, nor the child's, which does nothing, may run.
        let _never_dropped = std::mem::ManuallyDrop::new(self);
    }

    fn forget(&self) {
        let _may_be_gone = std::fs::remove_file(&self.record);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A pid together with the moment its process started, which no later process shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pid: u32,
    start_ticks: u64,
}

impl Recorded {
    /// Describes a running process; `None` if there is none.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (stat.state != 'Z').then_some(Self {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// Reads what [`Process::start`] or the owner of a folder wrote.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let (pid, start_ticks) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start_ticks: start_ticks.parse().ok()?,
        })
    }

    /// Returns the pid.
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Returns whether this very process still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Asks the process to end by `signal`, and kills it and everything under it if it has not
    /// after `patience`. Does nothing if it is gone.
    pub async fn stop(self, signal: Signal, patience: Duration) {
        if let Ok(pid) = pid_of(self.pid)
            && self.is_alive()
        {
            let _may_be_gone = kill_process(pid, signal);
        }
        let deadline = tokio::time::Instant::now() + patience;
        while self.is_alive() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        self.kill();
    }

    /// Kills the process and everything under it, if it still runs.
    pub fn kill(self) {
        if self.is_alive() {
            kill_tree(self.pid);
        }
    }
}

impl std::fmt::Display for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.pid, self.start_ticks)
    }
}

/// How long a killed process may take to leave: what it holds in the kernel is freed on the way.
const DEATH: Duration = Duration::from_secs(10);

/// Kills a process and all its descendants, and waits until they are gone: a server that starts in
/// their place would find their shared memory. A process group would not do: each PostgreSQL
/// backend makes a group of its own. The root is stopped first, so that it has no more children
/// while they are counted.
fn kill_tree(root: u32) {
    send(root, Signal::STOP);
    let parents: Vec<(u32, u32)> = running()
        .filter_map(|pid| Stat::read(pid).map(|stat| (pid, stat.parent)))
        .collect();
    let mut doomed = vec![root];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| pid),
        );
        next += 1;
    }
    let mut dying: Vec<Recorded> = doomed.iter().copied().filter_map(Recorded::of).collect();
    for pid in doomed {
        send(pid, Signal::KILL);
    }
    let deadline = Instant::now() + DEATH;
    while !dying.is_empty() && Instant::now() < deadline {
        dying.retain(|process| process.is_alive());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = pid_of(pid) {
        let _may_be_gone = kill_process(pid, signal);
    }
}

fn running() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The three fields of `/proc/<pid>/stat` that we need; see proc(5).
struct Stat {
    state: char,
    parent: u32,
    start_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, which may hold anything.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

fn pid_of(pid: u32) -> Result<Pid> {
    let raw = i32::try_from(pid).context("a pid fits 31 bits")?;
    Pid::from_raw(raw).context("pid 0 is no process of ours")
}

/// Returns the last lines of a log, for an error message.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Errors
///
/// If the program is missing or fails; the message then holds what it wrote.
pub fn output_of(what: &str, command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{what}: could not run {}", command.get_program().display()))?;
    if !output.status.success() {
        let ended = match output.status.signal() {
            Some(signal) => format!("was ended by signal {signal}"),
            None => format!("failed ({})", output.status),
        };
        bail!(
            "{what}: {} {ended}\n{}{}",
            command.get_program().display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_process_takes_its_descendants_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = "setsid sleep 300 & echo $! > child; wait";
        let mut process = Process::start(
            folder.path(),
            "tree",
            Command::new("sh").args(["-c", script]).current_dir(&folder),
        )
        .unwrap();
        let child = loop {
            let text = std::fs::read_to_string(folder.path().join("child")).unwrap_or_default();
            if let Ok(pid) = text.trim().parse() {
                break pid;
            }
            process.must_run().unwrap();
            tokio::time::sleep(LOOK).await;
        };
        let child = Recorded::of(child).unwrap();
        process.kill();
        assert!(!child.is_alive());
        assert!(!folder.path().join("tree.pid").exists());
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_signal_is_killed_after_the_patience() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(
            folder.path(),
            "stubborn",
            Command::new("sh").args(["-c", "trap '' TERM; echo ready; sleep 300"]),
        )
        .unwrap();
        while tail(process.log(), 1) != "ready" {
            tokio::time::sleep(LOOK).await;
        }
        let status = process.stop(Signal::TERM, Duration::from_millis(50)).await;
        assert_eq!(status.unwrap().signal(), Some(9));
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_ours() {
        let me = Recorded::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = Recorded {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!other.is_alive());
    }
}
