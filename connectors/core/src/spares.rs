//! Memory of batches that are durable, for the next ones: the system hands memory out page by page, which
//! for a large batch takes as long as filling it.
//!
//! One pool for the process, because a source gives back on the thread of its commits what its readers
//! take on theirs, and sources that are behind take turns. It holds little and not for long
//! ([`POOL_BYTES_MAX`], [`KEPT_FOR`]).
//! Nothing is awaited while it is locked.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hutong_schemas::batch::{KEPT_BYTES, RecordBatch};

/// Which sizes are kept: from where it matters up to a full batch of ordinary rows.
const SPARE_BYTES: Range<usize> = 1 << 20..12 << 20;
/// Most bytes kept, in the whole process: what one source that is behind needs.
pub const POOL_BYTES_MAX: usize = 24 << 20;
/// How long it is waited for another batch.
pub const KEPT_FOR: Duration = Duration::from_millis(500);

struct Spare {
    batch: RecordBatch,
    given: Instant,
}

fn spares() -> MutexGuard<'static, Vec<Spare>> {
    static SPARES: Mutex<Vec<Spare>> = Mutex::new(Vec::new());
    SPARES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns an empty batch with room for so much, and not for much more, from the pool if there is such a
/// one.
#[must_use]
pub fn with_room(records: usize, bytes: usize) -> RecordBatch {
    take(bytes..2 * bytes).unwrap_or_else(|| allocate(records, bytes))
}

fn allocate(records: usize, bytes: usize) -> RecordBatch {
    // The next one may be a little larger than this, and shall fit then.
    let with_slack = |count: usize| count + count / 16;
    RecordBatch {
        buffer: Vec::with_capacity(with_slack(bytes)),
        topics: Vec::new(),
        records: Vec::with_capacity(with_slack(records)),
    }
}

/// Takes the smallest batch from the pool that has room for so many bytes.
#[must_use]
pub fn take(bytes: Range<usize>) -> Option<RecordBatch> {
    if bytes.start < SPARE_BYTES.start {
        return None;
    }
    let mut spares = spares();
    let room = |spare: &Spare| spare.batch.buffer.capacity();
    let fitting = spares.iter().enumerate();
    let fitting = fitting.filter(|(_, spare)| bytes.contains(&room(spare)));
    let (index, _) = fitting.min_by_key(|(_, spare)| room(spare))?;
    Some(spares.swap_remove(index).batch)
}

/// Takes a batch away, and leaves an empty one with room for as much: mostly the next is as large, and
/// memory that grows is copied. It may be up to four times as large; who then has nothing to do lets go
/// of it by [`rest`].
#[must_use]
pub fn replace(batch: &mut RecordBatch) -> RecordBatch {
    let bytes = batch.buffer.len();
    let room = if bytes > KEPT_BYTES { 0 } else { bytes };
    let spare = take(room..SPARE_BYTES.end.min(4 * room));
    let next = spare.unwrap_or_else(|| allocate(batch.records.len(), room));
    std::mem::replace(batch, next)
}

/// Gives the memory of a batch back that is empty, and may be so for long.
pub fn rest(batch: &mut RecordBatch) {
    let is_large = batch.buffer.capacity() >= SPARE_BYTES.start;
    if is_large && batch.buffer.is_empty() && batch.records.is_empty() {
        give_back(std::mem::take(batch));
    }
}

/// Gives the memory of a batch back that is of no more use.
pub fn give_back(mut batch: RecordBatch) {
    if !SPARE_BYTES.contains(&batch.buffer.capacity()) {
        return;
    }
    batch.clear();
    let given = Instant::now();
    let mut spares = spares();
    spares.push(Spare { batch, given });
    while bytes(&spares) > POOL_BYTES_MAX {
        let oldest = (0..spares.len()).min_by_key(|index| spares[*index].given);
        if let Some(oldest) = oldest {
            spares.swap_remove(oldest);
        }
    }
}

fn bytes(spares: &[Spare]) -> usize {
    spares.iter().map(|spare| spare.batch.bytes()).sum()
}

/// Lets go of what nobody took for a while, as it is at a time. To be called now and then by whoever gives
/// batches back.
pub fn forget_old(now: Instant) {
    spares().retain(|spare| now.saturating_duration_since(spare.given) < KEPT_FOR);
}

/// Lets go of everything. To be called by whoever gives nothing back any more.
pub fn forget_all() {
    spares().clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pool is the process's: one test for all.
    #[test]
    fn memory_that_was_given_back_is_used_again_where_it_fits_and_let_go_in_time() {
        let batch = |bytes| {
            let mut batch = with_room(10, bytes);
            batch.buffer.resize(bytes, 7);
            batch
        };
        give_back(batch(SPARE_BYTES.start / 2));
        assert!(spares().is_empty(), "what costs little is not kept");

        let (two, five) = (batch(2 << 20), batch(5 << 20));
        let address = two.buffer.as_ptr();
        give_back(two);
        give_back(five);
        let again = with_room(10, 2 << 20);
        assert_eq!(again.buffer.as_ptr(), address, "the smallest that fits");
        assert!(again.buffer.is_empty() && again.records.is_empty());
        assert!(take(6 << 20..12 << 20).is_none());
        assert!(take(2 << 20..3 << 20).is_none());

        let mut resting = batch(2 << 20);
        assert_eq!(replace(&mut resting).buffer.len(), 2 << 20);
        assert!(resting.buffer.capacity() >= 5 << 20, "what is there");
        resting.buffer.push(7);
        rest(&mut resting);
        assert!(!resting.buffer.is_empty(), "it is in use");
        resting.clear();
        rest(&mut resting);
        assert_eq!(resting.buffer.capacity(), 0);

        let before = Instant::now();
        let batches: Vec<_> = (0..10).map(|_| batch(4 << 20)).collect();
        batches.into_iter().for_each(give_back);
        let kept = bytes(&spares());
        assert!((8 << 20..=POOL_BYTES_MAX).contains(&kept), "{kept}");

        forget_old(before);
        assert_eq!(bytes(&spares()), kept, "not at once");
        forget_old(Instant::now() + KEPT_FOR);
        assert!(spares().is_empty());

        give_back(batch(4 << 20));
        forget_all();
        assert!(spares().is_empty());
    }
}
