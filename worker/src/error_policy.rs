//! What is done about an error: the only table from classes to actions.
//!
//! | class | again? | what is shown | why |
//! |---|---|---|---|
//! | definite | no | FAILED, message and hint | asking again gives the same answer |
//! | transient | with backoff, for ever | RESTARTING with the error, logged as an error after five minutes | the world may heal |
//! | fenced | with backoff, from step 1 of a restart | nothing is written | another owner, or a timeout, took the epoch: the client library does not tell which, but the group does, because a start begins with proof of membership |
//! | fatal | three times in ten minutes, then no | RESTARTING, then FAILED | our own state was wrong; durable state may be right |
//!
//! A person ends FAILED by a new version of the task or by its `restart` counter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hutong_schemas::class::Class;

/// Whether and when an attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Never,
    WithBackoff,
    Limited { times: usize, within: Duration },
}

/// What others see meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Failed,
    Restarting,
    Nothing,
}

const fn policy(class: Class) -> (Again, Shown) {
    match class {
        Class::Definite => (Again::Never, Shown::Failed),
        Class::Transient => (Again::WithBackoff, Shown::Restarting),
        Class::Fenced => (Again::WithBackoff, Shown::Nothing),
        Class::Fatal => (
            Again::Limited {
                times: 3,
                within: Duration::from_secs(600),
            },
            Shown::Restarting,
        ),
    }
}

/// What the supervisor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Show FAILED with the error and wait for a person.
    Fail,
    /// Show RESTARTING with the error, wait, start again. Loud once it has lasted.
    Restart {
        /// The time to wait.
        after: Duration,
        /// Whether someone should look now.
        loud: bool,
    },
    /// Write nothing, wait, start again at the proof of membership.
    RestartSilently {
        /// The time to wait.
        after: Duration,
    },
}

/// The first wait; each further one is twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// The longest wait: a database that is back is found within half a minute.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// An attempt that worked for so long ends a series of failures.
pub(crate) const HEALED_AFTER: Duration = Duration::from_secs(60);
/// A series of failures that has lasted so long is logged as an error.
const LOUD_AFTER: Duration = Duration::from_secs(300);

/// The errors of one task, as far as decisions depend on them.
#[derive(Debug, Default)]
pub(crate) struct History {
    failures_in_a_row: u32,
    failing_since: Option<Instant>,
    fatal: VecDeque<Instant>,
}

impl History {
    /// Decides about an error. `worked_for` is how long the attempt worked after its start was
    /// over; `jitter` is between 0 and 1 and spreads the waits of tasks that failed together.
    pub(crate) fn decide(
        &mut self,
        class: Class,
        now: Instant,
        worked_for: Duration,
        jitter: f64,
    ) -> Action {
        if worked_for >= HEALED_AFTER {
            self.failures_in_a_row = 0;
            self.failing_since = None;
        }
        let (again, shown) = policy(class);
        if !self.allows(again, now) {
            return Action::Fail;
        }
        let after = backoff(self.failures_in_a_row, jitter);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        let since = *self.failing_since.get_or_insert(now);
        match shown {
            Shown::Failed => Action::Fail,
            Shown::Nothing => Action::RestartSilently { after },
            Shown::Restarting => Action::Restart {
                after,
                loud: class == Class::Fatal || now.duration_since(since) >= LOUD_AFTER,
            },
        }
    }

    fn allows(&mut self, again: Again, now: Instant) -> bool {
        match again {
            Again::Never => false,
            Again::WithBackoff => true,
            Again::Limited { times, within } => {
                self.fatal.retain(|at| now.duration_since(*at) < within);
                self.fatal.push_back(now);
                self.fatal.len() <= times
            }
        }
    }
}

/// Between half and the whole of the wait, so that waits spread but none is near zero.
fn backoff(failures_before: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1_u32 << failures_before.min(16));
    let whole = doubled.min(BACKOFF_MAX);
    whole.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use hutong_schemas::class::Class;

    use super::{Action, History};

    const NO_TIME: Duration = Duration::ZERO;

    fn restart(after_ms: u64, loud: bool) -> Action {
        Action::Restart {
            after: Duration::from_millis(after_ms),
            loud,
        }
    }

    #[test]
    fn a_definite_error_is_not_tried_again() {
        let mut history = History::default();
        let action = history.decide(Class::Definite, Instant::now(), NO_TIME, 1.0);
        assert_eq!(action, Action::Fail);
    }

    #[test]
    fn a_transient_error_is_tried_for_ever_with_growing_waits() {
        let mut history = History::default();
        let now = Instant::now();
        let mut decide = || history.decide(Class::Transient, now, NO_TIME, 1.0);
        for after_ms in [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600] {
            assert_eq!(decide(), restart(after_ms, false));
        }
        for _ in 0..10_000 {
            assert_eq!(decide(), restart(30_000, false));
        }
    }

    #[test]
    fn a_transient_error_becomes_loud_after_five_minutes() {
        let mut history = History::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let loud = |history: &mut History, seconds| {
            let action = history.decide(Class::Transient, at(seconds), NO_TIME, 0.0);
            matches!(action, Action::Restart { loud: true, .. })
        };
        assert!(!loud(&mut history, 0));
        assert!(!loud(&mut history, 299));
        assert!(loud(&mut history, 300));
    }

    #[test]
    fn work_for_a_minute_ends_a_series_of_failures() {
        let mut history = History::default();
        let now = Instant::now();
        for _ in 0..5 {
            history.decide(Class::Transient, now, NO_TIME, 1.0);
        }
        let action = history.decide(Class::Transient, now, Duration::from_secs(60), 1.0);
        assert_eq!(action, restart(200, false));
    }

    #[test]
    fn a_fenced_task_starts_again_without_a_word() {
        let mut history = History::default();
        let action = history.decide(Class::Fenced, Instant::now(), NO_TIME, 0.0);
        let after = Duration::from_millis(100);
        assert_eq!(action, Action::RestartSilently { after });
    }

    #[test]
    fn a_fatal_error_fails_the_task_at_the_fourth_within_ten_minutes() {
        let mut history = History::default();
        let start = Instant::now();
        let fails = |history: &mut History, seconds| {
            let at = start + Duration::from_secs(seconds);
            history.decide(Class::Fatal, at, NO_TIME, 0.0) == Action::Fail
        };
        for seconds in [0, 100, 200] {
            assert!(!fails(&mut history, seconds));
        }
        assert!(fails(&mut history, 599));
        let mut history = History::default();
        for seconds in [0, 300, 600, 900, 1_200] {
            assert!(!fails(&mut history, seconds), "at {seconds}");
        }
    }

    #[test]
    fn jitter_spreads_the_wait_between_half_and_whole() {
        for (jitter, after_ms) in [(0.0, 100), (0.5, 150), (1.0, 200), (7.0, 200)] {
            let mut history = History::default();
            let action = history.decide(Class::Transient, Instant::now(), NO_TIME, jitter);
            assert_eq!(action, restart(after_ms, false));
        }
    }
}
