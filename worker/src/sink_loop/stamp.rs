//! Where a record comes from: which source transaction, committed when.

use hutong_schemas::class::Class;

use crate::task::TaskError;

/// What a record says about the source's transaction that caused it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// The transaction; `None` if none caused the record (snapshot, fill, sweep).
    pub(super) tx: Option<i64>,
    /// When it was committed, in microseconds since 1970.
    pub(super) ts_us: Option<i64>,
}

impl Stamp {
    /// Reads the header `hutong` of a view's record: `v1 tx=… lsn=… ts_us=… policy=…`.
    pub(super) fn of_header(header: &[u8]) -> Result<Self, TaskError> {
        let text = String::from_utf8_lossy(header);
        let mut parts = text.split(' ');
        let version = parts.next().unwrap_or_default();
        if version != "v1" {
            let message =
                format!("header hutong has version {version}, but this release reads up to v1");
            return Err(TaskError::new(Class::Definite, message).with_hint("upgrade this process"));
        }
        let mut stamp = Self::default();
        for part in parts {
            match part.split_once('=') {
                Some(("tx", value)) => stamp.tx = value.parse().ok(),
                Some(("ts_us", value)) => stamp.ts_us = value.parse().ok(),
                _ => {}
            }
        }
        Ok(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    #[test]
    fn the_header_says_which_transaction_caused_a_record() {
        let stamp = Stamp::of_header(b"v1 tx=731 lsn=0/1A2B ts_us=1700000000000001 policy=3");
        assert_eq!(
            stamp.unwrap(),
            Stamp {
                tx: Some(731),
                ts_us: Some(1_700_000_000_000_001)
            }
        );
        assert_eq!(Stamp::of_header(b"v1 policy=3").unwrap(), Stamp::default());
    }

    #[test]
    fn a_newer_header_is_refused_by_name() {
        let error = Stamp::of_header(b"v2 tx=1").unwrap_err();
        assert!(error.message.contains("header hutong has version v2"));
    }
}
