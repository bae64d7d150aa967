//! What is done about one input: a pure function from what is wanted and what goes on to one step.

use std::time::{Duration, Instant};

/// What is wanted of an input now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Its table is kept equal to it.
    Deliver,
    /// Its grant has ended: its table is emptied, whatever else is wanted of the task.
    Empty,
    /// The task is paused or stopped: nothing is done.
    Leave,
}

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been done yet, or what went on was told to end and has. Ends with the next step.
    New,
    /// A lane opens or delivers. Ends when it is told to, or by an error.
    Delivering { is_ending: bool },
    /// The table is being emptied. Not interrupted, because whatever is wanted next begins with an
    /// empty table.
    Emptying,
    /// The table is empty. Durable: a later attempt finds nothing to empty.
    Emptied,
    /// Nothing is wanted.
    Left,
    /// A definite error has stopped it. Ends with a new version or the end of its grant.
    Failed,
    /// An error is waited out.
    Waiting { until: Instant },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Deliver,
    Empty,
    Leave,
    /// Tell the lane to end.
    End,
    Wait,
}

/// From wanted and observed to the next step. `is_new` says that what is wanted cannot be taken up by
/// what goes on, or was not wanted when it failed.
pub(super) fn next_step(wish: Wish, phase: Phase, is_new: bool, now: Instant) -> Step {
    let begin = match wish {
        Wish::Deliver => Step::Deliver,
        Wish::Empty => Step::Empty,
        Wish::Leave => Step::Leave,
    };
    match phase {
        Phase::New => begin,
        Phase::Delivering { is_ending: true } | Phase::Emptying => Step::Wait,
        Phase::Delivering { is_ending: false } if is_new || wish != Wish::Deliver => Step::End,
        Phase::Delivering { is_ending: false } => Step::Wait,
        Phase::Emptied if wish == Wish::Empty => Step::Wait,
        Phase::Left if wish == Wish::Leave => Step::Wait,
        Phase::Emptied | Phase::Left => begin,
        Phase::Failed if is_new || wish == Wish::Empty => begin,
        Phase::Failed => Step::Wait,
        Phase::Waiting { until } if is_new || now >= until => begin,
        Phase::Waiting { .. } => Step::Wait,
    }
}

/// The wait after so many failures in a row.
pub(super) fn backoff(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(30);
    FIRST.saturating_mul(1 << failures.min(8)).min(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISHES: [Wish; 3] = [Wish::Deliver, Wish::Empty, Wish::Leave];

    #[test]
    fn an_ended_grant_is_carried_out_from_every_phase() {
        let now = Instant::now();
        for phase in [
            Phase::New,
            Phase::Left,
            Phase::Failed,
            Phase::Waiting { until: now },
        ] {
            assert_eq!(next_step(Wish::Empty, phase, false, now), Step::Empty);
        }
        let delivering = Phase::Delivering { is_ending: false };
        assert_eq!(next_step(Wish::Empty, delivering, false, now), Step::End);
    }

    #[test]
    fn what_is_as_wanted_is_left_alone() {
        let now = Instant::now();
        for (wish, phase) in [
            (Wish::Deliver, Phase::Delivering { is_ending: false }),
            (Wish::Empty, Phase::Emptied),
            (Wish::Leave, Phase::Left),
            (Wish::Deliver, Phase::Failed),
        ] {
            assert_eq!(next_step(wish, phase, false, now), Step::Wait);
        }
    }

    #[test]
    fn nothing_begins_beside_what_still_goes_on() {
        let now = Instant::now();
        for wish in WISHES {
            for is_new in [false, true] {
                let ending = Phase::Delivering { is_ending: true };
                assert_eq!(next_step(wish, ending, is_new, now), Step::Wait);
                assert_eq!(next_step(wish, Phase::Emptying, is_new, now), Step::Wait);
            }
        }
    }

    #[test]
    fn an_error_is_waited_out_unless_something_else_is_wanted() {
        let now = Instant::now();
        let waiting = Phase::Waiting {
            until: now + Duration::from_secs(1),
        };
        assert_eq!(next_step(Wish::Deliver, waiting, false, now), Step::Wait);
        assert_eq!(next_step(Wish::Deliver, waiting, true, now), Step::Deliver);
        let later = now + Duration::from_secs(1);
        assert_eq!(
            next_step(Wish::Deliver, waiting, false, later),
            Step::Deliver
        );
        assert_eq!(backoff(0), Duration::from_millis(500));
        assert_eq!(backoff(99), Duration::from_secs(30));
    }

    #[test]
    fn a_failed_input_begins_again_with_a_version_that_wants_something_else() {
        let now = Instant::now();
        assert_eq!(
            next_step(Wish::Deliver, Phase::Failed, true, now),
            Step::Deliver
        );
        assert_eq!(
            next_step(Wish::Deliver, Phase::Emptied, false, now),
            Step::Deliver
        );
    }
}
