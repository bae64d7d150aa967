//! Records that the table does not take, where the user tolerates errors.
//!
//! A batch that fails because of its rows is taken apart: the shortest beginning of it that fails ends
//! with a record that is to blame. It is put aside and the rest is tried again, until the rest is
//! taken. Only then the records that were put aside go to the topic of dead letters, and after that the
//! rest is committed together with the position and a row for each letter. A crash between the two
//! repeats the letters: a record is in the topic at least once, in `hutong_dead_letter` exactly once.
//!
//! A deletion is never put aside: what leaves a view must leave the table, so it stops the input.
//!
//! The reason says what kind of error it was and names table, columns and constraints, never a value.

use std::sync::Arc;

use hutong_connectors_postgres::sink::{self, Changes, DeadLetter};
use hutong_schemas::class::Class;
use hutong_schemas::wire;
use hutong_transport::admin::{Isolation, TopicSpec};
use hutong_transport::producer::{PlainProducer, PlainRecord};
use hutong_transport::reader::{Message, PartitionReader, Start};

use super::lane::Lane;
use super::opening::{Undelivered, of_topic};
use crate::task::TaskError;

/// More open letters than this are no exceptions any more: the input stops.
const LETTERS_MAX: usize = 10_000;
/// How much of the topic is read at once for a replay.
const REPLAY_BYTES: usize = 1 << 20;

/// Why a batch was not written.
pub(super) enum Unwritten {
    /// Something in it cannot be written or read. The transaction is to be rolled back.
    Rows(TaskError),
    Other(TaskError),
}

impl From<sink::Error> for Unwritten {
    fn from(error: sink::Error) -> Self {
        if error.is_about_rows() {
            Self::Rows(error.into())
        } else {
            Self::Other(error.into())
        }
    }
}

impl Unwritten {
    /// An error of decoding: one that asking again does not mend is the record's.
    pub(super) fn of_decoding(error: TaskError) -> Self {
        if error.class == Class::Definite {
            Self::Rows(error)
        } else {
            Self::Other(error)
        }
    }

    pub(super) fn into_error(self) -> TaskError {
        match self {
            Self::Rows(error) | Self::Other(error) => error,
        }
    }
}

impl Lane<'_> {
    /// Writes what of a batch can be written and puts the rest aside. Returns the number of rows.
    pub(super) async fn deliver_the_rest(
        &mut self,
        index: usize,
        batch: &[Message],
        next_offset: i64,
        read_up_to_ms: i64,
        replayed: Option<&str>,
    ) -> Result<usize, TaskError> {
        let mut good = batch.to_vec();
        let mut bad: Vec<(Message, TaskError)> = Vec::new();
        let mut taken = 0;
        loop {
            let poison = good
                .iter()
                .position(|message| self.parts[index].poison.contains_key(&message.offset));
            let found = match poison {
                Some(place) => {
                    let reason = self.parts[index].poison.remove(&good[place].offset);
                    reason.map(|reason| (place, reason))
                }
                None => self.find_bad(&good, taken).await?,
            };
            let Some((place, reason)) = found else {
                break;
            };
            if bad.len() + self.writer.letters().len() >= LETTERS_MAX {
                let message = format!("{LETTERS_MAX} dead letters wait already");
                return Err(TaskError::new(Class::Definite, message)
                    .with_hint("mend what the last of them say, and replay them"));
            }
            bad.push((good.remove(place), reason));
            // What stands before a refused record was taken; what cannot be read says nothing of it.
            taken = if poison.is_some() { 0 } else { place };
        }
        let partition = self.parts[index].partition;
        let mut letters: Vec<DeadLetter> = bad.iter().map(|(message, _)| letter(message)).collect();
        let known = self.writer.letters();
        let news = bad.iter().zip(&letters);
        let news: Vec<_> = news.filter(|(_, letter)| !known.contains(letter)).collect();
        for ((message, reason), _) in &news {
            self.send(message, reason).await?;
        }
        let mut changes = Changes::new(self.writer.target());
        changes = self.changes(&Arc::new(good.clone()), changes).await?;
        self.close_letters(partition, &good, &mut changes);
        if let Some(word) = replayed {
            changes.replayed(word);
        }
        let count = letters.len();
        letters
            .drain(..)
            .for_each(|letter| changes.put_aside(letter));
        self.apply(index, &changes, next_offset, read_up_to_ms)
            .await
            .map_err(Unwritten::into_error)?;
        self.shared
            .board
            .letters(self.index, self.writer.letters().len());
        if count > 0 {
            tracing::warn!(
                task = self.shared.ctx.task.task,
                table = %self.writer.target().table(), count,
                "records were put aside as dead letters"
            );
        }
        Ok(changes.len())
    }

    /// Returns the first record without which what comes before it is taken; `None` if all are. So
    /// many of the first are known to be taken.
    async fn find_bad(
        &self,
        messages: &[Message],
        mut taken: usize,
    ) -> Result<Option<(usize, TaskError)>, TaskError> {
        let Some(mut reason) = self.probe(messages).await? else {
            return Ok(None);
        };
        let mut refused = messages.len();
        while refused - taken > 1 {
            let middle = taken.midpoint(refused);
            match self.probe(&messages[..middle]).await? {
                Some(error) => (refused, reason) = (middle, error),
                None => taken = middle,
            }
        }
        if refused == 0 {
            return Err(reason);
        }
        let bad = refused - 1;
        let alone = Changes::new(self.writer.target());
        let alone = self
            .decoders
            .changes(self.writer.target(), &messages[bad..refused], alone);
        if messages[bad].value.is_none() || alone.is_ok_and(|alone| alone.deletes()) {
            return Err(reason.with_hint(
                "what leaves a view must leave the table; let the table give the row up",
            ));
        }
        Ok(Some((bad, reason)))
    }

    /// Tries records out and returns why they are refused.
    async fn probe(&self, messages: &[Message]) -> Result<Option<TaskError>, TaskError> {
        let target = self.writer.target();
        let probed = match self
            .decoders
            .changes(target, messages, Changes::new(target))
        {
            Ok(changes) => self.writer.probe(&changes).await.map_err(Unwritten::from),
            Err(error) => Err(Unwritten::of_decoding(error)),
        };
        match probed {
            Ok(()) => Ok(None),
            Err(Unwritten::Rows(error)) => Ok(Some(error)),
            Err(Unwritten::Other(error)) => Err(error),
        }
    }

    /// Closes the letters that records of a batch make up for.
    pub(super) fn close_letters(
        &self,
        partition: i32,
        messages: &[Message],
        changes: &mut Changes,
    ) {
        for open in self.writer.letters() {
            let makes_up = |message: &Message| {
                let is_later = message.offset >= open.offset;
                is_later && message.key.as_deref().map(key_of) == Some(open.key.as_slice())
            };
            if open.partition == partition && messages.iter().any(makes_up) {
                changes.close_letter(partition, open.offset);
            }
        }
    }

    /// Puts a record into the topic of dead letters, with Kafka Connect's headers about why.
    async fn send(&self, message: &Message, reason: &TaskError) -> Result<(), TaskError> {
        let ctx = &self.shared.ctx;
        let spec = TopicSpec::dlq(&ctx.cluster, &self.topic);
        ctx.admin.ensure_topic(&spec).await?;
        let producer = PlainProducer::new(&ctx.kafka)?;
        let record = PlainRecord {
            topic: spec.name,
            partition: Some(0),
            key: message.key.as_deref().unwrap_or_default().to_vec(),
            value: message.value.as_deref().map(<[u8]>::to_vec),
        };
        let (partition, offset) = (message.partition.to_string(), message.offset.to_string());
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("__connect.errors.topic", self.topic.as_bytes()),
            ("__connect.errors.partition", partition.as_bytes()),
            ("__connect.errors.offset", offset.as_bytes()),
            (
                "__connect.errors.connector.name",
                ctx.task.connector.as_bytes(),
            ),
            ("__connect.errors.task.id", b"0"),
            ("__connect.errors.stage", b"TASK_PUT"),
            (
                "__connect.errors.exception.message",
                reason.message.as_bytes(),
            ),
        ];
        headers.extend(message.header_hutong.as_deref().map(|own| ("hutong", own)));
        producer.send_with_headers(record, &headers).await?;
        Ok(())
    }

    /// Tries the open letters again, if that is newly asked for. Their records are in the input still:
    /// one that was compacted away has a successor, and is void.
    pub(super) async fn replay(&mut self) -> Result<(), Undelivered> {
        let word = self.shared.config.replay.clone();
        if word.is_empty() || word == self.writer.replayed_under() {
            return Ok(());
        }
        for index in 0..self.parts.len() {
            let partition = self.parts[index].partition;
            let letters = self.writer.letters().iter();
            let offsets: Vec<i64> = letters
                .filter(|letter| letter.partition == partition)
                .map(|letter| letter.offset)
                .collect();
            let is_last = index + 1 == self.parts.len();
            if offsets.is_empty() && !is_last {
                continue;
            }
            let messages = self.reread(partition, &offsets).await?;
            let mut void = Changes::new(self.writer.target());
            for offset in &offsets {
                if !messages.iter().any(|message| message.offset == *offset) {
                    void.close_letter(partition, *offset);
                }
            }
            let (next_offset, read_up_to_ms) = (
                self.writer.next_offset(partition),
                self.parts[index].read_up_to_ms,
            );
            self.apply(index, &void, next_offset, read_up_to_ms)
                .await
                .map_err(Unwritten::into_error)?;
            let word = is_last.then_some(word.as_str());
            self.deliver_the_rest(index, &messages, next_offset, read_up_to_ms, word)
                .await?;
        }
        tracing::info!(
            task = self.shared.ctx.task.task,
            table = %self.writer.target().table(), left = self.writer.letters().len(),
            "dead letters were tried again"
        );
        Ok(())
    }

    /// Reads the records at some offsets again, those that are still there.
    async fn reread(
        &mut self,
        partition: i32,
        offsets: &[i64],
    ) -> Result<Vec<Message>, Undelivered> {
        let (Some(first), Some(last)) = (offsets.first(), offsets.last()) else {
            return Ok(Vec::new());
        };
        let ctx = &self.shared.ctx;
        let mut reader = PartitionReader::open(
            &ctx.kafka,
            &self.topic,
            partition,
            Start::At(*first),
            Isolation::ReadCommitted,
        )
        .await
        .map_err(of_topic)?;
        let mut found = Vec::new();
        while reader.position() <= *last && !reader.at_end() {
            let messages = reader.poll(REPLAY_BYTES, super::TICK).await;
            for message in messages.map_err(of_topic)? {
                if offsets.contains(&message.offset) {
                    self.decoders.prepare(&ctx.schemas, &message).await?;
                    found.push(message);
                }
            }
        }
        Ok(found)
    }
}

fn letter(message: &Message) -> DeadLetter {
    DeadLetter {
        partition: message.partition,
        offset: message.offset,
        key: message
            .key
            .as_deref()
            .map(key_of)
            .unwrap_or_default()
            .to_vec(),
    }
}

/// Returns what of a key tells rows apart; of one that is not framed all of it.
fn key_of(key: &[u8]) -> &[u8] {
    wire::split(key).map_or(key, |(_, key)| key)
}
