//! Topics are made as they must be, or refused.

use std::time::{Duration, Instant};

use hutong_schemas::class::{Class, Classified};
use hutong_transport::Error;
use hutong_transport::admin::TopicSpec;

use crate::fixture::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_created_once_and_a_new_one_of_its_name_has_another_id() {
    let fixture = Fixture::new();
    let spec = TopicSpec::view(&fixture.cluster, "once", 1, 2);
    let created = fixture.admin.ensure_topic(&spec).await.unwrap();
    assert_eq!(created.partitions, 2);
    assert_eq!(created.id.0.len(), 22, "{}", created.id);
    let found = fixture.admin.ensure_topic(&spec).await.unwrap();
    assert_eq!(found, created);
    assert!(fixture.admin.delete_topic(&spec.name).await.unwrap());
    let deadline = Instant::now() + Duration::from_secs(10);
    while fixture.admin.topic(&spec.name).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the topic is never forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let again = fixture.admin.ensure_topic(&spec).await.unwrap();
    assert_ne!(again.id, created.id);
    fixture.delete(&[&spec.name]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_a_broker_is_about_to_forget_is_not_mistaken_for_a_wrong_one() {
    let fixture = Fixture::new();
    let spec = TopicSpec::view(&fixture.cluster, "again", 1, 8);
    for _ in 0..20 {
        fixture.admin.ensure_topic(&spec).await.unwrap();
        // The broker may not have heard of it yet, and say that there is none.
        fixture.admin.delete_topic(&spec.name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_topics_of_a_location_can_be_created() {
    let fixture = Fixture::new();
    let cluster = &fixture.cluster;
    let specs = [
        TopicSpec::tasks(cluster, "default"),
        TopicSpec::positions(cluster, "default"),
        TopicSpec::status(cluster, "default"),
        TopicSpec::tables(cluster, "default"),
        TopicSpec::schemas(cluster),
        TopicSpec::keyless_table(&format!("{cluster}.keyless")),
        TopicSpec::dlq(cluster, &format!("{cluster}.keyless")),
    ];
    for spec in &specs {
        let info = fixture.admin.ensure_topic(spec).await.unwrap();
        assert_eq!(info.partitions, spec.partitions, "{}", spec.name);
    }
    let names: Vec<_> = specs.iter().map(|spec| spec.name.clone()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    fixture.delete(&names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_other_partitions_or_another_policy_is_refused_with_what_to_do() {
    let fixture = Fixture::new();
    let topic = fixture.topic("other", 2).await;
    let error = fixture
        .admin
        .ensure_topic(&TopicSpec::keyed_table(&topic, 3))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("partitions=2, but 3"), "{error}");
    assert_eq!(error.class(), Class::Definite);

    let mut spec = TopicSpec::keyless_table(&topic);
    spec.partitions = 2;
    let error = fixture.admin.ensure_topic(&spec).await.unwrap_err();
    let wanted = "cleanup.policy=compact, but delete is needed";
    assert!(error.to_string().contains(wanted), "{error}");
    assert!(
        error
            .hint()
            .unwrap()
            .contains("--add-config cleanup.policy=delete")
    );

    let mut spec = TopicSpec::keyed_table(&topic, 2);
    spec.config
        .insert("max.message.bytes".into(), "100000000".into());
    let error = fixture.admin.ensure_topic(&spec).await.unwrap_err();
    assert!(error.to_string().contains("max.message.bytes"), "{error}");
    fixture.delete(&["other"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_topics_are_made_together_and_one_that_is_wrong_is_so_alone() {
    let fixture = Fixture::new();
    let name = |n: u32| format!("{}.many{n}", fixture.cluster);
    let plain = TopicSpec::keyless_table(&name(0));
    fixture.admin.ensure_topic(&plain).await.unwrap();
    let three = TopicSpec::keyed_table(&name(1), 3);
    let three = fixture.admin.ensure_topic(&three).await.unwrap();
    let mut specs: Vec<_> = (0..60)
        .map(|n| TopicSpec::keyed_table(&name(n), 1))
        .collect();
    specs.push(TopicSpec::keyed_table("not a name of a topic", 1));
    let mut made = fixture.admin.ensure_topics(&specs).await.unwrap();
    assert_eq!(made.len(), specs.len());
    let refused = made.pop().unwrap().unwrap_err();
    assert!(
        refused.to_string().contains("not a name of a topic"),
        "{refused}"
    );
    let error = made[0].as_ref().unwrap_err();
    assert!(matches!(error, Error::TopicMismatch { .. }), "{error}");
    let known = made[1].as_ref().unwrap();
    assert!(known.existed);
    assert_eq!(known.info, three, "an existing topic keeps its partitions");
    for (n, made) in (2..).zip(&made[2..]) {
        let made = made.as_ref().unwrap();
        assert!(!made.existed);
        let found = fixture.admin.topic(&name(n)).await.unwrap();
        assert_eq!(found.as_ref(), Some(&made.info));
    }
    let again = fixture.admin.ensure_topics(&specs[2..60]).await.unwrap();
    assert!(again.iter().all(|made| made.as_ref().unwrap().existed));
    let names: Vec<_> = (0..60).map(name).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    fixture.delete(&names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_no_error_to_look_for_or_to_delete() {
    let fixture = Fixture::new();
    assert_eq!(fixture.admin.topic("no-such-topic").await.unwrap(), None);
    assert!(!fixture.admin.delete_topic("no-such-topic").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_a_transient_error() {
    let config = hutong_transport::KafkaConfig::plain("127.0.0.1:1").unwrap();
    let admin = hutong_transport::admin::Admin::new(&config).unwrap();
    let error = admin.topic("any").await.unwrap_err();
    assert!(matches!(error, Error::Operation { .. }), "{error}");
    assert_eq!(error.class(), Class::Transient, "{error}");
}
