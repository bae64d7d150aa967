//! Scripted faults around a Kafka commit, for tests that must show what a lost answer or a kill at
//! the worst moment leads to, and two sabotages that such tests must find. Only in builds with debug
//! assertions: a release has no trace of this.
//!
//! A test in the same process calls [`arm`]. A test of other processes starts them with
//! `HUTONG_FAULTS` naming a folder and puts files into it, at any time:
//!
//! - `kafka-hold`, `kafka-drop`, `kafka-fail`, each with a part of a transactional id as contents:
//!   at the next commit of such a producer, when all records of the transaction are at the broker,
//!   the file is renamed to `….taken` and the fault fires. A held commit goes on when there is a file
//!   `release`, which it removes.
//! - `sabotage-positions`: positions are committed after the records, in a transaction of their own.
//! - `sabotage-fence`: every producer gets a transactional id of its own, so that nobody is fenced.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// The variable that names the folder.
const VARIABLE: &str = "HUTONG_FAULTS";

/// How often a held commit looks whether it may go on.
const LOOK: Duration = Duration::from_millis(10);

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
        loop {
            let is_released = match &self.release {
                Release::Program(shared) => *shared.released.borrow(),
                // Taken, so that it lets one commit go and not the next one too.
                Release::File(path) => fs::remove_file(path).is_ok(),
            };
            if is_released {
                return;
            }
            std::thread::sleep(LOOK);
        }
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

/// Whether nobody shall be fenced.
pub(crate) fn is_fence_sabotaged() -> bool {
    folder().is_some_and(|folder| folder.join("sabotage-fence").exists())
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
    for (name, fault) in FILES {
        let path = folder.join(name);
        let Ok(wanted) = fs::read_to_string(&path) else {
            continue;
        };
        let wanted = wanted.trim();
        // Of several processes exactly one takes the file. An empty one is still being written.
        let is_ours = !wanted.is_empty() && transactional_id.contains(wanted);
        if is_ours && fs::rename(&path, folder.join(format!("{name}.taken"))).is_ok() {
            return Some(Firing {
                fault,
                release: Release::File(folder.join("release")),
            });
        }
    }
    None
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
