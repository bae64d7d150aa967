//! Faults that are scripted one by one: lost answers, zombies, a lost state folder, a transaction
//! that timed out without a rival.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use hutong_local::kafka;
use hutong_local::testkit::{Kit, OwnServers, PATIENCE, PlatformOptions, until};
use hutong_transport::admin::{Admin, TopicSpec};
use serde_json::json;
use tokio_postgres::Client;

use super::topic;
use crate::world::{BINARY, World, ensure};

const TABLE: &str = "
    create schema reg;
    create table reg.item (id bigint primary key, region char(6) not null, ver bigint not null);
    insert into reg.item select n, case when n % 2 = 0 then '370705' else '110000' end, 0 from generate_series(1, 200) n;";
const EXPECTED: &str =
    "select concat_ws('|', id, ver) from reg.item where region = '370705' order by id";
const FOUND: &str = "select concat_ws('|', id, ver) from public.in_item order by id";

/// A world whose commits can be held and whose answers can be lost.
struct Stand {
    world: World,
    department: Client,
    faults: PathBuf,
    changes: i64,
    _servers: OwnServers,
}

impl Stand {
    /// Starts the platform with one worker `a` and waits until the view equals the table.
    async fn start(adapt: impl FnOnce(&mut PlatformOptions)) -> Result<Self> {
        let servers = OwnServers::begin()?;
        let kit = Kit::from_env();
        let mut options = PlatformOptions::new(BINARY, &kit).await?;
        adapt(&mut options);
        let world = Self::world(&kit, &servers, options).await?;
        Self::share(world, servers).await
    }

    async fn world(kit: &Kit, servers: &OwnServers, mut options: PlatformOptions) -> Result<World> {
        let faults = servers.run().folder("faults")?;
        options
            .environment
            .push(("HUTONG_FAULTS".to_owned(), faults.display().to_string()));
        let (department, subscriber) = (
            kit.database("department").await?,
            kit.database("subscriber").await?,
        );
        World::on(options, department, subscriber).await
    }

    async fn share(mut world: World, servers: OwnServers) -> Result<Self> {
        world.platform.start_worker("a", "default").await?;
        let department = world.department.connect().await?;
        department.batch_execute(TABLE).await?;
        let name = "reg";
        world
            .create_connector(name, world.source(name, "reg\\.item"))
            .await?;
        world.wait_state(name, "RUNNING").await?;
        world
            .create_view(&json!({
                "name": "items", "share": "s", "subscriber": "reader",
                "source": { "topic": world.topic(name, "reg.item") },
                "columns": [{ "name": "id" }, { "name": "ver" }], "where": "region = '370705'"
            }))
            .await?;
        world
            .create_connector("sink-items", world.sink("items", "in_item"))
            .await?;
        let faults = servers.run().folder("faults")?;
        let stand = Self {
            world,
            department,
            faults,
            changes: 0,
            _servers: servers,
        };
        stand.equal().await?;
        Ok(stand)
    }

    fn topic(&self) -> String {
        self.world.topic("reg", "reg.item")
    }

    /// Makes a change that moves rows into the view, out of it, and changes others, in one
    /// transaction.
    async fn change(&mut self) -> Result<()> {
        self.changes += 1;
        let number = self.changes;
        self.department
            .batch_execute(&format!(
                "begin;
                 update reg.item set ver = ver + 1;
                 update reg.item set region = case region when '370705' then '110000' else '370705' end, ver = ver + 1
                 where id % 7 = {number} % 7;
                 insert into reg.item values (1000 + {number}, '370705', 0);
                 commit;"
            ))
            .await?;
        Ok(())
    }

    async fn equal(&self) -> Result<()> {
        self.world
            .wait_equal(EXPECTED, FOUND, PATIENCE)
            .await
            .map(|_| ())
    }

    /// Arms a fault.
    fn arm(&self, fault: &str, whose: &str) -> Result<()> {
        let _none_before = fs::remove_file(self.faults.join("release"));
        fs::write(self.faults.join(fault), whose)?;
        Ok(())
    }

    /// Waits until an armed fault has fired.
    async fn fired(&self, fault: &str) -> Result<()> {
        let taken = self.faults.join(format!("{fault}.taken"));
        until(&format!("{fault} to fire"), PATIENCE, async || {
            Ok(if taken.exists() {
                Ok(())
            } else {
                Err("not yet")
            })
        })
        .await
    }

    fn release(&self) -> Result<()> {
        fs::write(self.faults.join("release"), "")?;
        Ok(())
    }

    /// Returns how many records of the table's topic can be read.
    async fn committed(&self) -> usize {
        topic::read(&self.world.kafka, &self.topic()).await.len()
    }

    /// Fails unless the topic holds each change of each key once, in order. Every update adds one to
    /// `ver`, so a key's events must count up by one.
    async fn exact(&self) -> Result<()> {
        let schemas = self.world.schemas().await?;
        let messages = topic::read(&self.world.kafka, &self.topic()).await;
        let observed = topic::observe(&messages, &schemas);
        let rows = self
            .department
            .query("select id, ver from reg.item", &[])
            .await?;
        for row in rows {
            let (id, newest): (i64, i64) = (row.get(0), row.get(1));
            let found: Vec<i64> = observed
                .get(&id)
                .into_iter()
                .flatten()
                .map(|(_, ver)| *ver)
                .collect();
            let counted: Vec<i64> = (0..=newest).collect();
            ensure(found == counted, || {
                format!("key {id}: expected 0 to {newest} once each, found {found:?}")
            })?;
        }
        Ok(())
    }
}

fn quick_takeover(options: &mut PlatformOptions) {
    options
        .worker
        .insert("session_timeout".to_owned(), json!("6s"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_kafka_commit_neither_loses_nor_repeats() -> Result<()> {
    let mut stand = Stand::start(|_| ()).await?;
    for whose in ["source/", "processor/"] {
        let _first = fs::remove_file(stand.faults.join("kafka-drop.taken"));
        stand.arm("kafka-drop", whose)?;
        stand.change().await?;
        stand.fired("kafka-drop").await?;
        stand.change().await?;
        stand.equal().await.context(whose)?;
        stand.exact().await.context(whose)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_sink_commit_is_a_question_that_the_position_answers() -> Result<()> {
    let mut stand = Stand::start(|_| ()).await?;
    stand.arm("sink-drop", "sink-items")?;
    stand.change().await?;
    stand.fired("sink-drop").await?;
    stand.change().await?;
    stand.equal().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_worker_that_wakes_inside_its_transaction_changes_nothing() -> Result<()> {
    let mut stand = Stand::start(quick_takeover).await?;
    zombie(&mut stand, "kafka-hold", "source/").await?;
    stand.exact().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_sink_that_wakes_inside_its_transaction_changes_nothing() -> Result<()> {
    let mut stand = Stand::start(quick_takeover).await?;
    zombie(&mut stand, "sink-hold", "sink-items").await
}

/// Freezes worker `a` while it stands before a commit, lets `b` take over and work, and wakes `a`.
async fn zombie(stand: &mut Stand, fault: &str, whose: &str) -> Result<()> {
    stand.arm(fault, whose)?;
    stand.change().await?;
    stand.fired(fault).await?;
    stand.world.platform.process("a")?.freeze()?;
    stand.world.platform.launch_worker("b", "default")?;
    stand.change().await?;
    stand.equal().await.context("while the zombie is frozen")?;
    stand.release()?;
    stand.world.platform.process("a")?.thaw()?;
    for _ in 0..5 {
        stand.change().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    stand.equal().await.context("after the zombie woke")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_timed_out_without_a_rival_is_repeated() -> Result<()> {
    let mut stand = Stand::start(|options| {
        options
            .kafka
            .insert("transaction.timeout.ms".to_owned(), "4000".to_owned());
        options
            .worker
            .insert("session_timeout".to_owned(), json!("45s"));
    })
    .await?;
    stand.arm("kafka-hold", "source/")?;
    stand.change().await?;
    stand.fired("kafka-hold").await?;
    stand.world.platform.process("a")?.freeze()?;
    // The broker looks for transactions to abort every ten seconds.
    tokio::time::sleep(Duration::from_secs(16)).await;
    stand.release()?;
    stand.world.platform.process("a")?.thaw()?;
    stand.change().await?;
    stand.equal().await?;
    stand.exact().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_folder_lost_after_its_input_was_compacted_is_rebuilt_without_ghosts() -> Result<()>
{
    let servers = OwnServers::begin()?;
    let cleaner = kafka::Options::default().with("log.cleaner.backoff.ms", "200");
    let broker = servers.kafka("kafka", cleaner).await?;
    let kit = Kit::from_env();
    let control = kit.control_database().await?;
    let options = PlatformOptions::on(BINARY, "compacted", &broker.bootstrap(), &control.url);
    let world = Stand::world(&kit, &servers, options).await?;
    let admin = Admin::new(&world.kafka)?;
    let topic = world.topic("reg", "reg.item");
    let hard = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
    ];
    let config = hard
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    admin
        .ensure_topic(&TopicSpec {
            name: topic.clone(),
            partitions: 1,
            config,
        })
        .await?;
    let mut stand = Stand::share(world, servers).await?;

    for _ in 0..10 {
        stand.change().await?;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stand.equal().await?;
    let kafka = stand.world.kafka.clone();
    until("the input to be compacted", PATIENCE, async || {
        stand.change().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let left = topic::read(&kafka, &topic).await.len();
        Ok(if left < 1_000 {
            Ok(())
        } else {
            Err(format!("{left} records are left"))
        })
    })
    .await?;
    stand.equal().await?;
    stand.world.platform.kill("a")?;
    fs::remove_dir_all(stand.world.platform.folder().join("a-data"))?;
    stand
        .department
        .batch_execute("update reg.item set region = '110000', ver = ver + 1 where id % 3 = 0")
        .await?;
    stand.world.platform.start_worker("a", "default").await?;
    stand.equal().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_positions_outside_the_transaction_a_kill_repeats_changes_and_the_check_finds_it()
-> Result<()> {
    let mut stand = Stand::start(|_| ()).await?;
    fs::write(stand.faults.join("sabotage-positions"), "")?;
    // Killed after the records were committed and before their position is: commits are held one by
    // one (a slot that advances commits too) until one is held when the records can be read.
    let before = stand.committed().await;
    stand.arm("kafka-hold", "source/")?;
    stand.change().await?;
    stand.fired("kafka-hold").await?;
    while stand.committed().await == before {
        fs::remove_file(stand.faults.join("kafka-hold.taken"))?;
        fs::write(stand.faults.join("kafka-hold"), "source/")?;
        stand.release()?;
        stand.fired("kafka-hold").await?;
    }
    stand.world.platform.kill("a")?;
    stand.world.platform.start_worker("a", "default").await?;
    stand.change().await?;
    stand.equal().await?;
    let error = stand
        .exact()
        .await
        .err()
        .context("the sabotaged positions went unnoticed")?;
    ensure(format!("{error:#}").contains("once each, found"), || {
        format!("it failed otherwise: {error:#}")
    })
}
