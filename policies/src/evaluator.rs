//! A view applied to rows: what it shows of each, in bytes.

use hutong_schemas::cell::{Cell, recycle};
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::{FieldInfo, RecordEncoder};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, DefaultValue};

use crate::condition::{Condition, Screen, Truth};
use crate::error::Error;
use crate::mask::{Mask, Masked};
use crate::plan::{ViewPlan, compile};
use crate::row_key::RowKey;
use crate::secret::{self, Key};
use crate::task::ViewTask;

/// What a view does with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The condition is not TRUE: the row is not in the view.
    Hidden,
    /// The row is in the view; its value was appended.
    Visible,
    /// The condition is TRUE, but a granted value is unavailable: the row belongs to the view and
    /// cannot be shown. Nothing may be upserted from it.
    Unavailable,
}

/// All that what a view shows of a row depends on, beside the row. Views with equal ones show the same
/// bytes of a row, those that show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    key_schema: SchemaId,
    value_schema: SchemaId,
    key: Vec<KeyColumn>,
    columns: Vec<OutputColumn>,
    /// What stands behind the cells that arrive: columns that the rows' schema does not have yet.
    pads: Vec<Pad>,
    /// Share, version of the secret, and table that values or keys are hidden with, if any are.
    hidden_with: Option<(String, u32, String)>,
}

/// Applies one view to the rows, or the keys, of one writer schema.
#[derive(Debug)]
pub struct Evaluator {
    view: String,
    projection: Projection,
    condition: Option<Condition>,
    /// Of the projection's columns, those that are hashed.
    hash_keys: Vec<Option<Key>>,
    row_key: Option<RowKey>,
    key_encoder: RecordEncoder,
    value_encoder: RecordEncoder,
    scratch: String,
    /// The masked texts of one row, end to end.
    masked: String,
    outputs: Vec<Output>,
    cells: Vec<Cell<'static>>,
}

/// The value of a column in a row that was written before the column was there.
#[derive(Clone, Debug, PartialEq)]
enum Pad {
    Null,
    Bool(bool),
    Int(i64),
    Text(String),
}

impl Pad {
    fn cell(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Bool(value) => Cell::Bool(*value),
            Self::Int(value) => Cell::Int(*value),
            Self::Text(text) => Cell::Text(text),
        }
    }

    /// Returns the default of a column, or `None` if it is not known here in a form that rows have.
    fn of(column: &Column) -> Option<Self> {
        let Some(DefaultValue(value)) = &column.default else {
            return column.nullable.then_some(Self::Null);
        };
        match column.sql_type {
            SqlType::Bool => value.as_bool().map(Self::Bool),
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => value.as_i64().map(Self::Int),
            SqlType::Text | SqlType::Varchar { .. } | SqlType::Char { .. } | SqlType::Enum => {
                value.as_str().map(|text| Self::Text(text.to_owned()))
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct OutputColumn {
    name: String,
    /// Index into the rows that arrive.
    index: usize,
    sql_type: SqlType,
    mask: Mask,
}

#[derive(Clone, Debug, PartialEq)]
struct KeyColumn {
    name: String,
    sql_type: SqlType,
    /// Index into the rows, or the keys, that arrive.
    index: usize,
}

/// One field of the output: a cell of the row, or a piece of the masked text.
#[derive(Debug)]
enum Output {
    Clear(usize),
    Null,
    Text(std::ops::Range<usize>),
}

impl Evaluator {
    /// Compiles a view for rows with these columns.
    ///
    /// # Errors
    /// [`Error::Document`], [`Error::Column`] and [`Error::Secret`], all definite.
    pub fn new(
        task: &ViewTask,
        columns: &[FieldInfo],
        master_secret: Option<&[u8]>,
    ) -> Result<Self, Error> {
        Self::compile(task, columns, master_secret, false)
    }

    /// Compiles a view for rows of one schema of the table's topic, by its id. Ids rise, so what an
    /// earlier schema than the table's lacks was added later: such a row holds the column's default,
    /// as a reader of Avro would see it. What a later one lacks was dropped.
    ///
    /// # Errors
    /// As [`Evaluator::new`].
    pub fn of_schema(
        task: &ViewTask,
        schema: SchemaId,
        columns: &[FieldInfo],
        master_secret: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let is_earlier = task.table_schema_id.is_some_and(|table| schema.0 < table.0);
        Self::compile(task, columns, master_secret, is_earlier)
    }

    fn compile(
        task: &ViewTask,
        columns: &[FieldInfo],
        master_secret: Option<&[u8]>,
        is_earlier: bool,
    ) -> Result<Self, Error> {
        let plan = plan(task)?;
        let mut pads = Vec::new();
        let pad = is_earlier.then_some(&mut pads);
        let positions = positions(task, plan.used_columns(), columns, pad)?;
        let secret = check_secret(task, &plan, master_secret)?;
        let mut evaluator = Self::keyed(task, &plan, &positions, secret)?;
        let at = |index: usize| positions[index].expect("a used column has a position");
        let hash_key = |name: &str| {
            let version = task.share_key_version;
            secret.map(|master| Key::derive(master, "hash", &task.document.share, version, &[name]))
        };
        let columns = plan.columns.iter().map(|column| OutputColumn {
            name: column.name.clone(),
            index: at(column.index),
            sql_type: column.sql_type,
            mask: column.mask.clone(),
        });
        evaluator.projection.columns = columns.collect();
        let columns = plan.columns.iter();
        evaluator.hash_keys = columns
            .map(|column| match column.mask {
                Mask::Hash => hash_key(&column.name),
                _ => None,
            })
            .collect();
        evaluator.condition = plan.condition.map(|condition| condition.at(&positions));
        evaluator.projection.pads = pads;
        Ok(evaluator)
    }

    /// Checks that a worker's secret is the one that the view is made with, before any row is there.
    ///
    /// # Errors
    /// [`Error::Document`] and [`Error::Secret`], definite.
    pub fn check_secret(task: &ViewTask, master_secret: Option<&[u8]>) -> Result<(), Error> {
        check_secret(task, &plan(task)?, master_secret).map(|_| ())
    }

    /// Compiles a view for the topic's keys alone, where no row is left: only
    /// [`Evaluator::key`] may be called.
    ///
    /// # Errors
    /// As [`Evaluator::new`].
    pub fn for_keys(
        task: &ViewTask,
        key_fields: &[FieldInfo],
        master_secret: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let plan = plan(task)?;
        let positions = positions(task, plan.key.clone(), key_fields, None)?;
        let secret = check_secret(task, &plan, master_secret)?;
        Self::keyed(task, &plan, &positions, secret)
    }

    fn keyed(
        task: &ViewTask,
        plan: &ViewPlan,
        positions: &[Option<usize>],
        secret: Option<&[u8]>,
    ) -> Result<Self, Error> {
        let key = plan.key.iter().map(|index| KeyColumn {
            name: task.table.columns[*index].name.clone(),
            sql_type: task.table.columns[*index].sql_type,
            index: positions[*index].expect("a used column has a position"),
        });
        let row_key = match secret {
            Some(master) if plan.hides_key => Some(RowKey::new(
                master,
                &task.document.share,
                task.share_key_version,
                &task.document.source.topic,
            )),
            _ => None,
        };
        let encoder = |schema: &str, id| {
            RecordEncoder::compile(schema, id).map_err(|source| Error::Encode {
                view: task.name.clone(),
                source,
            })
        };
        Ok(Self {
            view: task.name.clone(),
            projection: Projection {
                key_schema: task.key_schema_id,
                value_schema: task.value_schema_id,
                key: key.collect(),
                columns: Vec::new(),
                pads: Vec::new(),
                hidden_with: secret.map(|_| {
                    let document = &task.document;
                    let (share, topic) = (document.share.clone(), document.source.topic.clone());
                    (share, task.share_key_version, topic)
                }),
            },
            condition: None,
            hash_keys: Vec::new(),
            row_key,
            key_encoder: encoder(&task.key_schema, task.key_schema_id)?,
            value_encoder: encoder(&task.value_schema, task.value_schema_id)?,
            scratch: String::new(),
            masked: String::new(),
            outputs: Vec::new(),
            cells: Vec::new(),
        })
    }

    /// Returns what the bytes that it shows depend on.
    #[must_use]
    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Decides about a row. Appends the view's key, of a hidden row only where `keys_hidden`, because
    /// it may have to be deleted, and the row's value if it is visible.
    ///
    /// # Errors
    /// [`Error::Encode`] if a value does not fit the view's schema, [`Error::Key`] if the key is
    /// not there; the buffers may then hold parts.
    pub fn row(
        &mut self,
        cells: &[Cell<'_>],
        keys_hidden: bool,
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<Decision, Error> {
        if !self.is_in_view(cells) {
            if keys_hidden {
                self.key_of_row(cells, key)?;
            }
            return Ok(Decision::Hidden);
        }
        self.show(cells, key, value)
    }

    /// Returns what a row must have to be in the view, where one cell tells it.
    #[must_use]
    pub fn screen(&self) -> Option<Screen> {
        self.condition.as_ref().and_then(Condition::screen)
    }

    /// Returns whether the view's condition is TRUE for a row.
    #[must_use]
    pub fn is_in_view(&self, cells: &[Cell<'_>]) -> bool {
        let Some(condition) = &self.condition else {
            return true;
        };
        if self.projection.pads.is_empty() {
            return condition.evaluate(cells) == Truth::True;
        }
        condition.evaluate(&padded(cells, &self.projection.pads)) == Truth::True
    }

    /// Appends the view's key of a row.
    ///
    /// # Errors
    /// As [`Evaluator::row`].
    pub fn key_of_row(&mut self, cells: &[Cell<'_>], key: &mut Vec<u8>) -> Result<(), Error> {
        self.masked.clear();
        self.outputs.clear();
        if self.projection.pads.is_empty() {
            return self.write_key(|column| cells[column.index], key);
        }
        let pads = std::mem::take(&mut self.projection.pads);
        let padded = padded(cells, &pads);
        let written = self.write_key(|column| padded[column.index], key);
        self.projection.pads = pads;
        written
    }

    /// Appends the view's key and value of a row that is in the view; the value not, if one that is
    /// granted is unavailable.
    ///
    /// # Errors
    /// As [`Evaluator::row`].
    pub fn show(
        &mut self,
        cells: &[Cell<'_>],
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<Decision, Error> {
        if self.projection.pads.is_empty() {
            return self.show_whole(cells, key, value);
        }
        let pads = std::mem::take(&mut self.projection.pads);
        let decision = self.show_whole(&padded(cells, &pads), key, value);
        self.projection.pads = pads;
        decision
    }

    fn show_whole(
        &mut self,
        cells: &[Cell<'_>],
        key: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> Result<Decision, Error> {
        self.masked.clear();
        self.outputs.clear();
        self.write_key(|column| cells[column.index], key)?;
        let mut unavailable = false;
        for (column, hash_key) in self.projection.columns.iter().zip(&self.hash_keys) {
            let cell = cells[column.index];
            let output = if column.mask == Mask::Clear {
                unavailable |= matches!(cell, Cell::Unavailable);
                Output::Clear(column.index)
            } else {
                let start = self.masked.len();
                match column.mask.apply(
                    column.sql_type,
                    cell,
                    hash_key.as_ref(),
                    &mut self.scratch,
                    &mut self.masked,
                ) {
                    Masked::Null => Output::Null,
                    Masked::Text => Output::Text(start..self.masked.len()),
                    Masked::Unavailable => {
                        unavailable = true;
                        Output::Null
                    }
                }
            };
            self.outputs.push(output);
        }
        if unavailable {
            return Ok(Decision::Unavailable);
        }
        let mut fields = recycle(std::mem::take(&mut self.cells));
        fields.extend(self.outputs.iter().map(|output| {
            match output {
                Output::Clear(index) => cells[*index],
                Output::Null => Cell::Null,
                Output::Text(range) => Cell::Text(
                    self.masked
                        .get(range.clone())
                        .expect("whole characters were written"),
                ),
            }
        }));
        let encoded = self.value_encoder.encode(&fields, value);
        self.cells = recycle(fields);
        encoded.map_err(|source| Error::Encode {
            view: self.view.clone(),
            source,
        })?;
        Ok(Decision::Visible)
    }

    /// Appends the view's key for a key of the topic, decoded. Used where no row is left.
    ///
    /// # Errors
    /// As [`Evaluator::row`].
    pub fn key(&mut self, key_cells: &[Cell<'_>], key: &mut Vec<u8>) -> Result<(), Error> {
        self.masked.clear();
        self.outputs.clear();
        self.write_key(|column| key_cells[column.index], key)
    }

    /// Encodes the key; if it is hidden, its text begins `masked` and its field the outputs.
    fn write_key<'a>(
        &mut self,
        cell: impl Fn(&KeyColumn) -> Cell<'a>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        for column in &self.projection.key {
            if matches!(cell(column), Cell::Null | Cell::Unavailable) {
                return Err(Error::Key {
                    view: self.view.clone(),
                    column: column.name.clone(),
                });
            }
        }
        let spare = std::mem::take(&mut self.cells);
        let encoded = if let Some(row_key) = &self.row_key {
            let parts = self
                .projection
                .key
                .iter()
                .map(|column| (column.sql_type, cell(column)));
            if !row_key.write(parts, &mut self.scratch, &mut self.masked) {
                let column = self
                    .projection
                    .key
                    .first()
                    .map(|column| column.name.clone())
                    .unwrap_or_default();
                return Err(Error::Key {
                    view: self.view.clone(),
                    column,
                });
            }
            self.outputs.push(Output::Text(0..self.masked.len()));
            let mut fields = recycle(spare);
            fields.push(Cell::Text(&self.masked));
            let encoded = self.key_encoder.encode(&fields, out);
            self.cells = recycle(fields);
            encoded
        } else {
            let mut fields = recycle(spare);
            fields.extend(self.projection.key.iter().map(&cell));
            let encoded = self.key_encoder.encode(&fields, out);
            self.cells = recycle(fields);
            encoded
        };
        encoded.map_err(|source| Error::Encode {
            view: self.view.clone(),
            source,
        })
    }
}

fn padded<'a>(cells: &[Cell<'a>], pads: &'a [Pad]) -> Vec<Cell<'a>> {
    let behind = pads.iter().map(Pad::cell);
    cells.iter().copied().chain(behind).collect()
}

fn plan(task: &ViewTask) -> Result<ViewPlan, Error> {
    compile(&task.document, &task.table).map_err(|errors| {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Error::Document {
            view: task.name.clone(),
            errors: texts.join("; "),
        }
    })
}

/// Returns, per column of the table, where it stands in what arrives; the used ones must be there, or
/// are put behind what arrives where `pads` are given.
fn positions(
    task: &ViewTask,
    used: Vec<usize>,
    arriving: &[FieldInfo],
    mut pads: Option<&mut Vec<Pad>>,
) -> Result<Vec<Option<usize>>, Error> {
    let find = |name: &str| arriving.iter().position(|field| field.name == name);
    let columns = &task.table.columns;
    let mut positions: Vec<Option<usize>> =
        columns.iter().map(|column| find(&column.name)).collect();
    for index in used {
        let column = &columns[index];
        match positions[index].map(|position| arriving[position].sql_type) {
            None => {
                let Some(pads) = &mut pads else {
                    let problem = "is no longer in the rows of the topic";
                    return Err(missing(task, &column.name, problem));
                };
                let Some(pad) = Pad::of(column) else {
                    let problem = "was added later, with a default that older rows of the topic \
                                   do not show; the table needs a new snapshot";
                    return Err(missing(task, &column.name, problem));
                };
                positions[index] = Some(arriving.len() + pads.len());
                pads.push(pad);
            }
            Some(found) if !same_cells(found, column.sql_type) => {
                let problem = format!(
                    "arrives as {found}, and the view was made for {}",
                    column.sql_type
                );
                return Err(missing(task, &column.name, &problem));
            }
            Some(_) => {}
        }
    }
    Ok(positions)
}

fn missing(task: &ViewTask, column: &str, problem: &str) -> Error {
    Error::Column {
        view: task.name.clone(),
        column: column.to_owned(),
        problem: problem.to_owned(),
    }
}

fn check_secret<'a>(
    task: &ViewTask,
    plan: &ViewPlan,
    master: Option<&'a [u8]>,
) -> Result<Option<&'a [u8]>, Error> {
    if !plan.needs_secret() {
        return Ok(None);
    }
    let error = |problem: String| Error::Secret {
        view: task.name.clone(),
        problem,
    };
    let Some(master) = master else {
        let problem = "it hides a key or hashes a column, and the worker has no master_secret";
        return Err(error(problem.to_owned()));
    };
    if master.len() < secret::MASTER_BYTES_MIN {
        return Err(error(format!(
            "the worker's master_secret has {} bytes, fewer than {}",
            master.len(),
            secret::MASTER_BYTES_MIN
        )));
    }
    let found = secret::fingerprint(master);
    match &task.secret_fingerprint {
        Some(wanted) if *wanted != found => Err(error(format!(
            "it was made with the master secret {wanted}, and the worker holds {found}"
        ))),
        _ => Ok(Some(master)),
    }
}

/// Returns whether two types are carried by the same cells with the same meaning. A topic's schema
/// tells less than the catalogue does: character(n) and text look alike there.
fn same_cells(left: SqlType, right: SqlType) -> bool {
    #[derive(PartialEq)]
    enum Family {
        Bool,
        Int,
        Numeric,
        Text,
        Json,
        Bits,
        Geometry,
        Array(SqlType),
        Own(std::mem::Discriminant<SqlType>),
    }
    fn family(sql_type: SqlType) -> Family {
        match sql_type {
            SqlType::Bool | SqlType::Bit { length: 1 } | SqlType::Varbit { length: Some(1) } => {
                Family::Bool
            }
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Oid => Family::Int,
            SqlType::Numeric { .. } | SqlType::NumericUnscaled | SqlType::Money => Family::Numeric,
            SqlType::Text
            | SqlType::Varchar { .. }
            | SqlType::Char { .. }
            | SqlType::Citext
            | SqlType::Inet
            | SqlType::Cidr
            | SqlType::Macaddr
            | SqlType::Macaddr8 => Family::Text,
            range if range.bound().is_some() => Family::Text,
            SqlType::Json | SqlType::Jsonb | SqlType::Hstore => Family::Json,
            SqlType::Bit { .. } | SqlType::Varbit { .. } => Family::Bits,
            SqlType::Lseg | SqlType::Box | SqlType::Path | SqlType::Polygon => Family::Geometry,
            SqlType::Array { element } => Family::Array(element.into()),
            own => Family::Own(std::mem::discriminant(&own)),
        }
    }
    if let (Family::Array(left), Family::Array(right)) = (family(left), family(right)) {
        return family(left) == family(right);
    }
    family(left) == family(right)
}
