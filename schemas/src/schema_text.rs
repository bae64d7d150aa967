//! Reading an Avro schema with its attributes.
//!
//! apache-avro's own types drop the attributes of primitive types (`connect.name` above all), and
//! these say what a column is; so plans are compiled from the JSON itself.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::Error;
use crate::codec::{Column, Nullability};
use crate::form::{self, Form, SQL_TYPE_ATTRIBUTE};
use crate::sql_type::SqlType;

pub(crate) type Object = Map<String, Value>;

/// A schema's text and where in it each named type stands.
pub(crate) struct Schema {
    root: Value,
}

/// Named types by full name, with the namespace in which their inner names are looked up.
pub(crate) struct Names<'s>(HashMap<String, (&'s Object, String)>);

/// A type with the references to it followed and the wrapping `{"type": …}` taken off.
#[derive(Clone, Debug)]
pub(crate) enum Type<'s> {
    /// `null`, `int`, …, and the attributes it carries.
    Primitive(&'s str, Option<&'s Object>),
    /// A record and its namespace.
    Record(&'s Object, String),
    Fixed(&'s Object),
    Enum(&'s Object),
    Union(&'s [Value], String),
    /// An array's items or a map's values, whose namespace follows.
    Array(&'s Value, String),
    Map(&'s Value, String),
}

impl Schema {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let root = serde_json::from_str(text)
            .map_err(|error| Error::Schema(format!("it is not JSON: {error}")))?;
        Ok(Self { root })
    }

    pub(crate) fn names(&self) -> Result<Names<'_>, Error> {
        let mut names = Names(HashMap::new());
        names.collect(&self.root, "")?;
        Ok(names)
    }

    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Returns the record that the schema is.
    pub(crate) fn record<'s>(&'s self, names: &Names<'s>) -> Result<(&'s Object, String), Error> {
        match names.resolve(&self.root, "")? {
            Type::Record(record, namespace) => Ok((record, namespace)),
            _ => Err(Error::Schema("it is not a record".to_owned())),
        }
    }
}

impl<'s> Names<'s> {
    fn collect(&mut self, schema: &'s Value, namespace: &str) -> Result<(), Error> {
        match schema {
            Value::Array(branches) => {
                for branch in branches {
                    self.collect(branch, namespace)?;
                }
            }
            Value::Object(object) => self.collect_object(object, namespace)?,
            _ => {}
        }
        Ok(())
    }

    fn collect_object(&mut self, object: &'s Object, namespace: &str) -> Result<(), Error> {
        match object.get("type") {
            Some(Value::String(kind)) => match kind.as_str() {
                "record" | "error" | "enum" | "fixed" => {
                    let name = full_name(object, namespace)?;
                    let inner = name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
                    let inner = inner.to_owned();
                    if self.0.insert(name, (object, inner.clone())).is_some() {
                        return Err(Error::Schema("a name is defined twice".to_owned()));
                    }
                    if let Some(Value::Array(fields)) = object.get("fields") {
                        for field in fields {
                            if let Some(field_type) = field.get("type") {
                                self.collect(field_type, &inner)?;
                            }
                        }
                    }
                }
                "array" | "map" => {
                    for property in ["items", "values"] {
                        if let Some(inner) = object.get(property) {
                            self.collect(inner, namespace)?;
                        }
                    }
                }
                _ => {}
            },
            Some(inner) => self.collect(inner, namespace)?,
            None => {}
        }
        Ok(())
    }

    pub(crate) fn resolve(&self, schema: &'s Value, namespace: &str) -> Result<Type<'s>, Error> {
        match schema {
            Value::String(name) => self.resolve_name(name, None, namespace),
            Value::Array(branches) => Ok(Type::Union(branches, namespace.to_owned())),
            Value::Object(object) => match object.get("type") {
                Some(Value::String(name)) => self.resolve_name(name, Some(object), namespace),
                Some(inner) => self.resolve(inner, namespace),
                None => Err(Error::Schema("a type has no \"type\"".to_owned())),
            },
            _ => Err(Error::Schema(
                "a type is neither text nor object".to_owned(),
            )),
        }
    }

    fn resolve_name(
        &self,
        name: &'s str,
        object: Option<&'s Object>,
        namespace: &str,
    ) -> Result<Type<'s>, Error> {
        let defined = |object: &'s Object| full_name(object, namespace);
        match (name, object) {
            (
                "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string",
                object,
            ) => Ok(Type::Primitive(name, object)),
            ("array", Some(object)) => {
                Ok(Type::Array(part(object, "items")?, namespace.to_owned()))
            }
            ("map", Some(object)) => Ok(Type::Map(part(object, "values")?, namespace.to_owned())),
            ("record" | "error" | "enum" | "fixed", Some(object)) => self.named(&defined(object)?),
            _ => {
                let full = if name.contains('.') || namespace.is_empty() {
                    name.to_owned()
                } else {
                    format!("{namespace}.{name}")
                };
                self.named(&full)
            }
        }
    }

    fn named(&self, full_name: &str) -> Result<Type<'s>, Error> {
        let (object, namespace) = self
            .0
            .get(full_name)
            .ok_or_else(|| Error::Schema(format!("the type \"{full_name}\" is not defined")))?;
        Ok(match object.get("type").and_then(Value::as_str) {
            Some("enum") => Type::Enum(object),
            Some("fixed") => Type::Fixed(object),
            _ => Type::Record(object, namespace.clone()),
        })
    }

    /// Returns a record's fields: name and type.
    pub(crate) fn fields(record: &'s Object) -> Result<Vec<(&'s str, &'s Value)>, Error> {
        let missing = || Error::Schema("a record's field lacks a name or a type".to_owned());
        let fields = record.get("fields").and_then(Value::as_array);
        fields
            .ok_or_else(|| Error::Schema("a record has no fields".to_owned()))?
            .iter()
            .map(|field| {
                let name = field.get("name").and_then(Value::as_str);
                let field_type = field.get("type");
                Ok((name.ok_or_else(missing)?, field_type.ok_or_else(missing)?))
            })
            .collect()
    }

    /// Takes `null` out of a union of two.
    pub(crate) fn nullability(
        &self,
        schema: &'s Value,
        namespace: &str,
    ) -> Result<Option<(Nullability, Type<'s>)>, Error> {
        let (branches, namespace) = match self.resolve(schema, namespace)? {
            Type::Union(branches, namespace) => (branches, namespace),
            single => return Ok(Some((Nullability::Required, single))),
        };
        let [first, second] = branches else {
            return Ok(None);
        };
        let first = self.resolve(first, &namespace)?;
        let second = self.resolve(second, &namespace)?;
        Ok(match (&first, &second) {
            (Type::Primitive("null", _), Type::Primitive("null", _)) => None,
            (Type::Primitive("null", _), _) => Some((Nullability::NullFirst, second)),
            (_, Type::Primitive("null", _)) => Some((Nullability::NullLast, first)),
            _ => None,
        })
    }

    /// Compiles the fields of a flat record.
    pub(crate) fn columns(
        &self,
        record: &'s Object,
        namespace: &str,
    ) -> Result<Vec<Column>, Error> {
        let fields = Self::fields(record)?;
        let objects = record.get("fields").and_then(Value::as_array);
        fields
            .into_iter()
            .zip(objects.into_iter().flatten())
            .map(|((name, field_type), object)| {
                let mark = object.get(SQL_TYPE_ATTRIBUTE).and_then(Value::as_str);
                self.column(name, field_type, mark, namespace)
            })
            .collect()
    }

    fn column(
        &self,
        name: &str,
        field_type: &'s Value,
        field_mark: Option<&str>,
        namespace: &str,
    ) -> Result<Column, Error> {
        let unsupported = || Error::UnsupportedField {
            field: name.to_owned(),
            avro_type: field_type.to_string(),
        };
        let (nullability, value_type) = self
            .nullability(field_type, namespace)?
            .ok_or_else(unsupported)?;
        let derived = self.derived_sql_type(&value_type).ok_or_else(unsupported)?;
        let sql_type = match field_mark.or_else(|| marked_sql_type(&value_type)) {
            None => derived,
            Some(marked) => {
                let marked: SqlType = marked.parse().map_err(|_| unsupported())?;
                if !has_form_of(derived, marked) {
                    return Err(unsupported());
                }
                marked
            }
        };
        Ok(Column::new(name, sql_type, nullability))
    }

    /// Returns the widest SQL type that a Connect schema stands for.
    fn derived_sql_type(&self, value_type: &Type<'s>) -> Option<SqlType> {
        let Type::Array(items, namespace) = value_type else {
            return derived_sql_type(value_type);
        };
        // A cell holds the array with the branches of its elements: they must be as ours.
        let (Nullability::NullFirst, items) = self.nullability(items, namespace).ok()?? else {
            return None;
        };
        let element = derived_sql_type(&items)?.try_into().ok()?;
        Some(SqlType::Array { element })
    }
}

fn part<'s>(object: &'s Object, property: &str) -> Result<&'s Value, Error> {
    let part = object.get(property);
    part.ok_or_else(|| Error::Schema(format!("an array or map has no \"{property}\"")))
}

pub(crate) fn full_name(object: &Object, enclosing: &str) -> Result<String, Error> {
    let name = object.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| Error::Schema("a named type has no name".to_owned()))?;
    if name.contains('.') {
        return Ok(name.to_owned());
    }
    let namespace = object.get("namespace").and_then(Value::as_str);
    Ok(match namespace.unwrap_or(enclosing) {
        "" => name.to_owned(),
        namespace => format!("{namespace}.{name}"),
    })
}

fn attribute<'s>(value_type: &Type<'s>, name: &str) -> Option<&'s str> {
    let object = match value_type {
        Type::Primitive(_, object) => (*object)?,
        Type::Record(object, _) | Type::Fixed(object) | Type::Enum(object) => object,
        Type::Union(..) | Type::Array(..) | Type::Map(..) => return None,
    };
    object.get(name).and_then(Value::as_str)
}

fn marked_sql_type<'s>(value_type: &Type<'s>) -> Option<&'s str> {
    attribute(value_type, SQL_TYPE_ATTRIBUTE)
}

/// Whether values of both types are written alike; digits of a second do not matter to a reader.
fn has_form_of(derived: SqlType, marked: SqlType) -> bool {
    match (Form::of(derived), Form::of(marked)) {
        (Form::ZonedTimestamp { .. }, Form::ZonedTimestamp { .. }) => true,
        (Form::Array { element: derived }, Form::Array { element: marked }) => {
            has_form_of(derived.into(), marked.into())
        }
        (derived, marked) => derived == marked,
    }
}

/// Returns the widest SQL type without parts of its own kind.
fn derived_sql_type(value_type: &Type<'_>) -> Option<SqlType> {
    let connect_name = attribute(value_type, "connect.name");
    let primitive = match value_type {
        Type::Primitive(primitive, _) => *primitive,
        Type::Record(record, _) => return derived_of_record(record),
        _ => return None,
    };
    Some(match (primitive, connect_name) {
        ("boolean", None) => SqlType::Bool,
        ("int", None) => match attribute(value_type, "connect.type") {
            Some("int16" | "int8") => SqlType::Int2,
            _ => SqlType::Int4,
        },
        ("int", Some(form::DATE)) => SqlType::Date,
        ("int", Some(form::TIME)) => SqlType::Time { precision: 3 },
        ("long", None) => SqlType::Int8,
        ("long", Some(form::MICRO_TIME)) => SqlType::Time { precision: 6 },
        ("long", Some(form::TIMESTAMP)) => SqlType::Timestamp { precision: 3 },
        ("long", Some(form::MICRO_TIMESTAMP)) => SqlType::Timestamp { precision: 6 },
        ("float", None) => SqlType::Float4,
        ("double", None) => SqlType::Float8,
        ("bytes", None) => SqlType::Bytea,
        ("bytes", Some(form::DECIMAL)) => decimal(value_type)?,
        ("string", None) => SqlType::Text,
        ("string", Some(form::UUID)) => SqlType::Uuid,
        // JSON and not JSONB, which would not keep the text.
        ("string", Some(form::JSON)) => SqlType::Json,
        ("string", Some(form::ZONED_TIMESTAMP)) => SqlType::Timestamptz { precision: 6 },
        ("string", Some(form::ZONED_TIME)) => SqlType::Timetz { precision: 6 },
        ("string", Some(form::ENUM)) => SqlType::Enum,
        ("string", Some(form::XML)) => SqlType::Xml,
        ("string", Some(form::TSVECTOR)) => SqlType::Tsvector,
        ("string", Some(form::LTREE)) => SqlType::Ltree,
        ("long", Some(form::MICRO_DURATION)) => SqlType::Interval,
        ("bytes", Some(form::BITS)) => SqlType::Varbit {
            length: announced_bits(value_type),
        },
        _ => return None,
    })
}

fn decimal(value_type: &Type<'_>) -> Option<SqlType> {
    let Type::Primitive(_, Some(object)) = value_type else {
        return None;
    };
    let number = |name| object.get(name).and_then(Value::as_u64);
    let scale = i16::try_from(number("scale").unwrap_or(0)).ok()?;
    // Connect announces 64 where it does not know.
    let precision = u16::try_from(number("precision").unwrap_or(64)).ok()?;
    (scale <= 1000 && (1..=1000).contains(&precision))
        .then_some(SqlType::Numeric { precision, scale })
}

/// Returns the length of bits, if it is limited.
fn announced_bits(value_type: &Type<'_>) -> Option<u32> {
    let Type::Primitive(_, Some(object)) = value_type else {
        return None;
    };
    let length = object.get("connect.parameters")?.get("length")?.as_str()?;
    let length: i32 = length.parse().ok()?;
    // One bit is a boolean, and the largest number stands for no limit.
    u32::try_from(length)
        .ok()
        .filter(|length| (2..i32::MAX.unsigned_abs()).contains(length))
}

/// Returns the type of one of Debezium's records, by name and fields.
fn derived_of_record(record: &Object) -> Option<SqlType> {
    let name = record.get("connect.name").and_then(Value::as_str)?;
    let fields = Names::fields(record).ok()?;
    let is_optional = |field_type: &Value, of: &str| {
        let Some([null, value]) = field_type.as_array().map(Vec::as_slice) else {
            return false;
        };
        let kind = value.get("type").unwrap_or(value);
        null == "null"
            && kind == of
            && (of != "map" || value.get("values").is_some_and(|values| values == "string"))
    };
    let has = |wanted: &[(&str, &str)]| {
        fields.len() == wanted.len()
            && fields
                .iter()
                .zip(wanted)
                .all(|((name, field_type), (wanted, kind))| {
                    name == wanted
                        && match kind.strip_suffix('?') {
                            Some(kind) => is_optional(field_type, kind),
                            None => *field_type == kind,
                        }
                })
    };
    let point = [
        ("x", "double"),
        ("y", "double"),
        ("wkb", "bytes?"),
        ("srid", "int?"),
    ];
    match name {
        form::VARIABLE_DECIMAL if has(&[("scale", "int"), ("value", "bytes")]) => {
            Some(SqlType::NumericUnscaled)
        }
        form::POINT if has(&point) => Some(SqlType::Point),
        // What a Geometry is is told by its values.
        form::GEOMETRY if has(&[("wkb", "bytes"), ("srid", "int?"), ("extensions", "map?")]) => {
            Some(SqlType::Path)
        }
        form::LINE if has(&[("a", "double"), ("b", "double"), ("c", "double")]) => {
            Some(SqlType::Line)
        }
        form::CIRCLE => is_circle(&fields).then_some(SqlType::Circle),
        _ => None,
    }
}

/// The centre is a point, written out or by its name.
fn is_circle(fields: &[(&str, &Value)]) -> bool {
    let [("center", center), ("radius", radius)] = fields else {
        return false;
    };
    let is_point = match center {
        Value::String(name) => name == "Point" || name == form::POINT,
        Value::Object(record) => derived_of_record(record) == Some(SqlType::Point),
        _ => false,
    };
    is_point && *radius == "double"
}
