//! A document compiled against one table: what the view's records look like and how rows become them.

use hutong_schemas::record::{ViewField, view_key_schema, view_value_schema};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableSchema;

use crate::condition::{self, Condition};
use crate::document::ViewDocument;
use crate::error::DocumentError;
use crate::mask::Mask;
use crate::row_key::ROW_KEY;
use crate::text;

/// What a document means for a table.
#[derive(Debug)]
pub struct ViewPlan {
    /// The fields of the view's rows: `_rk` first if the key is hidden, then the columns in the
    /// document's order.
    pub fields: Vec<ViewField>,
    /// The fields of the view's keys: the table's key, or `_rk`.
    pub key_fields: Vec<ViewField>,
    /// The columns that leave.
    pub columns: Vec<PlannedColumn>,
    /// The table's key columns, as indices into its columns.
    pub key: Vec<usize>,
    /// Whether the key is hidden behind `_rk`.
    pub hides_key: bool,
    /// Which rows leave; `None` is all.
    pub condition: Option<Condition>,
}

/// A column that leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedColumn {
    /// Index into the table's columns.
    pub index: usize,
    /// The column's type in the table.
    pub sql_type: SqlType,
    /// The name.
    pub name: String,
    /// The mask.
    pub mask: Mask,
}

impl ViewPlan {
    /// Returns the Avro schema of the view's keys.
    #[must_use]
    pub fn key_schema(&self) -> String {
        view_key_schema(&self.key_fields)
    }

    /// Returns the Avro schema of the view's rows.
    #[must_use]
    pub fn value_schema(&self) -> String {
        view_value_schema(&self.fields)
    }

    /// Returns whether applying the view needs the worker's master secret.
    #[must_use]
    pub fn needs_secret(&self) -> bool {
        self.hides_key || self.columns.iter().any(|column| column.mask == Mask::Hash)
    }

    /// Returns the columns of the table that the view looks at: granted, in the key, or in the
    /// condition.
    #[must_use]
    pub fn used_columns(&self) -> Vec<usize> {
        let mut used: Vec<usize> = self.columns.iter().map(|column| column.index).collect();
        used.extend(&self.key);
        used.extend(self.condition.iter().flat_map(Condition::columns));
        used.sort_unstable();
        used.dedup();
        used
    }
}

/// Compiles a document against its table.
///
/// # Errors
/// All mistakes together, each with the field of the document and, where there is one, the column.
pub fn compile(
    document: &ViewDocument,
    table: &TableSchema,
) -> Result<ViewPlan, Vec<DocumentError>> {
    let mut errors = document.check();
    if table.key.is_empty() {
        errors.push(DocumentError::new(
            "source.topic",
            format!(
                "table {table} has no primary key, so no view can stand on it; once its owner has made one \
                 (ALTER TABLE {table} ADD PRIMARY KEY (…)), capture it anew under another topic.prefix",
                table = table.id
            ),
        ));
    }
    let columns = plan_columns(document, table, &mut errors);
    let condition = document.where_.as_deref().and_then(|text| {
        condition::compile(text, table)
            .map_err(|message| errors.push(DocumentError::new("where", message.to_string())))
            .ok()
    });
    let is_clear = |key: &usize| {
        let mut granted = columns.iter().filter(|column| column.index == *key);
        granted.any(|column| column.mask == Mask::Clear)
    };
    let hides_key = !table.key.iter().all(is_clear);
    if hides_key && columns.iter().any(|column| column.name == ROW_KEY) {
        errors.push(DocumentError::new(
            "columns",
            format!("column \"{ROW_KEY}\" cannot be granted together with a hidden key, which takes this name"),
        ));
    }
    for key in table.key.iter().filter(|_| hides_key) {
        let column = &table.columns[*key];
        if !text::has_text(column.sql_type) {
            let problem = "cannot be hidden in the row's key";
            let (name, sql_type) = (&column.name, column.sql_type);
            errors.push(DocumentError::new(
                "columns",
                format!(
                    "column \"{name}\" of type {sql_type} {problem}: grant the whole key as it is"
                ),
            ));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let row_key = ViewField {
        name: ROW_KEY.to_owned(),
        sql_type: SqlType::Text,
        nullable: false,
    };
    let key_fields = if hides_key {
        vec![row_key.clone()]
    } else {
        let field = |key: &usize| ViewField {
            name: table.columns[*key].name.clone(),
            sql_type: table.columns[*key].sql_type,
            nullable: false,
        };
        table.key.iter().map(field).collect()
    };
    let mut fields = Vec::with_capacity(columns.len() + 1);
    if hides_key {
        fields.push(row_key);
    }
    fields.extend(columns.iter().map(|column| ViewField {
        name: column.name.clone(),
        sql_type: column.mask.output_type(column.sql_type),
        nullable: table.columns[column.index].nullable || column.mask.makes_null(),
    }));
    Ok(ViewPlan {
        fields,
        key_fields,
        columns,
        key: table.key.clone(),
        hides_key,
        condition,
    })
}

fn plan_columns(
    document: &ViewDocument,
    table: &TableSchema,
    errors: &mut Vec<DocumentError>,
) -> Vec<PlannedColumn> {
    let mut planned = Vec::with_capacity(document.columns.len());
    for (position, granted) in document.columns.iter().enumerate() {
        let found = table
            .columns
            .iter()
            .position(|column| column.name == granted.name);
        let Some(index) = found else {
            errors.push(DocumentError::new(
                format!("columns[{position}].name"),
                format!("table {} has no column \"{}\"", table.id, granted.name),
            ));
            continue;
        };
        let sql_type = table.columns[index].sql_type;
        // A mask that cannot be read was reported by `ViewDocument::check`.
        let Ok(mask) = granted.mask.as_deref().unwrap_or("CLEAR").parse::<Mask>() else {
            continue;
        };
        if let Err(message) = mask.check(sql_type) {
            errors.push(DocumentError::new(
                format!("columns[{position}].mask"),
                format!("column \"{}\": {message}", granted.name),
            ));
        }
        planned.push(PlannedColumn {
            index,
            sql_type,
            name: granted.name.clone(),
            mask,
        });
    }
    planned
}
