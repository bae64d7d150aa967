//! A run: entries in a file, in order, written once and never changed.
//!
//! ```text
//! block …  index block  block …  index block  top block  filter  footer
//! ```
//!
//! A *block* holds entries up to some kilobytes, or one that is larger. An *index block* follows the
//! blocks that it names, by the first key and the place of each; the *top block* names the index
//! blocks and is kept in memory, some bytes for about a megabyte of the run. The *filter* is kept in
//! memory where it is small and looked at in its file where it is large. So memory hardly grows with
//! what is stored. Each block has a checksum, which is looked at whenever it is read.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::entry::{self, Entry, Key};
use crate::error::{Error, broken, disk};
use crate::filter::{BLOCK_BYTES as FILTER_BLOCK, Filter, Hash};

/// A block ends with the entry that makes it so large.
const BLOCK_BYTES: usize = 4096;
/// An entry that is larger lies alone in its block, which is copied without being held.
const LARGE_BYTES: usize = 64 * 1024;
/// What is read at once where blocks are read one after the other.
const AHEAD_BYTES: usize = 64 * 1024;
/// Filters that are larger are not held in memory.
const FILTER_HELD_BYTES: usize = 256 * 1024;

/// Before each block: its length, whose highest bits say what it is, and a checksum over all of that.
const HEADER_BYTES: usize = 12;
const IS_INDEX: u32 = 1 << 31;
/// The block holds one entry, which is large.
const IS_LARGE: u32 = 1 << 30;

const FOOTER_BYTES: usize = 48;
const MAGIC: u64 = u64::from_be_bytes(*b"hutong-1");

/// A place in the file.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    offset: u64,
    length: u32,
}

impl Span {
    fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (offset, length) = bytes.split_first_chunk()?;
        Some(Self {
            offset: u64::from_be_bytes(*offset),
            length: u32::from_be_bytes(length.try_into().ok()?),
        })
    }

    fn end(self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// The first key of each index block, and its place.
type Top = Vec<(Box<[u8]>, Span)>;

/// A run that can be read.
#[derive(Debug)]
pub(crate) struct Run {
    path: PathBuf,
    file: File,
    /// Where the blocks end.
    blocks_end: u64,
    top: Top,
    filter: Span,
    filter_held: Option<Vec<u8>>,
    /// How many entries it has.
    pub(crate) entries: u64,
}

impl Run {
    /// Opens a run.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(broken(path, "it is not there"));
            }
            file => file.map_err(disk("open", path))?,
        };
        let length = file.metadata().map_err(disk("look at", path))?.len();
        let wrong = || broken(path, "it does not end as a run does");
        let footer_offset = length.checked_sub(FOOTER_BYTES as u64).ok_or_else(wrong)?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_exact_at(&mut footer, footer_offset)
            .map_err(disk("read", path))?;
        let (words, _) = footer.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let [magic, blocks_end, top_end, filter_sum, entries, sum] = words[..] else {
            return Err(wrong());
        };
        let is_whole = magic == MAGIC
            && sum == xxh3_64(&footer[..FOOTER_BYTES - 8])
            && blocks_end <= top_end
            && top_end <= footer_offset;
        if !is_whole {
            return Err(wrong());
        }
        let span = |offset: u64, end: u64| {
            let length = u32::try_from(end - offset).map_err(|_| wrong())?;
            Ok(Span { offset, length })
        };
        let mut run = Self {
            path: path.to_owned(),
            file,
            blocks_end,
            top: Vec::new(),
            filter: span(top_end, footer_offset)?,
            filter_held: None,
            entries,
        };
        let mut top = Vec::new();
        run.read_block(span(blocks_end, top_end)?, &mut top)?;
        run.top = run.index_of(&top)?;
        let filter = run.read(run.filter)?;
        if xxh3_64(&filter) != filter_sum || filter.len() < FILTER_BLOCK {
            return Err(run.broken("its filter is not what was written"));
        }
        run.filter_held = (filter.len() <= FILTER_HELD_BYTES).then_some(filter);
        Ok(run)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks a key up.
    pub(crate) fn get(&self, key: Key<'_>, hash: Hash) -> Result<Option<FoundIn>, Error> {
        match self.place_of(key, hash)? {
            Some((buffer, place)) => self.get_in(place, buffer, key),
            None => Ok(None),
        }
    }

    /// Returns whether a key is there, or was removed; `None` if nothing is known of it. A large value
    /// is not held for that.
    pub(crate) fn has(self: &Arc<Self>, key: Key<'_>, hash: Hash) -> Result<Option<bool>, Error> {
        let Some((buffer, place)) = self.place_of(key, hash)? else {
            return Ok(None);
        };
        let length = usize::try_from(place.length).unwrap_or(usize::MAX);
        if length <= 2 * LARGE_BYTES {
            let found = self.get_in(place, buffer, key)?;
            return Ok(found.map(|found| found.value.is_some()));
        }
        let cursor = RunCursor::at(Arc::clone(self), place.offset)?;
        let is_there = !matches!(cursor.value(), Value::Removed);
        Ok((cursor.key() == Some(key)).then_some(is_there))
    }

    /// Returns the place of the block that may have a key, and a buffer for it.
    fn place_of(&self, key: Key<'_>, hash: Hash) -> Result<Option<(Vec<u8>, Span)>, Error> {
        if self.may_have(hash)? {
            self.block_of(key)
        } else {
            Ok(None)
        }
    }

    fn get_in(
        &self,
        place: Span,
        mut block: Vec<u8>,
        key: Key<'_>,
    ) -> Result<Option<FoundIn>, Error> {
        self.read_block(place, &mut block)?;
        let mut at = 0;
        while at < block.len() {
            let (entry, next) = self.entry(&block, at)?;
            if entry.key >= key {
                let is_it = entry.key == key;
                let value = entry.value.map(|value| next - value.len()..next);
                return Ok(is_it.then_some(FoundIn { block, value }));
            }
            at = next;
        }
        Ok(None)
    }

    fn may_have(&self, hash: Hash) -> Result<bool, Error> {
        let blocks = usize::try_from(self.filter.length).unwrap_or(usize::MAX) / FILTER_BLOCK;
        let at = hash.block(blocks) * FILTER_BLOCK;
        let mut block = [0; FILTER_BLOCK];
        match &self.filter_held {
            Some(held) => block.copy_from_slice(&held[at..at + FILTER_BLOCK]),
            None => self.read_at(&mut block, self.filter.offset + at as u64)?,
        }
        Ok(hash.may_be_in(&block))
    }

    /// Returns the place of the one block that a key can be in, and a buffer to be used again.
    fn block_of(&self, key: Key<'_>) -> Result<Option<(Vec<u8>, Span)>, Error> {
        let after = self
            .top
            .partition_point(|(first, _)| stored_key(first).is_some_and(|first| first <= key));
        let Some((_, place)) = after.checked_sub(1).map(|index| &self.top[index]) else {
            return Ok(None);
        };
        let mut index = Vec::new();
        self.read_block(*place, &mut index)?;
        let mut found = None;
        let mut at = 0;
        while at < index.len() {
            let (entry, next) = self.entry(&index, at)?;
            if entry.key > key {
                break;
            }
            found = entry.value.and_then(Span::from_bytes);
            at = next;
        }
        let found = found.ok_or_else(|| self.broken("an index block names nothing"))?;
        Ok(Some((index, found)))
    }

    fn index_of(&self, block: &[u8]) -> Result<Top, Error> {
        let mut index = Vec::new();
        let mut at = 0;
        while at < block.len() {
            let (entry, next) = self.entry(block, at)?;
            let span = entry.value.and_then(Span::from_bytes);
            let span = span.ok_or_else(|| self.broken("an index names no place"))?;
            let mut key = entry.key.keyspace.to_be_bytes().to_vec();
            key.extend_from_slice(entry.key.key);
            index.push((key.into_boxed_slice(), span));
            at = next;
        }
        Ok(index)
    }

    fn entry<'a>(&self, block: &'a [u8], at: usize) -> Result<(Entry<'a>, usize), Error> {
        entry::read(block, at).ok_or_else(|| self.broken("an entry is longer than its block"))
    }

    fn read(&self, span: Span) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read_into(span, &mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&self, span: Span, bytes: &mut Vec<u8>) -> Result<(), Error> {
        bytes.resize(usize::try_from(span.length).unwrap_or(usize::MAX), 0);
        self.read_at(bytes, span.offset)
    }

    /// Reads a block with its header into a buffer, and leaves the block.
    fn read_block(&self, span: Span, block: &mut Vec<u8>) -> Result<(), Error> {
        self.read_into(span, block)?;
        let header = Header::read(block).ok_or_else(|| self.broken("a block has no header"))?;
        let content = &block[HEADER_BYTES..];
        if header.length() != content.len() || header.sum != header.sum_of(content) {
            return Err(self.broken("a block is not what was written"));
        }
        block.drain(..HEADER_BYTES);
        Ok(())
    }

    /// Reads a block, some of it at a time, and gives it away with its header.
    fn copy_block(
        &self,
        block: Span,
        mut take: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut buffer = vec![0; AHEAD_BYTES];
        let mut sum = None;
        let mut at = block.offset;
        while at < block.end() {
            let left = usize::try_from(block.end() - at).unwrap_or(usize::MAX);
            let part = &mut buffer[..left.min(AHEAD_BYTES)];
            self.read_at(part, at)?;
            match &mut sum {
                None => {
                    let header = Header::read(part);
                    let header = header.ok_or_else(|| self.broken("a block has no header"))?;
                    let mut begun = header.begin_sum();
                    begun.update(&part[HEADER_BYTES..]);
                    sum = Some((header.sum, begun));
                }
                Some((_, sum)) => sum.update(part),
            }
            take(part)?;
            at += part.len() as u64;
        }
        match sum {
            Some((expected, found)) if expected == found.digest() => Ok(()),
            _ => Err(self.broken("a block is not what was written")),
        }
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), Error> {
        let read = self.file.read_exact_at(bytes, at);
        read.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.broken("it ends too early"),
            _ => disk("read", &self.path)(error),
        })
    }

    fn broken(&self, problem: &'static str) -> Error {
        broken(&self.path, problem)
    }
}

/// An entry that was looked up.
pub(crate) struct FoundIn {
    block: Vec<u8>,
    /// Where the value is; `None` if the key was removed.
    value: Option<Range<usize>>,
}

impl FoundIn {
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.block[range])
    }

    /// Returns the value in memory of its own: that of the block if little else is there.
    pub(crate) fn into_value(mut self) -> Option<Vec<u8>> {
        let Range { start, end } = self.value?;
        if end - start < self.block.len() / 2 {
            return Some(self.block[start..end].to_vec());
        }
        self.block.truncate(end);
        self.block.drain(..start);
        Some(self.block)
    }
}

/// Reads a key as an index keeps it.
fn stored_key(bytes: &[u8]) -> Option<Key<'_>> {
    let (keyspace, key) = bytes.split_first_chunk()?;
    Some(Key {
        keyspace: u32::from_be_bytes(*keyspace),
        key,
    })
}

struct Header {
    length: u32,
    sum: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        Some(Self {
            length: u32::from_be_bytes(*length),
            sum: u64::from_be_bytes(*rest.first_chunk()?),
        })
    }

    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_be_bytes());
        bytes[4..].copy_from_slice(&self.sum.to_be_bytes());
        bytes
    }

    fn is(&self, flag: u32) -> bool {
        self.length & flag != 0
    }

    fn length(&self) -> usize {
        usize::try_from(self.length & !(IS_INDEX | IS_LARGE)).unwrap_or(usize::MAX)
    }

    /// Begins the checksum of a block with this header.
    fn begin_sum(&self) -> Xxh3 {
        Xxh3::with_seed(u64::from(self.length))
    }

    fn sum_of(&self, content: &[u8]) -> u64 {
        xxh3_64_with_seed(content, u64::from(self.length))
    }
}

/// The value of an entry.
pub(crate) enum Value<'a> {
    /// The key was removed.
    Removed,
    /// The value.
    Here(&'a [u8]),
    /// A large value, which was not read.
    Apart(LargeValue<'a>),
}

impl Value<'_> {
    /// Bytes that it has, about.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Removed => 0,
            Self::Here(value) => value.len(),
            Self::Apart(large) => usize::try_from(large.block.length).unwrap_or(usize::MAX),
        }
    }
}

/// A value in a block of its own.
#[derive(Clone, Copy)]
pub(crate) struct LargeValue<'a> {
    run: &'a Run,
    block: Span,
}

impl LargeValue<'_> {
    /// Reads the value.
    pub(crate) fn read(self) -> Result<Vec<u8>, Error> {
        let mut block = Vec::new();
        self.run.read_block(self.block, &mut block)?;
        let (entry, _) = self.run.entry(&block, 0)?;
        let length = entry.value.map_or(0, <[u8]>::len);
        block.drain(..block.len() - length);
        Ok(block)
    }
}

/// Goes through the entries of a run.
pub(crate) struct RunCursor {
    run: Arc<Run>,
    /// Where the next block's header is.
    next: u64,
    /// What was read ahead, and where in the file it begins.
    ahead: Vec<u8>,
    ahead_at: u64,
    /// Where in `ahead` the block ends, and the next entry begins.
    block_end: usize,
    at: usize,
    entry: Option<Found>,
}

/// Where an entry is in what was read ahead.
struct Found {
    keyspace: u32,
    key: Range<usize>,
    value: FoundValue,
}

enum FoundValue {
    Removed,
    Here(Range<usize>),
    Apart(Span),
}

impl RunCursor {
    /// Begins at the first entry.
    pub(crate) fn new(run: Arc<Run>) -> Result<Self, Error> {
        Self::at(run, 0)
    }

    /// Begins at the first entry whose key is not below `key`.
    pub(crate) fn from(run: Arc<Run>, key: Key<'_>) -> Result<Self, Error> {
        let start = run.block_of(key)?.map_or(0, |(_, span)| span.offset);
        let mut cursor = Self::at(run, start)?;
        while cursor.key().is_some_and(|found| found < key) {
            cursor.advance()?;
        }
        Ok(cursor)
    }

    fn at(run: Arc<Run>, start: u64) -> Result<Self, Error> {
        let mut cursor = Self {
            run,
            next: start,
            ahead: Vec::new(),
            ahead_at: 0,
            block_end: 0,
            at: 0,
            entry: None,
        };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Returns the entry's key, or `None` at the end.
    pub(crate) fn key(&self) -> Option<Key<'_>> {
        self.entry.as_ref().map(|entry| Key {
            keyspace: entry.keyspace,
            key: &self.ahead[entry.key.clone()],
        })
    }

    /// Returns the entry's value.
    pub(crate) fn value(&self) -> Value<'_> {
        match self.entry.as_ref().map(|entry| &entry.value) {
            None | Some(FoundValue::Removed) => Value::Removed,
            Some(FoundValue::Here(range)) => Value::Here(&self.ahead[range.clone()]),
            Some(FoundValue::Apart(block)) => Value::Apart(LargeValue {
                run: &self.run,
                block: *block,
            }),
        }
    }

    /// Goes on to the next entry.
    pub(crate) fn advance(&mut self) -> Result<(), Error> {
        if self.at >= self.block_end {
            self.entry = None;
            return self.read_block();
        }
        let block = &self.ahead[..self.block_end];
        let Some((key, value, value_at)) = entry::read_key(block, self.at) else {
            return Err(self.run.broken("an entry has no key"));
        };
        let end = value_at.saturating_add(value.unwrap_or(0));
        if end > self.block_end {
            return Err(self.run.broken("an entry is longer than its block"));
        }
        self.entry = Some(Found {
            keyspace: key.keyspace,
            key: value_at - key.key.len()..value_at,
            value: match value {
                None => FoundValue::Removed,
                Some(_) => FoundValue::Here(value_at..end),
            },
        });
        self.at = end;
        Ok(())
    }

    fn read_block(&mut self) -> Result<(), Error> {
        while self.next < self.run.blocks_end {
            let at = self.ensure(HEADER_BYTES)?;
            let header = Header::read(&self.ahead[at..]);
            let header = header.ok_or_else(|| self.run.broken("a block has no header"))?;
            let length = header.length();
            let whole = u32::try_from(HEADER_BYTES.saturating_add(length));
            let block = Span {
                offset: self.next,
                length: whole.map_err(|_| self.run.broken("a block has no end"))?,
            };
            if block.end() > self.run.blocks_end || length == 0 {
                return Err(self.run.broken("a block is not as long as it can be"));
            }
            if header.is(IS_INDEX) {
                self.next = block.end();
                continue;
            }
            if header.is(IS_LARGE) {
                return self.begin_large(block);
            }
            let at = self.ensure(HEADER_BYTES + length)? + HEADER_BYTES;
            if header.sum_of(&self.ahead[at..at + length]) != header.sum {
                return Err(self.run.broken("a block is not what was written"));
            }
            (self.at, self.block_end) = (at, at + length);
            self.next = block.end();
            return self.advance();
        }
        Ok(())
    }

    fn begin_large(&mut self, block: Span) -> Result<(), Error> {
        // Its key decides what becomes of it, and nothing of it is read again for that.
        self.run.copy_block(block, |_| Ok(()))?;
        let whole = usize::try_from(block.length).unwrap_or(usize::MAX);
        let mut wanted = AHEAD_BYTES.min(whole);
        loop {
            let at = self.ensure(wanted)?;
            let begun = &self.ahead[..at + wanted];
            if let Some((key, value, value_at)) = entry::read_key(begun, at + HEADER_BYTES) {
                self.entry = Some(Found {
                    keyspace: key.keyspace,
                    key: value_at - key.key.len()..value_at,
                    value: match value {
                        None => FoundValue::Removed,
                        Some(_) => FoundValue::Apart(block),
                    },
                });
                break;
            }
            if wanted == whole {
                return Err(self.run.broken("an entry has no key"));
            }
            // The key is larger than what was read.
            wanted = whole;
        }
        (self.at, self.block_end) = (0, 0);
        self.next = block.end();
        Ok(())
    }

    /// Reads so many bytes from the next block on, and returns where in `ahead` they begin.
    fn ensure(&mut self, wanted: usize) -> Result<usize, Error> {
        let ahead_end = self.ahead_at + self.ahead.len() as u64;
        if self.next < self.ahead_at || self.next + wanted as u64 > ahead_end {
            let left = usize::try_from(self.run.blocks_end - self.next).unwrap_or(usize::MAX);
            if left < wanted {
                return Err(self.run.broken("a block is longer than its run"));
            }
            self.ahead.resize(wanted.max(AHEAD_BYTES.min(left)), 0);
            self.ahead_at = self.next;
            self.run.read_at(&mut self.ahead, self.ahead_at)?;
        }
        Ok(usize::try_from(self.next - self.ahead_at).unwrap_or(0))
    }
}

/// Writes a run.
pub(crate) struct RunWriter {
    path: PathBuf,
    file: BufWriter<File>,
    at: u64,
    block: Vec<u8>,
    /// The first key of the block, and of the index block.
    first: Vec<u8>,
    index: Vec<u8>,
    index_first: Vec<u8>,
    top: Vec<u8>,
    filter: Filter,
    entries: u64,
}

impl RunWriter {
    /// Begins a run of at most so many entries.
    pub(crate) fn create(path: &Path, entries_max: u64) -> Result<Self, Error> {
        let file = File::create(path).map_err(disk("create", path))?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(AHEAD_BYTES, file),
            at: 0,
            block: Vec::with_capacity(2 * BLOCK_BYTES),
            first: Vec::new(),
            index: Vec::new(),
            index_first: Vec::new(),
            top: Vec::new(),
            filter: Filter::for_keys(usize::try_from(entries_max).unwrap_or(usize::MAX)),
            entries: 0,
        })
    }

    /// Adds an entry, whose key is above all that were added.
    pub(crate) fn put(&mut self, key: Key<'_>, value: &Value<'_>) -> Result<(), Error> {
        let value = match value {
            Value::Removed => None,
            Value::Here(value) => Some(*value),
            Value::Apart(large) => return self.copy(key, *large),
        };
        if key.len() + value.map_or(0, <[u8]>::len) > LARGE_BYTES {
            return self.put_alone(key, value);
        }
        self.begin(key);
        entry::put(&mut self.block, key, value);
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    /// Adds a large entry, in a block of its own and without a copy of it.
    fn put_alone(&mut self, key: Key<'_>, value: Option<&[u8]>) -> Result<(), Error> {
        self.end_block()?;
        self.begin(key);
        let mut head = Vec::with_capacity(key.len() + 2 * size_of::<u64>());
        entry::put_head(&mut head, key, value.map(<[u8]>::len));
        let length = self.write_block(&[&head, value.unwrap_or_default()], IS_LARGE)?;
        self.note_block(length)
    }

    /// Copies a block with one large entry, some of it at a time.
    fn copy(&mut self, key: Key<'_>, large: LargeValue<'_>) -> Result<(), Error> {
        self.end_block()?;
        self.begin(key);
        let LargeValue { run, block } = large;
        run.copy_block(block, |part| self.write(part))?;
        self.note_block(block.length)
    }

    fn begin(&mut self, key: Key<'_>) {
        if self.block.is_empty() {
            self.first.clear();
            self.first.extend_from_slice(&key.keyspace.to_be_bytes());
            self.first.extend_from_slice(key.key);
        }
        self.filter.insert(Hash::of(key));
        self.entries += 1;
    }

    fn end_block(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        let length = self.write_block(&[&block], 0)?;
        self.block = block;
        self.block.clear();
        self.note_block(length)
    }

    /// Notes in the index the block that was just written.
    fn note_block(&mut self, length: u32) -> Result<(), Error> {
        if self.index.is_empty() {
            self.index_first.clone_from(&self.first);
        }
        let span = Span {
            offset: self.at - u64::from(length),
            length,
        };
        put_span(&mut self.index, &self.first, span);
        if self.index.len() >= BLOCK_BYTES {
            self.end_index()?;
        }
        Ok(())
    }

    fn end_index(&mut self) -> Result<(), Error> {
        if self.index.is_empty() {
            return Ok(());
        }
        let index = std::mem::take(&mut self.index);
        let length = self.write_block(&[&index], IS_INDEX)?;
        let span = Span {
            offset: self.at - u64::from(length),
            length,
        };
        put_span(&mut self.top, &self.index_first, span);
        Ok(())
    }

    /// Writes a block that lies in parts, and returns its length with its header.
    fn write_block(&mut self, parts: &[&[u8]], flag: u32) -> Result<u32, Error> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        let whole = u32::try_from(HEADER_BYTES.saturating_add(bytes)).ok();
        let whole = whole.filter(|whole| *whole < IS_LARGE);
        let whole = whole.ok_or(Error::TooLarge { bytes })?;
        let mut header = Header {
            length: u32::try_from(bytes).unwrap_or(u32::MAX) | flag,
            sum: 0,
        };
        let mut sum = header.begin_sum();
        parts.iter().for_each(|part| sum.update(part));
        header.sum = sum.digest();
        self.write(&header.to_bytes())?;
        for part in parts {
            self.write(part)?;
        }
        Ok(whole)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes);
        written.map_err(disk("write", &self.path))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// Ends the run and opens it; `None` if nothing was added, then there is no file.
    pub(crate) fn finish(mut self) -> Result<Option<Run>, Error> {
        if self.entries == 0 {
            std::fs::remove_file(&self.path).map_err(disk("remove", &self.path))?;
            return Ok(None);
        }
        self.end_block()?;
        self.end_index()?;
        let blocks_end = self.at;
        let top = std::mem::take(&mut self.top);
        self.write_block(&[&top], 0)?;
        let top_end = self.at;
        let filter = self.filter.to_bytes();
        self.write(&filter)?;
        let words = [MAGIC, blocks_end, top_end, xxh3_64(&filter), self.entries];
        let mut footer: Vec<u8> = words.into_iter().flat_map(u64::to_be_bytes).collect();
        footer.extend_from_slice(&xxh3_64(&footer).to_be_bytes());
        self.write(&footer)?;
        self.file.flush().map_err(disk("write", &self.path))?;
        Run::open(&self.path).map(Some)
    }
}

fn put_span(index: &mut Vec<u8>, key: &[u8], span: Span) {
    let key = stored_key(key).expect("a first key was noted with its keyspace");
    entry::put(index, key, Some(&span.to_bytes()));
}
