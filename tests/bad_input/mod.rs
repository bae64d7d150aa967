//! Wrong configurations, missing rights, servers that are away: each is said in words that tell the
//! user what is wrong, where, and what to do about it, and everything else goes on.
//!
//! Every case is looked at where a user looks: at the API's answer, or at the task's `trace` in
//! `GET /connectors/<name>/status`. Beside the cases a share works on the same worker, and must still
//! deliver while they are shown. Where the text proposes SQL to a DBA, that very SQL is run, and must
//! mend it.

use anyhow::{Context, Result};
use hutong_local::testkit::{Database, PATIENCE, until};
use serde_json::{Map, Value, json};

use crate::world::{Share, World, ensure};

mod other_reader;
mod outages;
mod requests;
mod secured;
mod servers;
mod sources;
mod subscribers;

/// The share that works, and tables beside it for cases.
const GOODS: Share = Share {
    setup: "
        create schema dept;
        create table dept.good (id bigint primary key, name text);
        insert into dept.good select n, 'row ' || n from generate_series(1, 20) n;
        create table dept.other (id bigint primary key, name text);
        insert into dept.other select n, 'row ' || n from generate_series(1, 20) n;
        create table dept.odd (id bigint primary key, place int4multirange);
        create table dept.keyless (name text);",
    source: "good",
    table: "dept.good",
    columns: &["id", "name"],
    view: "goods",
    target: "in_good",
    insert: "insert into dept.good select coalesce(max(id), 0) + 1, 'later' from dept.good",
};

/// Starts a platform on which one share works.
async fn healthy() -> Result<World> {
    let world = World::start().await?;
    world.share(&GOODS).await?;
    Ok(world)
}

/// Something wrong, and the words of cause, place and remedy that a user must find about it.
struct Case {
    connector: &'static str,
    config: Map<String, Value>,
    says: Vec<String>,
    remedy: Remedy,
}

/// What the text proposes and the test then does.
enum Remedy {
    /// Nothing that could be done here.
    None,
    /// To run the SQL of the hint, as the superuser of the database.
    Sql,
    /// To set a property.
    Property(&'static str, String),
}

impl Case {
    fn new(connector: &'static str, config: Map<String, Value>, says: &[&str]) -> Self {
        Self {
            connector,
            config,
            says: says.iter().map(|words| (*words).to_owned()).collect(),
            remedy: Remedy::None,
        }
    }

    fn mended_by(mut self, remedy: Remedy) -> Self {
        self.remedy = remedy;
        self
    }
}

/// Creates all connectors and waits until each says what is wrong with it; then tries the remedies.
/// `GOODS` must deliver in between. All cases that are not as they must be are told together.
async fn check(world: &World, database: &Database, cases: &[Case]) -> Result<()> {
    for case in cases {
        world
            .create_connector(case.connector, case.config.clone())
            .await?;
    }
    let mut faults = Vec::new();
    for case in cases {
        faults.extend(trace(world, case.connector, &case.says).await.err());
    }
    all_right(&faults)?;
    world.delivers(&GOODS).await?;
    for case in cases {
        mend(world, database, case)
            .await
            .with_context(|| format!("the remedy of {}", case.connector))?;
    }
    for case in cases {
        if !matches!(case.remedy, Remedy::None) {
            faults.extend(streams(world, case.connector).await.err());
        }
    }
    all_right(&faults)
}

fn all_right(faults: &[anyhow::Error]) -> Result<()> {
    ensure(faults.is_empty(), || {
        let texts: Vec<_> = faults.iter().map(|fault| format!("{fault:#}")).collect();
        texts.join("\n\n")
    })
}

/// Waits until the status of a connector's task shows all these words, and returns the text.
async fn trace(world: &World, connector: &str, says: &[impl AsRef<str>]) -> Result<String> {
    let what = format!("{connector} to say what is wrong");
    until(&what, PATIENCE, async || {
        let status = world.status(connector).await?;
        let text = status["tasks"][0]["trace"].as_str().unwrap_or_default();
        Ok(match says_all(text, says) {
            Ok(()) => Ok(text.to_owned()),
            Err(missing) => Err(format!("{missing:#}; the status is {status}")),
        })
    })
    .await
}

/// Fails unless all these words are in the text.
fn says_all(text: &str, says: &[impl AsRef<str>]) -> Result<()> {
    for words in says {
        let words = words.as_ref();
        ensure(text.contains(words), || {
            format!("\"{words}\" is missing in what the user sees: {text}")
        })?;
    }
    Ok(())
}

/// Does what the text proposes and starts the connector again.
async fn mend(world: &World, database: &Database, case: &Case) -> Result<()> {
    let name = case.connector;
    match &case.remedy {
        Remedy::None => return Ok(()),
        Remedy::Sql => {
            let text = trace(world, name, &case.says).await?;
            let (_, sql) = text.split_once("\nhint: ").context("no hint")?;
            let superuser = database.connect().await?;
            superuser
                .batch_execute(sql)
                .await
                .with_context(|| sql.to_owned())?;
        }
        Remedy::Property(property, value) => configure(world, name, property, value).await?,
    }
    restart(world, name).await
}

/// Sets a property of a connector.
async fn configure(world: &World, connector: &str, property: &str, value: &str) -> Result<()> {
    let path = format!("/connectors/{connector}/config");
    let config = world.api().connect("GET", &path, None).await?.ok()?;
    let Value::Object(config) = config else {
        anyhow::bail!("not a configuration: {config}");
    };
    let config = with(config, &[(property, value)]);
    let answer = world
        .api()
        .connect("PUT", &path, Some(Value::Object(config)));
    answer.await?.ok().map(|_| ())
}

/// Starts a connector again, as a user does who has mended what was wrong.
async fn restart(world: &World, connector: &str) -> Result<()> {
    let path = format!("/connectors/{connector}/restart");
    let answer = world.api().connect("POST", &path, None).await?;
    answer.ok().map(|_| ())
}

/// Waits until changes of a source's first table flow.
async fn streams(world: &World, connector: &str) -> Result<()> {
    let path = format!("/api/v1/connectors/{connector}");
    until(&format!("{connector} to stream"), PATIENCE, async || {
        let connector = world.api().platform("GET", &path, None).await?.ok()?;
        let task = &connector["status"]["tasks"][0]["state"];
        let table = &connector["details"]["tables"][0]["state"];
        Ok(if task == "RUNNING" && table == "streaming" {
            Ok(())
        } else {
            Err(connector)
        })
    })
    .await
}

/// Posts a connector that the API refuses, and returns its words.
async fn refusal(world: &World, name: &str, config: Map<String, Value>) -> Result<String> {
    let body = json!({ "name": name, "config": config });
    let answer = world
        .api()
        .connect("POST", "/connectors", Some(body))
        .await?;
    message(answer.status, &answer.body)
}

/// Returns the words of a refusal, which must have the form of Kafka Connect's errors.
fn message(status: u16, body: &Value) -> Result<String> {
    let code = body["error_code"].as_u64();
    ensure(
        (400..500).contains(&status) && code.is_some_and(|code| code >= 400),
        || format!("not a refusal with a code: {status} {body}"),
    )?;
    let message = body["message"].as_str().context("no message")?;
    Ok(message.to_owned())
}

fn with(mut config: Map<String, Value>, changes: &[(&str, &str)]) -> Map<String, Value> {
    for (name, value) in changes {
        config.insert((*name).to_owned(), json!(value));
    }
    config
}
