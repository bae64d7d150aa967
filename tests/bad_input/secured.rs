//! A broker with SASL_SSL and ACLs: who may read a view's topic, and until when.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use hutong_local::kafka::{self, Secured};
use hutong_local::testkit::{Kit, OwnServers, PATIENCE, PlatformOptions, until};
use hutong_local::tls::Certificates;
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, Isolation};
use hutong_transport::reader::{PartitionReader, Start};
use serde_json::json;

use super::{GOODS, says_all};
use crate::world::{BINARY, World, ensure, kafka_config};

#[tokio::test(flavor = "multi_thread")]
async fn a_view_over_sasl_ssl_is_readable_by_its_subscriber_alone_until_it_is_revoked() -> Result<()>
{
    let servers = OwnServers::begin()?;
    let certificates = Certificates::issue(&servers.run().folder("certificates")?, "localhost")?;
    let users = ["admin", "reader", "stranger"];
    let secured = Secured {
        users: users.map(|name| (name.to_owned(), password(name))).to_vec(),
        certificates: certificates.clone(),
    };
    let options = kafka::Options {
        secured: Some(secured),
        ..kafka::Options::default()
    };
    let broker = servers.kafka("kafka", options).await?;
    let bootstrap = broker.secured_bootstrap();
    let authority = certificates.authority.display().to_string();
    let client = |user| properties(&bootstrap, &authority, user);
    let kit = Kit::from_env();
    let mut options = PlatformOptions::new(BINARY, &kit).await?;
    options.kafka = client("admin");
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
    world.share(&GOODS).await?;

    let view = format!("{}.view.{}.g1", world.platform.cluster(), GOODS.view);
    let table = world.topic(GOODS.source, GOODS.table);
    let (reader, stranger) = (
        kafka_config(&client("reader"))?,
        kafka_config(&client("stranger"))?,
    );
    let records = read(&reader, &view).await.context("the subscriber")?;
    ensure(records == 20, || format!("{records} of 20 rows are read"))?;
    for (config, topic) in [(&stranger, &view), (&reader, &table)] {
        refused(config, topic).await?;
    }
    world.delivers(&GOODS).await?;
    // A column is withdrawn: when the answer is there, the right to read what held it is not.
    let acls = Admin::new(&kafka_config(&client("admin"))?)?;
    assert_eq!(acls.readers(&view).await?, ["User:reader"]);
    let mut narrower = GOODS.document(&world);
    narrower["columns"] = json!([{ "name": "id" }]);
    world
        .api()
        .platform("PUT", "/api/v1/views/goods", Some(narrower))
        .await?
        .ok()?;
    assert_eq!(acls.readers(&view).await?, [""; 0]);
    let view = format!("{}.view.{}.g2", world.platform.cluster(), GOODS.view);
    until("the next generation to be readable", PATIENCE, async || {
        Ok(match read(&reader, &view).await {
            Ok(21) => Ok(()),
            Ok(count) => Err(format!("{count} of 21 rows are read")),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    world
        .api()
        .platform("POST", "/api/v1/views/goods/revoke", None)
        .await?
        .ok()?;
    until("the subscriber to be shut out", PATIENCE, async || {
        Ok(match read(&reader, &view).await {
            Err(_) => Ok(()),
            Ok(count) => Err(format!("{count} records read")),
        })
    })
    .await
}

fn password(user: &str) -> String {
    format!("{user}-secret")
}

fn properties(bootstrap: &str, authority: &str, user: &str) -> BTreeMap<String, String> {
    [
        ("bootstrap.servers", bootstrap.to_owned()),
        ("security.protocol", "SASL_SSL".to_owned()),
        ("sasl.mechanism", "SCRAM-SHA-256".to_owned()),
        ("sasl.username", user.to_owned()),
        ("sasl.password", password(user)),
        ("ssl.ca.location", authority.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

async fn refused(config: &KafkaConfig, topic: &str) -> Result<()> {
    match read(config, topic).await {
        Ok(records) => anyhow::bail!("{records} records of {topic} are read by who may not"),
        Err(error) => says_all(
            &format!("{error:#}"),
            &[topic, "Topic authorization failed"],
        ),
    }
}

/// Reads what a topic holds.
async fn read(config: &KafkaConfig, topic: &str) -> Result<usize> {
    let isolation = Isolation::ReadCommitted;
    let mut reader = PartitionReader::open(config, topic, 0, Start::Earliest, isolation).await?;
    let messages = reader.poll(1 << 20, Duration::from_secs(10)).await?;
    Ok(messages.len())
}
