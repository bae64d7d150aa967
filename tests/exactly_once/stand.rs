//! A table, a view and a sink whose commits can be held and whose answers can be lost, and the checks
//! of what came of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use hutong_local::testkit::{Kit, OwnServers, PATIENCE, PlatformOptions, until};
use serde_json::json;
use tokio_postgres::Client;

use super::topic;
use crate::world::{BINARY, World, ensure, wait_found};

const TABLE: &str = "
    create schema reg;
    create table reg.item (id bigint primary key, region char(6) not null, ver bigint not null);
    insert into reg.item select n, case when n % 2 = 0 then '370705' else '110000' end, 0 from generate_series(1, 200) n;";
const EXPECTED: &str =
    "select concat_ws('|', id, ver) from reg.item where region = '370705' order by id";
const FOUND: &str = "select concat_ws('|', id, ver) from public.in_item order by id";

/// What the checks found to be wrong, each in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrongs {
    /// The table's topic against the table.
    pub(super) topic: Option<String>,
    /// The view's topic: a change's effect twice.
    pub(super) view: Option<String>,
    /// The subscriber's table against the policy applied to the source.
    pub(super) table: Option<String>,
}

/// A world whose commits can be held and whose answers can be lost.
pub(super) struct Stand {
    pub(super) world: World,
    pub(super) department: Client,
    pub(super) faults: PathBuf,
    changes: i64,
    _servers: OwnServers,
}

impl Stand {
    /// Starts the platform with one worker `a` and waits until the view equals the table.
    pub(super) async fn start(adapt: impl FnOnce(&mut PlatformOptions)) -> Result<Self> {
        Self::start_in(OwnServers::begin()?, adapt).await
    }

    /// As [`start`](Self::start), where faults may be in the folder already.
    pub(super) async fn start_in(
        servers: OwnServers,
        adapt: impl FnOnce(&mut PlatformOptions),
    ) -> Result<Self> {
        let kit = Kit::from_env();
        let mut options = PlatformOptions::new(BINARY, &kit).await?;
        adapt(&mut options);
        let world = Self::world(&kit, &servers, options).await?;
        Self::share(world, servers).await
    }

    /// Starts a platform without workers, which finds its faults in the servers' folder `faults`.
    pub(super) async fn world(
        kit: &Kit,
        servers: &OwnServers,
        mut options: PlatformOptions,
    ) -> Result<World> {
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

    /// Starts worker `a` and shares a table with a subscriber.
    pub(super) async fn share(mut world: World, servers: OwnServers) -> Result<Self> {
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

    /// Returns the topic of the table.
    pub(super) fn topic(&self) -> String {
        self.world.topic("reg", "reg.item")
    }

    /// Makes a change that moves rows into the view, out of it, and changes others, in one
    /// transaction.
    pub(super) async fn change(&mut self) -> Result<()> {
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

    /// Waits until the view equals the table.
    pub(super) async fn equal(&self) -> Result<()> {
        self.world
            .wait_equal(EXPECTED, FOUND, PATIENCE)
            .await
            .map(|_| ())
    }

    /// Arms a fault.
    pub(super) fn arm(&self, fault: &str, whose: &str) -> Result<()> {
        let _none_before = fs::remove_file(self.faults.join("release"));
        fs::write(self.faults.join(fault), whose)?;
        Ok(())
    }

    /// Waits until an armed fault has fired.
    pub(super) async fn fired(&self, fault: &str) -> Result<()> {
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

    /// Lets go what is held.
    pub(super) fn release(&self) -> Result<()> {
        fs::write(self.faults.join("release"), "")?;
        Ok(())
    }

    /// Returns how many records of the table's topic can be read.
    pub(super) async fn committed(&self) -> usize {
        topic::read(&self.world.kafka, &self.topic()).await.len()
    }

    /// Fails unless the topic holds each change of each key once, in order. Every update adds one to
    /// `ver`, so a key's events must count up by one.
    pub(super) async fn exact(&self) -> Result<()> {
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

    /// Waits until a transaction that was held before its beginning is over, and returns what became
    /// of it.
    pub(super) async fn over(&self, fault: &str) -> Result<String> {
        let file = self.faults.join(format!("{fault}.over"));
        until("the held transaction to be over", PATIENCE, async || {
            // An empty file is still being written.
            let outcome = fs::read_to_string(&file).unwrap_or_default();
            Ok(if outcome.is_empty() {
                Err("not yet")
            } else {
                Ok(outcome)
            })
        })
        .await
    }

    /// Waits until everything that is in the topics by now has reached the subscriber: a new row goes
    /// the same way, behind it.
    pub(super) async fn drain(&self) -> Result<()> {
        let marker = "insert into reg.item values (9999, '370705', 0)";
        self.department.batch_execute(marker).await?;
        let arrived = "select id::text from public.in_item where id = 9999";
        wait_found("the last row to arrive", &self.world.subscriber, arrived).await
    }

    /// Compares everything, once.
    pub(super) async fn wrongs(&self) -> Result<Wrongs> {
        let table = self
            .world
            .wait_equal(EXPECTED, FOUND, Duration::ZERO)
            .await
            .map(|_| ());
        Ok(Wrongs {
            topic: in_words(self.exact().await),
            view: in_words(self.without_repeats().await),
            table: in_words(table),
        })
    }

    /// Fails if the view's topic shows a change of a row twice: a record's header says which change
    /// it is from.
    async fn without_repeats(&self) -> Result<()> {
        let topic = format!("{}.view.items.g1", self.world.platform.cluster());
        let messages = topic::read(&self.world.kafka, &topic).await;
        let mut seen = BTreeSet::new();
        for message in &messages {
            let from = message.header_hutong.clone().context("no header")?;
            ensure(seen.insert((message.key.clone(), from.clone())), || {
                let (offset, from) = (message.offset, String::from_utf8_lossy(&from));
                format!("offset {offset} repeats a change of its row: {from}")
            })?;
        }
        ensure(messages.len() > 100, || {
            "the view is nearly empty".to_owned()
        })
    }
}

fn in_words(checked: Result<()>) -> Option<String> {
    checked.err().map(|error| format!("{error:#}"))
}
