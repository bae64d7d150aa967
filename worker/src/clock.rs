//! The time, ours and the broker's.
//!
//! A grant ends at `valid_until`, by the later of this machine's clock and the broker's, so that a
//! worker whose clock was set back does not deliver for longer. The status topics are
//! LogAppendTime, so the answer to every status write shows the broker's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A clock that all tasks of a worker share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    broker_ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Returns this machine's time in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Returns the later of this machine's time and the broker's, by which grants end.
    pub(crate) fn latest_ms(&self) -> i64 {
        self.now_ms() + self.broker_ahead_ms().max(0)
    }

    /// Returns the earlier of this machine's time and the broker's, by which grants begin.
    pub(crate) fn earliest_ms(&self) -> i64 {
        self.now_ms() + self.broker_ahead_ms().min(0)
    }

    /// Returns by how much the broker's clock was ahead of ours at the last status write.
    pub(crate) fn broker_ahead_ms(&self) -> i64 {
        self.broker_ahead_ms.load(Ordering::Relaxed)
    }

    /// Takes the broker's time of a record that was sent at `sent_ms` and acknowledged at
    /// `acked_ms` by our clock. The broker stamped it somewhere between, so only a difference
    /// outside this interval is certain, and only that is counted.
    pub(crate) fn observe(&self, broker_ms: i64, sent_ms: i64, acked_ms: i64) {
        let ahead = if broker_ms > acked_ms {
            broker_ms - acked_ms
        } else if broker_ms < sent_ms {
            broker_ms - sent_ms
        } else {
            0
        };
        self.broker_ahead_ms.store(ahead, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    fn ahead_after(broker_ms: i64, sent_ms: i64, acked_ms: i64) -> i64 {
        let clock = Clock::default();
        clock.observe(broker_ms, sent_ms, acked_ms);
        clock.broker_ahead_ms()
    }

    #[test]
    fn only_a_difference_outside_the_time_of_the_write_counts() {
        assert_eq!(ahead_after(1_050, 1_000, 1_100), 0);
        assert_eq!(ahead_after(61_100, 1_000, 1_100), 60_000);
        assert_eq!(ahead_after(400, 1_000, 1_100), -600);
    }

    #[test]
    fn a_broker_behind_us_never_prolongs_a_grant() {
        let clock = Clock::default();
        clock.observe(0, 60_000, 60_000);
        assert!(clock.latest_ms() >= clock.now_ms() - 1_000);
    }
}
