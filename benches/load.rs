//! The table, and what is done to it.

use anyhow::{Context, Result};
use tokio_postgres::Client;

/// Columns of the table: about 170 bytes a row.
const COLUMNS: &str = "id bigint primary key, code text not null, note text, amount numeric(12,2),
    at timestamptz not null, kind int, valid boolean not null";

/// A row from its number.
fn row(wide: bool) -> String {
    let note = if wide {
        "repeat(md5(i::text), 58)"
    } else {
        "md5((i * 3)::text) || md5((i * 5)::text)"
    };
    format!(
        "i, left(md5(i::text) || md5((i * 7)::text), 44), {note}, (i % 1000000) / 100.0,
         clock_timestamp(), (i % 100000)::int, i % 10 <> 0"
    )
}

/// What the changes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Inserts of about 170 bytes, a hundred a transaction.
    Inserts,
    /// In each transaction of a hundred: 50 inserts, 40 updates, 10 deletes.
    Mixed,
    /// Inserts of about 2 KB, a hundred a transaction.
    Wide,
    /// Inserts, each a transaction of its own.
    Small,
}

impl Kind {
    /// Records that a topic gets for so many events: a delete is followed by its tombstone.
    pub(crate) fn records(self, events: u64) -> u64 {
        match self {
            Self::Mixed => events + events / 10,
            Self::Inserts | Self::Wide | Self::Small => events,
        }
    }
}

/// Runs statements, each in a transaction of its own, as some of them must be.
pub(crate) async fn each(db: &Client, statements: &[&str]) -> Result<()> {
    for statement in statements {
        db.batch_execute(statement)
            .await
            .with_context(|| (*statement).to_owned())?;
    }
    Ok(())
}

/// Makes the table and the procedures.
pub(crate) async fn install(db: &Client) -> Result<()> {
    let (narrow, wide) = (row(false), row(true));
    db.batch_execute(&format!(
        "create table bench ({COLUMNS});
         create procedure load_inserts(first bigint, transactions int, per int) language plpgsql as $$
         begin
           for t in 0..transactions - 1 loop
             insert into bench select {narrow}
               from generate_series(first + t::bigint * per, first + (t + 1)::bigint * per - 1) i;
             commit;
           end loop;
         end $$;
         create procedure load_wide(first bigint, transactions int, per int) language plpgsql as $$
         begin
           for t in 0..transactions - 1 loop
             insert into bench select {wide}
               from generate_series(first + t::bigint * per, first + (t + 1)::bigint * per - 1) i;
             commit;
           end loop;
         end $$;
         create procedure load_mixed(first bigint, transactions int) language plpgsql as $$
         declare doomed bigint := transactions::bigint * 40;
         begin
           for t in 0..transactions - 1 loop
             insert into bench select {narrow}
               from generate_series(first + t::bigint * 50, first + t::bigint * 50 + 49) i;
             update bench set amount = amount + 1, kind = kind + 1, note = md5((id + t)::text)
               where id between t::bigint * 40 + 1 and t::bigint * 40 + 40;
             delete from bench where id between doomed + t::bigint * 10 + 1 and doomed + t::bigint * 10 + 10;
             commit;
           end loop;
         end $$;"
    ))
    .await?;
    Ok(())
}

/// What a view shows of the table (`view::document`), as a query over it.
pub(crate) const VIEW_ROWS: &str = "select id, left(code, 6) || repeat('*', length(code) - 6) as code, amount, at, kind, note from bench";

/// Makes a table of a view's columns for the limit of sinks.
pub(crate) async fn make_copy_target(db: &Client) -> Result<()> {
    let create = "create table bench_copy (id bigint primary key, code text not null,
        amount numeric(12,2), at timestamptz not null, kind int, note text)";
    each(
        db,
        &["drop table if exists bench_copy", create, "checkpoint"],
    )
    .await
}

/// Empties the table, and fills it with what the load is going to change.
pub(crate) async fn prepare(db: &Client, kind: Kind, events: u64) -> Result<()> {
    each(db, &["set synchronous_commit = off", "truncate bench"]).await?;
    if kind == Kind::Mixed {
        fill(db, events / 2).await?;
    }
    each(db, &["vacuum analyze bench"]).await
}

/// Inserts rows 1 to `rows`.
pub(crate) async fn fill(db: &Client, rows: u64) -> Result<()> {
    let call = format!("call load_inserts(1, {}, 1000)", rows / 1000);
    each(db, &["set synchronous_commit = off", &call]).await
}

/// Inserts rows in one transaction.
pub(crate) async fn at_once(db: &Client, first: u64, last: u64) -> Result<()> {
    let columns = row(false);
    let insert =
        format!("insert into bench select {columns} from generate_series({first}, {last}) i");
    each(db, &["set synchronous_commit = off", &insert]).await
}

/// Makes the changes.
pub(crate) async fn change(db: &Client, kind: Kind, events: u64) -> Result<()> {
    let call = match kind {
        Kind::Inserts => format!("call load_inserts(10000001, {}, 100)", events / 100),
        Kind::Mixed => format!("call load_mixed(10000001, {})", events / 100),
        Kind::Wide => format!("call load_wide(10000001, {}, 100)", events / 100),
        Kind::Small => format!("call load_inserts(10000001, {events}, 1)"),
    };
    each(db, &[&call, "checkpoint"]).await
}
