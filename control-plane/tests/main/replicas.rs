//! Two replicas over one database: both answer, one publishes, and either may die.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Api, Platform, answer, run, source, until};

/// How long nobody may publish after the leader has died.
const TAKEOVER: Duration = Duration::from_secs(15);

fn says_that_it_leads(metrics: &Value) -> bool {
    let mut lines = metrics.as_str().unwrap().lines();
    lines.any(|line| line == "hutong_control_leader 1")
}

async fn leads(platform: &Platform, twin: &Platform) -> (bool, bool) {
    let mut lead = [false; 2];
    for (leads, replica) in lead.iter_mut().zip([platform, twin]) {
        let metrics = replica.platform("GET", "/metrics", None).await.ok();
        *leads = says_that_it_leads(&metrics);
    }
    (lead[0], lead[1])
}

#[test]
fn two_replicas_answer_one_publishes_and_nothing_acknowledged_is_lost_with_it() {
    run(async {
        let mut first = Platform::with_kafka().await;
        first.ready().await;
        until("the first leads", async || {
            let metrics = first.platform("GET", "/metrics", None).await.ok();
            let leads = says_that_it_leads(&metrics);
            leads.then_some(()).ok_or(metrics)
        })
        .await;
        let second = first.twin().await;
        second.ready().await;
        assert_eq!(leads(&first, &second).await, (true, false));

        // What either accepts is published, and either shows it.
        for (replica, name) in [(&first, "one"), (&second, "two")] {
            let body = json!({"name": name, "config": source(name, name)});
            replica
                .connect("POST", "/connectors", Some(body))
                .await
                .ok();
            second.task_where(&format!("{name}-0"), |_| true).await;
        }
        let listed = json!(["one", "two"]);
        for replica in [&first, &second] {
            let shown = replica.connect("GET", "/connectors", None).await.ok();
            assert_eq!(shown, listed);
        }
        assert_eq!(leads(&first, &second).await, (true, false));

        // The leader dies while both take in more. Its listeners die with it: what it does not
        // acknowledge is nobody's promise.
        let mut posts = tokio::task::JoinSet::new();
        for n in 0..40 {
            let replica = if n % 2 == 0 { &first } else { &second };
            let name = format!("c{n}");
            let body = json!({"name": name, "config": source(&name, &name)});
            let request = replica.request(Api::Connect, "POST", "/connectors");
            let request = request.bearer_auth(&first.admin).body(body.to_string());
            posts.spawn(async move {
                let sent = request.send().await;
                let acknowledged = sent.is_ok_and(|answer| answer.status() == 201);
                (name, acknowledged)
            });
        }
        let mut acknowledged = Vec::new();
        let mut died = None;
        while let Some(posted) = posts.join_next().await {
            let (name, is_acknowledged) = posted.unwrap();
            if is_acknowledged {
                acknowledged.push(name);
            }
            if acknowledged.len() == 10 && died.is_none() {
                first.kill();
                died = Some(Instant::now());
            }
        }
        let died = died.expect("at least ten were acknowledged");
        assert!(acknowledged.len() >= 20, "the second takes everything");
        until("the second leads", async || {
            let metrics = second.platform("GET", "/metrics", None).await.ok();
            let leads = says_that_it_leads(&metrics);
            leads.then_some(()).ok_or(metrics)
        })
        .await;
        let took = died.elapsed();
        assert!(took < TAKEOVER, "took {took:?}");
        until("all that was acknowledged is published", async || {
            let tasks = second.tasks("default").await;
            let mut missing = acknowledged.clone();
            missing.retain(|name| !tasks.contains_key(&format!("{name}-0")));
            missing.is_empty().then_some(()).ok_or(json!(missing))
        })
        .await;
        let shown = second.connect("GET", "/connectors", None).await.ok();
        let shown: Vec<String> = serde_json::from_value(shown).unwrap();
        for name in &acknowledged {
            assert!(shown.contains(name), "{name} was acknowledged");
        }

        // The dead one comes back and does not lead.
        first.restart().await;
        first.ready().await;
        assert_eq!(leads(&first, &second).await, (false, true));
        let open = answer(first.request(Api::Platform, "GET", "/healthz")).await;
        assert_eq!(open.status, 200);
        second.leave().await;
        first.end().await;
    });
}
