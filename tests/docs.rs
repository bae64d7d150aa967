//! The documents' commands, executed as they stand there.
//!
//! A fenced block whose first line names a place is executed: `sql <database>`, `sh <anything>`; after
//! an `sql` block, `text result` says what it must give, sooner or later. `retry` after the place
//! repeats a command until it succeeds.

use std::process::Command;

use anyhow::{Context, Result, bail};
use hutong_local::departments::{Department, initial::Population};
use hutong_local::postgres::{self, Postgres};
use hutong_local::testkit::{
    Database, Kit, OwnServers, PATIENCE, Platform, PlatformOptions, connect, until,
};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::world::BINARY;

/// A block of a document.
struct Block {
    info: String,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => {
                let info = info.to_owned();
                open = Some(Block {
                    info,
                    text: String::new(),
                });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    blocks
}

/// A platform and a PostgreSQL of the documents' own: they name databases, roles and settings.
struct Stage {
    platform: Platform,
    server: Postgres,
    _own: OwnServers,
}

impl Stage {
    async fn start() -> Result<Self> {
        let own = OwnServers::begin()?;
        let server = own.postgres("pg", &postgres::Options::for_tests()).await?;
        let options = PlatformOptions::new(BINARY, &Kit::from_env()).await?;
        let mut platform = Platform::start(options).await?;
        platform.start_worker("w1", "default").await?;
        Ok(Self {
            platform,
            server,
            _own: own,
        })
    }

    async fn connect(&self, database: &str) -> Result<Client> {
        connect(&Database::named(&self.server.url("postgres"), database)?.url).await
    }

    /// Runs a command with what `make up` writes into `target/local/up/env`.
    fn shell(&self, script: &str) -> Result<String> {
        let api = self.platform.api();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env("API", &api.platform_url)
            .env("CONNECT", &api.connect_url)
            .env("REGISTRY", &api.registry_url)
            .env("WORKER", self.platform.worker_url("w1")?)
            .env("TOKEN", api.token())
            .env("SECRETS", self.platform.secrets_dir())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", "postgres")
            .output()
            .context("bash")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "{script}\n{}: {text}{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(text)
    }

    async fn shell_until_done(&self, script: &str) -> Result<String> {
        until("the command to succeed", PATIENCE, async || {
            Ok(self.shell(script).map_err(|error| format!("{error:#}")))
        })
        .await
    }
}

/// Runs statements one by one, as a person does, and returns the rows of the last.
async fn sql(client: &Client, script: &str) -> Result<String> {
    let mut rows = Vec::new();
    for statement in script
        .split(";\n")
        .filter(|statement| !statement.trim().is_empty())
    {
        rows.clear();
        let messages = client.simple_query(statement).await;
        for message in messages.with_context(|| statement.to_owned())? {
            if let SimpleQueryMessage::Row(row) = message {
                let values: Vec<&str> = (0..row.len())
                    .map(|column| row.get(column).unwrap_or(""))
                    .collect();
                rows.push(values.join(" | "));
            }
        }
    }
    Ok(rows.join("\n"))
}

#[tokio::test]
async fn the_tour_of_the_readme_shows_what_the_readme_says() -> Result<()> {
    let stage = Stage::start().await?;
    let document = std::fs::read_to_string("README.md")?;
    // The broker is shared: the tour's names must be nobody else's.
    let own = format!("{:04x}", rand::random::<u16>());
    let view_topics = format!("{}.view.", stage.platform.cluster());
    let adapt = |text: &str| {
        text.replace("hutong.view.", &view_topics)
            .replace("office", &format!("office{own}"))
            .replace("reader", &format!("reader{own}"))
    };
    let mut executed = 0;
    let all = blocks(&document);
    for (index, block) in all.iter().enumerate() {
        let text = adapt(&block.text);
        match block.info.split(' ').collect::<Vec<_>>()[..] {
            ["sql", "server"] => drop(sql(&stage.connect("postgres").await?, &text).await?),
            ["sql", place] => {
                let expected = all.get(index + 1).filter(|next| next.info == "text result");
                let database = adapt(place);
                match expected {
                    None => drop(sql(&stage.connect(&database).await?, &text).await?),
                    Some(expected) => gives(&stage, &database, &text, expected.text.trim()).await?,
                }
            }
            ["sh", "tour"] => drop(stage.shell(&text)?),
            ["sh", "tour", "retry"] => drop(stage.shell_until_done(&text).await?),
            _ => continue,
        }
        executed += 1;
    }
    assert!(
        executed >= 12,
        "only {executed} blocks of the README were found"
    );
    Ok(())
}

async fn gives(stage: &Stage, database: &str, query: &str, expected: &str) -> Result<()> {
    let client = stage.connect(database).await?;
    until(
        &format!("{query} to give {expected}"),
        PATIENCE,
        async || {
            // The table is not there until the sink has made it.
            let found = sql(&client, query)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            Ok(if found == expected {
                Ok(())
            } else {
                Err(found)
            })
        },
    )
    .await
}

#[tokio::test]
async fn the_dba_who_follows_the_operations_manual_has_nothing_to_mend() -> Result<()> {
    let stage = Stage::start().await?;
    let server = stage.server.url("postgres");
    let department = Database::create_named(&server, "aic")
        .await?
        .connect()
        .await?;
    let population = Population::generate(1, 20);
    let rows = population.rows(Department::Aic);
    hutong_local::departments::create(&department, Department::Aic, rows).await?;
    let subscriber = Database::create_named(&server, "front")
        .await?
        .connect()
        .await?;
    stage.platform.write_secrets(&[("aic", "change me")])?;
    let mut executed = 0;
    let mut was_validated = false;
    for block in blocks(&std::fs::read_to_string("docs/operations.md")?) {
        match block.info.as_str() {
            "sql owner" => drop(sql(&department, &block.text).await?),
            "sql subscriber" => drop(sql(&subscriber, &block.text).await?),
            "sh platform" => {
                let answer = stage.shell(&block.text)?;
                if let Ok(answer) = serde_json::from_str::<serde_json::Value>(&answer)
                    && let Some(count) = answer["error_count"].as_u64()
                {
                    assert_eq!(count, 0, "{answer:#}");
                    was_validated = true;
                }
            }
            _ => continue,
        }
        executed += 1;
    }
    assert!(
        was_validated,
        "the manual asks no worker whether the DBA's SQL suffices"
    );
    assert!(
        executed >= 8,
        "only {executed} blocks of the manual were found"
    );
    Ok(())
}

#[test]
fn the_documents_name_folders_and_files_that_exist() {
    for document in ["README.md", "docs/ARCHITECTURE.md", "docs/operations.md"] {
        let text = std::fs::read_to_string(document).unwrap();
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = name.contains('/')
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || "/_-.".contains(c));
            let is_ours = [
                "schemas",
                "policies",
                "transport",
                "connectors",
                "stream-processors",
                "worker",
                "control-plane",
                "src",
                "tests",
                "docs",
            ]
            .iter()
            .any(|room| name.starts_with(&format!("{room}/")));
            if is_path && is_ours {
                assert!(
                    std::path::Path::new(name).exists(),
                    "{document} names {name}"
                );
            }
        }
    }
}
