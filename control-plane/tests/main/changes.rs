//! Changes of live views: what processors, sinks and people get to know, and what is finished when.

use hutong_transport::record::{TaskRecord, TaskState};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, Platform, run, sink, until, wait_topic};
use crate::views::{document, end, post, views, with_table};

/// A platform with the view and a sink of its subscriber.
async fn with_view() -> (Platform, String, String) {
    let (platform, aic, topic) = with_table().await;
    post(&platform, &aic, document(&topic)).await.ok();
    let qts = platform.token("qts", "operator").await;
    let body = json!({"name": "front", "config": sink(&platform.cluster.view_alias("s03"))});
    platform
        .send_as(&qts, Api::Connect, "POST", "/connectors", Some(body))
        .await
        .ok();
    (platform, aic, topic)
}

async fn put(platform: &Platform, token: &str, document: Value) -> Answer {
    let path = format!("/api/v1/views/{}", document["name"].as_str().unwrap());
    platform
        .send_as(token, Api::Platform, "PUT", &path, Some(document))
        .await
}

fn changed(topic: &str, field: &str, value: Value) -> Value {
    let mut document = document(topic);
    document[field] = value;
    document
}

fn input(task: &TaskRecord) -> &Value {
    &task.config["inputs"][0]
}

/// Reports, as both processors, that the newest version of the first view is taken up.
async fn report(platform: &Platform, topic: &str, fields: Value) {
    for partition in 0..2 {
        let id = format!("view-{topic}-{partition}");
        let task = platform.task_where(&id, |_| true).await;
        let view = &views(&task)[0];
        let mut entry = json!({
            "name": view.name, "version": view.version, "generation": view.generation,
            "state": "live", "rows": 60, "filled": 60, "total": 70,
        });
        for (name, value) in fields.as_object().unwrap() {
            entry[name] = value.clone();
        }
        let details = json!({"next_offset": 10, "end_offset": 10, "views": [entry]});
        platform.report(&task, TaskState::Running, details).await;
    }
}

#[test]
fn a_change_in_place_is_a_version_of_the_processors_tasks_and_nothing_else() {
    run(async {
        let (platform, aic, topic) = with_view().await;
        let processor = format!("view-{topic}-0");
        let before = platform.task_where(&processor, |_| true).await;
        let front = platform.task_where("front-0", |_| true).await;
        let columns = json!([
            {"name": "ent_id"}, {"name": "ent_name"}, {"name": "secret_flag"},
        ]);
        let mut wider = changed(&topic, "columns", columns);
        wider["where"] = json!("secret_flag IN (0, 1)");
        let answer = put(&platform, &aic, wider.clone()).await.ok();
        assert_eq!(
            (&answer["version"], &answer["generation"]),
            (&json!(2), &json!(1))
        );
        let task = platform
            .task_where(&processor, |task| task.version > before.version)
            .await;
        let (was, is) = (&views(&before)[0], &views(&task)[0]);
        assert_eq!((is.version, is.generation), (2, 1));
        assert_eq!((&is.topic, &is.topic_id), (&was.topic, &was.topic_id));
        assert_eq!(is.document.where_.as_deref(), Some("secret_flag IN (0, 1)"));
        assert_ne!(is.value_schema_id, was.value_schema_id);
        assert!(
            is.value_schema.contains(r#""default":null"#),
            "{}",
            is.value_schema
        );
        let versions = format!("/subjects/{}-value/versions", is.topic);
        let versions = platform.registry("GET", &versions, None).await.ok();
        assert_eq!(versions, json!([1, 2]));

        // What holds already changes nothing, and sinks were not disturbed.
        let again = put(&platform, &aic, wider.clone()).await.ok();
        assert_eq!(again["version"], 2);
        let now = platform.task_where("front-0", |_| true).await;
        assert_eq!(now.version, front.version);

        // An end of the grant they must know.
        wider["valid_until"] = json!("2099-01-01T00:00:00Z");
        put(&platform, &aic, wider).await.ok();
        let now = platform
            .task_where("front-0", |task| task.version > front.version)
            .await;
        assert_eq!(input(&now)["valid_until_ms"], 4_070_908_800_000_i64);
        end(platform, &[&topic, &is.topic.clone()]).await;
    });
}

#[test]
fn what_makes_a_view_another_one_cannot_be_changed_nor_by_who_receives_it() {
    run(async {
        let (platform, aic, topic) = with_view().await;
        let qts = platform.token("qts", "operator").await;
        put(&platform, &qts, document(&topic))
            .await
            .refuses(403, "by who gives it");
        let stranger = platform.token("ltax", "operator").await;
        put(&platform, &stranger, document(&topic))
            .await
            .refuses(404, "there is no view");
        for (field, value, words) in [
            (
                "subscriber",
                json!("ltax"),
                "subscriber: is \"qts\" and cannot become",
            ),
            ("share", json!("s04"), "share: is \"s03\" and cannot become"),
            (
                "location",
                json!("moon"),
                "location: is \"default\" and cannot become",
            ),
            (
                "valid_until",
                json!("2020-01-01T00:00:00Z"),
                "valid_until: is in the past",
            ),
            ("where", json!("phone = 1"), "where: "),
        ] {
            let refused = put(&platform, &aic, changed(&topic, field, value)).await;
            refused.refuses(400, words);
        }
        let status = platform
            .platform("GET", "/api/v1/views/s03", None)
            .await
            .ok();
        assert_eq!(status["version"], 1);
        platform
            .send_as(&aic, Api::Platform, "DELETE", "/api/v1/views/s03", None)
            .await
            .ok();
        put(&platform, &aic, document(&topic))
            .await
            .refuses(409, "cannot be changed");
        let own = platform.cluster.view("s03", 1);
        wait_topic(&platform, &own, false).await;
        let other = until("the view is gone", async || {
            let answer = post(
                &platform,
                &aic,
                changed(&topic, "subscriber", json!("ltax")),
            )
            .await;
            if answer.status == 409 {
                Err(answer.body)
            } else {
                Ok(answer)
            }
        })
        .await;
        other.refuses(400, "one for another subscriber needs another name");
        end(platform, &[&topic]).await;
    });
}

#[test]
fn a_withdrawn_column_closes_the_generation_and_its_sinks_hear_of_all_of_it() {
    run(async {
        let (platform, aic, topic) = with_view().await;
        let (first, second) = (
            platform.cluster.view("s03", 1),
            platform.cluster.view("s03", 2),
        );
        report(&platform, &topic, json!({})).await;
        let narrower = changed(&topic, "columns", json!([{"name": "ent_id"}]));
        let answer = put(&platform, &aic, narrower).await.ok();
        assert_eq!(
            (&answer["version"], &answer["generation"]),
            (&json!(2), &json!(2))
        );
        let front = platform
            .task_where("front-0", |task| input(task)["generation"] == 2)
            .await;
        let told = input(&front);
        assert_eq!(told["topic"], second.as_str());
        assert_eq!(told["withdrawn"], json!(["ent_name"]));
        assert_eq!(
            (&told["rekeyed"], &told["withdrawn_since"]),
            (&json!(false), &json!(1))
        );
        assert!(told.get("fill_ends").is_none());
        let schema = platform
            .registry(
                "GET",
                &format!("/subjects/{second}-value/versions/latest"),
                None,
            )
            .await
            .ok();
        assert!(!schema.to_string().contains("ent_name"), "{schema}");

        // The closed topic waits for its writers; where the fill ended is passed on once all say so.
        wait_topic(&platform, &first, true).await;
        report(&platform, &topic, json!({"fill_end": 7})).await;
        wait_topic(&platform, &first, false).await;
        let front = platform
            .task_where("front-0", |task| input(task).get("fill_ends").is_some())
            .await;
        assert_eq!(input(&front)["fill_ends"], json!({"0": 7, "1": 7}));

        // No sink has said that it is through, so the next generation's sinks must forget both.
        let hidden = changed(&topic, "columns", json!([{"name": "secret_flag"}]));
        put(&platform, &aic, hidden).await.ok();
        let front = platform
            .task_where("front-0", |task| input(task)["generation"] == 3)
            .await;
        let told = input(&front);
        assert_eq!(told["withdrawn"], json!(["ent_id", "ent_name"]));
        assert_eq!(
            (&told["rekeyed"], &told["withdrawn_since"]),
            (&json!(true), &json!(1))
        );
        let swept = json!({"inputs": [{"view": "s03", "swept_generation": 3}]});
        platform.report(&front, TaskState::Running, swept).await;
        until("the sink is through", async || {
            let status = platform
                .platform("GET", "/api/v1/views/s03", None)
                .await
                .ok();
            let input = &status["sinks"][0]["input"]["swept_generation"];
            (*input == 3).then_some(()).ok_or(status)
        })
        .await;
        put(&platform, &aic, document(&topic)).await.ok();
        let front = platform
            .task_where("front-0", |task| input(task)["generation"] == 4)
            .await;
        let told = input(&front);
        assert_eq!(told["withdrawn"], json!(["secret_flag"]));
        assert_eq!(
            (&told["rekeyed"], &told["withdrawn_since"]),
            (&json!(true), &json!(3))
        );
        let left = [2, 3, 4].map(|generation| platform.cluster.view("s03", generation));
        end(platform, &[&topic, &left[0], &left[1], &left[2]]).await;
    });
}

#[test]
fn a_rotation_gives_every_view_that_needs_the_key_a_generation_in_one_step() {
    run(async {
        let (platform, aic, topic) = with_view().await;
        let mut hidden = changed(&topic, "columns", json!([{"name": "ent_name"}]));
        hidden["name"] = json!("hidden");
        post(&platform, &aic, hidden.clone()).await.ok();
        hidden["name"] = json!("other");
        hidden["share"] = json!("s99");
        post(&platform, &aic, hidden).await.ok();
        report(&platform, &topic, json!({})).await;
        let stranger = platform.token("ltax", "operator").await;
        let path = "/api/v1/shares/s03/rotate-key";
        platform
            .send_as(&stranger, Api::Platform, "POST", path, None)
            .await
            .refuses(404, "there is no share");
        let rotated = platform
            .send_as(&aic, Api::Platform, "POST", path, None)
            .await;
        assert_eq!(rotated.status, 202);
        assert_eq!(rotated.body["key_version"], 2);
        assert_eq!(rotated.body["views"], json!(["hidden"]));
        let task = platform
            .task_where(&format!("view-{topic}-0"), |task| {
                views(task).iter().any(|view| view.generation == 2)
            })
            .await;
        let found: Vec<_> = views(&task)
            .into_iter()
            .map(|view| (view.name, view.generation, view.share_key_version))
            .collect();
        let named = |name: &str, generation, version| (name.to_owned(), generation, version);
        assert_eq!(
            found,
            [
                named("hidden", 2, 2),
                named("other", 1, 1),
                named("s03", 1, 1)
            ]
        );
        let topics = [("hidden", 1), ("hidden", 2), ("other", 1), ("s03", 1)]
            .map(|(name, generation)| platform.cluster.view(name, generation));
        end(
            platform,
            &[&topic, &topics[0], &topics[1], &topics[2], &topics[3]],
        )
        .await;
    });
}

#[test]
fn the_first_secret_that_a_share_is_computed_with_is_told_to_all_its_processors() {
    run(async {
        let (platform, aic, topic) = with_table().await;
        let hidden = changed(&topic, "columns", json!([{"name": "ent_name"}]));
        post(&platform, &aic, hidden.clone()).await.ok();
        report(
            &platform,
            &topic,
            json!({"secret_fingerprint": "0123456789abcdef"}),
        )
        .await;
        let known = |task: &TaskRecord| {
            views(task)[0].secret_fingerprint.as_deref() == Some("0123456789abcdef")
        };
        for partition in 0..2 {
            let id = format!("view-{topic}-{partition}");
            let task = platform.task_where(&id, known).await;
            assert_eq!(views(&task)[0].version, 1, "the policy is the same");
        }
        // A view that comes later begins with it.
        let mut later = hidden;
        later["name"] = json!("later");
        post(&platform, &aic, later).await.ok();
        let id = format!("view-{topic}-1");
        let task = platform
            .task_where(&id, |task| views(task).len() == 2)
            .await;
        for view in views(&task) {
            assert_eq!(view.secret_fingerprint.as_deref(), Some("0123456789abcdef"));
        }
        let topics = ["s03", "later"].map(|name| platform.cluster.view(name, 1));
        end(platform, &[&topic, &topics[0], &topics[1]]).await;
    });
}

#[test]
fn a_subscriber_learns_nothing_of_the_table_nor_a_giver_of_the_subscribers_sinks() {
    run(async {
        let (platform, aic, topic) = with_view().await;
        report(&platform, &topic, json!({"eta_seconds": 3})).await;
        let front = platform.task_where("front-0", |_| true).await;
        let error = hutong_transport::record::ErrorReport {
            class: hutong_schemas::class::Class::Definite,
            message: "hutong.view.other into public.in_other: value 370705 is too long".to_owned(),
            hint: None,
        };
        let details = json!({"inputs": [{"view": "s03", "state": "live"}]});
        platform
            .report_error(&front, TaskState::Failed, details, Some(error))
            .await;
        let path = "/api/v1/views/s03";
        let given = until("the reports are there", async || {
            let status = platform
                .send_as(&aic, Api::Platform, "GET", path, None)
                .await
                .ok();
            let is_there = status["complete"] == true && status["sinks"][0]["state"] == "FAILED";
            if is_there { Ok(status) } else { Err(status) }
        })
        .await;
        assert_eq!(
            (&given["filled"], &given["total"]),
            (&json!(120), &json!(140))
        );
        assert_eq!(given["partitions"][0]["end_offset"], 10);
        assert!(!given.to_string().contains("in_other"), "{given}");
        assert_eq!(
            given["sinks"][0]["error"],
            "an error on the side of who receives this view"
        );
        let qts = platform.token("qts", "reader").await;
        let seen = platform
            .send_as(&qts, Api::Platform, "GET", path, None)
            .await
            .ok();
        assert!(
            seen["sinks"][0]["error"]
                .as_str()
                .unwrap()
                .contains("in_other")
        );
        for hidden in ["filled", "total"] {
            assert!(seen.get(hidden).is_none(), "{seen}");
        }
        for hidden in ["filled", "total", "next_offset", "end_offset"] {
            assert!(seen["partitions"][0].get(hidden).is_none(), "{seen}");
        }
        end(
            platform,
            &[&topic, front.config["inputs"][0]["topic"].as_str().unwrap()],
        )
        .await;
    });
}

#[test]
fn a_dry_run_compares_columns_here_and_says_that_a_location_does_not_answer() {
    run(async {
        let (platform, aic, topic) = with_view().await;
        let columns = json!([
            {"name": "ent_id"}, {"name": "ent_name", "mask": "NULL"}, {"name": "secret_flag"},
        ]);
        let path = "/api/v1/views/s03?dry_run=true";
        let body = changed(&topic, "columns", columns);
        let answer = platform
            .send_as(&aic, Api::Platform, "PUT", path, Some(body))
            .await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.body["generation"], 2);
        assert_eq!(
            answer.body["columns"],
            json!({"enter": ["secret_flag"], "leave": [], "clearer": [], "masked": ["ent_name"]})
        );
        assert_eq!(
            answer.body["rows_unknown"],
            "location \"default\" did not answer within 10 s"
        );
        let status = platform
            .platform("GET", "/api/v1/views/s03", None)
            .await
            .ok();
        assert_eq!(
            (&status["version"], &status["generation"]),
            (&json!(1), &json!(1))
        );
        let own = platform.cluster.view("s03", 1);
        end(platform, &[&topic, &own]).await;
    });
}
