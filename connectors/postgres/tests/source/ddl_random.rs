//! Random DDL and random changes of rows in interleaved transactions, while the connector is killed
//! and started again. PostgreSQL itself is the model: what it says that it wrote must arrive, once
//! and in order; and in the end the topic says what the table holds.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::ddl::{Change, Session, assert_holds, changes};
use hutong_connectors_core::source::TableState;

use super::harness::{Database, PATIENCE, Platform, Running, explain, until};

const STEPS: usize = 60;
const SMALL: (&str, &str) = ("hutong.batch.bytes.max", "65536");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Text,
    Varchar,
}

#[derive(Clone)]
struct Column {
    name: String,
    kind: Kind,
    /// Whether the connector knows it: it may be dropped without a doubt about what went.
    is_settled: bool,
    may_be_null: bool,
    /// Whether NOT NULL was changed; once is followed without a doubt.
    is_judged: bool,
}

/// A transaction that has not ended.
struct Open {
    session: Session,
    /// Whether it holds the table.
    touched: bool,
    /// Transactions change rows of their own class, so that none waits for another one.
    class: usize,
}

struct World {
    seed: u64,
    random: StdRng,
    database: Database,
    platform: Platform,
    columns: Vec<Column>,
    open: Vec<Open>,
    log: Vec<Change>,
    next_id: i32,
    next_column: usize,
    /// Re-readings demanded so far.
    tokens: usize,
}

impl World {
    async fn new(seed: u64) -> Self {
        let setup = "CREATE TABLE t (id int PRIMARY KEY, a int, b text NOT NULL, c varchar(20)); \
             CREATE TABLE beside (id serial PRIMARY KEY, n int); INSERT INTO t SELECT n, n, 'b' || n, NULL FROM generate_series(1, 50) n";
        let column = |name: &str, kind, may_be_null| Column {
            name: name.to_owned(),
            kind,
            is_settled: true,
            may_be_null,
            is_judged: false,
        };
        Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            database: Database::create(setup).await,
            platform: Platform::default(),
            columns: vec![
                column("a", Kind::Int, true),
                column("b", Kind::Text, false),
                column("c", Kind::Varchar, true),
            ],
            open: Vec::new(),
            log: Vec::new(),
            next_id: 1000,
            next_column: 0,
            tokens: 0,
        }
    }

    fn value(&mut self, column: usize) -> String {
        let column = self.columns[column].clone();
        if column.may_be_null && self.random.random_bool(0.3) {
            return "NULL".to_owned();
        }
        let number = self.random.random_range(0..1000);
        match column.kind {
            Kind::Int => number.to_string(),
            Kind::Text | Kind::Varchar => format!("'x{number}'"),
        }
    }

    async fn session(&mut self) -> usize {
        if self.open.len() < 3 && (self.open.is_empty() || self.random.random_bool(0.4)) {
            let session = Session::begin(&self.database.name).await;
            session.execute("INSERT INTO beside (n) VALUES (1)").await;
            let is_free = |class: &usize| self.open.iter().all(|open| open.class != *class);
            let class = (0..3).find(is_free).expect("three classes");
            self.open.push(Open {
                session,
                touched: false,
                class,
            });
        }
        self.random.random_range(0..self.open.len())
    }

    async fn change_rows(&mut self) {
        let index = self.session().await;
        self.change_rows_in(index).await;
    }

    async fn change_rows_in(&mut self, index: usize) {
        let class = self.open[index].class;
        let mine = format!("id / 40 % 3 = {class} AND id < 1000");
        let statement = match self.random.random_range(0..10) {
            0..5 => {
                let count = if self.random.random_bool(0.1) { 300 } else { 3 };
                let (from, to) = (self.next_id, self.next_id + count - 1);
                self.next_id += count;
                let names: Vec<_> = self.columns.iter().map(|c| c.name.clone()).collect();
                let values: Vec<_> = (0..names.len()).map(|n| self.value(n)).collect();
                let (names, values) = (names.join(", "), values.join(", "));
                let sep = if names.is_empty() { "" } else { ", " };
                (
                    "c",
                    format!(
                        "INSERT INTO t (id{sep}{names}) SELECT n{sep}{values} FROM generate_series({from}, {to}) n"
                    ),
                )
            }
            5..8 if !self.columns.is_empty() => {
                let column = self.random.random_range(0..self.columns.len());
                let value = self.value(column);
                let modulus = self.random.random_range(5..40);
                let name = &self.columns[column].name;
                (
                    "u",
                    format!("UPDATE t SET {name} = {value} WHERE id % 40 = {modulus} AND {mine}"),
                )
            }
            _ => {
                let modulus = self.random.random_range(0..60);
                (
                    "d",
                    format!("DELETE FROM t WHERE id % 60 = {modulus} AND {mine}"),
                )
            }
        };
        let open = &mut self.open[index];
        open.touched = true;
        open.session.change(statement.0, &statement.1).await;
    }

    async fn commit(&mut self, index: usize) {
        let open = self.open.remove(index);
        open.session.commit(&mut self.log).await;
    }

    /// Ends the other transactions that hold the table, and returns the one to change it in.
    async fn alone(&mut self) -> usize {
        let index = self.session().await;
        let mut others: Vec<usize> = (0..self.open.len())
            .filter(|other| *other != index && self.open[*other].touched)
            .collect();
        let mut index = index;
        while let Some(other) = others.pop() {
            self.commit(other).await;
            index -= usize::from(other < index);
        }
        self.open[index].touched = true;
        index
    }

    async fn until_followed(&self) {
        let (platform, count) = (&self.platform, self.log.len());
        until(&format!("seed {}: everything arrives", self.seed), || {
            changes(platform, "p.public.t").len() >= count
        })
        .await;
    }

    /// Changes the table in a way that its topic follows.
    async fn change_table(&mut self) {
        let index = self.alone().await;
        let pick = self.random.random_range(0..self.columns.len().max(1));
        let chosen = self.columns.get(pick).cloned();
        let ddl = match (self.random.random_range(0..8), chosen) {
            (0..3, _) | (_, None) => self.add_column(),
            (3, Some(column)) if column.is_settled => {
                self.columns.remove(pick);
                format!("ALTER TABLE t DROP COLUMN {}", column.name)
            }
            (4, Some(column)) if column.kind == Kind::Varchar => {
                self.columns[pick].kind = Kind::Text;
                format!("ALTER TABLE t ALTER COLUMN {} TYPE text", column.name)
            }
            (5, Some(column)) if !column.may_be_null && !column.is_judged => {
                self.columns[pick].may_be_null = true;
                self.columns[pick].is_judged = true;
                format!("ALTER TABLE t ALTER COLUMN {} DROP NOT NULL", column.name)
            }
            (6, Some(column)) if column.may_be_null && !column.is_judged => {
                let name = &column.name;
                let value = if column.kind == Kind::Int { "0" } else { "'z'" };
                let update = format!("UPDATE t SET {name} = {value} WHERE {name} IS NULL");
                self.open[index].session.change("u", &update).await;
                self.columns[pick].may_be_null = false;
                self.columns[pick].is_judged = true;
                format!("ALTER TABLE t ALTER COLUMN {name} SET NOT NULL")
            }
            (_, Some(column)) => {
                let value = if column.kind == Kind::Int {
                    "7"
                } else {
                    "'seven'"
                };
                format!(
                    "ALTER TABLE t ALTER COLUMN {} SET DEFAULT {value}",
                    column.name
                )
            }
        };
        self.open[index].session.execute(&ddl).await;
        for _ in 0..self.random.random_range(1..4) {
            self.change_rows_in(index).await;
        }
        self.commit(index).await;
    }

    fn add_column(&mut self) -> String {
        self.next_column += 1;
        let name = format!("n{}", self.next_column);
        let kind = [Kind::Int, Kind::Text, Kind::Varchar][self.random.random_range(0..3)];
        let (sql, constant) = match kind {
            Kind::Int => ("int", "5"),
            Kind::Text => ("text", "'five'"),
            Kind::Varchar => ("varchar(20)", "'v5'"),
        };
        let how = self.random.random_range(0..3);
        self.columns.push(Column {
            name: name.clone(),
            kind,
            is_settled: false,
            may_be_null: how != 2,
            is_judged: false,
        });
        match how {
            0 => format!("ALTER TABLE t ADD COLUMN {name} {sql}"),
            1 => format!("ALTER TABLE t ADD COLUMN {name} {sql} DEFAULT {constant}"),
            _ => format!("ALTER TABLE t ADD COLUMN {name} {sql} NOT NULL DEFAULT {constant}"),
        }
    }

    /// Changes the table in a way that its topic cannot follow.
    async fn break_table(&mut self) {
        let index = self.alone().await;
        self.next_column += 1;
        let name = format!("n{}", self.next_column);
        let mut column = Column {
            name: name.clone(),
            kind: Kind::Text,
            is_settled: true,
            may_be_null: true,
            is_judged: true,
        };
        let ddl = match (self.random.random_range(0..3), self.columns.pop()) {
            (0, Some(old)) => {
                column.kind = old.kind;
                column.may_be_null = old.may_be_null;
                format!("ALTER TABLE t RENAME COLUMN {} TO {name}", old.name)
            }
            (1, Some(old)) => {
                column.name.clone_from(&old.name);
                column.may_be_null = old.may_be_null;
                let name = old.name;
                format!(
                    "ALTER TABLE t ALTER COLUMN {name} DROP DEFAULT, ALTER COLUMN {name} TYPE text USING {name}::text || '!'"
                )
            }
            (_, old) => {
                self.columns.extend(old);
                format!("ALTER TABLE t ADD COLUMN {name} text DEFAULT md5(random()::text)")
            }
        };
        self.columns.push(column);
        self.open[index].session.execute(&ddl).await;
        if self.random.random_bool(0.7) {
            self.change_rows_in(index).await;
        }
        self.commit(index).await;
    }

    async fn commit_all(&mut self) {
        while !self.open.is_empty() {
            self.commit(0).await;
        }
    }

    /// Whether the table has stopped; before any of its rows were read nothing is stored of that.
    fn is_failed(&self) -> bool {
        let stored = self.platform.stored("public.t");
        stored.is_none_or(|stored| !stored["failed"].is_null())
    }

    async fn start(&self) -> Running {
        let token = format!("public.t@{}", self.tokens);
        let more = [SMALL, ("hutong.snapshot.again", token.as_str())];
        let more = if self.tokens == 0 { &more[..1] } else { &more };
        Running::start(&self.database, &self.platform, more).await
    }
}

async fn followed(seed: u64) {
    eprintln!("seed {seed}");
    let mut world = World::new(seed).await;
    let mut running = world.start().await;
    world.platform.until_streaming().await;
    for _ in 0..STEPS {
        match world.random.random_range(0..20) {
            0..11 => world.change_rows().await,
            11..15 if !world.open.is_empty() => {
                let index = world.random.random_range(0..world.open.len());
                world.commit(index).await;
            }
            15..18 => world.change_table().await,
            18 => {
                running.kill().await;
                running = world.start().await;
            }
            _ => {
                world.commit_all().await;
                world.until_followed().await;
                for column in &mut world.columns {
                    column.is_settled = true;
                }
            }
        }
    }
    world.commit_all().await;
    world.until_followed().await;
    running.stop().await.unwrap();
    let arrived = changes(&world.platform, "p.public.t");
    assert_eq!(arrived.len(), world.log.len(), "seed {seed}");
    for (number, (arrived, wrote)) in arrived.iter().zip(&world.log).enumerate() {
        assert_eq!(arrived, wrote, "seed {seed}, change {number}");
    }
    assert_holds(&world.platform, &world.database, "t").await;
}

async fn broken_and_read_again(seed: u64) {
    eprintln!("seed {seed}");
    let mut world = World::new(seed).await;
    let mut running = world.start().await;
    // What is written before the stream begins is in the rows as read, without an event.
    world.platform.until_streaming().await;
    for _ in 0..STEPS {
        match world.random.random_range(0..20) {
            0..11 => world.change_rows().await,
            11..14 if !world.open.is_empty() => {
                let index = world.random.random_range(0..world.open.len());
                world.commit(index).await;
            }
            14..16 => world.change_table().await,
            16 => world.break_table().await,
            17 => {
                running.kill().await;
                running = world.start().await;
            }
            _ if world.is_failed() => {
                running.kill().await;
                world.tokens += 1;
                running = world.start().await;
            }
            _ => {}
        }
    }
    world.commit_all().await;
    // Whatever was broken last is noticed with the next change, at the latest.
    for marker in 100.. {
        assert!(marker < 120, "seed {seed}: it never gets through");
        world
            .database
            .execute("UPDATE t SET id = id WHERE id = (SELECT min(id) FROM t)")
            .await;
        world
            .database
            .execute(&format!("INSERT INTO beside (n) VALUES ({marker})"))
            .await;
        let platform = world.platform.clone();
        let mut ended = false;
        let deadline = std::time::Instant::now() + PATIENCE;
        until(&format!("seed {seed}: the marker arrives"), || {
            assert!(
                std::time::Instant::now() < deadline - std::time::Duration::from_secs(1),
                "seed {seed}: marker {marker}: {:?} {:?}",
                platform.progress_now().tables,
                changes(&platform, "p.public.beside")
            );
            ended = running.has_ended();
            let mut arrived = changes(&platform, "p.public.beside").into_iter();
            let marked = arrived.any(|(_, row)| row["n"] == marker.to_string());
            let tables = platform.progress_now().tables;
            let has_stopped = tables.iter().any(|t| t.state == TableState::Failed);
            ended || (marked && (has_stopped || platform.is_streaming()))
        })
        .await;
        if ended {
            let error = running.end().await.expect_err("it was not asked to stop");
            panic!("seed {seed}: {}", explain(&error));
        }
        if !world.is_failed() {
            break;
        }
        running.kill().await;
        world.tokens += 1;
        running = world.start().await;
    }
    running.stop().await.unwrap();
    assert_holds(&world.platform, &world.database, "t").await;
}

fn seeds() -> Vec<u64> {
    match std::env::var("HUTONG_TEST_SEED") {
        Ok(seed) => vec![seed.parse().expect("HUTONG_TEST_SEED is a number")],
        Err(_) => vec![1, 2, 3],
    }
}

#[tokio::test]
async fn random_changes_of_a_table_are_followed_exactly() {
    for seed in seeds() {
        followed(seed).await;
    }
}

#[tokio::test]
async fn after_random_changes_that_cannot_be_followed_a_reading_brings_the_table_back() {
    for seed in seeds() {
        broken_and_read_again(seed).await;
    }
}
