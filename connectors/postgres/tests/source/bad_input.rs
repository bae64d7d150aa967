//! What is wrong is said at once, with what mends it.

use hutong_connectors_postgres::source::{Connected, drop_owned, validate};
use serde_json::json;

use super::harness::{Database, Platform, Running, explain, until, until_events};

/// Opens a source and returns what it says is wrong.
async fn refusal(database: &Database, more: &[(&str, &str)]) -> String {
    match Connected::open(database.config(more), None).await {
        Ok(_) => end(database, &Platform::default(), more).await,
        Err(error) => explain(&error),
    }
}

/// Runs a source and returns why it ended.
async fn end(database: &Database, platform: &Platform, more: &[(&str, &str)]) -> String {
    let running = Running::start(database, platform, more).await;
    explain(&running.end().await.expect_err("it cannot run"))
}

#[track_caller]
fn check(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_missing_table_is_named() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let text = refusal(
        &database,
        &[("table.include.list", "public.t,public.missing")],
    )
    .await;
    check(&text, &["definite: ", "has the name \"public.missing\""]);
}

#[tokio::test]
async fn unsupported_types_name_table_column_and_type_unless_excluded() {
    let database = Database::create(
        "CREATE DOMAIN d AS pg_lsn; CREATE TABLE t (id int PRIMARY KEY, a tsquery, b d, c point[], e \"char\");",
    )
    .await;
    let excluded = |columns: &str| format!("public.t.({columns})");
    let text = refusal(&database, &[]).await;
    check(
        &text,
        &[
            "table public.t, column \"a\": the type tsquery is not supported",
            "column.exclude.list=public.t.a",
        ],
    );
    let text = refusal(&database, &[("column.exclude.list", &excluded("a"))]).await;
    check(&text, &["column \"b\": the domain d is not supported"]);
    let text = refusal(&database, &[("column.exclude.list", &excluded("a|b"))]).await;
    check(&text, &["column \"c\": the type point[] is not supported"]);
    let text = refusal(&database, &[("column.exclude.list", &excluded("a|b|c"))]).await;
    check(&text, &["column \"e\": the type \"char\" is not supported"]);
    let config = database.config(&[("column.exclude.list", &excluded("a|b|c|e"))]);
    assert_eq!(validate(config, None).await, []);
}

#[tokio::test]
async fn a_key_column_that_is_not_captured_is_refused() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let text = refusal(&database, &[("column.exclude.list", "public.t.id")]).await;
    check(
        &text,
        &["column \"id\" belongs to the primary key and is not captured"],
    );
}

#[tokio::test]
async fn missing_rights_answer_with_the_sql_for_the_dba() {
    let database =
        Database::create("CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY, v text)").await;
    let role = database
        .role("CREATE ROLE $role LOGIN; CREATE PUBLICATION hutong_test FOR TABLE s.t")
        .await;
    let user = [("database.user", role.as_str())];
    let text = refusal(&database, &user).await;
    check(
        &text,
        &[
            &format!("user \"{role}\" has no right to replicate"),
            &format!("ALTER ROLE {role} REPLICATION;"),
            &format!("user \"{role}\" may not read table s.t"),
            &format!("GRANT USAGE ON SCHEMA s TO {role}; GRANT SELECT ON s.t TO {role};"),
        ],
    );
    let partly = [
        ("database.user", role.as_str()),
        ("column.exclude.list", "s.t.v"),
    ];
    let text = refusal(&database, &partly).await;
    check(&text, &[&format!("GRANT SELECT (id) ON s.t TO {role};")]);
    database
        .execute(&format!(
            "ALTER ROLE {role} REPLICATION; GRANT USAGE ON SCHEMA s TO {role}; GRANT SELECT ON s.t TO {role};"
        ))
        .await;
    database.execute("INSERT INTO s.t VALUES (1, 'a')").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &user).await;
    until_events(&platform, 1).await;
    database.execute("INSERT INTO s.t VALUES (2, 'b')").await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_missing_publication_answers_with_the_sql_that_makes_it() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE \"T 2\" (id int PRIMARY KEY)",
    )
    .await;
    let disabled = [("publication.autocreate.mode", "disabled")];
    let text = refusal(&database, &disabled).await;
    let sql = "CREATE PUBLICATION hutong_test FOR TABLE public.\"T 2\", public.t;";
    check(&text, &["publication \"hutong_test\" does not exist", sql]);
    database
        .execute("CREATE PUBLICATION hutong_test FOR TABLE t")
        .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &disabled).await;
    let text = platform.until_failed("public.T 2").await;
    running.stop().await.unwrap();
    check(
        &text,
        &[
            "lacks public.\"T 2\"",
            "ALTER PUBLICATION hutong_test ADD TABLE public.\"T 2\";",
        ],
    );
    let role = database
        .role("CREATE ROLE $role LOGIN REPLICATION; GRANT SELECT ON ALL TABLES IN SCHEMA public TO $role; DROP PUBLICATION hutong_test")
        .await;
    let text = refusal(&database, &[("database.user", &role)]).await;
    check(&text, &["this user may not create it", sql]);
}

#[tokio::test]
async fn a_publication_that_filters_is_refused() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION hutong_test FOR TABLE t WITH (publish = 'insert, update');",
    )
    .await;
    let text = refusal(&database, &[]).await;
    check(
        &text,
        &[
            "does not publish delete, truncate",
            "SET (publish = 'insert, update, delete, truncate')",
        ],
    );
    let version = database
        .text("SELECT current_setting('server_version_num')")
        .await;
    if version.as_str() < "150000" {
        return;
    }
    database
        .execute("DROP PUBLICATION hutong_test; CREATE PUBLICATION hutong_test FOR TABLE t WHERE (id > 5)")
        .await;
    let text = refusal(&database, &[]).await;
    check(&text, &["filters the rows of table public.t"]);
    database
        .execute("DROP PUBLICATION hutong_test; CREATE PUBLICATION hutong_test FOR TABLE t (id)")
        .await;
    let text = refusal(&database, &[]).await;
    check(&text, &["leaves out column \"v\" of table public.t"]);
}

#[tokio::test]
async fn a_table_whose_updates_would_fail_is_not_published() {
    let database = Database::create("CREATE TABLE t (v text)").await;
    let text = refusal(&database, &[]).await;
    check(
        &text,
        &[
            "its owner's UPDATE and DELETE would fail",
            "ALTER TABLE public.t REPLICA IDENTITY FULL;",
        ],
    );
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, u int NOT NULL UNIQUE); ALTER TABLE t REPLICA IDENTITY USING INDEX t_u_key",
    )
    .await;
    let text = refusal(&database, &[]).await;
    check(
        &text,
        &[
            "does not hold its primary key",
            "ALTER TABLE public.t REPLICA IDENTITY DEFAULT;",
        ],
    );
}

#[tokio::test]
async fn a_slot_in_use_by_somebody_else_is_left_alone() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let role = database
        .role("CREATE ROLE $role LOGIN REPLICATION; GRANT SELECT ON t TO $role; CREATE PUBLICATION hutong_test FOR TABLE t")
        .await;
    let first = Platform::default();
    let running = Running::start(&database, &first, &[("database.user", &role)]).await;
    first.until_streaming().await;
    database.execute("INSERT INTO t VALUES (1)").await;
    until_events(&first, 1).await;
    let text = end(&database, &Platform::default(), &[]).await;
    check(
        &text,
        &[
            "transient: ",
            "is in use by process",
            &format!("user \"{role}\""),
            "choose another slot.name",
        ],
    );
    database.execute("INSERT INTO t VALUES (2)").await;
    until_events(&first, 2).await;
    running.stop().await.unwrap();
}

/// A stopped source with a position.
async fn stopped() -> (Database, Platform) {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    database.execute("INSERT INTO t VALUES (1)").await;
    until_events(&platform, 1).await;
    running.stop().await.unwrap();
    (database, platform)
}

#[tokio::test]
async fn a_slot_ahead_of_the_position_is_a_gap() {
    let (database, platform) = stopped().await;
    let slot = database.name.clone();
    database.execute("INSERT INTO t VALUES (2)").await;
    database
        .execute(&format!(
            "SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"
        ))
        .await;
    let text = end(&database, &platform, &[]).await;
    check(
        &text,
        &[
            "definite: ",
            "ahead of the stored position",
            "changes between are lost",
            "snapshot.mode=when_needed",
        ],
    );
}

#[tokio::test]
async fn a_table_taken_out_of_the_publication_stops_alone() {
    let (database, platform) = stopped().await;
    database
        .execute("CREATE TABLE other (id int PRIMARY KEY); ALTER PUBLICATION hutong_test SET TABLE other")
        .await;
    let running = Running::start(&database, &platform, &[]).await;
    let text = platform.until_failed("public.t").await;
    check(
        &text,
        &[
            "definite: ",
            "does not hold table public.t any more",
            "hutong.snapshot.again=public.t@TOKEN",
        ],
    );
    database.execute("INSERT INTO other VALUES (7)").await;
    until("the other table", || {
        platform.table("p.public.other") == ["7"]
    })
    .await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_table_that_cannot_be_captured_does_not_stop_the_others() {
    let (database, platform) = stopped().await;
    database
        .execute("CREATE TABLE other (id int PRIMARY KEY, a tsquery)")
        .await;
    let running = Running::start(&database, &platform, &[]).await;
    database.execute("INSERT INTO t VALUES (2)").await;
    until_events(&platform, 2).await;
    let text = platform.until_failed("public.other").await;
    check(
        &text,
        &["column \"a\"", "column.exclude.list=public.other.a"],
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_going_to_be_made_is_stored_before_it_is_made() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let platform = Platform::default();
    let running = Running::start_for(&database, &platform, &[], 1).await;
    until("the first batch", || platform.batches() == 1).await;
    running.kill().await;
    let position = platform.position().unwrap();
    assert_eq!(position["made"], json!({"slot": true, "publication": true}));
    let running = Running::start(&database, &platform, &[]).await;
    database.execute("INSERT INTO t VALUES (1)").await;
    until_events(&platform, 1).await;
    running.stop().await.unwrap();
    let position = platform.position().unwrap();
    assert_eq!(position["made"], json!({"slot": true, "publication": true}));
}

#[tokio::test]
async fn a_slot_that_is_gone_is_a_gap() {
    let (database, platform) = stopped().await;
    let slot = database.name.clone();
    database
        .execute(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
    let text = end(&database, &platform, &[]).await;
    check(
        &text,
        &[
            "definite: ",
            "does not exist any more",
            "changes between are lost",
        ],
    );
}

#[tokio::test]
async fn another_server_is_a_gap() {
    let (database, platform) = stopped().await;
    let mut position = platform.position().unwrap();
    position["system_identifier"] = json!("1");
    platform.set_position(position);
    let text = end(&database, &platform, &[]).await;
    check(
        &text,
        &["definite: ", "the server is another one", "belongs to 1"],
    );
}

#[tokio::test]
async fn a_position_of_a_newer_release_is_refused_by_version() {
    let (database, platform) = stopped().await;
    let mut position = platform.position().unwrap();
    position["v"] = json!(2);
    platform.set_position(position);
    let text = end(&database, &platform, &[]).await;
    check(
        &text,
        &[
            "definite: ",
            "it has version 2, this release reads version 1",
        ],
    );
}

#[tokio::test]
async fn a_slot_of_another_plugin_is_refused() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let slot = database.name.clone();
    database
        .execute(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"
        ))
        .await;
    let text = refusal(&database, &[]).await;
    check(
        &text,
        &["has not the plugin pgoutput (it has test_decoding)"],
    );
}

#[tokio::test]
async fn a_number_that_is_none_stops_its_table_at_its_row() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, n numeric(5,2))").await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("BEGIN; INSERT INTO t VALUES (1, 1.5); INSERT INTO t VALUES (2, 'NaN'); COMMIT")
        .await;
    let text = platform.until_failed("public.t").await;
    database.execute("INSERT INTO t VALUES (3, 3)").await;
    running.stop().await.unwrap();
    check(
        &text,
        &[
            "definite: ",
            "table public.t, column \"n\" (numeric(5,2)): the value is NaN or infinite",
        ],
    );
    assert_eq!(platform.short().len(), 1, "what came before it has left");
}

#[tokio::test]
async fn nobody_listening_is_transient() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY)").await;
    let text = refusal(&database, &[("database.port", "1")]).await;
    check(
        &text,
        &["transient: could not connect to", "Connection refused"],
    );
    let text = refusal(&database, &[("database.dbname", "no_such_database")]).await;
    check(
        &text,
        &["definite: ", "database \"no_such_database\" does not exist"],
    );
}

#[tokio::test]
async fn validation_names_properties_and_creates_nothing() {
    let database = Database::create("CREATE TABLE t (id int PRIMARY KEY, a tsquery)").await;
    let errors = validate(
        database.config(&[
            ("publication.autocreate.mode", "disabled"),
            ("table.include.list", "public.t,public.x"),
        ]),
        None,
    )
    .await;
    let properties: Vec<_> = errors.iter().map(|error| error.property.as_str()).collect();
    assert_eq!(
        properties,
        [
            "table.include.list",
            "table.include.list",
            "publication.name"
        ]
    );
    let errors = validate(
        database.config(&[("column.exclude.list", "public.t.a")]),
        None,
    )
    .await;
    assert_eq!(errors, []);
    let made = database
        .text("SELECT ((SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()))::text")
        .await;
    assert_eq!(made, "0");
    let errors = validate(database.config(&[("database.port", "1")]), None).await;
    assert_eq!(errors[0].property, "database.hostname");
}

#[tokio::test]
async fn only_what_the_source_made_is_dropped() {
    let (database, platform) = stopped().await;
    let position = platform.position();
    let dropped = drop_owned(database.config(&[]), None, position.as_ref())
        .await
        .unwrap();
    assert!(dropped.slot && dropped.publication);
    let count = "SELECT ((SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()))::text";
    assert_eq!(database.text(count).await, "0");

    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION hutong_test FOR TABLE t",
    )
    .await;
    let slot = database.name.clone();
    database
        .execute(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        ))
        .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    running.stop().await.unwrap();
    let position = platform.position();
    let dropped = drop_owned(database.config(&[]), None, position.as_ref())
        .await
        .unwrap();
    assert!(!dropped.slot && !dropped.publication);
    assert_eq!(database.text(count).await, "2");
}

#[tokio::test]
async fn a_row_security_policy_is_an_error_and_not_a_smaller_table() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); ALTER TABLE t ENABLE ROW LEVEL SECURITY; \
         CREATE POLICY p ON t USING (id > 5); CREATE PUBLICATION hutong_test FOR TABLE t;",
    )
    .await;
    let role = database
        .role("CREATE ROLE $role LOGIN REPLICATION; GRANT SELECT ON t TO $role")
        .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[("database.user", &role)]).await;
    let text = platform.until_failed("public.t").await;
    running.stop().await.unwrap();
    check(
        &text,
        &[
            "definite: ",
            "could not read rows of table public.t",
            "row-level security policy",
        ],
    );
}
