//! The header `hutong` of view records: where a record comes from.

use hutong_schemas::digits::{self, digits};
use hutong_schemas::envelope::SnapshotMark;
use hutong_schemas::event_decoder::EventHead;
use hutong_schemas::position::Lsn;

/// Replaces `out` by the header for a change, or for what no source commit caused (`None`, and
/// snapshots): `v1 tx=<txid> lsn=<change LSN> ts_us=<source commit> policy=<version>`.
pub(crate) fn write(head: Option<&EventHead>, policy: u64, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"v1");
    if let Some(head) = head.filter(|head| head.snapshot == SnapshotMark::False) {
        if let Some(tx) = head.tx_id {
            out.extend_from_slice(b" tx=");
            signed(tx, out);
        }
        if let Some(lsn) = head.lsn {
            out.extend_from_slice(b" lsn=");
            place(lsn, out);
        }
        if let Some(ts) = head.ts_us {
            out.extend_from_slice(b" ts_us=");
            signed(ts, out);
        }
    }
    out.extend_from_slice(b" policy=");
    put::<10>(policy, out);
}

/// As PostgreSQL prints it: `16/B374D848`.
fn place(lsn: Lsn, out: &mut Vec<u8>) {
    put::<16>(lsn.0 >> 32, out);
    out.push(b'/');
    put::<16>(lsn.0 & 0xFFFF_FFFF, out);
}

fn signed(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    put::<10>(number.unsigned_abs(), out);
}

fn put<const BASE: u64>(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(digits::<BASE>(number, &mut digits::Buffer::default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 9, 10, 15, 16, 0x16B3_74D8_48FF_0000, u64::MAX] {
            let (mut decimal, mut lsn) = (Vec::new(), Vec::new());
            put::<10>(number, &mut decimal);
            place(Lsn(number), &mut lsn);
            assert_eq!(decimal, number.to_string().into_bytes());
            assert_eq!(lsn, Lsn(number).to_string().into_bytes());
        }
        let mut least = Vec::new();
        signed(i64::MIN, &mut least);
        assert_eq!(least, i64::MIN.to_string().into_bytes());
    }
}
