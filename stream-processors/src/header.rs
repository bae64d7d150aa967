//! The header `hutong` of view records: where a record comes from.

use std::fmt::Write;

use hutong_schemas::envelope::SnapshotMark;
use hutong_schemas::event_decoder::EventHead;

/// Replaces `out` by the header for a change, or for what no source commit caused (`None`, and
/// snapshots): `v1 tx=<txid> lsn=<change LSN> ts_us=<source commit> policy=<version>`.
pub(crate) fn write(head: Option<&EventHead>, policy: u64, out: &mut String) {
    out.clear();
    out.push_str("v1");
    let infallible = "writing to a string cannot fail";
    if let Some(head) = head.filter(|head| head.snapshot == SnapshotMark::False) {
        if let Some(tx) = head.tx_id {
            write!(out, " tx={tx}").expect(infallible);
        }
        if let Some(lsn) = head.lsn {
            write!(out, " lsn={lsn}").expect(infallible);
        }
        if let Some(ts) = head.ts_us {
            write!(out, " ts_us={ts}").expect(infallible);
        }
    }
    write!(out, " policy={policy}").expect(infallible);
}
