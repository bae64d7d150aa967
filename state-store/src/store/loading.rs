//! How a store begins: what the manifest names, and what journals say since.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::{InMemory, Inner, State};
use crate::error::{Error, disk};
use crate::manifest::{self, Journal, Manifest, Part, journal_path, part_of, run_path};
use crate::run::Run;

/// What was found in a folder.
pub(super) struct Loaded {
    pub(super) manifest: Manifest,
    pub(super) inner: Inner,
}

impl Loaded {
    pub(super) fn load(folder: &Path) -> Result<Self, Error> {
        let found = Manifest::read(folder)?;
        let manifest = found.unwrap_or_default();
        let mut state = State {
            meta: manifest.meta.as_deref().map(Into::into),
            names: Arc::new(manifest.names.clone()),
            ..State::default()
        };
        for name in &manifest.runs {
            let run = Run::open(&run_path(folder, name.number))?;
            state.runs.push((*name, Arc::new(run)));
        }
        let mut next_keyspace = manifest.next_keyspace;
        let mut dropped = None;
        // Each must follow the one before: after a crash of the machine one may have lost its end,
        // and what comes behind the gap is not the state of any moment.
        let mut number = manifest.journal;
        let mut records = None;
        let mut replayed_bytes = 0;
        let mut journals = tidy(folder, &manifest)?;
        while journals.remove(&number) {
            let replayed = manifest::replay(folder, number, records, |head, chunk| {
                let names = Arc::make_mut(&mut state.names);
                for (name, keyspace) in head.created {
                    next_keyspace = next_keyspace.max(keyspace.saturating_add(1));
                    names.insert(name, keyspace);
                }
                if !head.dropped.is_empty() {
                    dropped = Some(number);
                }
                names.retain(|_, keyspace| !head.dropped.contains(keyspace));
                state.meta = head.meta.map(Into::into);
                replayed_bytes += chunk.as_bytes().len() as u64;
                if chunk.len() > 0 {
                    state.push(chunk);
                }
            })?;
            let Some(replayed) = replayed else {
                journals.insert(number);
                break;
            };
            records = Some(replayed);
            number += 1;
        }
        for number in journals {
            remove(&journal_path(folder, number))?;
        }
        let inner = Inner {
            state: Arc::new(state),
            journal: Journal::create(folder, number, records.unwrap_or(0))?,
            journal_number: number,
            next_file: manifest.next_file,
            next_keyspace,
            created: Vec::new(),
            sealed: None,
            dropped,
            replayed_bytes,
            in_memory: InMemory::default(),
            is_ending: false,
            failed: None,
        };
        Ok(Self { manifest, inner })
    }
}

/// Removes files that no manifest names, and returns the journals, in order.
fn tidy(folder: &Path, manifest: &Manifest) -> Result<BTreeSet<u64>, Error> {
    let mut journals = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(disk("list", folder))? {
        let entry = entry.map_err(disk("list", folder))?;
        let is_needed = match part_of(&entry.file_name().to_string_lossy()) {
            None => continue,
            Some(Part::Run(number)) => manifest.runs.iter().any(|run| run.number == number),
            Some(Part::Journal(number)) if number >= manifest.journal => {
                journals.insert(number);
                true
            }
            Some(Part::Journal(_)) => false,
        };
        if !is_needed {
            remove(&entry.path())?;
        }
    }
    Ok(journals)
}

/// Removes all that a store has in a folder.
pub(super) fn empty(folder: &Path) -> Result<(), Error> {
    Manifest::remove(folder)?;
    let nothing = Manifest {
        journal: u64::MAX,
        ..Manifest::default()
    };
    tidy(folder, &nothing)?;
    Ok(())
}

pub(super) fn remove(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(disk("remove", file)(error))
        }
        _ => Ok(()),
    }
}
