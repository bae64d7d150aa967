//! The figures of a run: gathered, printed as a table, written as JSON.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use hutong_local::scratch::checkout;
use serde_json::{Value, json};

use crate::process;
use crate::stand::Stand;

/// The length of a name in the table.
const NAME: usize = 28;

/// What was measured.
pub(crate) struct Figures {
    only: Vec<String>,
    /// How often a pair is measured: as the variable TURNS says.
    pub(crate) turns: usize,
    rows: Vec<Row>,
    /// Peak resident memory of the worker, by benchmark, in MiB.
    memory: Vec<(String, f64)>,
    machine: String,
    started: Instant,
}

struct Row {
    name: String,
    ours: f64,
    limit: Option<f64>,
    ratio: Option<f64>,
    unit: &'static str,
    asked: &'static str,
}

impl Figures {
    /// `only`: beginnings of names; all if there is none. `turns`: how often a pair is measured, unless
    /// the variable TURNS says otherwise.
    pub(crate) fn new(only: Vec<String>, turns: usize) -> Result<Self> {
        let turns = match std::env::var("TURNS") {
            Ok(text) if !text.is_empty() => text.parse().context("TURNS is not a number")?,
            _ => turns,
        };
        Ok(Self {
            only,
            turns,
            rows: Vec::new(),
            memory: Vec::new(),
            machine: String::new(),
            started: Instant::now(),
        })
    }

    /// Returns whether a benchmark is to be run.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Notes what the figures were made on.
    pub(crate) async fn machine(&mut self, stand: &Stand) -> Result<()> {
        let server: String = stand
            .source_db()
            .await?
            .query_one("show server_version", &[])
            .await?
            .get(0);
        self.machine = format!(
            "{}, PostgreSQL {server}, Kafka {}, librdkafka {}",
            process::machine(),
            hutong_local::kafka::VERSION,
            rdkafka::util::get_rdkafka_version().1
        );
        println!("{}\n", self.machine);
        Ok(())
    }

    /// Adds a figure that has no limit to be compared with.
    pub(crate) fn plain(&mut self, name: &str, ours: f64, unit: &'static str, asked: &'static str) {
        self.add(Row {
            name: name.to_owned(),
            ours,
            limit: None,
            ratio: None,
            unit,
            asked,
        });
    }

    /// Adds pairs of our rate and the limit's: medians of both, and the median of their ratios.
    pub(crate) fn pairs(
        &mut self,
        name: &str,
        pairs: &[(f64, f64)],
        unit: &'static str,
        asked: &'static str,
    ) {
        let median_of = |value: fn(&(f64, f64)) -> f64| median(pairs.iter().map(value).collect());
        self.add(Row {
            name: name.to_owned(),
            ours: median_of(|(ours, _)| *ours),
            limit: Some(median_of(|(_, limit)| *limit)),
            ratio: Some(median_of(|(ours, limit)| ours / limit)),
            unit,
            asked,
        });
    }

    fn add(&mut self, row: Row) {
        println!("{} {}", self.clock(), row.line());
        self.rows.push(row);
    }

    /// Notes the worker's peak resident memory during a benchmark.
    pub(crate) fn rss(&mut self, name: &str, mebibytes: f64) {
        let clock = self.clock();
        println!("{clock} {name:<NAME$} worker's peak resident memory {mebibytes:.0} MiB");
        self.memory.push((name.to_owned(), mebibytes));
    }

    /// Returns how long the run has taken so far, as minutes and seconds.
    fn clock(&self) -> String {
        let seconds = self.started.elapsed().as_secs();
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    }

    /// Adds the worst of the noted memory.
    pub(crate) fn memory(&mut self) {
        let worst = self.memory.iter().map(|(_, mebibytes)| *mebibytes);
        if let Some(worst) = worst.reduce(f64::max) {
            self.plain("rss", worst, "MiB", "≤ 200");
        }
    }

    /// Prints the table and writes the file.
    pub(crate) fn write(&self) -> Result<()> {
        self.print()?;
        store(&self.rows.iter().map(Row::to_json).collect::<Vec<_>>())
    }

    /// Prints the table, and puts its rows into the file in place of those of the same names.
    pub(crate) fn add_to_file(&self) -> Result<()> {
        self.print()?;
        let mut rows: Vec<Value> = match fs::read(file()?) {
            Ok(text) => serde_json::from_slice(&text).context("target/bench.json")?,
            Err(_) => Vec::new(),
        };
        rows.retain(|row| !self.rows.iter().any(|new| row["name"] == new.name.as_str()));
        rows.extend(self.rows.iter().map(Row::to_json));
        store(&rows)
    }

    fn print(&self) -> Result<()> {
        let mut table = format!("\n{}\n\n", self.machine);
        for row in &self.rows {
            writeln!(table, "{}", row.line())?;
        }
        println!("{table}");
        Ok(())
    }
}

fn file() -> Result<PathBuf> {
    Ok(checkout()?.join("target/bench.json"))
}

fn store(rows: &[Value]) -> Result<()> {
    let path = file()?;
    fs::write(&path, serde_json::to_string_pretty(rows)?)
        .with_context(|| format!("could not write {}", path.display()))
}

impl Row {
    fn line(&self) -> String {
        let optional = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
        format!(
            "{:<NAME$} ours {:>10}  limit {:>10}  ratio {:>6}  {:<10} asked {}",
            self.name,
            number(self.ours),
            optional(self.limit),
            self.ratio
                .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            self.unit,
            self.asked
        )
    }

    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "ours": self.ours, "limit": self.limit, "ratio": self.ratio,
            "unit": self.unit,
        })
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Returns the value that half of the others do not exceed.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
