//! Requests that cannot be read at all: each API answers them in JSON, in its own words, as it does
//! every other mistake.

use serde_json::Value;

use crate::harness::{Answer, Api, Platform, answer, run};

/// Above what a body may have, and more than sockets hold by themselves.
const TOO_LARGE: usize = 20 << 20;

async fn send(platform: &Platform, api: Api, method: &str, path: &str, body: String) -> Answer {
    let request = platform.request(api, method, path);
    answer(request.bearer_auth(&platform.admin).body(body)).await
}

#[test]
fn a_path_that_is_no_utf_8_is_refused_by_the_name_of_its_part() {
    run(async {
        let platform = Platform::without_kafka().await;
        for (api, method, path, part) in [
            (Api::Connect, "GET", "/connectors/%FF", "connector"),
            (Api::Connect, "DELETE", "/connectors/a%C3%28", "connector"),
            (
                Api::Connect,
                "GET",
                "/connectors/a/tasks/%80/status",
                "task",
            ),
            (Api::Platform, "GET", "/api/v1/views/%FF", "view"),
            (Api::Registry, "GET", "/subjects/%FF/versions", "subject"),
        ] {
            let refused = send(&platform, api, method, path, String::new()).await;
            assert_eq!(refused.status, 400, "{path}: {refused:?}");
            refused.refuses(400, &format!("Invalid UTF-8 in `{part}`"));
        }
        // What is no escape at all stands for itself.
        platform
            .connect("GET", "/connectors/100%", None)
            .await
            .refuses(404, "Connector 100% not found");
        let registry = send(
            &platform,
            Api::Registry,
            "GET",
            "/schemas/ids/%FF",
            String::new(),
        )
        .await;
        assert_eq!(
            registry.content_type,
            "application/vnd.schemaregistry.v1+json"
        );
        platform.end().await;
    });
}

#[test]
fn a_body_that_is_too_large_is_refused_with_the_limit() {
    run(async {
        let platform = Platform::without_kafka().await;
        for (api, path) in [
            (Api::Connect, "/connectors"),
            (Api::Platform, "/api/v1/views"),
            (Api::Registry, "/subjects/x/versions"),
        ] {
            let body = Value::String("x".repeat(TOO_LARGE)).to_string();
            let refused = send(&platform, api, "POST", path, body).await;
            assert_eq!(refused.status, 413, "{path}: {refused:?}");
            refused.refuses(413, "the body is larger than 4 MiB");
        }
        platform.end().await;
    });
}
