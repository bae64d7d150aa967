//! What can be said about a configuration with a connection.

use hutong_connectors_core::jdbc_sink::Config;
use hutong_connectors_core::property::PropertyError;
use hutong_connectors_core::secret::Secret;
use hutong_schemas::class::Classified;

use super::error::{DatabaseError, Error};
use super::{SessionSettings, Sink, catalogue};

/// Connects and returns what would keep the sink from working: no way in, a read-only database, a
/// missing schema, a missing right.
pub async fn validate(config: &Config, password: Option<&Secret>) -> Vec<PropertyError> {
    let sink = match Sink::open(config, password, SessionSettings::default()).await {
        Ok(sink) => sink,
        Err(error) => return vec![PropertyError::new(property_of(&error), with_hint(&error))],
    };
    let mut errors = Vec::new();
    for topic in &config.topics {
        let Ok(table) = config.table_of(topic) else {
            continue;
        };
        match check(&sink, &table).await {
            Ok(mistakes) => errors.extend(mistakes),
            Err(error) => errors.push(PropertyError::new("connection.url", with_hint(&error))),
        }
    }
    errors.sort();
    errors.dedup();
    errors
}

fn property_of(error: &Error) -> &'static str {
    let is_login = match error {
        Error::Connect { source, .. } => source.code().is_some_and(|code| code.starts_with("28")),
        _ => false,
    };
    if is_login {
        "connection.password"
    } else {
        "connection.url"
    }
}

fn with_hint(error: &Error) -> String {
    let report = hutong_connectors_core::ErrorReport::new(error);
    match error.hint() {
        Some(hint) => format!("{}; {hint}", report.message),
        None => report.message,
    }
}

async fn check(
    sink: &Sink,
    table: &hutong_schemas::table::TableId,
) -> Result<Vec<PropertyError>, Error> {
    let client = &sink.session.client;
    let failed = |error: tokio_postgres::Error| Error::Table {
        doing: "look up",
        table: table.clone(),
        source: DatabaseError::from(error),
    };
    let row = client
        .query_one(
            "SELECT pg_catalog.pg_is_in_recovery()
                    OR pg_catalog.current_setting('default_transaction_read_only')::boolean,
                    n.oid IS NOT NULL,
                    coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                             AND pg_catalog.has_schema_privilege(n.oid, 'CREATE'), false),
                    current_user::text
             FROM (SELECT 1) AS one
             LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $1",
            &[&table.schema],
        )
        .await
        .map_err(failed)?;
    let (is_read_only, has_schema, may_create): (bool, bool, bool) =
        (row.get(0), row.get(1), row.get(2));
    let user: String = row.get(3);
    let schema = super::target::quote(&table.schema);
    let mut errors = Vec::new();
    if is_read_only {
        errors.push(PropertyError::new(
            "connection.url",
            "the database is read-only: a standby, or default_transaction_read_only",
        ));
    }
    if !has_schema {
        errors.push(PropertyError::new(
            "collection.name.format",
            format!("schema {schema} does not exist; CREATE SCHEMA {schema}"),
        ));
    } else if !may_create {
        let user = super::target::quote(&user);
        errors.push(PropertyError::new(
            "connection.username",
            format!(
                "permission denied for schema {schema}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}"
            ),
        ));
    }
    catalogue::existing(client, table).await?;
    Ok(errors)
}
