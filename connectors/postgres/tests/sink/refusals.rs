//! What a subscriber's database refuses, and what the user then reads.

use hutong_connectors_core::ErrorReport;
use hutong_connectors_postgres::sink::validate;
use hutong_schemas::class::{Class, Classified};

use super::*;

fn text(error: &Error) -> String {
    let report = ErrorReport::new(error);
    format!("{} | {}", report.message, report.hint.unwrap_or_default())
}

#[track_caller]
fn check(error: &Error, class: Class, parts: &[&str]) {
    let text = text(error);
    assert_eq!(error.class(), class, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_full_disk_is_transient_and_visible_and_the_table_goes_on_once_it_is_not() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 5).await.unwrap();
    subscriber
        .execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'could not extend file: No space left on device'
                   USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON t
             FOR EACH STATEMENT EXECUTE FUNCTION full_disk()",
        )
        .await;
    let error = apply(&mut writer, &[(2, "two")], &[], 9).await.unwrap_err();
    let parts = [
        "could not write table public.t",
        "No space left on device (SQLSTATE 53100)",
        "free space on the subscriber's server",
    ];
    check(&error, Class::Transient, &parts);
    drop(writer);
    subscriber.execute("DROP TRIGGER full_disk ON t").await;
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(5)]);
    apply(&mut writer, &[(2, "two")], &[], 9).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 one", "2 two"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_read_only_database_is_transient_and_says_so() {
    let subscriber = Subscriber::new().await;
    let sql = format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        subscriber.database
    );
    subscriber.execute(&sql).await;
    let error = subscriber
        .assign("a", target(), &input())
        .await
        .unwrap_err();
    let parts = [
        "read-only transaction (SQLSTATE 25006)",
        "database is read-only",
    ];
    check(&error, Class::Transient, &parts);
    let mistakes = validate(&subscriber.config("a", &[]), None).await;
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].message.contains("read-only"), "{mistakes:?}");
    subscriber.drop_database().await;
}

#[tokio::test]
async fn an_incompatible_table_is_refused_with_every_column_and_both_types() {
    let subscriber = Subscriber::new().await;
    subscriber
        .execute("CREATE TABLE t (id bigint, name integer, PRIMARY KEY (name))")
        .await;
    let error = subscriber
        .assign("a", target(), &input())
        .await
        .unwrap_err();
    let parts = [
        "table public.t cannot take the rows",
        "column name is integer, it must be character varying(20)",
        "no primary key or unique index on exactly (id)",
        "collection.name.format",
    ];
    check(&error, Class::Definite, &parts);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_table_with_rows_of_somebody_else_is_refused_and_left_alone() {
    let subscriber = Subscriber::new().await;
    subscriber
        .execute("CREATE TABLE t (id integer PRIMARY KEY, name varchar(20)); INSERT INTO t VALUES (7, 'x')")
        .await;
    let error = subscriber
        .assign("a", target(), &input())
        .await
        .unwrap_err();
    check(
        &error,
        Class::Definite,
        &["holds rows already", "TRUNCATE \"public\".\"t\""],
    );
    assert_eq!(subscriber.names().await, ["7 x"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_table_that_another_input_fills_is_refused() {
    let subscriber = Subscriber::new().await;
    let (writer, _) = subscriber.writer("a").await;
    drop(writer);
    let other = Input {
        name: "hutong.view.w".to_owned(),
        topic: "hutong.view.w.g1".to_owned(),
        ..input()
    };
    let error = subscriber.assign("b", target(), &other).await.unwrap_err();
    check(
        &error,
        Class::Definite,
        &["already the target of hutong.view.v"],
    );
    subscriber.drop_database().await;
}

#[tokio::test]
async fn without_schema_evolution_a_missing_table_is_refused_with_the_statement_that_makes_it() {
    let subscriber = Subscriber::new().await;
    let config = subscriber.config("a", &[("schema.evolution", "none")]);
    let sink = Sink::open(&config, None, SessionSettings::default()).await;
    let assigned = sink.unwrap().assign(target(), &input(), now_ms()).await;
    let parts = [
        r#"CREATE TABLE "public"."t" ("id" integer NOT NULL"#,
        "schema.evolution",
    ];
    check(&assigned.unwrap_err(), Class::Definite, &parts);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_violated_constraint_is_definite_and_its_text_shows_no_row() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    subscriber
        .execute("ALTER TABLE t ADD CONSTRAINT one_name UNIQUE (name)")
        .await;
    apply(&mut writer, &[(1, "secret-name")], &[], 5)
        .await
        .unwrap();
    let error = apply(&mut writer, &[(2, "secret-name")], &[], 9)
        .await
        .unwrap_err();
    check(
        &error,
        Class::Definite,
        &["[constraint one_name]", "SQLSTATE 23505"],
    );
    assert!(!text(&error).contains("secret-name"), "{}", text(&error));
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_value_that_moves_from_a_deleted_row_to_a_new_one_does_not_collide() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    subscriber.execute("ALTER TABLE t ADD UNIQUE (name)").await;
    apply(&mut writer, &[(1, "moves")], &[], 5).await.unwrap();
    apply(&mut writer, &[(2, "moves")], &[1], 9).await.unwrap();
    assert_eq!(subscriber.names().await, ["2 moves"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_check_that_fails_at_the_commit_undoes_rows_and_position() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    subscriber
        .execute(
            "CREATE TABLE allowed (name varchar(20) PRIMARY KEY);
             ALTER TABLE t ADD FOREIGN KEY (name) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED",
        )
        .await;
    let error = apply(&mut writer, &[(1, "x")], &[], 5).await.unwrap_err();
    check(
        &error,
        Class::Definite,
        &["could not commit into table public.t", "23503"],
    );
    drop(writer);
    assert!(subscriber.names().await.is_empty());
    assert_eq!(subscriber.next_offset().await, 0);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn what_keeps_a_sink_from_working_is_found_by_validation() {
    let subscriber = Subscriber::new().await;
    let missing = subscriber.config("a", &[("collection.name.format", "nowhere.t")]);
    let mistakes = validate(&missing, None).await;
    assert_eq!(mistakes[0].property, "collection.name.format");
    assert!(
        mistakes[0].message.contains("CREATE SCHEMA \"nowhere\""),
        "{mistakes:?}"
    );

    let role = format!("{}_reader", subscriber.database);
    let sql = format!("CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    subscriber.execute(&sql).await;
    let powerless = subscriber.config("a", &[("connection.username", &role)]);
    let mistakes = validate(&powerless, None).await;
    assert_eq!(mistakes[0].property, "connection.username");
    assert!(
        mistakes[0]
            .message
            .contains("GRANT USAGE, CREATE ON SCHEMA"),
        "{mistakes:?}"
    );
    let sink = Sink::open(&powerless, None, SessionSettings::default()).await;
    let refused = sink.unwrap().assign(target(), &input(), now_ms()).await;
    check(
        &refused.unwrap_err(),
        Class::Definite,
        &["42501", "GRANT USAGE, CREATE ON SCHEMA"],
    );

    let nobody = subscriber.config("a", &[("connection.username", "nobody_here")]);
    let mistakes = validate(&nobody, None).await;
    assert!(mistakes[0].message.contains("nobody_here"), "{mistakes:?}");
    assert_eq!(mistakes[0].property, "connection.password");

    let nowhere = subscriber.config_at("a", 1, &[]);
    let mistakes = validate(&nowhere, None).await;
    assert!(
        mistakes[0].message.contains("could not connect to"),
        "{mistakes:?}"
    );

    let plain = subscriber.config(
        "a",
        &[(
            "connection.url",
            &format!(
                "jdbc:postgresql://{}:{}/{}?sslmode=require",
                subscriber.host, subscriber.port, subscriber.database
            ),
        )],
    );
    let mistakes = validate(&plain, None).await;
    assert!(
        mistakes[0].message.contains("server does not support TLS"),
        "{mistakes:?}"
    );
    subscriber.execute(&format!("DROP ROLE {role}")).await;
    subscriber.drop_database().await;
}

#[tokio::test]
async fn what_is_no_table_and_what_rewrites_its_rows_is_refused_by_name() {
    for (sql, parts) in [
        (
            "CREATE TABLE base (id integer PRIMARY KEY, name varchar(20)); CREATE VIEW t AS SELECT * FROM base",
            ["it is a view, not a table", "may fill"],
        ),
        (
            "CREATE TABLE t (id integer PRIMARY KEY, name varchar(20));
             CREATE RULE quiet AS ON DELETE TO t DO INSTEAD NOTHING",
            [
                "rule quiet rewrites what is written",
                "DROP RULE \"quiet\" ON \"public\".\"t\"",
            ],
        ),
        (
            "CREATE TABLE t (id integer PRIMARY KEY, name varchar(20) GENERATED ALWAYS AS ('x') STORED)",
            ["column name are generated by the server", "DROP EXPRESSION"],
        ),
        (
            "CREATE TABLE t (id integer PRIMARY KEY, name varchar(20), owner text NOT NULL)",
            [
                "column owner text is NOT NULL without a default",
                "ALTER COLUMN \"owner\" DROP NOT NULL",
            ],
        ),
    ] {
        let subscriber = Subscriber::new().await;
        subscriber.execute(sql).await;
        let error = subscriber.assign("a", target(), &input()).await;
        check(&error.unwrap_err(), Class::Definite, &parts);
        subscriber.drop_database().await;
    }
}

#[tokio::test]
async fn without_schema_evolution_a_missing_column_is_refused_with_the_statement_that_adds_it() {
    let subscriber = Subscriber::new().await;
    subscriber
        .execute("CREATE TABLE t (id integer PRIMARY KEY)")
        .await;
    let config = subscriber.config("a", &[("schema.evolution", "none")]);
    let sink = Sink::open(&config, None, SessionSettings::default()).await;
    let assigned = sink.unwrap().assign(target(), &input(), now_ms()).await;
    let parts = [
        "column name character varying(20) is missing",
        "ALTER TABLE \"public\".\"t\" ADD COLUMN \"name\" character varying(20)",
    ];
    check(&assigned.unwrap_err(), Class::Definite, &parts);
    subscriber.drop_database().await;
}
