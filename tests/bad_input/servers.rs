//! A department's server that is not ready for us: how one logs in, what it logs, and which history
//! its log has.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use hutong_local::identity;
use hutong_local::postgres::{Options, Postgres};
use hutong_local::testkit::{Database, OwnServers, PATIENCE, until};
use hutong_local::tls::Certificates;
use hutong_schemas::position::Lsn;
use serde_json::{Map, Value};

use super::{Case, GOODS, check, configure, healthy, restart, streams, trace, with};
use crate::world::{World, texts};

/// The certificate is for `localhost`; the user of the test itself comes without TLS.
const HBA: &str = "
host    all postgres   127.0.0.1/32 trust
host    all clear_user 127.0.0.1/32 password
hostssl all all        127.0.0.1/32 scram-sha-256
";

const ROLES: &str = "
create role clear_user login replication password 'right';
create role capture login replication password 'right';
grant usage on schema dept to capture;
grant select on dept.good to capture;
create publication capture for table dept.good;";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_ready_for_us_is_described_to_its_dba_and_the_rest_goes_on()
-> Result<()> {
    let servers = OwnServers::begin()?;
    let folder = servers.run().folder("certificates")?;
    let certificates = Certificates::issue(&folder, "localhost")?;
    identity::give(&certificates.key, servers.run().identity())?;
    let options = Options::for_tests()
        .with("wal_level", "replica")
        .with("ssl", "on")
        .with("ssl_key_file", &certificates.key.display().to_string())
        .with(
            "ssl_cert_file",
            &certificates.certificate.display().to_string(),
        )
        // A restored server finds no log but its own, and takes nobody in before it is a primary.
        .with("restore_command", "false")
        .with("hot_standby", "off")
        .with_hba(HBA);
    let mut server = servers.postgres("strict", &options).await?;
    let department = Database::create_named(&server.url("postgres"), "department").await?;
    let superuser = department.connect().await?;
    superuser.batch_execute(GOODS.setup).await?;
    superuser.batch_execute(ROLES).await?;
    drop(superuser);

    let world = healthy().await?;
    let secrets = [("wrong", "wrong"), ("right", "right")];
    world.platform.write_secrets(&secrets)?;
    let strict = Strict {
        world: &world,
        department: &department,
        authority: certificates.authority.display().to_string(),
    };
    check(&world, &department, &strict.cases()).await?;

    server.reconfigure(&[("wal_level", "logical")]).await?;
    restart(&world, "level").await?;
    streams(&world, "level").await?;
    world.delivers(&GOODS).await?;
    another_timeline(&world, &mut server, &department).await
}

struct Strict<'a> {
    world: &'a World,
    department: &'a Database,
    authority: String,
}

impl Strict<'_> {
    /// A configuration with which everything but `wal_level` is right.
    fn source(&self, name: &str) -> Map<String, Value> {
        let source = self.world.source_at(self.department, name, "dept\\.good");
        let changes = [
            ("database.user", "capture"),
            ("database.password", &self.world.platform.secret("right")),
            ("database.sslmode", "verify-full"),
            ("database.sslrootcert", &self.authority),
            ("database.hostname", "localhost"),
            ("publication.name", "capture"),
        ];
        with(source, &changes)
    }

    fn cases(&self) -> Vec<Case> {
        let port = self.department.port;
        let wrong = self.world.platform.secret("wrong");
        let source = |name, changes: &[(&str, &str)]| with(self.source(name), changes);
        vec![
            Case::new(
                "level",
                self.source("level"),
                &[
                    "wal_level is replica, and logical replication needs logical",
                    "ALTER SYSTEM SET wal_level = logical; then restart the server",
                ],
            ),
            Case::new(
                "password",
                source("password", &[("database.password", &wrong)]),
                &[
                    &format!("could not log in to localhost:{port}/department"),
                    "password authentication failed for user \"capture\" (SQLSTATE 28P01)",
                    "check database.user and what database.password refers to, or ALTER ROLE capture PASSWORD",
                ],
            ),
            Case::new(
                "clear",
                source(
                    "clear",
                    &[
                        ("database.user", "clear_user"),
                        ("database.sslmode", "disable"),
                    ],
                ),
                &[
                    "the server asks for the password in clear text, and its certificate is not verified",
                    "the method scram-sha-256 in pg_hba.conf, or use database.sslmode=verify-full",
                ],
            ),
            Case::new(
                "host",
                source("host", &[("database.hostname", "127.0.0.1")]),
                &[
                    &format!("could not open TLS to 127.0.0.1:{port}"),
                    "the server's certificate does not name this host",
                    "check database.hostname, database.sslrootcert and the server's ssl_cert_file",
                ],
            ),
            Case::new(
                "unknown",
                {
                    let mut config = self.source("unknown");
                    config.remove("database.sslrootcert");
                    config
                },
                &[
                    &format!("could not open TLS to localhost:{port}"),
                    "the server's certificate is not signed by a trusted authority",
                    "database.sslrootcert",
                ],
            ),
            Case::new(
                "unencrypted",
                source("unencrypted", &[("database.sslmode", "disable")]),
                &[
                    "no pg_hba.conf entry for host \"127.0.0.1\", user \"capture\", database \"department\", no encryption",
                    "hostssl department capture <address> scram-sha-256",
                    "database.sslmode=require",
                ],
            ),
            Case::new(
                "password-sink",
                with(
                    self.world.sink_at(self.department, GOODS.view, "in_strict"),
                    &[
                        ("connection.username", "capture"),
                        ("connection.password", &wrong),
                    ],
                ),
                &[
                    &format!("could not connect to 127.0.0.1:{port}/department as capture"),
                    "password authentication failed for user \"capture\" (SQLSTATE 28P01)",
                    "check connection.username and connection.password, and the server's pg_hba.conf for capture",
                ],
            ),
        ]
    }
}

/// The server is set back to a copy of itself and goes on from there: its log has forked below what
/// the connector has delivered.
async fn another_timeline(
    world: &World,
    server: &mut Postgres,
    department: &Database,
) -> Result<()> {
    let copy = server.folder().join("copy");
    server.stop().await?;
    run(Command::new("cp")
        .arg("--archive")
        .arg(server.data())
        .arg(&copy))?;
    let away = format!("could not connect to localhost:{}", department.port);
    trace(world, "level", &[&away]).await?;
    server.restart().await?;
    let insert = "insert into dept.good values (1000, 'on a timeline that is given up')";
    let superuser = department.connect().await?;
    superuser.batch_execute(insert).await?;
    drop(superuser);
    let written = texts(department, "select pg_current_wal_lsn()::text").await?;
    delivered(world, written[0].parse()?).await?;

    server.stop().await?;
    run(Command::new("rm").arg("-r").arg(server.data()))?;
    run(Command::new("mv").arg(&copy).arg(server.data()))?;
    std::fs::write(server.data().join("recovery.signal"), "")?;
    run(Command::new("chown")
        .arg(format!("--reference={}", server.data().display()))
        .arg(server.data().join("recovery.signal")))?;
    server.restart().await?;
    let says = [
        "the server's timeline 2 left timeline 1 at ",
        "before the stored position ",
        "changes between are lost to this connector",
        "set snapshot.mode=when_needed: the tables are then read again and rows that are gone are deleted",
    ];
    trace(world, "level", &says).await?;
    world.wait_state("level", "FAILED").await?;
    world.delivers(&GOODS).await?;
    configure(world, "level", "snapshot.mode", "when_needed").await?;
    streams(world, "level").await
}

/// Waits until the stored position of the connector lies behind a place of the log.
async fn delivered(world: &World, lsn: Lsn) -> Result<()> {
    until("the position to pass the change", PATIENCE, async || {
        let path = "/connectors/level/offsets";
        let answer = world.api().connect("GET", path, None).await?.ok()?;
        let position = answer["offsets"][0]["offset"]["lsn"].as_u64();
        let passed = position.is_some_and(|position| Lsn(position) >= lsn);
        Ok(if passed { Ok(()) } else { Err(answer) })
    })
    .await
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
