//! `inet`, `cidr`, `macaddr`, `macaddr8`.

use std::net::IpAddr;

/// `PGSQL_AF_INET` of the server's `inet.h`, and `PGSQL_AF_INET6`.
const FAMILY_4: u8 = 2;
const FAMILY_6: u8 = 3;

/// Writes family, bits of the mask, whether it is a `cidr`, and the address with its length.
pub(super) fn address(text: &str, is_cidr: bool, out: &mut Vec<u8>) -> Option<()> {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let mut head = |family: u8, length: u8| {
        let mask = mask.unwrap_or(length * 8);
        (mask <= length * 8)
            .then(|| out.extend_from_slice(&[family, mask, u8::from(is_cidr), length]))
    };
    match address.parse().ok()? {
        IpAddr::V4(address) => {
            head(FAMILY_4, 4)?;
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            head(FAMILY_6, 16)?;
            out.extend_from_slice(&address.octets());
        }
    }
    Some(())
}

/// Writes `08:00:2b:01:02:03`.
pub(super) fn hardware_address(text: &str, bytes: usize, out: &mut Vec<u8>) -> Option<()> {
    let parts: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    let parts = parts.filter(|parts| parts.len() == bytes)?;
    out.extend_from_slice(&parts);
    Some(())
}
