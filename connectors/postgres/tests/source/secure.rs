//! Log-in and encryption, against a server of our own.

use std::os::unix::fs::{MetadataExt, chown};

use hutong_connectors_core::jdbc_sink;
use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::secret::Secret;
use hutong_connectors_postgres::sink;
use hutong_connectors_postgres::source::Connected;
use hutong_local::postgres::Options;
use hutong_local::testkit::OwnServers;
use hutong_local::tls::Certificates;

use super::harness::explain;

const HBA: &str = "\
host    all postgres   127.0.0.1/32 trust
hostssl all scram_user 127.0.0.1/32 scram-sha-256
host    all plain_user 127.0.0.1/32 scram-sha-256
host    all md5_user   127.0.0.1/32 md5
host    all clear_user 127.0.0.1/32 password
";

const SETUP: &str = "\
CREATE TABLE t (id int PRIMARY KEY);
CREATE PUBLICATION hutong_test FOR TABLE t;
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram_user LOGIN REPLICATION PASSWORD 'right';
CREATE ROLE plain_user LOGIN REPLICATION PASSWORD 'right';
CREATE ROLE clear_user LOGIN REPLICATION PASSWORD 'right';
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN REPLICATION PASSWORD 'right';
GRANT SELECT ON t TO PUBLIC;";

struct Attempt<'a> {
    host: &'a str,
    port: u16,
    user: &'a str,
    password: Option<&'a str>,
    mode: &'a str,
    authority: Option<&'a str>,
}

/// Returns `ok`, or what is wrong.
async fn attempt(attempt: &Attempt<'_>) -> String {
    let port = attempt.port.to_string();
    let mut properties: std::collections::BTreeMap<String, String> = [
        ("connector.class", hutong_connectors_core::SOURCE_CLASS),
        ("database.hostname", attempt.host),
        ("database.port", &port),
        ("database.user", attempt.user),
        ("database.dbname", "postgres"),
        ("database.sslmode", attempt.mode),
        ("topic.prefix", "p"),
        ("plugin.name", "pgoutput"),
        ("slot.name", "s"),
        ("publication.name", "hutong_test"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if let Some(authority) = attempt.authority {
        properties.insert("database.sslrootcert".to_owned(), authority.to_owned());
    }
    let config = Config::parse("test", &properties).expect("right");
    match Connected::open(config, attempt.password.map(Secret::new)).await {
        Ok(_) => "ok".to_owned(),
        Err(error) => explain(&error),
    }
}

const CLEAR_TEXT: &str = "asks for the password in clear text, and its certificate is not verified";

/// Returns what keeps a sink from working whose server asks for the password in clear text.
async fn sink_mistakes(port: u16, parameters: &str) -> String {
    let url = format!("jdbc:postgresql://localhost:{port}/postgres?{parameters}");
    let properties = [
        ("connector.class", hutong_connectors_core::SINK_CLASS),
        ("connection.url", &url),
        ("connection.username", "clear_user"),
        ("topics", "hutong.view.v"),
        ("collection.name.format", "public.t"),
        ("insert.mode", "upsert"),
        ("primary.key.mode", "record_key"),
        ("delete.enabled", "true"),
    ];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = jdbc_sink::Config::parse("test", &properties.into()).expect("right");
    let mistakes = sink::validate(&config, Some(&Secret::new("right"))).await;
    let mistakes = mistakes.iter().map(ToString::to_string);
    // The role may read `t` and no more, which is not what is asked here.
    let others = |mistake: &String| mistake.contains("42501") || mistake.contains("GRANT");
    mistakes.filter(|mistake| !others(mistake)).collect()
}

#[tokio::test]
async fn passwords_and_certificates_are_checked_as_libpq_checks_them() {
    let servers = OwnServers::begin().unwrap();
    let options = Options::for_tests().with_hba(HBA);
    let mut server = servers.postgres("secure", &options).await.unwrap();
    let (sql, connection) = tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    sql.batch_execute(SETUP).await.unwrap();
    let port = server.port();
    let base = Attempt {
        host: "127.0.0.1",
        port,
        user: "plain_user",
        password: Some("right"),
        mode: "prefer",
        authority: None,
    };
    let check = async |attempted: Attempt<'_>, expected: &str| {
        let text = attempt(&attempted).await;
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    };

    check(Attempt { ..base }, "ok").await;
    check(
        Attempt {
            user: "md5_user",
            ..base
        },
        "ok",
    )
    .await;
    check(
        Attempt { password: Some("wrong"), ..base },
        &format!(
            "definite: could not log in to 127.0.0.1:{port}/postgres: password authentication failed for user \"plain_user\" (SQLSTATE 28P01) | check database.user"
        ),
    )
    .await;
    check(
        Attempt {
            password: None,
            ..base
        },
        "definite: the server asks for a password and none is configured",
    )
    .await;
    check(
        Attempt {
            user: "clear_user",
            ..base
        },
        "definite: the server asks for the password in clear text, and its certificate is not verified",
    )
    .await;
    let sink = sink_mistakes(port, "sslmode=prefer").await;
    assert!(sink.contains(CLEAR_TEXT), "{sink}");
    check(
        Attempt {
            mode: "require",
            ..base
        },
        "does not support TLS | ALTER SYSTEM SET ssl = on",
    )
    .await;

    let folder = servers.run().folder("certificates").unwrap();
    let certificates = Certificates::issue(&folder, "localhost").unwrap();
    let owner = std::fs::metadata(server.data()).unwrap();
    chown(&certificates.key, Some(owner.uid()), Some(owner.gid())).unwrap();
    server
        .reconfigure(&[
            ("ssl", "on"),
            ("ssl_cert_file", certificates.certificate.to_str().unwrap()),
            ("ssl_key_file", certificates.key.to_str().unwrap()),
        ])
        .await
        .unwrap();
    let authority = certificates.authority.to_str().unwrap();
    let tls = Attempt {
        user: "scram_user",
        mode: "verify-full",
        authority: Some(authority),
        host: "localhost",
        port: server.port(),
        ..base
    };
    check(Attempt { ..tls }, "ok").await;
    check(
        Attempt {
            mode: "verify-ca",
            host: "127.0.0.1",
            ..tls
        },
        "ok",
    )
    .await;
    check(
        Attempt {
            mode: "require",
            authority: None,
            host: "127.0.0.1",
            ..tls
        },
        "ok",
    )
    .await;
    check(
        Attempt {
            user: "clear_user",
            ..tls
        },
        "ok",
    )
    .await;
    for mode in ["prefer", "require", "verify-ca"] {
        let user = "clear_user";
        check(Attempt { user, mode, ..tls }, CLEAR_TEXT).await;
        let parameters = format!("sslmode={mode}&sslrootcert={authority}");
        let sink = sink_mistakes(server.port(), &parameters).await;
        assert!(sink.contains(CLEAR_TEXT), "{mode}: {sink}");
    }
    let parameters = format!("sslmode=verify-full&sslrootcert={authority}");
    assert_eq!(sink_mistakes(server.port(), &parameters).await, "");
    check(
        Attempt {
            host: "127.0.0.1",
            ..tls
        },
        "definite: could not open TLS to 127.0.0.1",
    )
    .await;
    check(
        Attempt {
            host: "127.0.0.1",
            ..tls
        },
        "the server's certificate does not name this host",
    )
    .await;
    check(
        Attempt {
            authority: None,
            ..tls
        },
        "the server's certificate is not signed by a trusted authority",
    )
    .await;
    check(
        Attempt {
            mode: "disable",
            ..tls
        },
        "no pg_hba.conf entry for host \"127.0.0.1\", user \"scram_user\"",
    )
    .await;
    check(
        Attempt {
            authority: Some("/no/such/file"),
            ..tls
        },
        "definite: database.sslrootcert cannot be used: /no/such/file",
    )
    .await;
}

#[tokio::test]
async fn a_server_that_does_not_log_for_decoding_or_would_wait_for_us_is_refused() {
    let cases = [
        (
            Options::for_tests().with("wal_level", "replica"),
            "definite: wal_level is replica, and logical replication needs logical | ALTER SYSTEM SET wal_level = logical;",
        ),
        (
            Options::for_tests()
                .with("synchronous_standby_names", "ANY 1 (*)")
                .with("synchronous_commit", "local"),
            "transient: synchronous_standby_names is 'ANY 1 (*)', which makes this connector a standby that commits wait for | name the standbys alone:",
        ),
    ];
    let servers = OwnServers::begin().unwrap();
    for (number, (options, expected)) in cases.into_iter().enumerate() {
        let name = format!("refused{number}");
        let server = servers.postgres(&name, &options).await.unwrap();
        let (sql, connection) =
            tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls)
                .await
                .unwrap();
        tokio::spawn(connection);
        sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
            .await
            .unwrap();
        let text = attempt(&Attempt {
            host: "127.0.0.1",
            port: server.port(),
            user: "postgres",
            password: None,
            mode: "disable",
            authority: None,
        })
        .await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_slot_whose_log_was_removed_is_refused_with_the_way_out() {
    let servers = OwnServers::begin().unwrap();
    let options = Options::for_tests()
        .with("max_slot_wal_keep_size", "16MB")
        .with("max_wal_size", "32MB")
        .with("min_wal_size", "32MB");
    let server = servers.postgres("keep", &options).await.unwrap();
    let (sql, connection) = tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    sql.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION hutong_test FOR TABLE t; CREATE TABLE load (v text)",
    )
    .await
    .unwrap();
    sql.batch_execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        .await
        .unwrap();
    let lost = async || -> bool {
        sql.query_one(
            "SELECT coalesce(wal_status = 'lost', true) FROM pg_replication_slots",
            &[],
        )
        .await
        .unwrap()
        .get(0)
    };
    for _ in 0..20 {
        sql.batch_execute(
            "INSERT INTO load SELECT repeat(md5(g::text), 30) FROM generate_series(1, 40000) g",
        )
        .await
        .unwrap();
        sql.batch_execute("CHECKPOINT").await.unwrap();
        if lost().await {
            break;
        }
    }
    assert!(lost().await, "the server did not remove the log");
    let text = attempt(&Attempt {
        host: "127.0.0.1",
        port: server.port(),
        user: "postgres",
        password: None,
        mode: "disable",
        authority: None,
    })
    .await;
    assert!(
        text.contains("definite: replication slot \"s\" was invalidated"),
        "{text}"
    );
    assert!(
        text.contains("SELECT pg_drop_replication_slot('s');"),
        "{text}"
    );
}
