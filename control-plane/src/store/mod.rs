//! The store: PostgreSQL behind plain functions, one file per noun.
//!
//! Functions take a connection, which is a transaction's where several must happen together; they
//! decide nothing. Whatever a worker must learn of a change goes into the outbox in the change's own
//! transaction, so what was acknowledged is published, now or after any crash.
//!
//! Changes of desired state are rare and touch each other (a view changes the tasks of sinks), so
//! all of them take [`lock_desired_state`] first: one at a time, in one order, without deadlocks.
//! Nothing that waits for Kafka or a worker is done under it.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgConnection, PgPool, Postgres};

use crate::error::Error;

pub(crate) mod connectors;
pub(crate) mod generations;
pub(crate) mod outbox;
pub(crate) mod schemas;
pub(crate) mod shares;
pub(crate) mod tasks;
pub(crate) mod tokens;
pub(crate) mod views;

/// A transaction. Dropped, it is rolled back.
pub(crate) type Transaction = sqlx::Transaction<'static, Postgres>;

/// The advisory lock under which desired state changes.
const DESIRED_STATE_LOCK: i64 = 0x4855_544f_4e47_0001;

/// The database.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects and brings the database to this release's form. Several replicas may do so at once.
    ///
    /// # Errors
    ///
    /// As the database; definite where the URL is wrong.
    pub(crate) async fn open(url: &str) -> Result<Self, Error> {
        let options: PgConnectOptions = url.parse()?;
        let options = options
            .application_name("hutong control plane")
            .options([("statement_timeout", "30s"), ("lock_timeout", "15s")]);
        let pool = PgPoolOptions::new()
            .max_connections(12)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(options)
            .await?;
        let mut migrator = sqlx::migrate!("./migrations");
        // During an update a replica of the release before starts on the newer form.
        migrator.set_ignore_missing(true);
        migrator.run(&pool).await?;
        Ok(Self { pool })
    }

    /// Returns a connection.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, Error> {
        Ok(self.pool.acquire().await?)
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction, Error> {
        Ok(self.pool.begin().await?)
    }

    /// Begins a transaction that changes desired state.
    pub(crate) async fn begin_change(&self) -> Result<Transaction, Error> {
        let mut tx = self.begin().await?;
        lock_desired_state(&mut tx).await?;
        Ok(tx)
    }

    /// Returns the pool, for what needs a connection of its own kind.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// Waits until no other transaction changes desired state.
pub(crate) async fn lock_desired_state(db: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(DESIRED_STATE_LOCK)
        .execute(db)
        .await?;
    Ok(())
}
