//! What was acknowledged reaches Kafka, whatever dies in between; and never with an old version.

use hutong_transport::record::{Record, SchemaRecord, TargetState, TaskKind, TaskRecord, task_key};
use serde_json::json;

use crate::harness::{Platform, run, source, until};

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
        until("all is marked again", async || {
            let count: i64 =
                sqlx::query_scalar("select count(*) from outbox where published_at is null")
                    .fetch_one(&mut platform.database().await)
                    .await
                    .unwrap();
            (count == 0).then_some(()).ok_or(json!(count))
        })
        .await;
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
        let schema = SchemaRecord {
            v: 1,
            id: 500,
            schema: r#""string""#.to_owned(),
        };
        let schemas = platform.cluster.schemas();
        platform
            .produce(schemas, "schema/500".to_owned(), Some(schema.encode()))
            .await;

        platform.restart().await;
        let raised = platform.task_where("aic-0", |task| task.version > 41).await;
        assert_eq!(
            raised.target,
            TargetState::Running,
            "the store says what is wanted"
        );
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
