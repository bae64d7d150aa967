//! The property table of the PostgreSQL source: every property of Debezium 3.7's connector.

use crate::plugin::{CONNECT, HUTONG};
use crate::property::{
    Kind::{Boolean, Class, Int, List, Long, Password, String},
    Property, Table,
};

/// All properties of the source.
pub const TABLE: Table = Table(&[
    CONNECTION, WHAT, EVENTS, SNAPSHOT, STREAM, TUNING, SOURCE, CONNECT, HUTONG,
]);

/// Where the database is and how to log in.
const CONNECTION: &[Property] = &[
Property::new("database.hostname", String, "Host name or address of the server.").required(),
Property::new("database.port", Int, "Port of the server.").default("5432").medium(),
Property::new("database.user", String, "User: a role with REPLICATION and SELECT on the captured tables.").required(),
Property::new("database.password", Password, "Password, by reference.").medium(),
Property::new("database.dbname", String, "Database.").required(),
Property::new("database.sslmode", String, "Encryption: disable, prefer, require, verify-ca or verify-full.").default("prefer").medium(),
Property::new("database.sslrootcert", String, "PEM file, on the worker, of the authorities to trust; without it the public ones."),
Property::new("database.sslcert", String, "PEM file, on the worker, of the client's certificate."),
Property::new("database.sslkey", String, "PEM file, on the worker, of the client's key, not encrypted."),
Property::new("database.sslpassword", Password, "Password of the client's key.").refused("encrypted client keys cannot be read; keep the key in a file that only the worker's user can read"),
Property::new("database.sslfactory", Class, "Java class that makes TLS sockets.").refused("Java classes cannot be loaded"),
Property::new("database.tcpKeepAlive", Boolean, "Whether TCP probes idle connections.").default("true").only(&["true"], "a connection that hangs unnoticed would stop the stream"),
Property::new("database.initial.statements", String, "SQL run on each ordinary connection after login, separated by semicolons."),
Property::new("database.query.timeout.ms", Long, "Bound on any query of start-up and validation.").default("600000"),
Property::new("database.connection.factory.class", Class, "Java class that opens connections.").refused("Java classes cannot be loaded"),
Property::new("driver.*", String, "Properties of the JDBC driver.").refused("there is no JDBC driver; use the database.* properties"),
Property::new("database.driver.*", String, "Properties of the JDBC driver.").refused("there is no JDBC driver; use the database.* properties"),
Property::new("connection.validation.timeout.ms", Long, "Bound on testing the connection.").tuning(),
];

/// Which tables and columns, under which names.
const WHAT: &[Property] = &[
Property::new("topic.prefix", String, "First part of the topics' names; identifies the source and never changes.").required(),
Property::new("plugin.name", String, "Logical decoding output plugin.").default("pgoutput").only(&["pgoutput"], "it is the output plugin that every PostgreSQL brings"),
Property::new("slot.name", String, "Replication slot.").default("debezium").medium(),
Property::new("publication.name", String, "Publication.").default("dbz_publication").medium(),
Property::new("publication.autocreate.mode", String, "What is done about a missing publication: filtered and all_tables create it for the captured tables (never FOR ALL TABLES), no_tables without tables, disabled not at all.").default("filtered").medium(),
Property::new("publish.via.partition.root", Boolean, "Whether partitions are published as their root.").default("false").only(&["false"], "partitioned tables are not captured yet"),
Property::new("replica.identity.autoset.values", String, "Replica identities to set.").refused("we change nothing in the source; set REPLICA IDENTITY there"),
Property::new("table.include.list", List, "Regular expressions, each against a whole schema.table, of tables to capture.").medium(),
Property::new("table.exclude.list", List, "Regular expressions of tables not to capture; not together with the include list.").medium(),
Property::new("schema.include.list", List, "Regular expressions of schemas to capture."),
Property::new("schema.exclude.list", List, "Regular expressions of schemas not to capture; not together with the include list."),
Property::new("column.include.list", List, "Regular expressions, each against a whole schema.table.column, of columns to capture; key columns always are.").medium(),
Property::new("column.exclude.list", List, "Regular expressions of columns not to capture; not together with the include list.").medium(),
Property::new("table.ignore.builtin", Boolean, "Whether system tables are left out.").default("true").only(&["true"], "system tables cannot be published"),
Property::new("topic.naming.strategy", Class, "How topics are named.").default("io.debezium.schema.SchemaTopicNamingStrategy").only(&["io.debezium.schema.SchemaTopicNamingStrategy"], "topics are named prefix.schema.table"),
Property::new("topic.delimiter", String, "What separates the parts of a topic's name.").default(".").only(&["."], "topics are named prefix.schema.table"),
Property::new("topic.cache.size", Int, "Size of a cache of names.").tuning(),
Property::new("topic.heartbeat.prefix", String, "First part of the names of heartbeat topics, of which there are none.").tuning(),
Property::new("topic.transaction", String, "Name of the topic of transaction metadata, of which there is none.").tuning(),
Property::new("message.key.columns", String, "Columns that make a table's key instead of its primary key.").refused("keys other than the primary key come later"),
Property::new("skipped.operations", List, "Operations that make no event: some of c, u, d, t; or none.").default("none").medium(),
Property::new("skip.messages.without.change", Boolean, "Whether updates that change no captured column are left out.").default("false").only(&["false"], "every update is an event; views forward only what changed anyway"),
Property::new("message.prefix.include.list", List, "Prefixes of logical messages to capture.").refused("logical messages are not captured"),
Property::new("message.prefix.exclude.list", List, "Prefixes of logical messages not to capture; none are.").tuning(),
Property::new("topic.creation.default.partitions", Int, "Number of partitions of a new topic of a table with a key; others have one.").default("1"),
Property::new("topic.creation.default.replication.factor", Int, "Replication factor of new topics; the broker's default is used.").tuning(),
Property::new("topic.creation.default.cleanup.policy", String, "Cleanup policy of new topics.").refused("the topic of a table with a key is compacted, always"),
Property::new("topic.creation.*", String, "Other settings of new topics.").refused("topics are created with the settings that their readers rely on; only topic.creation.default.partitions may be chosen"),
];

/// What an event looks like.
const EVENTS: &[Property] = &[
Property::new("decimal.handling.mode", String, "How numeric values are written.").default("precise").only(&["precise"], "numbers stay exact"),
Property::new("time.precision.mode", String, "How dates and times are written.").default("adaptive").only(&["adaptive"], "times keep the precision of their column"),
Property::new("binary.handling.mode", String, "How bytea values are written.").default("bytes").only(&["bytes"], "bytea values are written as bytes"),
Property::new("interval.handling.mode", String, "How intervals are written; the type is not carried yet, a captured column of it is refused.").default("numeric").tuning(),
Property::new("hstore.handling.mode", String, "How hstore values are written; the type is not carried yet, a captured column of it is refused.").default("json").tuning(),
Property::new("money.fraction.digits", Int, "Digits of money values; the type is not carried yet, a captured column of it is refused.").tuning(),
Property::new("include.unknown.datatypes", Boolean, "Whether columns of unknown types are written as bytes.").default("false").only(&["false"], "a type that we do not know is refused, never written as opaque bytes"),
Property::new("schema.name.adjustment.mode", String, "How names in schemas are adjusted.").default("none").only(&["none"], "names that are no Avro names are refused"),
Property::new("field.name.adjustment.mode", String, "How names of fields are adjusted.").default("none").only(&["none"], "names that are no Avro names are refused"),
Property::new("unavailable.value.placeholder", String, "What stands for a TOAST value that could not be read.").default("__debezium_unavailable_value").only(&["__debezium_unavailable_value"], "readers recognise it"),
Property::new("tombstones.on.delete", Boolean, "Whether a tombstone follows a delete.").default("true").only(&["true"], "in a compacted topic a row without a tombstone would stay for ever"),
Property::new("provide.transaction.metadata", Boolean, "Whether transactions make events of their own.").default("false").only(&["false"], "source.txId says to which transaction an event belongs"),
Property::new("extended.headers.enable", Boolean, "Whether events carry headers about connector and task; ours carry none.").tuning(),
Property::new("include.schema.comments", Boolean, "Whether schemas carry the comments of tables and columns.").default("false").only(&["false"], "schemas carry no comments"),
Property::new("column.propagate.source.type", List, "Columns whose schema carries their type in the source.").refused("schemas carry no source types; ask the platform for a table's types"),
Property::new("datatype.propagate.source.type", List, "Types that schemas name.").refused("schemas carry no source types; ask the platform for a table's types"),
Property::new("column.mask.with.*", String, "Columns whose values are replaced by asterisks.").refused("a column is masked by the view that shares it, or left out by column.exclude.list"),
Property::new("column.mask.hash.*", String, "Columns whose values are replaced by a hash.").refused("a column is masked by the view that shares it, or left out by column.exclude.list"),
Property::new("column.truncate.to.*", String, "Columns whose values are cut.").refused("a column is masked by the view that shares it, or left out by column.exclude.list"),
Property::new("converters", List, "Converters of values.").refused("Java classes cannot be loaded"),
Property::new("post.processors", List, "Post-processors of events.").refused("Java classes cannot be loaded; TOAST values are read again without one"),
Property::new("converter.*", String, "Properties of converters.").refused("Java classes cannot be loaded"),
Property::new("schema.refresh.mode", String, "When the table's schema is read again; it is versioned by the stream.").tuning(),
];

/// What is read at the first start.
const SNAPSHOT: &[Property] = &[
    Property::new(
        "snapshot.mode",
        String,
        "initial reads all rows beside the changes; initial_only stops when they are read; no_data reads changes only; always reads all rows at every start; when_needed reads them again when the server's log does not continue where the connector stopped.",
    )
    .default("initial")
    .medium(),
    Property::new(
        "snapshot.mode.*",
        String,
        "Settings of other snapshot modes.",
    )
    .refused("the snapshot modes configuration_based and custom are not supported"),
    Property::new(
        "snapshot.isolation.mode",
        String,
        "Isolation of the snapshot; tables are read in chunks beside the stream.",
    )
    .tuning(),
    Property::new(
        "snapshot.locking.mode",
        String,
        "Locks taken by the snapshot.",
    )
    .default("none")
    .only(&["none"], "the source is never locked"),
    Property::new(
        "snapshot.locking.mode.custom.name",
        String,
        "Name of a custom locking mode.",
    )
    .refused("Java classes cannot be loaded"),
    Property::new("snapshot.query.mode", String, "How rows are selected.")
        .default("select_all")
        .only(&["select_all"], "a snapshot holds whole tables"),
    Property::new(
        "snapshot.query.mode.custom.name",
        String,
        "Name of a custom query mode.",
    )
    .refused("Java classes cannot be loaded"),
    Property::new(
        "snapshot.select.statement.overrides",
        String,
        "Queries instead of whole tables.",
    )
    .refused("a snapshot holds whole tables; leave rows out in a view's condition"),
    Property::new(
        "snapshot.select.statement.overrides.*",
        String,
        "Queries instead of whole tables.",
    )
    .refused("a snapshot holds whole tables; leave rows out in a view's condition"),
    Property::new(
        "snapshot.include.collection.list",
        List,
        "Tables that the snapshot reads.",
    )
    .refused("a snapshot holds every captured table"),
    Property::new(
        "snapshot.fetch.size",
        Int,
        "Rows fetched at a time; chosen by bytes and time.",
    )
    .tuning(),
    Property::new(
        "hutong.snapshot.again",
        List,
        "Tables to be read again, each as schema.table@token; a token that the table has not seen yet starts the reading, which ends by deleting from the topic what the table does not hold.",
    ),
    Property::new("snapshot.delay.ms", Long, "Pause before the snapshot.").tuning(),
    Property::new(
        "streaming.delay.ms",
        Long,
        "Pause between snapshot and stream.",
    )
    .tuning(),
    Property::new(
        "snapshot.lock.timeout.ms",
        Long,
        "Bound on waiting for locks; none are taken.",
    )
    .tuning(),
    Property::new("snapshot.max.threads", Int, "Number of connections that read tables beside the stream.").default("2"),
    Property::new(
        "legacy.snapshot.max.threads",
        Boolean,
        "How readers share tables.",
    )
    .tuning(),
    Property::new("snapshot.max.threads.multiplier", Int, "Chunks per reader.").tuning(),
    Property::new(
        "snapshot.tables.order.by.row.count",
        String,
        "Order of the tables.",
    )
    .tuning(),
    Property::new("incremental.snapshot.chunk.size", Int, "Rows of a chunk.").tuning(),
    Property::new(
        "incremental.snapshot.watermarking.strategy",
        String,
        "How incremental snapshots mark their bounds.",
    )
    .tuning(),
    Property::new(
        "incremental.snapshot.allow.schema.changes",
        Boolean,
        "Whether schemas may change meanwhile.",
    )
    .tuning(),
    Property::new(
        "read.only",
        Boolean,
        "Whether incremental snapshots write nothing to the source; nothing ever is written to it.",
    )
    .tuning(),
    Property::new("signal.data.collection", String, "Table of signals.")
        .refused("there are no signals; nothing is written to the source"),
    Property::new(
        "signal.enabled.channels",
        List,
        "Where signals come from; there are none.",
    )
    .tuning(),
    Property::new("signal.kafka.*", String, "Settings of signals by topic.").tuning(),
    Property::new("signal.consumer.*", String, "Settings of signals by topic.").tuning(),
    Property::new("signal.file", String, "File of signals.").tuning(),
    Property::new(
        "signal.poll.interval.ms",
        Long,
        "Pause between looks for signals.",
    )
    .tuning(),
    Property::new(
        "notification.enabled.channels",
        List,
        "Where notifications go.",
    )
    .refused("the state of tables is in the task's status"),
    Property::new(
        "notification.sink.topic.name",
        String,
        "Topic of notifications.",
    )
    .tuning(),
];

/// Replication slot, acknowledgement, failures.
const STREAM: &[Property] = &[
Property::new("slot.drop.on.stop", Boolean, "Whether the slot is dropped when the connector stops.").default("false").only(&["false"], "what happens while the connector stands would be lost; deleting the connector drops the slot"),
Property::new("slot.failover", Boolean, "Whether the slot follows a failover (PostgreSQL 17).").default("false").only(&["false"], "slots that follow a failover come later"),
Property::new("slot.stream.params", String, "Parameters of the stream.").refused("the stream is always asked for in the same way"),
Property::new("slot.max.retries", Int, "Attempts to connect; there is no limit.").tuning(),
Property::new("slot.retry.delay.ms", Long, "Pause between attempts.").tuning(),
Property::new("status.update.interval.ms", Int, "Longest time between two acknowledgements.").default("10000"),
Property::new("lsn.flush.mode", String, "Who acknowledges.").default("connector_and_driver").only(&["connector_and_driver", "connector"], "what is durable in Kafka is acknowledged, by us"),
Property::new("lsn.flush.timeout.ms", Long, "Bound on an acknowledgement.").tuning(),
Property::new("lsn.flush.timeout.action", String, "What follows a late acknowledgement.").tuning(),
Property::new("flush.lsn.source", Boolean, "Whether the log is acknowledged (Debezium before 3.4).").default("true").only(&["true"], "the server would keep its log for ever"),
Property::new("offset.mismatch.strategy", String, "What is done about a slot that is not at the stored position.").default("no_validation").only(&["no_validation"], "a slot that is not where our position is always is an error"),
Property::new("xmin.fetch.interval.ms", Long, "How often xmin is read into events.").default("0").only(&["0"], "source.xmin is always null"),
Property::new("heartbeat.interval.ms", Int, "How often a heartbeat is sent; an idle slot advances without.").tuning(),
Property::new("heartbeat.action.query", String, "SQL run at each heartbeat.").refused("nothing is written to the source; an idle slot advances without"),
Property::new("heartbeat.topics.prefix", String, "First part of the names of heartbeat topics, of which there are none.").tuning(),
Property::new("event.processing.failure.handling.mode", String, "What is done about an event that cannot be processed.").default("fail").only(&["fail"], "an event is never skipped"),
Property::new("event.converting.failure.handling.mode", String, "What is done about an event that cannot be converted.").default("fail").only(&["fail"], "an event is never skipped"),
Property::new("guardrail.collections.max", Int, "Largest number of captured tables.").default("0").only(&["0"], "the number of tables is not limited"),
Property::new("guardrail.collections.limit.action", String, "What is done beyond that number.").tuning(),
];

/// Queues, threads, metrics: we do these differently.
const TUNING: &[Property] = &[
    Property::new(
        "max.queue.size",
        Int,
        "Size of a queue; ours are bounded in bytes.",
    )
    .tuning(),
    Property::new(
        "max.queue.size.in.bytes",
        Long,
        "Size of a queue; see hutong.batch.bytes.max.",
    )
    .tuning(),
    Property::new(
        "max.batch.size",
        Int,
        "Events of a batch; see hutong.batch.bytes.max.",
    )
    .tuning(),
    Property::new("poll.interval.ms", Long, "Pause between looks for events.").tuning(),
    Property::new("queue.provider.*", String, "Kind of queue.").tuning(),
    Property::new("queue.*", String, "Kind of queue.").tuning(),
    Property::new(
        "retriable.restart.connector.wait.ms",
        Long,
        "Pause before a restart.",
    )
    .tuning(),
    Property::new("errors.tolerance", String, "Whether errors are skipped.")
        .default("none")
        .only(&["none"], "nothing is skipped"),
    Property::new(
        "errors.max.retries",
        Int,
        "Number of restarts; there is no limit.",
    )
    .tuning(),
    Property::new("custom.metric.tags", List, "Labels of metrics.").tuning(),
    Property::new(
        "statistics.metrics.enabled",
        Boolean,
        "Whether latencies are measured.",
    )
    .tuning(),
    Property::new("executor.shutdown.timeout.ms", Long, "Bound on stopping.").tuning(),
    Property::new("internal.*", String, "Debezium's internal settings.").tuning(),
    Property::new(
        "openlineage.integration.enabled",
        Boolean,
        "Whether lineage is sent.",
    )
    .default("false")
    .only(&["false"], "lineage is not sent anywhere"),
    Property::new("openlineage.integration.*", String, "Settings of lineage.").tuning(),
];

/// What Kafka Connect knows of sources.
const SOURCE: &[Property] = &[
    Property::new(
        "exactly.once.support",
        String,
        "Whether exactly once is required.",
    )
    .default("required")
    .only(
        &["requested", "required"],
        "delivery is exactly once, always",
    ),
    Property::new(
        "transaction.boundary",
        String,
        "Where transactions end; at the source's own boundaries.",
    )
    .default("poll")
    .tuning(),
    Property::new(
        "transaction.boundary.interval.ms",
        Long,
        "How long transactions last.",
    )
    .tuning(),
    Property::new(
        "offsets.storage.topic",
        String,
        "Topic of positions; the platform has its own.",
    )
    .tuning(),
    Property::new("topic.creation.groups", List, "Groups of topics.")
        .refused("all topics are created alike"),
];
