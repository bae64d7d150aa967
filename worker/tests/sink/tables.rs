//! Topics of tables: change events into a copy.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_topic_of_a_table_is_delivered_by_its_change_events() {
    let bench = Bench::new("events").await;
    let database = Database::new(&bench).await;
    database
        .sql(
            "CREATE TABLE person (id int, part char(3), name varchar(20), money numeric(18,4), any_number numeric,
                 born date, at timestamptz(3), seen timestamp, photo bytea, note jsonb, u uuid, ok boolean,
                 PRIMARY KEY (id, part));
             INSERT INTO person SELECT n, 'ab', 'p' || n, n * 1.2345, n / 7.0, date '1900-01-01' + n, now(),
                 'infinity', decode('00ff', 'hex'), '{\"a\": 1}', gen_random_uuid(), n % 2 = 0
             FROM generate_series(1, 200) n",
        )
        .await;
    let source = database.source("public.person");
    let worker = bench.worker("worker-1");
    bench.want(&source).await;
    bench.streams(&source).await;
    let topic = format!("{}.public.person", database.name);
    let admin = Admin::new(&bench.kafka).unwrap();
    let info = admin.topic(&topic).await.unwrap().unwrap();
    let input = json!({
        "name": topic, "topic": topic, "topic_id": info.id.0, "partitions": info.partitions,
        "view": null, "generation": 1, "version": 1, "state": "live",
    });
    let mut task = sink(&bench, &database, &topic, vec![input]);
    task.config["properties"]["collection.name.format"] = "copy".into();
    bench.want(&task).await;
    has_rows(&database, "copy", 200).await;
    database
        .sql(
            "BEGIN; DELETE FROM person WHERE id = 1; INSERT INTO person (id, part) VALUES (1, 'ab'); COMMIT;
             UPDATE person SET id = id + 1000 WHERE id BETWEEN 10 AND 19;
             UPDATE person SET name = NULL, money = -0.0001 WHERE id > 150;
             DELETE FROM person WHERE id BETWEEN 100 AND 120",
        )
        .await;
    let difference = "SELECT count(*) FROM (
        (SELECT p::text FROM person p EXCEPT SELECT c::text FROM copy c)
        UNION ALL (SELECT c::text FROM copy c EXCEPT SELECT p::text FROM person p)) d";
    until("the copy equals the table", async || {
        database.count(difference).await == 0
    })
    .await;
    assert_eq!(database.count("SELECT count(*) FROM copy").await, 179);
    // Change events name no lengths and no jsonb; the types published beside them do.
    let types = "SELECT count(*) FROM (
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'person'::regclass AND attnum > 0
        EXCEPT SELECT attname, replace(format_type(atttypid, atttypmod), '(6)', '') FROM pg_attribute
        WHERE attrelid = 'copy'::regclass AND attnum > 0) d";
    let differing = database.count(types).await;
    assert_eq!(differing, 0, "columns whose type is not the source's");
    database.sql("TRUNCATE person").await;
    has_rows(&database, "copy", 0).await;
    worker.stop().await;
    database.remove().await;
}
