//! A new generation in the same table: what it withdraws is gone at once, what it lacks in the end.

use hutong_connectors_postgres::sink::faults::{Fault, arm};

use super::*;

/// The second generation, whose fill ends at offset 3.
fn second(columns: &[&str]) -> Input {
    Input {
        name: "hutong.view.v".to_owned(),
        topic: "hutong.view.v.g2".to_owned(),
        topic_id: "second".to_owned(),
        end_offsets: vec![0],
        generation: 2,
        fill_ends: Some(BTreeMap::from([(0, 3)])),
        withdrawal: Withdrawal {
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            ..Withdrawal::default()
        },
    }
}

/// The key without the name, which was withdrawn.
fn narrow() -> Target {
    let key = [field("id", SqlType::Int4, false)];
    Target::new(table(), &key, &key).unwrap()
}

/// The table with three rows of the first generation.
async fn filled(subscriber: &Subscriber, name: &str) {
    let (mut writer, _) = subscriber.writer(name).await;
    apply(
        &mut writer,
        &[(1, "one"), (2, "two"), (3, "three")],
        &[],
        60,
    )
    .await
    .unwrap();
}

async fn swept(subscriber: &Subscriber) -> String {
    let sql = "SELECT generation || ' ' || swept_generation FROM hutong_view";
    subscriber.texts(sql).await.remove(0)
}

#[tokio::test]
async fn a_new_generation_is_taken_into_the_same_table_without_emptying_it() {
    let subscriber = Subscriber::new().await;
    filled(&subscriber, "a").await;
    let mut next = second(&[]);
    next.fill_ends = Some(BTreeMap::new());
    let (mut writer, starts) = subscriber.assign("a", target(), &next).await.unwrap();
    assert_eq!(starts, [StartOffset::Earliest]);
    // Where the fill ends is not known yet, so nothing is swept, however far the topic is read.
    apply(&mut writer, &[(2, "zwei")], &[], 3).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 one", "2 zwei", "3 three"]);
    assert_eq!(swept(&subscriber).await, "2 1");
    assert!(!writer.reaches_end(0, 3));
    writer.learn_fill_ends(&BTreeMap::from([(0, 3)]));
    assert!(writer.reaches_end(0, 3));
    apply(&mut writer, &[], &[], 3).await.unwrap();
    assert_eq!(subscriber.names().await, ["2 zwei"]);
    assert_eq!(swept(&subscriber).await, "2 2");
    assert_eq!(writer.swept_generation(), 2);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn withdrawn_values_are_gone_before_the_topic_is_looked_at_and_not_null_is_no_obstacle() {
    let subscriber = Subscriber::new().await;
    filled(&subscriber, "a").await;
    subscriber
        .execute("ALTER TABLE t ALTER COLUMN name SET NOT NULL")
        .await;
    let sink = subscriber.sink("a").await;
    sink.withdraw(&table(), &second(&["name"])).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 -", "2 -", "3 -"]);
    let twice = sink.withdraw(&table(), &second(&["name"])).await.unwrap();
    assert_eq!(twice, hutong_connectors_postgres::sink::Withdrawn::Nothing);
    let assigned = sink.assign(narrow(), &second(&["name"]), now_ms()).await;
    let (mut writer, starts) = assigned.unwrap();
    assert_eq!(starts, [StartOffset::Earliest]);
    let mut changes = Changes::new(writer.target());
    for id in [2, 4] {
        changes.upsert(writer.target(), &[Cell::Int(id)]).unwrap();
    }
    writer.apply(0, &changes, 3, now_ms()).await.unwrap();
    assert_eq!(subscriber.names().await, ["2 -", "4 -"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_value_that_cannot_be_withdrawn_takes_its_table_with_it() {
    let subscriber = Subscriber::new().await;
    filled(&subscriber, "a").await;
    subscriber
        .execute("ALTER TABLE t ADD CONSTRAINT named CHECK (name IS NOT NULL)")
        .await;
    let sink = subscriber.sink("a").await;
    sink.withdraw(&table(), &second(&["name"])).await.unwrap();
    assert!(subscriber.names().await.is_empty());
    let assigned = sink.assign(narrow(), &second(&["name"]), now_ms()).await;
    assert!(!assigned.unwrap().0.is_rebuilding());
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_new_key_empties_the_table_and_replaces_the_primary_key() {
    let subscriber = Subscriber::new().await;
    filled(&subscriber, "a").await;
    let mut next = second(&["id"]);
    next.withdrawal.is_rekeyed = true;
    let sink = subscriber.sink("a").await;
    sink.withdraw(&table(), &next).await.unwrap();
    assert!(subscriber.names().await.is_empty());
    let key = [field("_rk", SqlType::Text, false)];
    let row = [field("name", SqlType::Varchar { length: Some(20) }, true)];
    let hidden = Target::new(table(), &key, &row).unwrap();
    let (mut writer, _) = sink.assign(hidden, &next, now_ms()).await.unwrap();
    let mut changes = Changes::new(writer.target());
    let row = [Cell::Text("ab12"), Cell::Text("one")];
    changes.upsert(writer.target(), &row).unwrap();
    writer.apply(0, &changes, 3, now_ms()).await.unwrap();
    writer.apply(0, &changes, 4, now_ms()).await.unwrap();
    let rows = subscriber
        .texts("SELECT concat_ws(' ', _rk, coalesce(id::text, '-'), name) FROM t")
        .await;
    assert_eq!(rows, ["ab12 - one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_column_whose_mask_changes_its_type_is_retyped_in_a_table_of_ours() {
    let subscriber = Subscriber::new().await;
    filled(&subscriber, "a").await;
    let key = [field("id", SqlType::Int4, false)];
    let row = [
        field("id", SqlType::Int4, false),
        field("name", SqlType::Date, true),
    ];
    let masked = Target::new(table(), &key, &row).unwrap();
    let next = second(&["name"]);
    let (mut writer, _) = subscriber.assign("a", masked, &next).await.unwrap();
    let mut changes = Changes::new(writer.target());
    let row = [Cell::Int(1), Cell::Int(0)];
    changes.upsert(writer.target(), &row).unwrap();
    writer.apply(0, &changes, 3, now_ms()).await.unwrap();
    let rows = subscriber
        .texts("SELECT id || ' ' || name::text FROM t")
        .await;
    assert_eq!(rows, ["1 1970-01-01"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_sink_that_missed_a_generation_empties_unless_the_task_reaches_back_so_far() {
    for (since, left) in [(None, 0), (Some(2), 0), (Some(1), 3)] {
        let subscriber = Subscriber::new().await;
        filled(&subscriber, "a").await;
        let mut next = Input {
            topic: "hutong.view.v.g4".to_owned(),
            generation: 4,
            ..second(&["name"])
        };
        next.withdrawal.since_generation = since;
        let sink = subscriber.sink("a").await;
        sink.withdraw(&table(), &next).await.unwrap();
        let names = subscriber.names().await;
        assert_eq!(names.len(), left, "{since:?}");
        assert!(names.iter().all(|name| name.ends_with(" -")), "{names:?}");
        let (mut writer, _) = sink.assign(target(), &next, now_ms()).await.unwrap();
        apply(&mut writer, &[(2, "zwei")], &[], 3).await.unwrap();
        assert_eq!(subscriber.names().await, ["2 zwei"]);
        assert_eq!(swept(&subscriber).await, "4 4");
        subscriber.drop_database().await;
    }
}

/// Does everything that follows a narrowing, from wherever it was left; true when it is done.
async fn narrows(subscriber: &Subscriber, name: &str) -> Result<(), Error> {
    let sink = subscriber.sink(name).await;
    let next = second(&["name"]);
    sink.withdraw(&table(), &next).await?;
    assert!(
        subscriber
            .names()
            .await
            .iter()
            .all(|row| row.ends_with(" -"))
    );
    let (mut writer, starts) = sink.assign(narrow(), &next, now_ms()).await?;
    let from = match starts[0] {
        StartOffset::Earliest => 0,
        StartOffset::At(offset) => offset,
    };
    for offset in from..3 {
        let mut changes = Changes::new(writer.target());
        let id = [2, 4, 5][usize::try_from(offset).unwrap()];
        changes.upsert(writer.target(), &[Cell::Int(id)])?;
        writer.apply(0, &changes, offset + 1, now_ms()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_crash_at_any_point_of_a_narrowing_ends_in_the_same_table() {
    for point in [
        "before-null",
        "after-null",
        "nulled",
        "before-note",
        "after-note",
        "before-sweep",
        "after-sweep",
        "swept",
    ] {
        let subscriber = Subscriber::new().await;
        let name = format!("crash-{}", subscriber.database);
        filled(&subscriber, &name).await;
        arm(&name, Fault::CrashAt(point));
        let crashed = narrows(&subscriber, &name).await;
        assert!(
            matches!(crashed, Err(Error::Scripted(at)) if at == point),
            "{point}: {crashed:?}"
        );
        narrows(&subscriber, &name).await.unwrap();
        assert_eq!(subscriber.names().await, ["2 -", "4 -", "5 -"], "{point}");
        assert_eq!(swept(&subscriber).await, "2 2", "{point}");
        subscriber.drop_database().await;
    }
}

#[tokio::test]
async fn a_crash_at_any_point_of_an_emptying_leaves_nothing_whatever_is_wanted_afterwards() {
    for point in ["emptying", "emptied-part", "before-emptied", "emptied"] {
        for is_wanted_again in [false, true] {
            let subscriber = Subscriber::new().await;
            let name = format!("empty-{}", subscriber.database);
            filled(&subscriber, &name).await;
            // Several parts: each page takes two hundred rows at most.
            subscriber
                .execute(
                    "INSERT INTO t SELECT n, repeat('x', 20) FROM generate_series(4, 200000) n",
                )
                .await;
            arm(&name, Fault::CrashAt(point));
            let sink = subscriber.sink(&name).await;
            let crashed = sink.empty(&table(), "hutong.view.v").await;
            assert!(
                matches!(crashed, Err(Error::Scripted(at)) if at == point),
                "{crashed:?}"
            );
            drop(sink);
            if is_wanted_again {
                let (mut writer, starts) = subscriber.writer(&name).await;
                assert_eq!(starts, [StartOffset::Earliest], "{point}");
                apply(&mut writer, &[(7, "seven")], &[], 60).await.unwrap();
                assert_eq!(subscriber.names().await, ["7 seven"], "{point}");
            } else {
                let sink = subscriber.sink(&name).await;
                sink.empty(&table(), "hutong.view.v").await.unwrap();
                assert!(subscriber.names().await.is_empty(), "{point}");
                let again = sink.empty(&table(), "hutong.view.v").await.unwrap();
                assert_eq!(again, None, "{point}");
            }
            subscriber.drop_database().await;
        }
    }
}

#[tokio::test]
async fn a_zombie_that_empties_is_fenced_between_two_parts() {
    let subscriber = Subscriber::new().await;
    filled(&subscriber, "a").await;
    subscriber
        .execute(
            "INSERT INTO t SELECT n, repeat('x', 20) FROM generate_series(4, 200000) n;
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$;
             CREATE TRIGGER slow BEFORE DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    let zombie = subscriber.sink("a").await;
    let emptying = tokio::spawn(async move { zombie.empty(&table(), "hutong.view.v").await });
    let is_emptying = "SELECT is_emptying::text FROM hutong_view";
    while subscriber.texts(is_emptying).await != ["true"] {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // A successor that cannot end the zombie's session: the epoch alone must hold. It waits for the
    // part that is going on, and the next one waits for it.
    subscriber
        .execute("UPDATE hutong_view SET epoch = epoch + 1, backend_pid = 0")
        .await;
    let ended = emptying.await.unwrap();
    assert!(matches!(ended, Err(Error::Fenced { .. })), "{ended:?}");
    assert!(subscriber.names().await.len() > 10_000);
    subscriber.drop_database().await;
}
