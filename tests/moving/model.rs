//! What each version of a view grants: the oracle. Pure; PostgreSQL evaluates the conditions and masks
//! that it writes, so nothing of the product's evaluator is in it.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// How a column is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mask {
    First(usize),
    Last(usize),
    Null,
}

impl Mask {
    fn document(self) -> String {
        match self {
            Self::First(n) => format!("SHOW_FIRST {n}"),
            Self::Last(n) => format!("SHOW_LAST {n}"),
            Self::Null => "NULL".to_owned(),
        }
    }

    /// Returns the expression that defines the mask, over a column as text.
    fn sql(self, column: &str) -> String {
        let x = format!("{column}::text");
        match self {
            Self::First(n) => format!(
                "case when length({x}) <= {n} then repeat('*', length({x}))
                 else left({x}, {n}) || repeat('*', length({x}) - {n}) end"
            ),
            Self::Last(n) => format!(
                "case when length({x}) <= {n} then repeat('*', length({x}))
                 else repeat('*', length({x}) - {n}) || right({x}, {n}) end"
            ),
            Self::Null => "null::text".to_owned(),
        }
    }
}

/// A column that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) mask: Option<Mask>,
}

impl Column {
    pub(super) fn clear(name: &'static str) -> Self {
        Self { name, mask: None }
    }

    /// Returns what a row shows of the column, as an expression that yields text.
    pub(super) fn sql(&self) -> String {
        match self.mask {
            None => format!("{}::text", self.name),
            Some(mask) => mask.sql(self.name),
        }
    }
}

/// A condition: one of a few forms, with a number that makes it wider the larger it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) form: usize,
    pub(super) width: i32,
}

/// How many forms of conditions there are.
pub(super) const FORMS: usize = 5;

impl Condition {
    pub(super) fn sql(self) -> String {
        let k = self.width;
        match self.form {
            0 => format!("n < {k}"),
            1 => format!("region LIKE '3707%' AND n < {k}"),
            2 => format!("n < {k} OR region IS NULL"),
            3 => format!("region IN ('370705', '370702') AND n BETWEEN 0 AND {k}"),
            // Hides rows whose region is unknown: NOT of UNKNOWN is UNKNOWN.
            _ => format!("NOT region = '110000' AND n < {k}"),
        }
    }
}

/// What a version of a view grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) columns: Vec<Column>,
    pub(super) condition: Condition,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.columns.iter().map(|column| match column.mask {
            None => column.name.to_owned(),
            Some(mask) => format!("{} {}", column.name, mask.document()),
        });
        let columns: Vec<String> = columns.collect();
        write!(f, "({}) where {}", columns.join(", "), self.condition.sql())
    }
}

impl Policy {
    /// Returns whether the key is hidden behind `_rk`.
    pub(super) fn hides_key(&self) -> bool {
        !self.grants("id")
    }

    pub(super) fn grants(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    pub(super) fn shows_clear(&self, name: &str) -> bool {
        self.columns
            .iter()
            .any(|column| column.name == name && column.mask.is_none())
    }

    /// Returns the columns of a view's document.
    pub(super) fn document_columns(&self) -> Value {
        let columns = self.columns.iter().map(|column| match column.mask {
            None => json!({ "name": column.name }),
            Some(mask) => json!({ "name": column.name, "mask": mask.document() }),
        });
        columns.collect()
    }

    /// Returns an expression for the shown row as an array of texts.
    pub(super) fn row_sql(&self) -> String {
        let shown: Vec<String> = self.columns.iter().map(Column::sql).collect();
        format!("array[{}]", shown.join(", "))
    }
}

/// A view over a table of the department.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) table: &'static str,
}

const fn view(name: &'static str, table: &'static str) -> View {
    View { name, table }
}

pub(super) const PEOPLE: View = view("people", "person");
pub(super) const HIDDEN: View = view("hidden", "person");
pub(super) const SCRAPS: View = view("scraps", "scrap");
pub(super) const ACCOUNTS: View = view("accounts", "account");
pub(super) const EXTRAS: View = view("extras", "extra");

/// All views that a schedule may make.
pub(super) const VIEWS: [View; 5] = [PEOPLE, HIDDEN, SCRAPS, ACCOUNTS, EXTRAS];

/// A policy that was given to a view.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) generation: u64,
    pub(super) policy: Policy,
    /// The version of the share's key.
    pub(super) key: u32,
}

/// Everything that was ever in force for a view.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// By the number that records carry.
    pub(super) versions: BTreeMap<u64, Version>,
    pub(super) is_live: bool,
}

impl History {
    /// Returns the newest version.
    pub(super) fn newest(&self) -> Option<(u64, &Version)> {
        self.versions
            .last_key_value()
            .map(|(number, version)| (*number, version))
    }
}
