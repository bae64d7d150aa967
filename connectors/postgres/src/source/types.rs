//! Which of our types one of the server's is: those that every server has by their numbers, those of
//! one database by what its catalogue says of them. A domain is what it is made of.

use std::collections::BTreeMap;

use hutong_schemas::sql_type::SqlType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::types::{Kind, Type};

use super::catalogue::Row;
use super::client::Client;
use super::error::Error;

/// The types of a database beside those of every server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Types(BTreeMap<u32, Own>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Own {
    Domain {
        base: u32,
        modifier: i32,
    },
    /// The labels in their order.
    Enum(Vec<String>),
    Array {
        element: u32,
    },
    /// A type of an extension.
    Known(SqlType),
}

/// Reads the types of a database: domains, enums, what we know of extensions, and arrays of all of
/// them. Every table makes a type and an array type too, which are left out.
pub(crate) async fn fetch<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
) -> Result<Types, Error> {
    let rows = client
        .query(
            "read the catalogue",
            "SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, \
             CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END, \
             CASE WHEN e.extname = t.typname THEN e.extname END, \
             (SELECT json_agg(l.enumlabel ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum l \
             WHERE l.enumtypid = t.oid) \
             FROM pg_catalog.pg_type t \
             JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
             LEFT JOIN pg_catalog.pg_type i ON i.oid = t.typelem \
             LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::regclass \
             AND d.objid = t.oid AND d.deptype = 'e' \
             LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
             WHERE t.typtype IN ('b', 'd', 'e') AND n.nspname <> 'pg_catalog' \
             AND i.typtype IS DISTINCT FROM 'c'",
        )
        .await?;
    let mut types = BTreeMap::new();
    for row in rows {
        let row = Row(row);
        let element: u32 = row.parse(4)?;
        let own = match (row.text(1)?, row.optional(5)) {
            ("d", _) => Own::Domain {
                base: row.parse(2)?,
                modifier: row.parse(3)?,
            },
            ("e", _) => {
                let labels = serde_json::from_str(row.optional(6).unwrap_or("[]"));
                Own::Enum(labels.map_err(|error| Error::Protocol(error.to_string()))?)
            }
            (_, Some("citext")) => Own::Known(SqlType::Citext),
            (_, Some("ltree")) => Own::Known(SqlType::Ltree),
            (_, Some("hstore")) => Own::Known(SqlType::Hstore),
            _ if element != 0 => Own::Array { element },
            _ => continue,
        };
        types.insert(row.parse(0)?, own);
    }
    Ok(Types(types))
}

/// More than any chain of domains has.
const DOMAINS_MAX: usize = 64;

impl Types {
    /// Returns a type without the domains around it.
    fn base(&self, oid: u32, modifier: i32) -> (u32, i32) {
        let mut found = (oid, modifier);
        for _ in 0..DOMAINS_MAX {
            match self.0.get(&found.0) {
                Some(Own::Domain { base, modifier }) => found = (*base, *modifier),
                _ => break,
            }
        }
        found
    }

    fn element(&self, oid: u32) -> Option<u32> {
        match (self.0.get(&oid), Type::from_oid(oid)) {
            (Some(Own::Array { element }), _) => Some(*element),
            (None, Some(known)) => match known.kind() {
                Kind::Array(element) => Some(element.oid()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the type if we carry it.
    pub(crate) fn sql_type(&self, oid: u32, modifier: i32) -> Option<SqlType> {
        let (oid, modifier) = self.base(oid, modifier);
        if let Some(element) = self.element(oid) {
            let element = self.scalar(element, modifier)?.try_into().ok()?;
            return Some(SqlType::Array { element });
        }
        self.scalar(oid, modifier)
    }

    fn scalar(&self, oid: u32, modifier: i32) -> Option<SqlType> {
        let (oid, modifier) = self.base(oid, modifier);
        match self.0.get(&oid) {
            Some(Own::Enum(_)) => Some(SqlType::Enum),
            Some(Own::Known(sql_type)) => Some(*sql_type),
            Some(Own::Domain { .. } | Own::Array { .. }) => None,
            None => built_in(oid, modifier),
        }
    }

    /// Returns the labels of an enum, or of an array of enums; none of any other type.
    pub(crate) fn labels(&self, oid: u32) -> &[String] {
        let (oid, _) = self.base(oid, -1);
        let (oid, _) = self.base(self.element(oid).unwrap_or(oid), -1);
        match self.0.get(&oid) {
            Some(Own::Enum(labels)) => labels,
            _ => &[],
        }
    }
}

/// The numbers of `pg_type.dat`.
fn built_in(oid: u32, modifier: i32) -> Option<SqlType> {
    // Modifiers of lengths and of numerics count the four bytes of a length word that old versions
    // of PostgreSQL stored; those of bits do not.
    let length = u32::try_from(modifier - 4).ok();
    let bits = u32::try_from(modifier).ok();
    let precision = u8::try_from(modifier).unwrap_or(6);
    Some(match oid {
        16 => SqlType::Bool,
        17 => SqlType::Bytea,
        20 => SqlType::Int8,
        21 => SqlType::Int2,
        23 => SqlType::Int4,
        25 => SqlType::Text,
        26 => SqlType::Oid,
        114 => SqlType::Json,
        142 => SqlType::Xml,
        600 => SqlType::Point,
        601 => SqlType::Lseg,
        602 => SqlType::Path,
        603 => SqlType::Box,
        604 => SqlType::Polygon,
        628 => SqlType::Line,
        650 => SqlType::Cidr,
        700 => SqlType::Float4,
        701 => SqlType::Float8,
        718 => SqlType::Circle,
        774 => SqlType::Macaddr8,
        790 => SqlType::Money,
        829 => SqlType::Macaddr,
        869 => SqlType::Inet,
        1042 => SqlType::Char { length: length? },
        1043 => SqlType::Varchar { length },
        1082 => SqlType::Date,
        1083 => SqlType::Time { precision },
        1114 => SqlType::Timestamp { precision },
        1184 => SqlType::Timestamptz { precision },
        1186 => SqlType::Interval,
        1266 => SqlType::Timetz { precision },
        1560 => SqlType::Bit { length: bits? },
        1562 => SqlType::Varbit { length: bits },
        1700 => numeric(modifier),
        2950 => SqlType::Uuid,
        3614 => SqlType::Tsvector,
        3802 => SqlType::Jsonb,
        3904 => SqlType::Int4range,
        3906 => SqlType::Numrange,
        3908 => SqlType::Tsrange,
        3910 => SqlType::Tstzrange,
        3912 => SqlType::Daterange,
        3926 => SqlType::Int8range,
        _ => return None,
    })
}

/// `numeric_typmod_scale` of the server's `numeric.c`: the scale is an 11-bit number with sign.
fn numeric(modifier: i32) -> SqlType {
    let Ok(packed) = u32::try_from(modifier - 4) else {
        return SqlType::NumericUnscaled;
    };
    let precision = u16::try_from(packed >> 16).unwrap_or(u16::MAX);
    let scale = i16::try_from(packed & 0x7FF).unwrap_or(0);
    let scale = if scale >= 1024 { scale - 2048 } else { scale };
    SqlType::Numeric { precision, scale }
}
