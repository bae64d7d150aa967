//! Conditions: which rows a view shows, in a small part of SQL.
//!
//! The language is `= <> < <= > >= IN BETWEEN LIKE IS [NOT] NULL AND OR NOT` and a boolean column by
//! itself, over the columns of one row and literals. A condition means exactly what PostgreSQL means
//! by the same text, with three truth values; what would depend on a session (its time zone, its
//! date style, the database's collation) is refused instead of guessed:
//!
//! - text is ordered (`<`, `BETWEEN`) under `COLLATE "C"` only, which must be written;
//! - dates and times are written in ISO form, and a `timestamp with time zone` with its offset;
//! - `date` and `timestamp` are not compared with `timestamp with time zone`;
//! - comments and unquoted reserved words are refused, because two parsers could differ over them.
//!
//! `json` and `jsonb` can only be asked whether they are NULL.
//!
//! A text is parsed by `sqlparser`, checked against the table's types when the view is saved, and
//! compiled to a tree of tests that read cells. A value that is unavailable makes every test on it
//! UNKNOWN, and an UNKNOWN row is hidden.

mod like;
mod operand;
mod parse;
mod screen;
mod term;
mod typing;

use std::cmp::Ordering;

use hutong_schemas::cell::Cell;
use hutong_schemas::table::TableSchema;

use like::Pattern;
pub use screen::Screen;
use term::{Constant, Domain, Term};

/// A truth value of SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// TRUE
    True,
    /// FALSE
    False,
    /// UNKNOWN
    Unknown,
}

impl std::ops::Not for Truth {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::True => Self::False,
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// A condition that is not in the language, or does not fit the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub(crate) String);

/// A compiled condition.
#[derive(Clone, Debug)]
pub struct Condition {
    root: Predicate,
}

/// Compiles a condition for rows whose cells are the table's columns, in the table's order.
///
/// # Errors
/// What is wrong, naming the column where there is one.
pub fn compile(text: &str, table: &TableSchema) -> Result<Condition, Invalid> {
    let root = parse::parse(text, table)?;
    Ok(Condition { root })
}

impl Condition {
    /// Decides about a row.
    #[must_use]
    pub fn evaluate(&self, cells: &[Cell<'_>]) -> Truth {
        self.root.evaluate(cells)
    }

    /// Returns what a row must have for the condition to be TRUE, where one cell tells it.
    #[must_use]
    pub fn screen(&self) -> Option<Screen> {
        screen::of(&self.root)
    }

    /// Returns the columns that the condition looks at, as indices, each possibly several times.
    #[must_use]
    pub fn columns(&self) -> Vec<usize> {
        let mut columns = Vec::new();
        self.root
            .clone()
            .for_each_column(&mut |index| columns.push(*index));
        columns
    }

    /// Returns the condition for rows in which the table's column `i` is cell `positions[i]`.
    ///
    /// # Panics
    /// If a column that the condition looks at has no position.
    #[must_use]
    pub fn at(mut self, positions: &[Option<usize>]) -> Self {
        self.root.for_each_column(&mut |index| {
            *index = positions[*index].expect("every column of a condition has a position");
        });
        self
    }
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Operator {
    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering == Ordering::Equal,
            Self::NotEqual => ordering != Ordering::Equal,
            Self::Less => ordering == Ordering::Less,
            Self::LessOrEqual => ordering != Ordering::Greater,
            Self::Greater => ordering == Ordering::Greater,
            Self::GreaterOrEqual => ordering != Ordering::Less,
        }
    }

    fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

/// A test of a row.
#[derive(Clone, Debug)]
enum Predicate {
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
    /// A boolean column by itself.
    Flag(usize),
    IsNull(usize),
    Compare {
        domain: Domain,
        left: Term,
        operator: Operator,
        right: Term,
    },
    /// Equality with any of several constants; `or_null` if NULL was among them.
    In {
        domain: Domain,
        left: Term,
        list: Vec<Constant>,
        or_null: bool,
    },
    Like {
        column: usize,
        pattern: Pattern,
    },
    /// A comparison with the literal NULL.
    Unknown,
}

impl Predicate {
    fn evaluate(&self, cells: &[Cell<'_>]) -> Truth {
        match self {
            Self::And(parts) => all(parts, cells, Truth::False),
            Self::Or(parts) => all(parts, cells, Truth::True),
            Self::Not(part) => !part.evaluate(cells),
            Self::Flag(column) => match cells[*column] {
                Cell::Bool(value) => value.into(),
                _ => Truth::Unknown,
            },
            Self::IsNull(column) => match cells[*column] {
                Cell::Null => Truth::True,
                Cell::Unavailable => Truth::Unknown,
                _ => Truth::False,
            },
            // The most frequent one, without a look at what else it might be.
            Self::Compare {
                domain: Domain::Exact | Domain::Int,
                left: Term::Column { index, .. },
                operator,
                right: Term::Constant(Constant::Int(right)),
            } if let Cell::Int(left) = cells[*index] => operator.holds(left.cmp(right)).into(),
            Self::Compare {
                domain,
                left,
                operator,
                right,
            } => match (left.load(*domain, cells), right.load(*domain, cells)) {
                (Some(left), Some(right)) => operator.holds(left.compare(&right)).into(),
                _ => Truth::Unknown,
            },
            Self::In {
                domain,
                left,
                list,
                or_null,
            } => match left.load(*domain, cells) {
                None => Truth::Unknown,
                Some(left)
                    if list
                        .iter()
                        .any(|item| left.compare(&item.value()) == Ordering::Equal) =>
                {
                    Truth::True
                }
                Some(_) if *or_null => Truth::Unknown,
                Some(_) => Truth::False,
            },
            Self::Like { column, pattern } => match cells[*column] {
                Cell::Text(text) => pattern.matches(text.as_bytes()).into(),
                Cell::Bytes(bytes) => pattern.matches(bytes).into(),
                _ => Truth::Unknown,
            },
            Self::Unknown => Truth::Unknown,
        }
    }

    fn for_each_column(&mut self, visit: &mut impl FnMut(&mut usize)) {
        match self {
            Self::And(parts) | Self::Or(parts) => {
                for part in parts {
                    part.for_each_column(visit);
                }
            }
            Self::Not(part) => part.for_each_column(visit),
            Self::Flag(column) | Self::IsNull(column) | Self::Like { column, .. } => visit(column),
            Self::Compare { left, right, .. } => {
                left.column_mut().into_iter().for_each(&mut *visit);
                right.column_mut().into_iter().for_each(&mut *visit);
            }
            Self::In { left, .. } => left.column_mut().into_iter().for_each(&mut *visit),
            Self::Unknown => {}
        }
    }
}

/// Combines parts, of which one that is `decisive` decides alone (FALSE for AND, TRUE for OR); else
/// UNKNOWN wins over the rest.
fn all(parts: &[Predicate], cells: &[Cell<'_>], decisive: Truth) -> Truth {
    let mut result = !decisive;
    for part in parts {
        let truth = part.evaluate(cells);
        if truth == decisive {
            return decisive;
        }
        if truth == Truth::Unknown {
            result = Truth::Unknown;
        }
    }
    result
}
