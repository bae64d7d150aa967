//! From a view to a table, and what readers of the table see meanwhile.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_several_partitions_is_kept_in_a_table_and_the_status_tells() {
    let bench = Bench::new("deliver").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 3).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let rows: Vec<Change<'_>> = (1..=500).map(|id| (id / 7, id, Some("first"))).collect();
    view.commit(&rows).await;
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 500).await;
    view.commit(&[
        (90, 1, Some("again")),
        (90, 2, None),
        (91, 3, None),
        (91, 3, Some("back")),
    ])
    .await;
    has_rows(&database, &name, 499).await;
    let changed =
        format!("SELECT count(*) FROM {name} WHERE (id_txt, txt) IN ((1, 'again'), (3, 'back'))");
    until("both changes are there", async || {
        database.count(&changed).await == 2
    })
    .await;
    let status = bench
        .status(&task, |status| {
            let input = &status.details["inputs"][0];
            input["rows_applied_total"] == 503 && input["lag_records"] == 0
        })
        .await;
    assert_eq!(status.state, TaskState::Running);
    let input = &status.details["inputs"][0];
    assert_eq!(input["state"], "live");
    assert_eq!(input["table"], format!("public.{}", name.trim_matches('"')));
    assert_eq!(input["partitions"].as_array().unwrap().len(), 3);
    let p99 = input["latency_ms_p99"].as_u64().unwrap();
    assert!(p99 < 60_000, "{p99} ms");
    let (_, metrics) = worker.get("/metrics").await;
    assert!(
        metrics.contains(&format!(
            "hutong_sink_rows_total{{task=\"{}\"}} 503",
            task.task
        )),
        "{metrics}"
    );
    worker.stop().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reader_ever_sees_half_of_a_source_transaction() {
    let bench = Bench::new("half").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    // Each source transaction writes its number into the same forty rows.
    let writing = async {
        for step in 0..40 {
            let texts: Vec<(i64, String)> = (1..=50)
                .map(|n| (step * 50 + n, (step * 50 + n).to_string()))
                .collect();
            let changes: Vec<Change<'_>> = texts
                .iter()
                .flat_map(|(tx, text)| (1..=40).map(|id| (*tx, id, Some(text.as_str()))))
                .collect();
            view.commit(&changes).await;
        }
    };
    let looking = async {
        let sql = format!(
            "SELECT count(DISTINCT txt) * 1000000 + count(*) * 10000 + coalesce(max(txt::int), 0) FROM {name}"
        );
        let mut seen = 0;
        loop {
            let found = database.count(&sql).await;
            let (distinct, rows, number) =
                (found / 1_000_000, found / 10_000 % 100, found % 10_000);
            assert!(
                distinct <= 1 && (rows == 0 || rows == 40),
                "half of a transaction: {found}"
            );
            seen += 1;
            if number == 2000 {
                return seen;
            }
        }
    };
    let ((), looks) = tokio::time::timeout(PATIENCE, futures_join(writing, looking))
        .await
        .unwrap();
    assert!(looks > 10, "{looks} looks prove little");
    worker.stop().await;
    database.remove().await;
}

async fn futures_join<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    tokio::join!(a, b)
}
