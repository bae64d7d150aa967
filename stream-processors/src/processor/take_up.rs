//! What becomes of a view when its task is taken up: it goes on, begins a difference run, or waits.

use hutong_policies::{Evaluator, ViewState, ViewTask, secret};

use crate::position::{Progress, VERSION, ViewPosition};
use crate::view::View;

/// Decides what a view does, from where it stood and what its task says now.
pub(super) fn take_up(
    task: ViewTask,
    base: Option<ViewPosition>,
    committed: Option<ViewPosition>,
    total: u64,
    is_start: bool,
) -> View {
    let same = base.filter(|position| {
        position.generation == task.generation && position.topic_id == task.topic_id
    });
    let fresh = |progress| ViewPosition {
        v: VERSION,
        version: task.version,
        generation: task.generation,
        topic_id: task.topic_id.clone(),
        mark: 1,
        filled: 0,
        total,
        fill_end: None,
        tombstone_ms: None,
        secret_fingerprint: None,
        progress,
    };
    let mut run = false;
    let position = match same {
        _ if task.state == ViewState::Revoked => fresh(Progress::Revoked),
        None => fresh(Progress::Pending),
        Some(position) => {
            let changed = position.version != task.version;
            run = match &position.progress {
                Progress::Filling { .. }
                | Progress::Sweeping { .. }
                | Progress::Live
                | Progress::Expiring => changed,
                // A restart is how a person says that the reason is gone.
                Progress::Suspended { .. } => changed || is_start,
                Progress::Expired | Progress::Revoked => changed,
                Progress::Pending => false,
            };
            ViewPosition {
                version: task.version,
                ..position
            }
        }
    };
    let mut view = View::new(task, position, committed);
    if run {
        view.begin_difference(total);
    }
    view
}

/// Suspends a view whose keys or hashes were computed under another secret than ours: all of them
/// would be others, and what is there could not be found to be deleted.
pub(super) fn check_secret(view: &mut View, master: Option<&[u8]>) {
    let has_begun = view.position.progress.applies_changes()
        || matches!(view.position.progress, Progress::Pending);
    if !view.task.needs_secret || !has_begun {
        return;
    }
    let known = view.task.secret_fingerprint.clone();
    let known = known.or_else(|| view.position.secret_fingerprint.clone());
    let task = ViewTask {
        secret_fingerprint: known,
        ..view.task.clone()
    };
    match Evaluator::check_secret(&task, master) {
        Ok(()) => view.position.secret_fingerprint = master.map(secret::fingerprint),
        Err(error) => view.suspend(&error),
    }
}

/// A run that must sweep begins again where the marks were lost.
pub(super) fn restart_unmarked(view: &mut View, total: u64) {
    match &view.position.progress {
        Progress::Filling { sweep: true, .. } | Progress::Sweeping { .. } => {
            view.begin_difference(total)
        }
        Progress::Filling { sweep: false, .. }
        | Progress::Pending
        | Progress::Live
        | Progress::Suspended { .. }
        | Progress::Expiring
        | Progress::Expired
        | Progress::Revoked => {}
    }
}
