//! The property table of the sink: every property of Debezium 3.7's JDBC sink.

use crate::plugin::{CONNECT, HUTONG};
use crate::property::{
    Kind::{Boolean, Class, Int, List, Long, Password, String},
    Property, Table,
};

/// All properties of the sink.
pub const TABLE: Table = Table(&[CONNECTION, WHAT, TUNING, SINK, CONNECT, HUTONG]);

/// Where the database is and how to log in.
const CONNECTION: &[Property] = &[
Property::new("connection.provider", Class, "Java class that pools connections.").tuning(),
Property::new("connection.url", String, "jdbc:postgresql://host:port/database, with sslmode, sslrootcert, sslcert, sslkey and currentSchema as parameters.").required(),
Property::new("connection.username", String, "User: a role that may create and write the target tables.").required(),
Property::new("connection.password", Password, "Password, by reference.").medium(),
Property::new("connection.pool.*", Int, "Size of a pool of connections; a task has one.").tuning(),
Property::new("connection.restart.on.errors", Boolean, "Whether lost connections are opened again; they always are.").tuning(),
];

/// Which topics go to which tables, and how.
const WHAT: &[Property] = &[
Property::new("topics", List, "Views (hutong.view.<name>) and topics of tables.").required(),
Property::new("topics.regex", String, "Pattern of topics.").refused("name the topics; a pattern would take in views that nobody granted"),
Property::new("insert.mode", String, "How rows are written.").default("upsert").medium().only(&["upsert"], "the target is kept equal to the view, which needs upserts by key"),
Property::new("primary.key.mode", String, "Where the primary key comes from.").default("record_key").medium().only(&["record_key"], "the key of a view's records is the key of its rows"),
Property::new("primary.key.fields", List, "Fields of the primary key.").refused("the primary key is the whole record key"),
Property::new("delete.enabled", Boolean, "Whether rows are deleted.").default("true").medium().only(&["true"], "what leaves a view must leave the target"),
Property::new("truncate.enabled", Boolean, "Whether truncations are carried out; they arrive as deletes.").default("false").tuning(),
Property::new("schema.evolution", String, "basic creates missing tables and adds nullable columns; none does neither.").default("basic").medium(),
Property::new("collection.name.format", String, "Name of the target table, with or without a schema; ${topic} is the topic's name with full stops replaced by underscores.").default("${topic}").medium(),
Property::new("table.name.format", String, "Name of the target table (Debezium before 3.0)."),
Property::new("collection.naming.strategy", Class, "How tables are named.").default("io.debezium.sink.naming.DefaultCollectionNamingStrategy").only(&["io.debezium.sink.naming.DefaultCollectionNamingStrategy", "io.debezium.connector.jdbc.naming.DefaultCollectionNamingStrategy"], "Java classes cannot be loaded"),
Property::new("table.naming.strategy", Class, "How tables are named (Debezium before 3.0).").default("io.debezium.connector.jdbc.naming.DefaultTableNamingStrategy").only(&["io.debezium.connector.jdbc.naming.DefaultTableNamingStrategy"], "Java classes cannot be loaded"),
Property::new("column.naming.strategy", Class, "How columns are named.").default("io.debezium.connector.jdbc.naming.DefaultColumnNamingStrategy").only(&["io.debezium.connector.jdbc.naming.DefaultColumnNamingStrategy"], "columns are named as in the view"),
Property::new("column.naming.*", String, "Settings of how columns are named.").refused("columns are named as in the view"),
Property::new("collection.naming.*", String, "Settings of how tables are named.").refused("use collection.name.format"),
Property::new("field.include.list", List, "Fields to write.").refused("a view says which columns there are"),
Property::new("field.exclude.list", List, "Fields not to write.").refused("a view says which columns there are"),
Property::new("quote.identifiers", Boolean, "Whether names are quoted.").default("true").only(&["true"], "names are written as they are"),
Property::new("use.time.zone", String, "Time zone of times.").default("UTC").only(&["UTC"], "times are written as they are"),
Property::new("database.time_zone", String, "Time zone of times (Debezium before 3.0).").default("UTC").only(&["UTC"], "times are written as they are"),
Property::new("dialect.name", String, "Java class of the dialect.").tuning(),
Property::new("dialect.postgres.postgis.schema", String, "Schema of PostGIS; its types are not carried yet.").tuning(),
Property::new("dialect.postgres.unnest.insert.enabled", Boolean, "How rows are inserted; always in sets.").tuning(),
Property::new("dialect.*", String, "Settings of other databases.").tuning(),
Property::new("hibernate.*", String, "Settings of Hibernate.").refused("there is no Hibernate; put what the connection needs into connection.url"),
Property::new("postgres.null.character", String, "What replaces the character NUL.").refused("text is written as it is"),
];

/// Batches and retries: we do these differently.
const TUNING: &[Property] = &[
    Property::new(
        "batch.size",
        Int,
        "Records of a batch; see hutong.batch.bytes.max.",
    )
    .tuning(),
    Property::new(
        "use.reduction.buffer",
        Boolean,
        "Whether a batch writes a row once; it always does.",
    )
    .tuning(),
    Property::new(
        "flush.max.retries",
        Int,
        "Attempts to write; there is no limit.",
    )
    .tuning(),
    Property::new("flush.retry.delay.ms", Long, "Pause between attempts.").tuning(),
    Property::new("flush.failure.*", String, "What follows a failed write.").tuning(),
    Property::new("internal.*", String, "Debezium's internal settings.").tuning(),
    Property::new("custom.metric.tags", List, "Labels of metrics.").tuning(),
];

/// What Kafka Connect knows of sinks.
const SINK: &[Property] = &[
    Property::new(
        "consumer.override.auto.offset.reset",
        String,
        "Where reading begins without a position.",
    )
    .default("earliest")
    .only(&["earliest"], "a sink holds every row of its view"),
    CONSUMER_TUNING.named("consumer.override.max.poll.records"),
    CONSUMER_TUNING.named("consumer.override.max.poll.interval.ms"),
    CONSUMER_TUNING.named("consumer.override.fetch.min.bytes"),
    CONSUMER_TUNING.named("consumer.override.fetch.max.bytes"),
    CONSUMER_TUNING.named("consumer.override.fetch.max.wait.ms"),
    CONSUMER_TUNING.named("consumer.override.max.partition.fetch.bytes"),
    CONSUMER_TUNING.named("consumer.override.session.timeout.ms"),
    CONSUMER_TUNING.named("consumer.override.heartbeat.interval.ms"),
    CONSUMER_TUNING.named("consumer.override.request.timeout.ms"),
    CONSUMER_TUNING.named("consumer.override.default.api.timeout.ms"),
    CONSUMER_TUNING.named("consumer.override.check.crcs"),
    CONSUMER_TUNING.named("consumer.override.receive.buffer.bytes"),
    CONSUMER_TUNING.named("consumer.override.send.buffer.bytes"),
    CONSUMER_TUNING.named("consumer.override.metadata.max.age.ms"),
    CONSUMER_TUNING.named("consumer.override.connections.max.idle.ms"),
    CONSUMER_TUNING.named("consumer.override.reconnect.backoff.ms"),
    CONSUMER_TUNING.named("consumer.override.reconnect.backoff.max.ms"),
    CONSUMER_TUNING.named("consumer.override.retry.backoff.ms"),
    CONSUMER_TUNING.named("consumer.override.retry.backoff.max.ms"),
    CONSUMER_TUNING.named("consumer.override.client.id"),
    CONSUMER_TUNING.named("consumer.override.client.rack"),
    CONSUMER_TUNING.named("consumer.override.partition.assignment.strategy"),
    Property::new("consumer.override.*", String, "Settings of the consumer.")
        .refused("the settings of consumers belong to the worker"),
    Property::new(
        "errors.tolerance",
        String,
        "none: a record that cannot be written stops its table. all: it becomes a dead letter and \
         the table goes on, unless it deletes, which must not fail.",
    )
    .default("none")
    .medium(),
    Property::new(
        "errors.deadletterqueue.topic.name",
        String,
        "Topic of records that could not be written: beside each topic one of its own, which only \
         the platform may read.",
    )
    .only(
        &["${topic}.dlq"],
        "it must be ${topic}.dlq, which only the platform may read",
    ),
    Property::new(
        "hutong.dead.letters.replay",
        String,
        "Any new word here lets the dead letters that no later record has made up for be tried again.",
    ),
    Property::new(
        "errors.deadletterqueue.*",
        String,
        "Settings of that topic.",
    )
    .tuning(),
];

/// A setting that only makes a consumer faster or slower.
const CONSUMER_TUNING: Property = Property::new(
    "",
    String,
    "Speed of the consumer, which the worker chooses.",
)
.tuning();
