//! Where a process's configuration comes from: one YAML file, and the environment above it.
//!
//! Each key of the file can also be given as a variable: `listen.connect` is `HUTONG_LISTEN__CONNECT`,
//! two underscores going one level down. Below `kafka`, whose names are librdkafka's, one underscore
//! is a dot: `kafka.bootstrap.servers` is `HUTONG_KAFKA__BOOTSTRAP_SERVERS`. A list is written
//! `[a, b]`. A variable wins over the file.
//!
//! What the keys mean is each role's own business: the roles refuse keys that they do not know. This
//! file knows one key, `log`, which it takes out.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

const PREFIX: &str = "HUTONG_";
/// Variables with the prefix that are no keys: the workers' secrets, the test servers, and where
/// tests steer faults.
const NOT_KEYS: [&str; 3] = ["HUTONG_SECRET_", "HUTONG_TEST_", "HUTONG_FAULTS"];

/// Reads the file and puts the environment's keys above it.
///
/// # Errors
///
/// If the file cannot be read, is no YAML map, or a variable contradicts its shape.
pub(crate) fn read(path: Option<&Path>) -> Result<Value> {
    let mut config = match path {
        None => Map::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("could not read the configuration {}", path.display()))?;
            parse(&text).with_context(|| format!("in the configuration {}", path.display()))?
        }
    };
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        // A variable that is not text can be none of ours.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    overlay(&mut config, variables)?;
    scalars_to_text(config.get_mut("kafka"));
    Ok(Value::Object(config))
}

/// Takes the filter and the form of the log out of a configuration.
///
/// # Errors
///
/// If there are other keys below `log`, or their values are none.
pub(crate) fn take_log(config: &mut Value) -> Result<Log> {
    let mut log = Log {
        filter: "info".to_owned(),
        is_json: false,
    };
    let section = config.as_object_mut().and_then(|keys| keys.remove("log"));
    let keys = match section {
        None | Some(Value::Null) => return Ok(log),
        Some(Value::Object(keys)) => keys,
        Some(_) => bail!("log: is not a map of keys"),
    };
    for (key, value) in keys {
        match (key.as_str(), value.as_str()) {
            ("filter", Some(filter)) => log.filter = filter.to_owned(),
            ("format", Some("text")) => log.is_json = false,
            ("format", Some("json")) => log.is_json = true,
            ("format", _) => bail!("log.format: must be text or json"),
            ("filter", None) => bail!("log.filter: must be text such as info,hutong_worker=debug"),
            _ => bail!("log.{key}: unknown key"),
        }
    }
    Ok(log)
}

/// How a process logs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// `log.filter`: levels, also by module, as in `info,hutong_worker=debug`. Default `info`.
    pub(crate) filter: String,
    /// `log.format`: whether a line is a JSON object (`json`) or for people (`text`, the default).
    pub(crate) is_json: bool,
}

fn parse(text: &str) -> Result<Map<String, Value>> {
    match serde_yaml_ng::from_str(text).context("not YAML")? {
        Value::Object(keys) => Ok(keys),
        Value::Null => Ok(Map::new()),
        _ => bail!("not a map of keys"),
    }
}

fn overlay(
    config: &mut Map<String, Value>,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<()> {
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if NOT_KEYS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut path: Vec<String> = rest.to_lowercase().split("__").map(str::to_owned).collect();
        if let [first, property] = path.as_mut_slice()
            && first == "kafka"
        {
            *property = property.replace('_', ".");
        }
        put(
            config,
            &path,
            value_of(&text).with_context(|| name.clone())?,
        )
        .with_context(|| name.clone())?;
    }
    Ok(())
}

fn put(config: &mut Map<String, Value>, path: &[String], value: Value) -> Result<()> {
    match path {
        [] => bail!("no key is named"),
        [key] => {
            config.insert(key.clone(), value);
            Ok(())
        }
        [key, rest @ ..] => {
            let section = config
                .entry(key.clone())
                .or_insert_with(|| Value::Object(Map::new()));
            match section {
                Value::Object(keys) => put(keys, rest, value),
                _ => bail!("{key} is a single value in the file"),
            }
        }
    }
}

/// Text, unless it is written as a list or a map.
fn value_of(text: &str) -> Result<Value> {
    if text.starts_with(['[', '{']) {
        serde_yaml_ng::from_str(text).context("is neither text nor a list such as [a, b]")
    } else {
        Ok(Value::String(text.to_owned()))
    }
}

/// librdkafka takes text only, but `session.timeout.ms: 6000` is what people write.
fn scalars_to_text(section: Option<&mut Value>) {
    let Some(Value::Object(properties)) = section else {
        return;
    };
    for value in properties.values_mut() {
        if let Value::Number(_) | Value::Bool(_) = value {
            *value = Value::String(value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(file: &str, variables: &[(&str, &str)], expected: &Value) {
        let mut config = parse(file).unwrap();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        overlay(&mut config, variables).unwrap();
        scalars_to_text(config.get_mut("kafka"));
        assert_eq!(Value::Object(config), *expected);
    }

    #[test]
    fn a_variable_wins_over_the_file() {
        check(
            "cluster: a\nlisten:\n  connect: 127.0.0.1:1\n  api: 127.0.0.1:2\n",
            &[
                ("HUTONG_CLUSTER", "b"),
                ("HUTONG_LISTEN__CONNECT", "127.0.0.1:3"),
            ],
            &json!({"cluster": "b", "listen": {"connect": "127.0.0.1:3", "api": "127.0.0.1:2"}}),
        );
    }

    #[test]
    fn properties_of_librdkafka_have_dots_for_underscores_and_are_text() {
        check(
            "kafka:\n  session.timeout.ms: 6000\n  enable.ssl.certificate.verification: true\n",
            &[("HUTONG_KAFKA__BOOTSTRAP_SERVERS", "h:9092")],
            &json!({"kafka": {
                "session.timeout.ms": "6000",
                "enable.ssl.certificate.verification": "true",
                "bootstrap.servers": "h:9092",
            }}),
        );
    }

    #[test]
    fn secrets_and_test_servers_are_no_keys() {
        check(
            "",
            &[
                ("HUTONG_SECRET_X", "s"),
                ("HUTONG_TEST_POSTGRES", "u"),
                ("PATH", "/"),
                ("HUTONG_LOCATIONS", "[a, b]"),
            ],
            &json!({"locations": ["a", "b"]}),
        );
    }

    #[test]
    fn unknown_keys_below_log_are_refused() {
        let mut config = json!({"log": {"filter": "debug", "color": "red"}});
        let refused = take_log(&mut config).unwrap_err();
        assert_eq!(refused.to_string(), "log.color: unknown key");
        let mut config = json!({"cluster": "a", "log": {"filter": "debug", "format": "json"}});
        let log = take_log(&mut config).unwrap();
        assert_eq!(
            log,
            Log {
                filter: "debug".to_owned(),
                is_json: true
            }
        );
        assert_eq!(config, json!({"cluster": "a"}));
    }
}
