//! The four departments of the sample: their databases, their rows, and what happens to them.
//!
//! 工商 (`aic`), 国税 (`stax`), 地税 (`ltax`) and 质监 (`qts`) each keep the same enterprises in
//! tables of their own making: other names, other date formats, other codes. All enterprises and
//! persons are made up, by a seeded generator: the same seed gives the same rows and the same
//! events on every machine.
//!
//! Read in this order: the [`codes`] with their check digits, an [`enterprise`] as it truly is, the
//! rows of each department at the start ([`initial`]), what happens then ([`events`]).

pub mod calendar;
pub mod codes;
pub mod enterprise;
pub mod events;
pub mod initial;
pub mod random;
pub mod row;

use anyhow::{Context, Result};
use tokio_postgres::Client;

use self::row::Row;

/// A department, and its database of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Department {
    /// 工商, industry and commerce.
    Aic,
    /// 国税, state taxation.
    Stax,
    /// 地税, local taxation.
    Ltax,
    /// 质监, quality supervision.
    Qts,
}

impl Department {
    /// All four, in the order of the sample.
    pub const ALL: [Self; 4] = [Self::Aic, Self::Stax, Self::Ltax, Self::Qts];

    /// Returns the name of the department's database.
    #[must_use]
    pub fn database(self) -> &'static str {
        match self {
            Self::Aic => "aic",
            Self::Stax => "stax",
            Self::Ltax => "ltax",
            Self::Qts => "qts",
        }
    }

    /// Returns the name of the database in which the department receives shared views.
    #[must_use]
    pub fn front(self) -> &'static str {
        match self {
            Self::Aic => "front_aic",
            Self::Stax => "front_stax",
            Self::Ltax => "front_ltax",
            Self::Qts => "front_qts",
        }
    }

    /// Returns the department's name.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Aic => "工商",
            Self::Stax => "国税",
            Self::Ltax => "地税",
            Self::Qts => "质监",
        }
    }

    /// Returns the statements that create the department's tables.
    #[must_use]
    pub fn ddl(self) -> &'static str {
        match self {
            Self::Aic => include_str!("../../departments/aic.sql"),
            Self::Stax => include_str!("../../departments/stax.sql"),
            Self::Ltax => include_str!("../../departments/ltax.sql"),
            Self::Qts => include_str!("../../departments/qts.sql"),
        }
    }

    /// Returns the tables that the department lets the platform capture: all but `sb_ndhz`, the
    /// taxpayers' filings, which never leave it.
    #[must_use]
    pub fn captured_tables(self) -> &'static [&'static str] {
        match self {
            Self::Aic => &[
                "ent_base",
                "ent_change",
                "ent_inspect",
                "ent_cancel",
                "ent_investor",
                "self_emp",
            ],
            Self::Stax => &["dj_nsrxx", "dj_bg", "rd_ybnsr", "rd_fzc", "dj_zx"],
            Self::Ltax => &[
                "tax_reg",
                "tax_reg_change",
                "suspension",
                "tax_cancel",
                "annual_summary",
            ],
            Self::Qts => &[
                "org_code",
                "org_code_change",
                "org_code_check",
                "org_code_void",
                "prod_licence",
            ],
        }
    }

    /// Returns the columns of captured tables that are not captured: telephone numbers.
    #[must_use]
    pub fn withheld_column(self) -> &'static str {
        match self {
            Self::Aic => "public.ent_base.phone",
            Self::Stax => "public.dj_nsrxx.dhhm",
            Self::Ltax => "public.tax_reg.tel",
            Self::Qts => "public.org_code.dhhm",
        }
    }
}

/// Creates the department's tables and fills them.
///
/// # Errors
///
/// If the database refuses.
pub async fn create(client: &Client, department: Department, rows: &[Row]) -> Result<()> {
    let what = || format!("could not fill database {}", department.database());
    client
        .batch_execute(department.ddl())
        .await
        .with_context(what)?;
    row::copy(client, rows).await.with_context(what)?;
    client.batch_execute("ANALYZE").await.with_context(what)
}
