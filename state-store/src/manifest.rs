//! What of a store is in files, and the journal of what is not in runs yet.
//!
//! A manifest is replaced as a whole. A journal holds a record for each batch since; the last one may
//! be cut off by a crash, which is a batch that did not happen.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::chunk::Chunk;
use crate::error::{Error, broken, disk};

/// The numbers of keyspaces by their names.
pub(crate) type Names = BTreeMap<String, u32>;

/// What is in runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// What the batches said last of what the store reflects.
    pub(crate) meta: Option<String>,
    /// The keyspaces.
    pub(crate) names: Names,
    /// The number of the next keyspace; none is used twice.
    pub(crate) next_keyspace: u32,
    /// The runs, the oldest first.
    pub(crate) runs: Vec<RunName>,
    /// The number of the next file.
    pub(crate) next_file: u64,
    /// The first journal of what is not in runs.
    pub(crate) journal: u64,
    /// How often keyspaces were dropped that held something.
    pub(crate) drops: u64,
    /// Up to which of these drops the runs hold nothing any more of what was dropped.
    pub(crate) purged: u64,
}

/// A run's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunName {
    pub(crate) number: u64,
    /// How often its entries were merged.
    pub(crate) tier: u32,
}

const MANIFEST: &str = "manifest";

impl Manifest {
    /// Reads a folder's manifest; `None` if there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(disk("read", &path))?,
        };
        let (sum, text) = bytes
            .split_first_chunk()
            .ok_or_else(|| broken(&path, "it is empty"))?;
        if u64::from_be_bytes(*sum) != xxh3_64(text) {
            return Err(broken(&path, "it is not what was written"));
        }
        let read = serde_json::from_slice(text);
        read.map(Some)
            .map_err(|_| broken(&path, "it is none of ours"))
    }

    /// Removes a folder's manifest.
    pub(crate) fn remove(folder: &Path) -> Result<(), Error> {
        let path = folder.join(MANIFEST);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(disk("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Puts this one into its place.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec(self).expect("a manifest is representable in JSON");
        let mut bytes = xxh3_64(&text).to_be_bytes().to_vec();
        bytes.extend_from_slice(&text);
        let (path, new) = (folder.join(MANIFEST), folder.join("manifest.new"));
        fs::write(&new, bytes).map_err(disk("write", &new))?;
        fs::rename(&new, &path).map_err(disk("replace", &path))
    }
}

pub(crate) fn run_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("run-{number}"))
}

pub(crate) fn journal_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("journal-{number}"))
}

/// What a file of a store is.
pub(crate) enum Part {
    Run(u64),
    Journal(u64),
}

/// Returns what a file is, by its name.
pub(crate) fn part_of(file: &str) -> Option<Part> {
    if let Some(number) = file.strip_prefix("run-") {
        return Some(Part::Run(number.parse().ok()?));
    }
    let number = file.strip_prefix("journal-")?;
    Some(Part::Journal(number.parse().ok()?))
}

/// What a batch changes beside its entries.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Head {
    /// What the store reflects now.
    pub(crate) meta: Option<String>,
    /// Keyspaces that are new, by number.
    pub(crate) created: Vec<(String, u32)>,
    /// Keyspaces that are gone, by number.
    pub(crate) dropped: Vec<u32>,
}

/// A journal that is written.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    records: u64,
    bytes: u64,
}

/// At the beginning: the records of the journal before, and a checksum over that.
const FOLLOWS_BYTES: usize = 16;
/// Before each record: the lengths of head and entries, and a checksum over both.
const HEADER_BYTES: usize = 16;

impl Journal {
    /// Begins a journal that follows one of so many records.
    pub(crate) fn create(folder: &Path, number: u64, follows: u64) -> Result<Self, Error> {
        let path = journal_path(folder, number);
        let mut file = File::create(&path).map_err(disk("create", &path))?;
        let follows = follows.to_be_bytes();
        let mut bytes = follows.to_vec();
        bytes.extend_from_slice(&xxh3_64(&follows).to_be_bytes());
        file.write_all(&bytes).map_err(disk("write", &path))?;
        Ok(Self {
            path,
            file,
            records: 0,
            bytes: 0,
        })
    }

    /// Begins the one that follows this one.
    pub(crate) fn next(&self, folder: &Path, number: u64) -> Result<Self, Error> {
        Self::create(folder, number, self.records)
    }

    pub(crate) fn write(&mut self, head: &Head, entries: &[u8]) -> Result<(), Error> {
        let head = serde_json::to_vec(head).expect("a head is representable in JSON");
        let too_large = |_| Error::TooLarge {
            bytes: entries.len(),
        };
        let lengths = (
            u32::try_from(head.len()).map_err(too_large)?,
            u32::try_from(entries.len()).map_err(too_large)?,
        );
        let mut sum = Xxh3::new();
        sum.update(&head);
        sum.update(entries);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + head.len());
        bytes.extend_from_slice(&lengths.0.to_be_bytes());
        bytes.extend_from_slice(&lengths.1.to_be_bytes());
        bytes.extend_from_slice(&sum.digest().to_be_bytes());
        bytes.extend_from_slice(&head);
        let written = self.file.write_all(&bytes);
        let written = written.and_then(|()| self.file.write_all(entries));
        written.map_err(disk("write", &self.path))?;
        self.records += 1;
        self.bytes += (bytes.len() + entries.len()) as u64;
        Ok(())
    }

    /// Bytes of its records.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Reads a journal up to where it was cut off, and returns how many records it has; `None` if it does
/// not follow one of so many records, where that is known.
pub(crate) fn replay(
    folder: &Path,
    number: u64,
    follows: Option<u64>,
    mut take: impl FnMut(Head, Chunk),
) -> Result<Option<u64>, Error> {
    let path = journal_path(folder, number);
    let bytes = fs::read(&path).map_err(disk("read", &path))?;
    let Some((found, mut rest)) = split_follows(&bytes) else {
        // It was about to begin.
        return Ok(Some(0));
    };
    if follows.is_some_and(|follows| follows != found) {
        return Ok(None);
    }
    let mut records = 0;
    while let Some((head, entries, behind)) = split_record(rest) {
        let head = serde_json::from_slice(head);
        let head = head.map_err(|_| broken(&path, "a record is none of ours"))?;
        let chunk = Chunk::from_bytes(entries.to_vec());
        let chunk = chunk.ok_or_else(|| broken(&path, "a record has half an entry"))?;
        take(head, chunk);
        records += 1;
        rest = behind;
    }
    Ok(Some(records))
}

fn split_follows(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<FOLLOWS_BYTES>()?;
    let (follows, sum) = header.split_first_chunk::<8>()?;
    let is_whole = xxh3_64(follows) == u64::from_be_bytes(*sum.first_chunk()?);
    is_whole.then_some((u64::from_be_bytes(*follows), rest))
}

/// Returns head, entries and what follows, or `None` if the record is not whole.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let (head_length, header) = header.split_first_chunk()?;
    let (entries_length, sum) = header.split_first_chunk()?;
    let head_length = usize::try_from(u32::from_be_bytes(*head_length)).ok()?;
    let entries_length = usize::try_from(u32::from_be_bytes(*entries_length)).ok()?;
    let (body, behind) = rest.split_at_checked(head_length.checked_add(entries_length)?)?;
    let is_whole = xxh3_64(body) == u64::from_be_bytes(*sum.first_chunk()?);
    let (head, entries) = body.split_at(head_length);
    is_whole.then_some((head, entries, behind))
}
