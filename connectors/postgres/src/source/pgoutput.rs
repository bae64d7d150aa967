//! The messages of the `pgoutput` plugin, protocol version 1, split without copying.
//!
//! PostgreSQL manual, "Logical Replication Message Formats". Version 1 carries whole committed
//! transactions in commit order, values as text.

use bytes::Buf;
use hutong_schemas::position::Lsn;

use super::error::Error;

/// Microseconds between 1970-01-01, where our clock begins, and 2000-01-01, where PostgreSQL's does.
pub(crate) const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What travels in a `CopyData` message of a replication stream.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// `XLogData`: one message of the plugin.
    Data {
        /// Where in the log the change stands.
        lsn: Lsn,
        /// When the server sent it, by its clock, microseconds since 1970.
        sent_us: i64,
        /// The plugin's message.
        message: &'a [u8],
    },
    /// The server's sign of life.
    Keepalive {
        /// All transactions whose commit lies before this place have been sent.
        sent: Lsn,
        /// Whether the server wants an answer at once.
        reply_requested: bool,
    },
}

/// Splits the body of a `CopyData` message.
pub(crate) fn piece(mut body: &[u8]) -> Result<Piece<'_>, Error> {
    match u8_of(&mut body)? {
        b'w' => {
            let lsn = lsn_of(&mut body)?;
            let _end_of_log = lsn_of(&mut body)?;
            let sent_us = i64_of(&mut body)?.saturating_add(POSTGRES_EPOCH_MICROS);
            Ok(Piece::Data {
                lsn,
                sent_us,
                message: body,
            })
        }
        b'k' => {
            let sent = lsn_of(&mut body)?;
            let _sent_at = i64_of(&mut body)?;
            Ok(Piece::Keepalive {
                sent,
                reply_requested: u8_of(&mut body)? != 0,
            })
        }
        other => Err(unknown(other)),
    }
}

/// One message of the plugin.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    /// A transaction begins.
    Begin(Begin),
    /// It ends.
    Commit(Commit),
    /// What a table looks like from here on.
    Relation(Relation),
    /// A row is new.
    Insert {
        /// The table.
        oid: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row changed.
    Update {
        /// The table.
        oid: u32,
        /// What is known of the row before.
        old: Old<'a>,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row is gone.
    Delete {
        /// The table.
        oid: u32,
        /// What is known of the row before.
        old: Old<'a>,
    },
    /// All rows of some tables are gone.
    Truncate(Vec<u32>),
    /// A type's name, or where a transaction was first made: nothing that we need.
    Other,
}

/// The beginning of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begin {
    /// Where the transaction's commit record begins.
    pub(crate) commit_lsn: Lsn,
    /// When it was committed, microseconds since 1970.
    pub(crate) ts_us: i64,
    /// The transaction.
    pub(crate) xid: u32,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// Where the commit record begins.
    pub(crate) commit_lsn: Lsn,
    /// Where it ends: a stream from here does not hold this transaction.
    pub(crate) end_lsn: Lsn,
}

/// What a table looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relation {
    /// `pg_class.oid`
    pub(crate) oid: u32,
    /// Schema.
    pub(crate) schema: String,
    /// Table.
    pub(crate) table: String,
    /// `d`, `n`, `f` or `i`.
    pub(crate) replica_identity: u8,
    /// Published columns, in the order of their numbers.
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    /// Whether it belongs to the replica identity.
    pub(crate) is_key: bool,
    /// The name.
    pub(crate) name: String,
    /// `pg_attribute.atttypid`
    pub(crate) type_oid: u32,
    /// `pg_attribute.atttypmod`
    pub(crate) type_modifier: i32,
}

/// What an update or delete says of the row before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Old<'a> {
    /// Nothing: the key did not change.
    Nothing,
    /// The columns of the replica identity; the others are NULL.
    Key(Tuple<'a>),
    /// The whole row.
    Row(Tuple<'a>),
}

/// A row's columns, not yet looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuple<'a> {
    /// Number of columns.
    pub(crate) columns: u16,
    /// The columns.
    pub(crate) bytes: &'a [u8],
}

/// A column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// NULL.
    Null,
    /// Stored out of line and not changed, therefore not sent.
    Unchanged,
    /// The value's text.
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// Goes over the columns. Each is handed over rather than returned, for what
    /// [`decode_into`](super::text::decode_into) says.
    #[inline]
    pub(crate) fn each(
        self,
        mut visit: impl FnMut(Value<'a>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut bytes = self.bytes;
        each_value(self.columns, &mut bytes, &mut visit)
    }
}

#[inline]
fn each_value<'a>(
    columns: u16,
    bytes: &mut &'a [u8],
    visit: &mut impl FnMut(Value<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    for _ in 0..columns {
        let Some((kind, rest)) = bytes.split_first() else {
            return Err(truncated());
        };
        *bytes = rest;
        match kind {
            b'n' => visit(Value::Null)?,
            b'u' => visit(Value::Unchanged)?,
            b't' => {
                let Some((length, rest)) = bytes.split_first_chunk() else {
                    return Err(truncated());
                };
                let length = usize::try_from(u32::from_be_bytes(*length));
                let Some((text, rest)) = length.ok().and_then(|at| rest.split_at_checked(at))
                else {
                    return Err(truncated());
                };
                *bytes = rest;
                visit(Value::Text(text))?;
            }
            other => return Err(unknown(*other)),
        }
    }
    Ok(())
}

/// Splits a message of the plugin.
pub(crate) fn message(mut body: &[u8]) -> Result<Message<'_>, Error> {
    let body = &mut body;
    Ok(match u8_of(body)? {
        b'B' => Message::Begin(Begin {
            commit_lsn: lsn_of(body)?,
            ts_us: i64_of(body)?.saturating_add(POSTGRES_EPOCH_MICROS),
            xid: u32_of(body)?,
        }),
        b'C' => {
            let _flags = u8_of(body)?;
            Message::Commit(Commit {
                commit_lsn: lsn_of(body)?,
                end_lsn: lsn_of(body)?,
            })
        }
        b'R' => Message::Relation(relation(body)?),
        b'I' => {
            let oid = u32_of(body)?;
            expect(body, b'N')?;
            Message::Insert {
                oid,
                new: last_tuple(body)?,
            }
        }
        b'U' => {
            let oid = u32_of(body)?;
            let (old, kind) = match u8_of(body)? {
                b'K' => (Old::Key(tuple(body)?), u8_of(body)?),
                b'O' => (Old::Row(tuple(body)?), u8_of(body)?),
                kind => (Old::Nothing, kind),
            };
            if kind != b'N' {
                return Err(unknown(kind));
            }
            Message::Update {
                oid,
                old,
                new: last_tuple(body)?,
            }
        }
        b'D' => {
            let oid = u32_of(body)?;
            let old = match u8_of(body)? {
                b'K' => Old::Key(tuple(body)?),
                b'O' => Old::Row(tuple(body)?),
                other => return Err(unknown(other)),
            };
            Message::Delete { oid, old }
        }
        b'T' => {
            let count = u32_of(body)?;
            let _options = u8_of(body)?;
            Message::Truncate((0..count).map(|_| u32_of(body)).collect::<Result<_, _>>()?)
        }
        b'O' | b'Y' | b'M' => Message::Other,
        other => return Err(unknown(other)),
    })
}

fn relation(body: &mut &[u8]) -> Result<Relation, Error> {
    Ok(Relation {
        oid: u32_of(body)?,
        schema: string_of(body)?,
        table: string_of(body)?,
        replica_identity: u8_of(body)?,
        columns: {
            let count = body.try_get_u16().map_err(|_| truncated())?;
            (0..count)
                .map(|_| {
                    Ok(RelationColumn {
                        is_key: u8_of(body)? & 1 == 1,
                        name: string_of(body)?,
                        type_oid: u32_of(body)?,
                        type_modifier: body.try_get_i32().map_err(|_| truncated())?,
                    })
                })
                .collect::<Result<_, Error>>()?
        },
    })
}

/// Takes one row off the front: its columns must be walked to find its end.
fn tuple<'a>(body: &mut &'a [u8]) -> Result<Tuple<'a>, Error> {
    let columns = body.try_get_u16().map_err(|_| truncated())?;
    let start = *body;
    each_value(columns, body, &mut |_| Ok(()))?;
    Ok(Tuple {
        columns,
        bytes: &start[..start.len() - body.len()],
    })
}

/// Takes the row that a message ends with. Whoever goes over its columns finds out whether it is whole.
fn last_tuple<'a>(body: &mut &'a [u8]) -> Result<Tuple<'a>, Error> {
    let columns = body.try_get_u16().map_err(|_| truncated())?;
    Ok(Tuple {
        columns,
        bytes: std::mem::take(body),
    })
}

fn expect(body: &mut &[u8], wanted: u8) -> Result<(), Error> {
    match u8_of(body)? {
        found if found == wanted => Ok(()),
        other => Err(unknown(other)),
    }
}

fn string_of(body: &mut &[u8]) -> Result<String, Error> {
    let end = body
        .iter()
        .position(|byte| *byte == 0)
        .ok_or_else(truncated)?;
    let text = std::str::from_utf8(&body[..end])
        .map_err(|_| Error::Protocol("a name that is not UTF-8".to_owned()))?
        .to_owned();
    body.advance(end + 1);
    Ok(text)
}

fn u8_of(body: &mut &[u8]) -> Result<u8, Error> {
    body.try_get_u8().map_err(|_| truncated())
}

fn u32_of(body: &mut &[u8]) -> Result<u32, Error> {
    body.try_get_u32().map_err(|_| truncated())
}

fn i64_of(body: &mut &[u8]) -> Result<i64, Error> {
    body.try_get_i64().map_err(|_| truncated())
}

fn lsn_of(body: &mut &[u8]) -> Result<Lsn, Error> {
    body.try_get_u64().map(Lsn).map_err(|_| truncated())
}

fn truncated() -> Error {
    Error::Protocol("a replication message ends early".to_owned())
}

fn unknown(tag: u8) -> Error {
    Error::Protocol(format!(
        "an unknown replication message '{}'",
        tag.escape_ascii()
    ))
}

/// Writes a standby status update: what we have received, and what is durable with us.
pub(crate) fn status_update(
    received: Lsn,
    durable: Lsn,
    now_us: i64,
    wants_reply: bool,
) -> [u8; 34] {
    let mut message = [0; 34];
    message[0] = b'r';
    message[1..9].copy_from_slice(&received.0.to_be_bytes());
    message[9..17].copy_from_slice(&durable.0.to_be_bytes());
    message[17..25].copy_from_slice(&durable.0.to_be_bytes());
    message[25..33].copy_from_slice(&(now_us - POSTGRES_EPOCH_MICROS).to_be_bytes());
    message[33] = u8::from(wants_reply);
    message
}
