//! The store: what can be read, and what is written. How it begins is in [`loading`], what is done beside
//! the batches in [`background`].

mod background;
mod loading;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::background::Background;
use self::loading::Loaded;
use crate::chunk::Chunk;
use crate::entry::Key;
use crate::error::{Error, disk};
use crate::filter::Hash;
use crate::manifest::{Head, Journal, Manifest, Names, RunName};
use crate::merge::{Cursor, Merge};
use crate::run::{FoundIn, Run, Value};

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
/// What a journal holds at most before what is in memory is written to a run, however little that is:
/// so much is read by a start.
const JOURNAL_BYTES: u64 = 16 * 1024 * 1024;

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
                loading::empty(folder)?;
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
            let holds = inner.state.holds(*number);
            holds_any |= holds.inspect_err(|error| self.opened.shared.fail(&mut inner, error))?;
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
