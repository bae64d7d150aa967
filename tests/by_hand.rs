//! What operators change by hand through the connector API, with a real source, a real sink and a real
//! worker behind it: where stopped connectors go on, and how much workers log.

use std::fs;

use anyhow::{Context, Result};
use hutong_local::testkit::{PATIENCE, until};
use serde_json::{Value, json};

use crate::world::{Share, World, ensure, texts};

const ITEMS: Share = Share {
    setup: "
        create schema dept;
        create table dept.item (id bigint primary key, name text not null);
        insert into dept.item select n, 'name ' || n from generate_series(1, 200) n;",
    source: "hand",
    table: "dept.item",
    columns: &["id", "name"],
    view: "items",
    target: "in_item",
    insert: "insert into dept.item select max(id) + 1, 'one more' from dept.item",
};
const SINK: &str = "items-sink";

async fn ask(
    world: &World,
    method: &str,
    connector: &str,
    what: &str,
    body: Option<Value>,
) -> Result<(u16, Value)> {
    let path = format!("/connectors/{connector}/{what}");
    let answer = world.api().connect(method, &path, body).await?;
    Ok((answer.status, answer.body))
}

async fn must(
    world: &World,
    method: &str,
    connector: &str,
    what: &str,
    body: Option<Value>,
) -> Result<Value> {
    let (status, body) = ask(world, method, connector, what, body).await?;
    ensure((200..300).contains(&status), || {
        format!("{method} {connector}/{what}: {status} {body}")
    })?;
    Ok(body)
}

async fn stop(world: &World, connector: &str) -> Result<()> {
    must(world, "PUT", connector, "stop", None).await?;
    until(
        &format!("{connector} to be stopped"),
        PATIENCE,
        async || {
            let status = world.status(connector).await?;
            let is_stopped = status["connector"]["state"] == "STOPPED"
                && status["tasks"].as_array().is_none_or(Vec::is_empty);
            Ok(if is_stopped { Ok(()) } else { Err(status) })
        },
    )
    .await
}

async fn resume(world: &World, connector: &str) -> Result<()> {
    must(world, "PUT", connector, "resume", None).await?;
    Ok(())
}

/// Returns the only offset of a connector.
async fn offset(world: &World, connector: &str) -> Result<Value> {
    let body = must(world, "GET", connector, "offsets", None).await?;
    let offsets = body["offsets"].as_array().context("no list of offsets")?;
    ensure(offsets.len() == 1, || format!("not one offset: {body}"))?;
    Ok(offsets[0].clone())
}

async fn department(world: &World, sql: &str) -> Result<()> {
    let client = world.department.connect().await?;
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())
}

async fn subscriber(world: &World, sql: &str) -> Result<()> {
    let client = world.subscriber.connect().await?;
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_stopped_connectors_are_where_they_go_on() -> Result<()> {
    let world = World::start().await?;
    world.share(&ITEMS).await?;
    let zero = |mut offset: Value| {
        offset["offset"] = json!({ "kafka_offset": 0 });
        json!({ "offsets": [offset] })
    };
    let running = json!({ "offsets": [{ "partition": {}, "offset": null }] });
    let (status, body) = ask(&world, "PATCH", SINK, "offsets", Some(running)).await?;
    ensure(
        status == 400 && body.to_string().contains("must be in the STOPPED state"),
        || format!("a running connector: {status} {body}"),
    )?;

    // A sink that goes on at the beginning writes what somebody has lost for it.
    stop(&world, SINK).await?;
    subscriber(&world, "delete from public.in_item where id % 3 = 0").await?;
    let at = offset(&world, SINK).await?;
    let mut beyond = at.clone();
    let end = at["offset"]["kafka_offset"].as_i64().context("an offset")?;
    ensure(end >= 200, || format!("200 rows were read: {at}"))?;
    beyond["offset"]["kafka_offset"] = json!(end + 1);
    let body = json!({ "offsets": [beyond] });
    let (status, body) = ask(&world, "PATCH", SINK, "offsets", Some(body)).await?;
    ensure((400..500).contains(&status), || {
        format!("an offset behind the topic's end: {status} {body}")
    })?;
    must(&world, "PATCH", SINK, "offsets", Some(zero(at))).await?;
    let moved = offset(&world, SINK).await?;
    assert_eq!(moved["offset"]["kafka_offset"], 0, "{moved}");
    resume(&world, SINK).await?;
    world.wait_shared(&ITEMS).await.context("after PATCH")?;

    // One that begins anew also deletes what the view never had.
    stop(&world, SINK).await?;
    subscriber(
        &world,
        "delete from public.in_item where id % 5 = 0; insert into public.in_item (id, name) values (-7, 'ghost')",
    )
    .await?;
    must(&world, "DELETE", SINK, "offsets", None).await?;
    let none = must(&world, "GET", SINK, "offsets", None).await?;
    assert_eq!(none, json!({ "offsets": [] }));
    resume(&world, SINK).await?;
    world.wait_shared(&ITEMS).await.context("after DELETE")?;

    source_goes_on_elsewhere(&world).await
}

async fn source_goes_on_elsewhere(world: &World) -> Result<()> {
    let source = ITEMS.source;
    stop(world, source).await?;
    let rows = ITEMS.rows(ITEMS.table);
    let before = texts(&world.department, &rows).await?;
    // What lies before the new place is skipped, as was asked for.
    department(
        world,
        "insert into dept.item select n, 'skipped' from generate_series(1001, 1005) n; delete from dept.item where id <= 10",
    )
    .await?;
    let end = texts(
        &world.department,
        "select pg_current_wal_insert_lsn()::text",
    )
    .await?;
    let mut at = offset(world, source).await?;
    at["offset"] = json!({ "lsn": end[0] });
    let body = json!({ "offsets": [at] });
    must(world, "PATCH", source, "offsets", Some(body)).await?;
    resume(world, source).await?;
    department(world, "insert into dept.item values (2000, 'after')").await?;
    let mut expected = before;
    expected.push("2000|after".to_owned());
    let found = ITEMS.rows("public.in_item");
    until("the row behind the new place", PATIENCE, async || {
        let found = texts(&world.subscriber, &found).await?;
        Ok(if found.last() == expected.last() {
            Ok(())
        } else {
            Err(format!("{} rows", found.len()))
        })
    })
    .await?;
    assert_eq!(texts(&world.subscriber, &found).await?, expected);

    // A source that begins anew reads every row, and deletes what is gone.
    stop(world, source).await?;
    let slots =
        "select slot_name::text from pg_replication_slots where database = current_database()";
    assert_eq!(texts(&world.department, slots).await?.len(), 1);
    must(world, "DELETE", source, "offsets", None).await?;
    assert!(texts(&world.department, slots).await?.is_empty());
    department(
        world,
        "delete from dept.item where id between 50 and 60; update dept.item set name = 'unseen' where id % 40 = 1",
    )
    .await?;
    resume(world, source).await?;
    world.wait_shared(&ITEMS).await.context("of the source")?;
    world.delivers(&ITEMS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_log_as_much_as_the_cluster_is_told() -> Result<()> {
    let world = World::start().await?;
    world.share(&ITEMS).await?;
    let log = world.platform.folder().join("w1.log");
    let commits = || -> Result<usize> {
        let log = fs::read_to_string(&log)?;
        let lines = log.lines();
        Ok(lines
            .filter(|line| line.contains("TRACE") && line.contains("committed"))
            .count())
    };
    assert_eq!(commits()?, 0, "a worker traces nothing by itself");
    let path = "/admin/loggers/hutong_connectors_postgres?scope=cluster";
    for (level, is_traced) in [("TRACE", true), ("INFO", false)] {
        let body = json!({ "level": level });
        world.api().connect("PUT", path, Some(body)).await?.ok()?;
        until(
            &format!("the worker to log by {level}"),
            PATIENCE,
            async || {
                let before = commits()?;
                world.delivers(&ITEMS).await?;
                let now = commits()?;
                Ok(if (now > before) == is_traced {
                    Ok(())
                } else {
                    Err(format!("{before} lines, then {now}"))
                })
            },
        )
        .await?;
    }
    Ok(())
}
