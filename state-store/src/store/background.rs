//! What is done beside the batches: what is sealed is written to runs, and runs are merged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::loading::remove;
use super::{Inner, Shared};
use crate::entry::Key;
use crate::error::Error;
use crate::manifest::{Manifest, Names, RunName, journal_path, run_path};
use crate::merge::{Cursor, Merge};
use crate::run::{Run, RunWriter, Value};

/// So many runs that were merged equally often are merged into one.
const RUNS_UNMERGED: usize = 16;
/// How many entries, and bytes of them, are merged between two looks at what else is to be done.
const MERGED_AT_ONCE: usize = 4096;
const MERGED_BYTES_AT_ONCE: usize = 1024 * 1024;

/// What is to be done in the background.
enum Work {
    Write,
    Merge(Job),
}

/// Writes what is sealed to runs, and merges them.
pub(super) struct Background {
    pub(super) shared: Arc<Shared>,
    /// As it is in its file.
    pub(super) manifest: Manifest,
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
    pub(super) fn run(mut self) {
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
