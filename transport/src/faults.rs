//! Scripted faults around a Kafka transaction, for tests that must show what a lost answer, a kill at
//! the worst moment or a late awakening leads to, and two sabotages that such tests must find. Only in
//! builds with debug assertions: a release has no trace of this.
//!
//! A test in the same process calls [`arm`]. A test of other processes starts them with
//! `HUTONG_FAULTS` naming a folder and puts files into it, at any time:
//!
//! - `kafka-hold`, `kafka-drop`, `kafka-fail`, each with a part of a transactional id as contents:
//!   at the next commit of such a producer, when all records of the transaction are at the broker,
//!   the file is renamed to `….taken` and the fault fires. A held commit goes on when there is a file
//!   `release`, which it removes.
//! - `kafka-hold-begin`, with a part of a transactional id as contents: such a producer is held before
//!   it begins its next transaction that carries records, until there is a file `release`. When the
//!   transaction is over, `kafka-hold-begin.over` says what became of it (`committed`, or the class and
//!   the error), and the producer is held again: what this one transaction did can be looked at before
//!   another one covers it.
//! - `group-deaf`, with an instance id as contents: as long as it is there, this member of the group is
//!   not told what the group decides. It stands for a process that loses a task and learns it too late.
//! - `reach-<place>`, with a part of what is owned as contents: whoever comes to the named place, before
//!   or after a durable step, renames the file to `….taken` and waits there to be killed, or until
//!   there is a file `release`.
//! - `sabotage-positions`: positions are committed after the records, in a transaction of their own.
//! - `sabotage-fence`, empty or with a part of a transactional id as contents: such producers get a
//!   transactional id of their own at each start, so that they fence nobody.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hutong_schemas::class::Classified;
use tokio::sync::watch;

use crate::error::Error;

/// The variable that names the folder.
const VARIABLE: &str = "HUTONG_FAULTS";

/// How often a held commit looks whether it may go on.
const LOOK: Duration = Duration::from_millis(10);

/// The file that holds a producer before it begins.
const HOLD_BEGIN: &str = "kafka-hold-begin";

/// The file that lets go what is held.
const RELEASE: &str = "release";

/// What shall happen to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The commit succeeds, its answer is lost.
    DropAnswer,
    /// The transaction stays open, with all its records at the broker, until it is released.
    HoldBeforeCommit,
    /// The transaction is aborted instead of committed.
    FailBeforeCommit,
}

/// The files that fire faults.
const FILES: [(&str, Fault); 3] = [
    ("kafka-hold", Fault::HoldBeforeCommit),
    ("kafka-drop", Fault::DropAnswer),
    ("kafka-fail", Fault::FailBeforeCommit),
];

/// A fault that was armed; dropping it disarms it and releases what it holds.
#[derive(Debug)]
pub struct Armed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transactional_id: String,
    fault: Fault,
    left: Mutex<u64>,
    fired: watch::Sender<bool>,
    released: watch::Sender<bool>,
}

static ARMED: Mutex<Vec<Arc<Shared>>> = Mutex::new(Vec::new());

/// Arms a fault for the `nth` commit from now (1 is the next one) of producers whose transactional
/// id contains the text.
#[must_use]
pub fn arm(transactional_id: &str, fault: Fault, nth: u64) -> Armed {
    let shared = Arc::new(Shared {
        transactional_id: transactional_id.to_owned(),
        fault,
        left: Mutex::new(nth),
        fired: watch::Sender::new(false),
        released: watch::Sender::new(false),
    });
    lock(&ARMED).push(Arc::clone(&shared));
    Armed { shared }
}

impl Armed {
    /// Waits until the fault has fired; a held commit is held from then on.
    pub async fn fired(&self) {
        let mut fired = self.shared.fired.subscribe();
        // The sender lives as long as `self`.
        let _ = fired.wait_for(|fired| *fired).await;
    }

    /// Lets a held commit go on.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.release();
        lock(&ARMED).retain(|armed| !Arc::ptr_eq(armed, &self.shared));
    }
}

/// A fault that fires now.
pub(crate) struct Firing {
    pub(crate) fault: Fault,
    release: Release,
}

enum Release {
    Program(Arc<Shared>),
    File(PathBuf),
}

impl Firing {
    /// Blocks until a held commit may go on.
    pub(crate) fn wait_for_release(&self) {
        self.release.wait();
    }
}

impl Release {
    fn wait(&self) {
        loop {
            let is_released = match self {
                Self::Program(shared) => *shared.released.borrow(),
                // Taken, so that it lets one commit go and not the next one too.
                Self::File(path) => fs::remove_file(path).is_ok(),
            };
            if is_released {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// A transaction that begins later than it would have.
pub(crate) struct Late {
    folder: &'static Path,
}

/// Blocks while a producer is held before it begins.
pub(crate) fn before_begin(transactional_id: &str) -> Option<Late> {
    let folder = folder()?;
    if !takes(folder, HOLD_BEGIN, transactional_id) {
        return None;
    }
    Release::File(folder.join(RELEASE)).wait();
    Some(Late { folder })
}

impl Late {
    /// Says what became of the transaction and holds the producer again, for good: its process is to
    /// be killed.
    pub(crate) fn over(self, error: Option<&Error>) -> ! {
        let outcome = error.map_or_else(
            || "committed".to_owned(),
            |error| format!("{}: {error}", error.class().as_str()),
        );
        let path = self.folder.join(format!("{HOLD_BEGIN}.over"));
        if let Err(error) = fs::write(&path, outcome) {
            tracing::error!(%error, "could not say what became of a held transaction");
        }
        loop {
            std::thread::park();
        }
    }
}

/// Whether a member is not told what its group decides.
pub(crate) fn is_deaf(instance: &str) -> bool {
    let deaf = folder().and_then(|folder| fs::read_to_string(folder.join("group-deaf")).ok());
    deaf.is_some_and(|deaf| deaf.trim() == instance)
}

/// A named place before or after a durable step: holds whoever owns something that a test waits for
/// there.
pub async fn reach(place: &str, owner: &str) {
    let Some(folder) = folder() else { return };
    let path = folder.join(format!("reach-{place}"));
    let Ok(wanted) = fs::read_to_string(&path) else {
        return;
    };
    let wanted = wanted.trim();
    let is_ours = !wanted.is_empty() && owner.contains(wanted);
    let taken = folder.join(format!("reach-{place}.taken"));
    if !is_ours || fs::rename(&path, taken).is_err() {
        return;
    }
    while fs::remove_file(folder.join("release")).is_err() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Counts a commit and returns the fault that is due at it.
pub(crate) fn at_commit(transactional_id: &str) -> Option<Firing> {
    from_program(transactional_id).or_else(|| from_folder(folder()?, transactional_id))
}

/// Whether positions shall be committed apart from their records.
pub(crate) fn are_positions_sabotaged() -> bool {
    folder().is_some_and(|folder| folder.join("sabotage-positions").exists())
}

/// Whether a producer shall fence nobody.
pub(crate) fn is_fence_sabotaged(transactional_id: &str) -> bool {
    let whose = folder().and_then(|folder| fs::read_to_string(folder.join("sabotage-fence")).ok());
    whose.is_some_and(|whose| transactional_id.contains(whose.trim()))
}

fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    folder.as_deref()
}

fn from_program(transactional_id: &str) -> Option<Firing> {
    let armed = lock(&ARMED).clone();
    for shared in armed {
        if !transactional_id.contains(&shared.transactional_id) {
            continue;
        }
        let mut left = lock(&shared.left);
        let is_due = *left == 1;
        *left = left.saturating_sub(1);
        drop(left);
        if is_due {
            shared.fired.send_replace(true);
            return Some(Firing {
                fault: shared.fault,
                release: Release::Program(shared),
            });
        }
    }
    None
}

fn from_folder(folder: &Path, transactional_id: &str) -> Option<Firing> {
    let mut files = FILES.into_iter();
    let (_, fault) = files.find(|(name, _)| takes(folder, name, transactional_id))?;
    Some(Firing {
        fault,
        release: Release::File(folder.join(RELEASE)),
    })
}

/// Takes a fault's file if it is there and means this producer.
fn takes(folder: &Path, name: &str, transactional_id: &str) -> bool {
    let path = folder.join(name);
    let Ok(wanted) = fs::read_to_string(&path) else {
        return false;
    };
    let wanted = wanted.trim();
    // Of several processes exactly one takes the file. An empty one is still being written.
    let is_ours = !wanted.is_empty() && transactional_id.contains(wanted);
    is_ours && fs::rename(&path, folder.join(format!("{name}.taken"))).is_ok()
}

/// A panic while counting leaves a count behind that is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_from_a_file_fires_once_at_a_commit_of_a_matching_producer() {
        let folder = std::env::temp_dir().join(format!("hutong-faults-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("kafka-drop"), "source/").unwrap();
        let fires = |id: &str| from_folder(&folder, id).map(|firing| firing.fault);
        assert_eq!(fires("hutong.processor/a"), None);
        assert_eq!(fires("hutong.source/a"), Some(Fault::DropAnswer));
        assert_eq!(fires("hutong.source/a"), None);
        assert!(folder.join("kafka-drop.taken").exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_armed_fault_fires_once_and_is_disarmed_by_dropping_it() {
        let armed = arm("faults-test", Fault::FailBeforeCommit, 2);
        assert!(at_commit("x.faults-test").is_none());
        assert!(at_commit("x.faults-test").is_some());
        assert!(at_commit("x.faults-test").is_none());
        drop(armed);
        drop(arm("faults-test", Fault::FailBeforeCommit, 1));
        assert!(at_commit("x.faults-test").is_none());
    }
}
