//! Workers are killed at named places, before and after each durable step: of a source that publishes
//! a table, makes its slot, announces, reads chunks, sweeps, streams and confirms; of a processor
//! that fills and sweeps; of a sink that takes a generation up. At each place the worker is held,
//! the world changes meanwhile, the worker is killed (SIGKILL) and started again, and what is in the
//! topics and at the subscriber must be exact. A place that is never reached fails the test.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use hutong_local::testkit::{PATIENCE, until};
use hutong_transport::admin::Admin;
use serde_json::{Value, json};

use super::stand::Stand;
use super::topic::{self, Observed};
use crate::world::{ensure, texts};

/// The source connector of the stand.
const SOURCE: &str = "reg";

/// Enough rows for several chunks, several batches of chunks, and several parts of a run.
const TABLES: &str = "
    insert into reg.item select n, '370705', 0 from generate_series(100001, 101400) n;
    create table reg.extra (id bigint primary key, ver bigint not null);
    insert into reg.extra select n, 0 from generate_series(1, 1500) n;
    create table reg.other (id bigint primary key, ver bigint not null);
    insert into reg.other select n, 0 from generate_series(1, 50) n;";

impl Stand {
    /// Starts with more rows and tables.
    async fn start_large() -> Result<Self> {
        let stand = Self::start(|_| ()).await?;
        stand.department.batch_execute(TABLES).await?;
        Ok(stand)
    }

    /// Waits until whoever owns something is held at a place.
    async fn held(&self, place: &Place) -> Result<()> {
        self.fired(place.file).await.with_context(|| {
            format!(
                "the worker's log ends:\n{}",
                self.world.platform.log("a", 15)
            )
        })
    }

    /// Kills the worker that is held, and starts it again.
    fn kill_and_start(&mut self) -> Result<()> {
        self.world.platform.kill("a")?;
        self.world.platform.launch_worker("a", "default")
    }

    async fn configure(&self, changes: &[(&str, &str)]) -> Result<()> {
        let mut config = self.world.source(SOURCE, "reg\\.item");
        for (name, value) in changes {
            config.insert((*name).to_owned(), (*value).into());
        }
        let path = format!("/connectors/{SOURCE}/config");
        let config = Some(Value::Object(config));
        let answer = self.world.api().connect("PUT", &path, config).await?;
        answer.ok().map(|_| ())
    }
}

/// A place at which a worker is held and killed: the fault's file, and who is meant.
#[derive(Debug)]
struct Place {
    file: &'static str,
    whose: &'static str,
}

const fn place(file: &'static str, whose: &'static str) -> Place {
    Place { file, whose }
}

/// Reached when a table is taken up by a running connector.
const ADDING: [Place; 8] = [
    place("reach-source-publish-before", "source/"),
    place("reach-source-publish-after", "source/"),
    place("reach-source-announce-before", "source/"),
    place("reach-source-announce-after", "source/"),
    place("reach-source-chunk-before", "source/"),
    place("reach-source-chunk-after", "source/"),
    place("reach-source-sweep-before", "source/"),
    place("reach-source-sweep-after", "source/"),
];

/// Reached when changes stream.
const STREAMING: [Place; 8] = [
    place("reach-source-stream-before", "source/"),
    place("reach-source-stream-after", "source/"),
    place("reach-source-confirm-before", "source/"),
    place("reach-source-confirm-after", "source/"),
    place("reach-processor-live-before", "processor/"),
    place("reach-processor-live-after", "processor/"),
    place("sink-hold-begin", "sink-items"),
    place("sink-hold", "sink-items"),
];

/// Reached when a connector begins.
const BEGINNING: [Place; 4] = [
    place("reach-source-publish-before", "source/"),
    place("reach-source-publish-after", "source/"),
    place("reach-source-slot-before", "source/"),
    place("reach-source-slot-after", "source/"),
];

/// Reached when a view loses a column: another generation.
const NARROWING: [Place; 10] = [
    place("reach-processor-fill-before", "processor/"),
    place("reach-processor-fill-after", "processor/"),
    place("sink-hold@before-null", "sink-items"),
    place("sink-hold@after-null", "sink-items"),
    place("sink-hold@nulled", "sink-items"),
    place("sink-hold@before-note", "sink-items"),
    place("sink-hold@after-note", "sink-items"),
    place("sink-hold@before-sweep", "sink-items"),
    place("sink-hold@after-sweep", "sink-items"),
    place("sink-hold@swept", "sink-items"),
];

/// Reached when a view gains one, in place.
const WIDENING: [Place; 4] = [
    place("reach-processor-fill-before", "processor/"),
    place("reach-processor-fill-after", "processor/"),
    place("reach-processor-sweep-before", "processor/"),
    place("reach-processor-sweep-after", "processor/"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_a_stream_neither_loses_nor_repeats() -> Result<()> {
    let mut stand = Stand::start_large().await?;
    for place in &STREAMING {
        async {
            stand.arm(place.file, place.whose)?;
            stand.change().await?;
            stand.held(place).await?;
            stand.change().await?;
            stand.kill_and_start()?;
            stand.equal().await
        }
        .await
        .with_context(|| format!("{place:?}"))?;
    }
    stand.exact().await?;
    for (number, place) in BEGINNING.iter().enumerate() {
        begin_and_delete(&mut stand, &format!("begins{number}"), place)
            .await
            .with_context(|| format!("{place:?}, of a connector that begins"))?;
    }
    Ok(())
}

/// A connector begins, and its worker is killed at a place. Each row is in the topic once, and when
/// the connector is deleted nothing of its own is left at the server.
async fn begin_and_delete(stand: &mut Stand, name: &str, place: &Place) -> Result<()> {
    stand.arm(place.file, &format!("/{name}_"))?;
    let config = stand.world.source(name, "reg\\.other");
    stand.world.create_connector(name, config).await?;
    stand.held(place).await?;
    let grow = "insert into reg.other select max(id) + 1, 0 from reg.other";
    stand.department.batch_execute(grow).await?;
    stand.kill_and_start()?;
    let topic = stand.world.topic(name, "reg.other");
    let admin = Admin::new(&stand.world.kafka)?;
    let expected = texts(&stand.world.department, "select id::text from reg.other").await?;
    until("every row to be in the topic", PATIENCE, async || {
        let found = match admin.topic(&topic).await? {
            Some(_) => topic::read(&stand.world.kafka, &topic).await.len(),
            None => 0,
        };
        Ok(if found >= expected.len() {
            Ok(())
        } else {
            Err(format!("{found} of {} records", expected.len()))
        })
    })
    .await?;
    stand.department.batch_execute(grow).await?;
    until("the new row to be in the topic", PATIENCE, async || {
        let observed = observe(stand, &topic, 0).await?;
        Ok(if observed.len() > expected.len() {
            Ok(())
        } else {
            Err(format!("{} keys", observed.len()))
        })
    })
    .await?;
    for (id, events) in observe(stand, &topic, 0).await? {
        ensure(matches!(events[..], [('r' | 'c', 0)]), || {
            format!("key {id} of {topic}: expected once, found {events:?}")
        })?;
    }
    let path = format!("/connectors/{name}");
    let deleted = stand.world.api().connect("DELETE", &path, None).await?;
    deleted.ok()?;
    let left = format!(
        "select slot_name::text from pg_replication_slots where slot_name like '{name}\\_%' and database = current_database()
         union all select pubname::text from pg_publication where pubname like '{name}\\_%'"
    );
    until("slot and publication to be gone", PATIENCE, async || {
        let left = texts(&stand.world.department, &left).await?;
        Ok(if left.is_empty() {
            Ok(())
        } else {
            Err(left.join(", "))
        })
    })
    .await
}

async fn observe(stand: &Stand, topic: &str, from: usize) -> Result<Observed> {
    let schemas = stand.world.schemas().await?;
    let messages = topic::read(&stand.world.kafka, topic).await;
    Ok(topic::observe(&messages[from..], &schemas))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_taking_a_table_up_reads_it_exactly() -> Result<()> {
    let mut stand = Stand::start_large().await?;
    let mut extra = Extra::share(&stand).await?;
    for place in &ADDING {
        extra
            .round(&mut stand, place)
            .await
            .with_context(|| format!("{place:?}"))?;
    }
    stand.equal().await?;
    stand.exact().await
}

/// A table that is taken out of a connector and put back, while another one streams.
struct Extra {
    topic: String,
    rounds: i64,
}

/// The configuration with the table, and with as many batches as can be.
const WITH_EXTRA: [(&str, &str); 2] = [
    ("table.include.list", "reg\\.(item|extra)"),
    ("hutong.batch.bytes.max", "65536"),
];

impl Extra {
    async fn share(stand: &Stand) -> Result<Self> {
        let topic = stand.world.topic(SOURCE, "reg.extra");
        stand.configure(&WITH_EXTRA).await?;
        let view = json!({
            "name": "extras", "share": "s", "subscriber": "reader", "source": { "topic": topic },
            "columns": [{ "name": "id" }, { "name": "ver" }]
        });
        stand.world.create_view(&view).await?;
        let sink = stand.world.sink("extras", "in_extra");
        stand.world.create_connector("sink-extras", sink).await?;
        let extra = Self { topic, rounds: 0 };
        extra.equal(stand).await?;
        Ok(extra)
    }

    async fn equal(&self, stand: &Stand) -> Result<()> {
        let rows = |table: &str| format!("select concat_ws('|', id, ver) from {table} order by id");
        let (expected, found) = (rows("reg.extra"), rows("public.in_extra"));
        let equal = stand.world.wait_equal(&expected, &found, PATIENCE);
        equal.await.map(|_| ())
    }

    /// Takes the table out, changes it, and puts it back; the worker is killed at a place of that.
    async fn round(&mut self, stand: &mut Stand, place: &Place) -> Result<()> {
        self.rounds += 1;
        let number = self.rounds;
        stand.configure(&[]).await?;
        let published =
            "select tablename::text from pg_publication_tables where tablename = 'extra'";
        until("the table to be taken out", PATIENCE, async || {
            let published = texts(&stand.world.department, published).await?;
            Ok(if published.is_empty() {
                Ok(())
            } else {
                Err("it is published")
            })
        })
        .await?;
        let before = topic::read(&stand.world.kafka, &self.topic).await.len();
        let unseen = format!(
            "begin;
             delete from reg.extra where id % 50 = {number};
             update reg.extra set ver = ver + 1 where id % 7 = {number} % 7;
             insert into reg.extra values (10000 + {number}, 0);
             commit;"
        );
        stand.department.batch_execute(&unseen).await?;
        let read = self.rows(stand).await?;
        stand.arm(place.file, place.whose)?;
        stand.configure(&WITH_EXTRA).await?;
        stand.change().await?;
        stand.held(place).await?;
        stand.change().await?;
        // Whatever of this the rows hold already, and whatever comes in the stream.
        let meanwhile = format!(
            "begin;
             update reg.extra set ver = ver + 1 where id % 50 = 40;
             delete from reg.extra where id = 1010 + {number};
             insert into reg.extra values (20000 + {number}, 0);
             commit;"
        );
        stand.department.batch_execute(&meanwhile).await?;
        stand.kill_and_start()?;
        self.equal(stand).await?;
        self.exact(stand, before, &read, number).await
    }

    async fn rows(&self, stand: &Stand) -> Result<BTreeMap<i64, i64>> {
        let query = "select id, ver from reg.extra";
        let rows = stand.department.query(query, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Fails unless the round's part of the topic has each row that was not touched meanwhile once
    /// as read, each row that went unseen once as deleted, and of the others an order of versions
    /// that ends in what the table holds.
    async fn exact(
        &self,
        stand: &Stand,
        before: usize,
        read: &BTreeMap<i64, i64>,
        number: i64,
    ) -> Result<()> {
        let now = self.rows(stand).await?;
        let observed = observe(stand, &self.topic, before).await?;
        let is_touched = |id: i64| id % 50 == 40 || id == 1010 + number || id == 20000 + number;
        for (id, events) in &observed {
            let expected = match (read.get(id), now.get(id)) {
                _ if is_touched(*id) => {
                    let newest = now.get(id).map_or(('d', 0), |ver| ('_', *ver));
                    let last = events.last().copied().unwrap_or(('?', -1));
                    let is_last = last.1 == newest.1 && (last.0 == 'd') == (newest.0 == 'd');
                    let lives = events.iter().filter(|(op, _)| *op != 'd');
                    let versions: Vec<i64> = lives.map(|(_, ver)| *ver).collect();
                    ensure(is_last && versions.is_sorted(), || {
                        format!("key {id} was changed meanwhile: {events:?}, now {newest:?}")
                    })?;
                    continue;
                }
                (Some(ver), Some(_)) => ('r', *ver),
                (None, None) => ('d', 0),
                (was, is) => anyhow::bail!("key {id}: {was:?}, {is:?}: {events:?}"),
            };
            ensure(events[..] == [expected], || {
                format!("key {id}: expected {expected:?} once, found {events:?}")
            })?;
        }
        let missing = now.keys().find(|id| !observed.contains_key(id));
        ensure(missing.is_none(), || {
            format!("key {missing:?} was not read again")
        })?;
        let swept = observed.iter().filter(|(id, _)| !is_touched(**id));
        let swept = swept.filter(|(_, events)| events[..] == [('d', 0)]).count();
        ensure(swept > 20, || format!("only {swept} rows were swept"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_step_of_a_view_that_changes_leaves_what_the_view_gives()
-> Result<()> {
    let mut stand = Stand::start_large().await?;
    stand.equal().await?;
    let mut widening = WIDENING.iter();
    for place in &NARROWING {
        for (is_wide, place) in [(false, Some(place)), (true, widening.next())] {
            view_round(&mut stand, is_wide, place)
                .await
                .with_context(|| {
                    format!("{place:?}, {}", if is_wide { "wider" } else { "narrower" })
                })?;
        }
    }
    ensure(widening.next().is_none(), || "places are left".to_owned())?;
    stand.exact().await
}

/// Gives the view a column or takes it away; the worker is killed at a place of that.
async fn view_round(stand: &mut Stand, is_wide: bool, place: Option<&Place>) -> Result<()> {
    if let Some(place) = place {
        let _former = fs::remove_file(stand.faults.join(format!("{}.taken", place.file)));
        stand.arm(place.file, place.whose)?;
    }
    let names: &[&str] = if is_wide { &["id", "ver"] } else { &["id"] };
    let columns: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    let view = json!({
        "name": "items", "share": "s", "subscriber": "reader", "columns": columns,
        "source": { "topic": stand.topic() }, "where": "region = '370705'"
    });
    let api = stand.world.api();
    let path = "/api/v1/views/items";
    api.platform("PUT", path, Some(view)).await?.ok()?;
    if let Some(place) = place {
        stand.held(place).await?;
        stand.change().await?;
        stand.kill_and_start()?;
    }
    if is_wide {
        return stand.equal().await;
    }
    let expected = "select concat_ws('|', id) from reg.item where region = '370705' order by id";
    let found = "select concat_ws('|', id, ver) from public.in_item order by id";
    let equal = stand.world.wait_equal(expected, found, PATIENCE);
    equal.await.map(|_| ())
}
