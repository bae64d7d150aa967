//! `tables_2000`: a connector over two thousand tables, from the API's being asked to the first change
//! of the last table in its topic.

use std::time::{Duration, Instant};

use anyhow::Result;
use hutong_local::testkit::until;
use serde_json::Value;

use crate::echo;
use crate::figures::Figures;
use crate::load;
use crate::stand::{PATIENCE, Stand};

const NAME: &str = "tables_2000";
const TABLES: u32 = 2000;
/// Topics that a broker is asked to delete together.
const DELETED_AT_ONCE: usize = 200;

/// Runs the benchmark. It is the last one: a broker with thousands of topics is slower.
pub(crate) async fn run(stand: &mut Stand, figures: &mut Figures) -> Result<()> {
    if !figures.wants(NAME) {
        return Ok(());
    }
    let db = stand.source_db().await?;
    let create = format!(
        "do $$ begin for n in 1..{TABLES} loop
            execute format('create table many.t%s (id int primary key, name text, at timestamptz default now())', n);
            if n % 500 = 0 then commit; end if;
         end loop; end $$"
    );
    load::each(&db, &["create schema many", &create]).await?;
    stand.fresh_worker().await?;
    let name = stand.name();
    let mut config = stand.source(&name, "initial");
    config.insert("table.include.list".to_owned(), "many\\..*".into());
    let last = format!("{name}.many.t{TABLES}");

    let started = Instant::now();
    stand.put(&name, config).await?;
    db.batch_execute(&format!(
        "insert into many.t{TABLES} values (1, 'the first change')"
    ))
    .await?;
    until("the last table's change", PATIENCE, async || {
        let end = stand.end(&last)?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(if end > 0 { Ok(()) } else { Err(end) })
    })
    .await?;
    let first = started.elapsed().as_secs_f64();
    until("all tables to be followed", PATIENCE, async || {
        let streaming = streaming(stand, &name).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(if streaming == u64::from(TABLES) {
            Ok(())
        } else {
            Err(streaming)
        })
    })
    .await?;
    let all = started.elapsed().as_secs_f64();
    figures.plain(NAME, first, "s", "≤ 30");
    figures.plain("tables_2000_all", all, "s", "–");
    figures.rss(NAME, stand.worker_peak()?);

    stand.delete(&name).await?;
    let topics: Vec<String> = (1..=TABLES)
        .map(|number| format!("{name}.many.t{number}"))
        .collect();
    for topics in topics.chunks(DELETED_AT_ONCE) {
        echo::delete_topics(stand.bootstrap(), topics).await?;
    }
    let dropped: Vec<String> = (1..=TABLES)
        .map(|number| format!("drop table many.t{number}"))
        .collect();
    for statements in dropped.chunks(DELETED_AT_ONCE) {
        db.batch_execute(&statements.join(";")).await?;
    }
    load::each(&db, &["drop schema many"]).await
}

/// Returns how many tables a connector has read and follows.
async fn streaming(stand: &Stand, name: &str) -> Result<u64> {
    let path = format!("/api/v1/connectors/{name}");
    let api = stand.platform.api();
    let about = api.platform("GET", &path, None).await?.ok()?;
    let tables: &[Value] = match &about["details"]["tables"] {
        Value::Array(tables) => tables,
        _ => &[],
    };
    let states = tables.iter().filter(|table| table["state"] == "streaming");
    Ok(states.count().try_into()?)
}
