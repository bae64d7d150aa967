//! What a batch does to a target: for each key the last word only, column by column.
//!
//! Values are written once, from cells into the binary form in which they are sent: one array per
//! column. The caller has already collapsed the batch, so that no key occurs twice.

use bytes::{Bytes, BytesMut};
use hutong_schemas::cell::Cell;
use hutong_schemas::record::FieldInfo;
use hutong_schemas::sql_type::SqlType;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::binary::{self, Misfit};
use super::dead_letters::Letters;
use super::error::Error;
use super::target::Target;

/// Changes of one batch, at most one per key.
#[derive(Debug)]
pub struct Changes {
    /// Rows with all columns.
    pub(super) upserts: Rows,
    /// Rows whose other columns keep what the target has, by the indices of the known columns.
    pub(super) partial: Vec<(Vec<usize>, Rows)>,
    /// Keys.
    pub(super) deletes: Rows,
    /// All rows go before anything else happens.
    pub(super) is_truncating: bool,
    /// Rows with all columns, where they are to be copied into a table that is being filled.
    pub(super) copied: Option<CopiedRows>,
    /// Records that are put aside, or made up for.
    pub(super) letters: Letters,
    key: Vec<usize>,
}

impl Changes {
    /// Returns no changes of a target.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let columns: Vec<usize> = (0..target.columns().len()).collect();
        Self {
            upserts: Rows::new(target.columns(), &columns),
            partial: Vec::new(),
            deletes: Rows::new(target.columns(), target.key()),
            is_truncating: false,
            copied: None,
            letters: Letters::default(),
            key: target.key().to_vec(),
        }
    }

    /// Returns no changes of a target that is being filled: most rows are new, and are copied by
    /// [`Writer::fill`](super::Writer::fill), which is far quicker than an upsert.
    #[must_use]
    pub fn filling(target: &Target) -> Self {
        Self {
            copied: Some(CopiedRows::new(target.columns().len())),
            ..Self::new(target)
        }
    }

    /// Adds a row, in the order of the target's columns. An unavailable value keeps what the target
    /// has; such a row does not come into being by this, because it would not be a row that existed.
    ///
    /// # Errors
    ///
    /// Definite, when a value does not fit its column.
    pub fn upsert(&mut self, target: &Target, row: &[Cell<'_>]) -> Result<(), Error> {
        debug_assert_eq!(row.len(), target.columns().len());
        if !row.iter().any(is_unavailable) {
            return match &mut self.copied {
                Some(copied) => copied.push(target, row),
                None => self.upserts.push(target, row),
            };
        }
        let known: Vec<usize> = (0..row.len())
            .filter(|i| !is_unavailable(&row[*i]))
            .collect();
        if !self.key.iter().all(|index| known.contains(index)) {
            return Err(target.misfit(self.key[0], Misfit::Kind));
        }
        let found = self
            .partial
            .iter()
            .position(|(columns, _)| *columns == known);
        let found = found.unwrap_or_else(|| {
            let rows = Rows::new(target.columns(), &known);
            self.partial.push((known, rows));
            self.partial.len() - 1
        });
        self.partial[found].1.push(target, row)
    }

    /// Adds a deletion. `row` holds the key in the order of the target's columns; its other cells are
    /// not looked at.
    ///
    /// # Errors
    ///
    /// Definite, when a value does not fit its column.
    pub fn delete(&mut self, target: &Target, row: &[Cell<'_>]) -> Result<(), Error> {
        self.deletes.push(target, row)
    }

    /// Says that the table was emptied before what else is here.
    pub fn truncate(&mut self) {
        self.is_truncating = true;
    }

    /// Returns the number of rows that change, without those that a truncation takes away.
    #[must_use]
    pub fn len(&self) -> usize {
        let partial: usize = self.partial.iter().map(|(_, rows)| rows.count).sum();
        let copied = self.copied.as_ref().map_or(0, |rows| rows.count);
        self.upserts.count + copied + partial + self.deletes.count
    }

    /// Returns whether keys are deleted.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.deletes.count > 0 || self.is_truncating
    }

    /// Returns whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !self.is_truncating
    }
}

fn is_unavailable(cell: &Cell<'_>) -> bool {
    matches!(cell, Cell::Unavailable)
}

/// Rows, or keys, as one array per column.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) count: usize,
    columns: Vec<ColumnArray>,
}

#[derive(Debug)]
struct ColumnArray {
    /// Index in the target.
    index: usize,
    array: Array,
}

impl Rows {
    fn new(columns: &[FieldInfo], which: &[usize]) -> Self {
        let columns = which
            .iter()
            .map(|index| ColumnArray {
                index: *index,
                array: Array::new(&binary::wire_types(&columns[*index].sql_type).0),
            })
            .collect();
        Self { count: 0, columns }
    }

    fn push(&mut self, target: &Target, row: &[Cell<'_>]) -> Result<(), Error> {
        for column in &mut self.columns {
            let field = &target.columns()[column.index];
            column
                .array
                .push(&field.sql_type, &row[column.index])
                .map_err(|misfit| target.misfit(column.index, misfit))?;
        }
        self.count += 1;
        Ok(())
    }

    /// Returns the parameters of a statement that unnests them.
    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.columns
            .iter()
            .map(|column| -> &(dyn ToSql + Sync) { &column.array })
            .collect()
    }

    /// Returns the parameters of some of the columns, in the given order.
    pub(super) fn parameters_of(&self, which: &[usize]) -> Vec<&(dyn ToSql + Sync)> {
        let array = |index: &usize| {
            let column = self.columns.iter().find(|column| column.index == *index);
            let column = column.expect("the rows have these columns");
            let array: &(dyn ToSql + Sync) = &column.array;
            array
        };
        which.iter().map(array).collect()
    }
}

/// Rows in the binary form of COPY (PostgreSQL manual, COPY, "Binary Format").
pub(super) struct CopiedRows {
    pub(super) count: usize,
    fields: i16,
    bytes: Vec<u8>,
}

/// Signature, flags, length of the header's extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What a row begins with after the last one.
const COPY_END: i16 = -1;

impl CopiedRows {
    fn new(columns: usize) -> Self {
        Self {
            count: 0,
            // A table has 1600 columns at most.
            fields: i16::try_from(columns).unwrap_or(i16::MAX),
            bytes: COPY_HEADER.to_vec(),
        }
    }

    fn push(&mut self, target: &Target, row: &[Cell<'_>]) -> Result<(), Error> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&self.fields.to_be_bytes());
        for (index, (field, cell)) in target.columns().iter().zip(row).enumerate() {
            if let Err(misfit) = binary::element(&field.sql_type, cell, &mut self.bytes) {
                self.bytes.truncate(start);
                return Err(target.misfit(index, misfit));
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Returns what is sent, in pieces that a connection need not keep whole.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Bytes> {
        const PIECE_BYTES: usize = 64 << 10;
        let end = Bytes::copy_from_slice(&COPY_END.to_be_bytes());
        let pieces = self.bytes.chunks(PIECE_BYTES).map(Bytes::copy_from_slice);
        pieces.chain([end])
    }
}

/// Rows must not reach a log.
impl std::fmt::Debug for CopiedRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopiedRows")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// A one-dimensional array in binary form, without its header.
struct Array {
    element: u32,
    count: i32,
    has_nulls: bool,
    elements: Vec<u8>,
}

impl Array {
    fn new(element: &Type) -> Self {
        Self {
            element: element.oid(),
            count: 0,
            has_nulls: false,
            elements: Vec::new(),
        }
    }

    fn push(&mut self, sql_type: &SqlType, cell: &Cell<'_>) -> Result<(), Misfit> {
        match (sql_type, cell) {
            (SqlType::Array { element }, Cell::Composite(array)) => {
                let text = binary::array_text(*element, array)?;
                binary::element(&SqlType::Text, &Cell::Text(&text), &mut self.elements)?;
            }
            _ => binary::element(sql_type, cell, &mut self.elements)?,
        }
        self.has_nulls |= matches!(cell, Cell::Null);
        self.count = self.count.checked_add(1).ok_or(Misfit::Range)?;
        Ok(())
    }
}

/// Room for the parameters of a statement that are not large.
const PARAMETERS_BYTES: usize = 64 << 10;

/// The values of a column must not reach a log.
impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Array")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl ToSql for Array {
    /// `array_recv`: dimensions, whether there are NULLs, the element type; per dimension its length
    /// and lower bound; the elements.
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // With room for the parameters behind it: growing for them would double what a large one takes.
        out.reserve(self.elements.len() + PARAMETERS_BYTES);
        out.extend_from_slice(&1_i32.to_be_bytes());
        out.extend_from_slice(&i32::from(self.has_nulls).to_be_bytes());
        out.extend_from_slice(&self.element.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&1_i32.to_be_bytes());
        out.extend_from_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
