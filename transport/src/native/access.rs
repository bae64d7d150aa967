//! Access lists, which the wrapper's administrative client does not know.

use std::ffi::{CString, c_char};
use std::ptr;
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use sys::rd_kafka_AclOperation_t as Operation;
use sys::rd_kafka_AclPermissionType_t as Permission;
use sys::rd_kafka_ResourcePatternType_t as Pattern;
use sys::rd_kafka_ResourceType_t as Resource;
use sys::rd_kafka_admin_op_t as Request;

use super::request::request;
use super::{copy_failure, text};
use crate::error::Failure;

/// Something that access is granted to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// The topic of exactly this name.
    Topic(&'a str),
    /// All groups whose names begin so.
    Groups(&'a str),
}

impl Target<'_> {
    fn parts(self) -> (Resource, Pattern) {
        match self {
            Self::Topic(_) => (
                Resource::RD_KAFKA_RESOURCE_TOPIC,
                Pattern::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
            ),
            Self::Groups(_) => (
                Resource::RD_KAFKA_RESOURCE_GROUP,
                Pattern::RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
            ),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Topic(name) | Self::Groups(name) => name,
        }
    }
}

/// An entry or a filter for entries.
struct Binding(NonNull<sys::rd_kafka_AclBinding_t>);

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: ours, given back once.
        unsafe { sys::rd_kafka_AclBinding_destroy(self.0.as_ptr()) };
    }
}

impl Binding {
    /// "This principal may read the target, from anywhere."
    fn read(principal: &str, target: Target<'_>) -> Result<Self, Failure> {
        let (resource, pattern) = target.parts();
        let name = c_string(target.name())?;
        let principal = c_string(principal)?;
        let mut reason: [c_char; 256] = [0; 256];
        // SAFETY: all strings live during the call and are copied; the reason stays in its buffer.
        let binding = unsafe {
            sys::rd_kafka_AclBinding_new(
                resource,
                name.as_ptr(),
                pattern,
                principal.as_ptr(),
                c"*".as_ptr(),
                Operation::RD_KAFKA_ACL_OPERATION_READ,
                Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        Self::made(binding, &reason)
    }

    /// "Everything that this principal may do with the target"; a denial is somebody else's.
    fn any(principal: Option<&str>, target: Target<'_>) -> Result<Self, Failure> {
        let (resource, pattern) = target.parts();
        let name = c_string(target.name())?;
        let principal = principal.map(c_string).transpose()?;
        let mut reason: [c_char; 256] = [0; 256];
        // SAFETY: all strings live during the call and are copied, null stands for "any"; the
        // reason stays in its buffer.
        let binding = unsafe {
            sys::rd_kafka_AclBindingFilter_new(
                resource,
                name.as_ptr(),
                pattern,
                principal
                    .as_ref()
                    .map_or(ptr::null(), |principal| principal.as_ptr()),
                ptr::null(),
                Operation::RD_KAFKA_ACL_OPERATION_ANY,
                Permission::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        Self::made(binding, &reason)
    }

    fn made(
        binding: *mut sys::rd_kafka_AclBinding_t,
        reason: &[c_char; 256],
    ) -> Result<Self, Failure> {
        NonNull::new(binding).map(Self).ok_or_else(|| {
            // SAFETY: the buffer was zeroed and is never filled to its end.
            let reason = unsafe { text(reason.as_ptr()) };
            Failure::described(RDKafkaErrorCode::InvalidArgument, reason)
        })
    }
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::of(RDKafkaErrorCode::InvalidArgument))
}

/// Lets a principal read the targets. Blocks up to `timeout`.
pub(crate) fn allow_read<C: ClientContext>(
    client: &Client<C>,
    principal: &str,
    targets: &[Target<'_>],
    timeout: Duration,
) -> Result<(), Failure> {
    let mut entries = Vec::with_capacity(targets.len());
    for target in targets {
        entries.push(Binding::read(principal, *target)?);
    }
    let mut pointers: Vec<_> = entries.iter().map(|entry| entry.0.as_ptr()).collect();
    let client = client.native_ptr();
    // SAFETY: the client is borrowed for the call; the entries are copied by the request; what the
    // answer lends is copied while it lives.
    unsafe {
        let operation = Request::RD_KAFKA_ADMIN_OP_CREATEACLS;
        let (array, length) = (pointers.as_mut_ptr(), pointers.len());
        let answer = request(client, operation, timeout, |options, queue| {
            sys::rd_kafka_CreateAcls(client, array, length, options, queue);
        })?;
        let result = sys::rd_kafka_event_CreateAcls_result(answer.as_ptr());
        let mut count = 0;
        let results = sys::rd_kafka_CreateAcls_result_acls(result, &raw mut count);
        for index in 0..count {
            if let Some(failure) = copy_failure(sys::rd_kafka_acl_result_error(*results.add(index)))
            {
                return Err(failure);
            }
        }
    }
    Ok(())
}

/// Takes all that a principal may do with the target away; returns how many entries there were.
pub(crate) fn revoke<C: ClientContext>(
    client: &Client<C>,
    principal: &str,
    target: Target<'_>,
    timeout: Duration,
) -> Result<usize, Failure> {
    let filter = Binding::any(Some(principal), target)?;
    let mut pointers = [filter.0.as_ptr()];
    let client = client.native_ptr();
    // SAFETY: as in `allow_read`.
    unsafe {
        let operation = Request::RD_KAFKA_ADMIN_OP_DELETEACLS;
        let (array, length) = (pointers.as_mut_ptr(), pointers.len());
        let answer = request(client, operation, timeout, |options, queue| {
            sys::rd_kafka_DeleteAcls(client, array, length, options, queue);
        })?;
        let result = sys::rd_kafka_event_DeleteAcls_result(answer.as_ptr());
        let (mut count, mut removed) = (0, 0);
        let responses = sys::rd_kafka_DeleteAcls_result_responses(result, &raw mut count);
        for index in 0..count {
            let response = *responses.add(index);
            let error = sys::rd_kafka_DeleteAcls_result_response_error(response);
            if let Some(failure) = copy_failure(error) {
                return Err(failure);
            }
            let mut matching = 0;
            sys::rd_kafka_DeleteAcls_result_response_matching_acls(response, &raw mut matching);
            removed += matching;
        }
        Ok(removed)
    }
}

/// Returns the principals with a right on the target. An empty answer may also be a refusal:
/// librdkafka reads the error of this answer and drops it (`rd_kafka_DescribeAclsResponse_parse`,
/// 2.12), so the caller must have learnt otherwise that it may ask.
pub(crate) fn principals<C: ClientContext>(
    client: &Client<C>,
    target: Target<'_>,
    timeout: Duration,
) -> Result<Vec<String>, Failure> {
    let filter = Binding::any(None, target)?;
    let client = client.native_ptr();
    // SAFETY: as in `allow_read`.
    unsafe {
        let operation = Request::RD_KAFKA_ADMIN_OP_DESCRIBEACLS;
        let answer = request(client, operation, timeout, |options, queue| {
            sys::rd_kafka_DescribeAcls(client, filter.0.as_ptr(), options, queue);
        })?;
        let result = sys::rd_kafka_event_DescribeAcls_result(answer.as_ptr());
        let mut count = 0;
        let entries = sys::rd_kafka_DescribeAcls_result_acls(result, &raw mut count);
        let mut principals = Vec::with_capacity(count);
        for index in 0..count {
            principals.push(text(sys::rd_kafka_AclBinding_principal(
                *entries.add(index),
            )));
        }
        principals.sort();
        principals.dedup();
        Ok(principals)
    }
}
