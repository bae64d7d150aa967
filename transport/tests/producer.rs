//! Transactions: whole, fenced, and with answers lost.

use std::collections::HashMap;
use std::time::Duration;

use hutong_schemas::batch::{Record, RecordBatch};
use hutong_schemas::class::{Class, Classified};
use hutong_transport::Error;
use hutong_transport::admin::TopicSpec;
use hutong_transport::faults::{self, Fault};
use hutong_transport::names::partition_of_record_key;
use hutong_transport::producer::{PlainProducer, PlainRecord, Transaction, TransactionalProducer};
use hutong_transport::reader::Start;
use serde_json::json;

use crate::fixture::{
    Fixture, LOCATION, all, in_time, position, put, records, text, values_to_end,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_becomes_visible_as_a_whole_and_its_batches_come_back_empty() {
    let fixture = Fixture::new();
    let topic = fixture.topic("whole", 1).await;
    let producer = fixture.producer("whole").await;
    let batches = producer
        .commit(records(&topic, &[("a", "1"), ("b", "2")]))
        .await
        .unwrap();
    assert_eq!(batches.len(), 1);
    assert!(batches[0].records.is_empty() && batches[0].buffer.capacity() > 0);
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["1", "2"]);
    producer.close().await;
    fixture.delete(&["whole"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_headers_and_tombstones_arrive_as_they_were_given() {
    let fixture = Fixture::new();
    let topic = fixture.topic("parts", 3).await;
    let producer = fixture.producer("parts").await;
    let mut batch = RecordBatch::default();
    let index = batch.topic(&topic);
    let key = put(&mut batch.buffer, "\0\0\0\0\x07key");
    let header = put(&mut batch.buffer, "v1 tx=1");
    let empty = put(&mut batch.buffer, "");
    let record = |value, header| Record {
        topic: index,
        partition: None,
        key: Some(key.clone()),
        value,
        header,
    };
    batch.records = vec![record(Some(empty), Some(header)), record(None, None)];
    let transaction = Transaction {
        batches: vec![batch],
        ..Transaction::default()
    };
    producer.commit(transaction).await.unwrap();
    let mut reader = fixture.compacted(&topic).await;
    let messages = all(&mut reader).await;
    assert_eq!(messages.len(), 2);
    let partition = partition_of_record_key(b"\0\0\0\0\x07key", 3);
    assert!(
        messages
            .iter()
            .all(|message| message.partition == partition)
    );
    assert_eq!(text(messages[0].header_hutong.as_ref()), "v1 tx=1");
    assert_eq!(messages[0].value.as_deref(), Some(&b""[..]));
    assert_eq!(messages[1].value, None);
    assert_eq!(messages[1].header_hutong, None);
    fixture.delete(&["parts"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_is_fenced_by_its_successor_and_nothing_of_it_is_seen() {
    let fixture = Fixture::with_positions().await;
    let topic = fixture.topic("zombie", 1).await;
    let owner = "source/1/db/slot";
    let zombie = fixture.producer(owner).await;
    let mut first = records(&topic, &[("a", "before")]);
    first.positions = vec![position(owner, "", Some(json!({"at": 1})))];
    zombie.commit(first).await.unwrap();

    // The zombie stops with an open transaction, as a frozen process does.
    let id = fixture.cluster.transactional_id(owner);
    let held = faults::arm(&id, Fault::HoldBeforeCommit, 1);
    let mut second = records(&topic, &[("a", "zombie")]);
    second.positions = vec![position(owner, "", Some(json!({"at": 2})))];
    let commit = tokio::spawn(async move { zombie.commit(second).await });
    in_time(held.fired()).await;

    let successor = fixture.producer(owner).await;
    let positions = in_time(successor.positions(LOCATION, owner)).await.unwrap();
    assert_eq!(positions[""], json!({"at": 1}));
    let mut third = records(&topic, &[("a", "successor")]);
    third.positions = vec![position(owner, "", Some(json!({"at": 3})))];
    successor.commit(third).await.unwrap();

    held.release();
    let error = in_time(commit).await.unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["before", "successor"]);
    let positions = in_time(successor.positions(LOCATION, owner)).await.unwrap();
    assert_eq!(positions[""], json!({"at": 3}));
    fixture.delete(&["zombie"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_is_named_to_who_cannot_read_behind_it() {
    let fixture = Fixture::with_positions().await;
    let owner = "processor/t/1";
    let other = fixture.producer("other").await;
    let held = faults::arm(
        &fixture.cluster.transactional_id("other"),
        Fault::HoldBeforeCommit,
        1,
    );
    let open = Transaction {
        positions: vec![position(owner, "", Some(json!({"at": 1})))],
        ..Transaction::default()
    };
    let commit = tokio::spawn(async move { other.commit(open).await });
    in_time(held.fired()).await;

    let impatient = fixture
        .config
        .with("transaction.timeout.ms", "1000")
        .unwrap();
    let id = fixture.cluster.transactional_id(owner);
    let started = TransactionalProducer::start(&impatient, &fixture.cluster, &id);
    let producer = in_time(started).await.unwrap();
    let error = in_time(producer.positions(LOCATION, owner))
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    let text = format!("{error} | {}", error.hint().unwrap());
    assert!(
        text.contains("a transaction has been open there for 21000 ms"),
        "{text}"
    );
    assert!(
        text.contains("kafka-transactions.sh find-hanging --topic"),
        "{text}"
    );

    held.release();
    in_time(commit).await.unwrap().unwrap();
    let positions = in_time(producer.positions(LOCATION, owner)).await.unwrap();
    assert_eq!(positions[""], json!({"at": 1}));
    fixture.delete(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_are_exact_after_an_aborted_transaction_and_beside_other_owners() {
    let fixture = Fixture::with_positions().await;
    let topic = fixture.topic("exact", 1).await;
    let owner = "processor/t/0";
    let producer = fixture.producer(owner).await;
    assert!(
        producer
            .positions(LOCATION, owner)
            .await
            .unwrap()
            .is_empty()
    );
    for at in 1..=3 {
        let transaction = Transaction {
            positions: vec![
                position(owner, "", Some(json!({"at": at}))),
                position(owner, "v1", Some(json!({"cursor": at}))),
                position("processor/t/0x", "", Some(json!("another"))),
            ],
            ..records(&topic, &[("k", "v")])
        };
        producer.commit(transaction).await.unwrap();
    }
    let id = fixture.cluster.transactional_id(owner);
    let fails = faults::arm(&id, Fault::FailBeforeCommit, 1);
    let aborted = Transaction {
        positions: vec![position(owner, "", Some(json!({"at": 99})))],
        ..Transaction::default()
    };
    let error = producer.commit(aborted).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    drop(fails);
    let positions = in_time(producer.positions(LOCATION, owner)).await.unwrap();
    assert_eq!(positions.len(), 2);
    assert_eq!(positions[""], json!({"at": 3}));
    assert_eq!(positions["v1"], json!({"cursor": 3}));

    // The producer goes on after an abort, and a deleted position is gone.
    let deletion = Transaction {
        positions: vec![position(owner, "v1", None)],
        ..Transaction::default()
    };
    producer.commit(deletion).await.unwrap();
    let positions = in_time(producer.positions(LOCATION, owner)).await.unwrap();
    assert_eq!(positions.len(), 1);
    fixture.delete(&["exact"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_unknown_and_the_successor_finds_what_was_committed() {
    let fixture = Fixture::with_positions().await;
    let topic = fixture.topic("unknown", 1).await;
    let owner = "source/2/db/slot";
    let producer = fixture.producer(owner).await;
    let id = fixture.cluster.transactional_id(owner);
    let lost = faults::arm(&id, Fault::DropAnswer, 1);
    let mut transaction = records(&topic, &[("a", "1")]);
    transaction.positions = vec![position(owner, "", Some(json!({"at": 1})))];
    let error = producer.commit(transaction).await.unwrap_err();
    assert!(
        matches!(error, Error::CommitOutcomeUnknown { .. }),
        "{error}"
    );
    assert_eq!(error.class(), Class::Fenced);
    drop(lost);
    let error = producer
        .commit(records(&topic, &[("a", "2")]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Ended(_)), "{error}");

    let successor = fixture.producer(owner).await;
    let positions = in_time(successor.positions(LOCATION, owner)).await.unwrap();
    assert_eq!(positions[""], json!({"at": 1}));
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["1"]);
    fixture.delete(&["unknown"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_timed_out_without_a_rival_fences_its_own_producer() {
    let fixture = Fixture::with_positions().await;
    let topic = fixture.topic("timeout", 1).await;
    let id = fixture.cluster.transactional_id("timeout");
    let config = fixture.with("transaction.timeout.ms", "2000").unwrap();
    let started =
        hutong_transport::producer::TransactionalProducer::start(&config, &fixture.cluster, &id);
    let producer = in_time(started).await.unwrap();
    let held = faults::arm(&id, Fault::HoldBeforeCommit, 1);
    let transaction = records(&topic, &[("a", "late")]);
    let commit = tokio::spawn(async move { producer.commit(transaction).await });
    in_time(held.fired()).await;
    // The coordinator looks every ten seconds for transactions that are over time. The end of the
    // partition moves when it has aborted this one.
    let isolation = hutong_transport::admin::Isolation::ReadCommitted;
    in_time(async {
        while fixture.admin.end_offsets(&topic, isolation).await.unwrap()[&0] == 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    held.release();
    let error = in_time(commit).await.unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
    let again = fixture.producer("timeout").await;
    again
        .commit(records(&topic, &[("a", "again")]))
        .await
        .unwrap();
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["again"]);
    fixture.delete(&["timeout"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_a_definite_error_and_the_producer_goes_on() {
    let fixture = Fixture::new();
    let name = format!("{}.large", fixture.cluster);
    let mut spec = TopicSpec::keyed_table(&name, 1);
    spec.config
        .insert("max.message.bytes".into(), "20000".into());
    spec.config
        .insert("compression.type".into(), "uncompressed".into());
    fixture.admin.ensure_topic(&spec).await.unwrap();
    let topic: std::sync::Arc<str> = name.into();
    let config = fixture.with("compression.type", "none").unwrap();
    let id = fixture.cluster.transactional_id("large");
    let started =
        hutong_transport::producer::TransactionalProducer::start(&config, &fixture.cluster, &id);
    let producer = in_time(started).await.unwrap();
    let large = "x".repeat(30_000);
    let commit = producer.commit(records(&topic, &[("a", "1"), ("b", &large)]));
    let error = in_time(commit).await.unwrap_err();
    assert_eq!(error.class(), Class::Definite, "{error}");
    assert!(error.to_string().contains("too large"), "{error}");
    in_time(producer.commit(records(&topic, &[("a", "2")])))
        .await
        .unwrap();
    let mut reader = fixture.reader(&topic).await;
    assert_eq!(values_to_end(&mut reader).await, ["2"]);
    fixture.delete(&["large"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_named_and_not_created() {
    let fixture = Fixture::new();
    let topic: std::sync::Arc<str> = format!("{}.missing", fixture.cluster).into();
    let producer = fixture.producer("missing").await;
    let error = producer
        .commit(records(&topic, &[("a", "1")]))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TopicMissing { .. }), "{error}");
    assert_eq!(fixture.admin.topic(&topic).await.unwrap(), None);
    let opened = fixture.reader_at(&topic, Start::Earliest).await;
    assert!(matches!(opened.unwrap_err(), Error::TopicMissing { .. }));
    assert_eq!(fixture.admin.topic(&topic).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_waits_for_ends_the_producer() {
    let fixture = Fixture::new();
    let topic = fixture.topic("dropped", 1).await;
    let producer = fixture.producer("dropped").await;
    let id = fixture.cluster.transactional_id("dropped");
    let held = faults::arm(&id, Fault::HoldBeforeCommit, 1);
    {
        let commit = producer.commit(records(&topic, &[("a", "1")]));
        tokio::pin!(commit);
        tokio::select! {
            _ = &mut commit => panic!("it is held"),
            () = held.fired() => {}
        }
    }
    held.release();
    let error = in_time(producer.commit(records(&topic, &[("a", "2")]))).await;
    assert!(matches!(error.unwrap_err(), Error::Ended(_)));
    fixture.delete(&["dropped"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_record_returns_the_time_of_the_broker() {
    let fixture = Fixture::new();
    let spec = TopicSpec::status(&fixture.cluster, LOCATION);
    fixture.admin.ensure_topic(&spec).await.unwrap();
    let producer = PlainProducer::new(&fixture.config).unwrap();
    let record = PlainRecord {
        topic: spec.name.clone(),
        partition: None,
        key: b"task/a".to_vec(),
        value: Some(b"{}".to_vec()),
    };
    let sent_ms = in_time(producer.send(record)).await.unwrap();
    let mut reader = fixture.compacted(&spec.name).await;
    let messages = all(&mut reader).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].timestamp_ms, sent_ms);
    assert!(sent_ms > 1_700_000_000_000, "{sent_ms}");
    fixture.delete(&[&spec.name]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_records_arrive_once_each_and_in_order() {
    const ROUNDS: usize = 10;
    const EACH: usize = 10_000;
    let fixture = Fixture::new();
    let topic = fixture.topic("many", 1).await;
    let producer = fixture.producer("many").await;
    let mut batch = RecordBatch::default();
    let start = std::time::Instant::now();
    for round in 0..ROUNDS {
        let index = batch.topic(&topic);
        for number in 0..EACH {
            let value = format!("{:0>200}", round * EACH + number);
            let key = put(&mut batch.buffer, &value);
            let value = put(&mut batch.buffer, &value);
            batch.records.push(Record {
                topic: index,
                partition: None,
                key: Some(key),
                value: Some(value),
                header: None,
            });
        }
        let transaction = Transaction {
            batches: vec![batch],
            ..Transaction::default()
        };
        batch = in_time(producer.commit(transaction))
            .await
            .unwrap()
            .remove(0);
    }
    println!("written in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let mut reader = fixture.reader(&topic).await;
    let values = values_to_end(&mut reader).await;
    println!("read in {:?}", start.elapsed());
    assert_eq!(values.len(), ROUNDS * EACH);
    for (number, value) in values.iter().enumerate() {
        assert_eq!(value.parse::<usize>().unwrap(), number);
    }
    fixture.delete(&["many"]).await;
}

/// Records with a header are queued one by one, those without in runs.
#[tokio::test(flavor = "multi_thread")]
async fn records_keep_their_order_in_each_partition_where_there_is_little_room() {
    const RECORDS: usize = 6_000;
    let fixture = Fixture::new();
    let topics = [
        fixture.topic("order1", 1).await,
        fixture.topic("order3", 3).await,
    ];
    let config = fixture.with("queue.buffering.max.kbytes", "64").unwrap();
    let id = fixture.cluster.transactional_id("order");
    let started =
        hutong_transport::producer::TransactionalProducer::start(&config, &fixture.cluster, &id);
    let producer = in_time(started).await.unwrap();
    let mut batch = RecordBatch::default();
    for number in 0..RECORDS {
        let index = batch.topic(&topics[number / 7 % 2]);
        let key = put(&mut batch.buffer, &format!("\0\0\0\0\x07{}", number % 10));
        let value = put(&mut batch.buffer, &format!("{number:0>200}"));
        let header = (number % 1000 < 10).then(|| put(&mut batch.buffer, "v1"));
        batch.records.push(Record {
            topic: index,
            partition: None,
            key: Some(key),
            value: Some(value),
            header,
        });
    }
    let transaction = Transaction {
        batches: vec![batch],
        ..Transaction::default()
    };
    in_time(producer.commit(transaction)).await.unwrap();
    let mut seen = 0;
    for topic in &topics {
        let mut reader = fixture.compacted(topic).await;
        let mut last = HashMap::new();
        for message in all(&mut reader).await {
            let value = text(message.value.as_ref());
            let number: usize = value.parse().unwrap();
            assert_eq!(message.header_hutong.is_some(), number % 1000 < 10);
            let before = last.insert(message.partition, number);
            assert!(before < Some(number), "{before:?} before {number}");
            seen += 1;
        }
    }
    assert_eq!(seen, RECORDS);
    fixture.delete(&["order1", "order3"]).await;
}
