//! What was acknowledged reaches Kafka, whatever dies in between; and never with an old version.

use hutong_transport::record::{
    Record, SchemaRecord, SubjectRecord, TargetState, TaskKind, TaskRecord, task_key,
};
use serde_json::json;

use crate::harness::{Api, Platform, answer, run, source, until};

#[test]
fn a_crash_between_commit_and_mark_publishes_twice_and_loses_nothing() {
    run(async {
        let mut platform = Platform::with_kafka().await;
        platform.ready().await;
        let body = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        platform.task_where("aic-0", |task| task.version == 1).await;
        platform.stop().await;
        // As a crash after the Kafka commit leaves it: in the topic, and not marked.
        let mut db = platform.database().await;
        let unmarked = sqlx::query("update outbox set published_at = null")
            .execute(&mut db)
            .await
            .unwrap();
        assert_eq!(unmarked.rows_affected(), 1);
        platform.restart().await;
        platform.all_is_published().await;
        let records = platform.records(&platform.cluster.tasks("default")).await;
        let of_task: Vec<_> = records
            .iter()
            .filter(|(key, _)| key == "task/aic-0")
            .collect();
        assert!(of_task.len() >= 2, "the record was published again");
        let versions: Vec<_> = of_task
            .iter()
            .map(|(_, value)| TaskRecord::decode(value.as_ref().unwrap()).unwrap().version)
            .collect();
        assert!(versions.is_sorted(), "no record goes back: {versions:?}");
        let last = platform.task_where("aic-0", |_| true).await;
        assert_eq!(last.config["properties"]["slot.name"], "aic");
        platform.end().await;
    });
}

#[test]
fn what_is_accepted_while_nobody_publishes_is_published_later_in_order() {
    run(async {
        let mut platform = Platform::with_kafka().await;
        platform.ready().await;
        // Another leader, which publishes nothing.
        platform.stop().await;
        let mut other = platform.database().await;
        sqlx::query("select pg_advisory_lock($1)")
            .bind(0x4855_544f_4e47_0002_i64)
            .execute(&mut other)
            .await
            .unwrap();
        platform.restart().await;
        let body = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        for _ in 0..3 {
            platform
                .connect("PUT", "/connectors/aic/pause", None)
                .await
                .ok();
            platform
                .connect("PUT", "/connectors/aic/resume", None)
                .await
                .ok();
        }
        assert_eq!(platform.tasks("default").await.len(), 0);
        let metrics = platform.platform("GET", "/metrics", None).await.ok();
        let metrics = metrics.as_str().unwrap();
        assert!(metrics.contains("hutong_control_leader 0"), "{metrics}");
        for name in [
            "http_requests_total",
            "outbox_pending_records",
            "outbox_oldest_seconds",
            "outbox_refused_records",
            "leader_failures_total",
        ] {
            assert!(
                metrics.contains(&format!("# TYPE hutong_control_{name} ")),
                "{metrics}"
            );
        }
        drop(other);
        let task = platform.task_where("aic-0", |task| task.version == 7).await;
        assert_eq!(task.target, TargetState::Running);
        let records = platform.records(&platform.cluster.tasks("default")).await;
        let versions: Vec<_> = records
            .iter()
            .map(|(_, value)| TaskRecord::decode(value.as_ref().unwrap()).unwrap().version)
            .collect();
        assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7]);
        platform.end().await;
    });
}

#[test]
fn a_store_restored_from_a_backup_rises_above_what_the_topics_hold() {
    run(async {
        let mut platform = Platform::with_kafka().await;
        platform.ready().await;
        let body = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        let task = platform.task_where("aic-0", |task| task.version == 1).await;
        platform.stop().await;
        // What a later life of this installation wrote, which the backup does not know.
        let tasks = platform.cluster.tasks("default");
        let newer = TaskRecord {
            version: 41,
            target: TargetState::Paused,
            ..task.clone()
        };
        platform
            .produce_where_it_belongs(&tasks, &task.task, task_key(&task.task), newer.encode())
            .await;
        let unknown = TaskRecord {
            v: 1,
            task: "later-0".to_owned(),
            connector: "later".to_owned(),
            version: 9,
            kind: TaskKind::Source,
            target: TargetState::Running,
            restart: 0,
            config: json!({}),
        };
        platform
            .produce_where_it_belongs(&tasks, "later-0", task_key("later-0"), unknown.encode())
            .await;
        // In the order of their keys 500 comes before 99, and 7 last.
        let schemas = platform.cluster.schemas();
        for (id, text) in [(500, "\"string\""), (99, "\"long\""), (7, "\"bytes\"")] {
            let schema = SchemaRecord {
                v: 1,
                id,
                schema: text.to_owned(),
            };
            let key = format!("schema/{id}");
            platform
                .produce(schemas.clone(), key, Some(schema.encode()))
                .await;
        }
        let version = SubjectRecord {
            v: 1,
            subject: "aic.public.t-value".to_owned(),
            version: 3,
            id: 99,
            deleted: false,
        };
        let key = "subject/aic.public.t-value/3".to_owned();
        platform
            .produce(schemas.clone(), key, Some(version.encode()))
            .await;
        // What cannot be read must not keep anybody from leading.
        for (topic, key) in [(schemas, "schema/8"), (tasks.clone(), "request/broken")] {
            let unreadable = Some(b"{\"v\": 1".to_vec());
            platform.produce(topic, key.to_owned(), unreadable).await;
        }

        platform.restart().await;
        let raised = platform.task_where("aic-0", |task| task.version > 41).await;
        assert_eq!(
            raised.target,
            TargetState::Running,
            "the store says what is wanted"
        );
        until(
            "the task that the store does not know is ended",
            async || {
                let records = platform.records(&tasks).await;
                let mut of_task = records.iter().filter(|(key, _)| key == "task/later-0");
                let ended = of_task
                    .next_back()
                    .is_some_and(|(_, value)| value.is_none());
                ended.then_some(()).ok_or(json!(records.len()))
            },
        )
        .await;
        let body = json!({"name": "later", "config": source("later", "later")});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        let later = platform
            .task_where("later-0", |task| task.version > 9)
            .await;
        assert_eq!(later.config["properties"]["slot.name"], "later");
        let known = platform
            .registry("GET", "/schemas/ids/500", None)
            .await
            .ok();
        assert_eq!(known["schema"], r#""string""#);
        for (id, text) in [(99, "\"long\""), (7, "\"bytes\"")] {
            let path = format!("/schemas/ids/{id}");
            let known = platform.registry("GET", &path, None).await.ok();
            assert_eq!(known["schema"], text);
        }
        let latest = platform
            .registry("GET", "/subjects/aic.public.t-value/versions/latest", None)
            .await
            .ok();
        assert_eq!((&latest["version"], &latest["id"]), (&json!(3), &json!(99)));
        let schema = json!({"schema": r#""int""#});
        let next = platform
            .registry("POST", "/subjects/t/versions", Some(schema))
            .await
            .ok();
        assert_eq!(
            next,
            json!({"id": 501}),
            "an id at or below the highest is never issued again"
        );
        platform.end().await;
    });
}

/// One record that Kafka will never take must not keep everybody's from being published.
#[test]
fn a_record_that_is_too_large_is_set_aside() {
    run(async {
        let mut platform = Platform::with_kafka().await;
        platform.ready().await;
        // Above a broker's usual limit of 1 MB, and incompressible.
        let noise: String = (0..60_000)
            .map(|_| uuid::Uuid::new_v4().simple().to_string())
            .collect();
        let mut config = source("large", "large");
        config["database.user"] = json!(noise);
        let body = json!({"name": "large", "config": config});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        platform.task_where("large-0", |_| true).await;
        platform.stop().await;
        // What an earlier release may have accepted.
        let tasks = platform.cluster.tasks("default");
        sqlx::query(
            "insert into outbox (owner, topic, topic_partition, key, value)
             select 'aic', $1, 0, 'task/huge-0', string_agg(gen_random_uuid()::text, '')
             from generate_series(1, 600000)",
        )
        .bind(&tasks)
        .execute(&mut platform.database().await)
        .await
        .unwrap();
        platform.restart().await;
        let body = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        platform.task_where("aic-0", |_| true).await;
        until("the metrics tell of it", async || {
            let metrics = platform.platform("GET", "/metrics", None).await.ok();
            let text = metrics.as_str().unwrap();
            let told = text.contains("hutong_control_outbox_refused_records 1")
                && text.contains("hutong_control_outbox_pending_records 0");
            told.then_some(()).ok_or(metrics)
        })
        .await;
        platform.end().await;
    });
}

/// The alarm that the manual names, when nobody can publish.
#[test]
fn without_kafka_the_backlog_grows_and_the_reason_is_shown() {
    run(async {
        let platform = Platform::without_kafka().await;
        let body = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .connect("POST", "/connectors", Some(body))
            .await
            .ok();
        until("the backlog is shown", async || {
            let metrics = platform.platform("GET", "/metrics", None).await.ok();
            let text = metrics.as_str().unwrap();
            let age = text
                .lines()
                .find_map(|line| line.strip_prefix("hutong_control_outbox_oldest_seconds "));
            let age: f64 = age.unwrap().parse().unwrap();
            let shown = age > 1.0 && text.contains("hutong_control_outbox_pending_records 1");
            shown.then_some(()).ok_or(metrics)
        })
        .await;
        until("the reason is shown", async || {
            let ready = answer(platform.request(Api::Platform, "GET", "/readyz")).await;
            let failed = ready.body["cannot_publish"].is_string();
            failed.then_some(()).ok_or(ready.body)
        })
        .await;
        platform.end().await;
    });
}
