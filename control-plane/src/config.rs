//! The control plane's part of the configuration file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::location::Locations;

/// How a control plane is configured. Unknown keys are refused.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The installation's name, prefix of all topics of its own. Default: `hutong`.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// The database that holds domain, desired state and schemas, as a `postgres://` URL.
    pub database_url: String,
    /// librdkafka properties, by their own names.
    pub kafka: BTreeMap<String, String>,
    /// Where the three APIs listen.
    #[serde(default)]
    pub listen: Listen,
    /// The locations at which workers run, and whose they are. Default: `default` alone, for all.
    #[serde(default)]
    pub locations: Locations,
    /// A file (mode 600) with an administrator's token. Its token is valid unless it was revoked;
    /// the first start writes the file when it does not exist.
    pub admin_token_file: PathBuf,
}

/// Addresses of the three listeners. Three, because both compatible APIs own `/`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The Kafka-Connect-compatible API. Default: `0.0.0.0:8083`.
    pub connect: SocketAddr,
    /// The schema registry. Default: `0.0.0.0:8081`.
    pub registry: SocketAddr,
    /// The platform's own API. Default: `0.0.0.0:8080`.
    pub api: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
        Self {
            connect: any(8083),
            registry: any(8081),
            api: any(8080),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("cluster", &self.cluster)
            .field("listen", &self.listen)
            .field("locations", &self.locations)
            .field("admin_token_file", &self.admin_token_file)
            .finish_non_exhaustive()
    }
}

fn default_cluster() -> String {
    "hutong".to_owned()
}
