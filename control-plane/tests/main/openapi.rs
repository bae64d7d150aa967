//! What others generate clients from.

use serde_json::Value;

use crate::harness::{Platform, run};

#[test]
fn the_openapi_document_is_the_reviewed_one() {
    insta::assert_json_snapshot!("openapi", hutong_control_plane::openapi());
}

#[test]
fn the_served_document_describes_all_three_apis() {
    run(async {
        let platform = Platform::without_kafka().await;
        let served = platform
            .platform("GET", "/api/v1/openapi.json", None)
            .await
            .ok();
        assert_eq!(served, hutong_control_plane::openapi());
        let port = |path: &str| served["paths"][path]["servers"][0]["url"].clone();
        assert_eq!(port("/connectors"), Value::from("http://localhost:8083"));
        assert_eq!(port("/subjects"), Value::from("http://localhost:8081"));
        assert_eq!(port("/api/v1/views"), Value::from("http://localhost:8080"));
        platform.end().await;
    });
}
