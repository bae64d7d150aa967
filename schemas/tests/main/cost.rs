//! What a row costs, so that a plan that allocates or copies by accident is noticed. The bound is
//! far above what is measured (`--nocapture` shows it), because test machines are busy.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::{EventEncoder, EventSource, Op, SnapshotMark, event_schemas};
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::{Lsn, SchemaId};

use crate::tables::{number, table};

const ROWS: u32 = 20_000;

fn best_of_5(mut run: impl FnMut()) -> Duration {
    let times = (0..5).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed() / ROWS
    });
    times.min().unwrap_or_default()
}

#[test]
fn a_row_is_written_and_read_within_microseconds() {
    let table = table(
        "s.t",
        &["id"],
        &[
            "id bigint !",
            "a integer !",
            "b text !",
            "c text",
            "d numeric(18,4)",
            "e date",
            "f boolean !",
            "g smallint",
            "h timestamp(6) without time zone",
            "i timestamp(3) with time zone !",
        ],
    );
    let id = SchemaId(1);
    let encoder = EventEncoder::compile("p", "db", &table, Some(id), id).unwrap();
    let schema = event_schemas("p.s.t", &table).unwrap().value;
    let decoder = EventDecoder::compile(&schema).unwrap();
    let row = [
        Cell::Int(123_456_789),
        Cell::Int(42),
        Cell::Text("潍坊晨光食品有限公司"),
        Cell::Text("370705200000013"),
        number(&[1, 2, 3, 4], 4),
        Cell::Int(18_000),
        Cell::Bool(true),
        Cell::Null,
        Cell::Int(1_600_000_000_123_456),
        Cell::Int(1_600_000_000_123_000),
    ];
    let source = EventSource {
        ts_us: 1_600_000_000_123_456,
        snapshot: SnapshotMark::False,
        tx_id: Some(123_456),
        lsn: Some(Lsn(123_456_789_000)),
        last_commit_lsn: Some(Lsn(123_456_788_000)),
        now_us: 1_600_000_000_999_999,
    };
    let mut out = Vec::with_capacity(1 << 20);
    let writing = best_of_5(|| {
        for _ in 0..ROWS {
            if out.len() > 1 << 19 {
                out.clear();
            }
            let row = black_box(&row);
            let written = encoder.event(Op::Create, None, Some(row), &source, &mut out);
            written.unwrap();
        }
    });
    assert_eq!(out.capacity(), 1 << 20, "the buffer is reused");

    out.clear();
    let written = encoder.event(Op::Create, None, Some(&row), &source, &mut out);
    written.unwrap();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let reading = best_of_5(|| {
        for _ in 0..ROWS {
            let head = decoder.decode(black_box(&out), &mut before, &mut after);
            black_box(head.unwrap());
        }
    });
    eprintln!(
        "{} bytes: {writing:?} to write, {reading:?} to read",
        out.len()
    );
    assert!(writing < Duration::from_micros(5), "{writing:?}");
    assert!(reading < Duration::from_micros(5), "{reading:?}");
}
