//! Scripted faults for tests. (body follows)

/// What shall happen to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The commit succeeds, its answer is lost.
    DropAnswer,
    /// The transaction stays open, uncommitted, until released.
    HoldBeforeCommit,
    /// The commit fails before it is sent.
    FailBeforeCommit,
}

/// Arms a fault for the `nth` commit from now (1 = the next) of producers whose transactional id
/// contains `transactional_id`.
pub fn arm(transactional_id: &str, fault: Fault, nth: u64) {
    let _ = (transactional_id, fault, nth);
}
