//! The only code that talks to Kafka.
