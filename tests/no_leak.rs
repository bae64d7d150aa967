//! Nothing that was not granted leaves: markers planted in ungranted columns and rows are looked
//! for wherever a subscriber, or anybody who reads logs and metrics, could find them.

use anyhow::{Context, Result};
use hutong_local::testkit::PATIENCE;
use serde_json::{Value, json};

use crate::exactly_once::topic;
use crate::world::{World, ensure, texts};

/// Every marker begins like this and occurs nowhere else.
const MARKER: &str = "Zq7Leak";

const TABLE: &str = "
    create schema dept;
    create table dept.person (
        id_no varchar(40) primary key, name varchar(60) not null, region char(6) not null,
        phone varchar(60) not null default 'Zq7LeakDefault', card varchar(60), note text
    );
    -- id_no is the key and is not granted; phone and note are in no view; card is masked.
    insert into dept.person
    select 'Zq7LeakKey' || n, case when n % 4 = 0 then 'Zq7LeakRow' || n else 'name ' || n end,
           case when n % 4 = 0 then '110000' else '370705' end, 'Zq7LeakPhone' || n,
           'Zq7LeakCard' || lpad(n::text, 6, '0'), 'Zq7LeakNote' || n
    from generate_series(1, 400) n;";

const EXPECTED: &str = "
    select concat_ws('|', name, region, repeat('*', length(card) - 4) || right(card, 4))
    from dept.person where region = '370705' order by 1";
const FOUND: &str = "select concat_ws('|', name, region, card) from public.in_person order by 1";

#[tokio::test(flavor = "multi_thread")]
async fn markers_in_ungranted_columns_and_rows_are_found_nowhere() -> Result<()> {
    let mut world = World::start().await?;
    let department = world.department.connect().await?;
    department.batch_execute(TABLE).await?;
    world
        .create_connector("dept", world.source("dept", "dept\\.person"))
        .await?;
    world.wait_state("dept", "RUNNING").await?;
    world
        .create_view(&json!({
            "name": "people", "share": "s1", "subscriber": "reader", "source": { "topic": world.topic("dept", "dept.person") },
            "columns": [{ "name": "name" }, { "name": "region" }, { "name": "card", "mask": "SHOW_LAST 4" }],
            "where": "region = '370705'"
        }))
        .await?;
    world
        .create_connector("people-sink", world.sink("people", "in_person"))
        .await?;
    world.wait_equal(EXPECTED, FOUND, PATIENCE).await?;

    // An error at the subscriber, with a row in its context, and one that names a hidden value.
    let subscriber = world.subscriber.connect().await?;
    subscriber
        .batch_execute(
            "alter table public.in_person add constraint refuse check (name <> 'name 1001')",
        )
        .await?;
    department
        .batch_execute(
            "update dept.person set phone = 'Zq7LeakPhoneNew' || id_no;
             update dept.person set region = '370705', name = 'was hidden' where id_no = 'Zq7LeakKey4';
             update dept.person set region = '110000', name = 'Zq7LeakNowHidden' where id_no = 'Zq7LeakKey5';
             update dept.person set id_no = 'Zq7LeakMoved' where id_no = 'Zq7LeakKey6';
             delete from dept.person where id_no in ('Zq7LeakKey7', 'Zq7LeakKey8');
             insert into dept.person values ('Zq7LeakKey1001', 'name 1001', '370705', default, null, null);",
        )
        .await?;
    world.wait_state("people-sink", "FAILED").await?;
    let statuses = answers(&world).await?;
    subscriber
        .batch_execute("alter table public.in_person drop constraint refuse")
        .await?;
    world.platform.kill("w1")?;
    world.platform.start_worker("w1", "default").await?;
    let _restarted = world
        .api()
        .connect(
            "POST",
            "/connectors/people-sink/restart?includeTasks=true",
            None,
        )
        .await?;
    world.wait_equal(EXPECTED, FOUND, PATIENCE).await?;

    let raw = topic::read(&world.kafka, &world.topic("dept", "dept.person")).await;
    let in_raw = raw
        .iter()
        .filter_map(|message| message.value.as_ref())
        .filter(|value| contains(value))
        .count();
    ensure(in_raw > 400, || {
        format!("the control: only {in_raw} marked records in the table's topic")
    })?;

    let view = topic::read(
        &world.kafka,
        &format!("{}.view.people.g1", world.platform.cluster()),
    )
    .await;
    ensure(view.len() > 290, || {
        format!("only {} records in the view's topic", view.len())
    })?;
    for message in &view {
        for part in [&message.key, &message.value, &message.header_hutong]
            .into_iter()
            .flatten()
        {
            absent(
                &format!("offset {} of the view's topic", message.offset),
                part,
            )?;
        }
    }
    for table in texts(&world.subscriber, "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')").await? {
        for row in texts(&world.subscriber, &format!("select t::text from {table} t")).await? {
            absent(&format!("the subscriber's table {table}"), row.as_bytes())?;
        }
    }
    for (what, body) in statuses.into_iter().chain(answers(&world).await?) {
        absent(&what, body.as_bytes())?;
    }
    for (what, body) in subscriber_subjects(&world).await? {
        absent(&what, body.as_bytes())?;
    }
    let worker = format!("{}/metrics", world.platform.worker_url("w1")?);
    for url in [worker, format!("{}/metrics", world.api().platform_url)] {
        let metrics = world.api().call("GET", &url, None).await?.ok()?.to_string();
        ensure(metrics.contains("hutong_"), || {
            format!("no metrics at {url}")
        })?;
        absent(&url, metrics.as_bytes())?;
    }
    for process in ["w1", "control-plane"] {
        let log = std::fs::read(world.platform.folder().join(format!("{process}.log")))?;
        ensure(!log.is_empty(), || format!("{process} logged nothing"))?;
        absent(&format!("the log of {process}"), &log)?;
    }
    Ok(())
}

/// Returns what the APIs say about everything that runs.
async fn answers(world: &World) -> Result<Vec<(String, String)>> {
    let mut answers = Vec::new();
    for path in [
        "/connectors/dept/status",
        "/connectors/people-sink/status",
        "/connectors/people-sink",
        "/connectors/people-sink/offsets",
    ] {
        answers.push((
            path.to_owned(),
            world
                .api()
                .connect("GET", path, None)
                .await?
                .ok()?
                .to_string(),
        ));
    }
    for path in [
        "/api/v1/views",
        "/api/v1/views/people",
        "/api/v1/views/people/status",
        &format!("/api/v1/views?table={}", world.topic("dept", "dept.person")),
    ] {
        answers.push((
            path.to_owned(),
            world
                .api()
                .platform("GET", path, None)
                .await?
                .ok()?
                .to_string(),
        ));
    }
    Ok(answers)
}

/// Returns every subject that a token of the subscriber may read, with its schemas.
async fn subscriber_subjects(world: &World) -> Result<Vec<(String, String)>> {
    let token = world
        .api()
        .platform(
            "POST",
            "/api/v1/tokens",
            Some(json!({ "owner": "reader", "role": "reader" })),
        )
        .await?
        .ok()?;
    let api = world
        .api()
        .with_token(token["token"].as_str().context("no token")?);
    let subjects = api.registry("GET", "/subjects", None).await?.ok()?;
    let subjects: Vec<&str> = subjects
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    ensure(subjects.len() == 2, || {
        format!("the subscriber sees {subjects:?}")
    })?;
    let mut schemas = Vec::new();
    for subject in subjects {
        let answer = api
            .registry("GET", &format!("/subjects/{subject}/versions/latest"), None)
            .await?
            .ok()?;
        schemas.push((format!("subject {subject}"), answer.to_string()));
    }
    let hidden = api
        .registry(
            "GET",
            &format!(
                "/subjects/{}-value/versions/latest",
                world.topic("dept", "dept.person")
            ),
            None,
        )
        .await?;
    ensure(matches!(hidden.status, 403 | 404), || {
        format!("the table's subject is shown: {}", hidden.body)
    })?;
    Ok(schemas)
}

fn contains(bytes: &[u8]) -> bool {
    bytes
        .windows(MARKER.len())
        .any(|window| window == MARKER.as_bytes())
}

fn absent(place: &str, bytes: &[u8]) -> Result<()> {
    ensure(!contains(bytes), || {
        let at = bytes
            .windows(MARKER.len())
            .position(|window| window == MARKER.as_bytes())
            .unwrap_or(0);
        let near = &bytes[at.saturating_sub(200)..bytes.len().min(at + 60)];
        format!(
            "a marker leaked into {place}: …{}…",
            String::from_utf8_lossy(near)
        )
    })
}
