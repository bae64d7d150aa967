//! Reaching the server: TCP, TLS, log-in.

use std::sync::Arc;
use std::time::Duration;

use hutong_connectors_core::connection::{Connection, SslMode};
use hutong_connectors_core::secret::Secret;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Client, Login};
use super::error::Error;
use super::{socket, sql};
use crate::tls;

/// How long reaching the server and logging in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A server whose answers come sooner is near: it has sent more before the last 64 KiB are decoded, so that a
/// small window does not keep it waiting.
const NEAR: Duration = Duration::from_micros(300);

/// A byte stream to a server, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    /// Lets the system wake us only when so many bytes have arrived.
    fn gather(&self, bytes: usize) -> std::io::Result<()>;

    /// Lets the system take in no more than about so many bytes that nobody has read.
    fn narrow(&self, bytes: usize) -> std::io::Result<()>;
}

impl Io for TcpStream {
    fn gather(&self, bytes: usize) -> std::io::Result<()> {
        socket::set_low_water(self, bytes)
    }

    fn narrow(&self, bytes: usize) -> std::io::Result<()> {
        SockRef::from(self).set_recv_buffer_size(bytes)
    }
}

impl Io for TlsStream<TcpStream> {
    fn gather(&self, bytes: usize) -> std::io::Result<()> {
        self.get_ref().0.gather(bytes)
    }

    fn narrow(&self, bytes: usize) -> std::io::Result<()> {
        self.get_ref().0.narrow(bytes)
    }
}

/// A client over whatever stream the configuration asks for.
pub(crate) type AnyClient = Client<Box<dyn Io>>;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// SQL only.
    Sql,
    /// Replication commands and SQL.
    Replication,
}

/// Connects and logs in.
pub(crate) async fn connect(
    connection: &Connection,
    password: Option<&Secret>,
    application_name: &str,
    purpose: Purpose,
) -> Result<AnyClient, Error> {
    let whole = async {
        let stream = open_stream(connection).await?;
        let login = Login {
            user: &connection.user,
            database: &connection.database,
            password,
            application_name,
            replication: purpose == Purpose::Replication,
            is_verified: stream.encrypted && connection.tls.mode == SslMode::VerifyFull,
        };
        let is_near = stream.is_near;
        let client = Client::start(stream.io, &login).await;
        let mut client = client.map_err(|error| explain_login(error, connection))?;
        client.is_near = is_near;
        Ok(client)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, whole)
        .await
        .unwrap_or_else(|_| {
            Err(Error::transient(format!(
                "could not connect to {}: no answer within {} s",
                address(connection),
                CONNECT_TIMEOUT.as_secs()
            )))
        })
}

/// Says where the log-in failed and what to look at.
fn explain_login(error: Error, connection: &Connection) -> Error {
    let Error::Server {
        message,
        sqlstate,
        hint,
        ..
    } = error
    else {
        return error;
    };
    let Connection { user, database, .. } = connection;
    let user = sql::readable(user);
    let advice = match sqlstate.as_str() {
        "28P01" => Some(format!(
            "check database.user and what database.password refers to, or ALTER ROLE {user} PASSWORD '…';"
        )),
        "28000" => Some(format!(
            "pg_hba.conf needs a line for this worker, such as: hostssl {database} {user} <address> scram-sha-256; what hostssl lets in needs database.sslmode=require or above"
        )),
        "3D000" => Some("check database.dbname".to_owned()),
        _ => None,
    };
    Error::Server {
        doing: format!("log in to {}/{database}", address(connection)),
        message,
        sqlstate,
        hint: hint.or(advice),
    }
}

struct Stream {
    io: Box<dyn Io>,
    encrypted: bool,
    is_near: bool,
}

async fn open_stream(connection: &Connection) -> Result<Stream, Error> {
    let config = tls::client_config(&connection.tls).map_err(|error| {
        Error::definite(
            error.to_string(),
            "the files must lie on the worker that runs this connector",
        )
    })?;
    let mut tcp = open_tcp(connection).await?;
    let is_near = socket::round_trip(&tcp).is_some_and(|time| time < NEAR);
    let Some(config) = config else {
        return Ok(Stream {
            io: Box::new(tcp),
            encrypted: false,
            is_near,
        });
    };
    if !offers_tls(&mut tcp).await.map_err(io(connection))? {
        if connection.tls.mode == SslMode::Prefer {
            return Ok(Stream {
                io: Box::new(tcp),
                encrypted: false,
                is_near,
            });
        }
        return Err(Error::definite(
            format!("the server at {} does not support TLS", address(connection)),
            "ALTER SYSTEM SET ssl = on; with ssl_cert_file and ssl_key_file set, then SELECT pg_reload_conf();",
        ));
    }
    let name = ServerName::try_from(connection.host.clone()).map_err(|_| {
        Error::definite(
            format!(
                "\"{}\" is no host name that a certificate can bear",
                connection.host
            ),
            "use the name in the server's certificate as database.hostname",
        )
    })?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|error| match tls::refused_certificate(&error) {
            Some(reason) => Error::definite(
                format!("could not open TLS to {}: {reason}", address(connection)),
                "check database.hostname, database.sslrootcert and the server's ssl_cert_file",
            ),
            None => io(connection)(error),
        })?;
    Ok(Stream {
        io: Box::new(stream),
        encrypted: true,
        is_near,
    })
}

async fn open_tcp(connection: &Connection) -> Result<TcpStream, Error> {
    let mut failure = None;
    let addresses = lookup_host((connection.host.as_str(), connection.port))
        .await
        .map_err(io(connection))?;
    for address in addresses {
        let attempt = async {
            let opened = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            opened.set_nodelay(true)?;
            notice_silence(&opened)?;
            opened.connect(address).await
        };
        match attempt.await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.unwrap_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")
    });
    Err(io(connection)(failure))
}

/// Lets the system notice a peer that is gone without a word, such as one without power or behind a
/// firewall that dropped the flow: by default that takes hours.
fn notice_silence(socket: &TcpSocket) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))?;
    Ok(())
}

async fn offers_tls(tcp: &mut TcpStream) -> std::io::Result<bool> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    Ok(tcp.read_u8().await? == b'S')
}

fn address(connection: &Connection) -> String {
    format!("{}:{}", connection.host, connection.port)
}

fn io(connection: &Connection) -> impl Fn(std::io::Error) -> Error {
    let doing = format!("connect to {}", address(connection));
    move |source| Error::Io {
        doing: doing.clone(),
        source,
    }
}
