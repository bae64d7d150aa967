//! Topics are made, waited for and checked many at a time: a source with thousands of tables asks
//! for all of theirs, and each question to a broker costs a round trip, however many topics it is
//! about.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;

use super::{Admin, Isolation, REQUEST, TopicId, TopicInfo, TopicSpec, at_least, options};
use crate::error::{Error, Failure};
use crate::native::{configs, topics};
use crate::reader::fetching::{self, blocking, operation};

/// How long new topics may take until their partitions have leaders.
const SETTLE: Duration = Duration::from_secs(30);

/// How often it is looked whether they have settled.
const LOOK: Duration = Duration::from_millis(20);

/// A topic that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// What it is.
    pub info: TopicInfo,
    /// Whether it was there before.
    pub existed: bool,
}

/// What is known of topics, by name: a topic, that there is none, or why it cannot be told.
type Found = HashMap<String, Result<Option<TopicInfo>, Error>>;

impl Admin {
    /// Creates the topic if it is missing, and checks it if it is there. Returns when it can be used.
    ///
    /// # Errors
    ///
    /// Definite: it is there with other partitions, another cleanup policy or kind of timestamp, or
    /// a smaller limit of size ([`Error::TopicMismatch`]); or a right is missing. Else transient.
    pub async fn ensure_topic(&self, spec: &TopicSpec) -> Result<TopicInfo, Error> {
        let ensured = self.ensure_topics(std::slice::from_ref(spec)).await?;
        let info = match ensured.into_iter().next() {
            Some(ensured) => ensured?.info,
            None => return Err(missing(&spec.name)),
        };
        if info.partitions != spec.partitions {
            let found = info.partitions.to_string();
            return Err(mismatch(
                spec,
                "partitions",
                &found,
                &spec.partitions.to_string(),
            ));
        }
        Ok(info)
    }

    /// Creates those topics that are missing, and checks those that are there, which keep their
    /// number of partitions. Returns when they can be used, with what became of each, in the order of
    /// the specifications.
    ///
    /// # Errors
    ///
    /// Of a single topic as [`ensure_topic`](Self::ensure_topic), without the partitions. Of all:
    /// transient, because no broker answers.
    pub async fn ensure_topics(
        &self,
        specs: &[TopicSpec],
    ) -> Result<Vec<Result<Ensured, Error>>, Error> {
        let mut made = HashSet::new();
        let mut ensured = self.ensure_as_known(specs, &mut made).await?;
        let deadline = Instant::now() + SETTLE;
        loop {
            // A broker that is about to forget a topic may still know it and nothing of it.
            let vanishing = (0..specs.len()).filter(|index| is_vanishing(&ensured[*index]));
            let vanishing: Vec<usize> = vanishing.collect();
            if vanishing.is_empty() {
                return Ok(ensured);
            }
            if Instant::now() >= deadline {
                for index in vanishing {
                    ensured[index] = Err(unsettled(&specs[index].name));
                }
                return Ok(ensured);
            }
            tokio::time::sleep(LOOK).await;
            let specs: Vec<_> = vanishing
                .iter()
                .map(|index| specs[*index].clone())
                .collect();
            let again = self.ensure_as_known(&specs, &mut made).await?;
            for (index, again) in vanishing.into_iter().zip(again) {
                ensured[index] = again;
            }
        }
    }

    /// Does it once; `made` is added what is made.
    async fn ensure_as_known(
        &self,
        specs: &[TopicSpec],
        made: &mut HashSet<String>,
    ) -> Result<Vec<Result<Ensured, Error>>, Error> {
        let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
        let mut found = self.describe_all(&names).await?;
        let absent = |spec: &&TopicSpec| matches!(found.get(&spec.name), Some(Ok(None)));
        let absent: Vec<&TopicSpec> = specs.iter().filter(absent).collect();
        for (name, info) in self.make(&absent).await? {
            made.insert(name.clone());
            found.insert(name, info);
        }
        let usable = found.iter().filter(|(_, info)| matches!(info, Ok(Some(_))));
        let usable = usable.map(|(name, _)| name.clone()).collect();
        let mut configs = self.topic_configs(usable).await?;
        let ensured = specs.iter().map(|spec| {
            let info = match found.remove(&spec.name) {
                Some(found) => found?,
                None => None,
            };
            let info = info.ok_or_else(|| missing(&spec.name))?;
            if let Some(config) = configs.remove(&spec.name) {
                check(spec, &config?)?;
            }
            Ok(Ensured {
                info,
                existed: !made.contains(&spec.name),
            })
        });
        Ok(ensured.collect())
    }

    /// Asks for topics. A topic that cannot be described is so by itself.
    pub(super) async fn describe_all(&self, names: &[String]) -> Result<Found, Error> {
        if names.is_empty() {
            return Ok(Found::new());
        }
        let names = names.to_vec();
        self.ask(move |client| {
            let subject = names.first().map_or("", String::as_str);
            let described = topics::describe_all(client, &names, REQUEST)
                .map_err(|failure| operation("describe topic", subject, failure))?;
            let of_topic =
                |(name, outcome): (String, Result<Option<topics::Described>, Failure>)| {
                    let info = match outcome {
                        Ok(described) => Ok(described.map(|described| TopicInfo {
                            id: TopicId(described.id),
                            partitions: described.partitions,
                        })),
                        Err(failure) => Err(operation("describe topic", &name, failure)),
                    };
                    (name, info)
                };
            Ok(described.into_iter().map(of_topic).collect())
        })
        .await
    }

    /// Creates topics and waits until they can be used.
    async fn make(&self, specs: &[&TopicSpec]) -> Result<Found, Error> {
        let Some(first) = specs.first() else {
            return Ok(Found::new());
        };
        let topics: Vec<NewTopic<'_>> = specs.iter().map(|spec| new_topic(spec)).collect();
        let changing = &self.client.clients().changing;
        let created = changing.create_topics(&topics, &options()).await;
        let created = created
            .map_err(|error| operation("create topic", &first.name, Failure::from(error)))?;
        let mut made = Found::new();
        let mut waiting = Vec::new();
        for outcome in created {
            match outcome {
                Ok(name) => waiting.push(name),
                // Somebody else was faster.
                Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => waiting.push(name),
                Err((name, code)) => {
                    let error = operation("create topic", &name, Failure::of(code));
                    made.insert(name, Err(error));
                }
            }
        }
        self.settle(waiting, &mut made).await?;
        Ok(made)
    }

    /// Waits until all partitions of new topics have leaders; until then questions for their ends
    /// fail.
    async fn settle(&self, mut waiting: Vec<String>, made: &mut Found) -> Result<(), Error> {
        let deadline = Instant::now() + SETTLE;
        while !waiting.is_empty() {
            let described = self.describe_all(&waiting).await?;
            let known = described.iter().filter_map(|(name, found)| match found {
                Ok(Some(info)) => Some((name.clone(), info.partitions)),
                _ => None,
            });
            let led = self.led(known.collect()).await?;
            for (name, found) in described {
                if led.contains(&name) {
                    waiting.retain(|waiting| *waiting != name);
                    made.insert(name, found);
                }
            }
            if waiting.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                for name in waiting.drain(..) {
                    let error = unsettled(&name);
                    made.insert(name, Err(error));
                }
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Returns those topics of which all partitions say where they end.
    async fn led(&self, topics: Vec<(String, i32)>) -> Result<Vec<String>, Error> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let config = self.config.clone();
        blocking(move || {
            let asking = fetching::consumer(&config, Isolation::ReadUncommitted, None)?;
            fetching::led(&asking, &topics)
        })
        .await
    }

    async fn topic_configs(
        &self,
        names: Vec<String>,
    ) -> Result<HashMap<String, Result<BTreeMap<String, String>, Error>>, Error> {
        let Some(first) = names.first().cloned() else {
            return Ok(HashMap::new());
        };
        let verb = "describe the configuration of topic";
        self.ask(move |client| {
            let described = configs::describe_all(client, &names, REQUEST)
                .map_err(|failure| operation(verb, &first, failure))?;
            let named = described.into_iter().map(|(name, config)| {
                let config = config.map_err(|failure| operation(verb, &name, failure));
                (name, config)
            });
            Ok(named.collect())
        })
        .await
    }
}

fn unsettled(topic: &str) -> Error {
    Error::TimedOut {
        operation: "create topic",
        subject: topic.to_owned(),
        after: SETTLE,
    }
}

fn is_vanishing(ensured: &Result<Ensured, Error>) -> bool {
    matches!(ensured, Err(Error::Operation { source, .. }) if topics::is_unknown(source))
}

fn new_topic(spec: &TopicSpec) -> NewTopic<'_> {
    let mut topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(-1));
    for (name, value) in &spec.config {
        topic = topic.set(name, value);
    }
    topic
}

fn check(spec: &TopicSpec, found: &BTreeMap<String, String>) -> Result<(), Error> {
    for (property, wanted) in &spec.config {
        let found = found.get(property).map_or("", String::as_str);
        let is_met = match property.as_str() {
            "cleanup.policy" | "message.timestamp.type" => found == wanted,
            "max.message.bytes" => at_least(found, wanted),
            // The others bound time and space; whoever changed them had a reason.
            _ => true,
        };
        if !is_met {
            return Err(mismatch(spec, property, found, wanted));
        }
    }
    Ok(())
}

fn mismatch(spec: &TopicSpec, property: &str, found: &str, wanted: &str) -> Error {
    Error::TopicMismatch {
        topic: spec.name.clone(),
        property: property.to_owned(),
        found: found.to_owned(),
        wanted: wanted.to_owned(),
    }
}

fn missing(topic: &str) -> Error {
    Error::TopicMissing {
        topic: topic.to_owned(),
    }
}
