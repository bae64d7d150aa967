//! Asynchronous work with a name and an owner.
//!
//! Dropping the owner's handle aborts the work at the await where it stands; work that must not be
//! left half-way is told to stop first and awaited. A panic is an error to the owner, not the end of
//! the worker.

use hutong_schemas::class::Class;
use tokio::task::{JoinError, JoinHandle};

use crate::task::TaskError;

/// The handle of spawned work, by which it is owned.
#[derive(Debug)]
pub(crate) struct Owned<T> {
    name: String,
    handle: JoinHandle<T>,
}

impl<T: Send + 'static> Owned<T> {
    /// Spawns work under a name, by which logs and errors call it.
    pub(crate) fn spawn(
        name: impl Into<String>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let handle = tokio::spawn(work);
        Self {
            name: name.into(),
            handle,
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// Fatal if the work panicked.
    ///
    /// # Panics
    ///
    /// If the end was already returned: a handle's end is taken once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing; the work goes on.
    pub(crate) async fn finished(&mut self) -> Result<T, TaskError> {
        let joined = (&mut self.handle).await;
        joined.map_err(|error| self.describe(error))
    }

    /// Returns whether the end has come.
    pub(crate) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Aborts the work and waits until it is gone.
    pub(crate) async fn abort_and_wait(mut self) {
        self.handle.abort();
        drop((&mut self.handle).await);
    }

    fn describe(&self, error: JoinError) -> TaskError {
        let text = match error.try_into_panic() {
            Ok(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned());
                format!("panicked: {}", text.unwrap_or_default())
            }
            Err(_) => "was aborted".to_owned(),
        };
        TaskError::new(Class::Fatal, format!("{} {text}", self.name))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

#[cfg(test)]
mod tests {
    use hutong_schemas::class::Class;

    use super::Owned;

    #[tokio::test]
    async fn a_panic_is_a_fatal_error_with_the_name_of_the_work() {
        let mut work = Owned::spawn("attempt rk-0", async {
            if std::hint::black_box(true) {
                panic!("row 7 is impossible");
            }
        });
        let error = work.finished().await.unwrap_err();
        assert_eq!(error.class, Class::Fatal);
        assert_eq!(error.message, "attempt rk-0 panicked: row 7 is impossible");
    }

    #[tokio::test]
    async fn dropping_the_handle_ends_the_work() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let work = Owned::spawn("holds a sender", async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(work);
        assert!(receiver.await.is_err());
    }
}
