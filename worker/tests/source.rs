//! A source task from its record to the topic.

use std::time::{Duration, Instant};

use hutong_transport::faults::{self, Fault};
use hutong_transport::reader::{CompactedReader, Event};
use hutong_transport::record::{Record, TableRecord, TargetState, TaskState};

use crate::bench::{Bench, Database};

const TABLE: &str = "CREATE TABLE person (id int PRIMARY KEY, name text)";

fn rows(from: u32, to: u32) -> String {
    format!("INSERT INTO person SELECT n, 'p' || n FROM generate_series({from}, {to}) n")
}

fn expected(op: &str, from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|n| format!("{op} {n} p{n}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_and_its_changes_are_in_the_topic_once_and_the_status_tells() {
    let bench = Bench::new("whole").await;
    let database = Database::new(&bench).await;
    database.sql(TABLE).await;
    database.sql(&rows(1, 100)).await;
    let task = database.source("public.person");
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let topic = format!("{}.public.person", database.name);
    bench.streams(&task).await;
    assert_eq!(
        bench.events_until(&topic, 100).await,
        expected("Read", 1, 100)
    );

    database
        .sql("INSERT INTO person VALUES (101, 'p101')")
        .await;
    database
        .sql("UPDATE person SET name = 'renamed' WHERE id = 101")
        .await;
    database.sql("DELETE FROM person WHERE id = 1").await;
    let events = bench.events_until(&topic, 104).await;
    assert_eq!(events[100..102], ["Create 101 p101", "Update 101 renamed"]);
    assert!(events[102].starts_with("Delete 1 "), "{}", events[102]);
    assert_eq!(events[103], "tombstone");
    assert_eq!(events.len(), 104);

    let status = bench.streams(&task).await;
    assert_eq!(status.worker_id, "worker-1");
    assert_eq!(status.details["slot"], database.name);
    assert!(status.error.is_none());
    let (_, metrics) = worker.get("/metrics").await;
    let counted = format!("hutong_source_events_total{{task=\"{}\"}} 103", task.task);
    assert!(metrics.contains(&counted), "{metrics}");

    let tables = bench.cluster.tables("default");
    let mut reader = CompactedReader::open(&bench.kafka, &tables).await.unwrap();
    let Event::Record(message) = reader.next().await.unwrap() else {
        panic!("the table is announced")
    };
    let table = TableRecord::decode(&message.value.unwrap()).unwrap();
    assert_eq!(
        (table.topic, table.connector),
        (topic, task.connector.clone())
    );
    worker.stop().await;
    bench.state(&task, TaskState::Unassigned).await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_crashes_comes_back_within_ten_seconds_and_repeats_nothing() {
    let bench = Bench::new("crash").await;
    let database = Database::new(&bench).await;
    database.sql(TABLE).await;
    let task = database.source("public.person");
    let topic = format!("{}.public.person", database.name);
    let mut worker = bench.worker("worker-1");
    bench.want(&task).await;
    bench.streams(&task).await;
    for round in 0..4_u32 {
        let client = std::sync::Arc::clone(&database.client);
        let writing = tokio::spawn(async move {
            for n in 1..=100 {
                let id = round * 100 + n;
                client.batch_execute(&rows(id, id)).await.unwrap();
            }
        });
        let before = usize::try_from(round * 100 + 20).unwrap();
        bench.events_until(&topic, before).await;
        worker.crash().await;
        let began = Instant::now();
        worker = bench.worker("worker-1");
        writing.await.unwrap();
        let all = usize::try_from((round + 1) * 100).unwrap();
        bench.events_until(&topic, all).await;
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "took {:?}",
            began.elapsed()
        );
    }
    assert_eq!(bench.events(&topic).await, expected("Create", 1, 400));
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_commit_loses_and_repeats_nothing() {
    let bench = Bench::new("lost").await;
    let database = Database::new(&bench).await;
    database.sql(TABLE).await;
    let task = database.source("public.person");
    let topic = format!("{}.public.person", database.name);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    bench.streams(&task).await;
    for (round, fault) in [Fault::DropAnswer, Fault::FailBeforeCommit]
        .into_iter()
        .enumerate()
    {
        let round = u32::try_from(round).unwrap();
        let armed = faults::arm(&database.name, fault, 1);
        database.sql(&rows(round * 50 + 1, round * 50 + 50)).await;
        bench
            .events_until(&topic, usize::try_from(round * 50 + 50).unwrap())
            .await;
        drop(armed);
    }
    database.sql(&rows(101, 101)).await;
    bench.events_until(&topic, 101).await;
    assert_eq!(bench.events(&topic).await, expected("Create", 1, 101));
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_paused_resumed_and_deleted_with_its_slot() {
    let bench = Bench::new("pause").await;
    let database = Database::new(&bench).await;
    database.sql(TABLE).await;
    let mut task = database.source("public.person");
    let topic = format!("{}.public.person", database.name);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    bench.streams(&task).await;
    database.sql(&rows(1, 10)).await;
    bench.events_until(&topic, 10).await;

    task.version += 1;
    task.target = TargetState::Paused;
    bench.want(&task).await;
    bench.state(&task, TaskState::Paused).await;
    database.sql(&rows(11, 20)).await;
    assert_eq!(database.slots().await, 1, "a paused source keeps its slot");
    assert_eq!(bench.events(&topic).await.len(), 10);

    task.version += 1;
    task.target = TargetState::Running;
    bench.want(&task).await;
    bench.state(&task, TaskState::Running).await;
    bench.events_until(&topic, 20).await;
    assert_eq!(bench.events(&topic).await, expected("Create", 1, 20));

    task.version += 1;
    task.target = TargetState::Deleted;
    bench.want(&task).await;
    bench.state(&task, TaskState::Deleted).await;
    assert_eq!(database.slots().await, 0);
    let publications = "SELECT count(*) FROM pg_publication";
    assert_eq!(database.count(publications).await, 0);
    bench.forget(&task).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_starts_again_while_the_registry_is_away() {
    let bench = Bench::new("away").await;
    let database = Database::new(&bench).await;
    database.sql(TABLE).await;
    let task = database.source("public.person");
    let topic = format!("{}.public.person", database.name);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    database.sql(&rows(1, 10)).await;
    bench.events_until(&topic, 10).await;
    worker.stop().await;
    bench.registry.goes_away();
    let worker = bench.worker("worker-1");
    database.sql(&rows(11, 20)).await;
    let events = bench.events_until(&topic, 20).await;
    assert_eq!(events.len(), 20);
    assert_eq!(events[10..], expected("Create", 11, 20));
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_run_says_why_and_the_others_go_on() {
    let bench = Bench::new("wrong").await;
    let database = Database::new(&bench).await;
    database.sql(TABLE).await;
    database.sql(&rows(1, 5)).await;
    let good = database.source("public.person");
    let mut wrong = database.source("public.nobody");
    wrong.task = format!("{}-wrong", database.name);
    wrong.connector = wrong.task.clone();
    wrong.config["properties"]["topic.prefix"] = wrong.task.clone().into();
    wrong.config["properties"]["slot.name"] = format!("{}_wrong", database.name).into();
    wrong.config["properties"]["publication.name"] = format!("{}_wrong", database.name).into();
    let worker = bench.worker("worker-1");
    bench.want(&wrong).await;
    bench.want(&good).await;
    let status = bench.state(&wrong, TaskState::Failed).await;
    let error = status.error.expect("it says why");
    assert!(error.message.contains("nobody"), "{error:?}");
    let topic = format!("{}.public.person", database.name);
    assert_eq!(bench.events_until(&topic, 5).await.len(), 5);
    let (_, metrics) = worker.get("/metrics").await;
    let failed = format!("hutong_task_failed{{task=\"{}\"}} 1", wrong.task);
    assert!(metrics.contains(&failed), "{metrics}");

    wrong.restart += 1;
    bench.want(&wrong).await;
    bench.state(&wrong, TaskState::Failed).await;
    worker.stop().await;
    database.remove().await;
}
