//! A connection to PostgreSQL, framed by ourselves.
//!
//! `tokio-postgres` speaks neither the replication protocol nor lets us look at a message without
//! allocating one, so this client frames the protocol itself, over anything that reads and writes.
//! It knows start-up, authentication, simple queries and COPY in both directions; that is all a
//! source needs. `postgres-protocol` computes the messages and SCRAM.
//!
//! Messages are read in place: [`Client::fill`] appends what the socket has to one buffer, and the
//! caller walks over the complete messages in it. A message is never copied or allocated on the way
//! to the encoder. The buffer grows to the largest message and falls back to its usual size after it.

use bytes::{Buf, BytesMut};
use hutong_connectors_core::secret::Secret;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend::{self, BindError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connect::Io;
use super::error::Error;

/// What one read asks the socket for. Large, because a client that takes what has gathered lets the
/// server's sender write larger pieces.
const READ_BYTES: usize = 256 << 10;

/// Names the portal of [`Client::start_portal`].
const PORTAL: &str = "hutong_rows";

/// The bytes of a message's tag and length.
const HEAD_BYTES: usize = 5;

/// Rows as text; `None` is NULL.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// Who logs in, and to what.
#[derive(Debug)]
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) database: &'a str,
    pub(crate) password: Option<&'a Secret>,
    pub(crate) application_name: &'a str,
    /// Whether the connection shall accept replication commands beside SQL.
    pub(crate) replication: bool,
    /// Whether it is certain who the server is, and that nobody listens.
    pub(crate) is_verified: bool,
}

/// The session settings on which the decoding of texts rests, and those that would end a long read.
const SETTINGS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("IntervalStyle", "postgres"),
    ("lc_monetary", "C"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
];

/// A connection.
pub(crate) struct Client<S> {
    stream: S,
    inbound: BytesMut,
    outbound: BytesMut,
    /// How many bytes must have arrived before we are told.
    gathers: usize,
    /// How many bytes may have arrived that nobody has read; the system's own judgement before it was said.
    window: Option<usize>,
    /// Whether the server is so near that a small window is enough.
    pub(crate) is_near: bool,
    /// Bytes of the row that was handed out last, which still stands at the beginning of `inbound`.
    handed_out: usize,
    /// The server's process that serves us.
    pub(crate) backend_pid: i32,
    /// The server's version, such as `150018`.
    pub(crate) server_version: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Client<S> {
    /// Logs in.
    pub(crate) async fn start(stream: S, login: &Login<'_>) -> Result<Self, Error> {
        let mut client = Self {
            stream,
            inbound: BytesMut::with_capacity(READ_BYTES),
            outbound: BytesMut::new(),
            gathers: 1,
            window: None,
            is_near: false,
            handed_out: 0,
            backend_pid: 0,
            server_version: 0,
        };
        let mut parameters = vec![
            ("user", login.user),
            ("database", login.database),
            ("application_name", login.application_name),
        ];
        parameters.extend_from_slice(SETTINGS);
        if login.replication {
            parameters.push(("replication", "database"));
        }
        client.compose(|out| frontend::startup_message(parameters.iter().copied(), out))?;
        client.flush().await?;
        client.authenticate(login).await?;
        client.await_ready().await?;
        Ok(client)
    }

    async fn authenticate(&mut self, login: &Login<'_>) -> Result<(), Error> {
        const OK: u32 = 0;
        const CLEARTEXT: u32 = 3;
        const MD5: u32 = 5;
        const SASL: u32 = 10;
        loop {
            let (tag, mut body) = self.message("log in").await?;
            if tag != b'R' {
                return Err(unexpected(tag, "logging in"));
            }
            match take_u32(&mut body)? {
                OK => return Ok(()),
                // Whoever can be taken for the server would have the password.
                CLEARTEXT if !login.is_verified => {
                    return Err(Error::definite(
                        "the server asks for the password in clear text, and its certificate is not verified",
                        "set password_encryption = 'scram-sha-256' and the method scram-sha-256 in pg_hba.conf, or use database.sslmode=verify-full",
                    ));
                }
                CLEARTEXT => {
                    let password = password(login)?.reveal().as_bytes();
                    self.compose(|out| frontend::password_message(password, out))?;
                }
                MD5 => {
                    let salt: [u8; 4] = body
                        .get(..4)
                        .and_then(|salt| salt.try_into().ok())
                        .ok_or_else(truncated)?;
                    let password = password(login)?.reveal().as_bytes();
                    let hash = md5_hash(login.user.as_bytes(), password, salt);
                    self.compose(|out| frontend::password_message(hash.as_bytes(), out))?;
                }
                SASL => {
                    self.authenticate_by_scram(&body, login).await?;
                    continue;
                }
                method => {
                    return Err(Error::definite(
                        format!(
                            "the server asks for an authentication method that is not supported (code {method})"
                        ),
                        "use scram-sha-256 for this user in pg_hba.conf",
                    ));
                }
            }
            self.flush().await?;
        }
    }

    async fn authenticate_by_scram(
        &mut self,
        mechanisms: &[u8],
        login: &Login<'_>,
    ) -> Result<(), Error> {
        const CONTINUE: u32 = 11;
        const FINAL: u32 = 12;
        let offered = mechanisms.split(|byte| *byte == 0);
        if !offered
            .into_iter()
            .any(|name| name == SCRAM_SHA_256.as_bytes())
        {
            return Err(Error::definite(
                "the server offers no SCRAM-SHA-256",
                "use scram-sha-256 for this user in pg_hba.conf",
            ));
        }
        let password = password(login)?.reveal().as_bytes();
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.compose(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out))?;
        self.flush().await?;
        let body = self.sasl_message(CONTINUE).await?;
        scram.update(&body).map_err(|error| failed_scram(&error))?;
        self.compose(|out| frontend::sasl_response(scram.message(), out))?;
        self.flush().await?;
        let body = self.sasl_message(FINAL).await?;
        // The server proves here that it knows the password too.
        scram.finish(&body).map_err(|error| failed_scram(&error))
    }

    async fn sasl_message(&mut self, code: u32) -> Result<BytesMut, Error> {
        let (tag, mut body) = self.message("log in").await?;
        if tag != b'R' || take_u32(&mut body)? != code {
            return Err(unexpected(tag, "logging in by SCRAM"));
        }
        Ok(body)
    }

    async fn await_ready(&mut self) -> Result<(), Error> {
        loop {
            let (tag, body) = self.raw_message("log in").await?;
            match tag {
                b'Z' => return Ok(()),
                b'K' => {
                    let mut body = body;
                    self.backend_pid = take_u32(&mut body)?.cast_signed();
                }
                b'S' => self.note_parameter(&body),
                b'N' => {}
                other => return Err(unexpected(other, "starting a session")),
            }
        }
    }

    fn note_parameter(&mut self, body: &[u8]) {
        let mut parts = body.split(|byte| *byte == 0);
        if parts.next() == Some(b"server_version") {
            let text = parts.next().and_then(|text| std::str::from_utf8(text).ok());
            self.server_version = text.map_or(0, version_number);
        }
    }

    /// Runs SQL, or a replication command that answers with rows, and returns the rows of its last
    /// statement. `doing` completes "could not …" in errors.
    pub(crate) async fn query(&mut self, doing: &str, sql: &str) -> Result<Rows, Error> {
        self.send_query(sql).await?;
        let mut rows = Rows::new();
        let mut failure = None;
        loop {
            let (tag, body) = self.raw_message_or_error(doing).await?;
            match tag {
                b'T' => rows.clear(),
                b'D' => rows.push(data_row(&body)?),
                b'E' => failure = Some(server_error(doing, &body)),
                b'Z' => break,
                b'C' | b'I' | b'N' | b'S' | b'A' => {}
                other => return Err(unexpected(other, doing)),
            }
        }
        failure.map_or(Ok(rows), Err)
    }

    /// Runs SQL whose rows the caller takes one by one with [`Client::next_row`].
    pub(crate) async fn start_rows(&mut self, sql: &str) -> Result<(), Error> {
        self.send_query(sql).await
    }

    /// Starts a query within a transaction block, whose first `rows` rows the caller takes with
    /// [`Client::next_row`], and more of them after [`Client::more_rows`]. A cursor's FETCH would put
    /// the rows into a store first.
    pub(crate) async fn start_portal(&mut self, sql: &str, rows: i32) -> Result<(), Error> {
        // The statement without a name makes room for the next one; a named one outlives the transaction.
        self.compose(|out| frontend::parse("", sql, [], out))?;
        self.compose(|out| {
            // Without parameters nothing is serialized; results come as text.
            let nothing = |(), _: &mut BytesMut| Ok(IsNull::Yes);
            frontend::bind(PORTAL, "", [], [], nothing, [], out).map_err(|error| match error {
                BindError::Conversion(error) => std::io::Error::other(error),
                BindError::Serialization(error) => error,
            })
        })?;
        self.more_rows(rows).await
    }

    /// Asks for the next `rows` rows of the started query.
    pub(crate) async fn more_rows(&mut self, rows: i32) -> Result<(), Error> {
        self.compose(|out| frontend::execute(PORTAL, rows, out))?;
        frontend::sync(&mut self.outbound);
        self.flush().await
    }

    /// Returns the next row that was asked for, or `None` after the last one. It stands in the buffer
    /// until the next one is asked for.
    pub(crate) async fn next_row(&mut self, doing: &str) -> Result<Option<&[u8]>, Error> {
        let mut failure = None;
        let bytes = loop {
            let handed_out = std::mem::take(&mut self.handed_out);
            self.consume(handed_out);
            let Frame::Complete { tag, bytes } = frame(&self.inbound)? else {
                self.fill_for(doing).await?;
                continue;
            };
            self.handed_out = bytes;
            match tag {
                b'D' => break bytes,
                b'E' => failure = Some(server_error(doing, body(&self.inbound, bytes))),
                b'Z' => {
                    self.consume(bytes);
                    self.handed_out = 0;
                    return failure.map_or(Ok(None), Err);
                }
                // What says that a statement is parsed and bound, has no more rows, or more than asked for.
                b'1' | b'2' | b'T' | b'C' | b's' | b'I' | b'N' | b'S' | b'A' => {}
                other => return Err(unexpected(other, doing)),
            }
        };
        Ok(Some(body(&self.inbound, bytes)))
    }

    /// Sends SQL whose answer the caller reads.
    pub(crate) async fn send_query(&mut self, sql: &str) -> Result<(), Error> {
        self.compose(|out| frontend::query(sql, out))?;
        self.flush().await
    }

    /// Sends a command that turns the connection into a stream in both directions.
    pub(crate) async fn start_copy_both(
        &mut self,
        doing: &str,
        command: &str,
    ) -> Result<(), Error> {
        self.send_query(command).await?;
        self.await_copy(doing, b'W').await
    }

    async fn await_copy(&mut self, doing: &str, expected: u8) -> Result<(), Error> {
        loop {
            let (tag, _) = self.message(doing).await?;
            match tag {
                b'N' | b'S' | b'A' => {}
                tag if tag == expected => return Ok(()),
                other => return Err(unexpected(other, doing)),
            }
        }
    }

    /// Sends `payload` as one piece of a stream.
    pub(crate) async fn send_copy_data(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.compose(|out| frontend::CopyData::new(payload).map(|data| data.write(out)))?;
        self.flush().await
    }

    /// Ends a stream in both directions and waits until the server has let go of it; whatever it
    /// still sends is dropped.
    pub(crate) async fn end_copy_both(&mut self) -> Result<(), Error> {
        frontend::copy_done(&mut self.outbound);
        self.flush().await?;
        while self.raw_message("end the stream").await?.0 != b'Z' {}
        Ok(())
    }

    /// Says that we leave, so that the server frees what we held without waiting for a time-out.
    pub(crate) async fn close(mut self) {
        frontend::terminate(&mut self.outbound);
        // The server notices a lost connection as well; there is nobody left to tell.
        let _ = self.flush().await;
        let _ = self.stream.shutdown().await;
    }

    /// Returns the bytes read and not yet consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.inbound
    }

    /// Drops consumed bytes.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.inbound.advance(bytes);
        if self.inbound.is_empty() && self.inbound.capacity() > 4 * READ_BYTES {
            self.inbound = BytesMut::with_capacity(READ_BYTES);
        }
    }

    /// Waits for more bytes from the server.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn fill(&mut self) -> Result<(), Error> {
        let wanted = match frame(&self.inbound)? {
            Frame::Incomplete { bytes } => bytes.saturating_sub(self.inbound.len()),
            Frame::Complete { .. } => 0,
        };
        if self.inbound.capacity() - self.inbound.len() < wanted.max(READ_BYTES / 4) {
            // Not by growing: that takes twice what was once there, were it one large row.
            let bytes = self.inbound.len() + wanted.max(READ_BYTES);
            let mut inbound = BytesMut::with_capacity(bytes);
            inbound.extend_from_slice(&self.inbound);
            self.inbound = inbound;
        }
        let read = self.stream.read_buf(&mut self.inbound).await;
        match read {
            Ok(0) => Err(Error::Io {
                doing: "read from the server".to_owned(),
                source: std::io::Error::new(
                    std::io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                ),
            }),
            Ok(_) => Ok(()),
            Err(source) => Err(Error::Io {
                doing: "read from the server".to_owned(),
                source,
            }),
        }
    }

    /// Returns the next message that is no error.
    async fn message(&mut self, doing: &str) -> Result<(u8, BytesMut), Error> {
        self.raw_message(doing).await
    }

    async fn raw_message(&mut self, doing: &str) -> Result<(u8, BytesMut), Error> {
        match self.raw_message_or_error(doing).await? {
            (b'E', body) => Err(server_error(doing, &body)),
            message => Ok(message),
        }
    }

    async fn raw_message_or_error(&mut self, doing: &str) -> Result<(u8, BytesMut), Error> {
        loop {
            if let Frame::Complete { tag, bytes } = frame(&self.inbound)? {
                let mut message = self.inbound.split_to(bytes);
                message.advance(HEAD_BYTES);
                return Ok((tag, message));
            }
            self.fill_for(doing).await?;
        }
    }

    async fn fill_for(&mut self, doing: &str) -> Result<(), Error> {
        self.fill().await.map_err(|error| match error {
            Error::Io { source, .. } => Error::Io {
                doing: doing.to_owned(),
                source,
            },
            other => other,
        })
    }

    fn compose(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        write(&mut self.outbound).map_err(|source| Error::Io {
            doing: "compose a message".to_owned(),
            source,
        })
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let sent = async {
            self.stream.write_all(&self.outbound).await?;
            self.stream.flush().await
        }
        .await;
        self.outbound.clear();
        sent.map_err(|source| Error::Io {
            doing: "send to the server".to_owned(),
            source,
        })
    }
}

impl Client<Box<dyn Io>> {
    /// Lets so many bytes arrive before we are told. The server sends a piece for each change, and to be
    /// woken for each costs more than all that is done with it. Lowered, [`Client::fill`] returns what is
    /// there.
    ///
    /// A near server is also kept from sending much more than that before it is read: what it cannot send
    /// yet it puts together, and sends as one.
    pub(crate) fn gather(&mut self, bytes: usize) {
        if self.gathers == bytes {
            return;
        }
        self.gathers = bytes;
        // Without either, pieces are read as they come.
        if bytes > 1 && self.is_near && self.window != Some(bytes) {
            self.window = Some(bytes);
            self.stream.narrow(bytes).unwrap_or_default();
        }
        self.stream.gather(bytes).unwrap_or_default();
    }
}

/// What stands at the beginning of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A whole message of `bytes` bytes, its head of five included.
    Complete {
        /// The message's tag.
        tag: u8,
        /// Its size.
        bytes: usize,
    },
    /// Part of a message; `bytes` as far as is known.
    Incomplete {
        /// The size needed.
        bytes: usize,
    },
}

/// Looks at the message at the beginning of `buffer`.
pub(crate) fn frame(buffer: &[u8]) -> Result<Frame, Error> {
    let Some((tag, rest)) = buffer.split_first() else {
        return Ok(Frame::Incomplete { bytes: HEAD_BYTES });
    };
    let Some(length) = rest.first_chunk::<4>() else {
        return Ok(Frame::Incomplete { bytes: HEAD_BYTES });
    };
    let length = u32::from_be_bytes(*length);
    // The length counts itself, and no message of PostgreSQL is larger than 1 GB.
    if !(4..=0x4000_0000).contains(&length) {
        return Err(Error::Protocol(format!("a message of {length} bytes")));
    }
    let bytes = usize::try_from(length).map_err(|_| truncated())? + 1;
    Ok(if buffer.len() < bytes {
        Frame::Incomplete { bytes }
    } else {
        Frame::Complete { tag: *tag, bytes }
    })
}

/// Returns the body of a complete message at the beginning of `buffer`.
pub(crate) fn body(buffer: &[u8], bytes: usize) -> &[u8] {
    &buffer[HEAD_BYTES..bytes]
}

/// Reads an ErrorResponse. Its detail is left out: it may quote values.
pub(crate) fn server_error(doing: &str, body: &[u8]) -> Error {
    let mut message = String::new();
    let mut sqlstate = String::new();
    let mut hint = None;
    for field in body.split(|byte| *byte == 0) {
        let Some((kind, text)) = field.split_first() else {
            break;
        };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'M' => message = text,
            b'C' => sqlstate = text,
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    Error::Server {
        doing: doing.to_owned(),
        message,
        sqlstate,
        hint,
    }
}

fn data_row(body: &[u8]) -> Result<Vec<Option<String>>, Error> {
    fields(body)?
        .map(|field| {
            field?
                .map(|text| {
                    std::str::from_utf8(text)
                        .map(str::to_owned)
                        .map_err(|_| Error::Protocol("text that is not UTF-8".to_owned()))
                })
                .transpose()
        })
        .collect()
}

/// Goes over the fields of a row; `None` is NULL.
pub(crate) fn fields(
    mut body: &[u8],
) -> Result<impl Iterator<Item = Result<Option<&[u8]>, Error>>, Error> {
    let columns = body.try_get_u16().map_err(|_| truncated())?;
    Ok((0..columns).map(move |_| {
        let length = body.try_get_i32().map_err(|_| truncated())?;
        let Ok(length) = usize::try_from(length) else {
            return Ok(None);
        };
        let (text, rest) = body.split_at_checked(length).ok_or_else(truncated)?;
        body = rest;
        Ok(Some(text))
    }))
}

/// Turns `15.18 (Debian 15.18-0+deb12u1)` into 150018.
fn version_number(text: &str) -> u32 {
    let digits = |part: &str| {
        part.chars()
            .take_while(char::is_ascii_digit)
            .fold(0_u32, |n, digit| {
                n.saturating_mul(10)
                    .saturating_add(digit.to_digit(10).unwrap_or_default())
            })
    };
    let mut parts = text.split('.');
    let major = parts.next().map_or(0, digits);
    let minor = parts.next().map_or(0, digits);
    major.saturating_mul(10_000).saturating_add(minor)
}

fn password<'a>(login: &Login<'a>) -> Result<&'a Secret, Error> {
    login.password.ok_or_else(|| {
        Error::definite(
            "the server asks for a password and none is configured",
            "set database.password to a reference such as ${file:PATH:KEY}",
        )
    })
}

fn failed_scram(error: &std::io::Error) -> Error {
    Error::definite(
        format!("the server did not prove that it knows the password: {error}"),
        "check that database.hostname and database.port lead to the right server",
    )
}

fn take_u32(body: &mut BytesMut) -> Result<u32, Error> {
    body.try_get_u32().map_err(|_| truncated())
}

fn truncated() -> Error {
    Error::Protocol("a message ends early".to_owned())
}

fn unexpected(tag: u8, doing: &str) -> Error {
    Error::Protocol(format!(
        "an unexpected message '{}' while {doing}",
        tag.escape_ascii()
    ))
}
