//! Where a topic ends, and what happens when a reader's place is gone.

use std::time::Duration;

use hutong_schemas::class::{Class, Classified};
use hutong_transport::Error;
use hutong_transport::admin::{Isolation, TopicSpec};
use hutong_transport::faults::{self, Fault};
use hutong_transport::reader::{CompactedReader, Event, Start};

use crate::fixture::{Fixture, all, in_time, records, text, values_to_end};

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_topic_ends_at_once_and_is_followed() {
    let fixture = Fixture::new();
    let topic = fixture.topic("empty", 3).await;
    let mut compacted = fixture.compacted(&topic).await;
    assert!(all(&mut compacted).await.is_empty());
    let mut reader = fixture.reader(&topic).await;
    assert!(values_to_end(&mut reader).await.is_empty());
    assert_eq!(reader.position(), 0);
    let producer = fixture.producer("empty").await;
    producer
        .commit(records(&topic, &[("a", "1")]))
        .await
        .unwrap();
    let event = in_time(compacted.next()).await.unwrap();
    let Event::Record(message) = event else {
        panic!("the end came twice");
    };
    assert_eq!(text(message.value.as_ref()), "1");
    assert_eq!(values_to_end(&mut reader).await, ["1"]);
    fixture.delete(&["empty"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_in_order_whether_they_are_large_or_small() {
    let fixture = Fixture::new();
    let topic = fixture.topic("large", 1).await;
    let producer = fixture.producer("large").await;
    // Large ones at the beginning, a few among others, none for long, one more.
    let is_large = |number: usize| {
        number < 3 || (number.is_multiple_of(700) && number < 2_000) || number == 5_000
    };
    let value = |number: usize| {
        let length = if is_large(number) { 1_200_000 } else { 40 };
        format!("{number} {}", "x".repeat(length))
    };
    let expected: Vec<String> = (0..5_500).map(value).collect();
    for some in expected.chunks(500) {
        // Each under a key of its own, for what compaction leaves.
        let key = |value: &'_ str| value.split(' ').next().unwrap_or_default().to_owned();
        let keys: Vec<String> = some.iter().map(|value| key(value)).collect();
        let some = keys.iter().zip(some);
        let some: Vec<_> = some
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        producer.commit(records(&topic, &some)).await.unwrap();
    }
    let mut reader = fixture.reader(&topic).await;
    let mut found = Vec::new();
    while !reader.at_end() || reader.position() < reader.end_offset().await.unwrap() {
        let bytes_max = if found.len() % 2 == 0 { 1_000 } else { 400_000 };
        let wait = Duration::from_secs(1);
        reader.fetch_ahead(bytes_max, wait).unwrap();
        let messages = in_time(reader.poll(bytes_max, wait)).await.unwrap();
        found.extend(
            messages
                .iter()
                .map(|message| text(message.value.as_ref()).to_owned()),
        );
    }
    assert_eq!(found.len(), expected.len());
    assert!(found == expected, "in another order, or others");
    fixture.delete(&["large"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_partitions_are_a_topic_that_has_ended() {
    let fixture = Fixture::new();
    let topic = fixture.topic("none", 1).await;
    let opened = CompactedReader::open_partitions(&fixture.config, &topic, &[]).await;
    assert_eq!(in_time(opened.unwrap().next()).await.unwrap(), Event::End);
    fixture.delete(&["none"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_found_behind_commit_markers_and_aborted_records() {
    let fixture = Fixture::new();
    let topic = fixture.topic("markers", 1).await;
    let producer = fixture.producer("markers").await;
    producer
        .commit(records(&topic, &[("a", "1")]))
        .await
        .unwrap();
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["1"]);
    assert_eq!(reader.position(), 2, "the marker is passed");
    assert_eq!(reader.end_offset().await.unwrap(), 2);

    let id = fixture.cluster.transactional_id("markers");
    let fails = faults::arm(&id, Fault::FailBeforeCommit, 1);
    let aborted = producer.commit(records(&topic, &[("b", "2"), ("c", "3")]));
    aborted.await.unwrap_err();
    drop(fails);
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["1"]);
    assert_eq!(reader.position(), reader.end_offset().await.unwrap());
    assert_eq!(
        reader.position(),
        5,
        "aborted records and both markers are passed"
    );
    let mut compacted = fixture.compacted(&topic).await;
    assert_eq!(all(&mut compacted).await.len(), 1);
    assert_eq!(compacted.positions()[&0], 5);

    // A reader that begins at the very end knows it.
    let mut reader = fixture.reader_at(&topic, Start::At(5)).await.unwrap();
    assert!(values_to_end(&mut reader).await.is_empty());
    assert_eq!(reader.position(), 5);
    fixture.delete(&["markers"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_hides_its_records_and_delays_the_end_of_a_compacted_reader() {
    let fixture = Fixture::new();
    let topic = fixture.topic("open", 1).await;
    let producer = fixture.producer("open").await;
    producer
        .commit(records(&topic, &[("a", "1")]))
        .await
        .unwrap();
    let id = fixture.cluster.transactional_id("open");
    let held = faults::arm(&id, Fault::HoldBeforeCommit, 1);
    let second = records(&topic, &[("b", "2")]);
    let commit = tokio::spawn(async move { producer.commit(second).await });
    in_time(held.fired()).await;

    let committed = fixture.admin.end_offsets(&topic, Isolation::ReadCommitted);
    assert_eq!(committed.await.unwrap()[&0], 2);
    let all_offsets = fixture
        .admin
        .end_offsets(&topic, Isolation::ReadUncommitted);
    assert_eq!(all_offsets.await.unwrap()[&0], 3);

    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["1"]);
    assert_eq!(reader.position(), 2);
    let mut compacted = fixture.compacted(&topic).await;
    let first = in_time(compacted.next()).await.unwrap();
    assert!(matches!(first, Event::Record(_)));
    let waiting = tokio::time::timeout(Duration::from_secs(2), compacted.next()).await;
    assert!(
        waiting.is_err(),
        "the end came before the open transaction was decided"
    );
    held.release();
    in_time(commit).await.unwrap().unwrap();
    assert_eq!(all(&mut compacted).await.len(), 1);
    assert_eq!(values_to_end(&mut reader).await, ["2"]);
    fixture.delete(&["open"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_found_after_compaction_and_only_the_newest_records_are_left() {
    let fixture = Fixture::new();
    let name = format!("{}.compacted", fixture.cluster);
    let mut spec = TopicSpec::keyed_table(&name, 1);
    for (property, value) in [
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "1"),
        ("segment.ms", "100"),
        ("segment.bytes", "1048576"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("delete.retention.ms", "0"),
    ] {
        spec.config.insert(property.into(), value.into());
    }
    fixture.admin.ensure_topic(&spec).await.unwrap();
    let topic: std::sync::Arc<str> = name.into();
    let producer = fixture.producer("compacted").await;
    let filler = "x".repeat(1000);
    // The cleaner runs in its own time; only what is not in the newest segment is cleaned.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
    let mut round = 0;
    let count = loop {
        let newest = format!("{round}{filler}");
        let pairs: Vec<_> = (0..50).map(|_| ("same", newest.as_str())).collect();
        producer.commit(records(&topic, &pairs)).await.unwrap();
        round += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut compacted = fixture.compacted(&topic).await;
        let messages = all(&mut compacted).await;
        let last = messages.last().unwrap();
        assert_eq!(text(last.value.as_ref()), newest);
        if messages.len() < round * 50 {
            break messages.len();
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "nothing was compacted"
        );
    };
    assert!(count < round * 50);
    let mut reader = fixture.reader(&topic).await;
    assert!(!values_to_end(&mut reader).await.is_empty());
    assert_eq!(reader.position(), reader.end_offset().await.unwrap());
    fixture.delete(&["compacted"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_the_topic_does_not_have_is_a_definite_error() {
    let fixture = Fixture::new();
    let topic = fixture.topic("truncated", 1).await;
    let producer = fixture.producer("truncated").await;
    producer
        .commit(records(&topic, &[("a", "1")]))
        .await
        .unwrap();
    let mut reader = fixture.reader_at(&topic, Start::At(100)).await.unwrap();
    let error = in_time(reader.poll(1000, Duration::from_secs(30))).await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, Error::TopicTruncated { offset: 100, .. }),
        "{error}"
    );
    assert_eq!(error.class(), Class::Definite);
    fixture.delete(&["truncated"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_wakes_at_a_commit_long_before_its_timeout() {
    let fixture = Fixture::new();
    let topic = fixture.topic("wake", 1).await;
    let producer = fixture.producer("wake").await;
    let mut reader = fixture.reader(&topic).await;
    values_to_end(&mut reader).await;
    let poll = tokio::spawn(async move {
        let messages = reader.poll(1000, Duration::from_secs(50)).await.unwrap();
        (messages.len(), std::time::Instant::now())
    });
    producer
        .commit(records(&topic, &[("a", "1")]))
        .await
        .unwrap();
    let committed = std::time::Instant::now();
    let (count, woken) = in_time(poll).await.unwrap();
    assert_eq!(count, 1);
    println!(
        "woken after {:?}",
        woken.saturating_duration_since(committed)
    );
    fixture.delete(&["wake"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_poll_that_was_dropped_come_with_the_next_one() {
    let fixture = Fixture::new();
    let topic = fixture.topic("cancel", 1).await;
    let producer = fixture.producer("cancel").await;
    let mut reader = fixture.reader(&topic).await;
    values_to_end(&mut reader).await;
    let mut values = String::new();
    for value in ["1", "2", "3"] {
        let short = Duration::from_millis(1);
        let dropped = tokio::time::timeout(short, reader.poll(1000, Duration::from_secs(30)));
        if let Ok(messages) = dropped.await {
            // What the poll before has left, or the news that there is nothing.
            for message in messages.unwrap() {
                values.push_str(&text(message.value.as_ref()));
            }
        }
        producer
            .commit(records(&topic, &[("a", value)]))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    while values.len() < 3 {
        values.push_str(&values_to_end(&mut reader).await.concat());
    }
    assert_eq!(values, "123");
    fixture.delete(&["cancel"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_returns_about_what_was_asked_for_and_at_least_one_record() {
    let fixture = Fixture::new();
    let topic = fixture.topic("bounded", 1).await;
    let producer = fixture.producer("bounded").await;
    let value = "x".repeat(10_000);
    let pairs: Vec<_> = (0..100).map(|_| ("k", value.as_str())).collect();
    producer.commit(records(&topic, &pairs)).await.unwrap();
    let mut reader = fixture.reader(&topic).await;
    let one = in_time(reader.poll(1, Duration::from_secs(30)))
        .await
        .unwrap();
    assert_eq!(one.len(), 1);
    assert!(!reader.at_end());
    let some = in_time(reader.poll(50_000, Duration::from_secs(30)))
        .await
        .unwrap();
    assert!((1..=6).contains(&some.len()), "{}", some.len());
    let rest = values_to_end(&mut reader).await;
    assert_eq!(one.len() + some.len() + rest.len(), 100);
    fixture.delete(&["bounded"]).await;
}
