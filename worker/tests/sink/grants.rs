//! The end of a grant, whatever else is wanted or wrong.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_input_is_emptied_and_its_neighbour_goes_on() {
    let bench = Bench::new("revoke").await;
    let database = Database::new(&bench).await;
    let kept = View::new(&bench, "kept", "k", 1).await;
    let lost = View::new(&bench, "lost", "l", 2).await;
    let topics = format!("{},{}", kept.name, lost.name);
    let inputs = vec![kept.input("live"), lost.input("live")];
    let mut task = sink(&bench, &database, &topics, inputs);
    let rows: Vec<Change<'_>> = (1..=100).map(|id| (id, id, Some("x"))).collect();
    kept.commit(&rows).await;
    lost.commit(&rows).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    has_rows(&database, &table(&kept), 100).await;
    has_rows(&database, &table(&lost), 100).await;
    task.version = 2;
    task.config["inputs"][1]["state"] = "revoked".into();
    let began = Instant::now();
    bench.want(&task).await;
    has_rows(&database, &table(&lost), 0).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "took {:?}",
        began.elapsed()
    );
    let status = bench
        .status(&task, |status| {
            status.version == 2 && status.details["inputs"][1]["state"] == "emptied"
        })
        .await;
    assert_eq!(status.details["inputs"][1]["rows_emptied"], 100);
    assert_eq!(
        database
            .count("SELECT count(*) FROM hutong_position WHERE topic LIKE '%lost%'")
            .await,
        0
    );
    kept.commit(&[(200, 200, Some("new"))]).await;
    has_rows(&database, &table(&kept), 101).await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_runs_out_empties_its_table_without_the_control_plane() {
    let bench = Bench::new("expire").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    view.commit(&[(1, 1, Some("x"))]).await;
    let end_ms = now_us() / 1000 + 8_000;
    task.config["inputs"][0]["valid_until_ms"] = end_ms.into();
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    has_rows(&database, &table(&view), 1).await;
    assert!(now_us() / 1000 < end_ms, "the row came in time");
    has_rows(&database, &table(&view), 0).await;
    assert!(now_us() / 1000 >= end_ms, "not before its time");
    bench
        .status(&task, |status| {
            status.details["inputs"][0]["state"] == "emptied"
        })
        .await;
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_that_run_out_one_after_the_other_are_no_errors_and_disturb_nobody() {
    let bench = Bench::new("expiries").await;
    let database = Database::new(&bench).await;
    let mut views = Vec::new();
    for name in ["a", "b", "c", "d", "e", "kept"] {
        let view = View::new(&bench, name, name, 1).await;
        view.commit(&[(1, 1, Some("x"))]).await;
        views.push(view);
    }
    let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
    let inputs = views.iter().map(|view| view.input("live")).collect();
    let mut task = sink(&bench, &database, &names.join(","), inputs);
    let begin_ms = now_us() / 1000 + 8_000;
    for index in 0..5_i64 {
        let end_ms = begin_ms + index * 1_200;
        task.config["inputs"][usize::try_from(index).unwrap()]["valid_until_ms"] = end_ms.into();
    }
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    for view in &views {
        has_rows(&database, &table(view), 1).await;
    }
    let epoch = "SELECT epoch FROM hutong_view WHERE target LIKE '%kept%'";
    let kept = database.count(epoch).await;
    for view in &views[..5] {
        has_rows(&database, &table(view), 0).await;
    }
    bench
        .status(&task, |status| {
            assert_ne!(status.state, TaskState::Failed, "{status:?}");
            let inputs = status.details["inputs"].as_array();
            let emptied = |input: &&Value| input["state"] == "emptied";
            inputs.is_some_and(|inputs| inputs.iter().filter(emptied).count() == 5)
        })
        .await;
    views[5].commit(&[(2, 2, Some("y"))]).await;
    has_rows(&database, &table(&views[5]), 2).await;
    assert_eq!(
        database.count(epoch).await,
        kept,
        "the lane beside them went on"
    );
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_or_stopped_sink_still_empties_what_is_revoked_and_what_expires() {
    for target in [TargetState::Paused, TargetState::Stopped] {
        let bench = Bench::new("rest").await;
        let database = Database::new(&bench).await;
        let revoked = View::new(&bench, "revoked", "r", 1).await;
        let expiring = View::new(&bench, "expiring", "e", 1).await;
        let kept = View::new(&bench, "kept", "k", 1).await;
        let views = [&revoked, &expiring, &kept];
        let names = views.map(|view| view.name.as_str()).join(",");
        let inputs = views.iter().map(|view| view.input("live")).collect();
        let mut task = sink(&bench, &database, &names, inputs);
        for view in views {
            view.commit(&[(1, 1, Some("x"))]).await;
        }
        let worker = bench.worker("worker-1");
        bench.want(&task).await;
        for view in views {
            has_rows(&database, &table(view), 1).await;
        }
        task.target = target;
        task.version = 2;
        bench.want(&task).await;
        let state = match target {
            TargetState::Paused => TaskState::Paused,
            _ => TaskState::Stopped,
        };
        bench.state(&task, state).await;
        // Nothing is delivered.
        kept.commit(&[(2, 2, Some("y"))]).await;
        task.version = 3;
        task.config["inputs"][0]["state"] = "revoked".into();
        let end_ms = now_us() / 1000 + 3_000;
        task.config["inputs"][1]["valid_until_ms"] = end_ms.into();
        bench.want(&task).await;
        has_rows(&database, &table(&revoked), 0).await;
        has_rows(&database, &table(&expiring), 0).await;
        assert!(now_us() / 1000 >= end_ms, "not before its time");
        let status = bench
            .status(&task, |status| {
                let inputs = &status.details["inputs"];
                inputs[0]["state"] == "emptied" && inputs[1]["state"] == "emptied"
            })
            .await;
        assert_eq!(status.state, state);
        assert_eq!(status.details["inputs"][2]["state"], "paused");
        has_rows(&database, &table(&kept), 1).await;
        task.target = TargetState::Running;
        task.version = 4;
        bench.want(&task).await;
        has_rows(&database, &table(&kept), 2).await;
        worker.stop().await;
        database.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_input_and_a_failed_task_are_emptied_when_the_grant_ends() {
    let bench = Bench::new("failedgrant").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    view.commit(&[(1, 1, Some("x"))]).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 1).await;
    database
        .sql(&format!("ALTER TABLE {name} ADD CHECK (txt <> 'bad')"))
        .await;
    view.commit(&[(2, 2, Some("bad"))]).await;
    bench.state(&task, TaskState::Failed).await;
    assert_eq!(
        database
            .count(&format!("SELECT count(*) FROM {name}"))
            .await,
        1
    );
    task.version = 2;
    task.config["inputs"][0]["valid_until_ms"] = (now_us() / 1000 + 1_000).into();
    bench.want(&task).await;
    has_rows(&database, &name, 0).await;
    bench
        .status(&task, |status| {
            status.version == 2 && status.details["inputs"][0]["state"] == "emptied"
        })
        .await;
    worker.stop().await;
    database.remove().await;
}

/// The stated bound is 5 s plus a second for each 10,000 rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_emptied_within_the_bound_and_nobody_waits_for_it() {
    const ROWS: i64 = 300_000;
    let bench = Bench::new("large").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let mut task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    view.commit(&[(1, 1, Some("x"))]).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 1).await;
    database
        .sql(&format!(
            "INSERT INTO {name} SELECT n, repeat('x', 100) FROM generate_series(2, {ROWS}) n"
        ))
        .await;
    task.version = 2;
    task.config["inputs"][0]["state"] = "revoked".into();
    let began = Instant::now();
    bench.want(&task).await;
    let (mut longest, mut looks) = (Duration::ZERO, 0);
    loop {
        let look = Instant::now();
        let left = database
            .count(&format!("SELECT count(*) FROM {name}"))
            .await;
        longest = longest.max(look.elapsed());
        looks += 1;
        if left == 0 {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5 + 30),
            "{left} rows are left"
        );
    }
    println!(
        "emptied {ROWS} rows in {:?}, {looks} looks, the longest {longest:?}",
        began.elapsed()
    );
    worker.stop().await;
    database.remove().await;
}
