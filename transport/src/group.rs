//! Which worker has which tasks.

use tokio::sync::oneshot;

use crate::config::KafkaConfig;
use crate::error::Error;

/// A change of what this member owns.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are ours from now on.
    Assigned {
        /// Which.
        partitions: Vec<i32>,
    },
    /// These partitions must be given up: stop what runs in them, then send `done`.
    Revoked {
        /// Which.
        partitions: Vec<i32>,
        /// To be sent, or dropped, when nothing runs there any more.
        done: oneshot::Sender<()>,
    },
    /// These partitions are somebody else's already: stop at once.
    Lost {
        /// Which.
        partitions: Vec<i32>,
    },
}

/// A member of a location's group of workers.
#[derive(Debug)]
pub struct TaskGroup {
    _private: (),
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl TaskGroup {
    /// Joins the group with a static membership, over the partitions of a topic of tasks.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn join(
        config: &KafkaConfig,
        group_id: &str,
        instance_id: &str,
        topic: &str,
    ) -> Result<Self, Error> {
        let _ = (config, group_id, instance_id, topic);
        Ok(Self { _private: () })
    }

    /// Waits for the next change.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if it is dropped.
    ///
    /// # Errors
    ///
    /// By class.
    pub async fn next(&mut self) -> Result<GroupEvent, Error> {
        std::future::pending().await
    }

    /// Returns what proves membership, to be used while another task waits in [`next`](Self::next).
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership { _private: () }
    }

    /// Leaves the group.
    pub async fn leave(self) {}
}

/// Proves that the member still owns a partition. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Membership {
    _private: (),
}

#[expect(clippy::unused_async, reason = "bodies follow")]
impl Membership {
    /// Commits an offset that nobody reads, which only a current member can do.
    ///
    /// # Errors
    ///
    /// Fenced: the member does not own the partition any more. Else transient.
    pub async fn commit_sync(&self, partition: i32) -> Result<(), Error> {
        let _ = partition;
        Ok(())
    }
}
