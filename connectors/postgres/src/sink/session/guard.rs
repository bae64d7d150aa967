//! The way to the server: encryption as `sslmode` says, and no password for a server that may be
//! anybody.
//!
//! `tokio-postgres` sends the password in clear text to whoever asks for it, encrypted or not, and has
//! no setting against that. What it has is a hook that turns a socket into a TLS stream. So the hook
//! does both: it negotiates encryption itself (therefore `SslNegotiation::Direct`, under which the
//! driver sends nothing before), and reads along until the server has accepted the log-in. When the
//! request for a clear-text password comes by and the server's certificate was not verified in full,
//! the driver gets an error instead of the request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use hutong_connectors_core::connection::SslMode;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::Socket;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Makes guarded streams.
#[derive(Clone)]
pub(super) struct Guard {
    mode: SslMode,
    tls: Option<MakeRustlsConnect>,
    refused: Arc<AtomicBool>,
}

impl Guard {
    /// Returns a guard; without a configuration of TLS nothing is encrypted.
    pub(super) fn new(mode: SslMode, tls: Option<rustls::ClientConfig>) -> Self {
        Self {
            mode,
            tls: tls.map(MakeRustlsConnect::new),
            refused: Arc::default(),
        }
    }

    /// Returns whether a server was refused the password.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl MakeTlsConnect<Socket> for Guard {
    type Stream = Guarded;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Connect> {
        let tls = match &mut self.tls {
            Some(tls) => Some(
                MakeTlsConnect::<Socket>::make_tls_connect(tls, domain)
                    .map_err(io::Error::other)?,
            ),
            None => None,
        };
        Ok(Connect {
            mode: self.mode,
            tls,
            refused: Arc::clone(&self.refused),
        })
    }
}

/// Makes one guarded stream.
pub(super) struct Connect {
    mode: SslMode,
    tls: Option<<MakeRustlsConnect as MakeTlsConnect<Socket>>::TlsConnect>,
    refused: Arc<AtomicBool>,
}

impl TlsConnect<Socket> for Connect {
    type Stream = Guarded;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Guarded>> + Send>>;

    fn connect(self, mut socket: Socket) -> Self::Future {
        Box::pin(async move {
            let is_verified = self.mode == SslMode::VerifyFull;
            let inner: Box<dyn TlsStream + Send + Unpin> = match self.tls {
                Some(tls) if offers_tls(&mut socket).await? => Box::new(tls.connect(socket).await?),
                Some(_) if self.mode != SslMode::Prefer => {
                    return Err(io::Error::other("server does not support TLS"));
                }
                Some(_) | None => Box::new(Raw(socket)),
            };
            Ok(Guarded {
                inner,
                log_in: (!is_verified).then(LogIn::default),
                refused: self.refused,
            })
        })
    }
}

async fn offers_tls(socket: &mut Socket) -> io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    Ok(socket.read_u8().await? == b'S')
}

/// A socket without encryption.
struct Raw(Socket);

impl TlsStream for Raw {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A stream that reads along while the log-in lasts.
pub(super) struct Guarded {
    inner: Box<dyn TlsStream + Send + Unpin>,
    /// `None` once the log-in was accepted, or if the server may have the password.
    log_in: Option<LogIn>,
    refused: Arc<AtomicBool>,
}

impl TlsStream for Guarded {
    fn channel_binding(&self) -> ChannelBinding {
        self.inner.channel_binding()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let known = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        let Some(log_in) = &mut this.log_in else {
            return Poll::Ready(Ok(()));
        };
        match log_in.see(&buf.filled()[known..]) {
            Seen::Nothing => {}
            Seen::Accepted => this.log_in = None,
            Seen::ClearText => {
                this.refused.store(true, Ordering::Relaxed);
                buf.set_filled(known);
                let reason = "the password was asked for in clear text";
                return Poll::Ready(Err(io::Error::other(reason)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What some bytes of a log-in hold.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Accepted,
    ClearText,
}

/// Walks over the server's messages: a tag, a length that counts itself, and the rest, which begins
/// with a code in a message about authentication.
#[derive(Default)]
struct LogIn {
    head: Vec<u8>,
    skip: usize,
}

impl LogIn {
    /// Looks at the next bytes, however they are cut.
    fn see(&mut self, bytes: &[u8]) -> Seen {
        const ACCEPTED: [u8; 4] = [0, 0, 0, 0];
        const CLEAR_TEXT: [u8; 4] = [0, 0, 0, 3];
        for byte in bytes {
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.head.push(*byte);
            let [tag, a, b, c, d, code @ ..] = self.head.as_slice() else {
                continue;
            };
            let length = u32::from_be_bytes([*a, *b, *c, *d]);
            let rest = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .saturating_sub(4);
            // A message too short for a code is the driver's to refuse.
            if *tag == b'R' && rest >= 4 && code.len() < 4 {
                continue;
            }
            if *tag == b'R' && code == ACCEPTED {
                return Seen::Accepted;
            }
            if *tag == b'R' && code == CLEAR_TEXT {
                return Seen::ClearText;
            }
            self.skip = rest - code.len();
            self.head.clear();
        }
        Seen::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag], length.to_be_bytes().as_slice(), body].concat()
    }

    /// Shows bytes cut into pieces of a size.
    fn seen(bytes: &[u8], size: usize) -> Seen {
        let mut log_in = LogIn::default();
        let mut pieces = bytes.chunks(size).map(|piece| log_in.see(piece));
        let found = pieces.find(|seen| *seen != Seen::Nothing);
        found.unwrap_or(Seen::Nothing)
    }

    #[test]
    fn the_request_for_a_password_is_seen_however_the_bytes_are_cut() {
        let notice = message(b'N', b"R\0\0\0\x08\0\0\0\x03 is no request\0");
        let sasl = message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        let clear = message(b'R', &[0, 0, 0, 3]);
        let accepted = message(b'R', &[0, 0, 0, 0]);
        let empty = message(b'R', &[]);
        for size in 1..40 {
            assert_eq!(seen(&notice, size), Seen::Nothing);
            assert_eq!(seen(&sasl, size), Seen::Nothing);
            let bytes = [notice.as_slice(), &empty, &sasl, &clear].concat();
            assert_eq!(seen(&bytes, size), Seen::ClearText);
            let bytes = [accepted.as_slice(), &clear].concat();
            assert_eq!(seen(&bytes, size), Seen::Accepted);
        }
    }
}
