//! Everything read again, and what is gone deleted in the end.

use super::*;

const STALE: &str = "UPDATE hutong_position SET read_up_to = now() - interval '13 hours';
                     UPDATE hutong_view SET reading_since = now() - interval '13 hours'";

#[tokio::test]
async fn a_reader_that_was_away_for_too_long_reads_everything_again_and_deletes_what_is_gone() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(
        &mut writer,
        &[(1, "one"), (2, "two"), (3, "three")],
        &[],
        60,
    )
    .await
    .unwrap();
    drop(writer);
    subscriber.execute(STALE).await;
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::Earliest]);
    assert!(writer.is_rebuilding());
    apply(&mut writer, &[(1, "one")], &[], 30).await.unwrap();
    // Nothing is missing meanwhile.
    assert_eq!(subscriber.names().await, ["1 one", "2 two", "3 three"]);
    drop(writer);
    // A crash within goes on, with the keys noted before.
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(30)]);
    apply(&mut writer, &[(3, "drei")], &[], 99).await.unwrap();
    assert!(!writer.reaches_end(0, 99) && writer.reaches_end(0, 100));
    apply(&mut writer, &[], &[], 100).await.unwrap();
    assert!(!writer.is_rebuilding());
    assert_eq!(subscriber.names().await, ["1 one", "3 drei"]);
    let left = subscriber
        .texts("SELECT relname::text FROM pg_class WHERE relname LIKE 'hutong_seen%'")
        .await;
    assert!(left.is_empty(), "{left:?}");
    subscriber.drop_database().await;
}

#[tokio::test]
async fn an_empty_topic_empties_the_table_of_its_predecessor() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 60).await.unwrap();
    drop(writer);
    let next = Input {
        topic_id: "created anew".to_owned(),
        end_offsets: vec![0],
        ..input()
    };
    let (_writer, starts) = subscriber.assign("a", target(), &next).await.unwrap();
    assert_eq!(starts, [StartOffset::Earliest]);
    assert!(subscriber.names().await.is_empty());
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_table_that_the_subscriber_dropped_is_created_and_filled_again() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 60).await.unwrap();
    drop(writer);
    subscriber.execute("DROP TABLE t").await;
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::Earliest]);
    apply(&mut writer, &[(1, "one")], &[], 100).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn notes_that_the_subscriber_dropped_make_the_rebuild_begin_again() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one"), (2, "two")], &[], 60)
        .await
        .unwrap();
    drop(writer);
    subscriber.execute(STALE).await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 30).await.unwrap();
    drop(writer);
    let notes = subscriber
        .texts("SELECT relname::text FROM pg_class WHERE relname LIKE 'hutong_seen%' AND relkind = 'r'")
        .await;
    subscriber
        .execute(&format!("DROP TABLE {}", notes[0]))
        .await;
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::Earliest]);
    apply(&mut writer, &[(1, "one")], &[], 100).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn old_records_read_from_the_beginning_do_not_make_a_crash_begin_again() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    let changes = rows(writer.target(), &[(1, "one")], &[]);
    let month_ago = now_ms() - 30 * 86_400_000;
    writer.apply(0, &changes, 40, month_ago).await.unwrap();
    drop(writer);
    let (_writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(40)]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_table_that_was_dropped_and_made_anew_is_another_one() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 60).await.unwrap();
    drop(writer);
    let anew = "DROP TABLE t; CREATE TABLE t (id integer PRIMARY KEY, name varchar(20))";
    subscriber.execute(anew).await;
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::Earliest]);
    apply(&mut writer, &[(1, "one")], &[], 60).await.unwrap();
    drop(writer);
    // And it is free for another input.
    subscriber.execute(anew).await;
    let other = Input {
        name: "hutong.view.w".to_owned(),
        topic: "hutong.view.w.g1".to_owned(),
        ..input()
    };
    let (_writer, starts) = subscriber.assign("b", target(), &other).await.unwrap();
    assert_eq!(starts, [StartOffset::Earliest]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_restored_copy_of_a_database_goes_on_where_it_was_although_all_oids_differ() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 60).await.unwrap();
    drop(writer);
    subscriber
        .execute(
            "CREATE TABLE t2 (LIKE t INCLUDING ALL); INSERT INTO t2 SELECT * FROM t;
             CREATE TABLE v2 (LIKE hutong_view INCLUDING ALL); INSERT INTO v2 SELECT * FROM hutong_view;
             DROP TABLE t, hutong_view; ALTER TABLE t2 RENAME TO t; ALTER TABLE v2 RENAME TO hutong_view",
        )
        .await;
    let (_writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(60)]);
    let sink = subscriber.sink("a").await;
    assert_eq!(
        sink.empty(&table(), "hutong.view.v").await.unwrap(),
        Some(1)
    );
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_column_that_the_input_no_longer_has_stays_and_is_null_from_then_on() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one"), (2, "two")], &[], 5)
        .await
        .unwrap();
    drop(writer);
    let key = [field("id", SqlType::Int4, false)];
    let row = [
        field("id", SqlType::Int4, false),
        field("born", SqlType::Date, true),
    ];
    let newer = Target::new(table(), &key, &row).unwrap();
    let (mut writer, starts) = subscriber.assign("a", newer, &input()).await.unwrap();
    assert_eq!(starts, [StartOffset::At(5)]);
    let mut changes = Changes::new(writer.target());
    let row = [Cell::Int(1), Cell::Int(0)];
    changes.upsert(writer.target(), &row).unwrap();
    writer.apply(0, &changes, 6, now_ms()).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 -", "2 two"]);
    subscriber.drop_database().await;
}
