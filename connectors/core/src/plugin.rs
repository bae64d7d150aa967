//! The connectors there are, and what Kafka Connect knows of every connector.

use std::collections::BTreeMap;

use crate::property::{
    Kind::{Boolean, Bytes, Class, Int, List, Long, String as Text},
    Property, PropertyError, Table, Values,
};
use crate::{SINK_CLASS, SOURCE_CLASS, jdbc_sink, postgres_source};

/// A connector that can be configured.
#[derive(Clone, Copy, Debug)]
pub struct Plugin {
    /// The class, as `connector.class` names it.
    pub class: &'static str,
    /// Whether it is a source or a sink.
    pub kind: PluginKind,
    /// Our version.
    pub version: &'static str,
    /// Its properties.
    pub properties: Table,
}

/// Whether a connector reads a database or writes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginKind {
    /// It reads a database.
    Source,
    /// It writes a database.
    Sink,
}

impl PluginKind {
    /// Returns Kafka Connect's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

/// All plugins.
pub const PLUGINS: &[Plugin] = &[
    Plugin {
        class: SINK_CLASS,
        kind: PluginKind::Sink,
        version: env!("CARGO_PKG_VERSION"),
        properties: jdbc_sink::TABLE,
    },
    Plugin {
        class: SOURCE_CLASS,
        kind: PluginKind::Source,
        version: env!("CARGO_PKG_VERSION"),
        properties: postgres_source::TABLE,
    },
];

/// Finds a plugin by its class, by the class's last part, or by that without `Connector`, as Kafka
/// Connect does.
#[must_use]
pub fn find(class: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|plugin| {
        let simple = plugin.class.rsplit('.').next().unwrap_or_default();
        class == plugin.class || class == simple || Some(class) == simple.strip_suffix("Connector")
    })
}

impl Plugin {
    /// Returns every mistake in the properties of a connector that can be seen without a database.
    #[must_use]
    pub fn validate(
        &self,
        name: &str,
        properties: &BTreeMap<String, String>,
    ) -> Vec<PropertyError> {
        let errors = match self.kind {
            PluginKind::Source => postgres_source::Config::parse(name, properties).err(),
            PluginKind::Sink => jdbc_sink::Config::parse(name, properties).err(),
        };
        errors.unwrap_or_default()
    }
}

/// Returns the location, whose name follows the platform's rule of names.
pub(crate) fn location(values: &mut Values<'_>) -> String {
    let location = values.text("hutong.location");
    if !is_name(&location) {
        values.refuse(
            "hutong.location",
            "must begin with a lower-case letter or digit and hold only these, hyphens and underscores, 63 at most",
        );
    }
    location
}

/// Returns whether a text may name a connector, view, location or share:
/// `[a-z0-9][a-z0-9_-]{0,62}`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63
        && text.starts_with(alphanumeric)
        && text
            .chars()
            .all(|c| alphanumeric(c) || matches!(c, '_' | '-'))
}

/// Our format, under the name of Confluent's converter.
const AVRO_CONVERTER: &str = "io.confluent.connect.avro.AvroConverter";
const AVRO_CONVERTERS: &[&str] = &[AVRO_CONVERTER];
const NO_TRANSFORMATIONS: &str =
    "there are no transformations; views choose rows and columns and mask them";

/// What Kafka Connect knows of every connector.
pub(crate) const CONNECT: &[Property] = &[
    Property::new(
        "name",
        Text,
        "Name of the connector; the same as in the request.",
    ),
    Property::new("connector.class", Class, "Class of the connector.").required(),
    Property::new("connector.plugin.version", Text, "Version of the plugin.").tuning(),
    Property::new("tasks.max", Int, "Largest number of tasks.").default("1"),
    Property::new(
        "tasks.max.enforce",
        Boolean,
        "Whether more tasks are an error.",
    )
    .tuning(),
    Property::new("key.converter", Class, "Converter of keys.")
        .default(AVRO_CONVERTER)
        .only(AVRO_CONVERTERS, "keys are Avro"),
    Property::new("value.converter", Class, "Converter of values.")
        .default(AVRO_CONVERTER)
        .only(AVRO_CONVERTERS, "values are Avro"),
    Property::new("header.converter", Class, "Converter of headers.").tuning(),
    Property::new(
        "key.converter.schema.registry.url",
        Text,
        "Where the registry is; the platform's is used.",
    )
    .tuning(),
    Property::new(
        "value.converter.schema.registry.url",
        Text,
        "Where the registry is; the platform's is used.",
    )
    .tuning(),
    Property::new(
        "key.converter.schemas.enable",
        Boolean,
        "A setting of another converter.",
    )
    .tuning(),
    Property::new(
        "value.converter.schemas.enable",
        Boolean,
        "A setting of another converter.",
    )
    .tuning(),
    Property::new(
        "key.converter.basic.auth.*",
        Text,
        "How to log in to the registry; the worker's own way is used.",
    )
    .tuning(),
    Property::new(
        "value.converter.basic.auth.*",
        Text,
        "How to log in to the registry; the worker's own way is used.",
    )
    .tuning(),
    Property::new(
        "key.converter.auto.register.schemas",
        Boolean,
        "Whether schemas are registered.",
    )
    .default("true")
    .only(&["true"], "schemas are registered by the source"),
    Property::new(
        "value.converter.auto.register.schemas",
        Boolean,
        "Whether schemas are registered.",
    )
    .default("true")
    .only(&["true"], "schemas are registered by the source"),
    Property::new("key.converter.schemas.cache.*", Text, "Size of a cache.").tuning(),
    Property::new("value.converter.schemas.cache.*", Text, "Size of a cache.").tuning(),
    Property::new(
        "key.converter.enhanced.avro.schema.support",
        Boolean,
        "Whether enums and packages are kept.",
    )
    .default("false")
    .only(&["false"], "schemas would differ"),
    Property::new(
        "value.converter.enhanced.avro.schema.support",
        Boolean,
        "Whether enums and packages are kept.",
    )
    .default("false")
    .only(&["false"], "schemas would differ"),
    Property::new(
        "key.converter.connect.meta.data",
        Boolean,
        "Whether schemas carry Connect's attributes.",
    )
    .default("true")
    .only(&["true"], "schemas would differ"),
    Property::new(
        "value.converter.connect.meta.data",
        Boolean,
        "Whether schemas carry Connect's attributes.",
    )
    .default("true")
    .only(&["true"], "schemas would differ"),
    Property::new("key.converter.*", Text, "Other settings of the converter.")
        .refused("it could change subjects or schemas"),
    Property::new(
        "value.converter.*",
        Text,
        "Other settings of the converter.",
    )
    .refused("it could change subjects or schemas"),
    Property::new(
        "config.action.reload",
        Text,
        "Whether a changed secret restarts the connector.",
    )
    .tuning(),
    Property::new(
        "errors.retry.timeout",
        Long,
        "How long an operation is tried again; there is no limit.",
    )
    .tuning(),
    Property::new(
        "errors.retry.delay.max.ms",
        Long,
        "Longest pause between attempts.",
    )
    .tuning(),
    Property::new(
        "errors.log.enable",
        Boolean,
        "Whether errors are logged; they always are.",
    )
    .tuning(),
    Property::new(
        "errors.log.include.messages",
        Boolean,
        "Whether the log shows records.",
    )
    .default("false")
    .only(&["false"], "a row must never reach a log"),
    Property::new("transforms", List, "Transformations.").refused(NO_TRANSFORMATIONS),
    Property::new("transforms.*", Text, "Settings of transformations.").refused(NO_TRANSFORMATIONS),
    Property::new("predicates", List, "Conditions of transformations.").refused(NO_TRANSFORMATIONS),
    Property::new("predicates.*", Text, "Settings of conditions.").refused(NO_TRANSFORMATIONS),
    Property::new("producer.override.acks", Text, "Which brokers answer.")
        .default("all")
        .only(
            &["all", "-1"],
            "what is committed is on every broker that is in sync",
        ),
    Property::new(
        "producer.override.enable.idempotence",
        Boolean,
        "Whether a record is written once.",
    )
    .default("true")
    .only(&["true"], "delivery is exactly once, always"),
    PRODUCER_TUNING.named("producer.override.batch.size"),
    PRODUCER_TUNING.named("producer.override.linger.ms"),
    PRODUCER_TUNING.named("producer.override.compression.type"),
    PRODUCER_TUNING.named("producer.override.compression.gzip.level"),
    PRODUCER_TUNING.named("producer.override.compression.lz4.level"),
    PRODUCER_TUNING.named("producer.override.compression.zstd.level"),
    PRODUCER_TUNING.named("producer.override.buffer.memory"),
    PRODUCER_TUNING.named("producer.override.max.request.size"),
    PRODUCER_TUNING.named("producer.override.max.block.ms"),
    PRODUCER_TUNING.named("producer.override.request.timeout.ms"),
    PRODUCER_TUNING.named("producer.override.delivery.timeout.ms"),
    PRODUCER_TUNING.named("producer.override.retries"),
    PRODUCER_TUNING.named("producer.override.retry.backoff.ms"),
    PRODUCER_TUNING.named("producer.override.retry.backoff.max.ms"),
    PRODUCER_TUNING.named("producer.override.max.in.flight.requests.per.connection"),
    PRODUCER_TUNING.named("producer.override.reconnect.backoff.ms"),
    PRODUCER_TUNING.named("producer.override.reconnect.backoff.max.ms"),
    PRODUCER_TUNING.named("producer.override.send.buffer.bytes"),
    PRODUCER_TUNING.named("producer.override.receive.buffer.bytes"),
    PRODUCER_TUNING.named("producer.override.metadata.max.age.ms"),
    PRODUCER_TUNING.named("producer.override.metadata.max.idle.ms"),
    PRODUCER_TUNING.named("producer.override.connections.max.idle.ms"),
    PRODUCER_TUNING.named("producer.override.client.id"),
    Property::new(
        "producer.override.*",
        Text,
        "Other settings of the producer.",
    )
    .refused("where Kafka is, how to log in and what a transaction is belong to the worker"),
    Property::new("admin.override.*", Text, "Settings of the admin client.")
        .refused("the settings of clients belong to the worker"),
];

/// A setting that only makes a producer faster or slower.
const PRODUCER_TUNING: Property =
    Property::new("", Text, "Speed of the producer, which the worker chooses.").tuning();

/// What we add.
pub(crate) const HUTONG: &[Property] = &[
Property::new("hutong.location", Text, "Location whose workers run the tasks.").default("default").medium(),
Property::new("hutong.batch.bytes.max", Bytes, "Largest size of a batch.").default("8MiB"),
Property::new("hutong.batch.ms.max", Int, "Longest time for which a batch stays open while more arrives, in milliseconds; it closes when nothing does, at once or, where the source is late, after a fiftieth of that.").default("50"),
];
