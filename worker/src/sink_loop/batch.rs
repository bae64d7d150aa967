//! Where a batch ends: a pure function, so that it can be tried out by the thousand.

use super::stamp::Stamp;

/// Whether more than what was read may be expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Everything committed was read, so every transaction in it is whole.
    AtEnd,
    /// More follows, and there is room for it.
    GoesOn,
    /// More follows, but the budget is used up.
    Full,
}

/// Returns how many of the records, from the first, make the next batch; 0 means to read on.
///
/// A batch ends where the source's transaction changes; a record that none caused may stand at any
/// end. A transaction that fills the budget alone goes in parts.
pub(super) fn cut(stamps: &[Stamp], reading: Reading) -> usize {
    if reading == Reading::AtEnd {
        return stamps.len();
    }
    let mut ends = (1..stamps.len()).rev();
    let last = ends.find(|end| may_part(stamps[end - 1], stamps[*end]));
    match (last, reading) {
        (Some(end), _) => end,
        (None, Reading::Full) => stamps.len(),
        (None, Reading::AtEnd | Reading::GoesOn) => 0,
    }
}

fn may_part(before: Stamp, after: Stamp) -> bool {
    before.tx.is_none() || before.tx != after.tx
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamps(txs: &[i64]) -> Vec<Stamp> {
        txs.iter()
            .map(|tx| Stamp {
                tx: (*tx != 0).then_some(*tx),
                ts_us: None,
            })
            .collect()
    }

    fn check(txs: &[i64], reading: Reading, expected: usize) {
        assert_eq!(cut(&stamps(txs), reading), expected, "{txs:?}");
    }

    #[test]
    fn a_batch_ends_before_the_last_transaction_while_more_may_follow() {
        check(&[], Reading::GoesOn, 0);
        check(&[5, 5, 5], Reading::GoesOn, 0);
        check(&[5, 5, 6], Reading::GoesOn, 2);
        check(&[5, 6, 7, 7], Reading::GoesOn, 2);
        check(&[0, 0, 0], Reading::GoesOn, 2);
        check(&[0, 0, 5], Reading::GoesOn, 2);
        check(&[5, 5, 0], Reading::GoesOn, 2);
    }

    #[test]
    fn everything_goes_at_the_end_of_the_partition() {
        check(&[5, 5, 6], Reading::AtEnd, 3);
        check(&[], Reading::AtEnd, 0);
    }

    #[test]
    fn only_a_transaction_that_fills_the_budget_goes_in_parts() {
        check(&[5, 5, 5], Reading::Full, 3);
        check(&[4, 5, 5], Reading::Full, 1);
    }

    proptest! {
        #[test]
        fn no_cut_parts_a_transaction_that_fits(lengths in prop::collection::vec(1_usize..5, 1..20)) {
            let txs: Vec<i64> = (1_i64..).zip(&lengths).flat_map(|(tx, n)| vec![tx; *n]).collect();
            let end = cut(&stamps(&txs), Reading::GoesOn);
            let last = *lengths.last().unwrap();
            prop_assert_eq!(end, if lengths.len() == 1 { 0 } else { txs.len() - last });
        }
    }
}
