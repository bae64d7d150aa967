//! The connector API, as Kafka Connect's clients see it, and what a user sees of mistakes.

use hutong_schemas::class::Class;
use hutong_transport::record::{
    AnswerRecord, ErrorReport, PropertyMistake, Record, RequestRecord, Restarts, TargetState,
    TaskKind, TaskState, request_key,
};
use serde_json::{Value, json};

use crate::harness::{Api, Platform, answer, run, sink, source, until};

const SOURCE: &str = "io.debezium.connector.postgresql.PostgresConnector";

async fn create(platform: &Platform, name: &str, config: Value) -> crate::harness::Answer {
    let body = json!({"name": name, "config": config});
    platform.connect("POST", "/connectors", Some(body)).await
}

fn with(mut config: Value, property: &str, value: Value) -> Value {
    config[property] = value;
    config
}

#[test]
fn a_connector_is_made_shown_changed_and_listed() {
    run(async {
        let platform = Platform::without_kafka().await;
        let made = create(&platform, "aic", source("aic", "aic")).await;
        assert_eq!(made.status, 201);
        assert_eq!(made.body["type"], "source");
        assert_eq!(made.body["tasks"], json!([{"connector": "aic", "task": 0}]));
        assert_eq!(made.body["config"]["name"], "aic");
        create(&platform, "aic", source("aic", "aic"))
            .await
            .refuses(409, "Connector aic already exists");

        let config = platform
            .connect("GET", "/connectors/aic/config", None)
            .await
            .ok();
        assert_eq!(config["database.password"], "${env:HUTONG_SECRET_DB}");
        let changed = with(
            source("aic", "aic"),
            "table.include.list",
            json!("public.*"),
        );
        let put = platform
            .connect("PUT", "/connectors/aic/config", Some(changed))
            .await;
        assert_eq!(put.status, 200);
        assert_eq!(put.body["config"]["table.include.list"], "public.*");
        let other = platform
            .connect("PUT", "/connectors/bic/config", Some(source("bic", "bic")))
            .await;
        assert_eq!(other.status, 201, "PUT makes what is missing");
        let patch = json!({"table.include.list": null, "tasks.max": 1});
        let patched = platform
            .connect("PATCH", "/connectors/aic/config", Some(patch))
            .await
            .ok();
        assert_eq!(patched["config"].get("table.include.list"), None);
        assert_eq!(patched["config"]["tasks.max"], "1");

        assert_eq!(
            platform.connect("GET", "/connectors", None).await.ok(),
            json!(["aic", "bic"])
        );
        let expanded = platform
            .connect("GET", "/connectors?expand=status&expand=info", None)
            .await
            .ok();
        assert_eq!(expanded["aic"]["info"]["name"], "aic");
        assert_eq!(
            expanded["bic"]["status"]["connector"]["state"],
            "UNASSIGNED"
        );
        let unknown = platform
            .connect("GET", "/connectors?expand=more", None)
            .await
            .ok();
        assert_eq!(unknown, json!({"aic": {}, "bic": {}}));
        let tasks = platform
            .connect("GET", "/connectors/aic/tasks", None)
            .await
            .ok();
        assert_eq!(tasks[0]["id"], json!({"connector": "aic", "task": 0}));
        platform.end().await;
    });
}

#[test]
fn unknown_connectors_are_answered_in_kafka_connects_words() {
    run(async {
        let platform = Platform::without_kafka().await;
        for (method, path, words) in [
            ("GET", "/connectors/none", "Connector none not found"),
            ("GET", "/connectors/none/config", "Connector none not found"),
            (
                "GET",
                "/connectors/none/status",
                "No status found for connector none",
            ),
            ("GET", "/connectors/none/tasks", "Connector none not found"),
            (
                "GET",
                "/connectors/none/offsets",
                "Connector none not found",
            ),
            ("PUT", "/connectors/none/pause", "Connector none not found"),
            ("PUT", "/connectors/none/resume", "Connector none not found"),
            ("PUT", "/connectors/none/stop", "Connector none not found"),
            (
                "POST",
                "/connectors/none/restart",
                "Connector none not found",
            ),
            ("DELETE", "/connectors/none", "Connector none not found"),
            (
                "GET",
                "/connector-plugins/none/config",
                "Unknown connector plugin none",
            ),
        ] {
            let answer = platform.connect(method, path, None).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            answer.refuses(404, words);
        }
        platform
            .connect("DELETE", "/connectors", None)
            .await
            .refuses(405, "does not know this method");
        platform.end().await;
    });
}

#[test]
fn bad_input_is_refused_with_a_text_that_names_the_field() {
    run(async {
        let platform = Platform::without_kafka().await;
        let malformed = platform
            .request(Api::Connect, "POST", "/connectors")
            .bearer_auth(&platform.admin)
            .body("{\"name\": \"a\", \"config\": {");
        let malformed = answer(malformed).await;
        assert_eq!(malformed.status, 400);
        malformed.refuses(400, "malformed JSON");
        let nameless = platform
            .connect("POST", "/connectors", Some(json!({"config": {}})))
            .await;
        nameless.refuses(400, "missing field `name`");

        let cases = [
            ("A B", source("p", "s"), "name: \"A B\" is not a name"),
            ("a", json!({}), "connector.class: is required"),
            (
                "a",
                with(source("p", "s"), "connector.class", json!("org.example.No")),
                "Failed to find any class",
            ),
            (
                "a",
                with(source("p", "s"), "database.password", json!("hunter2")),
                "database.password: ",
            ),
            (
                "a",
                with(source("p", "s"), "table.inclde.list", json!("x")),
                "table.inclde.list: is not a property of this connector; did you mean \"table.include.list\"?",
            ),
            (
                "a",
                with(source("p", "s"), "database.port", json!({"of": "call"})),
                "database.port: must be text",
            ),
            (
                "a",
                with(source("p", "s"), "hutong.location", json!("moon")),
                "hutong.location: \"moon\" is not a location",
            ),
            (
                "a",
                with(source("p", "s"), "name", json!("b")),
                "Connector name configuration (b) doesn't match",
            ),
            (
                "a",
                sink("no.such.topic"),
                "topics: \"no.such.topic\" is neither a view",
            ),
        ];
        for (name, config, words) in cases {
            let refused = create(&platform, name, config).await;
            assert_eq!(refused.status, 400, "{refused:?}");
            refused.refuses(400, words);
            assert!(
                !refused.body.to_string().contains("hunter2"),
                "a password is never repeated"
            );
        }
        let both = with(source("p", "s"), "database.password", json!("hunter2"));
        let both = with(both, "table.inclde.list", json!("x"));
        create(&platform, "a", both)
            .await
            .refuses(400, "contains the following 2 error(s)");

        let cluster = platform.cluster.to_string();
        create(&platform, "a", source(&cluster, "s"))
            .await
            .refuses(400, "topic.prefix: ");
        let under = source(&format!("{cluster}.view"), "s");
        create(&platform, "a", under)
            .await
            .refuses(400, "the platform's own");
        let view = sink(&format!("{cluster}.view.none"));
        create(&platform, "a", view)
            .await
            .refuses(400, "topics: there is no view \"none\"");
        assert_eq!(
            platform.connect("GET", "/connectors", None).await.ok(),
            json!([])
        );
        platform.end().await;
    });
}

#[test]
fn a_second_owner_of_a_prefix_or_slot_is_refused() {
    run(async {
        let platform = Platform::without_kafka().await;
        create(&platform, "one", source("one", "slot_one"))
            .await
            .ok();
        let prefix = create(&platform, "two", source("one", "slot_two")).await;
        prefix.refuses(
            400,
            "topic.prefix: \"one\" is used by connector \"one\" already",
        );
        let slot = create(&platform, "two", source("two", "slot_one")).await;
        slot.refuses(
            400,
            "slot.name: slot \"slot_one\" of this database is used by connector \"one\"",
        );
        let nested = create(&platform, "two", source("one.more", "slot_two")).await;
        nested.refuses(400, "lie one under the other");
        let elsewhere = with(source("two", "slot_one"), "database.dbname", json!("other"));
        create(&platform, "two", elsewhere).await.ok();
        let swapped = platform
            .connect("PUT", "/connectors/two/config", Some(source("one", "s")))
            .await;
        swapped.refuses(400, "topic.prefix");
        let moved = with(source("one", "slot_one"), "hutong.location", json!("north"));
        let moved = platform
            .connect("PUT", "/connectors/one/config", Some(moved))
            .await;
        moved.refuses(400, "hutong.location: cannot be changed from default");
        platform.end().await;
    });
}

#[test]
fn plugins_list_their_properties_and_validation_counts_mistakes() {
    run(async {
        let platform = Platform::without_kafka().await;
        let plugins = platform
            .connect("GET", "/connector-plugins", None)
            .await
            .ok();
        let classes: Vec<_> = plugins
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["class"].clone())
            .collect();
        assert!(classes.contains(&json!(SOURCE)), "{classes:?}");
        let path = "/connector-plugins/PostgresConnector/config";
        let config = platform.connect("GET", path, None).await.ok();
        let slot = config
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["name"] == "slot.name")
            .unwrap();
        assert_eq!(slot["type"], "STRING");

        let wrong = with(source("p", "s"), "database.password", json!("hunter2"));
        let path = format!("/connector-plugins/{SOURCE}/config/validate");
        let found = platform.connect("PUT", &path, Some(wrong)).await.ok();
        assert_eq!(found["error_count"], 1);
        let configs = found["configs"].as_array().unwrap();
        let password = configs
            .iter()
            .find(|c| c["definition"]["name"] == "database.password")
            .unwrap();
        assert_eq!(password["value"]["errors"].as_array().unwrap().len(), 1);
        platform.end().await;
    });
}

#[test]
fn target_states_versions_and_restarts_reach_the_worker_and_its_status_comes_back() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        create(&platform, "aic", source("aic", "aic")).await.ok();
        let task = platform.task_where("aic-0", |task| task.version == 1).await;
        assert_eq!(
            (task.kind, task.target),
            (TaskKind::Source, TargetState::Running)
        );
        assert_eq!(task.config["class"], SOURCE);
        assert_eq!(task.config["properties"]["slot.name"], "aic");
        let status = platform
            .connect("GET", "/connectors/aic/status", None)
            .await
            .ok();
        assert_eq!(status["connector"]["state"], "UNASSIGNED");

        let details = json!({"position": {"lsn": "0/102"}, "tables": [{"topic": "aic.public.t"}]});
        platform.report(&task, TaskState::Running, details).await;
        until("the connector runs", async || {
            let status = platform
                .connect("GET", "/connectors/aic/status", None)
                .await
                .ok();
            let runs = status["tasks"][0]["state"] == "RUNNING";
            runs.then_some(()).ok_or(status)
        })
        .await;
        let status = platform
            .connect("GET", "/connectors/aic/status", None)
            .await
            .ok();
        assert_eq!(status["name"], "aic");
        assert_eq!(status["type"], "source");
        assert_eq!(status["connector"]["worker_id"], "worker-a:8084");
        assert_eq!(status["tasks"][0].get("trace"), None);
        let offsets = platform
            .connect("GET", "/connectors/aic/offsets", None)
            .await
            .ok();
        assert_eq!(
            offsets,
            json!({"offsets": [{"partition": {"server": "aic"}, "offset": {"lsn": 258}}]})
        );
        let topics = platform
            .connect("GET", "/connectors/aic/topics", None)
            .await
            .ok();
        assert_eq!(topics, json!({"aic": {"topics": ["aic.public.t"]}}));

        assert_eq!(
            platform
                .connect("PUT", "/connectors/aic/pause", None)
                .await
                .status,
            202
        );
        assert_eq!(
            platform
                .connect("PUT", "/connectors/aic/pause", None)
                .await
                .status,
            202
        );
        let paused = platform
            .task_where("aic-0", |task| task.target == TargetState::Paused)
            .await;
        assert_eq!(paused.version, 2, "asking twice changes nothing");
        assert_eq!(
            platform
                .connect("PUT", "/connectors/aic/resume", None)
                .await
                .status,
            202
        );
        assert_eq!(
            platform
                .connect("POST", "/connectors/aic/restart", None)
                .await
                .status,
            204
        );
        let restarted = platform.task_where("aic-0", |task| task.restart == 1).await;
        assert_eq!(
            (restarted.version, restarted.target),
            (4, TargetState::Running)
        );

        let error = ErrorReport {
            class: Class::Transient,
            message: "connection refused".to_owned(),
            hint: None,
        };
        let restarts = Some(Restarts {
            count: 3,
            since_ms: 5,
            next_try_ms: Some(9),
        });
        platform.report_restarts(&restarted, error, restarts).await;
        let restarting = until("the task starts again by itself", async || {
            let status = platform
                .connect("GET", "/connectors/aic/status", None)
                .await
                .ok();
            let task = status["tasks"][0].clone();
            (task["state"] == "RESTARTING")
                .then_some(task)
                .ok_or(status)
        })
        .await;
        assert_eq!(
            restarting["restarts"],
            json!({"count": 3, "since_ms": 5, "next_try_ms": 9})
        );
        assert_eq!(restarting["trace"], "connection refused");

        let error = ErrorReport {
            class: Class::Definite,
            message: "could not connect: password authentication failed".to_owned(),
            hint: Some("check database.password".to_owned()),
        };
        platform
            .report_error(&restarted, TaskState::Failed, Value::Null, Some(error))
            .await;
        let failed = until("the task failed", async || {
            let path = "/connectors/aic/tasks/0/status";
            let status = platform.connect("GET", path, None).await.ok();
            (status["state"] == "FAILED")
                .then(|| status.clone())
                .ok_or(status)
        })
        .await;
        assert_eq!(
            failed["trace"],
            "could not connect: password authentication failed\nhint: check database.password"
        );
        let only_failed = "/connectors/aic/restart?includeTasks=true&onlyFailed=true";
        let restarting = platform.connect("POST", only_failed, None).await;
        assert_eq!(restarting.status, 202);
        assert_eq!(restarting.body["tasks"][0]["state"], "RESTARTING");
        let again = platform.task_where("aic-0", |task| task.restart == 2).await;
        platform
            .report(&again, TaskState::Running, Value::Null)
            .await;
        until("the task runs again", async || {
            let path = "/connectors/aic/tasks/0/status";
            let status = platform.connect("GET", path, None).await.ok();
            (status["state"] == "RUNNING").then_some(()).ok_or(status)
        })
        .await;
        let nothing_failed = platform.connect("POST", only_failed, None).await;
        assert_eq!(nothing_failed.status, 202);
        assert_eq!(nothing_failed.body["tasks"][0]["state"], "RUNNING");
        let task = "/connectors/aic/tasks/0/restart";
        assert_eq!(platform.connect("POST", task, None).await.status, 204);
        let task = platform.task_where("aic-0", |task| task.restart == 3).await;
        assert_eq!(task.version, again.version + 1, "what runs is left alone");
        let unknown = "/connectors/aic/tasks/7/restart";
        platform
            .connect("POST", unknown, None)
            .await
            .refuses(404, "Unknown task: aic-7");
        let reset = "/connectors/aic/topics/reset";
        assert_eq!(platform.connect("PUT", reset, None).await.status, 202);

        assert_eq!(
            platform
                .connect("PUT", "/connectors/aic/stop", None)
                .await
                .status,
            204
        );
        let stopped = platform
            .task_where("aic-0", |task| task.target == TargetState::Stopped)
            .await;
        platform
            .report(&stopped, TaskState::Stopped, Value::Null)
            .await;
        until("the connector is stopped", async || {
            let status = platform
                .connect("GET", "/connectors/aic/status", None)
                .await
                .ok();
            let stopped = status["connector"]["state"] == "STOPPED" && status["tasks"] == json!([]);
            stopped.then_some(()).ok_or(status)
        })
        .await;
        let info = platform.connect("GET", "/connectors/aic", None).await.ok();
        assert_eq!(info["tasks"], json!([]));
        let tasks = platform.connect("GET", "/connectors/aic/tasks", None).await;
        assert_eq!(tasks.ok(), json!([]));
        platform.end().await;
    });
}

#[test]
fn a_deleted_connector_keeps_its_name_and_slot_until_its_worker_has_removed_them() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        create(&platform, "aic", source("aic", "aic")).await.ok();
        assert_eq!(
            platform
                .connect("DELETE", "/connectors/aic", None)
                .await
                .status,
            204
        );
        platform
            .connect("GET", "/connectors/aic", None)
            .await
            .refuses(404, "not found");
        assert_eq!(
            platform.connect("GET", "/connectors", None).await.ok(),
            json!([])
        );
        create(&platform, "aic", source("aic", "aic"))
            .await
            .refuses(409, "is being deleted");
        create(&platform, "two", source("two", "aic"))
            .await
            .refuses(400, "slot.name");
        let listed = platform
            .platform("GET", "/api/v1/deletions", None)
            .await
            .ok();
        assert_eq!(listed[0]["name"], "aic");

        let task = platform
            .task_where("aic-0", |task| task.target == TargetState::Deleted)
            .await;
        platform
            .report(&task, TaskState::Deleted, Value::Null)
            .await;
        until("the deletion is finished", async || {
            let listed = platform
                .platform("GET", "/api/v1/deletions", None)
                .await
                .ok();
            let tasks = platform.tasks("default").await;
            (listed == json!([]) && tasks.is_empty())
                .then_some(())
                .ok_or(listed)
        })
        .await;
        create(&platform, "aic", source("aic", "aic")).await.ok();
        let again = platform.task_where("aic-0", |_| true).await;
        assert!(
            again.version > task.version,
            "a version is never used twice"
        );
        let status = platform
            .connect("GET", "/connectors/aic/status", None)
            .await
            .ok();
        let state = &status["connector"]["state"];
        assert_eq!(
            state, "UNASSIGNED",
            "what was reported of the former task does not count"
        );
        platform.end().await;
    });
}

#[test]
fn validation_asks_a_worker_at_the_location_and_shows_its_answer() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        let path = format!("/connector-plugins/{SOURCE}/config/validate");
        let validation = platform.connect("PUT", &path, Some(source("aic", "aic")));
        let worker = async {
            let topic = platform.cluster.tasks("default");
            let request = until("the request is published", async || {
                let newest = platform.newest(&topic).await;
                let request = newest
                    .values()
                    .find_map(|value| RequestRecord::decode(value).ok());
                request.ok_or(Value::Null)
            })
            .await;
            assert_eq!(request.config["class"], SOURCE);
            // Whose secrets a worker may resolve for it.
            assert_eq!(request.config["owner"], "platform");
            assert_eq!(request.config["properties"]["database.dbname"], "aic");
            let answer = AnswerRecord {
                v: 1,
                request: request.request.clone(),
                errors: vec![PropertyMistake {
                    property: "slot.name".to_owned(),
                    message: "slot \"aic\" is in use".to_owned(),
                }],
                details: Value::Null,
            };
            let key = request_key(&request.request);
            platform
                .produce(
                    platform.cluster.status("default"),
                    key,
                    Some(answer.encode()),
                )
                .await;
        };
        let (found, ()) = tokio::join!(validation, worker);
        let found = found.ok();
        assert_eq!(found["error_count"], 1);
        let configs = found["configs"].as_array().unwrap();
        let slot = configs
            .iter()
            .find(|c| c["definition"]["name"] == "slot.name")
            .unwrap();
        assert_eq!(slot["value"]["errors"], json!(["slot \"aic\" is in use"]));
        let topic = platform.cluster.tasks("default");
        until("the request is withdrawn", async || {
            let newest = platform.newest(&topic).await;
            newest.is_empty().then_some(()).ok_or(json!(newest.len()))
        })
        .await;
        platform.end().await;
    });
}

#[test]
fn a_location_that_does_not_answer_is_said_so_within_ten_seconds() {
    run(async {
        let platform = Platform::without_kafka().await;
        let path = format!("/connector-plugins/{SOURCE}/config/validate");
        let begun = std::time::Instant::now();
        let found = platform
            .connect("PUT", &path, Some(source("aic", "aic")))
            .await
            .ok();
        assert!(begun.elapsed().as_secs() < 15);
        assert_eq!(found["error_count"], 1);
        assert!(
            found
                .to_string()
                .contains("location \\\"default\\\" did not answer within 10 s"),
            "{found}"
        );
        platform.end().await;
    });
}

#[test]
fn a_location_of_another_organisation_does_not_exist_for_a_caller() {
    run(async {
        let platform = Platform::without_kafka().await;
        let aic = platform.token("aic", "operator").await;
        let qts = platform.token("qts", "operator").await;
        let at = |name: &str| with(source(name, name), "hutong.location", json!("aic-front"));
        let post = async |token: &str, name: &str| {
            let body = json!({"name": name, "config": at(name)});
            platform
                .send_as(token, Api::Connect, "POST", "/connectors", Some(body))
                .await
        };
        let words = "\"aic-front\" is not a location of this installation that you may use; those are: default, north";
        post(&qts, "qts").await.refuses(400, words);
        let path = format!("/connector-plugins/{SOURCE}/config/validate");
        let validated = platform
            .send_as(&qts, Api::Connect, "PUT", &path, Some(at("qts")))
            .await
            .ok();
        assert_eq!(validated["error_count"], 1);
        let text = validated.to_string();
        assert!(text.contains("not a location"), "{text}");
        post(&aic, "aic").await.ok();
        post(&platform.admin, "central").await.ok();
        let listed = platform
            .send_as(&qts, Api::Platform, "GET", "/api/v1/locations", None)
            .await;
        assert_eq!(listed.ok(), json!(["default", "north"]));
        platform.end().await;
    });
}

#[test]
fn changes_of_single_properties_at_the_same_time_are_all_kept() {
    run(async {
        let platform = Platform::without_kafka().await;
        create(&platform, "aic", source("aic", "aic")).await.ok();
        let properties = [
            ("max.batch.size", "100"),
            ("poll.interval.ms", "7"),
            ("max.queue.size", "900"),
            ("snapshot.fetch.size", "50"),
            ("retriable.restart.connector.wait.ms", "9"),
            ("status.update.interval.ms", "800"),
        ];
        let mut patches = tokio::task::JoinSet::new();
        for (property, value) in properties {
            let request = platform.request(Api::Connect, "PATCH", "/connectors/aic/config");
            let request = request
                .bearer_auth(&platform.admin)
                .body(json!({property: value}).to_string());
            patches.spawn(answer(request));
        }
        for patched in patches.join_all().await {
            patched.ok();
        }
        let config = platform
            .connect("GET", "/connectors/aic/config", None)
            .await
            .ok();
        for (property, value) in properties {
            assert_eq!(config[property], value, "{config}");
        }
        let gone = platform
            .connect("PATCH", "/connectors/none/config", Some(json!({"a": "b"})))
            .await;
        gone.refuses(404, "Connector none not found");
        platform.end().await;
    });
}

/// A connector's topics stay when it goes, and so does whose they are.
#[test]
fn a_prefix_once_used_belongs_to_its_first_owner_until_the_platform_releases_it() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        let aic = platform.token("aic", "operator").await;
        let qts = platform.token("qts", "operator").await;
        let post = async |token: &str, name: &str, prefix: &str| {
            let body = json!({"name": name, "config": source(prefix, name)});
            platform
                .send_as(token, Api::Connect, "POST", "/connectors", Some(body))
                .await
        };
        post(&aic, "one", "aic").await.ok();
        // What its worker announced stays in the topic of tables.
        let table = crate::views::table("aic.public.t").encode();
        let key = "aic.public.t".to_owned();
        let tables = platform.cluster.tables("default");
        platform.produce(tables, key, Some(table)).await;
        let sees = async |token: &str| {
            let seen = platform.send_as(token, Api::Platform, "GET", "/api/v1/tables", None);
            seen.await.ok().as_array().unwrap().len()
        };
        until("the table is known", async || {
            (sees(&aic).await == 1).then_some(()).ok_or(Value::Null)
        })
        .await;
        platform
            .send_as(&aic, Api::Connect, "DELETE", "/connectors/one", None)
            .await
            .ok();
        let forgotten = platform.platform("DELETE", "/api/v1/deletions/one", None);
        forgotten.await.ok();
        for prefix in ["aic", "aic.public", "aic.public.t"] {
            let words = "topics under prefix \"aic\" belong to another organisation";
            post(&qts, "two", prefix).await.refuses(400, words);
        }
        assert_eq!(sees(&qts).await, 0);
        assert_eq!(sees(&aic).await, 1);
        post(&aic, "three", "aic").await.ok();
        let release = async |token: &str, prefix: &str| {
            let path = format!("/api/v1/prefixes/{prefix}");
            platform
                .send_as(token, Api::Platform, "DELETE", &path, None)
                .await
        };
        assert_eq!(release(&aic, "aic").await.status, 403);
        release(&platform.admin, "aic")
            .await
            .refuses(409, "is used by a connector");
        release(&platform.admin, "no")
            .await
            .refuses(404, "there is no prefix");
        platform
            .send_as(&aic, Api::Connect, "DELETE", "/connectors/three", None)
            .await
            .ok();
        platform
            .platform("DELETE", "/api/v1/deletions/three", None)
            .await
            .ok();
        assert_eq!(release(&platform.admin, "aic").await.status, 204);
        post(&qts, "two", "aic").await.ok();
        until("the tables of its former owner are forgotten", async || {
            (sees(&qts).await == 0 && sees(&platform.admin).await == 0)
                .then_some(())
                .ok_or(Value::Null)
        })
        .await;
        platform.end().await;
    });
}
