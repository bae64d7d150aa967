//! Include and exclude lists: comma-separated regular expressions, each matched against a whole
//! name, without regard to case, as Debezium does.

use regex::{Regex, RegexBuilder};

/// Which names are wanted.
#[derive(Clone, Debug, Default)]
pub struct NameFilter {
    include: Option<Vec<Regex>>,
    exclude: Vec<Regex>,
}

impl NameFilter {
    /// Returns the filter of an include and an exclude list. An empty list is none.
    ///
    /// # Errors
    ///
    /// The expression that is wrong, and how.
    pub fn new(include: Option<&str>, exclude: Option<&str>) -> Result<Self, InvalidExpression> {
        let include = include.map(parse).transpose()?.filter(|l| !l.is_empty());
        let exclude = exclude.map(parse).transpose()?.unwrap_or_default();
        Ok(Self { include, exclude })
    }

    /// Returns whether a name is wanted: it matches an expression of the include list, if there is
    /// one, and none of the exclude list.
    #[must_use]
    pub fn accepts(&self, name: &str) -> bool {
        let included = match &self.include {
            Some(list) => list.iter().any(|regex| regex.is_match(name)),
            None => true,
        };
        included && !self.exclude.iter().any(|regex| regex.is_match(name))
    }

    /// Returns whether there is an include list.
    #[must_use]
    pub fn has_include_list(&self) -> bool {
        self.include.is_some()
    }

    /// Returns the expressions of the include list that match none of the names: most likely typing
    /// errors.
    pub fn unmatched<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a str> {
        self.include
            .iter()
            .flatten()
            .filter(|regex| !names.iter().any(|name| regex.is_match(name)))
            .map(original)
    }
}

/// A regular expression of a list does not parse.
#[derive(Debug, thiserror::Error)]
#[error("\"{expression}\" is not a regular expression: {message}")]
pub struct InvalidExpression {
    expression: String,
    message: String,
}

const BEFORE: &str = "^(?:";
const AFTER: &str = ")$";

fn original(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix(BEFORE)
        .and_then(|text| text.strip_suffix(AFTER))
        .unwrap_or(text)
}

fn parse(list: &str) -> Result<Vec<Regex>, InvalidExpression> {
    split(list)
        .filter(|expression| !expression.is_empty())
        .map(|expression| {
            RegexBuilder::new(&format!("{BEFORE}{expression}{AFTER}"))
                .case_insensitive(true)
                .size_limit(1 << 20)
                .build()
                .map_err(|error| InvalidExpression {
                    message: last_line(&error.to_string()),
                    expression,
                })
        })
        .collect()
}

/// Splits at commas; `\,` is a comma within an expression.
fn split(list: &str) -> impl Iterator<Item = String> {
    let mut parts = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' if chars.peek() == Some(&',') => {
                chars.next();
                push(&mut parts, ',');
            }
            '\\' => {
                push(&mut parts, char);
                if let Some(escaped) = chars.next() {
                    push(&mut parts, escaped);
                }
            }
            ',' => parts.push(String::new()),
            other => push(&mut parts, other),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned())
}

fn push(parts: &mut [String], char: char) {
    parts
        .last_mut()
        .expect("there is one part from the start")
        .push(char);
}

/// The regex crate draws the expression with a marker and then says what is wrong in the last line.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
