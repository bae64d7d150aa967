//! A new generation of a view in the table of the former one.

use hutong_connectors_postgres::sink::faults::{Fault, arm, is_armed};

use super::*;

/// A view with a name and a number that may be withdrawn.
async fn person(bench: &Bench, generation: u64, with_number: bool) -> View {
    let id = view_field("id", SqlType::Int8, false);
    let mut row = vec![id.clone(), view_field("name", SqlType::Text, true)];
    if with_number {
        row.push(view_field("number", SqlType::Text, false));
    }
    View::of(bench, "person", generation, 2, &id, &row).await
}

async fn fill(view: &View, ids: std::ops::Range<i64>, with_number: bool) {
    let rows: Vec<Vec<Cell<'_>>> = ids
        .map(|id| {
            let mut row = vec![Cell::Int(id), Cell::Text("name")];
            row.extend(with_number.then_some(Cell::Text("secret")));
            row
        })
        .collect();
    let records = rows.iter().map(|row| (1, row[0], Some(row.as_slice())));
    view.write(records).await;
}

fn next(task: &mut TaskRecord, view: &View, withdrawn: &[&str]) {
    task.version += 1;
    task.config["inputs"][0] = view.input("live");
    task.config["inputs"][0]["withdrawn"] = json!(withdrawn);
}

async fn numbers(database: &Database, name: &str) -> i64 {
    let sql = format!("SELECT count(number) FROM {name}");
    database.count(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_values_go_at_once_and_rows_that_the_new_generation_lacks_at_the_end_of_its_fill()
{
    let bench = Bench::new("narrow").await;
    let database = Database::new(&bench).await;
    let first = person(&bench, 1, true).await;
    let mut task = sink(&bench, &database, &first.name, vec![first.input("live")]);
    fill(&first, 0..400, true).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&first);
    has_rows(&database, &name, 400).await;
    assert_eq!(numbers(&database, &name).await, 400);
    // The new topic does not even exist yet.
    let mut gone = first.input("live");
    gone["topic"] = format!("{}.g2", first.name).into();
    gone["generation"] = 2.into();
    gone["withdrawn"] = json!(["number"]);
    task.version = 2;
    task.config["inputs"][0] = gone;
    bench.want(&task).await;
    until("the numbers are gone", async || {
        numbers(&database, &name).await == 0
    })
    .await;
    has_rows(&database, &name, 400).await;
    bench
        .status(&task, |status| {
            let input = &status.details["inputs"][0];
            status.version == 2 && status.state == TaskState::Running && input["state"] == "waiting"
        })
        .await;
    let second = person(&bench, 2, false).await;
    next(&mut task, &second, &["number"]);
    fill(&second, 200..600, false).await;
    bench.want(&task).await;
    // Old and new rows side by side, until it is known where the fill ends.
    has_rows(&database, &name, 600).await;
    let status = bench
        .status(&task, |status| {
            status.details["inputs"][0]["lag_records"] == 0
        })
        .await;
    assert_eq!(status.details["inputs"][0]["rebuilding"], true);
    assert_eq!(status.details["inputs"][0]["swept_generation"], 1);
    let epoch = "SELECT epoch FROM hutong_view";
    let lane = database.count(epoch).await;
    task.version += 1;
    task.config["inputs"][0]["fill_ends"] = json!(second.end_offsets(&bench).await);
    bench.want(&task).await;
    has_rows(&database, &name, 400).await;
    let ids = format!("SELECT min(id) * 1000 + max(id) FROM {name}");
    assert_eq!(database.count(&ids).await, 200_599);
    let status = bench
        .status(&task, |status| {
            status.details["inputs"][0]["swept_generation"] == 2
        })
        .await;
    assert_eq!(status.details["inputs"][0]["rebuilding"], false);
    assert_eq!(
        database.count(epoch).await,
        lane,
        "the lane took it up in place"
    );
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_ends_in_the_rows_of_the_new_generation() {
    let bench = Bench::new("gencrash").await;
    let database = Database::new(&bench).await;
    let mut view = person(&bench, 1, true).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    fill(&view, 0..50, true).await;
    let mut worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 50).await;
    let points = [
        "before-null",
        "after-null",
        "nulled",
        "before-note",
        "after-note",
        "before-sweep",
        "after-sweep",
        "swept",
    ];
    for (generation, point) in (2..).zip(points) {
        view = person(&bench, generation, generation % 2 == 1).await;
        let from = i64::try_from(generation).unwrap() * 7;
        fill(&view, from..from + 60, generation % 2 == 1).await;
        next(&mut task, &view, &["number"]);
        task.config["inputs"][0]["fill_ends"] = json!(view.end_offsets(&bench).await);
        arm(&task.connector, Fault::HoldAt(point));
        bench.want(&task).await;
        // Held there, the worker dies.
        until(point, async || !is_armed(&task.connector)).await;
        worker.crash().await;
        worker = bench.worker("worker-1");
        let done = format!(
            "SELECT count(*) FROM hutong_view WHERE swept_generation = {generation}
             AND (SELECT count(*) = 60 AND min(id) = {from} FROM {name})"
        );
        until(point, async || database.count(&done).await == 1).await;
        assert_eq!(
            numbers(&database, &name).await,
            if generation % 2 == 1 { 60 } else { 0 }
        );
    }
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_was_away_for_three_generations_holds_the_last_one_only() {
    let bench = Bench::new("away").await;
    let database = Database::new(&bench).await;
    let first = person(&bench, 1, true).await;
    let mut task = sink(&bench, &database, &first.name, vec![first.input("live")]);
    fill(&first, 0..100, true).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&first);
    has_rows(&database, &name, 100).await;
    worker.stop().await;
    let fourth = person(&bench, 4, false).await;
    fill(&fourth, 50..80, false).await;
    next(&mut task, &fourth, &[]);
    task.config["inputs"][0]["fill_ends"] = json!(fourth.end_offsets(&bench).await);
    bench.want(&task).await;
    let worker = bench.worker("worker-1");
    has_rows(&database, &name, 30).await;
    assert_eq!(numbers(&database, &name).await, 0);
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_long_absence_what_is_gone_is_swept_while_the_rest_is_never_missing() {
    let bench = Bench::new("absence").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 2).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let rows: Vec<Change<'_>> = (1..=100).map(|id| (id, id, Some("x"))).collect();
    view.commit(&rows).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 100).await;
    worker.stop().await;
    // Rows whose tombstones are gone from the topic by now.
    database
        .sql(&format!(
            "INSERT INTO {name} SELECT n, 'ghost' FROM generate_series(1000, 1009) n;
             UPDATE hutong_position SET read_up_to = now() - interval '13 hours';
             UPDATE hutong_view SET reading_since = now() - interval '3 days'"
        ))
        .await;
    let worker = bench.worker("worker-1");
    let sql = format!("SELECT count(*) FROM {name} WHERE txt = 'x'");
    let ghosts = format!("SELECT count(*) FROM {name} WHERE txt = 'ghost'");
    until("the ghosts are gone", async || {
        assert_eq!(
            database.count(&sql).await,
            100,
            "nothing is missing meanwhile"
        );
        database.count(&ghosts).await == 0
    })
    .await;
    worker.stop().await;
    database.remove().await;
}
