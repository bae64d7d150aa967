//! Cases by name: the table of what a change delivers, suspension, revocation, expiry.

use hutong_policies::{ViewState, ViewTask};
use hutong_schemas::batch::RecordBatch;
use hutong_schemas::class::{Class, Classified};
use hutong_stream_processors::position::Progress;
use hutong_stream_processors::{MemoryStore, Processor};

use crate::world::{Kafka, Row, SECRET, Table, adopt, apply, settle, start, view};

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
