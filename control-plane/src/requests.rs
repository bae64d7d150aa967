//! Asking a location's workers what only they can tell or do.
//!
//! ```text
//!   ask ── request/<uuid> ──> tasks topic ──> a worker at the location
//!    ^                                               │ looks, does, answers
//!    └────── answer, within 10 s ── status topic <───┘
//! ```
//!
//! A request goes through the outbox, as everything for workers does, and is withdrawn when it was
//! answered or is late. A control plane that dies in between leaves a request that workers ignore
//! after its deadline and that the next leader withdraws. The partition says who answers: that of a
//! task is read by the worker that has the task, and behind the task's own newest record.

use std::time::Duration;

use hutong_transport::names::{Cluster, TASK_PARTITIONS, partition_of};
use hutong_transport::record::{
    AnswerRecord, Record, RequestKind, RequestRecord, VERSION, request_key,
};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::App;
use crate::error::Error;
use crate::live::Live;
use crate::store::outbox;

/// How long a location has to answer.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom<'a> {
    /// Any worker of the location.
    Anyone,
    /// The worker that has this task.
    TaskOwner(&'a str),
}

/// A question to a location.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    /// Who asks: an organisation.
    pub(crate) owner: &'a str,
    /// Where.
    pub(crate) location: &'a str,
    /// Who is asked there.
    pub(crate) whom: Whom<'a>,
    /// What is asked.
    pub(crate) kind: RequestKind,
    /// About what.
    pub(crate) config: Value,
}

/// Asks and waits for the answer; `None` if none came in time.
///
/// # Cancel safety
///
/// Dropped, as when a client goes away, it leaves nothing in memory; the request stays in the topic
/// until the leader finds it late.
pub(crate) async fn ask(app: &App, question: Question<'_>) -> Result<Option<AnswerRecord>, Error> {
    let request = Uuid::new_v4().to_string();
    let partition = match question.whom {
        Whom::Anyone => partition_of(request.as_bytes(), TASK_PARTITIONS),
        Whom::TaskOwner(task) => partition_of(task.as_bytes(), TASK_PARTITIONS),
    };
    let location = question.location;
    let answer = app.live.await_answer(&request);
    let waiting = Waiting {
        live: &app.live,
        request: &request,
    };
    send(app, question, partition, &request).await?;
    let answered = tokio::time::timeout(ANSWER_TIME, answer).await;
    drop(waiting);
    let mut tx = app.store.begin().await?;
    withdraw(&mut tx, &app.cluster, location, partition, &request).await?;
    tx.commit().await?;
    Ok(answered.ok().and_then(Result::ok))
}

/// Somebody who waits for an answer, however the waiting ends.
struct Waiting<'a> {
    live: &'a Live,
    request: &'a str,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.live.forget(self.request);
    }
}

async fn send(
    app: &App,
    question: Question<'_>,
    partition: i32,
    request: &str,
) -> Result<(), Error> {
    let answer_ms = i64::try_from(ANSWER_TIME.as_millis()).unwrap_or(i64::MAX);
    let record = RequestRecord {
        v: VERSION,
        request: request.to_owned(),
        deadline_ms: crate::now_ms().saturating_add(answer_ms),
        kind: question.kind,
        config: question.config,
    };
    let value = String::from_utf8(record.encode()).expect("JSON is UTF-8");
    let mut tx = app.store.begin().await?;
    let new = outbox::New {
        owner: question.owner,
        topic: &app.cluster.tasks(question.location),
        partition: Some(partition),
        key: &request_key(request),
        value: Some(&value),
    };
    outbox::add(&mut tx, new).await?;
    tx.commit().await?;
    Ok(())
}

/// Removes a request from its topic.
pub(crate) async fn withdraw(
    db: &mut PgConnection,
    cluster: &Cluster,
    location: &str,
    partition: i32,
    request: &str,
) -> Result<(), Error> {
    let new = outbox::New {
        owner: crate::caller::PLATFORM,
        topic: &cluster.tasks(location),
        partition: Some(partition),
        key: &request_key(request),
        value: None,
    };
    outbox::add(db, new).await
}
