//! Rows of views against apache-avro.

use apache_avro::types::Value;
use hutong_schemas::cell::Cell;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{
    FieldInfo, RecordDecoder, RecordEncoder, ViewField, view_key_schema, view_value_schema,
};
use proptest::prelude::*;

use crate::oracle;
use crate::property::for_seconds;
use crate::random::{self, Owned, cells, same};

fn view() -> impl Strategy<Value = (Vec<ViewField>, Vec<Owned>)> {
    random::table().prop_flat_map(|table| {
        let row = random::row(&table);
        let fields: Vec<_> = table
            .columns
            .iter()
            .map(|column| ViewField {
                name: column.name.clone(),
                sql_type: column.sql_type,
                nullable: column.nullable,
            })
            .collect();
        (Just(fields), row)
    })
}

#[test]
fn view_rows_are_written_as_apache_avro_writes_them_and_read_back() {
    for_seconds(4, &view(), |(fields, row)| {
        for schema in [view_value_schema(&fields), view_key_schema(&fields)] {
            let encoder = RecordEncoder::compile(&schema, SchemaId(5)).unwrap();
            let decoder = RecordDecoder::compile(&schema).unwrap();
            let row_cells = cells(&row);
            let mut message = Vec::new();
            let written = encoder.encode(&row_cells, &mut message);
            if row.contains(&Owned::Unavailable) {
                prop_assert!(written.is_err(), "a view never shows an unknown value");
                prop_assert!(message.is_empty());
                continue;
            }
            written.unwrap();

            let values = fields.iter().zip(&row).map(|(field, cell)| {
                let value = match cell {
                    Owned::Null => Value::Union(0, Box::new(Value::Null)),
                    cell => {
                        let value = random::avro(field.sql_type, cell);
                        if field.nullable {
                            Value::Union(1, Box::new(value))
                        } else {
                            value
                        }
                    }
                };
                (field.name.clone(), value)
            });
            let expected = Value::Record(values.collect());
            prop_assert!(oracle::writes(
                &oracle::parse(&schema),
                &expected,
                &message[5..]
            ));

            let mut read = vec![Cell::Bool(true)];
            decoder.decode(&message, &mut read).unwrap();
            prop_assert!(same(&read, &row_cells));
        }
        Ok(())
    });
}

#[test]
fn the_schema_of_a_view_tells_its_sql_types() {
    for_seconds(1, &view(), |(fields, _)| {
        let decoder = RecordDecoder::compile(&view_value_schema(&fields)).unwrap();
        let expected: Vec<FieldInfo> = fields
            .into_iter()
            .map(|field| FieldInfo {
                name: field.name,
                sql_type: field.sql_type,
                nullable: field.nullable,
            })
            .collect();
        prop_assert_eq!(decoder.fields(), expected);
        Ok(())
    });
}
