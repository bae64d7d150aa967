//! `memory_rows`: what the worker holds at most where a budget counted in rows would fail: rows of 20 MB
//! through a snapshot, the stream, a view and a sink. It may take the budget and four times the largest
//! row.

use anyhow::{Context, Result};
use hutong_local::testkit::until;
use serde_json::json;
use tokio_postgres::Client;

use crate::figures::Figures;
use crate::stand::{PATIENCE, Stand};
use crate::{echo, load, view};

const NAME: &str = "memory_rows";
/// Rows of 20 MB that are read by the snapshot, and that are inserted, then changed, after it.
const READ: i64 = 6;
const STREAMED: i64 = 10;
const TARGET: &str = "bench_large";
/// Texts that the server can compress and we must hold whole.
const BODY: &str = "repeat(md5(i::text), 655360)";

/// Runs the benchmark.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if figures.wants(NAME) {
        stand.fresh_worker().await?;
        rows(stand).await?;
        figures.plain(NAME, stand.worker_peak()?, "MiB", "≤ 256 + 4 × 20");
    }
    Ok(())
}

async fn rows(stand: &mut Stand) -> Result<()> {
    let db = stand.source_db().await?;
    db.batch_execute(
        "create table large (id bigint primary key, body text not null, n int not null)",
    )
    .await?;
    insert(&db, 1, READ).await?;
    let (connector, name, sink) = (stand.name(), stand.name(), stand.name());
    let topic = format!("{connector}.public.large");
    let mut config = stand.source(&connector, "initial");
    config.insert("table.include.list".to_owned(), "public\\.large".into());
    stand.put(&connector, config).await?;
    stand.wait_running(&connector).await?;
    let document = json!({
        "name": name, "share": "bench", "subscriber": "reader", "source": { "topic": topic },
        "columns": [{ "name": "id" }, { "name": "body" }, { "name": "n" }], "where": "id > 0",
    });
    view::create(stand, &document).await?;
    stand
        .put(&sink, stand.sink(&format!("bench.view.{name}"), TARGET))
        .await?;
    equal(stand, &db).await?;
    insert(&db, READ + 1, READ + STREAMED).await?;
    for id in READ + 1..=READ + STREAMED {
        // The first change leaves the large value where it is, the second one writes it anew.
        let changes = format!(
            "update large set n = n + 1 where id = {id};
             update large set body = body || 'x', n = n + 1 where id = {id}"
        );
        db.batch_execute(&changes).await?;
    }
    equal(stand, &db).await?;
    stand.delete(&sink).await?;
    view::drop_view(stand, &name).await?;
    stand.delete(&connector).await?;
    load::each(&db, &["drop table large"]).await?;
    let subscriber = stand.sink_db().await?;
    load::each(&subscriber, &[&format!("drop table {TARGET}")]).await?;
    echo::delete_topic(stand.bootstrap(), &topic).await
}

async fn insert(db: &Client, first: i64, last: i64) -> Result<()> {
    for id in first..=last {
        let insert =
            format!("insert into large select i, {BODY}, 0 from generate_series({id}, {id}) i");
        db.batch_execute(&insert).await?;
    }
    Ok(())
}

/// Waits until the subscriber has exactly what the department has.
async fn equal(stand: &Stand, db: &Client) -> Result<()> {
    let rows = |table: &str| {
        format!(
            "select coalesce(string_agg(id || ' ' || n || ' ' || md5(body), ',' order by id), '') from {table}"
        )
    };
    let expected: String = db.query_one(&rows("large"), &[]).await?.get(0);
    let subscriber = stand.sink_db().await?;
    until("the large rows", PATIENCE, async || {
        // The table is the sink's to make.
        let found = subscriber.query_one(&rows(TARGET), &[]).await;
        let found: Option<String> = found.ok().map(|row| row.get(0));
        Ok(if found.as_ref() == Some(&expected) {
            Ok(())
        } else {
            Err(found.map_or(0, |text| text.split(',').count()))
        })
    })
    .await
    .context("rows of 20 MB through snapshot, stream, view and sink")
}
