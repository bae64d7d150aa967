//! Hutong: the one binary, with a role per subcommand.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The platform by which government departments share data.
#[derive(Debug, Parser)]
#[command(name = "hutong", version)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Servers for development.
    #[command(subcommand)]
    Local(Local),
}

#[derive(Debug, Subcommand)]
enum Local {
    /// Starts a Kafka and a PostgreSQL, runs a command that finds them in its environment, stops
    /// them, and ends as the command did.
    Test {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(arguments.role)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error),
    }
}

async fn run(role: Role) -> anyhow::Result<u8> {
    match role {
        Role::Local(Local::Test { command }) => hutong_local::runner::test(&command).await,
    }
}

/// Prints the whole chain of causes.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("hutong: {error:#}");
    ExitCode::FAILURE
}
