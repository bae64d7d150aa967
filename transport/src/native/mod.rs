//! The few places where librdkafka is called without the safe wrapper, because the wrapper lacks
//! the function (topic ids, access lists), loses something that matters (the offset of an
//! end-of-partition event, whether an error is fatal) or allocates for every record.
//!
//! Everything that leaves these files is safe: a pointer never does, and each wrapper keeps alive
//! whatever its pointers refer to.

#![expect(
    unsafe_code,
    reason = "librdkafka is a C library; each block states why it is sound"
)]

pub(crate) mod access;
pub(crate) mod configs;
pub(crate) mod fetch;
pub(crate) mod log;
mod request;
pub(crate) mod topics;
pub(crate) mod transaction;

use std::ffi::{CStr, c_char};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use crate::error::Failure;

/// Copies a C string; empty for a null pointer.
///
/// # Safety
///
/// `text` is null or points to a string that ends with a zero byte and lives during the call.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Takes an error object over, frees it, and returns what it said; `None` for success.
///
/// # Safety
///
/// `error` is null or an error object that the caller owns and does not use again.
unsafe fn take_failure(error: *mut sys::rd_kafka_error_t) -> Option<Failure> {
    // SAFETY: the caller vouches for the pointer; it is destroyed once, after its last use.
    unsafe {
        let failure = copy_failure(error)?;
        sys::rd_kafka_error_destroy(error);
        Some(failure)
    }
}

/// Returns what an error object says that belongs to somebody else; `None` for success.
///
/// # Safety
///
/// `error` is null or a valid error object during the call.
unsafe fn copy_failure(error: *const sys::rd_kafka_error_t) -> Option<Failure> {
    if error.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
        if code == RDKafkaErrorCode::NoError {
            return None;
        }
        Some(Failure {
            code,
            message: text(sys::rd_kafka_error_string(error)),
            is_fatal: sys::rd_kafka_error_is_fatal(error) != 0,
            is_abortable: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            is_retriable: sys::rd_kafka_error_is_retriable(error) != 0,
        })
    }
}
