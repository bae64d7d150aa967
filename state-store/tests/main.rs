//! The store is what was written, whenever it is looked at and however it ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use hutong_state_store::{Batch, Error, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const KEYSPACES: [&str; 3] = ["a", "ab", "b"];

/// What a store should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    meta: Option<String>,
    keyspaces: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// Keyspace, key and value.
type Change = (&'static str, Vec<u8>, Option<Vec<u8>>);

/// What is done to a store in one step; the same for the same number.
enum Step {
    Apply(Vec<Change>),
    Drop(&'static str),
}

/// Returns a step. Later ones have more entries than the store keeps in memory.
fn step(seed: u64, number: u64) -> Step {
    let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
    if random.random_bool(0.02) {
        return Step::Drop(KEYSPACES[random.random_range(0..KEYSPACES.len())]);
    }
    let count = if random.random_bool(0.1) {
        random.random_range(0..2_000)
    } else {
        random.random_range(0..20)
    };
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let keyspace = KEYSPACES[random.random_range(0..KEYSPACES.len())];
        let mut key = random.random_range(0..3_000u32).to_be_bytes().to_vec();
        match random.random_range(0..2_000) {
            // More than is read at once.
            0 => key.resize(70_000, 7),
            1..20 => key.resize(random.random_range(0..2_000), 7),
            _ => {}
        }
        let length = match random.random_range(0..1_000) {
            0 => 300_000,
            // A little less and a little more than lies alone in its block.
            1..8 => random.random_range(60_000..66_000),
            8..20 => 5_000,
            _ => random.random_range(0..100),
        };
        let value = random
            .random_bool(0.7)
            .then(|| vec![random.random(); length]);
        entries.insert((keyspace, key), value);
    }
    let entries = entries.into_iter();
    Step::Apply(
        entries
            .map(|((keyspace, key), value)| (keyspace, key, value))
            .collect(),
    )
}

impl Model {
    fn take(&mut self, number: u64, step: &Step) {
        self.meta = Some(number.to_string());
        match step {
            Step::Apply(entries) => {
                for (keyspace, key, value) in entries {
                    let held = self.keyspaces.entry((*keyspace).to_owned()).or_default();
                    match value {
                        Some(value) => held.insert(key.clone(), value.clone()),
                        None => held.remove(key),
                    };
                }
            }
            Step::Drop(keyspace) => {
                self.keyspaces.remove(*keyspace);
            }
        }
    }

    fn after(seed: u64, last: u64) -> Self {
        let mut model = Self::default();
        for number in 1..=last {
            model.take(number, &step(seed, number));
        }
        model
    }
}

fn take(store: &Store, number: u64, step: &Step) -> Result<(), Error> {
    let meta = number.to_string();
    match step {
        Step::Apply(entries) => {
            let mut batch = Batch::default();
            for (keyspace, key, value) in entries {
                let keyspace = store.ensure_keyspace(keyspace);
                batch.put(keyspace, key, value.as_deref());
            }
            store.apply(batch, &meta)
        }
        Step::Drop(keyspace) => store.drop_keyspaces(&[keyspace], Some(&meta)),
    }
}

/// Reads everything, in both ways.
fn dump(store: &Store) -> Result<Model, Error> {
    let mut model = Model {
        meta: store.meta().map(|meta| meta.to_string()),
        keyspaces: BTreeMap::new(),
    };
    for name in store.keyspaces() {
        let keyspace = store.keyspace(&name).expect("it was listed");
        let mut held = BTreeMap::new();
        let mut last: Option<Vec<u8>> = None;
        store.visit_after(keyspace, None, |key, value| {
            assert!(
                last.as_deref().is_none_or(|last| last < key),
                "not in order"
            );
            last = Some(key.to_vec());
            held.insert(key.to_vec(), value.to_vec());
            Ok::<_, Error>(true)
        })?;
        for (key, value) in &held {
            let found = store.get(keyspace, key, <[u8]>::to_vec)?;
            assert_eq!(found.as_ref(), Some(value), "{key:?}");
            assert_eq!(
                store.get_vec(keyspace, key)?.as_ref(),
                Some(value),
                "{key:?}"
            );
        }
        model.keyspaces.insert(name, held);
    }
    Ok(model)
}

#[test]
fn what_was_written_is_read_and_what_was_not_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let mut store = Store::open(folder.path()).unwrap();
    for number in 1..=1_500 {
        let step = step(seed, number);
        take(&store, number, &step).unwrap();
        model.take(number, &step);
        if random.random_bool(0.02) {
            assert_eq!(dump(&store).unwrap(), model, "after {number}");
        }
        if random.random_bool(0.02) {
            drop(store);
            store = Store::open(folder.path()).unwrap();
            assert_eq!(dump(&store).unwrap(), model, "opened after {number}");
        }
        if let Some((name, held)) = model.keyspaces.iter().next() {
            let keyspace = store.keyspace(name).unwrap();
            let key = random.random_range(0..3_000u32).to_be_bytes();
            let found = store.get(keyspace, &key, <[u8]>::to_vec).unwrap();
            assert_eq!(
                found.as_ref(),
                held.get(key.as_slice()),
                "{number}: {key:?}"
            );
            let contains = store.contains(keyspace, &key).unwrap();
            assert_eq!(
                contains,
                held.contains_key(key.as_slice()),
                "{number}: {key:?}"
            );
            let mut behind = Vec::new();
            let visit = store.visit_after(keyspace, Some(&key), |key, _| {
                behind.push(key.to_vec());
                Ok::<_, Error>(behind.len() < 3)
            });
            visit.unwrap();
            let range = (
                std::ops::Bound::Excluded(key.to_vec()),
                std::ops::Bound::Unbounded,
            );
            let expected: Vec<_> = held
                .range(range)
                .take(3)
                .map(|(key, _)| key.clone())
                .collect();
            assert_eq!(behind, expected, "{number}: behind {key:?}");
        }
    }
    assert_eq!(dump(&store).unwrap(), model);
    let runs = files(folder.path(), "run-");
    assert!(!runs.is_empty(), "nothing was too much for memory");
}

#[test]
fn what_is_visited_is_of_one_moment_whatever_is_written_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let keyspace = store.ensure_keyspace("a");
    let fill = |value: &[u8]| {
        let mut batch = Batch::default();
        for number in 0..20_000u32 {
            batch.put(keyspace, &number.to_be_bytes(), Some(value));
        }
        store.apply(batch, "").unwrap();
    };
    fill(&[1; 100]);
    let mut seen = 0;
    let visit = store.visit_after(keyspace, None, |_, value| {
        if seen % 2_000 == 0 {
            fill(&[2; 100]);
        }
        seen += 1;
        Ok::<_, Error>(value == [1; 100])
    });
    visit.unwrap();
    assert_eq!(seen, 20_000);
    let now = store.get(keyspace, &7u32.to_be_bytes(), <[u8]>::to_vec);
    assert_eq!(now.unwrap(), Some(vec![2; 100]));
}

#[test]
fn a_keyspace_that_was_dropped_leaves_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for round in 0..20 {
        let mut batch = Batch::default();
        for name in ["stays", "goes"] {
            let keyspace = store.ensure_keyspace(name);
            for number in 0..3_000u32 {
                let key = (round * 3_000 + number).to_be_bytes();
                let value = format!("{name} {number} {}", "x".repeat(100));
                batch.put(keyspace, &key, Some(value.as_bytes()));
            }
        }
        store.apply(batch, "").unwrap();
    }
    assert!(holds(folder.path(), b"goes 77 "));
    store.drop_keyspaces(&["goes"], Some("")).unwrap();
    assert_eq!(store.keyspace("goes"), None);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while holds(folder.path(), b"goes 77 ") {
        assert!(std::time::Instant::now() < deadline, "it is still there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let again = store.ensure_keyspace("goes");
    assert_eq!(
        store.get(again, &0u32.to_be_bytes(), <[u8]>::len).unwrap(),
        None
    );
    let stays = store.keyspace("stays").unwrap();
    let mut count = 0;
    let visit = store.visit_after(stays, None, |_, _| {
        count += 1;
        Ok::<_, Error>(true)
    });
    visit.unwrap();
    assert_eq!(count, 60_000);
}

/// Returns the files of a folder whose names begin so, and their sizes.
fn files(folder: &Path, prefix: &str) -> Vec<(std::path::PathBuf, u64)> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let named = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(prefix)
    });
    let sized = named.map(|entry| (entry.path(), entry.metadata().map_or(0, |data| data.len())));
    sized.collect()
}

#[test]
fn the_journal_stays_small_however_often_the_same_few_keys_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let value = vec![7; 1_000];
    for round in 0..60_000u32 {
        let keyspace = store.ensure_keyspace("hot");
        let mut batch = Batch::default();
        batch.put(keyspace, &(round % 10).to_be_bytes(), Some(&value));
        store.apply(batch, "").unwrap();
        if round % 9_000 == 0 {
            drop(store);
            store = Store::open(folder.path()).unwrap();
        }
    }
    let journals = files(folder.path(), "journal-");
    let bytes: u64 = journals.iter().map(|(_, bytes)| bytes).sum();
    assert!(
        bytes < 40 << 20,
        "{bytes} bytes in {} journals",
        journals.len()
    );
}

#[test]
fn many_stores_together_keep_little_more_in_memory_than_one() {
    // What is in memory is in journals, which end with it.
    let folders: Vec<_> = (0..60).map(|_| tempfile::tempdir().unwrap()).collect();
    let stores = folders
        .iter()
        .map(|folder| Store::open(folder.path()).unwrap());
    let stores: Vec<Store> = stores.collect();
    for round in 0..30u32 {
        for store in &stores {
            let keyspace = store.ensure_keyspace("a");
            let mut batch = Batch::default();
            batch.put(keyspace, &round.to_be_bytes(), Some(&[7; 120_000]));
            store.apply(batch, "").unwrap();
        }
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let of_store = |folder: &tempfile::TempDir| files(folder.path(), "journal-");
        let journals = folders.iter().flat_map(of_store);
        let bytes: u64 = journals.map(|(_, bytes)| bytes).sum();
        // Other tests of this process keep something as well.
        if bytes < 64 * 1024 * 1024 + 60 * 512 * 1024 {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{bytes} bytes of {}",
            60 * 30 * 120_000
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_run_that_nobody_reads_and_a_merge_finds_broken_is_no_obstacle_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let write = |store: &Store, number: u32| {
        let keyspace = store.ensure_keyspace("a");
        let mut batch = Batch::default();
        batch.put(keyspace, &number.to_be_bytes(), Some(&[7; 50_000]));
        store.apply(batch, &number.to_string())
    };
    let store = Store::open(folder.path()).unwrap();
    let mut number = 0;
    while files(folder.path(), "run-").len() < 3 {
        number += 1;
        write(&store, number).unwrap();
    }
    drop(store);
    let (run, _) = files(folder.path(), "run-").remove(0);
    let mut bytes = fs::read(&run).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&run, bytes).unwrap();

    let store = Store::open(folder.path()).unwrap();
    let failed = (0..100_000).find_map(|_| {
        number += 1;
        write(&store, number).err()
    });
    let failed = failed.expect("runs were merged");
    assert!(matches!(failed, Error::Failed(_)), "{failed}");
    assert!(
        failed.to_string().contains("is not what was written"),
        "{failed}"
    );
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.meta(), None, "it is begun anew");
    write(&store, 1).unwrap();
}

fn holds(folder: &Path, text: &[u8]) -> bool {
    let entries = fs::read_dir(folder).expect("the folder is there");
    // A file may go while it is looked at.
    let contents = entries
        .flatten()
        .filter_map(|entry| fs::read(entry.path()).ok());
    let mut contents = contents.into_iter();
    contents.any(|bytes| bytes.windows(text.len()).any(|part| part == text))
}

#[test]
fn a_store_that_is_open_elsewhere_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(folder.path()).unwrap();
    first.apply(Batch::default(), "3").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(Error::Locked)));
    drop(first);
    let again = Store::open(folder.path()).unwrap();
    assert_eq!(again.meta().as_deref(), Some("3"));
}

/// Where a child process finds what it shall do. It is this test itself.
const CHILD: &str = "HUTONG_STATE_STORE_CHILD";

#[test]
fn a_process_that_is_killed_loses_no_batch_and_leaves_no_half_of_one() {
    if let Ok(task) = std::env::var(CHILD) {
        let (seed, folder) = task.split_once(' ').unwrap();
        write_until_killed(seed.parse().unwrap(), Path::new(folder)).unwrap();
        return;
    }
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("a_process_that_is_killed_loses_no_batch_and_leaves_no_half_of_one")
            .env(CHILD, format!("{seed} {}", folder.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        let wanted = random.random_range(1..250);
        let mut steps = 0;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("done ") {
                said = number.parse().unwrap();
                steps += 1;
                if steps == wanted {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let found = dump(&store).unwrap();
        let reached: u64 = found.meta.as_ref().unwrap().parse().unwrap();
        assert!(reached >= said, "round {round}: {reached} of {said}");
        assert_eq!(
            found,
            Model::after(seed, reached),
            "round {round}, {reached}"
        );
    }
}

fn write_until_killed(seed: u64, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(folder)?;
    let reached = store.meta().map_or(Ok(0), |meta| meta.parse::<u64>())?;
    let mut out = std::io::stdout().lock();
    for number in reached + 1.. {
        take(&store, number, &step(seed, number))?;
        writeln!(out, "done {number}")?;
    }
    Ok(())
}

#[test]
fn whatever_a_crash_of_the_machine_leaves_what_is_read_was_once_so() {
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for number in 1..=400 {
        take(&store, number, &step(seed, number)).unwrap();
    }
    drop(store);
    let files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "lock")
        .collect();
    let (mut as_before, mut earlier, mut anew) = (0, 0, 0);
    for _ in 0..150 {
        let damaged = tempfile::tempdir().unwrap();
        for name in &files {
            fs::copy(folder.path().join(name), damaged.path().join(name)).unwrap();
        }
        let name = &files[random.random_range(0..files.len())];
        let path = damaged.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        match random.random_range(0..4) {
            0 => fs::remove_file(&path).unwrap(),
            1 => {
                bytes.truncate(random.random_range(0..=bytes.len()));
                fs::write(&path, &bytes).unwrap();
            }
            2 => {
                // A page that was never written.
                let at = random.random_range(0..=bytes.len()) / 4096 * 4096;
                let end = bytes.len().min(at + 4096);
                bytes[at..end].fill(0);
                fs::write(&path, &bytes).unwrap();
            }
            _ => {
                if let Some(last) = bytes.len().checked_sub(1) {
                    bytes[random.random_range(0..=last)] ^= 1 << random.random_range(0..8);
                }
                fs::write(&path, &bytes).unwrap();
            }
        }
        let store = Store::open(damaged.path()).unwrap();
        let found = match dump(&store) {
            Ok(found) => found,
            Err(error) => {
                assert!(matches!(error, Error::Broken { .. }), "{error}");
                assert!(
                    store.apply(Batch::default(), "x").is_err(),
                    "nothing more is taken"
                );
                drop(store);
                dump(&Store::open(damaged.path()).unwrap()).unwrap()
            }
        };
        let reached = found.meta.as_ref().map_or(0, |meta| meta.parse().unwrap());
        assert_eq!(found, Model::after(seed, reached), "{name:?}");
        match reached {
            400 => as_before += 1,
            0 => anew += 1,
            _ => earlier += 1,
        }
    }
    eprintln!("{as_before} as before, {earlier} as it was earlier, {anew} anew");
    assert!(anew > 0 && earlier > 0);
}
