//! Days and times of the sample's own calendar, which never looks at the clock.

use std::fmt;

/// A day, counted from 1970-01-01. `Display` writes `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub i32);

impl Day {
    /// 2024-01-01, the day on which the sample's events begin.
    pub const START: Self = Self(19_723);

    /// Returns the day so many days later.
    #[must_use]
    pub fn plus(self, days: u32) -> Self {
        Self(self.0 + i32::try_from(days).expect("a few thousand days"))
    }

    /// Writes the day as `YYYYMMDD`, as 国税 does.
    #[must_use]
    pub fn compact(self) -> String {
        self.to_string().replace('-', "")
    }

    /// Returns year, month and day of the month.
    #[must_use]
    pub fn civil(self) -> (i32, i32, i32) {
        // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
        let shifted = self.0 + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + i32::from(month <= 2);
        (year, month, day)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// A moment: a day and a millisecond of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The day, in UTC.
    pub day: Day,
    /// Milliseconds since its midnight.
    pub milliseconds: u32,
}

impl Moment {
    /// Noon of a day, for rows that were there at the start.
    #[must_use]
    pub fn noon(day: Day) -> Self {
        Self {
            day,
            milliseconds: 43_200_000,
        }
    }

    /// Writes a `timestamptz(3)`.
    #[must_use]
    pub fn utc(self) -> String {
        let seconds = self.milliseconds / 1000;
        format!(
            "{} {:02}:{:02}:{:02}.{:03}+00",
            self.day,
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            self.milliseconds % 1000
        )
    }

    /// Writes a `timestamp(0)` in the local time of the departments, UTC+8.
    #[must_use]
    pub fn local(self) -> String {
        let seconds = self.milliseconds / 1000 + 8 * 3600;
        let day = self.day.plus(seconds / 86_400);
        let of_day = seconds % 86_400;
        format!(
            "{day} {:02}:{:02}:{:02}",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_print_as_dates() {
        assert_eq!(Day(0).to_string(), "1970-01-01");
        assert_eq!(Day::START.to_string(), "2024-01-01");
        assert_eq!(Day::START.plus(59).to_string(), "2024-02-29");
        assert_eq!(Day(-1).compact(), "19691231");
    }

    #[test]
    fn local_time_is_eight_hours_ahead() {
        let late = Moment {
            day: Day::START,
            milliseconds: 20 * 3_600_000 + 1234,
        };
        assert_eq!(late.utc(), "2024-01-01 20:00:01.234+00");
        assert_eq!(late.local(), "2024-01-02 04:00:01");
    }
}
