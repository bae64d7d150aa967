//! The property tables as such.

use std::collections::{BTreeMap, BTreeSet};

use hutong_connectors_core::plugin::PLUGINS;
use hutong_connectors_core::property::{Kind, Property, Treatment, Values};

fn all() -> impl Iterator<Item = (&'static str, &'static Property)> {
    PLUGINS.iter().flat_map(|plugin| {
        let properties = plugin.properties.properties();
        properties.map(|property| (plugin.class, property))
    })
}

#[test]
fn every_property_stands_once_and_is_documented() {
    for plugin in PLUGINS {
        let mut names = BTreeSet::new();
        for property in plugin.properties.properties() {
            assert!(
                names.insert(property.name),
                "{} stands twice",
                property.name
            );
            assert!(property.documentation.ends_with('.'), "{}", property.name);
        }
    }
}

#[test]
fn no_property_is_hidden_by_a_pattern_before_it() {
    for plugin in PLUGINS {
        for property in plugin.properties.properties() {
            if property.name.contains('*') {
                continue;
            }
            let found = plugin.properties.find(property.name).unwrap();
            assert_eq!(found.name, property.name, "{}", plugin.class);
        }
    }
}

#[test]
fn every_default_is_accepted_and_so_is_every_value_that_is_listed() {
    for plugin in PLUGINS {
        for property in plugin.properties.properties() {
            let mut values: Vec<&str> = property.default.into_iter().collect();
            if let Treatment::Only(listed, _) = property.treatment {
                values.extend(listed);
            }
            for value in values {
                let given = BTreeMap::from([(property.name.to_owned(), value.to_owned())]);
                let errors = Values::check(plugin.properties, &given).finish(()).err();
                let errors = errors.unwrap_or_default();
                let about = errors.iter().find(|error| error.property == property.name);
                assert_eq!(about, None, "{value}");
            }
        }
    }
}

#[test]
fn only_credentials_are_passwords_and_every_credential_is_one() {
    for (class, property) in all() {
        let is_credential = property.name.ends_with("password") && !property.name.contains('*');
        assert_eq!(
            property.kind == Kind::Password,
            is_credential,
            "{class} {}",
            property.name
        );
    }
}

/// Every name of the lists of features in Debezium's documentation and in Kafka Connect's.
const KNOWN_TO_DEBEZIUM: &str = "
topic.prefix topic.naming.strategy topic.delimiter topic.cache.size schema.include.list schema.exclude.list
table.include.list table.exclude.list column.include.list column.exclude.list table.ignore.builtin
skipped.operations skip.messages.without.change column.mask.with.5.chars
column.mask.hash.SHA-256.with.salt.abc column.mask.hash.v2.SHA-256.with.salt.abc column.truncate.to.9.chars
column.propagate.source.type datatype.propagate.source.type include.schema.comments message.key.columns
decimal.handling.mode time.precision.mode binary.handling.mode schema.name.adjustment.mode
field.name.adjustment.mode converters hstore.handling.mode interval.handling.mode money.fraction.digits
include.unknown.datatypes snapshot.mode snapshot.isolation.mode snapshot.locking.mode snapshot.query.mode
snapshot.select.statement.overrides snapshot.select.statement.overrides.a.b snapshot.include.collection.list
snapshot.fetch.size snapshot.delay.ms snapshot.lock.timeout.ms snapshot.max.threads hutong.snapshot.again
legacy.snapshot.max.threads snapshot.tables.order.by.row.count streaming.delay.ms
incremental.snapshot.chunk.size incremental.snapshot.watermarking.strategy
incremental.snapshot.allow.schema.changes read.only signal.enabled.channels signal.data.collection
signal.kafka.topic signal.kafka.bootstrap.servers signal.file notification.enabled.channels
notification.sink.topic.name heartbeat.interval.ms heartbeat.action.query provide.transaction.metadata
tombstones.on.delete extended.headers.enable max.queue.size max.queue.size.in.bytes max.batch.size
poll.interval.ms queue.provider.type event.processing.failure.handling.mode
event.converting.failure.handling.mode errors.max.retries retriable.restart.connector.wait.ms
guardrail.collections.max guardrail.collections.limit.action custom.metric.tags statistics.metrics.enabled
post.processors snapshot.mode.configuration.based.snapshot.data snapshot.mode.custom.name plugin.name
slot.name slot.drop.on.stop slot.failover slot.stream.params slot.max.retries slot.retry.delay.ms
status.update.interval.ms lsn.flush.mode lsn.flush.timeout.ms lsn.flush.timeout.action
offset.mismatch.strategy publication.name publication.autocreate.mode publish.via.partition.root
replica.identity.autoset.values unavailable.value.placeholder schema.refresh.mode
message.prefix.include.list message.prefix.exclude.list database.connection.factory.class database.hostname
database.port database.user database.password database.dbname database.sslmode database.sslcert
database.sslkey database.sslpassword database.sslrootcert database.sslfactory database.tcpKeepAlive
database.initial.statements database.query.timeout.ms driver.connectTimeout xmin.fetch.interval.ms
flush.lsn.source topic.creation.enable topic.creation.groups topic.creation.default.partitions
topic.creation.default.replication.factor exactly.once.support transaction.boundary
transaction.boundary.interval.ms offsets.storage.topic openlineage.integration.enabled
name connector.class tasks.max key.converter value.converter header.converter transforms predicates
key.converter.schema.registry.url config.action.reload errors.retry.timeout errors.retry.delay.max.ms
errors.tolerance errors.log.enable errors.log.include.messages producer.override.linger.ms";

const KNOWN_TO_THE_SINK: &str = "
connection.url connection.username connection.password connection.provider connection.pool.min_size
connection.pool.max_size connection.pool.acquire_increment connection.pool.timeout
connection.restart.on.errors topics topics.regex insert.mode primary.key.mode primary.key.fields
delete.enabled truncate.enabled schema.evolution batch.size use.reduction.buffer
dialect.postgres.unnest.insert.enabled flush.max.retries flush.retry.delay.ms field.include.list
field.exclude.list collection.name.format table.name.format collection.naming.strategy
column.naming.strategy use.time.zone database.time_zone quote.identifiers
dialect.postgres.postgis.schema dialect.sqlserver.identity.insert hibernate.connection.foo
errors.deadletterqueue.topic.name errors.deadletterqueue.context.headers.enable name connector.class tasks.max
key.converter value.converter transforms errors.tolerance consumer.override.max.poll.records";

#[test]
fn every_property_of_debezium_and_kafka_connect_is_known_by_name() {
    for (plugin, names) in [
        (&PLUGINS[1], KNOWN_TO_DEBEZIUM),
        (&PLUGINS[0], KNOWN_TO_THE_SINK),
    ] {
        let unknown: Vec<&str> = names
            .split_whitespace()
            .filter(|name| plugin.properties.find(name).is_none())
            .collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", plugin.class);
    }
}
