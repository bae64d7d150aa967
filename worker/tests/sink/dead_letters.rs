//! Records that the table refuses, where errors are tolerated.

use super::*;

fn tolerate(task: &mut TaskRecord) {
    let properties = &mut task.config["properties"];
    properties["errors.tolerance"] = "all".into();
    properties["errors.deadletterqueue.topic.name"] = "${topic}.dlq".into();
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_records_are_put_aside_made_up_for_and_replayed() {
    let bench = Bench::new("letters").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    tolerate(&mut task);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    database
        .sql(&format!(
            "ALTER TABLE {name} ADD CONSTRAINT good CHECK (txt NOT LIKE 'bad%')"
        ))
        .await;
    let mut rows: Vec<Change<'_>> = (1..=40).map(|id| (1, id, Some("good"))).collect();
    // A good row of the same key before a bad one stays.
    rows.extend([(1, 7, Some("bad-seven")), (1, 50, Some("bad-fifty"))]);
    view.commit(&rows).await;
    has_rows(&database, &name, 40).await;
    let status = bench
        .status(&task, |status| {
            status.details["inputs"][0]["dead_letters"] == 2
        })
        .await;
    assert_eq!(status.state, TaskState::Running);
    let dlq = format!("{}.dlq", view.topic);
    let admin = Admin::new(&bench.kafka).unwrap();
    let ends = admin.end_offsets(&dlq, Isolation::ReadCommitted).await;
    assert_eq!(ends.unwrap()[&0], 2);
    let seven = format!("SELECT count(*) FROM {name} WHERE id_txt = 7 AND txt = 'good'");
    assert_eq!(database.count(&seven).await, 1);
    // A later record of the key makes up for the letter.
    view.commit(&[(2, 7, Some("better"))]).await;
    let open = "SELECT count(*) FROM hutong_dead_letter";
    until("the letter is closed", async || {
        database.count(open).await == 1
    })
    .await;
    database
        .sql(&format!("ALTER TABLE {name} DROP CONSTRAINT good"))
        .await;
    task.version = 2;
    task.config["properties"]["hutong.dead.letters.replay"] = "once".into();
    bench.want(&task).await;
    until("the letter is replayed", async || {
        database.count(open).await == 0
    })
    .await;
    let replayed = format!(
        "SELECT count(*) FROM {name} WHERE (id_txt, txt) IN ((7, 'better'), (50, 'bad-fifty'))"
    );
    assert_eq!(database.count(&replayed).await, 2);
    let ends = admin.end_offsets(&dlq, Isolation::ReadCommitted).await;
    assert_eq!(ends.unwrap()[&0], 2, "a replay adds no letters");
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_the_table_refuses_stops_the_input_even_where_errors_are_tolerated() {
    let bench = Bench::new("refusedel").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    tolerate(&mut task);
    view.commit(&[(1, 1, Some("x")), (1, 2, Some("y"))]).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 2).await;
    database
        .sql(&format!(
            "CREATE TABLE own (id bigint REFERENCES {name}); INSERT INTO own VALUES (1)"
        ))
        .await;
    view.commit(&[(2, 1, None)]).await;
    let status = bench.state(&task, TaskState::Failed).await;
    let error = status.error.unwrap();
    assert!(
        error.hint.unwrap().contains("must leave the table"),
        "{}",
        error.message
    );
    database.sql("DROP TABLE own").await;
    task.restart += 1;
    bench.want(&task).await;
    has_rows(&database, &name, 1).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_is_put_aside_as_it_is() {
    let bench = Bench::new("poison").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    tolerate(&mut task);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    let producer = hutong_transport::producer::PlainProducer::new(&bench.kafka).unwrap();
    let record = hutong_transport::producer::PlainRecord {
        topic: view.topic.to_string(),
        partition: Some(0),
        key: b"no key of ours".to_vec(),
        value: Some(b"no value of ours".to_vec()),
    };
    producer.send(record).await.unwrap();
    view.commit(&[(1, 1, Some("x"))]).await;
    has_rows(&database, &name, 1).await;
    let open = "SELECT count(*) FROM hutong_dead_letter WHERE record_key = 'no key of ours'::bytea";
    assert_eq!(database.count(open).await, 1);
    worker.stop().await;
    database.remove().await;
}
