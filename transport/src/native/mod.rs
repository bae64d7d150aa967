//! The few places where librdkafka is called without the safe wrapper.
