//! The store, and the thread that writes and merges its runs.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::chunk::Chunk;
use crate::entry::Key;
use crate::error::{Error, disk};
use crate::filter::Hash;
use crate::manifest::{
    self, Head, Journal, Manifest, Names, Part, RunName, journal_path, part_of, run_path,
};
use crate::merge::{Cursor, Merge};
use crate::run::{FoundIn, Run, RunWriter, Value};

/// What is gathered in memory until a run is written. While that is done as much again may gather.
const MEMORY_BYTES: usize = 4 * 1024 * 1024;
/// A batch that is larger is in a run when it is taken, and not in memory any more.
const LARGE_BATCH_BYTES: usize = 2 * MEMORY_BYTES;
/// What may gather in all stores of the process together. Beyond it each writes what it has, unless that
/// is less than a chunk: a worker may have hundreds of stores, of which few are written at a time.
const MEMORY_BYTES_ALL: usize = 64 * 1024 * 1024;
/// Bytes in memory in all stores of the process.
static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);
/// Chunks in memory that are smaller are put together, lest a key is looked for in hundreds of them.
const CHUNK_BYTES: usize = 256 * 1024;
/// So many runs that were merged equally often are merged into one.
const RUNS_UNMERGED: usize = 8;
/// What a journal holds at most before what is in memory is written to a run, however little that is:
/// so much is read by a start.
const JOURNAL_BYTES: u64 = 16 * 1024 * 1024;
/// How many entries, and bytes of them, are merged between two looks at what else is to be done.
const MERGED_AT_ONCE: usize = 4096;
const MERGED_BYTES_AT_ONCE: usize = 1024 * 1024;

/// A set of keys that is written and dropped by itself. Valid for the store that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Keyspace(u32);

/// Changes that enter a store together.
#[derive(Debug, Default)]
pub struct Batch {
    chunk: Chunk,
    is_too_large: bool,
}

impl Batch {
    /// Makes room for so many entries, whose keys and values have so many bytes.
    #[must_use]
    pub fn with_capacity(entries: usize, bytes: usize) -> Self {
        Self {
            // The lengths of key and value, and the keyspace, are some bytes for each.
            chunk: Chunk::with_capacity(entries, bytes + entries * 8),
            is_too_large: false,
        }
    }

    /// Sets a key, or removes it. Of a key that is there twice the last counts. In order they are faster.
    pub fn put(&mut self, keyspace: Keyspace, key: &[u8], value: Option<&[u8]>) {
        let key = Key {
            keyspace: keyspace.0,
            key,
        };
        self.is_too_large |= !self.chunk.push(key, value);
    }
}

/// A store that is open. Clones are the same store, which others may read while one writes. Functions
/// block.
#[derive(Clone, Debug)]
pub struct Store {
    opened: Arc<Opened>,
}

/// Ends when the last clone does.
#[derive(Debug)]
struct Opened {
    shared: Arc<Shared>,
    background: Option<JoinHandle<()>>,
    /// Held as long as the store is open.
    _lock: File,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.changed.notify_all();
        if let Some(background) = self.background.take() {
            // It has said what it has to say in `failed`.
            let _ended = background.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all writing. What is broken is begun anew when the store is opened next: without a
    /// manifest nothing of the rest counts. If that cannot be removed, who opens the store finds what
    /// was found here.
    fn fail(&self, inner: &mut Inner, error: &Error) {
        inner.failed.get_or_insert_with(|| error.to_string());
        if matches!(error, Error::Broken { .. }) {
            let _removed = Manifest::remove(&self.folder);
        }
        self.changed.notify_all();
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let woken = self.changed.wait(inner);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Inner {
    state: Arc<State>,
    journal: Journal,
    journal_number: u64,
    next_file: u64,
    next_keyspace: u32,
    /// Created since the last batch, and so not durable yet.
    created: Vec<(String, u32)>,
    /// What is being written to a run.
    sealed: Option<Sealed>,
    /// The journal that says last that keyspaces were dropped, while no manifest does.
    dropped: Option<u64>,
    /// Bytes of earlier journals whose records are in memory.
    replayed_bytes: u64,
    in_memory: InMemory,
    is_ending: bool,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

/// What a store has in memory, counted among what all have. What is on its way into a run is not.
#[derive(Debug, Default)]
struct InMemory(usize);

impl InMemory {
    fn is(&mut self, bytes: usize) {
        IN_MEMORY.fetch_add(bytes, Ordering::Relaxed);
        IN_MEMORY.fetch_sub(self.0, Ordering::Relaxed);
        self.0 = bytes;
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.is(0);
    }
}

/// What can be read. Replaced with every change.
#[derive(Clone, Debug, Default)]
struct State {
    meta: Option<Arc<str>>,
    names: Arc<Names>,
    /// The newest last.
    chunks: Vec<Arc<Chunk>>,
    /// Older than all chunks: on their way into a run.
    sealed: Vec<Arc<Chunk>>,
    /// The newest last.
    runs: Vec<(RunName, Arc<Run>)>,
}

impl State {
    /// Returns cursors over everything, the newest first.
    fn cursors(&self, from: Key<'_>) -> Result<Vec<Cursor>, Error> {
        let chunks = self.sealed.iter().chain(&self.chunks).rev();
        let mut cursors: Vec<_> = chunks
            .map(|chunk| Cursor::of_chunk(chunk, Some(from)))
            .collect();
        for (_, run) in self.runs.iter().rev() {
            cursors.push(Cursor::of_run(run, Some(from))?);
        }
        Ok(cursors)
    }

    /// Returns whether there are entries of a keyspace, be they removals.
    fn holds(&self, keyspace: u32) -> Result<bool, Error> {
        let from = Key { keyspace, key: &[] };
        let merge = Merge::new(self.cursors(from)?);
        let first = merge.entry();
        Ok(first.is_some_and(|(key, _)| key.keyspace == keyspace))
    }

    fn get<T>(
        &self,
        key: Key<'_>,
        in_memory: impl Fn(Option<&[u8]>) -> T,
        in_run: impl Fn(&Arc<Run>, Hash) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        for chunk in self.chunks.iter().rev().chain(self.sealed.iter().rev()) {
            if let Some(entry) = chunk.get(key) {
                return Ok(Some(in_memory(entry.value)));
            }
        }
        let hash = Hash::of(key);
        for (_, run) in self.runs.iter().rev() {
            if let Some(found) = in_run(run, hash)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Bytes of what is not being written to a run yet.
    fn memory(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.memory()).sum()
    }

    /// Adds a chunk, and puts small ones together.
    fn push(&mut self, chunk: Chunk) {
        let mut chunk = Arc::new(chunk);
        while let Some(before) = self.chunks.last()
            && before.memory() < 2 * chunk.memory()
            && before.memory() + chunk.memory() <= CHUNK_BYTES
        {
            chunk = Arc::new(put_together(before, &chunk));
            self.chunks.pop();
        }
        self.chunks.push(chunk);
    }
}

/// Returns the entries of two chunks, where both have one that of the newer.
fn put_together(older: &Arc<Chunk>, newer: &Arc<Chunk>) -> Chunk {
    let bytes = older.as_bytes().len() + newer.as_bytes().len();
    let mut both = Chunk::with_capacity(older.len() + newer.len(), bytes);
    let (mut at, mut newer_at) = (0, 0);
    loop {
        let entry = match (older.entry(at), newer.entry(newer_at)) {
            (Some(old), Some(new)) if old.key < new.key => {
                at += 1;
                old
            }
            (old, Some(new)) => {
                at += usize::from(old.is_some_and(|old| old.key == new.key));
                newer_at += 1;
                new
            }
            (Some(old), None) => {
                at += 1;
                old
            }
            (None, None) => return both,
        };
        both.push(entry.key, entry.value);
    }
}

/// What a manifest says once sealed chunks are in a run.
#[derive(Debug)]
struct Sealed {
    meta: Option<Arc<str>>,
    names: Arc<Names>,
    next_keyspace: u32,
    /// The first journal of what came later.
    journal: u64,
    has_dropped: bool,
    /// The file to be written.
    run: u64,
}

impl Store {
    /// Opens or creates a store in a folder. One that is broken is removed and begun anew.
    ///
    /// # Errors
    /// [`Error::Locked`] while somebody else has it open, [`Error::Disk`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(disk("create", folder))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(disk("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked),
            Err(TryLockError::Error(source)) => return Err(disk("lock", &path)(source)),
        }
        let opened = match Loaded::load(folder) {
            Err(Error::Broken { .. }) => {
                empty(folder)?;
                Loaded::load(folder)?
            }
            opened => opened?,
        };
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            inner: Mutex::new(opened.inner),
            changed: Condvar::new(),
        });
        let background = Background {
            shared: Arc::clone(&shared),
            manifest: opened.manifest,
        };
        let background = std::thread::Builder::new()
            .name("state-store".to_owned())
            .spawn(move || background.run())
            .map_err(disk("begin to merge", folder))?;
        Ok(Self {
            opened: Arc::new(Opened {
                shared,
                background: Some(background),
                _lock: lock,
            }),
        })
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.opened.shared.lock().state)
    }

    /// Returns what the last batch said that the store reflects.
    #[must_use]
    pub fn meta(&self) -> Option<Arc<str>> {
        self.state().meta.clone()
    }

    /// Returns a keyspace, if it is there.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Option<Keyspace> {
        self.state().names.get(name).copied().map(Keyspace)
    }

    /// Returns the names of the keyspaces.
    #[must_use]
    pub fn keyspaces(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Returns a keyspace, which is made if it is not there. It is durable with the next batch.
    pub fn ensure_keyspace(&self, name: &str) -> Keyspace {
        let mut inner = self.opened.shared.lock();
        if let Some(number) = inner.state.names.get(name) {
            return Keyspace(*number);
        }
        let number = inner.next_keyspace;
        inner.next_keyspace += 1;
        inner.created.push((name.to_owned(), number));
        let state = Arc::make_mut(&mut inner.state);
        Arc::make_mut(&mut state.names).insert(name.to_owned(), number);
        Keyspace(number)
    }

    /// Reads a key, and calls `found` with its value if it is there.
    ///
    /// # Errors
    /// [`Error::Disk`]; [`Error::Broken`], then the store is begun anew when it is opened next.
    pub fn get<T>(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        found: impl Fn(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let key = Key {
            keyspace: keyspace.0,
            key,
        };
        let in_memory = |value: Option<&[u8]>| value.map(&found);
        let in_run = |run: &Arc<Run>, hash| {
            let entry = run.get(key, hash)?;
            Ok(entry.map(|entry| in_memory(entry.value())))
        };
        let value = self.state().get(key, in_memory, in_run);
        self.noted(value.map(Option::flatten))
    }

    /// Reads a key, and returns its value.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get_vec(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let key = Key {
            keyspace: keyspace.0,
            key,
        };
        let in_memory = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
        let in_run = |run: &Arc<Run>, hash| Ok(run.get(key, hash)?.map(FoundIn::into_value));
        let value = self.state().get(key, in_memory, in_run);
        self.noted(value.map(Option::flatten))
    }

    /// Returns whether a key is there.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn contains(&self, keyspace: Keyspace, key: &[u8]) -> Result<bool, Error> {
        let key = Key {
            keyspace: keyspace.0,
            key,
        };
        let in_memory = |value: Option<&[u8]>| value.is_some();
        let is_there = self
            .state()
            .get(key, in_memory, |run, hash| run.has(key, hash));
        Ok(self.noted(is_there)?.unwrap_or(false))
    }

    /// Visits the entries of a keyspace behind a key, or all, in order, until `visit` returns false.
    /// They are those of this moment.
    ///
    /// # Errors
    /// As [`Store::get`], and those of `visit`.
    pub fn visit_after<E: From<Error>>(
        &self,
        keyspace: Keyspace,
        after: Option<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, E>,
    ) -> Result<(), E> {
        let from = Key {
            keyspace: keyspace.0,
            key: after.unwrap_or_default(),
        };
        let cursors = self.noted(self.state().cursors(from))?;
        let mut merge = Merge::new(cursors);
        while let Some((key, value)) = merge.entry() {
            if key.keyspace != keyspace.0 {
                break;
            }
            let goes_on = match value {
                _ if after == Some(key.key) => true,
                Value::Removed => true,
                Value::Here(value) => visit(key.key, value)?,
                Value::Apart(large) => {
                    let value = self.noted(large.read())?;
                    visit(key.key, &value)?
                }
            };
            if !goes_on {
                break;
            }
            self.noted(merge.advance())?;
        }
        Ok(())
    }

    /// Returns the keys of a keyspace, in order, as they are at this moment.
    ///
    /// # Errors
    /// As [`Store::get`], also of each item.
    pub fn keys(&self, keyspace: Keyspace) -> Result<Keys, Error> {
        let from = Key {
            keyspace: keyspace.0,
            key: &[],
        };
        let merge = Merge::new(self.noted(self.state().cursors(from))?);
        Ok(Keys {
            store: self.clone(),
            keyspace,
            merge,
        })
    }

    /// Makes a batch durable, and what the store reflects with it, all or nothing. Waits while as much
    /// as may is in memory.
    ///
    /// # Errors
    /// [`Error::Disk`], and [`Error::Failed`] ever after: the store must be opened again.
    pub fn apply(&self, mut batch: Batch, meta: &str) -> Result<(), Error> {
        if batch.is_too_large {
            return Err(Error::TooLarge {
                bytes: batch.chunk.as_bytes().len(),
            });
        }
        batch.chunk.sort();
        let mut inner = self.make_room()?;
        let head = Head {
            meta: Some(meta.to_owned()),
            created: std::mem::take(&mut inner.created),
            dropped: Vec::new(),
        };
        inner.write(&head, batch.chunk.as_bytes())?;
        let state = Arc::make_mut(&mut inner.state);
        state.meta = Some(meta.into());
        let is_large = batch.chunk.memory() >= LARGE_BATCH_BYTES;
        if batch.chunk.len() > 0 {
            state.push(batch.chunk);
        }
        // Two of them would be twice what may gather, and more.
        while is_large && inner.failed.is_none() {
            if inner.sealed.is_none() && !inner.is_full() {
                break;
            }
            inner.seal_if_full(&self.opened.shared)?;
            inner = self.opened.shared.wait(inner);
        }
        inner.seal_if_full(&self.opened.shared)
    }

    /// Drops keyspaces with all that they hold, and with them what the store reflects if `meta` is
    /// `None`.
    ///
    /// # Errors
    /// As [`Store::apply`].
    pub fn drop_keyspaces(&self, names: &[&str], meta: Option<&str>) -> Result<(), Error> {
        let mut inner = self.make_room()?;
        let numbers = names.iter().filter_map(|name| inner.state.names.get(*name));
        let dropped: Vec<u32> = numbers.copied().collect();
        let mut holds_any = false;
        for number in &dropped {
            holds_any |= match inner.state.holds(*number) {
                Err(error) => {
                    self.opened.shared.fail(&mut inner, &error);
                    return Err(error);
                }
                holds => holds?,
            };
        }
        let head = Head {
            meta: meta.map(str::to_owned),
            created: std::mem::take(&mut inner.created),
            dropped,
        };
        inner.write(&head, &[])?;
        let state = Arc::make_mut(&mut inner.state);
        state.meta = meta.map(Into::into);
        Arc::make_mut(&mut state.names).retain(|_, number| !head.dropped.contains(number));
        if holds_any {
            // It leaves the disk soon, however little is written from now on.
            inner.dropped = Some(inner.journal_number);
            self.opened.shared.changed.notify_all();
        }
        inner.seal_if_full(&self.opened.shared)
    }

    /// Waits until there is memory for a batch.
    fn make_room(&self) -> Result<MutexGuard<'_, Inner>, Error> {
        let shared = &self.opened.shared;
        let mut inner = shared.lock();
        loop {
            if let Some(failed) = &inner.failed {
                return Err(Error::Failed(failed.clone()));
            }
            if inner.sealed.is_none() || !inner.is_full() {
                return Ok(inner);
            }
            inner = shared.wait(inner);
        }
    }

    /// Passes a result on. After one that says that a file is broken the store is not opened again.
    fn noted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Broken { .. }) = &result {
            let shared = &self.opened.shared;
            shared.fail(&mut shared.lock(), error);
        }
        result
    }
}

/// Goes through keys.
pub struct Keys {
    store: Store,
    keyspace: Keyspace,
    merge: Merge,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("keyspace", &self.keyspace)
            .finish_non_exhaustive()
    }
}

impl Iterator for Keys {
    type Item = Result<Vec<u8>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, value) = self.merge.entry()?;
            if key.keyspace != self.keyspace.0 {
                return None;
            }
            let is_there = !matches!(value, Value::Removed);
            let found = is_there.then(|| key.key.to_vec());
            if let Err(error) = self.store.noted(self.merge.advance()) {
                self.merge = Merge::new(Vec::new());
                return Some(Err(error));
            }
            if let Some(key) = found {
                return Some(Ok(key));
            }
        }
    }
}

impl Inner {
    /// Writes a record. One that was written in part makes what follows unreadable.
    fn write(&mut self, head: &Head, entries: &[u8]) -> Result<(), Error> {
        let written = self.journal.write(head, entries);
        if let Err(error) = &written {
            self.failed = Some(error.to_string());
        }
        written
    }

    /// Returns whether as much is in memory, or in the journal, as may be.
    fn is_full(&self) -> bool {
        let journal_bytes = self.journal.bytes() + self.replayed_bytes;
        let memory = self.state.memory();
        memory >= MEMORY_BYTES
            || journal_bytes >= JOURNAL_BYTES
            || (memory >= CHUNK_BYTES && IN_MEMORY.load(Ordering::Relaxed) >= MEMORY_BYTES_ALL)
    }

    fn seal_if_full(&mut self, shared: &Shared) -> Result<(), Error> {
        self.in_memory.is(self.state.memory());
        if self.is_full() && self.sealed.is_none() {
            self.seal(&shared.folder)?;
            shared.changed.notify_all();
        }
        Ok(())
    }

    /// Gives what is in memory to be written to a run, and begins another journal. Nothing else may be
    /// on that way.
    fn seal(&mut self, folder: &Path) -> Result<(), Error> {
        let journal = self.journal.next(folder, self.journal_number + 1);
        self.journal = journal.inspect_err(|error| self.failed = Some(error.to_string()))?;
        self.journal_number += 1;
        self.replayed_bytes = 0;
        self.in_memory.is(0);
        let state = Arc::make_mut(&mut self.state);
        state.sealed = std::mem::take(&mut state.chunks);
        self.sealed = Some(Sealed {
            meta: state.meta.clone(),
            names: Arc::clone(&state.names),
            next_keyspace: self.next_keyspace,
            journal: self.journal_number,
            has_dropped: self.dropped.take().is_some(),
            run: self.next_file,
        });
        self.next_file += 1;
        Ok(())
    }
}

/// What was found in a folder.
struct Loaded {
    manifest: Manifest,
    inner: Inner,
}

impl Loaded {
    fn load(folder: &Path) -> Result<Self, Error> {
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
fn empty(folder: &Path) -> Result<(), Error> {
    Manifest::remove(folder)?;
    let nothing = Manifest {
        journal: u64::MAX,
        ..Manifest::default()
    };
    tidy(folder, &nothing)?;
    Ok(())
}

fn remove(file: &Path) -> Result<(), Error> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(disk("remove", file)(error))
        }
        _ => Ok(()),
    }
}

/// What is to be done in the background.
enum Work {
    Write,
    Merge(Job),
}

/// Writes what is sealed to runs, and merges them.
struct Background {
    shared: Arc<Shared>,
    /// As it is in its file.
    manifest: Manifest,
}

/// The keyspaces that are there.
struct Live {
    numbers: BTreeSet<u32>,
    /// The one that was asked for last: mostly it is asked for again.
    last: Option<(u32, bool)>,
}

impl Live {
    fn new(names: &Names) -> Self {
        Self {
            numbers: names.values().copied().collect(),
            last: None,
        }
    }

    fn has(&mut self, key: Key<'_>) -> bool {
        if let Some((keyspace, is_live)) = self.last
            && keyspace == key.keyspace
        {
            return is_live;
        }
        let is_live = self.numbers.contains(&key.keyspace);
        self.last = Some((key.keyspace, is_live));
        is_live
    }
}

/// Runs that become one.
struct Job {
    /// Where they are among all.
    runs: Range<usize>,
    tier: u32,
    /// How often keyspaces had been dropped whose entries are left out.
    purges: Option<u64>,
}

/// Decides what to merge of the runs behind the first ones.
fn job(runs: &[(RunName, Arc<Run>)], first: usize) -> Option<Job> {
    let tier = |index: usize| runs[index].0.tier;
    // Of the newest run's tier on: tiers rise with age.
    let mut end = runs.len();
    while end > first {
        let of_tier = (first..end).rev();
        let of_tier = of_tier.take_while(|index| tier(*index) == tier(end - 1));
        let count = of_tier.count();
        if count >= RUNS_UNMERGED {
            return Some(Job {
                runs: end - count..end,
                tier: tier(end - 1) + 1,
                purges: None,
            });
        }
        end -= count;
    }
    None
}

/// Says that the thread has ended, in whatever way, to whom waits for it.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if !inner.is_ending {
            let ended = || "the thread that writes runs has ended".to_owned();
            inner.failed.get_or_insert_with(ended);
        }
        self.0.changed.notify_all();
    }
}

impl Background {
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _ending = Ending(Arc::clone(&shared));
        while let Some(work) = self.wait() {
            let done = match work {
                Work::Write => self.write_sealed(),
                Work::Merge(job) => self.merge(&job),
            };
            if let Err(error) = done {
                shared.fail(&mut shared.lock(), &error);
            }
        }
    }

    /// Waits for something to do; `None` if nothing is to be done any more.
    fn wait(&self) -> Option<Work> {
        let mut inner = self.shared.lock();
        loop {
            if inner.is_ending || inner.failed.is_some() {
                return None;
            }
            if inner.sealed.is_none() && inner.dropped.is_some() {
                // Which keyspaces are gone must be in the manifest before their entries are.
                inner.seal(&self.shared.folder).ok()?;
            }
            if inner.sealed.is_some() {
                return Some(Work::Write);
            }
            let runs = &inner.state.runs;
            if self.manifest.purged < self.manifest.drops {
                return Some(Work::Merge(Job {
                    runs: 0..runs.len(),
                    tier: runs.first().map_or(0, |(name, _)| name.tier),
                    purges: Some(self.manifest.drops),
                }));
            }
            if let Some(job) = job(runs, 0) {
                return Some(Work::Merge(job));
            }
            inner = self.shared.wait(inner);
        }
    }

    fn write_sealed(&mut self) -> Result<(), Error> {
        let folder = &self.shared.folder;
        let (chunks, is_oldest, mut live, number) = {
            let inner = self.shared.lock();
            let sealed = inner.sealed.as_ref().expect("only this thread takes it");
            let (chunks, is_oldest) = (inner.state.sealed.clone(), inner.state.runs.is_empty());
            (chunks, is_oldest, Live::new(&sealed.names), sealed.run)
        };
        let entries = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let newest_first = chunks.iter().rev();
        let cursors = newest_first.map(|chunk| Cursor::of_chunk(chunk, None));
        let mut merge = Merge::new(cursors.collect());
        let mut writer = RunWriter::create(&run_path(folder, number), entries)?;
        while let Some((key, value)) = merge.entry() {
            // A removal that hides nothing need not be there.
            let is_gone = is_oldest && matches!(value, Value::Removed);
            if !is_gone && live.has(key) {
                writer.put(key, &value)?;
            }
            merge.advance()?;
        }
        drop((merge, chunks));
        let run = writer.finish()?.map(|run| {
            let name = RunName { number, tier: 0 };
            (name, Arc::new(run))
        });

        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        let mut manifest = self.manifest.clone();
        let sealed = inner.sealed.as_ref().expect("only this thread takes it");
        manifest.meta = sealed.meta.as_deref().map(str::to_owned);
        manifest.names = (*sealed.names).clone();
        manifest.next_keyspace = sealed.next_keyspace;
        manifest.drops += u64::from(sealed.has_dropped);
        manifest.runs.extend(run.as_ref().map(|(name, _)| *name));
        let journals = manifest.journal..sealed.journal;
        manifest.journal = sealed.journal;
        if !self.replace(&mut inner, manifest)? {
            return Ok(());
        }
        inner.sealed = None;
        let state = Arc::make_mut(&mut inner.state);
        state.sealed.clear();
        state.runs.extend(run);
        drop(inner);
        self.shared.changed.notify_all();
        for number in journals {
            remove(&journal_path(&self.shared.folder, number))?;
        }
        Ok(())
    }

    /// Puts a manifest into its place, unless the store has failed meanwhile: then there must be none
    /// that names what is broken. Returns whether it is there.
    fn replace(&mut self, inner: &mut Inner, mut manifest: Manifest) -> Result<bool, Error> {
        if inner.failed.is_some() {
            return Ok(false);
        }
        manifest.next_file = inner.next_file;
        if let Err(error) = manifest.write(&self.shared.folder) {
            self.shared.fail(inner, &error);
            return Err(error);
        }
        self.manifest = manifest;
        Ok(true)
    }

    /// Merges runs into one. What is sealed meanwhile is written in between.
    fn merge(&mut self, job: &Job) -> Result<(), Error> {
        let (inputs, number) = {
            let mut inner = self.shared.lock();
            inner.next_file += 1;
            let inputs = inner.state.runs[job.runs.clone()].to_vec();
            (inputs, inner.next_file - 1)
        };
        let path = run_path(&self.shared.folder, number);
        let entries = inputs.iter().map(|(_, run)| run.entries).sum();
        let newest_first = inputs.iter().rev();
        let cursors = newest_first.map(|(_, run)| Cursor::of_run(run, None));
        let mut merge = Merge::new(cursors.collect::<Result<_, _>>()?);
        let is_oldest = job.runs.start == 0;
        // As the manifest has it: a crash must not bring a keyspace back without its entries.
        let mut live = Live::new(&self.manifest.names);
        let mut writer = RunWriter::create(&path, entries)?;
        let mut merged = (0, 0);
        while let Some((key, value)) = merge.entry() {
            let is_gone = is_oldest && matches!(value, Value::Removed);
            if !is_gone && live.has(key) {
                writer.put(key, &value)?;
            }
            merged = (merged.0 + 1, merged.1 + key.len() + value.len());
            merge.advance()?;
            if merged.0 >= MERGED_AT_ONCE || merged.1 >= MERGED_BYTES_AT_ONCE {
                merged = (0, 0);
                if !self.goes_on(job.runs.end)? {
                    drop(writer);
                    return remove(&path);
                }
            }
        }
        let name = RunName {
            number,
            tier: job.tier,
        };
        let run = writer.finish()?.map(|run| (name, Arc::new(run)));

        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        let mut manifest = self.manifest.clone();
        let merged = run.as_ref().map(|(name, _)| *name);
        manifest.runs.splice(job.runs.clone(), merged);
        manifest.purged = job.purges.unwrap_or(manifest.purged);
        if !self.replace(&mut inner, manifest)? {
            return Ok(());
        }
        let runs = &mut Arc::make_mut(&mut inner.state).runs;
        runs.splice(job.runs.clone(), run);
        drop(inner);
        for (_, run) in &inputs {
            // Who reads it goes on with the open file.
            remove(run.path())?;
        }
        Ok(())
    }

    /// Does in the midst of a merge what cannot wait for its end, beside the runs up to `end`, and
    /// returns whether to go on with it.
    fn goes_on(&mut self, end: usize) -> Result<bool, Error> {
        let inner = self.shared.lock();
        let is_over = inner.is_ending || inner.failed.is_some();
        let is_sealed = inner.sealed.is_some();
        drop(inner);
        if is_sealed && !is_over {
            self.write_sealed()?;
            // A large merge takes long, and each run is one more place to look.
            let nested = job(&self.shared.lock().state.runs, end);
            if let Some(nested) = nested {
                self.merge(&nested)?;
            }
        }
        Ok(!is_over)
    }
}
