//! The schema registry, as Confluent's clients see it.

use serde_json::{Value, json};

use crate::harness::{Answer, Api, Platform, answer, run, source};

fn record(fields: &str) -> Value {
    let schema = format!(r#"{{"type":"record","name":"R","namespace":"n","fields":[{fields}]}}"#);
    json!({ "schema": schema })
}

const ID: &str = r#"{"name":"id","type":"int"}"#;
const ID_AND_NOTE: &str =
    r#"{"name":"id","type":"int"},{"name":"note","type":["null","string"],"default":null}"#;
const ID_AND_REQUIRED: &str = r#"{"name":"id","type":"int"},{"name":"note","type":"string"}"#;

async fn post(platform: &Platform, path: &str, body: Value) -> Answer {
    platform.registry("POST", path, Some(body)).await
}

#[test]
fn a_schema_is_registered_found_and_listed() {
    run(async {
        let platform = Platform::without_kafka().await;
        assert_eq!(platform.registry("GET", "/", None).await.ok(), json!({}));
        let first = post(&platform, "/subjects/t-value/versions", record(ID)).await;
        assert_eq!(first.content_type, "application/vnd.schemaregistry.v1+json");
        assert_eq!(first.ok(), json!({"id": 1}));
        let again = post(&platform, "/subjects/t-value/versions", record(ID))
            .await
            .ok();
        assert_eq!(
            again,
            json!({"id": 1}),
            "the same schema is the same version"
        );
        let pretty = json!({"schema": "{ \"name\": \"n.R\", \"type\": \"record\",\n \"fields\": [ {\"type\": \"int\", \"name\": \"id\"} ] }"});
        assert_eq!(
            post(&platform, "/subjects/t-value/versions", pretty)
                .await
                .ok(),
            json!({"id": 1})
        );
        let elsewhere = post(&platform, "/subjects/u-value/versions", record(ID))
            .await
            .ok();
        assert_eq!(
            elsewhere,
            json!({"id": 1}),
            "ids belong to schemas, not to subjects"
        );
        let second = post(&platform, "/subjects/t-value/versions", record(ID_AND_NOTE))
            .await
            .ok();
        assert_eq!(second, json!({"id": 2}));

        let get = async |path: &str| platform.registry("GET", path, None).await.ok();
        assert_eq!(get("/subjects").await, json!(["t-value", "u-value"]));
        assert_eq!(get("/subjects?subjectPrefix=u").await, json!(["u-value"]));
        assert_eq!(get("/subjects/t-value/versions").await, json!([1, 2]));
        let latest = get("/subjects/t-value/versions/latest").await;
        assert_eq!((&latest["version"], &latest["id"]), (&json!(2), &json!(2)));
        assert_eq!(latest["subject"], "t-value");
        assert_eq!(latest["schema"], record(ID_AND_NOTE)["schema"]);
        assert_eq!(get("/schemas/ids/1").await, record(ID));
        let bare = get("/subjects/t-value/versions/1/schema").await;
        assert_eq!(bare["name"], "R");
        assert_eq!(
            get("/schemas/ids/1/versions").await,
            json!([{"subject": "t-value", "version": 1}, {"subject": "u-value", "version": 1}])
        );
        assert_eq!(get("/schemas/types").await, json!(["AVRO"]));
        assert_eq!(get("/mode").await, json!({"mode": "READWRITE"}));
        let found = post(&platform, "/subjects/t-value", record(ID)).await.ok();
        assert_eq!((&found["version"], &found["id"]), (&json!(1), &json!(1)));
        platform.end().await;
    });
}

#[test]
fn refusals_carry_the_codes_that_clients_know() {
    run(async {
        let platform = Platform::without_kafka().await;
        post(&platform, "/subjects/t/versions", record(ID))
            .await
            .ok();
        let get = async |path: &str| platform.registry("GET", path, None).await;
        get("/subjects/none/versions")
            .await
            .refuses(40401, "Subject 'none' not found.");
        get("/subjects/t/versions/9")
            .await
            .refuses(40402, "Version 9 not found.");
        get("/schemas/ids/99")
            .await
            .refuses(40403, "Schema 99 not found");
        get("/subjects/t/versions/zero")
            .await
            .refuses(42202, "'zero' is not a valid version id");
        get("/subjects/t/versions/0")
            .await
            .refuses(42202, "between [1, 2^31-1]");
        get("/config/t")
            .await
            .refuses(40408, "does not have subject-level compatibility");
        let unknown = post(&platform, "/subjects/t", record(ID_AND_NOTE)).await;
        unknown.refuses(40403, "Schema not found");
        assert_eq!(unknown.status, 404);
        let wrong = post(
            &platform,
            "/subjects/t/versions",
            json!({"schema": "{\"type\":\"recor\"}"}),
        )
        .await;
        assert_eq!(wrong.status, 422);
        wrong.refuses(42201, "Invalid schema");
        let json_schema = json!({"schema": "{}", "schemaType": "JSON"});
        post(&platform, "/subjects/t/versions", json_schema)
            .await
            .refuses(42201, "only AVRO");
        let level = json!({"compatibility": "SIDEWAYS"});
        platform
            .registry("PUT", "/config", Some(level))
            .await
            .refuses(42203, "Invalid compatibility");
        get("/nowhere").await.refuses(404, "no such path");
        let malformed = platform
            .request(Api::Registry, "POST", "/subjects/t/versions")
            .bearer_auth(&platform.admin)
            .body("{\"schema\": ");
        let malformed = answer(malformed).await;
        malformed.refuses(400, "malformed JSON");
        assert_eq!(
            malformed.content_type,
            "application/vnd.schemaregistry.v1+json"
        );
        platform.end().await;
    });
}

#[test]
fn an_incompatible_schema_is_refused_by_the_level_in_force() {
    run(async {
        let platform = Platform::without_kafka().await;
        post(&platform, "/subjects/t/versions", record(ID))
            .await
            .ok();
        let level = platform.registry("GET", "/config", None).await.ok();
        assert_eq!(level, json!({"compatibilityLevel": "BACKWARD"}));
        let refused = post(&platform, "/subjects/t/versions", record(ID_AND_REQUIRED)).await;
        assert_eq!(refused.status, 409);
        refused.refuses(409, "incompatible with an earlier schema for subject \"t\"");

        let check = "/compatibility/subjects/t/versions/latest?verbose=true";
        let no = post(&platform, check, record(ID_AND_REQUIRED)).await.ok();
        assert_eq!(no["is_compatible"], false);
        assert_ne!(no["messages"], json!([]));
        let yes = post(&platform, check, record(ID_AND_NOTE)).await.ok();
        assert_eq!(yes, json!({"is_compatible": true, "messages": []}));
        let unknown = "/compatibility/subjects/none/versions/latest";
        assert_eq!(
            post(&platform, unknown, record(ID)).await.ok(),
            json!({"is_compatible": true})
        );
        post(
            &platform,
            "/compatibility/subjects/t/versions/7",
            record(ID),
        )
        .await
        .refuses(40402, "7");

        let none = json!({"compatibility": "NONE"});
        platform
            .registry("PUT", "/config/t", Some(none.clone()))
            .await
            .ok();
        let own = platform.registry("GET", "/config/t", None).await.ok();
        assert_eq!(own, json!({"compatibilityLevel": "NONE"}));
        post(&platform, "/subjects/t/versions", record(ID_AND_REQUIRED))
            .await
            .ok();
        let removed = platform.registry("DELETE", "/config/t", None).await.ok();
        assert_eq!(removed, json!({"compatibilityLevel": "NONE"}));
        let fallback = platform
            .registry("GET", "/config/t?defaultToGlobal=true", None)
            .await
            .ok();
        assert_eq!(fallback, json!({"compatibilityLevel": "BACKWARD"}));
        platform.end().await;
    });
}

#[test]
fn deletion_is_soft_and_neither_ids_nor_versions_return() {
    run(async {
        let platform = Platform::without_kafka().await;
        post(&platform, "/subjects/t/versions", record(ID))
            .await
            .ok();
        post(&platform, "/subjects/t/versions", record(ID_AND_NOTE))
            .await
            .ok();
        let one = platform
            .registry("DELETE", "/subjects/t/versions/1", None)
            .await
            .ok();
        assert_eq!(one, json!(1));
        let all = platform.registry("DELETE", "/subjects/t", None).await.ok();
        assert_eq!(all, json!([2]));
        platform
            .registry("GET", "/subjects/t/versions", None)
            .await
            .refuses(40401, "'t' not found");
        platform
            .registry("DELETE", "/subjects/t", None)
            .await
            .refuses(40404, "was soft deleted");
        assert_eq!(
            platform.registry("GET", "/subjects", None).await.ok(),
            json!([])
        );
        assert_eq!(
            platform
                .registry("GET", "/subjects?deleted=true", None)
                .await
                .ok(),
            json!(["t"])
        );
        assert_eq!(
            platform.registry("GET", "/schemas/ids/1", None).await.ok(),
            record(ID)
        );
        let again = post(&platform, "/subjects/t/versions", record(ID))
            .await
            .ok();
        assert_eq!(again, json!({"id": 1}), "the same schema keeps its id");
        assert_eq!(
            platform
                .registry("GET", "/subjects/t/versions", None)
                .await
                .ok(),
            json!([3])
        );
        platform.end().await;
    });
}

#[test]
fn an_organisation_finds_only_its_own_subjects_and_ids() {
    run(async {
        let platform = Platform::without_kafka().await;
        let aic = platform.token("aic", "operator").await;
        let qts = platform.token("qts", "operator").await;
        let connector = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .send_as(&aic, Api::Connect, "POST", "/connectors", Some(connector))
            .await
            .ok();
        // A worker registers with the platform's token; the subject is its provider's by the prefix.
        let path = "/subjects/aic.public.t-value/versions";
        post(&platform, path, record(ID)).await.ok();
        let as_aic = platform
            .send_as(&aic, Api::Registry, "GET", "/subjects", None)
            .await
            .ok();
        assert_eq!(as_aic, json!(["aic.public.t-value"]));
        let as_qts = platform
            .send_as(&qts, Api::Registry, "GET", "/subjects", None)
            .await
            .ok();
        assert_eq!(as_qts, json!([]));
        let hidden = platform
            .send_as(&qts, Api::Registry, "GET", "/schemas/ids/1", None)
            .await;
        hidden.refuses(40403, "Schema 1 not found");
        let hidden = platform
            .send_as(&qts, Api::Registry, "GET", "/schemas/ids/1/versions", None)
            .await;
        hidden.refuses(40403, "Schema 1 not found");
        let planted = platform
            .send_as(
                &qts,
                Api::Registry,
                "POST",
                "/subjects/aic.public.u-value/versions",
                Some(record(ID)),
            )
            .await;
        assert_eq!(planted.status, 403);
        planted.refuses(40301, "is under no topic.prefix of your organisation");
        let own = format!("/subjects/{}.view.x.g1-value/versions", platform.cluster);
        post(&platform, &own, record(ID))
            .await
            .refuses(40301, "the platform's own");
        let global = json!({"compatibility": "NONE"});
        let global = platform
            .send_as(&aic, Api::Registry, "PUT", "/config", Some(global))
            .await;
        assert_eq!(global.status, 403);
        platform.end().await;
    });
}

#[test]
fn registering_at_once_from_many_sides_yields_one_id_and_no_gap() {
    run(async {
        let platform = Platform::without_kafka().await;
        let mut posts = tokio::task::JoinSet::new();
        for n in 0..12 {
            let path = format!("/subjects/s{}/versions", n % 3);
            let request = platform.request(Api::Registry, "POST", &path);
            let request = request
                .bearer_auth(&platform.admin)
                .body(record(ID).to_string());
            posts.spawn(answer(request));
        }
        let answers = posts.join_all().await;
        let ids: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.ok()["id"].clone())
            .collect();
        assert_eq!(ids, vec![json!(1); 12]);
        let next = post(&platform, "/subjects/other/versions", record(ID_AND_NOTE))
            .await
            .ok();
        assert_eq!(next, json!({"id": 2}));
        platform.end().await;
    });
}

/// Whoever names a subject before its table is captured gets nothing by it.
#[test]
fn a_subject_cannot_be_squatted() {
    run(async {
        let platform = Platform::without_kafka().await;
        let aic = platform.token("aic", "operator").await;
        let qts = platform.token("qts", "operator").await;
        let path = "/subjects/aic.public.t-value/versions";
        let config = "/config/aic.public.t-value";
        let none = json!({"compatibility": "NONE"});
        let send = async |token: &str, method: &str, path: &str, body: Option<Value>| {
            platform
                .send_as(token, Api::Registry, method, path, body)
                .await
        };
        for (method, path, body) in [
            ("POST", path, record(ID_AND_NOTE)),
            ("PUT", config, none.clone()),
        ] {
            let refused = send(&qts, method, path, Some(body)).await;
            assert_eq!(refused.status, 403);
            refused.refuses(40301, "is under no topic.prefix of your organisation");
        }
        // The platform may, and what it made becomes the provider's with the connector.
        post(&platform, path, record(ID)).await.ok();
        let connector = json!({"name": "aic", "config": source("aic", "aic")});
        platform
            .send_as(&aic, Api::Connect, "POST", "/connectors", Some(connector))
            .await
            .ok();
        let latest = format!("{path}/latest");
        assert_eq!(send(&aic, "GET", &latest, None).await.ok()["version"], 1);
        assert_eq!(send(&qts, "GET", &latest, None).await.status, 404);
        send(&aic, "PUT", config, Some(none)).await.ok();
        platform.end().await;
    });
}
