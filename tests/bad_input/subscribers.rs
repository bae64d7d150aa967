//! Subscribers' databases that take no rows for a while.

use anyhow::{Context, Result};
use hutong_local::testkit::Kit;

use super::{GOODS, healthy, trace};
use crate::world::ensure;

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_cannot_be_written_is_told_and_heals_by_itself_while_others_are_served()
-> Result<()> {
    let world = healthy().await?;
    let elsewhere = Kit::from_env().database("elsewhere").await?;
    world
        .create_connector(
            "elsewhere-sink",
            world.sink_at(&elsewhere, "goods", "in_good"),
        )
        .await?;
    world.wait_shared_at(&GOODS, &elsewhere).await?;
    let (department, subscriber) = (
        world.department.connect().await?,
        world.subscriber.connect().await?,
    );
    let name = &world.subscriber.name;
    let cases: [(&str, String, String, &[&str]); 2] = [
        (
            "full disk",
            "create function public.full() returns trigger language plpgsql as $$
             begin raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$;
             create trigger full_disk before insert or update on public.in_good for each row execute function public.full()"
                .to_owned(),
            "drop trigger full_disk on public.in_good".to_owned(),
            &[
                "could not write table public.in_good",
                "No space left on device (SQLSTATE 53100)",
                "free space on the subscriber's server",
            ],
        ),
        (
            "read-only",
            format!("alter database {name} set default_transaction_read_only = on;
                     select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"),
            format!("set default_transaction_read_only = off; alter database {name} reset default_transaction_read_only"),
            &[
                "table public.in_good",
                "in a read-only transaction (SQLSTATE 25006)",
                "the subscriber's database is read-only: a standby, or default_transaction_read_only",
            ],
        ),
    ];
    for (case, break_it, mend_it, says) in cases {
        subscriber.batch_execute(&break_it).await?;
        department.batch_execute(GOODS.insert).await?;
        trace(&world, "goods-sink", says).await.context(case)?;
        let status = world.status("goods-sink").await?;
        ensure(status["tasks"][0]["state"] != "FAILED", || {
            format!("{case} may pass, so that it is tried again: {status}")
        })?;
        world
            .wait_shared_at(&GOODS, &elsewhere)
            .await
            .context(case)?;
        subscriber.batch_execute(&mend_it).await?;
        world.delivers(&GOODS).await.context(case)?;
    }
    Ok(())
}
