//! One value of one row, borrowed from wherever its bytes lie.
//!
//! Connectors turn their database's bytes into cells, plans write cells as Avro and read them back,
//! conditions and masks look at cells, sinks write cells into their database. No row object exists:
//! a row is a slice of cells in the order of its table's columns, reused from row to row.

/// A value.
///
/// Which variants a column may hold follows from its [`SqlType`](crate::sql_type::SqlType):
///
/// | SQL type | cell |
/// |---|---|
/// | `boolean`, `bit(1)`, `bit varying(1)` | `Bool` |
/// | `smallint`, `integer`, `bigint`, `oid` | `Int` |
/// | `real` | `Float4` |
/// | `double precision` | `Float8` |
/// | `numeric`, with or without scale, `money` (of scale 2) | `Numeric` |
/// | `text`, `character varying`, `character` (with its blanks), `uuid` (36 lower-case characters), `json`, `jsonb`, enums, `inet`, `cidr`, `macaddr`, `macaddr8`, `xml`, `tsvector`, `citext`, `ltree`, ranges (as PostgreSQL writes them); `hstore` as a JSON object | `Text` |
/// | `bytea` | `Bytes` |
/// | `bit`, `bit varying` | `Bytes`: the last bit first, eight a byte from the lowest on, without zeros at the end |
/// | `date` | `Int`: days since 1970-01-01 |
/// | `time` | `Int`: microseconds since midnight (24:00:00 is 86 400 000 000) |
/// | `timestamp` | `Int`: microseconds since 1970-01-01 00:00:00, no zone |
/// | `timestamptz` | `Int`: microseconds since 1970-01-01 00:00:00 UTC |
/// | `time with time zone` | `Int`: microseconds since midnight UTC |
/// | `interval` | `Int`: microseconds, a month being 30.4375 days |
/// | arrays, geometric types | `Composite` |
///
/// `infinity` and `-infinity` of date, timestamp and timestamptz are [`POSITIVE_INFINITY`] and
/// [`NEGATIVE_INFINITY`].
///
/// `Debug` hides values: a row must never reach a log.
#[derive(Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// A value that the source did not send (an unchanged TOAST column) and that could not be read
    /// again. Never equal to anything, never delivered to a view.
    Unavailable,
    /// A boolean.
    Bool(bool),
    /// An integer, a date, a time or a timestamp; see the table above.
    Int(i64),
    /// A single-precision number.
    Float4(f32),
    /// A double-precision number.
    Float8(f64),
    /// An exact number.
    Numeric(Numeric<'a>),
    /// Text, valid UTF-8.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A value that has parts, as [`composite`](crate::composite) writes it.
    Composite(&'a [u8]),
}

/// `infinity` as a date, timestamp or timestamptz.
pub const POSITIVE_INFINITY: i64 = i64::MAX;
/// `-infinity` as a date, timestamp or timestamptz.
pub const NEGATIVE_INFINITY: i64 = i64::MIN;

/// An exact decimal number: `unscaled × 10^-scale`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Numeric<'a> {
    /// Two's complement, big-endian, shortest form (at least one byte), as Java's
    /// `BigInteger.toByteArray` and as Avro's decimal want it.
    pub unscaled: &'a [u8],
    /// Digits after the decimal point; for a column with a scale it is that scale.
    pub scale: i32,
}

impl std::fmt::Debug for Cell<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Unavailable => "Unavailable",
            Self::Bool(_) => "Bool(…)",
            Self::Int(_) => "Int(…)",
            Self::Float4(_) => "Float4(…)",
            Self::Float8(_) => "Float8(…)",
            Self::Numeric(_) => "Numeric(…)",
            Self::Text(_) => "Text(…)",
            Self::Bytes(_) => "Bytes(…)",
            Self::Composite(_) => "Composite(…)",
        })
    }
}

impl std::fmt::Debug for Numeric<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numeric(…)")
    }
}

/// Empties cells and gives them a new lifetime; their memory is kept, so that nothing is allocated for
/// each row.
#[must_use]
pub fn recycle<'b>(mut cells: Vec<Cell<'_>>) -> Vec<Cell<'b>> {
    cells.clear();
    // Collecting in place keeps the allocation.
    cells.into_iter().map(|_| Cell::Null).collect()
}
