//! Who runs a task, what is answered, and what a worker without Kafka does.

use std::time::{Duration, Instant, SystemTime};

use hutong_connectors_core::SOURCE_CLASS;
use hutong_transport::record::{RequestKind, RequestRecord, TaskState};
use serde_json::json;

use crate::bench::{Bench, Database, Worker};

fn request(name: &str, deadline_ms: i64, config: serde_json::Value) -> RequestRecord {
    RequestRecord {
        v: 1,
        request: name.to_owned(),
        deadline_ms,
        kind: RequestKind::Validate,
        config,
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_moves_to_another_worker_when_its_own_dies() {
    let bench = Bench::new("moves").await;
    let database = Database::new(&bench).await;
    database
        .sql("CREATE TABLE person (id int PRIMARY KEY, name text)")
        .await;
    let task = database.source("public.person");
    let first = bench.worker("worker-1");
    bench.want(&task).await;
    let status = bench.streams(&task).await;
    assert_eq!(status.worker_id, "worker-1");
    first.crash().await;
    let began = Instant::now();
    let second = bench.worker("worker-2");
    bench
        .status(&task, |status| {
            status.worker_id == "worker-2" && status.state == TaskState::Running
        })
        .await;
    // The session timeout of the bench is 6 s; joining and starting take their time as well.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "took {:?}",
        began.elapsed()
    );
    database.sql("INSERT INTO person VALUES (1, 'a')").await;
    let topic = format!("{}.public.person", database.name);
    assert_eq!(bench.events_until(&topic, 1).await, ["Create 1 a"]);
    second.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_validated_where_it_shall_run_and_late_requests_are_ignored() {
    let bench = Bench::new("asks").await;
    let database = Database::new(&bench).await;
    database
        .sql("CREATE TABLE person (id int PRIMARY KEY, name text)")
        .await;
    let worker = bench.worker("worker-1");
    let good = json!({ "class": SOURCE_CLASS, "properties": database.properties("public.person") });
    let mut wrong = good.clone();
    wrong["properties"]["database.dbname"] = "no_such_database".into();
    let mut malformed = good.clone();
    malformed["properties"]["snapshot.mode"] = "sometimes".into();
    malformed["properties"]["database.pasword"] = "x".into();

    let deadline_ms = now_ms() + 60_000;
    bench
        .ask(&request("late", now_ms() - 1, good.clone()))
        .await;
    bench.ask(&request("good", deadline_ms, good)).await;
    bench.ask(&request("wrong", deadline_ms, wrong)).await;
    bench
        .ask(&request("malformed", deadline_ms, malformed))
        .await;

    let patience = Duration::from_secs(30);
    let answer = bench.answer("good", patience).await.unwrap();
    assert_eq!(answer.errors, []);
    let answer = bench.answer("wrong", patience).await.unwrap();
    assert!(
        answer.errors[0].message.contains("no_such_database"),
        "{:?}",
        answer.errors
    );
    let answer = bench.answer("malformed", patience).await.unwrap();
    let properties: Vec<&str> = answer.errors.iter().map(|e| e.property.as_str()).collect();
    assert!(properties.contains(&"snapshot.mode"), "{properties:?}");
    assert!(properties.contains(&"database.pasword"), "{properties:?}");
    assert!(bench.answer("late", Duration::from_secs(2)).await.is_none());
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_starts_before_its_broker_waits_and_then_works() {
    let bench = Bench::new("early").await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let worker = Worker::start(bench.config("worker-1", &address.to_string()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while worker.get("/healthz").await.0 != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (status, text) = worker.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("waiting for Kafka"), "{text}");

    // The broker comes: the bootstrap address answers, and names where the broker listens.
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let broker = bench.bootstrap.clone();
    tokio::spawn(async move {
        while let Ok((mut incoming, _)) = listener.accept().await {
            let broker = broker.clone();
            tokio::spawn(async move {
                if let Ok(mut outgoing) = tokio::net::TcpStream::connect(&broker).await {
                    drop(tokio::io::copy_bidirectional(&mut incoming, &mut outgoing).await);
                }
            });
        }
    });
    worker.is_ready().await;
    worker.stop().await;
}

/// Whoever may have a configuration validated chooses the server to which a password goes, so nothing
/// but the asker's own secrets may be resolved: not another organisation's, not the worker's.
#[tokio::test(flavor = "multi_thread")]
async fn a_validation_resolves_the_secrets_of_who_asks_and_no_others() {
    let bench = Bench::new("secrets").await;
    let database = Database::new(&bench).await;
    // As a source that nothing keeps from running, apart from its password.
    database
        .sql("CREATE TABLE person (id int PRIMARY KEY, name text)")
        .await;
    let dir = bench.secrets_dir();
    std::fs::write(dir.join("master"), "the worker's own").unwrap();
    for owner in ["aic", "qts"] {
        std::fs::create_dir(dir.join(owner)).unwrap();
        std::fs::write(dir.join(owner).join("db"), "not asked for").unwrap();
    }
    let worker = bench.worker("worker-1");
    let references = [
        ("own", "qts", "${directory:.:db}".to_owned()),
        ("master", "qts", "${directory:..:master}".to_owned()),
        ("other", "qts", "${directory:../aic:db}".to_owned()),
        (
            "absolute",
            "qts",
            format!("${{directory:{}:master}}", dir.display()),
        ),
        ("platform", "platform", "${directory:..:master}".to_owned()),
        ("nobody", "", "${directory:.:master}".to_owned()),
    ];
    for (name, owner, reference) in &references {
        let mut properties = database.properties("public.person");
        properties["database.password"] = json!(reference);
        let config = json!({ "owner": owner, "class": SOURCE_CLASS, "properties": properties });
        bench.ask(&request(name, now_ms() + 60_000, config)).await;
    }
    let patience = Duration::from_secs(30);
    for (name, ..) in &references {
        let answer = bench.answer(name, patience).await.unwrap();
        let errors: Vec<String> = answer
            .errors
            .iter()
            .map(|error| format!("{}: {}", error.property, error.message))
            .collect();
        let refused = errors
            .iter()
            .any(|error| error.starts_with("database.password: could not resolve"));
        assert_eq!(refused, *name != "own", "{name}: {errors:?}");
        assert!(!errors.concat().contains("the worker's own"), "{errors:?}");
    }
    worker.stop().await;
    database.remove().await;
}
