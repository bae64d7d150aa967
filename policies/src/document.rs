//! The view document: what a person posts to `/api/v1/views`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::error::DocumentError;
use crate::literal;
use crate::mask::Mask;

/// The most columns of a view: PostgreSQL's tables have no more.
const COLUMNS_MAX: usize = 1_600;

/// A view, as JSON:
///
/// ```
/// let document: hutong_policies::ViewDocument = serde_json::from_str(r#"{
///   "name": "s03_ent_base",
///   "title": "赋码核对",
///   "share": "s03",
///   "source": { "topic": "aic.public.ent_base" },
///   "subscriber": "qts",
///   "columns": [
///     { "name": "uscc" },
///     { "name": "leg_id_no", "mask": "SHOW_LAST 4" }
///   ],
///   "where": "secret_flag = 0 AND region LIKE '3707%'",
///   "valid_until": "2027-01-01T00:00:00+08:00"
/// }"#)?;
/// assert_eq!(document.valid_until_ms(), Some(1_798_732_800_000));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewDocument {
    /// The name: `[a-z0-9][a-z0-9_-]{0,62}`, never changed.
    pub name: String,
    /// A title for people, in any language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The share to which the view belongs. Views of one share hide keys alike, so that their rows
    /// can be joined.
    pub share: String,
    /// Where rows come from.
    pub source: Source,
    /// Who receives the view.
    pub subscriber: String,
    /// The columns that leave, in this order. What is not listed does not leave.
    pub columns: Vec<Column>,
    /// The condition, SQL over the columns of one row; a row leaves where it is TRUE. Without one,
    /// every row leaves.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub where_: Option<String>,
    /// The time from which on the view delivers, RFC 3339 with an offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_from: Option<String>,
    /// The time from which on the view is empty, RFC 3339 with an offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
    /// The location where the view is computed; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// Where a view's rows come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The table's topic, `<topic.prefix>.<schema>.<table>`.
    pub topic: String,
}

/// A column that leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The column's name, as the catalogue has it.
    pub name: String,
    /// How its values are masked; clear if absent. Written as in [`Mask`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

impl ViewDocument {
    /// Returns `valid_from` in milliseconds since 1970 UTC, if it is there and well formed.
    #[must_use]
    pub fn valid_from_ms(&self) -> Option<i64> {
        milliseconds(self.valid_from.as_deref()?)
    }

    /// Returns `valid_until` in milliseconds since 1970 UTC, if it is there and well formed.
    #[must_use]
    pub fn valid_until_ms(&self) -> Option<i64> {
        milliseconds(self.valid_until.as_deref()?)
    }

    /// Returns what is wrong with the document by itself, before any table is looked at.
    #[must_use]
    pub fn check(&self) -> Vec<DocumentError> {
        let mut errors = Vec::new();
        let mut name = |field: &str, value: &str| {
            if !is_name(value) {
                errors.push(DocumentError::new(
                    field,
                    format!("\"{value}\" is not a name: lower-case letters, digits, _ and -, at most 63, the first a letter or digit"),
                ));
            }
        };
        name("name", &self.name);
        name("share", &self.share);
        name("subscriber", &self.subscriber);
        if let Some(location) = &self.location {
            name("location", location);
        }
        if self
            .source
            .topic
            .split('.')
            .filter(|part| !part.is_empty())
            .count()
            < 3
        {
            errors.push(DocumentError::new(
                "source.topic",
                format!(
                    "\"{}\" is not a table's topic, <topic.prefix>.<schema>.<table>",
                    self.source.topic
                ),
            ));
        }
        if self.columns.is_empty() {
            errors.push(DocumentError::new(
                "columns",
                "at least one column is needed",
            ));
        }
        if self.columns.len() > COLUMNS_MAX {
            errors.push(DocumentError::new(
                "columns",
                format!(
                    "there are {}; a table has at most {COLUMNS_MAX}",
                    self.columns.len()
                ),
            ));
        }
        let mut names = HashSet::new();
        for (index, column) in self.columns.iter().take(COLUMNS_MAX).enumerate() {
            if !names.insert(column.name.as_str()) {
                errors.push(DocumentError::new(
                    format!("columns[{index}].name"),
                    format!("column \"{}\" is listed twice", column.name),
                ));
            }
            if let Some(Err(message)) = column.mask.as_deref().map(str::parse::<Mask>) {
                errors.push(DocumentError::new(
                    format!("columns[{index}].mask"),
                    message.to_string(),
                ));
            }
        }
        for (field, value) in [
            ("valid_from", &self.valid_from),
            ("valid_until", &self.valid_until),
        ] {
            if let Some(value) = value
                && milliseconds(value).is_none()
            {
                errors.push(DocumentError::new(
                    field,
                    format!("\"{value}\" is not a time with an offset, such as 2027-01-01T00:00:00+08:00"),
                ));
            }
        }
        if let (Some(from), Some(until)) = (self.valid_from_ms(), self.valid_until_ms())
            && from >= until
        {
            errors.push(DocumentError::new(
                "valid_until",
                "the validity ends before it begins",
            ));
        }
        errors
    }
}

/// Returns whether the text may name a view, a share, a subscriber or a location.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= 63
        && bytes.first().is_some_and(plain)
        && bytes
            .iter()
            .all(|byte| plain(byte) || matches!(byte, b'_' | b'-'))
}

fn milliseconds(text: &str) -> Option<i64> {
    let micros = literal::timestamptz(text).ok()?;
    let finite = micros != i64::MAX && micros != i64::MIN;
    finite.then_some(micros.div_euclid(1000))
}
