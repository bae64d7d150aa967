//! What a table must look like to hold an input, and how it differs from what is there.

use hutong_schemas::record::FieldInfo;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableId;

use super::binary::Misfit;
use super::error::Error;

/// An input and the table that is kept equal to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    table: TableId,
    columns: Vec<FieldInfo>,
    key: Vec<usize>,
}

impl Target {
    /// Returns the target of an input with these key fields and row fields. Key fields that the row
    /// lacks, such as a hidden key, come first.
    ///
    /// # Errors
    ///
    /// Definite, when there is no key, a type cannot be compared, or the table would have too many
    /// columns.
    pub fn new(table: TableId, key: &[FieldInfo], row: &[FieldInfo]) -> Result<Self, Error> {
        let in_row = |field: &&FieldInfo| row.iter().any(|known| known.name == field.name);
        let hidden = key.iter().filter(|field| !in_row(field));
        let columns: Vec<FieldInfo> = hidden.chain(row).cloned().collect();
        if key.is_empty() {
            return Err(Error::NoKey { table });
        }
        let position = |field: &FieldInfo| columns.iter().position(|c| c.name == field.name);
        let key = key
            .iter()
            .map(|field| {
                position(field).expect("each key field is in the row or was put before it")
            })
            .collect();
        Ok(Self {
            table,
            columns,
            key,
        })
    }

    /// Returns the table.
    #[must_use]
    pub fn table(&self) -> &TableId {
        &self.table
    }

    /// Returns the columns that the sink writes.
    #[must_use]
    pub fn columns(&self) -> &[FieldInfo] {
        &self.columns
    }

    /// Returns the indices of the key's columns.
    #[must_use]
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// Adds the fields that a newer schema of the input has, as nullable columns, and returns
    /// whether there were any.
    ///
    /// # Errors
    ///
    /// Definite, when a field has another type than before.
    pub fn extend(&mut self, row: &[FieldInfo]) -> Result<bool, Error> {
        let mut differences = Vec::new();
        let mut added = false;
        for field in row {
            match self.columns.iter().find(|known| known.name == field.name) {
                Some(known) if known.sql_type != field.sql_type => differences.push(format!(
                    "column {} was {}, its new schema says {}",
                    field.name, known.sql_type, field.sql_type
                )),
                Some(_) => {}
                None => {
                    added = true;
                    self.columns.push(FieldInfo {
                        nullable: true,
                        ..field.clone()
                    });
                }
            }
        }
        if differences.is_empty() {
            Ok(added)
        } else {
            Err(self.incompatible(differences))
        }
    }

    pub(super) fn misfit(&self, column: usize, source: Misfit) -> Error {
        Error::Value {
            table: self.table.clone(),
            column: self.columns[column].name.clone(),
            sql_type: self.columns[column].sql_type,
            source,
        }
    }

    fn incompatible(&self, differences: Vec<String>) -> Error {
        Error::Incompatible {
            table: self.table.clone(),
            differences,
        }
    }

    fn is_key(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    /// Returns the statement that creates the table.
    pub(super) fn create_table(&self) -> String {
        let mut columns: Vec<String> = (0..self.columns.len())
            .map(|index| {
                let field = &self.columns[index];
                let null = if field.nullable && !self.is_key(index) {
                    ""
                } else {
                    " NOT NULL"
                };
                format!("{} {}{null}", quote(&field.name), field.sql_type)
            })
            .collect();
        let key: Vec<_> = self.key_names().map(quote).collect();
        columns.push(format!("PRIMARY KEY ({})", key.join(", ")));
        format!(
            "CREATE TABLE {} ({})",
            qualified(&self.table),
            columns.join(", ")
        )
    }

    pub(super) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key
            .iter()
            .map(|index| self.columns[*index].name.as_str())
    }

    /// Compares with the table that is there.
    ///
    /// # Errors
    ///
    /// Definite, with all differences.
    pub(super) fn reconcile(&self, existing: &Existing) -> Result<Vec<&FieldInfo>, Error> {
        let mut missing = Vec::new();
        let mut differences = Vec::new();
        for (index, field) in self.columns.iter().enumerate() {
            match existing.columns.iter().find(|c| c.name == field.name) {
                None if self.is_key(index) => differences.push(format!(
                    "column {} is missing, which is part of the key",
                    field.name
                )),
                None => missing.push(field),
                Some(column) if !holds(&column.format_type, &field.sql_type) => {
                    differences.push(format!(
                        "column {} is {}, it must be {}",
                        field.name, column.format_type, field.sql_type
                    ));
                }
                Some(column) if column.not_null && field.nullable && !self.is_key(index) => {
                    differences.push(format!(
                        "column {} is NOT NULL, it must take NULL",
                        field.name
                    ));
                }
                Some(_) => {}
            }
        }
        for column in &existing.columns {
            let is_ours = self.columns.iter().any(|field| field.name == column.name);
            if !is_ours && column.not_null && !column.has_default {
                differences.push(format!(
                    "column {} {} is NOT NULL without a default, and is not delivered",
                    column.name, column.format_type
                ));
            }
        }
        let mut wanted: Vec<_> = self.key_names().collect();
        wanted.sort_unstable();
        if !existing.unique_keys.iter().any(|key| *key == wanted) {
            differences.push(format!(
                "there is no primary key or unique index on exactly ({})",
                wanted.join(", ")
            ));
        }
        if differences.is_empty() {
            Ok(missing)
        } else {
            Err(self.incompatible(differences))
        }
    }
}

/// A table as the catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) columns: Vec<ExistingColumn>,
    /// The column names, sorted, of each index that `ON CONFLICT` can use.
    pub(super) unique_keys: Vec<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExistingColumn {
    pub(super) name: String,
    pub(super) format_type: String,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
}

/// Returns whether a column of a type, as `format_type` writes it, holds every value of the wanted
/// type and gives it back unchanged.
fn holds(existing: &str, wanted: &SqlType) -> bool {
    let same = |sql_type: &SqlType| plain(&sql_type.to_string()) == plain(existing);
    if same(wanted) {
        return true;
    }
    match wanted {
        SqlType::Int2 => existing == "integer" || existing == "bigint",
        SqlType::Int4 => existing == "bigint",
        SqlType::Numeric { .. } => existing == "numeric",
        SqlType::Varchar { length } => {
            let is_wider = modifier(existing, "character varying")
                .zip(*length)
                .is_some_and(|(existing, wanted)| existing >= wanted);
            existing == "text" || existing == "character varying" || is_wider
        }
        SqlType::Text => existing == "character varying",
        SqlType::Time { .. } => existing == "time without time zone",
        SqlType::Timestamp { .. } => existing == "timestamp without time zone",
        SqlType::Timestamptz { .. } => existing == "timestamp with time zone",
        SqlType::Bool
        | SqlType::Int8
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::NumericUnscaled
        | SqlType::Char { .. }
        | SqlType::Bytea
        | SqlType::Date
        | SqlType::Uuid
        | SqlType::Json
        | SqlType::Jsonb => false,
    }
}

/// A precision of six digits is what the types of time have without one.
fn plain(format_type: &str) -> String {
    if format_type.starts_with("time") {
        format_type.replace("(6)", "")
    } else {
        format_type.to_owned()
    }
}

fn modifier(format_type: &str, name: &str) -> Option<u32> {
    let rest = format_type.strip_prefix(name)?;
    rest.strip_prefix('(')?.strip_suffix(')')?.parse().ok()
}

/// Quotes an identifier.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a table's name, quoted.
pub(super) fn qualified(table: &TableId) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, sql_type: SqlType, nullable: bool) -> FieldInfo {
        FieldInfo {
            name: name.to_owned(),
            sql_type,
            nullable,
        }
    }

    fn target() -> Target {
        let table = TableId {
            schema: "s".to_owned(),
            table: "t".to_owned(),
        };
        let key = [field("id", SqlType::Int4, false)];
        let row = [
            field("id", SqlType::Int4, false),
            field("name", SqlType::Varchar { length: Some(20) }, true),
        ];
        Target::new(table, &key, &row).unwrap()
    }

    fn existing(columns: &[(&str, &str, bool, bool)], key: &[&str]) -> Existing {
        Existing {
            columns: columns
                .iter()
                .map(
                    |(name, format_type, not_null, has_default)| ExistingColumn {
                        name: (*name).to_owned(),
                        format_type: (*format_type).to_owned(),
                        not_null: *not_null,
                        has_default: *has_default,
                    },
                )
                .collect(),
            unique_keys: vec![key.iter().map(|name| (*name).to_owned()).collect()],
        }
    }

    #[test]
    fn the_table_is_created_from_the_sql_types_with_the_record_key_as_primary_key() {
        assert_eq!(
            target().create_table(),
            r#"CREATE TABLE "s"."t" ("id" integer NOT NULL, "name" character varying(20), PRIMARY KEY ("id"))"#
        );
    }

    #[test]
    fn a_hidden_key_becomes_the_first_column() {
        let key = [field("_rk", SqlType::Text, false)];
        let row = [field("name", SqlType::Text, true)];
        let table = target().table;
        let target = Target::new(table, &key, &row).unwrap();
        assert_eq!(
            target.create_table(),
            r#"CREATE TABLE "s"."t" ("_rk" text NOT NULL, "name" text, PRIMARY KEY ("_rk"))"#
        );
    }

    #[test]
    fn a_wider_column_holds_a_narrower_one_and_nothing_else_does() {
        let varchar = SqlType::Varchar { length: Some(20) };
        assert!(holds("text", &varchar));
        assert!(holds("character varying(30)", &varchar));
        assert!(!holds("character varying(10)", &varchar));
        assert!(!holds("text", &SqlType::Char { length: 3 }));
        assert!(holds("bigint", &SqlType::Int2));
        assert!(!holds("integer", &SqlType::Int8));
        let timestamp = |precision| SqlType::Timestamp { precision };
        assert!(holds("timestamp without time zone", &timestamp(6)));
        assert!(holds("timestamp without time zone", &timestamp(3)));
        assert!(!holds("timestamp(0) without time zone", &timestamp(6)));
        assert!(!holds("timestamp with time zone", &timestamp(6)));
        let numeric = SqlType::Numeric {
            precision: 6,
            scale: 2,
        };
        assert!(!holds("numeric(8,2)", &numeric));
        assert!(holds("numeric(6,2)", &numeric));
    }

    #[test]
    fn every_difference_is_named_with_column_and_types() {
        let existing = existing(
            &[
                ("id", "text", true, false),
                ("name", "character varying(5)", false, false),
                ("owner", "text", true, false),
            ],
            &["name"],
        );
        let error = target().reconcile(&existing).unwrap_err().to_string();
        for part in [
            "column id is text, it must be integer",
            "column name is character varying(5), it must be character varying(20)",
            "column owner text is NOT NULL without a default",
            "no primary key or unique index on exactly (id)",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn columns_of_the_subscriber_may_stand_beside_ours() {
        let existing = existing(
            &[
                ("id", "integer", true, false),
                ("seen", "timestamp with time zone", true, true),
            ],
            &["id"],
        );
        let target = target();
        let missing = target.reconcile(&existing).unwrap();
        assert_eq!(missing, [&target.columns()[1]]);
    }

    #[test]
    fn a_field_that_changes_its_type_is_refused_and_a_new_one_is_nullable() {
        let mut target = target();
        let changed = [field("name", SqlType::Int4, true)];
        assert!(target.clone().extend(&changed).is_err());
        let added = [field("extra", SqlType::Date, false)];
        assert!(target.extend(&added).unwrap());
        assert!(target.columns()[2].nullable);
        assert!(!target.extend(&added).unwrap());
    }
}
