//! Programs that must be there before a server can be had, and how to get them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

/// Returns where a program lies in `PATH`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Fails, naming the Debian packages, unless all `needed` (program, package) pairs are there.
///
/// # Errors
///
/// If a program is missing.
pub fn require(purpose: &str, needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = needed
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    bail!(
        "{purpose} needs {}; on Debian: apt-get install {}",
        programs.join(", "),
        packages.join(" ")
    )
}

/// Fails unless Java 17 or newer is there, which Kafka 4 needs.
///
/// # Errors
///
/// If it is missing or older.
pub fn require_java() -> Result<()> {
    require("Kafka", &[("java", "openjdk-17-jre-headless")])?;
    let output = Command::new("java").arg("-version").output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match java_major(&text) {
        Some(17..) => Ok(()),
        _ => bail!(
            "Kafka needs Java 17 or newer, but `java -version` says: {}; on Debian: apt-get install openjdk-17-jre-headless",
            text.lines().next().unwrap_or_default()
        ),
    }
}

fn java_major(version: &str) -> Option<u32> {
    let (_, quoted) = version.split_once("version \"")?;
    let digits: String = quoted.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_java_is_read_from_its_banner() {
        assert_eq!(
            java_major("openjdk version \"17.0.16\" 2025-07-15"),
            Some(17)
        );
        assert_eq!(java_major("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(java_major("java version \"1.8.0_202\""), Some(1));
        assert_eq!(java_major("sh: java: not found"), None);
    }
}
