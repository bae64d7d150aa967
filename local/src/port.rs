//! Free TCP ports on the loopback address.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

/// Below the range from which Linux takes the local ends of outgoing connections, so that a port
/// found free is not taken by a client in the moment before its server binds it.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// Returns a port on which nothing listens. Somebody may still be faster; the start of the server
/// then fails, and whoever starts it asks again.
///
/// # Errors
///
/// If a thousand attempts find no free port.
pub fn free() -> Result<u16> {
    for _ in 0..1000 {
        let port = rand::random_range(RANGE);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free TCP port between {} and {}", RANGE.start, RANGE.end)
}

/// Returns whether nothing listens on `port`.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
