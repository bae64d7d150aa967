//! Values that have parts: arrays and geometric ones.
//!
//! A cell holds them as their Avro encoding ([`Cell::Composite`]), so
//! that plans copy them, views pass them through, and nothing is taken apart before somebody wants
//! the parts: a source that has them as text builds the encoding here, a sink takes it apart here.
//!
//! # Geometric values
//!
//! | type | Avro record | what it cannot say |
//! |---|---|---|
//! | `point` | x, y, and the same as well-known binary (WKB) | |
//! | `line` | the three coefficients | |
//! | `circle` | centre and radius | |
//! | `lseg` | WKB of a line of two points | |
//! | `box` | WKB of the ring of its four corners | |
//! | `path` | WKB of a line, and whether it is closed | |
//! | `polygon` | WKB of a ring: the first point again at the end | whether its last point was the first one |
//!
//! The layout is that of Debezium's `PostgresValueConverter` and `WkbWriter`: little-endian, two
//! dimensions, no SRID.

use crate::Error;
use crate::binary::{Malformed, Reader, put_bytes, put_long};
use crate::cell::Cell;
use crate::codec::{BRANCH_0, BRANCH_1, Column, Nullability};
use crate::form::Form;
use crate::sql_type::{Element, SqlType};

/// An array under construction.
#[derive(Debug)]
pub struct ArrayWriter {
    items: Column,
    count: i64,
    body: Vec<u8>,
}

impl ArrayWriter {
    /// Begins an array.
    #[must_use]
    pub fn new(element: Element) -> Self {
        Self {
            items: items(element),
            count: 0,
            body: Vec::new(),
        }
    }

    /// Adds an element, which may be NULL.
    ///
    /// # Errors
    /// [`Error::CellType`] (fatal) if the cell is not of the element's type.
    pub fn push(&mut self, cell: &Cell<'_>) -> Result<(), Error> {
        self.items.encode(cell, &mut self.body)?;
        self.count += 1;
        Ok(())
    }

    /// Returns the array, as a cell holds it.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 4);
        if self.count > 0 {
            put_long(self.count, &mut bytes);
            bytes.extend_from_slice(&self.body);
        }
        bytes.push(0);
        bytes
    }
}

/// Returns the elements of an array's cell, NULL among them.
pub fn elements(element: Element, array: &[u8]) -> Elements<'_> {
    Elements {
        items: items(element),
        reader: Reader::new(array),
        left: 0,
        is_over: false,
    }
}

fn items(element: Element) -> Column {
    Column::new("", element.into(), Nullability::NullFirst)
}

/// The elements of an array.
#[derive(Debug)]
pub struct Elements<'a> {
    items: Column,
    reader: Reader<'a>,
    /// In the block that is being read.
    left: u64,
    is_over: bool,
}

impl<'a> Elements<'a> {
    fn try_next(&mut self) -> Result<Option<Cell<'a>>, Malformed> {
        if self.left == 0 {
            self.left = block(&mut self.reader)?;
        }
        if self.left == 0 {
            self.reader.finish()?;
            return Ok(None);
        }
        self.left -= 1;
        self.items.decode(&mut self.reader).map(Some)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Cell<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.try_next();
        self.is_over = !matches!(next, Ok(Some(_)));
        next.map_err(Error::from).transpose()
    }
}

/// Reads how many entries of an array or map follow; none is the end. A negative number is followed
/// by the block's length in bytes.
pub(crate) fn block(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let count = reader.long()?;
    if count < 0 {
        reader.long()?;
    }
    Ok(count.unsigned_abs())
}

/// A geometric value, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// A `point`.
    Point([f64; 2]),
    /// A `line`: A, B and C of Ax + By + C = 0.
    Line([f64; 3]),
    /// A `circle`: x and y of its centre, and its radius.
    Circle([f64; 3]),
    /// An `lseg` of two points, a `box` of two opposite corners, a `path`, a `polygon`.
    Points {
        /// In order.
        points: Vec<[f64; 2]>,
        /// Whether a path is closed. Polygons are, and all others are not.
        is_closed: bool,
    },
}

impl Figure {
    /// Returns the figure as a cell of the type holds it, or `None` if it is none of the type.
    #[must_use]
    pub fn to_cell(&self, sql_type: SqlType) -> Option<Vec<u8>> {
        let fits = match (self, sql_type) {
            (Self::Point(_), SqlType::Point)
            | (Self::Line(_), SqlType::Line)
            | (Self::Circle(_), SqlType::Circle)
            | (Self::Points { .. }, SqlType::Path | SqlType::Polygon) => true,
            (Self::Points { points, .. }, SqlType::Lseg | SqlType::Box) => points.len() == 2,
            _ => false,
        };
        let mut out = Vec::new();
        fits.then(|| put(self, sql_type, &mut out))?;
        Some(out)
    }

    /// Takes a cell of the type apart.
    ///
    /// # Errors
    /// [`Error::Malformed`] (definite) if it is none of the type.
    pub fn of_cell(sql_type: SqlType, cell: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(cell);
        let figure = read(sql_type, &mut reader)?;
        reader.finish()?;
        Ok(figure)
    }
}

pub(crate) fn put(figure: &Figure, sql_type: SqlType, out: &mut Vec<u8>) {
    match figure {
        Figure::Point(point) => put_point(*point, out),
        Figure::Line(numbers) => put_doubles(numbers, out),
        Figure::Circle([x, y, radius]) => {
            put_point([*x, *y], out);
            put_doubles(&[*radius], out);
        }
        Figure::Points { points, is_closed } => {
            put_bytes(&well_known(points, sql_type), out);
            out.extend_from_slice(&[BRANCH_0, BRANCH_1]);
            let kind = sql_type.to_string();
            let closed = is_closed.to_string();
            let mut extensions = vec![("type", kind.as_str())];
            if sql_type == SqlType::Path {
                extensions.push(("closed", closed.as_str()));
            }
            put_long(if extensions.len() == 2 { 2 } else { 1 }, out);
            for (name, value) in extensions {
                put_bytes(name.as_bytes(), out);
                put_bytes(value.as_bytes(), out);
            }
            out.push(0);
        }
    }
}

fn put_point(point: [f64; 2], out: &mut Vec<u8>) {
    put_doubles(&point, out);
    let mut wkb = header(WKB_POINT);
    put_doubles(&point, &mut wkb);
    out.push(BRANCH_1);
    put_bytes(&wkb, out);
    out.push(BRANCH_0);
}

fn put_doubles(numbers: &[f64], out: &mut Vec<u8>) {
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
}

const LITTLE_ENDIAN: u8 = 1;
const WKB_POINT: u32 = 1;
const WKB_LINE: u32 = 2;
const WKB_POLYGON: u32 = 3;

fn header(kind: u32) -> Vec<u8> {
    let mut wkb = vec![LITTLE_ENDIAN];
    wkb.extend_from_slice(&kind.to_le_bytes());
    wkb
}

fn well_known(points: &[[f64; 2]], sql_type: SqlType) -> Vec<u8> {
    let line = |wkb: &mut Vec<u8>, points: &[[f64; 2]]| {
        // A value has at most 1 GB.
        let count = u32::try_from(points.len()).unwrap_or(u32::MAX);
        wkb.extend_from_slice(&count.to_le_bytes());
        for point in points {
            put_doubles(point, wkb);
        }
    };
    let ring = |points: &[[f64; 2]]| {
        let mut wkb = header(WKB_POLYGON);
        wkb.extend_from_slice(&1_u32.to_le_bytes());
        line(&mut wkb, points);
        wkb
    };
    match (sql_type, points) {
        (SqlType::Box, [[x1, y1], [x2, y2]]) => {
            ring(&[[*x1, *y1], [*x1, *y2], [*x2, *y2], [*x2, *y1], [*x1, *y1]])
        }
        (SqlType::Polygon, [first, .., last]) if first != last => {
            let mut points = points.to_vec();
            points.push(*first);
            ring(&points)
        }
        (SqlType::Polygon, _) => ring(points),
        _ => {
            let mut wkb = header(WKB_LINE);
            line(&mut wkb, points);
            wkb
        }
    }
}

const NO_FIGURE: Malformed = Malformed("a geometric value is not of its column's type");

fn read(sql_type: SqlType, reader: &mut Reader<'_>) -> Result<Figure, Malformed> {
    match sql_type {
        SqlType::Point => Ok(Figure::Point(read_point(reader)?)),
        SqlType::Line => Ok(Figure::Line([
            double(reader)?,
            double(reader)?,
            double(reader)?,
        ])),
        SqlType::Circle => {
            let [x, y] = read_point(reader)?;
            Ok(Figure::Circle([x, y, double(reader)?]))
        }
        SqlType::Lseg | SqlType::Box | SqlType::Path | SqlType::Polygon => {
            let wkb = reader.bytes()?;
            skip_srid(reader)?;
            let is_closed = read_extensions(reader)?;
            let points = read_points(sql_type, wkb)?;
            let is_closed = match sql_type {
                SqlType::Path => is_closed,
                _ => sql_type == SqlType::Polygon,
            };
            Ok(Figure::Points { points, is_closed })
        }
        _ => Err(NO_FIGURE),
    }
}

fn double(reader: &mut Reader<'_>) -> Result<f64, Malformed> {
    Ok(f64::from_le_bytes(reader.array()?))
}

fn read_point(reader: &mut Reader<'_>) -> Result<[f64; 2], Malformed> {
    let point = [double(reader)?, double(reader)?];
    if reader.branch()? {
        reader.bytes()?;
    }
    skip_srid(reader)?;
    Ok(point)
}

fn skip_srid(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    if reader.branch()? {
        reader.int()?;
    }
    Ok(())
}

/// Reads the extensions, and returns whether they say that a path is closed.
fn read_extensions(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    let mut is_closed = false;
    if !reader.branch()? {
        return Ok(is_closed);
    }
    loop {
        let entries = block(reader)?;
        if entries == 0 {
            return Ok(is_closed);
        }
        for _ in 0..entries {
            let (name, value) = (reader.text()?, reader.text()?);
            is_closed |= (name, value) == ("closed", "true");
        }
    }
}

fn read_points(sql_type: SqlType, wkb: &[u8]) -> Result<Vec<[f64; 2]>, Malformed> {
    let mut reader = Reader::new(wkb);
    let word = |reader: &mut Reader<'_>| Ok::<_, Malformed>(u32::from_le_bytes(reader.array()?));
    let is_ring = matches!(sql_type, SqlType::Box | SqlType::Polygon);
    let kind = if is_ring { WKB_POLYGON } else { WKB_LINE };
    if reader.byte()? != LITTLE_ENDIAN || word(&mut reader)? != kind {
        return Err(NO_FIGURE);
    }
    if is_ring && word(&mut reader)? != 1 {
        return Err(NO_FIGURE);
    }
    let count = word(&mut reader)?;
    let mut points = Vec::new();
    for _ in 0..count {
        points.push([double(&mut reader)?, double(&mut reader)?]);
    }
    reader.finish()?;
    // To the bit: 0 and -0 are equal, and the ring was not closed by repeating one as the other.
    let bits = |point: &[f64; 2]| point.map(f64::to_bits);
    match (sql_type, points.as_slice()) {
        (SqlType::Box, [first, _, opposite, _, _]) => Ok(vec![*first, *opposite]),
        (SqlType::Lseg, [_, _]) | (SqlType::Path, _) => Ok(points),
        (SqlType::Polygon, [first, .., last]) if bits(first) == bits(last) => {
            points.pop();
            Ok(points)
        }
        (SqlType::Polygon, _) => Ok(points),
        _ => Err(NO_FIGURE),
    }
}

/// Steps over a composite value.
pub(crate) fn skip(
    form: Form,
    items: Option<&Column>,
    reader: &mut Reader<'_>,
) -> Result<(), Malformed> {
    match (form, items) {
        (Form::Array { .. }, Some(items)) => loop {
            let count = block(reader)?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                items.skip(reader)?;
            }
        },
        (Form::Point, _) => read_point(reader).map(drop),
        (Form::Circle, _) => {
            read_point(reader)?;
            double(reader).map(drop)
        }
        (Form::Line, _) => reader.take(24).map(drop),
        (Form::Geometry, _) => {
            reader.bytes()?;
            skip_srid(reader)?;
            read_extensions(reader).map(drop)
        }
        _ => Err(NO_FIGURE),
    }
}

/// Returns what stands for a value that the source did not send, as far as Debezium has a form for
/// it: the placeholder as the only text, or its bytes as numbers. Empty where values are so small that
/// the source always sends them.
pub(crate) fn unavailable(form: Form, items: Option<&Column>, placeholder: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match (form, items) {
        (Form::Geometry, _) => {
            put_bytes(placeholder.as_bytes(), &mut out);
            out.extend_from_slice(&[BRANCH_0; 2]);
        }
        (Form::Array { .. }, Some(items)) => put_placeholder_items(items, placeholder, &mut out),
        _ => {}
    }
    out
}

fn put_placeholder_items(items: &Column, placeholder: &str, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    let mut count = 0;
    let mut number = |put: &dyn Fn(u8, &mut Vec<u8>)| {
        for byte in placeholder.bytes() {
            body.push(BRANCH_1);
            put(byte, &mut body);
            count += 1;
        }
    };
    match items.form {
        Form::Boolean => number(&|byte, body| body.push(byte & 1)),
        Form::Float => number(&|byte, body| body.extend(f32::from(byte).to_le_bytes())),
        Form::Double => number(&|byte, body| body.extend(f64::from(byte).to_le_bytes())),
        Form::Int16
        | Form::Int32
        | Form::Int64
        | Form::Date
        | Form::TimeMillis
        | Form::TimeMicros
        | Form::TimestampMillis
        | Form::TimestampMicros => number(&|byte, body| put_long(i64::from(byte), body)),
        _ => {
            body.push(BRANCH_1);
            if items.form == Form::VariableDecimal {
                put_long(0, &mut body);
            }
            put_bytes(placeholder.as_bytes(), &mut body);
            count = 1;
        }
    }
    put_long(count, out);
    out.extend_from_slice(&body);
    out.push(0);
}
