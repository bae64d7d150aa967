//! Golden schemas, as others read them.

use hutong_schemas::envelope::event_schemas;
use hutong_schemas::record::{ViewField, view_key_schema, view_value_schema};
use hutong_schemas::table::TableSchema;

use crate::tables;

fn check(name: &str, prefix: &str, table: &TableSchema) {
    let schemas = event_schemas(&format!("{prefix}.{}", table.id), table).unwrap();
    let key = schemas.key.unwrap_or_else(|| "no key".to_owned());
    insta::assert_snapshot!(name, format!("{key}\n{}", schemas.value));
}

#[test]
fn schemas_of_departments_tables_are_golden() {
    check("aic_ent_base", "aic", &tables::ent_base());
    check("stax_dj_nsrxx", "stax", &tables::dj_nsrxx());
}

#[test]
fn the_schema_of_every_type_is_golden() {
    check("every_type", "p", &tables::every_type());
}

#[test]
fn the_schema_of_a_view_is_golden() {
    let mut fields: Vec<ViewField> = tables::every_sql_type()
        .into_iter()
        .enumerate()
        .map(|(index, sql_type)| ViewField {
            name: format!("c{index}"),
            sql_type,
            nullable: index % 2 == 1,
        })
        .collect();
    insta::assert_snapshot!("view_value", view_value_schema(&fields));
    fields.truncate(4);
    insta::assert_snapshot!("view_key", view_key_schema(&fields));
}
