//! Cases by name: the table of what a change delivers, suspension, revocation, expiry.

use std::collections::BTreeMap;

use hutong_policies::{ViewState, ViewTask};
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::{Class, Classified};
use hutong_stream_processors::position::Progress;
use hutong_stream_processors::{Limits, MemoryStore, Processor};

use crate::world::{
    Kafka, Row, SECRET, Table, adopt, apply, difference, generation, settle, start, view,
};

const NOW: i64 = 1_000;

struct Scene {
    table: Table,
    kafka: Kafka,
    tasks: Vec<ViewTask>,
    processor: Processor<MemoryStore>,
}

impl Scene {
    fn new(tasks: Vec<ViewTask>) -> Self {
        let (table, kafka) = (Table::new(), Kafka::default());
        let processor = start(MemoryStore::default(), &kafka, &table, &tasks, NOW);
        Self {
            table,
            kafka,
            tasks,
            processor,
        }
    }

    fn settle(&mut self) {
        settle(&mut self.processor, &mut self.kafka, &self.table, NOW);
    }

    /// Settles, and returns what was written to the first view since the last time.
    fn delivered(&mut self) -> Vec<String> {
        let topic = self.tasks[0].topic.clone();
        let before = self.kafka.outputs.get(&topic).map_or(0, Vec::len);
        self.settle();
        let records = self
            .kafka
            .outputs
            .get(&topic)
            .map_or(&[][..], |records| &records[before..]);
        let kind = |value: &Option<Vec<u8>>| if value.is_some() { "upsert" } else { "delete" };
        records
            .iter()
            .map(|record| kind(&record.value).to_owned())
            .collect()
    }

    fn rows(&self, view: usize) -> usize {
        self.kafka.rows(&self.tasks[view]).len()
    }

    fn progress(&self, view: usize) -> &Progress {
        &self.processor.views()[view].position().progress
    }

    fn adopt(&mut self) {
        let tasks = self.tasks.clone();
        adopt(
            &mut self.processor,
            &self.kafka,
            &self.table,
            &tasks,
            &std::collections::BTreeMap::new(),
        );
    }
}

fn s03() -> ViewTask {
    view(
        "s03",
        1,
        &[("name", None), ("id", Some("SHOW_LAST 1"))],
        Some("region = '370705'"),
    )
}

fn row(id: i64, region: &str) -> Row {
    Row {
        id,
        region: (!region.is_empty()).then(|| region.to_owned()),
        name: Some("n".into()),
        amount: 1,
        phone: "13800000000".into(),
    }
}

#[test]
fn each_change_delivers_what_the_table_of_changes_says() {
    let mut scene = Scene::new(vec![s03()]);
    let delivers = |scene: &mut Scene, change: &dyn Fn(&mut Table), expected: &[&str]| {
        scene.table.begin();
        change(&mut scene.table);
        assert_eq!(scene.delivered(), expected);
    };
    delivers(
        &mut scene,
        &|table| table.upsert(row(12, "370705")),
        &["upsert"],
    );
    delivers(&mut scene, &|table| table.upsert(row(13, "370702")), &[]);
    delivers(
        &mut scene,
        &|table| {
            table.upsert(Row {
                phone: "139".into(),
                ..row(12, "370705")
            })
        },
        &[],
    );
    delivers(
        &mut scene,
        &|table| {
            table.upsert(Row {
                name: Some("m".into()),
                ..row(12, "370705")
            })
        },
        &["upsert"],
    );
    delivers(
        &mut scene,
        &|table| table.upsert(row(12, "370702")),
        &["delete"],
    );
    delivers(
        &mut scene,
        &|table| table.upsert(row(12, "370705")),
        &["upsert"],
    );
    delivers(&mut scene, &|table| table.upsert(row(12, "")), &["delete"]);
    delivers(&mut scene, &|table| table.delete(12), &[]);
    delivers(
        &mut scene,
        &|table| table.upsert(row(13, "370705")),
        &["upsert"],
    );
    delivers(&mut scene, &|table| table.delete(13), &["delete"]);
}

#[test]
fn a_header_says_where_a_record_comes_from() {
    let mut scene = Scene::new(vec![s03()]);
    scene.table.begin();
    scene.table.upsert(row(1, "370705"));
    scene.settle();
    let header = |scene: &Scene, view: usize| {
        scene.kafka.outputs[&scene.tasks[view].topic][0]
            .header
            .clone()
    };
    assert_eq!(
        header(&scene, 0),
        "v1 tx=101 lsn=0/6500 ts_us=1700000000000101 policy=1"
    );
    scene.tasks.push(view("later", 4, &[("id", None)], None));
    scene.adopt();
    scene.settle();
    assert_eq!(header(&scene, 1), "v1 policy=4");
}

#[test]
fn nothing_is_upserted_from_a_value_that_is_unavailable() {
    let mut scene = Scene::new(vec![s03(), view("keys", 1, &[("id", None)], None)]);
    scene.table.begin();
    scene.table.upsert(row(1, "370705"));
    scene.table.upsert(row(2, "370702"));
    scene.settle();
    scene.table.upsert_without_name(&row(1, "370705"));
    scene.table.upsert_without_name(&row(2, "370705"));
    assert_eq!(scene.delivered(), [""; 0]);
    assert_eq!((scene.rows(0), scene.rows(1)), (1, 2));
    // The condition can be decided without the name, and the row leaves.
    scene.table.upsert_without_name(&row(1, "370702"));
    assert_eq!(scene.delivered(), ["delete"]);
    // A view that comes later sees them as unavailable too.
    scene
        .tasks
        .push(view("names", 2, &[("id", None), ("name", None)], None));
    scene.adopt();
    scene.settle();
    assert_eq!(scene.rows(2), 0);
    assert_eq!(scene.progress(2), &Progress::Live);
}

#[test]
fn a_revoked_view_is_written_no_more_and_the_others_go_on() {
    let mut scene = Scene::new(vec![s03(), view("keys", 1, &[("id", None)], None)]);
    scene.table.upsert(row(1, "370705"));
    scene.settle();
    scene.tasks[0].state = ViewState::Revoked;
    scene.tasks[0].version = 2;
    scene.adopt();
    scene.table.upsert(row(2, "370705"));
    scene.table.delete(1);
    assert_eq!(scene.delivered(), [""; 0]);
    assert_eq!(scene.progress(0), &Progress::Revoked);
    assert_eq!(scene.kafka.views["s03"].progress, Progress::Revoked);
    assert_eq!(scene.kafka.views["s03"].version, 2);
    assert_eq!(scene.rows(1), 1);
    scene.tasks.remove(0);
    scene.adopt();
    scene.settle();
    assert!(!scene.kafka.views.contains_key("s03"));
}

#[test]
fn an_expired_view_is_emptied_in_parts_and_stays_empty() {
    let mut scene = Scene::new(vec![view("all", 1, &[("id", None)], None)]);
    scene.tasks[0].valid_until_ms = Some(NOW + 1);
    scene.adopt();
    for id in 0..50 {
        scene.table.upsert(row(id, ""));
    }
    scene.settle();
    assert_eq!(scene.rows(0), 50);
    settle(
        &mut scene.processor,
        &mut scene.kafka,
        &scene.table,
        NOW + 1,
    );
    assert_eq!(scene.rows(0), 0);
    assert_eq!(scene.progress(0), &Progress::Expired);
    scene.table.upsert(row(60, ""));
    settle(
        &mut scene.processor,
        &mut scene.kafka,
        &scene.table,
        NOW + 2,
    );
    assert_eq!(scene.rows(0), 0);
}

#[test]
fn a_store_of_another_life_of_the_processor_is_not_taken_for_its_own() {
    // Two lives over the same table with as many commits, of which the second one was at another worker.
    let live = |name: &str, now_ms: i64| {
        let tasks = vec![view(name, 1, &[("id", None)], None)];
        let (mut table, mut kafka) = (Table::new(), Kafka::default());
        let mut processor = start(MemoryStore::default(), &kafka, &table, &tasks, now_ms);
        table.upsert(row(1, ""));
        settle(&mut processor, &mut kafka, &table, now_ms);
        assert_eq!(kafka.rows(&tasks[0]).len(), 1);
        (tasks, table, kafka, processor.into_store())
    };
    let (_, _, _, stale) = live("first", NOW);
    let (tasks, mut table, mut kafka, _) = live("second", NOW + 1);
    let mut processor = start(stale, &kafka, &table, &tasks, NOW + 2);
    table.delete(1);
    settle(&mut processor, &mut kafka, &table, NOW + 2);
    assert_eq!(kafka.rows(&tasks[0]).len(), 0, "the row stayed");
}

#[test]
fn what_a_store_saw_of_a_view_before_it_expired_elsewhere_is_forgotten() {
    let mut scene = Scene::new(vec![view("all", 1, &[("id", None)], None)]);
    scene.table.upsert(row(1, ""));
    scene.settle();
    let stale = scene.processor.store().clone();
    // It expires at another worker, and begins anew here.
    scene.tasks[0].valid_until_ms = Some(NOW + 10);
    scene.tasks[0].version = 2;
    scene.processor = start(
        scene.processor.store().clone(),
        &scene.kafka,
        &scene.table,
        &scene.tasks,
        NOW + 1,
    );
    settle(
        &mut scene.processor,
        &mut scene.kafka,
        &scene.table,
        NOW + 20,
    );
    assert_eq!((scene.rows(0), scene.progress(0)), (0, &Progress::Expired));
    scene.processor = start(stale, &scene.kafka, &scene.table, &scene.tasks, NOW + 21);
    let prolonged = ViewTask {
        version: 3,
        valid_until_ms: None,
        ..scene.tasks[0].clone()
    };
    adopt(
        &mut scene.processor,
        &scene.kafka,
        &scene.table,
        std::slice::from_ref(&prolonged),
        &BTreeMap::new(),
    );
    settle(
        &mut scene.processor,
        &mut scene.kafka,
        &scene.table,
        NOW + 22,
    );
    assert_eq!((scene.rows(0), scene.progress(0)), (1, &Progress::Live));
}

#[test]
fn a_view_begins_when_its_validity_does() {
    let mut scene = Scene::new(vec![view("all", 1, &[("id", None)], None)]);
    scene.tasks[0].document.valid_from = Some("1970-01-01T00:00:02Z".into());
    scene.processor = start(
        MemoryStore::default(),
        &scene.kafka,
        &scene.table,
        &scene.tasks,
        NOW,
    );
    scene.table.upsert(row(1, ""));
    scene.settle();
    assert_eq!((scene.rows(0), scene.progress(0)), (0, &Progress::Pending));
    settle(&mut scene.processor, &mut scene.kafka, &scene.table, 2_000);
    assert_eq!((scene.rows(0), scene.progress(0)), (1, &Progress::Live));
}

#[derive(Debug, thiserror::Error)]
#[error("a record is too large")]
struct TooLarge;

impl Classified for TooLarge {
    fn class(&self) -> Class {
        Class::Definite
    }
}

#[test]
fn a_view_whose_output_is_refused_stops_alone_and_comes_back_by_the_difference() {
    let mut scene = Scene::new(vec![s03(), view("keys", 1, &[("id", None)], None)]);
    scene.table.upsert(row(1, "370705"));
    scene.table.upsert(row(2, "370705"));
    scene.settle();
    scene.table.upsert(row(3, "370705"));
    let mut out = RecordBatch::default();
    apply(&mut scene.processor, &scene.table, 10, &mut out);
    scene.processor.aborted();
    assert!(scene.processor.refuse(&scene.tasks[0].topic, &TooLarge));
    assert_eq!(scene.delivered(), [""; 0]);
    assert_eq!((scene.rows(0), scene.rows(1)), (2, 3));
    assert!(
        matches!(&scene.kafka.views["s03"].progress, Progress::Suspended { error, .. } if error == "a record is too large")
    );
    scene.table.delete(1);
    scene.settle();
    scene.processor.resume_refused().unwrap();
    let mut delivered = scene.delivered();
    delivered.sort();
    assert_eq!(delivered, ["delete", "upsert"]);
    assert_eq!((scene.rows(0), scene.rows(1)), (2, 2));
    assert_eq!(scene.progress(0), &Progress::Live);
}

#[test]
fn a_view_that_cannot_be_applied_stops_alone_with_a_reason_and_a_remedy() {
    let mut scene = Scene::new(vec![s03(), view("keys", 1, &[("id", None)], None)]);
    scene.processor = Processor::new(
        MemoryStore::default(),
        3,
        "table id",
        Some(b"another secret".repeat(2)),
        None,
        NOW,
        1,
    )
    .unwrap();
    scene.adopt();
    scene.table.upsert(row(1, "370705"));
    scene.settle();
    assert_eq!((scene.rows(0), scene.rows(1)), (0, 1));
    let Progress::Suspended { class, error, hint } = scene.progress(0) else {
        panic!("{:?}", scene.progress(0));
    };
    assert_eq!(*class, Class::Definite);
    assert!(error.contains("was made with the master secret"), "{error}");
    assert!(!error.contains("another secret"));
    assert!(hint.as_ref().unwrap().contains("master_secret"));
    assert_ne!(SECRET, b"another secret".repeat(2));
}

#[test]
fn nothing_ungranted_is_written() {
    let mut scene = Scene::new(vec![s03()]);
    for id in 0..20 {
        scene.table.begin();
        scene.table.upsert(Row {
            phone: format!("MARKER{id}"),
            ..row(
                1_000_000 + id,
                if id % 2 == 0 { "370705" } else { "SECRET" },
            )
        });
        scene.settle();
        scene.table.upsert(Row {
            phone: format!("MARKER{id}"),
            ..row(1_000_000 + id, "SECRET")
        });
        scene.settle();
    }
    let records = &scene.kafka.outputs[&scene.tasks[0].topic];
    assert_eq!(records.len(), 20);
    for record in records {
        let all = [
            &record.key[..],
            record.value.as_deref().unwrap_or_default(),
            record.header.as_bytes(),
        ]
        .concat();
        let text = String::from_utf8_lossy(&all);
        assert!(
            !text.contains("MARKER") && !text.contains("SECRET") && !text.contains("10000"),
            "{text}"
        );
    }
}

impl Scene {
    /// Lets a batch without input commit at a time.
    fn commit_at(&mut self, now_ms: i64) -> usize {
        self.processor.tick(now_ms, now_ms).unwrap();
        let mut out = RecordBatch::default();
        let limits = Limits {
            bytes_max: usize::MAX,
            looks_max: u64::MAX,
        };
        difference(&mut self.processor, &mut out, limits);
        self.commit(&out, now_ms)
    }

    fn commit(&mut self, out: &RecordBatch, now_ms: i64) -> usize {
        let next = self.processor.position().next_offset;
        let positions = self.processor.positions(next, now_ms);
        self.kafka.commit(out, positions);
        self.processor.committed().unwrap();
        out.records.len()
    }

    fn restart(&mut self) {
        let table = Table::new();
        let old = start(MemoryStore::default(), &Kafka::default(), &table, &[], NOW);
        let store = std::mem::replace(&mut self.processor, old).into_store();
        self.processor = start(store, &self.kafka, &self.table, &self.tasks, NOW);
    }
}

fn filled(tasks: Vec<ViewTask>) -> Scene {
    let mut scene = Scene::new(tasks);
    scene.table.begin();
    for id in 0..20 {
        scene.table.upsert(row(id, "370705"));
    }
    scene.settle();
    scene
}

#[test]
fn another_generation_is_filled_from_the_state_and_the_closed_one_is_left_alone() {
    let mut scene = filled(vec![s03()]);
    let before = scene.kafka.outputs["hutong.view.s03.g1"].len();
    let narrowed = view("s03", 2, &[("name", None)], Some("region = '370705'"));
    scene.tasks[0] = generation(narrowed, 2);
    scene.adopt();
    scene.table.begin();
    scene.table.upsert(row(20, "370705"));
    scene.settle();
    assert_eq!(scene.kafka.outputs["hutong.view.s03.g1"].len(), before);
    assert_eq!(scene.rows(0), 21);
    let position = scene.processor.views()[0].position();
    assert_eq!((position.generation, position.version), (2, 2));
}

#[test]
fn where_a_generation_was_filled_is_committed_and_survives_a_restart() {
    let mut scene = filled(vec![s03()]);
    assert_eq!(scene.processor.fills_ended(), [0]);
    scene.processor.set_fill_end(0, 42);
    assert!(scene.processor.has_changes());
    scene.commit_at(NOW);
    assert!(scene.processor.fills_ended().is_empty());
    scene.restart();
    assert_eq!(scene.processor.views()[0].position().fill_end, Some(42));
    // A change in place keeps it, another generation has its own.
    scene.tasks[0].version = 2;
    scene.adopt();
    scene.settle();
    assert_eq!(scene.processor.views()[0].position().fill_end, Some(42));
    scene.tasks[0] = generation(scene.tasks[0].clone(), 2);
    scene.tasks[0].version = 3;
    scene.adopt();
    assert!(scene.processor.fills_ended().is_empty());
    scene.settle();
    assert_eq!(scene.processor.fills_ended(), [0]);
}

#[test]
fn validity_may_begin_later_and_end_earlier_while_a_view_lives() {
    let mut scene = filled(vec![s03()]);
    assert_eq!(scene.rows(0), 20);
    // 2033-05-18T03:33:20Z is 2,000,000,000 s since 1970.
    scene.tasks[0].document.valid_from = Some("2033-05-18T03:33:20Z".to_owned());
    scene.tasks[0].version = 2;
    scene.adopt();
    scene.settle();
    assert_eq!(scene.rows(0), 0, "what begins later is not there now");
    assert_eq!(*scene.progress(0), Progress::Pending);
    let begins = 2_000_000_000_000;
    // A clock ahead of the other does not begin it.
    scene.processor.tick(begins - 1, begins + 1).unwrap();
    assert_eq!(*scene.progress(0), Progress::Pending);
    scene.commit_at(begins);
    scene.commit_at(begins);
    assert_eq!(scene.rows(0), 20);
    scene.tasks[0].valid_until_ms = Some(begins + 10);
    scene.tasks[0].version = 3;
    scene.adopt();
    scene.commit_at(begins + 9);
    assert_eq!(scene.rows(0), 20);
    scene.commit_at(begins + 10);
    scene.commit_at(begins + 10);
    assert_eq!(scene.rows(0), 0);
    assert_eq!(*scene.progress(0), Progress::Expired);
    // And a later end brings it back.
    scene.tasks[0].valid_until_ms = Some(begins + 1_000);
    scene.tasks[0].version = 4;
    scene.adopt();
    for _ in 0..3 {
        scene.commit_at(begins + 11);
    }
    assert_eq!(scene.rows(0), 20);
}

#[test]
fn a_suspended_view_expires_too() {
    let mut scene = filled(vec![s03()]);
    scene.tasks[0].secret_fingerprint = Some("another".to_owned());
    scene.tasks[0].valid_until_ms = Some(NOW + 100);
    scene.adopt();
    assert!(matches!(scene.progress(0), Progress::Suspended { .. }));
    scene.commit_at(NOW + 50);
    assert_eq!(
        scene.rows(0),
        20,
        "what it holds stays while it is suspended"
    );
    scene.commit_at(NOW + 100);
    assert_eq!(scene.rows(0), 0);
    assert_eq!(*scene.progress(0), Progress::Expired);
}

#[test]
fn another_secret_stops_a_view_at_once_and_the_first_one_brings_it_back() {
    let mut scene = filled(vec![s03(), view("clear", 1, &[("id", None)], None)]);
    let restart = |scene: &mut Scene, secret: &[u8]| {
        let store = MemoryStore::default();
        let mut processor = Processor::new(
            store,
            3,
            "table id",
            Some(secret.to_vec()),
            scene.kafka.position.clone(),
            NOW,
            1_000_000,
        )
        .unwrap();
        let positions = scene.kafka.views.clone();
        adopt(
            &mut processor,
            &scene.kafka,
            &scene.table,
            &scene.tasks,
            &positions,
        );
        scene.processor = processor;
    };
    // The task does not name the secret: the position does.
    scene.tasks[0].secret_fingerprint = None;
    restart(&mut scene, b"another secret, of sufficient length");
    let Progress::Suspended { class, error, .. } = scene.progress(0).clone() else {
        panic!("{:?}", scene.progress(0));
    };
    assert_eq!(class, Class::Definite);
    assert!(error.contains("master secret"), "{error}");
    scene.table.begin();
    scene.table.delete(3);
    scene.settle();
    assert_eq!(
        (scene.rows(0), scene.rows(1)),
        (20, 19),
        "the other goes on"
    );
    restart(&mut scene, SECRET);
    scene.settle();
    assert_eq!((scene.rows(0), scene.rows(1)), (19, 19));
}

#[test]
fn a_tombstone_is_followed_by_a_repeat_once_its_segment_could_end() {
    let mut scene = filled(vec![s03()]);
    let hour = 3_600_000;
    let due = hour + 5_000;
    scene.processor.set_segment_ms(hour);
    scene.processor.tick(NOW, NOW).unwrap();
    assert!(scene.processor.repeats_due().is_empty());
    scene.table.begin();
    scene.table.delete(7);
    scene.settle();
    scene.restart();
    scene.processor.set_segment_ms(hour);
    scene.processor.tick(NOW + due - 1, NOW + due - 1).unwrap();
    assert!(scene.processor.repeats_due().is_empty());
    scene.processor.tick(NOW + due, NOW + due).unwrap();
    assert_eq!(scene.processor.repeats_due(), [0]);
    let last = scene.kafka.outputs["hutong.view.s03.g1"]
        .last()
        .unwrap()
        .clone();
    let mut out = RecordBatch::default();
    let record = (last.key.as_slice(), last.value.as_deref());
    // An older record, which a reader that is behind takes for the last one: the row before its
    // deletion, and the deletion of a row that has come back.
    let older = scene.kafka.outputs["hutong.view.s03.g1"].iter().rev();
    let older = older.skip(1).find(|older| older.key == last.key).unwrap();
    let deleted = (older.key.as_slice(), older.value.as_deref());
    assert!(older.value.is_some());
    let repeated = scene.processor.repeat(0, Some(deleted), &mut out);
    assert!(!repeated.unwrap());
    let other = scene.kafka.outputs["hutong.view.s03.g1"].iter();
    let mut other = other.filter(|other| other.key != last.key);
    let living = (other.next().unwrap().key.as_slice(), None);
    assert!(!scene.processor.repeat(0, Some(living), &mut out).unwrap());
    assert!(out.records.is_empty());
    assert!(scene.processor.repeat(0, Some(record), &mut out).unwrap());
    let written = &out.records[0];
    assert_eq!(out.buffer[written.key.clone().unwrap()], last.key);
    assert_eq!(written.value, None, "the last record was the tombstone");
    assert_eq!(out.buffer[written.header.clone().unwrap()], *b"v1 policy=1");
    let next = scene.processor.position().next_offset;
    drop(scene.processor.positions(next, NOW));
    scene.processor.committed().unwrap();
    scene.processor.tick(NOW + 9 * due, NOW + 9 * due).unwrap();
    assert!(scene.processor.repeats_due().is_empty(), "once is enough");

    // Any record ends the segment as well.
    scene.table.begin();
    scene.table.delete(8);
    scene.settle();
    scene.processor.tick(NOW + due, NOW + due).unwrap();
    assert_eq!(scene.processor.repeats_due(), [0]);
    scene.table.begin();
    scene.table.upsert(row(9, "370702"));
    scene.table.upsert(row(10, "370705"));
    let mut out = RecordBatch::default();
    let next = apply(&mut scene.processor, &scene.table, usize::MAX, &mut out);
    let positions = scene.processor.positions(next, NOW);
    scene.kafka.commit(&out, positions);
    scene.processor.committed().unwrap();
    assert!(scene.processor.repeats_due().is_empty());

    // Another tombstone has its own hour: it may lie in a later segment than the first.
    for (key, at) in [(11, NOW), (12, NOW + hour)] {
        scene.processor.tick(at, at).unwrap();
        scene.table.begin();
        scene.table.delete(key);
        let mut out = RecordBatch::default();
        let next = apply(&mut scene.processor, &scene.table, usize::MAX, &mut out);
        assert!(out.records.iter().all(|record| record.value.is_none()));
        let positions = scene.processor.positions(next, NOW);
        scene.kafka.commit(&out, positions);
        scene.processor.committed().unwrap();
    }
    scene.processor.tick(NOW + due, NOW + due).unwrap();
    assert!(scene.processor.repeats_due().is_empty());
    scene
        .processor
        .tick(NOW + hour + due, NOW + hour + due)
        .unwrap();
    assert_eq!(scene.processor.repeats_due(), [0]);
}

#[test]
fn nothing_is_repeated_while_a_difference_goes_out() {
    let all = view("one", 1, &[("id", None)], None);
    let mut scene = filled(vec![all]);
    let hour = 3_600_000;
    let due = hour + 5_000;
    scene.processor.set_segment_ms(hour);
    scene.processor.tick(NOW, NOW).unwrap();
    scene.table.begin();
    scene.table.delete(7);
    scene.settle();
    scene.tasks = vec![view("one", 2, &[("id", None)], Some("id > 10"))];
    scene.adopt();
    scene.processor.tick(NOW + due, NOW + due).unwrap();
    assert!(scene.processor.has_difference());
    // The last record may be a row that the policy in force hides.
    assert!(scene.processor.repeats_due().is_empty());
    scene.settle();
    scene.processor.tick(NOW + 2 * due, NOW + 2 * due).unwrap();
    assert_eq!(scene.processor.repeats_due(), [0], "once it is through");
}

#[test]
fn views_that_come_together_are_filled_together() {
    let clear = |name: &str| view(name, 1, &[("id", None)], None);
    let mut scene = filled(vec![clear("one"), clear("two"), clear("three")]);
    for task in &mut scene.tasks {
        task.version = 2;
        task.document.columns[0].name = "amount".to_owned();
    }
    scene.tasks = ["one", "two", "three"]
        .map(|name| generation(view(name, 2, &[("amount", None)], None), 2))
        .to_vec();
    scene.adopt();
    scene.processor.tick(NOW, NOW).unwrap();
    for part in 0..6 {
        let mut out = RecordBatch::default();
        let limits = Limits {
            bytes_max: usize::MAX,
            looks_max: 5,
        };
        difference(&mut scene.processor, &mut out, limits);
        // Whole rows: two of them for each of the three.
        assert!(out.records.len() <= 6);
        // What they write alike is in the batch once, once it is known who they are, and counts for each.
        let ranges = out.records.iter().flat_map(|record| {
            let parts = [&record.key, &record.value, &record.header];
            parts.into_iter().flatten().map(ExactSizeIterator::len)
        });
        let bytes: usize = ranges.sum();
        assert_eq!(scene.processor.output_bytes(), bytes);
        assert!(part == 0 || out.buffer.len() * 3 == bytes);
        scene.commit(&out, NOW);
    }
    let filled: Vec<usize> = (0..3).map(|view| scene.rows(view)).collect();
    assert_eq!(filled, [12, 12, 12]);
}

#[test]
fn a_view_that_comes_later_catches_up_with_one_that_is_being_filled() {
    let amounts = |name: &str| generation(view(name, 2, &[("amount", None)], None), 2);
    let one = view("one", 1, &[("id", None)], None);
    let two = view("two", 1, &[("id", None)], None);
    let mut scene = filled(vec![one, two.clone()]);
    let part = |scene: &mut Scene| {
        let mut out = RecordBatch::default();
        let limits = Limits {
            bytes_max: usize::MAX,
            looks_max: 4,
        };
        difference(&mut scene.processor, &mut out, limits);
        scene.commit(&out, NOW);
        [scene.rows(0), scene.rows(1)]
    };
    scene.tasks = vec![amounts("one"), two];
    scene.adopt();
    scene.processor.tick(NOW, NOW).unwrap();
    assert_eq!(part(&mut scene), [4, 20]);
    scene.tasks = vec![amounts("one"), amounts("two")];
    scene.adopt();
    scene.processor.tick(NOW, NOW).unwrap();
    assert_eq!(part(&mut scene), [4, 4]);
    // Now together, two rows a part.
    assert_eq!(part(&mut scene), [6, 6]);
    assert_eq!(part(&mut scene), [8, 8]);
    let mut now = [0, 0];
    while scene.processor.has_difference() {
        now = part(&mut scene);
        assert_eq!(now[0], now[1]);
    }
    assert_eq!(now, [20, 20]);
}

#[test]
fn a_preview_counts_what_a_change_would_move() {
    use hutong_schemas::envelope::event_schemas;
    use hutong_stream_processors::preview::{Counted, Counts};
    let mut scene = filled(vec![s03()]);
    scene.table.begin();
    for id in 20..26 {
        scene.table.upsert(row(id, "370702"));
    }
    scene.settle();
    let then = view(
        "s03",
        2,
        &[("name", None)],
        Some("region = '370702' OR id < 4"),
    );
    let now = scene.tasks[0].clone();
    let mut preview = hutong_stream_processors::Preview::new(now, then, Some(SECRET.to_vec()));
    let counts = loop {
        match preview.advance(scene.processor.store(), 4).unwrap() {
            Counted::Done(counts) => break counts,
            Counted::More => {}
            Counted::Needs(id) => {
                let schemas = event_schemas(crate::world::TOPIC, &crate::world::table()).unwrap();
                preview.add_schema(id, &schemas.value).unwrap();
            }
        }
    };
    let expected = Counts {
        enter: 6,
        leave: 16,
        stay: 4,
    };
    assert_eq!(counts, expected);
}

#[test]
fn a_column_that_older_rows_lack_is_its_default_and_one_that_newer_rows_lack_stops_the_view() {
    let added = |schema: u32| {
        let mut task = view("s03", 1, &[("id", None)], None);
        let column = |name: &str, attnum: i16| {
            let mut column = task.table.columns[4].clone();
            (column.name, column.attnum, column.nullable) = (name.to_owned(), attnum, true);
            column
        };
        let (remark, mut grade) = (column("remark", 6), column("grade", 7));
        let default = hutong_schemas::table::DefaultValue(serde_json::json!("none"));
        (grade.default, grade.nullable) = (Some(default), false);
        task.table.columns.extend([remark, grade]);
        for name in ["remark", "grade"] {
            let granted = hutong_policies::document::Column {
                name: name.to_owned(),
                mask: None,
            };
            task.document.columns.push(granted);
        }
        task.document.where_ = Some("remark IS NULL AND grade = 'none'".to_owned());
        let plan = hutong_policies::compile(&task.document, &task.table).unwrap();
        task.value_schema = plan.value_schema();
        task.table_schema_id = Some(hutong_schemas::position::SchemaId(schema));
        task
    };
    // The rows of the test are of schema 2.
    let scene = filled(vec![added(3)]);
    let rows: Vec<_> = scene.kafka.rows(&scene.tasks[0]).into_values().collect();
    assert_eq!(rows.len(), 20);
    assert_eq!(rows[0], ["0", "NULL", "none"]);
    let scene = filled(vec![added(2)]);
    assert!(matches!(scene.progress(0), Progress::Suspended { .. }));
}
