//! Access lists, as far as a server without an authorizer can show them, and secured listeners.

use hutong_schemas::class::{Class, Classified};
use hutong_transport::Error;

use crate::fixture::{Fixture, kafka};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_authorizer_says_so_to_every_question_about_access() {
    let fixture = Fixture::new();
    let topic = fixture.topic("access", 1).await;
    assert!(!fixture.admin.has_authorizer().await.unwrap());
    let granted = fixture
        .admin
        .allow_read("User:front", &topic, "front-")
        .await;
    let error = granted.unwrap_err();
    assert!(matches!(error, Error::NoAuthorizer), "{error}");
    assert_eq!(error.class(), Class::Definite);
    let revoked = fixture.admin.revoke_read("User:front", &topic).await;
    assert!(matches!(revoked.unwrap_err(), Error::NoAuthorizer));
    let listed = fixture.admin.readers(&topic).await;
    assert!(matches!(listed.unwrap_err(), Error::NoAuthorizer));
    fixture.delete(&["access"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_of_a_secured_listener_make_clients_that_try_to_use_it() {
    let config = kafka();
    for (property, value) in [
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "hutong"),
        ("sasl.password", "wrong"),
    ] {
        // One at a time: each is taken.
        config.with(property, value).unwrap();
    }
    let secured = config
        .with("security.protocol", "SASL_SSL")
        .and_then(|config| config.with("sasl.mechanism", "SCRAM-SHA-512"))
        .and_then(|config| config.with("sasl.username", "hutong"))
        .and_then(|config| config.with("sasl.password", "wrong"))
        .unwrap();
    let admin = hutong_transport::admin::Admin::new(&secured).unwrap();
    // The listener is plain text: a client that speaks TLS to it must not get through.
    let error = admin.topic("any").await.unwrap_err();
    assert_eq!(error.class(), Class::Transient, "{error}");
}

#[test]
fn a_property_that_librdkafka_does_not_know_is_a_definite_error_that_names_it() {
    let config = kafka().with("no.such.property", "1").unwrap();
    let error = hutong_transport::admin::Admin::new(&config).unwrap_err();
    assert_eq!(error.class(), Class::Definite);
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("no.such.property"), "{source}");
}
