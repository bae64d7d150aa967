//! What a worker is told at its start, read once into types that cannot be wrong.
//!
//! Reading does not stop at the first mistake: all are reported together, each with its path, so
//! that a file is corrected once and not ten times. Unknown keys are mistakes, because a misspelt
//! limit that is silently ignored is found in the night in which it was needed.

mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// A worker's configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `cluster`: the first part of the names of all topics of the platform. Default `hutong`.
    pub cluster: String,
    /// `location`: where this worker runs; it sees this location's tasks only. Default `default`.
    pub location: String,
    /// `instance_id`: names this worker across restarts. A worker that comes back under its name
    /// gets its tasks back at once; under another name the session timeout passes first. No two
    /// living workers of a location may share one. Required.
    pub instance_id: String,
    /// `kafka`: properties of librdkafka by their names, such as `bootstrap.servers`. Required.
    pub kafka: BTreeMap<String, String>,
    /// `registry.url`: where schemas are registered. Needed only by sources. Default none.
    pub registry_url: Option<String>,
    /// `registry.token`: a reference to the secret that the registry wants. Default none.
    pub registry_token: Option<String>,
    /// `listen`: the address of `/metrics`, `/healthz` and `/readyz`. Default `0.0.0.0:8084`.
    pub listen: SocketAddr,
    /// `data_dir`: the folder of state stores and scratch files, a cache of Kafka. Required.
    pub data_dir: PathBuf,
    /// `secrets.dir`: the folder under which secret references may point. Default none: only
    /// `${env:HUTONG_SECRET_…}` is resolved.
    pub secrets_dir: Option<PathBuf>,
    /// `master_secret`: a reference to the secret that masks and hidden keys are derived from.
    /// Default none: a view that needs it does not run.
    pub master_secret: Option<String>,
    /// `budget`: memory for rows on their way, all tasks together. 1 MiB to 1 TiB; default `256MiB`.
    pub budget_bytes: u64,
    /// `batch.bytes`: size at which processors and sinks close a batch. 4 KiB to 1 GiB; default `4MiB`.
    pub batch_bytes_max: u64,
    /// `batch.age`: age at which processors and sinks close a batch. 1 ms to 1 m; default `200ms`.
    pub batch_age_max: Duration,
    /// `session_timeout`: time after which the tasks of a worker that no longer answers go to
    /// another one. 6 s to 30 m; default `30s`.
    pub session_timeout: Duration,
    /// `stop_deadline`: time that a task gets for ending by itself. 100 ms to 10 m; default `10s`.
    pub stop_deadline: Duration,
    /// `status_interval`: time between two regular statuses of a task. 100 ms to 10 m; default `5s`.
    pub status_interval: Duration,
    /// `tasks_staleness`: time after which a worker that cannot follow its tasks stops delivering.
    /// 5 s to 1 h; default `1m`.
    pub tasks_staleness_max: Duration,
    /// `view_segment`: time after which a view's partition that holds a tombstone and gets no other
    /// record has its last record written again, so that the segment ends and what was withdrawn is
    /// removed from it. Not below the topics' `segment.ms`. 1 s to 24 h; default `1h`.
    pub view_segment: Duration,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the worker's configuration is wrong:\n{}", .0.join("\n"))]
pub struct Mistakes(pub Vec<String>);

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("cluster", &self.cluster)
            .field("location", &self.location)
            .field("instance_id", &self.instance_id)
            .field("kafka", &self.kafka.keys())
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(value).map_err(serde::de::Error::custom)
    }
}

impl Config {
    /// Reads a configuration. Values may be strings everywhere, as environment variables are.
    ///
    /// # Errors
    ///
    /// Every mistake, each with the path of its key.
    pub fn from_value(value: Value) -> Result<Self, Mistakes> {
        let mut reader = Reader::default();
        let Value::Object(map) = value else {
            return Err(Mistakes(vec!["it is not a map of keys".to_owned()]));
        };
        let mut root = Section::new("", map);
        let mut registry = root.section("registry", &mut reader);
        let mut secrets = root.section("secrets", &mut reader);
        let mut batch = root.section("batch", &mut reader);

        let config = Self {
            cluster: root.name("cluster", Some("hutong"), &mut reader),
            location: root.name("location", Some("default"), &mut reader),
            instance_id: root.instance_id(&mut reader),
            kafka: root.kafka(&mut reader),
            registry_url: registry.url("url", &mut reader),
            registry_token: registry.reference("token", &mut reader),
            listen: root.address("listen", "0.0.0.0:8084", &mut reader),
            data_dir: PathBuf::from(root.required("data_dir", &mut reader)),
            secrets_dir: secrets.text("dir", &mut reader).map(PathBuf::from),
            master_secret: root.reference("master_secret", &mut reader),
            budget_bytes: root.size("budget", "256MiB", ("1MiB", "1024GiB"), &mut reader),
            batch_bytes_max: batch.size("bytes", "4MiB", ("4KiB", "1GiB"), &mut reader),
            batch_age_max: batch.duration("age", "200ms", ("1ms", "1m"), &mut reader),
            session_timeout: root.duration("session_timeout", "30s", ("6s", "30m"), &mut reader),
            stop_deadline: root.duration("stop_deadline", "10s", ("100ms", "10m"), &mut reader),
            status_interval: root.duration("status_interval", "5s", ("100ms", "10m"), &mut reader),
            tasks_staleness_max: root.duration("tasks_staleness", "1m", ("5s", "1h"), &mut reader),
            view_segment: root.duration("view_segment", "1h", ("1s", "24h"), &mut reader),
        };
        for section in [root, registry, secrets, batch] {
            section.refuse_the_rest(&mut reader);
        }
        if reader.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(reader.mistakes))
        }
    }
}

/// Collects what is wrong.
#[derive(Default)]
struct Reader {
    mistakes: Vec<String>,
}

impl Reader {
    fn wrong(&mut self, path: &str, what: impl std::fmt::Display) {
        self.mistakes.push(format!("{path}: {what}"));
    }
}

/// A map whose keys are taken out one by one; what is left was unknown.
struct Section {
    prefix: String,
    map: Map<String, Value>,
}

impl Section {
    fn new(prefix: &str, map: Map<String, Value>) -> Self {
        Self {
            prefix: prefix.to_owned(),
            map,
        }
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn section(&mut self, key: &str, reader: &mut Reader) -> Section {
        let path = format!("{}.", self.path(key));
        match self.map.remove(key) {
            None | Some(Value::Null) => Section::new(&path, Map::new()),
            Some(Value::Object(map)) => Section::new(&path, map),
            Some(_) => {
                reader.wrong(&self.path(key), "is not a map of keys");
                Section::new(&path, Map::new())
            }
        }
    }

    fn text(&mut self, key: &str, reader: &mut Reader) -> Option<String> {
        match self.map.remove(key)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Array(_) | Value::Object(_) => {
                reader.wrong(&self.path(key), "is not a single value");
                None
            }
        }
    }

    fn required(&mut self, key: &str, reader: &mut Reader) -> String {
        let known_mistakes = reader.mistakes.len();
        let text = self.text(key, reader).unwrap_or_default();
        if text.is_empty() && reader.mistakes.len() == known_mistakes {
            reader.wrong(&self.path(key), "is missing");
        }
        text
    }

    fn name(&mut self, key: &str, default: Option<&str>, reader: &mut Reader) -> String {
        let text = self.text(key, reader);
        let text = text.unwrap_or_else(|| default.unwrap_or_default().to_owned());
        if !is_name(&text) {
            let rule = "is not a name: one to 63 of a-z, 0-9, _ and -, first a letter or digit";
            reader.wrong(&self.path(key), format_args!("\"{text}\" {rule}"));
        }
        text
    }

    fn instance_id(&mut self, reader: &mut Reader) -> String {
        let text = self.required("instance_id", reader);
        let fits = text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if !fits || text.len() > 200 {
            let rule = "may only have letters, digits, \".\", \"_\" and \"-\", and 200 of them";
            reader.wrong(&self.path("instance_id"), rule);
        }
        text
    }

    fn kafka(&mut self, reader: &mut Reader) -> BTreeMap<String, String> {
        let mut section = self.section("kafka", reader);
        let keys: Vec<String> = section.map.keys().cloned().collect();
        let mut properties = BTreeMap::new();
        for key in keys {
            if let Some(text) = section.text(&key, reader) {
                properties.insert(key, text);
            }
        }
        if !properties.contains_key("bootstrap.servers") {
            reader.wrong("kafka.bootstrap.servers", "is missing");
        }
        properties
    }

    fn url(&mut self, key: &str, reader: &mut Reader) -> Option<String> {
        let text = self.text(key, reader)?;
        if !text.starts_with("http://") && !text.starts_with("https://") {
            let rule = "does not begin with http:// or https://";
            reader.wrong(&self.path(key), format_args!("\"{text}\" {rule}"));
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    fn reference(&mut self, key: &str, reader: &mut Reader) -> Option<String> {
        let text = self.text(key, reader)?;
        if !(text.starts_with("${") && text.ends_with('}')) {
            // The value itself is not repeated: it may be the secret.
            let forms = "${file:PATH:KEY}, ${directory:DIR:KEY} or ${env:HUTONG_SECRET_NAME}";
            let what = format_args!("is not a reference to a secret: write {forms}");
            reader.wrong(&self.path(key), what);
        }
        Some(text)
    }

    fn address(&mut self, key: &str, default: &str, reader: &mut Reader) -> SocketAddr {
        let text = self.text(key, reader).unwrap_or_else(|| default.to_owned());
        text.parse().unwrap_or_else(|_| {
            let rule = "is not an address such as 0.0.0.0:8084";
            reader.wrong(&self.path(key), format_args!("\"{text}\" {rule}"));
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn size(&mut self, key: &str, default: &str, range: (&str, &str), reader: &mut Reader) -> u64 {
        self.bounded(key, default, range, units::size, reader)
    }

    fn duration(
        &mut self,
        key: &str,
        default: &str,
        range: (&str, &str),
        reader: &mut Reader,
    ) -> Duration {
        self.bounded(key, default, range, units::duration, reader)
    }

    fn bounded<T: PartialOrd + Copy>(
        &mut self,
        key: &str,
        default: &str,
        range: (&str, &str),
        parse: fn(&str) -> Result<T, String>,
        reader: &mut Reader,
    ) -> T {
        let known = |text| parse(text).expect("defaults and bounds of the table are well-formed");
        let text = self.text(key, reader).unwrap_or_else(|| default.to_owned());
        let value = match parse(&text) {
            Ok(value) => value,
            Err(rule) => {
                reader.wrong(&self.path(key), rule);
                return known(default);
            }
        };
        if value < known(range.0) || value > known(range.1) {
            let rule = format!("\"{text}\" is not between {} and {}", range.0, range.1);
            reader.wrong(&self.path(key), rule);
        }
        value
    }

    fn refuse_the_rest(self, reader: &mut Reader) {
        for key in self.map.keys() {
            reader.wrong(&self.path(key), "is not a key that a worker knows");
        }
    }
}

/// The rule for names of connectors, views, locations and shares.
fn is_name(text: &str) -> bool {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63
        && text.starts_with(lower)
        && text.chars().all(|c| lower(c) || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Config;

    fn read(yaml: &str) -> Result<Config, serde_yaml_ng::Error> {
        serde_yaml_ng::from_str(yaml)
    }

    #[test]
    fn three_keys_are_enough() {
        let config = read(
            "instance_id: worker-1\ndata_dir: /var/lib/hutong\nkafka:\n  bootstrap.servers: kafka:9092\n",
        )
        .unwrap();
        assert_eq!(config.cluster, "hutong");
        assert_eq!(config.location, "default");
        assert_eq!(config.listen.port(), 8084);
        assert_eq!(config.budget_bytes, 256 << 20);
        assert_eq!(config.session_timeout, Duration::from_secs(30));
    }

    #[test]
    fn every_key_is_read_and_numbers_may_be_strings() {
        let config = read(
            "
cluster: hutong-test
location: hospital
instance_id: worker-1.hospital
kafka: { bootstrap.servers: 'kafka:9092', socket.timeout.ms: 9000, ssl.key.password: secret }
registry: { url: 'http://control:8081/', token: '${file:registry:token}' }
listen: 127.0.0.1:0
data_dir: /var/lib/hutong
secrets: { dir: /etc/hutong }
master_secret: '${env:HUTONG_SECRET_MASTER}'
budget: 64MiB
batch: { bytes: 1MiB, age: 50ms }
session_timeout: 10s
stop_deadline: 3s
status_interval: 1s
tasks_staleness: 15s
",
        )
        .unwrap();
        assert_eq!(config.kafka["socket.timeout.ms"], "9000");
        assert_eq!(config.registry_url.as_deref(), Some("http://control:8081"));
        assert_eq!(config.batch_bytes_max, 1 << 20);
        assert_eq!(config.batch_age_max, Duration::from_millis(50));
        assert_eq!(config.tasks_staleness_max, Duration::from_secs(15));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn all_mistakes_are_reported_together_with_their_paths() {
        let error = read(
            "
location: 医院
kafka: { client.id: x }
registry: { url: control, token: hunter2, tokn: x }
listen: everywhere
budget: 10
batch: { age: 2h, size: 1MiB }
sesion_timeout: 30s
",
        )
        .unwrap_err()
        .to_string();
        for path in [
            "location: ",
            "instance_id: is missing",
            "kafka.bootstrap.servers: is missing",
            "registry.url: ",
            "registry.token: is not a reference",
            "registry.tokn: is not a key",
            "listen: ",
            "data_dir: is missing",
            "budget: \"10\" is not a size",
            "batch.age: \"2h\" is not between",
            "batch.size: is not a key",
            "sesion_timeout: is not a key",
        ] {
            assert!(error.contains(path), "{path} is not in: {error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }
}
