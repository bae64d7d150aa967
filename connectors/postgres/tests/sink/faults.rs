//! Zombies, lost answers, frozen sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hutong_connectors_postgres::sink::faults::{Fault, arm};
use hutong_schemas::class::{Class, Classified};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn a_zombie_whose_session_lives_finds_no_position_under_its_epoch_and_writes_nothing() {
    let subscriber = Subscriber::new().await;
    let (mut zombie, _) = subscriber.writer("a").await;
    apply(&mut zombie, &[(1, "one")], &[], 5).await.unwrap();
    // A successor that cannot reach the old session: the epoch alone must hold.
    subscriber
        .execute("UPDATE hutong_position SET epoch = epoch + 1, backend_pid = 0")
        .await;
    let error = apply(&mut zombie, &[(1, "late"), (2, "late")], &[], 9)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Fenced, "{error}");
    drop(zombie);
    assert_eq!(subscriber.names().await, ["1 one"]);
    assert_eq!(subscriber.next_offset().await, 5);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_zombie_inside_an_open_transaction_is_ended_and_its_transaction_never_happened() {
    let subscriber = Subscriber::new().await;
    let name = format!("held-{}", subscriber.database);
    let (mut zombie, _) = subscriber.writer(&name).await;
    apply(&mut zombie, &[(1, "one")], &[], 5).await.unwrap();
    arm(&name, Fault::Hold);
    let held = tokio::spawn(async move { apply(&mut zombie, &[(1, "late")], &[], 9).await });
    until("the transaction is open", async || {
        let sql = "SELECT count(*)::text FROM pg_stat_activity
                   WHERE datname = current_database() AND state = 'idle in transaction'";
        subscriber.texts(sql).await == ["1"]
    })
    .await;
    let (mut successor, starts) = subscriber.writer(&name).await;
    assert_eq!(starts, [StartOffset::At(5)]);
    apply(&mut successor, &[(1, "new")], &[], 8).await.unwrap();
    held.abort();
    assert_eq!(subscriber.names().await, ["1 new"]);
    assert_eq!(subscriber.next_offset().await, 8);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_zombie_whose_session_was_ended_asks_for_a_new_start_and_writes_nothing() {
    let subscriber = Subscriber::new().await;
    let (mut zombie, _) = subscriber.writer("a").await;
    apply(&mut zombie, &[(1, "one")], &[], 5).await.unwrap();
    let (_successor, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(5)]);
    let error = apply(&mut zombie, &[(1, "late")], &[], 9)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
    assert_eq!(subscriber.names().await, ["1 one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn the_server_ends_a_session_that_is_frozen_inside_a_transaction() {
    let subscriber = Subscriber::new().await;
    let name = format!("frozen-{}", subscriber.database);
    let settings = SessionSettings {
        group_session_timeout: Duration::from_secs(2),
        ..SessionSettings::default()
    };
    let config = subscriber.config(&name, &[]);
    let sink = Sink::open(&config, None, settings).await.unwrap();
    let assigned = sink.assign(target(), &input(), now_ms()).await;
    let (mut writer, _) = assigned.unwrap();
    arm(&name, Fault::Hold);
    let held = tokio::spawn(async move { apply(&mut writer, &[(1, "late")], &[], 9).await });
    let count = "SELECT count(*)::text FROM pg_stat_activity
                 WHERE application_name LIKE 'hutong sink frozen%' AND datname = current_database()";
    until("the session is gone", async || {
        subscriber.texts(count).await == ["0"]
    })
    .await;
    held.abort();
    assert!(subscriber.names().await.is_empty());
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_lost_answer_is_answered_by_the_stored_position() {
    let subscriber = Subscriber::new().await;
    let name = format!("lost-{}", subscriber.database);
    let (mut writer, _) = subscriber.writer(&name).await;
    arm(&name, Fault::LoseAnswer);
    let error = apply(&mut writer, &[(1, "one")], &[], 5).await.unwrap_err();
    assert!(
        matches!(error, Error::CommitOutcomeUnknown { .. }),
        "{error}"
    );
    assert_eq!(error.class(), Class::Transient);
    drop(writer);
    let (_writer, starts) = subscriber.writer(&name).await;
    assert_eq!(starts, [StartOffset::At(5)]);
    assert_eq!(subscriber.names().await, ["1 one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn an_answer_that_is_lost_on_the_wire_leaves_what_the_position_says() {
    let subscriber = Subscriber::new().await;
    let armed = Arc::new(AtomicBool::new(false));
    let port = proxy(&subscriber, Arc::clone(&armed)).await;
    let config = subscriber.config_at("wire", port, &[]);
    let sink = Sink::open(&config, None, SessionSettings::default()).await;
    let assigned = sink.unwrap().assign(target(), &input(), now_ms()).await;
    let (mut writer, _) = assigned.unwrap();
    apply(&mut writer, &[(1, "one")], &[], 5).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let error = apply(&mut writer, &[(2, "two")], &[], 9).await.unwrap_err();
    assert!(
        matches!(error, Error::CommitOutcomeUnknown { .. }),
        "{error}"
    );
    drop(writer);
    let (_writer, starts) = subscriber.writer("wire").await;
    assert_eq!(starts, [StartOffset::At(9)]);
    assert_eq!(subscriber.names().await, ["1 one", "2 two"]);
    subscriber.drop_database().await;
}

/// Forwards to the server; once armed, it lets the next COMMIT through, swallows the server's answer
/// and breaks off.
async fn proxy(subscriber: &Subscriber, armed: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = (subscriber.host.clone(), subscriber.port);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(place).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let swallows = Arc::new(AtomicBool::new(false));
        let swallow = Arc::clone(&swallows);
        let there = tokio::spawn(async move {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let read = from_client.read(&mut buffer).await.unwrap();
                let sent = &buffer[..read];
                if armed.load(Ordering::SeqCst) && sent.windows(6).any(|part| part == b"COMMIT") {
                    swallow.store(true, Ordering::SeqCst);
                }
                if read == 0 || to_server.write_all(sent).await.is_err() {
                    break;
                }
            }
        });
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from_server.read(&mut buffer).await.unwrap();
            if read == 0 || swallows.load(Ordering::SeqCst) {
                break;
            }
            to_client.write_all(&buffer[..read]).await.unwrap();
        }
        there.abort();
    });
    port
}
