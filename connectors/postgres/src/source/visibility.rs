//! What a snapshot of the server sees, by the lower halves of transaction ids, which is all that the
//! stream tells of them.

use super::error::Error;

/// The columns that [`Visible::parse`] reads.
pub(crate) const COLUMNS: &str = "pg_current_snapshot(), pg_is_in_recovery()";

/// What `pg_current_snapshot()` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Visible {
    xmin: u32,
    xmax: u32,
    running: Vec<u32>,
    /// A standby does not say which transactions run: what is not older than all of them counts as
    /// not seen.
    on_standby: bool,
}

impl Visible {
    /// Parses `xmin:xmax:xip,xip,…`.
    pub(crate) fn parse(text: &str, on_standby: bool) -> Option<Self> {
        let mut parts = text.split(':');
        let xmin = lower_half(parts.next()?)?;
        let xmax = lower_half(parts.next()?)?;
        let running = parts
            .next()?
            .split(',')
            .filter(|part| !part.is_empty())
            .map(lower_half)
            .collect::<Option<_>>()?;
        Some(Self {
            xmin,
            xmax,
            running,
            on_standby,
        })
    }

    /// Reads the columns [`COLUMNS`] at the beginning of a row.
    pub(crate) fn of_row(row: &[Option<String>]) -> Result<Self, Error> {
        let read = match row {
            [Some(text), Some(on_standby), ..] => Self::parse(text, on_standby == "t"),
            _ => None,
        };
        read.ok_or_else(|| Error::Protocol("a snapshot that cannot be read".to_owned()))
    }

    #[cfg(test)]
    pub(crate) fn of_primary(xmax: u32, running: Vec<u32>) -> Self {
        Self {
            xmin: running.iter().copied().min().unwrap_or(xmax),
            xmax,
            running,
            on_standby: false,
        }
    }

    /// Returns whether a committed transaction's changes are in the snapshot.
    pub(crate) fn sees(&self, xid: u32) -> bool {
        if self.on_standby {
            return precedes(xid, self.xmin);
        }
        precedes(xid, self.xmax) && !self.running.contains(&xid)
    }

    /// Returns whether this snapshot surely sees every transaction that `other` sees.
    pub(crate) fn sees_all_of(&self, other: &Self) -> bool {
        // A standby's snapshot sees more than it says.
        !self.on_standby
            && !other.on_standby
            && self.xmax == other.xmax
            && self.running.iter().all(|xid| other.running.contains(xid))
    }

    /// Returns whether every transaction that ran when `earlier` was taken has ended.
    pub(crate) fn is_past(&self, earlier: &Self) -> bool {
        if self.on_standby || earlier.on_standby {
            return !precedes(self.xmin, earlier.xmax);
        }
        earlier.running.iter().all(|xid| self.sees(*xid))
    }
}

/// Transaction ids are a circle: half of it is before, half after any of them.
fn precedes(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

fn lower_half(text: &str) -> Option<u32> {
    let [.., a, b, c, d] = text.parse::<u64>().ok()?.to_be_bytes();
    Some(u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::Visible;

    #[test]
    fn a_primary_names_those_that_run() {
        let visible = Visible::parse("10:20:10,15", false).unwrap();
        let seen: Vec<u32> = (8..22).filter(|xid| visible.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
    }

    #[test]
    fn on_a_standby_only_what_is_older_than_all_that_run_is_seen() {
        let visible = Visible::parse("10:20:", true).unwrap();
        assert!(visible.sees(9));
        assert!(!visible.sees(10));
        let later = Visible::parse("20:25:", true).unwrap();
        assert!(later.is_past(&visible));
        assert!(!Visible::parse("19:25:", true).unwrap().is_past(&visible));
    }

    #[test]
    fn ids_are_a_circle() {
        let visible = Visible::parse("4294967290:4294967301:4294967295", false).unwrap();
        assert!(visible.sees(4_294_967_294));
        assert!(!visible.sees(4_294_967_295));
        assert!(visible.sees(4));
        assert!(!visible.sees(5));
    }

    #[test]
    fn a_snapshot_sees_all_of_another_where_nothing_has_ended_between_them() {
        let sees_all = |settled: &str, other: &str| {
            let [settled, other] =
                [settled, other].map(|text| Visible::parse(text, false).unwrap());
            settled.sees_all_of(&other)
        };
        assert!(sees_all("10:20:10,15", "10:20:10,15"));
        assert!(sees_all("15:20:15", "10:20:10,15"), "it saw one more");
        assert!(!sees_all("10:20:10,15", "15:20:15"), "one has ended");
        assert!(
            !sees_all("10:20:10,15", "10:21:10,15"),
            "one has come and ended"
        );
        let on_standby = Visible::parse("10:20:", true).unwrap();
        assert!(!on_standby.sees_all_of(&on_standby));
    }

    #[test]
    fn a_later_snapshot_is_past_when_all_that_ran_have_ended() {
        let earlier = Visible::parse("10:20:10,15", false).unwrap();
        assert!(
            !Visible::parse("15:30:15,25", false)
                .unwrap()
                .is_past(&earlier)
        );
        assert!(
            Visible::parse("21:30:21,25", false)
                .unwrap()
                .is_past(&earlier)
        );
    }
}
