//! A session at the subscriber's server, with the settings that exactly-once rests on.

use std::time::Duration;

use hutong_connectors_core::connection::Connection;
use hutong_connectors_core::secret::Secret;
use tokio_postgres::Client;
use tokio_postgres::config::SslNegotiation;

use guard::Guard;

use super::error::{DatabaseError, Error};

mod guard;

/// How a session behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// The time after which the worker's group gives a task to another worker. A frozen process
    /// keeps its locks, and its successor would wait for them: the server ends a silent session
    /// before that.
    pub group_session_timeout: Duration,
    /// Longest wait for a lock that the subscriber's own work holds, after which the wait becomes
    /// visible as a transient error.
    pub lock_timeout: Duration,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            group_session_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(30),
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An open session. The task that drives its connection ends when the client is dropped.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Client,
}

impl Session {
    pub(super) async fn open(
        connection: &Connection,
        password: Option<&Secret>,
        application_name: &str,
        settings: SessionSettings,
    ) -> Result<Self, Error> {
        let failed = |source: DatabaseError| Error::Connect {
            place: place(connection),
            user: connection.user.clone(),
            source,
        };
        let client = tokio::time::timeout(
            CONNECT_TIMEOUT,
            connect(connection, password, application_name, settings),
        )
        .await
        .map_err(|_| failed(DatabaseError::text("no answer within 10 s")))??;
        client
            .batch_execute(&statements(settings))
            .await
            .map_err(|error| failed(error.into()))?;
        Ok(Self { client })
    }
}

fn place(connection: &Connection) -> String {
    let Connection {
        host,
        port,
        database,
        ..
    } = connection;
    format!("{host}:{port}/{database}")
}

async fn connect(
    connection: &Connection,
    password: Option<&Secret>,
    application_name: &str,
    settings: SessionSettings,
) -> Result<Client, Error> {
    let half = settings.group_session_timeout / 2;
    let mut config = tokio_postgres::Config::new();
    config
        .host(&connection.host)
        .port(connection.port)
        .dbname(&connection.database)
        .user(&connection.user)
        .application_name(application_name)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_user_timeout(half)
        .keepalives_idle((half / 2).max(Duration::from_secs(1)))
        .keepalives_interval((half / 6).max(Duration::from_secs(1)))
        .keepalives_retries(3);
    if let Some(password) = password {
        config.password(password.reveal());
    }
    let tls = crate::tls::client_config(&connection.tls).map_err(|error| Error::Tls {
        reason: error.to_string(),
    })?;
    // The driver asks the guard for a stream in any case, and the guard negotiates.
    config
        .ssl_mode(tokio_postgres::config::SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    let guard = Guard::new(connection.tls.mode, tls);
    match config.connect(guard.clone()).await {
        Ok((client, connection)) => {
            drive(connection);
            Ok(client)
        }
        Err(_) if guard.has_refused() => Err(Error::ClearText {
            place: place(connection),
        }),
        Err(error) => Err(Error::Connect {
            place: place(connection),
            user: connection.user.clone(),
            source: error.into(),
        }),
    }
}

/// The driving task belongs to the client: it ends when the client is dropped or the server goes, and
/// whoever waits for an answer then gets the error.
fn drive<F>(connection: F)
where
    F: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %DatabaseError::from(error), "session at the subscriber ended");
        }
    });
}

/// `synchronous_commit` on, whatever the role's default: a position that a crash of the server takes
/// back would be written again, but a row of a revoked grant that comes back would be a leak. The
/// timeouts end a session whose worker is frozen or unreachable while it holds locks.
fn statements(settings: SessionSettings) -> String {
    let half = settings.group_session_timeout.as_millis() / 2;
    let keepalive = (settings.group_session_timeout.as_secs() / 6).max(1);
    format!(
        "SET synchronous_commit = on;
         SET default_transaction_isolation = 'read committed';
         SET statement_timeout = 0;
         SET lock_timeout = {lock};
         SET idle_in_transaction_session_timeout = {half};
         SET tcp_user_timeout = {half};
         SET tcp_keepalives_idle = {keepalive};
         SET tcp_keepalives_interval = {keepalive};
         SET tcp_keepalives_count = 2;
         SET client_min_messages = warning;
         SET row_security = off",
        lock = settings.lock_timeout.as_millis(),
    )
}
