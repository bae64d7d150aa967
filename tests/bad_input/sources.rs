//! Sources that a department's database does not let run.

use anyhow::Result;
use hutong_local::testkit::{PATIENCE, until};
use serde_json::json;

use super::other_reader::OtherReader;
use super::{
    Case, GOODS, Remedy, check, configure, healthy, message, restart, says_all, streams, trace,
    with,
};
use crate::world::{Share, World, ensure};

/// A second share, whose slot somebody else moves.
const OTHERS: Share = Share {
    setup: "",
    source: "other",
    table: "dept.other",
    columns: &["id", "name"],
    view: "others",
    target: "in_other",
    insert: "insert into dept.other select max(id) + 1, 'later' from dept.other",
};

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_cannot_run_name_cause_place_and_remedy_and_the_rest_goes_on() -> Result<()> {
    let world = healthy().await?;
    refused_sources(&world).await?;
    a_table_without_a_key_carries_no_view(&world).await?;
    a_slot_in_use(&world).await?;
    a_slot_ahead(&world).await
}

async fn refused_sources(world: &World) -> Result<()> {
    let database = &world.department;
    let reader = format!("{}_reader", database.name);
    let create = format!("create role {reader} login");
    database.connect().await?.batch_execute(&create).await?;
    let place = format!("{}:{}", database.host, database.port);
    let good = |name| world.source(name, "dept\\.good");
    let cases = [
        Case::new(
            "missing",
            world.source("missing", "dept\\.nowhere"),
            &[
                &format!("no table of database \"{}\" has the name", database.name),
                "\"dept\\.nowhere\"",
                "table.include.list takes names as schema.table",
            ],
        ),
        Case::new(
            "odd",
            world.source("odd", "dept\\.odd"),
            &[
                "table dept.odd, column \"place\": the type int4multirange is not supported",
                "column.exclude.list=dept.odd.place",
            ],
        )
        .mended_by(Remedy::Property(
            "column.exclude.list",
            "dept.odd.place".to_owned(),
        )),
        Case::new(
            "unprivileged",
            with(good("unprivileged"), &[("database.user", &reader)]),
            &[
                &format!("user \"{reader}\" has no right to replicate"),
                &format!("ALTER ROLE {reader} REPLICATION;"),
                &format!("user \"{reader}\" may not read table dept.good"),
                &format!(
                    "GRANT USAGE ON SCHEMA dept TO {reader}; GRANT SELECT ON dept.good TO {reader};"
                ),
                "publication \"unprivileged_publication\" does not exist, and this user may not create it",
                "CREATE PUBLICATION unprivileged_publication FOR TABLE dept.good;",
            ],
        )
        .mended_by(Remedy::Sql),
        Case::new(
            "unpublished",
            with(
                good("unpublished"),
                &[("publication.autocreate.mode", "disabled")],
            ),
            &[
                "publication \"unpublished_publication\" does not exist",
                "CREATE PUBLICATION unpublished_publication FOR TABLE dept.good;",
            ],
        )
        .mended_by(Remedy::Sql),
        Case::new(
            "keyless",
            world.source("keyless", "dept\\.keyless"),
            &[
                "table dept.keyless has no replica identity: once published, its owner's UPDATE and DELETE would fail",
                "ALTER TABLE dept.keyless REPLICA IDENTITY FULL;",
            ],
        )
        .mended_by(Remedy::Sql),
        Case::new(
            "plain",
            with(good("plain"), &[("database.sslmode", "require")]),
            &[
                &format!("the server at {place} does not support TLS"),
                "ALTER SYSTEM SET ssl = on;",
            ],
        ),
    ];
    check(world, database, &cases).await
}

/// The source of the table runs since its owner has set a replica identity.
async fn a_table_without_a_key_carries_no_view(world: &World) -> Result<()> {
    let document = json!({
        "name": "keyless", "share": "s", "subscriber": "reader",
        "source": { "topic": world.topic("keyless", "dept.keyless") }, "columns": [{ "name": "name" }],
    });
    let refused = until("the table to be known", PATIENCE, async || {
        let document = Some(document.clone());
        let answer = world
            .api()
            .platform("POST", "/api/v1/views", document)
            .await?;
        let text = message(answer.status, &answer.body)?;
        Ok(if text.contains("no captured table") {
            Err(text)
        } else {
            Ok(text)
        })
    })
    .await?;
    says_all(
        &refused,
        &[
            "source.topic: table dept.keyless has no primary key, so no view can stand on it",
            "ALTER TABLE dept.keyless ADD PRIMARY KEY",
        ],
    )
}

async fn a_slot_in_use(world: &World) -> Result<()> {
    let slot = format!("taken_{}", world.department.name);
    let theirs = OtherReader::start(&world.department, &slot).await?;
    let superuser = world.department.connect().await?;
    let pid = "select active_pid from pg_replication_slots where slot_name = $1::text::name";
    let pid: i32 = superuser.query_one(pid, &[&slot]).await?.get(0);
    world
        .create_connector("taken", world.source("taken", "dept\\.good"))
        .await?;
    let terminate = format!("SELECT pg_terminate_backend({pid})");
    let text = trace(
        world,
        "taken",
        &[
            &format!("replication slot \"{slot}\" is in use by process {pid}"),
            "application \"their_reader\", user \"postgres\"",
            &terminate,
            "choose another slot.name",
        ],
    )
    .await?;
    println!("{text}");
    let status = world.status("taken").await?;
    ensure(status["tasks"][0]["state"] == "RESTARTING", || {
        format!("who uses a slot may leave it, so that it is tried again: {status}")
    })?;
    world.delivers(&GOODS).await?;
    superuser.batch_execute(&terminate).await?;
    streams(world, "taken").await?;
    drop(theirs);
    Ok(())
}

/// Somebody else moves the slot of a stopped connector, so that changes are lost to it: the view is
/// right again once the connector may read its tables again, as the text says.
async fn a_slot_ahead(world: &World) -> Result<()> {
    world.share(&OTHERS).await?;
    let (name, slot) = (OTHERS.source, format!("other_{}", world.department.name));
    let call = async |method: &str, path: &str| {
        let path = format!("/connectors/{name}{path}");
        world.api().connect(method, &path, None).await?.ok()
    };
    call("PUT", "/stop").await?;
    until("the slot to be free", PATIENCE, async || {
        let status = world.status(name).await?;
        Ok(if status["connector"]["state"] == "STOPPED" {
            Ok(())
        } else {
            Err(status)
        })
    })
    .await?;
    let superuser = world.department.connect().await?;
    superuser
        .batch_execute(&format!(
            "delete from dept.other where id <= 5; update dept.other set name = 'unseen' where id = 6;
             insert into dept.other values (100, 'unseen');
             select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())"
        ))
        .await?;
    call("PUT", "/resume").await?;
    let says = [
        &format!("replication slot \"{slot}\" stands at "),
        "ahead of the stored position ",
        "changes between are lost to this connector",
        "set snapshot.mode=when_needed: the tables are then read again and rows that are gone are deleted",
    ];
    trace(world, name, &says).await?;
    world.wait_state(name, "FAILED").await?;
    restart(world, name).await?;
    trace(world, name, &says).await?;
    world.delivers(&GOODS).await?;

    configure(world, name, "snapshot.mode", "when_needed").await?;
    world.wait_shared(&OTHERS).await?;
    world.delivers(&OTHERS).await
}
