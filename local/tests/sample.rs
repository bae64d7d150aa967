//! The sample in real databases.

use hutong_local::departments::events::Script;
use hutong_local::departments::initial::Population;
use hutong_local::departments::{self, Department};
use hutong_local::testkit::Kit;

#[tokio::test]
async fn the_departments_databases_accept_the_sample_and_four_thousand_transactions() {
    let kit = Kit::from_env();
    let population = Population::generate(5, 300);
    let mut clients = Vec::new();
    for department in Department::ALL {
        let database = kit.database(department.database()).await.unwrap();
        let client = database.connect().await.unwrap();
        departments::create(&client, department, population.rows(department))
            .await
            .unwrap();
        clients.push(client);
    }
    let mut script = Script::new(&population);
    for _ in 0..4000 {
        let transaction = script.next_transaction();
        let place = Department::ALL
            .iter()
            .position(|known| *known == transaction.department);
        let statements = transaction.statements.join(";");
        let done = clients[place.unwrap()]
            .batch_execute(&format!("BEGIN; {statements}; COMMIT"))
            .await;
        assert!(
            done.is_ok(),
            "{}: {statements}: {}",
            transaction.event,
            done.unwrap_err()
        );
    }
    for (client, department) in clients.iter().zip(Department::ALL) {
        for table in department.captured_tables() {
            let sql = format!("SELECT count(*) FROM {table}");
            let count: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
            assert!(count > 0, "{table} is empty");
        }
    }
}
