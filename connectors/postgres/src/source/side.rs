//! The SQL connection beside the stream: catalogue, slot, rows to read again.

use std::sync::Arc;

use hutong_connectors_core::postgres_source::Config;
use hutong_connectors_core::secret::Secret;

use super::client::Rows;
use super::connect::{AnyClient, Purpose, connect};
use super::error::Error;
use super::slot::APPLICATION_NAME;

/// A connection that comes back after it was lost.
pub(crate) struct Side {
    config: Arc<Config>,
    password: Option<Secret>,
    client: Option<AnyClient>,
}

impl Side {
    /// Connects.
    pub(crate) async fn open(config: Arc<Config>, password: Option<Secret>) -> Result<Self, Error> {
        let mut side = Self {
            config,
            password,
            client: None,
        };
        side.client().await?;
        Ok(side)
    }

    /// Returns another connection to the same server, made at its first use.
    pub(crate) fn another(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            password: self.password.clone(),
            client: None,
        }
    }

    /// Hands out the connection, for work that others go on beside; see [`Side::give_back`].
    pub(crate) fn lend(&mut self) -> Self {
        let mut lent = self.another();
        lent.client = self.client.take();
        lent
    }

    /// Takes back what was lent.
    pub(crate) fn give_back(&mut self, lent: Self) {
        self.client = lent.client;
    }

    /// Returns the connection, made anew if it was lost.
    pub(crate) async fn client(&mut self) -> Result<&mut AnyClient, Error> {
        if self.client.is_none() {
            self.client = Some(self.connect().await?);
        }
        self.client
            .as_mut()
            .ok_or_else(|| Error::Fatal("a connection that was just made is gone".to_owned()))
    }

    async fn connect(&self) -> Result<AnyClient, Error> {
        let connection = &self.config.connection;
        let password = self.password.as_ref();
        let mut client = connect(connection, password, APPLICATION_NAME, Purpose::Sql).await?;
        for statement in &self.config.initial_statements {
            client
                .query("run database.initial.statements", statement)
                .await?;
        }
        Ok(client)
    }

    /// Forgets the connection, whose state is not known any more.
    pub(crate) fn discard(&mut self) {
        self.client = None;
    }

    /// Runs SQL within the configured time, once more on a new connection if the old one is lost.
    pub(crate) async fn query(&mut self, doing: &str, sql: &str) -> Result<Rows, Error> {
        match self.query_once(doing, sql).await {
            Err(Error::Io { .. }) => self.query_once(doing, sql).await,
            other => other,
        }
    }

    async fn query_once(&mut self, doing: &str, sql: &str) -> Result<Rows, Error> {
        let timeout = self.config.query_timeout;
        let client = self.client().await?;
        let answer = tokio::time::timeout(timeout, client.query(doing, sql))
            .await
            .unwrap_or_else(|_| {
                Err(Error::transient(format!(
                    "could not {doing}: no answer within {} s",
                    timeout.as_secs()
                )))
            });
        // Whatever went wrong short of an answer, the next use begins with a new connection.
        if matches!(&answer, Err(error) if error.sqlstate().is_none()) {
            self.discard();
        }
        answer
    }
}
