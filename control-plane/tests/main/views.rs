//! Views: what making, showing and taking back one does for those who give, receive and compute it.

use hutong_policies::{ViewState, ViewTask};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, TableId, TableSchema};
use hutong_transport::admin::Admin;
use hutong_transport::record::{TableRecord, TargetState, TaskKind, TaskRecord, TaskState};
use serde_json::{Value, json};

use crate::harness::{Api, Platform, run, sink, source, until, wait_topic};

pub(crate) fn column(name: &str, attnum: i16, sql_type: SqlType) -> Column {
    Column {
        name: name.to_owned(),
        attnum,
        sql_type,
        nullable: attnum > 1,
        default: None,
        has_default_expression: false,
        labels: Vec::new(),
    }
}

/// A table of two partitions with a key, a column to grant and one to keep.
pub(crate) fn table(topic: &str) -> TableRecord {
    TableRecord {
        v: 1,
        connector: "aic".to_owned(),
        topic: topic.to_owned(),
        database: "aic".to_owned(),
        table: TableSchema {
            id: TableId {
                schema: "public".to_owned(),
                table: "ent_base".to_owned(),
            },
            oid: 1,
            columns: vec![
                column("ent_id", 1, SqlType::Int8),
                column("ent_name", 2, SqlType::Text),
                column("secret_flag", 3, SqlType::Int4),
            ],
            key: vec![0],
        },
        partitions: 2,
        key_schema_id: Some(1),
        value_schema_id: 2,
    }
}

pub(crate) fn document(topic: &str) -> Value {
    json!({
        "name": "s03",
        "share": "s03",
        "source": {"topic": topic},
        "subscriber": "qts",
        "columns": [{"name": "ent_id"}, {"name": "ent_name", "mask": "SHOW_FIRST 1"}],
        "where": "secret_flag = 0",
    })
}

/// A platform with a source of the organisation `aic` and its captured table.
pub(crate) async fn with_table() -> (Platform, String, String) {
    let platform = Platform::with_kafka().await;
    platform.ready().await;
    let aic = platform.token("aic", "operator").await;
    let prefix = platform.cluster.as_str().replace("control", "aic");
    let connector = json!({"name": "aic", "config": source(&prefix, "aic")});
    platform
        .send_as(&aic, Api::Connect, "POST", "/connectors", Some(connector))
        .await
        .ok();
    let topic = format!("{prefix}.public.ent_base");
    platform.announce(&table(&topic)).await;
    until("the table is known", async || {
        let tables = platform
            .send_as(&aic, Api::Platform, "GET", "/api/v1/tables", None)
            .await
            .ok();
        (tables[0]["topic"] == topic.as_str())
            .then_some(())
            .ok_or(tables)
    })
    .await;
    (platform, aic, topic)
}

pub(crate) async fn end(platform: Platform, topics: &[&str]) {
    let admin = Admin::new(&platform.kafka).unwrap();
    for topic in topics {
        admin.delete_topic(topic).await.unwrap();
    }
    platform.end().await;
}

pub(crate) async fn post(
    platform: &Platform,
    token: &str,
    document: Value,
) -> crate::harness::Answer {
    platform
        .send_as(
            token,
            Api::Platform,
            "POST",
            "/api/v1/views",
            Some(document),
        )
        .await
}

pub(crate) fn views(task: &TaskRecord) -> Vec<ViewTask> {
    serde_json::from_value(task.config["views"].clone()).unwrap()
}

/// What a processor reports of one view.
fn processor(task: &TaskRecord, state: &str, rows: u64) -> Value {
    let view = &views(task)[0];
    json!({
        "next_offset": 10, "end_offset": 10,
        "views": [{
            "name": view.name, "version": view.version, "generation": view.generation,
            "state": state, "rows": rows, "filled": rows, "total": rows,
        }],
    })
}

#[test]
fn a_view_is_computed_registered_and_shown_to_those_concerned() {
    run(async {
        let (platform, aic, topic) = with_table().await;
        let made = post(&platform, &aic, document(&topic)).await;
        assert_eq!(made.status, 201, "{made:?}");
        let own = platform.cluster.view("s03", 1);
        assert_eq!(made.body["topic"], own.as_str());
        assert_eq!(made.body["state"], "live");
        assert_eq!(made.body["where"], "secret_flag = 0");
        assert_eq!(made.body["owner"], "aic");
        let info = Admin::new(&platform.kafka)
            .unwrap()
            .topic(&own)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(info.partitions, 2, "a view has the partitions of its input");

        for partition in 0..2 {
            let id = format!("view-{topic}-{partition}");
            let task = platform.task_where(&id, |_| true).await;
            assert_eq!(task.kind, TaskKind::Processor);
            assert_eq!(task.config["partition"], partition);
            assert_eq!(task.config["topic"], topic.as_str());
            let listed = views(&task);
            assert_eq!(listed.len(), 1);
            assert_eq!(listed[0].topic_id, info.id.0);
            assert_eq!(listed[0].state, ViewState::Live);
            assert_eq!((listed[0].version, listed[0].generation), (1, 1));
            platform
                .report(&task, TaskState::Running, processor(&task, "live", 60))
                .await;
        }
        let status = until("the view is complete", async || {
            let path = "/api/v1/views/s03";
            let status = platform
                .send_as(&aic, Api::Platform, "GET", path, None)
                .await
                .ok();
            (status["complete"] == true)
                .then(|| status.clone())
                .ok_or(status)
        })
        .await;
        assert_eq!(
            (&status["rows"], &status["in_force"]),
            (&json!(120), &json!(true))
        );
        assert_eq!(status["partitions"][1]["view_state"], "live");

        // Its schemas are registered for its subscriber, who finds nothing else and sees no condition.
        let qts = platform.token("qts", "reader").await;
        let subjects = platform
            .send_as(&qts, Api::Registry, "GET", "/subjects", None)
            .await
            .ok();
        assert_eq!(
            subjects,
            json!([format!("{own}-key"), format!("{own}-value")])
        );
        let path = format!("/subjects/{own}-value/versions/latest");
        let value = platform
            .send_as(&qts, Api::Registry, "GET", &path, None)
            .await
            .ok();
        assert!(!value["schema"].as_str().unwrap().contains("secret_flag"));
        let schemas = platform.newest(&platform.cluster.schemas()).await;
        assert!(
            schemas.contains_key(&format!("schema/{}", value["id"])),
            "workers read ids from Kafka"
        );
        let seen = platform
            .send_as(&qts, Api::Platform, "GET", "/api/v1/views", None)
            .await
            .ok();
        assert_eq!(seen[0]["name"], "s03");
        assert!(!seen.to_string().contains("secret_flag"), "{seen}");
        let revoke = "/api/v1/views/s03/revoke";
        let operator = platform.token("qts", "operator").await;
        let refused = platform
            .send_as(&operator, Api::Platform, "POST", revoke, None)
            .await;
        refused.refuses(403, "by who gives it");

        let stranger = platform.token("ltax", "reader").await;
        let none = platform
            .send_as(&stranger, Api::Platform, "GET", "/api/v1/views", None)
            .await
            .ok();
        assert_eq!(none, json!([]));
        let who = format!("/api/v1/views?table={topic}");
        let receivers = platform
            .send_as(&aic, Api::Platform, "GET", &who, None)
            .await
            .ok();
        assert_eq!(receivers[0]["subscriber"], "qts");
        let other = platform
            .platform("GET", "/api/v1/views?table=public.other", None)
            .await
            .ok();
        assert_eq!(other, json!([]));
        end(platform, &[&topic, &own]).await;
    });
}

#[test]
fn mistakes_in_a_view_are_refused_when_it_is_saved() {
    run(async {
        let (platform, aic, topic) = with_table().await;
        let change = |field: &str, value: Value| {
            let mut document = document(&topic);
            document[field] = value;
            document
        };
        for (document, words) in [
            (change("where", json!("phone = 'x'")), "where: "),
            (change("where", json!("secret_flag LIKE 'x'")), "where: "),
            (change("columns", json!([{"name": "phone"}])), "phone"),
            (
                change("columns", json!([{"name": "ent_name", "mask": "SHOW"}])),
                "columns[0].mask: ",
            ),
            (change("name", json!("S 03")), "name: "),
            (
                change("location", json!("moon")),
                "location: \"moon\" is not a location",
            ),
            (
                change("source", json!({"topic": "a.b.c"})),
                "source.topic: no captured table",
            ),
            (
                change("valid_until", json!("2020-01-01T00:00:00Z")),
                "valid_until: is in the past",
            ),
            (change("sharee", json!("x")), "unknown field `sharee`"),
        ] {
            let refused = post(&platform, &aic, document).await;
            assert_eq!(refused.status, 400, "{refused:?}");
            refused.refuses(400, words);
        }
        let stranger = platform.token("qts", "operator").await;
        let refused = post(&platform, &stranger, document(&topic)).await;
        refused.refuses(400, "no captured table has the topic");
        let reader = platform.token("aic", "reader").await;
        post(&platform, &reader, document(&topic))
            .await
            .refuses(403, "role operator is needed");
        assert_eq!(
            platform.platform("GET", "/api/v1/views", None).await.ok(),
            json!([])
        );
        end(platform, &[&topic]).await;
    });
}

#[test]
fn a_revoked_view_is_told_to_all_and_its_topic_goes_when_processors_have_let_go() {
    run(async {
        let (platform, aic, topic) = with_table().await;
        post(&platform, &aic, document(&topic)).await.ok();
        let own = platform.cluster.view("s03", 1);
        post(&platform, &aic, document(&topic))
            .await
            .refuses(409, "View s03 already exists");

        let qts = platform.token("qts", "operator").await;
        let body = json!({"name": "front", "config": sink(&platform.cluster.view_alias("s03"))});
        let stranger = platform.token("ltax", "operator").await;
        let refused = platform
            .send_as(
                &stranger,
                Api::Connect,
                "POST",
                "/connectors",
                Some(body.clone()),
            )
            .await;
        refused.refuses(400, "topics: there is no view \"s03\"");
        platform
            .send_as(&qts, Api::Connect, "POST", "/connectors", Some(body))
            .await
            .ok();
        let front = platform.task_where("front-0", |_| true).await;
        let input = &front.config["inputs"][0];
        assert_eq!(input["name"], platform.cluster.view_alias("s03").as_str());
        assert_eq!(input["topic"], own.as_str());
        assert_eq!(
            (&input["partitions"], &input["state"]),
            (&json!(2), &json!("live"))
        );

        let revoked = platform
            .send_as(
                &aic,
                Api::Platform,
                "POST",
                "/api/v1/views/s03/revoke",
                None,
            )
            .await;
        assert_eq!(revoked.status, 202);
        assert_eq!(revoked.body["state"], "revoked");
        let again = platform
            .send_as(&aic, Api::Platform, "DELETE", "/api/v1/views/s03", None)
            .await
            .ok();
        assert_eq!(again["version"], 2, "taking back twice changes nothing");
        let front = platform
            .task_where("front-0", |task| task.version == 2)
            .await;
        let input = &front.config["inputs"][0];
        assert_eq!(
            (&input["version"], &input["state"]),
            (&json!(2), &json!("revoked"))
        );
        for partition in 0..2 {
            let id = format!("view-{topic}-{partition}");
            let task = platform.task_where(&id, |task| task.version == 2).await;
            assert_eq!(views(&task)[0].state, ViewState::Revoked);
            platform
                .report(&task, TaskState::Running, processor(&task, "gone", 0))
                .await;
        }
        wait_topic(&platform, &own, false).await;
        for partition in 0..2 {
            let id = format!("view-{topic}-{partition}");
            let is_deleted = |task: &TaskRecord| task.target == TargetState::Deleted;
            let task = platform.task_where(&id, is_deleted).await;
            platform
                .report(&task, TaskState::Deleted, Value::Null)
                .await;
        }
        until("processors without views are gone", async || {
            let tasks = platform.tasks("default").await;
            let left: Vec<_> = tasks.keys().filter(|id| id.starts_with("view-")).collect();
            left.is_empty().then_some(()).ok_or(json!(left))
        })
        .await;
        let qts_subjects = platform
            .send_as(&qts, Api::Registry, "GET", "/subjects", None)
            .await
            .ok();
        assert_eq!(
            qts_subjects,
            json!([]),
            "what was taken back is not shown any more"
        );

        // The same document again is the next generation, for its sink too.
        let anew = until("the view can be made anew", async || {
            let answer = post(&platform, &aic, document(&topic)).await;
            if answer.status == 201 {
                Ok(answer.body)
            } else {
                Err(answer.body)
            }
        })
        .await;
        let next = platform.cluster.view("s03", 2);
        assert_eq!(
            (&anew["generation"], &anew["topic"]),
            (&json!(2), &json!(next))
        );
        let live = |task: &TaskRecord| task.config["inputs"][0]["state"] == "live";
        let front = platform.task_where("front-0", live).await;
        assert_eq!(front.config["inputs"][0]["topic"], next.as_str());
        let subjects = platform
            .send_as(&qts, Api::Registry, "GET", "/subjects", None)
            .await
            .ok();
        assert_eq!(
            subjects,
            json!([format!("{next}-key"), format!("{next}-value")])
        );
        end(platform, &[&topic, &next]).await;
    });
}

#[test]
fn a_view_ends_by_itself_and_its_topic_goes_at_the_bound_without_any_worker() {
    run(async {
        let (platform, aic, topic) = with_table().await;
        post(&platform, &aic, document(&topic)).await.ok();
        let own = platform.cluster.view("s03", 1);
        // Its end comes now; a document cannot say so, because an end in the past is refused.
        let mut db = platform.database().await;
        sqlx::query("update view set valid_until_ms = 1")
            .execute(&mut db)
            .await
            .unwrap();
        let ended = until("the view is gone", async || {
            let status = platform
                .platform("GET", "/api/v1/views/s03", None)
                .await
                .ok();
            (status["state"] == "gone")
                .then(|| status.clone())
                .ok_or(status)
        })
        .await;
        assert_eq!(ended["reason"], "expired");
        wait_topic(&platform, &own, false).await;
        end(platform, &[&topic]).await;
    });
}
