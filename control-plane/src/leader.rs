//! What only one replica may do: publish the outbox, delete topics, finish deletions.
//!
//! Whoever holds an advisory lock leads. The lock belongs to a connection, and every write of the
//! leader goes over that connection, so a write and the lock are lost together. A frozen leader's
//! session is ended by the server's timeouts, which are set below the group's session timeout; when
//! it wakes, its connection is closed and its producer fenced.

use std::sync::Arc;
use std::time::Duration;

use hutong_schemas::class::{Class, Classified};
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{Connection, PgConnection};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, interval, sleep};

use crate::App;
use crate::error::Error;
use crate::publisher::Publisher;
use crate::settle::Settler;
use crate::store::outbox;

/// The advisory lock of the leader.
const LEADER_LOCK: i64 = 0x4855_544f_4e47_0002;
/// How often who does not lead asks whether it may, and how long a failed leader waits.
const RETRY: Duration = Duration::from_secs(1);
/// How often the leader looks without being told.
const TICK: Duration = Duration::from_millis(500);
/// How often the backlog is looked at.
const BACKLOG: Duration = Duration::from_secs(2);
/// How often published records are pruned.
const PRUNE: Duration = Duration::from_secs(60);

/// Leads whenever it may, until told to stop.
pub(crate) async fn run(app: Arc<App>, options: PgConnectOptions, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let led = lead(&app, &options, &mut stop).await;
        app.metrics.leader.set(0);
        let failure = match led {
            Ok(()) => None,
            Err(error) if error.class() == Class::Fenced => {
                tracing::info!("another replica publishes now");
                None
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "leading failed, trying again");
                app.metrics.leader_failures.inc();
                Some(error.chain())
            }
        };
        *app.leader_error.lock().expect("no holder panics") = failure;
        tokio::select! {
            () = sleep(RETRY) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Shows what waits to be published, on every replica and whoever leads: most of all when nobody
/// can.
pub(crate) async fn watch_backlog(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut tick = interval(BACKLOG);
    while !*stop.borrow() {
        if let Err(error) = show_backlog(&app).await {
            tracing::warn!(error = error.chain(), "the backlog is not known");
        }
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

async fn show_backlog(app: &App) -> Result<(), Error> {
    let mut db = app.store.acquire().await?;
    let (pending, oldest, refused) = outbox::backlog(&mut db).await?;
    app.metrics.outbox_pending.set(pending);
    app.metrics.outbox_oldest_seconds.set(oldest);
    app.metrics.outbox_refused.set(refused);
    Ok(())
}

/// Leads if nobody else does; returns when told to stop or when it does not lead.
async fn lead(
    app: &Arc<App>,
    options: &PgConnectOptions,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut db = PgConnection::connect_with(options).await?;
    bound_session(&mut db).await?;
    let leads: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
        .bind(LEADER_LOCK)
        .fetch_one(&mut db)
        .await?;
    if !leads {
        db.close().await?;
        return Ok(());
    }
    tracing::info!("this replica leads");
    // Nothing is begun yet, so a start that waits for Kafka may be dropped.
    let publisher = tokio::select! {
        started = Publisher::start(&app.kafka, &app.cluster, &app.locations, &mut db) => started?,
        _ = stop.wait_for(|stop| *stop) => return Ok(()),
    };
    app.metrics.leader.set(1);
    let result = duties(app, &publisher, &mut db, stop).await;
    if result.is_ok() {
        publisher.publish(&mut db).await?;
        publisher.close().await;
        db.close().await?;
    } else {
        // The producer may be beyond use; dropping it is all that can be done.
        drop(publisher);
    }
    result
}

async fn duties(
    app: &Arc<App>,
    publisher: &Publisher,
    db: &mut PgConnection,
    stop: &mut watch::Receiver<bool>,
) -> Result<(), Error> {
    let wake = Arc::new(Notify::new());
    let listener = PgListener::connect_with(app.store.pool()).await?;
    let _listening = AbortOnDrop(tokio::spawn(listen(listener, Arc::clone(&wake))));
    let mut settler = Settler::new(Arc::clone(app));
    let mut reports = app.live.changes();
    let mut tick = interval(TICK);
    let mut pruned = Instant::now();
    while !*stop.borrow() {
        publisher.publish(db).await?;
        settler.settle(db).await?;
        publisher.publish(db).await?;
        *app.leader_error.lock().expect("no holder panics") = None;
        if pruned.elapsed() > PRUNE {
            outbox::prune(db).await?;
            pruned = Instant::now();
        }
        tokio::select! {
            () = wake.notified() => {}
            _ = tick.tick() => {}
            () = quiet_after(&mut reports) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    Ok(())
}

/// Waits for a report, and a moment for those that come with it. Cancelled in between it loses
/// nothing, because the leader looks at everything anyway.
async fn quiet_after(reports: &mut watch::Receiver<()>) {
    if reports.changed().await.is_err() {
        std::future::pending().await
    }
    sleep(Duration::from_millis(20)).await;
}

/// Wakes the leader when the outbox grew. If the connection fails, the leader's tick is enough.
async fn listen(mut listener: PgListener, wake: Arc<Notify>) {
    if let Err(error) = listener.listen(outbox::CHANNEL).await {
        tracing::warn!(error = %error, "changes are published by the clock only");
        return;
    }
    loop {
        match listener.recv().await {
            Ok(_) => wake.notify_one(),
            Err(error) => {
                tracing::warn!(error = %error, "the outbox's bell is silent for a moment");
                sleep(RETRY).await;
            }
        }
    }
}

/// Makes the server end a session whose client is frozen or unreachable, and so free the lock.
async fn bound_session(db: &mut PgConnection) -> Result<(), Error> {
    for setting in [
        "set idle_session_timeout = '15s'",
        "set idle_in_transaction_session_timeout = '15s'",
        "set statement_timeout = '30s'",
        "set tcp_keepalives_idle = 5",
        "set tcp_keepalives_interval = 3",
        "set tcp_keepalives_count = 3",
        "set tcp_user_timeout = '15s'",
    ] {
        sqlx::query(setting).execute(&mut *db).await?;
    }
    Ok(())
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
