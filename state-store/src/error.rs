//! What a store fails with.

use std::io;
use std::path::Path;

/// An error of a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else has the store open.
    #[error("the store is open elsewhere")]
    Locked,
    /// The disk failed. What was written before stays.
    #[error("could not {operation} {file}")]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// Of which file.
        file: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is not what was written: a crash of the machine, or the disk.
    #[error("{file} is broken: {problem}")]
    Broken {
        /// Which file.
        file: String,
        /// What is the matter.
        problem: &'static str,
    },
    /// A batch, or an entry, is larger than a file can hold in one piece.
    #[error("{bytes} bytes are too many for one piece")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// Something failed before in this store, which must be opened again.
    #[error("the store failed before: {0}")]
    Failed(String),
}

pub(crate) fn disk(operation: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Error {
    let file = name_of(file);
    move |source| Error::Disk {
        operation,
        file,
        source,
    }
}

pub(crate) fn broken(file: &Path, problem: &'static str) -> Error {
    Error::Broken {
        file: name_of(file),
        problem,
    }
}

fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    name.to_string_lossy().into_owned()
}
