//! The exact SQL types of a captured table.
//!
//! Change events are Debezium's: a schema of theirs names no length of a text and no `jsonb`. The
//! source publishes the types beside the events, so that a copy of the table can be like the table.

use std::collections::BTreeMap;

use hutong_schemas::record::FieldInfo;
use hutong_schemas::sql_type::SqlType;
use hutong_transport::Error as KafkaError;
use hutong_transport::reader::{CompactedReader, Event};
use hutong_transport::record::{Record, TableRecord};

use super::input::Input;
use crate::task::TaskContext;

/// The types of a table's columns by name; empty where they are not published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Types(BTreeMap<String, SqlType>);

impl Types {
    /// Reads the types of an input's table. A view needs none: its schemas are our own.
    pub(super) async fn read(ctx: &TaskContext, input: &Input) -> Result<Self, KafkaError> {
        if input.view.is_some() {
            return Ok(Self::default());
        }
        let location = input.location.as_deref().unwrap_or(&ctx.location);
        let topic = ctx.cluster.tables(location);
        if ctx.admin.topic(&topic).await?.is_none() {
            return Ok(Self::default());
        }
        let mut reader = CompactedReader::open(&ctx.kafka, &topic).await?;
        let mut found = Self::default();
        while let Event::Record(message) = reader.next().await? {
            if message.key.as_deref() != Some(input.topic.as_bytes()) {
                continue;
            }
            let record = message.value.as_deref().map(TableRecord::decode);
            found = match record.transpose() {
                Ok(record) => record.map(|record| Self::of(&record)).unwrap_or_default(),
                // Of a newer release: the events say enough to go on.
                Err(error) => {
                    tracing::warn!(topic, %error, "the types of a table cannot be read");
                    Self::default()
                }
            };
        }
        Ok(found)
    }

    fn of(record: &TableRecord) -> Self {
        let columns = record.table.columns.iter();
        Self(
            columns
                .map(|column| (column.name.clone(), column.sql_type))
                .collect(),
        )
    }

    /// Returns the fields with their exact types, where these say more of the same.
    pub(super) fn exact(&self, fields: &[FieldInfo]) -> Vec<FieldInfo> {
        let exact = |field: &FieldInfo| {
            let exact = self.0.get(&field.name);
            let exact = exact.filter(|exact| says_more(**exact, field.sql_type));
            FieldInfo {
                sql_type: exact.copied().unwrap_or(field.sql_type),
                ..field.clone()
            }
        };
        fields.iter().map(exact).collect()
    }
}

/// Returns whether a type is one of those that a schema shows as another: then its values are written
/// the same way. Anything else is another table than the record's, or a mask, and stays.
fn says_more(exact: SqlType, shown: SqlType) -> bool {
    use hutong_schemas::sql_type::Type::{
        Bit, Bool, Box, Char, Cidr, Citext, Hstore, Inet, Int8, Json, Jsonb, Lseg, Macaddr,
        Macaddr8, Money, Numeric, Oid, Path, Polygon, Text, Varbit, Varchar,
    };
    if let (SqlType::Array { element: exact }, SqlType::Array { element: shown }) = (exact, shown) {
        return says_more(exact.into(), shown.into());
    }
    matches!(
        (exact, shown),
        (
            Varchar { .. } | Char { .. } | Citext | Inet | Cidr | Macaddr | Macaddr8,
            Text | Varchar { length: None }
        ) | (Jsonb | Hstore, Json)
            | (Oid, Int8)
            | (Money, Numeric { .. })
            | (Bit { length: 1 } | Varbit { length: Some(1) }, Bool)
            | (Bit { .. } | Varbit { .. }, Varbit { .. })
            | (Lseg | Box | Path | Polygon, Path)
            | (SqlType::Time { .. }, SqlType::Time { .. })
            | (SqlType::Timetz { .. }, SqlType::Timetz { .. })
            | (SqlType::Timestamp { .. }, SqlType::Timestamp { .. })
            | (SqlType::Timestamptz { .. }, SqlType::Timestamptz { .. })
    ) || (exact.bound().is_some() && shown == Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_gain_what_a_schema_does_not_say_and_nothing_else() {
        let length = |length| SqlType::Varchar {
            length: Some(length),
        };
        assert!(says_more(length(20), SqlType::Text));
        assert!(says_more(SqlType::Jsonb, SqlType::Json));
        assert!(says_more(
            SqlType::Timestamp { precision: 3 },
            SqlType::Timestamp { precision: 6 }
        ));
        let array: SqlType = "character varying(3)[]".parse().unwrap();
        assert!(says_more(array, "text[]".parse().unwrap()));
        assert!(!says_more(array, SqlType::Text));
        assert!(says_more(SqlType::Daterange, SqlType::Text));
        assert!(says_more(SqlType::Bit { length: 1 }, SqlType::Bool));
        assert!(!says_more(SqlType::Int4, SqlType::Text));
        assert!(!says_more(SqlType::Text, length(20)));
        assert!(!says_more(SqlType::Uuid, SqlType::Text));
    }
}
