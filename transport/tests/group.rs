//! Who owns what, handed over and lost.

use std::collections::BTreeSet;
use std::time::Duration;

use hutong_schemas::class::{Class, Classified};
use hutong_transport::group::{GroupEvent, TaskGroup};

use crate::fixture::{Fixture, in_time};

const PARTITIONS: i32 = 8;

async fn join(fixture: &Fixture, topic: &str, instance: &str) -> TaskGroup {
    let config = fixture.with("session.timeout.ms", "6000").unwrap();
    let group = fixture.cluster.workers("default");
    let joined = TaskGroup::join(&config, &group, instance, topic).await;
    joined.unwrap()
}

/// Follows events until the member owns as many partitions as expected, acknowledging revocations.
async fn follow(group: &mut TaskGroup, owned: &mut BTreeSet<i32>, until: usize) {
    in_time(async {
        while owned.len() != until {
            match group.next().await.unwrap() {
                GroupEvent::Assigned { partitions } => owned.extend(partitions),
                GroupEvent::Revoked { partitions, done } => {
                    owned.retain(|partition| !partitions.contains(partition));
                    done.send(()).unwrap();
                }
                GroupEvent::Lost { partitions } => panic!("lost {partitions:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_handed_over_to_a_second_member_and_only_owners_can_commit() {
    let fixture = Fixture::new();
    let topic = fixture.topic("handover", PARTITIONS).await;
    let mut first = join(&fixture, &topic, "one").await;
    let mut of_first = BTreeSet::new();
    follow(&mut first, &mut of_first, 8).await;
    let membership = first.membership();
    in_time(membership.commit_sync(3)).await.unwrap();

    let mut second = join(&fixture, &topic, "two").await;
    let mut of_second = BTreeSet::new();
    tokio::join!(
        follow(&mut first, &mut of_first, 4),
        follow(&mut second, &mut of_second, 4)
    );
    assert!(of_first.is_disjoint(&of_second));
    let kept = *of_first.first().unwrap();
    let given = *of_second.first().unwrap();
    in_time(membership.commit_sync(kept)).await.unwrap();
    in_time(second.membership().commit_sync(given))
        .await
        .unwrap();
    let error = in_time(membership.commit_sync(given)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");

    // The second leaves. Its place is kept for the session, then the first has all.
    in_time(second.leave()).await;
    follow(&mut first, &mut of_first, 8).await;
    in_time(first.leave()).await;
    let error = in_time(membership.commit_sync(kept)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
    fixture.delete(&["handover"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_back_has_its_partitions_before_the_session_ends() {
    let fixture = Fixture::new();
    let topic = fixture.topic("back", PARTITIONS).await;
    let mut member = join(&fixture, &topic, "one").await;
    let mut owned = BTreeSet::new();
    follow(&mut member, &mut owned, 8).await;
    in_time(member.leave()).await;
    let mut back = join(&fixture, &topic, "one").await;
    let mut owned = BTreeSet::new();
    let start = std::time::Instant::now();
    follow(&mut back, &mut owned, 8).await;
    println!("back after {:?}", start.elapsed());
    in_time(back.membership().commit_sync(0)).await.unwrap();
    in_time(back.leave()).await;
    fixture.delete(&["back"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_instance_was_taken_is_fenced_and_loses_everything() {
    let fixture = Fixture::new();
    let topic = fixture.topic("taken", PARTITIONS).await;
    let mut stale = join(&fixture, &topic, "one").await;
    let mut owned = BTreeSet::new();
    follow(&mut stale, &mut owned, 8).await;
    let membership = stale.membership();
    let mut taker = join(&fixture, &topic, "one").await;
    let mut taken = BTreeSet::new();
    follow(&mut taker, &mut taken, 8).await;
    let error = in_time(membership.commit_sync(0)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
    in_time(taker.membership().commit_sync(0)).await.unwrap();

    let event = in_time(stale.next()).await.unwrap();
    let GroupEvent::Lost { partitions } = event else {
        panic!("{event:?}");
    };
    assert_eq!(partitions.len(), 8);
    let error = in_time(stale.next()).await.unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
    in_time(taker.leave()).await;
    fixture.delete(&["taken"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_until_the_tasks_have_stopped() {
    let fixture = Fixture::new();
    let topic = fixture.topic("waits", PARTITIONS).await;
    let mut first = join(&fixture, &topic, "one").await;
    let mut of_first = BTreeSet::new();
    follow(&mut first, &mut of_first, 8).await;
    let mut second = join(&fixture, &topic, "two").await;
    let event = in_time(first.next()).await.unwrap();
    let GroupEvent::Revoked { partitions, done } = event else {
        panic!("{event:?}");
    };
    assert_eq!(partitions.len(), 4);
    let mut of_second = BTreeSet::new();
    {
        let early = follow(&mut second, &mut of_second, 4);
        tokio::pin!(early);
        let early = tokio::time::timeout(Duration::from_secs(3), &mut early).await;
        assert!(
            early.is_err(),
            "partitions were given away before they were free"
        );
    }
    done.send(()).unwrap();
    follow(&mut second, &mut of_second, 4).await;
    assert_eq!(of_second, partitions.into_iter().collect());
    in_time(second.leave()).await;
    in_time(first.leave()).await;
    fixture.delete(&["waits"]).await;
}
