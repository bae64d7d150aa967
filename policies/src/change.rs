//! What a change of a live view asks for: whether the policy can change in place, or must close the
//! view's topic first and refill another.
//!
//! | the change | what follows |
//! |---|---|
//! | condition, validity, title | in place: rows that leave are deleted, rows that enter are inserted |
//! | a column more, a mask that shows everything instead | in place: every row is written again |
//! | a column less, a stronger or another mask | a new generation: what the topic holds must not be read any more |
//! | another key: hidden or not, of other columns, under another key version | a new generation, and other keys |
//!
//! A mask counts as weaker only where every value that it ever showed may be shown now: anything may
//! become clear, and what was NULL may become anything. `SHOW_FIRST 6` is not weaker than
//! `SHOW_FIRST 4`: of a value of five characters the one shows nothing and the other showed four.
//!
//! A column is its place in the catalogue. One of the same name that was dropped and added again is
//! another column, whose former values were granted and whose new ones are.

use hutong_schemas::compatibility::{self, Level};
use hutong_schemas::record::{RecordDecoder, ViewField, view_value_schema};
use hutong_schemas::table::TableSchema;

use crate::document::ViewDocument;
use crate::error::DocumentError;
use crate::mask::Mask;
use crate::plan::{PlannedColumn, ViewPlan, compile};
use crate::task::ViewTask;

/// What becomes of a live view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Columns that were not granted before.
    pub columns_entering: Vec<String>,
    /// Columns that are granted no longer.
    pub columns_leaving: Vec<String>,
    /// Columns of which more is shown now.
    pub columns_clearer: Vec<String>,
    /// Columns that stay and of which less, or something else, is shown now.
    pub columns_masked: Vec<String>,
    /// Whether the condition is another.
    pub condition: bool,
    /// Whether the validity is another.
    pub validity: bool,
    /// Whether anything at all differs, be it the title or the order of columns.
    pub is_any: bool,
    /// Whether rows have other keys now.
    pub rekeyed: bool,
    /// Whether the topic must be closed and another one filled.
    pub needs_generation: bool,
    /// The Avro schema of the view's rows. Within a generation, fields that are new there may be
    /// NULL, by default, and fields that might be NULL still may.
    pub value_schema: String,
}

impl Change {
    /// Returns the columns whose delivered values must not be kept by anybody.
    #[must_use]
    pub fn withdrawn(&self) -> Vec<String> {
        let mut names = self.columns_leaving.clone();
        names.extend(self.columns_masked.iter().cloned());
        names
    }
}

/// Compares a view as it is with a document, compiled to `plan` against `table`, that shall replace
/// its own under a version of the share's key.
///
/// # Errors
/// The fields of the document that a view cannot change, each by its name.
pub fn compare(
    before: &ViewTask,
    document: &ViewDocument,
    table: &TableSchema,
    plan: &ViewPlan,
    share_key_version: u32,
) -> Result<Change, Vec<DocumentError>> {
    let errors = unchangeable(&before.document, document);
    if !errors.is_empty() {
        return Err(errors);
    }
    let old = compile(&before.document, &before.table)?;
    let key_changes = share_key_version != before.share_key_version;
    let is_same_column = |old: &PlannedColumn, new: &PlannedColumn| {
        let (old, new) = (&before.table.columns[old.index], &table.columns[new.index]);
        old.attnum == new.attnum && before.table.oid == table.oid
    };
    let mut change = Change {
        columns_entering: Vec::new(),
        columns_leaving: Vec::new(),
        columns_clearer: Vec::new(),
        columns_masked: Vec::new(),
        condition: before.document.where_ != document.where_,
        validity: before.document.valid_from_ms() != document.valid_from_ms()
            || before.document.valid_until_ms() != document.valid_until_ms(),
        is_any: before.document != *document || before.table != *table || key_changes,
        rekeyed: is_rekeyed(before, &old, table, plan, key_changes),
        needs_generation: false,
        value_schema: plan.value_schema(),
    };
    for column in &plan.columns {
        let name = column.name.clone();
        let Some(was) = old.columns.iter().find(|was| was.name == column.name) else {
            change.columns_entering.push(name);
            continue;
        };
        let another_digest = column.mask == Mask::Hash && key_changes;
        let shows_what_it_showed = was.mask == column.mask && !another_digest;
        let is_weaker = column.mask == Mask::Clear || was.mask == Mask::Null;
        if !is_same_column(was, column) || !(shows_what_it_showed || is_weaker) {
            change.columns_masked.push(name);
        } else if was.mask != column.mask {
            change.columns_clearer.push(name);
        }
    }
    let leaving = old.columns.iter().map(|column| &column.name);
    let leaving = leaving.filter(|name| !plan.columns.iter().any(|column| column.name == **name));
    change.columns_leaving = leaving.cloned().collect();
    change.needs_generation = change.rekeyed || !change.withdrawn().is_empty();
    if !change.needs_generation {
        match continued(&before.value_schema, plan) {
            Some(schema) => change.value_schema = schema,
            // Values of another type cannot follow in the same topic.
            None => change.needs_generation = true,
        }
    }
    Ok(change)
}

fn unchangeable(before: &ViewDocument, document: &ViewDocument) -> Vec<DocumentError> {
    let fields = [
        ("name", &before.name, &document.name),
        ("share", &before.share, &document.share),
        ("source.topic", &before.source.topic, &document.source.topic),
        ("subscriber", &before.subscriber, &document.subscriber),
    ];
    let mut errors = Vec::new();
    for (field, was, wanted) in fields {
        if was != wanted {
            let message = format!(
                "is \"{was}\" and cannot become \"{wanted}\": revoke the view and make another"
            );
            errors.push(DocumentError::new(field, message));
        }
    }
    errors
}

fn is_rekeyed(
    before: &ViewTask,
    old: &ViewPlan,
    table: &TableSchema,
    plan: &ViewPlan,
    key_changes: bool,
) -> bool {
    let columns = |table: &TableSchema, key: &[usize]| -> Vec<(i16, String)> {
        let key = key.iter().map(|index| &table.columns[*index]);
        key.map(|column| (column.attnum, column.name.clone()))
            .collect()
    };
    old.hides_key != plan.hides_key
        || (plan.hides_key && key_changes)
        || columns(&before.table, &old.key) != columns(table, &plan.key)
        || before.key_schema != plan.key_schema()
}

/// Returns the schema with which the rows of a generation go on, or `None` if it must end: a reader
/// of the new schema must be able to read what was written under the old one.
fn continued(before: &str, plan: &ViewPlan) -> Option<String> {
    let decoder = RecordDecoder::compile(before).ok()?;
    let continue_field = |field: &ViewField| {
        let known = decoder
            .fields()
            .iter()
            .find(|known| known.name == field.name);
        ViewField {
            nullable: field.nullable || known.is_none_or(|known| known.nullable),
            ..field.clone()
        }
    };
    let fields: Vec<ViewField> = plan.fields.iter().map(continue_field).collect();
    let schema = view_value_schema(&fields);
    let problems = compatibility::check(Level::Backward, &schema, &[before]).ok()?;
    problems.is_empty().then_some(schema)
}
