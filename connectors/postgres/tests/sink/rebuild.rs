//! Everything read again, and what is gone deleted in the end.

use super::*;

const STALE: &str = "UPDATE hutong_position SET read_up_to = now() - interval '13 hours'";

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
    assert!(writer.awaits_end(0));
    apply(&mut writer, &[(1, "one")], &[], 30).await.unwrap();
    // Nothing is missing meanwhile.
    assert_eq!(subscriber.names().await, ["1 one", "2 two", "3 three"]);
    drop(writer);
    // A crash within goes on, with the keys noted before.
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(30)]);
    apply(&mut writer, &[(3, "drei")], &[], 99).await.unwrap();
    assert!(writer.awaits_end(0));
    apply(&mut writer, &[], &[], 100).await.unwrap();
    assert!(!writer.awaits_end(0));
    assert_eq!(subscriber.names().await, ["1 one", "3 drei"]);
    let left = subscriber
        .texts("SELECT relname::text FROM pg_class WHERE relname LIKE 'hutong_seen%'")
        .await;
    assert!(left.is_empty(), "{left:?}");
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_new_generation_is_taken_into_the_same_table_without_emptying_it() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one"), (2, "two")], &[], 60)
        .await
        .unwrap();
    drop(writer);
    let next = Input {
        topic: "hutong.view.v.g2".to_owned(),
        topic_id: "second".to_owned(),
        end_offsets: vec![3],
    };
    let (mut writer, starts) = subscriber.assign("a", target(), &next).await.unwrap();
    assert_eq!(starts, [StartOffset::Earliest]);
    assert_eq!(subscriber.names().await, ["1 one", "2 two"]);
    apply(&mut writer, &[(2, "zwei")], &[], 3).await.unwrap();
    assert_eq!(subscriber.names().await, ["2 zwei"]);
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
