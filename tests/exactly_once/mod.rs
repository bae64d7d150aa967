//! Exactly once: every committed change in the topic once, its effect in every view once, whatever
//! is killed, frozen, fenced or left without an answer.

mod failpoints;
mod faults;
mod kills;
pub(crate) mod ledger;
pub(crate) mod mortal;
mod stand;
pub(crate) mod topic;
