//! The shares that the demo sets up, six at the start and one later, each as the document that is posted and, apart from it, as
//! the SQL that says what the subscriber must hold.
//!
//! The SQL is written by hand from the sample's table of shares, not derived from the document, and
//! runs in the provider's own database: it is the judge of the platform's evaluator, so it shares
//! nothing with it. The hidden key and the HASH mask are computed in SQL too, from keys that
//! [`keys`] derives.

use serde_json::{Value, json};

use super::keys;
use crate::departments::Department;

/// A share of one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// The share's number, which is also its name.
    pub(super) id: &'static str,
    /// Who gives.
    pub(super) provider: Department,
    /// The table.
    pub(super) table: &'static str,
    /// Who receives.
    pub(super) subscriber: Department,
    /// What it is for.
    pub(super) purpose: &'static str,
    /// Columns, with their masks.
    columns: &'static [(&'static str, &'static str)],
    /// The condition.
    condition: Option<&'static str>,
    /// The column of the table that identifies its rows, if it is hidden.
    hidden_key: Option<&'static str>,
    /// What the subscriber must see, column by column, as SQL over the table.
    judge: &'static [(&'static str, &'static str)],
    /// Of which rows, as SQL.
    judge_condition: &'static str,
}

/// The shares that are set up at the start, by their numbers in the sample.
pub(super) const SHARES: [Share; 6] = [
    Share {
        id: "s03",
        provider: Department::Aic,
        table: "ent_base",
        subscriber: Department::Qts,
        purpose: "赋码核对",
        columns: &[
            ("uscc", ""),
            ("reg_no", ""),
            ("ent_name", ""),
            ("ent_type", ""),
            ("industry", ""),
            ("reg_cap", "BAND"),
            ("est_date", ""),
            ("dom", ""),
            ("region", ""),
            ("leg_rep", ""),
            ("leg_id_no", "SHOW_LAST 4"),
            ("reg_state", ""),
        ],
        condition: Some("secret_flag = 0 AND region LIKE '3707%'"),
        hidden_key: Some("pripid"),
        judge: &[
            ("uscc", "uscc"),
            ("reg_no", "reg_no"),
            ("ent_name", "ent_name"),
            ("ent_type", "ent_type"),
            ("industry", "industry"),
            (
                "reg_cap",
                "CASE WHEN reg_cap IS NULL THEN NULL WHEN reg_cap < 0 THEN '< 0' \
                WHEN reg_cap < 10 THEN '0 .. 10' WHEN reg_cap < 100 THEN '10 .. 100' \
                WHEN reg_cap < 1000 THEN '100 .. 1000' WHEN reg_cap < 10000 THEN '1000 .. 10000' \
                WHEN reg_cap < 100000 THEN '10000 .. 100000' \
                WHEN reg_cap < 1000000 THEN '100000 .. 1000000' ELSE '>= 1000000' END",
            ),
            ("est_date", "est_date"),
            ("dom", "dom"),
            ("region", "region"),
            ("leg_rep", "leg_rep"),
            (
                "leg_id_no",
                "CASE WHEN length(leg_id_no) <= 4 THEN repeat('*', length(leg_id_no)) \
                ELSE repeat('*', length(leg_id_no) - 4) || right(leg_id_no, 4) END",
            ),
            ("reg_state", "reg_state"),
        ],
        judge_condition: "secret_flag = 0 AND left(region, 4) = '3707'",
    },
    Share {
        id: "s05",
        provider: Department::Stax,
        table: "dj_nsrxx",
        subscriber: Department::Ltax,
        purpose: "共管户",
        columns: &[
            ("nsrsbh", ""),
            ("nsrmc", ""),
            ("shxydm", ""),
            ("zzjg_dm", ""),
            ("djzclx_dm", ""),
            ("hy_dm", ""),
            ("fddbrmc", ""),
            ("scjydz", ""),
            ("swjg_dm", ""),
            ("djrq", ""),
            ("nsrzt_dm", ""),
        ],
        condition: None,
        hidden_key: Some("nsrdzdah"),
        judge: &[
            ("nsrsbh", "nsrsbh"),
            ("nsrmc", "nsrmc"),
            ("shxydm", "shxydm"),
            ("zzjg_dm", "zzjg_dm"),
            ("djzclx_dm", "djzclx_dm"),
            ("hy_dm", "hy_dm"),
            ("fddbrmc", "fddbrmc"),
            ("scjydz", "scjydz"),
            ("swjg_dm", "swjg_dm"),
            ("djrq", "djrq"),
            ("nsrzt_dm", "nsrzt_dm"),
        ],
        judge_condition: "true",
    },
    Share {
        id: "s06",
        provider: Department::Stax,
        table: "dj_nsrxx",
        subscriber: Department::Qts,
        purpose: "代码有效性",
        columns: &[
            ("nsrsbh", "HASH"),
            ("nsrmc", ""),
            ("zzjg_dm", ""),
            ("shxydm", ""),
            ("nsrzt_dm", ""),
            ("djrq", "DATE_YEAR"),
        ],
        condition: Some("zzjg_dm IS NOT NULL"),
        hidden_key: Some("nsrdzdah"),
        judge: &[
            ("nsrsbh", "{hash:nsrsbh}"),
            ("nsrmc", "nsrmc"),
            ("zzjg_dm", "zzjg_dm"),
            ("shxydm", "shxydm"),
            ("nsrzt_dm", "nsrzt_dm"),
            ("djrq", "left(djrq, 4)"),
        ],
        judge_condition: "NOT (zzjg_dm IS NULL)",
    },
    Share {
        id: "s07",
        provider: Department::Ltax,
        table: "tax_reg",
        subscriber: Department::Aic,
        purpose: "年检",
        columns: &[
            ("taxpayer_no", ""),
            ("name", ""),
            ("org_code", ""),
            ("biz_reg_no", ""),
            ("uscc", ""),
            ("reg_date", ""),
            ("status", ""),
        ],
        condition: Some("status IN (2, 3, 4) AND NOT is_self_emp"),
        hidden_key: Some("reg_id"),
        judge: &[
            ("taxpayer_no", "taxpayer_no"),
            ("name", "name"),
            ("org_code", "org_code"),
            ("biz_reg_no", "biz_reg_no"),
            ("uscc", "uscc"),
            ("reg_date", "reg_date"),
            ("status", "status"),
        ],
        judge_condition: "status BETWEEN 2 AND 4 AND is_self_emp = false",
    },
    Share {
        id: "s10",
        provider: Department::Qts,
        table: "org_code",
        subscriber: Department::Aic,
        purpose: "换发统一代码",
        columns: &[
            ("jgdm", ""),
            ("jgmc", ""),
            ("jglx", ""),
            ("fddbr", ""),
            ("xzqh", ""),
            ("pzwh", ""),
            ("bzrq", ""),
            ("yxq", ""),
            ("zt", ""),
            ("shxydm", ""),
        ],
        condition: None,
        hidden_key: None,
        judge: &[
            ("jgdm", "jgdm"),
            ("jgmc", "jgmc"),
            ("jglx", "jglx"),
            ("fddbr", "fddbr"),
            ("xzqh", "xzqh"),
            ("pzwh", "pzwh"),
            ("bzrq", "bzrq"),
            ("yxq", "yxq"),
            ("zt", "zt"),
            ("shxydm", "shxydm"),
        ],
        judge_condition: "true",
    },
    Share {
        id: "s12",
        provider: Department::Qts,
        table: "org_code",
        subscriber: Department::Ltax,
        purpose: "税务登记核对",
        columns: &[
            ("jgdm", ""),
            ("jgmc", ""),
            ("xzqh", "REGION4"),
            ("yxq", ""),
            ("zt", ""),
        ],
        condition: None,
        hidden_key: None,
        judge: &[
            ("jgdm", "jgdm"),
            ("jgmc", "jgmc"),
            ("xzqh", "substring(xzqh FROM 1 FOR 4)"),
            ("yxq", "yxq"),
            ("zt", "zt"),
        ],
        judge_condition: "true",
    },
];

/// The column that 地税 adds to its table while the demo runs, 纳税信用等级, and the value of rows
/// that were there before.
pub(super) const CREDIT: (&str, &str) = ("credit", "M");

/// Share S07 when it has been widened to that column.
pub(super) const S07_WITH_CREDIT: Share = Share {
    columns: &[
        ("taxpayer_no", ""),
        ("name", ""),
        ("org_code", ""),
        ("biz_reg_no", ""),
        ("uscc", ""),
        ("reg_date", ""),
        ("status", ""),
        (CREDIT.0, ""),
    ],
    judge: &[
        ("taxpayer_no", "taxpayer_no"),
        ("name", "name"),
        ("org_code", "org_code"),
        ("biz_reg_no", "biz_reg_no"),
        ("uscc", "uscc"),
        ("reg_date", "reg_date"),
        ("status", "status"),
        (CREDIT.0, CREDIT.0),
    ],
    ..SHARES[3]
};

/// The share of the table that 工商 adds to its connector while the demo runs: 经营异常名录.
pub(super) const ABNORMAL: Share = Share {
    id: "s13",
    provider: Department::Aic,
    table: "ent_abnormal",
    subscriber: Department::Stax,
    purpose: "经营异常",
    columns: &[("ent_name", ""), ("reason", ""), ("listed_on", "")],
    condition: Some("removed_on IS NULL"),
    hidden_key: Some("pripid"),
    judge: &[
        ("ent_name", "ent_name"),
        ("reason", "reason"),
        ("listed_on", "listed_on"),
    ],
    judge_condition: "coalesce(removed_on, 'infinity') = 'infinity'",
};

impl Share {
    /// Returns the SQL condition of the rows that the subscriber must see.
    pub(super) fn judge_condition(&self) -> &'static str {
        self.judge_condition
    }

    /// Returns the table's topic.
    pub(super) fn topic(&self, prefix: &str) -> String {
        format!("{prefix}.public.{}", self.table)
    }

    /// Returns the name of the view.
    pub(super) fn view(&self) -> String {
        format!("{}_{}", self.id, self.table)
    }

    /// Returns the subscriber's table.
    pub(super) fn target(&self) -> String {
        format!("in_{}_{}", self.provider.database(), self.table)
    }

    /// Returns the name of the sink connector.
    pub(super) fn sink(&self) -> String {
        format!("sink-{}", self.id)
    }

    /// Returns the document that is posted to the platform.
    pub(super) fn document(&self, prefix: &str) -> Value {
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|(name, mask)| match *mask {
                "" => json!({ "name": name }),
                mask => json!({ "name": name, "mask": mask }),
            })
            .collect();
        let mut document = json!({
            "name": self.view(),
            "title": self.purpose,
            "share": self.id,
            "source": { "topic": self.topic(prefix) },
            "subscriber": self.subscriber.database(),
            "columns": columns,
        });
        if let Some(condition) = self.condition {
            document["where"] = condition.into();
        }
        document
    }

    /// Returns the names of the subscriber's columns.
    pub(super) fn subscriber_columns(&self) -> Vec<&'static str> {
        let hidden = self.hidden_key.map(|_| "_rk");
        hidden
            .into_iter()
            .chain(self.judge.iter().map(|(name, _)| *name))
            .collect()
    }

    /// Returns the query, for the provider's database, of what the subscriber must hold.
    pub(super) fn judge(&self, prefix: &str, master: &str) -> String {
        let mut values = Vec::new();
        if self.hidden_key.is_some() {
            values.push(self.judge_key(prefix, master));
        }
        for (_, sql) in self.judge {
            values.push(
                match sql
                    .strip_prefix("{hash:")
                    .and_then(|rest| rest.strip_suffix('}'))
                {
                    Some(column) => keys::hash_sql(master, self.id, column),
                    None => format!("({sql})::text"),
                },
            );
        }
        format!(
            "SELECT {} FROM {} WHERE {}",
            values.join(", "),
            self.table,
            self.judge_condition
        )
    }

    /// Returns the SQL expression of a row's key at the subscriber.
    pub(super) fn judge_key(&self, prefix: &str, master: &str) -> String {
        match self.hidden_key {
            Some(column) => keys::row_key_sql(master, self.id, prefix, self.table, column),
            None => "jgdm::text".to_owned(),
        }
    }

    /// Returns the column that holds a row's key at the subscriber.
    pub(super) fn key_column(&self) -> &'static str {
        if self.hidden_key.is_some() {
            "_rk"
        } else {
            "jgdm"
        }
    }

    /// Returns the query, for the subscriber's database, of what it holds.
    pub(super) fn held(&self) -> String {
        let columns = self.subscriber_columns();
        let columns: Vec<String> = columns
            .iter()
            .map(|column| format!("{column}::text"))
            .collect();
        format!("SELECT {} FROM {}", columns.join(", "), self.target())
    }
}
