//! What the platform does in a second, beside what the machine allows.
//!
//! Each benchmark runs the real program on a Kafka and PostgreSQL servers of its own, and its limit
//! (the server's own tool, or the Kafka library alone) over the same data, one after the other, in
//! turns. What counts is the median of the ratios of the pairs: a machine's speed drifts, and both
//! halves of a pair drift alike.
//!
//! ```text
//! make bench                       all of them
//! make bench ONLY="stream sink"    those whose names begin so
//! make bench TURNS=1               each pair once, for a first impression
//! make bench-peers                 beside Debezium, see [`peers`]
//! ```
//!
//! The table is printed, and written to `target/bench.json` as `{name, ours, limit, ratio, unit}`.

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program that prints figures, of which three digits count"
)]

mod backfill;
mod cost;
mod echo;
mod figures;
mod latency;
mod load;
mod memory;
mod peers;
mod process;
mod sink;
mod snapshot;
mod stand;
mod stream;
mod tables;
mod tenfold;
mod view;

use anyhow::Result;
use figures::Figures;

/// How often a pair is measured, unless TURNS says otherwise.
const TURNS: usize = 5;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo bench` adds a flag of its own, `--bench`.
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    if only.first().is_some_and(|first| first == "peers") {
        return beside_peers(only[1..].to_vec()).await;
    }
    let mut figures = Figures::new(only, TURNS)?;
    process::require_tools(&["psql", "pg_recvlogical"])?;
    let mut stand = stand::Stand::start().await?;
    figures.machine(&stand).await?;
    stream::warm_up(&mut stand).await?;
    stream::run(&mut stand, &mut figures).await?;
    snapshot::run(&mut stand, &mut figures).await?;
    view::run(&mut stand, &mut figures).await?;
    sink::run(&mut stand, &mut figures).await?;
    latency::run(&mut stand, &mut figures).await?;
    backfill::run(&mut stand, &mut figures).await?;
    tenfold::run(&mut stand, &mut figures).await?;
    memory::run(&mut stand, &mut figures).await?;
    tables::run(&mut stand, &mut figures).await?;
    figures.memory();
    figures.write()
}

/// The comparison with Debezium; its figures join those of the last `make bench`.
async fn beside_peers(only: Vec<String>) -> Result<()> {
    peers::require()?;
    let mut figures = Figures::new(only, peers::TURNS)?;
    let mut stand = stand::Stand::start().await?;
    figures.machine(&stand).await?;
    peers::run(&mut stand, &mut figures).await?;
    figures.add_to_file()
}
