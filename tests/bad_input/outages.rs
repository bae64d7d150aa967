//! The broker or the control plane is away.

use anyhow::{Context, Result};
use hutong_local::kafka;
use hutong_local::testkit::{Kit, OwnServers, PATIENCE, PlatformOptions, until};
use serde_json::json;

use super::{GOODS, healthy, says_all, streams, trace};
use crate::world::{BINARY, World, ensure};

/// One outage that a running worker and control plane live through, and in which another worker and
/// another control plane start.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_at_the_start_or_later_is_named_and_waited_for() -> Result<()> {
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
    world.share(&GOODS).await?;

    broker.kill();
    let department = world.department.connect().await?;
    department.batch_execute(GOODS.insert).await?;
    world.platform.launch_worker("w2", "default")?;
    let unknown = [
        "what workers at location default report is not known: could not read away.status.default",
        &broker.bootstrap(),
        "Connection refused",
    ];
    trace(&world, "good", &unknown).await?;
    world
        .create_connector("meanwhile", world.source("meanwhile", "dept\\.other"))
        .await
        .context("what needs no Kafka goes on")?;
    let mut document = GOODS.document(&world);
    document["name"] = json!("meanwhile");
    let refused = world
        .api()
        .platform("POST", "/api/v1/views", Some(document))
        .await?;
    ensure(refused.status == 503, || format!("{refused:?}"))?;
    let text = refused.body["message"].as_str().unwrap_or_default();
    says_all(text, &["could not use Kafka", "try again later"])?;

    world.platform.kill("control-plane")?;
    world.platform.launch_control_plane()?;
    let alive = format!("{}/healthz", world.api().connect_url);
    until("the control plane to serve", PATIENCE, async || {
        let answer = world.api().call("GET", &alive, None).await;
        Ok(answer.map_err(|error| format!("{error:#}")))
    })
    .await?;
    trace(
        &world,
        "good",
        &["what workers at location default report is not known: "],
    )
    .await
    .context("a control plane that starts without a broker")?;
    let worker = world.platform.worker_url("w2")?;
    for (url, says) in [
        (format!("{worker}/readyz"), "waiting for Kafka"),
        (
            format!("{}/readyz", world.api().platform_url),
            "states of location default: ",
        ),
    ] {
        let answer = world.api().call("GET", &url, None).await?;
        ensure(answer.status == 503, || format!("{url}: {answer:?}"))?;
        says_all(&answer.body.to_string(), &[says])?;
    }

    broker.restart().await?;
    world.wait_shared(&GOODS).await?;
    world.platform.wait_worker("w2").await?;
    world.platform.start_control_plane().await?;
    streams(&world, "good").await?;
    streams(&world, "meanwhile").await?;
    ensure(
        world.status("good").await?["tasks"][0]["trace"].is_null(),
        || "the status still tells of the outage".to_owned(),
    )?;
    world.delivers(&GOODS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_restarts_and_delivers_while_the_control_plane_is_down() -> Result<()> {
    let mut world = healthy().await?;
    world.platform.kill("control-plane")?;
    world.platform.kill("w1")?;
    world.platform.launch_worker("w1", "default")?;
    world.delivers(&GOODS).await?;
    world.platform.wait_worker("w1").await?;
    world.platform.start_control_plane().await?;
    streams(&world, "good").await?;
    let status = world.status("good").await?;
    ensure(status["tasks"][0]["trace"].is_null(), || {
        format!("nothing went wrong: {status}")
    })?;
    world.delivers(&GOODS).await
}
