//! What a row must have to be shown, told without the condition's tree. Of many views over one table
//! a row is in few, and those that it cannot be in are left out by a look at one of its cells.

use hutong_schemas::cell::Cell;

use super::term::{Constant, Domain, Form, Term};
use super::{Operator, Predicate};

/// A test that every row passes for which the condition is TRUE. Others may pass it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    column: usize,
    test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    /// An integer is not below the first and not above the second.
    Between(i64, i64),
    /// A text has so many bytes, and these are the first of them.
    Begins(usize, [u8; 8]),
}

impl Screen {
    /// Returns whether the condition may be TRUE for a row.
    #[must_use]
    pub fn lets_pass(&self, cells: &[Cell<'_>]) -> bool {
        match (self.test, cells.get(self.column)) {
            (Test::Between(low, high), Some(Cell::Int(value))) => (low..=high).contains(value),
            (Test::Begins(length, first), Some(Cell::Text(text))) => {
                text.len() == length && first_bytes(text.as_bytes()) == first
            }
            _ => true,
        }
    }

    /// Returns one test instead of two that a row must pass.
    fn and(self, other: Self) -> Self {
        match (self.test, other.test) {
            (Test::Between(low, high), Test::Between(other_low, other_high))
                if self.column == other.column =>
            {
                Self {
                    column: self.column,
                    test: Test::Between(low.max(other_low), high.min(other_high)),
                }
            }
            _ => self,
        }
    }
}

/// Returns how a text begins, with zeroes behind its end.
fn first_bytes(text: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    let length = text.len().min(first.len());
    first[..length].copy_from_slice(&text[..length]);
    first
}

/// Returns what a row must have for a predicate to be TRUE, where that can be told by one cell.
pub(super) fn of(predicate: &Predicate) -> Option<Screen> {
    match predicate {
        Predicate::And(parts) => parts.iter().filter_map(of).reduce(Screen::and),
        Predicate::Compare {
            domain: Domain::Exact | Domain::Int,
            left: Term::Column { index, .. },
            operator,
            right: Term::Constant(Constant::Int(right)),
        } => Some(Screen {
            column: *index,
            test: between(*operator, *right)?,
        }),
        Predicate::Compare {
            domain: Domain::Text,
            left:
                Term::Column {
                    index,
                    form: Form::Plain,
                },
            operator: Operator::Equal,
            right: Term::Constant(Constant::Bytes(right)),
        } => Some(Screen {
            column: *index,
            test: Test::Begins(right.len(), first_bytes(right)),
        }),
        _ => None,
    }
}

/// Returns between what an integer lies that compares so with a constant.
fn between(operator: Operator, right: i64) -> Option<Test> {
    const NOTHING: (i64, i64) = (i64::MAX, i64::MIN);
    let (low, high) = match operator {
        Operator::Equal => (right, right),
        Operator::NotEqual => return None,
        Operator::Less => right
            .checked_sub(1)
            .map_or(NOTHING, |high| (i64::MIN, high)),
        Operator::LessOrEqual => (i64::MIN, right),
        Operator::Greater => right.checked_add(1).map_or(NOTHING, |low| (low, i64::MAX)),
        Operator::GreaterOrEqual => (right, i64::MAX),
    };
    Some(Test::Between(low, high))
}
