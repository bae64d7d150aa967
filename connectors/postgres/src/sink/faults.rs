//! Scripted faults at the sink's commit, for tests. A release build has no trace of them.
//!
//! A fault acts on sinks whose connector's name contains a text, once. It is armed within the process
//! by [`arm`], or from outside by a file in the folder that `HUTONG_FAULTS` names: `sink-hold` or
//! `sink-drop`, whose content is the text; it is renamed to `….taken` when it acts. The files
//! `sabotage-positions` and `sabotage-fence` act for as long as they are there and take away what
//! exactly-once rests on, to show that tests notice.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The transaction stays open just before its commit until the file `release` is there or the
    /// process is killed.
    Hold,
    /// The commit takes place, its answer is lost with the connection.
    LoseAnswer,
}

// A few lines under the lock, no await.
static ARMED: Mutex<Vec<(String, Fault)>> = Mutex::new(Vec::new());

/// Arms a fault for the next commit of a sink whose connector's name contains a text.
///
/// # Panics
///
/// If a thread panicked while it held the list.
pub fn arm(connector: &str, fault: Fault) {
    let mut armed = ARMED.lock().expect("nobody panics under this lock");
    armed.push((connector.to_owned(), fault));
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("HUTONG_FAULTS").map(PathBuf::from)
}

/// Takes the fault that is armed for a connector.
pub(super) fn take(connector: &str) -> Option<Fault> {
    let mut armed = ARMED.lock().expect("nobody panics under this lock");
    if let Some(found) = armed.iter().position(|(text, _)| connector.contains(text)) {
        return Some(armed.swap_remove(found).1);
    }
    let folder = folder()?;
    let kinds = [("sink-hold", Fault::Hold), ("sink-drop", Fault::LoseAnswer)];
    kinds.into_iter().find_map(|(name, fault)| {
        let file = folder.join(name);
        let text = std::fs::read_to_string(&file).ok()?;
        let acts = connector.contains(text.trim())
            && std::fs::rename(&file, folder.join(format!("{name}.taken"))).is_ok();
        acts.then_some(fault)
    })
}

/// Waits until the file `release` is there.
pub(super) async fn hold() {
    let Some(folder) = folder() else {
        return std::future::pending().await;
    };
    while !folder.join("release").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns whether positions are written apart from the rows.
pub(super) fn sabotages_positions() -> bool {
    folder().is_some_and(|folder| folder.join("sabotage-positions").exists())
}

/// Returns whether nobody is fenced.
pub(super) fn sabotages_fence() -> bool {
    folder().is_some_and(|folder| folder.join("sabotage-fence").exists())
}
