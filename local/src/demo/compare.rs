//! Does every subscriber hold what it may see, and nothing else?

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::shares::Share;
use super::stage::Stage;
use crate::testkit::connect;

/// Fewer rows than that would prove nothing.
pub(super) const ROWS_MIN: usize = 100;

/// A row as text, column by column.
type Row = Vec<Option<String>>;

/// Compares all views of these shares. Returns the number of rows of each, or the first difference in words.
pub(super) async fn all(
    stage: &Stage,
    shares: &[Share],
    master: &str,
) -> Result<Result<Vec<usize>, String>> {
    let mut counts = Vec::new();
    for share in shares {
        match one(stage, share, master).await? {
            Ok(count) => counts.push(count),
            Err(difference) => return Ok(Err(difference)),
        }
    }
    Ok(Ok(counts))
}

async fn one(stage: &Stage, share: &Share, master: &str) -> Result<Result<usize, String>> {
    let provider = connect(&stage.database(share.provider)?.url).await?;
    let subscriber = connect(&stage.front(share.subscriber)?.url).await?;
    let wanted = share.judge(&stage.prefix(share.provider), master);
    let wanted = by_key(
        share,
        provider
            .query(&wanted, &[])
            .await
            .context("the judge's query")?,
    );
    let held = match subscriber.query(&share.held(), &[]).await {
        Ok(rows) => by_key(share, rows),
        Err(error) => return Ok(Err(format!("{}: {error}", share.view()))),
    };
    if let Some(difference) = first_difference(share, &wanted, &held) {
        return Ok(Err(difference));
    }
    Ok(if wanted.len() < ROWS_MIN {
        Err(format!(
            "{}: {} rows are too few to compare",
            share.view(),
            wanted.len()
        ))
    } else {
        Ok(wanted.len())
    })
}

fn by_key(share: &Share, rows: Vec<tokio_postgres::Row>) -> BTreeMap<String, Row> {
    let columns = share.subscriber_columns();
    let key = columns
        .iter()
        .position(|column| *column == share.key_column())
        .unwrap_or(0);
    rows.into_iter()
        .map(|row| {
            let row: Row = (0..columns.len()).map(|column| row.get(column)).collect();
            (row[key].clone().unwrap_or_default(), row)
        })
        .collect()
}

fn first_difference(
    share: &Share,
    wanted: &BTreeMap<String, Row>,
    held: &BTreeMap<String, Row>,
) -> Option<String> {
    let (view, target) = (share.view(), share.target());
    for (key, row) in wanted {
        let Some(other) = held.get(key) else {
            return Some(format!("{view}: row {key} is missing from {target}"));
        };
        let columns = share.subscriber_columns();
        let values = row.iter().zip(other).zip(columns);
        for ((wanted, held), column) in values {
            if wanted != held {
                return Some(format!(
                    "{view}: row {key}, column {column}: the source says {}, {target} holds {}",
                    quoted(wanted.as_deref()),
                    quoted(held.as_deref())
                ));
            }
        }
    }
    let surplus = held.keys().find(|key| !wanted.contains_key(*key))?;
    Some(format!(
        "{view}: row {surplus} of {target} should not be there"
    ))
}

fn quoted(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |text| format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::super::shares::SHARES;
    use super::*;

    fn rows(values: &[(&str, &str)]) -> BTreeMap<String, Row> {
        let mut rows = BTreeMap::new();
        let columns = SHARES[5].subscriber_columns();
        for (key, name) in values {
            let row = columns.iter().map(|column| match *column {
                "jgdm" => Some((*key).to_owned()),
                "jgmc" => Some((*name).to_owned()),
                _ => None,
            });
            rows.insert((*key).to_owned(), row.collect());
        }
        rows
    }

    fn check(wanted: &[(&str, &str)], held: &[(&str, &str)], expected: Option<&str>) {
        let difference = first_difference(&SHARES[5], &rows(wanted), &rows(held));
        assert_eq!(difference.as_deref(), expected);
    }

    #[test]
    fn a_missing_row_a_surplus_row_and_a_wrong_value_are_differences() {
        check(&[("1", "a")], &[("1", "a")], None);
        check(
            &[("1", "a")],
            &[],
            Some("s12_org_code: row 1 is missing from in_qts_org_code"),
        );
        check(
            &[],
            &[("2", "b")],
            Some("s12_org_code: row 2 of in_qts_org_code should not be there"),
        );
        check(
            &[("1", "a")],
            &[("1", "b")],
            Some(
                "s12_org_code: row 1, column jgmc: the source says \"a\", in_qts_org_code holds \"b\"",
            ),
        );
    }
}
