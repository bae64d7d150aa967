//! The transactional producer's calls, with their whole answers, and producing without copying values.
//!
//! librdkafka points into the batches instead of copying each value. So batches are lent to
//! [`NativeProducer`], which gives them back when it is asked to and librdkafka holds no record any more.
//! What is never asked for goes with the client.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use hutong_schemas::batch::RecordBatch;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka_sys as sys;

use super::{take_failure, text};
use crate::error::Failure;

/// A producer, its topic handles, and the calls of a transaction.
pub(crate) struct NativeProducer<C: ProducerContext + 'static> {
    /// Handles first: fields drop in this order, and a handle must go before its client.
    topics: HashMap<Arc<str>, TopicHandle>,
    producer: BaseProducer<C>,
    /// What queued records point into. Behind the client: when that is gone, nothing does any more.
    lent: Vec<RecordBatch>,
    /// What records of an earlier transaction may still point into, as far as they could not be purged.
    kept: Vec<RecordBatch>,
}

struct TopicHandle(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: librdkafka's topic handles are counted references that any thread may use.
unsafe impl Send for TopicHandle {}

impl Drop for TopicHandle {
    fn drop(&mut self) {
        // SAFETY: our counted reference, given back once, before the client goes.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) };
    }
}

/// A topic that a producer has a handle of, for as long as the producer lives.
#[derive(Clone, Copy)]
pub(crate) struct Topic(NonNull<sys::rd_kafka_topic_t>);

/// A record to be produced.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// The value of the header [`crate::names::HEADER`].
    pub(crate) header: Option<&'a [u8]>,
}

impl Outgoing<'_> {
    /// Returns the bytes of key and value.
    pub(crate) fn bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

/// A record was not queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unqueued {
    /// How many of the same call were queued before it.
    pub(crate) before: usize,
    /// `QueueFull` means: nor was any behind it; serve events and try them again. After any other code some
    /// behind it may be queued, and the transaction must be aborted.
    pub(crate) code: RDKafkaErrorCode,
}

impl<C: ProducerContext + 'static> NativeProducer<C> {
    pub(crate) fn new(producer: BaseProducer<C>) -> Self {
        Self {
            topics: HashMap::new(),
            producer,
            lent: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// Takes batches whose records are to be produced.
    pub(crate) fn lend(&mut self, batches: Vec<RecordBatch>) {
        let before = std::mem::replace(&mut self.lent, batches);
        self.kept.extend(before);
    }

    /// Returns the batches that were lent last.
    pub(crate) fn lent(&self) -> &[RecordBatch] {
        &self.lent
    }

    /// Gives the batches back that were lent last, or none while librdkafka holds records that point into them.
    pub(crate) fn take_back(&mut self) -> Vec<RecordBatch> {
        // A record is counted until its memory is freed. Not by the length of the queue, where events that
        // nobody has served yet count as well.
        if !self.flush(Duration::ZERO) {
            return Vec::new();
        }
        self.kept.clear();
        std::mem::take(&mut self.lent)
    }

    /// Returns the safe wrapper.
    pub(crate) fn wrapped(&self) -> &BaseProducer<C> {
        &self.producer
    }

    fn client(&self) -> *mut sys::rd_kafka_t {
        self.producer.client().native_ptr()
    }

    /// Registers with the coordinator: fences predecessors and ends their transaction.
    pub(crate) fn init_transactions(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the client lives; the error is ours.
        answer(unsafe {
            take_failure(sys::rd_kafka_init_transactions(
                self.client(),
                milliseconds(timeout),
            ))
        })
    }

    /// Begins a transaction. Local: nothing is sent.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        // SAFETY: the client lives; the error is ours.
        answer(unsafe { take_failure(sys::rd_kafka_begin_transaction(self.client())) })
    }

    /// Commits. An error that says so may be retried and then goes on where it was.
    pub(crate) fn commit(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the client lives; the error is ours.
        answer(unsafe {
            take_failure(sys::rd_kafka_commit_transaction(
                self.client(),
                milliseconds(timeout),
            ))
        })
    }

    /// Aborts. An error that says so may be retried and then goes on where it was.
    pub(crate) fn abort(&self, timeout: Duration) -> Result<(), Failure> {
        // SAFETY: the client lives; the error is ours.
        answer(unsafe {
            take_failure(sys::rd_kafka_abort_transaction(
                self.client(),
                milliseconds(timeout),
            ))
        })
    }

    /// Sends what is queued and waits up to `timeout`; `true` when nothing is left.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        // SAFETY: the client lives.
        let code = unsafe { sys::rd_kafka_flush(self.client(), milliseconds(timeout)) };
        RDKafkaErrorCode::from(code) == RDKafkaErrorCode::NoError
    }

    /// Returns whether events wait to be served.
    pub(crate) fn has_events(&self) -> bool {
        // SAFETY: the client lives; the reference to its queue is ours, and given back.
        unsafe {
            let queue = sys::rd_kafka_queue_get_main(self.client());
            let length = sys::rd_kafka_queue_length(queue);
            sys::rd_kafka_queue_destroy(queue);
            length > 0
        }
    }

    /// Returns the error that ended this client, if one did.
    pub(crate) fn fatal(&self) -> Option<Failure> {
        let mut reason = [0; 512];
        // SAFETY: the client lives; the reason is written within the buffer, ending with a zero.
        unsafe {
            let code = sys::rd_kafka_fatal_error(self.client(), reason.as_mut_ptr(), reason.len());
            let code = RDKafkaErrorCode::from(code);
            (code != RDKafkaErrorCode::NoError).then(|| Failure {
                is_fatal: true,
                ..Failure::described(code, text(reason.as_ptr()))
            })
        }
    }

    /// Queues a record of a lent batch.
    ///
    /// # Panics
    ///
    /// Where the value is not of a lent batch.
    pub(crate) fn produce_lent(&self, topic: Topic, record: Outgoing<'_>) -> Result<(), Unqueued> {
        self.assert_lent(&record);
        // SAFETY: the value lies in a buffer that neither changes nor goes before librdkafka holds no
        // record any more: we own it, hand out shared references only, and give it back only then.
        unsafe { self.produce_with(0, topic, record) }
    }

    /// Queues records of a lent batch that have no headers and go to one partition, which costs less than
    /// one by one.
    ///
    /// # Panics
    ///
    /// Where a value is not of a lent batch, or a record has a header or goes elsewhere than the first.
    pub(crate) fn produce_all_lent(
        &self,
        Topic(topic): Topic,
        records: &[Outgoing<'_>],
    ) -> Result<(), Unqueued> {
        let Some(Outgoing { partition, .. }) = records.first().copied() else {
            return Ok(());
        };
        let message = |record: &Outgoing<'_>| {
            self.assert_lent(record);
            assert!(record.header.is_none(), "a header cannot be carried so");
            assert_eq!(record.partition, partition, "a run goes to one partition");
            let (key, key_len) = parts(record.key);
            let (payload, len) = parts(record.value);
            sys::rd_kafka_message_t {
                err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition,
                payload: payload.cast_mut(),
                len,
                key: key.cast_mut(),
                key_len,
                offset: 0,
                _private: ptr::null_mut(),
            }
        };
        let mut messages: Vec<_> = records.iter().map(message).collect();
        let count = c_int::try_from(messages.len()).expect("a run is short");
        // SAFETY: the handle is valid, and the messages live through the call. Keys are copied before it
        // returns; values lie in a buffer that neither changes nor goes before librdkafka holds no record
        // any more: we own it, hand out shared references only, and give it back only then. Neither is
        // written to.
        unsafe {
            sys::rd_kafka_produce_batch(topic.as_ptr(), partition, 0, messages.as_mut_ptr(), count);
        }
        let codes = messages
            .iter()
            .map(|message| RDKafkaErrorCode::from(message.err));
        let mut failed = codes
            .enumerate()
            .filter(|(_, code)| *code != RDKafkaErrorCode::NoError);
        match failed.next() {
            Some((before, code)) => Err(Unqueued { before, code }),
            None => Ok(()),
        }
    }

    fn assert_lent(&self, record: &Outgoing<'_>) {
        let is_lent = |value: &[u8]| {
            let value = value.as_ptr_range();
            let mut buffers = self.lent.iter().map(|batch| batch.buffer.as_ptr_range());
            buffers.any(|buffer| buffer.start <= value.start && value.end <= buffer.end)
        };
        assert!(
            record.value.is_none_or(is_lent),
            "a record that is not of a lent batch"
        );
    }

    /// Queues a record, copying it.
    pub(crate) fn produce(&self, topic: Topic, record: Outgoing<'_>) -> Result<(), Unqueued> {
        // SAFETY: the value is copied before the call returns.
        unsafe { self.produce_with(sys::RD_KAFKA_MSG_F_COPY, topic, record) }
    }

    /// # Safety
    ///
    /// Where `flags` do not say that it is copied, the value must live and stay the same until
    /// librdkafka has freed the record.
    unsafe fn produce_with(
        &self,
        flags: c_int,
        Topic(topic): Topic,
        record: Outgoing<'_>,
    ) -> Result<(), Unqueued> {
        let headers = record.header.map_or(ptr::null_mut(), headers_of);
        let (key, key_size) = parts(record.key);
        let (value, value_size) = parts(record.value);
        // SAFETY: the argument types are those that rdkafka.h documents for each tag; the handle
        // is valid; the key is copied before the call returns, and of the value the caller takes care;
        // the headers are ours and are librdkafka's only if it returns success.
        let code = unsafe {
            sys::rd_kafka_producev(
                self.client(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT,
                topic.as_ptr(),
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
                record.partition,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
                flags,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
                value,
                value_size,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
                key,
                key_size,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
                headers,
                sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
            )
        };
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => Ok(()),
            code => {
                if !headers.is_null() {
                    // SAFETY: the call failed, so the headers are still ours.
                    unsafe { sys::rd_kafka_headers_destroy(headers) };
                }
                Err(Unqueued { before: 0, code })
            }
        }
    }

    /// Returns a topic by its name.
    pub(crate) fn topic(&mut self, topic: &Arc<str>) -> Result<Topic, RDKafkaErrorCode> {
        if let Some(handle) = self.topics.get(topic) {
            return Ok(Topic(handle.0));
        }
        let name = CString::new(&**topic).map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
        // SAFETY: the client lives, the name is a C string, null asks for the default properties.
        let handle =
            unsafe { sys::rd_kafka_topic_new(self.client(), name.as_ptr(), ptr::null_mut()) };
        let Some(handle) = NonNull::new(handle) else {
            // SAFETY: reads the error of this thread's last call.
            return Err(unsafe { sys::rd_kafka_last_error() }.into());
        };
        self.topics.insert(Arc::clone(topic), TopicHandle(handle));
        Ok(Topic(handle))
    }
}

fn answer(failure: Option<Failure>) -> Result<(), Failure> {
    failure.map_or(Ok(()), Err)
}

fn milliseconds(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// A null pointer is absence (a tombstone, no key); an empty slice is a pointer that is not null.
fn parts(bytes: Option<&[u8]>) -> (*const c_void, usize) {
    bytes.map_or((ptr::null(), 0), |bytes| {
        (bytes.as_ptr().cast(), bytes.len())
    })
}

fn headers_of(value: &[u8]) -> *mut sys::rd_kafka_headers_t {
    const NAME: &[u8] = crate::names::HEADER.as_bytes();
    let name_size = isize::try_from(NAME.len()).expect("a name is short");
    let value_size = isize::try_from(value.len()).expect("a slice is at most isize::MAX long");
    // SAFETY: name and value are copied; a fresh header list takes any header.
    unsafe {
        let headers = sys::rd_kafka_headers_new(1);
        sys::rd_kafka_header_add(
            headers,
            NAME.as_ptr().cast(),
            name_size,
            value.as_ptr().cast(),
            value_size,
        );
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_is_not_a_tombstone() {
        assert!(parts(None).0.is_null());
        assert!(!parts(Some(&[])).0.is_null());
    }
}
