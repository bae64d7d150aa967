//! Crashes and lost answers.

use hutong_connectors_postgres::sink::faults::{Fault, arm};

use super::*;

/// Notes each value that is ever written, so that a row written twice shows.
fn audit(table: &str) -> String {
    format!(
        "CREATE TABLE audit (txt text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO audit VALUES (NEW.txt); RETURN NEW; END $$;
         CREATE TRIGGER note BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note()"
    )
}

// An upsert of a present row passes the trigger before INSERT and the one before UPDATE.
const WRITTEN_TWICE: &str =
    "SELECT count(*) FROM (SELECT FROM audit GROUP BY txt HAVING count(*) > 2) twice";

#[tokio::test(flavor = "multi_thread")]
async fn crashes_and_lost_answers_write_every_change_once() {
    let bench = Bench::new("once").await;
    let database = Database::new(&bench).await;
    let view = View::new(&bench, "v", "txt", 1).await;
    let task = sink(&bench, &database, &view.name, vec![view.input("live")]);
    let mut worker = bench.worker("worker-1");
    bench.want(&task).await;
    let name = table(&view);
    has_rows(&database, &name, 0).await;
    database.sql(&audit(&name)).await;
    for round in 0..6_i64 {
        if round % 2 == 0 {
            arm(&task.connector, Fault::LoseAnswer);
        }
        for step in 0..20 {
            let tx = round * 20 + step;
            let texts: Vec<String> = (1..=30).map(|id| format!("{tx}-{id}")).collect();
            let changes: Vec<Change<'_>> = (1..)
                .zip(&texts)
                .map(|(id, text)| (tx, id, Some(text.as_str())))
                .collect();
            view.commit(&changes).await;
            if round % 2 == 1 && step == 10 {
                worker.crash().await;
                worker = bench.worker("worker-1");
            }
        }
        let last = format!(
            "SELECT count(*) FROM {name} WHERE txt LIKE '{}-%'",
            round * 20 + 19
        );
        until("the round has arrived", async || {
            database.count(&last).await == 30
        })
        .await;
    }
    assert_eq!(database.count(WRITTEN_TWICE).await, 0);
    let offset = "SELECT next_offset FROM hutong_position";
    assert!(database.count(offset).await >= 120 * 30);
    worker.stop().await;
    database.remove().await;
}
