//! Arrays: `{1,NULL,"a \"b\""}`, with their bounds in front where they do not begin at one:
//! `[0:1]={1,2}`. An Avro array has no bounds, so they are left out, as Debezium does.

use hutong_schemas::cell::Cell;
use hutong_schemas::composite::ArrayWriter;
use hutong_schemas::sql_type::{Element, SqlType};

use super::{Malformed, Scratch, decode, room};

/// Returns the array as a cell has it.
pub(super) fn parse(element: Element, text: &str) -> Result<Vec<u8>, Malformed> {
    let element_type = SqlType::from(element);
    let mut array = ArrayWriter::new(element);
    let mut scratch = Scratch::default();
    let mut elements = Elements::new(text)?;
    while let Some(item) = elements.next()? {
        let pushed = match item {
            None => array.push(&Cell::Null),
            Some(text) => {
                let mut arena = scratch.arena(text.len() + room(&element_type));
                let cell = decode(&element_type, text.as_bytes(), &mut arena)?;
                array.push(&cell)
            }
        };
        pushed.map_err(|_| Malformed::Value)?;
    }
    Ok(array.finish())
}

struct Elements<'t> {
    rest: &'t str,
    /// The element that was read last, without its quotes.
    element: String,
    is_first: bool,
}

impl<'t> Elements<'t> {
    fn new(text: &'t str) -> Result<Self, Malformed> {
        let body = match text.split_once('=') {
            Some((bounds, body)) if bounds.starts_with('[') => {
                if bounds.matches('[').count() > 1 {
                    return Err(Malformed::Dimensions);
                }
                body
            }
            _ => text,
        };
        Ok(Self {
            rest: body.strip_prefix('{').ok_or(Malformed::Value)?,
            element: String::new(),
            is_first: true,
        })
    }

    /// Returns the next element, within which `None` is NULL.
    fn next(&mut self) -> Result<Option<Option<&str>>, Malformed> {
        if let Some(rest) = self.rest.strip_prefix('}') {
            return rest.is_empty().then_some(None).ok_or(Malformed::Value);
        }
        if !std::mem::take(&mut self.is_first) {
            self.rest = self.rest.strip_prefix(',').ok_or(Malformed::Value)?;
        }
        self.element.clear();
        if self.rest.starts_with('{') {
            return Err(Malformed::Dimensions);
        }
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let end = self.rest.find([',', '}']).ok_or(Malformed::Value)?;
            let (element, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Ok(Some(Some(element).filter(|element| *element != "NULL")));
        };
        let mut chars = quoted.char_indices();
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => self.element.push(chars.next().ok_or(Malformed::Value)?.1),
                '"' => {
                    self.rest = quoted.get(at + 1..).ok_or(Malformed::Value)?;
                    return Ok(Some(Some(&self.element)));
                }
                char => self.element.push(char),
            }
        }
        Err(Malformed::Value)
    }
}

#[cfg(test)]
mod tests {
    use hutong_schemas::composite::elements;

    use super::*;

    fn check(sql_type: &str, text: &str, expected: &[Cell<'_>]) {
        let SqlType::Array { element } = sql_type.parse().unwrap() else {
            panic!("an array")
        };
        let cell = parse(element, text).unwrap();
        let found: Vec<Cell<'_>> = elements(element, &cell).map(Result::unwrap).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn elements_are_read_with_and_without_quotes() {
        check("integer[]", "{}", &[]);
        check(
            "integer[]",
            "{1,NULL,-3}",
            &[Cell::Int(1), Cell::Null, Cell::Int(-3)],
        );
        check("integer[]", "[0:1]={1,2}", &[Cell::Int(1), Cell::Int(2)]);
        let texts = ["a b", "", "NULL", "x\"y\\", "{,}"].map(Cell::Text);
        check("text[]", r#"{"a b","","NULL","x\"y\\","{,}"}"#, &texts);
        check("boolean[]", "{t,f}", &[Cell::Bool(true), Cell::Bool(false)]);
    }

    #[test]
    fn more_than_one_dimension_is_refused_and_so_is_what_is_no_array() {
        let element = Element::try_from(SqlType::Int4).unwrap();
        for text in ["{{1,2},{3,4}}", "[1:1][2:3]={{1,2}}"] {
            assert_eq!(parse(element, text), Err(Malformed::Dimensions), "{text}");
        }
        for text in ["", "{", "{1", "{1,", "{1}x", "{\"1", "1", "{1 2}", "{,}"] {
            assert_eq!(parse(element, text), Err(Malformed::Value), "{text}");
        }
    }
}
