//! Which rows a compacted topic holds: its keys whose newest committed record is no tombstone.
//!
//! A table may have more keys than memory, so they lie in a scratch store on disk, under partition
//! and key, and are listed from there in that order. The store is worth nothing after a crash and
//! is removed when the list is dropped, or by the next one.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hutong_connectors_core::source::{HostError, LiveKeys};
use hutong_schemas::class::Class;
use hutong_state_store as state_store;
use hutong_transport::KafkaConfig;
use hutong_transport::reader::{CompactedReader, Event, Message};

/// Records that are taken into the store at once; the number bounds memory with `BYTES_MAX`.
const RECORDS_MAX: usize = 4096;
/// Bytes of keys that are taken into the store at once.
const BYTES_MAX: usize = 1 << 20;
/// The keyspace of the scratch store.
const KEYS: &str = "keys";

/// Lists the live keys of a topic up to its present end, where `before` names an offset for each
/// partition only those whose newest record lies before it. `dir` is the scratch folder, which is
/// removed first.
///
/// # Errors
///
/// By class: the topic cannot be read, or the disk is full (transient).
pub(crate) async fn list(
    kafka: &KafkaConfig,
    topic: &str,
    before: Option<&[i64]>,
    dir: PathBuf,
) -> Result<LiveKeys, HostError> {
    let doing = || format!("could not list the live rows of topic {topic}");
    let mut reader = CompactedReader::open(kafka, topic)
        .await
        .map_err(|error| HostError::wrap(doing(), error))?;
    let mut store = on_disk(move || Store::create(&dir)).await?;
    let mut pending = Pending::default();
    loop {
        let event = reader.next().await;
        let is_end = match event.map_err(|error| HostError::wrap(doing(), error))? {
            Event::Record(message) => {
                pending.take(message, before);
                false
            }
            Event::End => true,
        };
        if is_end || pending.is_full() {
            let full = std::mem::take(&mut pending);
            store = on_disk(move || store.write(full)).await?;
        }
        if is_end {
            let keys = on_disk(move || store.into_keys()).await?;
            return Ok(Box::new(keys));
        }
    }
}

/// Runs what may wait for the disk beside the runtime.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, state_store::Error> + Send + 'static,
) -> Result<T, HostError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| disk_error(&error)),
        Err(error) => Err(HostError::new(
            Class::Fatal,
            format!("the scratch store broke: {error}"),
        )),
    }
}

fn disk_error(error: &state_store::Error) -> HostError {
    let message = format!("could not use the scratch store of live rows: {error}");
    HostError::new(Class::Transient, message).with_hint("make room below the worker's data_dir")
}

/// Keys and whether their newest record is a row, not yet in the store.
#[derive(Default)]
struct Pending {
    records: Vec<(i32, Bytes, bool)>,
    bytes: usize,
}

impl Pending {
    fn take(&mut self, message: Message, before: Option<&[i64]>) {
        // A record without a key says nothing about a row.
        if let Some(key) = message.key {
            self.bytes += key.len();
            let is_before = before.is_none_or(|before| {
                let partition = usize::try_from(message.partition).ok();
                // A partition that was not there then held nothing.
                partition
                    .and_then(|partition| before.get(partition))
                    .is_some_and(|end| message.offset < *end)
            });
            let is_listed = message.value.is_some() && is_before;
            self.records.push((message.partition, key, is_listed));
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }
}

/// The scratch store. Its files go with it.
struct Store {
    store: state_store::Store,
    folder: Folder,
}

/// A folder that is removed at last.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a scratch folder stays");
        }
    }
}

impl Store {
    fn create(dir: &Path) -> Result<Self, state_store::Error> {
        match std::fs::remove_dir_all(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(state_store::Error::Disk {
                    operation: "remove",
                    file: dir.display().to_string(),
                    source,
                });
            }
            _ => {}
        }
        let folder = Folder(dir.to_owned());
        let store = state_store::Store::open(dir)?;
        Ok(Self { store, folder })
    }

    fn write(self, pending: Pending) -> Result<Self, state_store::Error> {
        let keys = self.store.ensure_keyspace(KEYS);
        let mut batch = state_store::Batch::with_capacity(pending.records.len(), pending.bytes);
        let mut stored = Vec::new();
        for (partition, key, is_row) in pending.records {
            stored.clear();
            stored.extend_from_slice(&partition.to_be_bytes());
            stored.extend_from_slice(&key);
            batch.put(keys, &stored, is_row.then_some(&[]));
        }
        self.store.apply(batch, "")?;
        Ok(self)
    }

    fn into_keys(self) -> Result<Keys, state_store::Error> {
        let keys = self.store.ensure_keyspace(KEYS);
        Ok(Keys {
            keys: self.store.keys(keys)?,
            _folder: self.folder,
        })
    }
}

/// The list. Fields drop in this order: the store, which the keys are of, before its folder.
struct Keys {
    keys: state_store::Keys,
    _folder: Folder,
}

impl Iterator for Keys {
    type Item = Result<(i32, Vec<u8>), HostError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stored = match self.keys.next()? {
            Ok(stored) => stored,
            Err(error) => return Some(Err(disk_error(&error))),
        };
        let (partition, key) = stored.split_first_chunk::<4>()?;
        Some(Ok((i32::from_be_bytes(*partition), key.to_vec())))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hutong_transport::reader::Message;

    use super::{Pending, Store};

    fn message(partition: i32, key: &str, value: Option<&str>) -> Message {
        Message {
            partition,
            offset: 0,
            timestamp_ms: 0,
            key: Some(Bytes::from(key.to_owned())),
            value: value.map(|value| Bytes::from(value.to_owned())),
            header_hutong: None,
        }
    }

    #[test]
    fn a_key_is_live_by_its_newest_record_and_per_partition() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("scratch");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("left behind by a crash"), "x").unwrap();
        let store = Store::create(&dir).unwrap();
        let mut first = Pending::default();
        for (key, value) in [("a", Some("1")), ("b", Some("1")), ("c", None), ("b", None)] {
            first.take(message(0, key, value), None);
        }
        let mut second = Pending::default();
        for (partition, key, value) in [
            (0, "c", Some("2")),
            (1, "b", Some("2")),
            (0, "a", Some("3")),
        ] {
            second.take(message(partition, key, value), None);
        }
        let store = store.write(first).unwrap().write(second).unwrap();
        let keys: Vec<_> = store.into_keys().unwrap().map(Result::unwrap).collect();
        let expected = [(0, "a"), (0, "c"), (1, "b")];
        assert_eq!(keys, expected.map(|(p, key)| (p, key.as_bytes().to_vec())));
        assert!(!dir.exists(), "the scratch store goes with its list");
    }

    #[test]
    fn before_a_place_only_keys_without_a_newer_record_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("scratch")).unwrap();
        let mut pending = Pending::default();
        let records = [
            (0, "old", 3),
            (0, "again", 4),
            (0, "again", 7),
            (0, "new", 9),
            (1, "x", 5),
        ];
        for (partition, key, offset) in records {
            let mut message = message(partition, key, Some("1"));
            message.offset = offset;
            pending.take(message, Some(&[7, 5]));
        }
        let store = store.write(pending).unwrap();
        let keys: Vec<_> = store.into_keys().unwrap().map(Result::unwrap).collect();
        assert_eq!(keys, [(0, b"old".to_vec())]);
    }
}
