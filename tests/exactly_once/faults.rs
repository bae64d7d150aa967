//! Faults that are scripted one by one: lost answers, zombies, a lost state folder, a transaction
//! that timed out without a rival; and what becomes of some of them without what exactly-once rests on.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use hutong_local::kafka;
use hutong_local::testkit::{Kit, OwnServers, PATIENCE, PlatformOptions, until};
use hutong_transport::admin::{Admin, TopicSpec};
use serde_json::json;

use super::stand::{Stand, Wrongs};
use super::topic;
use crate::world::{BINARY, ensure};

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

/// Lets a zombie begin a transaction after its successor has worked, and returns what became of that
/// transaction and what is wrong afterwards. The zombie, worker `a`, is frozen with a batch in its
/// hands, and is woken without learning from the group that its tasks have gone: what else might
/// stop it in time is not to be relied on.
async fn late_transaction(
    fault: &str,
    whose: &str,
    is_sabotaged: bool,
) -> Result<(String, Wrongs)> {
    let servers = OwnServers::begin()?;
    if is_sabotaged {
        fs::write(
            servers.run().folder("faults")?.join("sabotage-fence"),
            whose,
        )?;
    }
    let mut stand = Stand::start_in(servers, quick_takeover).await?;
    fs::write(stand.faults.join("group-deaf"), "a")?;
    stand.arm(fault, whose)?;
    stand.change().await?;
    stand.fired(fault).await?;
    stand.world.platform.process("a")?.freeze()?;
    stand.world.platform.launch_worker("b", "default")?;
    stand.change().await?;
    stand.equal().await.context("while the zombie is frozen")?;
    stand.release()?;
    stand.world.platform.process("a")?.thaw()?;
    let outcome = stand.over(fault).await?;
    stand.world.platform.kill("a")?;
    stand.drain().await?;
    Ok((outcome, stand.wrongs().await?))
}

/// Does it as we are and without the fence, at the same time, because most of it is waiting. As we
/// are the zombie is refused, by an error of the given class, and nothing is wrong. Without, it
/// commits, and what is wrong then is returned.
async fn what_the_fence_prevents(fault: &str, whose: &str, class: &str) -> Result<Wrongs> {
    let (as_we_are, sabotaged) = tokio::join!(
        late_transaction(fault, whose, false),
        late_transaction(fault, whose, true)
    );
    let (refused, right) = as_we_are.context("as we are")?;
    println!("as we are: {refused}; {right:?}");
    let (committed, wrong) = sabotaged.context("without the fence")?;
    println!("without the fence: {committed}; {wrong:?}");
    ensure(refused.starts_with(class), || {
        format!("as we are: {refused}")
    })?;
    let nothing = Wrongs {
        topic: None,
        view: None,
        table: None,
    };
    ensure(right == nothing, || format!("as we are: {right:?}"))?;
    ensure(committed == "committed", || {
        format!("without the fence: {committed}")
    })?;
    Ok(wrong)
}

fn ensure_found(found: Option<String>, text: &str) -> Result<()> {
    let found = found.context("the missing fence went unnoticed")?;
    ensure(found.contains(text), || {
        format!("it failed otherwise: {found}")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_a_source_that_wakes_late_repeats_changes_and_the_check_finds_it()
-> Result<()> {
    let wrong = what_the_fence_prevents("kafka-hold-begin", "source/", "fenced").await?;
    ensure_found(wrong.topic, "once each, found")?;
    ensure_found(wrong.view, "repeats a change")?;
    ensure_found(wrong.table, "first difference")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_a_processor_that_wakes_late_turns_the_view_back_and_the_check_finds_it()
-> Result<()> {
    let wrong = what_the_fence_prevents("kafka-hold-begin", "processor/", "fenced").await?;
    ensure(wrong.topic.is_none(), || format!("{wrong:?}"))?;
    ensure_found(wrong.view, "repeats a change")?;
    ensure_found(wrong.table, "first difference")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_fence_a_sink_that_wakes_late_turns_the_table_back_and_the_check_finds_it()
-> Result<()> {
    // Its session has been ended, which is part of the fence; that the epoch alone holds too, the
    // connector's own tests show.
    let wrong = what_the_fence_prevents("sink-hold-begin", "sink-items", "transient").await?;
    ensure(wrong.topic.is_none() && wrong.view.is_none(), || {
        format!("{wrong:?}")
    })?;
    ensure_found(wrong.table, "first difference")
}
