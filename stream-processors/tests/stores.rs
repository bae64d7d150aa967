//! The store on disk is the store in memory.

use std::sync::Arc;

use hutong_stream_processors::store::{Member, Members, Store, StoreBatch, StorePosition, ViewId};
use hutong_stream_processors::{DiskStore, MemoryStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn position(seq: u64) -> StorePosition {
    StorePosition {
        v: 1,
        topic_id: "a".into(),
        next_offset: 7,
        seq,
        read_up_to_ms: 1,
        rows: None,
    }
}

type Dump = (
    Option<StorePosition>,
    Vec<(Vec<u8>, Vec<u8>)>,
    Vec<(ViewId, Vec<u8>, Member)>,
);

fn dump(store: &impl Store) -> Dump {
    let (mut rows, mut members) = (Vec::new(), Vec::new());
    store
        .rows_after(None, &mut |key, row| {
            assert_eq!(store.row(key).unwrap().as_deref(), Some(row));
            rows.push((key.to_vec(), row.to_vec()));
            Ok(true)
        })
        .unwrap();
    assert_eq!(
        store.count_rows().unwrap(),
        u64::try_from(rows.len()).unwrap()
    );
    for view in store.views().unwrap() {
        store
            .members_after(&view, None, &mut |key, member| {
                assert_eq!(store.member(&view, key).unwrap(), Some(member));
                members.push((view.clone(), key.to_vec(), member));
                Ok(true)
            })
            .unwrap();
    }
    (store.position().unwrap(), rows, members)
}

#[test]
fn the_store_on_disk_is_the_store_in_memory_and_survives_being_closed() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let mut disk = DiskStore::open(folder.path()).unwrap();
    let mut memory = MemoryStore::default();
    let views = [
        ViewId::new("a", 1),
        ViewId::new("a", 255),
        ViewId::new("a", 256),
        ViewId::new("ab", 1),
        ViewId::new("b", u32::MAX),
    ];
    for seq in 1..200 {
        let mut key = || vec![rng.random_range(0..3u8); rng.random_range(1..4)];
        let key = key();
        // Some fill what the store keeps in memory.
        let length = if rng.random_bool(0.2) { 400_000 } else { 3 };
        // As every message does, a row begins with a zero.
        let row = rng
            .random_bool(0.7)
            .then(|| [vec![0], vec![rng.random(); length]].concat());
        let rows = vec![(key.clone(), row)];
        let view = views[rng.random_range(0..views.len())].clone();
        let member = rng.random_bool(0.7).then(|| Member {
            digest: rng.random(),
            mark: rng.random(),
        });
        let batch = || StoreBatch {
            rows: rows.clone(),
            members: vec![(
                view.clone(),
                Arc::new(Members::from_iter([(key.clone(), member)])),
            )],
        };
        disk.apply(&batch(), &position(seq)).unwrap();
        memory.apply(&batch(), &position(seq)).unwrap();
        if rng.random_bool(0.05) {
            disk.clear_members(&view).unwrap();
            memory.clear_members(&view).unwrap();
        }
        if rng.random_bool(0.03) {
            disk.clear_rows().unwrap();
            memory.clear_rows().unwrap();
        }
        if rng.random_bool(0.05) {
            drop(disk);
            disk = DiskStore::open(folder.path()).unwrap();
        }
        assert_eq!(dump(&disk), dump(&memory), "after {seq}");
        let after = |store: &dyn Store| {
            let mut keys = Vec::new();
            let mut look = |key: &[u8], _: Member| {
                keys.push(key.to_vec());
                Ok(keys.len() < 2)
            };
            store.members_after(&view, Some(&[1]), &mut look).unwrap();
            keys
        };
        assert_eq!(after(&disk), after(&memory));
    }
}

#[test]
fn a_store_that_is_open_elsewhere_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = DiskStore::open(folder.path()).unwrap();
    first.apply(&StoreBatch::default(), &position(3)).unwrap();
    assert!(DiskStore::open(folder.path()).is_err());
    drop(first);
    let again = DiskStore::open(folder.path()).unwrap();
    assert_eq!(again.position().unwrap(), Some(position(3)));
}
