//! What comes from Maven repositories, through the ordinary `mvn` and its cache in `~/.m2`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::prerequisites;
use crate::process;

/// Fills `target` by `fill` unless that was done before. The folder appears whole or not at all,
/// so that neither an interrupted download nor two runs at once leave half of it.
///
/// # Errors
///
/// If `fill` fails, or the folder cannot be made.
pub fn once(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    let parent = target.parent().context("a shared folder has a parent")?;
    std::fs::create_dir_all(parent)?;
    let part = tempfile::Builder::new()
        .prefix(".part-")
        .tempdir_in(parent)
        .with_context(|| format!("could not create a folder in {}", parent.display()))?;
    fill(part.path())?;
    open_to_others(part.path())?;
    match std::fs::rename(part.path(), target) {
        // Another run was faster; its folder holds the same.
        Err(_) if target.is_dir() => Ok(()),
        renamed => {
            renamed.with_context(|| format!("could not create {}", target.display()))?;
            let _moved = part.keep();
            Ok(())
        }
    }
}

fn open_to_others(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Copies the runtime dependencies that a pom names into `target`.
///
/// # Errors
///
/// If Maven is missing or fails.
pub fn copy_dependencies(pom: &Path, target: &Path) -> Result<()> {
    let mut command = maven()?;
    command
        .arg("--file")
        .arg(pom)
        .arg("dependency:copy-dependencies")
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", target.display()));
    process::output_of("download by Maven", &mut command)?;
    Ok(())
}

fn maven() -> Result<Command> {
    prerequisites::require("the download of a server", &[("mvn", "maven")])?;
    let mut command = Command::new("mvn");
    command.args(["--batch-mode", "--quiet"]);
    Ok(command)
}

/// Copies one artifact (`group:name:version:type`) into `target`.
///
/// # Errors
///
/// If Maven is missing or fails.
pub fn copy(artifact: &str, target: &Path) -> Result<()> {
    let mut command = maven()?;
    command
        .arg("dependency:copy")
        .arg(format!("-Dartifact={artifact}"))
        .arg(format!("-DoutputDirectory={}", target.display()));
    process::output_of("download by Maven", &mut command)?;
    Ok(())
}
