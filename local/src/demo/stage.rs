//! What stands on the stage: servers, the four departments with their owners' publications, and the
//! databases of the subscribers.
//!
//! On servers of our own nothing needs to be tidied up: they go away with the run. On servers that
//! somebody gave us, databases and roles carry a comment that says whose they are; only such are
//! ever dropped, and a database of the same name without it is an error.

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use crate::departments::{self, Department, initial::Population};
use crate::postgres;
use crate::runner::Servers;
use crate::scratch::{Run, Scratch};
use crate::testkit::{Database, connect};

/// The platform's role at the departments.
pub(super) const SOURCE_ROLE: &str = "hutong_source";
/// The platform's role at the subscribers.
pub(super) const SINK_ROLE: &str = "hutong_sink";
/// The publication that each owner makes.
pub(super) const PUBLICATION: &str = "hutong";
/// How databases and roles of a demo are known.
const COMMENT: &str = "made by hutong demo";
const CONTROL_DATABASE: &str = "hutong_demo_control";

/// The stage.
#[derive(Debug)]
pub(super) struct Stage {
    /// Address of the broker.
    pub(super) bootstrap: String,
    /// The control plane's database.
    pub(super) control: Database,
    /// What is appended to names on servers that others use too.
    suffix: String,
    password: String,
    servers: Servers,
    /// Dropped last: it removes the folder.
    run: Run,
}

impl Stage {
    /// Starts the servers.
    pub(super) async fn start() -> Result<Self> {
        let scratch = Scratch::open()?;
        let run = scratch.begin("demo")?;
        let password = uuid::Uuid::new_v4().simple().to_string();
        let mut hba = String::new();
        for role in [SOURCE_ROLE, SINK_ROLE] {
            hba.push_str(&format!("host all {role} 127.0.0.1/32 scram-sha-256\n"));
        }
        hba.push_str("host all all 127.0.0.1/32 trust\n");
        let options = postgres::Options::for_tests().with_hba(&hba);
        let servers = Servers::start_with(&scratch, &run, options).await?;
        let is_shared = !servers.owns_kafka() || !servers.owns_departments();
        let suffix = if is_shared {
            format!("_{:04x}", rand::random::<u16>())
        } else {
            String::new()
        };
        let control = create_database(&servers.control_url, CONTROL_DATABASE).await?;
        Ok(Self {
            bootstrap: servers.bootstrap.clone(),
            control,
            suffix,
            password,
            servers,
            run,
        })
    }

    /// Returns the folder for the platform's files.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.run.path()
    }

    /// Keeps the folder with its logs.
    pub(super) fn keep_logs(&mut self) {
        self.run.keep();
    }

    /// Returns the password of both roles.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// Returns the name of the installation.
    pub(super) fn cluster(&self) -> String {
        if self.suffix.is_empty() {
            "hutong".to_owned()
        } else {
            format!("demo{}", self.suffix)
        }
    }

    /// Returns a department's topic prefix.
    pub(super) fn prefix(&self, department: Department) -> String {
        format!("{}{}", department.database(), self.suffix)
    }

    /// Returns the name of a department's slot.
    pub(super) fn slot(&self, department: Department) -> String {
        format!("hutong_{}{}", department.database(), self.suffix)
    }

    /// Describes a department's database.
    pub(super) fn database(&self, department: Department) -> Result<Database> {
        Database::named(&self.servers.departments_url, department.database())
    }

    /// Describes the database in which a department receives views.
    pub(super) fn front(&self, department: Department) -> Result<Database> {
        Database::named(&self.servers.departments_url, department.front())
    }

    /// Creates roles and databases, fills the departments', and lets their owners publish.
    pub(super) async fn furnish(&self, population: &Population) -> Result<()> {
        let url = &self.servers.departments_url;
        let server = connect(url).await?;
        let logical: String = server.query_one("SHOW wal_level", &[]).await?.get(0);
        if logical != "logical" {
            bail!(
                "the server for departments' databases has wal_level = {logical}; it must be logical"
            );
        }
        self.create_role(&server, SOURCE_ROLE, "LOGIN REPLICATION")
            .await?;
        self.create_role(&server, SINK_ROLE, "LOGIN").await?;
        for department in Department::ALL {
            let database = create_database(url, department.database()).await?;
            let owner = database.connect().await?;
            departments::create(&owner, department, population.rows(department)).await?;
            publish(&owner, department).await?;
            let front = create_database(url, department.front()).await?;
            let subscriber = front.connect().await?;
            subscriber
                .batch_execute(&format!(
                    "GRANT USAGE, CREATE ON SCHEMA public TO {SINK_ROLE}"
                ))
                .await?;
        }
        Ok(())
    }

    /// Stops our servers, or takes away from somebody's servers what we made there.
    pub(super) async fn strike(&mut self) -> Result<()> {
        if !self.servers.owns_departments() {
            let server = connect(&self.servers.departments_url).await?;
            self.drop_slots(&server).await?;
            for department in Department::ALL {
                drop_database(&server, department.database()).await?;
                drop_database(&server, department.front()).await?;
            }
            for role in [SOURCE_ROLE, SINK_ROLE] {
                server
                    .batch_execute(&format!("DROP ROLE IF EXISTS {role}"))
                    .await?;
            }
            let control = connect(&self.servers.control_url).await?;
            drop_database(&control, CONTROL_DATABASE).await?;
        }
        self.servers.stop().await
    }

    async fn drop_slots(&self, server: &Client) -> Result<()> {
        let ours: Vec<String> = Department::ALL
            .map(|department| self.slot(department))
            .into();
        server
            .execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                 WHERE slot_name = ANY($1) AND active",
                &[&ours],
            )
            .await?;
        crate::testkit::until("slots to be free", std::time::Duration::from_secs(10), async || {
            let active = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = ANY($1) AND active";
            let count: i64 = server.query_one(active, &[&ours]).await?.get(0);
            Ok(if count == 0 { Ok(()) } else { Err(format!("{count} are in use")) })
        })
        .await?;
        server
            .execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                 WHERE slot_name = ANY($1)",
                &[&ours],
            )
            .await?;
        Ok(())
    }

    async fn create_role(&self, server: &Client, role: &str, rights: &str) -> Result<()> {
        let exists = "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1";
        let verb = match server.query_opt(exists, &[&role]).await? {
            None => "CREATE",
            Some(row) if row.get::<_, &str>(0) == COMMENT => "ALTER",
            Some(_) => bail!("the server has a role {role} that no demo made"),
        };
        let password = &self.password;
        server
            .batch_execute(&format!(
                "{verb} ROLE {role} {rights} PASSWORD '{password}'; COMMENT ON ROLE {role} IS '{COMMENT}'"
            ))
            .await?;
        Ok(())
    }
}

/// What the owner of a department's database does for the platform: a publication, and reading.
async fn publish(owner: &Client, department: Department) -> Result<()> {
    let tables = department.captured_tables().join(", ");
    owner
        .batch_execute(&format!(
            "CREATE PUBLICATION {PUBLICATION} FOR TABLE {tables};
             GRANT USAGE ON SCHEMA public TO {SOURCE_ROLE};
             GRANT SELECT ON {tables} TO {SOURCE_ROLE}"
        ))
        .await
        .with_context(|| format!("could not publish the tables of {}", department.database()))
}

async fn create_database(server_url: &str, name: &str) -> Result<Database> {
    let server = connect(server_url).await?;
    drop_database(&server, name).await?;
    let database = Database::create_named(server_url, name).await?;
    server
        .batch_execute(&format!("COMMENT ON DATABASE {name} IS '{COMMENT}'"))
        .await?;
    Ok(database)
}

/// Drops a database of an earlier demo.
async fn drop_database(server: &Client, name: &str) -> Result<()> {
    let exists = "SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = $1";
    match server.query_opt(exists, &[&name]).await? {
        None => Ok(()),
        Some(row) if row.get::<_, &str>(0) == COMMENT => {
            server
                .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await?;
            Ok(())
        }
        Some(_) => bail!("the server has a database {name} that no demo made; it is left alone"),
    }
}
