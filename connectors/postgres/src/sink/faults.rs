//! Scripted faults around the sink's transaction, for tests. A release build has no trace of them.
//!
//! A fault acts on sinks whose connector's name contains a text, once. It is armed within the process
//! by [`arm`], or from outside by a file in the folder that `HUTONG_FAULTS` names: `sink-hold` or
//! `sink-drop`, whose content is the text; it is renamed to `….taken` when it acts. `sink-hold-begin`
//! holds a sink before it begins a transaction; when that is over, `sink-hold-begin.over` says what
//! became of it (`committed`, or the class and the error), and the sink is held again, so that what
//! this one transaction did can be looked at before another one covers it. The files
//! `sabotage-positions` and `sabotage-fence` (the latter for all sinks, or for those whose connector's
//! name contains its text) act for as long as they are there and take away what exactly-once rests on,
//! to show that tests notice.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use hutong_schemas::class::Classified;

use super::error::Error;

/// The file that holds a sink before it begins.
const HOLD_BEGIN: &str = "sink-hold-begin";

/// What happens to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The transaction stays open just before its commit until the file `release` is there or the
    /// process is killed.
    Hold,
    /// The commit takes place, its answer is lost with the connection.
    LoseAnswer,
    /// The work ends at a named point, as it would in a crash.
    CrashAt(&'static str),
    /// The work waits at a named point until the file `release` is there or the process is killed.
    HoldAt(&'static str),
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

/// Returns whether a fault that was armed for a connector has not acted yet.
///
/// # Panics
///
/// If a thread panicked while it held the list.
#[must_use]
pub fn is_armed(connector: &str) -> bool {
    let armed = ARMED.lock().expect("nobody panics under this lock");
    armed.iter().any(|(text, _)| connector.contains(text))
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("HUTONG_FAULTS").map(PathBuf::from)
}

/// Takes the fault that is armed for a connector.
pub(super) fn take(connector: &str) -> Option<Fault> {
    let mut armed = ARMED.lock().expect("nobody panics under this lock");
    let is_at_commit = |fault: &Fault| matches!(fault, Fault::Hold | Fault::LoseAnswer);
    let acts = |(text, fault): &(String, Fault)| connector.contains(text) && is_at_commit(fault);
    if let Some(found) = armed.iter().position(acts) {
        return Some(armed.swap_remove(found).1);
    }
    drop(armed);
    let folder = folder()?;
    let kinds = [("sink-hold", Fault::Hold), ("sink-drop", Fault::LoseAnswer)];
    let mut kinds = kinds.into_iter();
    let (_, fault) = kinds.find(|(name, _)| takes(&folder, name, connector))?;
    Some(fault)
}

/// Takes a fault's file if it is there and means this connector.
fn takes(folder: &Path, name: &str, connector: &str) -> bool {
    let file = folder.join(name);
    let Ok(text) = std::fs::read_to_string(&file) else {
        return false;
    };
    connector.contains(text.trim())
        && std::fs::rename(&file, folder.join(format!("{name}.taken"))).is_ok()
}

/// Waits while a sink is held before it begins. Returns whether it was.
pub(super) async fn before_begin(connector: &str) -> bool {
    let is_held = folder().is_some_and(|folder| takes(&folder, HOLD_BEGIN, connector));
    if is_held {
        hold().await;
    }
    is_held
}

/// Says what became of the transaction of a sink that was held before it, and holds it again, for
/// good: it is to be killed.
pub(super) async fn over(outcome: &Result<(), Error>) {
    let text = match outcome {
        Ok(()) => "committed".to_owned(),
        Err(error) => format!("{}: {error}", error.class().as_str()),
    };
    let written =
        folder().map(|folder| std::fs::write(folder.join(format!("{HOLD_BEGIN}.over")), text));
    if let Some(Err(error)) = written {
        tracing::error!(%error, "could not say what became of a held transaction");
    }
    std::future::pending().await
}

/// Ends or holds the work at a point, if that is armed: in the process, or by the file
/// `sink-crash@<point>` or `sink-hold@<point>`.
///
/// # Errors
///
/// [`Error::Scripted`], where the work ends.
pub(super) async fn point(connector: &str, name: &'static str) -> Result<(), Error> {
    let armed = {
        let mut armed = ARMED.lock().expect("nobody panics under this lock");
        let is_here = |fault: &Fault| match fault {
            Fault::CrashAt(at) | Fault::HoldAt(at) => *at == name,
            Fault::Hold | Fault::LoseAnswer => false,
        };
        let found = armed
            .iter()
            .position(|(text, fault)| connector.contains(text) && is_here(fault));
        found.map(|found| armed.swap_remove(found).1)
    };
    let from_file = || {
        let folder = folder()?;
        if takes(&folder, &format!("sink-crash@{name}"), connector) {
            return Some(Fault::CrashAt(name));
        }
        takes(&folder, &format!("sink-hold@{name}"), connector).then_some(Fault::HoldAt(name))
    };
    let fault = armed.or_else(from_file);
    match fault {
        Some(Fault::CrashAt(name)) => Err(Error::Scripted(name)),
        Some(Fault::HoldAt(_)) => {
            hold().await;
            Ok(())
        }
        Some(Fault::Hold | Fault::LoseAnswer) | None => Ok(()),
    }
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

/// Returns whether a sink fences nobody and is not fenced.
pub(super) fn sabotages_fence(connector: &str) -> bool {
    let file = folder().map(|folder| folder.join("sabotage-fence"));
    let whose = file.and_then(|file| std::fs::read_to_string(file).ok());
    whose.is_some_and(|whose| connector.contains(whose.trim()))
}
