//! Arrays, in both forms in which they are sent: binary in a COPY, text as an element of a parameter,
//! because no parameter is an array of arrays.

use hutong_schemas::cell::Cell;
use hutong_schemas::composite::elements;
use hutong_schemas::sql_type::{Element, SqlType};

use super::{Misfit, element, wire_types};
use crate::value_text;

/// Writes dimensions, whether there are NULLs, the element type; the length and the lower bound; the
/// elements (`array_recv`). An empty array has no dimensions.
pub(super) fn put(of: Element, cell: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
    let element_type = SqlType::from(of);
    let mut count = 0_i32;
    let mut has_nulls = false;
    let mut body = Vec::new();
    for item in elements(of, cell) {
        let item = item.map_err(|_| Misfit::Kind)?;
        has_nulls |= matches!(item, Cell::Null);
        element(&element_type, &item, &mut body)?;
        count = count.checked_add(1).ok_or(Misfit::Range)?;
    }
    let dimensions = i32::from(count > 0);
    out.extend_from_slice(&dimensions.to_be_bytes());
    out.extend_from_slice(&i32::from(has_nulls).to_be_bytes());
    out.extend_from_slice(&wire_types(&element_type).0.oid().to_be_bytes());
    if count > 0 {
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&1_i32.to_be_bytes());
        out.extend_from_slice(&body);
    }
    Ok(())
}

/// Returns the array as the server reads it from text.
pub(in super::super) fn text(of: Element, cell: &[u8]) -> Result<String, Misfit> {
    let element_type = SqlType::from(of);
    let mut text = String::from("{");
    for item in elements(of, cell) {
        if text.len() > 1 {
            text.push(',');
        }
        match item.map_err(|_| Misfit::Kind)? {
            Cell::Null => text.push_str("NULL"),
            item => {
                let item = value_text::text(&element_type, &item).ok_or(Misfit::Kind)?;
                text.push('"');
                for char in item.chars() {
                    if matches!(char, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(char);
                }
                text.push('"');
            }
        }
    }
    text.push('}');
    Ok(text)
}
