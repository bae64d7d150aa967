//! Names and values in SQL text.

use hutong_schemas::table::TableId;

/// Quotes an identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string. The form `E'…'` is read alike under every `standard_conforming_strings`.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Quotes a table's name.
pub(crate) fn table(id: &TableId) -> String {
    format!("{}.{}", identifier(&id.schema), identifier(&id.table))
}

/// Quotes several names and joins them by commas.
pub(crate) fn identifiers<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().map(identifier).collect();
    names.join(", ")
}

/// Returns a name as a person would type it in SQL: quoted only where it must be.
pub(crate) fn readable(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        name.to_owned()
    } else {
        identifier(name)
    }
}

/// Returns a table's name as a person would type it in SQL.
pub(crate) fn readable_table(id: &TableId) -> String {
    format!("{}.{}", readable(&id.schema), readable(&id.table))
}
