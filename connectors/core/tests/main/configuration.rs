//! What users post, and what they read when it is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use hutong_connectors_core::connection::SslMode;
use hutong_connectors_core::plugin::{self, PluginKind};
use hutong_connectors_core::postgres_source::{PublicationAutocreate, SnapshotMode};
use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::{SINK_CLASS, SOURCE_CLASS, jdbc_sink, postgres_source};
use proptest::prelude::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// As Debezium's tutorial has it, with the password replaced by a reference.
fn source(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut properties = map(&[
        ("connector.class", SOURCE_CLASS),
        ("tasks.max", "1"),
        ("database.hostname", "db.aic.example"),
        ("database.port", "5433"),
        ("database.user", "debezium"),
        ("database.password", "${file:aic.properties:password}"),
        ("database.dbname", "aic"),
        ("topic.prefix", "aic"),
        ("table.include.list", "aic\\.ent_base,aic\\.ent_inv"),
        ("plugin.name", "pgoutput"),
        ("key.converter", "io.confluent.connect.avro.AvroConverter"),
        ("key.converter.schema.registry.url", "http://registry:8081"),
        ("value.converter", "io.confluent.connect.avro.AvroConverter"),
        (
            "value.converter.schema.registry.url",
            "http://registry:8081",
        ),
        ("max.batch.size", "4096"),
    ]);
    properties.extend(map(more));
    properties
}

fn sink(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut properties = map(&[
        ("connector.class", SINK_CLASS),
        (
            "connection.url",
            "jdbc:postgresql://front:5432/front_qts?sslmode=disable",
        ),
        ("connection.username", "hutong"),
        ("connection.password", "${env:HUTONG_SECRET_FRONT}"),
        ("topics", "hutong.view.s03"),
        ("insert.mode", "upsert"),
        ("primary.key.mode", "record_key"),
        ("delete.enabled", "true"),
        ("schema.evolution", "basic"),
    ]);
    properties.extend(map(more));
    properties
}

fn source_errors(more: &[(&str, &str)]) -> Vec<PropertyError> {
    postgres_source::Config::parse("c", &source(more))
        .err()
        .unwrap_or_default()
}

fn sink_errors(more: &[(&str, &str)]) -> Vec<PropertyError> {
    jdbc_sink::Config::parse("c", &sink(more))
        .err()
        .unwrap_or_default()
}

#[track_caller]
fn check(errors: &[PropertyError], property: &str, part: &str) {
    let found = errors.iter().find(|error| error.property == property);
    let found = found.unwrap_or_else(|| panic!("nothing about {property} in {errors:?}"));
    assert!(found.message.contains(part), "{part:?} is not in: {found}");
}

#[test]
fn an_existing_debezium_source_parses_and_what_only_tunes_is_listed() {
    let config = postgres_source::Config::parse("aic", &source(&[])).unwrap();
    assert_eq!(config.connection.host, "db.aic.example");
    assert_eq!(config.connection.port, 5433);
    assert_eq!(config.connection.tls.mode, SslMode::Prefer);
    assert_eq!(config.slot_name, "debezium");
    assert_eq!(config.publication_name, "dbz_publication");
    assert_eq!(
        config.publication_autocreate,
        PublicationAutocreate::Filtered
    );
    assert_eq!(config.snapshot_mode, SnapshotMode::Initial);
    assert!(!config.skipped_operations.truncate);
    assert_eq!(config.partitions, 1);
    assert_eq!(config.batch_bytes_max, 8 << 20);
    assert_eq!(config.location, "default");
    assert_eq!(config.status_update_interval, Duration::from_secs(10));
    assert!(config.tables.accepts("aic.ent_base"));
    assert!(!config.tables.accepts("aic.ent_base_old"));
    assert_eq!(
        config.tuning,
        [
            "key.converter.schema.registry.url",
            "max.batch.size",
            "value.converter.schema.registry.url"
        ]
    );
}

#[test]
fn an_existing_debezium_sink_parses() {
    let config = jdbc_sink::Config::parse("s03", &sink(&[("batch.size", "1000")])).unwrap();
    assert_eq!(config.connection.host, "front");
    assert_eq!(config.connection.database, "front_qts");
    assert_eq!(config.connection.tls.mode, SslMode::Disable);
    assert_eq!(config.topics, ["hutong.view.s03"]);
    let table = config.table_of("hutong.view.s03").unwrap();
    assert_eq!(table.to_string(), "public.hutong_view_s03");
    assert_eq!(config.tuning, ["batch.size"]);
}

#[test]
fn all_mistakes_are_reported_together() {
    let errors = source_errors(&[
        ("database.port", "many"),
        ("database.password", "hunter2"),
        ("decimal.handling.mode", "double"),
        ("transforms", "unwrap"),
        (
            "transforms.unwrap.type",
            "io.debezium.transforms.ExtractNewRecordState",
        ),
        ("tabel.include.list", "x"),
        ("max.batch.size", "lots"),
        ("slot.name", "Has-Capitals"),
        ("table.exclude.list", "a.b"),
        ("column.include.list", "a("),
        ("skipped.operations", "t,x"),
        ("hutong.location", "医院"),
    ]);
    check(
        &errors,
        "database.port",
        "a whole number of 32 bits, not \"many\"",
    );
    check(
        &errors,
        "database.password",
        "${file:PATH:KEY}, ${directory:DIR:KEY} or ${env:NAME}",
    );
    check(
        &errors,
        "decimal.handling.mode",
        "only precise is supported: numbers stay exact",
    );
    check(
        &errors,
        "transforms",
        "is not supported: there are no transformations",
    );
    check(&errors, "transforms.unwrap.type", "is not supported");
    check(
        &errors,
        "tabel.include.list",
        "did you mean \"table.include.list\"?",
    );
    check(&errors, "max.batch.size", "a whole number");
    check(&errors, "slot.name", "lower-case letters");
    check(
        &errors,
        "table.exclude.list",
        "cannot be combined with table.include.list",
    );
    check(
        &errors,
        "column.include.list",
        "is not a regular expression",
    );
    check(&errors, "skipped.operations", "some of c, u, d and t");
    check(&errors, "hutong.location", "lower-case letter or digit");
    assert_eq!(errors.len(), 12, "{errors:#?}");
    let text = format!("{errors:?}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn what_is_required_is_asked_for() {
    let errors = postgres_source::Config::parse("c", &BTreeMap::new()).unwrap_err();
    for property in [
        "connector.class",
        "database.hostname",
        "database.user",
        "database.dbname",
        "topic.prefix",
    ] {
        check(&errors, property, "is required");
    }
    let errors = jdbc_sink::Config::parse("c", &map(&[("topics", " ")])).unwrap_err();
    for property in ["connection.url", "connection.username", "topics"] {
        check(&errors, property, "is required");
    }
}

#[test]
fn a_property_that_changes_what_leaves_is_refused_by_name_with_the_reason() {
    for (property, value, reason) in [
        (
            "column.mask.with.12.chars",
            "aic.ent_base.tel",
            "masked by the view",
        ),
        (
            "column.mask.hash.v2.SHA-256.with.salt.x",
            "a.b.c",
            "masked by the view",
        ),
        ("column.truncate.to.20.chars", "a.b.c", "masked by the view"),
        ("message.key.columns", "a.b:c", "primary key"),
        ("time.precision.mode", "connect", "precision"),
        ("tombstones.on.delete", "false", "tombstone"),
        ("provide.transaction.metadata", "true", "source.txId"),
        (
            "topic.naming.strategy",
            "com.example.Names",
            "prefix.schema.table",
        ),
        ("signal.data.collection", "public.signals", "no signals"),
        (
            "heartbeat.action.query",
            "INSERT INTO x",
            "nothing is written to the source",
        ),
        ("slot.drop.on.stop", "true", "would be lost"),
        (
            "key.converter",
            "org.apache.kafka.connect.json.JsonConverter",
            "keys are Avro",
        ),
        (
            "value.converter.value.subject.name.strategy",
            "x.Y",
            "subjects",
        ),
        ("errors.tolerance", "all", "nothing is skipped"),
        ("predicates", "p", "no transformations"),
        (
            "topic.creation.default.cleanup.policy",
            "delete",
            "compacted",
        ),
        ("database.sslfactory", "x.Y", "Java classes"),
        ("plugin.name", "decoderbufs", "every PostgreSQL"),
    ] {
        check(&source_errors(&[(property, value)]), property, reason);
    }
    for (property, value, reason) in [
        ("insert.mode", "insert", "kept equal to the view"),
        (
            "primary.key.mode",
            "record_value",
            "key of a view's records",
        ),
        ("delete.enabled", "false", "must leave the target"),
        ("topics.regex", "hutong.*", "nobody granted"),
        ("field.include.list", "a", "a view says which columns"),
        ("primary.key.fields", "id", "whole record key"),
        (
            "errors.deadletterqueue.topic.name",
            "dlq",
            "only the platform may read",
        ),
        ("errors.tolerance", "some", "all"),
        ("transforms", "a", "no transformations"),
        ("column.naming.strategy", "x.Y", "named as in the view"),
        (
            "consumer.override.isolation.level",
            "read_uncommitted",
            "belong to the worker",
        ),
    ] {
        check(&sink_errors(&[(property, value)]), property, reason);
    }
}

#[test]
fn a_value_that_asks_for_what_is_done_anyway_is_accepted() {
    let errors = source_errors(&[
        ("decimal.handling.mode", "PRECISE"),
        ("tombstones.on.delete", "true"),
        ("provide.transaction.metadata", "false"),
        ("exactly.once.support", "required"),
        ("publication.autocreate.mode", "all_tables"),
        ("snapshot.mode", "no_data"),
        ("errors.tolerance", "none"),
        ("transaction.boundary", "poll"),
        ("hutong.batch.bytes.max", "64MiB"),
        ("key.converter.enhanced.avro.schema.support", "false"),
        ("topic.creation.default.partitions", "4"),
        ("topic.creation.default.replication.factor", "3"),
    ]);
    assert!(errors.is_empty(), "{errors:?}");
    assert!(sink_errors(&[("use.reduction.buffer", "true"), ("auto.evolve", "")]).len() == 1);
}

#[test]
fn a_reference_is_for_credentials_only() {
    let errors = source_errors(&[("topic.prefix", "${file:/etc/passwd:root}")]);
    check(&errors, "topic.prefix", "in credential properties only");
}

#[test]
fn a_connection_url_is_taken_apart_or_refused_with_the_reason() {
    let url = |url: &str| sink_errors(&[("connection.url", url)]);
    check(
        &url("jdbc:mysql://h/d"),
        "connection.url",
        "jdbc:postgresql://host:port/database",
    );
    check(
        &url("jdbc:postgresql://h:x/d"),
        "connection.url",
        "\"x\", which is no port",
    );
    check(
        &url("jdbc:postgresql://u:p@h/d"),
        "connection.url",
        "use connection.username",
    );
    check(
        &url("jdbc:postgresql://h/d?password=x"),
        "connection.url",
        "use connection.username",
    );
    check(
        &url("jdbc:postgresql://h1,h2/d"),
        "connection.url",
        "more than one host",
    );
    check(
        &url("jdbc:postgresql://h/d?sslmode=maybe"),
        "connection.url",
        "sslmode=maybe",
    );
    check(
        &url("jdbc:postgresql://h/d?options=-c"),
        "connection.url",
        "not supported: options",
    );
    let parsed = jdbc_sink::Config::parse(
        "c",
        &sink(&[(
            "connection.url",
            "jdbc:postgresql://[::1]/front%20qts?ssl=true&sslrootcert=/ca.pem&currentSchema=in&ApplicationName=x",
        )]),
    )
    .unwrap();
    assert_eq!(
        (parsed.connection.host.as_str(), parsed.connection.port),
        ("::1", 5432)
    );
    assert_eq!(parsed.connection.database, "front qts");
    assert_eq!(parsed.connection.tls.mode, SslMode::VerifyFull);
    assert_eq!(parsed.table_of("a.b").unwrap().to_string(), "in.a_b");
}

#[test]
fn every_topic_has_a_table_of_its_own() {
    let two = [
        ("topics", "a.b, a_b"),
        ("collection.name.format", "t_${topic}"),
    ];
    check(
        &sink_errors(&two),
        "collection.name.format",
        "would share the table public.t_a_b",
    );
    let fixed = [("topics", "a,b"), ("collection.name.format", "x.t")];
    check(
        &sink_errors(&fixed),
        "collection.name.format",
        "would share the table x.t",
    );
    let placeholder = [("collection.name.format", "${source.table}")];
    check(
        &sink_errors(&placeholder),
        "collection.name.format",
        "other than ${topic}",
    );
    let long = "x".repeat(64);
    check(
        &sink_errors(&[("collection.name.format", &long)]),
        "collection.name.format",
        "63 bytes",
    );
}

#[test]
fn plugins_are_found_as_kafka_connect_finds_them() {
    for class in [SOURCE_CLASS, "PostgresConnector", "Postgres"] {
        assert_eq!(plugin::find(class).unwrap().kind, PluginKind::Source);
    }
    assert_eq!(plugin::find("JdbcSink").unwrap().class, SINK_CLASS);
    assert!(plugin::find("io.debezium.connector.mysql.MySqlConnector").is_none());
    let sink_plugin = plugin::find(SINK_CLASS).unwrap();
    assert!(sink_plugin.validate("c", &sink(&[])).is_empty());
}

fn any_property() -> impl Strategy<Value = String> {
    let names: Vec<&str> = plugin::PLUGINS
        .iter()
        .flat_map(|plugin| plugin.properties.properties())
        .map(|property| property.name)
        .collect();
    prop_oneof![
        prop::sample::select(names).prop_map(|name| name.replace('*', "x")),
        ".{0,20}",
    ]
}

proptest! {
    /// Whatever is posted: no panic, each mistake names a property that was given or is required, and
    /// no message repeats the value of a credential.
    #[test]
    fn any_configuration_is_answered(
        given in prop::collection::btree_map(any_property(), ".{0,12}", 0..12),
        password in "[a-z]{16}",
    ) {
        for plugin in plugin::PLUGINS {
            let mut given = given.clone();
            for credential in ["database.password", "connection.password", "database.sslpassword"] {
                given.insert(credential.to_owned(), password.clone());
            }
            for error in plugin.validate("c", &given) {
                let is_required = plugin.properties.find(&error.property).is_some_and(|p| p.required);
                let is_derived = plugin.properties.find(&error.property).is_some();
                prop_assert!(given.contains_key(&error.property) || is_required || is_derived);
                prop_assert!(!error.message.contains(&password), "{}", error);
            }
        }
    }
}

#[test]
fn errors_are_tolerated_only_with_a_topic_that_keeps_what_was_skipped() {
    let errors = sink_errors(&[("errors.tolerance", "all")]);
    check(&errors, "errors.deadletterqueue.topic.name", "${topic}.dlq");
    let both = [
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "${topic}.dlq"),
    ];
    assert!(sink_errors(&both).is_empty());
}
