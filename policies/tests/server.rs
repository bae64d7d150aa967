//! A database of one's own on the test server, dropped at the end.

use tokio_postgres::{Client, NoTls};

pub(crate) struct Database {
    name: String,
    admin: Client,
    pub(crate) client: Client,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let url = std::env::var("HUTONG_TEST_POSTGRES")
            .expect("HUTONG_TEST_POSTGRES is not set: run `make test`");
        let admin = connect(url.parse().unwrap()).await;
        let name = format!("policies_{:016x}", rand::random::<u64>());
        let create =
            format!("create database {name} template template0 encoding 'UTF8' locale 'C'");
        admin.batch_execute(&create).await.unwrap();
        let mut config: tokio_postgres::Config = url.parse().unwrap();
        config.dbname(&name);
        let client = connect(config).await;
        client.batch_execute("set timezone = 'UTC'").await.unwrap();
        Self {
            name,
            admin,
            client,
        }
    }

    /// Runs a query of two columns, `id` and a text, and returns the texts in order of id.
    pub(crate) async fn texts(&self, expression: &str) -> Vec<Option<String>> {
        let query = format!("select ({expression})::text from rows order by id");
        let rows = self.client.query(&query, &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn drop(self) {
        drop(self.client);
        let sql = format!("drop database {} with (force)", self.name);
        self.admin.batch_execute(&sql).await.unwrap();
    }
}

async fn connect(config: tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Returns the seed of this run, and prints it so that the run can be repeated.
#[expect(clippy::print_stdout, reason = "the seed of a failed run must be seen")]
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("HUTONG_TEST_SEED") {
        Ok(text) => text.parse().expect("HUTONG_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("HUTONG_TEST_SEED={seed}");
    seed
}
