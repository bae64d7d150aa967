//! Live views that change: widened and narrowed in place, closed and refilled under another
//! generation or another key, ended, suspended and resumed; each looked at from outside.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hutong_local::testkit::{Kit, PATIENCE, PlatformOptions, until};
use hutong_transport::admin::Admin;
use hutong_transport::reader::{CompactedReader, Event};
use serde_json::{Value, json};

use crate::world::{BINARY, World, ensure, texts};

const TABLE: &str = "
    create schema dept;
    create table dept.person (
        id bigint primary key, region char(6) not null, name text not null, phone text not null, n int not null, code varchar(10));
    insert into dept.person
        select n, case when n % 4 = 0 then '370100' else '370705' end, 'name ' || n, '1380000' || n, n % 10
        from generate_series(1, 4000) n;";
const PHONE: &str = "1380000";

/// A platform that captures the table, without views.
async fn begin(worker: &[(&str, Value)]) -> Result<World> {
    let kit = Kit::from_env();
    let mut options = PlatformOptions::new(BINARY, &kit).await?;
    for (key, value) in worker {
        options.worker.insert((*key).to_owned(), value.clone());
    }
    options
        .worker
        .insert("status_interval".to_owned(), json!("500ms"));
    let department = kit.database("department").await?;
    let subscriber = kit.database("subscriber").await?;
    let mut world = World::on(options, department, subscriber).await?;
    world.platform.start_worker("w1", "default").await?;
    at_department(&world, TABLE).await?;
    world
        .create_connector("vc", world.source("vc", "dept\\.person"))
        .await?;
    world.wait_state("vc", "RUNNING").await?;
    Ok(world)
}

async fn at_department(world: &World, sql: &str) -> Result<()> {
    let client = world.department.connect().await?;
    client
        .batch_execute(sql)
        .await
        .with_context(|| sql.to_owned())
}

fn document(world: &World, name: &str, columns: Value, condition: Option<&str>) -> Value {
    let mut document = json!({
        "name": name, "share": "s", "subscriber": "reader", "columns": columns,
        "source": { "topic": world.topic("vc", "dept.person") },
    });
    if let Some(condition) = condition {
        document["where"] = condition.into();
    }
    document
}

async fn share(world: &World, document: &Value) -> Result<()> {
    let name = document["name"].as_str().context("a view has a name")?;
    world.create_view(document).await?;
    let sink = world.sink(name, &format!("in_{name}"));
    world.create_connector(&format!("{name}-sink"), sink).await
}

async fn put(world: &World, document: &Value) -> Result<Value> {
    let name = document["name"].as_str().context("a view has a name")?;
    let path = format!("/api/v1/views/{name}");
    world
        .api()
        .platform("PUT", &path, Some(document.clone()))
        .await?
        .ok()
}

async fn status(world: &World, view: &str) -> Result<Value> {
    let path = format!("/api/v1/views/{view}");
    world.api().platform("GET", &path, None).await?.ok()
}

async fn wait_status(
    world: &World,
    view: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value> {
    until(what, PATIENCE, async || {
        let status = status(world, view).await?;
        Ok(if wanted(&status) {
            Ok(status)
        } else {
            Err(status)
        })
    })
    .await
}

async fn wait_complete(world: &World, view: &str) -> Result<Value> {
    wait_status(world, view, "the view to be complete", |status| {
        status["complete"] == true
    })
    .await
}

/// Waits until the subscriber's table equals a query at the department; both give one text a row.
async fn wait_rows(world: &World, view: &str, expected: &str, found: &str) -> Result<usize> {
    let found = format!("select {found} as row from public.in_{view} order by 1");
    world.wait_equal(expected, &found, PATIENCE).await
}

/// Reads a topic to its end: all records that it has.
async fn records(world: &World, topic: &str) -> Result<Vec<(Vec<u8>, Option<Vec<u8>>)>> {
    let mut reader = CompactedReader::open(&world.kafka, topic).await?;
    let mut records = Vec::new();
    loop {
        match reader.next().await? {
            Event::Record(message) => records.push((
                message.key.map(|key| key.to_vec()).unwrap_or_default(),
                message.value.map(|value| value.to_vec()),
            )),
            Event::End => return Ok(records),
        }
    }
}

fn contains(records: &[(Vec<u8>, Option<Vec<u8>>)], text: &str) -> bool {
    let holds = |bytes: &[u8]| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    records
        .iter()
        .any(|(key, value)| holds(key) || value.as_deref().is_some_and(holds))
}

async fn wait_gone(world: &World, topic: &str) -> Result<()> {
    let admin = Admin::new(&world.kafka)?;
    until(&format!("{topic} to be deleted"), PATIENCE, async || {
        Ok(match admin.topic(topic).await? {
            None => Ok(()),
            Some(_) => Err("it is there"),
        })
    })
    .await
}

fn view_topic(world: &World, view: &str, generation: u32) -> String {
    format!("{}.view.{view}.g{generation}", world.platform.cluster())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_is_widened_and_narrowed_in_place_while_the_table_changes() -> Result<()> {
    let world = begin(&[]).await?;
    let columns = json!([{ "name": "id" }, { "name": "name" }]);
    let narrow = "region = '370705' AND n < 5";
    let first = document(&world, "people", columns.clone(), Some(narrow));
    share(&world, &first).await?;
    let expect = |condition: &str| {
        format!("select id || ' ' || name as row from dept.person where {condition} order by 1")
    };
    let found = "id || ' ' || name";
    let before = wait_rows(&world, "people", &expect(narrow), found).await?;
    let status = wait_complete(&world, "people").await?;
    assert_eq!(
        (&status["version"], &status["generation"]),
        (&json!(1), &json!(1))
    );

    let wide = "region = '370705' OR n = 0";
    let widened = document(&world, "people", columns.clone(), Some(wide));
    let answer = put(&world, &widened).await?;
    assert_eq!(
        (&answer["version"], &answer["generation"]),
        (&json!(2), &json!(1))
    );
    at_department(
        &world,
        "update dept.person set name = name || '!' where id % 3 = 0;
         delete from dept.person where id % 7 = 0;
         update dept.person set region = '370705' where id % 8 = 0;",
    )
    .await?;
    let after = wait_rows(&world, "people", &expect(wide), found).await?;
    ensure(after > before, || format!("{before} rows, then {after}"))?;
    let status = wait_status(&world, "people", "all rows to be counted", |status| {
        status["complete"] == true && status["rows"] == after
    })
    .await?;
    assert_eq!(status["partitions"][0]["version"], 2);
    assert_eq!(status["in_force"], true);
    assert_eq!(status["filled"], status["total"]);

    // A column more is filled in as well, in the same generation.
    let more = json!([{ "name": "id" }, { "name": "name" }, { "name": "n" }]);
    put(
        &world,
        &document(&world, "people", more.clone(), Some(wide)),
    )
    .await?;
    let with_n = format!(
        "select id || ' ' || name || ' ' || n as row from dept.person where {wide} order by 1"
    );
    wait_rows(&world, "people", &with_n, "id || ' ' || name || ' ' || n").await?;

    put(&world, &document(&world, "people", more, Some(narrow))).await?;
    at_department(&world, "update dept.person set n = 4 where id % 10 = 9").await?;
    wait_rows(&world, "people", &expect(narrow), found).await?;
    let status = wait_complete(&world, "people").await?;
    assert_eq!(
        (&status["version"], &status["generation"]),
        (&json!(4), &json!(1))
    );
    let same = put(
        &world,
        &document(
            &world,
            "people",
            json!([{ "name": "id" }, { "name": "name" }, { "name": "n" }]),
            Some(narrow),
        ),
    )
    .await?;
    assert_eq!(same["version"], 4, "what holds already is no change");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_was_made_wider_is_wider_at_the_subscriber_once_the_view_changes()
-> Result<()> {
    let world = begin(&[]).await?;
    let columns = json!([{ "name": "id" }, { "name": "code" }]);
    let first = document(&world, "people", columns, Some("n < 5"));
    share(&world, &first).await?;
    let row = "id || ' ' || coalesce(code, '~')";
    let expected = format!("select {row} as row from dept.person where n < 5 order by 1");
    at_department(
        &world,
        "alter table dept.person alter column code type varchar(20);
         update dept.person set code = 'short' where id = 1;",
    )
    .await?;
    wait_rows(&world, "people", &expected, row).await?;

    let more = json!([{ "name": "id" }, { "name": "code" }, { "name": "n" }]);
    put(&world, &document(&world, "people", more, Some("n < 5"))).await?;
    at_department(
        &world,
        "update dept.person set code = 'longer than ten' where id = 2",
    )
    .await?;
    wait_rows(&world, "people", &expected, row).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_column_is_nowhere_any_more_and_the_rows_are_filled_anew() -> Result<()> {
    let world = begin(&[]).await?;
    let columns = json!([{ "name": "id" }, { "name": "name" }, { "name": "phone" }]);
    share(&world, &document(&world, "people", columns, None)).await?;
    let all = "select id || ' ' || name || ' ' || phone as row from dept.person order by 1";
    wait_rows(&world, "people", all, "id || ' ' || name || ' ' || phone").await?;
    let closed = view_topic(&world, "people", 1);
    ensure(contains(&records(&world, &closed).await?, PHONE), || {
        "the topic holds phone numbers before".to_owned()
    })?;

    let narrowed = json!([{ "name": "id" }, { "name": "name" }]);
    let answer = put(&world, &document(&world, "people", narrowed, None)).await?;
    assert_eq!(answer["generation"], 2);
    at_department(
        &world,
        "update dept.person set name = name || '!', phone = '1380000x' where id % 5 = 0;
         delete from dept.person where id % 9 = 0;
         insert into dept.person values (9001, '370705', 'new', '1380000y', 1);",
    )
    .await?;
    wait_gone(&world, &closed).await?;
    let rows = "select id || ' ' || name as row from dept.person order by 1";
    wait_rows(&world, "people", rows, "id || ' ' || name").await?;
    wait_complete(&world, "people").await?;
    let open = view_topic(&world, "people", 2);
    ensure(!contains(&records(&world, &open).await?, PHONE), || {
        "a phone number is in the topic of the new generation".to_owned()
    })?;
    until("no phone number to be left", PATIENCE, async || {
        let left = texts(
            &world.subscriber,
            "select count(*)::text from public.in_people where phone is not null",
        )
        .await?;
        Ok(if left == ["0"] {
            Ok(())
        } else {
            Err(left.concat())
        })
    })
    .await?;
    // And the subscriber's registry shows the new generation's schemas only.
    let subjects = world.api().registry("GET", "/subjects", None).await?.ok()?;
    ensure(subjects.to_string().contains(&open), || {
        format!("{subjects}")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_whose_key_is_rotated_has_other_keys_in_all_its_views() -> Result<()> {
    let world = begin(&[]).await?;
    let hidden = json!([{ "name": "name" }, { "name": "n" }]);
    share(&world, &document(&world, "one", hidden.clone(), None)).await?;
    share(&world, &document(&world, "two", hidden, Some("n = 1"))).await?;
    let clear = json!([{ "name": "id" }, { "name": "name" }]);
    share(&world, &document(&world, "clear", clear, None)).await?;
    let names = "select name as row from dept.person order by 1";
    let some = "select name as row from dept.person where n = 1 order by 1";
    wait_rows(&world, "one", names, "name").await?;
    wait_rows(&world, "two", some, "name").await?;
    wait_rows(&world, "clear", names, "name").await?;
    let keys = async |view: &str| {
        let sql = format!("select _rk as row from public.in_{view} order by 1");
        texts(&world.subscriber, &sql).await
    };
    let (one, two) = (keys("one").await?, keys("two").await?);

    let rotation = world
        .api()
        .platform("POST", "/api/v1/shares/s/rotate-key", None)
        .await?
        .ok()?;
    assert_eq!(rotation["key_version"], 2);
    assert_eq!(rotation["views"], json!(["one", "two"]));
    for view in ["one", "two"] {
        wait_gone(&world, &view_topic(&world, view, 1)).await?;
        wait_complete(&world, view).await?;
    }
    wait_rows(&world, "one", names, "name").await?;
    wait_rows(&world, "two", some, "name").await?;
    let (one_now, two_now) = (keys("one").await?, keys("two").await?);
    ensure(one_now.iter().all(|key| !one.contains(key)), || {
        "a key of before is there after the rotation".to_owned()
    })?;
    ensure(two_now.iter().all(|key| one_now.contains(key)), || {
        "the views of a share no longer agree on keys".to_owned()
    })?;
    assert_eq!((one.len(), two.len()), (one_now.len(), two_now.len()));
    assert_eq!(status(&world, "clear").await?["generation"], 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_move_and_moves_nothing() -> Result<()> {
    let mut world = begin(&[]).await?;
    let columns = json!([{ "name": "id" }, { "name": "phone" }]);
    share(&world, &document(&world, "people", columns, Some("n < 5"))).await?;
    wait_complete(&world, "people").await?;
    let counts = texts(
        &world.department,
        "select count(*) filter (where n >= 3 and n >= 5)::text || ' ' ||
                count(*) filter (where n < 5 and not n >= 3)::text || ' ' ||
                count(*) filter (where n < 5 and n >= 3)::text as row from dept.person",
    )
    .await?;
    let columns =
        json!([{ "name": "id" }, { "name": "phone", "mask": "SHOW_LAST 2" }, { "name": "name" }]);
    let changed = document(&world, "people", columns, Some("n >= 3"));
    let path = "/api/v1/views/people?dry_run=true";
    let preview = until(
        "the location to count what is at the source",
        PATIENCE,
        async || {
            let answer = world
                .api()
                .platform("PUT", path, Some(changed.clone()))
                .await?;
            ensure(answer.status == 202, || format!("{answer:?}"))?;
            // The processor may not have read all rows yet.
            let rows = &answer.body["rows"];
            let told = format!("{} {} {}", rows["enter"], rows["leave"], rows["stay"]);
            Ok(if told == counts[0] {
                Ok(answer.body)
            } else {
                Err(answer.body)
            })
        },
    )
    .await?;
    assert_eq!(preview["generation"], 2);
    assert_eq!(
        preview["columns"],
        json!({ "enter": ["name"], "leave": [], "clearer": [], "masked": ["phone"] })
    );
    let now = status(&world, "people").await?;
    assert_eq!(
        (&now["version"], &now["generation"]),
        (&json!(1), &json!(1))
    );

    world.platform.stop("w1").await?;
    let answer = world
        .api()
        .platform("PUT", path, Some(changed))
        .await?
        .ok()?;
    assert_eq!(
        answer["rows_unknown"],
        "location \"default\" did not answer within 10 s"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validity_that_was_shortened_ends_without_the_control_plane() -> Result<()> {
    let mut world = begin(&[]).await?;
    let columns = json!([{ "name": "id" }, { "name": "name" }]);
    let mut view = document(&world, "people", columns, None);
    share(&world, &view).await?;
    let rows = "select id::text as row from dept.person order by 1";
    wait_rows(&world, "people", rows, "id::text").await?;
    let end = texts(
        &world.department,
        "select to_char((now() + interval '8 s') at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') as row",
    )
    .await?;
    view["valid_until"] = end[0].as_str().into();
    put(&world, &view).await?;
    wait_status(&world, "people", "the version to be in force", |status| {
        status["in_force"] == true
    })
    .await?;
    world.platform.kill("control-plane")?;
    until("the subscriber's table to be empty", PATIENCE, async || {
        let left = texts(
            &world.subscriber,
            "select count(*)::text from public.in_people",
        )
        .await?;
        Ok(if left == ["0"] {
            Ok(())
        } else {
            Err(left.concat())
        })
    })
    .await?;
    let topic = view_topic(&world, "people", 1);
    until("the topic to hold tombstones only", PATIENCE, async || {
        let mut held = std::collections::BTreeMap::new();
        for (key, value) in records(&world, &topic).await? {
            held.insert(key, value.is_some());
        }
        let left = held.values().filter(|is_row| **is_row).count();
        Ok(if left == 0 { Ok(()) } else { Err(left) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_another_secret_stops_the_views_that_need_it_and_no_others() -> Result<()> {
    let mut world = begin(&[]).await?;
    let hidden = json!([{ "name": "name" }]);
    share(&world, &document(&world, "hidden", hidden, None)).await?;
    let clear = json!([{ "name": "id" }, { "name": "name" }]);
    share(&world, &document(&world, "clear", clear, None)).await?;
    let names = "select name as row from dept.person order by 1";
    wait_rows(&world, "hidden", names, "name").await?;
    wait_rows(&world, "clear", names, "name").await?;

    let secret = world.platform.worker_secrets_dir().join("master");
    let right = std::fs::read_to_string(&secret)?;
    world.platform.stop("w1").await?;
    world
        .platform
        .write_worker_secret("master", "another secret of sufficient length")?;
    world.platform.start_worker("w1", "default").await?;
    let stopped = wait_status(&world, "hidden", "the view to be suspended", |status| {
        status["partitions"][0]["view_state"] == "suspended"
    })
    .await?;
    let error = stopped["partitions"][0]["error"]
        .as_str()
        .unwrap_or_default();
    ensure(error.contains("master secret"), || error.to_owned())?;
    at_department(
        &world,
        "delete from dept.person where id % 2 = 0;
         insert into dept.person values (9001, '370705', 'new', 'x', 1)",
    )
    .await?;
    wait_rows(&world, "clear", names, "name").await?;
    let kept = texts(
        &world.subscriber,
        "select count(*)::text from public.in_hidden",
    )
    .await?;
    assert_eq!(kept, ["4000"], "what a suspended view holds stays");

    world.platform.stop("w1").await?;
    world.platform.write_worker_secret("master", &right)?;
    world.platform.start_worker("w1", "default").await?;
    wait_rows(&world, "hidden", names, "name").await?;
    wait_complete(&world, "hidden").await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_partition_with_a_tombstone_has_its_last_record_written_again() -> Result<()> {
    let world = begin(&[("view_segment", json!("3s"))]).await?;
    let columns = json!([{ "name": "id" }, { "name": "name" }]);
    share(
        &world,
        &document(&world, "people", columns, Some("id <= 10")),
    )
    .await?;
    let ten = "select id::text as row from dept.person where id <= 10 order by 1";
    wait_rows(&world, "people", ten, "id::text").await?;
    let topic = view_topic(&world, "people", 1);
    let before = records(&world, &topic).await?;
    assert_eq!(before.len(), 10);
    at_department(
        &world,
        "delete from dept.person where id = 3;
         update dept.person set name = 'last' where id = 4;",
    )
    .await?;
    let after = until("a repeat", Duration::from_secs(30), async || {
        let now = records(&world, &topic).await?;
        Ok(if now.len() >= 13 {
            Ok(now)
        } else {
            Err(now.len())
        })
    })
    .await?;
    let [.., tombstone, last, repeat] = after.as_slice() else {
        bail!("too few records");
    };
    assert_eq!(tombstone.1, None);
    assert_eq!(last, repeat, "whatever the last record is");
    let count = texts(
        &world.subscriber,
        "select count(*)::text from public.in_people",
    )
    .await?;
    assert_eq!(count, ["9"]);
    Ok(())
}
