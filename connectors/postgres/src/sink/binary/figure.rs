//! Geometric values: numbers of double precision, one after the other.

use hutong_schemas::composite::Figure;
use hutong_schemas::sql_type::SqlType;

use super::Misfit;

pub(super) fn put(sql_type: SqlType, cell: &[u8], out: &mut Vec<u8>) -> Result<(), Misfit> {
    let figure = Figure::of_cell(sql_type, cell).map_err(|_| Misfit::Kind)?;
    match &figure {
        Figure::Point(point) => put_all(point, out),
        Figure::Line(numbers) | Figure::Circle(numbers) => put_all(numbers, out),
        Figure::Points { points, is_closed } => {
            if sql_type == SqlType::Path {
                out.push(u8::from(*is_closed));
            }
            if matches!(sql_type, SqlType::Path | SqlType::Polygon) {
                let count = i32::try_from(points.len()).map_err(|_| Misfit::Range)?;
                out.extend_from_slice(&count.to_be_bytes());
            }
            for point in points {
                put_all(point, out);
            }
        }
    }
    Ok(())
}

fn put_all(numbers: &[f64], out: &mut Vec<u8>) {
    for number in numbers {
        out.extend_from_slice(&number.to_be_bytes());
    }
}
