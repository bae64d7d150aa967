//! Scenes in which a source grows while everything runs: a column is added to a shared table, then a
//! table to a running connector.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hutong_schemas::cell::Cell;
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::wire;
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, Isolation};
use hutong_transport::reader::{PartitionReader, Start};

use super::changes::{ARRIVAL, S07};
use super::registration;
use super::shares::{ABNORMAL, CREDIT, S07_WITH_CREDIT};
use super::stage::{PUBLICATION, SOURCE_ROLE};
use super::steps::Scenes;
use crate::testkit::{Api, connect, until};

/// The table that 工商 adds: enterprises that it could not reach, or that did not report.
const ABNORMAL_TABLE: &str = "CREATE TABLE ent_abnormal (
    pripid bigint PRIMARY KEY, ent_name varchar(200) NOT NULL, reason char(1) NOT NULL,
    listed_on date NOT NULL, removed_on date)";
/// Every eighth enterprise, of which some have been taken off the list.
const ABNORMAL_ROWS: &str = "INSERT INTO ent_abnormal
    SELECT pripid, ent_name, (pripid % 4 + 1)::text, appr_date,
        CASE WHEN pripid % 3 = 0 THEN appr_date END
    FROM ent_base ORDER BY pripid LIMIT (SELECT count(*) / 8 FROM ent_base)";
/// How much of a topic is taken at once.
const POLL_BYTES: usize = 1 << 20;

impl Scenes<'_> {
    /// 地税 adds a column to a table that is shared: it is in the table's topic with the next change,
    /// in no view before it is granted, and then at the subscriber, for every row.
    pub(super) async fn a_column_is_added(&mut self) -> Result<()> {
        let prefix = self.stage.prefix(S07.provider);
        let topic = S07.topic(&prefix);
        let (column, value) = CREDIT;
        self.screen.say(&format!(
            "scene 8: 地税 adds column {column} to tax_reg, '{value}' for the rows that are there"
        ));
        let owner = connect(&self.stage.database(S07.provider)?.url).await?;
        let mut tail = Tail::begin(&self.stage.bootstrap, &topic).await?;
        owner
            .batch_execute(&format!(
                "ALTER TABLE tax_reg ADD COLUMN {column} char(1) NOT NULL DEFAULT '{value}'"
            ))
            .await?;
        let begun = Instant::now();
        owner
            .batch_execute(&format!(
                "UPDATE tax_reg SET {column} = 'A' WHERE reg_id % 2 = 0"
            ))
            .await?;
        let offset = tail.wait_for(self.platform.api(), column, "A").await?;
        self.screen.say(&format!(
            "         a change carries it in topic {topic} (offset {offset}) after {} ms",
            begun.elapsed().as_millis()
        ));
        let has_it = format!("jsonb_exists(to_jsonb({}), '{column}')", S07.target());
        ensure!(
            self.count(&has_it).await? == 0,
            "column {column} is at the subscriber before it is granted"
        );
        let (view, subscriber) = (S07.view(), S07.subscriber.title());
        self.screen.say(&format!(
            "         {subscriber} does not see it; now view {view} is widened to it"
        ));
        let document = S07_WITH_CREDIT.document(&prefix);
        self.say_what_would_move(&document).await?;
        let begun = Instant::now();
        self.put(&document).await?;
        self.watch.put_share(S07_WITH_CREDIT);
        self.wait_complete().await?;
        let held = format!("to_jsonb({})->>'{column}' = 'A'", S07.target());
        let judge = format!(
            "SELECT count(*) FROM tax_reg WHERE {column} = 'A' AND {}",
            S07_WITH_CREDIT.judge_condition()
        );
        let rows = until("the column to be at the subscriber", ARRIVAL, async || {
            let wanted: i64 = owner.query_one(&judge, &[]).await?.get(0);
            let found = self.count(&held).await?;
            Ok(if found == wanted && wanted > 0 {
                Ok(wanted)
            } else {
                Err(format!("{found} of {wanted} rows have the new value"))
            })
        })
        .await?;
        self.screen.say(&format!(
            "         at the subscriber after {} ms: {rows} rows have 'A', the others '{value}'",
            begun.elapsed().as_millis()
        ));
        Ok(())
    }

    /// 工商 adds a table to its connector, which runs on; another department gets a view of it.
    pub(super) async fn a_table_is_added(&mut self) -> Result<()> {
        let share = ABNORMAL;
        let prefix = self.stage.prefix(share.provider);
        let topic = share.topic(&prefix);
        self.screen.say(&format!(
            "scene 9: 工商 makes a table ent_abnormal (经营异常名录) and adds it to {}, which runs",
            registration::source_name(share.provider)
        ));
        let owner = connect(&self.stage.database(share.provider)?.url).await?;
        owner.batch_execute(ABNORMAL_TABLE).await?;
        let rows = owner.execute(ABNORMAL_ROWS, &[]).await?;
        owner
            .batch_execute(&format!(
                "GRANT SELECT ON ent_abnormal TO {SOURCE_ROLE};
                 ALTER PUBLICATION {PUBLICATION} ADD TABLE ent_abnormal"
            ))
            .await?;
        let begun = Instant::now();
        let api = self.platform.api();
        registration::capture_also(api, share.provider, "ent_abnormal").await?;
        let admin = Admin::new(&KafkaConfig::plain(&self.stage.bootstrap)?)?;
        let wanted = i64::try_from(rows)?;
        until("the table's topic to be filled", ARRIVAL, async || {
            let records = match admin.topic(&topic).await? {
                Some(_) => admin.end_offsets(&topic, Isolation::ReadCommitted).await?,
                None => return Ok(Err("there is no topic".to_owned())),
            };
            // Behind the rows of a transaction lies its marker, so the end is beyond their number.
            let found: i64 = records.values().sum();
            Ok(if found > wanted {
                Ok(())
            } else {
                Err(format!("{found} of {wanted} rows are there"))
            })
        })
        .await?;
        self.screen.say(&format!(
            "         its {rows} rows are in topic {topic} after {} ms",
            begun.elapsed().as_millis()
        ));
        registration::view(api, self.stage, &share).await?;
        registration::sink(api, self.stage, &share, &self.platform.secret("sink")).await?;
        let begun = Instant::now();
        self.watch.put_share(share);
        let judge = format!(
            "SELECT count(*) FROM ent_abnormal WHERE {}",
            share.judge_condition()
        );
        let wanted: i64 = owner.query_one(&judge, &[]).await?.get(0);
        self.wait_for_rows(wanted).await?;
        self.screen.say(&format!(
            "         view {} has {wanted} of them at {}, after {} ms",
            share.view(),
            share.subscriber.front(),
            begun.elapsed().as_millis()
        ));
        owner
            .batch_execute("DELETE FROM ent_abnormal WHERE pripid = (SELECT min(pripid) FROM ent_abnormal WHERE removed_on IS NULL)")
            .await?;
        let begun = Instant::now();
        self.wait_for_rows(wanted - 1).await?;
        self.screen.say(&format!(
            "         an enterprise is deleted there, and gone at the subscriber after {} ms",
            begun.elapsed().as_millis()
        ));
        Ok(())
    }

    async fn wait_for_rows(&self, wanted: i64) -> Result<()> {
        until("the new table's view to be right", ARRIVAL, async || {
            let found = i64::try_from(self.watch.rows(&ABNORMAL).await?)?;
            Ok(if found == wanted {
                Ok(())
            } else {
                Err(format!("{found} of {wanted} rows"))
            })
        })
        .await
    }
}

/// What comes into a topic from now on, as any reader of it sees it.
struct Tail {
    readers: Vec<PartitionReader>,
    decoders: HashMap<SchemaId, EventDecoder>,
}

impl Tail {
    async fn begin(bootstrap: &str, topic: &str) -> Result<Self> {
        let kafka = KafkaConfig::plain(bootstrap)?;
        let isolation = Isolation::ReadCommitted;
        let ends = Admin::new(&kafka)?.end_offsets(topic, isolation).await?;
        let mut readers = Vec::new();
        for (partition, end) in ends {
            let start = Start::At(end);
            let reader = PartitionReader::open(&kafka, topic, partition, start, isolation).await?;
            readers.push(reader);
        }
        Ok(Self {
            readers,
            decoders: HashMap::new(),
        })
    }

    /// Waits for a row that has this text in this column, and returns its record's offset.
    async fn wait_for(&mut self, api: &Api, column: &str, wanted: &str) -> Result<i64> {
        let deadline = Instant::now() + ARRIVAL;
        while Instant::now() < deadline {
            for index in 0..self.readers.len() {
                let wait = crate::process::LOOK;
                let messages = self.readers[index].poll(POLL_BYTES, wait).await?;
                for message in messages {
                    let Some(value) = &message.value else {
                        continue;
                    };
                    if self.text(api, value, column).await?.as_deref() == Some(wanted) {
                        return Ok(message.offset);
                    }
                }
            }
        }
        anyhow::bail!("no change with {column} = {wanted} after {ARRIVAL:?}")
    }

    /// Returns what a change's row has in a column, if it has the column, as text.
    async fn text(&mut self, api: &Api, value: &[u8], column: &str) -> Result<Option<String>> {
        let (id, _) = wire::split(value)?;
        let decoder = match self.decoders.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let path = format!("/schemas/ids/{}", id.0);
                let answer = api.registry("GET", &path, None).await?.ok()?;
                let schema = answer["schema"].as_str().context("a schema")?;
                unknown.insert(EventDecoder::compile(schema)?)
            }
        };
        let mut columns = decoder.columns().iter();
        let Some(place) = columns.position(|known| known.name == column) else {
            return Ok(None);
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        decoder.decode(value, &mut before, &mut after)?;
        Ok(match after.get(place) {
            Some(Cell::Text(text)) => Some((*text).to_owned()),
            _ => None,
        })
    }
}
