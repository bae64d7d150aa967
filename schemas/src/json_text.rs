//! JSON objects written property by property, because the order of a schema's properties is kept.

use std::fmt::{Display, Write};

use serde_json::Value;

/// An object under construction.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self(String::from("{"))
    }

    /// Adds a property whose value is a string.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        let value = Value::from(value);
        self.raw(name, value)
    }

    /// Adds a property whose value is JSON already.
    pub(crate) fn raw(mut self, name: &str, value: impl Display) -> Self {
        let separator = if self.0.len() > 1 { "," } else { "" };
        let name = Value::from(name);
        write!(self.0, "{separator}{name}:{value}").expect("writing to a string cannot fail");
        self
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}
