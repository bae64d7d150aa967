//! Who may what.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Api, Platform, answer, run, source};

#[test]
fn nothing_but_health_answers_without_a_token() {
    run(async {
        let platform = Platform::without_kafka().await;
        for (api, path) in [
            (Api::Connect, "/"),
            (Api::Connect, "/connectors"),
            (Api::Connect, "/no-such-path"),
            (Api::Registry, "/"),
            (Api::Registry, "/schemas/ids/1"),
            (Api::Platform, "/api/v1/views"),
            (Api::Platform, "/api/v1/openapi.json"),
            (Api::Platform, "/metrics"),
        ] {
            let code = if matches!(api, Api::Registry) {
                40101
            } else {
                401
            };
            let none = answer(platform.request(api, "GET", path)).await;
            assert_eq!(none.status, 401, "{path}");
            none.refuses(code, "a token is needed");
            let wrong = answer(platform.request(api, "GET", path).bearer_auth("guessed")).await;
            assert_eq!(wrong.status, 401, "{path}");
            wrong.refuses(code, "is not known or was revoked");
            let basic = platform
                .request(api, "GET", path)
                .basic_auth("anyone", Some(&platform.admin));
            assert_ne!(answer(basic).await.status, 401, "{path}");
        }
        let health = answer(platform.request(Api::Platform, "GET", "/healthz")).await;
        assert_eq!(health.status, 200);
        let challenge = platform
            .request(Api::Connect, "GET", "/")
            .send()
            .await
            .unwrap();
        assert!(
            challenge.headers()["www-authenticate"]
                .to_str()
                .unwrap()
                .starts_with("Basic")
        );
        platform.end().await;
    });
}

#[test]
fn without_kafka_the_apis_serve_and_readiness_says_what_is_missing() {
    run(async {
        let platform = Platform::without_kafka().await;
        let ready = answer(platform.request(Api::Platform, "GET", "/readyz")).await;
        assert_eq!(ready.status, 503);
        let waiting = ready.body["waiting_for"].to_string();
        assert!(waiting.contains("states of location default"), "{waiting}");
        assert!(waiting.contains("tables of location north"), "{waiting}");
        platform.connect("GET", "/connectors", None).await.ok();
        platform.end().await;
    });
}

#[test]
fn the_first_start_writes_the_administrators_token_for_its_owner_alone() {
    run(async {
        let mut platform = Platform::without_kafka().await;
        let mode = std::fs::metadata(platform.token_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let file = std::fs::read_to_string(platform.token_file()).unwrap();
        platform.stop().await;
        platform.restart().await;
        assert_eq!(
            std::fs::read_to_string(platform.token_file()).unwrap(),
            file
        );
        platform.connect("GET", "/", None).await.ok();
        let mut db = platform.database().await;
        let stored: Vec<u8> = sqlx::query_scalar("select hash from token")
            .fetch_one(&mut db)
            .await
            .unwrap();
        assert_eq!(stored.len(), 32, "only the hash is stored");
        platform.end().await;
    });
}

#[test]
fn a_revoked_token_of_the_file_is_not_made_valid_again_by_a_start() {
    run(async {
        let mut platform = Platform::without_kafka().await;
        let other = platform.token("platform", "admin").await;
        let tokens = platform.platform("GET", "/api/v1/tokens", None).await.ok();
        let first = tokens[0]["id"].as_i64().unwrap();
        let path = format!("/api/v1/tokens/{first}");
        let revoked = platform
            .send_as(&other, Api::Platform, "DELETE", &path, None)
            .await;
        assert_eq!(revoked.status, 204);
        platform.stop().await;
        platform.restart().await;
        platform
            .connect("GET", "/", None)
            .await
            .refuses(401, "was revoked");
        platform.end().await;
    });
}

#[test]
fn roles_and_owners_bound_what_a_token_may_do() {
    run(async {
        let platform = Platform::without_kafka().await;
        let reader = platform.token("aic", "reader").await;
        let operator = platform.token("aic", "operator").await;
        let admin = platform.token("aic", "admin").await;
        let stranger = platform.token("qts", "operator").await;
        let connector = json!({"name": "aic", "config": source("aic", "aic")});

        let as_reader = platform
            .send_as(
                &reader,
                Api::Connect,
                "POST",
                "/connectors",
                Some(connector.clone()),
            )
            .await;
        assert_eq!(as_reader.status, 403);
        as_reader.refuses(403, "role operator is needed");
        platform
            .send_as(
                &operator,
                Api::Connect,
                "POST",
                "/connectors",
                Some(connector.clone()),
            )
            .await
            .ok();

        let seen = platform
            .send_as(&reader, Api::Connect, "GET", "/connectors", None)
            .await
            .ok();
        assert_eq!(seen, json!(["aic"]));
        let unseen = platform
            .send_as(&stranger, Api::Connect, "GET", "/connectors", None)
            .await
            .ok();
        assert_eq!(unseen, json!([]));
        for (method, path) in [
            ("GET", "/connectors/aic"),
            ("GET", "/connectors/aic/config"),
            ("GET", "/connectors/aic/offsets"),
            ("PUT", "/connectors/aic/pause"),
            ("DELETE", "/connectors/aic"),
        ] {
            let other = platform
                .send_as(&stranger, Api::Connect, method, path, None)
                .await;
            other.refuses(404, "Connector aic not found");
        }
        let taken = platform
            .send_as(
                &stranger,
                Api::Connect,
                "POST",
                "/connectors",
                Some(connector),
            )
            .await;
        assert_eq!(taken.status, 409);

        let body = json!({"owner": "aic", "role": "reader"});
        let token = platform
            .send_as(
                &operator,
                Api::Platform,
                "POST",
                "/api/v1/tokens",
                Some(body.clone()),
            )
            .await;
        token.refuses(403, "role admin is needed");
        platform
            .send_as(&admin, Api::Platform, "POST", "/api/v1/tokens", Some(body))
            .await
            .ok();
        let body = json!({"owner": "platform", "role": "admin"});
        let raised = platform
            .send_as(&admin, Api::Platform, "POST", "/api/v1/tokens", Some(body))
            .await;
        raised.refuses(403, "its own organisation");
        let metrics = platform
            .send_as(&admin, Api::Platform, "GET", "/metrics", None)
            .await;
        assert_eq!(metrics.status, 403);
        platform.end().await;
    });
}

/// Whoever can read the file is the platform's administrator.
#[test]
fn a_file_that_others_may_read_or_that_could_be_guessed_is_no_administrators() {
    run(async {
        let mut platform = Platform::without_kafka().await;
        platform.stop().await;
        let file = platform.token_file();
        let set_mode = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, permissions).unwrap();
        };
        for mode in [0o644, 0o660, 0o606, 0o601] {
            set_mode(mode);
            let refused = platform.try_restart().await.unwrap_err();
            let words = format!("it has mode {mode:o}, and others must not use it");
            assert!(refused.contains(&words), "{refused}");
        }
        set_mode(0o640);
        platform.try_restart().await.unwrap();
        platform.stop().await;
        std::fs::write(&file, "x").unwrap();
        let refused = platform.try_restart().await.unwrap_err();
        assert!(refused.contains("less than 32 characters"), "{refused}");
        platform.end().await;
    });
}

#[test]
fn what_can_be_said_in_json_and_not_be_stored_is_refused_by_name() {
    run(async {
        let platform = Platform::without_kafka().await;
        let token = json!({"owner": "aic", "role": "reader", "description": "a\0b"});
        let refused = platform.platform("POST", "/api/v1/tokens", Some(token));
        refused
            .await
            .refuses(400, "description: holds the character U+0000");
        let config = json!({"name": "a", "config": {"database.user": "\0"}});
        let refused = platform.connect("POST", "/connectors", Some(config));
        let words = "config.database.user: holds the character U+0000";
        refused.await.refuses(400, words);
        let escaped = json!({"owner": "aic", "role": "reader", "description": "\\u0000"});
        let path = "/api/v1/tokens";
        platform.platform("POST", path, Some(escaped)).await.ok();
        let refused = platform.connect("GET", "/connectors/a%00b", None);
        refused.await.refuses(400, "U+0000");
        for principal in ["User:*", "User:", "qts"] {
            let body = json!({"kafka_principal": principal});
            let path = "/api/v1/organisations/qts";
            let refused = platform.platform("PUT", path, Some(body)).await;
            refused.refuses(400, "must be one principal such as User:qts");
        }
        platform.end().await;
    });
}
