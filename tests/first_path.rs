//! The whole path in its plainest form, through the public APIs.

use anyhow::Result;
use hutong_local::testkit::PATIENCE;
use serde_json::json;

use crate::world::World;

const TABLE: &str = "
    create schema aic;
    create table aic.ent_base (
        pripid bigint primary key, uscc char(18), ent_name varchar(200) not null,
        reg_cap numeric(18,4), region char(6) not null, leg_id_no varchar(20),
        secret_flag smallint not null default 0, upd_time timestamptz(3) not null
    );
    insert into aic.ent_base
    select n, lpad(n::text, 18, '0'), '企业' || n, n * 1.5, case when n % 3 = 0 then '370705' else '110000' end,
           '37070519960229' || lpad((n % 10000)::text, 4, '0'), case when n % 10 = 0 then 1 else 0 end, now()
    from generate_series(1, 1000) n;";

/// What the subscriber shall have, written apart from the product's evaluator.
const EXPECTED: &str = "
    select concat_ws('|', uscc, ent_name, reg_cap,
        case when length(leg_id_no) <= 4 then repeat('*', length(leg_id_no))
             else repeat('*', length(leg_id_no) - 4) || right(leg_id_no, 4) end)
    from aic.ent_base where secret_flag = 0 and region like '3707%' order by uscc";
const FOUND: &str = "select concat_ws('|', uscc, ent_name, reg_cap, leg_id_no) from public.in_aic_ent_base order by uscc";

#[tokio::test(flavor = "multi_thread")]
async fn a_view_follows_its_table_from_snapshot_to_delete() -> Result<()> {
    let world = World::start().await?;
    let department = world.department.connect().await?;
    department.batch_execute(TABLE).await?;
    world
        .create_connector("aic", world.source("aic", "aic\\.ent_base"))
        .await?;
    world.wait_state("aic", "RUNNING").await?;
    world
        .create_view(&json!({
            "name": "s03", "share": "s03", "subscriber": "qts",
            "source": { "topic": world.topic("aic", "aic.ent_base") },
            "columns": [
                { "name": "uscc" }, { "name": "ent_name" }, { "name": "reg_cap" },
                { "name": "leg_id_no", "mask": "SHOW_LAST 4" }
            ],
            "where": "secret_flag = 0 AND region LIKE '3707%'"
        }))
        .await?;
    world
        .create_connector("s03-sink", world.sink("s03", "in_aic_ent_base"))
        .await?;
    let rows = world.wait_equal(EXPECTED, FOUND, PATIENCE).await?;
    assert_eq!(rows, 300);

    department
        .batch_execute(
            "update aic.ent_base set region = '370705' where pripid between 1 and 50;
             update aic.ent_base set secret_flag = 1 where pripid between 60 and 120;
             delete from aic.ent_base where pripid between 200 and 250;
             update aic.ent_base set pripid = pripid + 100000 where pripid between 300 and 320;
             insert into aic.ent_base values (5000, '91370705265700125C', '晨光', 500, '370705', null, 0, now());",
        )
        .await?;
    world.wait_equal(EXPECTED, FOUND, PATIENCE).await?;

    department.batch_execute("truncate aic.ent_base").await?;
    assert_eq!(world.wait_equal(EXPECTED, FOUND, PATIENCE).await?, 0);
    world.platform_stops_in_good_order().await
}

impl World {
    async fn platform_stops_in_good_order(mut self) -> Result<()> {
        self.platform.stop_all().await
    }
}
