//! Property tables: every property that a connector knows, and what becomes of it.
//!
//! A property is either *honoured*; or it only *tunes* something that we do differently, then it is
//! accepted and listed as without effect; or it changes what leaves (events, keys, types, names,
//! topics) in a way that we do not offer, then the values that would change it are *refused* by
//! name, with the reason, while the value that asks for what we do anyway is accepted. A property
//! that no table knows is refused too: a misspelt one would otherwise be ignored in silence.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::secret::{self, SecretRef};

/// What is wrong with a property.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PropertyError {
    /// The property, under the name that was given.
    pub property: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl PropertyError {
    /// Returns an error of a property.
    #[must_use]
    pub fn new(property: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            property: property.into(),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for PropertyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.property, self.message)
    }
}

/// A property that a connector knows.
#[derive(Clone, Copy, Debug)]
pub struct Property {
    /// The name. `*` stands for one or more characters.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The value when none is given; `None` is no value.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// How much it matters to most users.
    pub importance: Importance,
    /// What becomes of it.
    pub treatment: Treatment,
    /// What it means, for the reference page.
    pub documentation: &'static str,
}

/// What the values of a property are, in Kafka Connect's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 32 bits.
    Int,
    /// A whole number of 64 bits.
    Long,
    /// A number of bytes, such as `8388608` or `8MiB`.
    Bytes,
    /// Text.
    String,
    /// Texts separated by commas.
    List,
    /// The name of a Java class.
    Class,
    /// A reference to a secret.
    Password,
}

impl Kind {
    /// Returns Kafka Connect's name of the type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::Int => "INT",
            Self::Long => "LONG",
            Self::Bytes | Self::String => "STRING",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }
}

/// How much a property matters to most users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// To nearly all.
    High,
    /// To many.
    Medium,
    /// To few.
    Low,
}

impl Importance {
    /// Returns Kafka Connect's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "HIGH",
            Self::Medium => "MEDIUM",
            Self::Low => "LOW",
        }
    }
}

/// What becomes of a property that is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It has its documented effect.
    Honoured,
    /// It has its documented effect for these values (compared without regard to case); others are
    /// refused for the reason.
    Only(&'static [&'static str], &'static str),
    /// It only tunes what we do differently: accepted, without effect, and listed so.
    Tuning,
    /// It is refused, whatever its value.
    Refused(&'static str),
}

impl Property {
    /// Returns an honoured property of low importance without a default.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, documentation: &'static str) -> Self {
        Self {
            name,
            kind,
            default: None,
            required: false,
            importance: Importance::Low,
            treatment: Treatment::Honoured,
            documentation,
        }
    }

    /// Gives a copy of the property another name.
    #[must_use]
    pub const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Sets the default.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Makes it one that must be given.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self.importance = Importance::High;
        self
    }

    /// Makes it of medium importance.
    #[must_use]
    pub const fn medium(mut self) -> Self {
        self.importance = Importance::Medium;
        self
    }

    /// Restricts it to values; others are refused for the reason.
    #[must_use]
    pub const fn only(mut self, values: &'static [&'static str], reason: &'static str) -> Self {
        self.treatment = Treatment::Only(values, reason);
        self
    }

    /// Makes it a tuning property.
    #[must_use]
    pub const fn tuning(mut self) -> Self {
        self.treatment = Treatment::Tuning;
        self
    }

    /// Refuses it.
    #[must_use]
    pub const fn refused(mut self, reason: &'static str) -> Self {
        self.treatment = Treatment::Refused(reason);
        self
    }

    fn matches(&self, name: &str) -> bool {
        match self.name.split_once('*') {
            None => self.name == name,
            Some((before, after)) => name
                .strip_prefix(before)
                .is_some_and(|rest| rest.len() > after.len() && rest.ends_with(after)),
        }
    }
}

/// The properties of a connector: in parts, the connector's own before what all have.
#[derive(Clone, Copy, Debug)]
pub struct Table(pub &'static [&'static [Property]]);

impl Table {
    /// Returns all properties, those of the connector's own part first.
    pub fn properties(&self) -> impl Iterator<Item = &'static Property> + use<> {
        self.0.iter().flat_map(|part| part.iter())
    }

    /// Returns the property of a name: the one that has it, else the first pattern that it matches.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Property> {
        self.properties()
            .find(|property| property.name == name)
            .or_else(|| self.properties().find(|property| property.matches(name)))
    }

    /// Returns the given properties that have no effect here.
    #[must_use]
    pub fn tuning(&self, given: &BTreeMap<String, String>) -> Vec<String> {
        let is_tuning = |name: &&String| {
            self.find(name)
                .is_some_and(|property| property.treatment == Treatment::Tuning)
        };
        given.keys().filter(is_tuning).cloned().collect()
    }
}

/// Given values, checked against a table; reads them as typed values and collects every mistake.
#[derive(Debug)]
pub struct Values<'a> {
    table: Table,
    given: &'a BTreeMap<String, String>,
    errors: BTreeSet<PropertyError>,
}

impl<'a> Values<'a> {
    /// Checks each given property: known, of its type, and with a value that is not refused; and
    /// that none is missing.
    #[must_use]
    pub fn check(table: Table, given: &'a BTreeMap<String, String>) -> Self {
        let mut errors = BTreeSet::new();
        for (name, value) in given {
            let found = match table.find(name) {
                Some(property) => check_value(property, value),
                None => Some(unknown(&table, name)),
            };
            errors.extend(found.map(|message| PropertyError::new(name, message)));
        }
        let is_missing = |property: &&Property| {
            let value = given.get(property.name).map(|value| value.trim());
            property.required && value.unwrap_or_default().is_empty()
        };
        for property in table.properties().filter(is_missing) {
            errors.insert(PropertyError::new(property.name, "is required"));
        }
        Self {
            table,
            given,
            errors,
        }
    }

    /// Adds a mistake.
    pub fn refuse(&mut self, property: &str, message: impl Into<String>) {
        self.errors.insert(PropertyError::new(property, message));
    }

    /// Returns the value, or the default, or `None`; an empty value is none.
    #[must_use]
    pub fn optional(&self, name: &str) -> Option<&'a str> {
        let property = self.table.find(name).expect("the table has this property");
        let given = self.given.get(name).map(|value| value.trim());
        given.filter(|value| !value.is_empty()).or(property.default)
    }

    /// Returns the value, or the default, or the empty text.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.optional(name).unwrap_or_default().to_owned()
    }

    /// Returns a truth value; `false` where it is missing or no such.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        self.optional(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Returns a number within a range, else the smallest of it, and notes the mistake.
    pub fn integer<N>(&mut self, name: &str, range: std::ops::RangeInclusive<N>) -> N
    where
        N: TryFrom<u64> + PartialOrd + Copy + std::fmt::Display,
    {
        let value = self.optional(name).unwrap_or_default();
        let number = parse_bytes(value).and_then(|number| N::try_from(number).ok());
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return number;
        }
        if !self.is_wrong(name) {
            let message = format!("must be between {} and {}", range.start(), range.end());
            self.refuse(name, message);
        }
        *range.start()
    }

    /// Returns what a value stands for, compared without regard to case, and notes the mistake
    /// where it stands for nothing.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let value = self.optional(name).unwrap_or_default();
        let found = choices
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(value));
        if let Some((_, meaning)) = found {
            return *meaning;
        }
        if !self.is_wrong(name) {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.refuse(name, format!("must be one of {}", words.join(", ")));
        }
        choices[0].1
    }

    /// Returns whether a mistake of a property is noted already: one is enough to correct it.
    fn is_wrong(&self, name: &str) -> bool {
        self.errors.iter().any(|error| error.property == name)
    }

    /// Returns the texts of a list, without blanks around them and without empty ones.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        let value = self.optional(name).unwrap_or_default();
        let parts = value.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Returns a reference to a secret; the mistake of a wrong one is already noted.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<SecretRef> {
        self.optional(name)?.parse().ok()
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// All mistakes, ordered by property.
    pub fn finish<T>(self, value: T) -> Result<T, Vec<PropertyError>> {
        if self.errors.is_empty() {
            Ok(value)
        } else {
            Err(self.errors.into_iter().collect())
        }
    }
}

/// Returns what is wrong with a value by itself.
fn check_value(property: &Property, value: &str) -> Option<String> {
    let value = value.trim();
    if let Treatment::Refused(reason) = property.treatment {
        return Some(format!("is not supported: {reason}"));
    }
    if value.is_empty() {
        return None;
    }
    if property.kind != Kind::Password && secret::is_reference(value) {
        return Some(
            "a reference to a secret is resolved in credential properties only".to_owned(),
        );
    }
    if let Some(message) = check_kind(property.kind, value) {
        return Some(message);
    }
    match property.treatment {
        Treatment::Only(values, reason) if !is_one_of(property.kind, value, values) => Some(
            format!("only {} is supported: {reason}", values.join(" or ")),
        ),
        Treatment::Only(..) | Treatment::Honoured | Treatment::Tuning | Treatment::Refused(_) => {
            None
        }
    }
}

fn is_one_of(kind: Kind, value: &str, values: &[&str]) -> bool {
    let known = |part: &str| values.iter().any(|word| word.eq_ignore_ascii_case(part));
    if kind == Kind::List {
        value.split(',').map(str::trim).all(known)
    } else {
        known(value)
    }
}

fn check_kind(kind: Kind, value: &str) -> Option<String> {
    let right = match kind {
        Kind::Boolean => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
        Kind::Int => value.parse::<i32>().is_ok(),
        Kind::Long => value.parse::<i64>().is_ok(),
        Kind::Bytes => parse_bytes(value).is_some(),
        Kind::String | Kind::List => true,
        Kind::Class => value
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '$')),
        // The value is never part of the message: it may be a password.
        Kind::Password => return value.parse::<SecretRef>().err().map(|e| e.to_string()),
    };
    let wanted = match kind {
        Kind::Boolean => "true or false",
        Kind::Int => "a whole number of 32 bits",
        Kind::Long => "a whole number of 64 bits",
        Kind::Bytes => "a number of bytes such as 8388608 or 8MiB",
        Kind::Class => "the name of a class",
        Kind::String | Kind::List | Kind::Password => "text",
    };
    (!right).then(|| format!("must be {wanted}, not \"{value}\""))
}

/// Returns the number of bytes that a text such as `8388608`, `64KiB`, `8MiB` or `1GiB` means.
fn parse_bytes(text: &str) -> Option<u64> {
    const UNITS: &[(&str, u32)] = &[("KiB", 10), ("MiB", 20), ("GiB", 30)];
    for (unit, shift) in UNITS {
        if let Some(number) = text.strip_suffix(unit) {
            return number.trim().parse::<u64>().ok()?.checked_mul(1 << shift);
        }
    }
    text.parse().ok()
}

/// Returns the message about a property that no table knows, proposing the nearest name.
fn unknown(table: &Table, name: &str) -> String {
    let names = table.properties().map(|property| property.name);
    let nearest = names
        .filter(|known| !known.contains('*'))
        .map(|known| (distance(known, name), known))
        .min();
    match nearest {
        Some((distance, known)) if distance <= 3 => {
            format!("is not a property of this connector; did you mean \"{known}\"?")
        }
        _ => "is not a property of this connector".to_owned(),
    }
}

/// The number of characters to insert, remove or replace between two texts.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
