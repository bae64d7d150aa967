//! The types of a record's fields as a schema writes them, attribute by attribute in the order of
//! Confluent's converter.

use serde_json::Value;

use crate::form::{self, Form, SQL_TYPE_ATTRIBUTE};
use crate::json_text::Object;
use crate::sql_type::SqlType;

/// A field to be written.
#[derive(Clone, Copy)]
pub(crate) struct Field<'f> {
    pub(crate) name: &'f str,
    pub(crate) sql_type: SqlType,
    /// Of an enum, or of an array of enums.
    pub(crate) labels: &'f [String],
    pub(crate) nullable: bool,
    pub(crate) default: Option<&'f Value>,
}

/// Writes the types of a record's fields; a named type is written out once and then by its name.
#[derive(Default)]
pub(crate) struct TypeWriter {
    /// Whether types carry [`SQL_TYPE_ATTRIBUTE`].
    marks_sql_types: bool,
    /// The full names of the named types that were written out.
    written: Vec<&'static str>,
}

impl TypeWriter {
    pub(crate) fn marking_sql_types() -> Self {
        Self {
            marks_sql_types: true,
            written: Vec::new(),
        }
    }

    /// Returns a field with its type, in Connect's rules for what is optional and has a default.
    pub(crate) fn field(&mut self, field: Field<'_>) -> String {
        let Field {
            name,
            sql_type,
            default,
            ..
        } = field;
        let form = Form::of(sql_type);
        let nullable = field.nullable || (form.is_always_optional() && !self.marks_sql_types);
        // A named type is shared by fields of several SQL types, so there the field is marked; and
        // so it is where the type is an array.
        let marks_field = self.marks_sql_types && (form.is_record() || form.is_composite());
        let marks_type = self.marks_sql_types && !marks_field;
        let value_type = self.value_type(field, marks_type);
        let field = Object::new().text("name", name);
        let field = match (nullable, default) {
            (false, None) => field.raw("type", value_type),
            (false, Some(default)) => field.raw("type", value_type).raw("default", default),
            (true, None) => field
                .raw("type", format_args!("[\"null\",{value_type}]"))
                .raw("default", "null"),
            (true, Some(default)) => field
                .raw("type", format_args!("[{value_type},\"null\"]"))
                .raw("default", default),
        };
        if marks_field {
            field.text(SQL_TYPE_ATTRIBUTE, &sql_type.to_string()).end()
        } else {
            field.end()
        }
    }

    fn value_type(&mut self, field: Field<'_>, marks: bool) -> String {
        let form = Form::of(field.sql_type);
        match form {
            Form::Array { element } => {
                let items = Field {
                    sql_type: element.into(),
                    default: None,
                    ..field
                };
                let items = self.value_type(items, false);
                Object::new()
                    .text("type", "array")
                    .raw("items", format_args!("[\"null\",{items}]"))
                    .end()
            }
            _ if form.is_record() => self.record(form, ""),
            _ => self.primitive(field, form, marks),
        }
    }

    fn primitive(&self, field: Field<'_>, form: Form, marks: bool) -> String {
        let Field {
            sql_type, default, ..
        } = field;
        // Whoever reads a view is told nothing of labels that none of its rows has.
        let hides_labels = sql_type == SqlType::Enum && self.marks_sql_types;
        let name = form::connect_name(sql_type).filter(|_| !hides_labels);
        if name.is_none() && default.is_none() && form != Form::Int16 && !marks {
            return format!("\"{}\"", form.avro_type());
        }
        let mut object = Object::new().text("type", form.avro_type());
        if let Form::Decimal { scale } = form {
            // Connect announces 64 where it knows no precision, as for money.
            let precision = match sql_type {
                SqlType::Numeric { precision, .. } => Some(precision),
                _ => None,
            };
            let parameters = Object::new().text("scale", &scale.to_string());
            let parameters = match precision {
                Some(precision) => {
                    parameters.text("connect.decimal.precision", &precision.to_string())
                }
                None => parameters,
            };
            object = object
                .raw("scale", scale)
                .raw("precision", precision.unwrap_or(64))
                .raw("connect.version", 1)
                .raw("connect.parameters", parameters.end());
        } else if name.is_some() {
            object = object.raw("connect.version", 1);
        }
        if form == Form::Bits {
            let length = Object::new().text("length", &bits(sql_type).to_string());
            object = object.raw("connect.parameters", length.end());
        } else if sql_type == SqlType::Enum && !hides_labels {
            let allowed = Object::new().text("allowed", &field.labels.join(","));
            object = object.raw("connect.parameters", allowed.end());
        }
        if let Some(default) = default {
            object = object.raw("connect.default", default);
        }
        if let Some(name) = name {
            object = object.text("connect.name", name);
        }
        if form == Form::Int16 {
            object = object.text("connect.type", "int16");
        }
        if marks {
            object = object.text(SQL_TYPE_ATTRIBUTE, &sql_type.to_string());
        }
        if matches!(form, Form::Decimal { .. }) {
            object = object.text("logicalType", "decimal");
        }
        object.end()
    }

    /// Returns a record within a namespace: in full, or by its name if it was written before.
    fn record(&mut self, form: Form, enclosing: &str) -> String {
        let (full, doc) = match form {
            Form::Point => (form::POINT, "Geometry (POINT)"),
            Form::Geometry => (form::GEOMETRY, "Geometry"),
            Form::Circle => (form::CIRCLE, "Geometry (CIRCLE)"),
            Form::Line => (form::LINE, "Geometry (LINE)"),
            _ => (form::VARIABLE_DECIMAL, "Variable scaled decimal"),
        };
        let (namespace, name) = full.rsplit_once('.').unwrap_or_default();
        let is_near = namespace == enclosing;
        if self.written.contains(&full) {
            return format!("\"{}\"", if is_near { name } else { full });
        }
        self.written.push(full);
        let fields = match form {
            Form::Point => POINT_FIELDS.to_owned(),
            Form::Geometry => GEOMETRY_FIELDS.to_owned(),
            Form::Circle => format!(
                r#"[{{"name":"center","type":{}}},{{"name":"radius","type":"double"}}]"#,
                self.record(Form::Point, namespace)
            ),
            Form::Line => LINE_FIELDS.to_owned(),
            _ => VARIABLE_DECIMAL_FIELDS.to_owned(),
        };
        let record = Object::new().text("type", "record").text("name", name);
        let record = if is_near {
            record
        } else {
            record.text("namespace", namespace)
        };
        record
            .raw("fields", fields)
            .text("connect.doc", doc)
            .raw(
                "connect.version",
                if form == Form::Geometry { 2 } else { 1 },
            )
            .text("connect.name", full)
            .end()
    }
}

const VARIABLE_DECIMAL_FIELDS: &str =
    r#"[{"name":"scale","type":"int"},{"name":"value","type":"bytes"}]"#;
const POINT_FIELDS: &str = concat!(
    r#"[{"name":"x","type":"double"},{"name":"y","type":"double"},"#,
    r#"{"name":"wkb","type":["null","bytes"],"default":null},"#,
    r#"{"name":"srid","type":["null","int"],"default":null}]"#,
);
const GEOMETRY_FIELDS: &str = concat!(
    r#"[{"name":"wkb","type":"bytes"},"#,
    r#"{"name":"srid","type":["null","int"],"default":null},"#,
    r#"{"name":"extensions","type":["null",{"type":"map","values":"string"}],"default":null}]"#,
);
const LINE_FIELDS: &str = concat!(
    r#"[{"name":"a","type":"double"},{"name":"b","type":"double"},"#,
    r#"{"name":"c","type":"double"}]"#,
);

/// The number of bits that a schema announces: the largest `int` where there is no limit.
fn bits(sql_type: SqlType) -> u32 {
    match sql_type {
        SqlType::Bit { length }
        | SqlType::Varbit {
            length: Some(length),
        } => length,
        _ => i32::MAX.unsigned_abs(),
    }
}
