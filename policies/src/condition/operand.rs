//! What may stand on a side of a comparison, as written: a column or a literal.

use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableSchema;
use sqlparser::ast::{DataType, Expr, Ident, TimezoneInfo, UnaryOperator, Value};

use super::Invalid;
use crate::literal;

/// A side of a comparison before its type is settled.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) kind: OperandKind,
    /// Whether `COLLATE "C"` was written behind it.
    pub(super) collate_c: bool,
}

#[derive(Clone, Debug)]
pub(super) enum OperandKind {
    Column {
        index: usize,
        name: String,
        sql_type: SqlType,
    },
    Null,
    /// A quoted string, whose type follows from the other side.
    String(String),
    /// A number as written, with its sign.
    Number(String),
    Bool(bool),
    /// `DATE '…'`, `TIME '…'`, `TIMESTAMP '…'`, `TIMESTAMP WITH TIME ZONE '…'`.
    Typed(SqlType, i64),
}

impl Operand {
    pub(super) fn read(expression: &Expr, table: &TableSchema) -> Result<Self, Invalid> {
        let plain = |kind| {
            Ok(Self {
                kind,
                collate_c: false,
            })
        };
        match expression {
            Expr::Nested(inner) => Self::read(inner, table),
            Expr::Identifier(identifier) => plain(column(identifier, table)?),
            Expr::Value(value) => plain(value_operand(&value.value)?),
            Expr::UnaryOp { op, expr } => plain(OperandKind::Number(signed(*op, expr)?)),
            Expr::TypedString(typed) if !typed.uses_odbc_syntax => {
                let Value::SingleQuotedString(text) = &typed.value.value else {
                    return Err(Invalid(format!("{typed} is not a literal of the language")));
                };
                plain(typed_literal(&typed.data_type, text)?)
            }
            Expr::Collate { expr, collation } => collated(expr, &collation.to_string(), table),
            Expr::Function(function) => Err(Invalid(format!(
                "{} is a function, and conditions have none",
                function.name
            ))),
            Expr::CompoundIdentifier(_) => Err(Invalid(format!(
                "{expression}: columns are written without the table's name"
            ))),
            _ => Err(Invalid(format!(
                "{expression} is neither a column nor a literal"
            ))),
        }
    }

    /// Returns how to speak of the operand.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            OperandKind::Column { name, sql_type, .. } => format!("column \"{name}\" ({sql_type})"),
            OperandKind::Null => "NULL".to_owned(),
            OperandKind::String(text) => format!("'{text}'"),
            OperandKind::Number(text) => text.clone(),
            OperandKind::Bool(value) => value.to_string(),
            OperandKind::Typed(sql_type, _) => format!("a literal of type {sql_type}"),
        }
    }
}

fn collated(expression: &Expr, collation: &str, table: &TableSchema) -> Result<Operand, Invalid> {
    if collation != "\"C\"" {
        return Err(Invalid(format!(
            "COLLATE {collation}: only COLLATE \"C\" orders text in conditions"
        )));
    }
    let operand = Operand::read(expression, table)?;
    let collatable = match &operand.kind {
        OperandKind::Column { sql_type, .. } => {
            matches!(
                sql_type,
                SqlType::Text | SqlType::Varchar { .. } | SqlType::Char { .. }
            )
        }
        OperandKind::String(_) | OperandKind::Null => true,
        OperandKind::Number(_) | OperandKind::Bool(_) | OperandKind::Typed(..) => false,
    };
    if !collatable {
        return Err(Invalid(format!("{} has no collation", operand.describe())));
    }
    Ok(Operand {
        collate_c: true,
        ..operand
    })
}

/// Finds a column as PostgreSQL does: an unquoted name is folded to lower case.
pub(super) fn column(identifier: &Ident, table: &TableSchema) -> Result<OperandKind, Invalid> {
    let name = match identifier.quote_style {
        Some('"') => identifier.value.clone(),
        Some(_) => return Err(Invalid(format!("{identifier}: names are quoted with \""))),
        None => identifier.value.to_ascii_lowercase(),
    };
    if identifier.quote_style.is_none() && RESERVED.contains(&name.as_str()) {
        return Err(Invalid(format!(
            "{name} is a reserved word; a column of that name is written \"{name}\""
        )));
    }
    let found = table.columns.iter().position(|column| column.name == name);
    let index =
        found.ok_or_else(|| Invalid(format!("table {} has no column \"{name}\"", table.id)))?;
    Ok(OperandKind::Column {
        index,
        name,
        sql_type: table.columns[index].sql_type,
    })
}

fn value_operand(value: &Value) -> Result<OperandKind, Invalid> {
    match value {
        Value::Null => Ok(OperandKind::Null),
        Value::Boolean(value) => Ok(OperandKind::Bool(*value)),
        Value::Number(text, false) => number(text).map(OperandKind::Number),
        Value::SingleQuotedString(text) if text.contains('\0') => Err(Invalid(
            "a string contains the character NUL, which PostgreSQL cannot hold".to_owned(),
        )),
        Value::SingleQuotedString(text) => Ok(OperandKind::String(text.clone())),
        _ => Err(Invalid(format!(
            "{value} is not a literal of the language: strings are written '…'"
        ))),
    }
}

fn signed(operator: UnaryOperator, expression: &Expr) -> Result<String, Invalid> {
    let sign = match operator {
        UnaryOperator::Minus => "-",
        UnaryOperator::Plus => "",
        _ => {
            return Err(Invalid(format!(
                "operator {operator} is not in the language"
            )));
        }
    };
    match expression {
        Expr::Value(value) => match &value.value {
            Value::Number(text, false) => Ok(format!("{sign}{}", number(text)?)),
            other => Err(Invalid(format!("{operator}{other} is not a number"))),
        },
        Expr::Nested(inner) => signed(operator, inner),
        other => Err(Invalid(format!("{operator}{other} is not a number"))),
    }
}

fn number(text: &str) -> Result<String, Invalid> {
    literal::numeric(text).map_err(|error| Invalid(error.to_string()))?;
    Ok(text.to_owned())
}

fn typed_literal(data_type: &DataType, text: &str) -> Result<OperandKind, Invalid> {
    const PRECISION: u8 = 6;
    let (sql_type, value) = match data_type {
        DataType::Date => (SqlType::Date, literal::date(text)),
        DataType::Time(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => (
            SqlType::Time {
                precision: PRECISION,
            },
            literal::time(text),
        ),
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => (
            SqlType::Timestamp {
                precision: PRECISION,
            },
            literal::timestamp(text),
        ),
        DataType::Timestamp(None, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => (
            SqlType::Timestamptz {
                precision: PRECISION,
            },
            literal::timestamptz(text),
        ),
        _ => {
            return Err(Invalid(format!(
                "{data_type} '{text}': only DATE, TIME, TIMESTAMP and TIMESTAMP WITH TIME ZONE stand before a string"
            )));
        }
    };
    let value = value.map_err(|error| Invalid(error.to_string()))?;
    Ok(OperandKind::Typed(sql_type, value))
}

/// Words that PostgreSQL does not take as a column's name without quotes: the reserved ones and
/// those reserved except as functions or types (manual, appendix C).
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];
