//! Follows some partitions of the tasks topic.

use std::collections::BTreeMap;
use std::time::Duration;

use hutong_transport::KafkaConfig;
use hutong_transport::reader::{CompactedReader, Event, Message};
use tokio::sync::{mpsc, watch};

use crate::owned::Owned;
use crate::retry;

/// Tells followers of one worker apart: each assignment has its own.
pub(crate) type FollowerId = u64;

/// The offset up to which each partition has been read.
pub(crate) type Reached = BTreeMap<i32, i64>;

/// What a follower found.
#[derive(Debug)]
pub(crate) enum Followed {
    /// It begins at the beginning of its partitions.
    Begun(FollowerId),
    /// A record.
    Record(FollowerId, Message),
    /// All that was there when it began has been said.
    End(FollowerId),
}

/// A follower that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    reached: watch::Receiver<Reached>,
    _running: Owned<()>,
}

impl Follower {
    /// Starts to follow. What it finds goes to `found`, whose bound makes it wait.
    pub(crate) fn start(
        id: FollowerId,
        kafka: KafkaConfig,
        topic: String,
        partitions: Vec<i32>,
        found: mpsc::Sender<Followed>,
    ) -> Self {
        let (sender, reached) = watch::channel(Reached::new());
        let running = Owned::spawn(format!("follower {id} of {topic}"), async move {
            loop {
                let mut reader = retry::until_done("read the tasks topic", || {
                    CompactedReader::open_partitions(&kafka, &topic, &partitions)
                })
                .await;
                if found.send(Followed::Begun(id)).await.is_err() {
                    return;
                }
                match follow(id, &mut reader, &found, &sender).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(topic, %error, "reading the tasks topic begins anew");
                    }
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        Self {
            reached,
            _running: running,
        }
    }

    /// Returns how far it has read.
    pub(crate) fn reached(&self) -> watch::Receiver<Reached> {
        self.reached.clone()
    }
}

/// How often it is said how far has been read while nothing comes.
const REACHED_INTERVAL: Duration = Duration::from_millis(500);

/// Returns when nobody listens any more.
async fn follow(
    id: FollowerId,
    reader: &mut CompactedReader,
    found: &mpsc::Sender<Followed>,
    reached: &watch::Sender<Reached>,
) -> Result<(), hutong_transport::Error> {
    loop {
        reached.send_replace(reader.positions());
        let followed = match tokio::time::timeout(REACHED_INTERVAL, reader.next()).await {
            Ok(event) => match event? {
                Event::Record(message) => Followed::Record(id, message),
                Event::End => Followed::End(id),
            },
            Err(_) => continue,
        };
        if found.send(followed).await.is_err() {
            return Ok(());
        }
    }
}
