//! A row as text, for `COPY` and for `INSERT`.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use tokio_postgres::Client;

/// A row of a table: names and values of columns, `None` for NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The table.
    pub table: &'static str,
    /// Columns with their values as text.
    pub fields: Vec<(&'static str, Option<String>)>,
}

/// What can stand in a column.
pub trait Value {
    /// Writes the value as PostgreSQL reads it.
    fn text(self) -> Option<String>;
}

impl Value for &str {
    fn text(self) -> Option<String> {
        Some(self.to_owned())
    }
}

impl Value for String {
    fn text(self) -> Option<String> {
        Some(self)
    }
}

impl<T: Value> Value for Option<T> {
    fn text(self) -> Option<String> {
        self.and_then(Value::text)
    }
}

macro_rules! values_by_display {
    ($($kind:ty),*) => {
        $(impl Value for $kind {
            fn text(self) -> Option<String> {
                Some(self.to_string())
            }
        })*
    };
}
values_by_display!(i32, i64, u32, u64, bool, super::calendar::Day);

impl Row {
    /// Begins a row.
    #[must_use]
    pub fn of(table: &'static str) -> Self {
        Self {
            table,
            fields: Vec::new(),
        }
    }

    /// Adds a column.
    #[must_use]
    pub fn with(mut self, column: &'static str, value: impl Value) -> Self {
        self.fields.push((column, value.text()));
        self
    }

    /// Returns the statement that inserts rows of one table.
    #[must_use]
    pub fn insert(rows: &[Self]) -> String {
        let Some(first) = rows.first() else {
            return String::new();
        };
        let mut sql = format!("INSERT INTO {} ({}) VALUES ", first.table, first.columns());
        for (index, row) in rows.iter().enumerate() {
            let values: Vec<String> = row
                .fields
                .iter()
                .map(|(_, value)| literal(value.as_deref()))
                .collect();
            let comma = if index == 0 { "" } else { ", " };
            let _infallible = write!(sql, "{comma}({})", values.join(", "));
        }
        sql
    }

    /// Returns the statement that sets these columns in the row that `condition` names.
    #[must_use]
    pub fn update(self, condition: &str) -> String {
        let changes: Vec<String> = self
            .fields
            .iter()
            .map(|(column, value)| format!("{column} = {}", literal(value.as_deref())))
            .collect();
        format!(
            "UPDATE {} SET {} WHERE {condition}",
            self.table,
            changes.join(", ")
        )
    }

    fn columns(&self) -> String {
        let names: Vec<&str> = self.fields.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    fn copy_line(&self, out: &mut String) {
        for (index, (_, value)) in self.fields.iter().enumerate() {
            if index > 0 {
                out.push('\t');
            }
            let Some(value) = value else {
                out.push_str("\\N");
                continue;
            };
            for letter in value.chars() {
                match letter {
                    '\\' => out.push_str("\\\\"),
                    '\t' => out.push_str("\\t"),
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    other => out.push(other),
                }
            }
        }
        out.push('\n');
    }
}

/// Writes a value as a literal, which PostgreSQL gives the column's type.
#[must_use]
pub fn literal(value: Option<&str>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) => format!("'{}'", text.replace('\'', "''")),
    }
}

/// Writes rows into their tables, in the order in which the tables first appear.
pub(super) async fn copy(client: &Client, rows: &[Row]) -> Result<()> {
    let mut tables: Vec<&'static str> = Vec::new();
    for row in rows {
        if !tables.contains(&row.table) {
            tables.push(row.table);
        }
    }
    for table in tables {
        let mut lines = String::new();
        let mut columns = String::new();
        for row in rows.iter().filter(|row| row.table == table) {
            if columns.is_empty() {
                columns = row.columns();
            }
            row.copy_line(&mut lines);
        }
        copy_lines(
            client,
            &format!("COPY {table} ({columns}) FROM STDIN"),
            &lines,
        )
        .await
        .with_context(|| format!("table {table}"))?;
    }
    Ok(())
}

async fn copy_lines(client: &Client, statement: &str, lines: &str) -> Result<()> {
    use futures::SinkExt as _;
    let sink = client.copy_in(statement).await?;
    let mut sink = std::pin::pin!(sink);
    sink.send(bytes::Bytes::copy_from_slice(lines.as_bytes()))
        .await?;
    sink.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_null_is_a_word() {
        let row = Row::of("t")
            .with("a", "O'Neil")
            .with("b", None::<&str>)
            .with("c", 7);
        assert_eq!(
            Row::insert(std::slice::from_ref(&row)),
            "INSERT INTO t (a, b, c) VALUES ('O''Neil', NULL, '7')"
        );
        assert_eq!(
            row.update("a = 1"),
            "UPDATE t SET a = 'O''Neil', b = NULL, c = '7' WHERE a = 1"
        );
    }
}
