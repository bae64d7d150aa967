//! What may happen in a run.

use std::fmt;

use super::model::{Policy, View};

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) action: Action,
    /// Whether it must be complete before the next one.
    pub(super) waits: bool,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Create(View, Policy),
    Change(View, Policy),
    /// A worker is killed while a view takes up a policy: at which place, of which worker.
    ChangeAndKill(View, Policy, Place),
    Rotate,
    Revoke(View),
    Source(&'static str),
    AddTable,
    /// The source worker is killed while the table is read.
    AddTableAndKill(Place),
    RemoveTable,
    Kill(Killed),
    LoseState,
    Compare,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)?;
        match &self.action {
            Action::Create(view, policy) | Action::Change(view, policy) => {
                write!(f, " {} {policy}", view.name)?;
            }
            Action::ChangeAndKill(view, policy, place) => {
                write!(f, " {} {policy}, killed at {}", view.name, place.file)?;
            }
            Action::AddTableAndKill(place) => write!(f, ", killed at {}", place.file)?,
            Action::Revoke(view) => write!(f, " {}", view.name)?,
            Action::Source(sql) => write!(f, " {sql}")?,
            Action::Rotate
            | Action::AddTable
            | Action::RemoveTable
            | Action::Kill(_)
            | Action::LoseState
            | Action::Compare => {}
        }
        f.write_str(if self.waits { ", and waits" } else { "" })
    }
}

/// What is killed outside of any particular step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Killed {
    Source,
    Processor,
    Sink,
    ControlPlane,
    Broker,
}

/// Where a worker is held before it is killed: the fault's file, and who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: &'static str,
    pub(super) whose: &'static str,
}

/// The kinds of steps, each of which a run takes at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Create,
    WidenRows,
    NarrowRows,
    OtherRows,
    WidenColumns,
    NarrowColumns,
    Mask,
    Unmask,
    Rotate,
    Revoke,
    Grant,
    AddColumn,
    WidenType,
    DropColumn,
    AddTable,
    KillInChunk,
    RemoveTable,
    Truncate,
    KillSource,
    KillProcessor,
    KillSink,
    KillControlPlane,
    KillBroker,
    KillInFill,
    LoseState,
    Compare,
}
