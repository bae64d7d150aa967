//! From text to tests: what of SQL is in the language.

use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableSchema;
use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};

use super::like::{Escape, Pattern};
use super::operand::{Operand, OperandKind, column};
use super::typing::{self, Kind};
use super::{Invalid, Operator, Predicate};
use crate::literal;

/// The longest condition. The parser bounds the depth of parentheses; this bounds the length of a
/// chain, such as `a AND b AND c` or `a + b + c`, whose tree is as deep as it is long.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The stack on which a condition is read. Refusing an expression shows it, and showing and dropping
/// it goes down the whole tree: at most [`TEXT_BYTES_MAX`] / 2 levels, of some KiB each without
/// optimisation. The stack of the thread that asks, 2 MiB under tokio, would not do.
const STACK_BYTES: usize = 128 << 20;

/// The longest part of a message. It quotes the condition, which may be long.
const MESSAGE_CHARS_MAX: usize = 500;

pub(super) fn parse(text: &str, table: &TableSchema) -> Result<Predicate, Invalid> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Invalid(format!(
            "the condition has {} bytes, more than {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    // Only touched pages of the stack are memory, and this happens when a view or a schema is new.
    let outcome = std::thread::scope(|scope| {
        let reading = std::thread::Builder::new()
            .name("hutong-condition".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || read(text, table));
        reading.map(std::thread::ScopedJoinHandle::join)
    });
    match outcome {
        Ok(Ok(read)) => read.map_err(shorten),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => Err(Invalid(format!(
            "the condition cannot be read now: {error}"
        ))),
    }
}

fn shorten(Invalid(message): Invalid) -> Invalid {
    if message.chars().nth(MESSAGE_CHARS_MAX).is_none() {
        return Invalid(message);
    }
    let mut shortened: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    shortened.push('…');
    Invalid(shortened)
}

fn read(text: &str, table: &TableSchema) -> Result<Predicate, Invalid> {
    let dialect = PostgreSqlDialect {};
    let tokens = Tokenizer::new(&dialect, text)
        .tokenize()
        .map_err(|error| Invalid(format!("the condition cannot be read: {error}")))?;
    let is_comment = |token: &Token| {
        matches!(
            token,
            Token::Whitespace(
                Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)
            )
        )
    };
    if tokens.iter().any(is_comment) {
        return Err(Invalid("a condition has no comments".to_owned()));
    }
    let mut parser = Parser::new(&dialect).with_tokens(tokens);
    let expression = parser
        .parse_expr()
        .map_err(|error| Invalid(format!("the condition cannot be parsed: {error}")))?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        return Err(Invalid(format!(
            "the condition cannot be parsed: unexpected {rest}"
        )));
    }
    predicate(&expression, table)
}

fn predicate(expression: &Expr, table: &TableSchema) -> Result<Predicate, Invalid> {
    match expression {
        Expr::Nested(inner) => predicate(inner, table),
        Expr::BinaryOp {
            op: BinaryOperator::And,
            ..
        } => chain(expression, &BinaryOperator::And, table).map(Predicate::And),
        Expr::BinaryOp {
            op: BinaryOperator::Or,
            ..
        } => chain(expression, &BinaryOperator::Or, table).map(Predicate::Or),
        Expr::BinaryOp { left, op, right } => {
            let operator = operator(op)?;
            compare(
                &Operand::read(left, table)?,
                operator,
                &Operand::read(right, table)?,
            )
        }
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } => predicate(expr, table).map(|inner| Predicate::Not(Box::new(inner))),
        Expr::Identifier(identifier) => match column(identifier, table)? {
            OperandKind::Column {
                index,
                sql_type: SqlType::Bool,
                ..
            } => Ok(Predicate::Flag(index)),
            OperandKind::Column { name, sql_type, .. } => Err(Invalid(format!(
                "column \"{name}\" ({sql_type}) is not a condition by itself: only a boolean column is"
            ))),
            _ => unreachable!("a column is a column"),
        },
        Expr::IsNull(inner) => Ok(Predicate::IsNull(column_index(inner, table)?)),
        Expr::IsNotNull(inner) => {
            let index = column_index(inner, table)?;
            Ok(Predicate::Not(Box::new(Predicate::IsNull(index))))
        }
        Expr::Between {
            expr,
            negated,
            low,
            high,
        } => {
            let operand = Operand::read(expr, table)?;
            let low = compare(
                &operand,
                Operator::GreaterOrEqual,
                &Operand::read(low, table)?,
            )?;
            let high = compare(
                &operand,
                Operator::LessOrEqual,
                &Operand::read(high, table)?,
            )?;
            Ok(negate_if(*negated, Predicate::And(vec![low, high])))
        }
        Expr::InList {
            expr,
            list,
            negated,
        } => {
            let operand = Operand::read(expr, table)?;
            let items = list
                .iter()
                .map(|item| Operand::read(item, table))
                .collect::<Result<_, _>>()?;
            Ok(negate_if(*negated, in_list(&operand, items)?))
        }
        Expr::Like {
            negated,
            any: false,
            expr,
            pattern,
            escape_char,
        } => {
            let operand = Operand::read(expr, table)?;
            let pattern = Operand::read(pattern, table)?;
            Ok(negate_if(
                *negated,
                like(&operand, &pattern, escape_char.as_deref())?,
            ))
        }
        _ => Err(Invalid(format!(
            "{expression} is not in the language of conditions: = <> < <= > >= IN BETWEEN LIKE IS [NOT] NULL AND OR NOT"
        ))),
    }
}

fn negate_if(negated: bool, predicate: Predicate) -> Predicate {
    if negated {
        Predicate::Not(Box::new(predicate))
    } else {
        predicate
    }
}

/// Takes a chain `a AND b AND c`, which the parser nests to the left, apart without recursion.
fn chain(
    expression: &Expr,
    chained: &BinaryOperator,
    table: &TableSchema,
) -> Result<Vec<Predicate>, Invalid> {
    let mut parts = Vec::new();
    let mut rest = expression;
    while let Expr::BinaryOp { left, op, right } = rest
        && op == chained
    {
        parts.push(predicate(right, table)?);
        rest = left;
    }
    parts.push(predicate(rest, table)?);
    parts.reverse();
    Ok(parts)
}

fn operator(operator: &BinaryOperator) -> Result<Operator, Invalid> {
    match operator {
        BinaryOperator::Eq => Ok(Operator::Equal),
        BinaryOperator::NotEq => Ok(Operator::NotEqual),
        BinaryOperator::Lt => Ok(Operator::Less),
        BinaryOperator::LtEq => Ok(Operator::LessOrEqual),
        BinaryOperator::Gt => Ok(Operator::Greater),
        BinaryOperator::GtEq => Ok(Operator::GreaterOrEqual),
        _ => Err(Invalid(format!(
            "operator {operator} is not in the language of conditions"
        ))),
    }
}

fn column_index(expression: &Expr, table: &TableSchema) -> Result<usize, Invalid> {
    match Operand::read(expression, table)?.kind {
        OperandKind::Column { index, .. } => Ok(index),
        _ => Err(Invalid(format!("{expression} is not a column"))),
    }
}

fn compare(left: &Operand, operator: Operator, right: &Operand) -> Result<Predicate, Invalid> {
    let is_column = |operand: &Operand| matches!(operand.kind, OperandKind::Column { .. });
    if !is_column(left) && !is_column(right) {
        return Err(Invalid(format!(
            "{} and {}: a comparison needs a column",
            left.describe(),
            right.describe()
        )));
    }
    let (left_kind, right_kind) = match (typing::kind(left), typing::kind(right)) {
        (Some(left), Some(right)) => (left, right),
        (Some(kind), None) | (None, Some(kind)) => (kind, kind),
        (None, None) => unreachable!("one of them is a column"),
    };
    let domain =
        typing::domain(left_kind, right_kind).ok_or_else(|| cannot_compare(left, right))?;
    let texts = [left_kind, right_kind]
        .iter()
        .all(|kind| matches!(kind, Kind::Text | Kind::Varchar | Kind::Bpchar));
    if texts && operator.orders() && !left.collate_c && !right.collate_c {
        return Err(Invalid(format!(
            "{} and {}: text is ordered under COLLATE \"C\" only, which must be written behind one of them",
            left.describe(),
            right.describe()
        )));
    }
    let is_null = |operand: &Operand| matches!(operand.kind, OperandKind::Null);
    if is_null(left) || is_null(right) {
        return Ok(Predicate::Unknown);
    }
    Ok(Predicate::Compare {
        domain,
        left: typing::term(left, left_kind, domain)?,
        operator,
        right: typing::term(right, right_kind, domain)?,
    })
}

fn cannot_compare(left: &Operand, right: &Operand) -> Invalid {
    let is = |operand: &Operand, kinds: &[Kind]| {
        typing::kind(operand).is_some_and(|kind| kinds.contains(&kind))
    };
    let json = [Kind::Json, Kind::Jsonb];
    let zoned = [Kind::Timestamptz];
    let why = if is(left, &json) || is(right, &json) {
        ": JSON can only be asked whether it IS NULL"
    } else if is(left, &[Kind::Other]) || is(right, &[Kind::Other]) {
        ": conditions have no comparison for the type, it can only be asked whether it IS NULL"
    } else if is(left, &zoned) != is(right, &zoned) && is(left, &DATE_LIKE) && is(right, &DATE_LIKE)
    {
        ": the result would depend on a session's time zone"
    } else {
        ""
    };
    Invalid(format!(
        "{} and {} cannot be compared{why}",
        left.describe(),
        right.describe()
    ))
}

const DATE_LIKE: [Kind; 3] = [Kind::Date, Kind::Timestamp, Kind::Timestamptz];

/// `IN`: the literals in their common type if there are at least two, everything else one by one.
fn in_list(left: &Operand, items: Vec<Operand>) -> Result<Predicate, Invalid> {
    let Some(left_kind) =
        typing::kind(left).filter(|_| matches!(left.kind, OperandKind::Column { .. }))
    else {
        return Err(Invalid(format!(
            "{}: IN needs a column on its left side",
            left.describe()
        )));
    };
    let (columns, literals): (Vec<Operand>, Vec<Operand>) = items
        .into_iter()
        .partition(|item| matches!(item.kind, OperandKind::Column { .. }));
    let mut alternatives = Vec::new();
    let singles = if literals.len() > 1 {
        alternatives.push(in_literals(left, left_kind, &literals)?);
        columns
    } else {
        literals.into_iter().chain(columns).collect()
    };
    for item in &singles {
        alternatives.push(compare(left, Operator::Equal, item)?);
    }
    Ok(Predicate::Or(alternatives))
}

fn in_literals(
    left: &Operand,
    left_kind: Kind,
    literals: &[Operand],
) -> Result<Predicate, Invalid> {
    let common = typing::common(left_kind, literals);
    let domain =
        typing::domain(left_kind, common).ok_or_else(|| cannot_compare(left, &literals[0]))?;
    let mut list = Vec::with_capacity(literals.len());
    let mut or_null = false;
    for item in literals {
        if let Some(kind) = typing::kind(item)
            && typing::domain(common, kind).is_none()
        {
            return Err(cannot_compare(left, item));
        }
        if matches!(item.kind, OperandKind::Null) {
            or_null = true;
        } else {
            list.push(typing::constant(item, common, domain)?);
        }
    }
    Ok(Predicate::In {
        domain,
        left: typing::term(left, left_kind, domain)?,
        list,
        or_null,
    })
}

fn like(operand: &Operand, pattern: &Operand, escape: Option<&Expr>) -> Result<Predicate, Invalid> {
    let OperandKind::Column {
        index, sql_type, ..
    } = operand.kind
    else {
        return Err(Invalid(format!(
            "{}: LIKE needs a column on its left side",
            operand.describe()
        )));
    };
    let kind = Kind::of(sql_type);
    if !matches!(
        kind,
        Kind::Text | Kind::Varchar | Kind::Bpchar | Kind::Bytea
    ) {
        return Err(Invalid(format!(
            "{} cannot be compared by LIKE",
            operand.describe()
        )));
    }
    let escape = match escape {
        None => Escape::Character('\\'),
        // PostgreSQL then takes the pattern for text, and bytea LIKE text does not exist.
        Some(_) if kind == Kind::Bytea => {
            return Err(Invalid(format!(
                "{}: LIKE has no ESCAPE for bytea",
                operand.describe()
            )));
        }
        Some(expression) => escape_character(expression)?,
    };
    let pattern = match &pattern.kind {
        OperandKind::Null => return Ok(Predicate::Unknown),
        OperandKind::String(text) => text,
        _ => {
            return Err(Invalid(format!(
                "{}: a LIKE pattern is a string",
                pattern.describe()
            )));
        }
    };
    let pattern = if kind == Kind::Bytea {
        let bytes = literal::bytea(pattern).map_err(|error| Invalid(error.to_string()))?;
        Pattern::bytes(&bytes, escape)?
    } else {
        Pattern::text(pattern, escape)?
    };
    Ok(Predicate::Like {
        column: index,
        pattern,
    })
}

fn escape_character(expression: &Expr) -> Result<Escape, Invalid> {
    let invalid = || {
        Invalid(format!(
            "ESCAPE {expression}: the escape is one character or none, in quotes"
        ))
    };
    let Expr::Value(value) = expression else {
        return Err(invalid());
    };
    let Value::SingleQuotedString(text) = &value.value else {
        return Err(invalid());
    };
    let characters: Vec<char> = text.chars().collect();
    match characters.as_slice() {
        [] => Ok(Escape::None),
        [character] => Ok(Escape::Character(*character)),
        _ => Err(invalid()),
    }
}
