//! Geometric values: numbers between brackets of several kinds.

use hutong_schemas::composite::Figure;
use hutong_schemas::sql_type::SqlType;

/// Reads a value, or returns `None` if it is none of the type. The server has written it: only the
/// numbers count, and of a path its brackets.
pub(super) fn parse(sql_type: SqlType, text: &str) -> Option<Figure> {
    let numbers: Option<Vec<f64>> = text
        .split(['(', ')', '[', ']', '{', '}', '<', '>', ','])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().ok())
        .collect();
    let numbers = numbers?;
    let figure = match (sql_type, numbers.as_slice()) {
        (SqlType::Point, [x, y]) => Figure::Point([*x, *y]),
        (SqlType::Line, [a, b, c]) => Figure::Line([*a, *b, *c]),
        (SqlType::Circle, [x, y, radius]) => Figure::Circle([*x, *y, *radius]),
        (SqlType::Lseg | SqlType::Box | SqlType::Path | SqlType::Polygon, numbers) => {
            let (points, rest) = numbers.as_chunks::<2>();
            Figure::Points {
                points: Some(points.to_vec()).filter(|_| rest.is_empty())?,
                is_closed: match sql_type {
                    SqlType::Path => !text.starts_with('['),
                    _ => sql_type == SqlType::Polygon,
                },
            }
        }
        _ => return None,
    };
    Some(figure)
}
