//! Random changes, random cuts, aborts, crashes and restarts with whole, stale and lost stores; then
//! each view's topic must hold the policy applied to the rows, and nothing useless was written.

use std::collections::BTreeMap;

use hutong_policies::ViewTask;
use hutong_schemas::batch::RecordBatch;
use hutong_stream_processors::{Limits, MemoryStore};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::world::{Kafka, Row, Table, adopt, apply, difference, generation, settle, start, view};

const RUNS: u64 = 150;
const STEPS: usize = 120;

/// A condition as SQL, and as what it means.
type Condition = (Option<&'static str>, fn(&Row) -> bool);

const CONDITIONS: [Condition; 4] = [
    (Some("region LIKE '3707%'"), |row| {
        row.region
            .as_deref()
            .is_some_and(|region| region.starts_with("3707"))
    }),
    (Some("amount BETWEEN 2 AND 5 AND name IS NOT NULL"), |row| {
        (2..=5).contains(&row.amount) && row.name.is_some()
    }),
    (Some("NOT region = '370705'"), |row| {
        row.region
            .as_deref()
            .is_some_and(|region| region != "370705")
    }),
    (None, |_| true),
];

/// A view of the model: its columns, and what they show of a row.
struct Shape {
    name: &'static str,
    columns: &'static [(&'static str, Option<&'static str>)],
    show: fn(&Row) -> Vec<String>,
    hides_key: bool,
}

fn text(value: Option<&String>) -> String {
    value.map_or_else(|| "NULL".to_owned(), Clone::clone)
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "clear",
        columns: &[("id", None), ("name", None)],
        show: |row| vec![row.id.to_string(), text(row.name.as_ref())],
        hides_key: false,
    },
    Shape {
        name: "hidden",
        columns: &[("region", None), ("name", Some("SHOW_LAST 1"))],
        show: |row| {
            let masked = row.name.as_ref().map(|name| {
                let length = name.chars().count();
                let last: String = name.chars().skip(length.saturating_sub(1)).collect();
                if length <= 1 {
                    "*".repeat(length)
                } else {
                    "*".repeat(length - 1) + &last
                }
            });
            vec![text(row.region.as_ref()), text(masked.as_ref())]
        },
        hides_key: true,
    },
    Shape {
        name: "keys",
        columns: &[("id", None)],
        show: |row| vec![row.id.to_string()],
        hides_key: false,
    },
];

#[derive(Clone)]
struct Wanted {
    shape: usize,
    condition: usize,
    task: ViewTask,
}

impl Wanted {
    /// The same view under another condition.
    fn changed(&self, condition: usize, version: u64) -> Self {
        let changed = wanted(self.shape, condition, version);
        Self {
            task: generation(
                ViewTask {
                    share_key_version: self.task.share_key_version,
                    ..changed.task
                },
                self.task.generation,
            ),
            ..changed
        }
    }

    /// The same view under another key, and so in another generation.
    fn rotated(&self, version: u64) -> Self {
        let task = ViewTask {
            version,
            share_key_version: self.task.share_key_version + 1,
            ..self.task.clone()
        };
        Self {
            task: generation(task, self.task.generation + 1),
            ..self.clone()
        }
    }
}

fn wanted(shape: usize, condition: usize, version: u64) -> Wanted {
    let Shape { name, columns, .. } = SHAPES[shape];
    Wanted {
        shape,
        condition,
        task: view(name, version, columns, CONDITIONS[condition].0),
    }
}

/// Every record of a commit is written under the policy in force, to the generation in force.
fn check_commit(out: &RecordBatch, views: &[Wanted], seed: u64) {
    for record in &out.records {
        let topic = &out.topics[usize::try_from(record.topic).unwrap()];
        let wanted = views.iter().find(|wanted| *wanted.task.topic == **topic);
        let wanted = wanted.unwrap_or_else(|| panic!("written to {topic}, seed {seed}"));
        let header = &out.buffer[record.header.clone().unwrap()];
        let header = std::str::from_utf8(header).unwrap();
        let policy = format!(" policy={}", wanted.task.version);
        assert!(header.ends_with(&policy), "{header}, seed {seed}");
    }
}

fn random_row(rng: &mut StdRng, id: i64) -> Row {
    let pick = |rng: &mut StdRng, pool: &[&str]| pool.choose(rng).map(|text| (*text).to_owned());
    Row {
        id,
        region: pick(rng, &["370705", "370702", "110000", ""]).filter(|text| !text.is_empty()),
        name: pick(rng, &["a", "ab", "cb", "公司", "NULL?"]).filter(|text| text != "NULL?"),
        amount: rng.random_range(0..8),
        phone: format!("138{:08}", rng.random_range(0..100)),
    }
}

fn check(kafka: &Kafka, table: &Table, views: &[Wanted], seed: u64) {
    for wanted in views {
        let Shape {
            show,
            hides_key,
            name,
            ..
        } = SHAPES[wanted.shape];
        let found = kafka.rows(&wanted.task);
        let visible = table
            .rows
            .values()
            .filter(|row| CONDITIONS[wanted.condition].1(row));
        let mut expected: Vec<Vec<String>> = visible.map(show).collect();
        let mut rows: Vec<Vec<String>> = found
            .into_values()
            .map(|mut row| row.split_off(usize::from(hides_key)))
            .collect();
        expected.sort();
        rows.sort();
        assert_eq!(rows, expected, "view {name}, seed {seed}");
    }
}

#[test]
fn a_view_is_its_policy_applied_to_the_rows_whatever_happens() {
    let seed: u64 = match std::env::var("HUTONG_TEST_SEED") {
        Ok(text) => text.parse().expect("HUTONG_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("HUTONG_TEST_SEED={seed}");
    for run in 0..RUNS {
        play(seed.wrapping_add(run));
    }
}

/// Views that differ in what must keep them apart, among others that show a row alike.
fn neighbours() -> Vec<ViewTask> {
    let hidden = |name| view(name, 1, SHAPES[1].columns, CONDITIONS[1].0);
    let mut other_share = hidden("other_share");
    other_share.document.share = "s04".into();
    let rotated = ViewTask {
        share_key_version: 2,
        ..hidden("rotated")
    };
    let swapped: &[_] = &[("name", None), ("id", None)];
    let masked: &[_] = &[("id", None), ("name", Some("SHOW_LAST 1"))];
    let hashed: &[_] = &[("id", None), ("name", Some("HASH"))];
    let mut hashed_there = view("hashed_there", 1, hashed, None);
    hashed_there.document.share = "s04".into();
    vec![
        view("clear", 1, SHAPES[0].columns, CONDITIONS[0].0),
        view("clear_too", 1, SHAPES[0].columns, CONDITIONS[1].0),
        view("clear_newer", 2, SHAPES[0].columns, CONDITIONS[1].0),
        view("clear_and_whole", 1, SHAPES[0].columns, None),
        hidden("hidden"),
        view("hidden_too", 1, SHAPES[1].columns, CONDITIONS[2].0),
        other_share,
        rotated,
        view("swapped", 1, swapped, None),
        view("masked", 1, masked, None),
        view("hashed", 1, hashed, None),
        view("hashed_too", 1, hashed, CONDITIONS[2].0),
        hashed_there,
    ]
}

#[test]
fn a_view_beside_others_delivers_what_it_delivers_alone() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let rng = &mut StdRng::seed_from_u64(seed);
    let mut table = Table::new();
    for _ in 0..300 {
        table.begin();
        let id = rng.random_range(0..20);
        match rng.random_range(0..10) {
            0..8 => table.upsert(random_row(rng, id)),
            8 => {
                if let Some(row) = table.rows.get(&id).cloned() {
                    table.upsert_without_name(&row);
                }
            }
            _ => table.delete(id),
        }
    }
    let delivered = |tasks: &[ViewTask]| {
        let mut kafka = Kafka::default();
        let mut processor = start(MemoryStore::default(), &kafka, &table, tasks, 1_000);
        settle(&mut processor, &mut kafka, &table, 1_000);
        kafka.outputs
    };
    let tasks = neighbours();
    let together = delivered(&tasks);
    for task in tasks {
        let alone = delivered(std::slice::from_ref(&task));
        let (together, alone) = (&together[&task.topic], &alone[&task.topic]);
        assert!(alone.len() > 20, "{}, seed {seed}", task.name);
        assert_eq!(together, alone, "{}, seed {seed}", task.name);
    }
}

fn play(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let rng = &mut rng;
    let mut table = Table::new();
    let mut kafka = Kafka::default();
    let mut version = 1;
    let mut views = vec![wanted(0, 0, 1), wanted(1, 1, 1)];
    let mut old_stores = vec![MemoryStore::default()];
    let tasks = |views: &[Wanted]| {
        views
            .iter()
            .map(|wanted| wanted.task.clone())
            .collect::<Vec<_>>()
    };
    let mut now_ms = 1_000;
    let mut processor = start(
        MemoryStore::default(),
        &kafka,
        &table,
        &tasks(&views),
        now_ms,
    );
    for _ in 0..STEPS {
        now_ms += 10;
        match rng.random_range(0..20) {
            // A source transaction.
            0..8 => {
                table.begin();
                for _ in 0..rng.random_range(1..5) {
                    let id = rng.random_range(0..14);
                    match rng.random_range(0..10) {
                        0..7 => table.upsert(random_row(rng, id)),
                        7..9 => table.delete(id),
                        // A changed key: the old one goes, the new one comes.
                        _ => {
                            if let Some(row) = table.rows.get(&id).cloned() {
                                table.delete(id);
                                table.upsert(Row {
                                    id: rng.random_range(0..14),
                                    ..row
                                });
                            }
                        }
                    }
                }
            }
            // A batch, cut anywhere, that commits; with a crash before the store has it, or not.
            8..13 => {
                processor.tick(now_ms, now_ms).unwrap();
                if kafka
                    .position
                    .as_ref()
                    .is_some_and(|position| position.next_offset == table.end())
                {
                    processor.at_end().unwrap();
                }
                let mut out = RecordBatch::default();
                let next = apply(&mut processor, &table, rng.random_range(0..9), &mut out);
                let limits = Limits {
                    bytes_max: processor.output_bytes() + rng.random_range(0..200),
                    looks_max: rng.random_range(1..20),
                };
                difference(&mut processor, &mut out, limits);
                check_commit(&out, &views, seed);
                if rng.random_bool(0.15) {
                    processor.aborted();
                    continue;
                }
                let positions = processor.positions(next, now_ms);
                // Another batch may be applied while this one is on its way, and both be taken back.
                if rng.random_bool(0.4) {
                    processor.seal().unwrap();
                    let mut ahead = RecordBatch::default();
                    let next = apply(&mut processor, &table, rng.random_range(0..9), &mut ahead);
                    if rng.random_bool(0.2) {
                        processor.aborted();
                        continue;
                    }
                    kafka.commit(&out, positions);
                    processor.committed().unwrap();
                    check_commit(&ahead, &views, seed);
                    let positions = processor.positions(next, now_ms);
                    kafka.commit(&ahead, positions);
                    processor.committed().unwrap();
                    continue;
                }
                kafka.commit(&out, positions);
                if rng.random_bool(0.1) {
                    let store = processor.into_store();
                    processor = start(store, &kafka, &table, &tasks(&views), now_ms);
                } else {
                    processor.committed().unwrap();
                }
            }
            // A restart in the middle of a batch, finding the store as it was, as it once was, or gone.
            13..16 => {
                let mut out = RecordBatch::default();
                apply(&mut processor, &table, rng.random_range(0..5), &mut out);
                let store = processor.into_store();
                old_stores.push(store.clone());
                let found = match rng.random_range(0..3) {
                    0 => store,
                    1 => old_stores.choose(rng).unwrap().clone(),
                    _ => MemoryStore::default(),
                };
                processor = start(found, &kafka, &table, &tasks(&views), now_ms);
            }
            // A long absence, after which tombstones before the position may be gone too, and a
            // compaction that may drop them.
            16 => {
                let store = processor.into_store();
                now_ms += 2_000_000;
                table.compact(rng.random_range(0..=table.end()), true);
                processor = start(store, &kafka, &table, &tasks(&views), now_ms);
            }
            17 => {
                let position = kafka
                    .position
                    .as_ref()
                    .map_or(0, |position| position.next_offset);
                table.compact(position, false);
            }
            // The views change, while running or across a restart.
            _ => {
                version += 1;
                match rng.random_range(0..4) {
                    0 if views.len() > 1 => {
                        let gone = views.remove(rng.random_range(0..views.len()));
                        // Its topic goes too, and one of that name would have another id.
                        kafka.outputs.remove(&gone.task.topic);
                        kafka.views.remove(&gone.task.name);
                    }
                    1 if views.len() < SHAPES.len() => {
                        let free: Vec<usize> = (0..SHAPES.len())
                            .filter(|shape| views.iter().all(|wanted| wanted.shape != *shape))
                            .collect();
                        views.push(wanted(
                            *free.choose(rng).unwrap(),
                            rng.random_range(0..CONDITIONS.len()),
                            version,
                        ));
                    }
                    2 => {
                        let index = rng.random_range(0..views.len());
                        let next = views[index].rotated(version);
                        let closed = std::mem::replace(&mut views[index], next);
                        kafka.outputs.remove(&closed.task.topic);
                    }
                    _ => {
                        let index = rng.random_range(0..views.len());
                        let condition = rng.random_range(0..CONDITIONS.len());
                        views[index] = views[index].changed(condition, version);
                    }
                }
                if rng.random_bool(0.5) {
                    processor.aborted();
                    adopt(
                        &mut processor,
                        &kafka,
                        &table,
                        &tasks(&views),
                        &BTreeMap::new(),
                    );
                } else {
                    let store = processor.into_store();
                    processor = start(store, &kafka, &table, &tasks(&views), now_ms);
                }
            }
        }
    }
    settle(&mut processor, &mut kafka, &table, now_ms);
    check(&kafka, &table, &views, seed);
    let held: u64 = processor.views().iter().map(|view| view.rows()).sum();
    let there: usize = views
        .iter()
        .map(|wanted| kafka.rows(&wanted.task).len())
        .sum();
    assert_eq!(usize::try_from(held).unwrap(), there, "seed {seed}");
}
