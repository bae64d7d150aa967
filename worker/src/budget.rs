//! The worker's memory for rows on their way, in bytes, shared by all its tasks.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often a record lies in memory that is larger than a batch: fetched, unpacked, copied, decoded,
/// encoded, and with the client that sends it; in buffers that grow, and with the neighbours that have
/// it, or the next one, at the same time. Of rows of 20 MB one is on its way.
const LARGE_COPIES: u64 = 12;

/// A number of bytes that tasks take from and give back. Counted in KiB, because a semaphore's
/// permits are `u32`.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    semaphore: Arc<Semaphore>,
    total_kib: u32,
}

impl Budget {
    /// Makes a budget of so many bytes, at least one KiB.
    pub(crate) fn new(total_bytes: u64) -> Self {
        let total_kib = kib(total_bytes);
        let permits = usize::try_from(total_kib).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            total_kib,
        }
    }

    /// Waits until so many bytes are free and takes them until the permit is dropped. More than the
    /// whole budget takes the whole budget: a row larger than it goes through alone.
    ///
    /// A task must not wait for a second permit while it holds one that only its own progress gives
    /// back: two such tasks could wait for each other.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken if the future is dropped.
    pub(crate) async fn acquire(&self, bytes: u64) -> OwnedSemaphorePermit {
        let wanted = kib(bytes).min(self.total_kib);
        Arc::clone(&self.semaphore)
            .acquire_many_owned(wanted)
            .await
            .expect("nobody closes the semaphore")
    }

    /// Waits for the memory of a batch of up to `bytes_max` bytes, of which there are `copies` on the
    /// way. Of a first record that is larger there are more, in every buffer that it passes.
    ///
    /// # Cancel safety
    ///
    /// Nothing is taken if the future is dropped.
    pub(crate) async fn batch(
        &self,
        bytes_max: usize,
        copies: u64,
        first_record: usize,
    ) -> OwnedSemaphorePermit {
        let count = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let batch = count(bytes_max).saturating_mul(copies);
        let large = if first_record > bytes_max {
            count(first_record).saturating_mul(LARGE_COPIES)
        } else {
            0
        };
        self.acquire(batch.max(large)).await
    }

    /// Returns the semaphore, whose permits are KiB.
    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.semaphore
    }

    /// Returns the size of the whole budget in KiB.
    pub(crate) fn total_kib(&self) -> u32 {
        self.total_kib
    }

    /// Returns how many bytes are taken.
    pub(crate) fn used_bytes(&self) -> u64 {
        let free = u64::try_from(self.semaphore.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.total_kib).saturating_sub(free) * 1024
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024))
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[tokio::test]
    async fn a_record_larger_than_a_batch_takes_what_all_its_copies_take() {
        let budget = Budget::new(100 * 1024);
        let batch = budget.batch(10 * 1024, 3, 10 * 1024).await;
        assert_eq!(budget.used_bytes(), 30 * 1024);
        drop(batch);
        let large = budget.batch(4 * 1024, 3, 5 * 1024).await;
        assert_eq!(budget.used_bytes(), 60 * 1024);
        drop(large);
        let alone = budget.batch(4 * 1024, 3, 20 * 1024).await;
        assert_eq!(budget.used_bytes(), 100 * 1024);
        drop(alone);
    }

    #[tokio::test]
    async fn a_row_larger_than_the_budget_goes_through_alone() {
        let budget = Budget::new(10 * 1024);
        let whole = budget.acquire(1 << 40).await;
        assert_eq!(budget.used_bytes(), 10 * 1024);
        let second = budget.acquire(1);
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        drop(whole);
        drop(second.await);
        assert_eq!(budget.used_bytes(), 0);
    }
}
