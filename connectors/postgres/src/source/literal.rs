//! Cells as SQL literals, for asking the server for rows by their keys.

use hutong_schemas::cell::Cell;
use hutong_schemas::sql_type::SqlType;

use super::sql;
use crate::value_text;

/// Returns the value as an SQL expression of exactly the column's type. Where that has no name of its
/// own, as an enum, the server takes the type from what the literal is compared with.
pub(crate) fn literal(sql_type: &SqlType, cell: &Cell<'_>) -> String {
    let has_name = sql_type.stored_as() == *sql_type;
    match (value_text::text(sql_type, cell), has_name) {
        (Some(text), true) => format!("{}::{sql_type}", sql::literal(&text)),
        (Some(text), false) => sql::literal(&text),
        (None, true) => format!("NULL::{sql_type}"),
        (None, false) => "NULL".to_owned(),
    }
}
