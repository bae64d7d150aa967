//! Databases of one test.

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls};

/// Connects to a database. The connection's task ends with the client.
///
/// # Errors
///
/// If the server refuses.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .with_context(|| format!("could not connect to {}", without_password(url)))?;
    tokio::spawn(async move {
        // The client's next call reports what ended the connection.
        let _ended = connection.await;
    });
    Ok(client)
}

fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, server))) => format!("{scheme}://{server}"),
        _ => url.to_owned(),
    }
}

/// A database that a test has for itself. It stays when the test ends: slots may hold it, and the
/// server goes away with the run.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its URL, as superuser.
    pub url: String,
    /// Host name of the server.
    pub host: String,
    /// Port of the server.
    pub port: u16,
}

impl Database {
    /// Creates a database whose name begins with `prefix` and is used by nobody else.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn create(server_url: &str, prefix: &str) -> Result<Self> {
        Self::create_named(
            server_url,
            &format!("{prefix}_{:08x}", rand::random::<u32>()),
        )
        .await
    }

    /// Creates a database of this very name.
    ///
    /// # Errors
    ///
    /// If the server refuses, for example because the name is taken.
    pub async fn create_named(server_url: &str, name: &str) -> Result<Self> {
        let server = connect(server_url).await?;
        server
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .with_context(|| format!("could not create database {name}"))?;
        Self::named(server_url, name)
    }

    /// Describes a database that is there.
    ///
    /// # Errors
    ///
    /// If the URL is none.
    pub fn named(server_url: &str, name: &str) -> Result<Self> {
        let config: tokio_postgres::Config =
            server_url.parse().context("not a URL of PostgreSQL")?;
        let host = match config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            _ => "127.0.0.1".to_owned(),
        };
        Ok(Self {
            name: name.to_owned(),
            url: with_database(server_url, name),
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
        })
    }

    /// Connects as superuser.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.url).await
    }
}

/// Replaces the path of a URL, keeping user, server and parameters.
fn with_database(url: &str, database: &str) -> String {
    let (before, parameters) = url.split_once('?').unwrap_or((url, ""));
    let server = match before.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or(rest);
            format!("{scheme}://{authority}")
        }
        None => before.to_owned(),
    };
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("{server}/{database}{mark}{parameters}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_a_url_is_replaced() {
        let check = |url, expected: &str| assert_eq!(with_database(url, "aic"), expected);
        check("postgres://u:p@h:1/postgres", "postgres://u:p@h:1/aic");
        check("postgres://u@h", "postgres://u@h/aic");
        check(
            "postgres://h/x?sslmode=require",
            "postgres://h/aic?sslmode=require",
        );
    }

    #[test]
    fn an_error_never_shows_the_password() {
        assert_eq!(
            without_password("postgres://u:secret@h:1/d"),
            "postgres://h:1/d"
        );
    }
}
