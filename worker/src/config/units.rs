//! Durations and sizes as people write them: `10s`, `500ms`, `8MiB`.

use std::time::Duration;

/// Reads a duration: a whole number and one of `ms`, `s`, `m`, `h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let count = number.parse::<u64>().ok();
    let millis = count.and_then(|count| match unit {
        "ms" => Some(count),
        "s" => count.checked_mul(1_000),
        "m" => count.checked_mul(60_000),
        "h" => count.checked_mul(3_600_000),
        _ => None,
    });
    millis.map(Duration::from_millis).ok_or_else(|| {
        format!("\"{text}\" is not a duration such as \"500ms\", \"10s\", \"5m\" or \"1h\"")
    })
}

/// Reads a size in bytes: a whole number and one of `B`, `KiB`, `MiB`, `GiB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let count = number.parse::<u64>().ok();
    let bytes = count.and_then(|count| match unit {
        "B" => Some(count),
        "KiB" => count.checked_mul(1 << 10),
        "MiB" => count.checked_mul(1 << 20),
        "GiB" => count.checked_mul(1 << 30),
        _ => None,
    });
    bytes.ok_or_else(|| format!("\"{text}\" is not a size such as \"64KiB\", \"8MiB\" or \"1GiB\""))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, size};

    #[test]
    fn durations_and_sizes_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("5 m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("8MiB"), Ok(8 << 20));
        assert_eq!(size("12B"), Ok(12));
    }

    #[test]
    fn what_has_no_unit_or_no_bound_is_refused() {
        for text in [
            "10",
            "",
            "s",
            "-1s",
            "1.5s",
            "10 days",
            "99999999999999999999h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["8", "8MB", "MiB", "-8MiB", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
