//! How to reach Kafka: librdkafka's own property names, passed through, minus those that are ours.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;

use crate::error::Error;

/// Properties that decide whether the platform's promises hold, and therefore are not the user's.
const OURS: [&str; 8] = [
    "transactional.id",
    "isolation.level",
    "enable.auto.commit",
    "auto.offset.reset",
    "enable.idempotence",
    "group.id",
    "group.instance.id",
    "allow.auto.create.topics",
];

/// The property that bounds how long a dead producer's open transaction holds readers back.
const TRANSACTION_TIMEOUT: &str = "transaction.timeout.ms";

/// The property that bounds how long a dead worker keeps its tasks.
const SESSION_TIMEOUT: &str = "session.timeout.ms";

/// A validated set of librdkafka properties. `Debug` shows names and hides the values of secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig(BTreeMap<String, String>);

impl KafkaConfig {
    /// Checks properties as they stand below `kafka:` in a configuration file.
    ///
    /// # Errors
    ///
    /// Definite: `bootstrap.servers` is missing, or a property is one that the platform sets.
    pub fn new(properties: BTreeMap<String, String>) -> Result<Self, Error> {
        if let Some(property) = OURS.iter().find(|name| properties.contains_key(**name)) {
            return Err(Error::PropertyRefused {
                property: (*property).to_owned(),
            });
        }
        if properties
            .get("bootstrap.servers")
            .is_none_or(|servers| servers.trim().is_empty())
        {
            return Err(Error::PropertyMissing {
                property: "bootstrap.servers".to_owned(),
            });
        }
        Ok(Self(properties))
    }

    /// Returns the configuration for a plain-text listener, as tests and the demonstration use.
    ///
    /// # Errors
    ///
    /// Definite: the list of servers is empty.
    pub fn plain(bootstrap_servers: &str) -> Result<Self, Error> {
        let mut properties = BTreeMap::new();
        properties.insert("bootstrap.servers".to_owned(), bootstrap_servers.to_owned());
        Self::new(properties)
    }

    /// Returns this configuration with one property set.
    ///
    /// # Errors
    ///
    /// Definite: the property is one that the platform sets.
    pub fn with(&self, property: &str, value: &str) -> Result<Self, Error> {
        let mut properties = self.0.clone();
        properties.insert(property.to_owned(), value.to_owned());
        Self::new(properties)
    }

    /// Returns the value of a property, if it was given.
    #[must_use]
    pub fn get(&self, property: &str) -> Option<&str> {
        self.0.get(property).map(String::as_str)
    }

    /// Returns how long the broker lets a transaction of ours stay open: 30 s unless configured.
    #[must_use]
    pub fn transaction_timeout(&self) -> Duration {
        self.milliseconds(TRANSACTION_TIMEOUT, 30_000)
    }

    /// Returns how long the broker waits for a silent worker: 10 s unless configured.
    #[must_use]
    pub fn session_timeout(&self) -> Duration {
        self.milliseconds(SESSION_TIMEOUT, 10_000)
    }

    fn milliseconds(&self, property: &str, default_ms: u64) -> Duration {
        let configured = self.get(property).and_then(|text| text.trim().parse().ok());
        Duration::from_millis(configured.unwrap_or(default_ms))
    }

    /// Starts a client's configuration: defaults that the user may override, then the user's.
    pub(crate) fn client(&self, defaults: &[(&str, &str)], kind: ClientKind) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "hutong");
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.ms", "50");
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("topic.metadata.refresh.interval.ms", "60000");
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.0 {
            if kind.takes(name) {
                config.set(name, value);
            }
        }
        config.set("allow.auto.create.topics", "false");
        config
    }
}

/// Which kind of client a configuration is for: librdkafka warns about properties of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientKind {
    Producer,
    Consumer,
    Admin,
}

/// Properties that only producers know, by prefix.
const PRODUCER_ONLY: [&str; 12] = [
    "transaction.timeout.ms",
    "linger.ms",
    "queue.buffering.",
    "compression.",
    "batch.",
    "acks",
    "request.required.acks",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "message.send.max.retries",
    "retries",
    "sticky.partitioning.linger.ms",
];

/// Properties that only consumers know, by prefix.
const CONSUMER_ONLY: [&str; 8] = [
    "session.timeout.ms",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "fetch.",
    "max.partition.fetch.bytes",
    "queued.",
    "check.crcs",
    "partition.assignment.strategy",
];

impl ClientKind {
    fn takes(self, property: &str) -> bool {
        let among = |list: &[&str]| list.iter().any(|prefix| property.starts_with(prefix));
        match self {
            Self::Producer => !among(&CONSUMER_ONLY),
            Self::Consumer => !among(&PRODUCER_ONLY),
            Self::Admin => !among(&CONSUMER_ONLY) && !among(&PRODUCER_ONLY),
        }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, value) in &self.0 {
            if is_secret(name) {
                map.entry(name, &"[hidden]");
            } else {
                map.entry(name, value);
            }
        }
        map.finish()
    }
}

/// Whether a property's value must never be shown. By pattern, so that a property which a later
/// librdkafka adds is rather hidden without need than shown.
pub(crate) fn is_secret(property: &str) -> bool {
    [
        "password",
        "secret",
        ".pem",
        "jaas",
        "token",
        "oauthbearer.config",
        "username",
    ]
    .iter()
    .any(|part| property.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(properties: &[(&str, &str)]) -> Result<KafkaConfig, Error> {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        KafkaConfig::new(properties.collect())
    }

    #[test]
    fn properties_that_keep_the_promises_are_refused_by_name() {
        for name in OURS {
            let refused = config(&[("bootstrap.servers", "a:1"), (name, "x")]).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
    }

    #[test]
    fn missing_servers_are_refused() {
        let refused = config(&[]).unwrap_err();
        assert!(refused.to_string().contains("bootstrap.servers"));
    }

    #[test]
    fn debug_shows_names_and_hides_secrets() {
        let config = config(&[
            ("bootstrap.servers", "a:1"),
            ("sasl.password", "geheim"),
            ("ssl.key.pem", "geheim"),
            ("sasl.oauthbearer.client.secret", "geheim"),
        ])
        .unwrap();
        let shown = format!("{config:?}");
        assert!(shown.contains("sasl.password") && shown.contains("a:1"));
        assert!(!shown.contains("geheim"), "{shown}");
    }

    #[test]
    fn sasl_and_tls_properties_reach_every_kind_of_client() {
        let config = config(&[
            ("bootstrap.servers", "a:1"),
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "hutong"),
            ("sasl.password", "geheim"),
            ("ssl.ca.location", "/etc/ca.pem"),
            ("linger.ms", "7"),
            ("fetch.wait.max.ms", "9"),
        ])
        .unwrap();
        for kind in [
            ClientKind::Producer,
            ClientKind::Consumer,
            ClientKind::Admin,
        ] {
            let client = config.client(&[], kind);
            assert_eq!(client.get("security.protocol"), Some("sasl_ssl"));
            assert_eq!(client.get("sasl.password"), Some("geheim"));
            assert_eq!(client.get("ssl.ca.location"), Some("/etc/ca.pem"));
            assert_eq!(
                client.get("linger.ms").is_some(),
                kind == ClientKind::Producer
            );
            assert_eq!(
                client.get("fetch.wait.max.ms").is_some(),
                kind == ClientKind::Consumer
            );
        }
    }
}
