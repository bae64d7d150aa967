//! The plan that reads events written with one schema of Debezium's envelope.
//!
//! Fields are found by name when the plan is compiled, so envelopes of other Debezium versions, with
//! fields more or fewer, are read too. Reading is then a walk over the message: what is wanted is
//! kept, all else is stepped over by its shape. Cells borrow from the message; nothing in it
//! decides how much memory is taken.

use std::ops::Range;

use serde_json::Value;

use crate::Error;
use crate::binary::{Malformed, Reader};
use crate::cell::Cell;
use crate::codec::{Column, Nullability, decode_image_row};
use crate::envelope::{Op, SnapshotMark};
use crate::position::Lsn;
use crate::record::FieldInfo;
use crate::schema_text::{Names, Schema, Type};
use crate::wire;

/// A compiled plan that reads events written with one schema.
#[derive(Debug)]
pub struct EventDecoder {
    columns: Vec<Column>,
    infos: Vec<FieldInfo>,
    steps: Vec<Step>,
}

/// What an event says beside its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventHead {
    /// What happened.
    pub op: Op,
    /// Whether the row before the change was decoded.
    pub has_before: bool,
    /// Whether the row after the change was decoded.
    pub has_after: bool,
    /// `source.ts_us`, else `source.ts_ms` in microseconds.
    pub ts_us: Option<i64>,
    /// `source.txId`.
    pub tx_id: Option<i64>,
    /// `source.lsn`.
    pub lsn: Option<Lsn>,
    /// `source.snapshot`.
    pub snapshot: SnapshotMark,
    /// Where in the message the Avro record of `after` lies.
    pub after_range: Option<Range<usize>>,
}

/// What is done with a field of the envelope or of its `source`.
#[derive(Debug)]
enum Step {
    Before(Nullability),
    After(Nullability),
    Op,
    Source(Vec<Step>),
    SourceTsMs(Nullability),
    SourceTsUs(Nullability),
    SourceTxId(Nullability),
    SourceLsn(Nullability),
    SourceSnapshot(Nullability),
    Skip(Shape),
}

/// How long a value is, as far as its type says.
#[derive(Debug)]
enum Shape {
    Null,
    Byte,
    Number,
    Fixed(usize),
    Bytes,
    Record(Vec<Shape>),
    Union(Vec<Shape>),
}

impl EventDecoder {
    /// Compiles the plan from the envelope's schema.
    ///
    /// # Errors
    /// [`Error::Schema`] and [`Error::UnsupportedField`] (definite).
    pub fn compile(writer_schema: &str) -> Result<Self, Error> {
        let schema = Schema::parse(writer_schema)?;
        let names = schema.names()?;
        let (envelope, namespace) = schema.record(&names)?;
        let mut compiler = Compiler {
            names: &names,
            row: None,
            shapes_left: SHAPES_MAX,
        };
        let mut steps = Vec::new();
        for (name, field_type) in Names::fields(envelope)? {
            steps.push(compiler.step(name, field_type, &namespace)?);
        }
        let has_op = steps.iter().any(|step| matches!(step, Step::Op));
        let has_after = steps.iter().any(|step| matches!(step, Step::After(_)));
        let (true, true, Some((row, row_namespace))) = (has_op, has_after, compiler.row) else {
            return Err(Error::Schema(
                "it is not an envelope: before, after or op is missing".to_owned(),
            ));
        };
        let columns = names.columns(row, &row_namespace)?;
        let infos = columns.iter().map(|column| column.info.clone()).collect();
        Ok(Self {
            columns,
            infos,
            steps,
        })
    }

    /// Returns the columns of `before` and `after`.
    #[must_use]
    pub fn columns(&self) -> &[FieldInfo] {
        &self.infos
    }

    /// Decodes a message, with its prefix, whose schema id the caller has looked at. The rows are
    /// replaced; a row that the event lacks is left empty.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if the bytes are no message of the schema.
    pub fn decode<'a>(
        &self,
        value: &'a [u8],
        before: &mut Vec<Cell<'a>>,
        after: &mut Vec<Cell<'a>>,
    ) -> Result<EventHead, Error> {
        let (_, body) = wire::split(value)?;
        before.clear();
        after.clear();
        let mut walk = Walk {
            columns: &self.columns,
            message_bytes: value.len(),
            reader: Reader::new(body),
            before,
            after,
            op: None,
            ts_ms: None,
            head: EventHead {
                op: Op::Read,
                has_before: false,
                has_after: false,
                ts_us: None,
                tx_id: None,
                lsn: None,
                snapshot: SnapshotMark::False,
                after_range: None,
            },
        };
        for step in &self.steps {
            walk.step(step)?;
        }
        Ok(walk.finish()?)
    }
}

struct Compiler<'n, 's> {
    names: &'n Names<'s>,
    /// The record of `before` and `after`, and its namespace.
    row: Option<(&'s serde_json::Map<String, Value>, String)>,
    shapes_left: usize,
}

/// More types than any envelope has; nested references could otherwise multiply without end.
const SHAPES_MAX: usize = 1000;

impl<'s> Compiler<'_, 's> {
    fn step(&mut self, name: &str, field_type: &'s Value, namespace: &str) -> Result<Step, Error> {
        match name {
            "before" => Ok(Step::Before(self.row(field_type, namespace)?)),
            "after" => Ok(Step::After(self.row(field_type, namespace)?)),
            "op" => match self.names.resolve(field_type, namespace)? {
                Type::Primitive("string", _) => Ok(Step::Op),
                _ => Err(Error::Schema("op is not a string".to_owned())),
            },
            "source" => match self.names.resolve(field_type, namespace)? {
                Type::Record(source, inner) => {
                    let fields = Names::fields(source)?.into_iter();
                    let steps =
                        fields.map(|(name, field_type)| self.source_step(name, field_type, &inner));
                    Ok(Step::Source(steps.collect::<Result<_, _>>()?))
                }
                _ => Err(Error::Schema("source is not a record".to_owned())),
            },
            _ => Ok(Step::Skip(self.shape(field_type, namespace)?)),
        }
    }

    fn row(&mut self, field_type: &'s Value, namespace: &str) -> Result<Nullability, Error> {
        let Some((nullability, Type::Record(row, inner))) =
            self.names.nullability(field_type, namespace)?
        else {
            return Err(Error::Schema("before or after is not a record".to_owned()));
        };
        match &self.row {
            None => self.row = Some((row, inner)),
            Some((known, _)) if std::ptr::eq(*known, row) => {}
            Some(_) => {
                return Err(Error::Schema(
                    "before and after are not of one type".to_owned(),
                ));
            }
        }
        Ok(nullability)
    }

    fn source_step(
        &mut self,
        name: &str,
        field_type: &'s Value,
        namespace: &str,
    ) -> Result<Step, Error> {
        let (wanted, step): (_, fn(Nullability) -> Step) = match name {
            "ts_ms" => ("long", Step::SourceTsMs),
            "ts_us" => ("long", Step::SourceTsUs),
            "txId" => ("long", Step::SourceTxId),
            "lsn" => ("long", Step::SourceLsn),
            "snapshot" => ("string", Step::SourceSnapshot),
            _ => return Ok(Step::Skip(self.shape(field_type, namespace)?)),
        };
        match self.names.nullability(field_type, namespace)? {
            Some((nullability, Type::Primitive(found, _))) if found == wanted => {
                Ok(step(nullability))
            }
            _ => Err(Error::Schema(format!("source.{name} is not a {wanted}"))),
        }
    }

    fn shape(&mut self, schema: &'s Value, namespace: &str) -> Result<Shape, Error> {
        self.shapes_left = self
            .shapes_left
            .checked_sub(1)
            .ok_or_else(|| Error::Schema("it nests too many types".to_owned()))?;
        Ok(match self.names.resolve(schema, namespace)? {
            Type::Primitive(primitive, _) => match primitive {
                "null" => Shape::Null,
                "boolean" => Shape::Byte,
                "int" | "long" => Shape::Number,
                "float" => Shape::Fixed(4),
                "double" => Shape::Fixed(8),
                _ => Shape::Bytes,
            },
            Type::Enum(_) => Shape::Number,
            Type::Fixed(fixed) => {
                let size = fixed.get("size").and_then(Value::as_u64);
                let size = size.and_then(|size| usize::try_from(size).ok());
                Shape::Fixed(size.ok_or_else(|| Error::Schema("a fixed has no size".to_owned()))?)
            }
            Type::Record(record, inner) => {
                let fields = Names::fields(record)?.into_iter();
                let shapes = fields.map(|(_, field_type)| self.shape(field_type, &inner));
                Shape::Record(shapes.collect::<Result<_, _>>()?)
            }
            Type::Union(branches, inner) => {
                let shapes = branches.iter().map(|branch| self.shape(branch, &inner));
                Shape::Union(shapes.collect::<Result<_, _>>()?)
            }
            Type::Array(..) | Type::Map(..) => {
                return Err(Error::Schema(
                    "an array or map stands outside of the row".to_owned(),
                ));
            }
        })
    }
}

struct Walk<'p, 'a, 'r> {
    columns: &'p [Column],
    message_bytes: usize,
    reader: Reader<'a>,
    before: &'r mut Vec<Cell<'a>>,
    after: &'r mut Vec<Cell<'a>>,
    op: Option<Op>,
    ts_ms: Option<i64>,
    head: EventHead,
}

impl Walk<'_, '_, '_> {
    fn step(&mut self, step: &Step) -> Result<(), Malformed> {
        match step {
            Step::Before(nullability) => {
                self.head.has_before = self.is_present(*nullability)?;
                if self.head.has_before {
                    decode_image_row(self.columns, &mut self.reader, self.before)?;
                }
            }
            Step::After(nullability) => {
                self.head.has_after = self.is_present(*nullability)?;
                if self.head.has_after {
                    let start = self.message_bytes - self.reader.remaining();
                    decode_image_row(self.columns, &mut self.reader, self.after)?;
                    let end = self.message_bytes - self.reader.remaining();
                    self.head.after_range = Some(start..end);
                }
            }
            Step::Op => {
                let op = Op::parse(self.reader.text()?);
                self.op = Some(op.ok_or(Malformed("an operation is not c, u, d, r or t"))?);
            }
            Step::Source(steps) => {
                for step in steps {
                    self.step(step)?;
                }
            }
            Step::SourceTsMs(nullability) => self.ts_ms = self.long(*nullability)?,
            Step::SourceTsUs(nullability) => self.head.ts_us = self.long(*nullability)?,
            Step::SourceTxId(nullability) => self.head.tx_id = self.long(*nullability)?,
            Step::SourceLsn(nullability) => {
                let lsn = self.long(*nullability)?;
                self.head.lsn = lsn.map(|lsn| Lsn(lsn.cast_unsigned()));
            }
            Step::SourceSnapshot(nullability) => {
                if self.is_present(*nullability)? {
                    let mark = SnapshotMark::parse(self.reader.text()?);
                    self.head.snapshot = mark.ok_or(Malformed("a snapshot mark is unknown"))?;
                }
            }
            Step::Skip(shape) => self.skip(shape)?,
        }
        Ok(())
    }

    fn finish(mut self) -> Result<EventHead, Malformed> {
        self.reader.finish()?;
        // A compiled plan has a step that sets the operation.
        self.head.op = self.op.ok_or(Malformed("there is no operation"))?;
        if self.head.ts_us.is_none() {
            self.head.ts_us = self.ts_ms.map(|ms| ms.saturating_mul(1000));
        }
        Ok(self.head)
    }

    fn is_present(&mut self, nullability: Nullability) -> Result<bool, Malformed> {
        match nullability {
            Nullability::Required => Ok(true),
            Nullability::NullFirst => self.reader.branch(),
            Nullability::NullLast => self.reader.branch().map(|second| !second),
        }
    }

    fn long(&mut self, nullability: Nullability) -> Result<Option<i64>, Malformed> {
        if self.is_present(nullability)? {
            self.reader.long().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Steps over a value. Recursion is as deep as the schema, which the compiler has bounded.
    fn skip(&mut self, shape: &Shape) -> Result<(), Malformed> {
        match shape {
            Shape::Null => {}
            Shape::Byte => {
                self.reader.byte()?;
            }
            Shape::Number => {
                self.reader.long()?;
            }
            Shape::Fixed(size) => {
                self.reader.take(*size)?;
            }
            Shape::Bytes => {
                self.reader.bytes()?;
            }
            Shape::Record(fields) => {
                for field in fields {
                    self.skip(field)?;
                }
            }
            Shape::Union(branches) => {
                let index = usize::try_from(self.reader.long()?).ok();
                let branch = index.and_then(|index| branches.get(index));
                self.skip(branch.ok_or(Malformed("a union has no such branch"))?)?;
            }
        }
        Ok(())
    }
}
