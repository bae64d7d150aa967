//! Avro's schema resolution: whether one schema reads all data written with another.
//!
//! The rules are those of the specification's section "Schema Resolution". apache-avro has a check
//! too, and it is the oracle of ours in tests; but it answers "partly" wherever a union is in
//! between, as around every nullable column, and cannot say which column it was. Two points are
//! stricter than the specification, because a reader would get wrong numbers: decimals must agree
//! in scale, and a decimal is not read as plain bytes or the other way round.

use std::collections::HashSet;

use serde_json::Value;

use crate::Error;
use crate::schema_text::{Names, Object, Schema, Type};

/// Returns what of the writer's data the reader cannot read, one line each; empty if nothing.
pub(crate) fn problems(writer: &Schema, reader: &Schema) -> Result<Vec<String>, Error> {
    let writer_names = writer.names()?;
    let reader_names = reader.names()?;
    let mut check = Check {
        writer: &writer_names,
        reader: &reader_names,
        compared: HashSet::new(),
    };
    let writer_type = writer_names.resolve(writer.root(), "")?;
    let reader_type = reader_names.resolve(reader.root(), "")?;
    check.types(&writer_type, &reader_type, "")
}

struct Check<'n, 'w, 'r> {
    writer: &'n Names<'w>,
    reader: &'n Names<'r>,
    /// Pairs of records that were compared or are being compared, by where they stand.
    compared: HashSet<(*const Object, *const Object)>,
}

type Problems = Result<Vec<String>, Error>;

impl<'w, 'r> Check<'_, 'w, 'r> {
    fn types(&mut self, writer: &Type<'w>, reader: &Type<'r>, path: &str) -> Problems {
        match (writer, reader) {
            (Type::Union(branches, namespace), _) => {
                let mut problems = Vec::new();
                for branch in *branches {
                    let branch = self.writer.resolve(branch, namespace)?;
                    problems.extend(self.types(&branch, reader, path)?);
                }
                Ok(problems)
            }
            (_, Type::Union(branches, namespace)) => self.union(writer, branches, namespace, path),
            (Type::Primitive(written, w), Type::Primitive(read, r)) => {
                Ok(primitives((written, *w), (read, *r), path))
            }
            (Type::Record(writer, wn), Type::Record(reader, rn)) => {
                self.records((writer, wn), (reader, rn), path)
            }
            (Type::Enum(writer), Type::Enum(reader)) => Ok(enums(writer, reader, path)),
            (Type::Fixed(writer), Type::Fixed(reader)) => {
                let alike = names_match(writer, reader) && writer.get("size") == reader.get("size");
                Ok(unless(
                    alike,
                    path,
                    "the fixed types differ in name or size",
                ))
            }
            (Type::Array(writer, wn), Type::Array(reader, rn))
            | (Type::Map(writer, wn), Type::Map(reader, rn)) => {
                let writer = self.writer.resolve(writer, wn)?;
                let reader = self.reader.resolve(reader, rn)?;
                self.types(&writer, &reader, path)
            }
            _ => Ok(vec![differ(kind(writer), kind(reader), path)]),
        }
    }

    /// One branch of the reader must read the value. Beside `null` there is mostly one that can be
    /// meant, and then it is told what is wrong with that.
    fn union(
        &mut self,
        writer: &Type<'w>,
        branches: &'r [Value],
        namespace: &str,
        path: &str,
    ) -> Problems {
        let branches = branches
            .iter()
            .map(|branch| self.reader.resolve(branch, namespace));
        let branches: Vec<Type<'r>> = branches.collect::<Result<_, _>>()?;
        let wants_null = is_null(writer);
        let mut meant = branches
            .iter()
            .filter(|branch| is_null(branch) == wants_null);
        if let (Some(only), None) = (meant.next(), meant.next()) {
            return self.types(writer, only, path);
        }
        for branch in &branches {
            let seen_before = self.compared.clone();
            if self.types(writer, branch, path)?.is_empty() {
                return Ok(Vec::new());
            }
            // What a failed attempt compared must not count as read.
            self.compared = seen_before;
        }
        Ok(vec![differ(kind(writer), "a union without it", path)])
    }

    fn records(
        &mut self,
        (writer, writer_namespace): (&'w Object, &str),
        (reader, reader_namespace): (&'r Object, &str),
        path: &str,
    ) -> Problems {
        if !names_match(writer, reader) {
            return Ok(vec![differ(name(writer), name(reader), path)]);
        }
        // Recursion ends here, and each problem is told once.
        if !self.compared.insert((writer, reader)) {
            return Ok(Vec::new());
        }
        let mut problems = Vec::new();
        let written = Names::fields(writer)?;
        for field in fields(reader) {
            let field_name = name(field);
            let path = join(path, field_name);
            let found = written
                .iter()
                .find(|(written, _)| goes_by(field, written))
                .map(|(_, field_type)| *field_type);
            match (found, field.get("type")) {
                (Some(writer_type), Some(reader_type)) => {
                    let writer_type = self.writer.resolve(writer_type, writer_namespace)?;
                    let reader_type = self.reader.resolve(reader_type, reader_namespace)?;
                    problems.extend(self.types(&writer_type, &reader_type, &path)?);
                }
                _ => problems.extend(unless(
                    field.contains_key("default"),
                    &path,
                    "the field is new to the reader and has no default",
                )),
            }
        }
        Ok(problems)
    }
}

fn primitives(
    (written, writer): (&str, Option<&Object>),
    (read, reader): (&str, Option<&Object>),
    path: &str,
) -> Vec<String> {
    let is_read = written == read
        || matches!(
            (written, read),
            ("int", "long" | "float" | "double")
                | ("long", "float" | "double")
                | ("float", "double")
                | ("string", "bytes")
                | ("bytes", "string")
        );
    if !is_read {
        return vec![differ(written, read, path)];
    }
    let scale = |object: Option<&Object>| {
        let object = object?;
        let is_decimal = object.get("logicalType").and_then(Value::as_str) == Some("decimal");
        is_decimal.then(|| object.get("scale").and_then(Value::as_i64).unwrap_or(0))
    };
    unless(
        scale(writer) == scale(reader),
        path,
        "the decimals differ in scale, or only one of both is a decimal",
    )
}

fn enums(writer: &Object, reader: &Object, path: &str) -> Vec<String> {
    let symbols = |object: &Object| match object.get("symbols") {
        Some(Value::Array(symbols)) => symbols.clone(),
        _ => Vec::new(),
    };
    let known = symbols(reader);
    let all_known = symbols(writer).iter().all(|symbol| known.contains(symbol));
    unless(
        names_match(writer, reader) && (all_known || reader.contains_key("default")),
        path,
        "the enums differ in name, or the reader lacks a symbol and has no default",
    )
}

fn fields(record: &Object) -> impl Iterator<Item = &Object> {
    let fields = record.get("fields").and_then(Value::as_array);
    fields.into_iter().flatten().filter_map(Value::as_object)
}

fn name(object: &Object) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or("")
}

fn unqualified(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// Whether an object of the reader has this name or this alias, without namespaces.
fn goes_by(reader: &Object, wanted: &str) -> bool {
    let aliases = reader.get("aliases").and_then(Value::as_array);
    let mut aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
    unqualified(name(reader)) == unqualified(wanted)
        || aliases.any(|alias| unqualified(alias) == unqualified(wanted))
}

fn names_match(writer: &Object, reader: &Object) -> bool {
    goes_by(reader, name(writer))
}

fn is_null(of: &Type<'_>) -> bool {
    matches!(of, Type::Primitive("null", _))
}

fn kind<'t>(of: &Type<'t>) -> &'t str {
    match of {
        Type::Primitive(primitive, _) => primitive,
        Type::Record(..) => "a record",
        Type::Fixed(_) => "a fixed",
        Type::Enum(_) => "an enum",
        Type::Union(..) => "a union",
        Type::Array(..) => "an array",
        Type::Map(..) => "a map",
    }
}

fn differ(written: &str, read: &str, path: &str) -> String {
    format!("{}: {written} is written, {read} is read", place(path))
}

fn unless(holds: bool, path: &str, problem: &str) -> Vec<String> {
    if holds {
        Vec::new()
    } else {
        vec![format!("{}: {problem}", place(path))]
    }
}

fn place(path: &str) -> &str {
    if path.is_empty() { "the schema" } else { path }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}
