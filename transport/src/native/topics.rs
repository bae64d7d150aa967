//! Topic ids, which the wrapper's administrative client does not know.

use std::collections::HashSet;
use std::ffi::{CString, c_char};
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::request::{lent, request};
use super::{copy_failure, text};
use crate::error::Failure;

/// A topic's id, as Kafka's own tools print it, and its number of partitions.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) id: String,
    pub(crate) partitions: i32,
}

/// What was found out about a topic: `None` if there is none of this name.
pub(crate) type Answered = Result<Option<Described>, Failure>;

/// Returns whether a broker, or librdkafka for it, says that there is no such topic.
pub(crate) fn is_unknown(failure: &Failure) -> bool {
    matches!(
        failure.code,
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic
    )
}

/// Asks for topics. Blocks up to `timeout`.
///
/// # Safety
///
/// `client` is valid during the call.
unsafe fn describe_raw(
    client: *mut sys::rd_kafka_t,
    topics: &[String],
    timeout: Duration,
) -> Result<Vec<(String, Answered)>, Failure> {
    let mut names = Vec::with_capacity(topics.len());
    for topic in topics {
        let name = CString::new(topic.as_str());
        names.push(name.map_err(|_| Failure::of(RDKafkaErrorCode::InvalidTopic))?);
    }
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the client is valid during the call; collection, options and queue are freed after
    // their last use, and the names outlive the collection, which copies them; what the answer lends
    // is copied while the answer lives, from an array as long as it says.
    unsafe {
        let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let answer = request(client, operation, timeout, |options, queue| {
            let collection =
                sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            sys::rd_kafka_DescribeTopics(client, collection, options, queue);
            sys::rd_kafka_TopicCollection_destroy(collection);
        })?;
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.as_ptr());
        if result.is_null() {
            return Err(Failure::of(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let found = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let found = lent(found, count).iter();
        // The library leaves a hole for a topic of which the broker says nothing.
        let found = found.filter(|description| !description.is_null());
        let described = found.map(|description| {
            let name = text(sys::rd_kafka_TopicDescription_name(*description));
            (name, answered(*description))
        });
        Ok(described.collect())
    }
}

/// Copies what is said of one topic.
///
/// # Safety
///
/// The description is valid during the call.
unsafe fn answered(description: *const sys::rd_kafka_TopicDescription_t) -> Answered {
    // SAFETY: the caller vouches for the description; what it lends is copied.
    unsafe {
        match copy_failure(sys::rd_kafka_TopicDescription_error(description)) {
            Some(failure) if is_unknown(&failure) => return Ok(None),
            Some(failure) => return Err(failure),
            None => {}
        }
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        let id = sys::rd_kafka_TopicDescription_topic_id(description);
        Ok(Some(Described {
            // librdkafka writes the plain alphabet, Kafka's own tools that of URLs.
            id: text(sys::rd_kafka_Uuid_base64str(id))
                .replace('+', "-")
                .replace('/', "_"),
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
        }))
    }
}

/// Asks for topics through any client; a topic that the answer leaves out is not there. Blocks.
pub(crate) fn describe_all<C: rdkafka::ClientContext>(
    client: &rdkafka::client::Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<Vec<(String, Answered)>, Failure> {
    // SAFETY: the client is borrowed for the call.
    let mut answers = unsafe { describe_raw(client.native_ptr(), topics, timeout)? };
    let mut named: HashSet<String> = answers.iter().map(|(name, _)| name.clone()).collect();
    for topic in topics {
        if named.insert(topic.clone()) {
            answers.push((topic.clone(), Ok(None)));
        }
    }
    Ok(answers)
}

/// Asks for one topic through any client; `None` if there is none of this name. Blocks.
pub(crate) fn describe<C: rdkafka::ClientContext>(
    client: &rdkafka::client::Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Described>, Failure> {
    let mut answers = describe_all(client, &[topic.to_owned()], timeout)?;
    answers.pop().map_or(Ok(None), |(_, answered)| answered)
}

/// How often a topic must be unknown to be missing, and how long apart: a broker that has just
/// started, or not heard of a new topic yet, is no reason to stop a task for good.
const ASKED: usize = 3;
const APART: Duration = Duration::from_millis(500);

/// Like [`describe`], but asks again before it says that there is none. Blocks.
pub(crate) fn describe_surely<C: rdkafka::ClientContext>(
    client: &rdkafka::client::Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Described>, Failure> {
    for _ in 1..ASKED {
        if let Some(described) = describe(client, topic, timeout)? {
            return Ok(Some(described));
        }
        std::thread::sleep(APART);
    }
    describe(client, topic, timeout)
}
