//! Every record of every view, against the policy that its header names and the row that it shows.
//!
//! | of every record | |
//! |---|---|
//! | its version | was given to this view, in the generation whose topic it is in; never goes back within a partition; is none that was replaced before all partitions had the next one in force |
//! | its row | existed at the source under this key, and was never newer before; a hidden key stands for one row and one version of the share's key |
//! | what it shows | exactly the columns of that version, masked as it says, of a row for which its condition is TRUE, as PostgreSQL evaluates both |
//! | its cause | no change causes two records of a key |
//! | of whole topics | a tombstone is for a key that was there; what the view held is written again once after tombstones, to end their segment |

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use hutong_transport::reader::Message;
use tokio_postgres::Client;

use super::department::is_read_again;
use super::model::{History, VIEWS, View};
use super::oracle::{Verdict, judge};
use super::records::{Origin, Schemas, origin};
use super::tail::{Partition, Tail};
use crate::world::World;

/// Since some moment a version is in force: records from an offset on have it, or a later one.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) partition: Partition,
    pub(super) offset: i64,
    pub(super) version: u64,
}

/// What was checked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) rows: usize,
    pub(super) tombstones: usize,
    /// Records behind a bound.
    pub(super) bounded: usize,
    /// Records of topics of which nothing was missed.
    pub(super) whole: usize,
    /// Records that were written again.
    pub(super) repeats: usize,
}

/// Checks views' records as they come.
#[derive(Default)]
pub(super) struct Checker {
    pub(super) schemas: Schemas,
    pub(super) counts: Counts,
    partitions: BTreeMap<Partition, Progress>,
    hidden: HiddenKeys,
}

/// Which hidden key stands for which row, under a version of the share's key, and the other way round.
#[derive(Default)]
struct HiddenKeys {
    rows: HashMap<String, (u32, i64)>,
    keys: HashMap<(u32, i64), String>,
}

impl HiddenKeys {
    fn see(&mut self, key: &str, row: (u32, i64)) -> Result<()> {
        let stands_for = self.rows.entry(key.to_owned()).or_insert(row);
        let stood_for = self.keys.entry(row).or_insert(key.to_owned());
        ensure!(
            *stands_for == row && stood_for == key,
            "key {key} stood for {stands_for:?}, and {row:?} had key {stood_for}"
        );
        Ok(())
    }
}

/// What was seen of a partition.
#[derive(Default)]
struct Progress {
    checked: usize,
    policy: u64,
    /// The newest record of each key, `None` for a tombstone.
    newest: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Whether there was a tombstone since a record was last written again.
    has_tombstone: bool,
    /// The number in the ledger of the newest row of each key.
    ages: HashMap<i64, i64>,
    changes: HashSet<(Vec<u8>, (String, String))>,
}

/// A row that a record shows.
struct Shown {
    key: String,
    fields: Vec<(String, Option<String>)>,
    ver: i64,
}

impl Checker {
    /// Checks what was read since it was last called.
    pub(super) async fn check(
        &mut self,
        world: &World,
        tail: &Tail,
        histories: &BTreeMap<View, History>,
        bounds: &[Bound],
    ) -> Result<()> {
        let department = world.department.connect().await?;
        for view in VIEWS {
            let prefix = topic_prefix(world, view);
            let fresh = self.fresh(tail, &prefix);
            for (partition, all, checked, is_whole) in fresh {
                let generation = partition.0.trim_start_matches(&prefix).parse()?;
                let messages = &all[checked..];
                self.schemas.learn(world, messages).await?;
                let part = Part {
                    view,
                    history: histories.get(&view).context("a view that was never made")?,
                    generation,
                    partition: &partition,
                    messages,
                    all: &all,
                    is_whole,
                    bounds,
                };
                part.check(self, &department).await?;
            }
        }
        Ok(())
    }

    fn fresh(&self, tail: &Tail, prefix: &str) -> Vec<(Partition, Vec<Message>, usize, bool)> {
        let logs = tail.logs();
        let own = logs
            .iter()
            .filter(|((topic, _), _)| topic.starts_with(prefix));
        own.map(|(partition, log)| {
            let checked = self
                .partitions
                .get(partition)
                .map_or(0, |seen| seen.checked);
            (
                partition.clone(),
                log.records.clone(),
                checked,
                log.is_whole(),
            )
        })
        .collect()
    }
}

/// Returns the beginning of the names of a view's topics, before the generation.
pub(super) fn topic_prefix(world: &World, view: View) -> String {
    format!("{}.view.{}.g", world.platform.cluster(), view.name)
}

/// Records of one partition of one generation of a view.
struct Part<'a> {
    view: View,
    history: &'a History,
    generation: u64,
    partition: &'a Partition,
    messages: &'a [Message],
    /// And those that were checked before.
    all: &'a [Message],
    is_whole: bool,
    bounds: &'a [Bound],
}

impl Part<'_> {
    async fn check(&self, checker: &mut Checker, department: &Client) -> Result<()> {
        let mut shown = Vec::new();
        let mut asked: BTreeMap<u64, BTreeSet<i64>> = BTreeMap::new();
        for message in self.messages {
            let from = origin(message).with_context(|| self.place(message))?;
            let row = self.decode(&mut checker.schemas, message);
            let row = row.with_context(|| self.place(message))?;
            if let Some(row) = &row {
                asked.entry(from.policy).or_default().insert(row.ver);
            }
            shown.push((message, from, row));
        }
        let mut verdicts = HashMap::new();
        for (policy, versions) in asked {
            let version = self.history.versions.get(&policy);
            let version = version
                .with_context(|| format!("{:?}: no policy {policy} was given", self.view))?;
            let found = judge(department, self.view, &version.policy, versions).await?;
            verdicts.extend(
                found
                    .into_iter()
                    .map(|(ver, verdict)| ((policy, ver), verdict)),
            );
        }
        let mut progress = checker
            .partitions
            .remove(self.partition)
            .unwrap_or_default();
        for (message, from, row) in &shown {
            self.follow(message, from, &mut progress, &mut checker.counts)
                .and_then(|()| match row {
                    Some(row) => {
                        checker.counts.rows += 1;
                        let verdict = verdicts.get(&(from.policy, row.ver));
                        self.compare(from, row, verdict, &mut progress, &mut checker.hidden)
                    }
                    None => Ok(()),
                })
                .with_context(|| {
                    format!("{}, {from:?}\n{}", self.place(message), self.past(message))
                })?;
        }
        progress.checked += self.messages.len();
        checker.partitions.insert(self.partition.clone(), progress);
        Ok(())
    }

    fn place(&self, message: &Message) -> String {
        let (topic, partition) = self.partition;
        format!(
            "offset {} of partition {partition} of {topic}",
            message.offset
        )
    }

    /// Tells the last records before one, and those of its key.
    fn past(&self, message: &Message) -> String {
        let before = self
            .all
            .iter()
            .filter(|other| other.offset <= message.offset);
        let before: Vec<&Message> = before.collect();
        let late = before.len().saturating_sub(6);
        let related = before.iter().enumerate();
        let related = related.filter(|(place, other)| *place >= late || other.key == message.key);
        let lines = related.map(|(_, other)| {
            let header = other.header_hutong.as_deref().unwrap_or_default();
            format!(
                "  offset {} at {} {}, key {:02x?}, {}",
                other.offset,
                other.timestamp_ms,
                if other.value.is_some() {
                    "row"
                } else {
                    "tombstone"
                },
                other.key.as_deref().unwrap_or_default(),
                String::from_utf8_lossy(header)
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn decode(&self, schemas: &mut Schemas, message: &Message) -> Result<Option<Shown>> {
        let key = schemas.flat(message.key.as_deref().context("no key")?)?;
        let [(_, Some(key))] = key.as_slice() else {
            anyhow::bail!("the key is {key:?}");
        };
        let Some(value) = message.value.as_deref() else {
            return Ok(None);
        };
        let fields = schemas.flat(value)?;
        let ver = fields.iter().find(|(name, _)| name == "ver");
        let ver = ver.and_then(|(_, ver)| ver.as_deref()).context("no ver")?;
        Ok(Some(Shown {
            key: key.clone(),
            ver: ver.parse()?,
            fields,
        }))
    }

    /// Checks a record's place among the others.
    fn follow(
        &self,
        message: &Message,
        from: &Origin,
        progress: &mut Progress,
        counts: &mut Counts,
    ) -> Result<()> {
        let version = self.history.versions.get(&from.policy);
        let version = version.context("no such policy was given")?;
        ensure!(
            version.generation == self.generation,
            "the policy belongs to generation {}",
            version.generation
        );
        ensure!(
            from.policy >= progress.policy,
            "policy {} was in force before",
            progress.policy
        );
        progress.policy = from.policy;
        for bound in self.bounds {
            if bound.partition == *self.partition && message.offset >= bound.offset {
                counts.bounded += 1;
                ensure!(
                    from.policy >= bound.version,
                    "policy {} was in force in all partitions before offset {}",
                    bound.version,
                    bound.offset
                );
            }
        }
        let key = message.key.as_deref().context("no key")?.to_vec();
        let value = message.value.as_deref().map(<[u8]>::to_vec);
        if let Some(change) = &from.change {
            let is_first = progress.changes.insert((key.clone(), change.clone()));
            ensure!(is_first, "the change has caused another record of the key");
        }
        counts.tombstones += usize::from(value.is_none());
        let held = progress.newest.insert(key, value.clone());
        if self.is_whole {
            counts.whole += 1;
            let is_repeat = held.as_ref() == Some(&value);
            if is_repeat {
                counts.repeats += 1;
                let what = if value.is_some() { "row" } else { "tombstone" };
                ensure!(
                    from.change.is_none() && progress.has_tombstone,
                    "the view held this {what} already, and nothing was to be written again"
                );
            }
            progress.has_tombstone = !is_repeat && (progress.has_tombstone || value.is_none());
            ensure!(
                value.is_some() || held.is_some(),
                "a tombstone for a key that the view never held"
            );
        }
        Ok(())
    }

    /// Checks what a record shows.
    fn compare(
        &self,
        from: &Origin,
        shown: &Shown,
        verdict: Option<&Verdict>,
        progress: &mut Progress,
        hidden: &mut HiddenKeys,
    ) -> Result<()> {
        let version = &self.history.versions[&from.policy];
        let policy = &version.policy;
        let ver = shown.ver;
        let verdict = verdict.with_context(|| format!("no row ever had the version {ver}"))?;
        ensure!(
            verdict.is_granted,
            "version {ver} of row {} is hidden by: {}",
            verdict.key,
            policy.condition.sql()
        );
        let mut fields = shown.fields.iter();
        if policy.hides_key() {
            let first = fields.next().context("no fields")?;
            ensure!(
                *first == ("_rk".to_owned(), Some(shown.key.clone())),
                "the first field is {first:?}, the key {}",
                shown.key
            );
            hidden.see(&shown.key, (version.key, verdict.key))?;
        } else {
            ensure!(
                shown.key == verdict.key.to_string(),
                "row {} under key {}",
                verdict.key,
                shown.key
            );
        }
        let columns = policy.columns.iter().map(|column| column.name.to_owned());
        let expected: Vec<_> = columns.zip(verdict.row.clone()).collect();
        let found: Vec<_> = fields.cloned().collect();
        ensure!(
            found == expected,
            "it shows {found:?}, and may show {expected:?}"
        );
        let age = progress.ages.entry(verdict.key).or_insert(verdict.age);
        ensure!(
            *age <= verdict.age || is_read_again(self.view.table, verdict.key),
            "row {} goes back from change {age} of the ledger to {}",
            verdict.key,
            verdict.age
        );
        *age = verdict.age;
        Ok(())
    }
}
