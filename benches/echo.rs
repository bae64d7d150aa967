//! The Kafka library alone, as the platform uses it: the limit of everything that goes from topic to
//! topic, and a count of what a topic holds.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(60);
/// As a processor cuts its batches.
const COMMIT_BYTES: usize = 4 << 20;
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);

/// What an echo read and wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echoed {
    pub(crate) records: u64,
    pub(crate) seconds: f64,
}

/// Reads every record of a topic's only partition and writes one record in `of` of them to another
/// topic, cut to `value_bytes`, in transactions.
pub(crate) async fn run(
    bootstrap: &str,
    topic: &str,
    to: &str,
    share: f64,
    value_bytes: usize,
) -> Result<Echoed> {
    let admin = admin(bootstrap)?;
    let new = NewTopic::new(to, 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    admin.create_topics(&[new], &AdminOptions::new()).await?;
    let (bootstrap, topic, to) = (bootstrap.to_owned(), topic.to_owned(), to.to_owned());
    let echoed = {
        let (bootstrap, to) = (bootstrap.clone(), to.clone());
        tokio::task::spawn_blocking(move || echo(&bootstrap, &topic, &to, share, value_bytes))
            .await??
    };
    delete_topic(&bootstrap, &to).await?;
    Ok(echoed)
}

fn echo(bootstrap: &str, topic: &str, to: &str, share: f64, value_bytes: usize) -> Result<Echoed> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", to)
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "0")
        .set("queue.buffering.max.kbytes", "131072")
        .set("delivery.report.only.error", "true")
        .create()?;
    producer.init_transactions(TIMEOUT)?;
    let mut source = Source::open(bootstrap, topic, 0)?;
    let started = Instant::now();
    let (mut records, mut written) = (0_u64, 0_u64);
    let (mut open_bytes, mut opened) = (0, Instant::now());
    producer.begin_transaction()?;
    while let Some(message) = source.next()? {
        records += 1;
        let value = message.payload().unwrap_or_default();
        if records as f64 * share >= (written + 1) as f64 {
            written += 1;
            let value = &value[..value.len().min(value_bytes)];
            let mut record = BaseRecord::to(to)
                .key(message.key().unwrap_or_default())
                .payload(value);
            while let Err((error, refused)) = producer.send(record) {
                ensure!(
                    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull),
                    "{error}"
                );
                producer.poll(Duration::from_millis(1));
                record = refused;
            }
            open_bytes += value.len();
        }
        if open_bytes >= COMMIT_BYTES || (open_bytes > 0 && opened.elapsed() >= COMMIT_INTERVAL) {
            commit(&producer)?;
            producer.begin_transaction()?;
            (open_bytes, opened) = (0, Instant::now());
        }
    }
    commit(&producer)?;
    Ok(Echoed {
        records,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Commits once everything is delivered. Left to wait by itself, the wrapper looks every 100 ms only.
fn commit(producer: &BaseProducer) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
        ensure!(Instant::now() < deadline, "records could not be delivered");
    }
    Ok(producer.commit_transaction(TIMEOUT)?)
}

/// Returns how many records a reader of committed ones finds behind an offset.
pub(crate) fn count(bootstrap: &str, topic: &str, from: i64) -> Result<u64> {
    let mut source = Source::open(bootstrap, topic, from)?;
    let mut records = 0;
    while source.next()?.is_some() {
        records += 1;
    }
    Ok(records)
}

/// Returns the mean size of the values with their headers, looking at the first thousand.
pub(crate) fn value_bytes(bootstrap: &str, topic: &str) -> Result<usize> {
    let mut source = Source::open(bootstrap, topic, 0)?;
    let (mut bytes, mut records) = (0, 0);
    while let Some(message) = source.next()?
        && records < 1000
    {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let header =
            |header: Header<'_, &[u8]>| header.key.len() + header.value.map_or(0, <[u8]>::len);
        bytes += message.payload_len() + headers.map(header).sum::<usize>();
        records += 1;
    }
    ensure!(records > 0, "{topic} is empty");
    Ok(bytes / records)
}

/// Deletes a topic.
pub(crate) async fn delete_topic(bootstrap: &str, topic: &str) -> Result<()> {
    delete_topics(bootstrap, &[topic]).await
}

/// Deletes topics, all at once.
pub(crate) async fn delete_topics<S: AsRef<str>>(bootstrap: &str, topics: &[S]) -> Result<()> {
    let admin = admin(bootstrap)?;
    let topics: Vec<&str> = topics.iter().map(AsRef::as_ref).collect();
    for outcome in admin.delete_topics(&topics, &AdminOptions::new()).await? {
        outcome.map_err(|(topic, code)| anyhow::anyhow!("could not delete {topic}: {code}"))?;
    }
    Ok(())
}

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()?)
}

/// A topic's only partition, up to its end.
struct Source(BaseConsumer);

impl Source {
    fn open(bootstrap: &str, topic: &str, from: i64) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench-echo")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", "65536")
            // By its defaults the library stops fetching for a second whenever 100,000 records wait. The
            // waits are those of the platform's readers.
            .set("queued.min.messages", "1000000")
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.wait.max.ms", "100")
            .create()?;
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, 0, Offset::Offset(from))?;
        consumer.assign(&at)?;
        Ok(Self(consumer))
    }

    fn next(&mut self) -> Result<Option<rdkafka::message::BorrowedMessage<'_>>> {
        match self.0.poll(TIMEOUT).context("the topic went silent")? {
            Ok(message) => Ok(Some(message)),
            Err(KafkaError::PartitionEOF(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
