//! Servers of a test's own: killed, restarted, with TLS and passwords.

use hutong_local::kafka::{self, Secured};
use hutong_local::postgres;
use hutong_local::process::Recorded;
use hutong_local::testkit::{OwnServers, connect};
use hutong_local::tls::Certificates;

#[tokio::test]
async fn a_killed_postgres_comes_back_on_its_port_with_what_was_committed() {
    let own = OwnServers::begin().unwrap();
    let mut server = own
        .postgres("pg", &postgres::Options::for_tests())
        .await
        .unwrap();
    let url = server.url("postgres");
    let client = connect(&url).await.unwrap();
    client
        .batch_execute("CREATE TABLE t AS SELECT 42 AS n")
        .await
        .unwrap();
    server.kill();
    assert!(connect(&url).await.is_err());
    server.restart().await.unwrap();
    let client = connect(&url).await.unwrap();
    let found: i32 = client
        .query_one("SELECT n FROM t", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(found, 42);
}

#[tokio::test]
async fn a_postgres_takes_the_access_rules_and_settings_that_a_test_wants() {
    let own = OwnServers::begin().unwrap();
    let hba = "host all reader 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    let options = postgres::Options::for_tests()
        .with_hba(hba)
        .with("wal_level", "replica");
    let mut server = own.postgres("pg", &options).await.unwrap();
    let client = connect(&server.url("postgres")).await.unwrap();
    client
        .batch_execute("CREATE ROLE reader LOGIN PASSWORD 'right'")
        .await
        .unwrap();
    let level: String = client
        .query_one("SHOW wal_level", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(level, "replica");
    let url = |password| {
        format!(
            "postgres://reader:{password}@127.0.0.1:{}/postgres",
            server.port()
        )
    };
    assert!(connect(&url("right")).await.is_ok());
    assert!(connect(&url("wrong")).await.is_err());
    server
        .reconfigure(&[("wal_level", "logical")])
        .await
        .unwrap();
    let client = connect(&server.url("postgres")).await.unwrap();
    let level: String = client
        .query_one("SHOW wal_level", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(level, "logical");
}

#[tokio::test]
async fn a_stopped_run_leaves_no_process_and_no_folder() {
    let own = OwnServers::begin().unwrap();
    let server = own
        .postgres("pg", &postgres::Options::for_tests())
        .await
        .unwrap();
    let process = Recorded::of(server.process().unwrap().pid()).unwrap();
    let folder = own.run().path().to_owned();
    drop(server);
    drop(own);
    assert!(!process.is_alive());
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_secured_kafka_opens_both_listeners_and_comes_back_after_a_kill() {
    let own = OwnServers::begin().unwrap();
    let folder = own.run().folder("certificates").unwrap();
    let certificates = Certificates::issue(&folder, "localhost").unwrap();
    let users = vec![("admin".to_owned(), "admin-pw".to_owned())];
    let options = kafka::Options {
        secured: Some(Secured {
            users,
            certificates,
        }),
        ..Default::default()
    };
    let mut broker = own.kafka("kafka", options).await.unwrap();
    let accepts = async |address: &str| tokio::net::TcpStream::connect(address).await.is_ok();
    assert!(accepts(&broker.bootstrap()).await);
    assert!(accepts(&broker.secured_bootstrap()).await);
    broker.kill();
    assert!(!accepts(&broker.bootstrap()).await);
    broker.restart().await.unwrap();
    assert!(accepts(&broker.bootstrap()).await);
}
