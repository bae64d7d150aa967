//! What a policy shows of a row's version, by the department's own server.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result};
use tokio_postgres::Client;

use super::model::{Policy, View};
use super::schedule::{ADDED, ADDED_DEFAULT};

/// What the source says of a row's version, under a policy.
pub(super) struct Verdict {
    pub(super) key: i64,
    /// Its number in the ledger.
    pub(super) age: i64,
    pub(super) is_granted: bool,
    pub(super) row: Vec<Option<String>>,
}

/// Asks the department what a policy shows of some versions of rows.
pub(super) async fn judge(
    department: &Client,
    view: View,
    policy: &Policy,
    versions: BTreeSet<i64>,
) -> Result<HashMap<i64, Verdict>> {
    // A row from before a column was added holds its default.
    let sql = format!(
        "select x.entry_ver, x.entry_key, x.entry_seq, ({condition}) is true, {row}
         from (
            select e.ver as entry_ver, e.key as entry_key, e.seq as entry_seq, r.*
            from ledger.entry e,
            lateral jsonb_populate_record(null::reg.{table}, '{{\"{ADDED}\": \"{ADDED_DEFAULT}\"}}'::jsonb || e.image) r
            where e.ver = any($1) and e.tbl = '{table}' and e.op <> 'd'
         ) x",
        condition = policy.condition.sql(),
        row = policy.row_sql(),
        table = view.table,
    );
    let versions: Vec<i64> = versions.into_iter().collect();
    let rows = department
        .query(&sql, &[&versions])
        .await
        .with_context(|| sql.clone())?;
    let verdicts = rows.iter().map(|row| {
        let verdict = Verdict {
            key: row.get(1),
            age: row.get(2),
            is_granted: row.get(3),
            row: row.get(4),
        };
        (row.get(0), verdict)
    });
    Ok(verdicts.collect())
}
