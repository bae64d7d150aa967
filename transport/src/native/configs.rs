//! Configurations of topics. The wrapper's administrative client asks for them too, but leaves out
//! why a topic has none.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;

use super::request::{lent, request};
use super::text;
use crate::error::Failure;

/// The configuration of one topic, by Kafka's names, or why it has none.
pub(crate) type Config = Result<BTreeMap<String, String>, Failure>;

/// Whose configuration is asked for.
struct Resource(NonNull<sys::rd_kafka_ConfigResource_t>);

impl Resource {
    fn topic(name: &str) -> Result<Self, Failure> {
        let invalid = || Failure::of(RDKafkaErrorCode::InvalidTopic);
        let name = CString::new(name).map_err(|_| invalid())?;
        let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        // SAFETY: the name lives during the call and is copied; it is refused if it is empty.
        let resource = unsafe { sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()) };
        NonNull::new(resource).map(Self).ok_or_else(invalid)
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        // SAFETY: ours, given back once.
        unsafe { sys::rd_kafka_ConfigResource_destroy(self.0.as_ptr()) };
    }
}

/// Asks for the configurations of topics, which come by the topics' names. Blocks up to `timeout`.
pub(crate) fn describe_all<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<Vec<(String, Config)>, Failure> {
    let mut resources = Vec::with_capacity(topics.len());
    for topic in topics {
        resources.push(Resource::topic(topic)?);
    }
    let mut pointers: Vec<_> = resources.iter().map(|wanted| wanted.0.as_ptr()).collect();
    let client = client.native_ptr();
    // SAFETY: the client is borrowed for the call; the resources are copied by the request; what the
    // answer lends is copied while it lives, from an array as long as it says.
    unsafe {
        let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
        let (array, length) = (pointers.as_mut_ptr(), pointers.len());
        let answer = request(client, operation, timeout, |options, queue| {
            sys::rd_kafka_DescribeConfigs(client, array, length, options, queue);
        })?;
        let result = sys::rd_kafka_event_DescribeConfigs_result(answer.as_ptr());
        if result.is_null() {
            return Err(Failure::of(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let found = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        let described = lent(found, count).iter().map(|resource| {
            let name = text(sys::rd_kafka_ConfigResource_name(*resource));
            (name, config(*resource))
        });
        Ok(described.collect())
    }
}

/// Copies the configuration of one topic; an entry without a value is left out.
///
/// # Safety
///
/// The resource is valid during the call.
unsafe fn config(resource: *const sys::rd_kafka_ConfigResource_t) -> Config {
    // SAFETY: the caller vouches for the resource; what it lends is copied, from an array as long as
    // it says.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_ConfigResource_error(resource));
        if code != RDKafkaErrorCode::NoError {
            let message = text(sys::rd_kafka_ConfigResource_error_string(resource));
            return Err(Failure::described(code, message));
        }
        let mut count = 0;
        let entries = sys::rd_kafka_ConfigResource_configs(resource, &raw mut count);
        let valued = lent(entries, count).iter().filter_map(|entry| {
            let value = sys::rd_kafka_ConfigEntry_value(*entry);
            let name = || text(sys::rd_kafka_ConfigEntry_name(*entry));
            (!value.is_null()).then(|| (name(), text(value)))
        });
        Ok(valued.collect())
    }
}
