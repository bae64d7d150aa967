//! What a view is: which columns, masked how, of which rows, and how that is decided for a row.
//!
//! Everything here is pure: a document and a table's schema go in, decisions and bytes come out. The
//! crate knows no database, no broker and no clock, because the control plane (which checks a
//! document when it is saved) and the processors (which apply it) must never disagree.
//!
//! Read in this order: the [`document`] as a person writes it, its [`condition`] and its [`mask`]s,
//! the [`plan`] that both compile to against one table, the [`task`] in which a plan reaches a
//! processor, the [`change`] from one to the next, and the [`evaluator`] that applies it to rows. [`row_key`] and [`secret`] are how a
//! key is hidden, [`literal`] and [`text`] how values are read and written as PostgreSQL does.

pub mod change;
pub mod condition;
mod decimal;
pub mod document;
mod error;
pub mod evaluator;
pub mod literal;
pub mod mask;
pub mod plan;
pub mod row_key;
pub mod secret;
pub mod task;
pub mod text;

pub use document::ViewDocument;
pub use error::{DocumentError, Error};
pub use evaluator::{Decision, Evaluator, Projection};
pub use plan::{ViewPlan, compile};
pub use task::{ViewState, ViewTask};
