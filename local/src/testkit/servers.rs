//! The servers that tests share, and those that one test has for itself.

use anyhow::Result;

use super::Database;
use crate::kafka::{self, Kafka};
use crate::postgres::{self, Postgres};
use crate::runner;
use crate::scratch::{Run, Scratch};

/// The servers that all tests share.
#[derive(Clone, Debug)]
pub struct Kit {
    /// Address of the broker.
    pub bootstrap: String,
    /// URL of the server for control databases.
    pub control_url: String,
    /// URL of the server for departments' and subscribers' databases.
    pub departments_url: String,
}

impl Kit {
    /// Takes the servers from the environment.
    ///
    /// # Panics
    ///
    /// If they are not there: tests are run by `make test`, and none is skipped.
    #[must_use]
    pub fn from_env() -> Self {
        let variable = |name| match runner::given(name) {
            Some(value) => value,
            None => panic!("{name} is not set: run `make test`"),
        };
        Self {
            bootstrap: variable(runner::KAFKA_BOOTSTRAP),
            control_url: variable(runner::DATABASE_URL),
            departments_url: variable(runner::TEST_POSTGRES),
        }
    }

    /// Creates a database for a department or a subscriber.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn database(&self, prefix: &str) -> Result<Database> {
        Database::create(&self.departments_url, prefix).await
    }

    /// Creates a database for a control plane.
    ///
    /// # Errors
    ///
    /// If the server refuses.
    pub async fn control_database(&self) -> Result<Database> {
        Database::create(&self.control_url, "control").await
    }
}

/// A folder for servers of one test. The servers are dropped before it.
#[derive(Debug)]
pub struct OwnServers {
    scratch: Scratch,
    run: Run,
}

impl OwnServers {
    /// Makes the folder.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn begin() -> Result<Self> {
        let scratch = Scratch::open()?;
        let run = scratch.begin("own")?;
        Ok(Self { scratch, run })
    }

    /// Starts a PostgreSQL.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub async fn postgres(&self, name: &str, options: &postgres::Options) -> Result<Postgres> {
        Postgres::start(&self.scratch, &self.run, name, options).await
    }

    /// Starts a Kafka.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub async fn kafka(&self, name: &str, options: kafka::Options) -> Result<Kafka> {
        Kafka::start(&self.scratch, &self.run, name, options).await
    }

    /// Returns the folder of the run, for certificates and other files. The servers' user may read
    /// what lies in a [`Run::folder`].
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }
}
