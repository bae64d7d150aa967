//! A platform with one department and one subscriber, which tests drive through the public APIs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hutong_local::testkit::{Api, Database, Kit, PATIENCE, Platform, PlatformOptions, until};
use hutong_schemas::position::SchemaId;
use hutong_transport::KafkaConfig;
use serde_json::{Map, Value, json};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_hutong");

/// A table that a subscriber receives whole as `public.<target>`: by one source connector, one view
/// and one sink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Makes the table in the department's database.
    pub(crate) setup: &'static str,
    /// The source connector.
    pub(crate) source: &'static str,
    /// The table, as `schema.table`.
    pub(crate) table: &'static str,
    /// The columns that leave.
    pub(crate) columns: &'static [&'static str],
    /// The view. Its sink connector is `<view>-sink`.
    pub(crate) view: &'static str,
    /// The subscriber's table.
    pub(crate) target: &'static str,
    /// Adds a row to the department's table.
    pub(crate) insert: &'static str,
}

impl Share {
    /// Returns the view's document.
    pub(crate) fn document(&self, world: &World) -> Value {
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
        json!({
            "name": self.view, "share": self.view, "subscriber": "reader",
            "source": { "topic": world.topic(self.source, self.table) }, "columns": columns,
        })
    }

    /// Returns the rows of a table that holds what the department's does, in order, as text.
    pub(crate) fn rows(&self, table: &str) -> String {
        let columns = self.columns.join(", ");
        format!(
            "select concat_ws('|', {columns}) from {table} order by {}",
            self.columns[0]
        )
    }
}

/// A running platform, a department's database and a subscriber's.
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) department: Database,
    pub(crate) subscriber: Database,
    pub(crate) kafka: KafkaConfig,
}

impl World {
    /// Starts a platform on the shared servers, with one worker `w1` at the location `default`.
    pub(crate) async fn start() -> Result<Self> {
        let kit = Kit::from_env();
        let options = PlatformOptions::new(BINARY, &kit).await?;
        let mut world = Self::on(
            options,
            kit.database("department").await?,
            kit.database("subscriber").await?,
        )
        .await?;
        world.platform.start_worker("w1", "default").await?;
        Ok(world)
    }

    /// Starts the control plane of a platform on given servers. No worker runs yet.
    pub(crate) async fn on(
        options: PlatformOptions,
        department: Database,
        subscriber: Database,
    ) -> Result<Self> {
        let kafka = kafka_config(&options.kafka)?;
        let platform = Platform::start(options).await?;
        platform.write_secrets(&[("postgres", "not asked for under trust")])?;
        Ok(Self {
            platform,
            department,
            subscriber,
            kafka,
        })
    }

    /// Returns the client of the APIs.
    pub(crate) fn api(&self) -> &Api {
        self.platform.api()
    }

    /// Returns the topic prefix of a source connector: tests share a broker.
    pub(crate) fn prefix(&self, name: &str) -> String {
        format!("{}_{name}", self.platform.cluster())
    }

    /// Returns the topic of a table that a connector captures.
    pub(crate) fn topic(&self, name: &str, table: &str) -> String {
        format!("{}.{table}", self.prefix(name))
    }

    /// Returns the configuration of a source connector over the department's database whose topic
    /// prefix, slot and publication are named after it.
    pub(crate) fn source(&self, name: &str, tables: &str) -> Map<String, Value> {
        self.source_at(&self.department, name, tables)
    }

    /// Returns the same over another department's database.
    pub(crate) fn source_at(
        &self,
        department: &Database,
        name: &str,
        tables: &str,
    ) -> Map<String, Value> {
        let properties = json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": department.host,
            "database.port": department.port.to_string(),
            "database.user": "postgres",
            "database.password": self.platform.secret("postgres"),
            "database.dbname": department.name,
            "plugin.name": "pgoutput",
            "topic.prefix": self.prefix(name),
            "slot.name": format!("{name}_{}", department.name),
            "publication.name": format!("{name}_publication"),
            "publication.autocreate.mode": "filtered",
            "table.include.list": tables,
        });
        object(properties)
    }

    /// Returns the configuration of a sink connector that keeps `public.<table>` of the
    /// subscriber's database equal to a view.
    pub(crate) fn sink(&self, view: &str, table: &str) -> Map<String, Value> {
        self.sink_at(&self.subscriber, view, table)
    }

    /// Returns the same into another subscriber's database.
    pub(crate) fn sink_at(
        &self,
        subscriber: &Database,
        view: &str,
        table: &str,
    ) -> Map<String, Value> {
        let properties = json!({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "topics": format!("{}.view.{view}", self.platform.cluster()),
            "connection.url": format!(
                "jdbc:postgresql://{}:{}/{}",
                subscriber.host, subscriber.port, subscriber.name
            ),
            "connection.username": "postgres",
            "connection.password": self.platform.secret("postgres"),
            "insert.mode": "upsert",
            "primary.key.mode": "record_key",
            "delete.enabled": "true",
            "schema.evolution": "basic",
            "collection.name.format": format!("public.{table}"),
        });
        object(properties)
    }

    /// Creates a connector.
    pub(crate) async fn create_connector(
        &self,
        name: &str,
        config: Map<String, Value>,
    ) -> Result<()> {
        let body = json!({ "name": name, "config": config });
        let answer = self
            .api()
            .connect("POST", "/connectors", Some(body))
            .await?;
        answer
            .ok()
            .map(|_| ())
            .with_context(|| format!("connector {name}"))
    }

    /// Creates a view, waiting until its table is known.
    pub(crate) async fn create_view(&self, document: &Value) -> Result<()> {
        until("the view's table to be known", PATIENCE, async || {
            let answer = self
                .api()
                .platform("POST", "/api/v1/views", Some(document.clone()))
                .await?;
            Ok(match answer.status {
                200..300 => Ok(()),
                _ => Err(answer.body.to_string()),
            })
        })
        .await
    }

    /// Returns a connector's status.
    pub(crate) async fn status(&self, connector: &str) -> Result<Value> {
        self.api()
            .connect("GET", &format!("/connectors/{connector}/status"), None)
            .await?
            .ok()
    }

    /// Sets a share up and waits until the subscriber has all its rows.
    pub(crate) async fn share(&self, share: &Share) -> Result<()> {
        let department = self.department.connect().await?;
        department.batch_execute(share.setup).await?;
        let tables = share.table.replace('.', "\\.");
        self.create_connector(share.source, self.source(share.source, &tables))
            .await?;
        self.wait_state(share.source, "RUNNING").await?;
        self.create_view(&share.document(self)).await?;
        self.create_connector(
            &format!("{}-sink", share.view),
            self.sink(share.view, share.target),
        )
        .await?;
        self.wait_shared(share).await
    }

    /// Fails unless a row that the department adds now arrives.
    pub(crate) async fn delivers(&self, share: &Share) -> Result<()> {
        let department = self.department.connect().await?;
        department.batch_execute(share.insert).await?;
        self.wait_shared(share)
            .await
            .with_context(|| format!("a new row of {}", share.table))
    }

    /// Waits until the subscriber has exactly the rows that the department has now.
    pub(crate) async fn wait_shared(&self, share: &Share) -> Result<()> {
        self.wait_shared_at(share, &self.subscriber).await
    }

    /// Waits for the same at another subscriber of the view.
    pub(crate) async fn wait_shared_at(&self, share: &Share, subscriber: &Database) -> Result<()> {
        let expected = texts(&self.department, &share.rows(share.table)).await?;
        let found = share.rows(&format!("public.{}", share.target));
        wait_for_rows(subscriber, &found, &expected, PATIENCE).await
    }

    /// Waits until a connector's first task is in a state.
    pub(crate) async fn wait_state(&self, connector: &str, state: &str) -> Result<Value> {
        until(
            &format!("{connector} to be {state}"),
            PATIENCE,
            async || {
                let status = self.status(connector).await?;
                Ok(if status["tasks"][0]["state"] == state {
                    Ok(status)
                } else {
                    Err(status)
                })
            },
        )
        .await
    }

    /// Waits until the text of a query at the subscriber equals that of a query at the department.
    /// Both give one column of text; rows are compared in order.
    pub(crate) async fn wait_equal(
        &self,
        at_department: &str,
        at_subscriber: &str,
        patience: Duration,
    ) -> Result<usize> {
        let expected = texts(&self.department, at_department).await?;
        wait_for_rows(&self.subscriber, at_subscriber, &expected, patience).await?;
        Ok(expected.len())
    }

    /// Returns all schemas that the registry has, by id.
    pub(crate) async fn schemas(&self) -> Result<HashMap<SchemaId, String>> {
        let mut schemas = HashMap::new();
        let subjects = self.api().registry("GET", "/subjects", None).await?.ok()?;
        for subject in subjects.as_array().context("not a list of subjects")? {
            let subject = subject.as_str().context("not a subject")?;
            let versions = self
                .api()
                .registry("GET", &format!("/subjects/{subject}/versions"), None)
                .await?
                .ok()?;
            for version in versions.as_array().context("not a list of versions")? {
                let path = format!("/subjects/{subject}/versions/{version}");
                let found = self.api().registry("GET", &path, None).await?.ok()?;
                let id = found["id"].as_u64().context("no id")?;
                let schema = found["schema"].as_str().context("no schema")?.to_owned();
                schemas.insert(SchemaId(u32::try_from(id)?), schema);
            }
        }
        Ok(schemas)
    }
}

async fn wait_for_rows(
    subscriber: &Database,
    query: &str,
    expected: &[String],
    patience: Duration,
) -> Result<()> {
    until(
        "the subscriber's table to equal the source",
        patience,
        async || {
            let found = match texts(subscriber, query).await {
                Ok(found) => found,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            Ok(match first_difference(expected, &found) {
                None => Ok(()),
                Some(difference) => Err(difference),
            })
        },
    )
    .await
}

/// Reads properties of librdkafka as the platform does.
pub(crate) fn kafka_config(properties: &BTreeMap<String, String>) -> Result<KafkaConfig> {
    Ok(KafkaConfig::new(properties.clone())?)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// Waits until a query, whose first column is text, finds a row.
pub(crate) async fn wait_found(what: &str, database: &Database, query: &str) -> Result<()> {
    until(what, PATIENCE, async || {
        Ok(if texts(database, query).await?.is_empty() {
            Err("not yet")
        } else {
            Ok(())
        })
    })
    .await
}

/// Returns the first column of a query's rows, as text.
pub(crate) async fn texts(database: &Database, query: &str) -> Result<Vec<String>> {
    let client = database.connect().await?;
    let rows = client
        .query(query, &[])
        .await
        .with_context(|| query.to_owned())?;
    rows.iter()
        .map(|row| {
            row.try_get::<_, Option<String>>(0)
                .map(|text| text.unwrap_or_default())
        })
        .collect::<Result<_, _>>()
        .context("not text")
}

fn first_difference(expected: &[String], found: &[String]) -> Option<String> {
    let unequal = expected
        .iter()
        .zip(found)
        .position(|(one, other)| one != other);
    match unequal {
        Some(index) => Some(format!(
            "{} rows expected, {} found; first difference in row {index}: expected {}, found {}",
            expected.len(),
            found.len(),
            expected[index],
            found[index]
        )),
        None if expected.len() == found.len() => None,
        None => Some(format!(
            "{} rows expected, {} found",
            expected.len(),
            found.len()
        )),
    }
}

/// Fails with a text unless `condition` holds.
pub(crate) fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if !condition {
        bail!(otherwise());
    }
    Ok(())
}
