//! Polling a consumer's queue record by record, with the offsets of end-of-partition events, which
//! the safe wrapper throws away.

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;

use super::log::{Logged, line};
use super::text;
use crate::error::Failure;

/// The queue of an assigned consumer.
pub(crate) struct FetchQueue {
    queue: NonNull<sys::rd_kafka_queue_t>,
    /// Keeps the client alive for as long as the queue is used.
    consumer: Arc<BaseConsumer<Logged>>,
}

// SAFETY: librdkafka's queues may be used from any thread (rdkafka.h, "threads"), and the queue
// holds a reference count of its own.
unsafe impl Send for FetchQueue {}

/// What a poll found.
pub(crate) enum Polled<'a> {
    /// Nothing within the time.
    Nothing,
    /// Something that is none of the reader's business, such as a log line.
    Served,
    /// A record.
    Record(FetchedRecord<'a>),
    /// All that may be read was read: the offset is the position, which is the last stable offset.
    End { partition: i32, offset: i64 },
    /// The client or a partition cannot go on.
    Failed {
        partition: Option<i32>,
        failure: Failure,
    },
}

impl FetchQueue {
    /// Returns the consumer's queue, or `None` if the consumer has no group and thus no queue.
    pub(crate) fn of(consumer: Arc<BaseConsumer<Logged>>) -> Option<Self> {
        // SAFETY: the client lives; the returned queue is a counted reference or null.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        NonNull::new(queue).map(|queue| Self { queue, consumer })
    }

    /// Returns the consumer.
    pub(crate) fn consumer(&self) -> &BaseConsumer<Logged> {
        &self.consumer
    }

    /// Waits up to `timeout` for an event. Must not be called for a consumer in a group: its
    /// rebalances would be dropped.
    pub(crate) fn poll(&self, timeout: Duration) -> Polled<'_> {
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is valid until drop; the event is owned by us or null.
        let event = unsafe { sys::rd_kafka_queue_poll(self.queue.as_ptr(), timeout_ms) };
        let Some(event) = NonNull::new(event) else {
            return Polled::Nothing;
        };
        let event = Event {
            event,
            _queue: PhantomData,
        };
        // SAFETY: the event is valid until dropped.
        match unsafe { sys::rd_kafka_event_type(event.event.as_ptr()) } {
            sys::RD_KAFKA_EVENT_FETCH => event.into_record(),
            sys::RD_KAFKA_EVENT_ERROR => {
                let polled = event.into_error();
                if let Polled::Failed { failure, .. } = &polled {
                    let error = KafkaError::Global(failure.code);
                    self.consumer.context().error(error, &failure.message);
                }
                polled
            }
            sys::RD_KAFKA_EVENT_LOG => {
                event.log();
                Polled::Served
            }
            _ => Polled::Served,
        }
    }

    /// Returns the high watermark of the last fetch, without asking the broker; -1001 before it.
    pub(crate) fn cached_high_watermark(&self, topic: &CStr, partition: i32) -> i64 {
        let (mut low, mut high) = (0_i64, 0_i64);
        // SAFETY: the client lives, the name is a C string, both results are written to locals.
        let code = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
            )
        };
        if RDKafkaErrorCode::from(code) == RDKafkaErrorCode::NoError {
            high
        } else {
            i64::from(sys::RD_KAFKA_OFFSET_INVALID)
        }
    }
}

impl Drop for FetchQueue {
    fn drop(&mut self) {
        // SAFETY: our counted reference, given back once. Events borrow the queue, so none is left.
        unsafe { sys::rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

struct Event<'a> {
    event: NonNull<sys::rd_kafka_event_t>,
    _queue: PhantomData<&'a FetchQueue>,
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        // SAFETY: we own the event, and what points into it borrows this.
        unsafe { sys::rd_kafka_event_destroy(self.event.as_ptr()) };
    }
}

impl<'a> Event<'a> {
    fn into_record(self) -> Polled<'a> {
        // SAFETY: a fetch event carries one message, which lives as long as the event. Taking it
        // also moves the consumer's position past it.
        let message = unsafe { sys::rd_kafka_event_message_next(self.event.as_ptr()) };
        let Some(message) = NonNull::new(message.cast_mut()) else {
            return Polled::Served;
        };
        let record = FetchedRecord {
            message,
            _event: self,
        };
        let code = RDKafkaErrorCode::from(record.raw().err);
        match code {
            RDKafkaErrorCode::NoError => Polled::Record(record),
            RDKafkaErrorCode::PartitionEOF => Polled::End {
                partition: record.partition(),
                offset: record.offset(),
            },
            code => Polled::Failed {
                partition: Some(record.partition()),
                failure: Failure::of(code),
            },
        }
    }

    fn into_error(self) -> Polled<'a> {
        let event = self.event.as_ptr();
        // SAFETY: the event is valid until dropped. The partition is a copy that we own, or null.
        let (code, message, is_fatal, place) = unsafe {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event));
            let message = text(sys::rd_kafka_event_error_string(event));
            let is_fatal = sys::rd_kafka_event_error_is_fatal(event) != 0;
            let copy = sys::rd_kafka_event_topic_partition(event);
            let place = NonNull::new(copy).map(|copy| {
                let place = (copy.as_ref().partition, copy.as_ref().offset);
                sys::rd_kafka_topic_partition_destroy(copy.as_ptr());
                place
            });
            (code, message, is_fatal, place)
        };
        match (code, place) {
            (RDKafkaErrorCode::PartitionEOF, Some((partition, offset))) => {
                Polled::End { partition, offset }
            }
            (code, place) => Polled::Failed {
                partition: place.map(|(partition, _)| partition),
                failure: Failure {
                    is_fatal,
                    ..Failure::described(code, message)
                },
            },
        }
    }

    fn log(&self) {
        let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the event is valid, the strings it lends live as long as it does.
        unsafe {
            let done = sys::rd_kafka_event_log(
                self.event.as_ptr(),
                &raw mut facility,
                &raw mut message,
                &raw mut level,
            );
            if done == 0 {
                line(level_of(level), &text(facility), &text(message));
            }
        }
    }
}

/// syslog's numbers.
fn level_of(level: c_int) -> RDKafkaLogLevel {
    match level {
        0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        _ => RDKafkaLogLevel::Debug,
    }
}

/// A record, lent by its event.
pub(crate) struct FetchedRecord<'a> {
    message: NonNull<sys::rd_kafka_message_t>,
    _event: Event<'a>,
}

impl FetchedRecord<'_> {
    fn raw(&self) -> &sys::rd_kafka_message_t {
        // SAFETY: the message lives as long as the event that we hold, and nobody writes to it.
        unsafe { self.message.as_ref() }
    }

    pub(crate) fn partition(&self) -> i32 {
        self.raw().partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.raw().offset
    }

    pub(crate) fn timestamp_ms(&self) -> i64 {
        // SAFETY: the message is valid; the kind of timestamp is not asked for.
        unsafe { sys::rd_kafka_message_timestamp(self.message.as_ptr(), ptr::null_mut()) }
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: librdkafka vouches for pointer and length while the message lives.
        unsafe { lent(raw.key, raw.key_len) }
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: librdkafka vouches for pointer and length while the message lives.
        unsafe { lent(raw.payload, raw.len) }
    }

    /// Returns the value of the last header of a name.
    pub(crate) fn header(&self, name: &CStr) -> Option<&[u8]> {
        let mut headers = ptr::null_mut();
        let (mut value, mut size) = (ptr::null(), 0_usize);
        // SAFETY: the message is valid; headers and value belong to it and live as long.
        unsafe {
            let found = sys::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers);
            if RDKafkaErrorCode::from(found) != RDKafkaErrorCode::NoError {
                return None;
            }
            let found = sys::rd_kafka_header_get_last(
                headers,
                name.as_ptr(),
                &raw mut value,
                &raw mut size,
            );
            if RDKafkaErrorCode::from(found) != RDKafkaErrorCode::NoError {
                return None;
            }
            lent(value.cast_mut(), size)
        }
    }
}

/// Lends memory of librdkafka; `None` for null, which is absence and not emptiness.
///
/// # Safety
///
/// `start` is null or points to `size` bytes that live and do not change for `'a`.
unsafe fn lent<'a>(start: *mut c_void, size: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller vouches for it.
    Some(unsafe { slice::from_raw_parts(start.cast::<u8>(), size) })
}
