//! The registry while the database is away.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::{Api, Platform, run, source, until};

const ID: &str = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"int"}]}"#;

/// Ends all sessions of the platform's database and lets nobody in, or lets them in again.
async fn let_in(platform: &Platform, allowed: bool) {
    let server = std::env::var("DATABASE_URL").unwrap();
    let (_, database) = platform.database_url.rsplit_once('/').unwrap();
    let mut db = PgConnection::connect(&server).await.unwrap();
    let alter = format!("alter database {database} with allow_connections {allowed}");
    sqlx::query(sqlx::AssertSqlSafe(alter))
        .execute(&mut db)
        .await
        .unwrap();
    if !allowed {
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1")
            .bind(database)
            .execute(&mut db)
            .await
            .unwrap();
    }
}

#[test]
fn reads_are_answered_from_the_topic_for_those_who_could_read_before() {
    run(async {
        let platform = Platform::with_kafka().await;
        platform.ready().await;
        let prefix = platform.cluster.as_str().replace("control", "standby");
        let aic = platform.token("aic", "operator").await;
        let qts = platform.token("qts", "reader").await;
        let connector = json!({"name": "aic", "config": source(&prefix, "aic")});
        platform
            .send_as(&aic, Api::Connect, "POST", "/connectors", Some(connector))
            .await
            .ok();
        let subject = format!("{prefix}.public.t-value");
        let versions = format!("/subjects/{subject}/versions");
        let schema = json!({ "schema": ID });
        let send = async |token: &str, method: &str, path: &str, body: Option<Value>| {
            let sent = platform.send_as(token, Api::Registry, method, path, body);
            sent.await
        };
        send(&aic, "POST", &versions, Some(schema.clone()))
            .await
            .ok();
        let level = json!({"compatibility": "FULL"});
        let config = format!("/config/{subject}");
        send(&aic, "PUT", &config, Some(level)).await.ok();
        let gone = json!({"schema": "\"string\""});
        post_and_delete(&platform, gone).await;

        // Nobody publishes while the database is away, so the topic has everything before that.
        platform.all_is_published().await;

        // What is copied is copied every few seconds: after an outage at once.
        until(
            "what was registered is known without the database",
            async || {
                let_in(&platform, false).await;
                let latest = send(&aic, "GET", &format!("{versions}/latest"), None).await;
                let config = send(&aic, "GET", &config, None).await;
                if latest.status == 200 && config.body["compatibilityLevel"] == "FULL" {
                    return Ok(());
                }
                let_in(&platform, true).await;
                // It is asked every second whether the outage is over.
                tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
                Err(latest.body)
            },
        )
        .await;
        let begun = std::time::Instant::now();
        let get = async |token: &str, path: &str| send(token, "GET", path, None).await;
        assert_eq!(get(&aic, "/subjects").await.ok(), json!([subject]));
        assert_eq!(get(&aic, &versions).await.ok(), json!([1]));
        assert_eq!(get(&aic, "/schemas/ids/1").await.ok(), schema);
        assert_eq!(
            get(&aic, "/schemas/ids/1/subjects").await.ok(),
            json!([subject])
        );
        let looked_up = format!("/subjects/{subject}");
        let found = send(&aic, "POST", &looked_up, Some(schema.clone()))
            .await
            .ok();
        assert_eq!(found["id"], 1);
        let check = format!("/compatibility/subjects/{subject}/versions/latest");
        let checked = send(&aic, "POST", &check, Some(schema.clone())).await.ok();
        assert_eq!(checked, json!({"is_compatible": true}));
        assert_eq!(get(&aic, "/mode").await.ok(), json!({"mode": "READWRITE"}));
        get(&aic, "/subjects/none/versions")
            .await
            .refuses(40401, "Subject 'none' not found");

        // Nobody sees more than before: neither others, nor a stranger, nor what was deleted.
        assert_eq!(get(&qts, "/subjects").await.ok(), json!([]));
        get(&qts, "/schemas/ids/1")
            .await
            .refuses(40403, "Schema 1 not found");
        get(&qts, &versions).await.refuses(40401, "not found");
        assert_eq!(get("no-such-token", "/subjects").await.status, 401);
        let admin = platform.admin.as_str();
        assert_eq!(get(admin, "/subjects").await.ok(), json!([subject]));
        assert_eq!(
            get(admin, "/schemas/ids/2").await.status,
            200,
            "records may carry it"
        );
        assert!(
            begun.elapsed().as_secs() < 5,
            "no read waits for the database"
        );

        // Writes wait for the database, and so does all that is not the registry.
        let refused = send(&aic, "POST", &versions, Some(json!({"schema": "\"int\""}))).await;
        assert_eq!(refused.status, 500);
        let refused = platform.send_as(&aic, Api::Connect, "GET", "/connectors", None);
        assert_eq!(refused.await.status, 500);
        let_in(&platform, true).await;
        until("writes are taken again", async || {
            let none = json!({"compatibility": "NONE"});
            let written = send(&aic, "PUT", &config, Some(none)).await;
            (written.status == 200).then_some(()).ok_or(written.body)
        })
        .await;
        platform.end().await;
    });
}

/// Registers a version and deletes it, as the platform.
async fn post_and_delete(platform: &Platform, schema: Value) {
    let path = "/subjects/gone/versions";
    platform.registry("POST", path, Some(schema)).await.ok();
    platform
        .registry("DELETE", "/subjects/gone", None)
        .await
        .ok();
}
