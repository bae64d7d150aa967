//! A question to a broker through an administrative call, and its answer.

use std::ffi::{c_char, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::text;
use crate::error::Failure;

/// Asks, and waits for the answer. Blocks up to `timeout` and a second.
///
/// # Safety
///
/// `client` is valid as long as the answer; `ask` hands options and queue to one call of librdkafka.
pub(super) unsafe fn request(
    client: *mut sys::rd_kafka_t,
    operation: sys::rd_kafka_admin_op_t,
    timeout: Duration,
    ask: impl FnOnce(*mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Result<Answer, Failure> {
    // SAFETY: the caller vouches for the client.
    let (queue, options) = unsafe {
        (
            AnswerQueue::new(client),
            Options::new(client, operation, timeout),
        )
    };
    ask(options.as_ptr(), queue.as_ptr());
    // The request's own timeout fires first and says more than ours.
    queue.wait(timeout + Duration::from_secs(1))
}

/// Returns an array that an answer lends; empty for a null pointer.
///
/// # Safety
///
/// `array` is null or points to `count` items that live and stay the same for `'a`.
pub(super) unsafe fn lent<'a, T>(array: *const T, count: usize) -> &'a [T] {
    if array.is_null() {
        return &[];
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { std::slice::from_raw_parts(array, count) }
}

/// A queue of our own, for the answer to one request.
struct AnswerQueue(NonNull<sys::rd_kafka_queue_t>);

impl AnswerQueue {
    /// # Safety
    ///
    /// `client` is valid and outlives the queue.
    unsafe fn new(client: *mut sys::rd_kafka_t) -> Self {
        // SAFETY: the caller vouches for the client; the function never returns null.
        let queue = unsafe { sys::rd_kafka_queue_new(client) };
        Self(NonNull::new(queue).expect("rd_kafka_queue_new aborts rather than return null"))
    }

    fn as_ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    /// Waits for the answer; errors of the request as a whole are failures.
    fn wait(self, timeout: Duration) -> Result<Answer, Failure> {
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is valid until drop; the event is ours or null.
        let event = unsafe { sys::rd_kafka_queue_poll(self.as_ptr(), timeout_ms) };
        let Some(event) = NonNull::new(event) else {
            return Err(Failure::of(RDKafkaErrorCode::OperationTimedOut));
        };
        let answer = Answer {
            event,
            _queue: self,
        };
        // SAFETY: the event is valid until dropped.
        let (code, message) = unsafe {
            (
                RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.as_ptr())),
                text(sys::rd_kafka_event_error_string(event.as_ptr())),
            )
        };
        if code == RDKafkaErrorCode::NoError {
            Ok(answer)
        } else {
            Err(Failure::described(code, message))
        }
    }
}

impl Drop for AnswerQueue {
    fn drop(&mut self) {
        // SAFETY: ours, given back once. A late answer is dropped with it.
        unsafe { sys::rd_kafka_queue_destroy(self.as_ptr()) };
    }
}

/// The event that carries an answer, before the queue that it came by.
pub(super) struct Answer {
    event: NonNull<sys::rd_kafka_event_t>,
    _queue: AnswerQueue,
}

impl Answer {
    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.event.as_ptr()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: ours, given back once.
        unsafe { sys::rd_kafka_event_destroy(self.as_ptr()) };
    }
}

/// Options with a timeout for one kind of request.
struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Options {
    /// # Safety
    ///
    /// `client` is valid and outlives the options.
    unsafe fn new(
        client: *mut sys::rd_kafka_t,
        operation: sys::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Self {
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        let mut reason: [c_char; 128] = [0; 128];
        // SAFETY: the caller vouches for the client; the reason stays within its buffer. A timeout
        // that librdkafka does not like leaves its own default, which is one minute.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(client, operation);
            sys::rd_kafka_AdminOptions_set_request_timeout(
                options,
                timeout_ms,
                reason.as_mut_ptr(),
                reason.len(),
            );
            Self(NonNull::new(options).expect("the kind of request is one that librdkafka knows"))
        }
    }

    fn as_ptr(&self) -> *mut sys::rd_kafka_AdminOptions_t {
        self.0.as_ptr()
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: ours, given back once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.as_ptr()) };
    }
}
