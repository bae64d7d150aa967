//! The sink against a real server: ownership, faults, refusals, values.

mod faults;
mod generations;
mod rebuild;
mod refusals;
mod types;
mod values;

use std::collections::BTreeMap;

use hutong_connectors_core::jdbc_sink::Config;
use hutong_connectors_postgres::sink::{
    Changes, Error, Input, SessionSettings, Sink, StartOffset, Target, Withdrawal, Writer,
};
use hutong_schemas::cell::Cell;
use hutong_schemas::record::FieldInfo;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::TableId;
use rand::Rng;
use tokio_postgres::{Client, NoTls};

/// A moment in 2027, in milliseconds since 1970, which positions carry as read-up-to time.
fn now_ms() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// A database of its own, dropped by [`Subscriber::drop_database`].
struct Subscriber {
    database: String,
    host: String,
    port: u16,
    client: Client,
}

fn server() -> tokio_postgres::Config {
    let url = std::env::var("HUTONG_TEST_POSTGRES").expect("run `make test`");
    url.parse().unwrap()
}

async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Subscriber {
    async fn new() -> Self {
        let config = server();
        let database = format!("pgsink_{:016x}", rand::rng().random::<u64>());
        let admin = connect(&config).await;
        admin
            .batch_execute(&format!("CREATE DATABASE {database}"))
            .await
            .unwrap();
        let mut own = config.clone();
        own.dbname(&database);
        let host = match &config.get_hosts()[0] {
            tokio_postgres::config::Host::Tcp(host) => host.clone(),
            #[cfg(unix)]
            tokio_postgres::config::Host::Unix(_) => "127.0.0.1".to_owned(),
        };
        Self {
            client: connect(&own).await,
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            database,
        }
    }

    async fn drop_database(self) {
        drop(self.client);
        let admin = connect(&server()).await;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        admin.batch_execute(&sql).await.unwrap();
    }

    fn config(&self, name: &str, more: &[(&str, &str)]) -> Config {
        self.config_at(name, self.port, more)
    }

    fn config_at(&self, name: &str, port: u16, more: &[(&str, &str)]) -> Config {
        let url = format!("jdbc:postgresql://{}:{port}/{}", self.host, self.database);
        let mut properties: BTreeMap<String, String> = [
            ("connector.class", hutong_connectors_core::SINK_CLASS),
            ("connection.url", url.as_str()),
            ("connection.username", "postgres"),
            ("topics", "hutong.view.v"),
            ("collection.name.format", "t"),
        ]
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
        for (name, value) in more {
            properties.insert((*name).to_owned(), (*value).to_owned());
        }
        Config::parse(name, &properties).unwrap()
    }

    async fn sink(&self, name: &str) -> Sink {
        let config = self.config(name, &[]);
        Sink::open(&config, None, SessionSettings::default())
            .await
            .unwrap()
    }

    async fn writer(&self, name: &str) -> (Writer, Vec<StartOffset>) {
        self.assign(name, target(), &input()).await.unwrap()
    }

    async fn assign(
        &self,
        name: &str,
        target: Target,
        input: &Input,
    ) -> Result<(Writer, Vec<StartOffset>), Error> {
        self.sink(name).await.assign(target, input, now_ms()).await
    }

    async fn execute(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.client.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn names(&self) -> Vec<String> {
        self.texts("SELECT id || ' ' || coalesce(name, '-') FROM t ORDER BY id")
            .await
    }

    async fn next_offset(&self) -> i64 {
        let sql = "SELECT next_offset FROM hutong_position WHERE partition = 0";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

fn field(name: &str, sql_type: SqlType, nullable: bool) -> FieldInfo {
    FieldInfo {
        name: name.to_owned(),
        sql_type,
        nullable,
    }
}

fn table() -> TableId {
    TableId {
        schema: "public".to_owned(),
        table: "t".to_owned(),
    }
}

fn target() -> Target {
    let key = [field("id", SqlType::Int4, false)];
    let row = [
        field("id", SqlType::Int4, false),
        field("name", SqlType::Varchar { length: Some(20) }, true),
    ];
    Target::new(table(), &key, &row).unwrap()
}

fn input() -> Input {
    Input {
        name: "hutong.view.v".to_owned(),
        topic: "hutong.view.v.g1".to_owned(),
        topic_id: "first".to_owned(),
        end_offsets: vec![100],
        generation: 1,
        fill_ends: Some(BTreeMap::new()),
        withdrawal: Withdrawal::default(),
    }
}

fn rows(target: &Target, upserts: &[(i64, &str)], deletes: &[i64]) -> Changes {
    let mut changes = Changes::new(target);
    for (id, name) in upserts {
        let row = [Cell::Int(*id), Cell::Text(name)];
        changes.upsert(target, &row).unwrap();
    }
    for id in deletes {
        changes
            .delete(target, &[Cell::Int(*id), Cell::Null])
            .unwrap();
    }
    changes
}

async fn apply(
    writer: &mut Writer,
    upserts: &[(i64, &str)],
    deletes: &[i64],
    next_offset: i64,
) -> Result<(), Error> {
    let changes = rows(writer.target(), upserts, deletes);
    writer.apply(0, &changes, next_offset, now_ms()).await
}

#[tokio::test]
async fn a_table_is_created_written_and_goes_on_where_it_was() {
    let subscriber = Subscriber::new().await;
    let (mut writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::Earliest]);
    apply(&mut writer, &[(1, "one"), (2, "two")], &[], 5)
        .await
        .unwrap();
    apply(&mut writer, &[(2, "zwei"), (3, "drei")], &[1], 9)
        .await
        .unwrap();
    assert_eq!(subscriber.names().await, ["2 zwei", "3 drei"]);
    drop(writer);
    let (_writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::At(9)]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_deletion_of_a_key_that_is_absent_changes_nothing() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[7, 8], 1).await.unwrap();
    assert_eq!(subscriber.names().await, ["1 one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_nullable_column_is_added_when_the_schema_gains_one() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 1).await.unwrap();
    writer
        .extend(&[field("born", SqlType::Date, false)])
        .await
        .unwrap();
    let mut changes = Changes::new(writer.target());
    let row = [Cell::Int(2), Cell::Null, Cell::Int(365)];
    changes.upsert(writer.target(), &row).unwrap();
    writer.apply(0, &changes, 2, now_ms()).await.unwrap();
    let rows = subscriber
        .texts("SELECT id || ' ' || coalesce(born::text, '-') FROM t ORDER BY id")
        .await;
    assert_eq!(rows, ["1 -", "2 1971-01-01"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn an_emptied_table_has_no_rows_and_no_position_and_its_former_owner_cannot_write() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one"), (2, "two")], &[], 5)
        .await
        .unwrap();
    let sink = subscriber.sink("a").await;
    let emptied = sink.empty(&table(), "hutong.view.v").await.unwrap();
    assert_eq!(emptied, Some(2));
    assert_eq!(sink.empty(&table(), "hutong.view.v").await.unwrap(), None);
    assert!(apply(&mut writer, &[(3, "three")], &[], 6).await.is_err());
    assert!(subscriber.names().await.is_empty());
    let (_writer, starts) = subscriber.writer("a").await;
    assert_eq!(starts, [StartOffset::Earliest]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_table_of_another_input_is_not_emptied() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    apply(&mut writer, &[(1, "one")], &[], 5).await.unwrap();
    drop(writer);
    let sink = subscriber.sink("a").await;
    let emptied = sink.empty(&table(), "hutong.view.other").await.unwrap();
    assert_eq!(emptied, None);
    assert_eq!(subscriber.names().await, ["1 one"]);
    subscriber.drop_database().await;
}

#[tokio::test]
async fn a_table_is_filled_by_copying_and_a_batch_that_meets_a_row_is_repeated_as_an_upsert() {
    let subscriber = Subscriber::new().await;
    let (mut writer, _) = subscriber.writer("a").await;
    assert!(writer.may_fill());
    let filling = |writer: &Writer, rows: &[(i64, &str)]| {
        let mut changes = Changes::filling(writer.target());
        for (id, name) in rows {
            let row = [Cell::Int(*id), Cell::Text(name)];
            changes.upsert(writer.target(), &row).unwrap();
        }
        changes
    };
    let first = filling(&writer, &[(1, "one"), (2, "two")]);
    assert_eq!(first.len(), 2);
    assert!(writer.fill(0, &first, 5, now_ms()).await.unwrap());
    assert_eq!(subscriber.next_offset().await, 5);
    let again = filling(&writer, &[(3, "three"), (2, "zwei")]);
    assert!(!writer.fill(0, &again, 9, now_ms()).await.unwrap());
    assert_eq!(subscriber.names().await, ["1 one", "2 two"]);
    assert_eq!(subscriber.next_offset().await, 5);
    apply(&mut writer, &[(3, "three"), (2, "zwei")], &[1], 9)
        .await
        .unwrap();
    assert_eq!(subscriber.names().await, ["2 zwei", "3 three"]);
    // A truncation comes before what else is in its batch.
    let mut changes = rows(writer.target(), &[(4, "four")], &[]);
    changes.truncate();
    writer.apply(0, &changes, 12, now_ms()).await.unwrap();
    assert_eq!(subscriber.names().await, ["4 four"]);
    subscriber.drop_database().await;
}
