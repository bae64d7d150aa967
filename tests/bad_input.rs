//! Wrong configurations, missing rights, servers that are away: each must be said in words that tell
//! the user what to do, and everything else must go on.

use std::time::Duration;

use anyhow::{Context, Result};
use hutong_local::kafka::{self, Secured};
use hutong_local::postgres;
use hutong_local::testkit::{Database, Kit, OwnServers, PATIENCE, PlatformOptions, until};
use hutong_local::tls::Certificates;
use serde_json::{Map, Value, json};

use crate::world::{BINARY, World, ensure};

const TABLE: &str = "
    create schema dept;
    create table dept.good (id bigint primary key, name text);
    insert into dept.good select n, 'row ' || n from generate_series(1, 20) n;
    create table dept.odd (id bigint primary key, place point);
    create table dept.other (id bigint primary key);";
const EXPECTED: &str = "select concat_ws('|', id, name) from dept.good order by id";
const FOUND: &str = "select concat_ws('|', id, name) from public.in_good order by id";

/// Starts a platform on which one share works.
async fn healthy() -> Result<World> {
    let world = World::start().await?;
    share(&world).await?;
    Ok(world)
}

async fn share(world: &World) -> Result<()> {
    world
        .department
        .connect()
        .await?
        .batch_execute(TABLE)
        .await?;
    world
        .create_connector("good", world.source("good", "dept\\.good"))
        .await?;
    world.wait_state("good", "RUNNING").await?;
    world
        .create_view(&view("goods", &world.topic("good", "dept.good")))
        .await?;
    world
        .create_connector("goods-sink", world.sink("goods", "in_good"))
        .await?;
    world
        .wait_equal(EXPECTED, FOUND, PATIENCE)
        .await
        .map(|_| ())
}

fn view(name: &str, topic: &str) -> Value {
    json!({
        "name": name, "share": "s", "subscriber": "reader", "source": { "topic": topic },
        "columns": [{ "name": "id" }, { "name": "name" }]
    })
}

/// Fails unless the healthy share still delivers.
async fn goes_on(world: &World) -> Result<()> {
    let client = world.department.connect().await?;
    client
        .batch_execute(
            "insert into dept.good select coalesce(max(id), 0) + 1, 'later' from dept.good",
        )
        .await?;
    world
        .wait_equal(EXPECTED, FOUND, PATIENCE)
        .await
        .context("the healthy share")
        .map(|_| ())
}

/// Posts a connector that is wrong and returns what a user sees: the API's refusal, or the state and
/// trace of its task.
async fn refusal(world: &World, name: &str, config: Map<String, Value>) -> Result<String> {
    let body = json!({ "name": name, "config": config });
    let answer = world
        .api()
        .connect("POST", "/connectors", Some(body))
        .await?;
    if answer.status >= 400 {
        ensure(
            answer.body["error_code"] == answer.status && answer.body["message"].is_string(),
            || format!("not an error of Kafka Connect: {}", answer.body),
        )?;
        return Ok(answer.body["message"].to_string());
    }
    let status = until(
        &format!("{name} to say what is wrong"),
        PATIENCE,
        async || {
            let status = world.status(name).await?;
            let trace = status["tasks"][0]["trace"].as_str().unwrap_or_default();
            Ok(if trace.is_empty() {
                Err(status)
            } else {
                Ok(status)
            })
        },
    )
    .await?;
    Ok(status["tasks"][0].to_string())
}

fn says(text: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure(text.contains(part), || {
            format!("\"{part}\" is missing in what the user sees: {text}")
        })?;
    }
    Ok(())
}

fn with(mut config: Map<String, Value>, changes: &[(&str, &str)]) -> Map<String, Value> {
    for (name, value) in changes {
        config.insert((*name).to_owned(), json!(value));
    }
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sources_are_refused_in_words_and_the_rest_goes_on() -> Result<()> {
    let world = healthy().await?;
    let superuser = world.department.connect().await?;
    superuser
        .batch_execute(&format!(
            "create role {0}_reader login replication password 'reader';
             grant usage on schema dept to {0}_reader;",
            world.department.name
        ))
        .await?;
    let reader = format!("{}_reader", world.department.name);

    let missing = refusal(&world, "missing", world.source("missing", "dept\\.nowhere")).await?;
    says(&missing, &["dept\\\\.nowhere"])?;

    let odd = refusal(&world, "odd", world.source("odd", "dept\\.odd")).await?;
    says(&odd, &["dept.odd", "place", "point"])?;

    let unprivileged = with(
        world.source("unprivileged", "dept\\.good"),
        &[("database.user", &reader)],
    );
    says(
        &refusal(&world, "unprivileged", unprivileged).await?,
        &["GRANT SELECT ON", &reader],
    )?;

    let unpublished = with(
        world.source("unpublished", "dept\\.good"),
        &[
            ("publication.autocreate.mode", "disabled"),
            ("publication.name", "no_such_publication"),
        ],
    );
    says(
        &refusal(&world, "unpublished", unpublished).await?,
        &["no_such_publication", "CREATE PUBLICATION"],
    )?;

    let clear = with(
        world.source("clear", "dept\\.good"),
        &[("database.password", "hunter2")],
    );
    let clear = refusal(&world, "clear", clear).await?;
    says(
        &clear,
        &["database.password", "${file:", "${directory:", "${env:"],
    )?;
    ensure(!clear.contains("hunter2"), || {
        "the refusal repeats the password".to_owned()
    })?;

    let tls = with(
        world.source("tls", "dept\\.good"),
        &[("database.sslmode", "require")],
    );
    says(&refusal(&world, "tls", tls).await?, &["TLS"])?;

    let second_prefix = with(
        world.source("good", "dept\\.other"),
        &[("slot.name", "another_slot")],
    );
    says(
        &refusal(&world, "second-prefix", second_prefix).await?,
        &["topic.prefix", "good"],
    )?;
    let second_slot = with(
        world.source("second", "dept\\.other"),
        &[("slot.name", &format!("good_{}", world.department.name))],
    );
    says(
        &refusal(&world, "second-slot", second_slot).await?,
        &["slot.name", "good"],
    )?;

    let renamed = with(
        world.source("renamed", "dept\\.good"),
        &[("time.precision.mode", "connect")],
    );
    says(
        &refusal(&world, "renamed", renamed).await?,
        &["time.precision.mode"],
    )?;
    goes_on(&world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_in_use_or_beyond_our_position_is_named_with_the_way_out() -> Result<()> {
    let mut world = healthy().await?;
    let client = world.department.connect().await?;
    let slot = format!("good_{}", world.department.name);
    world.platform.stop("w1").await?;
    client
        .batch_execute("insert into dept.good values (900, 'not seen by us')")
        .await?;
    until("the slot to be free", PATIENCE, async || {
        let advanced = client
            .query_one(
                "select pg_replication_slot_advance($1::text::name, pg_current_wal_lsn())::text",
                &[&slot],
            )
            .await;
        Ok(advanced.map(|_| ()))
    })
    .await?;
    world.platform.start_worker("w1", "default").await?;
    let status = world.wait_state("good", "FAILED").await?;
    says(
        &status.to_string(),
        &[
            &slot,
            "ahead of the stored position",
            "tables are read again",
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_name_the_field() -> Result<()> {
    let world = healthy().await?;
    let unknown_column = {
        let mut document = view("wrong", &world.topic("good", "dept.good"));
        document["where"] = json!("nmae = 'x'");
        world
            .api()
            .platform("POST", "/api/v1/views", Some(document))
            .await?
    };
    ensure((400..500).contains(&unknown_column.status), || {
        unknown_column.body.to_string()
    })?;
    says(
        &unknown_column.body.to_string(),
        &["where", "nmae", "error_code", "message"],
    )?;

    let hidden_column = {
        let mut document = view("wrong", &world.topic("good", "dept.good"));
        document["columns"] = json!([{ "name": "phone" }]);
        world
            .api()
            .platform("POST", "/api/v1/views", Some(document))
            .await?
    };
    says(&hidden_column.body.to_string(), &["columns[0]", "phone"])?;

    let client = reqwest::Client::new();
    for url in [
        format!("{}/connectors", world.api().connect_url),
        format!("{}/api/v1/views", world.api().platform_url),
        format!("{}/subjects/x/versions", world.api().registry_url),
    ] {
        let response = client
            .post(&url)
            .bearer_auth(world.api().token())
            .header("content-type", "application/json")
            .body("{\"name\": ")
            .send()
            .await?;
        let status = response.status().as_u16();
        let body: Value = response.json().await.with_context(|| url.clone())?;
        ensure((400..500).contains(&status), || format!("{url}: {status}"))?;
        ensure(
            body["error_code"].is_u64() && body["message"].is_string(),
            || format!("{url}: {body}"),
        )?;
    }
    let anonymous = client
        .get(format!("{}/connectors", world.api().connect_url))
        .send()
        .await?;
    assert_eq!(anonymous.status().as_u16(), 401);
    goes_on(&world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_cannot_be_written_is_reported_and_heals_by_itself() -> Result<()> {
    let world = healthy().await?;
    let subscriber = world.subscriber.connect().await?;
    for (break_it, mend_it, expected) in [
        (
            "create function public.full() returns trigger language plpgsql as $$
             begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;
             create trigger full_disk before insert or update on public.in_good for each row execute function public.full()"
                .to_owned(),
            "drop trigger full_disk on public.in_good".to_owned(),
            "53100",
        ),
        (
            format!("alter database {} set default_transaction_read_only = on;
                     select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()", world.subscriber.name),
            format!("set default_transaction_read_only = off; alter database {} reset default_transaction_read_only", world.subscriber.name),
            "read-only",
        ),
    ] {
        subscriber.batch_execute(&break_it).await?;
        world.department.connect().await?.batch_execute("insert into dept.good select max(id) + 1, 'waiting' from dept.good").await?;
        let trace = until("the sink to say what is wrong", PATIENCE, async || {
            let status = world.status("goods-sink").await?;
            let trace = status["tasks"][0]["trace"].as_str().unwrap_or_default().to_owned();
            Ok(if trace.contains(expected) { Ok(trace) } else { Err(status) })
        })
        .await?;
        says(&trace, &["in_good"]).or_else(|_| says(&trace, &[expected]))?;
        subscriber.batch_execute(&mend_it).await?;
        goes_on(&world).await.with_context(|| format!("after {expected}"))?;
    }
    Ok(())
}

/// A server of its own: SCRAM, TLS with a certificate for `localhost` only, and WAL without logical
/// decoding at first.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_ready_for_us_is_described_to_its_dba() -> Result<()> {
    let servers = OwnServers::begin()?;
    let folder = servers.run().folder("certificates")?;
    let certificates = Certificates::issue(&folder, "localhost")?;
    hutong_local::identity::give(&certificates.key, servers.run().identity())?;
    let (key, certificate) = (
        certificates.key.display().to_string(),
        certificates.certificate.display().to_string(),
    );
    let options = postgres::Options::for_tests()
        .with("wal_level", "replica")
        .with("ssl", "on")
        .with("ssl_key_file", &key)
        .with("ssl_cert_file", &certificate)
        .with_hba("local all all trust\nhost all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n");
    let mut server = servers.postgres("tls", &options).await?;
    let department = Database::create_named(&server.url("postgres"), "department").await?;
    department.connect().await?.batch_execute(TABLE).await?;
    department
        .connect()
        .await?
        .batch_execute("create role capture login replication password 'right'; grant usage on schema dept to capture; grant select on dept.good to capture; grant create on database department to capture; alter table dept.good owner to capture")
        .await?;
    let kit = Kit::from_env();
    let mut world = World::on(
        PlatformOptions::new(BINARY, &kit).await?,
        department,
        kit.database("subscriber").await?,
    )
    .await?;
    world.platform.start_worker("w1", "default").await?;
    world
        .platform
        .write_secrets(&[("wrong", "wrong"), ("right", "right")])?;
    let (wrong, right) = (
        world.platform.secret("wrong"),
        world.platform.secret("right"),
    );
    let root = certificates.authority.display().to_string();
    let source = |name: &str| {
        with(
            world.source(name, "dept\\.good"),
            &[
                ("database.user", "capture"),
                ("database.password", &right),
                ("database.sslmode", "verify-full"),
                ("database.sslrootcert", &root),
                ("database.hostname", "localhost"),
            ],
        )
    };
    let level = refusal(&world, "level", source("level")).await?;
    says(&level, &["wal_level", "logical"])?;

    let password = refusal(
        &world,
        "password",
        with(source("password"), &[("database.password", &wrong)]),
    )
    .await?;
    says(&password, &["password authentication failed", "capture"])?;

    let host = refusal(
        &world,
        "host",
        with(source("host"), &[("database.hostname", "127.0.0.1")]),
    )
    .await?;
    says(&host, &["certificate", "127.0.0.1"])?;

    server.reconfigure(&[("wal_level", "logical")]).await?;
    world.create_connector("ready", source("ready")).await?;
    world.wait_state("ready", "RUNNING").await?;
    world
        .create_view(&view("goods", &world.topic("ready", "dept.good")))
        .await?;
    world
        .create_connector("goods-sink", world.sink("goods", "in_good"))
        .await?;
    world
        .wait_equal(EXPECTED, FOUND, PATIENCE)
        .await
        .map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_at_the_start_or_later_is_waited_for() -> Result<()> {
    let servers = OwnServers::begin()?;
    let mut broker = servers.kafka("kafka", kafka::Options::default()).await?;
    let kit = Kit::from_env();
    let control = kit.control_database().await?;
    let options = PlatformOptions::on(BINARY, "away", &broker.bootstrap(), &control.url);
    let mut world = World::on(
        options,
        kit.database("department").await?,
        kit.database("subscriber").await?,
    )
    .await?;
    world.platform.start_worker("w1", "default").await?;
    share(&world).await?;

    broker.kill();
    world
        .department
        .connect()
        .await?
        .batch_execute("insert into dept.good values (700, 'while the broker is away')")
        .await?;
    broker.restart().await?;
    goes_on(&world)
        .await
        .context("after the broker came back")?;

    world.platform.stop_all().await?;
    broker.kill();
    world.platform.launch_worker("w1", "default")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.platform.process("w1")?.must_run()?;
    says(&world.platform.log("w1", 200).to_lowercase(), &["kafka"])?;
    broker.restart().await?;
    world.platform.start_control_plane().await?;
    goes_on(&world)
        .await
        .context("after a start without broker")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_restarts_and_delivers_while_the_control_plane_is_down() -> Result<()> {
    let mut world = healthy().await?;
    world.platform.kill("control-plane")?;
    world.platform.kill("w1")?;
    world.platform.launch_worker("w1", "default")?;
    goes_on(&world).await?;
    world.platform.start_control_plane().await?;
    world.wait_state("good", "RUNNING").await?;
    goes_on(&world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_over_sasl_ssl_is_readable_by_its_subscriber_alone_until_it_is_revoked() -> Result<()>
{
    let servers = OwnServers::begin()?;
    let certificates = Certificates::issue(&servers.run().folder("certificates")?, "localhost")?;
    let users = [
        ("admin", "admin-secret"),
        ("reader", "reader-secret"),
        ("stranger", "stranger-secret"),
    ];
    let secured = Secured {
        users: users
            .map(|(name, password)| (name.to_owned(), password.to_owned()))
            .to_vec(),
        certificates: certificates.clone(),
    };
    let broker = servers
        .kafka(
            "kafka",
            kafka::Options {
                secured: Some(secured),
                ..kafka::Options::default()
            },
        )
        .await?;
    let client = |user: &str, password: &str| {
        [
            ("bootstrap.servers", broker.secured_bootstrap()),
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanism", "SCRAM-SHA-256".to_owned()),
            ("sasl.username", user.to_owned()),
            ("sasl.password", password.to_owned()),
            (
                "ssl.ca.location",
                certificates.authority.display().to_string(),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    };
    let kit = Kit::from_env();
    let mut options = PlatformOptions::new(BINARY, &kit).await?;
    options.kafka = client("admin", "admin-secret").into();
    let mut world = World::on(
        options,
        kit.database("department").await?,
        kit.database("subscriber").await?,
    )
    .await?;
    world.platform.start_worker("w1", "default").await?;
    world
        .api()
        .platform(
            "PUT",
            "/api/v1/organisations/reader",
            Some(json!({ "kafka_principal": "User:reader" })),
        )
        .await?
        .ok()?;
    share(&world).await?;

    let topic = format!("{}.view.goods.g1", world.platform.cluster());
    let reader = crate::world::kafka_config(&client("reader", "reader-secret").into())?;
    let stranger = crate::world::kafka_config(&client("stranger", "stranger-secret").into())?;
    let readable = |kafka: hutong_transport::KafkaConfig, topic: String| async move {
        use hutong_transport::admin::Isolation;
        use hutong_transport::reader::{PartitionReader, Start};
        let mut reader =
            PartitionReader::open(&kafka, &topic, 0, Start::Earliest, Isolation::ReadCommitted)
                .await
                .ok()?;
        let read = tokio::time::timeout(
            Duration::from_secs(20),
            reader.poll(1 << 20, Duration::from_secs(10)),
        )
        .await;
        read.ok()?
            .ok()
            .map(|messages| messages.len())
            .filter(|count| *count > 0)
    };
    ensure(
        readable(reader.clone(), topic.clone()).await.is_some(),
        || "the subscriber cannot read its view".to_owned(),
    )?;
    ensure(
        readable(stranger.clone(), topic.clone()).await.is_none(),
        || "a stranger reads the view".to_owned(),
    )?;
    ensure(
        readable(reader.clone(), world.topic("good", "dept.good"))
            .await
            .is_none(),
        || "the subscriber reads the table".to_owned(),
    )?;
    world
        .api()
        .platform("POST", "/api/v1/views/goods/revoke", None)
        .await?
        .ok()?;
    until("the subscriber to be shut out", PATIENCE, async || {
        Ok(match readable(reader.clone(), topic.clone()).await {
            None => Ok(()),
            Some(count) => Err(format!("{count} records read")),
        })
    })
    .await
}
