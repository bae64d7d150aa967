//! Inputs and databases that cannot go on.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_go_on_says_why_and_the_others_go_on() {
    let bench = Bench::new("alone").await;
    let database = Database::new(&bench).await;
    let good = View::new(&bench, "good", "g", 1).await;
    let bad = View::new(&bench, "bad", "b", 1).await;
    let topics = format!("{},{}", good.name, bad.name);
    let mut task = sink(
        &bench,
        &database,
        &topics,
        vec![good.input("live"), bad.input("live")],
    );
    database
        .sql(&format!(
            "CREATE TABLE {} (id_b text PRIMARY KEY, b text)",
            table(&bad)
        ))
        .await;
    good.commit(&[(1, 1, Some("x"))]).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    has_rows(&database, &table(&good), 1).await;
    let status = bench
        .status(&task, |status| {
            status.details["inputs"][1]["state"] == "failed"
        })
        .await;
    assert_eq!(status.details["inputs"][1]["error"]["class"], "definite");
    let message = status.details["inputs"][1]["error"]["message"]
        .as_str()
        .unwrap();
    assert!(
        message.contains("column id_b is text, it must be bigint"),
        "{message}"
    );
    good.commit(&[(2, 2, Some("y"))]).await;
    has_rows(&database, &table(&good), 2).await;
    database.sql(&format!("DROP TABLE {}", table(&bad))).await;
    bad.commit(&[(3, 3, Some("z"))]).await;
    task.restart += 1;
    bench.want(&task).await;
    has_rows(&database, &table(&bad), 1).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_shown_and_ends_by_itself() {
    let bench = Bench::new("full").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    database
        .sql(&format!(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON {name} EXECUTE FUNCTION full_disk()"
        ))
        .await;
    view.commit(&[(1, 1, Some("x"))]).await;
    // A first attempt may have found another reason to begin anew.
    let full = "No space left on device (SQLSTATE 53100)";
    bench
        .status(&task, |status| {
            let error = status.error.as_ref();
            status.state == TaskState::Restarting
                && error.is_some_and(|error| error.message.contains(full))
        })
        .await;
    database
        .sql(&format!("DROP TRIGGER full_disk ON {name}"))
        .await;
    has_rows(&database, &name, 1).await;
    bench.state(&task, TaskState::Running).await;
    worker.stop().await;
    database.remove().await;
}
