//! What the schema registry does beside registering: modes, references, deletes, levels.

use hutong_transport::admin::{Admin, TopicSpec};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, Platform, run, until};

fn record(fields: &str) -> Value {
    let schema = format!(r#"{{"type":"record","name":"R","namespace":"n","fields":[{fields}]}}"#);
    json!({ "schema": schema })
}

const ID: &str = r#"{"name":"id","type":"int"}"#;
const ID_AND_NOTE: &str =
    r#"{"name":"id","type":"int"},{"name":"note","type":["null","string"],"default":null}"#;

async fn post(platform: &Platform, path: &str, body: Value) -> Answer {
    platform.registry("POST", path, Some(body)).await
}

async fn put(platform: &Platform, path: &str, body: Value) -> Answer {
    platform.registry("PUT", path, Some(body)).await
}

async fn get(platform: &Platform, path: &str) -> Answer {
    platform.registry("GET", path, None).await
}

async fn delete(platform: &Platform, path: &str) -> Answer {
    platform.registry("DELETE", path, None).await
}

fn mode(mode: &str) -> Value {
    json!({ "mode": mode })
}

#[test]
fn a_mode_says_whether_schemas_are_taken_and_under_whose_ids() {
    run(async {
        let p = Platform::without_kafka().await;
        get(&p, "/mode/t").await.refuses(
            40409,
            "Subject 't' does not have subject-level mode configured",
        );
        let fallback = get(&p, "/mode/t?defaultToGlobal=true").await.ok();
        assert_eq!(fallback, mode("READWRITE"));
        put(&p, "/mode", mode("SIDEWAYS"))
            .await
            .refuses(42204, "Invalid mode");
        put(&p, "/mode/t", mode("READONLY_OVERRIDE"))
            .await
            .refuses(42204, "Invalid mode");

        let with_id = |id: i32, fields: &str| {
            let mut body = record(fields);
            body["id"] = id.into();
            body
        };
        post(&p, "/subjects/t/versions", with_id(41, ID))
            .await
            .refuses(42205, "Subject t is not in import mode");
        assert_eq!(
            put(&p, "/mode/t", mode("import")).await.ok(),
            mode("IMPORT")
        );
        post(&p, "/subjects/t/versions", record(ID))
            .await
            .refuses(42205, "Subject t is not in read-write mode");
        let mut imported = with_id(41, ID);
        imported["version"] = 7.into();
        for _ in 0..2 {
            let answer = post(&p, "/subjects/t/versions", imported.clone())
                .await
                .ok();
            assert_eq!(answer, json!({"id": 41}));
        }
        post(&p, "/subjects/t/versions", with_id(41, ID_AND_NOTE))
            .await
            .refuses(42205, "Overwrite new schema with id 41 is not permitted");
        let earlier = post(&p, "/subjects/t/versions", with_id(5, ID_AND_NOTE)).await;
        assert_eq!(earlier.ok(), json!({"id": 5}), "ids come in any order");
        assert_eq!(get(&p, "/subjects/t/versions").await.ok(), json!([7, 8]));

        assert_eq!(delete(&p, "/mode/t").await.ok(), mode("IMPORT"));
        let note =
            r#"{"name":"id","type":"int"},{"name":"x","type":["null","int"],"default":null}"#;
        let next = post(&p, "/subjects/u/versions", record(note)).await.ok();
        assert_eq!(next, json!({"id": 42}), "what was imported is never issued");
        put(&p, "/mode", mode("IMPORT"))
            .await
            .refuses(42205, "Cannot import since found existing subjects");
        let forced = put(&p, "/mode?force=true", mode("IMPORT")).await.ok();
        assert_eq!(forced, mode("IMPORT"));
        assert_eq!(delete(&p, "/mode").await.ok(), mode("IMPORT"));
        assert_eq!(get(&p, "/mode").await.ok(), mode("READWRITE"));

        put(&p, "/mode/u", mode("READONLY")).await.ok();
        let words = "Subject u is in read-only mode";
        post(&p, "/subjects/u/versions", record(ID))
            .await
            .refuses(42205, words);
        delete(&p, "/subjects/u").await.refuses(42205, words);
        delete(&p, "/subjects/u/versions/1")
            .await
            .refuses(42205, words);
        put(&p, "/config/u", json!({"compatibility": "NONE"}))
            .await
            .refuses(42205, words);
        assert_eq!(get(&p, "/subjects/u/versions").await.ok(), json!([1]));
        put(&p, "/mode/u", mode("READWRITE")).await.ok();
        put(&p, "/mode", mode("READONLY_OVERRIDE")).await.ok();
        post(&p, "/subjects/u/versions", record(ID))
            .await
            .refuses(42205, words);
        put(&p, "/mode", mode("READONLY")).await.ok();
        post(&p, "/subjects/u/versions", record(note)).await.ok();

        let aic = p.token("aic", "admin").await;
        let refused = p
            .send_as(&aic, Api::Registry, "PUT", "/mode", Some(mode("READWRITE")))
            .await;
        assert_eq!(refused.status, 403);
        p.end().await;
    });
}

#[test]
fn a_schema_may_use_names_that_other_subjects_define() {
    run(async {
        let p = Platform::without_kafka().await;
        let code = json!({"schema": r#"{"type":"fixed","name":"Code","namespace":"n","size":4}"#});
        post(&p, "/subjects/code/versions", code).await.ok();
        let uses_code = |version: i32| {
            let mut body = record(r#"{"name":"code","type":"n.Code"}"#);
            body["references"] = json!([{"name": "n.Code", "subject": "code", "version": version}]);
            body
        };
        post(
            &p,
            "/subjects/r/versions",
            record(r#"{"name":"code","type":"n.Code"}"#),
        )
        .await
        .refuses(42201, "Invalid schema");
        post(&p, "/subjects/r/versions", uses_code(9))
            .await
            .refuses(
                42201,
                "no schema reference found for subject \"code\" and version 9",
            );
        let id = post(&p, "/subjects/r/versions", uses_code(1)).await.ok();
        assert_eq!(id, json!({"id": 2}));
        assert_eq!(
            post(&p, "/subjects/r/versions", uses_code(1)).await.ok(),
            id
        );
        let shown = get(&p, "/schemas/ids/2").await.ok();
        assert_eq!(shown["schema"], uses_code(1)["schema"]);
        assert_eq!(shown["references"], uses_code(1)["references"]);
        let version = get(&p, "/subjects/r/versions/1").await.ok();
        assert_eq!(version["references"], uses_code(1)["references"]);
        let found = post(&p, "/subjects/r", uses_code(1)).await.ok();
        assert_eq!(found["id"], 2);
        let by = get(&p, "/subjects/code/versions/1/referencedby").await.ok();
        assert_eq!(by, json!([2]));
        let nobody = get(&p, "/subjects/r/versions/latest/referencedby")
            .await
            .ok();
        assert_eq!(nobody, json!([]));
        // What a name means counts for compatibility, too.
        let mut wider = record(
            r#"{"name":"code","type":"n.Code"},{"name":"note","type":["null","n.Code"],"default":null}"#,
        );
        wider["references"] = uses_code(1)["references"].clone();
        post(&p, "/subjects/r/versions", wider).await.ok();
        let other = json!({"schema": r#"{"type":"fixed","name":"Code","namespace":"n","size":5}"#});
        put(&p, "/config/code", json!({"compatibility": "NONE"}))
            .await
            .ok();
        post(&p, "/subjects/code/versions", other).await.ok();
        post(&p, "/subjects/r/versions", uses_code(2))
            .await
            .refuses(409, "incompatible with an earlier schema");
        for path in ["/subjects/code/versions/1", "/subjects/code"] {
            let refused = delete(&p, path).await;
            assert_eq!(refused.status, 422);
            refused.refuses(42206, "One or more references exist to the schema");
        }
        delete(&p, "/subjects/code/versions/2").await.ok();
        p.end().await;
    });
}

#[test]
fn for_good_goes_only_what_was_deleted_before_and_no_topic_uses() {
    run(async {
        let p = Platform::with_kafka().await;
        p.ready().await;
        let topic = p.cluster.as_str().replace("control", "used");
        let admin = Admin::new(&p.kafka).unwrap();
        let spec = TopicSpec::keyed_table(&topic, 1);
        admin.ensure_topic(&spec).await.unwrap();
        let used = format!("/subjects/{topic}-value");
        post(&p, &format!("{used}/versions"), record(ID)).await.ok();
        for fields in [ID_AND_NOTE, ID] {
            post(&p, "/subjects/t/versions", record(fields)).await;
        }
        let none = json!({"compatibility": "NONE"});
        put(&p, "/config/t", none).await.ok();
        post(&p, "/subjects/t/versions", record(ID)).await.ok();
        assert_eq!(get(&p, "/subjects/t/versions").await.ok(), json!([1, 2]));

        delete(&p, "/subjects/t/versions/1?permanent=true")
            .await
            .refuses(40407, "Version 1 was not deleted first");
        delete(&p, "/subjects/t?permanent=true").await.refuses(
            40405,
            "was not deleted first before being permanently deleted",
        );
        delete(&p, "/subjects/t/versions/1").await.ok();
        delete(&p, "/subjects/t/versions/1")
            .await
            .refuses(40406, "Version 1 was soft deleted. Set permanent=true");
        let all = get(&p, "/subjects/t/versions?deleted=true").await.ok();
        assert_eq!(all, json!([1, 2]));
        let only = get(&p, "/subjects/t/versions?deletedOnly=true").await.ok();
        assert_eq!(only, json!([1]));
        assert_eq!(get(&p, "/schemas/ids/2").await.ok(), record(ID_AND_NOTE));
        let gone = delete(&p, "/subjects/t/versions/1?permanent=true")
            .await
            .ok();
        assert_eq!(gone, json!(1));
        get(&p, "/schemas/ids/2")
            .await
            .refuses(40403, "Schema 2 not found");
        delete(&p, "/subjects/t").await.ok();
        delete(&p, "/subjects/t")
            .await
            .refuses(40404, "Subject 't' was soft deleted");
        assert_eq!(
            delete(&p, "/subjects/t?permanent=true").await.ok(),
            json!([2])
        );
        assert_eq!(
            get(&p, "/subjects?deleted=true&subjectPrefix=t").await.ok(),
            json!([])
        );
        // The id that another subject has stays, and neither ids nor versions are used for others.
        assert_eq!(get(&p, "/schemas/ids/1").await.ok(), record(ID));
        let again = post(&p, "/subjects/t/versions", record(ID_AND_NOTE))
            .await
            .ok();
        assert_eq!(again, json!({"id": 2}));
        assert_eq!(get(&p, "/subjects/t/versions").await.ok(), json!([3]));

        delete(&p, &used).await.ok();
        let refused = delete(&p, &format!("{used}?permanent=true")).await;
        assert_eq!(refused.status, 422);
        refused.refuses(42205, &format!("records of topic {topic} may carry it"));
        let schemas = p.cluster.schemas();
        until("the topic says the same", async || {
            let newest = p.newest(&schemas).await;
            let keys: Vec<_> = newest.keys().cloned().collect();
            let wanted = [
                "schema/1".to_owned(),
                "schema/2".to_owned(),
                "subject/t/3".to_owned(),
                format!("subject/{topic}-value/1"),
            ];
            (keys == wanted).then_some(()).ok_or(json!(keys))
        })
        .await;
        admin.delete_topic(&topic).await.unwrap();
        p.end().await;
    });
}

#[test]
fn every_level_is_held_to_and_says_why_not() {
    run(async {
        let p = Platform::without_kafka().await;
        // Of each subject the versions are: first {id}, then {id, note with default}.
        let required = r#"{"name":"id","type":"int"},{"name":"note","type":["null","string"]}"#;
        let without_id = r#"{"name":"note","type":["null","string"],"default":null}"#;
        for (level, with_required, back_to_first, without) in [
            ("NONE", true, true, true),
            ("BACKWARD", true, true, true),
            ("BACKWARD_TRANSITIVE", false, true, true),
            ("FORWARD", true, true, false),
            ("FORWARD_TRANSITIVE", true, true, false),
            ("FULL", true, true, false),
            ("FULL_TRANSITIVE", false, true, false),
        ] {
            let subject = level.to_ascii_lowercase();
            let path = format!("/subjects/{subject}/versions");
            post(&p, &path, record(ID)).await.ok();
            post(&p, &path, record(ID_AND_NOTE)).await.ok();
            let wanted = json!({ "compatibility": level });
            let set = put(&p, &format!("/config/{subject}"), wanted.clone()).await;
            assert_eq!(set.ok(), wanted);
            let check = format!("/compatibility/subjects/{subject}/versions?verbose=true");
            for (fields, expected) in [
                (required, with_required),
                (ID, back_to_first),
                (without_id, without),
            ] {
                let checked = post(&p, &check, record(fields)).await.ok();
                assert_eq!(
                    checked["is_compatible"], expected,
                    "{level} {fields}: {checked}"
                );
                let silent = checked["messages"] == json!([]);
                assert_eq!(silent, expected, "{level}: {checked}");
            }
            let unset = delete(&p, &format!("/config/{subject}")).await.ok();
            assert_eq!(unset, json!({ "compatibilityLevel": level }));
            get(&p, &format!("/config/{subject}"))
                .await
                .refuses(40408, "does not have subject-level compatibility");
        }
        let spaced = json!({"schema": "{\"type\": \"record\",  \"name\": \"S\", \"fields\": []}"});
        post(&p, "/subjects/n/versions?normalize=true", spaced.clone())
            .await
            .ok();
        let kept = get(&p, "/subjects/n/versions/1").await.ok();
        assert_ne!(kept["schema"], spaced["schema"]);
        let found = post(&p, "/subjects/n?normalize=true", spaced).await.ok();
        assert_eq!(found["version"], 1);
        p.end().await;
    });
}
