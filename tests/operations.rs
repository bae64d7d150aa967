//! What operators rely on: idle slots, takeovers, revocation within its bound, durable answers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hutong_local::postgres;
use hutong_local::testkit::{Database, Kit, OwnServers, PATIENCE, PlatformOptions, until};
use hutong_transport::reader::{CompactedReader, Event};
use serde_json::json;

use crate::world::{BINARY, Share, World, ensure, texts};

const ITEMS: Share = Share {
    setup: "
        create schema dept;
        create table dept.item (id bigint primary key, region char(6) not null);
        insert into dept.item select n, '370705' from generate_series(1, 20000) n;",
    source: "ops",
    table: "dept.item",
    columns: &["id"],
    view: "items",
    target: "in_item",
    insert: "insert into dept.item select max(id) + 1, '370705' from dept.item",
};

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_view_is_gone_within_the_bound_and_the_others_stay() -> Result<()> {
    let world = World::start().await?;
    world.share(&ITEMS).await?;
    world
        .create_view(&json!({
            "name": "regions", "share": "t", "subscriber": "reader", "source": { "topic": world.topic("ops", "dept.item") },
            "columns": [{ "name": "id" }, { "name": "region" }]
        }))
        .await?;
    world
        .create_connector("regions-sink", world.sink("regions", "in_region"))
        .await?;
    let (expected, region) = (ITEMS.rows(ITEMS.table), ITEMS.rows("public.in_region"));
    world.wait_equal(&expected, &region, PATIENCE).await?;

    let asked = Instant::now();
    world
        .api()
        .platform("POST", "/api/v1/views/items/revoke", None)
        .await?
        .ok()?;
    // The stated bound: 5 s and a second for every 10,000 rows, here 20,000.
    let bound = Duration::from_secs(7);
    until("the last row to be gone", PATIENCE, async || {
        let left = texts(
            &world.subscriber,
            "select count(*)::text from public.in_item",
        )
        .await?;
        Ok(if left == ["0"] {
            Ok(())
        } else {
            Err(format!("{left:?} rows are left"))
        })
    })
    .await?;
    let took = asked.elapsed();
    ensure(took <= bound, || {
        format!("the last row was gone after {took:?}, the bound is {bound:?}")
    })?;
    println!("20,000 rows were gone {took:?} after the request");
    world
        .department
        .connect()
        .await?
        .batch_execute("delete from dept.item where id % 2 = 0")
        .await?;
    world.wait_equal(&expected, &region, PATIENCE).await?;
    let topic = format!("{}.view.items.g1", world.platform.cluster());
    let admin = hutong_transport::admin::Admin::new(&world.kafka)?;
    until("the view's topic to be deleted", PATIENCE, async || {
        Ok(match admin.topic(&topic).await? {
            None => Ok(()),
            Some(_) => Err("it is there"),
        })
    })
    .await?;
    let left = texts(
        &world.subscriber,
        "select count(*)::text from public.in_item",
    )
    .await?;
    assert_eq!(left, ["0"]);
    let receivers = world
        .api()
        .platform(
            "GET",
            &format!("/api/v1/views?table={}", world.topic("ops", "dept.item")),
            None,
        )
        .await?
        .ok()?
        .to_string();
    ensure(receivers.contains("regions"), || {
        format!("who receives the table: {receivers}")
    })?;

    let owner = format!("processor/{}/0", world.topic("ops", "dept.item"));
    assert!(!stored_positions(&world, &owner).await?.is_empty());
    world
        .api()
        .platform("POST", "/api/v1/views/regions/revoke", None)
        .await?
        .ok()?;
    until("the processor to be forgotten", PATIENCE, async || {
        let left = stored_positions(&world, &owner).await?;
        Ok(if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        })
    })
    .await?;
    let state = world.platform.folder().join("w1-data/tasks");
    let left: Vec<_> = std::fs::read_dir(state)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    let is_state = |name: &std::ffi::OsString| name.to_string_lossy().contains("dept.item");
    ensure(!left.iter().any(is_state), || {
        format!("the worker still has {left:?}")
    })
}

/// Returns the keys of the positions that an owner has stored.
async fn stored_positions(world: &World, owner: &str) -> Result<BTreeSet<String>> {
    let topic = format!("{}.positions.default", world.platform.cluster());
    let mut reader = CompactedReader::open(&world.kafka, &topic).await?;
    let mut keys = BTreeSet::new();
    while let Event::Record(record) = reader.next().await? {
        let key = String::from_utf8(record.key.unwrap_or_default().to_vec())?;
        if !key.contains(owner) {
            continue;
        }
        match record.value {
            Some(_) => keys.insert(key),
            None => keys.remove(&key),
        };
    }
    Ok(keys)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_killed_worker_run_again_in_time() -> Result<()> {
    let kit = Kit::from_env();
    let mut options = PlatformOptions::new(BINARY, &kit).await?;
    options
        .worker
        .insert("session_timeout".to_owned(), json!("15s"));
    let mut world = World::on(
        options,
        kit.database("department").await?,
        kit.database("subscriber").await?,
    )
    .await?;
    world.platform.start_worker("w1", "default").await?;
    world.share(&ITEMS).await?;

    world.platform.kill("w1")?;
    let killed = Instant::now();
    world.platform.launch_worker("w1", "default")?;
    world.delivers(&ITEMS).await?;
    let same = killed.elapsed();
    ensure(same <= Duration::from_secs(10), || {
        format!("the same instance delivered after {same:?}, the bound is 10 s")
    })?;

    world.platform.launch_worker("w2", "default")?;
    world.platform.wait_worker("w2").await?;
    world.platform.kill("w1")?;
    let killed = Instant::now();
    world.delivers(&ITEMS).await?;
    let other = killed.elapsed();
    // The session timeout, and what starting takes.
    ensure(other <= Duration::from_secs(15 + 10), || {
        format!("another instance delivered after {other:?}")
    })?;
    println!(
        "tasks ran again after {same:?} (same instance) and {other:?} (another, session timeout 15 s)"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_slot_lets_go_of_the_wal_that_others_write() -> Result<()> {
    let servers = OwnServers::begin()?;
    let options = postgres::Options::for_tests()
        .with("max_wal_size", "8GB")
        .with("wal_compression", "off");
    let server = servers.postgres("idle", &options).await?;
    let department = Database::create_named(&server.url("postgres"), "department").await?;
    let elsewhere = Database::create_named(&server.url("postgres"), "elsewhere").await?;
    let kit = Kit::from_env();
    let mut world = World::on(
        PlatformOptions::new(BINARY, &kit).await?,
        department,
        kit.database("subscriber").await?,
    )
    .await?;
    world.platform.start_worker("w1", "default").await?;
    world.share(&ITEMS).await?;

    let client = elsewhere.connect().await?;
    client.batch_execute("create table noise (filling text); alter table noise alter filling set storage external").await?;
    let start: String = client
        .query_one("select pg_current_wal_lsn()::text", &[])
        .await?
        .get(0);
    let written =
        "select (pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn) / 1048576)::bigint";
    let mut mebibytes: i64 = 0;
    while mebibytes < 2048 {
        client.batch_execute("insert into noise select repeat(md5(n::text), 250) from generate_series(1, 8000) n; truncate noise").await?;
        mebibytes = client.query_one(written, &[&start]).await?.get(0);
    }
    let done = Instant::now();
    let retained = "select (pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) / 1048576)::bigint from pg_replication_slots where slot_type = 'logical' and not temporary";
    let limit: i64 = 64;
    let left = until(
        "the slot to let go",
        Duration::from_secs(30).saturating_sub(done.elapsed()),
        async || {
            let left: i64 = client.query_one(retained, &[]).await?.get(0);
            Ok(if left <= limit {
                Ok(left)
            } else {
                Err(format!("{left} MiB are retained"))
            })
        },
    )
    .await?;
    println!(
        "{mebibytes} MiB written elsewhere; {left} MiB retained {:?} later",
        done.elapsed()
    );
    world
        .delivers(&ITEMS)
        .await
        .context("the stream after the idle advance")
}
