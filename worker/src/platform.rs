//! What all tasks of a worker share.

use std::sync::Arc;

use async_trait::async_trait;
use hutong_connectors_core::secret::{Secret, SecretRef, Secrets};
use hutong_transport::KafkaConfig;
use hutong_transport::admin::{Admin, TopicSpec};
use hutong_transport::names::Cluster;
use hutong_transport::producer::{PlainProducer, PlainRecord};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::preview::Desks;
use crate::schema_cache::SchemaCache;
use crate::status::Publish;
use crate::task::{BatchLimits, TaskError};
use crate::{Error, retry};

/// The worker's clients, caches and limits.
pub(crate) struct Platform {
    pub(crate) config: Config,
    pub(crate) cluster: Cluster,
    pub(crate) location: Arc<str>,
    pub(crate) kafka: KafkaConfig,
    pub(crate) admin: Arc<Admin>,
    pub(crate) schemas: Arc<SchemaCache>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) master_secret: Option<Arc<Secret>>,
    pub(crate) budget: Budget,
    pub(crate) batch: BatchLimits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) publisher: Arc<dyn Publish>,
    /// Where processors take requests to count.
    pub(crate) previews: Arc<Desks>,
}

impl Platform {
    /// Makes all of it. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// What the configuration cannot become, and a secret of the worker's own that is not there.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let session_timeout = config.session_timeout.as_millis().to_string();
        let kafka =
            KafkaConfig::new(config.kafka.clone())?.with("session.timeout.ms", &session_timeout)?;
        let cluster = Cluster::new(&config.cluster)?;
        let secrets = Secrets {
            dir: config.secrets_dir.clone(),
        };
        let resolve = |reference: &Option<String>| match reference {
            Some(text) => {
                let reference: SecretRef = text.parse().map_err(Error::Reference)?;
                secrets
                    .resolve_own(&reference)
                    .map(Some)
                    .map_err(Error::Secret)
            }
            None => Ok(None),
        };
        let token = resolve(&config.registry_token)?;
        let master_secret = resolve(&config.master_secret)?.map(Arc::new);
        let schemas = SchemaCache::new(config.registry_url.as_deref(), token)?;
        let publisher = KafkaPublisher {
            producer: PlainProducer::new(&kafka)?,
            topic: cluster.status(&config.location),
        };
        let metrics = Metrics::new();
        let budget = Budget::new(config.budget_bytes);
        let budget_bytes = i64::from(budget.total_kib()) * 1024;
        metrics
            .worker_budget_bytes
            .with_label_values::<&str>(&[])
            .set(budget_bytes);
        metrics
            .worker_info
            .with_label_values(&[&config.location, &config.instance_id])
            .set(1);
        Ok(Self {
            cluster,
            location: Arc::from(config.location.as_str()),
            admin: Arc::new(Admin::new(&kafka)?),
            schemas: Arc::new(schemas),
            secrets: Arc::new(secrets),
            master_secret,
            budget,
            batch: BatchLimits {
                bytes_max: usize::try_from(config.batch_bytes_max).unwrap_or(usize::MAX),
                age_max: config.batch_age_max,
            },
            metrics: Arc::new(metrics),
            clock: Clock::default(),
            publisher: Arc::new(publisher),
            previews: Arc::default(),
            kafka,
            config,
        })
    }

    /// Returns the topic of this location's tasks.
    pub(crate) fn tasks_topic(&self) -> String {
        self.cluster.tasks(&self.location)
    }

    /// Creates the platform's topics that this location needs, or checks them, until it succeeds.
    pub(crate) async fn ensure_topics(&self) {
        let (cluster, location) = (&self.cluster, &*self.location);
        let topics = [
            TopicSpec::tasks(cluster, location),
            TopicSpec::positions(cluster, location),
            TopicSpec::status(cluster, location),
            TopicSpec::tables(cluster, location),
            TopicSpec::schemas(cluster),
        ];
        for spec in topics {
            let doing = format!("create or check the topic {}", spec.name);
            retry::until_done(&doing, || self.admin.ensure_topic(&spec)).await;
        }
    }
}

/// Writes to the status topic.
struct KafkaPublisher {
    producer: PlainProducer,
    topic: String,
}

#[async_trait]
impl Publish for KafkaPublisher {
    async fn publish(&self, key: String, value: Option<Vec<u8>>) -> Result<i64, TaskError> {
        let record = PlainRecord {
            topic: self.topic.clone(),
            partition: None,
            key: key.into_bytes(),
            value,
        };
        Ok(self.producer.send(record).await?)
    }
}
