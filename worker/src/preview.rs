//! Requests to count what a change of a view would move: from whoever answers requests to the
//! processor that has the rows, and back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hutong_policies::ViewTask;
use hutong_stream_processors::DiskStore;
use hutong_stream_processors::preview::{Counted, Preview};
use hutong_transport::record::PropertyMistake;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::schema_cache::SchemaCache;
use crate::task::TaskError;

/// Counts that may wait at one processor.
const WAITING_MAX: usize = 4;
/// How often it is looked whether a processor that is starting takes requests by now.
const LOOK: Duration = Duration::from_millis(100);
/// Rows that are looked at in one go on a thread for blocking work.
const PART: u64 = 20_000;

/// A count that a processor is asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The view as it would be.
    pub(crate) then: ViewTask,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Result<Value, String>>,
}

/// Where the processors of this worker take such requests.
#[derive(Debug, Default)]
pub(crate) struct Desks {
    /// A `std` mutex: held for one look-up, never across an await.
    desks: Mutex<HashMap<String, mpsc::Sender<Asked>>>,
}

/// A desk that is open as long as this lives.
#[derive(Debug)]
pub(crate) struct Desk {
    desks: Arc<Desks>,
    task: String,
    asked: mpsc::Receiver<Asked>,
}

impl Desks {
    /// Opens a task's desk; that of an attempt before it is closed with it.
    pub(crate) fn open(self: &Arc<Self>, task: &str) -> Desk {
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        desks.insert(task.to_owned(), sender);
        drop(desks);
        Desk {
            desks: Arc::clone(self),
            task: task.to_owned(),
            asked,
        }
    }

    fn find(&self, task: &str) -> Option<mpsc::Sender<Asked>> {
        let desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        let found = desks.get(task).cloned();
        found.filter(|desk| !desk.is_closed())
    }
}

impl Desk {
    /// Returns a request that waits.
    pub(crate) fn next(&mut self) -> Option<Asked> {
        self.asked.try_recv().ok()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.asked.close();
        let mut desks = self
            .desks
            .desks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if desks.get(&self.task).is_some_and(mpsc::Sender::is_closed) {
            desks.remove(&self.task);
        }
    }
}

#[derive(Deserialize)]
struct Question {
    task: String,
    view: ViewTask,
}

/// Asks the processor and waits, without a bound of its own: whoever asks has one. A processor that
/// is not running here, now, may be soon.
pub(crate) async fn answer(desks: &Desks, config: &Value) -> (Vec<PropertyMistake>, Value) {
    let refused = |message: String| {
        let property = "view".to_owned();
        (vec![PropertyMistake { property, message }], Value::Null)
    };
    let question = match Question::deserialize(config) {
        Ok(question) => question,
        Err(error) => return refused(format!("the request is malformed: {error}")),
    };
    loop {
        if let Some(desk) = desks.find(&question.task) {
            let (reply, answer) = oneshot::channel();
            let asked = Asked {
                then: question.view.clone(),
                reply,
            };
            if desk.send(asked).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return match answer {
                    Ok(counts) => (Vec::new(), counts),
                    Err(message) => refused(message),
                };
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Counts, beside the processor that goes on writing to the store.
pub(crate) async fn count(
    store: DiskStore,
    schemas: Arc<SchemaCache>,
    now: ViewTask,
    then: ViewTask,
    secret: Option<Vec<u8>>,
) -> Result<Value, String> {
    let mut preview = Preview::new(now, then, secret);
    loop {
        let reader = store.clone();
        let part = tokio::task::spawn_blocking(move || {
            let counted = preview.advance(&reader, PART);
            (preview, counted)
        });
        let (returned, counted) = part
            .await
            .map_err(|error| format!("counting panicked: {error}"))?;
        preview = returned;
        match counted.map_err(|error| crate::task::chain(&error))? {
            Counted::Done(counts) => {
                return serde_json::to_value(counts).map_err(|error| error.to_string());
            }
            Counted::More => {}
            Counted::Needs(id) => {
                let failed = |error: TaskError| error.message;
                let schema = schemas.schema(id).await;
                let schema = schema.map_err(|error| failed(error.into()))?;
                preview
                    .add_schema(id, &schema)
                    .map_err(|error| failed(error.into()))?;
            }
        }
    }
}
