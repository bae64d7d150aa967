//! Downstream systems read our topics with the clients they have.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::world::World;

const PACKAGES: &str = "confluent-kafka[avro,schemaregistry]==2.16.0";

const TABLE: &str = "
    create schema qts;
    create table qts.org_code (
        jgdm char(9) primary key, jgmc varchar(300) not null, zczj numeric(18,4), share numeric,
        bzrq date not null, zt char(1) not null default '1', weight double precision, valid boolean,
        seal bytea, gxsj timestamp(0) not null, seen timestamptz(3), doc jsonb, token uuid
    );
    insert into qts.org_code values
        ('265700125', '潍坊晨光食品有限公司', 500.0000, 3.14159, '2014-03-25', '2', 1.5, true, '\\x00ff',
         '2019-05-20 10:11:12', '2019-05-20 10:11:12.345+08', '{\"k\": [1, 2]}', 'd9428888-122b-11e1-b85c-61cd3cbb3210'),
        ('MA3C00011', '空', null, null, '2015-01-01', '1', null, null, null, '2019-05-20 10:11:12', null, null, null);";

/// Installs Confluent's Python client below `target/`, once, and returns where it lies.
fn python_packages() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
    let done = folder.join(".complete");
    if std::fs::read_to_string(&done).is_ok_and(|found| found == PACKAGES) {
        return Ok(folder);
    }
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--break-system-packages",
            "--target",
        ])
        .arg(&folder)
        .args(["--upgrade", PACKAGES])
        .output()
        .context("python3 is needed (apt-get install python3 python3-pip)")?;
    if !output.status.success() {
        bail!(
            "could not install {PACKAGES}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    std::fs::write(&done, PACKAGES)?;
    Ok(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn confluents_python_client_reads_our_topics_through_our_registry() -> Result<()> {
    let packages = tokio::task::spawn_blocking(python_packages).await??;
    let world = World::start().await?;
    let department = world.department.connect().await?;
    department.batch_execute(TABLE).await?;
    world
        .create_connector("qts", world.source("qts", "qts\\.org_code"))
        .await?;
    world.wait_state("qts", "RUNNING").await?;
    world
        .create_view(&json!({
            "name": "s10", "share": "s10", "subscriber": "aic", "source": { "topic": world.topic("qts", "qts.org_code") },
            "columns": [{ "name": "jgmc" }, { "name": "zczj", "mask": "BAND" }, { "name": "gxsj" }]
        }))
        .await?;
    world
        .create_connector("s10-sink", world.sink("s10", "in_qts_org_code"))
        .await?;
    department
        .batch_execute(
            "update qts.org_code set zczj = 600 where jgdm = '265700125';
             delete from qts.org_code where jgdm = 'MA3C00011';",
        )
        .await?;
    world
        .wait_equal(
            "select jgmc from qts.org_code",
            "select jgmc from public.in_qts_org_code where zczj = '100 .. 1000'",
            hutong_local::testkit::PATIENCE,
        )
        .await?;

    let records = read(&world, &packages, &world.topic("qts", "qts.org_code")).await?;
    let operations: Vec<&str> = records
        .iter()
        .map(|record| record["value"]["op"].as_str().unwrap_or("tombstone"))
        .collect();
    assert_eq!(operations, ["r", "r", "u", "d", "tombstone"]);
    let after = &records[2]["value"]["after"];
    assert_eq!(after["jgdm"], "265700125");
    assert_eq!(after["jgmc"], "潍坊晨光食品有限公司");
    assert_eq!(after["zczj"], "600.0000");
    assert_eq!(after["share"], json!({ "scale": 5, "value": "04cb2f" }));
    assert_eq!(after["bzrq"], 16154);
    assert_eq!(after["seal"], "00ff");
    assert_eq!(after["gxsj"], 1_558_347_072_000_i64);
    assert_eq!(after["seen"], "2019-05-20T02:11:12.345Z");
    assert_eq!(after["doc"], "{\"k\": [1, 2]}");
    assert_eq!(records[2]["value"]["source"]["connector"], "postgresql");
    assert_eq!(records[2]["key"], json!({ "jgdm": "265700125" }));

    let view = read(
        &world,
        &packages,
        &format!("{}.view.s10.g1", world.platform.cluster()),
    )
    .await?;
    let row = view
        .iter()
        .find(|record| record["value"]["jgmc"] == "潍坊晨光食品有限公司")
        .context("the row is not in the view")?;
    assert_eq!(row["value"]["zczj"], "100 .. 1000");
    assert_eq!(row["key"]["_rk"].as_str().map(str::len), Some(32));
    Ok(())
}

async fn read(world: &World, packages: &Path, topic: &str) -> Result<Vec<Value>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interoperation/read_topic.py");
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", packages)
        .arg(script)
        .arg(
            world
                .kafka
                .get("bootstrap.servers")
                .context("no bootstrap.servers")?,
        )
        .arg(&world.api().registry_url)
        .arg(world.api().token())
        .arg(topic);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        bail!(
            "reading {topic}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| serde_json::from_str(line).context("not JSON"))
        .collect()
}
