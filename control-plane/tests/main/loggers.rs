//! How much is logged, by one process or by all.

use hutong_transport::record::{Record, RequestKind, RequestRecord};
use serde_json::{Value, json};

use crate::harness::{Api, Platform, run, until};

#[test]
fn levels_are_shown_and_changed_as_kafka_connect_does() {
    run(async {
        let platform = Platform::without_kafka().await;
        let get = async |path: &str| platform.connect("GET", path, None).await;
        let all = get("/admin/loggers").await.ok();
        assert!(all["root"]["level"].is_string(), "{all}");
        assert!(all.get("hutong_worker").is_some(), "{all}");
        get("/admin/loggers/org.example")
            .await
            .refuses(404, "Logger org.example not found.");
        let put = async |path: &str, body: Value| platform.connect("PUT", path, Some(body)).await;
        // Nothing else in this program's tests looks at this logger.
        let path = "/admin/loggers/hutong_transport::native";
        let changed = put(path, json!({"level": "debug"})).await;
        assert_eq!(changed.status, 200);
        assert_eq!(changed.body, json!(["hutong_transport::native"]));
        let shown = get(path).await.ok();
        assert_eq!(shown["level"], "DEBUG");
        assert!(shown["last_modified"].is_u64(), "{shown}");
        put(path, json!({}))
            .await
            .refuses(400, "Desired 'level' parameter was not specified");
        put(path, json!({"level": "LOUD"}))
            .await
            .refuses(404, "invalid log level 'LOUD'");
        put(&format!("{path}?scope=galaxy"), json!({"level": "INFO"}))
            .await
            .refuses(400, "scope: must be worker or cluster");
        let aic = platform.token("aic", "admin").await;
        let refused = platform
            .send_as(&aic, Api::Connect, "GET", "/admin/loggers", None)
            .await;
        assert_eq!(refused.status, 403);
        platform.end().await;
    });
}

#[test]
fn a_level_of_the_cluster_is_told_in_every_partition_and_to_nobody_who_comes_later() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        let path = "/admin/loggers/hutong_connectors_core::property?scope=cluster";
        let body = json!({"level": "TRACE"});
        let told = platform.connect("PUT", path, Some(body)).await;
        assert_eq!(told.status, 204);
        let topic = platform.cluster.tasks("default");
        let records = until("all is published", async || {
            let records = platform.records(&topic).await;
            (records.len() == 128).then_some(records).ok_or(json!(null))
        })
        .await;
        let requests: Vec<_> = records
            .iter()
            .filter_map(|(_, value)| RequestRecord::decode(value.as_ref()?).ok())
            .collect();
        assert_eq!(requests.len(), 64);
        assert_eq!(requests[0].kind, RequestKind::Levels);
        assert_eq!(
            requests[0].config,
            json!({"logger": "hutong_connectors_core::property", "level": "TRACE"})
        );
        assert!(platform.newest(&topic).await.is_empty());
        platform.end().await;
    });
}
