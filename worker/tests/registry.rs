//! A registry that gives out ids and publishes them, and can be away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PlainProducer, PlainRecord};
use hutong_transport::record::{Record, SchemaRecord, SubjectRecord};
use serde_json::{Value, json};

/// The registry, and what it has given out.
#[derive(Clone)]
pub(crate) struct Registry {
    pub(crate) url: String,
    state: Arc<Shared>,
}

struct Shared {
    schemas: Mutex<Vec<String>>,
    /// For each subject the ids of its versions.
    versions: Mutex<HashMap<String, Vec<u32>>>,
    is_away: AtomicBool,
    producer: PlainProducer,
    topic: String,
}

impl Registry {
    pub(crate) async fn start(cluster: &Cluster, producer: PlainProducer) -> Self {
        let state = Arc::new(Shared {
            schemas: Mutex::default(),
            versions: Mutex::default(),
            is_away: AtomicBool::new(false),
            producer,
            topic: cluster.schemas(),
        });
        let routes = Router::new()
            .route("/subjects/{subject}/versions", post(register))
            .with_state(Arc::clone(&state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, state }
    }

    pub(crate) fn schema(&self, id: u32) -> String {
        self.state.schemas.lock().unwrap()[id as usize - 1].clone()
    }

    pub(crate) fn goes_away(&self) {
        self.state.is_away.store(true, Ordering::SeqCst);
    }
}

async fn register(
    State(state): State<Arc<Shared>>,
    Path(subject): Path<String>,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    if state.is_away.load(Ordering::SeqCst) {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({"message": "away"})),
        );
    }
    let schema = body["schema"].as_str().unwrap().to_owned();
    let id = {
        let mut schemas = state.schemas.lock().unwrap();
        let known = schemas.iter().position(|known| *known == schema);
        let index = known.unwrap_or_else(|| {
            schemas.push(schema.clone());
            schemas.len() - 1
        });
        u32::try_from(index).unwrap() + 1
    };
    let version = {
        let mut versions = state.versions.lock().unwrap();
        let ids = versions.entry(subject.clone()).or_default();
        let is_new = !ids.contains(&id);
        if is_new {
            ids.push(id);
        }
        is_new.then(|| i32::try_from(ids.len()).unwrap())
    };
    if let Some(version) = version {
        let schema = SchemaRecord { v: 1, id, schema };
        let entry = SubjectRecord {
            v: 1,
            subject: subject.clone(),
            version,
            id,
            deleted: false,
        };
        for (key, value) in [
            (format!("schema/{id}"), schema.encode()),
            (format!("subject/{subject}/{version}"), entry.encode()),
        ] {
            let record = PlainRecord {
                topic: state.topic.clone(),
                partition: Some(0),
                key: key.into_bytes(),
                value: Some(value),
            };
            state.producer.send(record).await.unwrap();
        }
    }
    (StatusCode::OK, Json(json!({ "id": id })))
}
