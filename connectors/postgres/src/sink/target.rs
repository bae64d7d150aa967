//! What a table must look like to hold an input, and how it differs from what is there.

use hutong_schemas::record::FieldInfo;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableId;

use super::binary::Misfit;
use super::error::Error;
use super::shape::is_widening;

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
        let stored = |fields: &[FieldInfo]| fields.iter().map(stored).collect::<Vec<_>>();
        let (key, row) = (&stored(key), &stored(row));
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
        for field in row.iter().map(stored) {
            match self.columns.iter().find(|known| known.name == field.name) {
                Some(known) if !holds(known.sql_type, field.sql_type) => {
                    differences.push(format!(
                        "column {} was {}, its new schema says {}",
                        field.name, known.sql_type, field.sql_type
                    ));
                }
                Some(_) => {}
                None => {
                    added = true;
                    self.columns.push(FieldInfo {
                        nullable: true,
                        ..field
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
            remedies: Vec::new(),
        }
    }

    pub(super) fn is_key(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    /// Returns the statement that creates the table.
    pub(super) fn create_table(&self) -> String {
        let mut columns: Vec<String> = (0..self.columns.len())
            .map(|index| {
                let field = &self.columns[index];
                // A value may be withdrawn at any time, so none of ours but the key is NOT NULL.
                let null = if self.is_key(index) { " NOT NULL" } else { "" };
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
}

/// Returns a field as its column holds it.
fn stored(field: &FieldInfo) -> FieldInfo {
    FieldInfo {
        sql_type: field.sql_type.stored_as(),
        ..field.clone()
    }
}

/// Quotes an identifier.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a table's name, quoted.
pub(super) fn qualified(table: &TableId) -> String {
    format!("{}.{}", quote(&table.schema), quote(&table.table))
}

/// Returns whether a column of one type holds the values of another, as they come. Records of before a
/// column was made wider may be read after its newest schema was. A mask that is lifted turns the text
/// that stood for a value into the value.
fn holds(known: SqlType, new: SqlType) -> bool {
    let is_bounded = matches!(new, SqlType::Varchar { .. } | SqlType::Char { .. });
    known == new || is_widening(&new.to_string(), &known) || (known == SqlType::Text && is_bounded)
}

/// A target for the tests of what is done with one.
#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    pub(crate) fn field(name: &str, sql_type: SqlType, nullable: bool) -> FieldInfo {
        FieldInfo {
            name: name.to_owned(),
            sql_type,
            nullable,
        }
    }

    pub(crate) fn target() -> Target {
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
}

#[cfg(test)]
mod tests {
    use super::fixture::{field, target};
    use super::*;

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
    fn a_field_that_changes_its_type_is_refused_and_a_new_one_is_nullable() {
        let mut target = target();
        let changed = [field("name", SqlType::Int4, true)];
        assert!(target.clone().extend(&changed).is_err());
        let added = [field("extra", SqlType::Date, false)];
        assert!(target.extend(&added).unwrap());
        assert!(target.columns()[2].nullable);
        assert!(!target.extend(&added).unwrap());
    }

    #[test]
    fn a_record_of_before_its_column_was_made_wider_is_taken() {
        let varchar = |length| SqlType::Varchar {
            length: Some(length),
        };
        let mut wide = target();
        assert!(!wide.extend(&[field("name", varchar(15), true)]).unwrap());
        assert_eq!(wide, target(), "the column keeps its type");
        assert!(wide.extend(&[field("name", varchar(21), true)]).is_err());
        let narrow = [field("id", SqlType::Int2, false)];
        assert!(!wide.extend(&narrow).unwrap());
    }

    #[test]
    fn a_value_whose_mask_is_lifted_goes_where_its_mask_was() {
        let text = field("name", SqlType::Text, true);
        let clear = field("name", SqlType::Varchar { length: Some(60) }, true);
        let key = [field("id", SqlType::Int4, false)];
        let masked = Target::new(target().table, &key, std::slice::from_ref(&text)).unwrap();
        let mut lifted = masked.clone();
        assert!(!lifted.extend(&[clear]).unwrap());
        assert_eq!(lifted, masked);
        assert!(target().extend(&[text]).is_err());
    }
}
