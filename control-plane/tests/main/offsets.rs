//! Offsets: who may change them when, and how a worker is asked.

use hutong_transport::record::{
    AnswerRecord, PropertyMistake, Record, RequestKind, RequestRecord, TargetState, TaskState,
    request_key,
};
use serde_json::{Value, json};

use crate::harness::{Answer, Platform, run, source, until};

const PATH: &str = "/connectors/aic/offsets";

async fn create(platform: &Platform, state: &str) {
    let body = json!({"name": "aic", "config": source("aic", "aic"), "initial_state": state});
    platform
        .connect("POST", "/connectors", Some(body))
        .await
        .ok();
}

/// Answers the next request about a task as its worker does, and returns what was asked.
async fn answer_as_worker(
    platform: &Platform,
    errors: Vec<PropertyMistake>,
    details: Value,
) -> Value {
    let topic = platform.cluster.tasks("default");
    let request = until("the request is published", async || {
        let newest = platform.newest(&topic).await;
        let mut requests = newest
            .values()
            .filter_map(|v| RequestRecord::decode(v).ok());
        requests.next().ok_or(Value::Null)
    })
    .await;
    assert_eq!(request.kind, RequestKind::Offsets);
    let answer = AnswerRecord {
        v: 1,
        request: request.request.clone(),
        errors,
        details,
    };
    let key = request_key(&request.request);
    platform
        .produce(
            platform.cluster.status("default"),
            key,
            Some(answer.encode()),
        )
        .await;
    request.config
}

async fn ask(
    platform: &Platform,
    method: &str,
    body: Option<Value>,
    errors: Vec<PropertyMistake>,
    details: Value,
) -> (Answer, Value) {
    tokio::join!(
        platform.connect(method, PATH, body),
        answer_as_worker(platform, errors, details),
    )
}

#[test]
fn offsets_of_a_stopped_connector_are_read_and_changed_by_the_worker_that_has_its_task() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        create(&platform, "STOPPED").await;
        let task = platform.task_where("aic-0", |_| true).await;
        assert_eq!(task.target, TargetState::Stopped);
        // What it reported before it was stopped is not believed any more.
        let details = json!({"position": {"lsn": "0/1"}, "tables": []});
        platform.report(&task, TaskState::Stopped, details).await;

        let stored = json!({"v": 1, "lsn": "0/102", "last_commit_lsn": "0/100", "tables": {}});
        let offsets = json!([{"partition": {"server": "aic"}, "offset": stored}]);
        let details = json!({"offsets": offsets});
        let (shown, asked) = ask(&platform, "GET", None, vec![], details.clone()).await;
        assert_eq!(asked, json!({"task": "aic-0", "action": "get"}));
        assert_eq!(
            shown.ok(),
            json!({"offsets": [{
                "partition": {"server": "aic"}, "offset": {"lsn": 258, "lsn_commit": 256},
            }]})
        );

        let body = json!({"offsets": [{"partition": {"server": "aic"}, "offset": {"lsn": 300}}]});
        let (altered, asked) = ask(&platform, "PATCH", Some(body), vec![], details).await;
        assert_eq!(altered.status, 200);
        assert_eq!(
            altered.body,
            json!({"message": "The offsets for this connector have been altered successfully"})
        );
        assert_eq!(
            asked,
            json!({"task": "aic-0", "action": "alter", "offsets": [
                {"partition": {"server": "aic"}, "offset": {"lsn": 300}},
            ]})
        );

        let none = json!({"offsets": []});
        let (reset, asked) = ask(&platform, "DELETE", None, vec![], none).await;
        assert_eq!(
            reset.ok(),
            json!({"message": "The offsets for this connector have been reset successfully"})
        );
        assert_eq!(asked["action"], "reset");

        let refusal = |message: &str| {
            vec![PropertyMistake {
                property: "offsets".to_owned(),
                message: message.to_owned(),
            }]
        };
        let definite = json!({"class": "definite"});
        let (refused, _) = ask(&platform, "DELETE", None, refusal("slot in use"), definite).await;
        refused.refuses(400, "slot in use");
        let transient = json!({"class": "transient"});
        let (refused, _) = ask(&platform, "DELETE", None, refusal("no answer"), transient).await;
        refused.refuses(503, "no answer");
        let topic = platform.cluster.tasks("default");
        until("the requests are withdrawn", async || {
            let newest = platform.newest(&topic).await;
            (newest.len() == 1).then_some(()).ok_or(json!(newest.len()))
        })
        .await;
        platform.end().await;
    });
}

#[test]
fn offsets_change_only_in_state_stopped_and_only_in_the_form_that_kafka_connect_takes() {
    run(async {
        let platform = Platform::without_kafka().await;
        create(&platform, "RUNNING").await;
        let body = json!({"offsets": [{"partition": {"server": "aic"}, "offset": {"lsn": 1}}]});
        let words = "Connectors must be in the STOPPED state before their offsets can be modified. \
                     This can be done for the specified connector by issuing a 'PUT' request to the \
                     '/connectors/aic/stop' endpoint";
        for (method, body) in [("PATCH", Some(body)), ("DELETE", None)] {
            let refused = platform.connect(method, PATH, body).await;
            assert_eq!(refused.status, 400);
            refused.refuses(400, words);
            let unknown = "/connectors/none/offsets";
            let body = Some(json!({"offsets": []}));
            let refused = platform.connect(method, unknown, body).await;
            refused.refuses(404, "Connector none not found");
        }
        platform
            .connect("PUT", "/connectors/aic/stop", None)
            .await
            .ok();
        for body in [json!({}), json!({"offsets": null}), json!({"offsets": []})] {
            let refused = platform.connect("PATCH", PATH, Some(body)).await;
            refused.refuses(400, "Partitions / offsets need to be provided");
        }
        // A sink needs a topic, and a topic Kafka: only the form matters here.
        sqlx::query(
            "insert into connector (name, owner, kind, class, location, config, target)
             values ('s', 'platform', 'sink', 'c', 'default', '{}', 'stopped')",
        )
        .execute(&mut platform.database().await)
        .await
        .unwrap();
        let topic_and = |partition: Value, offset: Value| json!({"partition": {"kafka_topic": "t", "kafka_partition": partition}, "offset": offset});
        let zero = json!({"kafka_offset": 0});
        for (one, words) in [
            (json!({"offset": zero}), "cannot be null or missing"),
            (
                json!({"partition": {"kafka_topic": "t"}, "offset": zero}),
                "must contain the keys 'kafka_topic' and 'kafka_partition'",
            ),
            (
                json!({"partition": {"kafka_topic": 7, "kafka_partition": 0}, "offset": zero}),
                "Kafka topic names must be valid strings",
            ),
            (
                topic_and(Value::Null, zero.clone()),
                "Kafka partitions must be valid numbers",
            ),
            (
                topic_and(json!("one"), zero.clone()),
                "Kafka partition value in the provided offsets: 'one'",
            ),
            (
                topic_and(json!("0"), json!({"lsn": 0})),
                "should either be null or contain the key 'kafka_offset'",
            ),
            (
                topic_and(json!(0), json!({"kafka_offset": 1.5})),
                "Kafka offset value in the provided offsets: '1.5'",
            ),
        ] {
            let body = Some(json!({"offsets": [one]}));
            let refused = platform
                .connect("PATCH", "/connectors/s/offsets", body)
                .await;
            refused.refuses(400, words);
        }
        platform.end().await;
    });
}
