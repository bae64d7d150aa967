//! Who the servers run as: PostgreSQL refuses to run as root, so root steps down for all servers.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// An operating system user, by the numbers that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    uid: u32,
    gid: u32,
}

/// Returns the user that servers must run as: `None` is the present user, who is not root.
///
/// # Errors
///
/// If this is root and neither `postgres` nor `nobody` is in `/etc/passwd`.
pub fn for_servers() -> Result<Option<Identity>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
    for name in ["postgres", "nobody"] {
        if let Some(identity) = find(&passwd, name) {
            return Ok(Some(identity));
        }
    }
    bail!(
        "servers do not run as root, and there is no user \"postgres\" or \"nobody\" to run them as"
    )
}

fn find(passwd: &str, name: &str) -> Option<Identity> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Identity { uid, gid })
    })
}

/// Makes a command run as `identity`, without any supplementary group.
pub fn assume(command: &mut Command, identity: Option<Identity>) {
    if let Some(Identity { uid, gid }) = identity {
        // The standard library drops the supplementary groups when root sets a user.
        command.uid(uid).gid(gid);
    }
}

/// Gives a file or folder to `identity`.
///
/// # Errors
///
/// If the file is missing or the file system refuses.
pub fn give(path: &Path, identity: Option<Identity>) -> Result<()> {
    let Some(Identity { uid, gid }) = identity else {
        return Ok(());
    };
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("could not give {} to user {uid}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgresql:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/var:/bin/bash\n";
        let found = find(passwd, "postgres");
        assert_eq!(found, Some(Identity { uid: 101, gid: 104 }));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
