//! Folders of tasks that this worker does not have any more.
//!
//! A task's folder is a cache of Kafka and holds copies of rows. It outlives the task's stay at this
//! worker for a while, because a task that left often comes back, and is removed then. A task that is
//! deleted here takes its folder with it; one whose last view was taken back while this worker was
//! away does not.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the folder of a task is kept that is not here.
const KEPT: Duration = Duration::from_secs(3_600);
/// How often the folders are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The folders below which tasks have theirs.
#[derive(Debug)]
pub(crate) struct Folders {
    dir: PathBuf,
    looked_at: Option<Instant>,
    /// Since when a folder is known to be nobody's.
    unused: HashMap<String, Instant>,
}

impl Folders {
    /// Remembers nothing yet.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("tasks"),
            looked_at: None,
            unused: HashMap::new(),
        }
    }

    /// Returns the folders that are to be removed now. `tasks` are those that are here, all of them.
    pub(crate) fn due(&mut self, tasks: &BTreeSet<String>, now: Instant) -> Vec<PathBuf> {
        if self.looked_at.is_some_and(|at| now - at < LOOK) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !tasks.contains(name))
            .collect();
        self.unused.retain(|name, _| names.contains(name));
        let mut due = Vec::new();
        for name in names {
            let since = *self.unused.entry(name.clone()).or_insert(now);
            if now - since >= KEPT {
                due.push(self.dir.join(name));
            }
        }
        due
    }
}

/// Removes folders; what cannot be removed is tried again with the next look.
pub(crate) fn remove(folders: Vec<PathBuf>) {
    for folder in folders {
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => {
                tracing::info!(folder = %folder.display(), "the folder of a task that left was removed")
            }
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "could not remove the folder of a task that left");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_an_hour_after_its_task_unless_the_task_comes_back() {
        let dir = std::env::temp_dir().join(format!("hutong-folders-{}", std::process::id()));
        for task in ["here", "left", "back"] {
            std::fs::create_dir_all(dir.join("tasks").join(task).join("state")).unwrap();
        }
        let mut folders = Folders::new(&dir);
        let owned = |names: &[&str]| -> BTreeSet<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let begin = Instant::now();
        let minutes = |count: u64| begin + Duration::from_secs(60 * count);
        assert!(folders.due(&owned(&["here"]), begin).is_empty());
        assert!(
            folders
                .due(&owned(&["here", "back"]), minutes(30))
                .is_empty()
        );
        assert!(folders.due(&owned(&["here"]), minutes(59)).is_empty());
        let due = folders.due(&owned(&["here"]), minutes(61));
        assert_eq!(due, [dir.join("tasks").join("left")]);
        remove(due);
        let due = folders.due(&owned(&["here"]), minutes(119));
        assert_eq!(due, [dir.join("tasks").join("back")]);
        assert!(!dir.join("tasks").join("left").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
